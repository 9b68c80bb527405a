"""Calls to a provider that carry what many ask of it at the same time.

Most of what a small call costs is the same whatever it carries. Who asks first is served at once; who asks while that
is under way goes into the next call.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

__all__ = ["OBJECTS_IN_CALL", "SMALL_CONTENT", "SharedCalls"]

SMALL_CONTENT: Final = 256 << 10
"""Bytes of the largest content that shares a call. Of larger ones the transfer costs more than the call."""

OBJECTS_IN_CALL: Final = 16
"""Most objects of one call: as many as adapters read or store side by side."""

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class _Asked(Generic[Item, Outcome]):
    __slots__ = ("answer", "call", "items")

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.answer: asyncio.Future[Sequence[Outcome | None]] = asyncio.get_running_loop().create_future()
        self.call: asyncio.Task[None] | None = None
        """What carries it, from the moment that it is under way."""


class _Line(Generic[Item, Outcome]):
    """What waits for one provider."""

    __slots__ = ("calls", "provider_id", "waiting")

    def __init__(self, provider_id: str) -> None:
        self.provider_id = provider_id
        self.waiting: deque[_Asked[Item, Outcome]] = deque()
        self.calls = 0


class SharedCalls(Generic[Item, Outcome]):
    """An async context manager; at its exit the calls under way are cancelled.

    ``call`` gets a provider's id and at most ``items`` items, and returns an outcome for each, in order; ``None`` for
    one that it cannot say anything of, or no outcomes at all. It raises nothing but defects. ``calls`` are under way at
    one provider at most.

    A caller who leaves leaves alone the call that carries its item, unless ``leaving_cancels``: then the call is
    cancelled and seen to its end first, and the others that it carried have no outcome.
    """

    def __init__(
        self,
        call: Callable[[str, Sequence[Item]], Awaitable[Sequence[Outcome | None]]],
        *,
        items: int = OBJECTS_IN_CALL,
        calls: int = 8,
        leaving_cancels: bool = False,
    ) -> None:
        self._call = call
        self._items = items
        self._calls = calls
        self._leaving_cancels = leaving_cancels
        self._lines: dict[str, _Line[Item, Outcome]] = {}
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for call in self._running:
            call.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    async def ask(self, provider_id: str, item: Item) -> Outcome | None:
        """Have an item carried by one of the next calls; return its outcome, ``None`` where there is none."""
        return (await self.ask_together(provider_id, [item]))[0]

    async def ask_together(self, provider_id: str, items: Sequence[Item]) -> Sequence[Outcome | None]:
        """As :meth:`ask`, for as many items as one call carries at most; the same call carries all of them."""
        if self._closed:
            return [None] * len(items)
        line = self._lines.get(provider_id)
        if line is None:
            line = self._lines[provider_id] = _Line(provider_id)
        asked: _Asked[Item, Outcome] = _Asked(items)
        line.waiting.append(asked)
        self._start(line)
        try:
            return await asked.answer
        except asyncio.CancelledError:
            if self._leaving_cancels and asked.call is not None:
                asked.call.cancel()
                await asyncio.wait([asked.call])
            raise

    def _start(self, line: _Line[Item, Outcome]) -> None:
        if line.waiting and line.calls < self._calls:
            line.calls += 1
            running = self._tasks.create_task(self._run(line))
            self._running.add(running)
            running.add_done_callback(lambda done: self._ended(done, line))

    def _ended(self, done: asyncio.Task[None], line: _Line[Item, Outcome]) -> None:
        # not in the task: one that is cancelled before it starts runs no line of it
        self._running.discard(done)
        line.calls -= 1
        if self._closed:
            _leave(line.waiting)
            line.waiting.clear()
        elif not done.cancelled() and done.exception() is not None:
            _leave(line.waiting)
        else:
            self._start(line)

    async def _run(self, line: _Line[Item, Outcome]) -> None:
        batch: list[_Asked[Item, Outcome]] = []
        items: list[Item] = []
        while line.waiting and (not items or len(items) + len(line.waiting[0].items) <= self._items):
            asked = line.waiting.popleft()
            if not asked.answer.done():
                asked.call = asyncio.current_task()
                batch.append(asked)
                items.extend(asked.items)
        if not batch:
            return
        try:
            outcomes = await self._call(line.provider_id, items)
            if len(outcomes) == len(items):
                rest = iter(outcomes)
                for asked in batch:
                    answer = list(itertools.islice(rest, len(asked.items)))
                    if not asked.answer.done():
                        asked.answer.set_result(answer)
        finally:
            _leave(batch)


def _leave(batch: Sequence[_Asked[Item, Outcome]] | deque[_Asked[Item, Outcome]]) -> None:
    """Say of what has no outcome yet that there is none."""
    for asked in batch:
        if not asked.answer.done():
            asked.answer.set_result([None] * len(asked.items))
