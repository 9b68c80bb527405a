"""Timeout, rate limit, breaker, verify, metrics, and the stack of all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from cdir.errors import (
    DeadlineExceeded,
    IntegrityError,
    InternalError,
    NotFound,
    ProviderUnavailable,
    RateLimited,
    Retry,
    Unsupported,
)
from cdir_adapters.adapter import Adapter, ByteRange, ObjectInfo, SmallObject, Source, WriteMode
from cdir_adapters.capability import Capability
from cdir_adapters.layers import (
    BreakerAdapter,
    BreakerSettings,
    BreakerState,
    LayerSettings,
    LimitSettings,
    MetricsAdapter,
    RateLimitAdapter,
    RetryAdapter,
    RetrySettings,
    TimeoutAdapter,
    TimeoutSettings,
    VerifyAdapter,
    find_layer,
    stack,
)
from cdir_adapters.providers.memory import MemoryAdapter
from cdir_adapters.testing.conformance import Outcome, run_conformance
from cdir_adapters.testing.faults import FaultyAdapter

T = TypeVar("T")

NOW = datetime(2024, 1, 1, tzinfo=UTC)
GONE = ProviderUnavailable("gone")
SHORT = 0.05
"""Seconds of a limit that is meant to be hit."""


@pytest.fixture
def faulty() -> FaultyAdapter:
    return FaultyAdapter(MemoryAdapter("memory"))


async def put(adapter: Adapter, data: bytes = b"content", key: str = "k", **options: Any) -> ObjectInfo:
    return await adapter.write(key, data, size=len(data), modified=NOW, **options)


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def read(adapter: Adapter, key: str = "k") -> bytes:
    async with adapter.read(key) as stream:
        return b"".join([piece async for piece in stream])


async def names(adapter: Adapter, prefix: str = "") -> list[str]:
    return [found.key async for page in adapter.list(prefix) for found in page.objects]


class TestTimeout:
    @pytest.fixture
    def timed(self, faulty: FaultyAdapter) -> TimeoutAdapter:
        return TimeoutAdapter(faulty, TimeoutSettings(call=SHORT, progress=SHORT, copy=SHORT, slowest=1e12))

    @pytest.mark.parametrize("verb", ["check", "stat", "fetch", "read", "write", "delete", "list", "copy", "usage"])
    async def test_silence_is_unavailable(self, timed: TimeoutAdapter, faulty: FaultyAdapter, verb: str) -> None:
        await put(faulty.inner)
        faulty.stall(verb)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "check": lambda: timed.check(),
            "stat": lambda: timed.stat("k"),
            "fetch": lambda: timed.fetch("k"),
            "read": lambda: read(timed),
            "write": lambda: put(timed),
            "delete": lambda: timed.delete("k"),
            "list": lambda: names(timed),
            "copy": lambda: timed.copy("k", "l"),
            "usage": lambda: timed.usage(),
        }
        with pytest.raises(ProviderUnavailable, match="did not answer") as raised:
            await calls[verb]()
        assert raised.value.retry is Retry.LATER
        faulty.assert_all_hit()
        await calls[verb]()

    async def test_a_slow_source_is_not_the_providers_fault(self, timed: TimeoutAdapter, faulty: FaultyAdapter) -> None:
        async def slow() -> AsyncIterator[bytes]:
            for _ in range(3):
                await asyncio.sleep(2 * SHORT)
                yield b"x"

        info = await timed.write("k", slow(), size=3, modified=NOW)
        assert info.size == 3

    async def test_a_write_that_no_longer_gets_on_is_given_up(
        self, timed: TimeoutAdapter, faulty: FaultyAdapter
    ) -> None:
        class Stuck(MemoryAdapter):
            async def write(self, key: str, source: Source, **options: Any) -> ObjectInfo:
                assert not isinstance(source, bytes)
                async for _ in source:
                    await asyncio.Event().wait()
                raise AssertionError("it does not end")

        stuck = TimeoutAdapter(Stuck("stuck"), timed.settings)
        with pytest.raises(ProviderUnavailable, match="did not answer"):
            await stuck.write("k", pieces(b"a", b"b"), size=2, modified=NOW)

    async def test_a_callers_own_deadline_passes(self, timed: TimeoutAdapter, faulty: FaultyAdapter) -> None:
        patient = TimeoutAdapter(faulty)
        faulty.stall("stat")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT):
                await patient.stat("k")


class TestRateLimit:
    async def test_no_more_calls_at_once_than_allowed(self) -> None:
        class Counting(MemoryAdapter):
            now = most = 0

            async def stat(self, key: str) -> ObjectInfo:
                self.now += 1
                self.most = max(self.most, self.now)
                await asyncio.sleep(0.001)
                self.now -= 1
                return await super().stat(key)

        counting = Counting("memory")
        await put(counting)
        limited = RateLimitAdapter(counting, LimitSettings(concurrency=3))
        await asyncio.gather(*(limited.stat("k") for _ in range(20)))
        assert counting.most == 3

    async def test_calls_and_bytes_take_their_time(self, faulty: FaultyAdapter) -> None:
        loop = asyncio.get_running_loop()
        limited = RateLimitAdapter(faulty, LimitSettings(calls=100))
        begun = loop.time()
        for _ in range(120):
            await limited.check()
        assert loop.time() - begun >= 0.19
        limited = RateLimitAdapter(faulty, LimitSettings(bandwidth=1000_000))
        begun = loop.time()
        await put(limited, bytes(1_100_000))
        await limited.write("l", pieces(bytes(50_000), bytes(50_000)), size=100_000, modified=NOW)
        assert loop.time() - begun >= 0.19
        begun = loop.time()
        await limited.fetch("k")
        assert await read(limited, "l") == bytes(100_000)
        assert loop.time() - begun >= 0.19

    async def test_copying_by_way_of_this_process_cannot_lock_up(self, faulty: FaultyAdapter) -> None:
        limited = RateLimitAdapter(faulty, LimitSettings(concurrency=1))
        for number in range(4):
            await put(limited, bytes(3 << 20), f"from/{number}")

        async def copy(number: int) -> None:
            async with limited.read(f"from/{number}") as stream:
                await limited.write(f"to/{number}", stream, size=3 << 20, modified=NOW)

        async with asyncio.timeout(60):
            await asyncio.gather(*map(copy, range(4)))
            async for page in limited.list("from"):
                for found in page.objects:
                    await limited.delete(found.key)
        assert await names(limited, "from") == []


def state_of(breaker: BreakerAdapter | None) -> BreakerState:
    """Asked anew each time: a type checker takes an attribute for what it was last found to be."""
    assert breaker is not None
    return breaker.state


class TestBreaker:
    @pytest.fixture
    def now(self) -> list[float]:
        return [100.0]

    @pytest.fixture
    def breaker(self, faulty: FaultyAdapter, now: list[float]) -> BreakerAdapter:
        return BreakerAdapter(faulty, BreakerSettings(failures=3, pause=5.0), clock=lambda: now[0])

    async def break_it(self, breaker: BreakerAdapter, faulty: FaultyAdapter) -> None:
        faulty.fail("stat", GONE, times=3)
        for _ in range(3):
            assert state_of(breaker) is BreakerState.CLOSED
            with pytest.raises(ProviderUnavailable):
                await breaker.stat("k")
        assert state_of(breaker) is BreakerState.OPEN
        faulty.clear()

    async def test_it_opens_and_refuses_at_once(
        self, breaker: BreakerAdapter, faulty: FaultyAdapter, now: list[float]
    ) -> None:
        await put(breaker)
        await self.break_it(breaker, faulty)
        now[0] += 2
        with pytest.raises(ProviderUnavailable) as raised:
            await breaker.fetch("k")
        assert raised.value.retry_after == 3.0
        for call in (put(breaker), read(breaker), names(breaker), breaker.delete("k")):
            with pytest.raises(ProviderUnavailable):
                await call
        assert faulty.calls.total() == 0

    async def test_one_call_tries_and_closes_it(
        self, breaker: BreakerAdapter, faulty: FaultyAdapter, now: list[float]
    ) -> None:
        await put(breaker)
        await self.break_it(breaker, faulty)
        now[0] += 5
        faulty.stall("fetch")
        trying = asyncio.ensure_future(breaker.fetch("k"))
        await asyncio.sleep(0)
        assert state_of(breaker) is BreakerState.HALF_OPEN
        with pytest.raises(ProviderUnavailable):
            await breaker.fetch("k")
        trying.cancel()
        await asyncio.wait({trying})
        assert state_of(breaker) is BreakerState.OPEN
        assert (await breaker.fetch("k")).data == b"content"
        assert state_of(breaker) is BreakerState.CLOSED

    async def test_a_try_that_fails_opens_it_anew(
        self, breaker: BreakerAdapter, faulty: FaultyAdapter, now: list[float]
    ) -> None:
        await self.break_it(breaker, faulty)
        now[0] += 5
        faulty.fail("stat", GONE)
        with pytest.raises(ProviderUnavailable):
            await breaker.stat("k")
        with pytest.raises(ProviderUnavailable):
            await breaker.stat("k")
        assert faulty.calls["stat"] == 1

    async def test_the_one_that_tries_is_not_tried_again(self, faulty: FaultyAdapter, now: list[float]) -> None:
        breaker = BreakerAdapter(RetryAdapter(faulty), BreakerSettings(failures=1, pause=5.0), clock=lambda: now[0])
        breaker.failed()
        now[0] += 5
        faulty.fail("stat", GONE, times=9)
        with pytest.raises(ProviderUnavailable):
            await breaker.stat("k")
        assert faulty.calls["stat"] == 1

    async def test_any_answer_counts_as_one(self, breaker: BreakerAdapter, faulty: FaultyAdapter) -> None:
        faulty.fail("stat", GONE, at=1, times=2)
        faulty.fail("stat", RateLimited("slower"), at=3)
        faulty.fail("stat", DeadlineExceeded("late"), at=4, times=2)
        for error in (ProviderUnavailable, ProviderUnavailable, RateLimited, DeadlineExceeded, DeadlineExceeded):
            with pytest.raises(error):
                await breaker.stat("k")
        with pytest.raises(NotFound):
            await breaker.stat("k")
        assert state_of(breaker) is BreakerState.CLOSED

    async def test_a_check_always_passes_and_counts(self, breaker: BreakerAdapter, faulty: FaultyAdapter) -> None:
        await self.break_it(breaker, faulty)
        await breaker.check()
        assert state_of(breaker) is BreakerState.CLOSED
        faulty.fail("check", GONE, at=2, times=3)
        for _ in range(3):
            with pytest.raises(ProviderUnavailable):
                await breaker.check()
        assert state_of(breaker) is BreakerState.OPEN

    async def test_another_providers_failure_is_not_this_ones(self, breaker: BreakerAdapter) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"x"
            raise ProviderUnavailable("the source's provider is gone")

        for _ in range(5):
            with pytest.raises(ProviderUnavailable):
                await breaker.write("k", broken(), size=9, modified=NOW)
        assert state_of(breaker) is BreakerState.CLOSED

    async def test_a_stream_that_breaks_off_counts(self, faulty: FaultyAdapter) -> None:
        breaker = BreakerAdapter(faulty, BreakerSettings(failures=1))
        await put(breaker)
        faulty.truncate("read", 3, error=GONE)
        with pytest.raises(ProviderUnavailable):
            await read(breaker)
        assert state_of(breaker) is BreakerState.OPEN


class TestVerify:
    @pytest.fixture
    def verified(self, faulty: FaultyAdapter) -> VerifyAdapter:
        return VerifyAdapter(faulty)

    async def test_short_content_is_found(self, verified: VerifyAdapter, faulty: FaultyAdapter) -> None:
        await put(verified)
        faulty.truncate("fetch", 3)
        faulty.truncate("read", 3)
        with pytest.raises(IntegrityError):
            await verified.fetch("k")
        with pytest.raises(IntegrityError):
            await read(verified)
        assert await read(verified) == b"content"
        faulty.truncate("fetch", 1, at=2)
        with pytest.raises(IntegrityError):
            await verified.fetch("k", range=ByteRange(5, 100))

    async def test_changed_content_is_found_by_the_providers_checksum(
        self, verified: VerifyAdapter, faulty: FaultyAdapter
    ) -> None:
        await put(verified)
        faulty.corrupt("fetch")
        with pytest.raises(IntegrityError):
            await verified.fetch("k")

    async def test_a_write_that_stored_something_else_is_undone(
        self, verified: VerifyAdapter, faulty: FaultyAdapter
    ) -> None:
        faulty.truncate("write", 3)
        faulty.corrupt("write", at=2)
        for _ in range(2):
            with pytest.raises(IntegrityError):
                await put(verified)
            with pytest.raises(NotFound):
                await faulty.inner.stat("k")
        assert (await put(verified)).size == 7
        assert (await verified.write("k", pieces(b"ab", b"c"), size=3, modified=NOW)).size == 3


async def test_metrics_count_what_happens(faulty: FaultyAdapter) -> None:
    measured = MetricsAdapter(faulty)
    await put(measured)
    await measured.write("l", pieces(b"12", b"3"), size=3, modified=NOW)
    await measured.fetch("k", range=ByteRange(0, 2))
    assert await read(measured) == b"content"
    assert await names(measured) == ["k", "l"]
    faulty.fail("stat", GONE)
    with pytest.raises(ProviderUnavailable):
        await measured.stat("k")
    with pytest.raises(NotFound):
        await measured.stat("missing")
    faulty.stall("delete")
    deleting = asyncio.ensure_future(measured.delete("k"))
    await asyncio.sleep(0)
    assert measured.snapshot().in_flight == 1
    deleting.cancel()
    await asyncio.wait({deleting})
    found = measured.snapshot()
    assert (found.bytes_out, found.bytes_in, found.in_flight) == (10, 9, 0)
    assert found.verbs["write"].calls == 2
    spent = found.verbs["write"].seconds
    assert spent is not None
    assert spent > 0
    assert found.verbs["stat"].errors == {"PROVIDER_UNAVAILABLE": 1, "NOT_FOUND": 1}
    assert found.verbs["stat"].seconds is None
    assert found.verbs["delete"].errors == {"CANCELLED": 1}
    assert "copy" not in found.verbs


class TestStack:
    async def test_it_conforms(self) -> None:
        stacked = stack(MemoryAdapter("memory"))
        results = [result async for result in run_conformance(stacked, many=1500)]
        assert [result for result in results if result.outcome is Outcome.FAILED] == []
        assert sum(result.outcome is Outcome.PASSED for result in results) > 30
        assert [page async for page in stacked.list("", recursive=True)] == []

    async def test_a_provider_that_is_down_costs_nothing_soon(self, faulty: FaultyAdapter) -> None:
        settings = LayerSettings(
            retry=RetrySettings(attempts=2, first_delay=0.001), breaker=BreakerSettings(failures=2, pause=600.0)
        )
        stacked = stack(faulty, settings)
        faulty.fail("fetch", GONE, times=99)
        for _ in range(5):
            with pytest.raises(ProviderUnavailable):
                await stacked.fetch("k")
        assert faulty.calls["fetch"] == 4
        assert state_of(find_layer(stacked, BreakerAdapter)) is BreakerState.OPEN
        metrics = find_layer(stacked, MetricsAdapter)
        assert metrics is not None
        assert metrics.snapshot().verbs["fetch"].errors == {"PROVIDER_UNAVAILABLE": 5}

    async def test_no_more_calls_than_the_adapter_makes_at_once_are_let_through(self) -> None:
        class Counted(MemoryAdapter):
            calls_at_once = 2
            objects_at_once = 3
            inside = most = 0

            async def _one(self, call: Awaitable[T]) -> T:
                self.inside += 1
                self.most = max(self.most, self.inside)
                for _ in range(20):
                    await asyncio.sleep(0)
                self.inside -= 1
                return await call

            async def stat(self, key: str) -> ObjectInfo:
                return await self._one(super().stat(key))

            async def write(self, key: str, source: Source, **options: Any) -> ObjectInfo:
                return await self._one(super().write(key, source, **options))

        counted = Counted("memory")
        stacked = stack(counted)
        behind = stack(counted, behind=stacked)
        await asyncio.gather(*(put(stacked, key=f"k{number}") for number in range(10)))
        assert counted.most == 2
        await asyncio.gather(*(adapter.stat("k1") for adapter in (stacked, behind) for _ in range(10)))
        assert counted.most == 2
        batches = [[SmallObject(f"b{at}-{number}", b"x", NOW) for number in range(3)] for at in range(4)]
        await asyncio.gather(*(stacked.write_each(batch) for batch in batches))
        assert counted.most == 3

    async def test_what_the_probe_did_not_find_is_refused(self) -> None:
        memory = MemoryAdapter("memory")
        stacked = stack(memory, capability=Capability())
        assert not stacked.capability.copy
        await put(stacked)
        for call in (
            put(stacked, mode=WriteMode.CREATE),
            put(stacked, if_match="x"),
            stacked.write("l", pieces(b"x"), size=None, modified=NOW),
            stacked.copy("k", "l"),
            stacked.move("k", "l"),
            stacked.usage(),
            stacked.fetch("k", if_match="x"),
            stacked.make_directory("d"),
        ):
            with pytest.raises(Unsupported):
                await call
        assert memory.capability.copy
        assert find_layer(stacked, TimeoutAdapter) is not None
        assert find_layer(stacked, FaultyAdapter) is None

    async def test_defects_pass_unchanged(self, faulty: FaultyAdapter) -> None:
        defect = InternalError("a defect")
        faulty.fail("stat", defect)
        faulty.fail("fetch", ValueError("a bug"))
        stacked = stack(faulty)
        with pytest.raises(InternalError) as raised:
            await stacked.stat("k")
        assert raised.value is defect
        with pytest.raises(ValueError, match="a bug"):
            await stacked.fetch("k")
