"""Objects in one request: up to which size that is the better way; and large ones, for services that take no parts,
sent as they come, their size told before."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from cdir.errors import CdirError
from cdir_adapters.providers.s3.connections import Connections
from cdir_adapters.providers.s3.faults import Faults, fault_of_answer
from cdir_adapters.providers.s3.multipart import MIN_PART
from cdir_adapters.providers.s3.wire import Condition

__all__ = ["MOST_WHOLE", "PutPace", "SourceFailed", "put_streamed"]

_STORING: Final = "storing an object"
_URL_VALID: Final = 3600
"""Seconds within which the request must reach the service."""
_INLINE_DIGEST = 256 * 1024
"""Up to this many bytes a digest takes less time than handing it to a thread is worth."""
_WRITE_SIZE = 512 * 1024
"""Bytes given to the socket at once, so that other transfers get their turn."""


MOST_WHOLE: Final = 16 * 1024 * 1024
"""Larger objects are sent in parts wherever a service takes them."""
_LONG: Final = 4.0
"""Seconds in one request from which on the round trips that parts cost are worth it."""
_TELLING: Final = 1024 * 1024
"""Bytes of a request whose time is mostly the line's."""
_NEWEST: Final = 0.3
"""Share of the newest sample in the moving average."""


class PutPace:
    """How fast objects get to the service in one request, and so how large they may be for that.

    Where it takes long, parts use two connections, are sent while the rest is still coming, and stay when it breaks
    off.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate: float | None = None

    @contextmanager
    def measured(self, size: int) -> Iterator[None]:
        """What is awaited within is a request that stores ``size`` bytes."""
        began = self._clock()
        yield
        seconds = self._clock() - began
        if size >= _TELLING and seconds > 0:
            rate = size / seconds
            self._rate = rate if self._rate is None else self._rate + _NEWEST * (rate - self._rate)

    @property
    def whole(self) -> int:
        """Bytes of the largest object that is sent in one request."""
        return MOST_WHOLE if self._rate is None else max(MIN_PART, min(MOST_WHOLE, int(_LONG * self._rate)))


class SourceFailed(Exception):
    """The source raised ``cause``; apart from what the service says, which may be an error of the same kind."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.cause = cause


class _Broken(Exception):
    """The body ends early; the connection is closed for that, so that the service stores nothing."""


class _StreamedBody(aiohttp.Payload):
    """A body that another task feeds, a piece at a time. It cannot be sent twice."""

    def __init__(self, size: int) -> None:
        super().__init__(None, content_type="application/octet-stream")
        self._size = size
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._begun = False
        self.digest = hashlib.md5(usedforsecurity=False)

    async def feed(self, pieces: AsyncIterator[bytes]) -> None:
        """Hand over ``pieces``. The last is held back until their end, since a whole body is stored at once."""
        held = b""
        try:
            async for piece in pieces:
                if held:
                    await self._hand_over(held)
                held = piece
            await self._hand_over(held)
        except BaseException:
            self.break_off()
            raise

    async def _hand_over(self, piece: bytes) -> None:
        if len(piece) <= _INLINE_DIGEST:
            self.digest.update(piece)
        else:
            await asyncio.to_thread(self.digest.update, piece)
        await self._pieces.put(piece)

    def break_off(self) -> None:
        """Let the body end early."""
        while not self._pieces.empty():
            self._pieces.get_nowait()
        self._pieces.put_nowait(None)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("an object is bytes")

    async def write(self, writer: AbstractStreamWriter) -> None:
        if self._begun:
            raise _Broken  # a kept connection turned out dead, and what was taken from the source is gone
        self._begun = True
        left = self._size or 0
        while left:
            piece = await self._pieces.get()
            if piece is None:
                raise _Broken
            left -= len(piece)
            for start in range(0, len(piece), _WRITE_SIZE):
                await writer.write(memoryview(piece)[start : start + _WRITE_SIZE])


async def put_streamed(
    connections: Connections,
    faults: Faults,
    key: str,
    pieces: AsyncIterator[bytes],
    size: int,
    metadata: Mapping[str, str],
    condition: Condition,
) -> tuple[str | None, str]:
    """Store ``size`` bytes, which is not nothing; return the ETag and the MD5 of what was sent, as hex.

    Raises SourceFailed for what ``pieces`` raises; then nothing was stored.
    """
    body = _StreamedBody(size)
    feeding = asyncio.create_task(body.feed(pieces))
    try:
        etag = await _put(connections, faults, key, body, metadata, condition)
    except CdirError:
        if feeding.done() and not feeding.cancelled() and (cause := feeding.exception()) is not None:
            raise SourceFailed(cause) from None
        raise
    finally:
        feeding.cancel()
        try:
            await asyncio.gather(feeding, return_exceptions=True)
        finally:
            body.break_off()
    return etag, body.digest.hexdigest()


async def _put(
    connections: Connections,
    faults: Faults,
    key: str,
    body: _StreamedBody,
    metadata: Mapping[str, str],
    condition: Condition,
) -> str | None:
    headers: dict[str, str] = {}
    if condition.absent:
        headers["If-None-Match"] = "*"
    elif condition.etag is not None:
        headers["If-Match"] = condition.etag
    with faults.translated(_STORING, key):
        request = await connections.signed("put_object", key, valid=_URL_VALID, headers=headers, metadata=metadata)
        http = await connections.http()
        answer = await http.put(
            request.url,
            data=body,
            headers=request.headers,
            # a Content-Type would have to be signed
            skip_auto_headers=["Content-Type"],
            allow_redirects=False,
        )
        try:
            if answer.status not in {200, 201, 204}:
                raise faults.error(await fault_of_answer(answer), _STORING, key)
            answer.release()
            return answer.headers.get("ETag")
        finally:
            # a refusal can come before the body was sent
            answer.close()
