"""The one place where answers of WebDAV servers and errors of the network become errors of cdir."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp

from cdir.errors import (
    CdirError,
    ConfigInvalid,
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

__all__ = ["Fault", "Faults", "is_redirect"]

_MESSAGE: Final = re.compile(r"<(?:[A-Za-z]\w*:)?message(?: [^>]*)?>([^<]{1,1000})</")
"""Where the family of servers around sabre/dav says what is wrong; other error pages say nothing to a person."""

_PARTIAL: Final = re.compile(r"HTTP/\S+ ([45]\d\d)")


def is_redirect(status: int) -> bool:
    """Tell whether the server sends elsewhere."""
    return status in {301, 302, 303, 307, 308}


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """What a server answered instead of what was asked for."""

    status: int
    message: str = ""
    retry_after: float | None = None
    elsewhere: str = ""
    """Scheme and host to which it sends."""

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], body: bytes = b"", elsewhere: str = "") -> Fault:
        """Read an answer."""
        text = body.decode(errors="replace")
        if status == 207 and (parts := _PARTIAL.findall(text)):
            # what went wrong with a part of it, as Apache says of a file in a locked folder; 424 only follows from it
            status = min(map(int, parts))
        found = _MESSAGE.search(text)
        message = "" if found is None else " ".join(html.unescape(found[1]).split())
        message = "".join(filter(str.isprintable, message))
        return cls(status, message, _seconds(headers.get("Retry-After")), elsewhere)


def _seconds(retry_after: str | None) -> float | None:
    if not retry_after:
        return None
    if re.fullmatch(r"[0-9]{1,9}", retry_after.strip()):
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


_PASSING: Final = {408, 424, 425, 500, 502, 503, 504, 509}
_ERRORS: Final[Mapping[int, tuple[type[CdirError], str]]] = {
    401: (Unauthenticated, "the credentials are not accepted; check user, password and token"),
    403: (PermissionDenied, "the credentials do not allow this, or the server forbids it"),
    404: (NotFound, "{key} does not exist"),
    410: (NotFound, "{key} does not exist"),
    405: (Unsupported, "the server does not offer this; check that url is that of a WebDAV folder"),
    411: (Unsupported, "the server takes no file whose size is not known before"),
    412: (PreconditionFailed, "{key} is not what was expected any more"),
    413: (InvalidPath, "{key} is too large for the server"),
    414: (InvalidPath, "the path {key} is too long for the server"),
    416: (RangeNotSatisfied, "the range begins past the end of {key}"),
    423: (ProviderUnavailable, "{key} is locked by another client"),
    429: (RateLimited, "the server asks to slow down"),
    501: (Unsupported, "the server does not offer this; check that url is that of a WebDAV folder"),
    507: (QuotaExceeded, "no space is left there; make room"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Faults:
    """Makes errors of cdir in the name of one provider."""

    provider: str
    server: str
    """Scheme, host and port, for messages."""
    secrets: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    """What must not be repeated, should the server do so."""

    @contextlib.contextmanager
    def translated(self, doing: str, key: str = "") -> Iterator[None]:
        """Raise what the block raises as an error of cdir; ``doing`` completes "while …"."""
        try:
            yield
        except CdirError:
            raise
        except aiohttp.ClientConnectorCertificateError:
            # no text of the library enters a message: it may hold what was sent
            raise self._config(
                f"the certificate of {self.server} is not trusted; give its authority's certificate in ca_file", doing
            ) from None
        except aiohttp.ClientSSLError:
            raise self._config(
                f"no TLS connection to {self.server} can be made; check url and ca_file", doing
            ) from None
        except aiohttp.InvalidURL:
            raise self._config("the address cannot be asked for; check url", doing) from None
        except (aiohttp.ClientError, OSError, TimeoutError):
            raise self.unavailable(f"{self.server} cannot be reached, or the connection broke", doing, key) from None

    def error(self, fault: Fault, doing: str, key: str = "") -> CdirError:
        """The error of cdir for an answer."""
        said = f"status {fault.status}"
        if fault.message and not any(secret in fault.message for secret in self.secrets):
            said += f": {fault.message[:200]}"
        if is_redirect(fault.status):
            where = fault.elsewhere or "another address"
            return self._config(f"the server sends to {where}, which is not followed; check url ({said})", doing)
        kind: type[CdirError]
        if fault.status in _PASSING or (fault.status >= 500 and fault.status not in _ERRORS):
            kind, what = ProviderUnavailable, "the server failed"
        elif fault.status < 300:
            kind, what = ProviderUnavailable, "the server does not answer as WebDAV servers do"
        else:
            kind, what = _ERRORS.get(fault.status, (InvalidArgument, "the server refuses the request"))
        what = what.format(key=key or "the root")
        passing = kind in {ProviderUnavailable, RateLimited}
        error = kind(
            f"provider {self.provider}: {what} ({said}; while {doing})",
            retry_after=fault.retry_after if passing else None,
            provider=self.provider,
        )
        if key:
            error.context["key"] = key
        return error

    def unavailable(self, what: str, doing: str, key: str = "") -> ProviderUnavailable:
        """The error for what says nothing about the provider's content."""
        error = ProviderUnavailable(f"provider {self.provider}: {what} (while {doing})", provider=self.provider)
        if key:
            error.context["key"] = key
        return error

    def _config(self, what: str, doing: str) -> ConfigInvalid:
        return ConfigInvalid(f"provider {self.provider}: {what} (while {doing})", provider=self.provider, option="url")
