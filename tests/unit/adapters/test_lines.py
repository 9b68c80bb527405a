"""Calls that nobody waits for hold back for those that somebody does, and get on all the same."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from cdir_adapters.adapter import Adapter
from cdir_adapters.layers import LayerSettings, LimitSettings, RateLimitAdapter, find_layer, stack
from cdir_adapters.layers.lines import Line
from cdir_adapters.providers.memory import MemoryAdapter

NOW = datetime(2024, 1, 1, tzinfo=UTC)
PLACES = 16


class Crowd:
    """Calls that hold a place until they are told to end."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.inside = {"foreground": 0, "background": 0}
        self.end = asyncio.Event()

    async def call(self, kind: str) -> None:
        async with self.line.foreground if kind == "foreground" else self.line.background:
            self.inside[kind] += 1
            await self.end.wait()


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_the_background_leaves_half_of_the_places_free() -> None:
    crowd = Crowd(Line(PLACES))
    async with asyncio.TaskGroup() as group:
        for _ in range(2 * PLACES):
            group.create_task(crowd.call("background"))
        await settle()
        assert crowd.inside["background"] == PLACES // 2
        for _ in range(PLACES):
            group.create_task(crowd.call("foreground"))
        await settle()
        assert crowd.inside["foreground"] == PLACES // 2
        crowd.end.set()
    assert crowd.inside == {"foreground": PLACES, "background": 2 * PLACES}


async def test_beside_others_the_background_takes_an_eighth_and_gets_on() -> None:
    line = Line(PLACES)
    crowd, rest = Crowd(line), Crowd(line)
    async with asyncio.TaskGroup() as group:
        group.create_task(crowd.call("foreground"))
        await settle()
        for _ in range(5):
            group.create_task(rest.call("background"))
        await settle()
        assert rest.inside["background"] == PLACES // 8
        rest.end.set()
        async with asyncio.timeout(30):
            while rest.inside["background"] < 5:  # noqa: ASYNC110 # nothing tells of it
                await asyncio.sleep(0.01)
        crowd.end.set()


async def test_who_leaves_the_line_leaves_its_place_to_others() -> None:
    line = Line(1)
    crowd = Crowd(line)
    async with asyncio.TaskGroup() as group:
        holding = group.create_task(crowd.call("foreground"))
        leaving = [group.create_task(crowd.call(kind)) for kind in ("foreground", "background", "background")]
        await settle()
        for one in leaving:
            one.cancel()
        holding.cancel()
        await settle()
        group.create_task(crowd.call("foreground"))
        await settle()
        assert crowd.inside == {"foreground": 2, "background": 0}
        crowd.end.set()
    async with asyncio.timeout(30), line.background:
        pass


async def test_the_bandwidth_of_one_transfer_is_what_the_background_gets() -> None:
    memory = MemoryAdapter("memory")
    stacked = stack(memory, LayerSettings(limits=LimitSettings(concurrency=200)), bandwidth=4_000)
    behind = stack(memory, behind=stacked)

    async def put(adapter: Adapter, key: str, size: int) -> None:
        await adapter.write(key, bytes(size), size=size, modified=NOW)

    async with asyncio.TaskGroup() as group:
        others = [group.create_task(put(behind, f"k/{number}", 99_999)) for number in range(100)]
        await asyncio.sleep(0.1)
        # with one place in a line of a hundred it would take a minute and a half
        await asyncio.wait_for(put(stacked, "mine", 4_000), 30)
        for one in others:
            one.cancel()


def test_both_stacks_share_the_limits() -> None:
    memory = MemoryAdapter("memory")
    stacked = stack(memory, bandwidth=5)
    behind = find_layer(stack(memory, behind=stacked), RateLimitAdapter)
    before = find_layer(stacked, RateLimitAdapter)
    assert behind is not None
    assert before is not None
    assert behind.limits is before.limits
    assert RateLimitAdapter(memory, LimitSettings()).limits is not before.limits
