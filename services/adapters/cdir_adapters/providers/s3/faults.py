"""The one place where errors of S3 services and of the client libraries become errors of cdir.

No text of a library enters a message: it can hold a signed URL.
"""

from __future__ import annotations

import dataclasses
import html
import re
from types import TracebackType

import aiohttp
import botocore.exceptions
import urllib3

from cdir.errors import (
    CdirError,
    ConfigInvalid,
    IntegrityError,
    InvalidArgument,
    InvalidPath,
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
from cdir_adapters.providers.s3.exchange import ERROR_BODY, NoAnswer

__all__ = ["LONGEST_ANSWER", "Fault", "Faults", "Redirected", "Refused", "fault_of_answer"]

LONGEST_ANSWER = 64 * 1024 * 1024
"""Bytes of an answer that is read whole; a page of a listing has a few MiB."""


class Redirected(Exception):
    """The service sent the request elsewhere; the argument is the status."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """What a service answered; ``status`` 0 when there was no answer."""

    status: int = 0
    code: str = ""
    message: str = ""
    retry_after: float | None = None
    untrusted: bool = False
    """The server's certificate was refused."""

    @property
    def bucket_is_gone(self) -> bool:
        return self.code == "NoSuchBucket"

    @classmethod
    def from_body(cls, status: int, body: str, retry_after: str | None) -> Fault:
        """Read an answer with an XML error body, and its header Retry-After."""
        return cls(
            status,
            _element(body, "Code"),
            html.unescape(_element(body, "Message")),
            _seconds(retry_after),
        )

    @classmethod
    def of(cls, error: Exception) -> Fault | None:
        """Return what ``error`` says; ``None`` when it comes from neither library nor from the network."""
        match error:
            case botocore.exceptions.ClientError():
                answer = error.response
                meta = answer.get("ResponseMetadata", {})
                code = str(answer.get("Error", {}).get("Code", ""))
                return cls(
                    status=int(meta.get("HTTPStatusCode", 0)) or (int(code) if code.isdigit() else 0),
                    code="" if code.isdigit() else code,
                    message=str(answer.get("Error", {}).get("Message", "")),
                    retry_after=_seconds(meta.get("HTTPHeaders", {}).get("retry-after")),
                )
            case NoAnswer():
                return cls(untrusted=error.untrusted)
            case (
                botocore.exceptions.SSLError()
                | aiohttp.ClientConnectorCertificateError()
                | aiohttp.ClientConnectorSSLError()
                | urllib3.exceptions.SSLError()
            ):
                return cls(untrusted=True)
            case Redirected():
                return cls(status=error.args[0])
            case (
                botocore.exceptions.BotoCoreError() | aiohttp.ClientError() | urllib3.exceptions.HTTPError() | OSError()
            ):
                return cls()
        return None


async def fault_of_answer(answer: aiohttp.ClientResponse) -> Fault:
    """Read what a plain HTTP answer says went wrong, and no more of its body than that needs."""
    body = await answer.content.read(ERROR_BODY)
    if not answer.content.at_eof():
        # the rest may never end
        answer.close()
    return Fault.from_body(answer.status, body.decode(errors="replace"), answer.headers.get("Retry-After"))


def _element(body: str, name: str) -> str:
    found = re.search(rf"<{name}>([^<]*)</{name}>", body)
    return found[1].strip() if found else ""


def _seconds(retry_after: str | None) -> float | None:
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None  # an HTTP date; the retry layer's own pause does as well


_CREDENTIALS = {
    "NoCredentials": "no credentials were found; set access_key and secret_key",
    "InvalidAccessKeyId": "the access key is not known there; set access_key",
    "SignatureDoesNotMatch": "the signature does not match; check secret_key",
    "ExpiredToken": "the session token has expired; give a new one",
    "InvalidToken": "the session token is not valid; give a new one",
    "TokenRefreshRequired": "the session token has expired; give a new one",
    "InvalidSecurity": "the credentials are not valid",
    "NotSignedUp": "the account is not signed up for the service",
    "UnauthorizedAccess": "the credentials are not accepted",
    "RequestTimeTooSkewed": "this machine's clock and the service's differ too much; set the clock",
    "RequestExpired": "this machine's clock and the service's differ too much; set the clock",
}
_CONFIGURATION = {
    "AuthorizationHeaderMalformed": "requests are signed for the wrong region; set region",
    "PermanentRedirect": "the bucket lies in another region; set region or endpoint",
    "IllegalLocationConstraintException": "the bucket cannot be made in this region; set region",
    "InvalidLocationConstraint": "the bucket cannot be made in this region; set region",
    "InvalidRegion": "the region is not known there; set region",
    "InvalidBucketName": "the bucket's name is not valid there; set bucket",
    "BucketAlreadyExists": "the bucket's name is taken by another account; set bucket",
    "TooManyBuckets": "the account has as many buckets as it may; name an existing one in bucket",
}
_SLOW_DOWN = {
    "SlowDown",
    "TooManyRequests",
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "BandwidthLimitExceeded",
}
_TOO_LARGE = {
    "EntityTooLarge",
    "KeyTooLongError",
    "MaxMessageLengthExceeded",
    "MetadataTooLarge",
    "InvalidObjectName",
    "XMinioInvalidObjectName",
}
_FULL = {"QuotaExceeded", "InsufficientStorage", "StorageFull", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
_CORRUPT = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
_PASSING = {
    "RequestTimeout",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "ServiceUnavailable",
}


class _Translated:
    """The context of :meth:`Faults.translated`; a class, since a generator costs more for each small request."""

    __slots__ = ("_doing", "_faults", "_key")

    def __init__(self, faults: Faults, doing: str, key: str) -> None:
        self._faults = faults
        self._doing = doing
        self._key = key

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, CdirError):
            return
        translated = self._faults.from_library(error, self._doing, self._key)
        if translated is not None:
            # the library's own error holds request details, and its text nothing that the answer does not say
            raise translated from None


class Refused(Exception):
    """The service refused: for callers who must know how before it becomes an error of cdir."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


@dataclasses.dataclass(frozen=True, slots=True)
class Faults:
    """Turns errors into those of cdir, in the name of one provider."""

    provider: str
    bucket: str
    service: str = "the service"
    """What to call the service in messages: its endpoint, where the user gave one."""

    def translated(self, doing: str, key: str = "") -> _Translated:
        """Raise what the block raises as an error of cdir; ``doing`` completes "while …"."""
        return _Translated(self, doing, key)

    def from_library(self, error: Exception, doing: str, key: str) -> CdirError | None:
        match error:
            case botocore.exceptions.NoCredentialsError() | botocore.exceptions.PartialCredentialsError():
                return self.error(Fault(401, "NoCredentials"), doing, key)
            case botocore.exceptions.ProfileNotFound() | botocore.exceptions.InvalidConfigError():
                return ConfigInvalid(
                    f"provider {self.provider}: this machine's AWS configuration cannot be used; check AWS_PROFILE",
                    provider=self.provider,
                )
            case botocore.exceptions.ParamValidationError():
                return InvalidArgument(
                    f"provider {self.provider}: the bucket or the key cannot be sent while {doing}",
                    provider=self.provider,
                    key=key,
                )
        fault = Fault.of(error)
        return None if fault is None else self.error(fault, doing, key)

    def error(self, fault: Fault, doing: str, key: str = "") -> CdirError:
        """The error of cdir for an answer."""
        kind, what, passing = self._classify(fault, key)
        error = kind(
            f"provider {self.provider}: {what} (while {doing})",
            retry_after=fault.retry_after if passing else None,
            provider=self.provider,
        )
        if key:
            error.context["key"] = key
        return error

    def no_listing(self) -> CdirError:
        """The error for a page that is none."""
        return ProviderUnavailable(
            f"provider {self.provider}: {self.service} gives something else than a listing; check endpoint",
            provider=self.provider,
        )

    def _classify(self, fault: Fault, key: str) -> tuple[type[CdirError], str, bool]:
        code, status = fault.code, fault.status
        said = " ".join(part for part in (code or (str(status) if status else ""), fault.message[:200]) if part)
        if fault.untrusted:
            return (
                ConfigInvalid,
                f"the certificate of {self.service} is not trusted; set ca_file if it is your own",
                False,
            )
        if fault.bucket_is_gone:
            return ProviderUnavailable, f"the bucket {self.bucket} is gone; nothing is known about its content", True
        if code in _CREDENTIALS:
            return Unauthenticated, _CREDENTIALS[code], False
        if code in _CONFIGURATION:
            return ConfigInvalid, f"{_CONFIGURATION[code]} ({said})", False
        if code in _SLOW_DOWN or status == 429:
            return RateLimited, f"the service asks to slow down ({said})", True
        if code in _FULL or status == 507:
            return QuotaExceeded, f"no space is left there ({said})", False
        if code in _TOO_LARGE or status in {413, 414}:
            return InvalidPath, f"the service cannot hold {key or 'this'}: {said}", False
        if code in _CORRUPT:
            return IntegrityError, f"the service received other bytes than were sent ({said})", False
        if code in {"NoSuchUpload", "InvalidPart"}:
            return ProviderUnavailable, "the unfinished upload was ended or changed by someone else; try again", True
        if code in _PASSING or (status >= 500 and status != 501) or status == 408:
            return ProviderUnavailable, f"the service failed ({said})", True
        if status == 0:
            return ProviderUnavailable, f"{self.service} cannot be reached, or the connection broke", True
        if code == "PreconditionFailed" or code == "ConditionalRequestConflict" or status == 412:
            return PreconditionFailed, f"{key} is not what was expected any more", False
        if code == "InvalidRange" or status == 416:
            return RangeNotSatisfied, f"the range begins past the end of {key}", False
        if code == "NoSuchKey" or status == 404:
            return NotFound, f"{key} does not exist", False
        if code == "AccessControlListNotSupported":
            return Unsupported, "the bucket has access control lists turned off", False
        if status == 401:
            return Unauthenticated, f"the credentials are not accepted ({said})", False
        if status == 403:
            return PermissionDenied, f"the credentials do not allow this ({said})", False
        if code in {"NotImplemented", "MethodNotAllowed"} or status in {405, 501}:
            return Unsupported, f"the service does not offer this ({said})", False
        if status in {301, 302, 303, 307, 308}:
            return ConfigInvalid, f"the bucket is served elsewhere; set region or endpoint ({said})", False
        return InvalidArgument, f"the service refuses the request ({said})", False
