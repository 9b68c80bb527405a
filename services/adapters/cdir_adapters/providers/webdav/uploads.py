"""Large files in chunks: version 2 of the protocol of Nextcloud, which ownCloud speaks as well.

Chunks are put into a folder beside the files; moving its ``.file`` puts them together under the file's own name, whole
or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

from yarl import URL

from cdir.errors import CdirError, InvalidPath, NotFound
from cdir_adapters.providers.webdav.addresses import Addresses, Elsewhere
from cdir_adapters.providers.webdav.bodies import WholeContent
from cdir_adapters.providers.webdav.faults import Faults
from cdir_adapters.providers.webdav.wire import Reply, Wire
from cdir_adapters.shapes import first_cause

__all__ = ["CHUNK", "Uploads", "chunk_sizes"]

logger = logging.getLogger(__name__)

CHUNK: Final = 10 * 1024 * 1024
"""Bytes of a chunk, unless the file needs larger ones; the protocol asks for 5 MB at least, but for the last one."""
_MAX_CHUNKS: Final = 10_000
_MEBIBYTE: Final = 1024 * 1024
_CHUNKS_PER_STEP: Final = 2000
"""Where the size is not known, the size of a chunk doubles after as many."""
_NAME: Final = "cdir-"
"""How the folders of chunks are called: then follow the second in which they began and something unique."""
_PUTTING_TOGETHER: Final = 900.0
"""Seconds that the server may work on a file without a word."""
_TIDY_DEADLINE: Final = 10.0


def chunk_sizes(size: int | None) -> Iterator[int]:
    """Yield the size of each next chunk: equal ones when the file's size is known, else growing ones."""
    if size is not None:
        mebibytes = -(-size // (_MAX_CHUNKS * _MEBIBYTE))
        yield from itertools.repeat(max(CHUNK, mebibytes * _MEBIBYTE))
    for number in range(_MAX_CHUNKS):
        yield CHUNK << (number // _CHUNKS_PER_STEP)
    raise InvalidPath(f"a file of unknown size has more than {_MAX_CHUNKS} chunks; give its size")


async def _chunks_of(pieces: AsyncIterator[bytes], sizes: Iterator[int]) -> AsyncIterator[list[memoryview]]:
    """Group pieces into chunks of the given sizes without copying them; the last one is shorter, none is empty."""
    chunk: list[memoryview] = []
    missing = next(sizes)
    async for piece in pieces:
        rest = memoryview(piece)
        while len(rest) >= missing:
            chunk.append(rest[:missing])
            rest = rest[missing:]
            yield chunk
            chunk = []
            missing = next(sizes)
        if rest:
            chunk.append(rest)
            missing -= len(rest)
    if chunk:
        yield chunk


class Uploads:
    """The unfinished large files of one account."""

    def __init__(self, wire: Wire, addresses: Addresses, faults: Faults) -> None:
        self._wire = wire
        self._addresses = addresses
        self._faults = faults

    async def store(
        self, url: URL, key: str, pieces: AsyncIterator[bytes], size: int | None, headers: Mapping[str, str]
    ) -> tuple[int, str, Reply]:
        """Store a file; return its length, its SHA-1 and the server's answer, which may be 404, 409 or 412."""
        name = f"{_NAME}{int(time.time()):x}-{uuid.uuid4().hex}"
        target = {"Destination": str(url)}
        total = {} if size is None else {"OC-Total-Length": str(size)}
        await self._wire.call(
            "MKCOL", self._addresses.upload(name, ""), "starting an upload", key, headers=target, accept={201}
        )
        try:
            length = number = 0
            digest = hashlib.sha1(usedforsecurity=False)
            async for chunk in _chunks_of(pieces, chunk_sizes(size)):
                number += 1
                content = WholeContent(chunk)
                async with asyncio.TaskGroup() as group:
                    group.create_task(asyncio.to_thread(_update, digest, chunk))
                    group.create_task(self._put(name, number, content, key, {**target, **total}))
                length += content.sent
            # where the size was not known before, it is now
            finishing = {"OC-Total-Length": str(length), "OC-Checksum": f"SHA1:{digest.hexdigest()}"}
            reply = await self._wire.call(
                "MOVE",
                self._addresses.upload(name, ".file"),
                "putting a file together",
                key,
                headers={**headers, **target, **finishing},
                accept={201, 204, 404, 409, 412},
                patience=_PUTTING_TOGETHER,
            )
        except BaseException as error:
            await self._drop(name, key)
            if isinstance(error, BaseExceptionGroup):
                raise first_cause(error) from None
            raise
        if reply.status not in {201, 204}:
            await self._drop(name, key)
        return length, digest.hexdigest(), reply

    async def _put(self, name: str, number: int, content: WholeContent, key: str, headers: Mapping[str, str]) -> None:
        await self._wire.call(
            "PUT",
            self._addresses.upload(name, f"{number:05}"),
            "sending a chunk",
            key,
            headers=headers,
            body=content,
            accept={200, 201, 204},
        )

    async def _drop(self, name: str, key: str) -> None:
        """Remove an unfinished upload, for a limited time; what remains is left to :meth:`sweep`."""
        try:
            async with asyncio.timeout(_TIDY_DEADLINE):
                await self._remove(name, key)
        except (CdirError, TimeoutError) as error:
            logger.info("provider %s: an upload remains until the next sweep: %s", self._faults.provider, error)

    async def _remove(self, name: str, key: str = "") -> bool:
        reply = await self._wire.call(
            "DELETE", self._addresses.upload(name, ""), "removing an upload", key, accept={200, 204, 404}
        )
        return reply.status != 404

    async def sweep(self, limit: float) -> int:
        """Remove the uploads that cdir began before ``limit``; return how many."""
        found = []
        doing = "listing unfinished uploads"
        with contextlib.suppress(NotFound):
            async with self._wire.responses(
                "PROPFIND", self._addresses.upload(""), doing, "", headers={"Depth": "1"}, body=b""
            ) as responses:
                async for response in responses:
                    try:
                        name = self._addresses.upload_child(response.href)
                    except Elsewhere:
                        continue
                    if name and began_before(name, _NAME, limit):
                        found.append(name)
        return sum([await self._remove(name) for name in found])


def began_before(name: str, start: str, limit: float) -> bool:
    """Tell whether the name of something unfinished says that it began before ``limit``."""
    if not name.startswith(start):
        return False
    try:
        return int(name[len(start) :].partition("-")[0], 16) < limit
    except ValueError:
        return False


def _update(digest: hashlib._Hash, chunk: list[memoryview]) -> None:
    for piece in chunk:
        digest.update(piece)
