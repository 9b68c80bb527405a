"""Intents: their leases, giving them up, and what that leaves behind."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import InvalidArgument
from cdir.v1 import catalog_service_pb2
from cdir_catalog.clock import SECOND, now_ns
from cdir_catalog.keys import aside_key
from cdir_catalog.schema import intents, replicas, scans, versions, workspaces
from cdir_catalog.store.copies import MISSING, UNKNOWN, Content, Copy, owe
from cdir_catalog.store.entries import find_entries
from cdir_catalog.store.ledger import Ledger
from cdir_catalog.store.locks import lock_workspaces
from cdir_catalog.store.occupancy import Occupancy
from cdir_catalog.store.providers import RegisteredProvider, load_providers
from cdir_catalog.wire import timestamp

__all__ = [
    "abort_writes",
    "check_batch",
    "check_owner",
    "claim_lapsed_writes",
    "lease_end",
    "release_owner",
    "renew_writes",
    "target_ids",
    "targets_text",
    "undo",
]

_DEFAULT_LEASE_SECONDS = 60.0
_MAX_BATCH = 1000


def check_owner(owner: str) -> str:
    """Return ``owner``, which must not be empty."""
    if not owner:
        raise InvalidArgument("the owner is empty; name the process that holds the lease")
    return owner


def check_batch(items: Collection[Any]) -> None:
    """Refuse more items than a call may carry."""
    if len(items) > _MAX_BATCH:
        raise InvalidArgument(f"{len(items)} items in one call; {_MAX_BATCH} are the most")


def lease_end(now: int, seconds: float, default: float = _DEFAULT_LEASE_SECONDS) -> int:
    """Return when a lease of ``seconds`` (0 means ``default``) ends."""
    if seconds < 0:
        raise InvalidArgument("lease_seconds cannot be negative")
    return now + int((seconds or default) * SECOND)


@functools.lru_cache(maxsize=256)
def targets_text(ids: tuple[int, ...]) -> str:
    """Return what the column ``targets`` holds for these row ids of providers: the same for most writes."""
    return json.dumps(ids)


def target_ids(intent: Any) -> list[int]:
    """Return the row ids of the providers an intent may write to."""
    ids: list[int] = json.loads(intent.targets)
    return ids


def undo(ledger: Ledger, abandoned: Sequence[tuple[Any, Collection[int]]]) -> None:
    """Delete intents, given with the row ids of the providers they may have written to, and clean up after them.

    Bytes they may have left become leftovers. A copy recorded at the key may have been moved aside already by the
    writer: it is looked at, in both places, before anything is concluded. Copies moved aside for certain go back.
    """
    connection = ledger.connection
    there = ledger.load_keys(intent.key for intent, _ in abandoned)
    by_workspace: dict[int, list[str]] = {}
    for intent, _ in abandoned:
        by_workspace.setdefault(intent.workspace_id, []).append(intent.path)
    for workspace_id, paths in by_workspace.items():
        found = find_entries(connection, workspace_id, paths)
        ledger.load(row.version_row for row in found.values() if row.version_row is not None)
    ledger.settle()
    for intent, touched in abandoned:
        for provider in touched:
            _undo_at(ledger, intent, provider, there.get((provider, intent.key), []))
    connection.execute(intents.delete().where(intents.c.version_id.in_([intent.version_id for intent, _ in abandoned])))


def _undo_at(ledger: Ledger, intent: Any, provider: int, there: list[tuple[Copy, Content | None]]) -> None:
    explained = False
    for copy, content in there:
        if copy.gone or copy.actual == MISSING:
            continue
        explained = True
        if content is not None and not (copy.actual == UNKNOWN and copy.move_to is not None):
            copy.mark_displaced(aside_key(content.version_id))
            owe(copy, True, ledger.now)
    if not explained:
        ledger.add_leftover(intent.workspace_id, provider, intent.key)


def abort_writes(
    connection: Connection, request: catalog_service_pb2.AbortWritesRequest, _author: str
) -> catalog_service_pb2.AbortWritesResponse:
    """CatalogService.AbortWrites."""
    check_batch(request.aborts)
    now = now_ns()
    ids = {abort.version_id for abort in request.aborts}
    query = sa.select(intents).where(intents.c.version_id.in_(ids))
    found = connection.execute(query).all()
    if not found:
        return catalog_service_pb2.AbortWritesResponse()
    lock_workspaces(connection, {row.workspace_id for row in found})
    present = {row.version_id: row for row in connection.execute(query)}
    row_ids = {provider.provider_id: provider.id for provider in load_providers(connection)}
    abandoned = {
        abort.version_id: (
            present[abort.version_id],
            {row_ids[provider] for provider in abort.touched if provider in row_ids},
        )
        for abort in request.aborts
        if abort.version_id in present
    }
    ledger = Ledger(connection, now)
    undo(ledger, list(abandoned.values()))
    ledger.save()
    return catalog_service_pb2.AbortWritesResponse()


_UNTIL: sa.BindParameter[int] = sa.bindparam("until", type_=sa.BigInteger())
_RENEW_INTENTS = intents.update().where(intents.c.owner == sa.bindparam("holder")).values(lease_until=_UNTIL)
_RENEW_COPIES = (
    replicas.update()
    .where(
        replicas.c.lease_owner == sa.bindparam("holder"),
        replicas.c.lease_kind == catalog_service_pb2.DEBT_KIND_COPY,
        replicas.c.version_id.in_(
            sa.select(versions.c.id).where(versions.c.version_id.in_(sa.bindparam("late", expanding=True)))
        ),
    )
    .values(lease_until=_UNTIL, due_at=sa.case((replicas.c.due_at.is_not(None), _UNTIL), else_=None))
)


def renew_writes(
    connection: Connection, request: catalog_service_pb2.RenewWritesRequest, _author: str
) -> catalog_service_pb2.RenewWritesResponse:
    """CatalogService.RenewWrites."""
    check_batch(request.late)
    values = {"until": lease_end(now_ns(), request.lease_seconds), "holder": check_owner(request.owner)}
    connection.execute(_RENEW_INTENTS, values)
    if request.late:
        connection.execute(_RENEW_COPIES, {**values, "late": list(request.late)})
    return catalog_service_pb2.RenewWritesResponse()


@functools.cache
def _releases(*, of_one: bool) -> list[sa.Update]:
    """Return what ends the leases of one owner, or of all."""
    at = sa.bindparam("at", type_=sa.BigInteger())
    held: list[sa.Update] = []
    for table, owner in ((scans, scans.c.lease_owner), (intents, intents.c.owner), (replicas, replicas.c.lease_owner)):
        mine = owner == sa.bindparam("holder") if of_one else owner.is_not(None)
        held.append(table.update().where(mine, table.c.lease_until > at).values(lease_until=at))
    *others, copies = held
    # the rest of the lease stays: whoever takes the copy next must know at which key the last one worked
    return [*others, copies.values(due_at=sa.case((replicas.c.due_at.is_not(None), at), else_=None))]


def release_owner(
    connection: Connection, request: catalog_service_pb2.ReleaseOwnerRequest, _author: str
) -> catalog_service_pb2.ReleaseOwnerResponse:
    """CatalogService.ReleaseOwner."""
    now = now_ns()
    values = {"at": now, "holder": request.owner}
    for statement in _releases(of_one=bool(request.owner)):
        connection.execute(statement, values)
    return catalog_service_pb2.ReleaseOwnerResponse()


_LAPSED = (
    sa.select(intents, workspaces.c.name.label("workspace"))
    .join(workspaces, workspaces.c.id == intents.c.workspace_id)
    .where(intents.c.lease_until <= sa.bindparam("now"))
    .order_by(intents.c.lease_until, intents.c.version_id)
    .limit(sa.bindparam("most", type_=sa.Integer()))
    .with_for_update(skip_locked=True, of=intents)
)


def claim_lapsed_writes(
    connection: Connection, request: catalog_service_pb2.ClaimLapsedWritesRequest, _author: str
) -> catalog_service_pb2.ClaimLapsedWritesResponse:
    """CatalogService.ClaimLapsedWrites."""
    now = now_ns()
    owner = check_owner(request.owner)
    until = lease_end(now, request.lease_seconds)
    limit = min(request.limit or 100, _MAX_BATCH)
    rows = connection.execute(_LAPSED, {"now": now, "most": limit}).all()
    if not rows:
        return catalog_service_pb2.ClaimLapsedWritesResponse()
    connection.execute(
        intents.update()
        .where(intents.c.version_id.in_([row.version_id for row in rows]))
        .values(owner=owner, lease_until=until)
    )
    providers = {provider.id: provider for provider in load_providers(connection)}
    occupancy = Occupancy(connection, [row.key for row in rows], now)
    return catalog_service_pb2.ClaimLapsedWritesResponse(writes=[_lapsed(row, providers, occupancy) for row in rows])


def _lapsed(
    row: Any, providers: dict[int, RegisteredProvider], occupancy: Occupancy
) -> catalog_service_pb2.LapsedWrite:
    intent = catalog_service_pb2.WriteIntent(
        workspace=row.workspace,
        path=row.path,
        base_generation=row.base_generation,
        size=row.size,
        sha256=row.sha256,
        modified=timestamp(row.modified_at),
        conflict_of=row.conflict_of,
    )
    return catalog_service_pb2.LapsedWrite(
        version_id=row.version_id,
        intent=intent,
        generation=row.generation,
        min_copies=row.min_copies,
        targets=[
            occupancy.target(providers[provider], row.key) for provider in target_ids(row) if provider in providers
        ],
    )
