"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_BYTEWISE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "identity",
        sa.Column("home_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("home_id", name="pk_identity"),
    )
    op.create_table(
        "providers",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("provider_id", _BYTEWISE, nullable=False),
        sa.Column("name", _BYTEWISE, nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_secrets", sa.LargeBinary(), nullable=False),
        sa.Column("paused", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("state_reason", sa.Text(), nullable=False),
        sa.Column("state_since", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("guard", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_providers"),
        sa.UniqueConstraint("name", name="uq_providers_name"),
        sa.UniqueConstraint("provider_id", name="uq_providers_provider_id"),
    )
    op.create_table(
        "workspaces",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("name", _BYTEWISE, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workspaces"),
        sa.UniqueConstraint("name", name="uq_workspaces_name"),
    )
    op.create_table(
        "changes",
        sa.Column("workspace_id", _ROW_ID, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("path", _BYTEWISE, nullable=False),
        sa.Column("old_path", _BYTEWISE, nullable=False),
        sa.Column("entry_kind", sa.SmallInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_changes_workspace_id"),
        sa.PrimaryKeyConstraint("workspace_id", "revision", name="pk_changes"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_changes_changed_at", "changes", ["changed_at"], unique=False)
    op.create_table(
        "counters",
        sa.Column("workspace_id", _ROW_ID, nullable=False),
        sa.Column("provider_id", _ROW_ID, nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("owed", sa.BigInteger(), nullable=False),
        sa.Column("quarantined", sa.BigInteger(), nullable=False),
        sa.Column("removals", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["provider_id"], ["providers.id"], name="fk_counters_provider_id"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_counters_workspace_id"),
        sa.PrimaryKeyConstraint("workspace_id", "provider_id", name="pk_counters"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "entries",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("workspace_id", _ROW_ID, nullable=False),
        sa.Column("dirname", _BYTEWISE, nullable=False),
        sa.Column("basename", _BYTEWISE, nullable=False),
        sa.Column("folded", _BYTEWISE, nullable=True),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("version_id", sa.BigInteger(), nullable=True),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("removed_at", sa.BigInteger(), nullable=True),
        sa.Column("removed_by", sa.Text(), nullable=True),
        sa.Column("conflict_of", _BYTEWISE, nullable=True),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_entries_workspace_id"),
        sa.PrimaryKeyConstraint("id", name="pk_entries"),
    )
    op.create_index(
        "ix_entries_conflict",
        "entries",
        ["workspace_id", "conflict_of"],
        unique=False,
        sqlite_where=sa.text("conflict_of IS NOT NULL"),
        postgresql_where=sa.text("conflict_of IS NOT NULL"),
    )
    op.create_index(
        "ix_entries_folded",
        "entries",
        ["workspace_id", "dirname", "folded"],
        unique=False,
        sqlite_where=sa.text("folded IS NOT NULL"),
        postgresql_where=sa.text("folded IS NOT NULL"),
    )
    op.create_index(
        "ux_entries_live",
        "entries",
        ["workspace_id", "dirname", "basename"],
        unique=True,
        sqlite_where=sa.text("removed_at IS NULL"),
        postgresql_where=sa.text("removed_at IS NULL"),
    )
    op.create_index(
        "ux_entries_removed",
        "entries",
        ["workspace_id", "dirname", "basename"],
        unique=True,
        sqlite_where=sa.text("removed_at IS NOT NULL"),
        postgresql_where=sa.text("removed_at IS NOT NULL"),
    )
    op.create_table(
        "intents",
        sa.Column("version_id", _BYTEWISE, nullable=False),
        sa.Column("workspace_id", _ROW_ID, nullable=False),
        sa.Column("path", _BYTEWISE, nullable=False),
        sa.Column("folded", _BYTEWISE, nullable=False),
        sa.Column("key", _BYTEWISE, nullable=False),
        sa.Column("base_generation", sa.BigInteger(), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("min_copies", sa.Integer(), nullable=False),
        sa.Column("targets", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("modified_at", sa.BigInteger(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("conflict_of", _BYTEWISE, nullable=True),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_intents_workspace_id"),
        sa.PrimaryKeyConstraint("version_id", name="pk_intents"),
        sa.UniqueConstraint("workspace_id", "path", name="uq_intents_workspace_id_path"),
    )
    op.create_index("ix_intents_folded", "intents", ["workspace_id", "folded"], unique=False)
    op.create_index("ix_intents_key", "intents", ["key"], unique=False)
    op.create_index("ix_intents_lease_until", "intents", ["lease_until"], unique=False)
    op.create_index("ix_intents_owner", "intents", ["owner"], unique=False)
    op.create_table(
        "placements",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("workspace_id", _ROW_ID, nullable=False),
        sa.Column("path", _BYTEWISE, nullable=False),
        sa.Column("removed", sa.SmallInteger(), nullable=False),
        sa.Column("after_dirname", _BYTEWISE, nullable=False),
        sa.Column("after_basename", _BYTEWISE, nullable=False),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_placements_workspace_id"),
        sa.PrimaryKeyConstraint("id", name="pk_placements"),
        sa.UniqueConstraint("workspace_id", "path", name="uq_placements_workspace_id_path"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("job_id", _BYTEWISE, nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("subject", _BYTEWISE, nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("measured_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("files_left", sa.BigInteger(), nullable=False),
        sa.Column("bytes_left", sa.BigInteger(), nullable=False),
        sa.Column("versions_left", sa.BigInteger(), nullable=False),
        sa.Column("bytes_begun", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("job_id", name="uq_jobs_job_id"),
    )
    op.create_table(
        "policies",
        sa.Column("workspace_id", _ROW_ID, nullable=False),
        sa.Column("path", _BYTEWISE, nullable=False),
        sa.Column("policy", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_policies_workspace_id"),
        sa.PrimaryKeyConstraint("workspace_id", "path", name="pk_policies"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "versions",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("version_id", _BYTEWISE, nullable=False),
        sa.Column("entry_id", _ROW_ID, nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("modified_at", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("block_digests", sa.LargeBinary(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("committed_at", sa.BigInteger(), nullable=False),
        sa.Column("superseded_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("modified_step", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["entry_id"], ["entries.id"], name="fk_versions_entry_id"),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.UniqueConstraint("entry_id", "generation", name="uq_versions_entry_id_generation"),
        sa.UniqueConstraint("version_id", name="uq_versions_version_id"),
    )
    op.create_index(
        "ix_versions_expires_at",
        "versions",
        ["expires_at"],
        unique=False,
        sqlite_where=sa.text("expires_at IS NOT NULL"),
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
    op.create_table(
        "locations",
        sa.Column("version_id", _ROW_ID, nullable=False),
        sa.Column("until_at", sa.BigInteger(), nullable=False),
        sa.Column("workspace_id", _ROW_ID, nullable=False),
        sa.Column("dirname", _BYTEWISE, nullable=False),
        sa.Column("basename", _BYTEWISE, nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_locations_version_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_locations_workspace_id"),
        sa.PrimaryKeyConstraint("version_id", "until_at", name="pk_locations"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_locations_path", "locations", ["workspace_id", "dirname", "basename"], unique=False)
    op.create_table(
        "replicas",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("workspace_id", _ROW_ID, nullable=False),
        sa.Column("version_id", _ROW_ID, nullable=True),
        sa.Column("provider_id", _ROW_ID, nullable=False),
        sa.Column("key", _BYTEWISE, nullable=False),
        sa.Column("move_to", _BYTEWISE, nullable=True),
        sa.Column("wanted", sa.SmallInteger(), nullable=False),
        sa.Column("actual", sa.SmallInteger(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("checksum", sa.Text(), nullable=False),
        sa.Column("proven_at", sa.BigInteger(), nullable=True),
        sa.Column("owed", sa.SmallInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("lease_kind", sa.SmallInteger(), nullable=True),
        sa.Column("lease_key", _BYTEWISE, nullable=True),
        sa.Column("changed_at", sa.BigInteger(), nullable=True),
        sa.Column("absent_at", sa.BigInteger(), nullable=True),
        sa.Column("seen_size", sa.BigInteger(), nullable=True),
        sa.Column("seen_modified", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["provider_id"], ["providers.id"], name="fk_replicas_provider_id"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_replicas_version_id"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_replicas_workspace_id"),
        sa.PrimaryKeyConstraint("id", name="pk_replicas"),
        sa.UniqueConstraint("version_id", "provider_id", name="uq_replicas_version_id_provider_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_replicas_absent",
        "replicas",
        ["provider_id", "key"],
        unique=False,
        sqlite_where=sa.text("absent_at IS NOT NULL"),
        postgresql_where=sa.text("absent_at IS NOT NULL"),
    )
    op.create_index(
        "ix_replicas_due",
        "replicas",
        ["provider_id", "due_at"],
        unique=False,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index("ix_replicas_key", "replicas", ["key", "provider_id"], unique=False)
    op.create_index(
        "ix_replicas_lease_key",
        "replicas",
        ["lease_key"],
        unique=False,
        sqlite_where=sa.text("lease_key IS NOT NULL"),
        postgresql_where=sa.text("lease_key IS NOT NULL"),
    )
    op.create_index(
        "ix_replicas_lease_owner",
        "replicas",
        ["lease_owner"],
        unique=False,
        sqlite_where=sa.text("lease_owner IS NOT NULL"),
        postgresql_where=sa.text("lease_owner IS NOT NULL"),
    )
    op.create_index(
        "ix_replicas_move_to",
        "replicas",
        ["move_to"],
        unique=False,
        sqlite_where=sa.text("move_to IS NOT NULL"),
        postgresql_where=sa.text("move_to IS NOT NULL"),
    )
    op.create_index(
        "ix_replicas_proven",
        "replicas",
        ["provider_id", "proven_at"],
        unique=False,
        sqlite_where=sa.text("actual = 1 AND owed = 0"),
        postgresql_where=sa.text("actual = 1 AND owed = 0"),
    )
    op.create_index(
        "ix_replicas_owed",
        "replicas",
        ["version_id"],
        unique=False,
        sqlite_where=sa.text("owed = 1"),
        postgresql_where=sa.text("owed = 1"),
    )
    op.create_table(
        "snapshots",
        sa.Column("name", _BYTEWISE, nullable=False),
        sa.Column("base", _BYTEWISE, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("begun_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("lease_owner", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_snapshots"),
    )
    op.create_table(
        "sightings",
        sa.Column("key", _BYTEWISE, nullable=False),
        sa.Column("provider", _BYTEWISE, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("modified_at", sa.BigInteger(), nullable=True),
        sa.Column("exact", sa.SmallInteger(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("checksum", sa.Text(), nullable=False),
        sa.Column("version_id", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("key", "provider", name="pk_sightings"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_sightings_size_modified_at", "sightings", ["size", "modified_at"], unique=False)
    op.create_table(
        "scans",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("provider_id", _ROW_ID, nullable=False),
        sa.Column("prefix", _BYTEWISE, nullable=False),
        sa.Column("recursive", sa.SmallInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("interval", sa.BigInteger(), nullable=False),
        sa.Column("cursor", sa.Text(), nullable=False),
        sa.Column("passes", sa.BigInteger(), nullable=False),
        sa.Column("under_way", sa.SmallInteger(), nullable=False),
        sa.Column("counts", sa.LargeBinary(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["provider_id"], ["providers.id"], name="fk_scans_provider_id"),
        sa.PrimaryKeyConstraint("id", name="pk_scans"),
        sa.UniqueConstraint("provider_id", "prefix", "recursive", name="uq_scans_provider_id_prefix_recursive"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_scans_due_at", "scans", ["due_at"], unique=False)
    op.create_table(
        "vacancies",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("provider_id", _ROW_ID, nullable=False),
        sa.Column("key", _BYTEWISE, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("modified_at", sa.BigInteger(), nullable=True),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["provider_id"], ["providers.id"], name="fk_vacancies_provider_id"),
        sa.PrimaryKeyConstraint("id", name="pk_vacancies"),
    )
    op.create_index("ix_vacancies_key", "vacancies", ["key", "provider_id"], unique=False)
    op.create_index("ix_vacancies_at", "vacancies", ["at"], unique=False)
