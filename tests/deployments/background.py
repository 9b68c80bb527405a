"""Runs the async context managers of :mod:`servers` for tests that are not async themselves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from types import TracebackType
from typing import Self, TypeVar

__all__ = ["Background"]

T = TypeVar("T")

_HANG_SECONDS = 120.0


class Background:
    """An event loop in a thread, and the context managers entered in it; they are left in the end, last first."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-servers", daemon=True)
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.run(self._stack.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_HANG_SECONDS)
            self._loop.close()

    def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enter ``manager`` and return what it yields."""
        return self.run(self._stack.enter_async_context(manager))

    @contextmanager
    def entered(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Enter ``manager`` for as long as the block runs."""
        entered = self.run(manager.__aenter__())
        try:
            yield entered
        finally:
            self.run(manager.__aexit__(None, None, None))

    def run(self, work: Coroutine[object, object, T]) -> T:
        """Run ``work`` in the loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_HANG_SECONDS)

    def call(self, work: Callable[[], None]) -> None:
        """Call ``work`` in the loop, and wait until it was."""

        async def called() -> None:
            work()

        self.run(called())
