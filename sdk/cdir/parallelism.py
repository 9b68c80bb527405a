"""How many files may be under way at once."""

from __future__ import annotations

import sys
from typing import Final, NamedTuple

__all__ = ["Parallelism", "bounded"]

_MOST: Final = 64
"""More large files at once are no faster: a provider takes 32 calls at a time, and what waits costs memory."""
_FILES_EACH: Final = 4
"""Open files of one transfer: the file itself, and its copies or connections in a daemon that has the same limit."""
_FILES_OF_ITS_OWN: Final = 32
"""Open files that the process needs beside its transfers."""


class Parallelism(NamedTuple):
    """How many files go at once, and why not as many as were asked for: empty when they do."""

    files: int
    reason: str


def bounded(asked: int) -> Parallelism:
    """Return how many files may be under way at once where ``asked`` are wished for: at least 1, at most 64, and no
    more than the process may have open."""
    open_files = _open_files()
    possible = _MOST if open_files is None else max((open_files - _FILES_OF_ITS_OWN) // _FILES_EACH, 1)
    if asked <= min(possible, _MOST):
        return Parallelism(max(asked, 1), "")
    if possible < _MOST:
        return Parallelism(possible, f"this process may have no more than {open_files} files open (ulimit -n)")
    return Parallelism(_MOST, "a provider takes 32 calls at a time, so more would only wait")


def _open_files() -> int | None:
    """Return how many files this process may have open; ``None`` where there is no such limit."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
