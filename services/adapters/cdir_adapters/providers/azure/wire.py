"""Bytes to and from the service, by requests with a signature in their URL.

Raises only errors of cdir.
"""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from cdir.errors import IntegrityError
from cdir_adapters.adapter import ByteRange
from cdir_adapters.providers.azure.connections import Connections
from cdir_adapters.providers.azure.faults import Fault, Faults
from cdir_adapters.providers.azure.properties import is_folder
from cdir_adapters.providers.azure.settings import AzureSettings
from cdir_adapters.shapes import PIECE_SIZE

__all__ = ["Condition", "Opened", "Part", "Stored", "Wire"]

_READING: Final = "reading an object"
_METADATA: Final = "x-ms-meta-"
_WRITE_SIZE: Final = 512 * 1024
"""Bytes given to the socket at once, so that other transfers get their turn."""

Part = Sequence[bytes | memoryview]


@dataclasses.dataclass(frozen=True, slots=True)
class Condition:
    """What must hold for a write; nothing by default."""

    absent: bool = False
    etag: str | None = None

    def headers(self) -> dict[str, str]:
        """The condition as requests carry it."""
        if self.absent:
            return {"If-None-Match": "*"}
        return {} if self.etag is None else {"If-Match": self.etag}


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """What the service answered to a put."""

    etag: str | None
    md5: str | None
    """Base64, as received."""


@dataclasses.dataclass(slots=True)
class Opened:
    """An answer whose body has not been read yet."""

    size: int
    """Of the whole object."""
    etag: str | None
    modified: datetime
    metadata: Mapping[str, str]
    """As received."""
    md5: str | None
    """Of the whole object, base64, as received."""
    length: int
    """Bytes that ``pieces`` must yield."""
    pieces: AsyncIterator[bytes]


class _Body(aiohttp.Payload):
    """Pieces as the body of a request, uncopied.

    aiohttp sends a request again when the connection, kept from an earlier one, breaks before an answer. With ``once``
    it does not: the first one may have been carried out, and then the condition of the second one fails by our own
    doing.
    """

    def __init__(self, part: Part, *, once: bool) -> None:
        super().__init__(part, content_type="application/octet-stream")
        self._part = part
        self._size = sum(map(len, part))
        self._once = once
        self._begun = False
        self.sent = False
        """Whether all of it was handed to the connection."""

    @property
    def consumed(self) -> bool:
        return self._once and self._begun

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("the body is bytes")

    async def write(self, writer: AbstractStreamWriter) -> None:
        if self.consumed:
            raise ConnectionResetError("the connection broke, and the request must not be sent again")
        self._begun = True
        if not self._size:
            # sends the head: where that fails once this has returned, aiohttp tells nobody
            await writer.write(b"")
        for piece in self._part:
            view = memoryview(piece)
            for start in range(0, len(view), _WRITE_SIZE):
                await writer.write(view[start : start + _WRITE_SIZE])
        self.sent = True


class Wire:
    """The requests that carry bytes."""

    def __init__(self, settings: AzureSettings, connections: Connections, faults: Faults) -> None:
        self._settings = settings
        self._connections = connections
        self._faults = faults

    async def _url(self, key: str, query: Mapping[str, str] | None = None) -> URL:
        return await self._connections.url(self._settings.name_of(key), query)

    async def put(self, key: str, data: bytes, md5: bytes, metadata: Mapping[str, str], condition: Condition) -> Stored:
        """Store an object in one request. The service refuses it when the bytes have another MD5 on arrival.

        Raises AlreadyExists or PreconditionFailed when ``condition`` does not hold.
        """
        headers = {f"{_METADATA}{name}": value for name, value in metadata.items()}
        headers["x-ms-blob-type"] = "BlockBlob"
        headers["x-ms-blob-content-md5"] = base64.b64encode(md5).decode()
        answered = await self._put(key, (data,), headers, "storing an object", md5=md5, condition=condition)
        return Stored(answered.get("ETag"), answered.get("Content-MD5"))

    async def put_block(self, key: str, block_id: str, part: Part, md5: bytes) -> None:
        """Send one block of an object that is not committed yet; refused on arrival when its MD5 is another."""
        query = {"comp": "block", "blockid": block_id}
        answered = await self._put(key, part, {}, "sending a block", query=query, md5=md5)
        stated = answered.get("Content-MD5")
        if stated is not None and stated != base64.b64encode(md5).decode():
            raise _changed(key)

    async def copy_block(self, source: str, target: str, block_id: str, range: ByteRange, etag: str | None) -> None:
        """Let the service take one block from another blob, which must still have that ETag."""
        assert range.length is not None
        headers = {
            "x-ms-copy-source": str(await self._url(source)),
            "x-ms-source-range": f"bytes={range.offset}-{range.offset + range.length - 1}",
        }
        if etag is not None:
            headers["x-ms-source-if-match"] = etag
        await self._put(target, (), headers, "copying a block", query={"comp": "block", "blockid": block_id})

    async def commit(
        self,
        key: str,
        block_ids: Iterable[str],
        headers: Mapping[str, str],
        metadata: Mapping[str, str],
        condition: Condition,
    ) -> str | None:
        """Make an object of its blocks; return its ETag. ``headers`` are its MD5 and the like.

        Raises AlreadyExists or PreconditionFailed when ``condition`` does not hold.
        """
        listed = "".join(f"<Latest>{block_id}</Latest>" for block_id in block_ids)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()
        sent = {**headers, **{f"{_METADATA}{name}": value for name, value in metadata.items()}}
        doing, query = "committing an object", {"comp": "blocklist"}
        answered = await self._put(key, (body,), sent, doing, query=query, condition=condition)
        return answered.get("ETag")

    async def _put(
        self,
        key: str,
        part: Part,
        headers: Mapping[str, str],
        doing: str,
        *,
        query: Mapping[str, str] | None = None,
        md5: bytes | None = None,
        condition: Condition | None = None,
    ) -> Mapping[str, str]:
        conditions = condition.headers() if condition else {}
        sent = {"x-ms-version": await self._connections.version(), **headers, **conditions}
        if md5 is not None:
            sent["Content-MD5"] = base64.b64encode(md5).decode()
        with self._faults.translated(doing, key):
            http = await self._connections.http()
            url, body = await self._url(key, query), _Body(part, once=bool(conditions))
            async with http.put(url, data=body, headers=sent, allow_redirects=False) as answer:
                if answer.status == 201:
                    return answer.headers
                connection = answer.connection
                transport = None if connection is None else connection.transport
                fault = await self._fault(answer)
                if transport is not None and not body.sent:
                    transport.abort()  # closed in the regular way, it would wait until the service takes the rest
                if md5 is not None and fault.code == "InvalidOperation":
                    raise _changed(key)  # how the emulator says Md5Mismatch of a block
                raise self._faults.error(fault, doing, key)

    @asynccontextmanager
    async def open(self, key: str, range: ByteRange, if_match: str | None) -> AsyncIterator[Opened]:
        """Ask for a range that is not empty. Raises RangeNotSatisfied, also for offset 0 of an empty object."""
        headers = {"x-ms-version": await self._connections.version(), "Accept-Encoding": "identity"}
        if if_match is not None:
            headers["If-Match"] = if_match
        whole = range.offset == 0 and range.length is None
        if not whole:
            end = "" if range.length is None else range.offset + range.length - 1
            headers["Range"] = f"bytes={range.offset}-{end}"
        with self._faults.translated(_READING, key):
            http = await self._connections.http()
            answer = await http.get(await self._url(key), headers=headers, allow_redirects=False)
        try:
            with self._faults.translated(_READING, key):
                if answer.status != (200 if whole else 206):
                    raise self._faults.error(await self._fault(answer), _READING, key)
                opened = self._opened(answer, range, key)
            opened.pieces = self._pieces(answer.content, key, opened.length)
            yield opened
        finally:
            # a body that was not read to its end takes the connection with it
            answer.release()

    def _opened(self, answer: aiohttp.ClientResponse, range: ByteRange, key: str) -> Opened:
        headers = answer.headers
        length = answer.content_length
        if length is None or "Last-Modified" not in headers:
            raise self._faults.error(Fault(answer.status, "NoLengthOrTime"), _READING, key)
        size, md5 = length, headers.get("Content-MD5")
        if answer.status == 206:
            if length == 0:
                # the emulator gives nothing of a range past the end, as every one of an empty object is
                raise self._faults.error(Fault(416), _READING, key)
            given = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", headers.get("Content-Range", ""))
            if given is None:
                raise self._faults.error(Fault(206, "NoContentRange"), _READING, key)
            start, end, size = map(int, given.groups())
            wanted = size - start if range.length is None else min(range.length, size - start)
            if (start, end - start + 1, length) != (range.offset, wanted, wanted):
                raise self._faults.error(Fault(206, "OtherRange"), _READING, key)
            md5 = headers.get("x-ms-blob-content-md5")
        metadata = {
            name[len(_METADATA) :]: value for name, value in headers.items() if name.lower().startswith(_METADATA)
        }
        if is_folder(metadata):
            raise self._faults.error(Fault(404, "BlobNotFound"), _READING, key)
        return Opened(
            size=size,
            etag=headers.get("ETag"),
            modified=_time(headers["Last-Modified"], self._faults, key),
            metadata=metadata,
            md5=md5,
            length=length,
            pieces=_nothing(),
        )

    async def _pieces(self, body: aiohttp.StreamReader, key: str, length: int) -> AsyncIterator[bytes]:
        left = length
        while left:
            with self._faults.translated(_READING, key):
                piece = await body.readany()
            if not piece:
                return
            left -= len(piece)
            for start in range(0, len(piece), PIECE_SIZE):
                yield piece if len(piece) <= PIECE_SIZE else piece[start : start + PIECE_SIZE]

    async def _fault(self, answer: aiohttp.ClientResponse) -> Fault:
        body = b"" if 300 <= answer.status < 400 else await answer.read()
        return Fault.of_answer(answer.status, answer.headers, body.decode(errors="replace"))


def _changed(key: str) -> IntegrityError:
    return IntegrityError(f"{key}: a block arrived with other bytes than were sent; try again", key=key)


def _time(text: str, faults: Faults, key: str) -> datetime:
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        raise faults.error(Fault(200, "NoTime"), _READING, key) from None


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield
