"""Entries: looking paths up, many at a time, and the directories that a change adds."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import InvalidPath, NotDirectory, NotFound
from cdir.paths import fold_name, join_path, normalize_path, split_path
from cdir.v1 import entry_pb2
from cdir_catalog.schema import entries, is_owed, replicas, versions
from cdir_catalog.store.ledger import ChangeRow, Ledger
from cdir_catalog.store.pairs import Pairs, pairs_table
from cdir_catalog.store.workspaces import find_workspace, reserve_ids
from cdir_catalog.wire import DIRECTORY, FILE, entry_message

__all__ = [
    "ENTRY_COLUMNS",
    "Tree",
    "ancestors",
    "below",
    "check_path",
    "entries_with_content",
    "entry_row",
    "entry_with_owed",
    "find_entries",
    "find_removed",
    "folded",
    "live",
    "not_found",
    "owed_counts",
    "require",
    "require_directory",
]

ENTRY_COLUMNS = (
    entries.c.id,
    entries.c.dirname,
    entries.c.basename,
    entries.c.kind,
    entries.c.author,
    entries.c.created_at,
    entries.c.conflict_of,
    entries.c.acl,
    entries.c.version_id.label("version_row"),
    versions.c.version_id.label("version"),
    versions.c.generation,
    versions.c.size,
    versions.c.modified_at,
    versions.c.sha256,
    versions.c.author.label("version_author"),
)
"""What :func:`cdir_catalog.wire.entry_message` needs, from entries with their current version."""

live = entries.c.removed_at.is_(None)
"""The condition under which an entry is to be seen; it also makes the listing's index usable."""


def entries_with_content(*columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Return the query of entries joined with their current version, before any condition."""
    return sa.select(*(columns or ENTRY_COLUMNS)).select_from(
        entries.outerjoin(versions, versions.c.id == entries.c.version_id)
    )


def check_path(path: str) -> str:
    """Return ``path`` when it is in normal form; raise :class:`InvalidPath` else."""
    normal = normalize_path(path)
    if normal != path:
        raise InvalidPath(f"{path!r} is not in normal form; write {normal!r}", path=path)
    return path


def ancestors(path: str) -> tuple[str, ...]:
    """Return the directories above ``path``, nearest first, without the root."""
    return _upwards(split_path(path)[0])


@functools.lru_cache(maxsize=4096)
def _upwards(dirname: str) -> tuple[str, ...]:
    """Return a directory and those above it. Kept, since a transaction asks several times for many files of few."""
    found = []
    while len(dirname) > 1:
        found.append(dirname)
        dirname, _ = split_path(dirname)
    return tuple(found)


def below(path: str) -> sa.ColumnElement[bool]:
    """Return the condition for entries whose directory is ``path`` or lies below it."""
    if path == "/":
        return sa.true()
    return sa.or_(entries.c.dirname == path, sa.and_(entries.c.dirname >= f"{path}/", entries.c.dirname < f"{path}0"))


def folded(name: str) -> str | None:
    """Return what the column ``folded`` holds for a name."""
    fold = fold_name(name)
    return fold if fold != name else None


@functools.cache
def _lookup(wanted: Pairs, *, removed: bool) -> sa.Select[Any]:
    condition = entries.c.removed_at.is_not(None) if removed else live
    workspace_id = sa.bindparam("workspace_id", type_=sa.Integer())
    mine = wanted.matching(entries, entries.c.dirname, entries.c.basename, workspace_id, condition)
    return sa.select(*ENTRY_COLUMNS).select_from(mine.outerjoin(versions, versions.c.id == entries.c.version_id))


def _find(connection: Connection, workspace_id: int, paths: Iterable[str], *, removed: bool) -> dict[str, Any]:
    pairs = [split_path(path) for path in dict.fromkeys(paths) if path != "/"]
    if not pairs:
        return {}
    wanted = pairs_table(connection)
    parameters = {"workspace_id": workspace_id, **wanted.values(pairs)}
    rows = connection.execute(_lookup(wanted, removed=removed), parameters)
    return {join_path(row.dirname, row.basename): row for row in rows if row.id is not None}


def find_entries(connection: Connection, workspace_id: int, paths: Iterable[str]) -> dict[str, Any]:
    """Return the entries at those of the paths that exist, by path, with the columns of :data:`ENTRY_COLUMNS`."""
    return _find(connection, workspace_id, paths, removed=False)


def find_removed(connection: Connection, workspace_id: int, paths: Iterable[str]) -> dict[str, Any]:
    """Return the removed files at those of the paths that have one, by path; a live entry may be there as well."""
    return _find(connection, workspace_id, paths, removed=True)


def entry_row(connection: Connection, workspace_id: int | None, path: str) -> Any | None:
    """Return the entry at one path, ``None`` when there is none (and for the root, which has no row)."""
    if workspace_id is None:
        return None
    return find_entries(connection, workspace_id, [path]).get(path)


_OWED = (
    sa.select(replicas.c.version_id, sa.func.count())
    .where(replicas.c.version_id.in_(sa.bindparam("rows", expanding=True)), is_owed, replicas.c.wanted == 1)
    .group_by(replicas.c.version_id)
)


def owed_counts(connection: Connection, version_rows: Sequence[int]) -> dict[int, int]:
    """Return how many wanted copies of each version are owed; versions that owe none are left out."""
    if not version_rows:
        return {}
    return {row[0]: row[1] for row in connection.execute(_OWED, {"rows": list(version_rows)})}


def entry_with_owed(connection: Connection, workspace: str, row: Any) -> entry_pb2.Entry:
    """Return the message of one entry."""
    owed = owed_counts(connection, [row.version_row]) if row.version_row is not None else {}
    return entry_message(workspace, row, owed.get(row.version_row, 0))


def not_found(path: str) -> NotFound:
    return NotFound(f"there is nothing at {path!r}", path=path)


def require(connection: Connection, workspace: str, path: str) -> tuple[int | None, Any | None]:
    """Return (workspace id, entry) of a path that must exist; the entry of the root is ``None``.

    The root of the user's own workspace always exists; that of another one from its first write on.
    """
    check_path(path)
    workspace_id = find_workspace(connection, workspace)
    if path == "/":
        if workspace_id is None and workspace:
            raise NotFound(f"there is no workspace {workspace!r}", workspace=workspace)
        return workspace_id, None
    row = entry_row(connection, workspace_id, path)
    if row is None:
        raise not_found(path)
    return workspace_id, row


def require_directory(connection: Connection, workspace: str, path: str) -> int | None:
    """Return the workspace id of a path that must be a directory."""
    workspace_id, row = require(connection, workspace, path)
    if row is not None and row.kind != DIRECTORY:
        raise NotDirectory(f"{path!r} is a file, not a directory", path=path)
    return workspace_id


class Tree:
    """Directories of one workspace known in a transaction, to which missing ones are added in one go."""

    def __init__(self, connection: Connection, workspace_id: int, known: dict[str, int], now: int) -> None:
        self._connection = connection
        self._workspace_id = workspace_id
        self._kinds = known
        self._now = now
        self._rows: list[dict[str, Any]] = []

    @classmethod
    def of(cls, connection: Connection, workspace_id: int, found: dict[str, Any], now: int) -> Tree:
        """Return the tree that knows the entries ``found``."""
        return cls(connection, workspace_id, {path: row.kind for path, row in found.items()}, now)

    def kind(self, path: str) -> int | None:
        return DIRECTORY if path == "/" else self._kinds.get(path)

    def check_parents(self, path: str) -> None:
        """Raise :class:`NotDirectory` when a parent of ``path`` is a file."""
        for parent in ancestors(path):
            if self._kinds.get(parent, DIRECTORY) != DIRECTORY:
                raise NotDirectory(f"{parent!r} is a file, so nothing can lie below it", path=parent)

    def make_parents(self, path: str, ledger: Ledger, author: str) -> None:
        """Add the missing directories above ``path``."""
        dirname, _ = split_path(path)
        if dirname != "/":
            self.make(dirname, ledger, author)

    def make(self, path: str, ledger: Ledger, author: str) -> bool:
        """Add the directory ``path`` with its parents where they are missing; True when it was missing."""
        missing = []
        for directory in [path, *ancestors(path)]:
            kind = self._kinds.get(directory)
            if kind is None:
                missing.append(directory)
            elif kind == DIRECTORY:
                break
            else:
                raise NotDirectory(f"{directory!r} is a file, so nothing can lie below it", path=directory)
        for directory in reversed(missing):
            self._add(directory, ledger, author)
        return bool(missing)

    def add_file(self, path: str) -> None:
        """Remember a file that the caller inserts."""
        self._kinds[path] = FILE

    def _add(self, path: str, ledger: Ledger, author: str) -> None:
        dirname, basename = split_path(path)
        self._kinds[path] = DIRECTORY
        self._rows.append(
            {
                "workspace_id": self._workspace_id,
                "dirname": dirname,
                "basename": basename,
                "folded": folded(basename),
                "kind": DIRECTORY,
                "author": author,
                "created_at": self._now,
            }
        )
        ledger.log(self._workspace_id, ChangeRow(entry_pb2.CHANGE_KIND_DIRECTORY_MADE, path, DIRECTORY, 0, author))

    def save(self) -> None:
        """Insert the directories added."""
        if self._rows:
            ids = reserve_ids(self._connection, entries, len(self._rows))
            rows = [{"id": row_id, **row} for row_id, row in zip(ids, self._rows, strict=True)]
            self._connection.execute(entries.insert(), rows)
            self._rows = []
