"""A tiny service with all four kinds of calls, reachable over the loopback channel and over gRPC on a Unix socket."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from cdir.errors import NotFound
from cdir_runtime.channel import open_channel
from cdir_runtime.loopback import LoopbackChannel
from cdir_runtime.server import serve

SERVICE = "cdir.test.Probe"


def message(value: bytes | str | int) -> BytesValue:
    return BytesValue(value=value if isinstance(value, bytes) else str(value).encode())


@dataclass
class ProbeServicer:
    """What the handlers did, for tests to look at."""

    error: Exception = field(default_factory=lambda: NotFound("no such thing", path="/a"))
    started: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """The stream of requests ended properly."""
    sent: int = 0
    received: int = 0

    async def echo(self, request: BytesValue, _context: Any) -> BytesValue:
        return request

    async def fail(self, _request: BytesValue, _context: Any) -> BytesValue:
        raise self.error

    async def hang(self, _request: BytesValue, _context: Any) -> BytesValue:
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return message("released")

    async def metadata(self, _request: BytesValue, context: Any) -> BytesValue:
        given = {key: value for key, value in context.invocation_metadata() if key.startswith("probe-")}
        await context.send_initial_metadata((("probe-initial", "i"),))
        context.set_trailing_metadata((("probe-trailing", "t"), ("probe-data-bin", b"\0\1")))
        return message(repr(sorted(given.items())))

    async def fail_with_metadata(self, _request: BytesValue, context: Any) -> BytesValue:
        context.set_trailing_metadata((("probe-trailing", "t"),))
        raise self.error

    async def remaining(self, _request: BytesValue, context: Any) -> BytesValue:
        return message(repr(context.time_remaining()))

    async def count(self, request: BytesValue, _context: Any) -> AsyncIterator[BytesValue]:
        """Yield ``N:SIZE`` messages of that many bytes."""
        number, _, size = request.value.partition(b":")
        self.started.set()
        try:
            for _ in range(int(number)):
                self.sent += 1
                yield message(b"x" * int(size or 0))
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def count_then_fail(self, request: BytesValue, _context: Any) -> AsyncIterator[BytesValue]:
        for index in range(int(request.value)):
            yield message(index)
        raise self.error

    async def yield_then_hang(self, _request: BytesValue, _context: Any) -> AsyncIterator[BytesValue]:
        yield message("first")
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def collect(self, requests: AsyncIterator[BytesValue], _context: Any) -> BytesValue:
        total = 0
        try:
            async for request in requests:
                self.received += 1
                total += len(request.value)
                self.started.set()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.ended.set()
        return message(total)

    async def collect_slowly(self, requests: AsyncIterator[BytesValue], context: Any) -> BytesValue:
        await self.release.wait()
        return await self.collect(requests, context)

    async def refuse_stream(self, requests: AsyncIterator[BytesValue], _context: Any) -> BytesValue:
        async for _ in requests:
            raise self.error
        return message("empty")

    async def echo_stream(self, requests: AsyncIterator[BytesValue], _context: Any) -> AsyncIterator[BytesValue]:
        try:
            async for request in requests:
                self.received += 1
                if request.value == b"fail":
                    raise self.error
                yield request
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.ended.set()


@dataclass
class Probe:
    """The service and a channel to it."""

    transport: str
    channel: grpc.aio.Channel
    servicer: ProbeServicer

    async def sender_gone(self) -> None:
        """Wait until the handler of a stream of requests was told that its caller is gone.

        The loopback says so by cancellation. gRPC ends the stream of requests first and cancels the handler a moment
        later, so a quick handler may see nothing but the end: that is why an end of stream commits nothing in cdir.
        """
        told = [asyncio.create_task(event.wait()) for event in (self.servicer.cancelled, self.servicer.ended)]
        try:
            await asyncio.wait(told, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in told:
                waiter.cancel()
        assert self.servicer.cancelled.is_set() or self.transport != "loopback"

    def __getattr__(self, name: str) -> Any:
        """Return the callable for a method of the service."""
        make = getattr(self.channel, _KINDS[name])
        return make(
            f"/{SERVICE}/{name}",
            request_serializer=BytesValue.SerializeToString,
            response_deserializer=BytesValue.FromString,
        )


_KINDS = {
    "echo": "unary_unary",
    "fail": "unary_unary",
    "hang": "unary_unary",
    "metadata": "unary_unary",
    "fail_with_metadata": "unary_unary",
    "remaining": "unary_unary",
    "missing": "unary_unary",
    "count": "unary_stream",
    "count_then_fail": "unary_stream",
    "yield_then_hang": "unary_stream",
    "missing_stream": "unary_stream",
    "collect": "stream_unary",
    "collect_slowly": "stream_unary",
    "refuse_stream": "stream_unary",
    "echo_stream": "stream_stream",
}


def register(servicer: ProbeServicer, server: grpc.aio.Server) -> None:
    handlers = {
        name: getattr(grpc, f"{kind}_rpc_method_handler")(
            getattr(servicer, name),
            request_deserializer=BytesValue.FromString,
            response_serializer=BytesValue.SerializeToString,
        )
        for name, kind in _KINDS.items()
        if not name.startswith("missing")
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)


@pytest.fixture(params=["loopback", "unix"])
async def probe(request: pytest.FixtureRequest) -> AsyncIterator[Probe]:
    servicer = ProbeServicer()
    if request.param == "loopback":
        async with LoopbackChannel() as channel:
            register(servicer, channel)
            yield Probe("loopback", channel, servicer)
        return
    folder = tempfile.mkdtemp(prefix="cdir-")
    try:
        async with (
            serve(f"unix:{folder}/probe.sock", [lambda server: register(servicer, server)], drain=0.5) as address,
            open_channel(address) as channel,
        ):
            yield Probe("unix", channel, servicer)
    finally:
        shutil.rmtree(folder)
