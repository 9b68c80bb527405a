"""Group commit: writing calls that arrive while a transaction is under way share the next one.

A transaction's fixed cost (the sync of the log above all) is then paid once for many calls, while each call still
succeeds or fails alone: it runs under a savepoint of its own inside the shared transaction. A call that has
a transaction to itself needs none.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from sqlalchemy.engine import Connection

from cdir.errors import CdirError, Conflict, ProviderUnavailable, QuotaExceeded, Retry
from cdir_catalog.database import Database, is_retryable

__all__ = ["GroupCommit", "group_commit"]

T = TypeVar("T")

_LARGEST_GROUP = 64
_ATTEMPTS = 8


class _Call(Generic[T]):
    def __init__(self, function: Callable[[Connection], T]) -> None:
        self.function = function
        self.answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.result: Any = None
        self.error: Exception | None = None

    def run_alone(self, connection: Connection) -> None:
        """Run as the only call of the transaction, which its failure rolls back."""
        self.result, self.error = self.function(connection), None

    def run_among_others(self, connection: Connection) -> None:
        """Run under a savepoint and keep the outcome; only what breaks the whole transaction is raised."""
        self.result, self.error = None, None
        try:
            with connection.begin_nested():
                self.result = self.function(connection)
        except (ProviderUnavailable, QuotaExceeded):
            raise
        except CdirError as error:
            self.error = error

    def finish(self) -> None:
        if self.answer.done():  # the caller is gone; the work is committed all the same
            return
        if self.error is not None:
            self.answer.set_exception(self.error)
        else:
            self.answer.set_result(self.result)


class GroupCommit:
    """Runs writing store functions, several to a transaction; made by :func:`group_commit`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[_Call[Any]] = deque()
        self._arrived = asyncio.Event()
        self._committed = asyncio.Condition()
        self.count = 0
        """Transactions that this process has ended so far."""
        self._ended = False

    async def run(self, function: Callable[[Connection], T]) -> T:
        """Run ``function`` in a transaction that may be shared, and return its result once that is committed.

        The function may be run more than once, each time after its earlier effects were rolled back.
        """
        if self._ended:
            raise _ending()
        call = _Call(function)
        self._waiting.append(call)
        self._arrived.set()
        return await call.answer

    async def wait_for_commit(self, seen: int, timeout: float) -> None:
        """Return when :attr:`count` is no longer ``seen``, or after ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout), self._committed:
                await self._committed.wait_for(lambda: self.count != seen)
        except TimeoutError:
            return

    async def serve(self) -> None:
        """Commit what arrives, until cancelled; whoever still waits then is told that the catalog ends."""
        group: list[_Call[Any]] = []
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._waiting:
                    size = min(len(self._waiting), _LARGEST_GROUP)
                    group = [self._waiting.popleft() for _ in range(size)]
                    await self._commit(group)
        finally:
            self._ended = True
            for call in [*group, *self._waiting]:
                call.error = _ending()
                call.finish()

    async def _commit(self, calls: list[_Call[Any]]) -> None:
        try:
            await self._together(calls)
        except Exception as error:
            if len(calls) == 1:
                calls[0].error = error
            else:
                # one call broke the transaction of all; alone, each gets what is its own
                for call in calls:
                    await self._commit([call])
                return
        for call in calls:
            call.finish()
        async with self._committed:
            self.count += 1
            self._committed.notify_all()

    async def _together(self, calls: list[_Call[Any]]) -> None:
        def run(connection: Connection) -> None:
            if len(calls) == 1:
                calls[0].run_alone(connection)
                return
            for call in calls:
                call.run_among_others(connection)

        for attempt in range(_ATTEMPTS):
            try:
                await self._database.write(run)
                return
            except Exception as error:
                if not is_retryable(error):
                    raise
            await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))
        raise Conflict("the catalog is too busy with others' changes to the same files; try again", retry=Retry.LATER)


def _ending() -> ProviderUnavailable:
    return ProviderUnavailable("the catalog is shutting down; whether the change took effect is unknown")


@asynccontextmanager
async def group_commit(database: Database) -> AsyncIterator[GroupCommit]:
    """Serve group commits over ``database`` while the context is open."""
    group = GroupCommit(database)
    # no task group: it would hide an error of the caller's own inside an exception group
    serving = asyncio.create_task(group.serve(), name="catalog group commit")
    try:
        yield group
    finally:
        serving.cancel()
        await asyncio.wait([serving])
