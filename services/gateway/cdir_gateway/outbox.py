"""What is to be sent on a stream: filled by many tasks, emptied in batches by one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, Final, Generic, TypeVar

__all__ = ["GATHERED_BYTES", "MESSAGE_BYTES", "Outbox"]

Item = TypeVar("Item")

MESSAGE_BYTES: Final = 1 << 20
"""Small contents share a message up to about this size; streams are fastest at 256 KiB to 1 MiB."""
GATHERED_BYTES: Final = 8 << 20
"""Bytes of contents that may wait for the caller, per stream."""


class Outbox(Generic[Item]):
    """A queue bounded by count and weight that hands out everything that has gathered as one batch.

    ``batch_weight`` bounds a batch (one heavier item still goes alone), ``capacity`` what may gather, both in whatever
    unit :meth:`put` is told; a batch has at most ``batch_items`` items, and twice as many may gather.
    """

    def __init__(self, *, batch_weight: int, capacity: int, batch_items: int = 512) -> None:
        self._batch_weight = batch_weight
        self._batch_items = batch_items
        self._capacity = capacity
        self._items: deque[tuple[Item, int]] = deque()
        self._weight = 0
        self._closed = False
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()

    async def put(self, item: Item, weight: int = 0) -> None:
        """Append an item; waits while the outbox is full."""
        while self._items and (self._weight + weight > self._capacity or len(self._items) >= 2 * self._batch_items):
            self._emptied.clear()
            await self._emptied.wait()
        self._items.append((item, weight))
        self._weight += weight
        self._filled.set()

    def close(self) -> None:
        """Say that nothing more comes; what has gathered is still handed out."""
        self._closed = True
        self._filled.set()

    async def filled_by(self, work: Coroutine[Any, Any, None]) -> AsyncGenerator[list[Item], None]:
        """Yield batches while ``work`` fills the outbox, which it closes at its end; raises what it raises.

        Leaving early cancels it. It runs in a task of its own, so that a failure inside cancels the work and not
        whoever iterates over this.
        """
        working = asyncio.create_task(work)
        try:
            async with aclosing(self.batches()) as batches:
                async for batch in batches:
                    yield batch
            await working
        finally:
            working.cancel()
            await asyncio.wait([working])

    async def batches(self) -> AsyncGenerator[list[Item], None]:
        """Yield batches until the outbox is closed and empty."""
        while True:
            while self._items:
                yield self._take()
            if self._closed:
                return
            self._filled.clear()
            await self._filled.wait()

    def _take(self) -> list[Item]:
        batch: list[Item] = []
        weight = 0
        while self._items and len(batch) < self._batch_items:
            item, its_weight = self._items[0]
            if batch and weight + its_weight > self._batch_weight:
                break
            self._items.popleft()
            batch.append(item)
            weight += its_weight
        self._weight -= weight
        self._emptied.set()
        return batch
