"""Access control lists: what is wanted of entries, and what became of it at each copy."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workspaces", sa.Column("acl", sa.LargeBinary(), nullable=True))
    op.add_column("entries", sa.Column("acl", sa.LargeBinary(), nullable=True))
    op.add_column("replicas", sa.Column("acl", sa.LargeBinary(), nullable=True))
    op.add_column("replicas", sa.Column("acl_state", sa.SmallInteger(), nullable=True))
    op.add_column("replicas", sa.Column("acl_note", sa.Text(), nullable=True))
