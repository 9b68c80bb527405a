"""Fill a SQLite catalog with files that were never written, to see how it does with very many.

    python bench/fill_catalog.py sqlite:////tmp/big.db --files 1000000 --provider a=32-HEX-DIGITS --provider b=…

Every file is current, has a good copy on each of the providers, and is counted; nothing is owed. The providers are
registered when the catalog does not know them; their objects are not made. Nobody else may use the catalog meanwhile.
Names go on where an earlier run ended.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, make_url

from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import provider_pb2
from cdir_catalog.schema import counters, entries, providers, replicas, versions, workspaces
from cdir_catalog.service import open_catalog
from cdir_catalog.store.providers import create_provider
from cdir_catalog.store.workspaces import ensure_workspaces
from cdir_catalog.wire import DIRECTORY, FILE

_BATCH = 20_000
_SIZE = 4096


def _insert(connection: Connection, table: sa.Table, columns: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({marks})"
    connection.connection.executemany(statement, rows)  # the driver's own, for speed


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


def _fill(
    connection: Connection, workspace: int, holders: list[int], first: int, count: int, per_directory: int
) -> None:
    """Insert files number ``first`` and following, with their directories."""
    now = time.time_ns()
    numbers = range(first, first + count)
    entry, version = _last(connection, entries) + 1, _last(connection, versions) + 1
    ids = {number: hashlib.md5(f"file {number}".encode()).hexdigest() for number in numbers}
    paths = {number: (f"/bench/{number // per_directory:06d}", f"file-{number:09d}.dat") for number in numbers}
    directories = [number // per_directory for number in numbers if number % per_directory == 0]
    columns = ["id", "workspace_id", "dirname", "basename", "kind", "version_id", "author", "created_at"]
    _insert(
        connection,
        entries,
        columns,
        ((entry + i, workspace, *paths[n], FILE, version + i, "bench", now) for i, n in enumerate(numbers)),
    )
    rest = entry + count
    _insert(
        connection,
        entries,
        columns,
        ((rest + i, workspace, "/bench", f"{n:06d}", DIRECTORY, None, "bench", now) for i, n in enumerate(directories)),
    )
    digest, blocks = hashlib.sha256(b"\0" * _SIZE).digest(), b""
    _insert(
        connection,
        versions,
        ["id", "version_id", "entry_id", "generation", "size", "modified_at", "sha256", "block_digests", "author",
         "committed_at"],
        (
            (version + i, ids[n], entry + i, 1, _SIZE, now, digest, blocks, "bench", now)
            for i, n in enumerate(numbers)
        ),
    )  # fmt: skip
    _insert(
        connection,
        replicas,
        ["workspace_id", "version_id", "provider_id", "key", "wanted", "actual", "etag", "checksum", "proven_at",
         "owed", "attempts", "error"],
        (
            (workspace, version + i, holder, f"{paths[n][0][1:]}/{paths[n][1]}", 1, 1, "", "", now, 0, 0, "")
            for i, n in enumerate(numbers)
            for holder in holders
        ),
    )  # fmt: skip
    connection.execute(
        workspaces.update()
        .where(workspaces.c.id == workspace)
        .values(files=workspaces.c.files + count, bytes=workspaces.c.bytes + count * _SIZE)
    )
    for holder in holders:
        mine = sa.and_(counters.c.workspace_id == workspace, counters.c.provider_id == holder)
        connection.execute(
            counters.update().where(mine).values(files=counters.c.files + count, bytes=counters.c.bytes + count * _SIZE)
        )


def _prepare(connection: Connection, workspace: int, holders: list[int]) -> None:
    """Make the top directory and the counters."""
    known = connection.scalar(
        sa.select(entries.c.id).where(
            entries.c.workspace_id == workspace, entries.c.dirname == "/", entries.c.basename == "bench",
            entries.c.removed_at.is_(None),
        )
    )  # fmt: skip
    if known is None:
        top = {"workspace_id": workspace, "dirname": "/", "basename": "bench", "kind": DIRECTORY, "author": "bench"}
        connection.execute(entries.insert().values(**top, created_at=time.time_ns()))
    for holder in holders:
        mine = sa.and_(counters.c.workspace_id == workspace, counters.c.provider_id == holder)
        if connection.scalar(sa.select(counters.c.files).where(mine)) is None:
            zero = dict.fromkeys(("files", "bytes", "owed", "quarantined", "removals"), 0)
            connection.execute(counters.insert().values(workspace_id=workspace, provider_id=holder, **zero))


def fill(url: str, files: int, named: dict[str, str], per_directory: int) -> None:
    """Add ``files`` files to the catalog at ``url``, which exists."""
    engine = sa.create_engine(make_url(url).set(drivername="sqlite+pysqlite"))

    @sa.event.listens_for(engine, "connect")
    def hurry(connection: Any, _record: object) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=OFF", "cache_size=-400000", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}").close()

    started = time.monotonic()
    with engine.connect() as connection:
        workspace = ensure_workspaces(connection, [""])[""]
        holders = _register(connection, named)
        _prepare(connection, workspace, holders)
        connection.commit()
        first = connection.scalar(sa.select(workspaces.c.files).where(workspaces.c.id == workspace)) or 0
        for done in range(0, files, _BATCH):
            _fill(connection, workspace, holders, first + done, min(_BATCH, files - done), per_directory)
            connection.commit()
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("PRAGMA optimize")
    engine.dispose()
    print(f"{files} files in {time.monotonic() - started:.1f} s")


async def _make(url: str) -> None:
    async with open_catalog(url):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="sqlite:///PATH of the catalog; made when it does not exist")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--per-directory", type=int, default=1000)
    parser.add_argument("--provider", action="append", metavar="NAME=ID", help="default: three, named a, b and c")
    options = parser.parse_args()
    given = options.provider or [f"{name}={uuid.uuid4().hex}" for name in "abc"]
    named = {name: provider_id for name, _, provider_id in (one.partition("=") for one in given)}
    asyncio.run(_make(options.url))
    fill(options.url, options.files, named, options.per_directory)


if __name__ == "__main__":
    main()
