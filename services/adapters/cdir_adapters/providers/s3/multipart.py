"""Large objects, sent in parts by plain HTTP: several at once, never copied, each compared by its MD5.

aiobotocore's own ``upload_part`` takes one contiguous buffer and, over plain HTTP, computes a SHA-256 of it. A signed
request needs neither: the pieces go to the socket as they came.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from cdir.errors import (
    AlreadyExists,
    CdirError,
    IntegrityError,
    InvalidPath,
    PreconditionFailed,
    ProviderUnavailable,
    Unsupported,
)
from cdir_adapters.adapter import Checksum
from cdir_adapters.capability import ChecksumKind
from cdir_adapters.providers.s3.connections import Connections
from cdir_adapters.providers.s3.faults import Fault, Faults, fault_of_answer
from cdir_adapters.providers.s3.headers import checksum_of_etag, digest_of_etag
from cdir_adapters.providers.s3.wire import Condition

__all__ = [
    "MAX_PARTS",
    "MIN_PART",
    "MultipartUpload",
    "Part",
    "SentPart",
    "first_of",
    "part_sizes",
    "parts_of",
]

logger = logging.getLogger(__name__)

MIN_PART = 8 * 1024 * 1024
"""Bytes of a part, unless the object needs larger ones. Services ask for 5 MiB at least."""
MAX_PARTS = 10_000
_MEBIBYTE = 1024 * 1024
_PARTS_PER_STEP = 2000
"""Where the size is not known, the size of a part doubles after as many."""
_WRITE_SIZE = 512 * 1024
"""Bytes given to the socket at once, so that other transfers get their turn."""
_ABORT_DEADLINE = 15.0
_URL_VALID = 6 * 3600
"""Seconds within which a part must have been sent."""

Part = Sequence[memoryview]


def part_sizes(size: int | None) -> Iterator[int]:
    """Yield the size of each next part: equal ones when the object's size is known, else growing ones."""
    if size is not None:
        mebibytes = -(-size // (MAX_PARTS * _MEBIBYTE))
        yield from itertools.repeat(max(MIN_PART, mebibytes * _MEBIBYTE))
    for number in range(MAX_PARTS):
        yield MIN_PART << (number // _PARTS_PER_STEP)
    raise InvalidPath(f"an object of unknown size has more than {MAX_PARTS} parts; give its size")


async def parts_of(pieces: AsyncIterator[bytes], sizes: Iterator[int]) -> AsyncIterator[list[memoryview]]:
    """Group pieces into parts of the given sizes without copying them; the last part is shorter, none is empty."""
    part: list[memoryview] = []
    missing = next(sizes)
    async for piece in pieces:
        rest = memoryview(piece)
        while len(rest) >= missing:
            part.append(rest[:missing])
            rest = rest[missing:]
            yield part
            part = []
            missing = next(sizes)
        if rest:
            part.append(rest)
            missing -= len(rest)
    if part:
        yield part


@asynccontextmanager
async def first_of(parts: AsyncIterator[Part]) -> AsyncIterator[asyncio.Future[list[Part]]]:
    """The first part, which is collected while the upload is begun, or the failure of what it is collected from.

    It comes in a list, to be taken out of it: what a task has returned is held for as long as the task.
    """

    async def collect() -> list[Part]:
        return [await anext(parts)]

    collecting = asyncio.create_task(collect())
    try:
        yield collecting
    finally:
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)


def _md5(part: Part) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    for piece in part:
        digest.update(piece)
    return digest.digest()


class _PartBody(aiohttp.Payload):
    """The pieces of a part as the body of a request that can be sent again when a kept connection turns out dead."""

    def __init__(self, part: Part) -> None:
        super().__init__(part, content_type="application/octet-stream")
        self._part = part
        self._size = sum(map(len, part))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a part is bytes")

    async def write(self, writer: AbstractStreamWriter) -> None:
        for piece in self._part:
            for start in range(0, len(piece), _WRITE_SIZE):
                await writer.write(piece[start : start + _WRITE_SIZE])


@dataclass(frozen=True, slots=True)
class SentPart:
    """A part that the service holds, as it tells."""

    size: int
    etag: str
    arrived: datetime | None

    async def holds(self, part: Part) -> bool:
        """Whether it is this very part; ``False`` where ETags are no MD5, which tells nothing."""
        if self.size != sum(map(len, part)):
            return False
        return digest_of_etag(self.etag) == (await asyncio.to_thread(_md5, part)).hex()


class MultipartUpload:
    """One unfinished object at the service. Nothing of it shows before :meth:`complete`."""

    def __init__(self, connections: Connections, faults: Faults, bucket: str, key: str, upload_id: str) -> None:
        self._connections = connections
        self._faults = faults
        self._target = {"Bucket": bucket, "Key": key, "UploadId": upload_id}
        self._key = key
        self._there: Mapping[int, SentPart] = {}
        self._etags: dict[int, str] = {}
        self._digests: dict[int, bytes] = {}
        self.unproven = 0
        """Parts whose ETag was no MD5, so that the service did not say what it received."""

    @classmethod
    async def begin(
        cls,
        connections: Connections,
        faults: Faults,
        bucket: str,
        key: str,
        metadata: Mapping[str, str],
        canned_acl: str | None = None,
    ) -> MultipartUpload:
        """Start an upload."""
        acl = {} if canned_acl is None else {"ACL": canned_acl}
        with faults.translated("starting a multipart upload", key):
            client = await connections.client()
            answer = await client.create_multipart_upload(Bucket=bucket, Key=key, Metadata=dict(metadata), **acl)
        if not answer.get("UploadId"):
            raise faults.error(Fault(502, message="an answer without an upload"), "starting a multipart upload", key)
        return cls(connections, faults, bucket, key, answer["UploadId"])

    @property
    def upload_id(self) -> str:
        """What the service calls it."""
        return self._target["UploadId"]

    @property
    def resumed(self) -> bool:
        """Whether a write before has begun it, and chosen the metadata."""
        return bool(self._there)

    async def sent(self) -> dict[int, SentPart]:
        """Return the parts that the service holds, by number."""
        parts: dict[int, SentPart] = {}
        arguments: dict[str, Any] = {}
        while True:
            with self._faults.translated("listing the parts of an upload", self._key):
                client = await self._connections.client()
                answer = await client.list_parts(**self._target, **arguments)
            for part in answer.get("Parts", ()):
                parts[part["PartNumber"]] = SentPart(part["Size"], part.get("ETag", ""), part.get("LastModified"))
            if not answer.get("IsTruncated"):
                return parts
            arguments["PartNumberMarker"] = answer["NextPartNumberMarker"]

    def resume(self, sent: Mapping[int, SentPart]) -> None:
        """Send none of these parts again where its bytes are those to be sent."""
        self._there = sent

    async def send(self, number: int, part: Part, *, etags_are_md5: bool | None) -> None:
        """Send part ``number`` (from 1) and compare its ETag to its MD5; not when the service holds it already.

        ``etags_are_md5``: whether this service is known to answer with an MD5. Raises IntegrityError when it is, and
        the two differ.
        """
        there = self._there.get(number)
        if there is not None and await there.holds(part):
            self._etags[number] = there.etag
            self._digests[number] = bytes.fromhex(digest_of_etag(there.etag) or "")
            return
        try:
            digest, (etag, encrypted) = await asyncio.gather(asyncio.to_thread(_md5, part), self._put(number, part))
        except Unsupported as error:
            if there is None:
                raise
            raise ProviderUnavailable(
                f"{self._key}: part {number} of an unfinished upload cannot be replaced; try again, from the start",
                key=self._key,
            ) from error
        if digest_of_etag(etag) != digest.hex():
            if etags_are_md5 and not encrypted:
                raise IntegrityError(
                    f"{self._key}: part {number} arrived with other bytes than were sent; try again", key=self._key
                )
            self.unproven += 1
        self._etags[number] = etag
        self._digests[number] = digest

    async def _put(self, number: int, part: Part) -> tuple[str, bool]:
        """Return the part's ETag, and whether the service encrypts it so that the ETag means nothing."""
        doing = "sending a part"
        with self._faults.translated(doing, self._key):
            request = await self._connections.signed(
                "upload_part", self._key, valid=_URL_VALID, PartNumber=number, UploadId=self._target["UploadId"]
            )
            http = await self._connections.http()
            async with http.put(
                request.url,
                data=_PartBody(part),
                headers=request.headers,
                # a Content-Type would have to be signed
                skip_auto_headers=["Content-Type"],
                allow_redirects=False,
            ) as answer:
                if answer.status != 200:
                    raise self._faults.error(await fault_of_answer(answer), doing, self._key)
                encryption = answer.headers.get("x-amz-server-side-encryption", "")
                customer = "x-amz-server-side-encryption-customer-algorithm" in answer.headers
                return answer.headers.get("ETag", ""), encryption.startswith("aws:kms") or customer

    async def copy_from(self, source: str, size: int, part_size: int, etag: str) -> None:
        """Let the service copy ``size`` bytes of the object ``source``, which must still have that ETag."""
        bucket = self._target["Bucket"]
        for number, start in enumerate(range(0, size, part_size), 1):
            with self._faults.translated("copying a part", source):
                client = await self._connections.client()
                answer = await client.upload_part_copy(
                    **self._target,
                    PartNumber=number,
                    CopySource={"Bucket": bucket, "Key": source},
                    CopySourceRange=f"bytes={start}-{min(start + part_size, size) - 1}",
                    CopySourceIfMatch=etag,
                )
            self._etags[number] = answer["CopyPartResult"]["ETag"]

    async def complete(self, condition: Condition) -> Checksum | None:
        """Make the object appear. Return its checksum when the service states one that is right.

        Raises AlreadyExists or PreconditionFailed when ``condition`` does not hold, and ProviderUnavailable when
        another process has completed the upload with other parts.
        """
        arguments: dict[str, Any] = {}
        if condition.absent:
            arguments["IfNoneMatch"] = "*"
        elif condition.etag is not None:
            arguments["IfMatch"] = condition.etag
        parts = [{"PartNumber": number, "ETag": self._etags[number]} for number in sorted(self._etags)]
        try:
            with self._faults.translated("completing a multipart upload", self._key):
                client = await self._connections.client()
                answer = await client.complete_multipart_upload(
                    **self._target, MultipartUpload={"Parts": parts}, **arguments
                )
        except PreconditionFailed as error:
            if condition.absent:
                raise AlreadyExists(f"{self._key} exists already", key=self._key) from error
            raise
        stated = checksum_of_etag(answer.get("ETag"))
        if (right := self.checksum(answer.get("ETag"))) is not None:
            return right
        if self.resumed and not self.unproven and stated is not None and stated.kind is ChecksumKind.MD5_MULTIPART:
            # completing what is complete is answered as if it were done again
            raise self._faults.error(Fault(404, "NoSuchUpload"), "completing a multipart upload", self._key)
        return None

    def checksum(self, etag: str | None) -> Checksum | None:
        """What the ETag of the finished object says, when that is made of the MD5s of the parts as they were sent."""
        digest = hashlib.md5(usedforsecurity=False)
        for number in sorted(self._digests):
            digest.update(self._digests[number])
        expected = Checksum(ChecksumKind.MD5_MULTIPART, f"{digest.hexdigest()}-{len(self._digests)}")
        return expected if checksum_of_etag(etag) == expected else None

    async def abort(self) -> bool:
        """Take the upload back, for a limited time, and tell whether that worked; else it is left to ``sweep``."""
        try:
            async with asyncio.timeout(_ABORT_DEADLINE):
                with self._faults.translated("aborting a multipart upload", self._key):
                    client = await self._connections.client()
                    await client.abort_multipart_upload(**self._target)
        except (CdirError, TimeoutError) as error:
            logger.warning("%s: an unfinished upload may remain until the next sweep: %s", self._key, error)
            return False
        return True
