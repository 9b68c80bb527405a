"""DrillProviders: what would become of files if providers vanished."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import InvalidArgument, NotFound, PreconditionFailed
from cdir.paths import join_path
from cdir.v1 import exit_pb2, provider_pb2, provider_service_pb2
from cdir_catalog.schema import entries, replicas, versions, workspaces
from cdir_catalog.store.copies import OK
from cdir_catalog.store.evacuation_plan import row_token
from cdir_catalog.store.policies import Placer
from cdir_catalog.store.providers import RegisteredProvider, load_providers

__all__ = ["drill_providers"]

_DEFAULT_PAGE = 1000
_LARGEST_PAGE = 5000

_LOST = exit_pb2.DRILL_VERDICT_LOST
_UNREADABLE = exit_pb2.DRILL_VERDICT_UNREADABLE
_SCARCE = exit_pb2.DRILL_VERDICT_SCARCE


def drill_providers(
    connection: Connection, request: provider_service_pb2.DrillProvidersRequest
) -> provider_service_pb2.DrillProvidersResponse:
    """ProviderService.DrillProviders."""
    after = row_token(request.page_token)
    if request.page_size < 0:
        raise InvalidArgument("page_size cannot be negative")
    size = min(request.page_size or _DEFAULT_PAGE, _LARGEST_PAGE)
    registered = load_providers(connection)
    gone = _gone(registered, list(request.without))
    asleep = {one.id for one in registered if one.paused or one.state == provider_pb2.PROVIDER_STATE_DOWN} - gone
    rows = connection.execute(
        sa.select(
            versions.c.id,
            versions.c.size,
            entries.c.workspace_id,
            workspaces.c.name.label("workspace"),
            entries.c.dirname,
            entries.c.basename,
        )
        .join(entries, entries.c.id == versions.c.entry_id)
        .join(workspaces, workspaces.c.id == entries.c.workspace_id)
        .where(versions.c.id > after, versions.c.superseded_at.is_(None))
        .order_by(versions.c.id)
        .limit(size)
    ).all()
    response = provider_service_pb2.DrillProvidersResponse(
        seen=len(rows), next_page_token=str(rows[-1].id) if len(rows) == size else ""
    )
    holders = _holders(connection, [row.id for row in rows])
    placers = _placers(connection, rows, registered)
    for row in rows:
        held = holders[row.id]
        if not held & gone:
            continue  # nothing changes for it
        path = join_path(row.dirname, row.basename)
        minimum = placers[row.workspace_id].place(path, held).min_copies
        _judge(response, row, path, len(held - gone), len(held - gone - asleep), minimum)
    return response


def _gone(registered: list[RegisteredProvider], names: list[str]) -> set[int]:
    if not names:
        raise InvalidArgument("name at least one provider to do without")
    by_name = {one.name: one for one in registered}
    for name in names:
        if name not in by_name:
            raise NotFound(f"no provider is named {name!r}; `cdir provider list` shows them", provider=name)
        if by_name[name].paused:
            raise PreconditionFailed(
                f"{name!r} is paused, so nothing is read from it already; resume it with `cdir provider resume {name}`,"
                " or drill another: those that are paused count as unreadable",
                provider=name,
            )
    return {by_name[name].id for name in names}


def _holders(connection: Connection, version_ids: list[int]) -> dict[int, set[int]]:
    """Return who has a good copy, by version."""
    found: dict[int, set[int]] = defaultdict(set)
    query = sa.select(replicas.c.version_id, replicas.c.provider_id).where(
        replicas.c.version_id.in_(version_ids), replicas.c.actual == OK
    )
    for version_id, provider_id in connection.execute(query):
        found[version_id].add(provider_id)
    return found


def _placers(connection: Connection, rows: Any, registered: list[RegisteredProvider]) -> dict[int, Placer]:
    paths: dict[int, list[str]] = defaultdict(list)
    for row in rows:
        paths[row.workspace_id].append(join_path(row.dirname, row.basename))
    return {workspace_id: Placer(connection, workspace_id, found, registered) for workspace_id, found in paths.items()}


def _judge(
    response: provider_service_pb2.DrillProvidersResponse, row: Any, path: str, good: int, readable: int, minimum: int
) -> None:
    """Count a file that would have ``good`` copies, of which ``readable`` can be read."""
    if not good:
        response.lost += 1
        response.lost_bytes += row.size
        verdict = _LOST
    elif not readable:
        response.unreadable += 1
        response.unreadable_bytes += row.size
        verdict = _UNREADABLE
    elif readable < minimum:
        response.scarce += 1
        verdict = _SCARCE
    else:
        return
    response.files.add(
        workspace=row.workspace, path=path, size=row.size, verdict=verdict, copies=readable, min_copies=minimum
    )
