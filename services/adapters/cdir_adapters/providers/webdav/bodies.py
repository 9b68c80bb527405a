"""What is sent: content as bodies of requests, from memory or from a source that can be read only once."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from cdir_adapters.adapter import Source
from cdir_adapters.shapes import exactly

__all__ = ["Content", "StreamedContent", "WholeContent", "held_back", "sha1_of"]

_WRITE_SIZE = 512 * 1024
"""Bytes given to the socket at once, so that other transfers get their turn."""


class Content(ABC):
    """What one write stores."""

    sent = 0
    """Bytes given to the connection by the last request."""
    error: BaseException | None = None
    """What the source itself raised: it says nothing about the server."""

    @abstractmethod
    def body(self) -> aiohttp.Payload:
        """Make the body of one request."""

    @property
    @abstractmethod
    def spent(self) -> bool:
        """Whether no further request can send it."""

    @property
    @abstractmethod
    def data(self) -> Sequence[bytes | memoryview] | None:
        """All of it, where that is in memory."""


class WholeContent(Content):
    """Pieces in memory, which can be sent as often as needed."""

    spent = False

    def __init__(self, pieces: Sequence[bytes | memoryview]) -> None:
        self._pieces = pieces

    @property
    def data(self) -> Sequence[bytes | memoryview]:
        return self._pieces

    def body(self) -> aiohttp.Payload:
        return _Whole(self, self._pieces)


class StreamedContent(Content):
    """A source that is read while it is sent."""

    data = None

    def __init__(self, source: Source, size: int | None, key: str) -> None:
        self._source = source
        self._size = size
        self._key = key
        self.begun = False

    @property
    def spent(self) -> bool:
        return self.begun

    def pieces(self) -> AsyncGenerator[bytes, None]:
        return held_back(self._source, self._size, self._key)

    def body(self) -> aiohttp.Payload:
        return _Streamed(self, self._size)


async def held_back(source: Source, size: int | None, key: str) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of a source, each when the next one is there: the last one only when nothing follows it.

    A request that has sent as many bytes as it announced is whole to the server, so a source that has more, or breaks,
    must be found out before.
    """
    waiting: bytes | None = None
    async with aclosing(exactly(source, size, key)) as pieces:
        async for piece in pieces:
            if waiting is not None:
                yield waiting
            waiting = piece
    if waiting is not None:
        yield waiting


class _Body(aiohttp.Payload):
    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("content is bytes")


class _Whole(_Body):
    def __init__(self, content: WholeContent, pieces: Sequence[bytes | memoryview]) -> None:
        super().__init__(pieces, content_type="application/octet-stream")
        self._content = content
        self._pieces = pieces
        self._size = sum(map(len, pieces))

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._content.sent = 0
        if not self._size:
            # sends the head: where that fails once this has returned, aiohttp tells nobody
            await writer.write(b"")
        for piece in self._pieces:
            for start in range(0, len(piece), _WRITE_SIZE):
                part = piece[start : start + _WRITE_SIZE]
                await writer.write(part)
                self._content.sent += len(part)


class _Streamed(_Body):
    def __init__(self, content: StreamedContent, size: int | None) -> None:
        super().__init__(content, content_type="application/octet-stream")
        self._content = content
        self._size = size

    async def write(self, writer: AbstractStreamWriter) -> None:
        content = self._content
        if content.begun:
            # the library sends again what a kept connection has lost; a source cannot be read again
            raise aiohttp.ClientConnectionError("the source was read already")
        content.begun = True
        async with aclosing(content.pieces()) as pieces:
            while True:
                try:
                    piece = await anext(pieces)
                except StopAsyncIteration:
                    return
                except Exception as error:
                    content.error = error
                    raise
                for start in range(0, len(piece), _WRITE_SIZE):
                    part = piece if len(piece) <= _WRITE_SIZE else memoryview(piece)[start : start + _WRITE_SIZE]
                    await writer.write(part)
                    content.sent += len(part)


def sha1_of(pieces: Sequence[bytes | memoryview]) -> str:
    """Return the SHA-1 of content in memory; takes a while for large ones."""
    digest = hashlib.sha1(usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
