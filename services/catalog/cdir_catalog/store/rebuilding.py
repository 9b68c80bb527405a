"""RebuildCatalog: an empty catalog is filled from snapshot files and from what was seen at the providers.

Everything happens in one transaction. First the files are taken in as they are. Then reality prevails: each content
they know is looked for among the objects seen, files that were renamed after the snapshot are followed, objects that
nothing explains become files, and files whose contents lie aside everywhere were removed after the snapshot. In the
end every counter is counted anew.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import IO, Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import PreconditionFailed
from cdir.paths import join_path
from cdir.v1 import catalog_recovery_pb2 as pb
from cdir.v1 import entry_pb2, provider_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.keys import ASIDE_PREFIX
from cdir_catalog.schema import counters, entries, identity, providers, replicas, sightings, versions, workspaces
from cdir_catalog.store.copies import OK, UNKNOWN, Contribution
from cdir_catalog.store.entries import ENTRY_COLUMNS, entries_with_content, find_removed, live
from cdir_catalog.store.ledger import ChangeRow, Ledger
from cdir_catalog.store.loading import load_file, wipe
from cdir_catalog.store.locks import change_configuration
from cdir_catalog.store.placements import place_all_anew
from cdir_catalog.store.policies import Placer
from cdir_catalog.store.providers import AWAITS_REBUILD, load_providers
from cdir_catalog.store.recognizing import Listed, recognize_known
from cdir_catalog.store.removing import supersede_file
from cdir_catalog.store.renamed import follow_renames
from cdir_catalog.store.taking_in import AUTHOR, TakenIn, take_in_found
from cdir_catalog.store.tallies import tally_columns
from cdir_catalog.wire import FILE

__all__ = ["SnapshotFile", "rebuild_catalog"]

_PAGE = 200
_PATHS = 20
_ASIDE_END = ASIDE_PREFIX[:-1] + "0"


class SnapshotFile(NamedTuple):
    """A snapshot file that was seen to be whole; it stands at its beginning."""

    name: str
    file: IO[bytes]


def rebuild_catalog(connection: Connection, start: pb.RebuildStart, files: Sequence[SnapshotFile]) -> pb.RebuildReport:
    """Fill the empty catalog; returns what was made of it. Every error leaves it as it was, once rolled back."""
    change_configuration(connection)
    _require_empty(connection)
    if files:
        _load(connection, files)
    _forget_work(connection)
    listed = Listed(load_providers(connection), start.listed)
    # what a listing told that did not come to its end proves nothing
    connection.execute(sightings.delete().where(sightings.c.provider.not_in(list(listed.by_id))))
    on_their_way = recognize_known(connection, listed)
    follow_renames(connection, listed, AUTHOR)
    taken = take_in_found(connection, listed)
    removed = _remove_set_aside(connection, listed, on_their_way)
    _count_anew(connection)
    report = _report(connection, taken, removed)
    report.snapshot = files[-1].name if files else ""
    _take_up(connection, listed)
    place_all_anew(connection)
    connection.execute(sightings.delete())
    return report


def _require_empty(connection: Connection) -> None:
    if connection.scalar(sa.select(entries.c.id).limit(1)) is not None:
        raise PreconditionFailed(
            "the catalog holds files or directories, and is rebuilt into an empty database only: `cdir rebuild` sees to"
            " that for the daemon of this machine; else point the catalog at a new database"
        )


# -- the files ---------------------------------------------------------------------------------------------------------


def _load(connection: Connection, files: Sequence[SnapshotFile]) -> None:
    """Take in a whole snapshot and its increment. The identity and the providers that are registered stay."""
    home_id = connection.execute(sa.select(identity.c.home_id)).scalar_one()
    registered = connection.execute(sa.select(providers).order_by(providers.c.id)).all()
    wipe(connection)
    base = ""
    for one in files:
        load_file(connection, one.file, one.name, base)
        base = one.name
    connection.execute(identity.delete())
    connection.execute(identity.insert().values(home_id=home_id))
    _keep_registered(connection, registered)


def _keep_registered(connection: Connection, registered: Sequence[Any]) -> None:
    """Give each registered provider the copies that the snapshot knows of it, under the id it has now.

    It is recognised by its id, else by kind and options (it was added anew), else by its name.
    """
    known = {row.id: row for row in connection.execute(sa.select(providers).order_by(providers.c.id))}
    matched: dict[int, Any] = {}
    for same in (_by_id, _by_root, _by_name):
        for row in registered:
            if row in matched.values():
                continue
            found = next((one for one in known.values() if one.id not in matched and same(row, one)), None)
            if found is not None:
                matched[found.id] = row
    names = {row.name for row in registered}
    for row_id, row in known.items():
        if row_id not in matched and row.name in names:
            aside = f"{row.name[:48]}-{row.provider_id[:8]}"
            record = provider_pb2.Provider.FromString(row.record)
            record.name = aside
            connection.execute(
                providers.update()
                .where(providers.c.id == row_id)
                .values(name=aside, record=record.SerializeToString(deterministic=True))
            )
    for row_id in matched:  # names are unique at every moment
        connection.execute(
            providers.update().where(providers.c.id == row_id).values(name=sa.literal("/") + providers.c.provider_id)
        )
    for row_id, row in matched.items():
        values = {name: value for name, value in row._asdict().items() if name != "id"}
        connection.execute(providers.update().where(providers.c.id == row_id).values(values))
    for row in registered:
        if row not in matched.values():
            values = {name: value for name, value in row._asdict().items() if name != "id"}
            connection.execute(providers.insert().values(values))


def _by_id(registered: Any, known: Any) -> bool:
    return bool(registered.provider_id == known.provider_id)


def _by_root(registered: Any, known: Any) -> bool:
    ours, theirs = (provider_pb2.Provider.FromString(row.record) for row in (registered, known))
    return ours.kind == theirs.kind and dict(ours.options) == dict(theirs.options)


def _by_name(registered: Any, known: Any) -> bool:
    return bool(registered.name == known.name)


def _forget_work(connection: Connection) -> None:
    """Forget leases, failures, and objects to be removed: what lies there now may be something else."""
    connection.execute(replicas.delete().where(replicas.c.version_id.is_(None)))
    connection.execute(
        replicas.update().values(
            lease_owner=None,
            lease_until=None,
            lease_kind=None,
            lease_key=None,
            attempts=0,
            error="",
            due_at=None,
            owed=0,
            absent_at=None,
            seen_size=None,
            seen_modified=None,
        )
    )


# -- what was removed since --------------------------------------------------------------------------------------------


def _is_aside(key: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    return sa.and_(key >= ASIDE_PREFIX, key < _ASIDE_END)


def _remove_set_aside(connection: Connection, listed: Listed, on_their_way: Container[int]) -> int:
    """Remove the files whose current content was found aside and nowhere under its name; they are restorable.

    An object is moved aside only when its file is replaced or removed, or a file that was renamed makes room: the
    contents ``on_their_way`` to a new name stay.
    """
    is_aside = _is_aside(replicas.c.key)
    of_version = replicas.c.version_id == versions.c.id
    query = (
        entries_with_content(*ENTRY_COLUMNS, entries.c.workspace_id)
        .where(
            live,
            versions.c.superseded_at.is_(None),
            sa.exists().where(of_version, is_aside, replicas.c.actual == OK),
            ~sa.exists().where(of_version, ~is_aside, replicas.c.actual.in_((OK, UNKNOWN))),
            ~sa.exists().where(of_version, replicas.c.provider_id.not_in(listed.rows)),
        )
        .order_by(versions.c.id)
        .limit(_PAGE)
    )
    removed = 0
    rows = connection.execute(query).all()
    while rows:
        gone = [row for row in rows if row.version_row not in on_their_way]
        for workspace_id in sorted({row.workspace_id for row in gone}):
            removed += _remove(connection, workspace_id, [row for row in gone if row.workspace_id == workspace_id])
        rows = connection.execute(query.where(versions.c.id > rows[-1].version_row)).all()
    return removed


def _remove(connection: Connection, workspace_id: int, rows: list[Any]) -> int:
    paths = {row.id: join_path(row.dirname, row.basename) for row in rows}
    # of one path the history of one removed file is kept
    taken = find_removed(connection, workspace_id, paths.values())
    placer = Placer(connection, workspace_id, paths.values())
    ledger = Ledger(connection, now_ns())
    gone = [row for row in rows if paths[row.id] not in taken]
    for row in gone:
        path = paths[row.id]
        supersede_file(ledger, row, path, placer)
        ledger.count_files(workspace_id, -1, -row.size)
        ledger.log(workspace_id, ChangeRow(entry_pb2.CHANGE_KIND_REMOVED, path, FILE, row.generation, AUTHOR))
    if gone:
        connection.execute(
            entries.update()
            .where(entries.c.id.in_([row.id for row in gone]))
            .values(removed_at=ledger.now, removed_by=AUTHOR)
        )
    ledger.settle()
    ledger.save()
    return len(gone)


# -- the end -----------------------------------------------------------------------------------------------------------


def _count_anew(connection: Connection) -> None:
    """Set every counter to what is there: those of the snapshot counted what it knew."""
    connection.execute(counters.delete())
    rows = connection.execute(
        sa.select(replicas.c.workspace_id, replicas.c.provider_id, *tally_columns())
        .select_from(replicas.join(versions, versions.c.id == replicas.c.version_id))
        .group_by(replicas.c.workspace_id, replicas.c.provider_id)
    ).all()
    names = ("workspace_id", "provider_id", *Contribution._fields)
    if rows:
        connection.execute(counters.insert(), [dict(zip(names, map(int, row), strict=True)) for row in rows])
    current = (
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(versions.c.size), 0))
        .select_from(entries.join(versions, versions.c.id == entries.c.version_id))
        .where(live, entries.c.kind == FILE)
    )
    for workspace_id in connection.scalars(sa.select(workspaces.c.id)).all():
        files, size = connection.execute(current.where(entries.c.workspace_id == workspace_id)).one()
        connection.execute(
            workspaces.update().where(workspaces.c.id == workspace_id).values(files=int(files), bytes=int(size))
        )


def _report(connection: Connection, taken: TakenIn, removed: int) -> pb.RebuildReport:
    def count(condition: sa.ColumnElement[bool], of: sa.FromClause) -> int:
        return connection.scalar(sa.select(sa.func.count()).select_from(of).where(condition)) or 0

    lost = sa.and_(
        live,
        entries.c.kind == FILE,
        ~sa.exists().where(replicas.c.version_id == entries.c.version_id, replicas.c.actual.in_((OK, UNKNOWN))),
    )
    files = count(sa.and_(live, entries.c.kind == FILE), entries)
    paths = connection.execute(
        sa.select(entries.c.dirname, entries.c.basename)
        .where(lost)
        .order_by(entries.c.dirname, entries.c.basename)
        .limit(_PATHS)
    )
    return pb.RebuildReport(
        files=files,
        known=files - taken.adopted,
        adopted=taken.adopted,
        older=count(versions.c.superseded_at.is_not(None), versions),
        removed=removed,
        without_copy=count(lost, entries),
        without_copy_paths=[join_path(dirname, basename) for dirname, basename in paths],
        ignored=taken.ignored,
        unexplained=count(sa.and_(_is_aside(sightings.c.key), sightings.c.version_id.is_(None)), sightings),
    )


def _take_up(connection: Connection, listed: Listed) -> None:
    """End the pauses that waited for this, and take the providers that were listed for being up."""
    waiting = providers.c.state_reason == AWAITS_REBUILD
    connection.execute(
        providers.update()
        .where(waiting)
        .values(paused=0, state=provider_pb2.PROVIDER_STATE_UNKNOWN, state_reason="not looked at yet")
    )
    connection.execute(
        providers.update()
        .where(providers.c.id.in_(listed.rows), providers.c.paused == 0)
        .values(state=provider_pb2.PROVIDER_STATE_UP, state_reason="", state_since=now_ns())
    )
