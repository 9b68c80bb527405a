"""A channel whose other end is in this process: stubs on one side, servicers on the other, and nothing in between.

The one-process deployment registers its servicers at a :class:`LoopbackChannel` and hands the same channel to the
generated stubs. Calls behave as over ``grpc.aio``: deadlines, cancellation, metadata, status codes with their details,
back-pressure of streams; one suite (``tests/conformance/rpc``) runs over both. What differs:

* Messages are passed by reference. Neither side may change a message after handing it over.
* A unary handler runs in the task that awaits the call: it sees its caller's context variables, and a caller that is
  cancelled waits until the handler has cleaned up.
* There are no limits of size, no interceptors and no credentials.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from cdir_runtime.loopback_calls import StreamStreamCall, StreamUnaryCall, Tasks, UnaryStreamCall, UnaryUnaryCall
from cdir_runtime.loopback_exchange import Exchange, MetadataLike

__all__ = ["LoopbackChannel"]


class LoopbackChannel(grpc.aio.Channel, grpc.aio.Server):
    """Both ends of a connection: servicers are added to it as to a server, stubs are made from it as from a channel.

    Use it as an async context manager, or :meth:`close` it: calls that still run are cancelled and waited for.
    """

    def __init__(self) -> None:
        self._behaviours: dict[str, Any] = {}
        self._generic: list[grpc.GenericRpcHandler] = []
        self._tasks = Tasks()
        self._unstarted: dict[UnaryUnaryCall, None] = {}
        self._start_scheduled = False
        self._closed = asyncio.Event()

    # -- the server's end ---------------------------------------------------------------------------------------------

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self._generic.extend(generic_rpc_handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        for name, handler in method_handlers.items():
            self._behaviours[f"/{service_name}/{name}"] = _behaviour_of(handler)

    def add_insecure_port(self, address: str) -> int:
        raise grpc.aio.UsageError(f"a loopback channel cannot listen on {address}")

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        raise grpc.aio.UsageError(f"a loopback channel cannot listen on {address}")

    async def start(self) -> None:
        """A loopback channel serves from the beginning."""

    async def stop(self, grace: float | None) -> None:
        await self.close(grace)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Wait until the channel is closed; True when ``timeout`` seconds passed before."""
        try:
            async with asyncio.timeout(timeout):
                await self._closed.wait()
        except TimeoutError:
            return True
        return False

    # -- the client's end ---------------------------------------------------------------------------------------------

    def unary_unary(self, method: str, *_codecs: Any, **_options: Any) -> Any:
        return _UnaryUnary(self, method)

    def unary_stream(self, method: str, *_codecs: Any, **_options: Any) -> Any:
        return _UnaryStream(self, method)

    def stream_unary(self, method: str, *_codecs: Any, **_options: Any) -> Any:
        return _StreamUnary(self, method)

    def stream_stream(self, method: str, *_codecs: Any, **_options: Any) -> Any:
        return _StreamStream(self, method)

    async def close(self, grace: float | None = None) -> None:
        """Refuse new calls, give running ones ``grace`` seconds (default: none), then cancel them. May be repeated."""
        self._closed.set()
        self._start_unstarted()
        await self._tasks.stop(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return grpc.ChannelConnectivity.SHUTDOWN if self._closed.is_set() else grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        if self.get_state() is last_observed_state:
            await self._closed.wait()

    async def channel_ready(self) -> None:
        if self._closed.is_set():
            raise grpc.aio.UsageError("Channel is closed.")

    # -- what the callables below use ---------------------------------------------------------------------------------

    def begin(self, method: str, metadata: MetadataLike | None, timeout: float | None) -> tuple[Exchange, Any]:
        """Return a new call of ``method`` and the handler's function for it."""
        if self._closed.is_set():
            raise grpc.aio.UsageError("Channel is closed.")
        behaviour = self._behaviours.get(method) or self._generic_behaviour(method, metadata)
        return Exchange(asyncio.get_running_loop(), method, metadata, timeout), behaviour

    def begin_unary(
        self, method: str, request: Any, metadata: MetadataLike | None, timeout: float | None
    ) -> UnaryUnaryCall:
        exchange, behaviour = self.begin(method, metadata, timeout)
        call = UnaryUnaryCall(exchange, behaviour, request, self._unstarted)
        if not self._start_scheduled:
            # one callback for any number of calls: a loop of calls that never wait must not pile callbacks up
            self._start_scheduled = True
            exchange.loop.call_soon(self._start_unstarted)
        return call

    @property
    def tasks(self) -> Tasks:
        return self._tasks

    def _start_unstarted(self) -> None:
        self._start_scheduled = False
        unstarted = list(self._unstarted)
        self._unstarted.clear()
        for call in unstarted:
            call.start(self._tasks)

    def _generic_behaviour(self, method: str, metadata: MetadataLike | None) -> Any:
        details = _CallDetails(method, () if metadata is None else tuple(metadata))
        for generic in self._generic:
            handler = generic.service(details)
            if handler is not None:
                return _behaviour_of(handler)
        return _not_found


@dataclass(slots=True)
class _CallDetails:
    method: str
    invocation_metadata: Any


class _Callable:
    """One method of one channel, as the generated stubs hold it."""

    __slots__ = ("_channel", "_method")

    def __init__(self, channel: LoopbackChannel, method: str) -> None:
        self._channel = channel
        self._method = method


class _UnaryUnary(_Callable):
    __slots__ = ()

    def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: MetadataLike | None = None, **_options: Any
    ) -> UnaryUnaryCall:
        return self._channel.begin_unary(self._method, request, metadata, timeout)


class _UnaryStream(_Callable):
    __slots__ = ()

    def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: MetadataLike | None = None, **_options: Any
    ) -> UnaryStreamCall:
        exchange, behaviour = self._channel.begin(self._method, metadata, timeout)
        return UnaryStreamCall(exchange, behaviour, request, self._channel.tasks)


class _StreamUnary(_Callable):
    __slots__ = ()

    def __call__(
        self,
        request_iterator: AsyncIterable[Any] | Iterable[Any] | None = None,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        **_options: Any,
    ) -> StreamUnaryCall:
        exchange, behaviour = self._channel.begin(self._method, metadata, timeout)
        return StreamUnaryCall(exchange, behaviour, request_iterator, self._channel.tasks)


class _StreamStream(_Callable):
    __slots__ = ()

    def __call__(
        self,
        request_iterator: AsyncIterable[Any] | Iterable[Any] | None = None,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        **_options: Any,
    ) -> StreamStreamCall:
        exchange, behaviour = self._channel.begin(self._method, metadata, timeout)
        return StreamStreamCall(exchange, behaviour, request_iterator, self._channel.tasks)


def _behaviour_of(handler: grpc.RpcMethodHandler[Any, Any]) -> Any:
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


async def _not_found(_request: Any, _context: Any) -> Any:
    """Stand in for a method nobody registered."""
    raise NotImplementedError
