"""Where calls to one provider wait for their turn, and those that nobody waits for hold back for the others."""

from __future__ import annotations

import asyncio
import contextlib
import math
from types import TracebackType
from typing import Final

__all__ = ["Line"]

_QUIET_SECONDS: Final = 0.5
"""So long after the last foreground call another one is still expected."""


class Line:
    """Calls at once, at most ``places``: ``async with line.foreground`` or ``line.background``, as often as needed.

    Background calls take half of the places at most, and an eighth while there are foreground calls; but one always
    goes on. First come, first served among each.
    """

    def __init__(self, places: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._most = max(places // 2, 1)
        self._most_beside_others = max(places // 8, 1)
        self._in_foreground = self._in_background = 0
        self._last_foreground = -math.inf
        self._head = asyncio.Lock()
        self._left = asyncio.Event()
        self.foreground = _Foreground(self)
        self.background = _Background(self)

    async def enter_foreground(self) -> None:
        """Wait for a place."""
        self._in_foreground += 1
        try:
            await self._places.acquire()
        except BaseException:
            self._in_foreground -= 1
            raise

    def leave_foreground(self) -> None:
        """Give the place back."""
        self._in_foreground -= 1
        self._last_foreground = asyncio.get_running_loop().time()
        self._places.release()

    async def enter_background(self) -> None:
        """Wait until a place may be taken, and for it."""
        async with self._head:
            while not self._has_room():
                self._left.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_QUIET_SECONDS):
                        await self._left.wait()
            self._in_background += 1
        try:
            await self._places.acquire()
        except BaseException:
            self._in_background -= 1
            self._left.set()
            raise

    def leave_background(self) -> None:
        """Give the place back."""
        self._in_background -= 1
        self._places.release()
        self._left.set()

    def _has_room(self) -> bool:
        quiet = asyncio.get_running_loop().time() - self._last_foreground
        beside_others = self._in_foreground > 0 or quiet < _QUIET_SECONDS
        return self._in_background < (self._most_beside_others if beside_others else self._most)


class _Foreground:
    __slots__ = ("_line",)

    def __init__(self, line: Line) -> None:
        self._line = line

    async def __aenter__(self) -> None:
        await self._line.enter_foreground()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.leave_foreground()


class _Background:
    __slots__ = ("_line",)

    def __init__(self, line: Line) -> None:
        self._line = line

    async def __aenter__(self) -> None:
        await self._line.enter_background()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.leave_background()
