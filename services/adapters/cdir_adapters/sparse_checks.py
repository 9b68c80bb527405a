"""Asking a provider that does not answer whether it is back: seldom, however many want to know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from cdir.errors import CdirError
from cdir_adapters.layers.retry import tried_once

__all__ = ["SparseChecks"]

_PAUSE_SECONDS: Final = 1.0


class SparseChecks:
    """The checks of one provider whose callers ask again and again: one at a time, and one a second after a failure.

    ``clock`` is in seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asking = asyncio.Lock()
        self._begun = -_PAUSE_SECONDS
        self._failure: CdirError | None = None

    async def ask(self, check: Callable[[], Awaitable[float]]) -> float:
        """Return what ``check`` does, which is tried once; within a second of one that failed, raise its error anew."""
        async with self._asking:
            if self._failure is not None and self._clock() - self._begun < _PAUSE_SECONDS:
                raise self._failure.with_traceback(None)
            self._begun, self._failure = self._clock(), None
            try:
                with tried_once():
                    return await check()
            except CdirError as error:
                self._failure = error
                raise
