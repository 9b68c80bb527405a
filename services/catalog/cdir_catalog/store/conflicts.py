"""Conflicting copies: contents that lost against another edit of their path and were kept beside it."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir_catalog.schema import entries
from cdir_catalog.store.entries import below, live

__all__ = ["conflicting", "count_conflicts"]


def conflicting(workspace_id: int) -> sa.ColumnElement[bool]:
    """Return the condition for conflicting copies of a workspace."""
    # a comparison rather than a test for null: only then SQLite prefers the index made for the few that there are
    return sa.and_(entries.c.workspace_id == workspace_id, entries.c.conflict_of > "", live)


def count_conflicts(connection: Connection, workspace_id: int, path: str) -> int:
    """Return how many conflicting copies lie below a directory."""
    query = sa.select(sa.func.count()).select_from(entries).where(conflicting(workspace_id), below(path))
    return connection.scalar(query) or 0
