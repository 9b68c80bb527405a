"""CompareListing: what was listed at a provider, held against what is recorded of it.

Most of a listing is as recorded, which one query tells; only what is not is judged, under the locks of its workspaces.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import InvalidArgument, NotFound
from cdir.paths import RESERVED_ROOT_NAME, key_of
from cdir.v1 import adapter_service_pb2, scan_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.keys import ASIDE_PREFIX, is_temporary, place_of
from cdir_catalog.schema import entries, intents, replicas, versions
from cdir_catalog.store.copies import MISSING, OK
from cdir_catalog.store.entries import live
from cdir_catalog.store.judging import Judge
from cdir_catalog.store.ledger import Ledger
from cdir_catalog.store.listed import Found, Likeness, Yardstick
from cdir_catalog.store.locks import lock_workspaces
from cdir_catalog.store.losses import guard, missed_count, most_lost
from cdir_catalog.store.outside import take_over
from cdir_catalog.store.providers import RegisteredProvider, load_providers, provider_by_id
from cdir_catalog.store.scans import leased_scan, renew_scan, warm
from cdir_catalog.store.workspaces import ensure_workspaces, find_workspace, find_workspaces
from cdir_catalog.wire import FILE, from_timestamp, timestamp

__all__ = ["compare_listing"]

_MOST_OBJECTS = 1000


_RECORDED = (
    sa.select(
        replicas.c.id,
        replicas.c.key,
        replicas.c.actual,
        replicas.c.etag,
        replicas.c.checksum,
        replicas.c.seen_modified,
        replicas.c.absent_at,
        versions.c.size,
        versions.c.modified_at,
    )
    .outerjoin(versions, versions.c.id == replicas.c.version_id)
    .where(replicas.c.key.in_(sa.bindparam("keys", expanding=True)), replicas.c.provider_id == sa.bindparam("provider"))
)


@functools.cache
def _expected(*, recursive: bool, whole: bool, ends: bool, limited: bool) -> sa.Select[Any]:
    """Return the query of the copies that a range of a listing should show."""
    now, as_of = (sa.bindparam(name, type_=sa.BigInteger()) for name in ("now", "as_of"))
    unread = sa.and_(replicas.c.actual == MISSING, versions.c.sha256 == b"")
    query = (_below(whole=whole, ends=ends) if recursive else _right_below(ends=ends)).where(
        replicas.c.provider_id == sa.bindparam("provider"),
        replicas.c.wanted == 1,
        replicas.c.move_to.is_(None),
        replicas.c.absent_at.is_(None),
        sa.or_(replicas.c.actual == OK, unread),
        sa.or_(replicas.c.lease_until.is_(None), replicas.c.lease_until <= now),
        sa.or_(replicas.c.changed_at.is_(None), replicas.c.changed_at < as_of),
        ~sa.exists().where(intents.c.key == replicas.c.key),
    )
    return query.limit(sa.bindparam("limit", type_=sa.Integer())) if limited else query


def _below(*, whole: bool, ends: bool) -> sa.Select[Any]:
    query = (
        sa.select(replicas.c.id, replicas.c.key)
        .join(versions, versions.c.id == replicas.c.version_id)
        .where(replicas.c.key > sa.bindparam("begin"))
        .order_by(replicas.c.key)
    )
    if ends:
        query = query.where(replicas.c.key <= sa.bindparam("until"))
    if not whole:
        return query.where(replicas.c.key < sa.bindparam("end"))
    # what cdir keeps for itself may have been left out of a listing of the whole
    own = f"{RESERVED_ROOT_NAME}/"
    return query.where(sa.or_(replicas.c.key < own, replicas.c.key >= f"{RESERVED_ROOT_NAME}0"))


def _right_below(*, ends: bool) -> sa.Select[Any]:
    """Look the files of one directory up by their names: a range of keys would take in all that lies deeper."""
    query = (
        sa.select(replicas.c.id, replicas.c.key)
        .select_from(entries)
        .join(versions, versions.c.id == entries.c.version_id)
        .join(replicas, replicas.c.version_id == versions.c.id)
        .where(
            entries.c.workspace_id == sa.bindparam("workspace_id"),
            live,
            entries.c.dirname == sa.bindparam("dirname"),
            entries.c.kind == FILE,
            replicas.c.key == sa.bindparam("natural", type_=sa.Text()) + entries.c.basename,
            entries.c.basename > sa.bindparam("begin"),
        )
        .order_by(entries.c.basename)
    )
    return query.where(entries.c.basename <= sa.bindparam("until")) if ends else query


def compare_listing(
    connection: Connection, request: scan_pb2.CompareListingRequest, _author: str
) -> scan_pb2.CompareListingResponse:
    """CatalogService.CompareListing."""
    now = now_ns()
    if not request.HasField("as_of"):
        raise InvalidArgument("as_of is missing: without it nobody can tell what changed since the listing began")
    if sum(len(one.objects) for one in request.ranges) > _MOST_OBJECTS:
        raise InvalidArgument(f"more than {_MOST_OBJECTS} objects in one call")
    provider = provider_by_id(connection, request.provider_id)
    if provider is None:
        raise NotFound("there is no such provider any more", provider=request.provider_id)
    scan = leased_scan(connection, request.scan_id, request.owner) if request.scan_id else None
    if request.scan_id and scan is None:
        return scan_pb2.CompareListingResponse(as_of=timestamp(now), lost_lease=True)
    response = scan_pb2.CompareListingResponse(as_of=timestamp(now))
    comparing = _Comparing(connection, provider, from_timestamp(request.as_of), now, response.counts)
    comparing.judge([Found.of(info) for one in request.ranges for info in one.objects if not _is_no_file(info)])
    if scan is not None:
        for one in request.ranges:
            if one.complete:
                comparing.miss(one)
        if comparing.noted_absence or provider.guard:
            response.refused = guard(connection, provider)
        renew_scan(connection, scan, response.counts)
    warm(connection, provider.id, comparing.stirred, now)
    return response


def _is_no_file(info: adapter_service_pb2.ObjectInfo) -> bool:
    return info.directory or info.special


class _Comparing:
    """The listing of one request."""

    def __init__(
        self,
        connection: Connection,
        provider: RegisteredProvider,
        as_of: int,
        now: int,
        counts: scan_pb2.ScanCounts,
    ) -> None:
        self.stirred: set[str] = set()
        self.noted_absence = False
        self._connection = connection
        self._provider = provider
        self._yardstick = Yardstick.of(provider)
        self._as_of = as_of
        self._now = now
        self._counts = counts

    # -- what is there ------------------------------------------------------------------------------------------------

    def judge(self, founds: Sequence[Found]) -> None:
        """Compare objects, and apply what follows from those that are not as recorded."""
        odd = self._unlike(founds)
        if not odd:
            return
        names = {place.workspace for found in odd if (place := place_of(found.key)) is not None}
        known = find_workspaces(self._connection, names)
        if names - known.keys():
            known = ensure_workspaces(self._connection, names)
        lock_workspaces(self._connection, known.values())
        ledger = Ledger(self._connection, self._now)
        registered = load_providers(self._connection)
        judge = Judge(ledger, registered, self._provider, known, self._as_of, self._counts, odd)
        judge.judge(odd)
        take_over(ledger, judge.findings)
        for finding in judge.findings:
            if finding.content is None:
                self._counts.adopted += 1
            elif finding.is_current:
                self._counts.changed += 1
            else:
                self._counts.put_back += 1
        ledger.save()
        self.stirred |= judge.stirred

    def _unlike(self, founds: Sequence[Found]) -> list[Found]:
        """Return the objects that are not simply as recorded."""
        recorded = self._recorded([found.key for found in founds])
        odd: list[Found] = []
        again: list[int] = []
        marked: list[dict[str, Any]] = []
        for found in {found.key: found for found in founds}.values():
            rows = recorded.get(found.key, [])
            if len(rows) == 1 and self._is_same(rows[0], found):
                self._counts.same += 1
                (row,) = rows
                if row.absent_at is not None:
                    again.append(row.id)
                if self._needs_mark(row, found):
                    marked.append({"row": row.id, "modified": found.modified})
            elif not rows and _is_ours(found.key):
                self._counts.ignored += 1
            else:
                odd.append(found)
        if again:
            self._connection.execute(replicas.update().where(replicas.c.id.in_(again)).values(absent_at=None))
        if marked:
            self._connection.execute(
                replicas.update()
                .where(replicas.c.id == sa.bindparam("row"))
                .values(seen_modified=sa.bindparam("modified")),
                marked,
            )
        return odd

    def _recorded(self, keys: Sequence[str]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for row in self._connection.execute(_RECORDED, {"keys": list(keys), "provider": self._provider.id}):
            found.setdefault(row.key, []).append(row)
        return found

    def _is_same(self, row: Any, found: Found) -> bool:
        if row.size is None or row.actual != OK:
            return False
        return self._yardstick.compare(row, row.size, row.modified_at, found) is Likeness.SAME

    def _needs_mark(self, row: Any, found: Found) -> bool:
        """Say whether only the provider's own time can tell later that the object was replaced."""
        marks = (row.etag and found.etag) or (row.checksum and found.checksum) or self._yardstick.lists_time
        return not marks and row.seen_modified is None and found.modified is not None

    # -- what is not there --------------------------------------------------------------------------------------------

    def miss(self, listed: scan_pb2.ListedRange) -> None:
        """Note what should be in a range that was listed completely, and is not."""
        most = most_lost(self._connection, self._provider.id) + 1
        missed = self._expected(listed, most)
        if missed and not self._provider.accepts_losses:
            missed = missed[: max(0, most - missed_count(self._connection, self._provider.id))]
        if missed:
            ids = [row.id for row in missed]
            self._connection.execute(replicas.update().where(replicas.c.id.in_(ids)).values(absent_at=self._now))
            self.noted_absence = True
        self._counts.missing += len(missed)
        self.stirred.update(row.key.rpartition("/")[0] for row in missed if not row.key.startswith(ASIDE_PREFIX))

    def _expected(self, listed: scan_pb2.ListedRange, most: int) -> list[Any]:
        """Return copies that should have been listed and were not; no more than the guard could ever let pass."""
        shown = {info.key for info in listed.objects}
        values: dict[str, Any] = {
            "provider": self._provider.id,
            "now": self._now,
            "as_of": self._as_of,
            "limit": most + len(shown),
        }
        if listed.recursive:
            begin = f"{listed.prefix}/" if listed.prefix else ""
            values |= {
                "begin": max(begin, listed.after_key, key=str.encode),
                "until": listed.until_key,
                "end": f"{listed.prefix}0",
            }
        else:
            place = self._names_right_below(listed)
            if place is None:
                return []
            values |= place
        query = _expected(
            recursive=listed.recursive,
            whole=not listed.prefix,
            ends=bool(listed.until_key),
            limited=not self._provider.accepts_losses,
        )
        return [row for row in self._connection.execute(query, values) if row.key not in shown]

    def _names_right_below(self, listed: scan_pb2.ListedRange) -> dict[str, Any] | None:
        """Return the parameters for the files of one directory; ``None`` when nothing can be recorded there."""
        workspace, dirname = "", f"/{listed.prefix}"
        if listed.prefix.startswith("@"):
            workspace, _, rest = listed.prefix[1:].partition("/")
            dirname = f"/{rest}"
        workspace_id = find_workspace(self._connection, workspace)
        if workspace_id is None:
            return None
        begin = len(listed.prefix) + 1 if listed.prefix else 0
        return {
            "workspace_id": workspace_id,
            "dirname": dirname,
            "natural": key_of(workspace, dirname if dirname.endswith("/") else f"{dirname}/"),
            "begin": listed.after_key[begin:],
            "until": listed.until_key[begin:],
        }


def _is_ours(key: str) -> bool:
    """Say whether an object that nothing recorded explains is cdir's own, or half of a write."""
    return key.startswith(f"{RESERVED_ROOT_NAME}/") or is_temporary(key)
