"""Work that several wait for and that is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

__all__ = ["SharedWork"]

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class _Running(Generic[Result]):
    __slots__ = ("task", "waiting")

    def __init__(self, task: asyncio.Task[Result]) -> None:
        self.task = task
        self.waiting = 0


class SharedWork(Generic[Key, Result]):
    """Who asks for what is being done already gets the same result, or the same error.

    Nothing is kept: who asks after the work has ended has it done anew. A caller who leaves leaves it to the others;
    the last one who leaves cancels it and sees its end first, so that nothing is under way that nobody waits for.
    """

    def __init__(self) -> None:
        self._running: dict[Key, _Running[Result]] = {}

    def __contains__(self, key: Key) -> bool:
        """Whether somebody who asks for this now waits for work that is under way."""
        return key in self._running

    async def join(self, key: Key, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Return what the work under way for ``key`` does, which ``work`` begins where there is none."""
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = _Running(asyncio.create_task(work()))
            running.task.add_done_callback(lambda _: self._forget(key, running))
        running.waiting += 1
        try:
            await asyncio.wait([running.task])
        finally:
            running.waiting -= 1
            if not running.waiting and not running.task.done():
                self._forget(key, running)
                running.task.cancel()
                await asyncio.gather(running.task, return_exceptions=True)
        return running.task.result()

    def _forget(self, key: Key, running: _Running[Result]) -> None:
        # not what has begun since the last one left
        if self._running.get(key) is running:
            del self._running[key]
