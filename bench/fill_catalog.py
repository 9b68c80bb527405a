"""Fill a catalog with files that were never written, to see how it does with very many.

    python bench/fill_catalog.py sqlite:////tmp/big.db --files 1000000 --provider a=32-HEX-DIGITS --provider b=…

Every file is current, has a good copy on each of the providers, and is counted; nothing is owed, and the snapshot of
the catalog that is due counts as made. The providers are registered when the catalog does not know them; their objects
are not made. What is missing beside files that were written is their part of the change log, as if it had been
shortened since. Nobody else may use the catalog meanwhile, and a run that is broken off leaves it unusable. Names go on
where an earlier run ended. The database makes the rows itself, from numbers, into tables without indexes; then it makes
these again and takes its statistics. On PostgreSQL the user must be a superuser, so that no reference of any row is
looked up.
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

from cdir.v1 import catalog_recovery_pb2, provider_pb2
from cdir.v1 import catalog_service_pb2 as catalog
from cdir_catalog.schema import counters, entries, providers, replicas, versions, workspaces
from cdir_catalog.service import open_catalog
from cdir_catalog.store.providers import create_provider
from cdir_catalog.store.snapshots import claim_snapshot, finish_snapshot
from cdir_catalog.store.workspaces import ensure_workspaces
from cdir_catalog.wire import DIRECTORY, FILE

_SIZE = 4096
_AUTHOR = "bench"

_PADDED = "substr(CAST(10000000000 + {number} AS TEXT), {begin})"
_NAME = f"'file-' || {_PADDED.format(number='n', begin=3)} || '.dat'"
_DIRECTORY = _PADDED.format(number="{each}", begin=6)

_FILES = f"""
INSERT INTO entries (id, workspace_id, dirname, basename, kind, version_id, author, created_at)
SELECT {{entry}} + n, {{workspace}}, '/bench/' || {_DIRECTORY.format(each="n / {each}")}, {_NAME},
{FILE}, {{version}} + n, '{_AUTHOR}', {{now}} FROM {{numbers}}
"""
_DIRECTORIES = f"""
INSERT INTO entries (id, workspace_id, dirname, basename, kind, author, created_at)
SELECT {{entry}} + n, {{workspace}}, '/bench', {_DIRECTORY.format(each="n")}, {DIRECTORY}, '{_AUTHOR}', {{now}}
FROM {{numbers}}
"""
_VERSIONS = f"""
INSERT INTO versions (id, version_id, entry_id, generation, size, modified_at, sha256, block_digests, author,
committed_at)
SELECT {{version}} + n, {{random}}, {{entry}} + n, 1, {_SIZE}, {{now}}, {{digest}}, {{empty}}, '{_AUTHOR}', {{now}}
FROM {{numbers}}
"""
_REPLICAS = f"""
INSERT INTO replicas (workspace_id, version_id, provider_id, key, wanted, actual, etag, checksum, proven_at, owed,
attempts, error, changed_at)
SELECT {{workspace}}, {{version}} + n, {{holder}}, 'bench/' || {_DIRECTORY.format(each="n / {each}")}
|| '/' || {_NAME}, 1, 1, '', '', {{now}}, 0, 0, '', {{now}} FROM {{numbers}}
"""

_DIALECTS = {
    "sqlite": {
        "random": "lower(hex(randomblob(16)))",
        "digest": "zeroblob(32)",
        "empty": "x''",
        "numbers": "(WITH RECURSIVE numbers(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM numbers "
        "WHERE n < {last}) SELECT n FROM numbers)",
    },
    "postgresql": {
        "random": "md5(CAST(n AS TEXT) || random())",
        "digest": "decode(repeat('00', 32), 'hex')",
        "empty": "''::bytea",
        "numbers": "generate_series(CAST({first} AS BIGINT), {last}) AS numbers(n)",
    },
}
_FILLED = (entries, versions, replicas)
_NAMES = ", ".join(f"'{table.name}'" for table in _FILLED)

_MADE_SQLITE = f"""
SELECT 'DROP ' || type || ' "' || name || '"', sql FROM sqlite_master
WHERE tbl_name IN ({_NAMES}) AND type IN ('index', 'trigger') AND sql IS NOT NULL ORDER BY type, name
"""
_MADE_POSTGRESQL = f"""
SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
FROM pg_constraint WHERE contype = 'u' AND conrelid::regclass::text IN ({_NAMES})
UNION ALL
SELECT format('DROP INDEX %I', indexname), indexdef FROM pg_indexes
WHERE schemaname = current_schema() AND tablename IN ({_NAMES})
AND indexname NOT IN (SELECT conname FROM pg_constraint)
"""


def _register(connection: Connection, named: dict[str, str]) -> list[int]:
    present = set(connection.scalars(sa.select(providers.c.name)))
    for name, provider_id in named.items():
        if name not in present:
            provider = provider_pb2.Provider(provider_id=provider_id, name=name, kind="memory", priority=100)
            stored = catalog.StoredProvider(provider=provider)
            create_provider(connection, catalog.CreateProviderRequest(provider=stored), _AUTHOR)
    return list(
        connection.scalars(sa.select(providers.c.id).where(providers.c.name.in_(named)).order_by(providers.c.id))
    )


def _last(connection: Connection, table: sa.Table) -> int:
    return connection.scalar(sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0))) or 0


@contextmanager
def _bare(connection: Connection) -> Iterator[None]:
    """Let the tables be without indexes and triggers, and make these again as they were.

    What stays is what a table cannot be without: primary keys, and on SQLite unique constraints.
    """
    sqlite = connection.dialect.name == "sqlite"
    made = connection.exec_driver_sql(_MADE_SQLITE if sqlite else _MADE_POSTGRESQL).all()
    searched = sqlite and sa.inspect(connection).has_table("entry_names")
    first = _last(connection, entries) + 1
    for drop, _ in made:
        connection.exec_driver_sql(drop)
    yield
    if searched:
        connection.exec_driver_sql(
            "INSERT INTO entry_names (rowid, name) SELECT id, coalesce(folded, basename) FROM entries "
            f"WHERE id >= {first} ORDER BY id"
        )
        # in one piece, as years of merging would leave it: else the first puts pay for merging all of it
        connection.exec_driver_sql("INSERT INTO entry_names (entry_names) VALUES ('optimize')")
    for _, create in made:
        connection.exec_driver_sql(create)


def _insert(connection: Connection, statement: str, first: int, last: int, values: dict[str, Any]) -> None:
    dialect = _DIALECTS[connection.dialect.name]
    numbers = dialect["numbers"].format(first=first, last=last)
    connection.exec_driver_sql(statement.format(**{**dialect, **values, "numbers": numbers}))


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
                author=_AUTHOR,
                created_at=time.time_ns(),
            )
        )


def _as_if_snapshot_taken(connection: Connection) -> None:
    """Leave nothing to do for who makes snapshots: the first of all these files would take minutes.

    What is changed from now on goes into increments, as in a catalog that grew slowly.
    """
    claimed = claim_snapshot(
        connection, catalog_recovery_pb2.ClaimSnapshotRequest(owner=_AUTHOR, at_once=True), _AUTHOR
    )
    if claimed.name:
        finish = catalog_recovery_pb2.FinishSnapshotRequest(name=claimed.name, owner=_AUTHOR, stored=True)
        finish_snapshot(connection, finish, _AUTHOR)


def fill(connection: Connection, files: int, named: dict[str, str], per_directory: int) -> None:
    """Add ``files`` files, with their directories, to a catalog, which exists."""
    postgresql = connection.dialect.name == "postgresql"
    if postgresql:
        connection.exec_driver_sql("SET session_replication_role = replica")
        connection.exec_driver_sql("SET maintenance_work_mem = '1GB'")
    workspace = ensure_workspaces(connection, [""])[""]
    holders = _register(connection, named)
    _top(connection, workspace)
    first = connection.scalar(sa.select(workspaces.c.files).where(workspaces.c.id == workspace)) or 0
    last = first + files - 1
    above, below = -(-first // per_directory), last // per_directory
    with _bare(connection):
        entry, version = _last(connection, entries) + 1 - first, _last(connection, versions) + 1 - first
        values = {"workspace": workspace, "each": per_directory, "now": time.time_ns(), "version": version}
        for statement in (_FILES, _VERSIONS):
            _insert(connection, statement, first, last, {**values, "entry": entry})
        for holder in holders:
            _insert(connection, _REPLICAS, first, last, {**values, "holder": holder})
        if above <= below:
            values["entry"] = _last(connection, entries) + 1 - above
            _insert(connection, _DIRECTORIES, above, below, values)
    _count(connection, workspace, holders, files)
    if postgresql:
        for table in _FILLED:
            connection.exec_driver_sql(f"SELECT setval('{table.name}_id_seq', {_last(connection, table) + 1})")
    _as_if_snapshot_taken(connection)
    connection.commit()


def _on_sqlite(url: sa.URL, *what: Any) -> None:
    engine = sa.create_engine(url.set(drivername="sqlite+pysqlite"))

    @sa.event.listens_for(engine, "connect")
    def hurry(connection: Any, _record: object) -> None:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-2000000", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}").close()

    with engine.connect() as connection:
        fill(connection, *what)
        connection.exec_driver_sql("ANALYZE")
        connection.commit()
    engine.dispose()


async def _on_postgresql(url: sa.URL, *what: Any) -> None:
    engine = create_async_engine(url.set(drivername="postgresql+asyncpg"))
    async with engine.connect() as connection:
        await connection.run_sync(fill, *what)
    async with engine.connect() as connection:
        # vacuumed as well: else the first to read a row, or the autovacuum some time later, marks it as committed
        await (await connection.execution_options(isolation_level="AUTOCOMMIT")).exec_driver_sql("VACUUM ANALYZE")
    await engine.dispose()


async def make(url: str, files: int, named: dict[str, str], per_directory: int) -> None:
    """Fill the catalog at ``url``, which is made when it does not exist and which nobody has open."""
    async with open_catalog(url):
        pass
    parsed, what = make_url(url), (files, named, per_directory)
    if parsed.get_backend_name() == "sqlite":
        await asyncio.to_thread(_on_sqlite, parsed, *what)
    else:
        await _on_postgresql(parsed, *what)


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
    started, spent = time.monotonic(), time.process_time()
    asyncio.run(make(options.url, options.files, named, options.per_directory))
    seconds, spent = time.monotonic() - started, time.process_time() - spent
    print(f"{options.files} files in {seconds:.1f} s, {spent:.1f} s of processor time here")


if __name__ == "__main__":
    main()
