"""How the errors of :mod:`cdir.errors` look in gRPC: the only code that knows.

Towards the wire an error becomes a status code, its one-line message, and a ``google.rpc.Status`` in the trailing
metadata ``grpc-status-details-bin`` with an ``ErrorInfo`` (the reason, the domain ``cdir``, the context) and, when a
time is known, a ``RetryInfo``. From the wire the reason rebuilds the same class. Statuses that gRPC itself or a proxy
made carry no details and are mapped by their code.

``Failure`` messages are the same three things for one item of a batch whose other items go on.

Headers are limited (gRPC's default refuses more than 8 KiB), so a message over 1 KiB is clipped and context that does
not fit into 2 KiB is left out; a status always arrives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Final

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from cdir import errors
from cdir.errors import CdirError, Retry
from cdir.v1 import entry_pb2

__all__ = [
    "DETAILS_KEY",
    "DOMAIN",
    "from_failure",
    "from_rpc_error",
    "from_status",
    "to_failure",
    "to_status",
    "translated",
]

DOMAIN: Final = "cdir"
"""The domain of our reasons in ``ErrorInfo``; reasons of other domains are not ours to interpret."""

DETAILS_KEY: Final = "grpc-status-details-bin"
"""Where gRPC carries a serialised ``google.rpc.Status``."""

_RETRY_KEY: Final = "cdir-retry"
"""The entry of ``ErrorInfo.metadata`` that says never, later or exhausted; hidden from the error's context."""

_MESSAGE_BYTES: Final = 1024
_CONTEXT_BYTES: Final = 2048

_CODE: Final[dict[type[CdirError], grpc.StatusCode]] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidPath: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ConfigInvalid: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RangeNotSatisfied: grpc.StatusCode.OUT_OF_RANGE,
    errors.CursorExpired: grpc.StatusCode.OUT_OF_RANGE,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.IsDirectory: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotDirectory: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DirectoryNotEmpty: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Conflict: grpc.StatusCode.ABORTED,
    errors.RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.ProviderUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.IntegrityError: grpc.StatusCode.DATA_LOSS,
    errors.InternalError: grpc.StatusCode.INTERNAL,
    CdirError: grpc.StatusCode.INTERNAL,
}

_CLASS: Final[dict[str, type[CdirError]]] = {error.reason: error for error in _CODE if error is not CdirError}

_FALLBACK: Final[dict[grpc.StatusCode, tuple[type[CdirError], str]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (errors.InvalidArgument, "the service refused the request"),
    grpc.StatusCode.OUT_OF_RANGE: (errors.RangeNotSatisfied, "out of range"),
    grpc.StatusCode.UNAUTHENTICATED: (errors.Unauthenticated, "no or wrong credentials"),
    grpc.StatusCode.PERMISSION_DENIED: (errors.PermissionDenied, "not allowed"),
    grpc.StatusCode.NOT_FOUND: (errors.NotFound, "not found"),
    grpc.StatusCode.ALREADY_EXISTS: (errors.AlreadyExists, "exists already"),
    grpc.StatusCode.FAILED_PRECONDITION: (errors.PreconditionFailed, "the state does not allow it"),
    grpc.StatusCode.ABORTED: (errors.Conflict, "another writer was first"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (errors.RateLimited, "the service asks to slow down"),
    grpc.StatusCode.UNIMPLEMENTED: (errors.Unsupported, "the service does not know this call (an older release?)"),
    grpc.StatusCode.UNAVAILABLE: (errors.ProviderUnavailable, "cannot reach the service"),
    grpc.StatusCode.CANCELLED: (errors.ProviderUnavailable, "the service ended the call (is it shutting down?)"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (errors.DeadlineExceeded, "the time allowed for the call ran out"),
    grpc.StatusCode.DATA_LOSS: (errors.IntegrityError, "data is damaged"),
}
"""What a status without our details means: it was made by gRPC, a proxy or a newer release."""


def to_status(error: CdirError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Return the code, the details and the trailing metadata that carry ``error``."""
    code = _code_of(type(error))
    message = _clipped(error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=_fitting(error.context))
    info.metadata[_RETRY_KEY] = error.retry.value
    details = [_packed(info)]
    if error.retry_after is not None and math.isfinite(error.retry_after) and error.retry_after >= 0:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_after * 1e9))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    number: int = code.value[0]
    status = status_pb2.Status(code=number, message=message, details=details)
    return code, message, ((DETAILS_KEY, status.SerializeToString()),)


def from_status(code: grpc.StatusCode, details: str | None, trailing: Iterable[tuple[str, str | bytes]]) -> CdirError:
    """Return the error that a finished call's status means.

    A reason this release does not know (a newer service) becomes the class that fits the code, with the sender's
    retry advice.
    """
    info, retry_after = _our_details(trailing)
    if info is None:
        return _without_details(code, details)
    context = dict(info.metadata)
    retry = _retry(context.pop(_RETRY_KEY, ""))
    known = _CLASS.get(info.reason) or _FALLBACK.get(code, (errors.InternalError, ""))[0]
    return _rebuilt(known, details or info.reason, retry, retry_after, context)


def from_rpc_error(error: grpc.RpcError) -> CdirError:
    """Return the error that a failed call means; for ``grpc.aio.AioRpcError`` as for synchronous errors."""
    code = getattr(error, "code", None)
    if code is None:
        return errors.InternalError(f"the call failed without a status: {type(error).__name__}")
    details = getattr(error, "details", None)
    trailing = getattr(error, "trailing_metadata", None)
    return from_status(code(), details() if details else None, (trailing() if trailing else None) or ())


def to_failure(error: CdirError) -> entry_pb2.Failure:
    """Return the message that carries ``error`` as one item's result."""
    failure = entry_pb2.Failure(
        reason=error.reason,
        message=_clipped(error.message),
        retry=error.retry.value,
        context=_fitting(error.context),
    )
    if error.retry_after is not None:
        failure.retry_after = error.retry_after
    return failure


def from_failure(failure: entry_pb2.Failure) -> CdirError:
    """Return the error that an item's failure means.

    An unknown reason (a newer service) becomes a plain :class:`CdirError` with that reason in its context.
    """
    context = dict(failure.context)
    known = _CLASS.get(failure.reason)
    if known is None:
        known = CdirError
        context["reason"] = failure.reason
    retry_after = failure.retry_after if failure.HasField("retry_after") else None
    return _rebuilt(known, failure.message, _retry(failure.retry), retry_after, context)


class translated:
    """``with translated():`` turns a failed call into its :class:`CdirError`.

    Used around awaited stub calls and around ``async for`` over their streams. Every other exception passes,
    CancelledError too. (Lower case, as it reads like the function it is used as.)
    """

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, grpc.RpcError):
            raise from_rpc_error(error) from error


def _code_of(kind: type[CdirError]) -> grpc.StatusCode:
    for base in kind.__mro__:
        code = _CODE.get(base)
        if code is not None:
            return code
    return grpc.StatusCode.INTERNAL


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _our_details(
    trailing: Iterable[tuple[str, str | bytes]],
) -> tuple[error_details_pb2.ErrorInfo | None, float | None]:
    """Return our ErrorInfo and the seconds of RetryInfo, each None when absent or damaged."""
    info: error_details_pb2.ErrorInfo | None = None
    retry_after: float | None = None
    for key, value in trailing:
        if key != DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                found = error_details_pb2.ErrorInfo()
                retry = error_details_pb2.RetryInfo()
                if detail.Unpack(found) and found.domain == DOMAIN:
                    info = found
                elif detail.Unpack(retry):
                    retry_after = retry.retry_delay.ToNanoseconds() / 1e9
        except DecodeError:  # a proxy damaged the details; the code still says enough
            return None, None
    return info, retry_after


def _without_details(code: grpc.StatusCode, details: str | None) -> CdirError:
    known, meaning = _FALLBACK.get(code, (errors.InternalError, f"the call failed with {code.name}"))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and details is not None and "larger than max" in details:
        known, meaning = errors.InvalidArgument, "a message is larger than the service takes"
    return known(f"{meaning}: {details}" if details else meaning)


def _rebuilt(
    known: type[CdirError], message: str, retry: Retry | None, retry_after: float | None, context: dict[str, str]
) -> CdirError:
    error = known(message, retry=retry, retry_after=retry_after)
    error.context = context  # not as keywords: a peer may send keys such as "message"
    return error


def _retry(value: str) -> Retry | None:
    """Return the advice, or None (the class's default) for what this release does not know."""
    try:
        return Retry(value)
    except ValueError:
        return None


def _clean(text: str) -> str:
    """Return text that is surely valid UTF-8; names on disk may hold lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _clipped(message: str) -> str:
    encoded = message.encode("utf-8", "backslashreplace")
    if len(encoded) <= _MESSAGE_BYTES:
        return encoded.decode("utf-8")
    return encoded[: _MESSAGE_BYTES - len("…".encode())].decode("utf-8", "ignore") + "…"


def _fitting(context: Mapping[str, str]) -> dict[str, str]:
    """Return the context that fits; a value is left out rather than cut, since half a path names something else."""
    left = _CONTEXT_BYTES
    fitting: dict[str, str] = {}
    for key, value in context.items():
        clean_key, clean_value = _clean(key), _clean(str(value))
        size = len(clean_key.encode()) + len(clean_value.encode())
        if clean_key != _RETRY_KEY and size <= left:
            fitting[clean_key] = clean_value
            left -= size
    return fitting
