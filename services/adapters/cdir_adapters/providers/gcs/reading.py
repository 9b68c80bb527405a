"""Reading a range of one generation of an object as its bytes come in."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp

from cdir.errors import IntegrityError
from cdir_adapters.adapter import ObjectInfo, ReadStream
from cdir_adapters.providers.gcs.faults import Faults
from cdir_adapters.providers.gcs.resources import encoding_of, generation_of
from cdir_adapters.providers.gcs.wire import Request, Wire

__all__ = ["READING", "open_range"]

READING: Final = "reading an object"


@asynccontextmanager
async def open_range(
    wire: Wire, faults: Faults, path: str, info: ObjectInfo, resource: Mapping[str, Any], offset: int, length: int
) -> AsyncIterator[ReadStream]:
    """Ask for ``length`` bytes, more than none, of the generation that ``resource`` describes.

    Raises NotFound when that generation is gone, and ProviderUnavailable when the answer is not the one asked for.
    """
    generation = generation_of(resource)
    whole = (offset, length) == (0, info.size)
    # what is stored compressed would else be unpacked on the way, with another size than is known, and no ranges
    headers = {"Accept-Encoding": "gzip"}
    if not whole:
        headers["Range"] = f"bytes={offset}-{offset + length - 1}"
    request = Request(
        "GET",
        path,
        READING,
        info.key,
        {"alt": "media", "generation": generation},
        headers,
        good=frozenset({200 if whole else 206}),
    )
    async with wire.asking(request) as answer:
        if answer.headers.get("x-goog-generation", generation) != generation:
            raise faults.broken(f"the service answers with another generation of {info.key}", READING)
        # an encoding that is no more than an empty word is none
        if answer.headers.get("Content-Encoding", "").replace("identity", "") != encoding_of(resource):
            raise faults.broken(f"the service answers with another encoding of {info.key} than is stored", READING)
        if not whole:
            stated = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", answer.headers.get("Content-Range", ""))
            if stated is None or tuple(map(int, stated.groups())) != (offset, offset + length - 1, info.size):
                raise faults.broken(f"the service answers with another range of {info.key}", READING)
        if answer.content_length not in {None, length}:
            raise faults.broken(f"the service answers with another number of bytes of {info.key}", READING)
        yield _Body(info, answer, faults, length)


class _Body(ReadStream):
    """The body of an answer; another length than was asked for is an error."""

    def __init__(self, info: ObjectInfo, answer: aiohttp.ClientResponse, faults: Faults, length: int) -> None:
        self.info = info
        self._body = answer.content
        self._faults = faults
        self._left = length

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        with self._faults.translated(READING, self.info.key):
            piece = await self._body.readany()
        if not piece or len(piece) > self._left:
            key, than = self.info.key, "later" if piece else f"{self._left} bytes earlier"
            raise IntegrityError(f"{key}: the service ended the body {than} than announced", key=key)
        self._left -= len(piece)
        return piece
