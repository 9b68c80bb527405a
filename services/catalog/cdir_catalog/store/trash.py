"""The trash: removed files whose last content is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.paths import join_path, split_path
from cdir.v1 import directory_service_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.schema import entries, versions
from cdir_catalog.store.entries import check_path
from cdir_catalog.store.ledger import Ledger
from cdir_catalog.store.listing import Position, page_size_of, page_token_of, position_of, subtree_ranges
from cdir_catalog.store.locks import lock_workspaces
from cdir_catalog.store.workspaces import find_workspace
from cdir_catalog.wire import timestamp, version_message

__all__ = ["empty_trash", "list_trash", "restorable"]

_VERSIONS_AT_ONCE = 1000


def restorable(now: int) -> sa.ColumnElement[bool]:
    """Return the condition for removed entries, joined with their last version, that can be restored."""
    return sa.and_(entries.c.removed_at.is_not(None), versions.c.expires_at > now)


def _at_or_below(path: str, after: Position | None) -> Iterator[sa.ColumnElement[bool]]:
    """Yield conditions that cover ``path`` itself and what lies below it, in order."""
    own = split_path(path)
    if path != "/":
        if after is None:
            yield sa.and_(entries.c.dirname == own[0], entries.c.basename == own[1])
        elif after == own:
            after = None
    yield from subtree_ranges(path, after)


def list_trash(
    connection: Connection, request: directory_service_pb2.ListTrashRequest
) -> directory_service_pb2.ListTrashResponse:
    """DirectoryService.ListTrash."""
    path = check_path(request.path)
    size = page_size_of(request.page_size)
    after = position_of(request.page_token)
    workspace_id = find_workspace(connection, request.workspace)
    if workspace_id is None:
        return directory_service_pb2.ListTrashResponse()
    query = (
        sa.select(entries.c.dirname, entries.c.basename, entries.c.removed_at, entries.c.removed_by, *versions.c)
        .join(versions, versions.c.id == entries.c.version_id)
        .where(entries.c.workspace_id == workspace_id, restorable(now_ns()))
        .order_by(entries.c.dirname, entries.c.basename)
    )
    rows: list[Any] = []
    for condition in _at_or_below(path, after):
        rows.extend(connection.execute(query.where(condition).limit(size + 1 - len(rows))))
        if len(rows) > size:
            break
    token = ""
    if len(rows) > size:
        rows.pop()
        token = page_token_of((rows[-1].dirname, rows[-1].basename))
    return directory_service_pb2.ListTrashResponse(files=[_message(row) for row in rows], next_page_token=token)


def _message(row: Any) -> directory_service_pb2.TrashedFile:
    return directory_service_pb2.TrashedFile(
        path=join_path(row.dirname, row.basename),
        version=version_message(row),
        removed=timestamp(row.removed_at),
        removed_by=row.removed_by,
        expires=timestamp(row.expires_at),
    )


def empty_trash(
    connection: Connection, request: directory_service_pb2.EmptyTrashRequest, _author: str
) -> directory_service_pb2.EmptyTrashResponse:
    """DirectoryService.EmptyTrash, for a bounded number of versions."""
    path = check_path(request.path)
    workspace_id = find_workspace(connection, request.workspace)
    if workspace_id is None:
        return directory_service_pb2.EmptyTrashResponse()
    lock_workspaces(connection, [workspace_id])
    query = (
        sa.select(versions.c.id, entries.c.version_id.label("last"))
        .join(entries, entries.c.id == versions.c.entry_id)
        .where(
            entries.c.workspace_id == workspace_id,
            entries.c.removed_at.is_not(None),
            versions.c.expires_at.is_not(None),
        )
    )
    rows: list[Any] = []
    for condition in _at_or_below(path, None):
        rows.extend(connection.execute(query.where(condition).limit(_VERSIONS_AT_ONCE - len(rows))))
        if len(rows) == _VERSIONS_AT_ONCE:
            break
    ledger = Ledger(connection, now_ns())
    ledger.load(row.id for row in rows)
    for content in ledger.contents.values():
        ledger.let_go(content)
    ledger.settle()
    ledger.save()
    return directory_service_pb2.EmptyTrashResponse(
        files=sum(row.id == row.last for row in rows), remaining=len(rows) == _VERSIONS_AT_ONCE
    )
