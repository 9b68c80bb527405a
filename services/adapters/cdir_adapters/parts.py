"""Large contents that are sent in parts: a few at once, within one bound of memory for all uploads of the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from types import TracebackType
from typing import Final, Self, TypeVar

__all__ = ["SPARE", "Sending", "Spare"]

Part = TypeVar("Part")

_AT_ONCE: Final = 2
"""Parts of one content that are sent at once; one more is collected meanwhile."""


class Spare:
    """Bytes of parts that uploads may hold beyond the one part that each of them always may.

    Nobody waits for them: an upload that gets none goes on with one part at a time. So none depends on another one,
    which may be fed from the same source.
    """

    def __init__(self, total: int) -> None:
        self._left = total

    def take(self, amount: int) -> bool:
        """Take ``amount`` bytes if as many are left."""
        if amount > self._left:
            return False
        self._left -= amount
        return True

    def give(self, amount: int) -> None:
        """Give back what was taken."""
        self._left += amount


SPARE: Final = Spare(32 << 20)
"""Of the process: two uploads can send two parts of 8 MiB each while they collect a third."""


class Sending:
    """The parts of one content on their way. Leaving the block waits until all are sent; one that fails ends it."""

    def __init__(self, spare: Spare = SPARE) -> None:
        self._spare = spare
        self._taken = 0
        self._group = asyncio.TaskGroup()
        self._in_flight: dict[asyncio.Task[None], int] = {}
        """Bytes of each part."""

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._group.__aexit__(kind, error, trace)
        finally:
            self._spare.give(self._taken)
            self._taken = 0

    async def paced(self, parts: AsyncIterator[Part]) -> AsyncGenerator[Part, None]:
        """Yield the parts: each is collected once there is room in memory for it, and yielded once it may be sent.

        Whoever takes one hands it to :meth:`start` and holds it no longer.
        """
        while True:
            while not self._hold(sum(self._in_flight.values())):
                await self._any_sent()
            try:
                part = await anext(parts)
            except StopAsyncIteration:
                return
            while len(self._in_flight) >= _AT_ONCE:
                await self._any_sent()
            yield part
            del part

    def start(self, sending: Coroutine[None, None, None], size: int) -> None:
        """Send a part of ``size`` bytes."""
        self._in_flight[self._group.create_task(sending)] = size

    async def all_sent(self) -> None:
        """Wait until nothing is on its way."""
        while self._in_flight:
            await self._any_sent()

    def _hold(self, amount: int) -> bool:
        """Hold ``amount`` bytes besides the part that is collected, or as many as before when there are not enough."""
        more = amount - self._taken
        if more > 0 and not self._spare.take(more):
            return False
        self._spare.give(max(-more, 0))
        self._taken = amount
        return True

    async def _any_sent(self) -> None:
        """Wait until a part is sent; raise what kept it from that."""
        done, _ = await asyncio.wait(self._in_flight, return_when=asyncio.FIRST_COMPLETED)
        for sent in done:
            del self._in_flight[sent]
            sent.result()
