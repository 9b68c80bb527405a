"""The catalog's database without threads: real store functions on one SQLite connection in memory.

What is committed outlives a simulated crash, as the file of a real one does; what ran before its answer came back is
committed without anybody knowing.
"""

from __future__ import annotations

import asyncio
import functools
import random
import sqlite3
from collections.abc import AsyncGenerator, Iterator
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool

from cdir_catalog.database import Database, StoreFunction
from cdir_catalog.prepared import PreparedConnection, PreparedQueries

__all__ = ["InlineDatabase", "MemoryFile"]

T = TypeVar("T")

_SLOW_SHARE = 0.2
_SLOWEST = 0.02


def _connect() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", cached_statements=512)
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=ON").close()
    return connection


class DirectDialect(SQLiteDialect_pysqlite):
    """Gives transactions and savepoints, of which every call has some, to the driver without a statement each."""

    supports_statement_cache = True

    def do_begin(self, dbapi_connection: Any) -> None:
        dbapi_connection.execute("BEGIN")

    def do_savepoint(self, connection: Connection, name: str) -> None:
        _driver(connection).execute(f"SAVEPOINT {name}")

    def do_rollback_to_savepoint(self, connection: Connection, name: str) -> None:
        _driver(connection).execute(f"ROLLBACK TO {name}")

    def do_release_savepoint(self, connection: Connection, name: str) -> None:
        _driver(connection).execute(f"RELEASE {name}")


def _driver(connection: Connection) -> sqlite3.Connection:
    return connection.connection.dbapi_connection  # type: ignore[return-value] # typed for every database


registry.register("sqlite.direct", __name__, DirectDialect.__name__)


@functools.cache
def _engine() -> Engine:
    """One for the whole process, since it holds the compiled statements."""
    return sa.create_engine("sqlite+direct://", creator=_connect, poolclass=NullPool)


_QUERIES = PreparedQueries()


class MemoryFile:
    """What a file would hold: it can be copied, and opened again after a crash."""

    def __init__(self, image: bytes | None = None) -> None:
        self.connection = PreparedConnection(_engine(), _QUERIES)
        self._raw = _driver(self.connection)
        if image is not None:
            self._raw.deserialize(image)

    def image(self) -> bytes:
        return self._raw.serialize()

    def number(self, query: str) -> int:
        """Return the one number that a query gives."""
        number: int = self._raw.execute(query).fetchone()[0]
        return number

    def close(self) -> None:
        self.connection.close()


class InlineDatabase(Database):
    """A file as one process has it open. ``chance`` decides which calls take a while, before or after they ran."""

    def __init__(self, file: MemoryFile, chance: random.Random) -> None:
        self._file = file
        self._chance = chance
        self._dead = False

    def die(self) -> None:
        """Let nothing of the process that had it open reach it any more."""
        self._dead = True

    async def read(self, function: StoreFunction[T]) -> T:
        return await self._run(function)

    async def write(self, function: StoreFunction[T]) -> T:
        return await self._run(function)

    async def iterate(self, function: StoreFunction[Iterator[T]]) -> AsyncGenerator[T, None]:
        for item in await self._run(lambda connection: list(function(connection))):
            yield item

    async def _run(self, function: StoreFunction[T]) -> T:
        await self._pause()
        if self._dead:
            raise RuntimeError("this process is dead")
        connection = self._file.connection
        with connection.begin():
            result = function(connection)
        await self._pause()
        return result

    async def _pause(self) -> None:
        if self._chance.random() < _SLOW_SHARE:
            await asyncio.sleep(self._chance.uniform(0, _SLOWEST))
