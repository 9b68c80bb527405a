"""Consecutive blocks read on in one request: each request costs a provider and its reader something, and often money.

A run is a short cut and nothing more. Whatever goes wrong with it, the block that waits is read by itself, which
follows renames, asks other providers, and reports what it finds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Final, Protocol

from cdir.errors import CdirError, ProviderUnavailable

__all__ = ["RunSource", "Runs"]

_RUN_BLOCKS: Final = 4
"""Blocks of a run. One of 16 MiB costs a service little more than one of 4 MiB; a longer one gains nothing more."""


class RunSource(Protocol):
    """What runs are read from."""

    async def block(self, index: int) -> bytes:
        """Return a verified block, whichever provider has it."""

    async def check(self, index: int, data: bytes) -> None:
        """Raise IntegrityError unless ``data`` is the block."""

    def run(self, provider_id: str, index: int, count: int) -> AsyncGenerator[bytes, None] | None:
        """Read ``count`` blocks from one provider in one request, not verified; ``None`` where that cannot be done."""

    def run_patience(self, provider_id: str) -> float:
        """Seconds after which a block of a run is given up."""


class _Run:
    """Blocks ``begin`` up to but not including ``end``; they are taken in order."""

    def __init__(self, blocks: AsyncGenerator[bytes, None], begin: int, end: int) -> None:
        self.end = end
        self.is_over = False
        self._blocks = blocks
        self._next = begin
        self._taking = asyncio.Lock()

    async def take(self, index: int, patience: float) -> bytes:
        """Return a block. Raises CdirError, also when it is not the next one: then the run has failed before."""
        async with self._taking:  # first come, first served
            if self.is_over or index != self._next:
                raise ProviderUnavailable("the request for several blocks has ended early")
            try:
                async with asyncio.timeout(patience):
                    data = await anext(self._blocks, b"")
                    self._next += 1
                    self.is_over = self._next == self.end
                    if self.is_over:
                        # only a request that was seen to end leaves a connection that can be used again
                        await anext(self._blocks, b"")
            except TimeoutError:
                self.is_over = True
                raise ProviderUnavailable("the next block is late") from None
            except BaseException:
                self.is_over = True
                raise
            return data

    async def close(self) -> None:
        """End the request. Nobody may be waiting for a block."""
        await self._blocks.aclose()


class Runs:
    """The runs of one content, up to but not including block ``stop``. Leave it with :meth:`close`."""

    def __init__(self, source: RunSource, stop: int) -> None:
        self._source = source
        self._stop = stop
        self._open: list[_Run] = []
        self._given_up = False

    def block(self, provider_id: str, index: int) -> Coroutine[Any, Any, bytes]:
        """Return the reading of a block; called in order. Errors are those of the source's ``block``."""
        newest = self._open[-1] if self._open else None
        run = newest if newest and index < newest.end else self._begin(provider_id, index)
        return self._block(run, provider_id, index)

    async def close(self) -> None:
        """End the requests, when nobody waits for a block any more."""
        for run in self._open:
            await run.close()

    def _begin(self, provider_id: str, index: int) -> _Run | None:
        count = min(_RUN_BLOCKS, self._stop - index)
        if self._given_up or count < 2 or (blocks := self._source.run(provider_id, index, count)) is None:
            return None
        run = _Run(blocks, index, index + count)
        self._open = [one for one in self._open if not one.is_over] + [run]
        return run

    async def _block(self, run: _Run | None, provider_id: str, index: int) -> bytes:
        if run is not None:
            try:
                data = await run.take(index, self._source.run_patience(provider_id))
                await self._source.check(index, data)
                return data
            except CdirError:
                # not tried again for this content: by itself a block is read from whoever can
                self._given_up = True
        return await self._source.block(index)
