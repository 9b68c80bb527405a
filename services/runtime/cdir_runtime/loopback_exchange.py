"""One call over the loopback channel, as its two ends share it: the status, the metadata, the deadline, the messages.

The handler sees an :class:`Exchange` as its servicer context. The caller's call object refers to the exchange and never
the other way round, so a call that its caller drops is noticed at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Never

import grpc
import grpc.aio

__all__ = ["END", "Exchange", "MetadataLike", "Pipe"]

MetadataLike = grpc.aio.Metadata | Iterable[tuple[str, str | bytes]]

END: Final = grpc.aio.EOF
"""What :meth:`Pipe.get` returns instead of a message when there will be none."""


class Pipe:
    """Hands messages from a writer to a reader, holding at most one that was not taken yet.

    That is the back-pressure of the loopback: a writer waits until its previous message was taken.
    """

    __slots__ = ("_loop", "_message", "_waiting", "broken", "ended")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._message: Any = END
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.ended = False
        self.broken = False

    async def put(self, message: Any) -> bool:
        """Hand a message over; False when nobody will take it any more."""
        while self._message is not END and not self.broken:
            await self._changed()
        if self.broken or self.ended:
            return False
        self._message = message
        self._wake()
        return True

    async def get(self) -> Any:
        """Return the next message, or END when the writer ended or the pipe broke."""
        while self._message is END:
            if self.ended or self.broken:
                return END
            await self._changed()
        message, self._message = self._message, END
        self._wake()
        return message

    def end(self) -> None:
        """Say that no further message comes; one that waits can still be taken."""
        self.ended = True
        self._wake()

    def break_off(self) -> None:
        """Drop what waits and release both ends."""
        self.broken = True
        self._message = END
        self._wake()

    async def _changed(self) -> None:
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)


class Exchange(grpc.aio.ServicerContext[Any, Any]):
    """One call. The handler's side is the interface of ``grpc.aio.ServicerContext``; the rest serves the channel."""

    # Most calls never touch most of these; as defaults of the class they cost a call nothing.
    deadline: float | None = None
    task: asyncio.Task[Any] | None = None
    requests: Pipe | None = None
    responses: Pipe | None = None
    response: Any = None
    initial: tuple[tuple[str, str | bytes], ...] = ()
    finished = False
    locally_cancelled = False
    interrupted = False
    _metadata: tuple[tuple[str, str | bytes], ...] = ()
    _trailing: tuple[tuple[str, str | bytes], ...] = ()
    _code: grpc.StatusCode | None = None
    _details = ""
    _initial_sent = False
    _waiting: list[asyncio.Future[None]] | None = None
    _callbacks: list[Callable[[], object]] | None = None
    _timer: asyncio.TimerHandle | None = None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        method: str,
        metadata: MetadataLike | None,
        timeout: float | None,
    ) -> None:
        self.loop = loop
        self.method = method
        if timeout is not None:
            self.deadline = loop.time() + timeout
        if metadata is not None:
            self._metadata = tuple((key, value) for key, value in metadata)

    # -- the channel's side -------------------------------------------------------------------------------------------

    def start_timer(self) -> None:
        """Let the deadline, when there is one, end the call."""
        if self.deadline is not None:
            self._timer = self.loop.call_at(self.deadline, self.expire)

    def finish(
        self, code: grpc.StatusCode, details: str = "", trailing: tuple[tuple[str, str | bytes], ...] = ()
    ) -> bool:
        """Set the final status; False when there is one already."""
        if self.finished:
            return False
        self.finished = True
        self._code, self._details = code, details
        if trailing:
            self._trailing += trailing
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.responses is not None:
            self.responses.end()
        if self.requests is not None:
            self.requests.break_off()
        if self._waiting is not None:
            self._wake()
        if self._callbacks is not None:
            for callback in self._callbacks:
                self.loop.call_soon(callback)
        return True

    def succeed(self) -> None:
        """End the call as its handler left it: well, unless it set another code."""
        self.finish(self._code or grpc.StatusCode.OK, self._details)

    def cancel(self, details: str = "Locally cancelled by application!") -> bool:
        """End the call from the caller's side; the handler is cancelled. False when it has ended already."""
        if self.finished:
            return False
        self.locally_cancelled = True
        self._stop(grpc.StatusCode.CANCELLED, details)
        return True

    def cancelled_with_caller(self) -> None:
        """Note that the task which awaits the call, and runs its handler, was cancelled."""
        self.locally_cancelled = True
        self.finish(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")

    def expire(self) -> None:
        """End the call because its time is over; the handler is cancelled."""
        if not self.finished:
            self._stop(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def on_finish(self, callback: Callable[[], object]) -> None:
        """Call back from the event loop once the status is known."""
        if self.finished:
            self.loop.call_soon(callback)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    async def wait_finished(self) -> None:
        while not self.finished:
            await self._changed()

    async def wait_initial(self) -> None:
        while not self.finished and not self._initial_sent:
            await self._changed()

    def error(self) -> grpc.aio.AioRpcError:
        """Return the final status as the error a caller of real gRPC would get."""
        return grpc.aio.AioRpcError(
            self._code or grpc.StatusCode.UNKNOWN,
            grpc.aio.Metadata(*self.initial),
            grpc.aio.Metadata(*self._trailing),
            details=self._details,
            debug_error_string=f"loopback: {self.method}",
        )

    def _stop(self, code: grpc.StatusCode, details: str) -> None:
        self.finish(code, details)
        if self.responses is not None:
            self.responses.break_off()
        if self.task is not None:
            self.interrupted = True
            self.task.cancel()

    async def _changed(self) -> None:
        waiter = self.loop.create_future()
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        for waiter in waiting or ():
            if not waiter.done():
                waiter.set_result(None)

    # -- the handler's side -------------------------------------------------------------------------------------------

    async def read(self) -> Any:
        assert self.requests is not None, "only calls with a stream of requests can read"
        message = await self.requests.get()
        if message is END and self.requests.broken:
            # the caller is gone; a handler that is not cancelled yet must not take that for a proper end of the stream
            raise asyncio.CancelledError
        return message

    async def write(self, message: Any) -> None:
        assert self.responses is not None, "only calls with a stream of responses can write"
        self._mark_initial_sent()
        if not await self.responses.put(message):
            raise asyncio.CancelledError

    async def send_initial_metadata(self, initial_metadata: MetadataLike) -> None:
        if self._initial_sent:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        self.initial = tuple((key, value) for key, value in initial_metadata)
        self._mark_initial_sent()

    def set_trailing_metadata(self, trailing_metadata: MetadataLike) -> None:
        self._trailing = tuple((key, value) for key, value in trailing_metadata)

    def trailing_metadata(self) -> Any:
        return self._trailing

    def invocation_metadata(self) -> Any:
        return self._metadata

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: MetadataLike = ()) -> Never:
        trailing = grpc.aio.Metadata(*((key, value) for key, value in trailing_metadata))
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=details)

    async def abort_with_status(self, status: grpc.Status) -> Never:
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    def code(self) -> Any:
        return self._code

    def details(self) -> str:
        return self._details

    def set_compression(self, compression: grpc.Compression) -> None:
        """Nothing is serialised, so nothing is compressed."""

    def disable_next_message_compression(self) -> None:
        """Nothing is serialised, so nothing is compressed."""

    def peer(self) -> str:
        return "loopback:"

    def peer_identities(self) -> Iterable[bytes] | None:
        return None

    def peer_identity_key(self) -> str | None:
        return None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return {}

    def time_remaining(self) -> Any:
        """Seconds until the deadline, at least 0; None when the call has none."""
        return None if self.deadline is None else max(self.deadline - self.loop.time(), 0.0)

    def add_done_callback(self, callback: Any) -> None:
        self.on_finish(lambda: callback(self))

    def cancelled(self) -> bool:
        return self.finished and self._code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        return self.finished

    def _mark_initial_sent(self) -> None:
        if not self._initial_sent:
            self._initial_sent = True
            self._wake()
