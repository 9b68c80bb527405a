"""Many (dirname, name) pairs as a table to join with: one statement, whatever their number, that uses the index.

(A condition ``(dirname, basename) IN (VALUES …)`` would have SQLite walk over the whole workspace.)
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

__all__ = ["Pairs", "pairs_table"]


class Pairs(NamedTuple):
    """A table of pairs and its two columns."""

    table: sa.FromClause
    dirname: sa.ColumnElement[str]
    name: sa.ColumnElement[str]

    def matching(
        self,
        table: sa.Table,
        dirname: sa.ColumnElement[Any],
        name: sa.ColumnElement[Any],
        workspace_id: int,
        condition: sa.ColumnElement[bool],
    ) -> sa.Join:
        """Return the pairs, each with the rows of a workspace that match it, or with nulls.

        It is an outer join because only that keeps SQLite to this order: look up each pair in turn.
        """
        here = sa.and_(table.c.workspace_id == workspace_id, dirname == self.dirname, name == self.name, condition)
        return self.table.outerjoin(table, here)


def pairs_table(connection: Connection, pairs: Collection[tuple[str, str]]) -> Pairs:
    """Return ``pairs`` as a table for one statement on ``connection``."""
    if connection.dialect.name == "postgresql":
        texts = sa.ARRAY(sa.Text())
        rows = (
            sa.func.unnest(
                sa.bindparam("dirnames", [dirname for dirname, _ in pairs], type_=texts, unique=True),
                sa.bindparam("names", [name for _, name in pairs], type_=texts, unique=True),
            )
            .table_valued(sa.column("dirname", sa.Text()), sa.column("name", sa.Text()))
            .render_derived()
        )
        return Pairs(rows, rows.c.dirname, rows.c.name)
    each = sa.func.json_each(json.dumps(list(pairs))).table_valued("value")
    return Pairs(each, sa.func.json_extract(each.c.value, "$[0]"), sa.func.json_extract(each.c.value, "$[1]"))
