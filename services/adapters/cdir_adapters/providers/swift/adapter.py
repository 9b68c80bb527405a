"""The adapter of the ``swift`` kind."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cdir.errors import (
    CdirError,
    IntegrityError,
    InvalidPath,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    RangeNotSatisfied,
)
from cdir_adapters.acl import Access
from cdir_adapters.adapter import (
    FULL,
    NO_METADATA,
    Adapter,
    AdapterInfo,
    ByteRange,
    Checksum,
    ObjectInfo,
    ObjectKind,
    Page,
    ReadStream,
    Source,
    Usage,
    WriteMode,
)
from cdir_adapters.capability import Capability, ChecksumKind
from cdir_adapters.names import is_key
from cdir_adapters.providers.swift.faults import READING, Faults
from cdir_adapters.providers.swift.headers import (
    encode_metadata,
    info_of_headers,
    is_large,
    md5_of_etag,
    user_metadata,
)
from cdir_adapters.providers.swift.listing import Row, rows_of_container
from cdir_adapters.providers.swift.reading import open_range
from cdir_adapters.providers.swift.segments import Irregular, Manifest, Segments
from cdir_adapters.providers.swift.settings import SwiftSettings
from cdir_adapters.providers.swift.upload import (
    FANOUT,
    SEGMENT_SIZE,
    Part,
    Segment,
    copying,
    first_cause,
    md5_of,
    parts_of,
)
from cdir_adapters.providers.swift.wire import Pieces, Request, Wire
from cdir_adapters.registry import OptionValue
from cdir_adapters.shapes import (
    BufferedReadStream,
    collect,
    exactly,
    lower_keys,
    require,
    require_write,
    resolve_range,
)

__all__ = ["SwiftAdapter"]

_LOOKING: Final = "looking at an object"

# an empty, "." or ".." component, or a control character


class SwiftAdapter(Adapter):
    """A container, or a prefix in one. Without directories: a prefix exists as long as something lies under it.

    Names that are no keys (an empty, ``.`` or ``..`` component, a control character) and the empty objects with which
    some tools mark folders are left out of listings.

    A write that must not replace anything is not declared: Swift looks whether the object is there before it takes the
    bytes and not after, so that of two slow creators both succeed.
    """

    capability = Capability(
        read_if_match=True,
        write_unknown_size=True,
        write_atomic=True,
        copy=True,
        list_recursive=True,
        list_ordered=True,
        metadata=True,
        modified_settable=True,
        modified_precision=timedelta(microseconds=1),
        usage=True,
        etag=True,
        checksums=frozenset({ChecksumKind.MD5}),
        max_object_size=SEGMENT_SIZE * FANOUT * FANOUT,
        max_path_bytes=1024,
    )

    def __init__(self, name: str, options: Mapping[str, OptionValue]) -> None:
        settings = SwiftSettings.from_options(options)
        self.info = AdapterInfo("swift", name, settings.location)
        self._settings = settings
        self._container = settings.container
        self._faults = Faults(name, settings.auth_url)
        self._wire = Wire(settings, self._faults)
        self._segments = Segments(self._wire, self._faults, settings)

    def __repr__(self) -> str:
        return f"SwiftAdapter({self.info.name!r}, {self.info.location!r})"

    def _path(self, key: str) -> str:
        return f"{self._container}/{self._settings.prefix}{key}"

    # ------------------------------------------------------------------ the root

    async def check(self) -> None:
        query = {"format": "json", "limit": "1", "prefix": self._settings.prefix}
        try:
            await self._wire.headers(Request("GET", self._container, "listing the container", query=query))
        except NotFound:
            raise NotFound(
                f"provider {self.info.name}: there is no container {self._container}", provider=self.info.name
            ) from None

    async def prepare(self) -> None:
        with contextlib.suppress(NotFound):
            await self.check()
            return
        await self._wire.headers(Request("PUT", self._container, "making the container"))

    # ------------------------------------------------------------------ looking

    async def stat(self, key: str) -> ObjectInfo:
        headers = await self._head(key)
        return info_of_headers(key, self._size(key, headers), headers)

    async def _head(self, key: str) -> Mapping[str, str]:
        async with self._wire.telling_apart(self._container):
            return await self._wire.headers(Request("HEAD", self._path(key), _LOOKING, key))

    def _size(self, key: str, headers: Mapping[str, str]) -> int:
        length = headers.get("Content-Length", "")
        if not length.isdecimal():
            raise self._faults.broken(f"the service does not say how large {key} is", _LOOKING)
        return int(length)

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        root = self._settings.prefix
        below = f"{root}{prefix}/" if prefix else root
        rows = rows_of_container(
            self._wire,
            self._faults,
            self._container,
            below,
            delimiter="" if recursive else "/",
            marker="" if start_after is None else root + start_after,
        )
        async with aclosing(rows) as pages:
            async for page in pages:
                infos = (self._info_of_row(row, below) for row in page)
                # an object and a folder may have one name
                found = {(info.key, info.kind): info for info in infos if info is not None and info.key != start_after}
                if found:
                    yield Page(tuple(found.values()))

    def _info_of_row(self, row: Row, below: str) -> ObjectInfo | None:
        """Return what a row of a listing says; ``None`` for one that is no object that was asked for."""
        folder = "subdir" in row
        name = str(row["subdir" if folder else "name"])
        key = name.removeprefix(self._settings.prefix).removesuffix("/" if folder else "")
        if not name.startswith(below) or not is_key(key):
            return None
        if folder:
            return ObjectInfo(key=key, size=0, kind=ObjectKind.DIRECTORY)
        try:
            size, digest = int(row["bytes"]), md5_of_etag(str(row["hash"]))
            modified = datetime.fromisoformat(row["last_modified"]).replace(tzinfo=UTC)
        except (KeyError, TypeError, ValueError):
            raise self._faults.broken("a row of a listing makes no sense", "listing the container") from None
        if size < 0:
            raise self._faults.broken("a row of a listing makes no sense", "listing the container")
        if size == 0 and row.get("content_type") == "application/directory":
            return None
        etag = row.get("slo_etag")
        if etag is not None:
            return ObjectInfo(key=key, size=size, modified=modified, etag=str(etag))
        checksum = Checksum(ChecksumKind.MD5, digest) if digest else None
        return ObjectInfo(key=key, size=size, modified=modified, etag=str(row["hash"]), checksum=checksum)

    async def usage(self) -> Usage:
        doing = "asking for the usage"
        container = await self._wire.headers(Request("HEAD", self._container, doing, self._container))
        told = [(container.get("X-Container-Bytes-Used"), container.get("X-Container-Meta-Quota-Bytes"))]
        with contextlib.suppress(PermissionDenied):  # of a user who was given the container alone
            account = await self._wire.headers(Request("HEAD", "", doing))
            told.append((account.get("X-Account-Bytes-Used"), account.get("X-Account-Meta-Quota-Bytes")))
        numbers = [(_number(used), _number(total)) for used, total in told]
        limited = [(total - used, used, total) for used, total in numbers if used is not None and total is not None]
        if limited:
            free, used, total = min(limited)
            return Usage(used=used, free=max(0, free), total=total)
        # of the account, unless that lags behind or may not be asked for
        return Usage(used=max((used for used, _ in numbers if used is not None), default=None))

    # ------------------------------------------------------------------ reading

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        if if_match is not None:
            require(self, self.capability.read_if_match, "read_if_match")
        async with contextlib.AsyncExitStack() as stack:
            stream: ReadStream | None = None
            if range.length != 0:
                try:
                    async with self._wire.telling_apart(self._container):
                        stream = await stack.enter_async_context(
                            open_range(self._wire, self._faults, self._path(key), key, range, if_match)
                        )
                except RangeNotSatisfied:
                    if range.offset:
                        raise
                    # the whole of an empty object, as a rule
            if stream is None:
                info = await self.stat(key)
                if if_match is not None and info.etag != if_match:
                    raise PreconditionFailed(f"{key} is not the object with the ETag {if_match} any more", key=key)
                if resolve_range(range, info.size, key)[1]:
                    raise self._faults.broken(f"the service refuses a range of {key}", READING)
                stream = BufferedReadStream(info, b"")
            yield stream

    # ------------------------------------------------------------------ writing

    async def write(
        self,
        key: str,
        source: Source,
        *,
        size: int | None,
        modified: datetime,
        mode: WriteMode = WriteMode.OVERWRITE,
        if_match: str | None = None,
        metadata: Mapping[str, str] = NO_METADATA,
        access: Access | None = None,
    ) -> ObjectInfo:
        require_write(self, size, mode, if_match, access)
        limit = self.capability.max_object_size
        if size is not None and limit is not None and size > limit:
            raise InvalidPath(f"{key} has {size} bytes; {limit} are the most that are stored here", key=key)
        headers = encode_metadata(modified, metadata)
        stored = await self._write(key, source, size, headers)
        return dataclasses.replace(stored, modified=modified, metadata=lower_keys(metadata))

    async def _write(self, key: str, source: Source, size: int | None, headers: Mapping[str, str]) -> ObjectInfo:
        if size is not None and size <= SEGMENT_SIZE:
            return await self._put(key, [await collect(source, size, key)], headers)
        parts = parts_of(exactly(source, size, key))
        async with aclosing(parts):
            first: Part = await anext(parts, [])
            if sum(map(len, first)) < SEGMENT_SIZE:
                # a short part is the last one
                return await self._put(key, first, headers)
            sources = _chained(first, parts)
            del first  # not to hold it until all is sent
            return await self._put_large(key, sources, headers)

    async def _put(self, key: str, data: Pieces, headers: Mapping[str, str]) -> ObjectInfo:
        """Store a small object, which the service takes only when its bytes have the MD5 that was announced."""
        size = sum(map(len, data))
        digest = await md5_of(data)
        replaced = await self._replaced(key)
        announced = {**headers, "ETag": digest}
        request = Request("PUT", self._path(key), "storing an object", key, headers=announced, data=data)
        try:
            answered = await self._wire.headers(request)
        except NotFound:
            raise self._faults.container_is_gone(self._container) from None
        etag = answered.get("ETag")
        if md5_of_etag(etag) != digest:
            etag = await self._proven(key, digest, size, etag)
        await self._segments.remove(replaced, self._settings.prefix + key, key)
        return ObjectInfo(key=key, size=size, etag=etag, checksum=Checksum(ChecksumKind.MD5, digest))

    async def _replaced(self, key: str) -> Manifest | None:
        """Return the manifest of a large object that is about to be replaced. Not to know it is no failure: then its
        segments are left to ``sweep``."""
        try:
            return await self._segments.manifest_of(self._settings.prefix + key, key)
        except CdirError:
            return None

    async def _proven(self, key: str, digest: str, size: int, answered: str | None) -> str | None:
        """Look at an object that was stored with another answer than its MD5; return its ETag.

        Raises IntegrityError when it is not what was sent. It is removed if it is what the answer spoke of: anything
        else is what was there before.
        """
        found: Mapping[str, str] = {}
        with contextlib.suppress(NotFound):
            found = await self._head(key)
        etag = found.get("ETag")
        if md5_of_etag(etag) == digest and found.get("Content-Length") == str(size):
            return etag
        if etag is not None and etag == answered:
            await self._wire.headers(Request("DELETE", self._path(key), "removing what is not right", key))
        raise IntegrityError(
            f"provider {self.info.name} said that it stored {key}, but does not hold what was sent", key=key
        )

    async def _put_large(
        self, key: str, sources: AsyncGenerator[Part | Segment, None], headers: Mapping[str, str]
    ) -> ObjectInfo:
        """Store segments, then the manifest that makes the object of them."""
        name = self._settings.prefix + key
        async with aclosing(sources):
            upload = await self._segments.begin(name, key)
            try:
                await upload.fill(sources)
                replaced = await self._replaced(key)
                etag = await upload.commit(headers)
            except BaseException as error:
                self._segments.forget()
                await upload.discard()
                if isinstance(error, BaseExceptionGroup):
                    raise first_cause(error) from None
                raise
        await self._segments.remove(replaced, name, key)
        return ObjectInfo(key=key, size=upload.size, etag=etag)

    # ------------------------------------------------------------------ changing

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        if if_match is not None:
            require(self, self.capability.write_if_match, "write_if_match")
        name = self._settings.prefix + key
        try:
            async with self._wire.telling_apart(self._container):
                manifest = await self._segments.manifest_of(name, key)
                await self._wire.headers(Request("DELETE", self._path(key), "deleting an object", key))
        except NotFound:
            return
        await self._segments.remove(manifest, name, key)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        headers = await self._head(source)
        size = self._size(source, headers)
        # a copy of the manifest would share its segments, and lose them with the first of the two that is deleted
        manifest = await self._segments.manifest(self._path(source), source) if is_large(headers) else None
        copied = False
        if manifest:
            with contextlib.suppress(Irregular):
                await self._put_large(target, self._segments.leaves(manifest, source), _kept(headers))
                copied = True
        if not copied:
            await self._copy_whole(source, target, size)
        try:
            found = await self.stat(target)
        except NotFound as error:
            # NotFound is said of the source alone: callers conclude that nothing is there any more
            raise IntegrityError(
                f"provider {self.info.name} said that it copied {source}, and nothing is at {target}", key=target
            ) from error
        if found.size != size:
            raise IntegrityError(
                f"provider {self.info.name} copied {found.size} of the {size} bytes of {source}", key=target
            )
        return found

    async def _copy_whole(self, source: str, target: str, size: int) -> None:
        replaced = await self._replaced(target)
        async with self._wire.telling_apart(self._container):
            await self._wire.headers(copying(self._path(source), self._path(target), "copying an object", source, size))
        await self._segments.remove(replaced, self._settings.prefix + target, target)

    async def sweep(self, older_than: float) -> int:
        return await self._segments.sweep(datetime.now(UTC) - timedelta(seconds=older_than))

    async def aclose(self) -> None:
        await self._wire.aclose()


async def _chained(first: Part, rest: AsyncGenerator[Part, None]) -> AsyncGenerator[Part | Segment, None]:
    yield first
    del first
    async for part in rest:
        yield part
        del part


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """What the copy of a large object has in common with it besides its bytes."""
    kind = headers.get("Content-Type")
    return user_metadata(headers) | ({"Content-Type": kind} if kind else {})


def _number(value: Any) -> int | None:
    return int(value) if value is not None and str(value).isdecimal() else None
