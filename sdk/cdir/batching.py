"""Single questions of many tasks, answered by few calls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar, cast

from cdir.errors import CdirError, InternalError

__all__ = ["Together", "settle"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_CALLS: Final = 2
"""Calls under way at a time: while one is answered, the next one is filled."""


class Together(Generic[Item, Answer]):
    """Collects what is asked for while calls are under way; what comes alone is asked at once.

    ``call`` takes at most ``most`` items and returns one answer for each, in order; an answer that is an exception is
    raised to the one who asked. What it raises is raised to all of the call. A call goes on when those who asked have
    been cancelled.
    """

    def __init__(self, call: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | CdirError]]], *, most: int) -> None:
        self._call = call
        self._most = most
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._calls: set[asyncio.Task[None]] = set()

    async def ask(self, item: Item) -> Answer:
        """Return the answer for one item."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if len(self._calls) < _CALLS:
            self._calls.add(asyncio.create_task(self._serve(), name="cdir batched call"))
        return await answer

    async def ended(self) -> None:
        """Wait until no call is under way any more."""
        while self._calls:
            await asyncio.wait(self._calls.copy())

    async def _serve(self) -> None:
        try:
            await self._call_until_nothing_waits()
        finally:
            # here and not when the task is seen to be done: whoever asks in between would wait for nobody
            self._calls.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _call_until_nothing_waits(self) -> None:
        while batch := self._take():
            try:
                answers: Sequence[Answer | Exception] = await self._call([item for item, _ in batch])
            except Exception as error:
                answers = [error] * len(batch)
            except BaseException:  # the loop ends
                for _, waiting in batch:
                    waiting.cancel()
                raise
            if len(answers) != len(batch):
                answers = [InternalError(f"{len(batch)} questions have {len(answers)} answers")] * len(batch)
            for (_, waiting), answer in zip(batch, answers, strict=True):
                settle(waiting, answer)

    def _take(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        while self._waiting and len(batch) < self._most:
            asked = self._waiting.popleft()
            if not asked[1].done():
                batch.append(asked)
        return batch


def settle(waiting: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    """Give an answer, or raise it if it is an exception, to one who asked and may be gone."""
    if waiting.done():
        return
    if isinstance(answer, Exception):
        waiting.set_exception(answer)
    else:
        waiting.set_result(answer)
