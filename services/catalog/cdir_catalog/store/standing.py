"""How far the status of a tree can be trusted: how old its proofs are, and which copies nobody could repair."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.paths import join_path
from cdir.v1 import directory_service_pb2
from cdir_catalog.schema import entries, is_quarantined, is_settled, providers, replicas, versions
from cdir_catalog.store.entries import below, live
from cdir_catalog.store.proofs import oldest_proof

__all__ = ["oldest_proofs", "quarantined_copies"]

_MOST_QUARANTINED = 20
_MOST_LOOKED_AT = 1000

_CURRENT = entries.join(versions, versions.c.id == entries.c.version_id).join(
    replicas, replicas.c.version_id == versions.c.id
)


def oldest_proofs(
    connection: Connection, workspace_id: int, path: str, registered: Iterable[int]
) -> dict[int, tuple[int | None, bool]]:
    """Return for each provider (by row id) when its good copy that was proven longest ago was proven, and whether one
    never was. For a whole workspace older contents count too: each is then one step into an index."""
    if path == "/":
        return {provider: oldest_proof(connection, provider, workspace_id) for provider in registered}
    never = sa.case((replicas.c.proven_at.is_(None), 1), else_=0)
    rows = connection.execute(
        sa.select(replicas.c.provider_id, sa.func.min(replicas.c.proven_at), sa.func.max(never))
        .select_from(_CURRENT)
        .where(entries.c.workspace_id == workspace_id, below(path), live, is_settled, replicas.c.wanted == 1)
        .group_by(replicas.c.provider_id)
    )
    return {row[0]: (None if row[2] else row[1], bool(row[2])) for row in rows}


def quarantined_copies(
    connection: Connection, workspace_id: int, path: str
) -> list[directory_service_pb2.QuarantinedCopy]:
    """Return some copies at or below ``path`` whose repair failed again and again, by path.

    Of very many, those that are first by path are not looked for.
    """
    # neither sorted here nor bound to a workspace by its entries: either makes SQLite walk over the tree
    query = (
        sa.select(entries.c.dirname, entries.c.basename, providers.c.name, replicas.c.error)
        .select_from(_CURRENT.join(providers, providers.c.id == replicas.c.provider_id))
        .where(
            replicas.c.workspace_id == workspace_id,
            versions.c.entry_id == entries.c.id,  # said once more, for the way from a copy to its entry
            below(path),
            live,
            is_quarantined,
            replicas.c.wanted == 1,
        )
        .limit(_MOST_LOOKED_AT)
    )
    rows = sorted(connection.execute(query), key=lambda row: (row.dirname, row.basename, row.name))
    return [
        directory_service_pb2.QuarantinedCopy(
            path=join_path(row.dirname, row.basename), provider=row.name, error=row.error
        )
        for row in rows[:_MOST_QUARANTINED]
    ]
