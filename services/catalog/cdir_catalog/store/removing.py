"""RemoveEntries: files together; each directory with all below it in bulk statements."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import CdirError, Conflict, DirectoryNotEmpty, InvalidArgument, ProviderUnavailable, QuotaExceeded
from cdir.status import to_failure
from cdir.v1 import catalog_service_pb2, directory_service_pb2, entry_pb2
from cdir_catalog.clock import SECOND, now_ns
from cdir_catalog.schema import entries, intents, policies, replicas, versions
from cdir_catalog.store.acls import acl_owed_sql
from cdir_catalog.store.copies import CORRUPT, MISSING, OK, UNKNOWN
from cdir_catalog.store.entries import below, check_path, find_entries, live, not_found, require
from cdir_catalog.store.intents import check_batch
from cdir_catalog.store.ledger import ChangeRow, Ledger
from cdir_catalog.store.locks import lock_workspaces
from cdir_catalog.store.policies import Placer
from cdir_catalog.store.tallies import Tally, aside_key_sql
from cdir_catalog.store.workspaces import find_workspaces
from cdir_catalog.wire import DIRECTORY, FILE

__all__ = ["check_unwritten", "remove_entries", "supersede_file"]

_WRITTEN = sa.select(intents.c.path).where(
    intents.c.workspace_id == sa.bindparam("workspace"), intents.c.path.in_(sa.bindparam("paths", expanding=True))
)
_REMOVE = (
    entries.update()
    .where(entries.c.id == sa.bindparam("row"))
    .values(removed_at=sa.bindparam("at"), removed_by=sa.bindparam("by"))
)


class _Removal(NamedTuple):
    wanted: directory_service_pb2.EntryRemoval
    result: directory_service_pb2.RemovedEntry
    """What becomes of it, in the response."""


def check_unwritten(connection: Connection, workspace_id: int, path: str) -> None:
    """Raise :class:`Conflict` while a write at or below ``path`` is under way, or has lapsed and is not undone yet."""
    condition: sa.ColumnElement[bool] = sa.true()
    if path != "/":
        inside = sa.and_(intents.c.path >= f"{path}/", intents.c.path < f"{path}0")
        condition = sa.or_(intents.c.path == path, inside)
    writing = connection.scalar(
        sa.select(intents.c.path).where(intents.c.workspace_id == workspace_id, condition).limit(1)
    )
    if writing is not None:
        raise _being_written(writing)


def _being_written(path: str) -> Conflict:
    return Conflict(f"a write to {path!r} is under way; try again when it has ended", path=path)


def remove_entries(
    connection: Connection, request: directory_service_pb2.RemoveEntriesRequest, author: str
) -> directory_service_pb2.RemoveEntriesResponse:
    """DirectoryService.RemoveEntries."""
    check_batch(request.removals)
    response = directory_service_pb2.RemoveEntriesResponse()
    by_workspace: dict[str, list[_Removal]] = {}
    for removal in request.removals:
        one = _Removal(removal, response.results.add())
        try:
            check_path(removal.path)
        except CdirError as error:
            one.result.failure.CopyFrom(to_failure(error))
        else:
            by_workspace.setdefault(removal.workspace, []).append(one)
    ids = find_workspaces(connection, by_workspace)
    lock_workspaces(connection, ids.values())
    for workspace, removals in by_workspace.items():
        workspace_id = ids.get(workspace)
        found = (
            {}
            if workspace_id is None
            else find_entries(connection, workspace_id, [one.wanted.path for one in removals])
        )
        files, directories = [], []
        for one in removals:
            row = found.get(one.wanted.path)
            if row is not None and row.kind == FILE:
                files.append((one, row))
            else:
                directories.append(one)
        if workspace_id is not None and files:
            _remove_files(connection, workspace_id, files, author)
        for one in directories:
            try:
                with connection.begin_nested():
                    one.result.files = _remove_directory(connection, one.wanted, author)
            except (ProviderUnavailable, QuotaExceeded):
                raise  # of the database: nothing of the call can be done
            except CdirError as error:
                one.result.failure.CopyFrom(to_failure(error))
    return response


def _remove_files(connection: Connection, workspace_id: int, files: list[tuple[_Removal, Any]], author: str) -> None:
    """Remove files; one that fails is left as it is."""
    ledger = Ledger(connection, now_ns())
    paths = sorted({one.wanted.path for one, _ in files})
    written = set(connection.scalars(_WRITTEN, {"workspace": workspace_id, "paths": paths}))
    placer = Placer(connection, workspace_id, paths)
    ledger.load(row.version_row for _, row in files)
    removed: dict[str, dict[str, Any]] = {}
    contents = []
    for one, row in files:
        path = one.wanted.path
        try:
            if path in removed:
                raise not_found(path)
            if path in written:
                raise _being_written(path)
            if one.wanted.HasField("if_generation") and one.wanted.if_generation != row.generation:
                raise Conflict(f"{path!r} is at generation {row.generation}, not {one.wanted.if_generation}", path=path)
        except CdirError as error:
            one.result.failure.CopyFrom(to_failure(error))
            continue
        supersede_file(ledger, row, path, placer)
        contents.append(ledger.contents[row.version_row])
        ledger.log(workspace_id, ChangeRow(entry_pb2.CHANGE_KIND_REMOVED, path, FILE, row.generation, author))
        ledger.count_files(workspace_id, -1, -row.size)
        # what is removed at the same time is one removal to those who restore it
        removed[path] = {"row": row.id, "at": ledger.now + len(removed), "by": author}
        one.result.files = 1
    if removed:
        connection.execute(_REMOVE, list(removed.values()))
        ledger.settle(contents)
    ledger.save()


def _remove_directory(connection: Connection, wanted: directory_service_pb2.EntryRemoval, author: str) -> int:
    """Remove what is not a file, and return how many files lay below; a savepoint undoes it where it fails."""
    path = wanted.path
    workspace_id, row = require(connection, wanted.workspace, path)
    if path == "/" and not wanted.recursive:
        raise InvalidArgument("the root itself cannot be removed; remove what lies in it, or use --recursive")
    if workspace_id is None:
        return 0
    check_unwritten(connection, workspace_id, path)
    if wanted.HasField("if_generation") and wanted.if_generation != 0:
        raise Conflict(f"{path!r} is a directory and has no generation", path=path)
    ledger = Ledger(connection, now_ns())
    files = _remove_tree(connection, ledger, workspace_id, row, path, author, recursive=wanted.recursive)
    ledger.log(workspace_id, ChangeRow(entry_pb2.CHANGE_KIND_REMOVED, path, DIRECTORY, 0, author))
    ledger.save()
    return files


def supersede_file(ledger: Ledger, row: Any, path: str, placer: Placer) -> None:
    """Make a file's current content an older one, kept as long as the policy says."""
    policy = placer.policy(path)
    ledger.load([row.version_row])
    keep = policy.keep_seconds if policy.keep_versions > 0 else None
    ledger.supersede(ledger.contents[row.version_row], keep)


def _remove_tree(
    connection: Connection,
    ledger: Ledger,
    workspace_id: int,
    row: Any | None,
    path: str,
    author: str,
    *,
    recursive: bool,
) -> int:
    mine = sa.and_(entries.c.workspace_id == workspace_id, live, below(path))
    child = connection.scalar(sa.select(entries.c.id).where(mine).limit(1))
    if child is not None and not recursive:
        raise DirectoryNotEmpty(f"{path!r} is not empty; use --recursive to remove all below it", path=path)
    if row is None and path != "/":
        raise not_found(path)
    files = 0
    if child is not None:
        files = _supersede_below(connection, ledger, workspace_id, path, author, mine)
        connection.execute(entries.delete().where(mine, entries.c.kind == DIRECTORY))
    if row is not None:
        connection.execute(entries.delete().where(entries.c.id == row.id))
    return files


def _supersede_below(
    connection: Connection, ledger: Ledger, workspace_id: int, path: str, author: str, mine: sa.ColumnElement[bool]
) -> int:
    """Make the current contents of all files below ``path`` older ones, in one statement for each step."""
    now = ledger.now
    totals = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(versions.c.size), 0))
        .select_from(entries.join(versions, versions.c.id == entries.c.version_id))
        .where(mine, entries.c.kind == FILE)
    ).one()
    files, size = int(totals[0]), int(totals[1])
    if files == 0:
        return 0
    # what is being removed is told apart by the time of removal
    now = _unused_time(connection, workspace_id, path, now)
    connection.execute(entries.update().where(mine, entries.c.kind == FILE).values(removed_at=now, removed_by=author))
    removed = sa.and_(entries.c.workspace_id == workspace_id, entries.c.removed_at == now, below(path))
    chosen = sa.select(entries.c.version_id).where(removed)
    tally = Tally(connection, workspace_id, chosen)
    _expire(connection, workspace_id, path, removed, now)
    of_chosen = replicas.c.version_id.in_(chosen)
    leased = sa.func.coalesce(replicas.c.lease_until, 0) > now
    connection.execute(replicas.delete().where(of_chosen, replicas.c.actual == MISSING, ~leased))
    connection.execute(
        replicas.update()
        .where(of_chosen, replicas.c.actual == MISSING)
        .values(actual=UNKNOWN, key=sa.func.coalesce(replicas.c.lease_key, replicas.c.key), move_to=None, owed=1)
    )
    connection.execute(replicas.update().where(of_chosen, replicas.c.actual == CORRUPT).values(wanted=0))
    aside = (
        sa.select(aside_key_sql(versions.c.version_id)).where(versions.c.id == replicas.c.version_id).scalar_subquery()
    )
    # what is leased without being owed (it makes room, or is being proven) is due when the lease ends
    due = sa.case((leased, sa.func.coalesce(replicas.c.due_at, replicas.c.lease_until)), else_=now)
    connection.execute(
        replicas.update()
        .where(of_chosen, replicas.c.actual == OK, replicas.c.wanted == 1)
        .values(move_to=aside, owed=1, due_at=due)
    )
    connection.execute(
        replicas.update().where(of_chosen, replicas.c.wanted == 0).values(move_to=None, owed=1, due_at=due)
    )
    # one that is being renamed, or may have been, is not settled because it is recorded where it shall be
    still = sa.func.coalesce(replicas.c.lease_kind, 0) != catalog_service_pb2.DEBT_KIND_RELOCATE
    settled = sa.and_(replicas.c.actual == OK, replicas.c.move_to == replicas.c.key, still)
    connection.execute(
        replicas.update()
        .where(of_chosen, settled, ~acl_owed_sql(current=False))
        .values(move_to=None, owed=0, due_at=None)
    )
    connection.execute(replicas.update().where(of_chosen, settled).values(move_to=None))
    tally.save()
    _forget_lost(connection, removed, chosen)
    ledger.count_files(workspace_id, -files, -size)
    return files


def _unused_time(connection: Connection, workspace_id: int, path: str, now: int) -> int:
    """Return a time at which nothing below ``path`` was removed before."""
    last: int | None = connection.scalar(
        sa.select(sa.func.max(entries.c.removed_at)).where(
            entries.c.workspace_id == workspace_id, entries.c.removed_at.is_not(None), below(path)
        )
    )
    return now if last is None else max(now, last + 1)


def _expire(connection: Connection, workspace_id: int, path: str, removed: sa.ColumnElement[bool], now: int) -> None:
    """Set until when removed contents are kept: by the policy of the directory, then by those below it."""
    rules = [
        rule
        for rule in connection.scalars(
            sa.select(policies.c.path).where(policies.c.workspace_id == workspace_id).order_by(policies.c.path)
        )
        if path == "/" or rule.startswith(f"{path}/")
    ]
    placer = Placer(connection, workspace_id, [path, *rules])
    for place in [path, *rules]:
        policy = placer.policy(place)
        kept = policy.keep_versions > 0
        under = sa.true() if place == path else below(place)
        if place != path:
            dirname, _, basename = place.rpartition("/")
            under = sa.or_(under, sa.and_(entries.c.dirname == (dirname or "/"), entries.c.basename == basename))
        these = sa.select(entries.c.version_id).where(removed, under)
        connection.execute(
            versions.update()
            .where(versions.c.id.in_(these))
            .values(superseded_at=now, expires_at=now + policy.keep_seconds * SECOND if kept else None)
        )
    unkept = sa.select(versions.c.id).where(
        versions.c.id.in_(sa.select(entries.c.version_id).where(removed)), versions.c.expires_at.is_(None)
    )
    connection.execute(replicas.update().where(replicas.c.version_id.in_(unkept)).values(wanted=0))


def _forget_lost(connection: Connection, removed: sa.ColumnElement[bool], chosen: sa.Select[Any]) -> None:
    """Forget removed contents of which no copy was there."""
    without = sa.and_(versions.c.id.in_(chosen), ~sa.exists().where(replicas.c.version_id == versions.c.id))
    if connection.scalar(sa.select(versions.c.id).where(without).limit(1)) is None:
        return
    connection.execute(versions.delete().where(without))
    connection.execute(entries.delete().where(removed, ~sa.exists().where(versions.c.entry_id == entries.c.id)))
