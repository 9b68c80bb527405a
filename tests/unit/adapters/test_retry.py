from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from cdir.errors import AlreadyExists, NotFound, PermissionDenied, ProviderUnavailable, RateLimited, Retry
from cdir_adapters.adapter import Adapter, ObjectInfo, WriteMode
from cdir_adapters.layers import RetryAdapter, RetrySettings
from cdir_adapters.layers.retry import tried_once
from cdir_adapters.providers.memory import MemoryAdapter
from cdir_adapters.testing.faults import FaultyAdapter

NOW = datetime(2024, 1, 1, tzinfo=UTC)
GONE = ProviderUnavailable("gone")


class Clock:
    """Time that passes only while someone sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def faulty() -> FaultyAdapter:
    return FaultyAdapter(MemoryAdapter("memory"))


@pytest.fixture
def retrying(faulty: FaultyAdapter, clock: Clock) -> RetryAdapter:
    settings = RetrySettings(attempts=4, budget=10.0, first_delay=1.0, longest_delay=3.0)
    return RetryAdapter(faulty, settings, clock=clock, sleep=clock.sleep, jitter=lambda: 0.5)


async def put(adapter: Adapter, data: bytes = b"x", **options: Any) -> ObjectInfo:
    return await adapter.write("k", data, size=len(data), modified=NOW, **options)


async def test_what_passes_is_tried_again(retrying: RetryAdapter, faulty: FaultyAdapter, clock: Clock) -> None:
    faulty.fail("write", GONE, times=2)
    await put(retrying)
    assert (await faulty.fetch("k")).data == b"x"
    assert clock.slept == [0.5, 1.0]
    faulty.assert_all_hit()


async def test_it_gives_up_after_the_attempts(retrying: RetryAdapter, faulty: FaultyAdapter, clock: Clock) -> None:
    faulty.fail("stat", GONE, times=9)
    with pytest.raises(ProviderUnavailable) as raised:
        await retrying.stat("k")
    assert raised.value.retry is Retry.EXHAUSTED
    assert faulty.calls["stat"] == 4
    assert clock.slept == [0.5, 1.0, 1.5]


async def test_it_gives_up_when_the_budget_is_spent(
    retrying: RetryAdapter, faulty: FaultyAdapter, clock: Clock
) -> None:
    faulty.fail("delete", RateLimited("slower", retry_after=6.0), times=9)
    with pytest.raises(RateLimited) as raised:
        await retrying.delete("k")
    assert raised.value.retry is Retry.EXHAUSTED
    assert raised.value.retry_after == 6.0
    assert clock.slept == [6.0]


async def test_what_does_not_pass_is_not_tried_again(retrying: RetryAdapter, faulty: FaultyAdapter) -> None:
    for error in (PermissionDenied("no"), GONE.exhausted()):
        faulty.clear()
        faulty.fail("fetch", error, times=9)
        with pytest.raises(type(error)) as raised:
            await retrying.fetch("k")
        assert raised.value is error
        assert faulty.calls["fetch"] == 1


async def test_a_stream_is_written_once(retrying: RetryAdapter, faulty: FaultyAdapter) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"x"

    faulty.fail("write", GONE)
    with pytest.raises(ProviderUnavailable) as raised:
        await retrying.write("k", source(), size=1, modified=NOW)
    assert raised.value.retry is Retry.LATER
    assert faulty.calls["write"] == 1


async def test_opening_a_read_is_tried_again_and_its_middle_is_not(
    retrying: RetryAdapter, faulty: FaultyAdapter
) -> None:
    await put(faulty, b"content")
    faulty.fail("read", GONE)
    async with retrying.read("k") as stream:
        assert b"".join([piece async for piece in stream]) == b"content"
    faulty.clear()
    faulty.truncate("read", 3, error=GONE)
    got = []
    with pytest.raises(ProviderUnavailable):
        async with retrying.read("k") as stream:
            got.extend([piece async for piece in stream])
    assert faulty.calls["read"] == 1


async def test_beginning_a_listing_is_tried_again_and_its_middle_is_not(
    retrying: RetryAdapter, faulty: FaultyAdapter
) -> None:
    for number in range(2500):
        await faulty.inner.write(f"d/{number}", b"", size=0, modified=NOW)
    faulty.fail("list", GONE)
    assert sum([len(page.objects) async for page in retrying.list("d")]) == 2500
    faulty.clear()
    faulty.truncate("list", 1, error=GONE)
    pages = retrying.list("d")
    assert len((await anext(pages)).objects) == 1000
    with pytest.raises(ProviderUnavailable):
        await anext(pages)
    assert faulty.calls["list"] == 1


async def test_a_create_that_took_effect_is_recognised(retrying: RetryAdapter, faulty: FaultyAdapter) -> None:
    faulty.fail("write", GONE, applied=True)
    info = await put(retrying, b"ours", mode=WriteMode.CREATE)
    assert info.size == 4
    assert faulty.calls["write"] == 2


async def test_a_create_that_someone_else_won_fails(retrying: RetryAdapter, faulty: FaultyAdapter) -> None:
    await put(faulty.inner, b"them")
    faulty.fail("write", GONE)
    with pytest.raises(AlreadyExists):
        await put(retrying, b"ours", mode=WriteMode.CREATE)
    assert (await faulty.inner.fetch("k")).data == b"them"


async def test_a_conditional_write_that_took_effect_is_recognised(
    retrying: RetryAdapter, faulty: FaultyAdapter
) -> None:
    old = await put(faulty.inner, b"old")
    faulty.fail("write", GONE, applied=True)
    await put(retrying, b"new", if_match=old.etag)
    assert (await faulty.inner.fetch("k")).data == b"new"


async def test_a_move_of_unknown_outcome_does_not_claim_the_source_never_was(
    retrying: RetryAdapter, faulty: FaultyAdapter
) -> None:
    await put(faulty.inner)
    faulty.fail("move", GONE, applied=True)
    with pytest.raises(ProviderUnavailable) as raised:
        await retrying.move("k", "other")
    assert raised.value.retry is Retry.EXHAUSTED
    with pytest.raises(NotFound):
        await retrying.move("k", "other")


async def test_pauses_are_drawn_between_nothing_and_the_limit(faulty: FaultyAdapter, clock: Clock) -> None:
    faulty.fail("stat", GONE, times=9)
    retrying = RetryAdapter(faulty, RetrySettings(attempts=9, budget=1e9), clock=clock, sleep=clock.sleep)
    with pytest.raises(ProviderUnavailable):
        await retrying.stat("k")
    assert len(clock.slept) == 8
    for number, slept in enumerate(clock.slept):
        assert 0 <= slept <= min(RetrySettings().first_delay * 2**number, RetrySettings().longest_delay)


async def test_who_only_asks_whether_it_is_back_does_not_try_again(
    retrying: RetryAdapter, faulty: FaultyAdapter, clock: Clock
) -> None:
    faulty.fail("check", GONE, times=3)
    with tried_once():
        for _ in range(2):
            with pytest.raises(ProviderUnavailable) as raised:
                await retrying.check()
            assert raised.value.retry is Retry.EXHAUSTED
    assert not clock.slept
    await retrying.check()
    assert len(clock.slept) == 1
