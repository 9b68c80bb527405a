"""Large objects: sent in chunks to a session of the service, which makes the object of them with the last one.

Nothing of it shows before, and the condition of the write is looked at again in that moment. A chunk whose fate is
unknown is not sent again blindly: the service is asked how much it has, and gets the rest. A source cannot be read a
second time, so this is no matter of the layer that retries.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import urlsplit

from cdir.errors import CdirError, ProviderUnavailable, RateLimited
from cdir_adapters.parts import Sending
from cdir_adapters.providers.gcs.digests import Digests
from cdir_adapters.providers.gcs.faults import Faults
from cdir_adapters.providers.gcs.settings import GcsSettings
from cdir_adapters.providers.gcs.wire import Request, Wire

__all__ = ["CHUNK_SIZE", "Chunk", "Upload", "chunks_of"]

logger = logging.getLogger(__name__)

CHUNK_SIZE = 8 * 1024 * 1024
"""Bytes of a chunk, a multiple of 256 KiB as the service wants it; the last one of an object is shorter."""

_SENDING: Final = "sending a chunk"
_MOST_FAILURES: Final = 6
"""Failures in a row, without a byte arriving in between, after which an upload is given up."""
_FIRST_PAUSE = 0.5
"""Seconds before the second question how much has arrived; doubled each time. The first one is asked at once."""
_LONGEST_PAUSE: Final = 30.0
_DISCARD_DEADLINE: Final = 15.0

Chunk = list[memoryview]


class _Lost(ProviderUnavailable):
    """The session is of no use any more; another one may be."""


async def chunks_of(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[tuple[Chunk, bool], None]:
    """Group pieces into chunks of :data:`CHUNK_SIZE` without copying them, each with whether it is the last one.

    None is empty, but for the only one of nothing. A chunk comes when the first byte behind it has.
    """
    chunk: Chunk = []
    missing = CHUNK_SIZE
    async with aclosing(pieces):
        async for piece in pieces:
            rest = memoryview(piece)
            while rest:
                if not missing:
                    yield chunk, False
                    chunk, missing = [], CHUNK_SIZE
                chunk.append(rest[:missing])
                rest = rest[missing:]
                missing -= len(chunk[-1])
    yield chunk, True


class Upload:
    """One upload session."""

    def __init__(self, settings: GcsSettings, wire: Wire, faults: Faults, key: str) -> None:
        self._settings = settings
        self._wire = wire
        self._faults = faults
        self._key = key
        self._session: str | None = None
        """Path and query of the session, once there is one; the service forgets it a week after it was made."""
        self._offset = 0
        """Bytes that the service has."""
        self._resource: dict[str, Any] | None = None
        self.digests = Digests()
        self.size = 0
        """Bytes of what was taken from the source."""

    async def begin(self, described: Mapping[str, Any], condition: Mapping[str, str]) -> None:
        """Open the session. ``condition`` must hold now, and again when the object is made."""
        body = json.dumps(described).encode()
        request = Request(
            "POST",
            f"/upload/storage/v1/b/{self._settings.bucket}/o",
            "beginning an upload",
            self._key,
            {"uploadType": "resumable", **condition},
            {"Content-Type": "application/json; charset=UTF-8", "X-Upload-Content-Type": "application/octet-stream"},
            [body],
        )
        told = (await self._wire.done(request)).get("Location", "")
        try:
            session, ours = urlsplit(told), urlsplit(self._settings.endpoint)
            same = (session.scheme, session.hostname, session.port) == (ours.scheme, ours.hostname, ours.port)
        except ValueError:
            same = False
        if not same or not session.path.startswith(ours.path) or not session.query:
            # a session is as good as a credential, and so is the token that goes along
            raise self._faults.broken("the service opens the upload somewhere else; check endpoint", request.doing)
        self._session = f"{session.path[len(ours.path) :]}?{session.query}"

    async def fill(self, chunks: AsyncGenerator[tuple[Chunk, bool], None]) -> dict[str, Any]:
        """Send everything, the last chunk when the source has ended as it should; return the object's description."""
        async with aclosing(chunks), Sending() as sending, aclosing(sending.paced(chunks)) as paced:
            async for chunk, last in paced:
                await self.digests.take(chunk)
                # the service takes one after the other
                await sending.all_sent()
                size = sum(map(len, chunk))
                self.size += size
                sending.start(self._send(chunk, self.size, last=last), size)
                del chunk
        if self._resource is None:
            raise self._faults.broken("the service took everything and made no object of it", _SENDING)
        return self._resource

    async def _send(self, chunk: Chunk, end: int, *, last: bool) -> None:
        """Send a chunk that ends at ``end`` until the service has all of it."""
        start = end - sum(map(len, chunk))
        failures = 0
        while self._resource is None and (self._offset < end or last):
            before = self._offset
            failure: CdirError | None = None
            try:
                if failures:
                    await self._exchange([], start, end, last=last)
                if self._resource is None and (self._offset < end or last):
                    await self._exchange(_behind(chunk, self._offset - start), start, end, last=last)
            except _Lost:
                raise
            except (ProviderUnavailable, RateLimited) as error:
                failure = error
            if self._offset > before:
                failures = 0 if failure is None else 1
            else:
                failures += 1
            if self._resource is not None or not failures:
                continue
            if failures > _MOST_FAILURES:
                raise failure or self._faults.broken(f"the service takes no more of {self._key}", _SENDING)
            pause = _FIRST_PAUSE * 2 ** (failures - 2) if failures > 1 else 0.0
            asked = failure.retry_after if failure is not None else None
            await asyncio.sleep(min(max(pause, asked or 0.0), _LONGEST_PAUSE))

    async def _exchange(self, rest: Chunk, start: int, end: int, *, last: bool) -> None:
        """Send the rest of a chunk; without one, ask how much has arrived. Take note of what is answered.

        Raises _Lost when the service has less than can be sent again: what lies before ``start`` is gone here.
        """
        assert self._session is not None
        size = sum(map(len, rest))
        span = f"{end - size}-{end - 1}" if size else "*"
        headers = {"Content-Range": f"bytes {span}/{end if last else '*'}"}
        if last:
            # the service makes no object of other bytes
            headers["X-Goog-Hash"] = self.digests.header()
        good = frozenset({200, 201, 308, 404, 410})
        request = Request("PUT", self._session, _SENDING, self._key, headers=headers, data=rest, good=good)
        async with self._wire.asking(request) as answer:
            if answer.status in {404, 410}:
                raise self._lost(f"the upload of {self._key} is gone")
            if answer.status != 308:
                self._resource = await self._wire.json_of(answer, request)
                return
            told = answer.headers.get("Range")
            with self._faults.translated(_SENDING, self._key):
                # nothing, taken so that the connection can be used again
                await answer.content.read(1024)
        found = re.fullmatch(r"(?:bytes=)?0-(\d{1,18})", told) if told is not None else None
        if told is not None and (found is None or int(found[1]) >= end):
            raise self._lost(f"the service says that it has what was not sent of {self._key}")
        self._offset = int(found[1]) + 1 if found is not None else 0
        if self._offset < start:
            raise self._lost(f"the service lost a part of {self._key} that it had")

    def _lost(self, what: str) -> _Lost:
        provider = self._faults.provider
        return _Lost(f"provider {provider}: {what}; try again (while {_SENDING})", provider=provider)

    async def discard(self) -> None:
        """Give the session back, for a limited time; the service forgets it anyway."""
        if self._session is None or self._resource is not None:
            return
        request = Request(
            "DELETE", self._session, "giving up an upload", self._key, good=frozenset({200, 204, 404, 410, 499})
        )
        try:
            async with asyncio.timeout(_DISCARD_DEADLINE):
                await self._wire.done(request)
        except (CdirError, TimeoutError) as error:
            logger.warning("%s: an unfinished upload may remain for a week: %s", self._key, error)


def _behind(chunk: Chunk, skipped: int) -> Chunk:
    """Return what follows the first ``skipped`` bytes of a chunk."""
    rest: Chunk = []
    for piece in chunk:
        if skipped < len(piece):
            rest.append(piece[skipped:])
        skipped = max(0, skipped - len(piece))
    return rest
