"""PlaceEntries: work a change of providers or policies into the files, a batch at a time."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.paths import join_path, split_path
from cdir.v1 import catalog_service_pb2
from cdir_catalog.clock import SECOND, now_ns
from cdir_catalog.schema import entries, placements, versions
from cdir_catalog.store.copies import OK, Content, Copy
from cdir_catalog.store.entries import live
from cdir_catalog.store.history_placing import hand_over_history
from cdir_catalog.store.ledger import Ledger
from cdir_catalog.store.listing import subtree_ranges
from cdir_catalog.store.locks import lock_workspaces
from cdir_catalog.store.policies import Placer
from cdir_catalog.store.retention import trim_versions
from cdir_catalog.wire import FILE

__all__ = ["place_contents", "place_entries"]

_LARGEST_BATCH = 2000

_OLDEST = sa.select(placements).order_by(placements.c.id).limit(1)


def place_entries(
    connection: Connection, request: catalog_service_pb2.PlaceEntriesRequest, _author: str
) -> catalog_service_pb2.PlaceEntriesResponse:
    """CatalogService.PlaceEntries."""
    limit = min(request.limit or 500, _LARGEST_BATCH)
    placed = 0
    job = connection.execute(_OLDEST).first()
    while job is not None and placed < limit:
        lock_workspaces(connection, [job.workspace_id])
        job = connection.execute(_OLDEST).first()
        if job is None:
            break
        placed += _advance(connection, job, limit - placed)
        job = connection.execute(_OLDEST).first()
    return catalog_service_pb2.PlaceEntriesResponse(placed=placed, remaining=job is not None)


def _advance(connection: Connection, job: Any, limit: int) -> int:
    """Do a part of one job; returns how many files were looked at."""
    rows = _files(connection, job, limit)
    mine = placements.c.id == job.id
    if rows:
        _place(connection, job.workspace_id, rows)
        last = rows[-1]
        connection.execute(
            placements.update().where(mine).values(after_dirname=last.dirname, after_basename=last.basename)
        )
    if len(rows) == limit:
        return limit
    if job.removed:
        connection.execute(placements.delete().where(mine))
    else:
        connection.execute(placements.update().where(mine).values(removed=1, after_dirname="", after_basename=""))
    return len(rows)


def _files(connection: Connection, job: Any, limit: int) -> list[Any]:
    """Return the next files of a job: the one at its path itself, then those below."""
    seen = entries.c.removed_at.is_not(None) if job.removed else live
    query = (
        sa.select(entries.c.id, entries.c.dirname, entries.c.basename, entries.c.version_id)
        .where(entries.c.workspace_id == job.workspace_id, seen, entries.c.kind == FILE)
        .order_by(entries.c.dirname, entries.c.basename)
    )
    after = (job.after_dirname, job.after_basename) if job.after_dirname else None
    if job.path != "/" and (after is None or after == split_path(job.path)):
        if after is None:
            dirname, basename = split_path(job.path)
            own = connection.execute(query.where(entries.c.dirname == dirname, entries.c.basename == basename)).all()
            if own:
                return list(own)
        after = None
    rows: list[Any] = []
    for condition in subtree_ranges(job.path, after):
        rows.extend(connection.execute(query.where(condition).limit(limit - len(rows))))
        if len(rows) == limit:
            break
    return rows


def _place(connection: Connection, workspace_id: int, rows: list[Any]) -> None:
    now = now_ns()
    paths = {row.id: join_path(row.dirname, row.basename) for row in rows}
    placer = Placer(connection, workspace_id, paths.values())
    ledger = Ledger(connection, now)
    ledger.load(row.version_id for row in rows if row.version_id is not None)
    # an ACL that came with a whole tree is owed by what is kept of its files as well
    ledger.load(
        connection.scalars(
            sa.select(versions.c.id)
            .join(entries, entries.c.id == versions.c.entry_id)
            .where(versions.c.entry_id.in_(paths.keys()), entries.c.acl.is_not(None))
        )
    )
    place_contents(ledger, placer)
    ledger.save()
    hand_over_history(connection, placer, paths, now)
    _keep_anew(connection, placer, paths, now)


def place_contents(ledger: Ledger, placer: Placer) -> None:
    """Say for every current content loaded which copies are wanted, and settle."""
    for content in ledger.contents.values():
        if content.current:
            _place_one(content, placer)
    ledger.settle()


def _place_one(content: Content, placer: Placer) -> None:
    holders = {copy.provider_id for copy in content.copies if copy.actual == OK}
    chosen = {candidate.id for candidate in placer.place(content.path, holders).chosen}
    if not chosen:
        return  # with no provider to hold it, what there is stays
    for copy in content.copies:
        copy.wanted = int(copy.provider_id in chosen)
    present = {copy.provider_id for copy in content.copies}
    for provider in sorted(chosen - present):
        content.copies.append(Copy(None, content.workspace_id, content.id, provider, content.natural_key))


def _keep_anew(connection: Connection, placer: Placer, paths: dict[int, str], now: int) -> None:
    """Apply the retention that holds now to the older contents of files."""
    older = connection.execute(
        sa.select(versions.c.id, versions.c.entry_id, versions.c.superseded_at, versions.c.expires_at).where(
            versions.c.entry_id.in_(paths.keys()), versions.c.expires_at.is_not(None)
        )
    ).all()
    if not older:
        return
    changed = []
    for row in older:
        expires = row.superseded_at + placer.policy(paths[row.entry_id]).keep_seconds * SECOND
        if expires != row.expires_at:
            changed.append({"row": row.id, "expires_at": expires})
    if changed:
        connection.execute(versions.update().where(versions.c.id == sa.bindparam("row")), changed)
    trim_versions(connection, {row.entry_id: placer.policy(paths[row.entry_id]).keep_versions for row in older}, now)
