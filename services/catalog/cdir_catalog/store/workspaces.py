"""Workspaces: their ids, and the ids of new rows."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.engine import Connection

from cdir_catalog.schema import workspaces

__all__ = ["ensure_workspaces", "find_workspace", "find_workspaces", "reserve_ids"]


_NAMED = sa.select(workspaces.c.name, workspaces.c.id).where(
    workspaces.c.name.in_(sa.bindparam("names", expanding=True))
)


def find_workspaces(connection: Connection, names: Iterable[str]) -> dict[str, int]:
    """Return the ids of those workspaces that exist, by name."""
    rows = connection.execute(_NAMED, {"names": sorted(set(names))})
    return {row.name: row.id for row in rows}


def find_workspace(connection: Connection, name: str) -> int | None:
    """Return the id of a workspace, ``None`` when nothing was ever written to it."""
    return find_workspaces(connection, [name]).get(name)


def ensure_workspaces(connection: Connection, names: Iterable[str]) -> dict[str, int]:
    """Return the ids of workspaces by name; those that do not exist are made."""
    wanted = set(names)
    found = find_workspaces(connection, wanted)
    missing = wanted - found.keys()
    if not missing:
        return found
    rows = [{"name": name, "revision": 0, "files": 0, "bytes": 0} for name in sorted(missing)]
    if connection.dialect.name == "postgresql":
        # two first writers of a workspace may meet here
        connection.execute(postgres_insert(workspaces).on_conflict_do_nothing(), rows)
    else:
        connection.execute(workspaces.insert(), rows)
    return find_workspaces(connection, wanted)


@functools.cache
def _last_id(table: sa.Table) -> sa.Select[Any]:
    return sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0))


def reserve_ids(connection: Connection, table: sa.Table, count: int) -> list[int]:
    """Return ids for ``count`` new rows of ``table``; nobody else gets them."""
    if count == 0:
        return []
    if connection.dialect.name == "postgresql":
        sequence = sa.func.nextval(f"{table.name}_id_seq")
        return list(connection.scalars(sa.select(sequence).select_from(sa.func.generate_series(1, count))))
    last: int = connection.scalar(_last_id(table)) or 0
    return list(range(last + 1, last + count + 1))
