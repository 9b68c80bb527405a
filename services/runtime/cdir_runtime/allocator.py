"""Settings of the allocators that suit a process moving many small files and 4 MiB buffers."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
from typing import Any, Final

__all__ = ["collect_rarely", "give_back_freed_memory", "keep_freed_memory"]

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

_MMAP_ABOVE_BYTES: Final = 5 << 20
_KEEP_FREE_BYTES: Final = 16 << 20
_ARENAS: Final = 2

_LOOK_SECONDS: Final = 0.25
_GROWTH_BYTES: Final = 12 << 20

_OBJECTS_BETWEEN_COLLECTIONS: Final = 20_000


def collect_rarely() -> None:
    """Look for reference cycles less often, and never among what was made up to now: modules, classes, code.

    A transfer makes some hundred short-lived objects a file, nearly all freed by their counts; with the default of 700
    the collector walks the same live objects several times for each file. Call it after the imports.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, 20, 20)


def keep_freed_memory() -> None:
    """Make glibc reuse freed buffers instead of giving their pages back to the kernel at once.

    By default each buffer of some MiB is mapped anew and unmapped when freed, and the kernel clears every page of it
    again: half a million page faults for a gigabyte read. Here blocks of 4 MiB are kept, and what is larger, and rarer,
    is given back. The cost is at most 16 MiB of free memory kept for each of two arenas. Does nothing on systems
    without glibc. Parameters as in ``<malloc.h>``, see mallopt(3).
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt(_M_ARENA_MAX, _ARENAS)
    mallopt(_M_MMAP_THRESHOLD, _MMAP_ABOVE_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEEP_FREE_BYTES)


async def give_back_freed_memory() -> None:
    """Give free memory in the middle of the heaps back whenever the process has grown by 12 MiB; until cancelled.

    glibc itself gives back only what is free at a heap's end. A burst of contents of many sizes leaves gaps between
    what lives on, new contents rarely fit into them, and the process would go on growing while half of it is free. Ends
    at once on systems without glibc.
    """
    trim = _of_glibc("malloc_trim")
    if trim is None:
        return
    least = _resident_bytes()
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        resident = _resident_bytes()
        if resident - least >= _GROWTH_BYTES:
            await asyncio.to_thread(trim, 0)
            resident = least = _resident_bytes()
        least = min(least, resident)


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _of_glibc(name: str) -> Any:
    """Return a function of glibc; ``None`` on systems without it."""
    if sys.platform != "linux":
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
