"""Proofs: which copies were looked at longest ago, leasing them, and recording that they are right.

A proof changes nothing but its time. What is found wrong comes as an observation (RecordReplicas) or, where others may
have written the object, as a listing (CompareListing), and follows the rules of those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import InvalidArgument, NotFound
from cdir.paths import join_path
from cdir.v1 import catalog_service_pb2, scrub_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.schema import counters, entries, is_settled, replicas, versions, workspaces
from cdir_catalog.store.intents import check_batch, check_owner, lease_end
from cdir_catalog.store.ledger import COPY_COLUMNS, copy_of
from cdir_catalog.store.providers import RegisteredProvider, load_providers, provider_by_id
from cdir_catalog.store.replica_messages import replica_message
from cdir_catalog.wire import from_timestamp, timestamp, version_message

__all__ = ["claim_proofs", "finish_proofs", "oldest_proof", "prove_objects", "read_proofs", "renew_proofs"]

_DEFAULT_LIMIT = 100
_LARGEST_LIMIT = 1000
_DEFAULT_LEASE_SECONDS = 120.0
_MOST_DIGEST_BYTES = 1 << 20

_PROOF = catalog_service_pb2.DEBT_KIND_INSPECT
"""The kind of the leases: like an inspection, a proof disturbs nobody."""


def _provider(connection: Connection, provider_id: str) -> RegisteredProvider:
    found = provider_by_id(connection, provider_id)
    if found is None:
        raise NotFound("this provider is not registered any more", provider=provider_id)
    return found


def claim_proofs(
    connection: Connection, request: scrub_pb2.ClaimProofsRequest, _author: str
) -> scrub_pb2.ClaimProofsResponse:
    """CatalogService.ClaimProofs."""
    now = now_ns()
    owner = check_owner(request.owner)
    if not request.HasField("before"):
        raise InvalidArgument("say up to when copies count as proven: the time 'before' is not set")
    provider = _provider(connection, request.provider_id)
    limit = min(request.limit or _DEFAULT_LIMIT, _LARGEST_LIMIT)
    until = lease_end(now, request.lease_seconds, _DEFAULT_LEASE_SECONDS)
    rows = _due(connection, provider.id, request.top, from_timestamp(request.before), limit, now)
    found = _items(connection, rows, provider, now)
    ids = [item.proof_id for item in found]
    if ids:
        connection.execute(
            replicas.update()
            .where(replicas.c.id.in_(ids))
            .values(lease_owner=owner, lease_until=until, lease_kind=_PROOF, lease_key=replicas.c.key)
        )
    return scrub_pb2.ClaimProofsResponse(items=found)


def _due(connection: Connection, provider: int, top: str, before: int, limit: int, now: int) -> list[Any]:
    """Return copies without a proof, then those whose proof is oldest; each part is a range of the index."""
    free = sa.or_(replicas.c.lease_until.is_(None), replicas.c.lease_until <= now)
    query = (
        sa.select(*COPY_COLUMNS)
        .where(replicas.c.provider_id == provider, is_settled, replicas.c.wanted == 1, free)
        .with_for_update(skip_locked=True)
    )
    if top:
        inside = sa.and_(replicas.c.key >= f"{top}/", replicas.c.key < f"{top}0")
        query = query.where(sa.or_(replicas.c.key == top, inside))
    rows = list(connection.execute(query.where(replicas.c.proven_at.is_(None)).limit(limit)))
    if len(rows) < limit:
        older = query.where(replicas.c.proven_at < before).order_by(replicas.c.proven_at).limit(limit - len(rows))
        rows.extend(connection.execute(older))
    return rows


def _items(
    connection: Connection, rows: Sequence[Any], provider: RegisteredProvider, now: int
) -> list[scrub_pb2.ProofItem]:
    """Return the messages of copies, as many as fit one answer."""
    wanted = {row.version_id for row in rows if row.version_id is not None}
    if not wanted:
        return []
    query = (
        sa.select(versions, entries.c.dirname, entries.c.basename, workspaces.c.name.label("workspace"))
        .join(entries, entries.c.id == versions.c.entry_id)
        .join(workspaces, workspaces.c.id == entries.c.workspace_id)
        .where(versions.c.id.in_(wanted))
    )
    known = {row.id: row for row in connection.execute(query)}
    items: list[scrub_pb2.ProofItem] = []
    weight = 0
    for copy in map(copy_of, rows):
        if copy.id is None or copy.version_id is None or weight > _MOST_DIGEST_BYTES:
            continue
        version = known[copy.version_id]
        weight += len(version.block_digests)
        items.append(
            scrub_pb2.ProofItem(
                proof_id=copy.id,
                workspace=version.workspace,
                path=join_path(version.dirname, version.basename),
                version=version_message(version),
                replica=replica_message(copy, version.version_id, provider, now),
            )
        )
    return items


def renew_proofs(
    connection: Connection, request: scrub_pb2.RenewProofsRequest, _author: str
) -> scrub_pb2.RenewProofsResponse:
    """CatalogService.RenewProofs."""
    check_batch(request.proof_ids)
    now = now_ns()
    until = lease_end(now, request.lease_seconds, _DEFAULT_LEASE_SECONDS)
    held = sa.and_(
        replicas.c.lease_owner == check_owner(request.owner),
        replicas.c.lease_kind == _PROOF,
        replicas.c.lease_until > now,
        # what became owed meanwhile waits for the end of the lease
        is_settled,
        replicas.c.key == replicas.c.lease_key,
    )
    mine = sa.select(replicas.c.id).where(replicas.c.id.in_(request.proof_ids), held).with_for_update()
    renewed = set(connection.scalars(mine))
    connection.execute(replicas.update().where(replicas.c.id.in_(renewed)).values(lease_until=until))
    return scrub_pb2.RenewProofsResponse(lost=sorted(set(request.proof_ids) - renewed))


def finish_proofs(
    connection: Connection, request: scrub_pb2.FinishProofsRequest, _author: str
) -> scrub_pb2.FinishProofsResponse:
    """CatalogService.FinishProofs."""
    check_batch(request.proven)
    check_batch(request.released)
    now = now_ns()
    owner = check_owner(request.owner)
    held = sa.and_(replicas.c.lease_owner == owner, replicas.c.lease_kind == _PROOF)
    released: dict[str, Any] = {
        "lease_owner": None,
        "lease_until": None,
        "lease_kind": None,
        "lease_key": None,
        # what became owed meanwhile may wait for the end of the lease
        "due_at": sa.case((replicas.c.due_at == replicas.c.lease_until, now), else_=replicas.c.due_at),
    }
    proven = 0
    if request.proven:
        # a copy that was moved or found wrong meanwhile is another one than was read
        still = sa.and_(held, is_settled, replicas.c.key == replicas.c.lease_key, replicas.c.lease_until > now)
        ids = list(
            connection.scalars(
                sa.select(replicas.c.id).where(replicas.c.id.in_(request.proven), still).with_for_update()
            )
        )
        proven = len(ids)
        if ids:
            connection.execute(replicas.update().where(replicas.c.id.in_(ids)).values(proven_at=now, **released))
    rest = [*request.proven, *request.released]
    if rest:
        connection.execute(replicas.update().where(replicas.c.id.in_(rest), held).values(**released))
    return scrub_pb2.FinishProofsResponse(proven=proven)


def prove_objects(
    connection: Connection, request: scrub_pb2.ProveObjectsRequest, _author: str
) -> scrub_pb2.ProveObjectsResponse:
    """CatalogService.ProveObjects."""
    check_batch(request.objects)
    if not request.HasField("as_of"):
        raise InvalidArgument("say when the listing was begun: the time 'as_of' is not set")
    provider = _provider(connection, request.provider_id)
    now = now_ns()
    listed = {info.key: info for info in request.objects if not info.directory and not info.special}
    query = (
        sa.select(replicas.c.id, replicas.c.key, replicas.c.checksum, versions.c.size, versions.c.sha256)
        .join(versions, versions.c.id == replicas.c.version_id)
        .where(
            replicas.c.key.in_(listed.keys()),
            replicas.c.provider_id == provider.id,
            is_settled,
            replicas.c.wanted == 1,
            sa.or_(replicas.c.lease_until.is_(None), replicas.c.lease_until <= now),
            sa.func.coalesce(replicas.c.changed_at, 0) <= from_timestamp(request.as_of),
        )
        .with_for_update(of=replicas)
    )
    proven, doubtful = [], []
    for row in connection.execute(query):
        info = listed[row.key]
        agrees = False if info.size != row.size else _agrees(info.checksum, row.checksum, row.sha256)
        if agrees is None:
            continue
        if agrees:
            proven.append(row.id)
        else:
            doubtful.append(row.key)
    if proven:
        connection.execute(replicas.update().where(replicas.c.id.in_(proven)).values(proven_at=now))
    return scrub_pb2.ProveObjectsResponse(proven=len(proven), doubtful=doubtful)


def _agrees(stated: str, recorded: str, sha256: bytes) -> bool | None:
    """Say whether what a provider states agrees with what is recorded; ``None`` where the two cannot be compared."""
    kind, _, value = stated.partition(":")
    if kind == "sha256" and sha256:
        return value.lower() == sha256.hex()
    recorded_kind, _, recorded_value = recorded.partition(":")
    if not value or kind != recorded_kind:
        return None
    return value.lower() == recorded_value.lower()


_settled = sa.and_(replicas.c.provider_id == sa.bindparam("provider"), is_settled, replicas.c.wanted == 1)
_NEVER_PROVEN = sa.select(replicas.c.id).where(_settled, replicas.c.proven_at.is_(None)).limit(1)
_PROVEN_FIRST = (
    sa.select(replicas.c.proven_at)
    .where(_settled, replicas.c.proven_at.is_not(None))
    .order_by(replicas.c.proven_at)
    .limit(1)
)
_here = replicas.c.workspace_id == sa.bindparam("workspace")
_NEVER_PROVEN_HERE, _PROVEN_FIRST_HERE = _NEVER_PROVEN.where(_here), _PROVEN_FIRST.where(_here)


def oldest_proof(connection: Connection, provider: int, workspace_id: int | None = None) -> tuple[int | None, bool]:
    """Return when the copy proven longest ago was proven, and whether there is one that never was; of one workspace or
    of all."""
    chosen = {"provider": provider, "workspace": workspace_id}
    everywhere = workspace_id is None
    if connection.scalar(_NEVER_PROVEN if everywhere else _NEVER_PROVEN_HERE, chosen) is not None:
        return None, True
    oldest: int | None = connection.scalar(_PROVEN_FIRST if everywhere else _PROVEN_FIRST_HERE, chosen)
    return oldest, False


def read_proofs(connection: Connection, _request: scrub_pb2.ReadProofsRequest) -> scrub_pb2.ReadProofsResponse:
    """CatalogService.ReadProofs."""
    held = {
        row.provider_id: int(row.files)
        for row in connection.execute(
            sa.select(counters.c.provider_id, sa.func.sum(counters.c.files).label("files")).group_by(
                counters.c.provider_id
            )
        )
    }
    response = scrub_pb2.ReadProofsResponse(now=timestamp(now_ns()))
    for provider in load_providers(connection):
        oldest, unproven = oldest_proof(connection, provider.id)
        response.providers.add(
            provider_id=provider.provider_id,
            files=held.get(provider.id, 0),
            oldest=None if oldest is None else timestamp(oldest),
            unproven=unproven,
        )
    return response
