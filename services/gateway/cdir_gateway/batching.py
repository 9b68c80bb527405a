"""Many small requests, few calls: what is asked for while a call is under way goes into the next one.

A request that comes alone is sent at once. When requests come in crowds, a call waits a little for more of them, since
much of its cost does not depend on how much it carries.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

from cdir.errors import InternalError, ProviderUnavailable

__all__ = ["Batcher"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Asked(NamedTuple, Generic[Item, Result]):
    """Items that one call carries."""

    group: str
    items: Sequence[Item]
    answer: asyncio.Future[list[Result | Exception]]


class Batcher(Generic[Item, Result]):
    """Collects items and passes them to ``call`` in batches of at most ``max_items``, at most ``parallel`` at once.

    ``call`` gets the group and the items, and returns one result for each, in order. A result that is an exception is
    raised to the one who asked for it; an exception that ``call`` raises is raised to all of the batch. Items of
    different groups are never mixed. An async context manager: at its exit the items given so far are still served.

    ``spacing`` seconds lie between the starts of two calls, unless as many items as ``enough`` says wait already.
    """

    def __init__(
        self,
        call: Callable[[str, list[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        max_items: int = 256,
        parallel: int = 1,
        spacing: float = 0.0,
        enough: Callable[[], int] = lambda: 1,
    ) -> None:
        self._call = call
        self._max_items = max_items
        self._parallel = parallel
        self._spacing = spacing
        self._enough = enough
        self._next_start = 0.0
        self._filled = asyncio.Event()
        self._asked: deque[_Asked[Item, Result]] = deque()
        self._waiting = 0
        """How many items wait."""
        self._tasks = asyncio.TaskGroup()
        self._running = 0
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._filled.set()
        await self._tasks.__aexit__(kind, error, trace)

    def submit(self, item: Item, *, group: str = "") -> asyncio.Future[Result]:
        """Queue an item; the future has its result. Cancelling the future leaves the call alone."""
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def settle(asked: asyncio.Future[list[Result | Exception]]) -> None:
            if asked.cancelled():
                answer.cancel()
                return
            result = asked.exception() or asked.result()[0]
            if answer.done():
                return
            if isinstance(result, BaseException):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        self.submit_each([item], group=group).add_done_callback(settle)
        return answer

    def submit_each(self, items: Sequence[Item], *, group: str = "") -> asyncio.Future[list[Result | Exception]]:
        """As :meth:`submit`, for items that the same call carries, however many. The future has what each would have,
        and fails only where the call does."""
        if self._closed:
            raise ProviderUnavailable("the gateway is shutting down; try again")
        answer: asyncio.Future[list[Result | Exception]] = asyncio.get_running_loop().create_future()
        self._asked.append(_Asked(group, items, answer))
        self._waiting += len(items)
        if self._have_enough():
            self._filled.set()
        if self._running < self._parallel:
            self._running += 1
            self._tasks.create_task(self._serve())
        return answer

    async def _serve(self) -> None:
        try:
            while self._asked:
                await self._keep_distance()
                await self._send(self._next_batch())
        except asyncio.CancelledError:
            for asked in self._asked:
                asked.answer.cancel()
            raise
        finally:
            self._running -= 1

    async def _keep_distance(self) -> None:
        left = self._next_start - time.monotonic()
        if left <= 0 or self._closed or self._have_enough():
            return
        self._filled.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self._filled.wait()

    def _have_enough(self) -> bool:
        return self._waiting >= min(self._enough(), self._max_items)

    def _next_batch(self) -> list[_Asked[Item, Result]]:
        group = self._asked[0].group
        batch: list[_Asked[Item, Result]] = []
        count = 0
        while self._asked and self._asked[0].group == group:
            more = len(self._asked[0].items)
            if batch and count + more > self._max_items:
                break
            count += more
            batch.append(self._asked.popleft())
        self._waiting -= count
        self._next_start = time.monotonic() + self._spacing
        return batch

    async def _send(self, batch: list[_Asked[Item, Result]]) -> None:
        items = [item for asked in batch for item in asked.items]
        try:
            results = list(await self._call(batch[0].group, items))
        except Exception as error:
            for asked in batch:
                if not asked.answer.done():
                    asked.answer.set_exception(error)
            return
        except asyncio.CancelledError:
            for asked in batch:
                asked.answer.cancel()
            raise
        if len(results) != len(items):
            results = [InternalError(f"{len(results)} results came for {len(items)} items")] * len(items)
        rest = iter(results)
        for asked in batch:
            answer = list(itertools.islice(rest, len(asked.items)))
            if not asked.answer.done():
                asked.answer.set_result(answer)
