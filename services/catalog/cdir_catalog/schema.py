"""The tables of the catalog, the same on SQLite and PostgreSQL.

Row ids are integers, for short indexes and fast joins; what other services see (``version_id``, ``provider_id``) are 32
hex digits. Times are whole nanoseconds since the epoch. Flags are 0 or 1. States and kinds are the numbers of the enums
in ``cdir.v1``. Text is compared by bytes on both databases, so that a listing has one order everywhere.
"""

from __future__ import annotations

import sqlalchemy as sa

__all__ = [
    "REVISION",
    "changes",
    "counters",
    "entries",
    "identity",
    "intents",
    "is_owed",
    "is_quarantined",
    "is_settled",
    "jobs",
    "locations",
    "metadata",
    "placements",
    "policies",
    "providers",
    "replicas",
    "scans",
    "sightings",
    "snapshots",
    "vacancies",
    "versions",
    "workspaces",
]

REVISION = "0004"
"""The newest migration; a database that has it needs none."""

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _bytewise() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _row_id() -> sa.Column[int]:
    # SQLite numbers rows by itself only when the type is exactly INTEGER
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True)


identity = sa.Table(
    "identity",
    metadata,
    sa.Column("home_id", sa.Text(), primary_key=True),
)
"""One row: which cdir this is."""

workspaces = sa.Table(
    "workspaces",
    metadata,
    _row_id(),
    sa.Column("name", _bytewise(), nullable=False, unique=True),
    sa.Column("revision", sa.BigInteger(), nullable=False),
    sa.Column("files", sa.BigInteger(), nullable=False),
    sa.Column("bytes", sa.BigInteger(), nullable=False),
    sa.Column("acl", sa.LargeBinary()),
)
"""``revision`` is the last change's; ``files`` and ``bytes`` count what is current. ``acl`` is the root's, see
``entries``."""

entries = sa.Table(
    "entries",
    metadata,
    _row_id(),
    sa.Column("workspace_id", sa.ForeignKey(workspaces.c.id), nullable=False),
    sa.Column("dirname", _bytewise(), nullable=False),
    sa.Column("basename", _bytewise(), nullable=False),
    # set only where it differs from basename: most names need no row in the index that finds clashes of case
    sa.Column("folded", _bytewise()),
    sa.Column("kind", sa.SmallInteger(), nullable=False),
    sa.Column("version_id", sa.BigInteger()),
    sa.Column("author", sa.Text(), nullable=False),
    sa.Column("created_at", sa.BigInteger(), nullable=False),
    sa.Column("removed_at", sa.BigInteger()),
    sa.Column("removed_by", sa.Text()),
    sa.Column("conflict_of", _bytewise()),
    sa.Column("acl", sa.LargeBinary()),
)
"""Directories and files. A removed file's row stays, out of the listing's index, while versions of it are kept.

``conflict_of`` is set on a conflicting copy: the path that its content was meant for. ``acl`` is a serialized
``cdir.v1.Acl``: what every copy of a file shall have, or what new files below a directory get; null where nobody set
one. The index over parts of names is each database's own and not described here, see
:mod:`cdir_catalog.store.name_parts`."""

sa.Index(
    "ux_entries_live",
    entries.c.workspace_id,
    entries.c.dirname,
    entries.c.basename,
    unique=True,
    sqlite_where=entries.c.removed_at.is_(None),
    postgresql_where=entries.c.removed_at.is_(None),
)
sa.Index(
    "ux_entries_removed",
    entries.c.workspace_id,
    entries.c.dirname,
    entries.c.basename,
    unique=True,
    sqlite_where=entries.c.removed_at.is_not(None),
    postgresql_where=entries.c.removed_at.is_not(None),
)
sa.Index(
    "ix_entries_folded",
    entries.c.workspace_id,
    entries.c.dirname,
    entries.c.folded,
    sqlite_where=entries.c.folded.is_not(None),
    postgresql_where=entries.c.folded.is_not(None),
)

sa.Index(
    "ix_entries_conflict",
    entries.c.workspace_id,
    entries.c.conflict_of,
    sqlite_where=entries.c.conflict_of.is_not(None),
    postgresql_where=entries.c.conflict_of.is_not(None),
)

versions = sa.Table(
    "versions",
    metadata,
    _row_id(),
    sa.Column("version_id", _bytewise(), nullable=False, unique=True),
    sa.Column("entry_id", sa.ForeignKey(entries.c.id), nullable=False),
    sa.Column("generation", sa.BigInteger(), nullable=False),
    sa.Column("size", sa.BigInteger(), nullable=False),
    sa.Column("modified_at", sa.BigInteger(), nullable=False),
    sa.Column("sha256", sa.LargeBinary(), nullable=False),
    sa.Column("block_digests", sa.LargeBinary(), nullable=False),
    sa.Column("author", sa.Text(), nullable=False),
    sa.Column("committed_at", sa.BigInteger(), nullable=False),
    sa.Column("superseded_at", sa.BigInteger()),
    sa.Column("expires_at", sa.BigInteger()),
    sa.Column("modified_step", sa.BigInteger()),
    sa.UniqueConstraint("entry_id", "generation"),
)
"""Contents. ``superseded_at`` is null for the current one; ``expires_at`` is when an older one is to be let go, null
when it is current or let go already. ``modified_step`` is how coarse ``modified_at`` is where it came from a provider's
listing, in nanoseconds; null when it is exact. ``sha256`` is empty while nobody has read a content made by others."""

sa.Index(
    "ix_versions_expires_at",
    versions.c.expires_at,
    sqlite_where=versions.c.expires_at.is_not(None),
    postgresql_where=versions.c.expires_at.is_not(None),
)

locations = sa.Table(
    "locations",
    metadata,
    sa.Column("version_id", sa.ForeignKey(versions.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("until_at", sa.BigInteger(), primary_key=True),
    sa.Column("workspace_id", sa.ForeignKey(workspaces.c.id), nullable=False),
    sa.Column("dirname", _bytewise(), nullable=False),
    sa.Column("basename", _bytewise(), nullable=False),
    sqlite_with_rowid=False,
)
"""Where a content was before its file was moved: at this path until then.

Where it was at some time says the row with the smallest ``until_at`` after that time; without one, its entry."""

sa.Index("ix_locations_path", locations.c.workspace_id, locations.c.dirname, locations.c.basename)

providers = sa.Table(
    "providers",
    metadata,
    _row_id(),
    sa.Column("provider_id", _bytewise(), nullable=False, unique=True),
    sa.Column("name", _bytewise(), nullable=False, unique=True),
    sa.Column("record", sa.LargeBinary(), nullable=False),
    sa.Column("sealed_secrets", sa.LargeBinary(), nullable=False),
    sa.Column("paused", sa.SmallInteger(), nullable=False),
    sa.Column("state", sa.SmallInteger(), nullable=False),
    sa.Column("state_reason", sa.Text(), nullable=False),
    sa.Column("state_since", sa.BigInteger(), nullable=False),
    sa.Column("revision", sa.BigInteger(), nullable=False),
    sa.Column("guard", sa.Text()),
)
"""``record`` is the serialized ``cdir.v1.Provider`` without state; ``state`` is what was observed, a pause stands
apart. ``guard`` is set while the delete guard holds: why nothing is concluded from what is missing there."""

replicas = sa.Table(
    "replicas",
    metadata,
    _row_id(),
    sa.Column("workspace_id", sa.ForeignKey(workspaces.c.id), nullable=False),
    sa.Column("version_id", sa.ForeignKey(versions.c.id)),
    sa.Column("provider_id", sa.ForeignKey(providers.c.id), nullable=False),
    sa.Column("key", _bytewise(), nullable=False),
    sa.Column("move_to", _bytewise()),
    sa.Column("wanted", sa.SmallInteger(), nullable=False),
    sa.Column("actual", sa.SmallInteger(), nullable=False),
    sa.Column("etag", sa.Text(), nullable=False),
    sa.Column("checksum", sa.Text(), nullable=False),
    sa.Column("proven_at", sa.BigInteger()),
    sa.Column("owed", sa.SmallInteger(), nullable=False),
    sa.Column("due_at", sa.BigInteger()),
    sa.Column("attempts", sa.Integer(), nullable=False),
    sa.Column("error", sa.Text(), nullable=False),
    sa.Column("lease_owner", sa.Text()),
    sa.Column("lease_until", sa.BigInteger()),
    sa.Column("lease_kind", sa.SmallInteger()),
    sa.Column("lease_key", _bytewise()),
    sa.Column("changed_at", sa.BigInteger()),
    sa.Column("absent_at", sa.BigInteger()),
    sa.Column("seen_size", sa.BigInteger()),
    sa.Column("seen_modified", sa.BigInteger()),
    sa.Column("acl", sa.LargeBinary()),
    sa.Column("acl_state", sa.SmallInteger()),
    sa.Column("acl_note", sa.Text()),
    sa.UniqueConstraint("version_id", "provider_id"),
    sqlite_autoincrement=True,  # the id is handed out as debt_id: it must not come back with another meaning
)
"""What one provider should hold (``wanted``; at ``move_to``, else ``key``) and does hold (``actual`` at ``key``) of one
version.

A row without a version is a leftover: an object at ``key`` that no content explains, to be removed. ``owed`` is 1 where
what is differs from what should be; ``due_at`` is when work on it may begin, null when there is none to do or a person
must look first. A lease pushes ``due_at`` to its own end; ``lease_key`` is the key its holder works on.

``changed_at`` is when what is recorded of the object at ``key`` last became something else: a listing begun before
says nothing about it. ``absent_at`` is when a complete listing did not show it, until something follows from that. The
``seen`` columns hold what a listing said: ``seen_size`` is set while an object is suspected to be others' content,
until it was inspected; ``seen_modified`` is the provider's own time, of a suspected object or of one that has no better
mark. ``acl`` is what was last asked of the provider for the object at ``key``, null when nothing was; ``acl_state`` and
``acl_note`` say what became of it.
"""

is_owed: sa.ColumnElement[bool] = replicas.c.owed == sa.literal_column("1")
"""The condition for owed copies, with the number written out: only then SQLite uses the index made for them."""

is_settled: sa.ColumnElement[bool] = sa.and_(
    replicas.c.actual == sa.literal_column("1"), replicas.c.owed == sa.literal_column("0")
)
"""The condition for copies that are good and in their place, written out for the index of proofs."""

is_quarantined: sa.ColumnElement[bool] = sa.and_(is_owed, replicas.c.attempts >= sa.literal_column("8"))
"""The condition for copies that are owed and whose repair failed again and again, written out for their index."""

sa.Index("ix_replicas_key", replicas.c.key, replicas.c.provider_id)
sa.Index(
    "ix_replicas_absent",
    replicas.c.provider_id,
    replicas.c.key,
    sqlite_where=replicas.c.absent_at.is_not(None),
    postgresql_where=replicas.c.absent_at.is_not(None),
)
sa.Index(
    "ix_replicas_due",
    replicas.c.provider_id,
    replicas.c.due_at,
    sqlite_where=replicas.c.due_at.is_not(None),
    postgresql_where=replicas.c.due_at.is_not(None),
)
sa.Index(
    "ix_replicas_owed",
    replicas.c.version_id,
    sqlite_where=sa.text("owed = 1"),
    postgresql_where=sa.text("owed = 1"),
)
sa.Index(
    "ix_replicas_quarantined",
    replicas.c.version_id,
    sqlite_where=sa.text("owed = 1 AND attempts >= 8"),
    postgresql_where=sa.text("owed = 1 AND attempts >= 8"),
)
sa.Index(
    "ix_replicas_proven",
    replicas.c.provider_id,
    replicas.c.proven_at,
    sqlite_where=sa.text("actual = 1 AND owed = 0"),
    postgresql_where=sa.text("actual = 1 AND owed = 0"),
)
sa.Index(
    "ix_replicas_acl",
    replicas.c.provider_id,
    replicas.c.id,
    sqlite_where=replicas.c.acl.is_not(None),
    postgresql_where=replicas.c.acl.is_not(None),
)
sa.Index(
    "ix_replicas_move_to",
    replicas.c.move_to,
    sqlite_where=replicas.c.move_to.is_not(None),
    postgresql_where=replicas.c.move_to.is_not(None),
)
sa.Index(
    "ix_replicas_lease_key",
    replicas.c.lease_key,
    sqlite_where=replicas.c.lease_key.is_not(None),
    postgresql_where=replicas.c.lease_key.is_not(None),
)
sa.Index(
    "ix_replicas_lease_owner",
    replicas.c.lease_owner,
    sqlite_where=replicas.c.lease_owner.is_not(None),
    postgresql_where=replicas.c.lease_owner.is_not(None),
)

counters = sa.Table(
    "counters",
    metadata,
    sa.Column("workspace_id", sa.ForeignKey(workspaces.c.id), primary_key=True),
    sa.Column("provider_id", sa.ForeignKey(providers.c.id), primary_key=True),
    sa.Column("files", sa.BigInteger(), nullable=False),
    sa.Column("bytes", sa.BigInteger(), nullable=False),
    sa.Column("owed", sa.BigInteger(), nullable=False),
    sa.Column("quarantined", sa.BigInteger(), nullable=False),
    sa.Column("removals", sa.BigInteger(), nullable=False),
    sqlite_with_rowid=False,
)
"""What each provider holds and owes of each workspace, kept in the transactions that change it."""

intents = sa.Table(
    "intents",
    metadata,
    sa.Column("version_id", _bytewise(), primary_key=True),
    sa.Column("workspace_id", sa.ForeignKey(workspaces.c.id), nullable=False),
    sa.Column("path", _bytewise(), nullable=False),
    sa.Column("folded", _bytewise(), nullable=False),
    sa.Column("key", _bytewise(), nullable=False),
    sa.Column("base_generation", sa.BigInteger()),
    sa.Column("generation", sa.BigInteger(), nullable=False),
    sa.Column("min_copies", sa.Integer(), nullable=False),
    sa.Column("targets", sa.Text(), nullable=False),
    sa.Column("size", sa.BigInteger(), nullable=False),
    sa.Column("sha256", sa.LargeBinary(), nullable=False),
    sa.Column("modified_at", sa.BigInteger(), nullable=False),
    sa.Column("author", sa.Text(), nullable=False),
    sa.Column("conflict_of", _bytewise()),
    sa.Column("owner", sa.Text(), nullable=False),
    sa.Column("lease_until", sa.BigInteger(), nullable=False),
    sa.UniqueConstraint("workspace_id", "path"),
    sa.Index("ix_intents_folded", "workspace_id", "folded"),
    sa.Index("ix_intents_key", "key"),
    sa.Index("ix_intents_owner", "owner"),
    sa.Index("ix_intents_lease_until", "lease_until"),
)
"""Writes under way; ``targets`` are the row ids of the providers they may write to, as JSON."""

changes = sa.Table(
    "changes",
    metadata,
    sa.Column("workspace_id", sa.ForeignKey(workspaces.c.id), primary_key=True),
    sa.Column("revision", sa.BigInteger(), primary_key=True),
    sa.Column("kind", sa.SmallInteger(), nullable=False),
    sa.Column("path", _bytewise(), nullable=False),
    sa.Column("old_path", _bytewise(), nullable=False),
    sa.Column("entry_kind", sa.SmallInteger(), nullable=False),
    sa.Column("generation", sa.BigInteger(), nullable=False),
    sa.Column("author", sa.Text(), nullable=False),
    sa.Column("changed_at", sa.BigInteger(), nullable=False),
    sa.Index("ix_changes_changed_at", "changed_at"),
    sqlite_with_rowid=False,
)
"""The ordered log of each workspace."""

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("workspace_id", sa.ForeignKey(workspaces.c.id), primary_key=True),
    sa.Column("path", _bytewise(), primary_key=True),
    sa.Column("policy", sa.LargeBinary(), nullable=False),
    sqlite_with_rowid=False,
)
"""The rules set; ``policy`` is a serialized ``cdir.v1.Policy`` with only the fields set here."""

placements = sa.Table(
    "placements",
    metadata,
    _row_id(),
    sa.Column("workspace_id", sa.ForeignKey(workspaces.c.id), nullable=False),
    sa.Column("path", _bytewise(), nullable=False),
    sa.Column("removed", sa.SmallInteger(), nullable=False),
    sa.Column("after_dirname", _bytewise(), nullable=False),
    sa.Column("after_basename", _bytewise(), nullable=False),
    sa.UniqueConstraint("workspace_id", "path"),
)
"""Subtrees to be placed anew and how far that has come: first the entries that live, then those ``removed``."""

snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("name", _bytewise(), primary_key=True),
    sa.Column("base", _bytewise(), nullable=False),
    sa.Column("state", sa.Text(), nullable=False),
    sa.Column("begun_at", sa.BigInteger(), nullable=False),
    sa.Column("finished_at", sa.BigInteger()),
    sa.Column("lease_owner", sa.Text(), nullable=False),
    sa.Column("lease_until", sa.BigInteger(), nullable=False),
)
"""The last snapshots of this catalog that providers hold, and the one being made; ``base`` is empty for a whole one.
``state`` is what the catalog was at, see :mod:`cdir_catalog.store.snapshots`. Not part of a snapshot itself."""

sightings = sa.Table(
    "sightings",
    metadata,
    sa.Column("key", _bytewise(), primary_key=True),
    sa.Column("provider", _bytewise(), primary_key=True),
    sa.Column("size", sa.BigInteger(), nullable=False),
    sa.Column("modified_at", sa.BigInteger()),
    sa.Column("exact", sa.SmallInteger(), nullable=False),
    sa.Column("etag", sa.Text(), nullable=False),
    sa.Column("checksum", sa.Text(), nullable=False),
    sa.Column("version_id", sa.BigInteger()),
    sqlite_with_rowid=False,
)
"""What lies at providers (by ``provider_id``) while a catalog is rebuilt; ``version_id`` is the row of the version that
explains it, once one does. Not part of a snapshot."""

sa.Index(None, sightings.c.size, sightings.c.modified_at)

jobs = sa.Table(
    "jobs",
    metadata,
    _row_id(),
    sa.Column("job_id", _bytewise(), nullable=False, unique=True),
    sa.Column("kind", sa.SmallInteger(), nullable=False),
    sa.Column("state", sa.SmallInteger(), nullable=False),
    sa.Column("subject", _bytewise(), nullable=False),
    sa.Column("author", sa.Text(), nullable=False),
    sa.Column("message", sa.Text(), nullable=False),
    sa.Column("started_at", sa.BigInteger(), nullable=False),
    sa.Column("measured_at", sa.BigInteger()),
    sa.Column("ended_at", sa.BigInteger()),
    sa.Column("files", sa.BigInteger(), nullable=False),
    sa.Column("bytes", sa.BigInteger(), nullable=False),
    sa.Column("files_left", sa.BigInteger(), nullable=False),
    sa.Column("bytes_left", sa.BigInteger(), nullable=False),
    sa.Column("versions_left", sa.BigInteger(), nullable=False),
    sa.Column("bytes_begun", sa.BigInteger(), nullable=False),
    sa.Column("outcome", sa.LargeBinary(), nullable=False),
)
"""Work that goes on for long, about ``subject``. ``bytes_begun`` is what was left when it was measured first: from that
its pace is told. ``outcome`` is what it proves in the end, a message of its kind, serialized."""

scans = sa.Table(
    "scans",
    metadata,
    _row_id(),
    sa.Column("provider_id", sa.ForeignKey(providers.c.id), nullable=False),
    sa.Column("prefix", _bytewise(), nullable=False),
    sa.Column("recursive", sa.SmallInteger(), nullable=False),
    sa.Column("due_at", sa.BigInteger(), nullable=False),
    sa.Column("interval", sa.BigInteger(), nullable=False),
    sa.Column("cursor", sa.Text(), nullable=False),
    sa.Column("passes", sa.BigInteger(), nullable=False),
    sa.Column("under_way", sa.SmallInteger(), nullable=False),
    sa.Column("counts", sa.LargeBinary(), nullable=False),
    sa.Column("error", sa.Text(), nullable=False),
    sa.Column("lease_owner", sa.Text()),
    sa.Column("lease_until", sa.BigInteger()),
    sa.UniqueConstraint("provider_id", "prefix", "recursive"),
    sqlite_autoincrement=True,  # a worker may still name a scan that was dropped
)
"""Which parts of which provider are to be listed, and when; ``interval`` is in nanoseconds, 0 where somebody has asked.

``counts`` is a serialized ``cdir.v1.ScanCounts`` of the pass that is ``under_way``, else of the last one.
"""

sa.Index("ix_scans_due_at", scans.c.due_at)

vacancies = sa.Table(
    "vacancies",
    metadata,
    _row_id(),
    sa.Column("provider_id", sa.ForeignKey(providers.c.id), nullable=False),
    sa.Column("key", _bytewise(), nullable=False),
    sa.Column("at", sa.BigInteger(), nullable=False),
    sa.Column("size", sa.BigInteger()),
    sa.Column("modified_at", sa.BigInteger()),
    sa.Column("etag", sa.Text(), nullable=False),
    sa.Index("ix_vacancies_key", "key", "provider_id"),
    sa.Index("ix_vacancies_at", "at"),
)
"""Keys that cdir itself has emptied lately, with what was there as far as it was known: a listing that still shows it
is old."""
