"""The status of a tree: from counters for a whole workspace, by a scan for a subtree."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.v1 import directory_service_pb2, exit_pb2
from cdir_catalog.schema import counters, entries, placements, replicas, versions, workspaces
from cdir_catalog.store.conflicts import count_conflicts
from cdir_catalog.store.copies import Contribution
from cdir_catalog.store.entries import ancestors, below, live, require_directory
from cdir_catalog.store.jobs import running_jobs
from cdir_catalog.store.placements import overlapping
from cdir_catalog.store.providers import RegisteredProvider, load_providers
from cdir_catalog.store.standing import oldest_proofs, quarantined_copies
from cdir_catalog.store.tallies import tally_columns
from cdir_catalog.wire import FILE, timestamp

__all__ = ["get_tree_status"]

_NOTHING = Contribution(0, 0, 0, 0, 0)


def get_tree_status(
    connection: Connection, request: directory_service_pb2.GetTreeStatusRequest
) -> directory_service_pb2.GetTreeStatusResponse:
    """DirectoryService.GetTreeStatus."""
    workspace_id = require_directory(connection, request.workspace, request.path)
    files = size = 0
    per_provider: dict[int, Contribution] = {}
    unplaced = False
    if workspace_id is not None:
        if request.path == "/":
            files, size, per_provider = _whole(connection, workspace_id)
        else:
            files, size, per_provider = _subtree(connection, workspace_id, request.path)
        unplaced = _unplaced(connection, workspace_id, request.path)
    registered = load_providers(connection)
    waiting = {provider.id for provider in registered if provider.removals_wait}
    response = directory_service_pb2.GetTreeStatusResponse(
        files=files,
        bytes=size,
        owed=sum(one.owed for one in per_provider.values()),
        quarantined=sum(one.quarantined for one in per_provider.values()),
        removals=sum(one.removals for provider, one in per_provider.items() if provider not in waiting),
        unplaced=unplaced,
        absent=_absent(connection, workspace_id, request.path, [provider.id for provider in registered]),
        conflicts=0 if workspace_id is None else count_conflicts(connection, workspace_id, request.path),
    )
    proofs: dict[int, tuple[int | None, bool]] = {}
    if workspace_id is not None:
        proofs = oldest_proofs(connection, workspace_id, request.path, [provider.id for provider in registered])
        if response.quarantined:
            response.quarantined_copies.extend(quarantined_copies(connection, workspace_id, request.path))
    leaving = [provider.name for provider in registered if provider.leaving]
    evacuations = running_jobs(connection, exit_pb2.JOB_KIND_EVACUATE, leaving)
    for provider in registered:
        proven, unproven = proofs.get(provider.id, (None, False))
        counted = per_provider.get(provider.id, _NOTHING)
        message = provider.message()
        status = response.providers.add(
            name=provider.name,
            kind=message.kind,
            state=message.state,
            state_reason=message.state_reason,
            state_since=timestamp(provider.state_since),
            files=counted.files,
            bytes=counted.bytes,
            owed=counted.owed,
            proven=None if proven is None else timestamp(proven),
            unproven=unproven,
        )
        if provider.leaving:
            _add_exit(status, provider, evacuations.get(provider.name))
    return response


def _add_exit(
    status: directory_service_pb2.ProviderStatus, provider: RegisteredProvider, evacuation: Any | None
) -> None:
    """Say how far a provider is on its way out; ``evacuation`` is the row of the job that runs about it."""
    status.exit.state = provider.record.exit.state
    status.exit.since.CopyFrom(provider.record.exit.since)
    if evacuation is None:
        return
    status.exit_waits = evacuation.message
    if evacuation.measured_at is not None and status.exit.state == exit_pb2.EXIT_STATE_LEAVING:
        status.files_left = evacuation.files_left


_TOTALS = sa.select(workspaces.c.files, workspaces.c.bytes).where(workspaces.c.id == sa.bindparam("workspace"))
_COUNTERS = sa.select(
    counters.c.provider_id,
    counters.c.files,
    counters.c.bytes,
    counters.c.owed,
    counters.c.quarantined,
    counters.c.removals,
).where(counters.c.workspace_id == sa.bindparam("workspace"))


def _whole(connection: Connection, workspace_id: int) -> tuple[int, int, dict[int, Contribution]]:
    totals: Any = connection.execute(_TOTALS, {"workspace": workspace_id}).one()
    rows = connection.execute(_COUNTERS, {"workspace": workspace_id})
    return totals.files, totals.bytes, {row[0]: Contribution(*row[1:]) for row in rows}


def _subtree(connection: Connection, workspace_id: int, path: str) -> tuple[int, int, dict[int, Contribution]]:
    mine = sa.and_(entries.c.workspace_id == workspace_id, below(path))
    totals: Any = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(versions.c.size), 0))
        .select_from(entries.join(versions, versions.c.id == entries.c.version_id))
        .where(mine, live, entries.c.kind == FILE)
    ).one()
    rows = connection.execute(
        sa.select(replicas.c.provider_id, *tally_columns())
        .select_from(
            entries.join(versions, versions.c.entry_id == entries.c.id).join(
                replicas, replicas.c.version_id == versions.c.id
            )
        )
        .where(mine)
        .group_by(replicas.c.provider_id)
    )
    return totals[0], int(totals[1]), {row[0]: Contribution(*map(int, row[1:])) for row in rows}


def _unplaced(connection: Connection, workspace_id: int, path: str) -> bool:
    job = connection.scalar(
        sa.select(placements.c.id)
        .where(placements.c.workspace_id == workspace_id, overlapping(path, ancestors(path)))
        .limit(1)
    )
    return job is not None


_ABSENT = sa.select(sa.func.count()).where(
    replicas.c.provider_id.in_(sa.bindparam("providers", expanding=True)),
    replicas.c.absent_at.is_not(None),
    replicas.c.workspace_id == sa.bindparam("workspace"),
)


def _absent(connection: Connection, workspace_id: int | None, path: str, provider_ids: list[int]) -> int:
    """Return how many copies a complete listing did not show, with nothing concluded from it."""
    query = _ABSENT
    if path != "/":
        query = query.where(
            replicas.c.version_id.in_(
                sa.select(versions.c.id)
                .join(entries, entries.c.id == versions.c.entry_id)
                .where(entries.c.workspace_id == workspace_id, below(path))
            )
        )
    return connection.scalar(query, {"providers": provider_ids, "workspace": workspace_id}) or 0
