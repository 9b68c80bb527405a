"""What writing transactions lock, in one order: first the configuration, then workspaces by id.

SQLite has one writer at a time and needs none of it. On PostgreSQL a transaction that changes files shares the lock of
the configuration (providers and policies stay as they are while it runs) and holds the rows of its workspaces.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir_catalog.schema import workspaces

__all__ = ["change_configuration", "lock_workspaces"]

_CONFIGURATION = 0x63646973


def change_configuration(connection: Connection) -> None:
    """Wait for every writing transaction to end and keep others out, to change providers or policies."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CONFIGURATION)))


def lock_workspaces(connection: Connection, ids: Iterable[int]) -> None:
    """Be the only transaction that changes files of these workspaces, until it ends."""
    if connection.dialect.name != "postgresql":
        return
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock_shared(_CONFIGURATION)))
    wanted = sorted(set(ids))
    if wanted:
        connection.execute(
            sa.select(workspaces.c.id).where(workspaces.c.id.in_(wanted)).order_by(workspaces.c.id).with_for_update()
        ).all()
