"""Large contents in parts: how many are in memory at once, and that no upload waits for another one's room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from cdir_adapters.parts import Sending, Spare

SIZE = 8


class Service:
    """Counts the parts that are collected and not stored yet."""

    def __init__(self) -> None:
        self.held = self.most = self.stored = 0

    async def parts(self, number: int) -> AsyncIterator[int]:
        for part in range(number):
            self.held += 1
            self.most = max(self.most, self.held)
            yield part

    async def store(self, part: int) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.held -= 1
        self.stored += 1
        if part < 0:
            raise ConnectionError("refused")


async def _upload(service: Service, spare: Spare, number: int, *, failing: int | None = None) -> None:
    async with Sending(spare) as sending, aclosing(sending.paced(service.parts(number))) as paced:
        async for part in paced:
            sending.start(service.store(-1 if part == failing else part), SIZE)


@pytest.mark.parametrize(("spare", "most"), [(0, 1), (SIZE - 1, 1), (SIZE, 2), (2 * SIZE, 3), (10 * SIZE, 3)])
async def test_one_upload_holds_one_part_and_what_is_spare(spare: int, most: int) -> None:
    service = Service()
    await _upload(service, Spare(spare), 20)
    assert (service.stored, service.most) == (20, most)


async def test_uploads_share_what_is_spare_and_give_it_back() -> None:
    service, spare = Service(), Spare(3 * SIZE)
    async with asyncio.TaskGroup() as uploads:
        for _ in range(5):
            uploads.create_task(_upload(service, spare, 20))
    assert service.stored == 100
    assert service.most <= 5 + 3
    assert spare.take(3 * SIZE)


async def test_a_part_that_fails_ends_the_upload_and_gives_back_what_it_held() -> None:
    service, spare = Service(), Spare(2 * SIZE)
    with pytest.raises(ExceptionGroup):
        await _upload(service, spare, 20, failing=4)
    assert service.stored < 20
    assert spare.take(2 * SIZE)
