"""A folder of this machine as the root: only the one that cdir marked is used, and rclone never makes it anew.

rclone makes every folder that is missing on the way to a file, so that it would fill the disk below a mount point whose
own disk went away. It is given a path instead that leads into the folder as it was opened, whatever its name leads to
by then; the kernel offers one on Linux.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from cdir_adapters.providers.rclone.faults import Faults
from cdir_adapters.sentinel import MARK_KEY, PROBE_PREFIX

__all__ = ["Disk"]

_OPENED: Final = "/proc/self/fd"


class Disk:
    """The root ``path``. Every method raises ProviderUnavailable when it is not there, or is not the marked one.

    Only the mark itself and the probe's folder may be used before there is a mark.
    """

    def __init__(self, path: str, faults: Faults) -> None:
        self._path = path
        self._faults = faults

    async def require(self, key: str) -> None:
        """Look whether ``key`` may be used."""
        async with self.held(key):
            return

    @asynccontextmanager
    async def held(self, key: str) -> AsyncIterator[str]:
        """Give the path by which to write ``key`` now: it leads into the folder that is there at the beginning."""
        with contextlib.ExitStack() as stack:
            opening = asyncio.ensure_future(asyncio.to_thread(self._open, stack, key))
            try:
                await asyncio.shield(opening)
            except asyncio.CancelledError:
                # what it opens has to be closed
                await asyncio.wait({opening})
                raise
            yield opening.result()

    def _open(self, stack: contextlib.ExitStack, key: str) -> str:
        try:
            folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, folder)
            if key != MARK_KEY and not key.startswith(PROBE_PREFIX):
                os.stat(MARK_KEY, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            raise self._faults.unavailable(
                f"the folder {self._path} does not exist or is not the one that cdir marked; is the disk mounted?",
                "looking at the root",
                key,
            ) from None
        except OSError as error:
            raise self._faults.unavailable(
                f"the folder {self._path} cannot be used ({error.strerror})", "looking at the root", key
            ) from None
        return f"/proc/{os.getpid()}/fd/{folder}" if os.path.isdir(_OPENED) else self._path
