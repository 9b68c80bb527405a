"""The call objects that a caller gets from the loopback channel: the same four kinds as from ``grpc.aio``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Generator, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Self

import grpc
import grpc.aio

from cdir_runtime.interceptors import forward, status_of
from cdir_runtime.loopback_exchange import END, Exchange, Pipe

__all__ = ["LoopbackCall", "StreamStreamCall", "StreamUnaryCall", "Tasks", "UnaryStreamCall", "UnaryUnaryCall"]

logger = logging.getLogger(__name__)


class Tasks:
    """The tasks that run for the calls of one channel; whoever closes the channel waits for them."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def stop(self, grace: float | None) -> None:
        """Give the running tasks ``grace`` seconds, then cancel what is left and wait until it has ended."""
        if grace and self._running:
            await asyncio.wait(self._running, timeout=grace)
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)


class LoopbackCall(grpc.aio.Call):
    """What all four kinds have in common."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def cancelled(self) -> bool:
        return self._exchange.cancelled()

    def done(self) -> bool:
        return self._exchange.finished

    def time_remaining(self) -> float | None:
        remaining: float | None = self._exchange.time_remaining()
        return remaining

    def cancel(self) -> bool:
        return self._exchange.cancel()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._exchange.on_finish(partial(callback, self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        await self._exchange.wait_initial()
        return grpc.aio.Metadata(*self._exchange.initial)

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        await self._exchange.wait_finished()
        return grpc.aio.Metadata(*self._exchange.trailing_metadata())

    async def code(self) -> grpc.StatusCode:
        await self._exchange.wait_finished()
        code: grpc.StatusCode = self._exchange.code()
        return code

    async def details(self) -> str:
        await self._exchange.wait_finished()
        return self._exchange.details()

    async def wait_for_connection(self) -> None:
        """Nothing needs to be connected."""

    def _raise_for_status(self) -> None:
        if self._exchange.locally_cancelled:
            raise asyncio.CancelledError
        if self._exchange.code() is not grpc.StatusCode.OK:
            raise self._exchange.error()


class UnaryUnaryCall(LoopbackCall, grpc.aio.UnaryUnaryCall[Any, Any]):
    """One request, one response. The handler runs in the task of whoever awaits the call, with no task of its own.

    A call that nobody has awaited by the next turn of the event loop is started by the channel, as real calls start by
    themselves.
    """

    def __init__(self, exchange: Exchange, behaviour: Any, request: Any, unstarted: dict[UnaryUnaryCall, None]) -> None:
        self._exchange = exchange
        self._behaviour = behaviour
        self._request = request
        self._unstarted = unstarted
        self._started = False
        unstarted[self] = None

    def start(self, tasks: Tasks) -> None:
        """Run the handler in a task, unless it runs already."""
        if not self._started and not self._exchange.finished:
            self._started = True
            tasks.start(self._perform_quietly(), self._exchange.method)

    def __await__(self) -> Generator[Any, None, Any]:
        if self._started or self._exchange.finished:
            return self._joined().__await__()
        return self._perform().__await__()

    async def _joined(self) -> Any:
        try:
            await self._exchange.wait_finished()
        except asyncio.CancelledError:
            self._exchange.cancel()
            raise
        self._raise_for_status()
        return self._exchange.response

    async def _perform_quietly(self) -> None:
        with suppress(grpc.aio.AioRpcError):  # whoever awaits the call gets it
            await self._perform()

    async def _perform(self) -> Any:
        exchange, request = self._exchange, self._request
        self._started = True
        self._request = None
        self._unstarted.pop(self, None)
        task = asyncio.current_task()
        assert task is not None
        cancellations = task.cancelling()
        exchange.task = task
        if exchange.deadline is not None:
            exchange.start_timer()
        try:
            exchange.response = await self._behaviour(request, exchange)
        except asyncio.CancelledError as error:
            if not exchange.finished:
                if task.cancelling() > cancellations:
                    exchange.cancelled_with_caller()
                    raise
                exchange.finish(*status_of(error, exchange.method))
        except Exception as error:
            exchange.finish(*status_of(error, exchange.method))
        else:
            exchange.succeed()
        finally:
            exchange.task = None
        if exchange.interrupted and task.uncancel() > cancellations:
            # cancel() or the deadline cancelled the task, and so did somebody else, who means the caller
            raise asyncio.CancelledError
        if exchange.code() is not grpc.StatusCode.OK:
            self._raise_for_status()
        return exchange.response


class _Streaming(LoopbackCall):
    """A call whose handler runs in a task of its own, which ends when the call does."""

    def __del__(self) -> None:
        # A call that its caller dropped is over. This may run in any thread and after the loop's end.
        exchange = self._exchange
        if not exchange.finished and not exchange.loop.is_closed():
            with suppress(RuntimeError):
                exchange.loop.call_soon_threadsafe(exchange.cancel, "Cancelled upon garbage collection!")


class _Requests(_Streaming):
    """The sending half of a call with a stream of requests."""

    def _send(self, requests: AsyncIterable[Any] | Iterable[Any] | None, tasks: Tasks) -> None:
        pipe = self._exchange.requests = Pipe(self._exchange.loop)
        self._given_iterator = requests is not None
        if requests is not None:
            feeder = tasks.start(_feed(requests, pipe, self._exchange), f"requests of {self._exchange.method}")
            self._exchange.on_finish(feeder.cancel)

    async def write(self, request: Any) -> None:
        exchange = self._writable()
        assert exchange.requests is not None
        if exchange.finished:
            raise asyncio.InvalidStateError("RPC already finished.")
        if exchange.requests.ended:
            raise asyncio.InvalidStateError('RPC is half closed after calling "done_writing".')
        try:
            taken = await exchange.requests.put(request)
        except asyncio.CancelledError:
            exchange.cancel()
            raise
        if not taken:
            self._raise_for_status()

    async def done_writing(self) -> None:
        exchange = self._writable()
        assert exchange.requests is not None
        exchange.requests.end()

    def _writable(self) -> Exchange:
        if self._given_iterator:
            raise grpc.aio.UsageError("The iterator and read/write APIs may not be mixed on a single RPC.")
        return self._exchange


class _Responses(_Streaming):
    """The receiving half of a call with a stream of responses."""

    _iterated: bool | None = None

    def __aiter__(self) -> Self:
        self._use_style(iterated=True)
        return self

    async def __anext__(self) -> Any:
        message = await self._next()
        if message is END:
            raise StopAsyncIteration
        return message

    async def read(self) -> Any:
        if not self._exchange.finished:
            self._use_style(iterated=False)
        return await self._next()

    async def _next(self) -> Any:
        exchange = self._exchange
        assert exchange.responses is not None
        try:
            message = await exchange.responses.get()
            if message is END:
                await exchange.wait_finished()
        except asyncio.CancelledError:
            exchange.cancel()
            raise
        if message is END:
            self._raise_for_status()
        return message

    def _use_style(self, *, iterated: bool) -> None:
        if self._iterated is None:
            self._iterated = iterated
        elif self._iterated is not iterated:
            raise grpc.aio.UsageError("The iterator and read/write APIs may not be mixed on a single RPC.")


class UnaryStreamCall(_Responses, grpc.aio.UnaryStreamCall[Any, Any]):
    """One request, a stream of responses."""

    def __init__(self, exchange: Exchange, behaviour: Any, request: Any, tasks: Tasks) -> None:
        super().__init__(exchange)
        exchange.responses = Pipe(exchange.loop)
        _start(exchange, behaviour, request, tasks)


class StreamUnaryCall(_Requests, grpc.aio.StreamUnaryCall[Any, Any]):
    """A stream of requests, one response."""

    def __init__(
        self, exchange: Exchange, behaviour: Any, requests: AsyncIterable[Any] | Iterable[Any] | None, tasks: Tasks
    ) -> None:
        super().__init__(exchange)
        self._send(requests, tasks)
        _start(exchange, behaviour, _RequestIterator(exchange), tasks)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._joined().__await__()

    async def _joined(self) -> Any:
        try:
            await self._exchange.wait_finished()
        except asyncio.CancelledError:
            self._exchange.cancel()
            raise
        self._raise_for_status()
        return self._exchange.response


class StreamStreamCall(_Requests, _Responses, grpc.aio.StreamStreamCall[Any, Any]):
    """A stream of requests, a stream of responses."""

    def __init__(
        self, exchange: Exchange, behaviour: Any, requests: AsyncIterable[Any] | Iterable[Any] | None, tasks: Tasks
    ) -> None:
        super().__init__(exchange)
        exchange.responses = Pipe(exchange.loop)
        self._send(requests, tasks)
        _start(exchange, behaviour, _RequestIterator(exchange), tasks)


class _RequestIterator(AsyncIterator[Any]):
    """What a handler iterates to get the requests."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def __anext__(self) -> Any:
        message = await self._exchange.read()
        if message is END:
            raise StopAsyncIteration
        return message


def _start(exchange: Exchange, behaviour: Any, request: Any, tasks: Tasks) -> None:
    exchange.start_timer()
    exchange.task = tasks.start(_serve(exchange, behaviour, request), exchange.method)


async def _serve(exchange: Exchange, behaviour: Any, request: Any) -> None:
    """Run a streaming handler to its end and set the call's status."""
    try:
        outcome = behaviour(request, exchange)
        if hasattr(outcome, "__aiter__"):
            await forward(outcome, exchange.write)
        else:
            exchange.response = await outcome
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if exchange.finished or task is None or task.cancelling():
            exchange.finish(grpc.StatusCode.CANCELLED, "the service ended the call")
            raise
        exchange.finish(*status_of(error, exchange.method))
    except Exception as error:
        exchange.finish(*status_of(error, exchange.method))
    else:
        exchange.succeed()


async def _feed(requests: AsyncIterable[Any] | Iterable[Any], pipe: Pipe, exchange: Exchange) -> None:
    """Pass the caller's requests on; an iterator that fails cancels the call and never looks like the stream's end."""
    try:
        if isinstance(requests, AsyncIterable):
            async for request in requests:
                if not await pipe.put(request):
                    return
        else:
            for request in requests:
                if not await pipe.put(request):
                    return
    except asyncio.CancelledError:
        exchange.cancel()
        raise
    except Exception:
        logger.debug("the requests of %s failed", exchange.method, exc_info=True)
        exchange.cancel()
    else:
        pipe.end()
