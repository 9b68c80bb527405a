"""The access of copies at their providers: which can be compared with what was set, and owing it again.

Others may change it there without cdir. What was set is then asked for once more, by the debt that every access control
list is; so a list that is set meanwhile is never undone, and an interrupted one is still owed.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import NotFound
from cdir.v1 import entry_pb2, scrub_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.schema import is_settled, replicas
from cdir_catalog.store.intents import check_batch
from cdir_catalog.store.ledger import Ledger
from cdir_catalog.store.locks import lock_workspaces
from cdir_catalog.store.providers import provider_by_id

__all__ = ["owe_access", "read_access"]

_DEFAULT_LIMIT = 100
_LARGEST_LIMIT = 1000


def read_access(connection: Connection, request: scrub_pb2.ReadAccessRequest) -> scrub_pb2.ReadAccessResponse:
    """CatalogService.ReadAccess."""
    provider = provider_by_id(connection, request.provider_id)
    if provider is None:
        raise NotFound("this provider is not registered any more", provider=request.provider_id)
    query = (
        sa.select(replicas.c.id, replicas.c.key, replicas.c.acl, replicas.c.acl_state)
        .where(
            replicas.c.provider_id == provider.id,
            replicas.c.acl.is_not(None),
            replicas.c.id > request.after,
            is_settled,
            replicas.c.wanted == 1,
        )
        .order_by(replicas.c.id)
        .limit(min(request.limit or _DEFAULT_LIMIT, _LARGEST_LIMIT))
    )
    if request.top:
        inside = sa.and_(replicas.c.key >= f"{request.top}/", replicas.c.key < f"{request.top}0")
        query = query.where(sa.or_(replicas.c.key == request.top, inside))
    return scrub_pb2.ReadAccessResponse(
        items=[
            scrub_pb2.AccessItem(
                access_id=row.id, key=row.key, asked=entry_pb2.Acl.FromString(row.acl), state=row.acl_state
            )
            for row in connection.execute(query)
        ]
    )


def owe_access(
    connection: Connection, request: scrub_pb2.OweAccessRequest, _author: str
) -> scrub_pb2.OweAccessResponse:
    """CatalogService.OweAccess."""
    check_batch(request.doubts)
    doubts = {doubt.item.access_id: doubt for doubt in request.doubts}
    rows = connection.execute(
        sa.select(replicas.c.version_id, replicas.c.workspace_id).where(
            replicas.c.id.in_(doubts), replicas.c.version_id.is_not(None)
        )
    ).all()
    lock_workspaces(connection, {row.workspace_id for row in rows})
    ledger = Ledger(connection, now_ns())
    ledger.load({row.version_id for row in rows})
    owed = []
    for content in ledger.contents.values():
        for copy in content.copies:
            doubt = doubts.get(copy.id or 0)
            if doubt is None or copy.owed or copy.key != doubt.item.key:
                continue
            if copy.acl == doubt.item.asked.SerializeToString(deterministic=True):
                copy.forget_acl()
                copy.error = doubt.error
                owed.append(doubt.item.access_id)
    ledger.settle()
    ledger.save()
    return scrub_pb2.OweAccessResponse(owed=sorted(owed))
