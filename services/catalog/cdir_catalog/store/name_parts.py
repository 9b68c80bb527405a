"""Searching by a part of a name: what a pattern means, and the index over three-character parts of names.

Each database has an index of its own for that: SQLite the trigrams of its full-text module, in the table
``entry_names`` that triggers keep; PostgreSQL the extension ``pg_trgm``. Either may be missing (the migration says
when), and neither knows parts shorter than three characters.
"""

from __future__ import annotations

import re

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import InvalidArgument
from cdir.paths import fold_name
from cdir_catalog.schema import entries

__all__ = ["NamePattern", "candidates_of"]

_MOST_CANDIDATES = 5_000
"""Beyond these a walk over the names in order fills a page soon enough, and the index would be read in vain."""

_PART = 3

_NAME = sa.func.coalesce(entries.c.folded, entries.c.basename)


class NamePattern:
    """A part of a name, or a glob of ``*`` and ``?`` for a whole one; case does not matter."""

    def __init__(self, text: str) -> None:
        """Raise :class:`InvalidArgument` when it is empty or cannot be."""
        if not text:
            raise InvalidArgument("the pattern is empty; give a part of the name, or a glob such as '*.csv'")
        if "\0" in text:
            raise InvalidArgument("the pattern has a zero character, which no name has")
        folded = fold_name(text)
        escaped = folded.replace("!", "!!").replace("%", "!%").replace("_", "!_")
        glob = "*" in folded or "?" in folded
        like = escaped.replace("*", "%").replace("?", "_") if glob else f"%{escaped}%"
        # written out, not bound: PostgreSQL estimates how many names match only where it can see the pattern
        self.matches: sa.ColumnElement[bool] = _NAME.like(sa.literal(like, literal_execute=True), escape="!")
        """The condition for entries whose name matches, on both databases."""
        self.parts = sorted(
            {
                stretch[begin : begin + _PART]
                for stretch in re.split(r"[*?]", folded)
                for begin in range(len(stretch) - _PART + 1)
            }
        )
        """The three-character parts that every matching name has."""


def candidates_of(connection: Connection, pattern: NamePattern) -> list[int] | None:
    """Return the row ids of all entries that may match the pattern, of every workspace and removed ones among them.

    ``None`` when the index cannot tell, or when they are too many to be of use.
    """
    if not pattern.parts:
        return None
    if connection.dialect.name == "postgresql":
        index = sa.text("SELECT to_regclass('ix_entries_name') IS NOT NULL")
        query: sa.Executable = sa.select(entries.c.id).where(pattern.matches).limit(_MOST_CANDIDATES + 1)
    else:
        index = sa.text("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'entry_names'")
        wanted = " ".join('"' + part.replace('"', '""') + '"' for part in pattern.parts)
        query = sa.text("SELECT rowid FROM entry_names WHERE entry_names MATCH :wanted LIMIT :most").bindparams(
            wanted=wanted, most=_MOST_CANDIDATES + 1
        )
    if not connection.scalar(index):
        return None
    found = list(connection.scalars(query))
    return found if len(found) <= _MOST_CANDIDATES else None
