"""A provider's whole listing in the order of its keys, however long it is and in whatever order it came."""

from __future__ import annotations

import asyncio
import heapq
import json
import tempfile
from collections.abc import AsyncGenerator, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import IO, Final, NamedTuple, Self

__all__ = ["ListedObject", "ObjectSorter"]

_RUN: Final = 50_000
"""Objects kept in memory; of a longer listing sorted runs of this length lie in temporary files."""

_PIECE: Final = 1000


class ListedObject(NamedTuple):
    """One object as it was listed; sorts by the bytes of its key."""

    key: str
    size: int
    etag: str


class ObjectSorter:
    """Takes objects in any order and gives them back by key. Its temporary files go with its context."""

    def __init__(self, *, run: int = _RUN) -> None:
        self._run = run
        self._waiting: list[ListedObject] = []
        self._files: list[IO[str]] = []
        self.count = 0
        """Objects taken so far."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()

    async def add(self, objects: Iterable[ListedObject]) -> None:
        """Take some objects."""
        before = len(self._waiting)
        self._waiting.extend(objects)
        self.count += len(self._waiting) - before
        if len(self._waiting) >= self._run:
            await asyncio.to_thread(self._spill)

    def _spill(self) -> None:
        # text compares by code points, which is the order of its UTF-8 bytes
        self._waiting.sort()
        file = tempfile.TemporaryFile("w+", encoding="utf-8", prefix="cdir-check-")  # noqa: SIM115 (closed at the exit)
        self._files.append(file)
        file.writelines(f"{json.dumps(found, ensure_ascii=True)}\n" for found in self._waiting)
        self._waiting.clear()

    async def pieces(self) -> AsyncGenerator[list[ListedObject], None]:
        """Yield everything that was taken, by key, in pieces of some hundreds."""
        self._waiting.sort()
        for file in self._files:
            file.seek(0)
        merged = heapq.merge(*(_read(file) for file in self._files), self._waiting)
        while piece := await asyncio.to_thread(lambda: list(islice(merged, _PIECE))):
            yield piece


def _read(file: IO[str]) -> Iterator[ListedObject]:
    for line in file:
        yield ListedObject(*json.loads(line))
