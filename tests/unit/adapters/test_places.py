"""How many objects are under way at a provider at once: more while that costs nothing, half when it is too much."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable

from cdir_adapters.layers.places import Places


class Line:
    """Calls of which as many as are under way take a round trip each, in a time of its own."""

    def __init__(self, first: int, most: int) -> None:
        self.now = 0.0
        self.places = Places(first, most, clock=lambda: self.now)
        self.running: list[asyncio.Future[None]] = []
        self.at_once: list[int] = []

    async def _call(self, count: int) -> None:
        async with self.places.taken(count):
            answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.running.append(answered)
            await answered

    async def carry(self, calls: int, seconds: Callable[[int], float], *, count: int = 1) -> None:
        """Make calls of ``count`` objects; ``seconds`` says how long a round of so many objects takes."""
        tasks = [asyncio.create_task(self._call(count)) for _ in range(calls)]
        while not all(task.done() for task in tasks):
            for _ in range(3):
                await asyncio.sleep(0)
            if not self.running:
                continue
            round_trip, self.running = self.running, []
            self.at_once.append(len(round_trip) * count)
            self.now += seconds(len(round_trip) * count)
            for answered in round_trip:
                answered.set_result(None)
        await asyncio.gather(*tasks)


async def test_a_distant_provider_gets_twice_as_many_a_round_trip() -> None:
    line = Line(16, 100)
    await line.carry(500, lambda _: 0.15)
    assert line.at_once[:4] == [16, 32, 64, 100]
    assert max(line.at_once) == 100


async def test_a_full_line_gets_no_more_than_it_carries() -> None:
    line = Line(16, 1000)
    await line.carry(2000, lambda at_once: 0.1 * max(1.0, at_once / 40))
    assert 40 < max(line.at_once) <= 160
    assert statistics.median(line.at_once) >= 40


async def test_few_that_want_places_give_no_more_of_them() -> None:
    line = Line(16, 100)
    for _ in range(20):
        await line.carry(4, lambda _: 0.15)
    assert line.places.limit == 16


async def test_too_many_are_halved_once_a_round_trip() -> None:
    line = Line(64, 128)
    await line.carry(64, lambda _: 0.1)
    for _ in range(10):
        line.places.refused()
    assert line.places.limit == 32
    line.now += 0.2
    line.places.refused()
    assert line.places.limit == 16
    for _ in range(10):
        line.now += 1.0
        line.places.refused()
    assert line.places.limit == 4
    await line.carry(40, lambda _: 0.1)
    assert 4 < line.places.limit < 20


async def test_a_batch_larger_than_all_places_goes_alone_and_who_leaves_takes_none() -> None:
    line = Line(4, 4)
    await line.carry(3, lambda _: 0.1, count=16)
    assert line.at_once == [16, 16, 16]
    holding, waiting = (asyncio.create_task(line._call(4)) for _ in range(2))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    line.running.pop().set_result(None)
    await holding
    await line.carry(1, lambda _: 0.1, count=4)
    assert line.at_once[-1] == 4


async def test_what_a_provider_once_said_is_forgotten_when_it_is_long_past() -> None:
    line = Line(16, 100)
    await line.carry(500, lambda _: 0.15)
    for _ in range(6):
        line.now += 1.0
        line.places.refused()
    assert line.places.limit == 4
    line.at_once.clear()
    await line.carry(40, lambda _: 0.15)
    assert line.at_once[:3] == [4, 4, 5], "a moment ago it was too much"
    line.now += 11
    line.at_once.clear()
    await line.carry(300, lambda _: 0.15)
    assert line.at_once[:4] == [16, 32, 64, 100]
