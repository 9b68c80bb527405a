"""The one place where answers of the service, failures of its sign-in and of the network become errors of cdir."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp

from cdir.errors import (
    AlreadyExists,
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

__all__ = ["Fault", "Faults", "fault_of_answer"]

_ERROR_BODY: Final = 16 * 1024
"""Bytes of an error's body that are looked at."""
_SAID: Final = 200
"""Characters of it that are shown."""

_SLOW_DOWN: Final = {
    "dailyLimitExceeded",
    "quotaExceeded",
    "rateLimitExceeded",
    "rateLimitExceededUnreg",
    "userRateLimitExceeded",
    "userRateLimitExceededUnreg",
}
"""Reasons of a 403 that will pass."""

Refusal = tuple[type[CdirError], str]
"""The class of an error and what it says."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """What the service answered; ``status`` 0 when there was no answer."""

    status: int = 0
    code: str = ""
    """Google's reason, one word."""
    said: str = ""
    """One line for a person, without secrets."""
    retry_after: float | None = None

    @classmethod
    def of(cls, status: int, body: str, headers: Mapping[str, str], secrets: tuple[str, ...] = ()) -> Fault:
        """Read an answer. A service may repeat what it was sent, so ``secrets`` are taken out."""
        code, text = "", body
        try:
            error = json.loads(body)["error"]
            text = str(error["message"])
            code = str(error["errors"][0]["reason"])
        except (ValueError, LookupError, TypeError, RecursionError):
            pass
        for secret in secrets:
            text = text.replace(secret, "***")
        text = re.sub(r"<title>.*?</title>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
        line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
        code = code if re.fullmatch(r"\w{1,64}", code, re.ASCII) else ""
        return cls(status, code, line[:_SAID], _seconds(headers.get("Retry-After")))

    @property
    def passing(self) -> bool:
        """Whether the same may work a moment later."""
        return self.status in {0, 408, 425, 429, 499} or (self.status >= 500 and self.status not in {501, 505, 507})


async def fault_of_answer(answer: aiohttp.ClientResponse, secrets: tuple[str, ...]) -> Fault:
    """Read what an answer says went wrong, no more of its body than that needs, and close it: it may never end."""
    body = bytearray()
    while len(body) < _ERROR_BODY and (piece := await answer.content.read(_ERROR_BODY)):
        body += piece
    if not answer.content.at_eof():
        answer.close()
    return Fault.of(answer.status, body.decode(errors="replace"), answer.headers, secrets)


def _seconds(retry_after: str | None) -> float | None:
    """Read a pause in seconds, or until a date."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if seconds < float("inf") else None


@dataclasses.dataclass(frozen=True, slots=True)
class Faults:
    """Turns errors into those of cdir, in the name of one provider."""

    provider: str
    bucket: str
    service: str
    """What to call the service in messages: its endpoint."""

    @contextmanager
    def translated(self, doing: str, key: str = "") -> Iterator[None]:
        """Raise what the block raises of the network as an error of cdir; ``doing`` completes "while …"."""
        try:
            yield
        except CdirError:
            raise
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
            raise ConfigInvalid(
                f"provider {self.provider}: the certificate of {self.service} is not trusted; set ca_file if it is"
                f" your own (while {doing})",
                provider=self.provider,
            ) from None
        except (aiohttp.ClientError, OSError, TimeoutError):
            # the library's own error may hold headers of the request
            raise self.error(Fault(), doing, key) from None

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

    def broken(self, what: str, doing: str) -> CdirError:
        """The error for an answer that makes no sense."""
        return ProviderUnavailable(f"provider {self.provider}: {what} (while {doing})", provider=self.provider)

    def bucket_is_gone(self) -> CdirError:
        """What is missing is not an object but all of them, which proves nothing about any of them."""
        return ProviderUnavailable(
            f"provider {self.provider}: the bucket {self.bucket} is gone; nothing is known about its content",
            provider=self.provider,
        )

    def _classify(self, fault: Fault, key: str) -> Refusal:
        status = fault.status
        shown = " ".join(part for part in (str(status), fault.said) if part)
        if status == 0:
            return ProviderUnavailable, f"{self.service} cannot be reached, or the connection broke"
        if status == 429 or (status == 403 and fault.code in _SLOW_DOWN):
            return RateLimited, f"the service asks to slow down ({shown})"
        if status == 507:
            return QuotaExceeded, f"no space is left there ({shown})"
        if fault.passing:
            return ProviderUnavailable, f"the service failed ({shown})"
        if status == 400 and "match calculated" in fault.said:
            return IntegrityError, f"the service received other bytes than were sent ({shown})"
        match status:
            case 401:
                return Unauthenticated, f"the service does not accept the credentials ({shown})"
            case 403:
                return PermissionDenied, f"the credentials do not allow this ({shown})"
            case 404:
                return NotFound, f"{key or self.bucket} does not exist"
            case 409 if not key:
                return AlreadyExists, f"the bucket {self.bucket} exists already"
            case 409 | 410:
                return ProviderUnavailable, f"the service cannot do this now ({shown})"
            case 412:
                return PreconditionFailed, f"{key} is not what was expected any more"
            case 413 | 414:
                return InvalidPath, f"the service cannot hold {key or 'this'} ({shown})"
            case 400 if key and "name" in fault.said.lower():
                return InvalidPath, f"the service cannot hold {key} ({shown})"
            case 416:
                return RangeNotSatisfied, f"the range begins past the end of {key}"
            case 405 | 501:
                return Unsupported, f"the service does not offer this ({shown})"
            case _ if status == 407 or 300 <= status < 400:
                return ConfigInvalid, f"{self.service} sends requests elsewhere ({status}); check endpoint and proxy"
            case _ if status < 300:
                return ProviderUnavailable, f"{self.service} gives an answer that does not fit ({status})"
        return InvalidArgument, f"the service refuses the request ({shown})"
