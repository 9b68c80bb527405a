"""ResolveEntries, versions and the status of one file."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import CdirError, InvalidArgument, IsDirectory, NotFound
from cdir.status import to_failure
from cdir.v1 import catalog_service_pb2, directory_service_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.schema import versions
from cdir_catalog.store.entries import (
    check_path,
    entry_with_owed,
    find_entries,
    find_removed,
    not_found,
    owed_counts,
    require,
)
from cdir_catalog.store.ledger import copies_of
from cdir_catalog.store.policies import Placer
from cdir_catalog.store.providers import load_providers
from cdir_catalog.store.replica_messages import ReadOrder, fill_replica, replica_message
from cdir_catalog.store.retention import kept
from cdir_catalog.store.workspaces import find_workspace, find_workspaces
from cdir_catalog.wire import DIRECTORY, FILE, fill_entry, fill_time, fill_version, root_message, version_message

__all__ = ["get_file_status", "list_versions", "resolve_entries"]

_MAX_REFS = 1000


def resolve_entries(
    connection: Connection, request: catalog_service_pb2.ResolveEntriesRequest
) -> catalog_service_pb2.ResolveEntriesResponse:
    """CatalogService.ResolveEntries."""
    if len(request.refs) > _MAX_REFS:
        raise InvalidArgument(f"{len(request.refs)} paths in one call; {_MAX_REFS} are the most")
    ids = find_workspaces(connection, {ref.workspace for ref in request.refs})
    resolving = {
        workspace: _Resolving(connection, ids.get(workspace), workspace, request)
        for workspace in {ref.workspace for ref in request.refs}
    }
    response = catalog_service_pb2.ResolveEntriesResponse()
    for ref in request.refs:
        resolved = response.results.add()
        try:
            resolving[ref.workspace].resolve(ref, resolved)
        except CdirError as error:
            resolved.failure.CopyFrom(to_failure(error))
    return response


class _Resolving:
    """The refs of one workspace."""

    def __init__(
        self,
        connection: Connection,
        workspace_id: int | None,
        workspace: str,
        request: catalog_service_pb2.ResolveEntriesRequest,
    ) -> None:
        self._workspace = workspace
        self._workspace_id = workspace_id
        self._now = now_ns()
        self._with_replicas = request.with_replicas
        refs = [ref for ref in request.refs if ref.workspace == workspace]
        paths = [ref.path for ref in refs]
        self._found = {} if workspace_id is None else find_entries(connection, workspace_id, paths)
        self._older = self._load_older(connection, [ref for ref in refs if ref.HasField("generation")])
        current = [row.version_row for row in self._found.values() if row.version_row is not None]
        if not request.with_replicas:
            self._owed = owed_counts(connection, current)
            return
        older = [row.id for row in self._older.values()]
        self._placer = Placer(connection, workspace_id, paths)
        self._orders: dict[tuple[str, ...], ReadOrder] = {}
        self._versions = _versions(connection, [*current, *older])
        self._copies = copies_of(connection, [*current, *older])
        self._owed = {row: sum(copy.owed and copy.wanted for copy in copies) for row, copies in self._copies.items()}

    def _load_older(
        self, connection: Connection, refs: list[catalog_service_pb2.PathRef]
    ) -> dict[tuple[str, int], Any]:
        """Return the versions asked for by generation, by (path, generation)."""
        if self._workspace_id is None or not refs:
            return {}
        entries_of: dict[int, str] = {}
        removed = find_removed(connection, self._workspace_id, [ref.path for ref in refs])
        for path, row in [*removed.items(), *self._found.items()]:
            if row.kind == FILE:
                entries_of[row.id] = path
        wanted = {(ref.path, ref.generation) for ref in refs}
        query = sa.select(versions).where(versions.c.entry_id.in_(entries_of), kept)
        found = {(entries_of[row.entry_id], row.generation): row for row in connection.execute(query)}
        return {named: row for named, row in found.items() if named in wanted}

    def resolve(self, ref: catalog_service_pb2.PathRef, resolved: catalog_service_pb2.ResolvedEntry) -> None:
        """Put what one ref names into ``resolved``; raise, and leave it empty, when it names nothing."""
        path = check_path(ref.path)
        if path == "/" and (self._workspace_id is not None or not self._workspace):
            resolved.entry.CopyFrom(root_message(self._workspace))
            return
        row = self._found.get(path)
        if ref.HasField("generation") and (row is None or row.generation != ref.generation):
            self._resolve_older(path, ref.generation, resolved)
            return
        if row is None:
            raise not_found(path)
        fill_entry(resolved.entry, self._workspace, row, self._owed.get(row.version_row, 0))
        if self._with_replicas and row.kind == FILE:
            self._add_replicas(resolved, path, self._versions[row.version_row])

    def _resolve_older(self, path: str, generation: int, resolved: catalog_service_pb2.ResolvedEntry) -> None:
        version = self._older.get((path, generation))
        if version is None:
            raise NotFound(f"no generation {generation} of {path!r} is kept; see `cdir versions {path}`", path=path)
        resolved.entry.workspace, resolved.entry.path, resolved.entry.kind = self._workspace, path, FILE
        resolved.entry.size, resolved.entry.sha256 = version.size, version.sha256
        fill_time(resolved.entry.modified, version.modified_at)
        resolved.entry.generation, resolved.entry.version_id = version.generation, version.version_id
        resolved.entry.author = version.author
        if self._with_replicas:
            self._add_replicas(resolved, path, version)

    def _add_replicas(self, resolved: catalog_service_pb2.ResolvedEntry, path: str, version: Any) -> None:
        fill_version(resolved.version, version)
        providers = self._placer.by_id
        for copy in self._order(path).readable(self._copies.get(version.id, ())):
            fill_replica(resolved.replicas.add(), copy, version.version_id, providers[copy.provider_id], self._now)

    def _order(self, path: str) -> ReadOrder:
        prefer = tuple(self._placer.policy(path).prefer)
        if prefer not in self._orders:
            self._orders[prefer] = ReadOrder(self._placer.by_id, prefer)
        return self._orders[prefer]


_VERSIONS = sa.select(versions).where(versions.c.id.in_(sa.bindparam("rows", expanding=True)))
_KEPT = (
    sa.select(versions).where(versions.c.entry_id == sa.bindparam("entry"), kept).order_by(versions.c.generation.desc())
)


def _versions(connection: Connection, row_ids: list[int]) -> dict[int, Any]:
    if not row_ids:
        return {}
    return {row.id: row for row in connection.execute(_VERSIONS, {"rows": row_ids})}


def list_versions(
    connection: Connection, request: directory_service_pb2.ListVersionsRequest
) -> directory_service_pb2.ListVersionsResponse:
    """DirectoryService.ListVersions."""
    path = check_path(request.path)
    workspace_id = find_workspace(connection, request.workspace)
    if path == "/":
        raise IsDirectory("'/' is a directory", path=path)
    if workspace_id is None:
        raise not_found(path)
    present = find_entries(connection, workspace_id, [path]).get(path)
    if present is not None and present.kind == DIRECTORY:
        raise IsDirectory(f"{path!r} is a directory", path=path)
    row = present or find_removed(connection, workspace_id, [path]).get(path)
    if row is None:
        raise not_found(path)
    rows = connection.execute(_KEPT, {"entry": row.id})
    return directory_service_pb2.ListVersionsResponse(versions=[version_message(one) for one in rows])


def get_file_status(
    connection: Connection, request: directory_service_pb2.GetFileStatusRequest
) -> directory_service_pb2.GetFileStatusResponse:
    """DirectoryService.GetFileStatus."""
    _, row = require(connection, request.workspace, request.path)
    if row is None or row.kind == DIRECTORY:
        raise IsDirectory(f"{request.path!r} is a directory", path=request.path)
    now = now_ns()
    providers = {provider.id: provider for provider in load_providers(connection)}
    replicas = [
        replica_message(copy, row.version, providers[copy.provider_id], now)
        for copy in copies_of(connection, [row.version_row]).get(row.version_row, ())
    ]
    return directory_service_pb2.GetFileStatusResponse(
        entry=entry_with_owed(connection, request.workspace, row),
        replicas=sorted(replicas, key=lambda replica: replica.provider),
    )
