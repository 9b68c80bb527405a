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
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

import botocore.exceptions

from cdir.errors import IntegrityError
from cdir_adapters.adapter import FULL, ByteRange, ObjectInfo, ReadStream
from cdir_adapters.providers.s3.connections import Connections
from cdir_adapters.providers.s3.exchange import ERROR_BODY, Answer
from cdir_adapters.providers.s3.faults import LONGEST_ANSWER, Fault, Faults, Refused
from cdir_adapters.providers.s3.headers import MTIME, parse_time
from cdir_adapters.providers.s3.listing_answer import Listed, ListedObject, NoListing, read_listing
from cdir_adapters.providers.s3.settings import S3Settings
from cdir_adapters.providers.s3.signing import METADATA, SignedRequest, metadata_headers, quoted_path
from cdir_adapters.providers.s3.threads import LargeBody

__all__ = ["Body", "BotoWire", "Condition", "Head", "Opened", "PlainWire", "Wire", "cut_short"]

_READING: Final = "reading an object"
_LOOKING: Final = "looking at an object"
_BUCKET: Final = "looking at the bucket"
_STORING: Final = "storing an object"
_DELETING: Final = "deleting an object"
_COPYING: Final = "copying an object"
_URL_VALID: Final = 3600
"""Seconds within which a signed request must reach the service."""
_URL_REUSED: Final = 60.0
"""Seconds for which a signed request is sent again: signing one takes as long as reading a megabyte nearby."""
_URLS_KEPT: Final = 64
_LIST_ARGUMENTS: Final = {
    "prefix": "Prefix",
    "max-keys": "MaxKeys",
    "delimiter": "Delimiter",
    "marker": "Marker",
    "start-after": "StartAfter",
    "continuation-token": "ContinuationToken",
}
"""What aiobotocore calls the parameters of a listing."""
_LARGE: Final = 256 * 1024
"""Longer ranges are read by threads, which hand on a body with fewer copies."""
_SUCCESS: Final = {200, 201, 204, 206}
_OF_NOTHING: Final = Fault(502, message="an answer that tells of no object")
_LARGE_PIECE: Final = 4 * 1024 * 1024
"""Bytes that such a thread reads at a time."""
_SHORT: Final = 1024 * 1024
"""Who reads a range of at most this many bytes, and in pieces, wants to see how it comes on."""
_SHORT_PIECE: Final = 32 * 1024
"""Bytes of it at a time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Condition:
    """What must hold for a write; nothing by default."""

    absent: bool = False
    etag: str | None = None

    def __bool__(self) -> bool:
        return self.absent or self.etag is not None


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """What a service says of an object without its bytes."""

    size: int
    etag: str | None
    modified: datetime | None
    metadata: Mapping[str, str]
    """As received."""
    etag_is_no_digest: bool
    """The object is encrypted with a key that the service does not choose: its ETag says nothing of the content."""


@dataclasses.dataclass(slots=True)
class Opened:
    """An answer whose body has not been read yet."""

    size: int
    """Of the whole object."""
    etag: str | None
    modified: datetime | None
    """As the service states it; ``None`` where it does not, or where the metadata has a time of its own."""
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
    async def list(self, query: Mapping[str, str]) -> Listed:
        """Ask for a page; ``query`` has the names of the protocol. Raises Refused, NoListing and, untranslated, what
        the library raises."""

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Remove an object. Raises NotFound where the service says so."""

    @abstractmethod
    async def head_bucket(self) -> None:
        """Ask whether the bucket is there. Raises NotFound where it is not."""

    @abstractmethod
    async def head(self, key: str) -> Head:
        """Return what is known of an object. Raises NotFound, also when it is the bucket that is missing."""

    @abstractmethod
    async def copy(self, source: str, target: str) -> None:
        """Copy an object that is small enough for one request, its metadata included."""


class PlainWire(Wire):
    """By requests of its own. What is large, or of a length that is not known, is read by ``large``."""

    def __init__(self, connections: Connections, faults: Faults, settings: S3Settings, large: Wire) -> None:
        self._connections = connections
        self._faults = faults
        self._settings = settings
        self._large = large

    async def put(self, key: str, data: bytes, metadata: Mapping[str, str], condition: Condition) -> str | None:
        headers = metadata_headers(metadata)
        if condition.absent:
            headers["If-None-Match"] = "*"
        elif condition.etag is not None:
            headers["If-Match"] = condition.etag
        # a condition that held the first time does not the second
        answer = await self._send("PUT", key, _STORING, headers, data, repeatable=not condition)
        return answer.headers.get("etag")

    @asynccontextmanager
    async def open(self, key: str, range: ByteRange, if_match: str | None) -> AsyncIterator[Opened]:
        if _is_large(range):
            async with self._large.open(key, range, if_match) as opened:
                yield opened
            return
        opened, data = await self._read(key, range, if_match)
        opened.pieces = _only(data)
        yield opened

    async def fetch(self, key: str, range: ByteRange, if_match: str | None) -> tuple[Opened, bytes]:
        if _is_large(range):
            return await self._large.fetch(key, range, if_match)
        return await self._read(key, range, if_match)

    async def _read(self, key: str, range: ByteRange, if_match: str | None) -> tuple[Opened, bytes]:
        assert range.length is not None
        headers = {"Range": _header_of(range)}
        if if_match is not None:
            headers["If-Match"] = if_match
        # a service that does not know ranges sends everything
        answer = await self._send("GET", key, _READING, headers, most=range.offset + range.length)
        opened, skip = _opened(answer, key, range, self._faults)
        data = answer.data
        return opened, data if len(data) == opened.length else data[skip : skip + opened.length]

    async def head(self, key: str) -> Head:
        answer = await self._send("HEAD", key, _LOOKING)
        headers = answer.headers
        size = headers.get("content-length", "")
        if not size.isdecimal():
            raise self._faults.error(_OF_NOTHING, _LOOKING, key)
        encryption = headers.get("x-amz-server-side-encryption", "")
        return Head(
            size=int(size),
            etag=headers.get("etag"),
            modified=parse_time(headers.get("last-modified")),
            metadata=_metadata(headers),
            etag_is_no_digest=encryption.startswith("aws:kms")
            or "x-amz-server-side-encryption-customer-algorithm" in headers,
        )

    async def head_bucket(self) -> None:
        with self._faults.translated(_BUCKET):
            answer = await self._connections.send("HEAD", "", "", {}, None, ERROR_BODY)
        if answer.status not in _SUCCESS:
            raise self._faults.error(_fault_of(answer), _BUCKET)

    async def list(self, query: Mapping[str, str]) -> Listed:
        profile = self._settings.profile
        asked = dict(query)
        if profile.list_v2:
            asked["list-type"] = "2"
        if profile.list_url_encoded:
            asked["encoding-type"] = "url"
        # in the order in which they are signed
        text = "&".join(f"{name}={quote(value, safe='~')}" for name, value in sorted(asked.items()))
        answer = await self._connections.send("GET", "", text, {}, None, LONGEST_ANSWER)
        if answer.status not in _SUCCESS:
            raise Refused(_fault_of(answer))
        return read_listing(answer.data)

    async def delete(self, key: str) -> None:
        await self._send("DELETE", key, _DELETING)

    async def copy(self, source: str, target: str) -> None:
        place = f"/{self._settings.bucket}{quoted_path(source)}"
        headers = {"x-amz-copy-source": place, "x-amz-metadata-directive": "COPY"}
        answer = await self._send("PUT", target, _COPYING, headers, b"")
        if b"<Error>" in answer.data:  # begun with 200 before it failed
            fault = Fault.from_body(500, answer.data.decode(errors="replace"), None)
            raise self._faults.error(fault, _COPYING, source)

    async def _send(
        self,
        method: str,
        key: str,
        doing: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        body: bytes | None = None,
        most: int = 0,
        *,
        repeatable: bool = True,
    ) -> Answer:
        """Send a request; return the answer to one that succeeded. Of other bodies than objects enough is read."""
        with self._faults.translated(doing, key):
            answer = await self._connections.send(
                method, quoted_path(key), "", headers, body, max(most, ERROR_BODY), repeatable=repeatable
            )
        if answer.status not in _SUCCESS:
            raise self._faults.error(_fault_of(answer), doing, key)
        return answer


class BotoWire(Wire):
    """Over aiobotocore. Only it stores an object with an ACL."""

    def __init__(self, connections: Connections, faults: Faults, settings: S3Settings) -> None:
        self._connections = connections
        self._faults = faults
        self._settings = settings
        self._bucket = settings.bucket
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
        with self._faults.translated(_STORING, key):
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
            opened, skip = self._answered(body.begun, key, range)
            opened.pieces = self._pieces(body, key, skip, opened.length)
            yield opened

    async def fetch(self, key: str, range: ByteRange, if_match: str | None) -> tuple[Opened, bytes]:
        with self._faults.translated(_READING, key):
            request = await self._request(key, range, if_match)
            # a service that does not know ranges sends everything
            most = None if range.length is None else range.offset + range.length
            answer = await self._connections.range_readers.get(request, most)
        opened, skip = self._answered(answer, key, range)
        data = answer.data
        return opened, data if len(data) == opened.length else data[skip : skip + opened.length]

    async def _request(self, key: str, range: ByteRange, if_match: str | None) -> SignedRequest:
        headers = {"Accept-Encoding": "identity"}
        if if_match is not None:
            headers["If-Match"] = if_match
        if range != FULL:
            headers["Range"] = _header_of(range)
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

    def _answered(self, answer: Answer, key: str, range: ByteRange) -> tuple[Opened, int]:
        if answer.status not in _SUCCESS:
            self._signed.pop(key, None)  # it may have been signed with credentials that changed since
            raise self._faults.error(_fault_of(answer), _READING, key)
        return _opened(answer, key, range, self._faults)

    async def delete(self, key: str) -> None:
        with self._faults.translated(_DELETING, key):
            client = await self._connections.client()
            await client.delete_object(Bucket=self._bucket, Key=key)

    async def list(self, query: Mapping[str, str]) -> Listed:
        client = await self._connections.client()
        ask = client.list_objects_v2 if self._settings.profile.list_v2 else client.list_objects
        arguments: dict[str, Any] = {_LIST_ARGUMENTS[name]: value for name, value in query.items()}
        if "MaxKeys" in arguments:
            arguments["MaxKeys"] = int(arguments["MaxKeys"])
        try:
            answer = await ask(Bucket=self._bucket, **arguments)
        except botocore.exceptions.ClientError as error:
            fault = Fault.of(error)
            raise error if fault is None else Refused(fault) from None
        if not {"Name", "IsTruncated"} & answer.keys():
            # the library takes any XML for a listing, and what it does not find in it for empty
            raise NoListing
        return Listed(
            truncated=bool(answer.get("IsTruncated")),
            following=answer.get("NextContinuationToken") or answer.get("NextMarker"),
            objects=[
                ListedObject(each.get("Key") or "", each.get("Size"), each.get("LastModified"), each.get("ETag"))
                for each in answer.get("Contents", ())
            ],
            prefixes=[each.get("Prefix") or "" for each in answer.get("CommonPrefixes", ())],
        )

    async def head(self, key: str) -> Head:
        with self._faults.translated(_LOOKING, key):
            client = await self._connections.client()
            answer = await client.head_object(Bucket=self._bucket, Key=key)
        encryption = str(answer.get("ServerSideEncryption", ""))
        return Head(
            size=answer["ContentLength"],
            etag=answer.get("ETag"),
            modified=answer.get("LastModified"),
            metadata=answer.get("Metadata", {}),
            etag_is_no_digest=encryption.startswith("aws:kms") or "SSECustomerAlgorithm" in answer,
        )

    async def head_bucket(self) -> None:
        with self._faults.translated(_BUCKET):
            client = await self._connections.client()
            await client.head_bucket(Bucket=self._bucket)

    async def copy(self, source: str, target: str) -> None:
        with self._faults.translated(_COPYING, source):
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
        most = _SHORT_PIECE if length <= _SHORT else _LARGE_PIECE
        with self._faults.translated(_READING, key):
            while left:
                piece = await body.read(min(most, skip + left))
                if not piece:
                    return
                wanted = piece[skip:] if skip else piece
                skip = max(0, skip - len(piece))
                left -= len(wanted)
                if wanted:
                    yield wanted


def _is_large(range: ByteRange) -> bool:
    return range.length is None or range.length > _LARGE


def _header_of(range: ByteRange) -> str:
    return f"bytes={range.offset}-{'' if range.length is None else range.offset + range.length - 1}"


def _fault_of(answer: Answer) -> Fault:
    return Fault.from_body(answer.status, answer.data.decode(errors="replace"), answer.headers.get("retry-after"))


def _metadata(headers: Mapping[str, str]) -> dict[str, str]:
    return {name[len(METADATA) :]: value for name, value in headers.items() if name.startswith(METADATA)}


def _opened(answer: Answer, key: str, range: ByteRange, faults: Faults) -> tuple[Opened, int]:
    """Return what an answer tells of its object, and how many bytes of the body lie before the range."""
    headers = answer.headers
    stated_length = headers.get("content-length", "")
    length = int(stated_length) if stated_length.isdecimal() else None
    if length is None or ("etag" not in headers and "last-modified" not in headers):
        raise faults.error(_OF_NOTHING, _READING, key)
    size, skip = length, 0
    stated = headers.get("content-range")
    if stated is not None:
        # some services say 200 and mean 206
        size = int(stated.rpartition("/")[2])
    elif range != FULL:
        if range.offset >= size:
            raise faults.error(Fault(416), _READING, key)
        skip = range.offset
        length = size - skip if range.length is None else min(range.length, size - skip)
    metadata = _metadata(headers)
    opened = Opened(
        size=size,
        etag=headers.get("etag"),
        # reading it takes as long as all the other headers together
        modified=None if MTIME in metadata else parse_time(headers.get("last-modified")),
        metadata=metadata,
        length=length,
        pieces=_nothing(),
    )
    return opened, skip


async def _only(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield
