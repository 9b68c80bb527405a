"""A provider's bandwidth: kept to in small portions, shared evenly, and no debt of who has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from cdir.errors import IntegrityError
from cdir_adapters.adapter import (
    FULL,
    Beginning,
    ByteRange,
    FetchedObject,
    ObjectInfo,
    SmallObject,
    Source,
    WriteMode,
)
from cdir_adapters.layers import LimitSettings, RateLimitAdapter, TimeoutAdapter, TimeoutSettings
from cdir_adapters.layers.wrapper import WrapperAdapter
from cdir_adapters.providers.memory import MemoryAdapter
from cdir_adapters.sentinel import MARK_KEY

NOW = datetime(2024, 1, 1, tzinfo=UTC)
RATE = 4_000
SPARE = RATE
"""What is saved up passes at once."""


class Counting(MemoryAdapter):
    """Notes the pieces that come in and go out."""

    def __init__(self) -> None:
        super().__init__("memory")
        self.taken: list[tuple[str, int]] = []
        self.asked: list[ByteRange] = []

    async def write(self, key: str, source: Source, **options: Any) -> ObjectInfo:
        return await super().write(key, source if isinstance(source, bytes) else self._noted(key, source), **options)

    async def _noted(self, key: str, source: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async for piece in source:
            self.taken.append((key, len(piece)))
            yield piece

    async def fetch(self, key: str, *, range: ByteRange = FULL, **options: Any) -> FetchedObject:
        self.asked.append(range)
        return await super().fetch(key, range=range, **options)


@pytest.fixture
def memory() -> Counting:
    return Counting()


@pytest.fixture
def limited(memory: Counting) -> RateLimitAdapter:
    return RateLimitAdapter(memory, LimitSettings(bandwidth=RATE))


async def put(adapter: RateLimitAdapter | MemoryAdapter, key: str, size: int) -> None:
    await adapter.write(key, bytes(size), size=size, modified=NOW)


async def test_a_few_kilobytes_a_second_are_kept_to(limited: RateLimitAdapter, memory: Counting) -> None:
    clock = asyncio.get_running_loop().time
    begun = clock()
    await put(limited, "k", 3 * RATE)
    assert clock() - begun >= 2 * 0.99
    assert max(size for _, size in memory.taken) <= RATE / 4, "it does not come in a burst"
    assert (await memory.stat("k")).size == 3 * RATE


async def test_what_is_read_is_asked_for_in_small_requests(memory: Counting) -> None:
    limited = RateLimitAdapter(memory, LimitSettings(bandwidth=100_000))
    content = bytes(range(256)) * 1000
    await memory.write("k", content, size=len(content), modified=NOW)
    begun = asyncio.get_running_loop().time()
    found = await limited.fetch("k", range=ByteRange(6_000, 1 << 20))
    assert found.data == content[6_000:]
    assert asyncio.get_running_loop().time() - begun >= 1.4
    assert [one.length for one in memory.asked] == [100_000, 100_000, 50_000]


async def test_what_is_replaced_between_two_requests_is_no_mixture(memory: Counting) -> None:
    limited = RateLimitAdapter(memory, LimitSettings(bandwidth=200_000))
    await put(memory, "k", 500_000)

    class Replaced(WrapperAdapter):
        async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
            found = await memory.fetch(key, range=range, if_match=if_match)
            await memory.write(key, b"n" * 500_000, size=500_000, modified=NOW)
            return found

    limited.inner = Replaced(memory)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        await limited.fetch("k", range=ByteRange(0, 500_000))


async def test_a_small_transfer_is_not_held_up_by_large_ones(limited: RateLimitAdapter, memory: Counting) -> None:
    await put(limited, "spare", SPARE)
    async with asyncio.TaskGroup() as group:
        large = [group.create_task(put(limited, f"large/{number}", 100 * RATE)) for number in range(3)]
        await asyncio.sleep(0)
        await asyncio.wait_for(put(limited, "small", RATE // 4), 30)
        assert not any(one.done() for one in large)
        begun = [size for key, size in memory.taken if key != "spare"]
        assert sum(begun) < 10 * RATE
        for one in large:
            one.cancel()


async def test_who_leaves_leaves_no_debt(memory: Counting) -> None:
    limited = RateLimitAdapter(memory, LimitSettings(bandwidth=RATE, concurrency=500))
    await put(limited, "spare", SPARE)
    leaving = [asyncio.create_task(put(limited, f"k/{number}", 100 * RATE)) for number in range(400)]
    await asyncio.sleep(0.05)
    for one in leaving:
        one.cancel()
    await asyncio.wait(leaving)
    # four hundred portions would take a minute and a half
    await asyncio.wait_for(put(limited, "mine", 100), 30)


async def test_batches_are_held_to_it_too(limited: RateLimitAdapter, memory: Counting) -> None:
    clock = asyncio.get_running_loop().time
    objects = [SmallObject(f"k/{number}", bytes(RATE), NOW, WriteMode.OVERWRITE) for number in range(3)]
    begun = clock()
    await limited.write_each(objects)
    assert clock() - begun >= 2 * 0.99
    begun = clock()
    found = await limited.fetch_each([Beginning(one.key, RATE) for one in objects])
    assert clock() - begun >= 2 * 0.99
    assert [len(one.data) for one in found if isinstance(one, FetchedObject)] == [RATE] * 3


async def test_checking_a_busy_provider_waits_in_no_line(memory: Counting) -> None:
    limited = RateLimitAdapter(memory, LimitSettings(bandwidth=RATE, concurrency=1))
    await put(memory, MARK_KEY, 300)
    await put(memory, "k", 100 * RATE)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(limited.fetch("k", range=ByteRange(0, 100 * RATE)))
        async with limited.looking:
            await limited.check()
            assert len((await limited.fetch(MARK_KEY, range=ByteRange(0, 1 << 16))).data) == 300
        reading.cancel()


async def test_waiting_for_the_bandwidth_is_not_taken_for_silence(memory: Counting) -> None:
    impatient = TimeoutSettings(call=0.3, progress=0.3, copy=0.3)
    limited = RateLimitAdapter(TimeoutAdapter(memory, impatient), LimitSettings(bandwidth=RATE))
    await asyncio.gather(*(put(limited, f"k/{number}", RATE) for number in range(3)))
    found = await asyncio.gather(*(limited.fetch(f"k/{number}", range=ByteRange(0, RATE)) for number in range(3)))
    assert [len(one.data) for one in found] == [RATE] * 3
