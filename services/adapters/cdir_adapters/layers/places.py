"""How many objects are read or stored at a provider at the same time: as many as do it good.

A distant provider takes a round trip for a small object however many there are, so more of them at once take no longer;
until its line or its disks are full, and then they only wait there. What is measured is how long calls take beside the
quickest of late.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

__all__ = ["Places"]

_FEWEST: Final = 4
_HOLDS: Final = 2.0
"""Up to this many times the quickest call, more places make none slower."""
_SUFFERS: Final = 4.0
"""From this many times the quickest call on, there are too many."""
_TRIFLE: Final = 0.01
"""Seconds that say nothing, however quick the quickest call was."""
_WINDOW: Final = 64
"""Calls after which the quickest one is forgotten, unless another one was as quick."""
_REMEMBERED: Final = 10.0
"""Seconds after which a sign that there were too many says nothing any more: what was in the way may have gone."""


class Places:
    """Places for objects under way; ``first`` to begin with, never more than ``most``.

    While calls take no longer than the quickest, each that ends gives another place for each of its own: twice as many
    a round trip. From the first sign that they do, it is one more a round trip; a provider that says that it is too
    much gets half as many. Who comes when nobody is there, and the last sign is long past, finds ``first`` at least.
    """

    def __init__(self, first: int, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = self._limit = float(min(first, most))
        self._most = float(most)
        self._clock = clock
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._warned_at = float("-inf")
        """When there was the last sign of too many."""
        self._quickest = self._quickest_before = float("inf")
        self._measured = 0
        self._halved_at = float("-inf")

    @property
    def limit(self) -> int:
        """How many there are now."""
        return int(self._limit)

    @asynccontextmanager
    async def taken(self, count: int) -> AsyncGenerator[None, None]:
        """Wait for so many places, and have them while the block runs; served in the order of asking.

        One that wants more than there are gets them when it is alone.
        """
        await self._take(count)
        began = self._clock()
        try:
            yield
            # a limit that nobody has reached is not known to be good
            self._ended(count, self._clock() - began, pressed=bool(self._waiting))
        finally:
            self._used -= count
            self._wake()

    def refused(self) -> None:
        """The provider has said that these were too many."""
        now = self._clock()
        quickest = min(self._quickest, self._quickest_before)
        if now - self._halved_at > (quickest if quickest < float("inf") else 1.0):
            # what was under way already says nothing of the new limit
            self._halved_at = now
            self._limit = max(self._limit / 2, min(_FEWEST, self._most))
        self._warned_at = now

    @property
    def _warned(self) -> bool:
        """Whether a limit was found of late, so that there is no doubling."""
        return self._clock() - self._warned_at <= _REMEMBERED

    def _ended(self, count: int, seconds: float, *, pressed: bool) -> None:
        self._quickest = min(self._quickest, seconds)
        quickest = min(self._quickest, self._quickest_before)
        self._measured += 1
        if self._measured >= _WINDOW:
            self._measured, self._quickest_before, self._quickest = 0, self._quickest, float("inf")
        if seconds > _SUFFERS * quickest + _TRIFLE:
            self._warned_at = self._clock()
            self._limit = max(self._limit - count / self._limit, min(_FEWEST, self._most))
        elif seconds > _HOLDS * quickest + _TRIFLE:
            self._warned_at = self._clock()
        elif pressed:
            self._limit = min(self._limit + (count / self._limit if self._warned else count), self._most)

    async def _take(self, count: int) -> None:
        if not self._used and not self._warned:
            self._limit = max(self._limit, self._first)
        if not self._waiting and self._fits(count):
            self._used += count
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._used -= count
            self._wake()
            raise

    def _fits(self, count: int) -> bool:
        return not self._used or self._used + count <= self._limit

    def _wake(self) -> None:
        while self._waiting:
            count, turn = self._waiting[0]
            if not turn.done():
                if not self._fits(count):
                    return
                self._used += count
                turn.set_result(None)
            self._waiting.popleft()
