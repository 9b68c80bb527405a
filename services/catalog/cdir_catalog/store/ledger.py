"""A unit of work over copies: load contents, change them, settle, and write back only what differs.

Everything that follows from a change (replica rows, versions superseded or forgotten, counters, the change log) is
written by :meth:`Ledger.save`, so that no store function can forget one of them.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir_catalog.schema import changes, counters, entries, replicas, versions, workspaces
from cdir_catalog.store.copies import (
    LEFTOVER_CONTRIBUTION,
    Content,
    Contribution,
    Copy,
    contribution,
    leftover,
    settle,
)

__all__ = ["COPY_COLUMNS", "ChangeRow", "Ledger", "add_counters", "copies_of", "copy_of"]

COPY_COLUMNS = tuple(replicas.c)
"""The columns of a :class:`Copy`, in its order."""

_NAMES = tuple(column.name for column in COPY_COLUMNS)

_MARKS = tuple(_NAMES.index(name) for name in ("key", "actual", "etag", "checksum"))
"""What identifies the object at a copy's key: when one of these changes, earlier listings say nothing about it."""

_UPDATE = replicas.update().where(replicas.c.id == sa.bindparam("row"))
_DELETE = replicas.delete().where(replicas.c.id.in_(sa.bindparam("rows", expanding=True)))
_INSERT = replicas.insert()
_LOG = changes.insert()

_chosen: sa.BindParameter[Any] = sa.bindparam("chosen", expanding=True)

# what most transactions run is made once: building a statement of so many columns costs more than running it
_CONTENTS = (
    sa.select(
        versions.c.id,
        versions.c.version_id,
        versions.c.entry_id,
        entries.c.workspace_id,
        workspaces.c.name,
        entries.c.dirname,
        entries.c.basename,
        versions.c.size,
        versions.c.superseded_at.is_(None),
        entries.c.removed_at.is_not(None),
        versions.c.superseded_at.is_(None),
        entries.c.acl,
    )
    .join(entries, entries.c.id == versions.c.entry_id)
    .join(workspaces, workspaces.c.id == entries.c.workspace_id)
    .where(versions.c.id.in_(_chosen))
)
_COPIES = sa.select(*COPY_COLUMNS).where(replicas.c.version_id.in_(_chosen)).order_by(replicas.c.id)
_COPIES_TO_CHANGE = _COPIES.with_for_update()
_COPIES_AT = sa.select(*COPY_COLUMNS).where(replicas.c.key.in_(_chosen)).order_by(replicas.c.id).with_for_update()

_GROW = (
    workspaces.update()
    .where(workspaces.c.id == sa.bindparam("workspace"))
    .values(
        revision=workspaces.c.revision + sa.bindparam("more_logged"),
        files=workspaces.c.files + sa.bindparam("more_files"),
        bytes=workspaces.c.bytes + sa.bindparam("more_bytes"),
    )
    .returning(workspaces.c.revision)
)

_ADD_COUNTERS = sa.text(
    "INSERT INTO counters (workspace_id, provider_id, files, bytes, owed, quarantined, removals)"
    " VALUES (:workspace_id, :provider_id, :files, :bytes, :owed, :quarantined, :removals)"
    " ON CONFLICT (workspace_id, provider_id) DO UPDATE SET"
    " files = counters.files + excluded.files, bytes = counters.bytes + excluded.bytes,"
    " owed = counters.owed + excluded.owed, quarantined = counters.quarantined + excluded.quarantined,"
    " removals = counters.removals + excluded.removals"
).bindparams(*(sa.bindparam(column.name, type_=sa.BigInteger()) for column in counters.c))


class ChangeRow(NamedTuple):
    """One row of the change log, still without a revision."""

    kind: int
    path: str
    entry_kind: int
    generation: int
    author: str
    old_path: str = ""


def copy_of(row: Any) -> Copy:
    """Return the copy of a row selected with :data:`COPY_COLUMNS`."""
    return Copy(*row)


def copies_of(connection: Connection, version_ids: Collection[int]) -> dict[int, list[Copy]]:
    """Return the copies of versions by row id, only to be looked at."""
    found: dict[int, list[Copy]] = defaultdict(list)
    if version_ids:
        for row in connection.execute(_COPIES, {"chosen": list(version_ids)}):
            found[row.version_id].append(copy_of(row))
    return found


_values: Callable[[Copy], tuple[Any, ...]] = operator.attrgetter(*_NAMES)


def add_counters(connection: Connection, deltas: dict[tuple[int, int], list[int]]) -> None:
    """Add to the counters, by (workspace id, provider row id)."""
    rows = [
        dict(zip(Contribution._fields, delta, strict=True), workspace_id=key[0], provider_id=key[1])
        for key, delta in sorted(deltas.items())
        if any(delta)
    ]
    if rows:
        connection.execute(_ADD_COUNTERS, rows)


class Ledger:
    """Contents loaded for change in one transaction."""

    def __init__(self, connection: Connection, now: int) -> None:
        self.connection = connection
        self.now = now
        self.contents: dict[int, Content] = {}
        self.leftovers: list[Copy] = []
        self._before: dict[int, tuple[tuple[Any, ...], Contribution]] = {}
        self._expiry: dict[int, int | None] = {}
        self._deltas: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
        self._sizes: dict[int, list[int]] = defaultdict(lambda: [0, 0])
        self._changes: dict[int, list[ChangeRow]] = defaultdict(list)

    # -- loading ------------------------------------------------------------------------------------------------------

    def load(self, version_ids: Iterable[int], *, lock: bool = True) -> None:
        """Load versions by row id, with every copy; those loaded before stay as they are.

        The copies are locked against leasing at the same time, unless they are only looked at.
        """
        wanted = set(version_ids) - self.contents.keys()
        if not wanted:
            return
        chosen = {"chosen": sorted(wanted)}
        for row in self.connection.execute(_CONTENTS, chosen):
            self.contents[row[0]] = Content(*row)
        for row in self.connection.execute(_COPIES_TO_CHANGE if lock else _COPIES, chosen):
            copy = copy_of(row)
            content = self.contents[row.version_id]
            content.copies.append(copy)
            self._remember(copy, content)

    def load_keys(self, keys: Iterable[str]) -> dict[tuple[int, str], list[tuple[Copy, Content | None]]]:
        """Load what is recorded at ``keys``, whatever content it is of; returns it by (provider row id, key)."""
        wanted = set(keys)
        found: dict[tuple[int, str], list[tuple[Copy, Content | None]]] = defaultdict(list)
        if not wanted:
            return found
        rows = self.connection.execute(_COPIES_AT, {"chosen": sorted(wanted)}).all()
        self.load(row.version_id for row in rows if row.version_id is not None)
        known = {copy.id: copy for copy in self.leftovers}
        for row in rows:
            if row.version_id is None:
                copy = known.get(row.id) or self.add_leftover_row(copy_of(row))
                found[copy.provider_id, copy.key].append((copy, None))
                continue
            content = self.contents[row.version_id]
            at = content.at(row.provider_id)
            if at is not None:
                found[at.provider_id, at.key].append((at, content))
        return found

    def add_leftover_row(self, copy: Copy) -> Copy:
        """Take a leftover that was loaded into the unit of work."""
        self.leftovers.append(copy)
        self._remember(copy, None)
        return copy

    def _remember(self, copy: Copy, content: Content | None) -> None:
        assert copy.id is not None
        self._before[copy.id] = (_values(copy), self._contribution(copy, content, before=True))

    def _contribution(self, copy: Copy, content: Content | None, *, before: bool = False) -> Contribution:
        if content is None:
            return LEFTOVER_CONTRIBUTION
        current = content.was_current if before else content.current
        return contribution(content.size, current, copy.wanted, copy.actual, copy.owed, copy.attempts)

    # -- changing -----------------------------------------------------------------------------------------------------

    def add_content(self, content: Content) -> None:
        """Take a version whose row was just inserted."""
        self.contents[content.id] = content

    def add_leftover(self, workspace_id: int, provider_id: int, key: str) -> Copy:
        """Record an object that no content explains; returns its row."""
        copy = leftover(workspace_id, provider_id, key, self.now)
        self.leftovers.append(copy)
        return copy

    def supersede(self, content: Content, keep_seconds: int | None) -> None:
        """Make a version an older one, kept for ``keep_seconds``; ``None`` does not keep it at all."""
        content.current = False
        if keep_seconds is None:
            self.let_go(content)
        else:
            self._expiry[content.id] = self.now + keep_seconds * 1_000_000_000

    def let_go(self, content: Content) -> None:
        """Mark an older version's copies for removal."""
        for copy in content.copies:
            copy.wanted = 0
        self._expiry[content.id] = None

    def count_files(self, workspace_id: int, files: int, size: int) -> None:
        """Add to what is current in a workspace."""
        totals = self._sizes[workspace_id]
        totals[0] += files
        totals[1] += size

    def log(self, workspace_id: int, change: ChangeRow) -> None:
        """Append to the workspace's change log."""
        self._changes[workspace_id].append(change)

    def settle(self, contents: Iterable[Content] | None = None) -> None:
        """Apply :func:`cdir_catalog.store.copies.settle` to contents, by default to every one loaded."""
        for content in list(self.contents.values()) if contents is None else contents:
            self.leftovers.extend(settle(content, self.now))

    # -- saving -------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write everything back. The ledger is empty afterwards."""
        self._save_copies()
        self._save_versions()
        add_counters(self.connection, self._deltas)
        self._deltas.clear()
        self._save_workspaces()
        self.contents.clear()
        self.leftovers.clear()
        self._before.clear()

    def _save_copies(self) -> None:
        updated: list[dict[str, Any]] = []
        deleted: list[int] = []
        inserted: list[dict[str, Any]] = []
        for content in self.contents.values():
            for copy in content.copies:
                self._save_copy(copy, content, updated, deleted, inserted)
            content.copies = [copy for copy in content.copies if not copy.gone]
        for copy in self.leftovers:
            self._save_copy(copy, None, updated, deleted, inserted)
        if deleted:
            self.connection.execute(_DELETE, {"rows": deleted})
        if updated:
            self.connection.execute(_UPDATE, updated)
        if inserted:
            self.connection.execute(_INSERT, inserted)

    def _save_copy(
        self,
        copy: Copy,
        content: Content | None,
        updated: list[dict[str, Any]],
        deleted: list[int],
        inserted: list[dict[str, Any]],
    ) -> None:
        if copy.id is None:
            if not copy.gone:
                self._add_delta(copy, self._contribution(copy, content), 1)
                copy.changed_at = self.now
                row = dict(zip(_NAMES, _values(copy), strict=True))
                del row["id"]
                inserted.append(row)
            return
        before, counted = self._before[copy.id]
        if copy.gone:
            self._add_delta(copy, counted, -1)
            deleted.append(copy.id)
            return
        after = self._contribution(copy, content)
        if after != counted:
            self._add_delta(copy, counted, -1)
            self._add_delta(copy, after, 1)
        values = _values(copy)
        if values != before:
            if any(values[mark] != before[mark] for mark in _MARKS):
                copy.changed_at = self.now
                values = _values(copy)
            row = dict(zip(_NAMES, values, strict=True))
            row["row"] = row.pop("id")
            updated.append(row)

    def _add_delta(self, copy: Copy, counted: Contribution, sign: int) -> None:
        delta = self._deltas[copy.workspace_id, copy.provider_id]
        for index, value in enumerate(counted):
            delta[index] += sign * value

    def _save_versions(self) -> None:
        superseded = [content for content in self.contents.values() if content.was_current and not content.current]
        if superseded:
            self.connection.execute(
                versions.update().where(versions.c.id == sa.bindparam("row")),
                [{"row": content.id, "superseded_at": self.now} for content in superseded],
            )
        if self._expiry:
            self.connection.execute(
                versions.update().where(versions.c.id == sa.bindparam("row")),
                [{"row": row_id, "expires_at": expires} for row_id, expires in self._expiry.items()],
            )
            self._expiry.clear()
        self._forget([content for content in self.contents.values() if not content.current and not content.copies])

    def _forget(self, contents: list[Content]) -> None:
        """Delete older versions of which no copy is left, and removed files of which no version is left."""
        if not contents:
            return
        self.connection.execute(versions.delete().where(versions.c.id.in_([content.id for content in contents])))
        forget_removed(self.connection, {content.entry_id for content in contents})

    def _save_workspaces(self) -> None:
        for workspace_id in sorted(self._sizes.keys() | self._changes.keys()):
            files, size = self._sizes[workspace_id]
            logged = self._changes[workspace_id]
            grown = {"workspace": workspace_id, "more_logged": len(logged), "more_files": files, "more_bytes": size}
            revision: int = self.connection.execute(_GROW, grown).scalar_one()
            if logged:
                first = revision - len(logged) + 1
                self.connection.execute(
                    _LOG,
                    [
                        {
                            **change._asdict(),
                            "workspace_id": workspace_id,
                            "revision": first + index,
                            "changed_at": self.now,
                        }
                        for index, change in enumerate(logged)
                    ],
                )
        self._sizes.clear()
        self._changes.clear()


def forget_removed(connection: Connection, entry_ids: Iterable[int]) -> None:
    """Delete those of these entries that were removed and have no version left."""
    connection.execute(
        entries.delete().where(
            entries.c.id.in_(sorted(entry_ids)),
            entries.c.removed_at.is_not(None),
            ~sa.exists().where(versions.c.entry_id == entries.c.id),
        )
    )
