"""The database behind the catalog: one set of synchronous store functions, run over SQLite or PostgreSQL.

A *store function* takes a SQLAlchemy ``Connection`` inside a transaction. On SQLite it runs in a thread of its own: one
thread writes, a few read. On PostgreSQL it runs on the event loop over asyncpg, through SQLAlchemy's greenlets.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError
from sqlalchemy.pool import NullPool

from cdir.errors import CdirError, ConfigInvalid, ProviderUnavailable, QuotaExceeded
from cdir_catalog.prepared import PreparedConnection, PreparedQueries

__all__ = ["Database", "is_retryable", "open_database"]

T = TypeVar("T")
StoreFunction = Callable[[Connection], T]

_READERS = 3
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    # FULL syncs the log at every commit: what was acknowledged outlives a loss of power
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA cache_size=-32000",
    "PRAGMA journal_size_limit=67108864",
)
_RETRYABLE_STATES = {"40001", "40P01"}
"""SQLSTATE of a serialization failure and of a deadlock: the same transaction can succeed when run again."""

_SNAPSHOT: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


class Database(ABC):
    """Runs store functions, each in one transaction."""

    @abstractmethod
    async def read(self, function: StoreFunction[T]) -> T:
        """Run ``function`` on a snapshot; it must not write."""

    @abstractmethod
    async def write(self, function: StoreFunction[T]) -> T:
        """Run ``function`` in a writing transaction and commit it; any exception rolls it back and passes."""

    @abstractmethod
    def iterate(self, function: StoreFunction[Iterator[T]]) -> AsyncGenerator[T, None]:
        """Yield what the iterator of ``function`` yields, on one snapshot from first to last; it must not write.

        Close the generator when it is left early.
        """


def is_retryable(error: BaseException) -> bool:
    """Say whether the transaction failed only because of another one at the same time."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _RETRYABLE_STATES


def database_error(error: DatabaseError, where: str) -> CdirError | None:
    """Return what a database's error means for the person who runs the catalog; ``None`` for a defect of ours."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    state = getattr(error.orig, "sqlstate", None) or ""
    if primary == sqlite3.SQLITE_FULL or state.startswith("53"):
        return QuotaExceeded(f"the disk of the catalog {where} is full; make room there")
    if primary in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return ConfigInvalid(f"the catalog {where} is damaged or is no catalog; restore it from a backup or rebuild it")
    if primary == sqlite3.SQLITE_READONLY or state == "25006":
        return ConfigInvalid(f"the catalog {where} cannot be written; make it writable for the user who runs cdir")
    if primary in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
        return ConfigInvalid(f"the catalog {where} cannot be opened; check that its folder exists and is yours")
    if primary == sqlite3.SQLITE_IOERR:
        return ProviderUnavailable(f"the disk of the catalog {where} does not work")
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return ProviderUnavailable(f"the catalog {where} is locked by another process; end that one")
    if state.startswith(("08", "57")) or getattr(error, "connection_invalidated", False):
        return ProviderUnavailable(f"the database of the catalog {where} does not answer")
    if state.startswith(("28", "3D")):
        return ConfigInvalid(f"the database of the catalog {where} refuses the user or has no such database")
    return None


@contextmanager
def _explained(where: str) -> Any:
    try:
        yield
    except DatabaseError as error:
        if is_retryable(error):
            raise
        meaning = database_error(error, where)
        if meaning is None:
            raise
        raise meaning from error


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Open the database that ``url`` names: ``sqlite:///path/to/file`` or ``postgresql://user:password@host/name``.

    A SQLite file that does not exist is made. Errors: :class:`ConfigInvalid` for a URL that cannot be used or a
    database that cannot be opened.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigInvalid(
            "the catalog's database URL cannot be read; write sqlite:///PATH or postgresql://…"
        ) from None
    match parsed.get_backend_name():
        case "sqlite":
            database: SQLiteDatabase | PostgresDatabase = SQLiteDatabase(parsed)
        case "postgresql":
            database = PostgresDatabase(parsed)
        case other:
            raise ConfigInvalid(f"the catalog cannot use {other}; write sqlite:///PATH or postgresql://…")
    try:
        yield database
    finally:
        await database.close()


class SQLiteDatabase(Database):
    """A file in WAL mode: one thread writes, others read snapshots meanwhile."""

    def __init__(self, url: URL) -> None:
        if not url.database or url.database == ":memory:":
            raise ConfigInvalid("the catalog needs a file: write sqlite:///PATH")
        self._path = Path(url.database)
        self._engine = self._make_engine(url)
        self._queries = PreparedQueries()
        self._local = threading.local()
        self._opened: list[Connection] = []
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="catalog-write")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="catalog-read")

    def _make_engine(self, url: URL) -> Engine:
        engine = sa.create_engine(
            url.set(drivername="sqlite+pysqlite"),
            poolclass=NullPool,
            connect_args={"timeout": 30, "check_same_thread": False, "cached_statements": 512},
        )

        @sa.event.listens_for(engine, "connect")
        def prepare(connection: sqlite3.Connection, _record: object) -> None:
            connection.isolation_level = None  # the driver begins no transaction on its own
            for pragma in _PRAGMAS:
                connection.execute(pragma).close()

        @sa.event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            writing = connection.get_execution_options().get("writing", False)
            driver: Any = connection.connection.dbapi_connection
            driver.execute("BEGIN IMMEDIATE" if writing else "BEGIN").close()

        return engine

    async def read(self, function: StoreFunction[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._run, function, False)

    async def write(self, function: StoreFunction[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._run, function, True)

    async def iterate(self, function: StoreFunction[Iterator[T]]) -> AsyncGenerator[T, None]:
        iteration = _Iteration(self._engine, function)
        loop = asyncio.get_running_loop()
        try:
            with _explained(str(self._path)):
                while items := await loop.run_in_executor(self._readers, iteration.step):
                    yield items[0]
        finally:
            await loop.run_in_executor(self._readers, iteration.close)

    def _run(self, function: StoreFunction[T], writing: bool) -> T:
        with _explained(str(self._path)):
            connection = self._connection(writing)
            with connection.begin():
                return function(connection)

    def _connection(self, writing: bool) -> Connection:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = PreparedConnection(self._engine, self._queries).execution_options(writing=writing)
            self._local.connection = connection
            self._opened.append(connection)
        return connection

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._readers.shutdown()
        self._writer.shutdown()
        for connection in self._opened:
            connection.close()
        self._engine.dispose()


class _Iteration(Generic[T]):
    """An iterator over a connection of its own. Each step may be another thread's; no two run at once."""

    def __init__(self, engine: Engine, function: StoreFunction[Iterator[T]]) -> None:
        self._engine = engine
        self._function = function
        self._connection: Connection | None = None
        self._items: Iterator[T] = iter(())
        self._lock = threading.Lock()  # a step that nobody waits for any more must end before the connection is closed

    def step(self) -> list[T]:
        """Return the next item in a list, an empty one at the end."""
        with self._lock:
            if self._connection is None:
                self._connection = self._engine.connect()
                self._connection.begin()
                self._items = self._function(self._connection)
            return list(itertools.islice(self._items, 1))

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()


class PostgresDatabase(Database):
    """A PostgreSQL database, or what speaks its protocol, shared by any number of catalogs."""

    def __init__(self, url: URL) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine

        self._where = f"{url.host or 'localhost'}/{url.database or ''}"
        try:
            self._engine = create_async_engine(
                url.set(drivername="postgresql+asyncpg"), pool_size=8, max_overflow=4, pool_pre_ping=True
            )
        except ModuleNotFoundError:
            raise ConfigInvalid("asyncpg is missing for PostgreSQL: pip install 'cdir[postgres]'") from None

    async def read(self, function: StoreFunction[T]) -> T:
        return await self._run(function, **_SNAPSHOT)

    async def write(self, function: StoreFunction[T]) -> T:
        # read committed, because each function first takes the lock of what it changes and must then see what the
        # holders before it have committed
        return await self._run(function, isolation_level="READ COMMITTED")

    async def iterate(self, function: StoreFunction[Iterator[T]]) -> AsyncGenerator[T, None]:
        with _explained(self._where):
            try:
                async with self._engine.connect() as connection:
                    await connection.execution_options(**_SNAPSHOT)
                    async with connection.begin():
                        iterator = await connection.run_sync(function)
                        while items := await connection.run_sync(lambda _: list(itertools.islice(iterator, 1))):
                            yield items[0]
            except OSError as error:
                raise ProviderUnavailable(f"the database of the catalog {self._where} cannot be reached") from error

    async def _run(self, function: StoreFunction[T], **options: Any) -> T:
        with _explained(self._where):
            try:
                async with self._engine.connect() as connection:
                    await connection.execution_options(**options)
                    async with connection.begin():
                        return await connection.run_sync(function)
            except OSError as error:
                raise ProviderUnavailable(f"the database of the catalog {self._where} cannot be reached") from error

    async def close(self) -> None:
        await self._engine.dispose()
