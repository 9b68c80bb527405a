"""The one place where errors of the service, of Microsoft's library and of the network become errors of cdir.

Of what a service answers, only its status and its error code enter a message: longer texts repeat what was signed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from types import TracebackType

import aiohttp
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DecodeError,
    DeserializationError,
    HttpResponseError,
)

from cdir.errors import (
    AlreadyExists,
    CdirError,
    ConfigInvalid,
    Conflict,
    IntegrityError,
    InvalidArgument,
    InvalidPath,
    IsDirectory,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ProviderUnavailable,
    QuotaExceeded,
    RangeNotSatisfied,
    RateLimited,
    Unauthenticated,
    Unsupported,
)

__all__ = ["ERROR_BODY", "Fault", "Faults"]

ERROR_BODY = 64 * 1024
"""Bytes of an error's body that are read; the service's own are far shorter."""

_GONE = {"ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled"}
_NOT_FOUND = {"BlobNotFound", "CannotVerifyCopySource"}

_CLOCK = "check key or sas, when the token ends, and this machine's clock"
_CREDENTIALS = {
    "AuthenticationFailed": f"the credentials are not accepted; {_CLOCK}",
    "InvalidAuthenticationInfo": f"the credentials are not accepted; {_CLOCK}",
    "NoAuthenticationInformation": "the service wants credentials; give key or sas",
    "KeyBasedAuthenticationNotPermitted": "the account takes no account key; give sas",
    "PublicAccessNotPermitted": "the service wants credentials; give key or sas",
}
_NOT_ALLOWED = {
    "AccountIsDisabled": "the account is disabled",
    "AuthorizationFailure": "the credentials are wrong or do not allow this, or the account's network rules do not;"
    f" {_CLOCK}",
    "AuthorizationPermissionMismatch": "the token does not allow this; it needs to read, add, create, write, delete"
    " and list",
    "AuthorizationProtocolMismatch": "the token allows https only; change endpoint",
    "AuthorizationResourceTypeMismatch": "the token does not allow this; it must cover containers and objects",
    "AuthorizationServiceMismatch": "the token is not for the blob service",
    "AuthorizationSourceIPMismatch": "the token does not allow requests from this machine's address",
    "BlobImmutableDueToLegalHold": "a legal hold protects what is there",
    "BlobImmutableDueToPolicy": "an immutability policy protects what is there",
    "UnauthorizedBlobOverwrite": "the token allows new blobs only; it needs to write",
}
_SLOW_DOWN = {"ServerBusy", "TooManyRequests", "IngressLimitExceeded", "EgressLimitExceeded"}
_FULL = {"InsufficientStorage", "AccountQuotaExceeded", "StorageAccountQuotaExceeded"}
_TOO_LARGE = {
    "BlockCountExceedsLimit",
    "InvalidBlobName",
    "InvalidResourceName",
    "InvalidUri",
    "MetadataTooLarge",
    "RequestBodyTooLarge",
    "RequestUrlFailedToParse",
}
_CORRUPT = {"Md5Mismatch", "Crc64Mismatch", "InvalidMd5"}
_PASSING = {
    "InternalError": "the service failed",
    "InvalidBlockList": "the blocks sent are gone, since another writer was done first; try again",
    "OperationTimedOut": "the service was too slow",
    "PendingCopyOperation": "the object is being copied to at this moment",
}
_CONFLICTS = {
    "InvalidBlobType": "what is there is an append or page blob; delete it first",
    "InvalidBlobOrBlock": "another program's unfinished upload stands in the way; it vanishes within a week",
    "SnapshotsPresent": "it has snapshots that would be lost; delete them first",
}
_DIRECTORIES = {"ResourceTypeMismatch", "PathAlreadyExists", "DirectoryIsNotEmpty", "DirectoryNotEmpty"}
_ARCHIVED = {"BlobArchived", "BlobBeingRehydrated", "BlobNotRehydrated"}


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """What a service answered; ``status`` 0 when there was no answer."""

    status: int = 0
    code: str = ""
    retry_after: float | None = None
    untrusted: bool = False
    """The server's certificate was refused."""

    @classmethod
    def of_answer(cls, status: int, headers: Mapping[str, str], body: str = "") -> Fault:
        """Read an answer; the code stands in a header, and in the body too unless it answers HEAD."""
        code = headers.get("x-ms-error-code") or ""
        if not code and (found := re.search(r"<Code>([^<]*)</Code>", body)):
            code = found[1].strip()
        return cls(status, code if re.fullmatch(r"\w{1,64}", code, re.ASCII) else "", _retry_after(headers))

    @classmethod
    def of(cls, error: BaseException | None) -> Fault | None:
        """Return what ``error`` says; ``None`` when it comes neither from the library nor from the network."""
        match error:
            case aiohttp.ClientConnectorCertificateError():
                return cls(untrusted=True)
            case HttpResponseError() if error.response is not None:
                status = error.response.status_code or 0
                if status < 300 and isinstance(error, DecodeError):
                    return cls(502, "UnreadableAnswer")
                code = getattr(error, "error_code", None) or ""
                headers: Mapping[str, str] = getattr(error.response, "headers", {})
                return cls.of_answer(status, {"x-ms-error-code": str(getattr(code, "value", code)), **headers})
            case ClientAuthenticationError():
                return cls(401, "AuthenticationFailed")  # the key cannot be used for signing
            case DeserializationError():
                return cls(502, "UnreadableAnswer")
            case AzureError():
                return cls.of(error.inner_exception) or cls()
            case aiohttp.ClientError() | OSError():
                return cls()
        return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    for name, unit in (("Retry-After", 1.0), ("retry-after-ms", 0.001), ("x-ms-retry-after-ms", 0.001)):
        text = headers.get(name) or ""
        if re.fullmatch(r"\d{1,9}(\.\d{1,3})?", text, re.ASCII):
            return float(text) * unit
    return None  # an HTTP date at most; the retry layer's own pause does as well


class _Translated:
    """The context of :meth:`Faults.translated`; a class, since a generator costs more for each small request."""

    __slots__ = ("_doing", "_faults", "_key", "_parsing")

    def __init__(self, faults: Faults, doing: str, key: str, parsing: bool) -> None:
        self._faults = faults
        self._doing = doing
        self._key = key
        self._parsing = parsing

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, (CdirError, StopAsyncIteration)):
            return
        fault = Fault.of(error)
        if fault is None and self._parsing and isinstance(error, (AttributeError, LookupError, TypeError, ValueError)):
            fault = Fault(502, "UnreadableAnswer")
        if fault is not None:
            # the library's own error holds the request, and its text nothing that status and code do not say
            raise self._faults.error(fault, self._doing, self._key) from None


@dataclasses.dataclass(frozen=True, slots=True)
class Faults:
    """Turns errors into those of cdir, in the name of one provider."""

    provider: str
    container: str
    service: str = "the service"
    """What to call the service in messages: its endpoint."""

    def translated(self, doing: str, key: str = "", *, parsing: bool = False) -> _Translated:
        """Raise what the block raises as an error of cdir; ``doing`` completes "while …".

        ``parsing``: the block lets the library read an answer's body, which trips over one of another form.
        """
        return _Translated(self, doing, key, parsing)

    def error(self, fault: Fault, doing: str, key: str = "") -> CdirError:
        """The error of cdir for an answer."""
        kind, what = self._classify(fault, key)
        error = kind(
            f"provider {self.provider}: {what} (while {doing})",
            retry_after=fault.retry_after if kind in {RateLimited, ProviderUnavailable} else None,
            provider=self.provider,
        )
        if key:
            error.context["key"] = key
        if fault.code:
            error.context["code"] = fault.code
        return error

    def _classify(self, fault: Fault, key: str) -> tuple[type[CdirError], str]:
        code, status = fault.code, fault.status
        said = code or str(status)
        if fault.untrusted:
            return ConfigInvalid, f"the certificate of {self.service} is not trusted; set ca_file if it is your own"
        if code == "UnreadableAnswer":
            return ProviderUnavailable, f"{self.service} gave an answer that cannot be read; check endpoint"
        if code in _GONE:
            return ProviderUnavailable, f"the container {self.container} is gone; nothing is known about its content"
        if code in _CREDENTIALS:
            return Unauthenticated, f"{_CREDENTIALS[code]} ({said})"
        if code in _NOT_ALLOWED:
            return PermissionDenied, f"{_NOT_ALLOWED[code]} ({said})"
        if code in _SLOW_DOWN or status == 429:
            return RateLimited, f"the service asks to slow down ({said})"
        if code in _FULL or status == 507:
            return QuotaExceeded, f"no space is left there ({said})"
        if code in _CORRUPT:
            return IntegrityError, f"the service received other bytes than were sent ({said})"
        if code in _PASSING:
            return ProviderUnavailable, f"{_PASSING[code]} ({said})"
        if code in _CONFLICTS:
            return Conflict, f"{key}: {_CONFLICTS[code]} ({said})"
        if code in _DIRECTORIES:
            return IsDirectory, f"{key} is a directory there"
        if code in _ARCHIVED:
            return Unsupported, f"{key} is archived and must be rehydrated before it can be read ({said})"
        if code.startswith("Lease"):
            return PermissionDenied, f"another program holds a lease on {key or 'the container'} ({said})"
        if code in _TOO_LARGE or status in {413, 414}:
            if key:
                return InvalidPath, f"the service cannot hold {key}: {said}"
            return ConfigInvalid, f"the service does not accept the name {self.container}; set container ({said})"
        return self._classify_status(status, said, code, key)

    def _classify_status(self, status: int, said: str, code: str, key: str) -> tuple[type[CdirError], str]:
        if status == 0:
            return ProviderUnavailable, f"{self.service} cannot be reached, or the connection broke"
        if code.endswith("AlreadyExists"):
            return AlreadyExists, f"{key or self.container} exists already"
        if code.endswith("ConditionNotMet") or status in {304, 412}:
            return PreconditionFailed, f"{key} is not what was expected any more"
        if code == "InvalidRange" or status == 416:
            return RangeNotSatisfied, f"the range begins past the end of {key}"
        if code in _NOT_FOUND and status == 404:
            return NotFound, f"{key} does not exist"
        if status == 404:
            # said of the account, or by something that is not the service: it proves nothing
            return (
                ProviderUnavailable,
                f"{self.service} is not the blob service of the account; check endpoint ({said})",
            )
        if status in {408, 425} or (status >= 500 and status != 501):
            return ProviderUnavailable, f"the service failed ({said})"
        if status == 401:
            return Unauthenticated, f"the credentials are not accepted; {_CLOCK} ({said})"
        if status == 403:
            return PermissionDenied, f"the credentials do not allow this ({said})"
        if status == 409:
            return Conflict, f"the service cannot do this now ({said})"
        if status in {405, 501}:
            return Unsupported, f"the service does not offer this ({said})"
        if status == 407 or 300 <= status < 400:
            return ConfigInvalid, f"{self.service} sends requests elsewhere; set endpoint, or check the proxy ({said})"
        if 200 <= status < 300:
            return ProviderUnavailable, f"{self.service} gave an answer that does not fit; check endpoint ({said})"
        return InvalidArgument, f"the service refuses the request ({said})"
