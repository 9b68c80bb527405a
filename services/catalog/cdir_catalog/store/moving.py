"""MoveEntry: the path changes at once, the keys at the providers become debt.

A file takes its history along. Where its new path has one of its own (a file that is replaced, or one that was
removed), the two are joined: the older contents of the path stay restorable, and the generations of what arrives are
counted on, so that a path never shows the same generation twice. Policies belong to paths and stay where they are.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import AlreadyExists, InvalidArgument, NotDirectory
from cdir.paths import split_path
from cdir.v1 import directory_service_pb2, entry_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.schema import entries, locations, placements, policies, replicas, versions
from cdir_catalog.store.acls import acl_owed_sql, adopt_history
from cdir_catalog.store.copies import CORRUPT, MISSING, OK
from cdir_catalog.store.entries import (
    Tree,
    ancestors,
    below,
    check_path,
    entry_row,
    entry_with_owed,
    find_entries,
    find_removed,
    folded,
    live,
    require,
)
from cdir_catalog.store.ledger import ChangeRow, Ledger
from cdir_catalog.store.locks import lock_workspaces
from cdir_catalog.store.placements import place_anew
from cdir_catalog.store.placing import place_contents
from cdir_catalog.store.policies import Placer
from cdir_catalog.store.removing import check_unwritten, supersede_file
from cdir_catalog.store.retention import trim_versions
from cdir_catalog.store.tallies import Tally, natural_key_sql
from cdir_catalog.wire import DIRECTORY, FILE

__all__ = ["move_entry"]


def move_entry(
    connection: Connection, request: directory_service_pb2.MoveEntryRequest, author: str
) -> directory_service_pb2.MoveEntryResponse:
    """DirectoryService.MoveEntry."""
    source, target = check_path(request.source), check_path(request.target)
    if source == "/":
        raise InvalidArgument("the root cannot be moved")
    if target == "/":
        raise AlreadyExists("the root exists; name the entry that shall be below it", path=target)
    workspace_id, _ = require(connection, request.workspace, source)
    assert workspace_id is not None
    lock_workspaces(connection, [workspace_id])
    moving = _Moving(connection, workspace_id, request.workspace, source, target, author)
    moved = moving.move(overwrite=request.overwrite)
    row = entry_row(connection, workspace_id, target)
    return directory_service_pb2.MoveEntryResponse(
        entry=entry_with_owed(connection, request.workspace, row), moved=moved
    )


class _Moving:
    """One move, in the state of this transaction."""

    def __init__(
        self, connection: Connection, workspace_id: int, workspace: str, source: str, target: str, author: str
    ) -> None:
        self._connection = connection
        self._workspace_id = workspace_id
        self._workspace = workspace
        self._source, self._target = source, target
        self._author = author
        self._ledger = Ledger(connection, now_ns())

    def move(self, *, overwrite: bool) -> int:
        """Move, and return how many files moved."""
        connection, source, target = self._connection, self._source, self._target
        _, row = require(connection, self._workspace, source)
        assert row is not None
        if source == target:
            return 0
        if row.kind == DIRECTORY and target.startswith(f"{source}/"):
            raise InvalidArgument(f"{source!r} cannot be moved into itself", path=target)
        found = find_entries(connection, self._workspace_id, [target, *ancestors(target)])
        tree = Tree.of(connection, self._workspace_id, found, self._ledger.now)
        tree.check_parents(target)
        present = found.get(target)
        if present is not None:
            self._check_replaceable(row, present, overwrite=overwrite)
        check_unwritten(connection, self._workspace_id, source)
        check_unwritten(connection, self._workspace_id, target)
        tree.make_parents(target, self._ledger, self._author)
        tree.save()
        moved = self._move_file(row, present) if row.kind == FILE else self._move_directory(row)
        self._ledger.log(
            self._workspace_id,
            ChangeRow(
                entry_pb2.CHANGE_KIND_MOVED, target, row.kind, self._generation(row), self._author, old_path=source
            ),
        )
        self._ledger.save()
        return moved

    def _check_replaceable(self, row: Any, present: Any, *, overwrite: bool) -> None:
        target = self._target
        if present.kind == DIRECTORY:
            raise AlreadyExists(f"there is a directory at {target!r} already", path=target)
        if row.kind == DIRECTORY:
            raise NotDirectory(f"{target!r} is a file; a directory cannot take its place", path=target)
        if not overwrite:
            raise AlreadyExists(f"there is a file at {target!r} already; use overwrite to replace it", path=target)

    def _generation(self, row: Any) -> int:
        if row.kind == DIRECTORY:
            return 0
        generation: int = self._connection.execute(
            sa.select(versions.c.generation).where(versions.c.id == row.version_row)
        ).scalar_one()
        return generation

    # -- a file -------------------------------------------------------------------------------------------------------

    def _move_file(self, row: Any, present: Any | None) -> int:
        connection, target, ledger = self._connection, self._target, self._ledger
        placer = Placer(connection, self._workspace_id, [target])
        if present is not None:
            supersede_file(ledger, present, target, placer)
            ledger.count_files(self._workspace_id, -1, -present.size)
        ledger.load([row.version_row])
        older = present or find_removed(connection, self._workspace_id, [target]).get(target)
        self._note_locations(entries.c.id == row.id)
        if older is not None:
            self._join_history(row.id, older.id)
        dirname, basename = split_path(target)
        connection.execute(
            entries.update()
            .where(entries.c.id == row.id)
            # a conflicting copy that is given a name was looked at
            .values(dirname=dirname, basename=basename, folded=folded(basename), conflict_of=None)
        )
        content = ledger.contents[row.version_row]
        content.dirname, content.basename = dirname, basename
        place_contents(ledger, placer)
        if older is not None:
            trim_versions(connection, {row.id: placer.policy(target).keep_versions}, ledger.now)
        return 1

    def _note_locations(self, mine: sa.ColumnElement[bool]) -> None:
        """Keep where every content of the files about to be moved has been until now."""
        self._connection.execute(
            locations.insert().from_select(
                ["version_id", "until_at", "workspace_id", "dirname", "basename"],
                sa.select(
                    versions.c.id,
                    sa.literal(self._ledger.now, sa.BigInteger()),
                    entries.c.workspace_id,
                    entries.c.dirname,
                    entries.c.basename,
                )
                .join(entries, entries.c.id == versions.c.entry_id)
                .where(mine),
            )
        )

    def _join_history(self, entry_id: int, older_id: int) -> None:
        """Give the older contents of a path to the entry that takes its place, before its own."""
        connection = self._connection
        own = versions.c.entry_id == entry_id
        last = connection.scalar(
            sa.select(sa.func.coalesce(sa.func.max(versions.c.generation), 0)).where(versions.c.entry_id == older_id)
        )
        # by way of negative numbers: while rows change one by one, no two may have the same
        connection.execute(versions.update().where(own).values(generation=-(versions.c.generation + last)))
        connection.execute(versions.update().where(own).values(generation=-versions.c.generation))
        connection.execute(versions.update().where(versions.c.entry_id == older_id).values(entry_id=entry_id))
        both = sa.select(entries.c.id, entries.c.acl).where(entries.c.id.in_((entry_id, older_id)))
        acls = {row.id: row.acl for row in connection.execute(both)}
        connection.execute(entries.delete().where(entries.c.id == older_id))
        if acls[entry_id] != acls[older_id]:
            adopt_history(self._ledger, entry_id, acls[entry_id])

    # -- a directory --------------------------------------------------------------------------------------------------

    def _move_directory(self, row: Any) -> int:
        connection, source, target = self._connection, self._source, self._target
        dirname, basename = split_path(target)
        moved = sa.and_(entries.c.workspace_id == self._workspace_id, live, below(source))
        self._note_locations(sa.and_(moved, entries.c.kind == FILE))
        connection.execute(
            entries.update()
            .where(entries.c.id == row.id)
            .values(dirname=dirname, basename=basename, folded=folded(basename))
        )
        connection.execute(
            entries.update()
            .where(moved, entries.c.conflict_of >= f"{source}/", entries.c.conflict_of < f"{source}0")
            .values(conflict_of=sa.literal(target) + sa.func.substr(entries.c.conflict_of, len(source) + 1))
        )
        connection.execute(
            entries.update()
            .where(moved)
            .values(dirname=sa.literal(target) + sa.func.substr(entries.c.dirname, len(source) + 1))
        )
        mine = sa.and_(entries.c.workspace_id == self._workspace_id, live, below(target), entries.c.kind == FILE)
        self._relocate(mine)
        for landed, older in self._landed_on_history():
            self._join_history(landed, older)
        if self._placed_by_path():
            place_anew(connection, self._workspace_id, target)
        return connection.scalar(sa.select(sa.func.count()).select_from(entries).where(mine)) or 0

    def _relocate(self, mine: sa.ColumnElement[bool]) -> None:
        """Have every copy of the files moved follow them, in one statement for each case."""
        connection, now = self._connection, self._ledger.now
        chosen = sa.select(entries.c.version_id).where(mine)
        tally = Tally(connection, self._workspace_id, chosen)
        of_chosen = sa.and_(replicas.c.version_id.in_(chosen), replicas.c.wanted == 1)
        natural = (
            sa.select(natural_key_sql(self._workspace))
            .join(versions, versions.c.entry_id == entries.c.id)
            .where(versions.c.id == replicas.c.version_id)
            .scalar_subquery()
        )
        acl_owed = acl_owed_sql(current=True)
        leased = sa.func.coalesce(replicas.c.lease_until, 0) > now
        # what is leased without being owed (it makes room, or is being proven) is due when the lease ends
        due = sa.case((leased, sa.func.coalesce(replicas.c.due_at, replicas.c.lease_until)), else_=sa.literal(now))
        connection.execute(
            replicas.update()
            .where(of_chosen, replicas.c.actual == OK)
            .values(move_to=natural, owed=1, attempts=0, due_at=due)
        )
        connection.execute(
            replicas.update()
            .where(of_chosen, replicas.c.actual == OK, replicas.c.move_to == replicas.c.key, ~acl_owed)
            .values(move_to=None, owed=0, due_at=None)
        )
        connection.execute(
            replicas.update()
            .where(of_chosen, replicas.c.actual == OK, replicas.c.move_to == replicas.c.key)
            .values(move_to=None)
        )
        connection.execute(replicas.update().where(of_chosen, replicas.c.actual == MISSING).values(key=natural))
        tally.save()
        corrupt = connection.scalars(
            sa.select(replicas.c.version_id).where(of_chosen, replicas.c.actual == CORRUPT)
        ).all()
        self._ledger.load(row_id for row_id in corrupt if row_id is not None)
        self._ledger.settle()

    def _landed_on_history(self) -> list[tuple[int, int]]:
        """Return (moved, removed) pairs of entries that are now at one path."""
        removed = entries.alias("removed")
        rows = self._connection.execute(
            sa.select(entries.c.id, removed.c.id.label("removed_id"))
            .join(
                removed,
                sa.and_(
                    removed.c.workspace_id == entries.c.workspace_id,
                    removed.c.dirname == entries.c.dirname,
                    removed.c.basename == entries.c.basename,
                    removed.c.removed_at.is_not(None),
                ),
            )
            .where(entries.c.workspace_id == self._workspace_id, live, entries.c.kind == FILE, below(self._target))
        )
        return [(row.id, row.removed_id) for row in rows.all()]

    def _placed_by_path(self) -> bool:
        """Say whether files may belong elsewhere at their new path, or were still to be placed at the old one."""
        for table in (policies, placements):
            query = sa.select(table.c.path).where(table.c.workspace_id == self._workspace_id).limit(1)
            if self._connection.scalar(query) is not None:
                return True
        return False
