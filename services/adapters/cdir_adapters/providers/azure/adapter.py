"""The adapter of the ``azure`` kind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from azure.core import MatchConditions
from azure.storage.blob import BlobProperties

from cdir.errors import (
    AlreadyExists,
    CdirError,
    IntegrityError,
    InvalidPath,
    NotFound,
    PreconditionFailed,
    ProviderUnavailable,
    RangeNotSatisfied,
)
from cdir_adapters.acl import Access
from cdir_adapters.adapter import (
    FULL,
    NO_METADATA,
    Adapter,
    AdapterInfo,
    ByteRange,
    ObjectInfo,
    Page,
    ReadStream,
    Source,
    WriteMode,
)
from cdir_adapters.capability import Capability, ChecksumKind
from cdir_adapters.providers.azure.blocks import LARGEST_OBJECT, MIN_BLOCK, Blocks
from cdir_adapters.providers.azure.connections import Connections
from cdir_adapters.providers.azure.faults import Fault, Faults
from cdir_adapters.providers.azure.listing import Lister
from cdir_adapters.providers.azure.properties import (
    FORBIDDEN_NAMES,
    checksum_of_md5,
    decode_metadata,
    encode_metadata,
    is_folder,
    modified_of,
    quoted,
)
from cdir_adapters.providers.azure.settings import AzureSettings
from cdir_adapters.providers.azure.wire import Condition, Opened, Wire
from cdir_adapters.registry import OptionValue
from cdir_adapters.shapes import (
    BufferedReadStream,
    chained,
    collect,
    exactly,
    first_cause,
    lower_keys,
    require,
    require_write,
    resolve_range,
)
from cdir_runtime.inline_hash import hash_inline

__all__ = ["AzureAdapter"]

_BLOCKS_ABOVE = MIN_BLOCK
"""Larger objects are sent in blocks."""
_COPY_LIMIT = 256 * 1024 * 1024
"""The most that one copy request takes; larger objects are copied in blocks of :data:`_COPY_BLOCK`."""
_COPY_BLOCK = 100 * 1024 * 1024
_INLINE_DIGEST = 256 * 1024
"""Up to this many bytes a digest takes less time than handing it to a thread is worth."""


class AzureAdapter(Adapter):
    """A container, or a prefix in one. Without directories: a prefix exists as long as something lies under it.

    Names that have no normal form (an empty, ``.`` or ``..`` component, the ``folder/`` marks of some tools) can be
    named by nobody here and are left out of listings, as are the marks of real directories.
    """

    capability = Capability(
        write_if_absent=True,
        write_if_match=True,
        read_if_match=True,
        write_unknown_size=True,
        write_atomic=True,
        copy=True,
        list_recursive=True,
        list_ordered=True,
        list_current=True,
        metadata=True,
        modified_settable=True,
        modified_listed=True,
        modified_precision=timedelta(microseconds=1),
        etag=True,
        checksums=frozenset({ChecksumKind.MD5}),
        max_object_size=LARGEST_OBJECT,
        max_path_bytes=1024,
        forbidden_names=FORBIDDEN_NAMES,
    )

    def __init__(self, name: str, options: Mapping[str, OptionValue]) -> None:
        settings = AzureSettings.from_options(options)
        self.info = AdapterInfo("azure", name, settings.location)
        self._settings = settings
        self._faults = Faults(name, settings.container, settings.endpoint)
        self._connections = Connections(settings)
        self._wire = Wire(settings, self._connections, self._faults)
        self._lister = Lister(settings, self._connections, self._faults)

    def __repr__(self) -> str:
        return f"AzureAdapter({self.info.name!r}, {self.info.location!r})"

    # ------------------------------------------------------------------ the root

    async def check(self) -> None:
        try:
            with self._faults.translated("listing the container", parsing=True):
                container = await self._connections.container()
                async for _ in container.list_blobs(name_starts_with=self._settings.prefix or None, results_per_page=1):
                    break
        except ProviderUnavailable as error:
            if error.context.get("code") != "ContainerNotFound":
                raise
            raise NotFound(
                f"provider {self.info.name}: there is no container {self._settings.container}", provider=self.info.name
            ) from None

    async def prepare(self) -> None:
        with contextlib.suppress(NotFound):
            await self.check()
            await self._narrow()
            return
        try:
            with self._faults.translated("making the container"):
                await (await self._connections.container()).create_container()
        except AlreadyExists:
            await self.check()
        await self._narrow()

    async def _narrow(self) -> None:
        if await self._lister.is_hierarchical():
            self.capability = dataclasses.replace(self.capability, list_ordered=False)

    # ------------------------------------------------------------------ looking

    async def stat(self, key: str) -> ObjectInfo:
        with self._faults.translated("looking at an object", key, parsing=True):
            blob = (await self._connections.container()).get_blob_client(self._settings.name_of(key))
            found = await blob.get_blob_properties()
            info = _info_of_properties(key, found)
        if is_folder(found.metadata):
            raise self._faults.error(Fault(404, "BlobNotFound"), "looking at an object", key)
        return info

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        if start_after is not None:
            await self._narrow()
            require(self, self.capability.list_ordered, "list_ordered")
        async with contextlib.aclosing(
            self._lister.pages(prefix, recursive=recursive, start_after=start_after)
        ) as pages:
            async for page in pages:
                yield Page(tuple(page))

    # ------------------------------------------------------------------ reading

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        if if_match is not None:
            require(self, self.capability.read_if_match, "read_if_match")
        async with contextlib.AsyncExitStack() as stack:
            if range.length == 0:
                # HTTP cannot ask for nothing
                info = await self._matching(key, if_match)
                resolve_range(range, info.size, key)
                yield BufferedReadStream(info, b"")
                return
            try:
                opened = await stack.enter_async_context(self._wire.open(key, range, if_match))
            except RangeNotSatisfied:
                if range.offset:
                    raise
                info = await self._matching(key, if_match)
                if info.size:
                    raise
                yield BufferedReadStream(info, b"")
                return
            yield _Body(_info_of_opened(key, opened), opened)

    async def _matching(self, key: str, if_match: str | None) -> ObjectInfo:
        info = await self.stat(key)
        if if_match is not None and info.etag != if_match:
            raise PreconditionFailed(f"{key} is not the object with the ETag {if_match} any more", key=key)
        return info

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
        self._settings.name_of(key)
        if size is not None and size > LARGEST_OBJECT:
            raise InvalidPath(f"{key} has {size} bytes; {LARGEST_OBJECT} are the most that can be sent", key=key)
        condition = Condition(absent=mode is WriteMode.CREATE, etag=if_match)
        headers = encode_metadata(modified, metadata)
        if size is not None and size <= _BLOCKS_ABOVE:
            stored = await self._put(key, await collect(source, size, key), headers, condition)
        else:
            stored = await self._write_stream(key, source, size, headers, condition)
        return dataclasses.replace(stored, modified=modified, metadata=lower_keys(metadata))

    async def _write_stream(
        self, key: str, source: Source, size: int | None, headers: Mapping[str, str], condition: Condition
    ) -> ObjectInfo:
        async with contextlib.aclosing(exactly(source, size, key)) as pieces:
            begun: list[bytes] = []
            length = 0
            async for piece in pieces:
                begun.append(piece)
                length += len(piece)
                if length > _BLOCKS_ABOVE:
                    return await self._write_blocks(key, chained(begun, pieces), size, headers, condition)
            return await self._put(key, b"".join(begun), headers, condition)

    async def _put(self, key: str, data: bytes, headers: Mapping[str, str], condition: Condition) -> ObjectInfo:
        """Store a small object; what the service says it received must be what was sent."""
        if len(data) <= _INLINE_DIGEST:
            digest = hash_inline(hashlib.md5, data).digest()
        else:
            digest = await asyncio.to_thread(_md5, data)
        try:
            stored = await self._wire.put(key, data, digest, headers, condition)
        except (NotFound, PreconditionFailed) as error:
            raise self._unmet(key, condition, error) from error
        checksum = checksum_of_md5(digest)
        if stored.etag is None or checksum_of_md5(stored.md5) != checksum:
            return await self._proven(key, len(data), digest, stored.etag)
        return ObjectInfo(key=key, size=len(data), etag=stored.etag, checksum=checksum)

    async def _write_blocks(
        self,
        key: str,
        pieces: AsyncIterator[bytes],
        size: int | None,
        headers: Mapping[str, str],
        condition: Condition,
    ) -> ObjectInfo:
        blocks = Blocks(self._wire, key)
        try:
            await blocks.send(pieces, size)
        except BaseExceptionGroup as error:
            raise first_cause(error) from None
        stated = {"x-ms-blob-content-md5": base64.b64encode(blocks.md5).decode()}
        try:
            etag = await self._wire.commit(key, blocks.ids, stated, headers, condition)
        except (NotFound, PreconditionFailed) as error:
            raise self._unmet(key, condition, error) from error
        return await self._proven(key, blocks.length, blocks.md5, etag)

    def _unmet(self, key: str, condition: Condition, error: CdirError) -> CdirError:
        """The error for a condition that does not hold."""
        if condition.absent and isinstance(error, PreconditionFailed):
            return AlreadyExists(f"{key} exists already at provider {self.info.name}", key=key)
        if condition.etag is not None:
            return PreconditionFailed(f"{key} is not the object with the ETag {condition.etag} any more", key=key)
        return error

    async def _proven(self, key: str, size: int, digest: bytes, etag: str | None) -> ObjectInfo:
        """Look at what is stored. Raises IntegrityError when that is not what was sent; it is removed if it is ours."""
        try:
            found = await self.stat(key)
        except NotFound as error:
            raise IntegrityError(
                f"provider {self.info.name} said that it stored {key}, and nothing is there", key=key
            ) from error
        if (found.size, found.checksum) == (size, checksum_of_md5(digest)):
            return found
        if found.etag != etag:
            raise IntegrityError(
                f"provider {self.info.name} said that it stored {key}, and something else is there: it was lost, or"
                " another writer came right after",
                key=key,
            )
        await self.delete(key, if_match=etag)
        raise IntegrityError(
            f"provider {self.info.name} stored other bytes for {key} than were sent; they were removed", key=key
        )

    # ------------------------------------------------------------------ changing

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        options: dict[str, Any] = {}
        if if_match is not None:
            require(self, self.capability.write_if_match, "write_if_match")
            options.update(etag=if_match, match_condition=MatchConditions.IfNotModified)
        with contextlib.suppress(NotFound):
            try:
                with self._faults.translated("deleting an object", key):
                    blob = (await self._connections.container()).get_blob_client(self._settings.name_of(key))
                    await blob.delete_blob(**options)
            except PreconditionFailed:
                await self.stat(key)  # a missing object fails the condition too
                raise

    async def copy(self, source: str, target: str) -> ObjectInfo:
        self._settings.name_of(target)
        with self._faults.translated("looking at an object", source, parsing=True):
            container = await self._connections.container()
            found = await container.get_blob_client(self._settings.name_of(source)).get_blob_properties()
            before = _info_of_properties(source, found)
        if before.size > _COPY_LIMIT:
            await self._copy_blocks(source, target, found)
        else:
            with self._faults.translated("copying an object", source, parsing=True):
                # the source is named by a signed URL, which the library must not sign or encode once more
                address = str(await self._connections.url(self._settings.name_of(source)))
                blob = container.get_blob_client(self._settings.name_of(target))
                await blob.start_copy_from_url(address, requires_sync=True)
        try:
            copied = await self.stat(target)
        except NotFound as error:
            # NotFound is said of the source alone: callers conclude that nothing is there any more
            raise IntegrityError(
                f"provider {self.info.name} said that it copied {source}, and nothing is at {target}", key=target
            ) from error
        # the service may have taken the MD5 of something that had none
        if copied.size != before.size or (before.checksum is not None and copied.checksum != before.checksum):
            raise IntegrityError(
                f"provider {self.info.name} copied {copied.size} of the {before.size} bytes of {source}", key=target
            )
        return copied

    async def _copy_blocks(self, source: str, target: str, found: BlobProperties) -> None:
        blocks = Blocks(self._wire, target)
        await blocks.copy_from(source, found.size, _COPY_BLOCK, found.etag)
        settings = found.content_settings
        md5 = settings.content_md5
        headers = {
            "x-ms-blob-content-md5": md5 and base64.b64encode(md5).decode(),
            "x-ms-blob-content-type": settings.content_type,
            "x-ms-blob-content-encoding": settings.content_encoding,
            "x-ms-blob-content-language": settings.content_language,
            "x-ms-blob-content-disposition": settings.content_disposition,
            "x-ms-blob-cache-control": settings.cache_control,
        }
        stated = {name: str(value) for name, value in headers.items() if value}
        await self._wire.commit(target, blocks.ids, stated, found.metadata or {}, Condition())

    async def sweep(self, older_than: float) -> int:
        """Nothing to do: blocks that were never committed cannot be listed, and the service forgets them after a
        week."""
        return 0

    async def aclose(self) -> None:
        await self._connections.aclose()


def _info_of_properties(key: str, found: BlobProperties) -> ObjectInfo:
    return ObjectInfo(
        key=key,
        size=int(found.size),
        modified=modified_of(found.metadata, found.last_modified),
        etag=quoted(found.etag),
        checksum=checksum_of_md5(found.content_settings.content_md5),
        metadata=decode_metadata(found.metadata),
    )


def _info_of_opened(key: str, opened: Opened) -> ObjectInfo:
    return ObjectInfo(
        key=key,
        size=opened.size,
        modified=modified_of(opened.metadata, opened.modified),
        etag=opened.etag,
        checksum=checksum_of_md5(opened.md5),
        metadata=decode_metadata(opened.metadata),
    )


class _Body(ReadStream):
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
                raise IntegrityError(
                    f"{self.info.key}: the service ended the body {self._left} bytes early", key=self.info.key
                ) from None
            raise
        self._left -= len(piece)
        return piece


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
