"""The list of subtrees whose files are to be placed anew."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir_catalog.schema import placements, workspaces

__all__ = ["overlapping", "place_all_anew", "place_anew"]


def place_anew(connection: Connection, workspace_id: int, path: str) -> None:
    """Have every file at or below ``path`` placed anew, from the beginning."""
    covered = placements.c.path == path
    if path == "/":
        covered = sa.true()
    else:
        covered = sa.or_(covered, sa.and_(placements.c.path >= f"{path}/", placements.c.path < f"{path}0"))
    connection.execute(placements.delete().where(placements.c.workspace_id == workspace_id, covered))
    connection.execute(
        placements.insert().values(workspace_id=workspace_id, path=path, removed=0, after_dirname="", after_basename="")
    )


def place_all_anew(connection: Connection) -> None:
    """Have every file of every workspace placed anew, from the beginning."""
    connection.execute(placements.delete())
    rows = [
        {"workspace_id": row_id, "path": "/", "removed": 0, "after_dirname": "", "after_basename": ""}
        for row_id in connection.scalars(sa.select(workspaces.c.id).order_by(workspaces.c.id))
    ]
    if rows:
        connection.execute(placements.insert(), rows)


def overlapping(path: str, parents: Sequence[str]) -> sa.ColumnElement[bool]:
    """Return the condition for jobs that touch files at or below ``path``, whose parents are ``parents``."""
    if path == "/":
        return sa.true()
    return sa.or_(
        placements.c.path.in_(["/", path, *parents]),
        sa.and_(placements.c.path >= f"{path}/", placements.c.path < f"{path}0"),
    )
