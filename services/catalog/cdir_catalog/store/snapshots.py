"""When a snapshot of the catalog is due, and its making.

What a catalog is at, its *state*, is the revision of each workspace and a digest of what the change log does not tell:
providers and policies. A snapshot is due when the state is another than that of the last one. It is an increment as
long as little has changed since the last whole snapshot and that one is young.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import Conflict, NotFound
from cdir.v1 import catalog_recovery_pb2 as pb
from cdir_catalog.clock import SECOND, now_ns
from cdir_catalog.schema import changes, identity, policies, providers, snapshots, workspaces
from cdir_catalog.snapshot_file import write_frames
from cdir_catalog.store.dumping import dump_increment, dump_whole
from cdir_catalog.store.intents import lease_end

__all__ = ["claim_snapshot", "dump_catalog", "finish_snapshot", "renew_snapshot"]

_LEASE_SECONDS = 600.0
_DELAY_SECONDS = 300.0
_WHOLE_SECONDS = 24 * 3600.0
_FEWEST = 1000
_MOST = 50_000
_SHARE = 4
"""An increment may hold as many changes as one in so many files, at least the fewest and at most the most."""


_REVISIONS = sa.select(workspaces.c.id, workspaces.c.revision).order_by(workspaces.c.id)
_HOME = sa.select(identity.c.home_id).with_for_update()
_unfinished = snapshots.c.finished_at.is_(None)
_UNFINISHED = sa.select(snapshots.c.name).where(_unfinished).limit(1)
_GIVE_UP = snapshots.delete().where(_unfinished, snapshots.c.lease_until <= sa.bindparam("now", type_=sa.BigInteger()))
_LATEST = sa.select(snapshots).where(~_unfinished).order_by(snapshots.c.begun_at.desc()).limit(1)


class _State(NamedTuple):
    revisions: dict[int, int]
    """By the row id of the workspace."""
    configuration: str

    @classmethod
    def now(cls, connection: Connection) -> _State:
        rows = connection.execute(_REVISIONS)
        return cls({row.id: row.revision for row in rows}, _configuration(connection))

    @classmethod
    def read(cls, text: str) -> _State:
        values = json.loads(text)
        return cls({int(row_id): revision for row_id, revision in values[0].items()}, values[1])

    def write(self) -> str:
        return json.dumps(self)

    @property
    def revision(self) -> int:
        return sum(self.revisions.values())


_CONFIGURATION = (
    sa.select(
        providers.c.provider_id, providers.c.name, providers.c.record, providers.c.sealed_secrets, providers.c.paused
    ).order_by(providers.c.provider_id),
    sa.select(policies).order_by(policies.c.workspace_id, policies.c.path),
)


def _configuration(connection: Connection) -> str:
    digest = hashlib.sha256()
    for query in _CONFIGURATION:
        for row in connection.execute(query):
            digest.update(repr(tuple(row)).encode())
    return digest.hexdigest()[:16]


def claim_snapshot(connection: Connection, request: pb.ClaimSnapshotRequest, _author: str) -> pb.ClaimSnapshotResponse:
    """CatalogService.ClaimSnapshot."""
    now = now_ns()
    home_id = connection.execute(_HOME).scalar_one()
    connection.execute(_GIVE_UP, {"now": now})
    latest = connection.execute(_LATEST).first()
    response = pb.ClaimSnapshotResponse(home_id=home_id, latest="" if latest is None else latest.name)
    if connection.scalar(_UNFINISHED) is not None:
        response.making = True
        return response
    state = _State.now(connection)
    before = _State({}, "") if latest is None else _State.read(latest.state)
    if state == before or (latest is None and state.revision == 0):
        return response
    delay = int((request.delay_seconds or _DELAY_SECONDS) * SECOND)
    if not request.at_once and now < _first_change(connection, before) + delay:
        return response
    base = _base(connection, state, now - int((request.whole_seconds or _WHOLE_SECONDS) * SECOND))
    moment = datetime.fromtimestamp(now / SECOND, UTC)
    response.name = f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03d}Z-{state.revision}"
    response.name += ".increment" if base else ".snapshot"
    connection.execute(
        snapshots.insert().values(
            name=response.name,
            base=base,
            state=state.write(),
            begun_at=now,
            lease_owner=request.owner,
            lease_until=lease_end(now, request.lease_seconds, _LEASE_SECONDS),
        )
    )
    return response


def _first_change(connection: Connection, before: _State) -> int:
    """Return when the first change was made that ``before`` does not have; 0 when the log does not tell."""
    first = [
        connection.scalar(
            sa.select(changes.c.changed_at)
            .where(changes.c.workspace_id == row_id, changes.c.revision > before.revisions.get(row_id, 0))
            .order_by(changes.c.revision)
            .limit(1)
        )
        for row_id in connection.scalars(sa.select(workspaces.c.id)).all()
    ]
    return min((moment for moment in first if moment is not None), default=0)


def _base(connection: Connection, state: _State, oldest: int) -> str:
    """Return the whole snapshot that an increment can build on; empty when the next one has to be whole."""
    whole = connection.execute(
        sa.select(snapshots)
        .where(snapshots.c.base == "", snapshots.c.finished_at.is_not(None))
        .order_by(snapshots.c.begun_at.desc())
        .limit(1)
    ).first()
    if whole is None or whole.begun_at <= oldest:
        return ""
    had = _State.read(whole.state)
    files = connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(workspaces.c.files), 0))) or 0
    if state.revision - had.revision > min(max(_FEWEST, int(files) // _SHARE), _MOST):
        return ""
    for row_id, revision in state.revisions.items():
        after = had.revisions.get(row_id, 0)
        kept = connection.scalar(
            sa.select(sa.func.min(changes.c.revision)).where(
                changes.c.workspace_id == row_id, changes.c.revision > after
            )
        )
        if revision > after and kept != after + 1:
            return ""  # the log was shortened since
    name: str = whole.name
    return name


def dump_catalog(connection: Connection, request: pb.DumpCatalogRequest) -> Iterator[bytes]:
    """CatalogService.DumpCatalog: yield the file of a claimed snapshot."""
    claimed = connection.execute(
        sa.select(snapshots).where(snapshots.c.name == request.name, snapshots.c.finished_at.is_(None))
    ).first()
    if claimed is None:
        raise NotFound(f"no snapshot {request.name!r} is being made; its lease may have lapsed")
    home_id = connection.execute(sa.select(identity.c.home_id)).scalar_one()
    header = {"name": claimed.name, "base": claimed.base, "home_id": home_id, "taken_at": claimed.begun_at}
    if not claimed.base:
        return write_frames(dump_whole(connection, header))
    base = connection.execute(sa.select(snapshots.c.state).where(snapshots.c.name == claimed.base)).scalar_one()
    return write_frames(dump_increment(connection, header, _State.read(base).revisions))


def renew_snapshot(connection: Connection, request: pb.RenewSnapshotRequest, _author: str) -> pb.RenewSnapshotResponse:
    """CatalogService.RenewSnapshot."""
    now = now_ns()
    held = sa.and_(
        snapshots.c.name == request.name,
        snapshots.c.lease_owner == request.owner,
        snapshots.c.lease_until > now,
        snapshots.c.finished_at.is_(None),
    )
    until = lease_end(now, request.lease_seconds, _LEASE_SECONDS)
    if not connection.execute(snapshots.update().where(held).values(lease_until=until)).rowcount:
        raise Conflict(f"the claim of the snapshot {request.name!r} has ended; another is made when it is due")
    return pb.RenewSnapshotResponse()


def finish_snapshot(
    connection: Connection, request: pb.FinishSnapshotRequest, _author: str
) -> pb.FinishSnapshotResponse:
    """CatalogService.FinishSnapshot."""
    mine = sa.and_(
        snapshots.c.name == request.name,
        snapshots.c.lease_owner == request.owner,
        snapshots.c.finished_at.is_(None),
    )
    if not request.stored:
        connection.execute(snapshots.delete().where(mine))
        return pb.FinishSnapshotResponse()
    if connection.execute(snapshots.update().where(mine).values(finished_at=now_ns())).rowcount:
        _forget_older(connection)
    return pb.FinishSnapshotResponse()


def _forget_older(connection: Connection) -> None:
    """Keep the last snapshot and the last whole one."""
    finished: list[Any] = list(
        connection.execute(
            sa.select(snapshots.c.name, snapshots.c.base)
            .where(snapshots.c.finished_at.is_not(None))
            .order_by(snapshots.c.begun_at.desc())
        )
    )
    kept = {finished[0].name, *[row.name for row in finished if not row.base][:1]}
    connection.execute(snapshots.delete().where(snapshots.c.finished_at.is_not(None), snapshots.c.name.not_in(kept)))
