"""Reading a range of an object as its bytes come in."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from cdir.errors import CdirError, IntegrityError, RangeNotSatisfied
from cdir_adapters.adapter import ByteRange, ObjectInfo, ReadStream
from cdir_adapters.providers.swift.faults import READING, Faults
from cdir_adapters.providers.swift.headers import info_of_headers
from cdir_adapters.providers.swift.wire import Request, Wire

__all__ = ["open_range"]


@asynccontextmanager
async def open_range(
    wire: Wire, faults: Faults, path: str, key: str, range: ByteRange, if_match: str | None
) -> AsyncIterator[ReadStream]:
    """Ask for a range that is not empty. Raises RangeNotSatisfied, also for offset 0 of an empty object."""
    headers: dict[str, str] = {}
    if if_match is not None:
        headers["If-Match"] = if_match
    whole = range.offset == 0 and range.length is None
    if not whole:
        last_meant = "" if range.length is None else range.offset + range.length - 1
        headers["Range"] = f"bytes={range.offset}-{last_meant}"
    async with wire.asking(Request("GET", path, READING, key, headers=headers)) as answer:
        length = answer.content_length
        if length is None:
            raise faults.broken(f"the service does not say how large {key} is", READING)
        size, skip = length, 0
        if answer.status == 206:
            stated = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
            first, last, size = map(int, stated.groups()) if stated else (0, 0, 0)
            end_meant = size if range.length is None else min(range.offset + range.length, size)
            if (first, last + 1) != (range.offset, end_meant) or length != end_meant - range.offset:
                raise faults.broken(f"the service answers with another range of {key}", READING)
        elif not whole:
            # the service does not know ranges and sends everything
            skip = range.offset
            if skip >= size:
                raise RangeNotSatisfied(f"{key} has {size} bytes; nothing can be read from offset {skip}", key=key)
            length = size - skip if range.length is None else min(range.length, size - skip)
        yield _Body(info_of_headers(key, size, answer.headers), answer, faults, skip, length)


class _Body(ReadStream):
    """The body of an answer; short of what was announced is an error."""

    def __init__(
        self, info: ObjectInfo, answer: aiohttp.ClientResponse, faults: Faults, skip: int, length: int
    ) -> None:
        self.info = info
        self._body = answer.content
        self._faults = faults
        self._skip = skip
        self._left = length

    async def __anext__(self) -> bytes:
        while self._left:
            with self._faults.translated(READING, self.info.key):
                piece = await self._body.readany()
            if not piece:
                raise self._short()
            if self._skip or len(piece) > self._left:
                skipped = min(self._skip, len(piece))
                self._skip -= skipped
                piece = piece[skipped : skipped + self._left]
            self._left -= len(piece)
            if piece:
                return piece
        raise StopAsyncIteration

    def _short(self) -> CdirError:
        key = self.info.key
        return IntegrityError(f"{key}: the service ended the body {self._left} bytes early", key=key)
