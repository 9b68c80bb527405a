"""Digests of a content: what proves, when it is read, that it is what was committed.

Every content has a SHA-256 of the whole. One of more than :data:`BLOCK_SIZE` also has a BLAKE3-256 per block of that
size, so that each block can be verified by itself, whichever replica it came from, before it is handed on.
"""

from __future__ import annotations

import hashlib
from typing import Final

from blake3 import blake3

from cdir.errors import IntegrityError
from cdir.v1 import entry_pb2
from cdir_runtime.inline_hash import hash_inline

__all__ = ["BLOCK_SIZE", "INLINE_BYTES", "ContentDigest", "block_count", "block_range", "check_block", "check_whole"]

BLOCK_SIZE: Final = 4 << 20
"""Bytes of a block; a content of at most this size has no block digests."""

INLINE_BYTES: Final = 64 << 10
"""Pieces of at least this size are worth a thread when they are hashed: inline they would hold up the event loop."""

_DIGEST_BYTES: Final = 32


class ContentDigest:
    """Size, SHA-256 and block digests of a content, taken in one pass over pieces of any size.

    Not safe for concurrent use. :meth:`update` releases the interpreter lock while it hashes, so a caller does pieces
    from :data:`INLINE_BYTES` up in a thread.
    """

    __slots__ = ("_block", "_block_room", "_digests", "_whole", "size")

    def __init__(self) -> None:
        self.size = 0
        """Bytes seen so far."""
        self._whole = hashlib.sha256()
        self._block = blake3()
        self._block_room = BLOCK_SIZE
        self._digests = bytearray()

    def update(self, piece: bytes | memoryview) -> None:
        """Append ``piece``."""
        self._whole.update(piece)
        self.size += len(piece)
        rest = memoryview(piece)
        while rest:
            if not self._block_room:
                self._digests += self._block.digest()
                self._block = blake3()
                self._block_room = BLOCK_SIZE
            part = rest[: self._block_room]
            self._block.update(part)
            self._block_room -= len(part)
            rest = rest[len(part) :]

    def sha256(self) -> bytes:
        """The digest of everything seen so far, 32 bytes."""
        return self._whole.digest()

    def block_digests(self) -> bytes:
        """The digests of the blocks, 32 bytes each; empty for at most one block."""
        if self.size <= BLOCK_SIZE:
            return b""
        return bytes(self._digests) + self._block.digest()


def block_count(size: int) -> int:
    """How many blocks a content of ``size`` bytes has."""
    return -(-size // BLOCK_SIZE)


def block_range(size: int, index: int) -> tuple[int, int]:
    """Offset and length in bytes of a block."""
    offset = index * BLOCK_SIZE
    return offset, min(BLOCK_SIZE, size - offset)


def check_whole(version: entry_pb2.Version, data: bytes) -> None:
    """Raise IntegrityError unless ``data`` is the whole content of ``version``."""
    if len(data) != version.size:
        raise IntegrityError(f"{len(data)} bytes instead of {version.size}")
    small = len(data) < INLINE_BYTES
    digest = hash_inline(hashlib.sha256, data) if small else hashlib.sha256(data)
    if digest.digest() != version.sha256:
        raise IntegrityError("the SHA-256 differs from the recorded one")


def check_block(version: entry_pb2.Version, index: int, data: bytes) -> None:
    """Raise IntegrityError unless ``data`` is block ``index`` of ``version``."""
    _, length = block_range(version.size, index)
    if len(data) != length:
        raise IntegrityError(f"{len(data)} bytes instead of {length} in block {index}")
    recorded = version.block_digests[index * _DIGEST_BYTES : (index + 1) * _DIGEST_BYTES]
    if blake3(data).digest() != recorded:
        raise IntegrityError(f"the BLAKE3 of block {index} differs from the recorded one")
