"""Many (dirname, name) pairs as a table to join with: one statement, whatever their number, that uses the index.

(A condition ``(dirname, basename) IN (VALUES …)`` would have SQLite walk over the whole workspace.)
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

__all__ = ["Pairs", "pairs_table"]


class Pairs(NamedTuple):
    """A table of pairs and its two columns. Which pairs they are is said when a statement is executed."""

    table: sa.FromClause
    dirname: sa.ColumnElement[str]
    name: sa.ColumnElement[str]
    has_arrays: bool

    def matching(
        self,
        table: sa.Table,
        dirname: sa.ColumnElement[Any],
        name: sa.ColumnElement[Any],
        workspace_id: int | sa.ColumnElement[int],
        condition: sa.ColumnElement[bool],
    ) -> sa.Join:
        """Return the pairs, each with the rows of a workspace that match it, or with nulls.

        It is an outer join because only that keeps SQLite to this order: look up each pair in turn.
        """
        here = sa.and_(table.c.workspace_id == workspace_id, dirname == self.dirname, name == self.name, condition)
        return self.table.outerjoin(table, here)

    def values(self, pairs: Collection[tuple[str, str]]) -> dict[str, Any]:
        """Return the parameters with which a statement on the table is executed for ``pairs``."""
        if self.has_arrays:
            return {"dirnames": [dirname for dirname, _ in pairs], "names": [name for _, name in pairs]}
        return {"pairs": json.dumps(list(pairs))}


def pairs_table(connection: Connection) -> Pairs:
    """Return the table of pairs for statements on ``connection``."""
    return _pairs(connection.dialect.name)


@functools.cache
def _pairs(dialect: str) -> Pairs:
    if dialect == "postgresql":
        texts = sa.ARRAY(sa.Text())
        rows = (
            sa.func.unnest(sa.bindparam("dirnames", type_=texts), sa.bindparam("names", type_=texts))
            .table_valued(sa.column("dirname", sa.Text()), sa.column("name", sa.Text()))
            .render_derived()
        )
        return Pairs(rows, rows.c.dirname, rows.c.name, has_arrays=True)
    each = sa.func.json_each(sa.bindparam("pairs", type_=sa.Text())).table_valued("value")
    dirname, name = (sa.func.json_extract(each.c.value, place) for place in ("$[0]", "$[1]"))
    return Pairs(each, dirname, name, has_arrays=False)
