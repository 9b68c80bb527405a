"""MakeDirectories: directories with their parents, many in one step."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from cdir.errors import CdirError
from cdir.status import to_failure
from cdir.v1 import directory_service_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.store.entries import Tree, ancestors, check_path, find_entries
from cdir_catalog.store.intents import check_batch
from cdir_catalog.store.ledger import Ledger
from cdir_catalog.store.locks import lock_workspaces
from cdir_catalog.store.workspaces import ensure_workspaces
from cdir_catalog.wire import entry_message, root_message

__all__ = ["make_directories"]


def make_directories(
    connection: Connection, request: directory_service_pb2.MakeDirectoriesRequest, author: str
) -> directory_service_pb2.MakeDirectoriesResponse:
    """DirectoryService.MakeDirectories."""
    check_batch(request.refs)
    response = directory_service_pb2.MakeDirectoriesResponse()
    by_workspace: dict[str, list[tuple[str, directory_service_pb2.MadeDirectory]]] = {}
    for ref in request.refs:
        result = response.results.add()
        try:
            by_workspace.setdefault(ref.workspace, []).append((check_path(ref.path), result))
        except CdirError as error:
            result.failure.CopyFrom(to_failure(error))
    ids = ensure_workspaces(connection, by_workspace)
    lock_workspaces(connection, ids.values())
    now = now_ns()
    for workspace, wanted in by_workspace.items():
        _make_below(connection, workspace, ids[workspace], wanted, now, author)
    return response


def _make_below(
    connection: Connection,
    workspace: str,
    workspace_id: int,
    wanted: list[tuple[str, directory_service_pb2.MadeDirectory]],
    now: int,
    author: str,
) -> None:
    """Make directories of one workspace; one that fails makes none of its parents."""
    ledger = Ledger(connection, now)
    paths = [path for path, _ in wanted if path != "/"]
    above = dict.fromkeys(place for path in paths for place in (path, *ancestors(path)))
    tree = Tree.of(connection, workspace_id, find_entries(connection, workspace_id, above), now)
    for path, result in wanted:
        try:
            result.made = path != "/" and tree.make(path, ledger, author)
        except CdirError as error:
            result.failure.CopyFrom(to_failure(error))
    tree.save()
    ledger.save()
    found = find_entries(connection, workspace_id, paths)
    for path, result in wanted:
        if path == "/":
            result.entry.CopyFrom(root_message(workspace))
        elif not result.HasField("failure"):
            result.entry.CopyFrom(entry_message(workspace, found[path]))
