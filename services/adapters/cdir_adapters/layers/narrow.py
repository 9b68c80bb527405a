"""The layer that holds an adapter to what was found when its provider was probed.

Several servers accept a condition and ignore it. What the adapter's code could do and the server behind it cannot is
refused here, before it does harm.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from cdir.errors import CdirError
from cdir_adapters.acl import Access, Acl
from cdir_adapters.adapter import (
    FULL,
    NO_METADATA,
    Adapter,
    ByteRange,
    FetchedObject,
    ObjectInfo,
    Page,
    ReadStream,
    SmallObject,
    Source,
    Usage,
    WriteMode,
)
from cdir_adapters.capability import Capability
from cdir_adapters.layers.wrapper import WrapperAdapter, closing
from cdir_adapters.shapes import require, require_write

__all__ = ["NarrowAdapter"]


class NarrowAdapter(WrapperAdapter):
    """Allows what both the adapter and ``capability`` allow; the rest raises Unsupported."""

    def __init__(self, inner: Adapter, capability: Capability) -> None:
        super().__init__(inner)
        self.capability = inner.capability.narrowed_by(capability)

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        require(self, start_after is None or self.capability.list_ordered, "list_ordered")
        async with closing(self.inner.list(prefix, recursive=recursive, start_after=start_after)) as pages:
            async for page in pages:
                yield page

    def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AbstractAsyncContextManager[ReadStream]:
        require(self, if_match is None or self.capability.read_if_match, "read_if_match")
        return self.inner.read(key, range=range, if_match=if_match)

    async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
        require(self, if_match is None or self.capability.read_if_match, "read_if_match")
        return await self.inner.fetch(key, range=range, if_match=if_match)

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
        return await self.inner.write(
            key, source, size=size, modified=modified, mode=mode, if_match=if_match, metadata=metadata, access=access
        )

    async def write_each(self, objects: Sequence[SmallObject]) -> Sequence[ObjectInfo | CdirError]:
        for one in objects:
            require_write(self, len(one.data), one.mode, None, one.access)
        return await self.inner.write_each(objects)

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        require(self, if_match is None or self.capability.write_if_match, "write_if_match")
        await self.inner.delete(key, if_match=if_match)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        require(self, self.capability.copy, "copy")
        return await self.inner.copy(source, target)

    async def move(self, source: str, target: str) -> ObjectInfo:
        require(self, self.capability.move, "move")
        return await self.inner.move(source, target)

    async def make_directory(self, key: str) -> None:
        require(self, self.capability.directories, "directories")
        await self.inner.make_directory(key)

    async def remove_directory(self, key: str) -> None:
        require(self, self.capability.directories, "directories")
        await self.inner.remove_directory(key)

    async def digest(self, key: str) -> bytes:
        require(self, self.capability.digest, "digest")
        return await self.inner.digest(key)

    async def get_acl(self, key: str) -> Acl:
        require(self, self.capability.acl, "acl")
        return await self.inner.get_acl(key)

    async def set_acl(self, key: str, acl: Acl) -> Acl:
        require(self, self.capability.acl, "acl")
        if not self.capability.acl_grants:
            acl = Acl(acl.access)
        return await self.inner.set_acl(key, acl)

    async def usage(self) -> Usage:
        require(self, self.capability.usage, "usage")
        return await self.inner.usage()
