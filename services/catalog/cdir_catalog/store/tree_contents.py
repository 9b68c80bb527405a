"""ResolveTree: what lies below a directory, and where its contents can be read.

It is the listing and the resolving of every path in it at once, with the few columns that reading small files takes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.paths import join_path
from cdir.v1 import catalog_service_pb2
from cdir_catalog.schema import replicas
from cdir_catalog.store.entries import require_directory
from cdir_catalog.store.listing import page_size_of, position_of, tree_page
from cdir_catalog.store.policies import Placer
from cdir_catalog.store.replica_messages import ReadOrder
from cdir_catalog.wire import fill_entry

__all__ = ["resolve_tree"]

_COPIES = sa.select(
    replicas.c.version_id,
    replicas.c.provider_id,
    replicas.c.key,
    replicas.c.actual,
    replicas.c.owed,
    replicas.c.wanted,
).where(replicas.c.version_id.in_(sa.bindparam("contents", expanding=True)))


def resolve_tree(
    connection: Connection, request: catalog_service_pb2.ResolveTreeRequest
) -> catalog_service_pb2.ResolveTreeResponse:
    """CatalogService.ResolveTree."""
    size, after = page_size_of(request.page_size), position_of(request.page_token)
    workspace_id = require_directory(connection, request.workspace, request.path)
    response = catalog_service_pb2.ResolveTreeResponse()
    if workspace_id is None:
        return response
    rows, response.next_page_token = tree_page(connection, workspace_id, request.path, after, size)
    copies = _copies(connection, [row.version_row for row in rows if row.version_row is not None])
    files = [join_path(row.dirname, row.basename) for row in rows if row.version_row is not None]
    placer = Placer(connection, workspace_id, files)
    orders: dict[tuple[str, ...], ReadOrder] = {}
    for row in rows:
        found = response.results.add()
        there = copies.get(row.version_row, ())
        fill_entry(found.entry, request.workspace, row, sum(copy.owed and copy.wanted for copy in there))
        if row.version_row is None:
            continue
        found.version.version_id, found.version.size, found.version.sha256 = row.version, row.size, row.sha256
        prefer = tuple(placer.policy(found.entry.path).prefer)
        order = orders.get(prefer)
        if order is None:
            order = orders[prefer] = ReadOrder(placer.by_id, prefer)
        for copy in order.readable(there):
            provider = placer.by_id[copy.provider_id]
            found.replicas.add(
                provider_id=provider.provider_id,
                provider=provider.name,
                provider_revision=provider.revision,
                key=copy.key,
            )
    return response


def _copies(connection: Connection, contents: Sequence[int]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = defaultdict(list)
    if contents:
        for row in connection.execute(_COPIES, {"contents": contents}):
            found[row.version_id].append(row)
    return found
