"""A bound on bytes in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

__all__ = ["ByteBudget"]


class _Waiting(NamedTuple):
    amount: int
    granted: asyncio.Future[None]


class ByteBudget:
    """At most ``total`` bytes are taken at any time; who asks for more than is left waits, first come, first served.

    More than ``total`` counts as ``total``, so that one large item passes when nothing else is there.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._left = total
        self._waiting: deque[_Waiting] = deque()

    async def take(self, amount: int) -> int:
        """Take ``amount`` bytes; give back what this returns."""
        amount = min(amount, self._total)
        if not self._waiting and amount <= self._left:
            self._left -= amount
            return amount
        waiting = _Waiting(amount, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            await waiting.granted
        except asyncio.CancelledError:
            if waiting.granted.cancelled():
                self._waiting = deque(other for other in self._waiting if other is not waiting)
                self._grant()
            else:
                self.give(amount)
            raise
        return amount

    def give(self, amount: int) -> None:
        """Give back what was taken."""
        self._left += amount
        self._grant()

    @asynccontextmanager
    async def taken(self, amount: int) -> AsyncIterator[None]:
        """Hold ``amount`` bytes for the length of the block."""
        held = await self.take(amount)
        try:
            yield
        finally:
            self.give(held)

    def _grant(self) -> None:
        while self._waiting and self._waiting[0].amount <= self._left:
            waiting = self._waiting.popleft()
            if waiting.granted.cancelled():
                continue
            self._left -= waiting.amount
            waiting.granted.set_result(None)
