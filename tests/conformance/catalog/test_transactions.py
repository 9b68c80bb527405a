"""Group commit, the change log, starting and stopping, migrations, damaged databases."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from catalogs.driver import Driver, open_driver
from cdir.errors import CdirError, ConfigInvalid, CursorExpired, NotFound
from cdir.status import translated
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import directory_service_pb2 as directory
from cdir.v1 import entry_pb2
from cdir_catalog.schema import metadata

# -- the change log ---------------------------------------------------------------------------------------------------


async def _changes(driver: Driver, count: int, after: int = 0) -> list[entry_pb2.Change]:
    """Return the next ``count`` changes."""
    found: list[entry_pb2.Change] = []
    with translated():
        async for response in driver.stub.WatchChanges(directory.WatchChangesRequest(after_revision=after)):
            found += response.changes
            if len(found) >= count:
                break
    return found


async def test_the_change_log_tells_all(mirrored: Driver) -> None:
    await mirrored.write("/d/f")
    await mirrored.move("/d/f", "/g")
    await mirrored.remove("/g")
    await mirrored.remove("/d")
    found = await _changes(mirrored, 5)
    assert [(one.revision, one.kind, one.path, one.old_path, one.generation, one.author) for one in found] == [
        (1, entry_pb2.CHANGE_KIND_DIRECTORY_MADE, "/d", "", 0, "ada"),
        (2, entry_pb2.CHANGE_KIND_WRITTEN, "/d/f", "", 1, "ada"),
        (3, entry_pb2.CHANGE_KIND_MOVED, "/g", "/d/f", 1, "ada"),
        (4, entry_pb2.CHANGE_KIND_REMOVED, "/g", "", 1, "ada"),
        (5, entry_pb2.CHANGE_KIND_REMOVED, "/d", "", 0, "ada"),
    ]
    assert [one.revision for one in await _changes(mirrored, 2, after=3)] == [4, 5]
    with pytest.raises(CursorExpired):
        await _changes(mirrored, 1, after=99)


async def test_a_watcher_is_told_of_what_happens(mirrored: Driver) -> None:
    await mirrored.write("/before")
    watching = asyncio.create_task(_changes(mirrored, 3, after=1))
    latest = asyncio.create_task(_changes(mirrored, 1, after=-1))
    written: list[str] = []
    async with asyncio.timeout(60):
        while not (watching.done() and latest.done()):
            written.append((await mirrored.write(f"/f{len(written)}")).path)
    assert [(one.revision, one.path) for one in watching.result()] == [(2, "/f0"), (3, "/f1"), (4, "/f2")]
    assert latest.result()[0].path in written


async def test_a_watcher_of_another_process_sees_the_changes_too(mirrored: Driver) -> None:
    async with open_driver(mirrored.url) as other, asyncio.timeout(60):
        watching = asyncio.create_task(_changes(other, 1))
        await mirrored.write("/f")
        assert [one.path for one in await watching] == ["/f"]


# -- group commit -----------------------------------------------------------------------------------------------------


async def test_many_at_once_succeed_or_fail_alone(mirrored: Driver) -> None:
    """200 commits in flight, one of them with a base that has moved on."""
    await mirrored.write("/f0", b"there")
    begun = await mirrored.begin(*(f"/f{number}" for number in range(200)))
    await mirrored.displace(begun[0], ["a", "b", "c"])
    commitments = [mirrored.commitment(one, b"x", ["a", "b", "c"]) for one in begun]
    commitments[7].version_id = "0" * 32
    results = await asyncio.gather(*(mirrored.commit(one) for one in commitments))
    assert [number for number, (one,) in enumerate(results) if one.HasField("failure")] == [7]
    assert len(await mirrored.paths("/")) == 199
    found = await _changes(mirrored, 200)
    assert [one.revision for one in found] == list(range(1, 201))
    assert (await mirrored.status()).files == 199


async def test_two_processes_write_at_once_without_gaps(mirrored: Driver) -> None:
    async def write(driver: Driver, name: str) -> None:
        for number in range(10):
            await driver.write(f"/{name}/{number}")

    async with open_driver(mirrored.url) as other:
        other.providers.update(mirrored.providers)
        await asyncio.gather(
            *(write(driver, f"{who}{task}") for who, driver in (("x", mirrored), ("y", other)) for task in range(3))
        )
    found = await _changes(mirrored, 66)
    assert [one.revision for one in found] == list(range(1, 67))
    status, scanned = await mirrored.status(), 0
    for path in await mirrored.paths("/"):
        scanned += (await mirrored.status(path)).files
    assert status.files == scanned == 60
    assert {one.files for one in status.providers} == {60}


async def test_a_caller_that_goes_away_harms_nobody(mirrored: Driver) -> None:
    tasks = [asyncio.create_task(mirrored.write(f"/f{number}")) for number in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert not any(isinstance(one, CdirError) for one in results)
    assert {f"/f{number}" for number in range(1, 20, 2)} <= set(await mirrored.paths("/"))


async def test_what_was_acknowledged_is_there_after_a_restart(mirrored: Driver) -> None:
    entry = await mirrored.write("/f")
    async with open_driver(mirrored.url) as again:
        assert await again.entry("/f") == entry


# -- migrations and databases that cannot be used ---------------------------------------------------------------------


async def _tables(url: str) -> set[str]:
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            rows: Any = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    else:
        postgres = await asyncpg.connect(url)
        rows = await postgres.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        await postgres.close()
    return {row[0] for row in rows}


async def _execute(url: str, statement: str) -> None:
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.execute(statement)
            connection.commit()
    else:
        postgres = await asyncpg.connect(url)
        await postgres.execute(statement)
        await postgres.close()


async def test_a_new_database_is_made_and_an_old_one_kept(databases: Any) -> None:
    url = await databases.empty()
    identities = set()
    for _ in range(2):
        async with open_driver(url) as driver:
            identities.add((await driver.call("GetIdentity", catalog.GetIdentityRequest())).home_id)
    assert len(identities) == 1
    assert set(metadata.tables) <= await _tables(url)


async def test_catalogs_that_start_at_once_make_one_database(databases: Any) -> None:
    url = await databases.empty()

    async def identify() -> str:
        async with open_driver(url) as driver:
            home: str = (await driver.call("GetIdentity", catalog.GetIdentityRequest())).home_id
            return home

    assert len(set(await asyncio.gather(*(identify() for _ in range(4))))) == 1


async def test_a_database_of_a_newer_release_is_left_alone(databases: Any) -> None:
    url, _ = await databases.catalog(mirrored=False)
    await _execute(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigInvalid, match="newer release"):
        async with open_driver(url):
            pass


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://host/db", "sqlite://", "sqlite:////nowhere/at/all.db"])
async def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigInvalid):
        async with open_driver(url):
            pass


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    await asyncio.to_thread(path.write_bytes, os.urandom(8192))
    with pytest.raises(ConfigInvalid, match="damaged"):
        async with open_driver(f"sqlite:///{path}"):
            pass


async def test_a_failed_call_leaves_the_catalog_working(mirrored: Driver) -> None:
    with pytest.raises(NotFound):
        await mirrored.remove("/none")
    await mirrored.write("/f")
    assert await mirrored.paths("/") == ["/f"]


async def test_an_error_of_the_user_of_a_catalog_comes_as_it_is(mirrored: Driver) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_driver(mirrored.url):
            raise ZeroDivisionError
