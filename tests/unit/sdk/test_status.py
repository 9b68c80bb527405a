"""Errors keep their meaning on the wire."""

from __future__ import annotations

import inspect

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from cdir import errors, status
from cdir.errors import CdirError, Retry
from cdir.v1 import entry_pb2

CLASSES = [
    kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, CdirError) and kind is not CdirError and name in errors.__all__
]

CODES = {
    "InvalidArgument": "INVALID_ARGUMENT",
    "InvalidPath": "INVALID_ARGUMENT",
    "ConfigInvalid": "FAILED_PRECONDITION",
    "RangeNotSatisfied": "OUT_OF_RANGE",
    "CursorExpired": "OUT_OF_RANGE",
    "Unauthenticated": "UNAUTHENTICATED",
    "PermissionDenied": "PERMISSION_DENIED",
    "NotFound": "NOT_FOUND",
    "AlreadyExists": "ALREADY_EXISTS",
    "IsDirectory": "FAILED_PRECONDITION",
    "NotDirectory": "FAILED_PRECONDITION",
    "DirectoryNotEmpty": "FAILED_PRECONDITION",
    "PreconditionFailed": "FAILED_PRECONDITION",
    "Conflict": "ABORTED",
    "RateLimited": "RESOURCE_EXHAUSTED",
    "QuotaExceeded": "RESOURCE_EXHAUSTED",
    "Unsupported": "UNIMPLEMENTED",
    "ProviderUnavailable": "UNAVAILABLE",
    "DeadlineExceeded": "DEADLINE_EXCEEDED",
    "IntegrityError": "DATA_LOSS",
    "InternalError": "INTERNAL",
}


def over_the_wire(error: CdirError) -> CdirError:
    code, details, trailing = status.to_status(error)
    return status.from_rpc_error(
        grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=details)
    )


def foreign(code: grpc.StatusCode, details: str = "") -> CdirError:
    return status.from_rpc_error(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details))


def test_every_class_has_a_code() -> None:
    assert {kind.__name__ for kind in CLASSES} == set(CODES)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("retry", list(Retry))
def test_round_trip(kind: type[CdirError], retry: Retry) -> None:
    error = kind("what happened, where", retry=retry, retry_after=1.25, path="/a/é", provider="box")
    code, details, _ = status.to_status(error)
    assert code.name == CODES[kind.__name__]
    assert details == "what happened, where"
    for rebuilt in (over_the_wire(error), status.from_failure(status.to_failure(error))):
        assert type(rebuilt) is kind
        assert rebuilt.message == error.message
        assert rebuilt.retry is retry
        assert rebuilt.retry_after == 1.25
        assert rebuilt.context == {"path": "/a/é", "provider": "box"}


@pytest.mark.parametrize("kind", CLASSES)
def test_defaults_survive(kind: type[CdirError]) -> None:
    for rebuilt in (over_the_wire(kind("m")), status.from_failure(status.to_failure(kind("m")))):
        assert rebuilt.retry is kind.default_retry
        assert rebuilt.retry_after is None
        assert rebuilt.context == {}


def test_the_details_are_what_other_languages_expect() -> None:
    code, _, trailing = status.to_status(errors.RateLimited("slow down", retry_after=0.5, provider="box"))
    ((key, value),) = trailing
    assert key == "grpc-status-details-bin"
    sent = status_pb2.Status.FromString(value)
    assert (sent.code, sent.message) == (code.value[0], "slow down")
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert sent.details[0].Unpack(info)
    assert sent.details[1].Unpack(retry)
    assert (info.reason, info.domain) == ("RATE_LIMITED", "cdir")
    assert info.metadata["provider"] == "box"
    assert retry.retry_delay.ToMilliseconds() == 500


def test_context_may_use_any_key() -> None:
    error = errors.NotFound("m")
    error.context = {"message": "a", "retry": "b", "retry_after": "c", "self": "d"}
    assert over_the_wire(error).context == error.context
    assert status.from_failure(status.to_failure(error)).context == error.context


def test_headers_stay_below_the_limit_of_any_client() -> None:
    error = errors.NotFound("é" * 10_000, path="x" * 5_000, name="y" * 1_500, provider="box")
    _, details, trailing = status.to_status(error)
    assert len(details.encode()) * 3 + len(trailing[0][1]) * 4 / 3 < 8 * 1024
    rebuilt = over_the_wire(error)
    assert rebuilt.message.startswith("é" * 100)
    assert rebuilt.message.endswith("…")
    assert rebuilt.context == {"name": "y" * 1_500, "provider": "box"}


def test_names_that_are_not_unicode_arrive_readably() -> None:
    error = errors.NotFound("no file \udcff", path="/\udcff")
    for rebuilt in (over_the_wire(error), status.from_failure(status.to_failure(error))):
        assert rebuilt.message == "no file \\udcff"
        assert rebuilt.context == {"path": "/\\udcff"}


@pytest.mark.parametrize(
    ("code", "kind", "retry"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.ProviderUnavailable, Retry.LATER),
        (grpc.StatusCode.CANCELLED, errors.ProviderUnavailable, Retry.LATER),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded, Retry.LATER),
        (grpc.StatusCode.UNIMPLEMENTED, errors.Unsupported, Retry.NEVER),
        (grpc.StatusCode.INTERNAL, errors.InternalError, Retry.NEVER),
        (grpc.StatusCode.UNKNOWN, errors.InternalError, Retry.NEVER),
        (grpc.StatusCode.UNAUTHENTICATED, errors.Unauthenticated, Retry.NEVER),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.RateLimited, Retry.LATER),
    ],
)
def test_a_status_without_our_details(code: grpc.StatusCode, kind: type[CdirError], retry: Retry) -> None:
    error = foreign(code, "as gRPC says")
    assert type(error) is kind
    assert error.retry is retry
    assert "as gRPC says" in error.message


def test_every_code_means_something() -> None:
    for code in grpc.StatusCode:
        if code is not grpc.StatusCode.OK:
            assert foreign(code).message


def test_a_message_over_the_limit_is_the_callers_fault() -> None:
    error = foreign(grpc.StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Sent message larger than max (20 vs. 10)")
    assert type(error) is errors.InvalidArgument


def test_damaged_details_leave_the_code() -> None:
    error = status.from_status(grpc.StatusCode.NOT_FOUND, "gone", [("grpc-status-details-bin", b"\xff\xff\xff")])
    assert type(error) is errors.NotFound


def test_a_reason_of_a_newer_release() -> None:
    class Frozen(errors.PreconditionFailed):
        reason = "FROZEN"

    rebuilt = over_the_wire(Frozen("it is frozen", retry=Retry.LATER, path="/a"))
    assert type(rebuilt) is errors.PreconditionFailed
    assert (rebuilt.retry, rebuilt.context) == (Retry.LATER, {"path": "/a"})
    item = status.from_failure(entry_pb2.Failure(reason="FROZEN", message="it is frozen", retry="someday"))
    assert type(item) is CdirError
    assert (item.message, item.retry, item.context) == ("it is frozen", Retry.NEVER, {"reason": "FROZEN"})


def test_reasons_of_other_domains_are_not_ours() -> None:
    info = error_details_pb2.ErrorInfo(reason="CONFLICT", domain="example.com")
    sent = status_pb2.Status(code=5)
    sent.details.add().Pack(info)
    error = status.from_status(grpc.StatusCode.NOT_FOUND, "gone", [(status.DETAILS_KEY, sent.SerializeToString())])
    assert type(error) is errors.NotFound


def test_translated_passes_everything_else() -> None:
    with pytest.raises(KeyError), status.translated():
        raise KeyError
    with pytest.raises(errors.NotFound), status.translated():
        raise errors.NotFound("as it was")
