"""What the daemon keeps in its home, and that there is only one daemon in it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cdir.errors import AlreadyExists, CdirError, ConfigInvalid, PreconditionFailed, QuotaExceeded
from cdir.locations import Home

__all__ = ["database_url", "occupy", "require_catalog"]

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


def database_url(home: Home) -> str:
    """The embedded catalog of a home."""
    return f"sqlite:///{home.catalog}"


def require_catalog(home: Home) -> None:
    """Raise ConfigInvalid when the home has had a catalog that is gone.

    An empty one in its place would look as if every file were lost.
    """
    if home.provider_card.exists() and not home.catalog.exists():
        raise ConfigInvalid(
            f"the catalog {home.catalog} is gone; `cdir rebuild` makes it anew from what the providers hold (to begin"
            f" with nothing instead, delete {home.provider_card})"
        )


@contextmanager
def occupy(home: Home) -> Iterator[None]:
    """Make the home's folder (mode 0700) and hold it: at most one daemon runs in it.

    The lock is the kernel's, so it ends with the process however that ends. Raises AlreadyExists naming the process
    that holds it, ConfigInvalid or QuotaExceeded when the folder cannot be used.
    """
    try:
        home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(home.path / "daemon.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unusable(home.path, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyExists(
                f"another daemon{_running_as(home)} runs in {home.path}; `cdir down` stops it"
            ) from None
        try:
            home.pid.write_text(f"{os.getpid()}\n")
        except OSError as error:
            raise _unusable(home.path, error) from error
        try:
            yield
        finally:
            with suppress(OSError):
                home.pid.unlink()
    finally:
        os.close(descriptor)


def _running_as(home: Home) -> str:
    try:
        return f" (process {int(home.pid.read_text())})"
    except (OSError, ValueError):
        return ""


def _unusable(folder: Path, error: OSError) -> CdirError:
    match error:
        case PermissionError():
            return PreconditionFailed(f"cdir's home {folder} cannot be written to: {error.strerror}; set CDIR_HOME")
        case FileExistsError() | NotADirectoryError():
            return ConfigInvalid(f"cdir's home {folder} is not a folder; set CDIR_HOME to one")
        case _ if error.errno in _FULL:
            return QuotaExceeded(f"no space is left for cdir's home {folder}: {error.strerror}")
        case _:
            return ConfigInvalid(f"cdir's home {folder} cannot be used: {error.strerror}; set CDIR_HOME")
