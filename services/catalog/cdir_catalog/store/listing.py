"""Listing and search, cut into pages by key.

The order is (dirname, basename) in bytes. The entries below a directory are those whose dirname is the directory, and
those whose dirname begins with it and a slash; the two are ranges of one index, read one after the other. (Names such
as ``a-b`` sort between ``a`` and ``a/``, so that one range would take in strangers.)
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import InvalidArgument
from cdir.v1 import directory_service_pb2, entry_pb2
from cdir_catalog.schema import entries
from cdir_catalog.store.conflicts import conflicting
from cdir_catalog.store.entries import (
    ENTRY_COLUMNS,
    entries_with_content,
    entry_with_owed,
    live,
    owed_counts,
    require,
    require_directory,
)
from cdir_catalog.store.name_parts import NamePattern, candidates_of
from cdir_catalog.wire import DIRECTORY, entry_message

__all__ = [
    "Position",
    "list_entries",
    "page_size_of",
    "page_token_of",
    "position_of",
    "search_entries",
    "subtree_ranges",
    "tree_page",
]

_DEFAULT_PAGE = 1000
_LARGEST_PAGE = 10_000
_SEARCH_CHUNK = 20_000

Position = tuple[str, str]
"""The (dirname, basename) after which a page begins."""


def page_size_of(size: int) -> int:
    """Return how many items a page has, for the ``page_size`` of a request."""
    if size < 0:
        raise InvalidArgument("page_size cannot be negative")
    return min(size or _DEFAULT_PAGE, _LARGEST_PAGE)


def page_token_of(position: Sequence[str]) -> str:
    """Return the token of the page that begins after ``position``."""
    return base64.urlsafe_b64encode("\0".join(position).encode()).decode()


def position_of(token: str) -> Position | None:
    """Return where the page of a token begins; ``None`` for the first page."""
    if not token:
        return None
    try:
        dirname, basename = base64.urlsafe_b64decode(token.encode()).decode().split("\0")
    except (ValueError, binascii.Error):
        raise InvalidArgument("the page_token is none that a listing returned") from None
    return dirname, basename


def subtree_ranges(
    path: str, after: Position | None, *, recursive: bool = True, table: sa.Table = entries
) -> Iterator[sa.ColumnElement[bool]]:
    """Yield conditions, each one range of the listing's index, that cover what lies below ``path``, in order.

    ``table`` is another one that has ``dirname`` and ``basename`` and an index over them.
    """
    here = dirname, basename = table.c.dirname, table.c.basename
    if path == "/" and recursive:
        yield sa.true() if after is None else sa.tuple_(*here) > sa.tuple_(*map(sa.literal, after))
        return
    if after is None or after[0] == path:
        yield sa.and_(dirname == path, basename > ("" if after is None else after[1]))
    if recursive:
        begin = (f"{path}/", "") if after is None else max(after, (f"{path}/", ""), key=_bytewise)
        yield sa.and_(sa.tuple_(*here) > sa.tuple_(*map(sa.literal, begin)), dirname < f"{path}0")


def _bytewise(position: Position) -> tuple[bytes, bytes]:
    return position[0].encode(), position[1].encode()


def list_entries(
    connection: Connection, request: directory_service_pb2.ListEntriesRequest
) -> directory_service_pb2.ListEntriesResponse:
    """DirectoryService.ListEntries."""
    size = page_size_of(request.page_size)
    after = position_of(request.page_token)
    workspace_id, row = require(connection, request.workspace, request.path)
    if row is not None and row.kind != DIRECTORY:
        shown = [] if request.kind == DIRECTORY else [entry_with_owed(connection, request.workspace, row)]
        return directory_service_pb2.ListEntriesResponse(entries=shown)
    if workspace_id is None:
        return directory_service_pb2.ListEntriesResponse()
    conditions = [entries.c.workspace_id == workspace_id, live]
    if request.kind:
        conditions.append(entries.c.kind == request.kind)
    if request.conflicts:
        conditions.append(entries.c.id.in_(sa.select(entries.c.id).where(conflicting(workspace_id))))
    rows, token = _page(connection, request.path, after, size, conditions, recursive=request.recursive)
    return directory_service_pb2.ListEntriesResponse(
        entries=_messages(connection, request.workspace, rows), next_page_token=token
    )


def tree_page(
    connection: Connection, workspace_id: int, path: str, after: Position | None, size: int
) -> tuple[list[Any], str]:
    """Return the rows of a page of everything below ``path``, and the token of the next one."""
    return _page(connection, path, after, size, [entries.c.workspace_id == workspace_id, live], recursive=True)


def _page(
    connection: Connection,
    path: str,
    after: Position | None,
    size: int,
    conditions: Sequence[sa.ColumnElement[bool]],
    *,
    recursive: bool,
) -> tuple[list[Any], str]:
    rows: list[Any] = []
    for condition in subtree_ranges(path, after, recursive=recursive):
        query = (
            entries_with_content(*ENTRY_COLUMNS)
            .where(*conditions, condition)
            .order_by(entries.c.dirname, entries.c.basename)
            .limit(size + 1 - len(rows))
        )
        rows.extend(connection.execute(query))
        if len(rows) > size:
            rows.pop()
            return rows, page_token_of((rows[-1].dirname, rows[-1].basename))
    return rows, ""


def _messages(connection: Connection, workspace: str, rows: list[Any]) -> list[entry_pb2.Entry]:
    owed = owed_counts(connection, [row.version_row for row in rows if row.version_row is not None])
    return [entry_message(workspace, row, owed.get(row.version_row, 0)) for row in rows]


def search_entries(
    connection: Connection, request: directory_service_pb2.SearchEntriesRequest
) -> directory_service_pb2.SearchEntriesResponse:
    """DirectoryService.SearchEntries.

    Names that are rare come from the index over parts of names. Where it cannot help, because the part is too short or
    most names have it, one page after another walks over the names; such a page ends when it is full or when a bounded
    number of names was looked at, so that it may be short, even empty, and still have a next one.
    """
    size = page_size_of(request.page_size)
    after = position_of(request.page_token)
    pattern = NamePattern(request.pattern)
    workspace_id = require_directory(connection, request.workspace, request.path)
    if workspace_id is None:
        return directory_service_pb2.SearchEntriesResponse()
    candidates = candidates_of(connection, pattern)
    if candidates is None:
        hits, token = _walk(connection, workspace_id, request.path, after, pattern, size)
    else:
        hits, token = _among(connection, candidates, workspace_id, request.path, after, pattern, size)
    return _hits(connection, request.workspace, hits, token)


def _among(
    connection: Connection,
    candidates: list[int],
    workspace_id: int,
    path: str,
    after: Position | None,
    pattern: NamePattern,
    size: int,
) -> tuple[list[int], str]:
    """Return the page of those candidates that match, and the token of the next one."""
    if not candidates:
        return [], ""
    # by row id and nothing else: a database may think little of a long list, and walk over the tree instead
    columns = (entries.c.workspace_id, entries.c.removed_at, entries.c.id, entries.c.dirname, entries.c.basename)
    query = sa.select(*columns).where(entries.c.id.in_(candidates), pattern.matches)
    inside = f"{path.rstrip('/')}/"
    found = sorted(
        (_bytewise((row.dirname, row.basename)), row.id)
        for row in connection.execute(query)
        if row.workspace_id == workspace_id
        and row.removed_at is None
        and f"{row.dirname}/".startswith(inside)
        and (after is None or _bytewise((row.dirname, row.basename)) > _bytewise(after))
    )
    page = found[:size]
    token = page_token_of([part.decode() for part in page[-1][0]]) if len(found) > size else ""
    return [row_id for _, row_id in page], token


def _walk(
    connection: Connection, workspace_id: int, path: str, after: Position | None, pattern: NamePattern, size: int
) -> tuple[list[int], str]:
    """Return what matches of the names that follow, and the token of where the next page goes on."""
    left = _SEARCH_CHUNK
    hits: list[int] = []
    for condition in subtree_ranges(path, after):
        query = (
            sa.select(entries.c.id, entries.c.dirname, entries.c.basename, pattern.matches.label("hit"))
            .where(entries.c.workspace_id == workspace_id, live, condition)
            .order_by(entries.c.dirname, entries.c.basename)
            .limit(left)
        )
        for row in connection.execute(query).all():
            left -= 1
            if row.hit:
                hits.append(row.id)
            if len(hits) == size or left == 0:
                return hits, page_token_of((row.dirname, row.basename))
    return hits, ""


def _hits(
    connection: Connection, workspace: str, ids: list[int], token: str
) -> directory_service_pb2.SearchEntriesResponse:
    rows: list[Any] = []
    if ids:
        query = entries_with_content().where(entries.c.id.in_(ids)).order_by(entries.c.dirname, entries.c.basename)
        rows = list(connection.execute(query))
    return directory_service_pb2.SearchEntriesResponse(
        entries=_messages(connection, workspace, rows), next_page_token=token
    )
