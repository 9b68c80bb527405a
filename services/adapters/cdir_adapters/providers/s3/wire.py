"""Small puts and reads, the calls that happen most, over either client library.

Both classes speak of full keys (the provider's prefix included) and raise only errors of cdir.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any, Final

import obstore

from cdir.errors import IntegrityError
from cdir_adapters.adapter import FULL, ByteRange, ObjectInfo, ReadStream
from cdir_adapters.providers.s3.connections import Connections
from cdir_adapters.providers.s3.faults import Fault, Faults, RangeAnsweredWhole
from cdir_adapters.providers.s3.headers import parse_time
from cdir_adapters.providers.s3.signing import METADATA, SignedRequest
from cdir_adapters.providers.s3.threads import Answer, LargeBody
from cdir_adapters.shapes import PIECE_SIZE

__all__ = ["Body", "BotoWire", "Condition", "ObstoreWire", "Opened", "Wire", "cut_short"]

_READING: Final = "reading an object"
_URL_VALID: Final = 3600
"""Seconds within which a signed request must reach the service."""
_URL_REUSED: Final = 60.0
"""Seconds for which a signed request is sent again: signing one takes as long as reading a megabyte nearby."""
_URLS_KEPT: Final = 64
_LARGE: Final = 256 * 1024
"""Longer ranges are read by threads, which hand on a body with fewer copies than obstore does."""
_LARGE_PIECE: Final = 4 * 1024 * 1024
"""Bytes that such a thread reads at a time."""

_ATTRIBUTES = {
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "storage-class",
}
"""Headers that obstore shows among the user metadata."""


@dataclasses.dataclass(frozen=True, slots=True)
class Condition:
    """What must hold for a write; nothing by default."""

    absent: bool = False
    etag: str | None = None

    def __bool__(self) -> bool:
        return self.absent or self.etag is not None


@dataclasses.dataclass(slots=True)
class Opened:
    """An answer whose body has not been read yet."""

    size: int
    """Of the whole object."""
    etag: str | None
    modified: datetime | None
    metadata: Mapping[str, str]
    """As received."""
    length: int
    """Bytes that ``pieces`` must yield."""
    pieces: AsyncIterator[bytes]


class Body(ReadStream):
    """The body of an answer; short of what was announced is an error."""

    def __init__(self, info: ObjectInfo, opened: Opened) -> None:
        self.info = info
        self._pieces = opened.pieces
        self._left = opened.length

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            if self._left:
                raise cut_short(self.info.key, self._left) from None
            raise
        self._left -= len(piece)
        return piece


def cut_short(key: str, missing: int) -> IntegrityError:
    """The error for a body that ends early."""
    return IntegrityError(f"{key}: the service ended the body {missing} bytes early", key=key)


class Wire(ABC):
    """The calls that are made most."""

    @abstractmethod
    async def put(self, key: str, data: bytes, metadata: Mapping[str, str], condition: Condition) -> str | None:
        """Store an object in one request and return its ETag. Raises PreconditionFailed."""

    @abstractmethod
    def open(self, key: str, range: ByteRange, if_match: str | None) -> AbstractAsyncContextManager[Opened]:
        """Ask for a range that is not empty. Raises RangeNotSatisfied, also for offset 0 of an empty object."""

    @abstractmethod
    async def fetch(self, key: str, range: ByteRange, if_match: str | None) -> tuple[Opened, bytes]:
        """Read a range that is not empty in one go; errors as :meth:`open`. Shorter than announced is no error."""

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Remove an object. Raises NotFound where the service says so."""

    @abstractmethod
    async def size(self, key: str) -> int:
        """Return the size of an object. Raises NotFound, also when it is the bucket that is missing."""

    @abstractmethod
    async def copy(self, source: str, target: str) -> None:
        """Copy an object that is small enough for one request, its metadata included."""


class ObstoreWire(Wire):
    """Over obstore. It refuses ranges that a service answers with status 200 as ``rclone serve s3`` does: those go
    over ``fallback`` once that is known."""

    def __init__(self, connections: Connections, faults: Faults, fallback: Wire) -> None:
        self._connections = connections
        self._faults = faults
        self._fallback = fallback
        self._ranges_work = True

    async def put(self, key: str, data: bytes, metadata: Mapping[str, str], condition: Condition) -> str | None:
        mode: obstore.PutMode = "overwrite"
        if condition.absent:
            mode = "create"
        elif condition.etag is not None:
            mode = {"e_tag": condition.etag}
        store = await self._connections.store()
        with self._faults.translated("storing an object", key):
            answer = await obstore.put_async(
                store, key, data, attributes=dict(metadata), mode=mode, use_multipart=False
            )
        return answer["e_tag"]

    @asynccontextmanager
    async def open(self, key: str, range: ByteRange, if_match: str | None) -> AsyncIterator[Opened]:
        large = range.length is not None and range.length > _LARGE
        answer = None if large else await self._ask(key, range, if_match)
        if answer is None:
            async with self._fallback.open(key, range, if_match) as opened:
                yield opened
            return
        yield self._opened(answer, key)

    async def fetch(self, key: str, range: ByteRange, if_match: str | None) -> tuple[Opened, bytes]:
        if range.length is not None and range.length > _LARGE:
            return await self._fallback.fetch(key, range, if_match)
        answer = await self._ask(key, range, if_match)
        if answer is None:
            return await self._fallback.fetch(key, range, if_match)
        with self._faults.translated(_READING, key):
            body = await answer.bytes_async()
        return self._opened(answer, key), body.to_bytes()

    def _opened(self, answer: obstore.GetResult, key: str) -> Opened:
        start, end = answer.range
        meta = answer.meta
        return Opened(
            size=meta["size"],
            etag=meta["e_tag"],
            modified=meta["last_modified"],
            metadata={name: value for name, value in answer.attributes.items() if name.lower() not in _ATTRIBUTES},
            length=end - start,
            pieces=self._pieces(answer, key),
        )

    async def delete(self, key: str) -> None:
        store = await self._connections.store()
        with self._faults.translated("deleting an object", key):
            await obstore.delete_async(store, key)

    async def size(self, key: str) -> int:
        store = await self._connections.store()
        with self._faults.translated("looking at an object", key):
            return (await obstore.head_async(store, key))["size"]

    async def copy(self, source: str, target: str) -> None:
        store = await self._connections.store()
        with self._faults.translated("copying an object", source):
            await obstore.copy_async(store, source, target)

    async def _ask(self, key: str, range: ByteRange, if_match: str | None) -> obstore.GetResult | None:
        """Send the request; ``None`` when this library cannot get that range from this service."""
        if range.offset == 0 and range.length is None:
            return await self._get(key, None, if_match)
        if self._ranges_work:
            try:
                return await self._get(key, range, if_match)
            except RangeAnsweredWhole:
                self._ranges_work = False
        if range.offset == 0 and range.length is not None:
            # often the range is the whole of a small object
            answer = await self._get(key, None, if_match)
            if answer.meta["size"] <= range.length:
                return answer
        return None

    async def _get(self, key: str, range: ByteRange | None, if_match: str | None) -> obstore.GetResult:
        options: obstore.GetOptions = {}
        if if_match is not None:
            options["if_match"] = if_match
        if range is not None:
            if range.length is None:
                options["range"] = {"offset": range.offset}
            else:
                options["range"] = (range.offset, range.offset + range.length)
        store = await self._connections.store()
        with self._faults.translated(_READING, key):
            return await obstore.get_async(store, key, options=options)

    async def _pieces(self, answer: obstore.GetResult, key: str) -> AsyncIterator[bytes]:
        with self._faults.translated(_READING, key):
            async for piece in answer.stream(min_chunk_size=PIECE_SIZE):
                yield piece


class BotoWire(Wire):
    """Over aiobotocore. Only it stores an object with an ACL."""

    def __init__(self, connections: Connections, faults: Faults, bucket: str) -> None:
        self._connections = connections
        self._faults = faults
        self._bucket = bucket
        self._signed: dict[str, tuple[float, SignedRequest]] = {}
        """Until when a request for a whole object may be sent again."""

    async def put(
        self,
        key: str,
        data: bytes,
        metadata: Mapping[str, str],
        condition: Condition,
        canned_acl: str | None = None,
    ) -> str | None:
        arguments: dict[str, Any] = {} if canned_acl is None else {"ACL": canned_acl}
        if condition.absent:
            arguments["IfNoneMatch"] = "*"
        elif condition.etag is not None:
            arguments["IfMatch"] = condition.etag
        with self._faults.translated("storing an object", key):
            client = await self._connections.client()
            answer = await client.put_object(
                Bucket=self._bucket, Key=key, Body=data, Metadata=dict(metadata), **arguments
            )
        etag: str | None = answer.get("ETag")
        return etag

    @asynccontextmanager
    async def open(self, key: str, range: ByteRange, if_match: str | None) -> AsyncIterator[Opened]:
        # by plain HTTP: the library's own way of reading a body takes twice as long
        async with contextlib.AsyncExitStack() as stack:
            with self._faults.translated(_READING, key):
                request = await self._request(key, range, if_match)
                body = await stack.enter_async_context(self._connections.range_readers.open(request))
            opened, skip = self._answered(key, range, body.begun)
            opened.pieces = self._pieces(body, key, skip, opened.length)
            yield opened

    async def fetch(self, key: str, range: ByteRange, if_match: str | None) -> tuple[Opened, bytes]:
        with self._faults.translated(_READING, key):
            request = await self._request(key, range, if_match)
            # a service that does not know ranges sends everything
            most = None if range.length is None else range.offset + range.length
            answer = await self._connections.range_readers.get(request, most)
        opened, skip = self._answered(key, range, answer)
        data = answer.data
        return opened, data if len(data) == opened.length else data[skip : skip + opened.length]

    async def _request(self, key: str, range: ByteRange, if_match: str | None) -> SignedRequest:
        headers = {"Accept-Encoding": "identity"}
        if if_match is not None:
            headers["If-Match"] = if_match
        if range != FULL:
            end = "" if range.length is None else range.offset + range.length - 1
            headers["Range"] = f"bytes={range.offset}-{end}"
        if not self._connections.headers_are_signed:
            return dataclasses.replace(await self._signed_for(key), headers=headers)
        return await self._connections.signed("get_object", key, valid=_URL_VALID, headers=headers)

    async def _signed_for(self, key: str) -> SignedRequest:
        now = time.monotonic()
        until, request = self._signed.get(key, (0.0, None))
        if request is None or until < now:
            request = await self._connections.signed("get_object", key, valid=_URL_VALID)
            self._signed.pop(key, None)
            while len(self._signed) >= _URLS_KEPT:
                del self._signed[next(iter(self._signed))]
            self._signed[key] = now + _URL_REUSED, request
        return request

    def _answered(self, key: str, range: ByteRange, answer: Answer) -> tuple[Opened, int]:
        """Return what an answer tells of its object, and how many bytes of the body lie before the range."""
        headers = answer.headers
        if answer.status not in {200, 206}:
            self._signed.pop(key, None)  # it may have been signed with credentials that changed since
            fault = Fault.from_body(answer.status, answer.data.decode(errors="replace"), headers)
            raise self._faults.error(fault, _READING, key)
        stated_length = headers.get("Content-Length", "")
        length = int(stated_length) if stated_length.isdecimal() else None
        if length is None or ("ETag" not in headers and "Last-Modified" not in headers):
            raise self._faults.error(Fault(502, message="an answer that tells of no object"), _READING, key)
        size, skip = length, 0
        stated = headers.get("Content-Range")
        if stated is not None:
            # some services say 200 and mean 206
            size = int(stated.rpartition("/")[2])
        elif range != FULL:
            if range.offset >= size:
                raise self._faults.error(Fault(416), _READING, key)
            skip = range.offset
            length = size - skip if range.length is None else min(range.length, size - skip)
        opened = Opened(
            size=size,
            etag=headers.get("ETag"),
            modified=parse_time(headers.get("Last-Modified")),
            metadata={
                name[len(METADATA) :]: value for name, value in headers.items() if name.lower().startswith(METADATA)
            },
            length=length,
            pieces=_nothing(),
        )
        return opened, skip

    async def delete(self, key: str) -> None:
        with self._faults.translated("deleting an object", key):
            client = await self._connections.client()
            await client.delete_object(Bucket=self._bucket, Key=key)

    async def size(self, key: str) -> int:
        with self._faults.translated("looking at an object", key):
            client = await self._connections.client()
            answer = await client.head_object(Bucket=self._bucket, Key=key)
        size: int = answer["ContentLength"]
        return size

    async def copy(self, source: str, target: str) -> None:
        with self._faults.translated("copying an object", source):
            client = await self._connections.client()
            await client.copy_object(
                Bucket=self._bucket,
                Key=target,
                CopySource={"Bucket": self._bucket, "Key": source},
                MetadataDirective="COPY",
            )

    async def replace_metadata(self, key: str, etag: str, metadata: Mapping[str, str]) -> None:
        """Give an object that still has this ETag other metadata, by copying it onto itself."""
        with self._faults.translated("changing the metadata", key):
            client = await self._connections.client()
            await client.copy_object(
                Bucket=self._bucket,
                Key=key,
                CopySource={"Bucket": self._bucket, "Key": key},
                CopySourceIfMatch=etag,
                MetadataDirective="REPLACE",
                Metadata=dict(metadata),
            )

    async def _pieces(self, body: LargeBody, key: str, skip: int, length: int) -> AsyncIterator[bytes]:
        left = length
        with self._faults.translated(_READING, key):
            while left:
                piece = await body.read(min(_LARGE_PIECE, skip + left))
                if not piece:
                    return
                wanted = piece[skip:] if skip else piece
                skip = max(0, skip - len(piece))
                left -= len(wanted)
                if wanted:
                    yield wanted


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield
