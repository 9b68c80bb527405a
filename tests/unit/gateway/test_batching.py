from __future__ import annotations

import asyncio

import pytest

from cdir.errors import InternalError, NotFound, ProviderUnavailable
from cdir_gateway.batching import Batcher


class Doubling:
    """A service that answers when it is let to, and remembers the batches it was given."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, group: str, items: list[int]) -> list[int | Exception]:
        self.batches.append((group, items))
        await self.open.wait()
        return [NotFound("odd") if item % 2 else item * 2 for item in items]


async def test_what_comes_during_a_call_goes_into_the_next() -> None:
    service = Doubling()
    service.open.clear()
    async with Batcher(service, max_items=100) as batcher:
        first = batcher.submit(0)
        await asyncio.sleep(0)
        rest = [batcher.submit(item) for item in range(2, 42, 2)]
        service.open.set()
        assert await first == 0
        assert await asyncio.gather(*rest) == [item * 2 for item in range(2, 42, 2)]
    assert [len(items) for _, items in service.batches] == [1, 20]


async def test_batches_are_bounded_and_never_mix_groups() -> None:
    service = Doubling()
    async with Batcher(service, max_items=3) as batcher:
        answers = [batcher.submit(item, group="a" if item < 10 else "b") for item in range(0, 20, 2)]
        await asyncio.gather(*answers)
    assert all(len(items) <= 3 for _, items in service.batches)
    assert all({"a" if item < 10 else "b" for item in items} == {group} for group, items in service.batches)


async def test_one_items_error_is_its_own() -> None:
    async with Batcher(Doubling()) as batcher:
        good, bad = batcher.submit(2), batcher.submit(3)
        assert await good == 4
        with pytest.raises(NotFound):
            await bad


async def test_a_failed_call_fails_its_batch_and_not_the_next() -> None:
    calls = 0

    async def flaky(_: str, items: list[int]) -> list[int | Exception]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ProviderUnavailable("gone")
        return list(items)

    async with Batcher(flaky) as batcher:
        with pytest.raises(ProviderUnavailable):
            await batcher.submit(1)
        assert await batcher.submit(2) == 2


async def test_a_service_that_forgets_items_is_noticed() -> None:
    async def forgetful(_: str, items: list[int]) -> list[int | Exception]:
        return []

    async with Batcher(forgetful) as batcher:
        with pytest.raises(InternalError):
            await batcher.submit(1)


async def test_who_leaves_disturbs_nobody_and_the_call_goes_on() -> None:
    service = Doubling()
    service.open.clear()
    async with Batcher(service) as batcher:
        leaving, staying = batcher.submit(2), batcher.submit(4)
        await asyncio.sleep(0)
        leaving.cancel()
        service.open.set()
        assert await staying == 8
    assert service.batches == [("", [2, 4])]


async def test_the_end_serves_what_was_given_and_takes_no_more() -> None:
    service = Doubling()
    batcher = Batcher(service)
    async with batcher:
        answer = batcher.submit(2)
    assert answer.result() == 4
    with pytest.raises(ProviderUnavailable):
        batcher.submit(4)


async def test_a_call_keeps_its_distance_until_enough_wait() -> None:
    service = Doubling()
    async with Batcher(service, spacing=3600, enough=lambda: 50) as batcher, asyncio.timeout(60):
        assert await batcher.submit(0) == 0
        answers = [batcher.submit(item * 2) for item in range(49)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(service.batches) == 1
        answers.append(batcher.submit(98))
        await asyncio.gather(*answers)
    assert [len(items) for _, items in service.batches] == [1, 50]


async def test_the_end_keeps_no_distance() -> None:
    async with asyncio.timeout(60):
        async with Batcher(Doubling(), spacing=3600, enough=lambda: 50) as batcher:
            await batcher.submit(0)
            answer = batcher.submit(2)
        assert await answer == 4
