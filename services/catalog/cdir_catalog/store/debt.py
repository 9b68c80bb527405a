"""ClaimDebt: lease copies that are not as they should be."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.v1 import catalog_service_pb2, provider_pb2
from cdir_catalog.clock import SECOND, now_ns
from cdir_catalog.schema import intents, providers, replicas, versions
from cdir_catalog.store.copies import CORRUPT, MISSING, NO_SOURCE, OK, UNKNOWN, Content, Copy, owe
from cdir_catalog.store.intents import check_batch, check_owner, lease_end
from cdir_catalog.store.ledger import COPY_COLUMNS, Ledger, copy_of
from cdir_catalog.store.occupancy import Occupancy, Occupied, occupant_message
from cdir_catalog.store.policies import Placer
from cdir_catalog.store.providers import RegisteredProvider, load_providers
from cdir_catalog.store.replica_messages import ReadOrder, replica_message
from cdir_catalog.wire import version_message

__all__ = ["OCCUPANT_LEASE", "claim_debt", "renew_debt"]

COPY = catalog_service_pb2.DEBT_KIND_COPY
RELOCATE = catalog_service_pb2.DEBT_KIND_RELOCATE
REMOVE = catalog_service_pb2.DEBT_KIND_REMOVE
INSPECT = catalog_service_pb2.DEBT_KIND_INSPECT
ACL = catalog_service_pb2.DEBT_KIND_ACL

OCCUPANT_LEASE = 100
"""The kind of lease on a copy that makes room for another one: not an item of its own."""

_DEFAULT_LIMIT = 100
_LARGEST_LIMIT = 1000
_DEFAULT_LEASE_SECONDS = 120.0
_PAGES = 4
_NO_SOURCE_SECONDS = 60
_BLOCKED_SECONDS = 0.25

_DOWN = provider_pb2.PROVIDER_STATE_DOWN


@dataclass(frozen=True, slots=True)
class Need:
    """What one copy needs, and at which key."""

    kind: catalog_service_pb2.DebtKind.ValueType
    key: str


def need_of(copy: Copy, content: Content | None) -> Need:
    """Return what is to be done about a copy that is owed."""
    if content is None or not copy.wanted:
        if copy.actual == UNKNOWN and copy.move_to is not None and content is not None:
            return Need(INSPECT, copy.key)  # it may be in one of two places: find it, then remove it
        return Need(REMOVE, copy.key)
    if copy.actual == UNKNOWN:
        return Need(INSPECT, copy.key)
    if copy.actual in {MISSING, CORRUPT}:
        return Need(COPY, content.desired_key)
    if copy.move_to is None and content.owes_acl(copy):
        return Need(ACL, copy.key)
    return Need(RELOCATE, copy.move_to or copy.key)


def claim_debt(
    connection: Connection, request: catalog_service_pb2.ClaimDebtRequest, _author: str
) -> catalog_service_pb2.ClaimDebtResponse:
    """CatalogService.ClaimDebt."""
    now = now_ns()
    owner = check_owner(request.owner)
    limit = min(request.limit or _DEFAULT_LIMIT, _LARGEST_LIMIT)
    until = lease_end(now, request.lease_seconds, _DEFAULT_LEASE_SECONDS)
    registered = load_providers(connection)
    eligible = [
        provider.id
        for provider in registered
        if provider.workable
        and provider.state != _DOWN
        and not provider.guard
        and provider.provider_id not in request.exclude_providers
    ]
    nearest = _nearest(connection, eligible)
    owing = [provider for provider in eligible if nearest.get(provider, now + 1) <= now]
    claiming = _Claiming(connection, registered, owner, now, until)
    offset = 0
    for _ in range(_PAGES if owing else 0):
        page = _due(connection, owing, now, limit, offset)
        claiming.take(page, limit)
        offset += len(page)
        if len(page) < limit or len(claiming.items) >= limit:
            break
    if claiming.save():
        nearest = _nearest(connection, eligible)
    response = catalog_service_pb2.ClaimDebtResponse(items=claiming.items)
    if nearest:
        next_due = max(0.0, (min(nearest.values()) - now) / SECOND)
        # what is due and was not claimed waits for another lease or for a writer to end
        response.next_due = next_due if len(claiming.items) >= limit else max(next_due, _BLOCKED_SECONDS)
    return response


def renew_debt(
    connection: Connection, request: catalog_service_pb2.RenewDebtRequest, _author: str
) -> catalog_service_pb2.RenewDebtResponse:
    """CatalogService.RenewDebt."""
    check_batch(request.debt_ids)
    now = now_ns()
    until = lease_end(now, request.lease_seconds, _DEFAULT_LEASE_SECONDS)
    mine = sa.and_(replicas.c.lease_owner == check_owner(request.owner), replicas.c.lease_until > now)
    held = connection.execute(
        sa.select(replicas.c.id, replicas.c.provider_id, replicas.c.lease_key)
        .where(replicas.c.id.in_(request.debt_ids), mine, replicas.c.lease_kind != OCCUPANT_LEASE)
        .with_for_update()
    ).all()
    making_room = connection.execute(
        sa.select(replicas.c.id, replicas.c.provider_id, replicas.c.lease_key)
        .where(replicas.c.lease_key.in_({row.lease_key for row in held}), mine, replicas.c.lease_kind == OCCUPANT_LEASE)
        .with_for_update()
    ).all()
    places = {(row.provider_id, row.lease_key) for row in held}
    renewed = [row.id for row in held]
    renewed += [row.id for row in making_room if (row.provider_id, row.lease_key) in places]
    connection.execute(
        replicas.update()
        .where(replicas.c.id.in_(renewed))
        .values(lease_until=until, due_at=sa.case((replicas.c.due_at.is_not(None), until), else_=None))
    )
    lost = set(request.debt_ids).difference(row.id for row in held)
    return catalog_service_pb2.RenewDebtResponse(lost=sorted(lost))


_DUE = (
    sa.select(*COPY_COLUMNS)
    .where(
        replicas.c.provider_id == sa.bindparam("provider"),
        replicas.c.due_at <= sa.bindparam("now", type_=sa.BigInteger()),
    )
    .order_by(replicas.c.due_at, replicas.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer()))
    .with_for_update(skip_locked=True)
)
_NEAREST = sa.select(
    providers.c.id,
    sa.select(sa.func.min(replicas.c.due_at))
    .where(replicas.c.provider_id == providers.c.id, replicas.c.due_at.is_not(None))
    .scalar_subquery(),
).where(providers.c.id.in_(sa.bindparam("eligible", expanding=True)))
_CHANGE = replicas.update().where(replicas.c.id == sa.bindparam("row"))
_WRITTEN = sa.select(intents.c.key).where(intents.c.key.in_(sa.bindparam("keys", expanding=True)))
_VERSIONS = sa.select(versions).where(versions.c.id.in_(sa.bindparam("chosen", expanding=True)))


def _due(connection: Connection, eligible: Sequence[int], now: int, limit: int, offset: int) -> list[Copy]:
    """Return copies that are due, oldest first.

    Each provider is a range of the index, so that the debt of one that is down is never walked over.
    """
    found = []
    for provider in eligible:
        rows = connection.execute(_DUE, {"provider": provider, "now": now, "most": offset + limit})
        found.append([copy_of(row) for row in rows])
    merged = heapq.merge(*found, key=lambda copy: (copy.due_at, copy.id))
    return list(merged)[offset : offset + limit]


def _nearest(connection: Connection, eligible: Sequence[int]) -> dict[int, int]:
    """Return when what is owed at each provider becomes due first; those that owe nothing are left out."""
    return {provider: due for provider, due in connection.execute(_NEAREST, {"eligible": eligible}) if due is not None}


class _Claiming:
    """Turns due copies into leased items."""

    def __init__(
        self, connection: Connection, providers: list[RegisteredProvider], owner: str, now: int, until: int
    ) -> None:
        self._connection = connection
        self._providers = {provider.id: provider for provider in providers}
        self._registered = providers
        self._owner, self._now, self._until = owner, now, until
        self._taken: set[int] = set()
        self._keys: set[tuple[int, str]] = set()
        self._placers: dict[int, Placer] = {}
        self._leases: list[dict[str, Any]] = []
        self._put_off: list[dict[str, Any]] = []
        self._bogus: list[Copy] = []
        self._abandoned: list[Copy] = []
        self._astray: list[Copy] = []
        self.items: list[catalog_service_pb2.DebtItem] = []

    def take(self, page: Sequence[Copy], limit: int) -> None:
        """Lease what can be worked on now, up to ``limit`` items."""
        if not page:
            return
        ledger = Ledger(self._connection, self._now)
        ledger.load((copy.version_id for copy in page if copy.version_id is not None), lock=False)
        needs = {
            copy.id: need_of(copy, None if copy.version_id is None else ledger.contents.get(copy.version_id))
            for copy in page
        }
        keys = {need.key for need in needs.values()} | {copy.key for copy in page}
        natural = {content.natural_key for content in ledger.contents.values()}
        writing = set(self._connection.scalars(_WRITTEN, {"keys": sorted(keys | natural)}))
        free = []
        for copy in page:
            content = None if copy.version_id is None else ledger.contents[copy.version_id]
            need = needs[copy.id]
            spots = {copy.key, need.key, *([] if content is None else [content.natural_key])}
            if not spots & writing:
                free.append((copy, content, need))
        if not free:
            return
        occupancy = Occupancy(self._connection, keys, self._now)
        self._load_versions(ledger.contents)
        self._load_placers(ledger.contents)
        for copy, content, need in free:
            if len(self.items) >= limit:
                return
            self._claim(copy, content, need, occupancy)

    def _load_versions(self, contents: dict[int, Content]) -> None:
        rows = self._connection.execute(_VERSIONS, {"chosen": list(contents)})
        self._versions = {row.id: version_message(row) for row in rows}

    def _load_placers(self, contents: dict[int, Content]) -> None:
        paths: dict[int, list[str]] = {}
        for content in contents.values():
            paths.setdefault(content.workspace_id, []).append(content.path)
        for workspace_id, found in paths.items():
            self._placers[workspace_id] = Placer(self._connection, workspace_id, found, self._registered)

    def _claim(self, copy: Copy, content: Content | None, need: Need, occupancy: Occupancy) -> None:
        assert copy.id is not None
        provider = copy.provider_id
        if copy.astray(self._now) and copy.lease_key != need.key:
            self._astray.append(copy)
            self._taken.add(copy.id)
            return
        spots = {(provider, copy.key), (provider, need.key)}
        if copy.id in self._taken or spots & self._keys:
            return
        there = (one.copy for _, key in spots for one in occupancy.at(provider, key))
        in_the_way = [one for one in there if one.id != copy.id and one.id not in self._taken and one.astray(self._now)]
        if in_the_way:
            self._astray += in_the_way
            self._taken.update(one.id for one in in_the_way if one.id is not None)
        if any(occupancy.busy(provider, key, ignoring=copy.id) for _, key in spots) and need.kind != INSPECT:
            return
        others = [one for one in occupancy.at(provider, need.key) if one.copy.id != copy.id]
        if need.kind == REMOVE and any(one.version is not None or content is not None for one in others):
            self._bogus.append(copy)  # what is there belongs to another content: this row explains nothing
            self._taken.add(copy.id)
            return
        occupant = next((one for one in others if one.version is not None), None)
        if need.kind in {REMOVE, INSPECT, ACL}:
            occupant = None
        if occupant is not None and (occupant.copy.id in self._taken or occupant.copy.leased(self._now)):
            return
        sources: list[Copy] = []
        if need.kind == COPY:
            assert content is not None
            sources = self._sources(copy, content)
            if not sources:
                return
        if copy.lease_kind == COPY and copy.lease_key not in {None, copy.key, need.key}:
            self._abandoned.append(copy)
        self._lease(copy, need.kind, need.key)
        self._keys |= spots
        if occupant is not None:
            self._lease(occupant.copy, OCCUPANT_LEASE, need.key)
        self.items.append(self._item(copy, content, need, occupant, sources))

    def _sources(self, copy: Copy, content: Content) -> list[Copy]:
        """Return good copies to read from; puts the copy off when there is none."""
        good = [one for one in content.copies if one.actual == OK and one.id != copy.id]
        policy = self._placers[content.workspace_id].policy(content.path)
        found = [
            one
            for one in ReadOrder(self._providers, policy.prefer).readable(good)
            if self._providers[one.provider_id].state != _DOWN
        ]
        if not found:
            doubtful = [one for one in content.copies if one.actual == UNKNOWN and one.id != copy.id]
            names = ", ".join(sorted(self._providers[one.provider_id].name for one in good or doubtful))
            if good:
                error = f"{NO_SOURCE} can be read at the moment: {names} is down or paused"
            elif doubtful:
                error = f"{NO_SOURCE} is known of until what lies at {names} is looked at"
            else:
                error = f"{NO_SOURCE} is left at any provider; write the file again or restore an older version"
            assert copy.id is not None
            self._taken.add(copy.id)
            self._put_off.append({"row": copy.id, "due_at": self._now + _NO_SOURCE_SECONDS * SECOND, "error": error})
        return found

    def _lease(self, copy: Copy, kind: int, key: str) -> None:
        assert copy.id is not None
        self._taken.add(copy.id)
        self._leases.append(
            {
                "row": copy.id,
                "lease_owner": self._owner,
                "lease_until": self._until,
                "lease_kind": kind,
                "lease_key": key,
                "due_at": self._until if copy.due_at is not None else None,
            }
        )

    def _item(
        self, copy: Copy, content: Content | None, need: Need, occupant: Occupied | None, sources: list[Copy]
    ) -> catalog_service_pb2.DebtItem:
        assert copy.id is not None
        version_id = None if content is None else content.version_id
        item = catalog_service_pb2.DebtItem(
            debt_id=copy.id,
            kind=need.kind,
            workspace="" if content is None else content.workspace,
            path="" if content is None else content.path,
            replica=replica_message(copy, version_id, self._providers[copy.provider_id], self._now),
            target_key=need.key,
            sources=[replica_message(one, version_id, self._providers[one.provider_id], self._now) for one in sources],
        )
        if content is not None:
            item.version.CopyFrom(self._versions[content.id])
        if content is not None and need.kind in {COPY, ACL} and (acl := content.wanted_acl) is not None:
            item.acl.MergeFromString(acl)
        if occupant is not None:
            item.occupant.CopyFrom(occupant_message(occupant))
        return item

    def save(self) -> bool:
        """Write the leases, and what else was seen; returns whether that was anything."""
        if self._leases:
            self._connection.execute(_CHANGE, self._leases)
        if self._put_off:
            self._connection.execute(_CHANGE, self._put_off)
        if self._abandoned:
            # a worker that is gone was writing to a key that is no longer this copy's
            ledger = Ledger(self._connection, self._now)
            for copy in self._abandoned:
                assert copy.lease_key is not None
                ledger.add_leftover(copy.workspace_id, copy.provider_id, copy.lease_key)
            ledger.save()
        if self._astray:
            look_for_rows(self._connection, self._astray, self._now)
        if self._bogus:
            forget_rows(self._connection, self._bogus, self._now)
        # what was abandoned is leased anew
        return bool(self._leases or self._put_off or self._astray or self._bogus)


def look_for_rows(connection: Connection, copies: Sequence[Copy], now: int) -> None:
    """Have copies looked for that a worker who is gone may have renamed to where they no longer belong."""
    ledger = Ledger(connection, now)
    ledger.load(copy.version_id for copy in copies if copy.version_id is not None)
    ids = {copy.id for copy in copies}
    for content in ledger.contents.values():
        for copy in content.copies:
            if copy.id in ids:
                copy.look_for()
                owe(copy, True, now)
                copy.due_at = now
    ledger.save()


def forget_rows(connection: Connection, copies: Sequence[Copy], now: int) -> None:
    """Delete rows that explain no object, with what follows from it."""
    ledger = Ledger(connection, now)
    ledger.load(copy.version_id for copy in copies if copy.version_id is not None)
    ids = {copy.id for copy in copies}
    for content in ledger.contents.values():
        for copy in content.copies:
            copy.gone = copy.gone or copy.id in ids
    for copy in copies:
        if copy.version_id is None:
            ledger.add_leftover_row(copy).gone = True
    ledger.settle()
    ledger.save()
