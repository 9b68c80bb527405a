"""Statements that run over and over, on SQLite without being bound and wrapped anew each time.

For a small query SQLAlchemy takes several times as long as SQLite itself: it looks the text up by all that the query is
made of, and prepares parameters and result as if for the first time. For many rows to insert or change it prepares the
values of each as if it were the only one. A statement that is made once and run many times needs that once.
"""

from __future__ import annotations

import itertools
import operator
import re
import sqlite3
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult, Engine, IteratorResult, Result
from sqlalchemy.engine.result import SimpleResultMetaData

__all__ = ["PreparedConnection", "PreparedQueries"]

_MANY_ROWS = (sa.Insert, sa.Update, sa.TextClause)
_ONE_SET = (sa.Select, sa.Update, sa.Delete)
"""Kinds of statements that are run directly, with the values of many rows and with one set of values."""
_MOST_ROWS = 4096
_MOST_LISTED = 1024
_MOST_QUERIES = 1000
"""What goes beyond takes the usual way."""
_EXACTLY_LISTED = 16
"""Up to so many values a list has a text of its own; longer ones share a text with those up to the next power of two,
their last value being repeated, which does not change what is in the list."""
_AT_ONCE = (64, 16, 4)
"""Rows of one statement, as many as there are; few texts, since each is prepared by itself."""
_BY_ONE = re.compile(r"^UPDATE .* WHERE \S+ = \?$", re.DOTALL)
"""An UPDATE whose last value alone says which row it is for."""
_Bind = tuple[str | None, int, Any, Callable[[Any], Any] | None]
"""Where a value comes from: a parameter (None: the constant that follows) and the place in its list (-1: it is none);
and what makes it one of the driver's."""


class _Query:
    """A SELECT, or a change by conditions, as it was compiled when it ran with parameters of these names."""

    def __init__(self, result: CursorResult[Any], given: Mapping[str, Any]) -> None:
        context: Any = result.context
        # what gives columns their names and types; there is no public way to it
        self.columns = result._metadata if result.returns_rows else SimpleResultMetaData(())
        self.changes: bool = context.isupdate or context.isdelete
        self._compiled = context.compiled
        self._names = frozenset(given)
        ran_with = context.compiled_parameters[0]
        expanded: dict[str, list[str]] = context._expanded_parameters
        self._lists = sorted(expanded.keys() & self._names)
        constants = {name: value for name, value in ran_with.items() if name not in given}
        constants.update({key: [ran_with[name] for name in names] for key, names in expanded.items()})
        self._constants = constants
        self._texts: dict[tuple[int, ...], tuple[str, list[_Bind]]] = {}

    def bound(self, given: Mapping[str, Any]) -> tuple[str, list[Any]] | None:
        """Return its text and values; ``None`` where it has to take the usual way."""
        if given.keys() != self._names:
            return None
        lengths = []
        for key in self._lists:
            listed = given[key]
            if not isinstance(listed, list) or len(listed) > _MOST_LISTED:
                return None
            length = len(listed)
            if length > _EXACTLY_LISTED:
                length = 1 << (length - 1).bit_length()
                given = {**given, key: listed + listed[-1:] * (length - len(listed))}
            lengths.append(length)
        found = self._texts.get(tuple(lengths))
        if found is None:
            found = self._texts[tuple(lengths)] = self._text(given)
        text, binds = found
        values = []
        for name, place, value, process in binds:
            if name is not None:
                value = given[name] if place < 0 else given[name][place]
            values.append(value if process is None else process(value))
        return text, values

    def _text(self, given: Mapping[str, Any]) -> tuple[str, list[_Bind]]:
        state = self._compiled.construct_expanded_state({**self._constants, **given})
        processors = {**self._compiled._bind_processors, **state.processors}
        listed = {
            name: (key, place) for key in self._lists for place, name in enumerate(state.parameter_expansion[key])
        }
        binds: list[_Bind] = []
        for name in state.positiontup:
            key, place = listed.get(name, (name if name in given else None, -1))
            binds.append((key, place, None if key is not None else state.parameters[name], processors.get(name)))
        return state.statement, binds


class _Change:
    """An INSERT or UPDATE of many rows as it was compiled when it ran with columns of these names.

    Many rows go into one statement: before each that it runs, the driver lets other threads go on and then waits for
    its turn. Their keys differ where it is an UPDATE, or the last row with a key would not be the one that counts.
    """

    def __init__(self, result: CursorResult[Any], given: Mapping[str, Any]) -> None:
        context: Any = result.context
        compiled = context.compiled
        places: Sequence[str] = compiled.positiontup
        self.text: str = context.statement
        self._names = frozenset(given)
        self._values: Callable[[Mapping[str, Any]], tuple[Any, ...]] = operator.itemgetter(*places)
        processors = compiled._bind_processors
        self._processed = [(place, processors[name]) for place, name in enumerate(places) if name in processors]
        row = f"({', '.join('?' * len(places))})"
        together: Callable[[str, str, int], str] | None = None
        if self.text.count(f" VALUES {row}") == 1:
            together = _inserting
        elif _BY_ONE.search(self.text) and self.text.count(" WHERE ") == 1:
            together = _updating
        self._by_key = together is _updating
        self._texts = {} if together is None else {size: together(self.text, row, size) for size in _AT_ONCE}

    @staticmethod
    def suits(result: CursorResult[Any], given: Mapping[str, Any]) -> bool:
        """Whether every value in its text, of which there are several, is one of the given ones."""
        context: Any = result.context
        compiled = context.compiled
        places = compiled.positiontup
        return len(places) > 1 and given.keys() >= set(places) and not compiled.post_compile_params

    def run(self, driver: Any, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Make the change; false where it takes the usual way since not all rows have the names of the first."""
        if rows[0].keys() != self._names:
            return False
        bound = [self._bound(row) for row in rows]
        done = 0
        if not self._by_key or len({values[-1] for values in bound}) == len(bound):
            for size, text in self._texts.items():
                while len(bound) - done >= size:
                    values = itertools.chain.from_iterable(bound[done : done + size])
                    driver.execute(text, list(values)).close()
                    done += size
        if done < len(bound):
            driver.executemany(self.text, bound[done:]).close()
        return True

    def _bound(self, row: Mapping[str, Any]) -> Sequence[Any]:
        values = self._values(row)
        if not self._processed:
            return values
        changed = list(values)
        for place, process in self._processed:
            changed[place] = process(changed[place])
        return changed


def _inserting(text: str, row: str, size: int) -> str:
    """Return the INSERT of so many rows at once."""
    return text.replace(f" VALUES {row}", f" VALUES {', '.join([row] * size)}")


def _updating(text: str, row: str, size: int) -> str:
    """Return the UPDATE of so many rows at once, each with the values that have its key."""
    parts = text.replace(" WHERE ", " FROM given WHERE ").split("?")
    names = [f"v{place}" for place in range(len(parts) - 1)]
    taken = "".join(f"{part}given.{name}" for part, name in zip(parts[:-1], names, strict=True))
    return f"WITH given({', '.join(names)}) AS (VALUES {', '.join([row] * size)}) {taken}"


class PreparedQueries:
    """The statements that the connections of one engine have run. Threads may share them."""

    def __init__(self) -> None:
        self._queries: weakref.WeakKeyDictionary[Any, _Query | bool] = weakref.WeakKeyDictionary()
        """By statement; True for one that has run once, False for one that has to take the usual way."""
        self._changes: weakref.WeakKeyDictionary[Any, _Change | bool] = weakref.WeakKeyDictionary()
        """The same for those of many rows."""

    def get(self, statement: sa.Executable) -> _Query | None:
        """Return the query if it is to be run directly."""
        found = self._queries.get(statement)
        return found if isinstance(found, _Query) else None

    def learn(self, statement: sa.Executable, result: CursorResult[Any], given: Mapping[str, Any]) -> None:
        """Take note that a query ran; one that runs for the second time is kept, since it was made to be run again."""
        known = self._queries.get(statement)
        if known is None and len(self._queries) < _MOST_QUERIES:
            self._queries[statement] = True
        elif known is True:
            context: Any = result.context
            self._queries[statement] = not context.compiled.literal_execute_params and _Query(result, given)

    def get_change(self, statement: sa.Executable) -> _Change | None:
        """As :meth:`get`, for one of many rows."""
        found = self._changes.get(statement)
        return found if isinstance(found, _Change) else None

    def learn_change(self, statement: sa.Executable, result: CursorResult[Any], given: Mapping[str, Any]) -> None:
        """As :meth:`learn`; ``given`` is the first row."""
        known = self._changes.get(statement)
        if known is None and len(self._changes) < _MOST_QUERIES:
            self._changes[statement] = True
        elif known is True:
            self._changes[statement] = _Change(result, given) if _Change.suits(result, given) else False

    def drop(self, statement: sa.Executable) -> None:
        """Let a query take the usual way next time."""
        self._queries[statement] = False


class _Changed(IteratorResult[Any]):
    """What a change by conditions returns: what it was to return of the rows, and how many they were."""

    def __init__(self, columns: Any, rows: Iterator[Any], rowcount: int) -> None:
        super().__init__(columns, rows)
        self.rowcount = rowcount


class PreparedConnection(Connection):
    """A connection to SQLite that runs the small queries and the changes among :class:`PreparedQueries` directly.

    What a query or a change by conditions returns is the same as on any other connection; so are errors, since one
    that fails, and so has changed nothing, runs once more the usual way. A change of many rows returns nothing, and
    its errors are those of any other connection as well.
    """

    def __init__(self, engine: Engine, queries: PreparedQueries) -> None:
        super().__init__(engine)
        self._queries = queries

    def execute(self, statement: Any, parameters: Any = None, *, execution_options: Any = None) -> Any:
        kind = type(statement)
        if kind in _MANY_ROWS and not execution_options and isinstance(parameters, list) and parameters:
            return self._change(statement, parameters)
        if kind not in _ONE_SET or execution_options or isinstance(parameters, list):
            return super().execute(statement, parameters, execution_options=execution_options)
        given: Mapping[str, Any] = parameters or {}
        query = self._queries.get(statement)
        if query is not None and self.in_transaction():
            found = self._run(statement, query, given)
            if found is not None:
                return found
        result = super().execute(statement, parameters)
        if query is None:
            self._queries.learn(statement, result, given)
        return result

    def scalar(self, statement: Any, parameters: Any = None, *, execution_options: Any = None) -> Any:
        return self.execute(statement, parameters, execution_options=execution_options).scalar()

    def _run(self, statement: sa.Executable, query: _Query, given: Mapping[str, Any]) -> Result[Any] | None:
        bound = query.bound(given)
        if bound is None:
            return None
        driver: Any = self.connection.dbapi_connection
        try:
            cursor = driver.execute(*bound)
            rows = cursor.fetchall() if query.changes else cursor.fetchmany(_MOST_ROWS)
            cursor.close()
        except sqlite3.Error:
            return None
        if query.changes:
            return _Changed(query.columns, iter(rows), rowcount=cursor.rowcount)
        if len(rows) == _MOST_ROWS:
            # there may be any number: they must not all be in memory at once
            self._queries.drop(statement)
            return None
        return IteratorResult(query.columns, iter(rows))

    def _change(self, statement: sa.Executable, rows: list[Mapping[str, Any]]) -> Result[Any]:
        change = self._queries.get_change(statement)
        if change is not None and self.in_transaction():
            try:
                if change.run(self.connection.dbapi_connection, rows):
                    return IteratorResult(SimpleResultMetaData(()), iter(()))
            except sqlite3.Error as error:
                # not once more: the rows before the one that failed are there already
                raise sa.exc.DBAPIError.instance(change.text, [], error, sqlite3.Error, hide_parameters=True) from error
        result = super().execute(statement, rows)
        if change is None:
            self._queries.learn_change(statement, result, rows[0])
        return result
