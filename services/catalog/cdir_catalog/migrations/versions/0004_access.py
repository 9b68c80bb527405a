"""An index of the copies with an access control list, for asking their providers again and again what is in force."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_LISTED = sa.text("acl IS NOT NULL")


def upgrade() -> None:
    op.create_index(
        "ix_replicas_acl", "replicas", ["provider_id", "id"], sqlite_where=_LISTED, postgresql_where=_LISTED
    )
