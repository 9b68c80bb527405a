"""A small S3 server of the tests' own, for services that nobody runs any more or that cannot be installed.

It checks signatures of both versions, and departs from the protocol only where :class:`Quirks` says so. ``WALRUS`` and
``CUMULUS`` are what the sources of these two services do; ``FIRST_DECADE`` is what no service from before 2014 can do.
It keeps everything in memory and runs in the event loop of the test.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Literal
from urllib.parse import quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from aiohttp import web
from aiohttp.web import RequestPayloadError

from servers.s3_signatures import Refused, SignedCall, check_version_2, check_version_4, version_of

__all__ = ["CUMULUS", "FIRST_DECADE", "WALRUS", "OldS3", "Quirks", "Stored", "old_s3"]

Conditions = Literal["honoured", "ignored", "refused"]


@dataclass(frozen=True, kw_only=True)
class Quirks:
    """How the server departs from the protocol."""

    base_path: str = ""
    """What stands before the bucket in every path."""
    signatures: frozenset[str] = frozenset({"v2", "v2-query", "v4", "v4-query"})
    """How requests may be signed; ``-query`` is in the URL."""
    denial: str = ""
    """The one code for every signature that is not right."""
    quoted_etags: bool = True
    opaque_etags: bool = False
    """ETags are random, though they look like an MD5."""
    list_v2: bool = True
    """The second version of the listing is known; else its parameters are ignored, or refused as unknown ones."""
    list_pages: bool = True
    """Else a listing knows neither markers nor delimiters, and does not tell when ``max-keys`` cut it short."""
    page: int = 1000
    ghost: str | None = None
    """Every listing holds an entry without an object: of this name, or without any when it is empty."""
    unknown_parameters: bool = True
    """Unknown parameters are ignored; else they are an error."""
    bucket_head: bool = True
    multipart: bool = True
    write_conditions: Conditions = "honoured"
    read_conditions: Conditions = "honoured"
    acl: bool = True
    ranges: bool = True
    metadata: bool = True
    times: Literal["http", "iso", "garbled"] = "http"
    """How headers tell the time; ``garbled`` is not at all with GET, and as no time at all with HEAD."""
    strips_names: bool = False
    missing_is_error: bool = False
    """Deleting what is not there is one."""
    largest: int | None = None
    """The most bytes of one request."""


FIRST_DECADE = Quirks(signatures=frozenset({"v2", "v2-query"}), list_v2=False, write_conditions="ignored")
WALRUS = replace(
    FIRST_DECADE,
    base_path="/services/Walrus",
    denial="AccessDenied",
    quoted_etags=False,
    ghost="",
    unknown_parameters=False,
    bucket_head=False,
    multipart=False,
    times="iso",
)
CUMULUS = replace(
    FIRST_DECADE,
    signatures=frozenset({"v2"}),
    denial="AccessDenied",
    list_pages=False,
    bucket_head=False,
    multipart=False,
    read_conditions="ignored",
    ranges=False,
    metadata=False,
    times="garbled",
    strips_names=True,
    missing_is_error=True,
)

_STATUS = {
    "AccessDenied": 403,
    "BadDigest": 400,
    "BucketAlreadyOwnedByYou": 409,
    "EntityTooLarge": 400,
    "InvalidAccessKeyId": 403,
    "InvalidArgument": 400,
    "InvalidPart": 400,
    "InvalidRange": 416,
    "MethodNotAllowed": 405,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "NoSuchUpload": 404,
    "NotImplemented": 501,
    "PreconditionFailed": 412,
    "RequestTimeTooSkewed": 403,
    "SignatureDoesNotMatch": 403,
}
_KNOWN = {
    *("acl", "location", "prefix", "marker", "max-keys", "delimiter", "uploads", "uploadId", "partNumber"),
    *("AWSAccessKeyId", "Signature", "Expires"),
}
"""Parameters of the first decade."""


def _refuse(call: SignedCall, access_key: str, secret_key: str) -> None:
    raise Refused("AccessDenied")


_CHECKS = {
    "v2": check_version_2,
    "v2-query": check_version_2,
    "v4": check_version_4,
    "v4-query": check_version_4,
    "": _refuse,
}


@dataclass
class Stored:
    """An object."""

    data: bytes
    etag: str
    modified: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Upload:
    bucket: str
    key: str
    metadata: Mapping[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)


class OldS3:
    """A running server."""

    access_key = "cdir-test-key"
    secret_key = "cdir/test+secret"

    def __init__(self, quirks: Quirks) -> None:
        self.quirks = quirks
        """May be changed while the server runs."""
        self.buckets: dict[str, dict[str, Stored]] = {}
        self.uploads: dict[str, _Upload] = {}
        self.calls: list[SignedCall] = []
        """What was asked for, refused calls included."""
        self.redirect_to = ""
        """Where to send everybody, once signatures were checked."""
        self.corrupt_next = False
        """The next object is stored with another byte in it, and the ETag says so."""
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.quirks.base_path}"

    def options(self, bucket: str, profile: str) -> Mapping[str, str | int | bool]:
        """Options of an ``s3`` provider on ``bucket`` of this server."""
        return {
            "bucket": bucket,
            "endpoint": self.endpoint,
            "profile": profile,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
        }

    def put(self, bucket: str, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> Stored:
        """Store an object."""
        if self.corrupt_next:
            self.corrupt_next = False
            data = data[:-1] + bytes([data[-1] ^ 1])
        etag = uuid.uuid4().hex if self.quirks.opaque_etags else _md5(data)
        stored = Stored(data, self._quoted(etag), datetime.now(UTC).replace(microsecond=0), metadata or {})
        self.buckets[bucket][key] = stored
        return stored

    def _quoted(self, etag: str) -> str:
        return f'"{etag}"' if self.quirks.quoted_etags else etag

    # ------------------------------------------------------------------ every request

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        call = SignedCall.of(request.method, request.raw_path, request.headers)
        self.calls.append(call)
        try:
            self._authorize(call)
            if self.redirect_to:
                return web.Response(status=307, headers={"Location": self.redirect_to + request.raw_path})
            return await self._operation(call, request)
        except Refused as refusal:
            code = str(refusal)
            body = f"<Error><Code>{code}</Code><Message>refused for a test</Message></Error>"
            return web.Response(status=_STATUS[code], text=body, content_type="application/xml")

    def _authorize(self, call: SignedCall) -> None:
        try:
            check = _CHECKS[version_of(call) if version_of(call) in self.quirks.signatures else ""]
            check(call, self.access_key, self.secret_key)
        except Refused as refusal:
            raise Refused(self.quirks.denial or str(refusal)) from None

    async def _operation(self, call: SignedCall, request: web.BaseRequest) -> web.StreamResponse:
        base = self.quirks.base_path
        if not call.path.startswith(f"{base}/"):
            raise Refused("InvalidArgument")
        names = {name for name, _ in call.query}
        if not self.quirks.unknown_parameters and not names <= _KNOWN:
            raise Refused("InvalidArgument")
        if "acl" in names:
            if not self.quirks.acl:
                raise Refused("NotImplemented")
            return _xml("AccessControlPolicy", "<AccessControlList/>")
        bucket, _, key = unquote(call.path[len(base) + 1 :]).partition("/")
        if not key:
            return self._of_bucket(call, bucket, names)
        if self.quirks.strips_names:
            key = key.strip(" \t\n\r\x0b\x0c")
        if call.method == "PUT" and bucket not in self.buckets and self.quirks.missing_is_error:
            raise Refused("NoSuchKey")
        objects = self._bucket(bucket)
        if names & {"uploads", "uploadId"}:
            return await self._of_upload(call, request, bucket, key)
        match call.method:
            case "GET" | "HEAD":
                return self._read(call, key, objects)
            case "PUT":
                return await self._write(call, request, bucket, key)
            case "DELETE":
                if objects.pop(key, None) is None and self.quirks.missing_is_error:
                    raise Refused("NoSuchKey")
                return web.Response(status=204)
        raise Refused("MethodNotAllowed")

    def _bucket(self, bucket: str) -> dict[str, Stored]:
        if bucket not in self.buckets:
            raise Refused("NoSuchBucket")
        return self.buckets[bucket]

    # ------------------------------------------------------------------ buckets

    def _of_bucket(self, call: SignedCall, bucket: str, names: set[str]) -> web.Response:
        match call.method:
            case "PUT":
                if bucket in self.buckets:
                    raise Refused("BucketAlreadyOwnedByYou")
                self.buckets[bucket] = {}
                return web.Response()
            case "HEAD" if self.quirks.bucket_head:
                self._bucket(bucket)
                return web.Response()
            case "GET":
                objects = self._bucket(bucket)
                if "uploads" in names:
                    return self._list_uploads(call, bucket)
                return self._list(call, bucket, objects)
        raise Refused("InvalidArgument")

    def _list(self, call: SignedCall, bucket: str, objects: Mapping[str, Stored]) -> web.Response:
        second = self.quirks.list_v2 and call.parameter("list-type") == "2"
        prefix, delimiter = call.parameter("prefix") or "", call.parameter("delimiter") or ""
        after = call.parameter("marker") or ""
        if second:
            after = call.parameter("continuation-token") or call.parameter("start-after") or ""
        limit = int(call.parameter("max-keys") or 0)
        encoded = call.parameter("encoding-type") == "url" and self.quirks.list_v2
        if self.quirks.list_pages:
            limit = min(limit or self.quirks.page, self.quirks.page)
            keys = [key for key in objects if key.startswith(prefix)]
        else:
            # as an SQL database with LIKE finds them
            like = re.escape(prefix).replace("%", ".*").replace("_", ".")
            keys = [key for key in objects if re.match(like, key, re.IGNORECASE | re.DOTALL)]
            delimiter = after = ""
            limit = limit or len(keys)
        places: list[str] = []
        for key in sorted(keys, key=str.encode):
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            place = key if end < 0 else key[: end + 1]
            if place.encode() > after.encode() and place not in places:
                places.append(place)
        shown, cut = places[:limit], len(places) > limit and self.quirks.list_pages
        lines = [f"<Name>{bucket}</Name><IsTruncated>{str(cut).lower()}</IsTruncated>"]

        def name(text: str) -> str:
            return quote(text) if encoded else escape(text)

        if encoded:
            lines.append("<EncodingType>url</EncodingType>")
        if cut and second:
            lines.append(f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>")
        elif cut and delimiter:
            lines.append(f"<NextMarker>{name(shown[-1])}</NextMarker>")
        for place in shown:
            if delimiter and place.endswith(delimiter) and place != prefix:
                lines.append(f"<CommonPrefixes><Prefix>{name(place)}</Prefix></CommonPrefixes>")
            else:
                lines.append(_entry(name(place), objects[place]))
        if self.quirks.ghost == "":
            lines.append("<Contents/>")
        elif self.quirks.ghost is not None and self.quirks.ghost not in objects:
            lines.append(_entry(self.quirks.ghost, Stored(b"", "", datetime.now(UTC))))
        return _xml("ListBucketResult", "".join(lines))

    # ------------------------------------------------------------------ objects

    def _read(self, call: SignedCall, key: str, objects: Mapping[str, Stored]) -> web.Response:
        if key not in objects:
            raise Refused("NoSuchKey")
        stored = objects[key]
        wanted = call.headers.get("if-match")
        if wanted is not None and self.quirks.read_conditions != "ignored":
            if self.quirks.read_conditions == "refused":
                raise Refused("NotImplemented")
            if wanted != stored.etag:
                raise Refused("PreconditionFailed")
        headers = {"ETag": stored.etag}
        headers |= {f"x-amz-meta-{name}": value for name, value in stored.metadata.items()}
        match self.quirks.times:
            case "http":
                headers["Last-Modified"] = format_datetime(stored.modified, usegmt=True)
            case "iso":
                headers["Last-Modified"] = f"{stored.modified:%Y-%m-%dT%H:%M:%S}.000Z"
            case "garbled" if call.method == "HEAD":
                # the day of the week stands for that of the month, and Monday is 0
                headers["Last-Modified"] = f"{stored.modified:%Y-%m}-00T{stored.modified:%H:%M:%S}.000Z"
        if call.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(stored.data))})
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("range", ""))
        if found is None or not self.quirks.ranges:
            return web.Response(body=stored.data, headers=headers)
        start, size = int(found[1]), len(stored.data)
        end = min(int(found[2] or size), size - 1)
        if start >= size:
            raise Refused("InvalidRange")
        headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        return web.Response(status=206, body=stored.data[start : end + 1], headers=headers)

    async def _write(self, call: SignedCall, request: web.BaseRequest, bucket: str, key: str) -> web.Response:
        source = call.headers.get("x-amz-copy-source")
        if source is not None:
            return self._copy(source, bucket, key)
        if self.quirks.write_conditions == "refused" and call.headers.keys() & {"if-match", "if-none-match"}:
            raise Refused("NotImplemented")
        data = await self._body(call, request)
        self._require(call, self._bucket(bucket).get(key))
        return web.Response(headers={"ETag": self.put(bucket, key, data, self._metadata(call)).etag})

    def _require(self, call: SignedCall, stored: Stored | None) -> None:
        if self.quirks.write_conditions != "honoured":
            return
        if "if-none-match" in call.headers and stored is not None:
            raise Refused("PreconditionFailed")
        if "if-match" in call.headers:
            if stored is None:
                raise Refused("NoSuchKey")
            if call.headers["if-match"] != stored.etag:
                raise Refused("PreconditionFailed")

    async def _body(self, call: SignedCall, request: web.BaseRequest) -> bytes:
        size = int(call.headers["content-length"])
        if self.quirks.largest is not None and size > self.quirks.largest:
            raise Refused("EntityTooLarge")
        try:
            if call.headers.get("expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            data = b"".join([piece async for piece in request.content.iter_any()])
        except (ConnectionError, RequestPayloadError):
            data = b""  # the client went away in the middle, and gets no answer
        if len(data) != size:
            raise Refused("InvalidArgument")
        return data

    def _metadata(self, call: SignedCall) -> dict[str, str]:
        if not self.quirks.metadata:
            return {}
        start = len("x-amz-meta-")
        return {name[start:]: value for name, value in call.headers.items() if name.startswith("x-amz-meta-")}

    def _source(self, source: str) -> Stored:
        bucket, _, key = unquote(source).lstrip("/").partition("/")
        stored = self._bucket(bucket).get(key)
        if stored is None:
            raise Refused("NoSuchKey")
        return stored

    def _copy(self, source: str, bucket: str, key: str) -> web.Response:
        stored = self._source(source)
        copied = self.put(bucket, key, stored.data, stored.metadata)
        time = f"<LastModified>{copied.modified:%Y-%m-%dT%H:%M:%S}</LastModified>"
        return _xml("CopyObjectResult", f"{time}<ETag>{escape(copied.etag)}</ETag>")

    # ------------------------------------------------------------------ uploads in parts

    async def _of_upload(self, call: SignedCall, request: web.BaseRequest, bucket: str, key: str) -> web.Response:
        if not self.quirks.multipart:
            raise Refused("NotImplemented")
        if call.method == "POST" and call.parameter("uploads") is not None:
            number = uuid.uuid4().hex
            self.uploads[number] = _Upload(bucket, key, self._metadata(call))
            return _xml("InitiateMultipartUploadResult", f"<UploadId>{number}</UploadId>")
        number = call.parameter("uploadId") or ""
        upload = self.uploads.get(number)
        if upload is None:
            raise Refused("NoSuchUpload")
        match call.method:
            case "PUT":
                source = call.headers.get("x-amz-copy-source")
                if source is not None:
                    return self._copy_part(call, upload, self._source(source))
                data = await self._body(call, request)
                upload.parts[int(call.parameter("partNumber") or 0)] = data
                return web.Response(headers={"ETag": self._quoted(_md5(data))})
            case "POST":
                self._require(call, self._bucket(bucket).get(key))
                return self._complete(number, await request.read())
            case "DELETE":
                del self.uploads[number]
                return web.Response(status=204)
        raise Refused("MethodNotAllowed")

    def _copy_part(self, call: SignedCall, upload: _Upload, stored: Stored) -> web.Response:
        start, _, end = call.headers["x-amz-copy-source-range"].removeprefix("bytes=").partition("-")
        data = stored.data[int(start) : int(end) + 1]
        upload.parts[int(call.parameter("partNumber") or 0)] = data
        return _xml("CopyPartResult", f"<ETag>{escape(self._quoted(_md5(data)))}</ETag>")

    def _complete(self, number: str, body: bytes) -> web.Response:
        upload = self.uploads[number]
        parts = []
        for part in ElementTree.fromstring(body):
            said = {child.tag.rpartition("}")[2]: child.text or "" for child in part}
            data = upload.parts.get(int(said["PartNumber"]))
            if data is None or said["ETag"] != self._quoted(_md5(data)):
                raise Refused("InvalidPart")
            parts.append(data)
        del self.uploads[number]
        stored = self.put(upload.bucket, upload.key, b"".join(parts), upload.metadata)
        digests = b"".join(hashlib.md5(data).digest() for data in parts)
        stored.etag = self._quoted(f"{_md5(digests)}-{len(parts)}")
        return _xml("CompleteMultipartUploadResult", f"<ETag>{escape(stored.etag)}</ETag>")

    def _list_uploads(self, call: SignedCall, bucket: str) -> web.Response:
        if not self.quirks.multipart:
            raise Refused("NotImplemented")
        prefix = call.parameter("prefix") or ""
        now = datetime.now(UTC)
        found = "".join(
            f"<Upload><Key>{escape(upload.key)}</Key><UploadId>{number}</UploadId>"
            f"<Initiated>{now:%Y-%m-%dT%H:%M:%S}.000Z</Initiated></Upload>"
            for number, upload in self.uploads.items()
            if upload.bucket == bucket and upload.key.startswith(prefix)
        )
        return _xml("ListMultipartUploadsResult", f"<IsTruncated>false</IsTruncated>{found}")


def _md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def _entry(name: str, stored: Stored) -> str:
    return (
        f"<Contents><Key>{name}</Key><LastModified>{stored.modified:%Y-%m-%dT%H:%M:%S}.000Z</LastModified>"
        f"<ETag>{escape(stored.etag)}</ETag><Size>{len(stored.data)}</Size></Contents>"
    )


def _xml(name: str, content: str) -> web.Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?><{name} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{content}</{name}>'
    return web.Response(text=body, content_type="application/xml")


@asynccontextmanager
async def old_s3(quirks: Quirks) -> AsyncIterator[OldS3]:
    """Start the server on a free loopback port."""
    server = OldS3(quirks)
    runner = web.ServerRunner(web.Server(server.handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.port = runner.addresses[0][1]
        yield server
    finally:
        await runner.cleanup()
