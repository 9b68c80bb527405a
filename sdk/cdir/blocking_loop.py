"""An event loop in a thread of its own, for callers without asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

__all__ = ["Loop", "pieces_of"]

_Result = TypeVar("_Result")


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cdir client", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        finished = threading.Event()

        async def tracked() -> _Result:
            try:
                return await coroutine
            finally:
                finished.set()

        future = asyncio.run_coroutine_threadsafe(tracked(), self._loop)
        try:
            return future.result()
        except BaseException:
            if future.cancel():  # Ctrl-C reached this thread; what was under way cleans up before it goes on
                finished.wait()
            raise

    def iterate(self, items: AsyncIterator[_Result]) -> Iterator[_Result]:
        """Iterate over asynchronous items from this thread; leaving early ends the call they come from."""

        async def following() -> tuple[bool, _Result | None]:
            try:
                return True, await anext(items)
            except StopAsyncIteration:
                return False, None

        async def close() -> None:
            aclose = getattr(items, "aclose", None)
            if aclose is not None:
                await aclose()

        try:
            while True:
                more, item = self.run(following())
                if not more:
                    return
                yield item  # type: ignore[misc] # None only when there is no more
        finally:
            self.run(close())

    def close(self) -> None:
        async def cancel_rest() -> None:
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            loop = asyncio.get_running_loop()
            await loop.shutdown_asyncgens()
            await loop.shutdown_default_executor()

        self.run(cancel_rest())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def pieces_of(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Yield pieces of a content; each is asked for in a thread."""
    iterator = iter(pieces)
    end = object()
    while (piece := await asyncio.to_thread(next, iterator, end)) is not end:
        assert isinstance(piece, bytes)
        yield piece
