"""What every call of every service passes on its way in: the token, the log and the one mapping of errors.

Handlers raise :mod:`cdir.errors` and never name a status code. :func:`status_of` decides what a caller sees; real
servers apply it in :class:`ErrorInterceptor`, the loopback channel calls it itself, so both deployments answer alike.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

import grpc
import grpc.aio

from cdir import status
from cdir.errors import CdirError, DeadlineExceeded, InternalError, Unauthenticated, Unsupported

__all__ = [
    "USER_KEY",
    "ErrorInterceptor",
    "Status",
    "TokenInterceptor",
    "forward",
    "status_of",
    "user_of",
]

logger = logging.getLogger(__name__)

USER_KEY: Final = "cdir-user"
"""The metadata key under which the gateway tells the other services on whose behalf it calls."""

Status = tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]
"""Code, details and trailing metadata: what :func:`status_of` returns and ``context.abort`` takes."""

_PUBLIC_PREFIXES: Final = ("/grpc.health.v1.Health/",)
"""Calls that need no token: an orchestrator's probes have none, and learn nothing but that the service lives."""


_TRANSPORT_FAILED: Final = (grpc.aio.InternalError, grpc.aio.UsageError)
"""What gRPC raises when a handler sends to a call that is over, sometimes before it cancels the handler."""


class _CallerGone(asyncio.CancelledError):
    """The call is over; what the handler was cancelled with, where gRPC itself has not done so yet."""


def user_of(context: Any) -> str | None:
    """Return the user a call is made for, or None when the caller named none."""
    for key, value in context.invocation_metadata() or ():
        if key == USER_KEY:
            return value if isinstance(value, str) else value.decode()
    return None


def status_of(error: Exception | asyncio.CancelledError, method: str) -> Status:
    """Return what the caller of ``method`` is told about ``error``, which its handler raised.

    * A :class:`CdirError` travels as it is.
    * A failed call to another service travels on with its reason; who answered it does not matter to the caller.
    * A group (from a task group) counts as its first member, unless one of its members is a defect.
    * ``TimeoutError`` is a deadline of ours that ran out; ``NotImplementedError`` a method the servicer does not have.
    * Everything else is a defect: the log gets the traceback, the caller a message that gives nothing away.
    """
    worst = _worst(error)
    if isinstance(worst, CdirError):
        return status.to_status(worst)
    if isinstance(worst, grpc.aio.AioRpcError):
        passed = tuple((key, value) for key, value in worst.trailing_metadata() or () if key == status.DETAILS_KEY)
        if passed:
            return worst.code(), worst.details() or "", passed
        return status.to_status(status.from_rpc_error(worst))
    if isinstance(worst, TimeoutError):
        return status.to_status(DeadlineExceeded(f"{_short(method)} did not finish in the time allowed"))
    if isinstance(worst, NotImplementedError):
        return status.to_status(Unsupported(f"{_short(method)} is not available in this service"))
    logger.error("%s failed unexpectedly", _short(method), exc_info=error)
    return status.to_status(InternalError(f"{_short(method)} failed inside cdir; the service's log says more"))


async def forward(responses: AsyncIterator[Any], write: Callable[[Any], Awaitable[None]]) -> None:
    """Pass what a handler yields on to ``write``.

    When the caller goes away while a message waits to be sent, the handler gets the cancellation at its ``yield``, as
    it would at any ``await``; so its ``except CancelledError`` and ``finally`` run now, not when it is collected.
    """
    if not isinstance(responses, AsyncGenerator):
        async for response in responses:
            await write(response)
        return
    async with aclosing(responses):
        async for response in responses:
            try:
                await write(response)
            except asyncio.CancelledError as gone:
                await responses.athrow(gone)
                raise
            except _TRANSPORT_FAILED as failed:
                cancellation = _CallerGone()
                await responses.athrow(cancellation)
                raise cancellation from failed


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Maps the errors of all four kinds of calls with :func:`status_of`, and logs each call at debug level."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return _guarded(handler, handler_call_details.method)


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls that do not carry ``authorization: Bearer <token>``; health checks pass.

    The comparison takes the same time whatever is wrong with the caller's token.
    """

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    def __repr__(self) -> str:
        return "TokenInterceptor()"

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        if handler is None or self._allowed(handler_call_details):
            return handler
        return _refusing(handler)

    def _allowed(self, call: grpc.HandlerCallDetails) -> bool:
        if call.method.startswith(_PUBLIC_PREFIXES):
            return True
        given = b""
        metadata: Sequence[tuple[str, str | bytes]] = call.invocation_metadata or ()
        for key, value in metadata:
            if key == "authorization":
                given = value if isinstance(value, bytes) else value.encode()
        return hmac.compare_digest(given, self._expected)


def _worst(error: BaseException) -> BaseException:
    """Return the exception of a group that decides: the first defect, else the first error."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    members = [_worst(member) for member in error.exceptions]
    expected = (CdirError, grpc.aio.AioRpcError, TimeoutError)
    return next((member for member in members if not isinstance(member, expected)), members[0])


def _short(method: str) -> str:
    return method.rpartition("/")[2]


async def _abort(context: Any, error: Exception | asyncio.CancelledError, method: str) -> None:
    code, details, trailing = status_of(error, method)
    kept = tuple(context.trailing_metadata() or ())
    try:
        await context.abort(code, details, kept + trailing)
    except _TRANSPORT_FAILED as failed:
        raise _CallerGone from failed  # nobody is left to be told


async def _run(context: Any, method: str, work: Awaitable[Any]) -> Any:
    """Await a handler's work; map what it raises, except its own cancellation."""
    begun = time.perf_counter() if logger.isEnabledFor(logging.DEBUG) else 0.0
    outcome = "OK"
    try:
        return await work
    except grpc.aio.AbortError:
        outcome = "aborted"
        raise
    except _TRANSPORT_FAILED as failed:
        outcome = "the caller went away"
        raise _CallerGone from failed
    except asyncio.CancelledError as error:
        outcome = "cancelled"
        task = asyncio.current_task()
        if task is None or task.cancelling() or isinstance(error, _CallerGone):
            raise
        # nobody cancelled this call: something the handler awaited was cancelled by others, and that is an error
        await _abort(context, error, method)
    except Exception as error:
        outcome = type(error).__name__
        await _abort(context, error, method)
    finally:
        if begun:
            logger.debug("%s: %s in %.1f ms", method, outcome, (time.perf_counter() - begun) * 1e3)


async def _respond(outcome: Any, context: Any) -> None:
    """Send what a streaming handler gives: it is an async generator, or a coroutine that writes to its context."""
    if hasattr(outcome, "__aiter__"):
        await forward(outcome, context.write)
    else:
        await outcome


def _guarded(handler: grpc.RpcMethodHandler[Any, Any], method: str) -> grpc.RpcMethodHandler[Any, Any]:
    behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

    async def one_response(request: Any, context: Any) -> Any:
        async def work() -> Any:
            return await behaviour(request, context)

        return await _run(context, method, work())

    async def many_responses(request: Any, context: Any) -> None:
        async def work() -> None:
            await _respond(behaviour(request, context), context)

        await _run(context, method, work())

    return _handler_like(handler, many_responses if handler.response_streaming else one_response)


def _refusing(handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
    async def refuse(_request: Any, _context: Any) -> Any:
        raise Unauthenticated("this service needs a token, and the call carried none or a wrong one")

    return _handler_like(handler, refuse)


def _handler_like(handler: grpc.RpcMethodHandler[Any, Any], behaviour: Any) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a handler of the same kind and the same messages that runs ``behaviour``."""
    makers: dict[tuple[bool, bool], Any] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make = makers[handler.request_streaming, handler.response_streaming]
    made: grpc.RpcMethodHandler[Any, Any] = make(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made
