"""Work that is done once for all who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cdir_runtime.shared_work import SharedWork

HANG = 30.0


class Work:
    """Something to wait for, that says how often it was begun and cancelled."""

    def __init__(self) -> None:
        self.shared: SharedWork[str, object] = SharedWork()
        self.begun = 0
        self.cancelled = 0
        self.under_way = asyncio.Event()
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> object:
        self.begun += 1
        self.under_way.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return self.begun

    async def joined(self, count: int) -> list[asyncio.Task[object]]:
        """So many who wait for it."""
        tasks = [asyncio.create_task(self.shared.join("key", self)) for _ in range(count)]
        await self.under_way.wait()
        return tasks


@pytest.fixture
async def work() -> AsyncIterator[Work]:
    async with asyncio.timeout(HANG):
        yield Work()


async def test_all_have_the_result_of_one_and_later_ones_begin_anew(work: Work) -> None:
    tasks = await work.joined(100)
    work.may_end.set()
    assert await asyncio.gather(*tasks) == [1] * 100
    assert "key" not in work.shared
    assert await work.shared.join("key", work) == 2


async def test_other_keys_are_other_work(work: Work) -> None:
    work.may_end.set()
    await asyncio.gather(work.shared.join("key", work), work.shared.join("other", work))
    assert work.begun == 2


async def test_all_have_its_error(work: Work) -> None:
    tasks = await work.joined(3)
    work.error = ValueError("broken")
    work.may_end.set()
    assert await asyncio.gather(*tasks, return_exceptions=True) == [work.error] * 3


@pytest.mark.parametrize("leaving", [0, 1], ids=["the first", "another"])
async def test_who_leaves_takes_nothing_from_the_others(work: Work, leaving: int) -> None:
    tasks = await work.joined(3)
    tasks[leaving].cancel()
    await asyncio.wait([tasks[leaving]])
    assert tasks[leaving].cancelled()
    work.may_end.set()
    assert await asyncio.gather(*tasks[:leaving], *tasks[leaving + 1 :]) == [1, 1]
    assert work.cancelled == 0


async def test_the_last_one_who_leaves_sees_it_end(work: Work) -> None:
    tasks = await work.joined(3)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert (work.begun, work.cancelled) == (1, 1)
    work.may_end.set()
    assert await work.shared.join("key", work) == 2


async def test_who_comes_while_it_is_given_up_begins_anew(work: Work) -> None:
    (task,) = await work.joined(1)
    task.cancel()
    await asyncio.sleep(0)
    work.may_end.set()
    assert await work.shared.join("key", work) == 2
    await asyncio.wait([task])
    assert work.cancelled == 1
