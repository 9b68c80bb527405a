"""Answers to GET: which part of a file they hold, and their bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Final

import aiohttp

from cdir.errors import IntegrityError
from cdir_adapters.adapter import ByteRange, ObjectInfo, ReadStream
from cdir_adapters.providers.webdav.faults import Faults
from cdir_adapters.providers.webdav.multistatus import number_in

__all__ = ["Body", "Part", "range_header"]

READING: Final = "reading a file"
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-[0-9]{1,19}/([0-9]{1,19}|\*)")


def range_header(range: ByteRange) -> dict[str, str]:
    """Headers that ask for a range that is not empty."""
    if range.offset == 0 and range.length is None:
        return {}
    end = "" if range.length is None else range.offset + range.length - 1
    return {"Range": f"bytes={range.offset}-{end}"}


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Which bytes of the answer's body are wanted."""

    size: int | None
    """Of the whole file; ``None`` when the answer does not say."""
    skip: int
    """Bytes of the body before the range: all that lie before it, when the server sends the whole file."""

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], range: ByteRange) -> Part | None:
        """Read the head of an answer; ``None`` when it is no answer to what was asked."""
        if status == 206:
            found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
            if found is None or int(found[1]) != range.offset:
                return None
            return cls(number_in(found[2]), 0)
        return cls(number_in(headers.get("Content-Length")), range.offset)


class Body(ReadStream):
    """The wanted bytes of an answer; fewer than there must be are an error, and what follows them is not read."""

    def __init__(
        self, info: ObjectInfo, answer: aiohttp.ClientResponse, faults: Faults, skip: int, length: int
    ) -> None:
        self.info = info
        self._pieces = _pieces(info.key, answer.content, faults, skip, length)

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)


async def _pieces(
    key: str, content: aiohttp.StreamReader, faults: Faults, skip: int, left: int
) -> AsyncGenerator[bytes, None]:
    while left:
        with faults.translated(READING, key):
            piece = await content.readany()
        if not piece:
            raise IntegrityError(f"{key}: the server ended the body {left} bytes early", key=key)
        wanted = piece[skip : skip + left] if skip or len(piece) > left else piece
        skip = max(0, skip - len(piece))
        left -= len(wanted)
        if wanted:
            yield wanted
    if not content.at_eof():
        # the connection can serve again once the end is seen; one with more to say is closed
        with contextlib.suppress(aiohttp.ClientError, OSError):
            await content.readany()
