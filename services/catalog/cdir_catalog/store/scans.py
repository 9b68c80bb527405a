"""When which part of which provider is listed: the whole of each again and again, busy directories often."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import NotFound
from cdir.paths import key_of, split_path
from cdir.v1 import provider_pb2, scan_pb2
from cdir_catalog.clock import SECOND, now_ns
from cdir_catalog.schema import replicas, scans
from cdir_catalog.store.entries import check_path, entry_row
from cdir_catalog.store.intents import check_owner, lease_end
from cdir_catalog.store.losses import BATCH, conclude, end_acceptance, guard, is_missed
from cdir_catalog.store.providers import RegisteredProvider, load_providers
from cdir_catalog.store.vacancies import prune_vacancies
from cdir_catalog.store.workspaces import find_workspace
from cdir_catalog.wire import DIRECTORY, timestamp

__all__ = ["claim_scan", "finish_scan", "leased_scan", "make_scan_due", "read_scans", "renew_scan", "warm"]

_FIRST = 60 * SECOND
"""How long after it was registered a provider is first listed as a whole, unless somebody asks."""

_BUSY = 30 * SECOND
_WHOLE = 600 * SECOND
_SELDOM = 24 * 3600 * SECOND
"""Intervals: of a directory in which something happened, of a whole provider in which something did, the longest."""

_ASKED = 0
"""The interval of what somebody asked for: it goes before what is only due, until a pass has answered it."""

_MOST_BUSY = 200
"""At most so many parts of one provider are looked at for themselves."""

_LEASE_SECONDS = 120.0

_ANSWERING = {provider_pb2.PROVIDER_STATE_UP, provider_pb2.PROVIDER_STATE_SLOW}


def _insert(connection: Connection, provider: int, prefix: str, recursive: bool, due: int, interval: int) -> None:
    connection.execute(
        scans.insert().values(
            provider_id=provider,
            prefix=prefix,
            recursive=int(recursive),
            due_at=due,
            interval=interval,
            cursor="",
            passes=0,
            under_way=0,
            counts=b"",
            error="",
        )
    )


_PART = (
    sa.select(scans)
    .where(
        scans.c.provider_id == sa.bindparam("provider"),
        scans.c.prefix == sa.bindparam("part"),
        scans.c.recursive == sa.bindparam("whether_recursive"),
    )
    .with_for_update()
)


def _find(connection: Connection, provider: int, prefix: str, recursive: bool) -> Any | None:
    return connection.execute(
        _PART, {"provider": provider, "part": prefix, "whether_recursive": int(recursive)}
    ).first()


def _message(row: Any, provider: RegisteredProvider, now: int) -> scan_pb2.Scan:
    return scan_pb2.Scan(
        scan_id=row.id,
        provider_id=provider.provider_id,
        provider=provider.name,
        provider_revision=provider.revision,
        prefix=row.prefix,
        recursive=bool(row.recursive),
        cursor=row.cursor,
        as_of=timestamp(now),
        passes=row.passes,
        counts=scan_pb2.ScanCounts.FromString(row.counts),
        due=timestamp(row.due_at),
        running=row.lease_until is not None and row.lease_until > now,
        error=row.error,
    )


_WHOLES = sa.select(scans.c.provider_id).where(scans.c.prefix == "", scans.c.recursive == 1)
_ONE = sa.select(scans).where(scans.c.id == sa.bindparam("scan")).with_for_update()
_HOLD = (
    scans.update()
    .where(scans.c.id == sa.bindparam("scan"))
    .values(lease_until=sa.bindparam("until"), counts=sa.bindparam("total"))
)
_CHANGE = scans.update().where(scans.c.id == sa.bindparam("scan")).returning(*scans.c)
"""Sets the columns that are given."""
_MINE = scans.c.provider_id.in_(sa.bindparam("eligible", expanding=True))
_now = sa.bindparam("now", type_=sa.BigInteger())
_NEXT_TO_CLAIM = (
    sa.select(scans)
    .where(
        _MINE,
        sa.or_(scans.c.lease_until.is_(None), scans.c.lease_until <= _now),
        # a lapsed lease is a pass that somebody has to go on with
        sa.or_(scans.c.due_at <= _now, scans.c.lease_until.is_not(None)),
    )
    .order_by(scans.c.interval != _ASKED, scans.c.due_at, scans.c.id)
    .limit(1)
    .with_for_update(skip_locked=True)
)
# what somebody works on may be dropped by them, and then has to be gone on with
_NEXT_DUE = sa.select(sa.func.min(sa.func.coalesce(scans.c.lease_until, scans.c.due_at))).where(_MINE)


def claim_scan(connection: Connection, request: scan_pb2.ClaimScanRequest, _author: str) -> scan_pb2.ClaimScanResponse:
    """CatalogService.ClaimScan."""
    now = now_ns()
    owner = check_owner(request.owner)
    until = lease_end(now, request.lease_seconds, _LEASE_SECONDS)
    registered = load_providers(connection)
    whole = set(connection.scalars(_WHOLES))
    for provider in registered:
        if provider.id not in whole:
            _insert(connection, provider.id, "", True, now + _FIRST, _WHOLE)
    eligible = {
        provider.id: provider
        for provider in registered
        # one whose guard holds answers; only a scan can tell that what was missing is there again
        if (provider.state in _ANSWERING or (provider.guard and not provider.paused and provider.answers))
        and provider.provider_id not in request.exclude_providers
    }
    row = connection.execute(_NEXT_TO_CLAIM, {"eligible": list(eligible), "now": now}).first()
    if row is None:
        next_at = connection.scalar(_NEXT_DUE, {"eligible": list(eligible)})
        return scan_pb2.ClaimScanResponse(next_due=None if next_at is None else max(0.0, (next_at - now) / SECOND))
    values: dict[str, Any] = {"lease_owner": owner, "lease_until": until}
    # whoever makes it due while it is leased wants another pass; so did who made one due whose lease has lapsed since
    if row.due_at <= now and row.lease_until is None:
        values["due_at"] = now + _SELDOM
    if not row.under_way:
        values.update(under_way=1, counts=b"", error="", cursor="")
    claimed = connection.execute(_CHANGE, {"scan": row.id, **values}).one()
    return scan_pb2.ClaimScanResponse(scan=_message(claimed, eligible[row.provider_id], now))


def leased_scan(connection: Connection, scan_id: int, owner: str) -> Any | None:
    """Return the row of a scan, locked; ``None`` when the owner's lease is lost."""
    row = connection.execute(_ONE, {"scan": scan_id}).first()
    return row if row is not None and row.lease_owner is not None and row.lease_owner == owner else None


def renew_scan(connection: Connection, row: Any, counts: scan_pb2.ScanCounts | None = None) -> None:
    """Renew the lease of a scan that :func:`leased_scan` gave, and add to its counts."""
    total = row.counts if counts is None else _sum(row.counts, counts)
    until = max(row.lease_until, lease_end(now_ns(), _LEASE_SECONDS))
    connection.execute(_HOLD, {"scan": row.id, "until": until, "total": total})


def _sum(stored: bytes, counts: scan_pb2.ScanCounts) -> bytes:
    total = scan_pb2.ScanCounts.FromString(stored)
    for name in total.DESCRIPTOR.fields_by_name:
        setattr(total, name, getattr(total, name) + getattr(counts, name))
    return total.SerializeToString()


def warm(connection: Connection, provider: int, directories: Iterable[str], now: int) -> None:
    """Have directories in which something happened looked at often.

    They are few: where much happens at once, as when a large tree is adopted, the scans of the whole have to do.
    """
    wanted = sorted(set(directories))
    if not wanted:
        return
    query = sa.select(sa.func.count()).select_from(scans).where(scans.c.provider_id == provider)
    room = _MOST_BUSY - (connection.scalar(query) or 0)
    for directory in wanted[:_MOST_BUSY]:
        row = _find(connection, provider, directory, recursive=False)
        if row is not None:
            due = min(row.due_at, now + _BUSY)
            connection.execute(_CHANGE, {"scan": row.id, "interval": min(row.interval, _BUSY), "due_at": due})
        elif room > 0:
            room -= 1
            _insert(connection, provider, directory, False, now + _BUSY, _BUSY)


def finish_scan(
    connection: Connection, request: scan_pb2.FinishScanRequest, _author: str
) -> scan_pb2.FinishScanResponse:
    """CatalogService.FinishScan."""
    now = now_ns()
    row = leased_scan(connection, request.scan_id, request.owner)
    provider = {one.id: one for one in load_providers(connection)}.get(row.provider_id) if row is not None else None
    if row is None or provider is None:
        return scan_pb2.FinishScanResponse()
    refused = ""
    if request.complete:
        refused = guard(connection, provider)
        if not refused:
            missed = _missed_within(connection, row)
            if len(missed) > BATCH:
                conclude(connection, provider, missed[:BATCH])
                renew_scan(connection, row)
                return scan_pb2.FinishScanResponse(remaining=True)
            conclude(connection, provider, missed)
            if row.prefix == "" and row.recursive:
                end_acceptance(connection, provider)
        prune_vacancies(connection, now)
    values: dict[str, Any] = {"lease_owner": None, "lease_until": None}
    values |= _ended(row, now, refused=bool(refused)) if request.complete else _interrupted(row, request, now)
    ended = connection.execute(_CHANGE, {"scan": row.id, **values}).one()
    if ended.interval >= _SELDOM and not _is_whole(row):
        connection.execute(scans.delete().where(scans.c.id == row.id))  # the whole is looked at as often
    return scan_pb2.FinishScanResponse(refused=refused, scan=_message(ended, provider, now))


def _is_whole(row: Any) -> bool:
    return row.prefix == "" and bool(row.recursive)


def _ended(row: Any, now: int, *, refused: bool) -> dict[str, Any]:
    counts = scan_pb2.ScanCounts.FromString(row.counts)
    shortest = _WHOLE if _is_whole(row) else _BUSY
    if counts.adopted or counts.changed or counts.put_back or counts.missing or counts.suspected:
        interval = shortest
    else:
        interval = min(_SELDOM, max(shortest, row.interval * 2))
    # what could not be judged, or must not be believed yet, is looked at soon
    due = now + (_BUSY if refused or counts.postponed else interval)
    if row.due_at <= now:
        interval, due = row.interval, row.due_at  # somebody has asked for another pass meanwhile
    return {"interval": interval, "due_at": due, "passes": row.passes + 1, "under_way": 0, "cursor": "", "error": ""}


def _interrupted(row: Any, request: scan_pb2.FinishScanRequest, now: int) -> dict[str, Any]:
    values: dict[str, Any] = {"cursor": request.cursor, "error": request.error}
    if row.due_at <= now:
        # somebody has asked for another pass meanwhile: a lapsed lease says that this one is not what they asked for
        return values | {"lease_until": now}
    due = min(row.due_at, now + int(max(0.0, request.retry_seconds) * SECOND))
    return values | {"due_at": due}


_MISSED = (
    sa.select(replicas.c.version_id, replicas.c.key)
    .where(replicas.c.provider_id == sa.bindparam("provider"), is_missed, replicas.c.key > sa.bindparam("after"))
    .order_by(replicas.c.key, replicas.c.id)
    .limit(BATCH)
)
_MISSED_WITHIN = _MISSED.where(replicas.c.key < sa.bindparam("until"))


def _missed_within(connection: Connection, row: Any) -> list[int]:
    """Return the versions whose copies the scan has missed, one more than a batch at most."""
    begin = f"{row.prefix}/" if row.prefix else ""
    query = _MISSED_WITHIN if row.prefix else _MISSED
    found: list[int] = []
    after = begin
    while len(found) <= BATCH:
        page = connection.execute(query, {"provider": row.provider_id, "after": after, "until": f"{row.prefix}0"}).all()
        found += [one.version_id for one in page if row.recursive or "/" not in one.key[len(begin) :]]
        if len(page) < BATCH:
            break
        after = page[-1].key
    return found[: BATCH + 1]


def make_scan_due(
    connection: Connection, request: scan_pb2.MakeScanDueRequest, _author: str
) -> scan_pb2.MakeScanDueResponse:
    """CatalogService.MakeScanDue."""
    now = now_ns()
    path = check_path(request.path)
    registered = load_providers(connection)
    chosen = [one for one in registered if one.name == request.provider or (not request.provider and not one.paused)]
    if request.provider and not chosen:
        raise NotFound(f"there is no provider {request.provider!r}", provider=request.provider)
    parts = _parts(connection, request.workspace, path)
    found = []
    for provider in chosen:
        for prefix, recursive in parts:
            row = _find(connection, provider.id, prefix, recursive)
            if row is None:
                _insert(connection, provider.id, prefix, recursive, now, _BUSY if prefix else _WHOLE)
                row = _find(connection, provider.id, prefix, recursive)
            assert row is not None
            values: dict[str, Any] = {"due_at": now, "interval": _ASKED}
            held = row.lease_until is not None and row.lease_until > now
            if row.under_way and not held:
                # nobody is at the pass that was broken off: begun anew, it answers the request
                values.update(under_way=0, cursor="", lease_owner=None, lease_until=None)
            row = connection.execute(_CHANGE, {"scan": row.id, **values}).one()
            message = _message(row, provider, now)
            # a pass under way began before the request, and does not answer it
            message.passes += row.under_way
            found.append(message)
    return scan_pb2.MakeScanDueResponse(scans=found)


def _parts(connection: Connection, workspace: str, path: str) -> list[tuple[str, bool]]:
    """Return which parts of a provider to look at for a path: (prefix, recursive)."""
    own = key_of(workspace, path).removesuffix("/")
    if path == "/":
        return [(own, True)]
    row = entry_row(connection, find_workspace(connection, workspace), path)
    beside = (key_of(workspace, split_path(path)[0]).removesuffix("/"), False)
    if row is None:
        return [beside, (own, True)]  # others may have made it a file or a directory
    return [(own, True)] if row.kind == DIRECTORY else [beside]


_IN_ORDER = sa.select(scans).order_by(scans.c.provider_id, scans.c.prefix, scans.c.recursive)
_NAMED = _IN_ORDER.where(scans.c.id.in_(sa.bindparam("ids", expanding=True)))


def read_scans(connection: Connection, request: scan_pb2.ReadScansRequest) -> scan_pb2.ReadScansResponse:
    """CatalogService.ReadScans."""
    now = now_ns()
    registered = {provider.id: provider for provider in load_providers(connection)}
    rows = connection.execute(_NAMED if request.scan_ids else _IN_ORDER, {"ids": list(request.scan_ids)}).all()
    return scan_pb2.ReadScansResponse(scans=[_message(row, registered[row.provider_id], now) for row in rows])
