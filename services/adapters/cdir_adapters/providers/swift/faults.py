"""The one place where answers of Swift services, and failures of the network, become errors of cdir."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

import aiohttp

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

__all__ = ["READING", "SIGNING_IN", "Fault", "Faults", "fault_of_answer"]

READING = "reading an object"
SIGNING_IN = "signing in"

_ERROR_BODY = 16 * 1024
"""Bytes of an error's body that are looked at."""
_SAID = 200
"""Characters of it that are shown."""

Refusal = tuple[type[CdirError], str, bool]
"""The class of an error, what it says, and whether a later attempt may help."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """What a service answered; ``status`` 0 when there was no answer."""

    status: int = 0
    said: str = ""
    """One line of it, without secrets."""
    retry_after: float | None = None

    @classmethod
    def of(cls, status: int, body: str, headers: Mapping[str, str], secrets: tuple[str, ...] = ()) -> Fault:
        """Read an answer. A service may repeat what it was sent, so ``secrets`` are taken out."""
        for secret in secrets:
            body = body.replace(secret, "***")
        text = re.sub(r"<title>.*?</title>|<[^>]*>", " ", body, flags=re.DOTALL | re.IGNORECASE)
        line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
        return cls(status, line[:_SAID], _seconds(headers.get("Retry-After")))


async def fault_of_answer(answer: aiohttp.ClientResponse, secrets: tuple[str, ...]) -> Fault:
    """Read what an answer says went wrong, no more of its body than that needs, and close it: it may never end."""
    body = await answer.content.read(_ERROR_BODY)
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
    auth_url: str

    @contextmanager
    def translated(self, doing: str, key: str = "") -> Iterator[None]:
        """Raise what the block raises of the network as an error of cdir; ``doing`` completes "while …"."""
        try:
            yield
        except CdirError:
            raise
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
            raise ConfigInvalid(
                f"provider {self.provider}: the service's certificate is not trusted; give ca_file (while {doing})",
                provider=self.provider,
            ) from None
        except (aiohttp.ClientError, OSError, TimeoutError):
            # the library's own error may hold headers of the request
            raise self.error(Fault(), doing, key) from None

    def error(self, fault: Fault, doing: str, key: str = "") -> CdirError:
        """The error of cdir for an answer."""
        if fault.status == 0:
            place = self.auth_url if doing == SIGNING_IN else "the service"
            refusal: Refusal = (ProviderUnavailable, f"{place} cannot be reached, or the connection broke", True)
        elif doing == SIGNING_IN:
            refusal = _of_sign_in(fault, self.auth_url)
        elif doing == READING and fault.status == 409:
            refusal = (IntegrityError, f"a segment of {key} is missing or was changed", False)
        else:
            refusal = _of_storage(fault, key)
        kind, what, passing = refusal
        error = kind(
            f"provider {self.provider}: {what} (while {doing})",
            retry_after=fault.retry_after if passing else None,
            provider=self.provider,
        )
        if key:
            error.context["key"] = key
        return error

    def broken(self, what: str, doing: str) -> CdirError:
        """The error for an answer that makes no sense."""
        return ProviderUnavailable(f"provider {self.provider}: {what} (while {doing})", provider=self.provider)

    def container_is_gone(self, container: str) -> CdirError:
        """What is missing is not an object but all of them, which proves nothing about any of them."""
        return ProviderUnavailable(
            f"provider {self.provider}: the container {container} is gone; nothing is known about its content",
            provider=self.provider,
        )


def _passing(fault: Fault, shown: str) -> Refusal | None:
    """What is the same whatever was asked for: it may work later."""
    status = fault.status
    if status in {429, 498}:
        return RateLimited, f"the service asks to slow down ({shown})", True
    if status == 507:
        return QuotaExceeded, f"no space is left there ({shown})", False
    if status in {408, 499} or (status >= 500 and status not in {501, 505}):
        return ProviderUnavailable, f"the service failed ({shown})", True
    return None


def _of_sign_in(fault: Fault, auth_url: str) -> Refusal:
    shown = f"{fault.status}"
    passing = _passing(fault, shown)
    if passing is not None:
        return passing
    if fault.status in {401, 403}:
        return Unauthenticated, f"the user, the project or the secret is not accepted ({shown})", False
    return ConfigInvalid, f"{auth_url} does not sign in ({shown}); check auth_url and auth_version", False


def _of_storage(fault: Fault, key: str) -> Refusal:
    status = fault.status
    shown = " ".join(part for part in (str(status), fault.said) if part)
    passing = _passing(fault, shown)
    if passing is not None:
        return passing
    match status:
        case 401:
            return Unauthenticated, f"the service does not accept the token of the sign-in ({shown})", False
        case 403:
            return PermissionDenied, f"the account may not do this ({shown})", False
        case 404:
            return NotFound, f"{key} does not exist", False
        case 409:
            return ProviderUnavailable, f"another request of the same moment was first ({shown})", True
        case 412:
            return PreconditionFailed, f"{key} is not what was expected any more", False
        case 413 if "quota" in fault.said.lower():
            return QuotaExceeded, f"no space is left there ({shown})", False
        case 413 | 414:
            return InvalidPath, f"the service cannot hold {key or 'this'} ({shown})", False
        case 400 if "name length" in fault.said.lower():
            return InvalidPath, f"the service cannot hold {key or 'this'} ({shown})", False
        case 416:
            return RangeNotSatisfied, f"the range begins past the end of {key}", False
        case 422:
            return IntegrityError, f"the service received other bytes than were sent ({shown})", False
        case 405 | 501:
            return Unsupported, f"the service does not offer this ({shown})", False
        case _ if status < 400:
            return ConfigInvalid, f"the service answers with {status}; check auth_url or storage_url", False
    return InvalidArgument, f"the service refuses the request ({shown})", False
