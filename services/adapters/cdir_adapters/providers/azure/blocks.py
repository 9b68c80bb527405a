"""Large objects: sent in blocks, several at once, that become one object when they are committed.

Nothing of it shows before. Blocks that are never committed cannot be taken back; the service forgets them after a week.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

from cdir.errors import InvalidPath
from cdir_adapters.adapter import ByteRange
from cdir_adapters.parts import Sending
from cdir_adapters.providers.azure.wire import Part, Wire

__all__ = ["LARGEST_OBJECT", "MAX_BLOCKS", "MIN_BLOCK", "Blocks", "block_sizes"]

MAX_BLOCKS = 50_000
MIN_BLOCK = 8 * 1024 * 1024
"""Bytes of a block, unless the object needs larger ones."""
_MEBIBYTE = 1024 * 1024
_LARGEST_BLOCK = 100 * _MEBIBYTE
"""The service takes blocks of 4000 MiB, but a block being sent is held in memory."""
LARGEST_OBJECT = MAX_BLOCKS * _LARGEST_BLOCK
_BLOCKS_PER_STEP = 10_000
"""Where the size is not known, the size of a block doubles after as many."""


def block_sizes(size: int | None) -> Iterator[int]:
    """Yield the size of each next block: equal ones when the object's size is known, else growing ones."""
    if size is not None:
        mebibytes = -(-size // (MAX_BLOCKS * _MEBIBYTE))
        yield from itertools.repeat(max(MIN_BLOCK, mebibytes * _MEBIBYTE))
    for number in range(MAX_BLOCKS):
        yield MIN_BLOCK << (number // _BLOCKS_PER_STEP)
    raise InvalidPath(f"an object of unknown size has more than {MAX_BLOCKS} blocks; give its size")


async def _grouped(pieces: AsyncIterator[bytes], sizes: Iterator[int]) -> AsyncIterator[list[memoryview]]:
    """Group pieces into blocks of the given sizes, uncopied; none is empty."""
    block: list[memoryview] = []
    wanted = next(sizes)
    length = 0
    async for piece in pieces:
        rest = memoryview(piece)
        while rest:
            taken, rest = rest[: wanted - length], rest[wanted - length :]
            block.append(taken)
            length += len(taken)
            if length == wanted:
                yield block
                block, length, wanted = [], 0, next(sizes)
    if block:
        yield block


class Blocks:
    """The blocks of one object on their way. ``ids`` in order are what is to be committed."""

    def __init__(self, wire: Wire, key: str) -> None:
        self._wire = wire
        self._key = key
        # ids of one object must be of one length, and never those of another upload to the same name
        self._upload = uuid.uuid4().hex
        self.ids: list[str] = []
        self.length = 0
        self._md5 = hashlib.md5(usedforsecurity=False)

    @property
    def md5(self) -> bytes:
        """MD5 of everything that was sent."""
        return self._md5.digest()

    async def send(self, pieces: AsyncIterator[bytes], size: int | None) -> None:
        """Send all blocks, a few at once, each compared by its MD5 on arrival."""
        blocks = _grouped(pieces, block_sizes(size))
        async with Sending() as sending, aclosing(sending.paced(blocks)) as paced:
            async for block in paced:
                digest = await asyncio.to_thread(self._take, block)
                length = sum(map(len, block))
                self.length += length
                sending.start(self._wire.put_block(self._key, self._next_id(), block, digest), length)
                del block

    async def copy_from(self, source: str, size: int, block_size: int, etag: str | None) -> None:
        """Let the service take all bytes of another object, which must still have that ETag."""
        for start in range(0, size, block_size):
            part = ByteRange(start, min(block_size, size - start))
            await self._wire.copy_block(source, self._key, self._next_id(), part, etag)
        self.length = size

    def _next_id(self) -> str:
        name = f"{self._upload}-{len(self.ids):05}"
        self.ids.append(base64.b64encode(name.encode()).decode())
        return self.ids[-1]

    def _take(self, block: Part) -> bytes:
        """Add a block to the digest of the whole, and return its own."""
        digest = hashlib.md5(usedforsecurity=False)
        for piece in block:
            digest.update(piece)
            self._md5.update(piece)
        return digest.digest()
