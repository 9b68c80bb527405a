"""The bytes of a snapshot file: lines of JSON in compressed frames, and a digest of everything at the end.

A file is the magic line, then frames, each four bytes of length (big endian) and as many bytes of zlib, then a frame of
length zero and the SHA-256 of all bytes before it. Each line in a frame is one JSON object; the first is the header.
Nothing in it depends on the database it came from, and no frame is larger than a few MiB.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any

from cdir.errors import ConfigInvalid, IntegrityError

__all__ = ["FORMAT", "check_digest", "read_lines", "write_frames"]

FORMAT = 1
"""Number of this format, in the header; a file with a greater one was made by a newer release."""

_MAGIC = b"cdir catalog snapshot\n"
_FRAME_BYTES = 1 << 20
"""Bytes of JSON after which a frame is closed."""
_LARGEST_FRAME = 256 << 20
"""A frame announced to be larger is damage: one line holds a page of rows, and a row can have a few MiB at most."""
_DIGEST_BYTES = 32
_COPY_BYTES = 1 << 20
_LEVEL = 3


def write_frames(lines: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """Yield the bytes of a file with these lines, a frame at a time."""
    digest = hashlib.sha256(_MAGIC)
    yield _MAGIC
    waiting: list[bytes] = []
    size = 0
    for line in lines:
        text = json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        waiting.append(text)
        size += len(text)
        if size >= _FRAME_BYTES:
            yield _frame(waiting, digest)
            waiting, size = [], 0
    if waiting:
        yield _frame(waiting, digest)
    end = bytes(4)
    digest.update(end)
    yield end + digest.digest()


def _frame(lines: list[bytes], digest: Any) -> bytes:
    compressed = zlib.compress(b"".join(lines), _LEVEL)
    frame = len(compressed).to_bytes(4, "big") + compressed
    digest.update(frame)
    return frame


def check_digest(file: IO[bytes], name: str) -> None:
    """Raise IntegrityError unless the whole of ``file`` is as it was written; it stands at its beginning afterwards."""
    size = file.seek(0, 2)
    file.seek(0)
    digest = hashlib.sha256()
    left = size - _DIGEST_BYTES
    while left > 0:
        piece = file.read(min(left, _COPY_BYTES))
        if not piece:
            break
        digest.update(piece)
        left -= len(piece)
    if left or file.read() != digest.digest():
        raise _damaged(name)
    file.seek(0)


def read_lines(file: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file, the header first.

    Raises IntegrityError where it is damaged, ConfigInvalid when a newer release made it.
    """
    if file.read(len(_MAGIC)) != _MAGIC:
        raise _damaged(name)
    first = True
    while length := int.from_bytes(file.read(4), "big"):
        compressed = file.read(length) if length <= _LARGEST_FRAME else b""
        try:
            lines = zlib.decompress(compressed).splitlines()
            for line in lines:
                values = json.loads(line.decode("utf-8", "surrogatepass"))
                if first and values.get("format") != FORMAT:
                    raise ConfigInvalid(f"the snapshot {name} was made by a newer release of cdir; upgrade cdir")
                first = False
                yield values
        except (zlib.error, ValueError) as error:
            raise _damaged(name) from error
    if first:
        raise _damaged(name)


def _damaged(name: str) -> IntegrityError:
    return IntegrityError(f"the snapshot {name} is damaged or incomplete; use an older one")
