"""Bytes to and from one file on the server, with several requests in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator

import asyncssh

from cdir.errors import IntegrityError
from cdir_adapters.adapter import ObjectInfo, ReadStream
from cdir_adapters.providers.sftp.faults import translated
from cdir_adapters.shapes import PIECE_SIZE, first_cause

__all__ = ["FileStream", "block_size", "read_at", "write_pieces"]

_MAX_BLOCK = 256 * 1024
_READ_AHEAD = 3
"""Pieces of a stream that are asked for before they are wanted."""
_WRITE_BEHIND = 8 * 1024 * 1024
"""Bytes sent and not confirmed."""


def block_size(limit: int) -> int:
    """Bytes of one request, for a server that allows ``limit``."""
    return max(4096, min(limit, _MAX_BLOCK))


async def read_at(file: asyncssh.SFTPClientFile, offset: int, length: int, block: int) -> bytes:
    """Read up to ``length`` bytes from ``offset``; fewer only where the file ends."""
    if length <= block:
        return await _read_block(file, offset, length) if length else b""
    end = offset + length
    try:
        async with asyncio.TaskGroup() as group:
            reads = [
                group.create_task(_read_block(file, start, min(block, end - start)))
                for start in range(offset, end, block)
            ]
    except BaseExceptionGroup as failed:
        raise first_cause(failed) from None
    blocks = [read.result() for read in reads]
    for number, (data, start) in enumerate(zip(blocks, range(offset, end, block), strict=True)):
        if len(data) < min(block, end - start):
            return b"".join(blocks[: number + 1])
    return b"".join(blocks)


async def _read_block(file: asyncssh.SFTPClientFile, offset: int, length: int) -> bytes:
    data = await _read_once(file, offset, length)
    while data and len(data) < length:
        more = await _read_once(file, offset + len(data), length - len(data))
        if not more:
            break
        data += more
    return data


async def _read_once(file: asyncssh.SFTPClientFile, offset: int, length: int) -> bytes:
    data = await file.read(length, offset)
    assert isinstance(data, bytes)
    return data


class FileStream(ReadStream):
    """A range of an open file, asked for a few pieces ahead. ``close`` ends what is in flight."""

    def __init__(
        self, info: ObjectInfo, file: asyncssh.SFTPClientFile, offset: int, length: int, *, block: int, provider: str
    ) -> None:
        self.info = info
        self._file = file
        self._next = offset
        self._end = offset + length
        self._block = block
        self._provider = provider
        self._reads: deque[tuple[int, asyncio.Task[bytes]]] = deque()

    async def __anext__(self) -> bytes:
        while self._next < self._end and len(self._reads) < _READ_AHEAD:
            length = min(PIECE_SIZE, self._end - self._next)
            read = asyncio.create_task(read_at(self._file, self._next, length, self._block))
            self._reads.append((length, read))
            self._next += length
        if not self._reads:
            raise StopAsyncIteration
        length, read = self._reads[0]
        with translated(self._provider, self.info.key):
            data = await read
        self._reads.popleft()
        if len(data) != length:
            raise IntegrityError(
                f"{self.info.key} at provider {self._provider} became shorter while it was read", key=self.info.key
            )
        return data

    async def aclose(self) -> None:
        """End the requests in flight."""
        for _, read in self._reads:
            read.cancel()
        await asyncio.gather(*(read for _, read in self._reads), return_exceptions=True)
        self._reads.clear()


async def write_pieces(file: asyncssh.SFTPClientFile, pieces: AsyncIterator[bytes], block: int) -> int:
    """Write all pieces from the start of the file; return how many bytes they had.

    Several blocks are under way at once. All are confirmed when this returns; the first one that fails ends it.
    """
    offset = unconfirmed = 0
    sizes: dict[asyncio.Task[int], int] = {}
    try:
        async with asyncio.TaskGroup() as group:
            async for piece in pieces:
                for part in _blocks(piece, block):
                    while sizes and unconfirmed + len(part) > _WRITE_BEHIND:
                        done, _ = await asyncio.wait(sizes, return_when=asyncio.FIRST_COMPLETED)
                        unconfirmed -= sum(sizes.pop(write) for write in done)
                    sizes[group.create_task(file.write(part, offset))] = len(part)
                    offset += len(part)
                    unconfirmed += len(part)
    except BaseExceptionGroup as failed:
        raise first_cause(failed) from None
    return offset


def _blocks(piece: bytes, block: int) -> Iterator[bytes]:
    """Yield the piece in blocks, each copied only when it is asked for."""
    for start in range(0, len(piece), block):
        yield piece[start : start + block]
