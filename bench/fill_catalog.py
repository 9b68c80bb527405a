"""Fill a catalog with files that were never written, to see how it does with very many.

    python bench/fill_catalog.py sqlite:////tmp/big.db --files 1000000 --provider a=32-HEX-DIGITS --provider b=…

Every file is current, has a good copy on each of the providers, and is counted; nothing is owed. The providers are
registered when the catalog does not know them; their objects are not made. Nobody else may use the catalog meanwhile.
Names go on where an earlier run ended. The database makes the rows itself, from numbers; then it takes its statistics.
On PostgreSQL the user must be a superuser, so that no reference of any row is looked up.
"""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import provider_pb2
from cdir_catalog.schema import counters, entries, providers, replicas, versions, workspaces
from cdir_catalog.service import open_catalog
from cdir_catalog.store.providers import create_provider
from cdir_catalog.store.workspaces import ensure_workspaces
from cdir_catalog.wire import DIRECTORY, FILE

_BATCH = 500_000
_SIZE = 4096

_NUMBERS = "WITH RECURSIVE numbers(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM numbers WHERE n < {last})"
_PADDED = "substr(CAST(10000000000 + {number} AS TEXT), {begin})"
_NAME = f"'file-' || {_PADDED.format(number='n', begin=3)} || '.dat'"
_DIRECTORY = _PADDED.format(number="{each}", begin=6)

_FILES = f"""
INSERT INTO entries (id, workspace_id, dirname, basename, kind, version_id, author, created_at)
{_NUMBERS} SELECT {{entry}} + n, {{workspace}}, '/bench/' || {_DIRECTORY.format(each="n / {each}")}, {_NAME},
{FILE}, {{version}} + n, 'bench', {{now}} FROM numbers
"""
_DIRECTORIES = f"""
INSERT INTO entries (id, workspace_id, dirname, basename, kind, author, created_at)
{_NUMBERS} SELECT {{entry}} + n, {{workspace}}, '/bench', {_DIRECTORY.format(each="n")}, {DIRECTORY}, 'bench', {{now}}
FROM numbers
"""
_VERSIONS = f"""
INSERT INTO versions (id, version_id, entry_id, generation, size, modified_at, sha256, block_digests, author,
committed_at)
{_NUMBERS} SELECT {{version}} + n, {{random}}, {{entry}} + n, 1, {_SIZE}, {{now}}, {{digest}}, {{empty}}, 'bench',
{{now}} FROM numbers
"""
_REPLICAS = f"""
INSERT INTO replicas (workspace_id, version_id, provider_id, key, wanted, actual, etag, checksum, proven_at, owed,
attempts, error)
{_NUMBERS} SELECT {{workspace}}, {{version}} + n, {{holder}}, 'bench/' || {_DIRECTORY.format(each="n / {each}")}
|| '/' || {_NAME}, 1, 1, '', '', {{now}}, 0, 0, '' FROM numbers
"""

_DIALECTS = {
    "sqlite": {"random": "lower(hex(randomblob(16)))", "digest": "zeroblob(32)", "empty": "x''"},
    "postgresql": {
        "random": "md5(CAST(n AS TEXT) || random())",
        "digest": "decode(repeat('00', 32), 'hex')",
        "empty": "''::bytea",
    },
}
_BEFORE = {
    "sqlite": ("DROP TRIGGER IF EXISTS entry_names_insert",),
    "postgresql": ("SET session_replication_role = replica", "DROP INDEX IF EXISTS ix_entries_name"),
}
_ROW_IDS = (entries, versions, replicas)


def _register(connection: Connection, named: dict[str, str]) -> list[int]:
    present = set(connection.scalars(sa.select(providers.c.name)))
    for name, provider_id in named.items():
        if name not in present:
            provider = provider_pb2.Provider(provider_id=provider_id, name=name, kind="memory", priority=100)
            stored = catalog.StoredProvider(provider=provider)
            create_provider(connection, catalog.CreateProviderRequest(provider=stored), "bench")
    return list(
        connection.scalars(sa.select(providers.c.id).where(providers.c.name.in_(named)).order_by(providers.c.id))
    )


def _last(connection: Connection, table: sa.Table) -> int:
    return connection.scalar(sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0))) or 0


@contextmanager
def _without_search(connection: Connection) -> Iterator[None]:
    """Fill the index over parts of names in one go afterwards, which takes a fraction of the time."""
    trigger = "SELECT sql FROM sqlite_master WHERE name = 'entry_names_insert'"
    index = "SELECT indexdef FROM pg_indexes WHERE indexname = 'ix_entries_name'"
    sqlite = connection.dialect.name == "sqlite"
    again = connection.exec_driver_sql(trigger if sqlite else index).scalar()
    first = _last(connection, entries) + 1
    for statement in _BEFORE[connection.dialect.name]:
        connection.exec_driver_sql(statement)
    yield
    if again is not None:
        if sqlite:
            connection.exec_driver_sql(
                "INSERT INTO entry_names (rowid, name) SELECT id, coalesce(folded, basename) FROM entries "
                f"WHERE id >= {first}"
            )
            # in one piece, as years of merging would leave it: else the first puts pay for merging all of it
            connection.exec_driver_sql("INSERT INTO entry_names (entry_names) VALUES ('optimize')")
        connection.exec_driver_sql(again)
        connection.commit()


def _fill(connection: Connection, holders: list[int], values: dict[str, Any]) -> None:
    """Insert the files from number ``first`` to ``last``, with their directories."""
    first, last, each = values["first"], values["last"], values["each"]
    entry, version = _last(connection, entries) + 1 - first, _last(connection, versions) + 1 - first
    values = {**values, "entry": entry, "version": version, **_DIALECTS[connection.dialect.name]}
    connection.exec_driver_sql(_FILES.format(**values))
    connection.exec_driver_sql(_VERSIONS.format(**values))
    for holder in holders:
        connection.exec_driver_sql(_REPLICAS.format(**values, holder=holder))
    begin, end = -(-first // each), last // each
    if begin <= end:
        above = _last(connection, entries) + 1 - begin
        connection.exec_driver_sql(_DIRECTORIES.format(**{**values, "entry": above, "first": begin, "last": end}))


def _count(connection: Connection, workspace: int, holders: list[int], files: int) -> None:
    more = {"files": files, "bytes": files * _SIZE}
    here = workspaces.c.id == workspace
    connection.execute(workspaces.update().where(here).values({key: workspaces.c[key] + more[key] for key in more}))
    for holder in holders:
        mine = sa.and_(counters.c.workspace_id == workspace, counters.c.provider_id == holder)
        if connection.scalar(sa.select(counters.c.files).where(mine)) is None:
            zero = dict.fromkeys(("files", "bytes", "owed", "quarantined", "removals"), 0)
            connection.execute(counters.insert().values(workspace_id=workspace, provider_id=holder, **zero))
        connection.execute(counters.update().where(mine).values({key: counters.c[key] + more[key] for key in more}))


def _top(connection: Connection, workspace: int) -> None:
    here = sa.and_(entries.c.workspace_id == workspace, entries.c.dirname == "/", entries.c.basename == "bench")
    if connection.scalar(sa.select(entries.c.id).where(here, entries.c.removed_at.is_(None))) is None:
        connection.execute(
            entries.insert().values(
                id=_last(connection, entries) + 1,
                workspace_id=workspace,
                dirname="/",
                basename="bench",
                kind=DIRECTORY,
                author="bench",
                created_at=time.time_ns(),
            )
        )


def fill(connection: Connection, files: int, named: dict[str, str], per_directory: int) -> None:
    """Add ``files`` files to a catalog, which exists, in transactions of its own."""
    workspace = ensure_workspaces(connection, [""])[""]
    holders = _register(connection, named)
    _top(connection, workspace)
    connection.commit()
    first = connection.scalar(sa.select(workspaces.c.files).where(workspaces.c.id == workspace)) or 0
    values = {"workspace": workspace, "each": per_directory, "now": time.time_ns()}
    with _without_search(connection):
        for begin in range(first, first + files, _BATCH):
            end = min(begin + _BATCH, first + files)
            _fill(connection, holders, {**values, "first": begin, "last": end - 1})
            _count(connection, workspace, holders, end - begin)
            connection.commit()
    if connection.dialect.name == "postgresql":
        for table in _ROW_IDS:
            connection.exec_driver_sql(f"SELECT setval('{table.name}_id_seq', {_last(connection, table) + 1})")
    connection.exec_driver_sql("ANALYZE")
    connection.commit()


def _on_sqlite(url: sa.URL, *what: Any) -> None:
    engine = sa.create_engine(url.set(drivername="sqlite+pysqlite"))

    @sa.event.listens_for(engine, "connect")
    def hurry(connection: Any, _record: object) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=OFF", "cache_size=-2000000", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}").close()

    with engine.connect() as connection:
        fill(connection, *what)
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()


async def _on_postgresql(url: sa.URL, *what: Any) -> None:
    engine = create_async_engine(url.set(drivername="postgresql+asyncpg"))
    async with engine.connect() as connection:
        await connection.run_sync(fill, *what)
    await engine.dispose()


async def _make(url: str) -> None:
    async with open_catalog(url):
        pass


def main() -> None:
    """Fill the catalog and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="sqlite:///PATH or postgresql://… of the catalog; made when it does not exist")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--per-directory", type=int, default=1000)
    parser.add_argument("--provider", action="append", metavar="NAME=ID", help="default: three, named a, b and c")
    options = parser.parse_args()
    given = options.provider or [f"{name}={uuid.uuid4().hex}" for name in "abc"]
    named = {name: provider_id for name, _, provider_id in (one.partition("=") for one in given)}
    asyncio.run(_make(options.url))
    started = time.monotonic()
    url, what = make_url(options.url), (options.files, named, options.per_directory)
    if url.get_backend_name() == "sqlite":
        _on_sqlite(url, *what)
    else:
        asyncio.run(_on_postgresql(url, *what))
    print(f"{options.files} files in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
