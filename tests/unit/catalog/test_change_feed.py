"""Following the change log, alone and in a crowd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from cdir.errors import CursorExpired
from cdir.v1 import directory_service_pb2 as pb
from cdir_catalog.change_feed import ChangeFeed
from cdir_catalog.database import Database, open_database
from cdir_catalog.group_commit import GroupCommit, group_commit
from cdir_catalog.migrate import migrate
from cdir_catalog.store.directories import make_directories

HANG = 60.0
NEVER = 3600.0
CROWD = 100


class Log:
    """A catalog's change log, whose looks at the database are counted."""

    def __init__(self, database: Database, commits: GroupCommit, monkeypatch: pytest.MonkeyPatch) -> None:
        self._commits = commits
        self._read = database.read
        self.looks = 0
        self.after_look: list[str] = []
        """Directories to be made right after the next look."""
        monkeypatch.setattr(database, "read", self._counted)
        self.feed = ChangeFeed(database, commits, poll_seconds=NEVER)

    async def _counted(self, function: Callable[[Any], Any]) -> Any:
        self.looks += 1
        found = await self._read(function)
        while self.after_look:
            await self.make(self.after_look.pop())
        return found

    async def make(self, path: str) -> None:
        request = pb.MakeDirectoriesRequest(refs=[pb.EntryRef(path=path)])
        await self._commits.run(lambda connection: make_directories(connection, request, "ada"))

    async def follow(self, count: int, *, after: int = 0) -> list[str]:
        """The paths of the next changes."""
        paths: list[str] = []
        async with aclosing(self.feed.follow("", after)) as feed:
            while len(paths) < count:
                paths += [change.path for change in await anext(feed)]
        return paths


@pytest.fixture
async def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Log]:
    async with open_database(f"sqlite:///{tmp_path / 'catalog.db'}") as database:
        await database.write(migrate)
        async with group_commit(database) as commits, asyncio.timeout(HANG):
            yield Log(database, commits, monkeypatch)


async def test_a_crowd_costs_the_database_what_one_watcher_does(log: Log) -> None:
    watching = [asyncio.create_task(log.follow(3)) for _ in range(CROWD)]
    for number in range(3):
        await log.make(f"/{number}")
    assert await asyncio.gather(*watching) == [["/0", "/1", "/2"]] * CROWD
    assert log.looks < CROWD / 4


async def test_who_stands_elsewhere_has_what_follows_there(log: Log) -> None:
    for number in range(5):
        await log.make(f"/{number}")
    watching = [asyncio.create_task(log.follow(5 - after, after=after)) for after in range(5)]
    assert await asyncio.gather(*watching) == [[f"/{number}" for number in range(after, 5)] for after in range(5)]


async def test_what_is_committed_while_one_looks_is_seen_at_once(log: Log) -> None:
    log.after_look.append("/made")
    assert await log.follow(1) == ["/made"]


async def test_watchers_who_leave_do_not_disturb_the_others(log: Log) -> None:
    watching = [asyncio.create_task(log.follow(1)) for _ in range(CROWD)]
    await asyncio.sleep(0)
    for task in watching[::2]:
        task.cancel()
    await asyncio.wait(watching[::2])
    await log.make("/made")
    assert await asyncio.gather(*watching[1::2]) == [["/made"]] * (CROWD // 2)


async def test_all_are_told_that_the_log_has_not_come_so_far(log: Log) -> None:
    errors = await asyncio.gather(*(log.follow(1, after=99) for _ in range(3)), return_exceptions=True)
    assert {type(error) for error in errors} == {CursorExpired}
