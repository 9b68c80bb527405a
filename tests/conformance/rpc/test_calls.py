"""What a call does, the same over the loopback channel and over real gRPC: results, metadata, deadlines, errors."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from cdir import status
from cdir.errors import (
    CdirError,
    Conflict,
    InternalError,
    NotFound,
    ProviderUnavailable,
    RateLimited,
    Retry,
    Unsupported,
)

pytestmark = pytest.mark.timeout(90)


def message(value: bytes | str | int) -> BytesValue:
    return BytesValue(value=value if isinstance(value, bytes) else str(value).encode())


def pending_cancellations() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def messages(*values: bytes | str | int) -> Any:
    for value in values:
        yield message(value)


async def test_unary_call(probe: Any) -> None:
    assert (await probe.echo(message("hello"))).value == b"hello"


async def test_a_call_can_be_awaited_again_and_asked_for_its_status(probe: Any) -> None:
    call = probe.echo(message("hello"))
    assert (await call).value == b"hello"
    assert (await call).value == b"hello"
    assert await call.code() is grpc.StatusCode.OK
    assert await call.details() == ""
    assert call.done()
    assert not call.cancelled()
    assert not call.cancel()


async def test_a_unary_call_starts_without_being_awaited(probe: Any) -> None:
    call = probe.hang(message(""))
    await probe.servicer.started.wait()
    assert not call.done()
    probe.servicer.release.set()
    assert await call.code() is grpc.StatusCode.OK
    assert (await call).value == b"released"


async def test_stream_of_responses(probe: Any) -> None:
    assert [len(m.value) async for m in probe.count(message("5:3"))] == [3] * 5


async def test_stream_of_responses_with_read(probe: Any) -> None:
    call = probe.count(message("2:1"))
    assert (await call.read()).value == b"x"
    assert (await call.read()).value == b"x"
    assert await call.read() is grpc.aio.EOF
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_reading_and_iterating_do_not_mix(probe: Any) -> None:
    call = probe.count(message("5:1"))
    await call.read()
    with pytest.raises(grpc.aio.UsageError):
        aiter(call)
    call.cancel()


async def test_stream_of_requests_from_an_iterator(probe: Any) -> None:
    assert (await probe.collect(messages("ab", "c"))).value == b"3"
    assert (await probe.collect(iter([message("abcd")]))).value == b"4"
    assert (await probe.collect(messages())).value == b"0"


async def test_stream_of_requests_by_writing(probe: Any) -> None:
    call = probe.collect()
    await call.write(message("abc"))
    await call.write(message("de"))
    await call.done_writing()
    assert (await call).value == b"5"
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(message("late"))


async def test_writing_after_done_writing_is_an_error(probe: Any) -> None:
    call = probe.collect_slowly()
    await call.done_writing()
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(message("late"))
    probe.servicer.release.set()
    await call


async def test_writing_beside_an_iterator_is_an_error(probe: Any) -> None:
    call = probe.collect(messages("a"))
    with pytest.raises(grpc.aio.UsageError):
        await call.write(message("b"))
    await call


async def test_both_ways_in_turns(probe: Any) -> None:
    call = probe.echo_stream()
    for index in range(10):
        await call.write(message(index))
        assert (await call.read()).value == str(index).encode()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    assert probe.servicer.ended.is_set()


async def test_both_ways_from_an_iterator(probe: Any) -> None:
    assert [m.value async for m in probe.echo_stream(messages("a", "b", "c"))] == [b"a", b"b", b"c"]


async def test_big_messages(probe: Any) -> None:
    big = b"\xa5" * (8 * 1024 * 1024)
    assert (await probe.echo(message(big))).value == big
    assert [m.value async for m in probe.echo_stream(messages(big, big))] == [big, big]


async def test_many_calls_at_once(probe: Any) -> None:
    async def stream(index: int) -> bytes:
        return b"".join([m.value async for m in probe.echo_stream(messages(index, "-", index))])

    unary = [probe.echo(message(index)) for index in range(200)]
    streams = await asyncio.gather(*(stream(index) for index in range(50)))
    assert streams == [f"{index}-{index}".encode() for index in range(50)]
    assert [(await call).value for call in unary] == [str(index).encode() for index in range(200)]


# -- metadata ---------------------------------------------------------------------------------------------------------


async def test_metadata_both_ways(probe: Any) -> None:
    call = probe.metadata(message(""), metadata=(("probe-a", "1"), ("probe-b-bin", b"\xff")))
    assert (await call).value == repr([("probe-a", "1"), ("probe-b-bin", b"\xff")]).encode()
    assert (await call.initial_metadata())["probe-initial"] == "i"
    trailing = await call.trailing_metadata()
    assert trailing["probe-trailing"] == "t"
    assert trailing["probe-data-bin"] == b"\0\1"


async def test_initial_metadata_arrives_with_the_first_message(probe: Any) -> None:
    call = probe.yield_then_hang(message(""))
    assert (await call.read()).value == b"first"
    await call.initial_metadata()
    assert not call.done()
    call.cancel()


async def test_the_handlers_trailing_metadata_stay_beside_the_errors(probe: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await probe.fail_with_metadata(message(""))
    assert caught.value.trailing_metadata()["probe-trailing"] == "t"
    assert isinstance(status.from_rpc_error(caught.value), NotFound)


# -- deadlines --------------------------------------------------------------------------------------------------------


async def test_the_handler_knows_the_time_remaining(probe: Any) -> None:
    assert (await probe.remaining(message(""))).value == b"None"
    remaining = float((await probe.remaining(message(""), timeout=500)).value)
    assert 400 < remaining < 501


async def test_a_unary_deadline(probe: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await probe.hang(message(""), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert caught.value.details() == "Deadline Exceeded"
    await probe.servicer.cancelled.wait()
    assert pending_cancellations() == 0


async def test_a_deadline_in_a_stream_of_responses(probe: Any) -> None:
    call = probe.yield_then_hang(message(""), timeout=2)
    assert (await call.read()).value == b"first"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await probe.servicer.cancelled.wait()


async def test_a_deadline_in_a_stream_of_requests(probe: Any) -> None:
    call = probe.collect(timeout=0.3)
    await call.write(message("a"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await probe.sender_gone()


async def test_a_deadline_that_is_kept_leaves_nothing_behind(probe: Any) -> None:
    for _ in range(3):
        assert (await probe.echo(message("x"), timeout=30)).value == b"x"
    assert pending_cancellations() == 0


# -- errors -----------------------------------------------------------------------------------------------------------


async def test_an_error_with_its_details(probe: Any) -> None:
    probe.servicer.error = RateLimited("slow down", retry_after=2.5, provider="box")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await probe.fail(message(""))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == "slow down"
    error = status.from_rpc_error(caught.value)
    assert type(error) is RateLimited
    assert (error.message, error.retry, error.retry_after) == ("slow down", Retry.LATER, 2.5)
    assert error.context == {"provider": "box"}


async def test_translated(probe: Any) -> None:
    probe.servicer.error = Conflict("another was first", path="/é").exhausted()
    with pytest.raises(Conflict) as caught, status.translated():
        await probe.fail(message(""))
    assert caught.value.retry is Retry.EXHAUSTED
    assert caught.value.context == {"path": "/é"}
    with pytest.raises(Conflict), status.translated():
        async for _ in probe.count_then_fail(message(3)):
            pass


async def test_an_error_in_mid_stream_comes_after_the_messages_before_it(probe: Any) -> None:
    call = probe.count_then_fail(message(3))
    assert [(await call.read()).value for _ in range(3)] == [b"0", b"1", b"2"]
    with pytest.raises(NotFound) as caught, status.translated():
        await call.read()
    assert caught.value.context == {"path": "/a"}


async def test_an_error_before_the_first_message(probe: Any) -> None:
    with pytest.raises(NotFound), status.translated():
        await probe.count_then_fail(message(0)).read()


async def test_an_error_while_the_caller_still_writes(probe: Any) -> None:
    for _ in range(20):
        call = probe.refuse_stream()

        async def write_on(call: Any = call) -> None:
            while True:
                await call.write(message(b"x" * 65536))

        with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
            await write_on()
        try:
            with status.translated():
                await call
        except NotFound:
            return
        except InternalError as error:
            # the core of gRPC sometimes tells of the write that failed in place of the reason
            if "Internal error from Core" not in error.message:
                raise
    pytest.fail("the reason never arrived")


async def test_an_error_ends_a_stream_both_ways(probe: Any) -> None:
    call = probe.echo_stream()
    await call.write(message("a"))
    assert (await call.read()).value == b"a"
    await call.write(message("fail"))
    with pytest.raises(NotFound), status.translated():
        await call.read()


async def test_a_defect_tells_the_caller_nothing_and_the_log_everything(
    probe: Any, caplog: pytest.LogCaptureFixture
) -> None:
    probe.servicer.error = ValueError("secret words")
    with caplog.at_level(logging.ERROR), pytest.raises(InternalError) as caught, status.translated():
        await probe.fail(message(""))
    assert "secret" not in str(caught.value)
    assert "secret words" in caplog.text


async def test_groups_of_errors_count_as_their_first(probe: Any) -> None:
    probe.servicer.error = ExceptionGroup("tasks", [Conflict("one"), ExceptionGroup("inner", [NotFound("two")])])
    with pytest.raises(Conflict), status.translated():
        await probe.fail(message(""))


async def test_the_error_of_another_service_passes_on(probe: Any) -> None:
    code, details, trailing = status.to_status(NotFound("gone", path="/z", retry=Retry.EXHAUSTED))
    probe.servicer.error = grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(("x-other", "1"), *trailing), details=details
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await probe.fail(message(""))
    assert "x-other" not in caught.value.trailing_metadata()
    error = status.from_rpc_error(caught.value)
    assert type(error) is NotFound
    assert (error.retry, error.context) == (Retry.EXHAUSTED, {"path": "/z"})


async def test_another_service_that_cannot_be_reached(probe: Any) -> None:
    probe.servicer.error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details="connection refused"
    )
    with pytest.raises(ProviderUnavailable, match="cannot reach the service: connection refused"), status.translated():
        await probe.fail(message(""))


async def test_something_else_cancelled_inside_the_handler_is_an_error(probe: Any) -> None:
    probe.servicer.error = asyncio.CancelledError()
    with pytest.raises(InternalError), status.translated():
        await probe.fail(message(""))


async def test_a_method_that_is_not_there(probe: Any) -> None:
    with pytest.raises(Unsupported), status.translated():
        await probe.missing(message(""))
    with pytest.raises(Unsupported), status.translated():
        async for _ in probe.missing_stream(message("")):
            pass


async def test_an_error_with_a_long_message_and_context_arrives(probe: Any) -> None:
    probe.servicer.error = NotFound("é" * 20_000, path="x" * 10_000, provider="box")
    with pytest.raises(CdirError) as caught, status.translated():
        await probe.fail(message(""))
    assert type(caught.value) is NotFound
    assert caught.value.context == {"provider": "box"}
