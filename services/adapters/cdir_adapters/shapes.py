"""Between the natural shape of a provider's calls and the adapter interface: sources, ranges, pages.

Providers take content whole, in parts of a fixed size or piece by piece, and hand it out by offset and length; the
functions here turn the one into the other with bounded memory and the errors the interface promises.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing
from itertools import islice
from typing import TypeVar

from cdir.errors import IntegrityError, RangeNotSatisfied
from cdir_adapters.acl import Access
from cdir_adapters.adapter import Adapter, ByteRange, ObjectInfo, Page, ReadStream, Source, WriteMode

__all__ = [
    "PAGE_SIZE",
    "PIECE_SIZE",
    "BufferedReadStream",
    "chained",
    "collect",
    "exactly",
    "first_cause",
    "lower_keys",
    "pages_of",
    "rechunk",
    "require",
    "require_write",
    "resolve_range",
]

T = TypeVar("T")

PIECE_SIZE = 1 << 20
"""Bytes of a piece that ``read`` hands out: large enough to cost little per byte, small enough to buffer many."""

PAGE_SIZE = 1000
"""Objects of a page of a listing."""


def require(adapter: Adapter, flag: bool, what: str) -> None:
    """Raise Unsupported unless ``flag``, the value of the capability called ``what``, is true."""
    if not flag:
        raise adapter.unsupported(what)


def require_write(
    adapter: Adapter, size: int | None, mode: WriteMode, if_match: str | None, access: Access | None = None
) -> None:
    """Raise Unsupported for a ``write`` that asks for more than ``adapter.capability`` allows."""
    capability = adapter.capability
    if mode is WriteMode.CREATE and not capability.write_if_absent:
        raise adapter.unsupported("write_if_absent")
    if if_match is not None and not capability.write_if_match:
        raise adapter.unsupported("write_if_match")
    if size is None and not capability.write_unknown_size:
        raise adapter.unsupported("write_unknown_size")
    if access is not None and not capability.write_access:
        raise adapter.unsupported("write_access")


def _wrong_size(key: str, size: int, seen: int) -> IntegrityError:
    than = "more" if seen > size else "fewer"
    return IntegrityError(
        f"{key}: {size} bytes were announced, but the source has {than} ({seen}); nothing was stored", key=key
    )


async def exactly(source: Source, size: int | None, key: str) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of ``source``, skipping empty ones.

    Raises IntegrityError when it holds more or fewer than ``size`` bytes: before the piece that is too much, or at the
    end. ``None`` accepts any size. ``key`` is for the message. Whoever may leave early wraps it in ``aclosing``.
    """
    if isinstance(source, bytes):
        if size is not None and len(source) != size:
            raise _wrong_size(key, size, len(source))
        if source:
            yield source
        return
    seen = 0
    async for piece in source:
        if not piece:
            continue
        seen += len(piece)
        if size is not None and seen > size:
            raise _wrong_size(key, size, seen)
        yield piece
    if size is not None and seen < size:
        raise _wrong_size(key, size, seen)


async def collect(source: Source, size: int | None, key: str) -> bytes:
    """Return a small source whole, checked like :func:`exactly`. The caller knows that it fits in memory."""
    if isinstance(source, bytes):
        if size is not None and len(source) != size:
            raise _wrong_size(key, size, len(source))
        return source
    pieces = [piece async for piece in exactly(source, size, key)]
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def rechunk(source: Source, piece_size: int, *, size: int | None, key: str) -> AsyncGenerator[bytes, None]:
    """Yield ``source`` in pieces of exactly ``piece_size`` bytes, the last one shorter and never empty.

    Holds at most one piece of the source and one of its own. Checked like :func:`exactly`; an empty source yields
    nothing.
    """
    waiting: list[bytes | memoryview] = []
    missing = piece_size
    async with aclosing(exactly(source, size, key)) as pieces:
        async for piece in pieces:
            if not waiting and len(piece) == piece_size:
                yield piece
                continue
            rest = memoryview(piece)
            while len(rest) >= missing:
                waiting.append(rest[:missing])
                rest = rest[missing:]
                yield b"".join(waiting)
                waiting.clear()
                missing = piece_size
            if rest:
                waiting.append(rest)
                missing -= len(rest)
    if waiting:
        yield b"".join(waiting)


def resolve_range(range: ByteRange, size: int, key: str) -> tuple[int, int]:
    """Return (offset, length) of ``range`` within an object of ``size`` bytes, cut at its end.

    Raises RangeNotSatisfied when it begins at or past the end; offset 0 of an empty object is an empty range.
    """
    if range.offset >= size and not (range.offset == 0 and size == 0):
        raise RangeNotSatisfied(f"{key} has {size} bytes; nothing can be read from offset {range.offset}", key=key)
    rest = size - range.offset
    return range.offset, rest if range.length is None else min(range.length, rest)


def pages_of(objects: Iterable[ObjectInfo]) -> Iterator[Page]:
    """Group objects into pages; no page is empty."""
    waiting = iter(objects)
    while page := tuple(islice(waiting, PAGE_SIZE)):
        yield Page(page)


class BufferedReadStream(ReadStream):
    """A range that is in memory already, handed out in pieces of :data:`PIECE_SIZE`."""

    def __init__(self, info: ObjectInfo, data: bytes) -> None:
        self.info = info
        self._data = data
        self._offset = 0

    async def __anext__(self) -> bytes:
        start = self._offset
        if start >= len(self._data):
            raise StopAsyncIteration
        self._offset = start + PIECE_SIZE
        if start == 0 and len(self._data) <= PIECE_SIZE:
            return self._data
        return self._data[start : self._offset]


def lower_keys(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata as the interface shows it: keys in lower case."""
    return {name.lower(): value for name, value in metadata.items()}


async def chained(begun: list[T], rest: AsyncIterator[T]) -> AsyncIterator[T]:
    """Yield pieces that were taken already and then the rest, letting go of each before the next one is asked for."""
    while begun:
        yield begun.pop(0)
    async for piece in rest:
        yield piece
        del piece


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that made a group of tasks fail: the first one that is not a group itself."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
