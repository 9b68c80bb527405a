"""A catalog that the benchmarks fill by SQL is as if its files had been written one by one."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from catalogs.driver import Driver, open_driver
from cdir.v1 import catalog_recovery_pb2, check_pb2
from cdir.v1 import directory_service_pb2 as directory
from cdir_catalog.database import open_database
from cdir_catalog.schema import counters, entries, providers, replicas, versions, workspaces

if TYPE_CHECKING:
    from conformance.catalog.conftest import Databases

_PROGRAM = Path(__file__).parents[3] / "bench" / "fill_catalog.py"
_FILES, _EACH, _SIZE = 5, 2, 4096

_CONTENT = {"author", "block_digests", "checksum", "etag", "sha256"}
"""The columns with what a file that was never written cannot have."""

_MADE = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE type IN ('index', 'trigger')",
    "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() "
    "UNION ALL SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint",
}


async def _fill(url: str, files: int, named: dict[str, str]) -> None:
    options = [f"--provider={name}={provider_id}" for name, provider_id in named.items()]
    counts = [f"--files={files}", f"--per-directory={_EACH}"]
    process = await asyncio.create_subprocess_exec(sys.executable, str(_PROGRAM), url, *counts, *options)
    assert await process.wait() == 0


def _paths() -> list[str]:
    return [f"/bench/{number // _EACH:06d}/file-{number:09d}.dat" for number in range(_FILES)]


def _comparable(row: Any) -> dict[str, Any]:
    """What does not depend on when and in which order the row was made: of a time and an id, whether there is one."""
    return {
        column: value is not None if column.endswith(("_at", "id")) else value
        for column, value in row._mapping.items()
        if column.partition("__")[2] not in _CONTENT
    }


def _rows(connection: Connection) -> list[list[dict[str, Any]]]:
    def columns(*tables: sa.Table) -> list[sa.Label[Any]]:
        return [column.label(f"{table.name}__{column.name}") for table in tables for column in table.c]

    files = entries.outerjoin(versions, entries.c.version_id == versions.c.id).outerjoin(
        replicas, replicas.c.version_id == versions.c.id
    )
    named = files.outerjoin(providers, providers.c.id == replicas.c.provider_id)
    queries = (
        sa.select(providers.c.name, *columns(entries, versions, replicas))
        .select_from(named)
        .order_by(entries.c.dirname, entries.c.basename, providers.c.name),
        sa.select(*columns(counters)).order_by(counters.c.provider_id),
        sa.select(workspaces.c.name, workspaces.c.files, workspaces.c.bytes),
        sa.text(_MADE[connection.dialect.name] + " ORDER BY 1, 2"),
    )
    return [[_comparable(row) for row in connection.execute(query)] for query in queries]


async def _all_rows(url: str) -> list[list[dict[str, Any]]]:
    async with open_database(url) as database:
        return await database.read(_rows)


async def _found(driver: Driver, part: str) -> list[str]:
    request = directory.SearchEntriesRequest(path="/", pattern=part)
    return [hit.path for hit in (await driver.call("SearchEntries", request)).entries]


async def test_filling_makes_the_rows_that_writing_makes(databases: Databases) -> None:
    written, named = await databases.catalog(mirrored=True)
    filled, _ = await databases.catalog(mirrored=True)
    async with open_driver(written) as driver:
        driver.providers.update(named)
        for path in _paths():
            await driver.write(path, b"x" * _SIZE)
    await _fill(filled, _FILES, named)
    assert await _all_rows(filled) == await _all_rows(written)


async def test_a_filled_catalog_keeps_its_rules_and_owes_nothing(databases: Databases) -> None:
    url, named = await databases.catalog(mirrored=True)
    await _fill(url, 3, named)
    await _fill(url, _FILES - 3, named)  # goes on where the first ended
    async with open_driver(url) as driver:
        driver.providers.update(named)
        audited = await driver.call("AuditCatalog", check_pb2.AuditCatalogRequest())
        assert list(audited.findings) == []
        assert audited.summary.files == _FILES
        assert await driver.claim() == []
        claimed = await driver.call("ClaimSnapshot", catalog_recovery_pb2.ClaimSnapshotRequest(owner="w", at_once=True))
        assert not claimed.name
        status = await driver.status()
        assert (status.files, status.bytes, status.owed) == (_FILES, _FILES * _SIZE, 0)
        assert await _found(driver, "000003.dat") == [_paths()[3]]
        await driver.write("/bench/more.dat")
        await driver.remove("/bench", recursive=True)
        assert await _found(driver, ".dat") == []
