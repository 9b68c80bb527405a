"""How calls end before their time: cancelled, abandoned, closed; and how fast a writer may run ahead of a reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from cdir_runtime.channel import ending

pytestmark = pytest.mark.timeout(90)
CHUNK = b"x" * (1024 * 1024)


def message(value: bytes | str | int) -> BytesValue:
    return BytesValue(value=value if isinstance(value, bytes) else str(value).encode())


def pending_cancellations() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def settled(figure: Callable[[], int]) -> int:
    """Return a counter once it has not moved for a second."""
    before = -1
    while (now := figure()) != before:
        before = now
        await asyncio.sleep(1.0)
    return now


async def test_cancelling_a_unary_call_cancels_its_handler(probe: Any) -> None:
    call = probe.hang(message(""))
    await probe.servicer.started.wait()
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert call.cancelled()
    assert await call.code() is grpc.StatusCode.CANCELLED
    await probe.servicer.cancelled.wait()


async def test_cancelling_a_call_that_another_task_awaits(probe: Any) -> None:
    call = probe.hang(message(""))
    outcome: list[str] = []

    async def wait() -> None:
        try:
            await call
        except asyncio.CancelledError:
            outcome.append(f"cancelled, {pending_cancellations()} requests")

    task = asyncio.create_task(wait())
    await probe.servicer.started.wait()
    call.cancel()
    await task
    assert outcome == ["cancelled, 0 requests"]


async def test_cancelling_the_awaiting_task_cancels_the_handler(probe: Any) -> None:
    async def wait() -> None:
        await probe.hang(message(""))

    task = asyncio.create_task(wait())
    await probe.servicer.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await probe.servicer.cancelled.wait()


async def test_a_callers_own_timeout_cancels_the_handler(probe: Any) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await probe.hang(message(""))
    await probe.servicer.cancelled.wait()


async def test_calls_work_while_the_caller_is_being_cancelled(probe: Any) -> None:
    cleaned: list[bytes] = []

    async def work() -> None:
        try:
            await probe.hang(message(""))
        except asyncio.CancelledError:
            cleaned.append((await probe.echo(message("cleanup"), timeout=30)).value)
            raise

    task = asyncio.create_task(work())
    await probe.servicer.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == [b"cleanup"]


async def test_cancelling_a_stream_reaches_a_handler_that_waits(probe: Any) -> None:
    call = probe.yield_then_hang(message(""))
    await call.read()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    await probe.servicer.cancelled.wait()


async def test_cancelling_a_stream_reaches_a_handler_that_yields(probe: Any) -> None:
    call = probe.count(message(f"100000:{len(CHUNK)}"))
    await call.read()
    await settled(lambda: probe.servicer.sent)
    call.cancel()
    await probe.servicer.cancelled.wait()


async def test_a_stream_that_is_left_within_its_block_is_cancelled(probe: Any) -> None:
    async def read_one() -> None:
        with ending(probe.count(message(f"100000:{len(CHUNK)}"))) as call:
            async for _ in call:
                break

    await read_one()
    await probe.servicer.cancelled.wait()


async def test_the_loopback_cancels_a_stream_that_is_dropped(probe: Any) -> None:
    """grpc.aio does not: its channels hold on to their calls. That is what ending() is for."""

    async def read_one() -> None:
        async for _ in probe.count(message(f"100000:{len(CHUNK)}")):
            break

    await read_one()
    if probe.transport == "loopback":
        await probe.servicer.cancelled.wait()


async def test_a_cancelled_writer_is_not_the_end_of_the_stream(probe: Any) -> None:
    async def write() -> None:
        with ending(probe.collect()) as call:
            await call.write(message("a"))
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    await probe.servicer.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await probe.sender_gone()


async def test_requests_that_fail_are_not_the_end_of_the_stream(probe: Any) -> None:
    async def requests() -> AsyncIterator[BytesValue]:
        yield message("a")
        await probe.servicer.started.wait()
        raise RuntimeError("the source broke")

    call = probe.collect(requests())
    with pytest.raises(asyncio.CancelledError):
        await call
    await probe.sender_gone()


async def test_cancelling_a_stream_both_ways(probe: Any) -> None:
    call = probe.echo_stream()
    await call.write(message("a"))
    await call.read()
    call.cancel()
    await probe.sender_gone()
    assert await call.code() is grpc.StatusCode.CANCELLED


async def test_done_callbacks(probe: Any) -> None:
    called = asyncio.Event()
    call = probe.yield_then_hang(message(""))
    call.add_done_callback(lambda _call: called.set())
    await call.read()
    assert not called.is_set()
    call.cancel()
    await called.wait()


async def test_a_slow_reader_holds_the_handler_back(probe: Any) -> None:
    call = probe.count(message(f"100000:{len(CHUNK)}"))
    await call.read()
    ahead = await settled(lambda: probe.servicer.sent)
    # one read, at most one window of 2 MiB plus what both ends hold in their hands
    assert ahead <= 10
    for _ in range(ahead):
        await call.read()
    assert probe.servicer.sent > ahead
    call.cancel()


async def test_a_slow_handler_holds_the_writer_back(probe: Any) -> None:
    written = 0
    call = probe.collect_slowly()

    async def write() -> None:
        nonlocal written
        for _ in range(30):
            await call.write(message(CHUNK))
            written += 1
        await call.done_writing()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        assert await settled(lambda: written) <= 10
        probe.servicer.release.set()
    assert (await call).value == str(30 * len(CHUNK)).encode()
    assert probe.servicer.received == 30


async def test_a_closed_channel_takes_no_calls(probe: Any) -> None:
    await probe.echo(message(""))
    await probe.channel.close()
    with pytest.raises(grpc.aio.UsageError):
        await probe.echo(message(""))
    await probe.channel.close()


async def test_closing_the_channel_ends_its_calls(probe: Any) -> None:
    call = probe.yield_then_hang(message(""))
    await call.read()
    await probe.channel.close()
    await probe.servicer.cancelled.wait()
    assert call.done()
