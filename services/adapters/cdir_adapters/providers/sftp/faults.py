"""The one place where errors of SSH, SFTP and the network become errors of cdir.

SFTP version 3, which OpenSSH speaks, has few error codes: a full disk, a file where a folder should be and a folder
where a file should be are all just "failure". :class:`Refused` carries that to where it can be looked into.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import asyncssh

from cdir.errors import (
    CdirError,
    InvalidPath,
    IsDirectory,
    NotDirectory,
    NotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExceeded,
    Unsupported,
)

__all__ = ["CallerFailed", "Refused", "is_lost", "translated"]


class CallerFailed(Exception):
    """Carries what a source or a reader raised past the translation: it says nothing about the server."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Refused(ProviderUnavailable):
    """The server gave no reason. Stands as it is when none can be found by looking."""


_MISSING = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)
_FORBIDDEN = (asyncssh.SFTPPermissionDenied, asyncssh.SFTPWriteProtect, asyncssh.SFTPCannotDelete)
_FULL = (asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded)
_LOST = (
    asyncssh.SFTPConnectionLost,
    asyncssh.SFTPNoConnection,
    asyncssh.SFTPBadMessage,
    asyncssh.DisconnectError,
    asyncssh.ChannelOpenError,
    OSError,
)


def is_lost(error: BaseException) -> bool:
    """Tell whether the session that raised ``error`` is of no further use."""
    return isinstance(error, _LOST)


@contextlib.contextmanager
def translated(provider: str, key: str) -> Iterator[None]:
    """Raise what the block raises as an error of cdir."""
    try:
        yield
    except CdirError:
        raise
    except (asyncssh.Error, OSError) as error:
        raise _translate(error, provider, key) from error


def _translate(error: Exception, provider: str, key: str) -> CdirError:
    where = f"{key or 'the root'} at provider {provider}"
    if isinstance(error, _MISSING):
        return NotFound(f"{where} does not exist", key=key)
    if isinstance(error, _FORBIDDEN):
        return PermissionDenied(f"{where}: the server does not allow this; check who may write there", key=key)
    if isinstance(error, _FULL):
        return QuotaExceeded(f"{where}: no space is left there; make room", key=key)
    if isinstance(error, asyncssh.SFTPFileIsADirectory):
        return IsDirectory(f"{where} is a folder", key=key)
    if isinstance(error, asyncssh.SFTPNotADirectory):
        return NotDirectory(f"{where}: a part of the path is not a folder", key=key)
    if isinstance(error, asyncssh.SFTPInvalidFilename):
        return InvalidPath(f"{where}: the server cannot hold the name", key=key)
    if isinstance(error, asyncssh.SFTPOpUnsupported):
        return Unsupported(f"{where}: the server does not offer this", key=key)
    if is_lost(error):
        return ProviderUnavailable(
            f"{where}: the connection to the server is lost or cannot be made; it is tried anew with the next call",
            provider=provider,
        )
    return Refused(f"{where}: the server refuses without a reason ({error})"[:300], provider=provider, key=key)
