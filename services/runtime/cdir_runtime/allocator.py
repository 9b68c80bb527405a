"""Settings of the C library's allocator that suit a process moving 4 MiB buffers."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

_MMAP_ABOVE_BYTES: Final = 32 << 20
_KEEP_FREE_BYTES: Final = 64 << 20
_ARENAS: Final = 2


def keep_freed_memory() -> None:
    """Make glibc reuse freed buffers instead of giving their pages back to the kernel at once.

    By default each buffer of some MiB is mapped anew and unmapped when freed, and the kernel clears every page of it
    again: half a million page faults for a gigabyte read. The cost is at most 64 MiB of free memory kept for each of
    two arenas. Does nothing on systems without glibc. Parameters as in ``<malloc.h>``, see mallopt(3).
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt(_M_ARENA_MAX, _ARENAS)
    mallopt(_M_MMAP_THRESHOLD, _MMAP_ABOVE_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEEP_FREE_BYTES)
