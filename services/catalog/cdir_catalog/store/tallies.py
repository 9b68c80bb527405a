"""The rule of :func:`cdir_catalog.store.copies.contribution` as SQL, for statements over many rows at once."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir_catalog.keys import ASIDE_PREFIX
from cdir_catalog.schema import entries, replicas, versions
from cdir_catalog.store.copies import OK, QUARANTINE_ATTEMPTS
from cdir_catalog.store.ledger import add_counters

__all__ = ["Tally", "aside_key_sql", "natural_key_sql", "tally_columns"]


def aside_key_sql(version_id: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """Return :func:`cdir_catalog.keys.aside_key` as SQL."""
    return sa.literal(ASIDE_PREFIX) + sa.func.substr(version_id, 1, 2) + "/" + version_id


def natural_key_sql(workspace: str) -> sa.ColumnElement[str]:
    """Return :func:`cdir.paths.key_of` of entries that lie in a directory other than the root, as SQL."""
    path = entries.c.dirname + "/" + entries.c.basename
    return sa.literal(f"@{workspace}") + path if workspace else sa.func.substr(path, 2)


def tally_columns() -> list[sa.ColumnElement[Any]]:
    """Return the sums of files, bytes, owed, quarantined and removals over replicas joined with their versions."""
    current = versions.c.superseded_at.is_(None)
    held = sa.and_(current, replicas.c.actual == OK)
    owed = sa.and_(current, replicas.c.wanted == 1, replicas.c.owed == 1)
    quarantined = sa.and_(owed, replicas.c.attempts >= QUARANTINE_ATTEMPTS)
    removal = sa.and_(replicas.c.owed == 1, sa.or_(~current, replicas.c.wanted == 0))
    return [
        sa.func.coalesce(sa.func.sum(sa.case((condition, value), else_=0)), 0)
        for condition, value in (
            (held, sa.literal(1)),
            (held, versions.c.size),
            (owed, sa.literal(1)),
            (quarantined, sa.literal(1)),
            (removal, sa.literal(1)),
        )
    ]


class Tally:
    """Keeps the counters right around bulk statements: count the same versions before and after them."""

    def __init__(self, connection: Connection, workspace_id: int, chosen: sa.Select[Any]) -> None:
        """``chosen`` selects the row ids of the versions whose copies the bulk statements change."""
        self._connection = connection
        self._workspace_id = workspace_id
        self._chosen = chosen
        self._before = self._count()

    def _count(self) -> dict[int, tuple[int, ...]]:
        rows = self._connection.execute(
            sa.select(replicas.c.provider_id, *tally_columns())
            .select_from(replicas.join(versions, versions.c.id == replicas.c.version_id))
            .where(replicas.c.version_id.in_(self._chosen))
            .group_by(replicas.c.provider_id)
        )
        return {row[0]: tuple(map(int, row[1:])) for row in rows}

    def save(self) -> None:
        """Add the difference since it was made."""
        after = self._count()
        deltas: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
        for sign, counts in ((-1, self._before), (1, after)):
            for provider, values in counts.items():
                delta = deltas[self._workspace_id, provider]
                for index, value in enumerate(values):
                    delta[index] += sign * value
        add_counters(self._connection, deltas)
