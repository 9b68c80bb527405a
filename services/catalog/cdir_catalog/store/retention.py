"""Retention: how long older contents are kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.v1 import catalog_service_pb2
from cdir_catalog.clock import SECOND, now_ns
from cdir_catalog.schema import changes, entries, versions
from cdir_catalog.store.ledger import Ledger
from cdir_catalog.store.locks import lock_workspaces

__all__ = ["kept", "reap_versions", "trim_versions"]

_CHANGES_KEPT = 30 * 24 * 3600 * SECOND
"""How far back the change log reaches."""

_MAX_LIMIT = 1000

kept = sa.or_(versions.c.superseded_at.is_(None), versions.c.expires_at.is_not(None))
"""The condition for versions that can be had; one that was let go is only waiting to be cleared away."""


def trim_versions(connection: Connection, keep: Mapping[int, int], now: int) -> None:
    """Let those older contents expire now that are more than ``keep`` says, by entry row id; the newest stay."""
    if not keep:
        return
    rows = connection.execute(
        sa.select(versions.c.id, versions.c.entry_id, versions.c.expires_at)
        .where(versions.c.entry_id.in_(keep), versions.c.expires_at.is_not(None))
        .order_by(versions.c.entry_id, versions.c.generation.desc())
    )
    kept: dict[int, int] = defaultdict(int)
    expired = []
    for row in rows:
        kept[row.entry_id] += 1
        if kept[row.entry_id] > keep[row.entry_id] and row.expires_at > now:
            expired.append(row.id)
    if expired:
        connection.execute(versions.update().where(versions.c.id.in_(expired)).values(expires_at=now))


_EXPIRED = (
    sa.select(versions.c.id, entries.c.workspace_id)
    .join(entries, entries.c.id == versions.c.entry_id)
    .where(versions.c.expires_at <= sa.bindparam("now", type_=sa.BigInteger()))
    .order_by(versions.c.expires_at)
    .limit(sa.bindparam("most", type_=sa.Integer()))
)
_OLD_CHANGES = (
    sa.select(changes.c.workspace_id, sa.func.max(changes.c.revision).label("revision"))
    .where(changes.c.changed_at < sa.bindparam("before", type_=sa.BigInteger()))
    .group_by(changes.c.workspace_id)
)


def reap_versions(
    connection: Connection, request: catalog_service_pb2.ReapVersionsRequest, _author: str
) -> catalog_service_pb2.ReapVersionsResponse:
    """CatalogService.ReapVersions; it also shortens the change log."""
    now = now_ns()
    limit = min(request.limit or 500, _MAX_LIMIT)
    rows = connection.execute(_EXPIRED, {"now": now, "most": limit}).all()
    if rows:
        lock_workspaces(connection, {row.workspace_id for row in rows})
        ledger = Ledger(connection, now)
        ledger.load(row.id for row in rows)
        for content in ledger.contents.values():
            if not content.current:
                ledger.let_go(content)
        ledger.settle()
        ledger.save()
    _prune_changes(connection, now - _CHANGES_KEPT, limit)
    return catalog_service_pb2.ReapVersionsResponse(reaped=len(rows))


def _prune_changes(connection: Connection, before: int, limit: int) -> None:
    """Delete old changes, oldest first; the log keeps beginning with a revision and having no gaps."""
    for row in connection.execute(_OLD_CHANGES, {"before": before}).all():
        first = connection.scalar(
            sa.select(sa.func.min(changes.c.revision)).where(changes.c.workspace_id == row.workspace_id)
        )
        last = min(row.revision, (first or 0) + limit - 1)
        connection.execute(
            changes.delete().where(changes.c.workspace_id == row.workspace_id, changes.c.revision <= last)
        )
