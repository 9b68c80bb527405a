"""The one place where refusals of an FTP server and errors of the network become errors of cdir.

FTP has one code, 550, for whatever is wrong with a file. What a server writes after it is for people and differs from
one to the next, so it is only taken as a hint; where more hangs on it, it is looked what lies there.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Iterator

from cdir.errors import (
    CdirError,
    InvalidPath,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExceeded,
    Unauthenticated,
    Unsupported,
)

__all__ = ["CallerFailed", "ConnectionLost", "Refusal", "translated"]

_DENIED = re.compile(r"permission|denied|not permitted|not allowed|privilege|read-only|access is|forbidden", re.I)
_FULL = re.compile(r"no space|disk (?:is )?full|quota|insufficient storage|out of space", re.I)
_MISSING = re.compile(r"no such|not (?:be )?found|does ?n[o']t exist|cannot find|not a directory", re.I)
_TOO_LONG = re.compile(r"too long", re.I)


class CallerFailed(Exception):
    """Carries what a source or a reader raised past the translation: it says nothing about the server."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class ConnectionLost(ConnectionError):
    """The control connection is of no further use: it ended, the server said goodbye (421), or it makes no sense."""


class Refusal(Exception):
    """A reply that says no, after which the connection goes on."""

    def __init__(self, verb: str, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.verb = verb
        self.code = code
        self.text = text

    @property
    def unknown_command(self) -> bool:
        """The server does not know the command, or not with such an argument."""
        return self.code in {500, 501, 502, 504}

    @property
    def missing(self) -> bool:
        """It is said that something does not exist."""
        return bool(_MISSING.search(self.text))

    @property
    def passing(self) -> bool:
        """The same command may succeed later. Some servers say so of a missing folder too, wrongly."""
        return self.code < 500 and not self.missing

    @property
    def denies(self) -> bool:
        """It is said to be a matter of permission."""
        return bool(_DENIED.search(self.text))

    @property
    def full(self) -> bool:
        """No room is left, or no more is allowed."""
        return self.code in {452, 552} or bool(_FULL.search(self.text))


@contextlib.contextmanager
def translated(provider: str, key: str) -> Iterator[None]:
    """Raise what the block raises as an error of cdir."""
    try:
        yield
    except CdirError:
        raise
    except Refusal as refusal:
        raise _of_refusal(refusal, provider, key) from refusal
    except OSError as error:
        raise ProviderUnavailable(
            f"{_where(key, provider)}: the connection to the server is lost or cannot be made ({_reason(error)}); it is"
            " tried anew with the next call",
            provider=provider,
        ) from error


def _where(key: str, provider: str) -> str:
    return f"{key or 'the root'} at provider {provider}"


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or type(error).__name__}"
    return str(error.strerror or error or type(error).__name__)[:200]


def _of_refusal(refusal: Refusal, provider: str, key: str) -> CdirError:
    where = _where(key, provider)
    said = f"the server answers {refusal.verb} with {refusal.code} {refusal.text!r}"[:300]
    if refusal.full:
        return QuotaExceeded(f"{where}: no space is left there; make room ({said})", key=key)
    if refusal.code in {430, 530, 532}:
        return Unauthenticated(
            f"provider {provider}: the server wants a sign-in; check user and password ({said})", provider=provider
        )
    if _TOO_LONG.search(refusal.text):
        return InvalidPath(f"{where}: the name is too long for the server", key=key)
    if refusal.unknown_command:
        return Unsupported(f"{where}: {said}", provider=provider, key=key)
    if refusal.passing:
        return ProviderUnavailable(f"{where}: {said}", provider=provider, key=key)
    if refusal.denies:
        return PermissionDenied(f"{where}: {said}; check who may write there", key=key)
    if refusal.missing:
        # NotFound is said only by those who have looked, the root included
        return ProviderUnavailable(f"{where}: something went away meanwhile ({said})", provider=provider, key=key)
    if refusal.code not in {550, 553}:
        return ProviderUnavailable(f"{where}: {said}", provider=provider, key=key)
    return PermissionDenied(f"{where}: {said}; check what lies there and who may use it", key=key)
