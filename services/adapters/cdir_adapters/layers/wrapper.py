"""What all layers share: an adapter that hands every call to another one."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime

from cdir.errors import CdirError
from cdir_adapters.acl import Access, Acl
from cdir_adapters.adapter import (
    FULL,
    NO_METADATA,
    Adapter,
    Beginning,
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

__all__ = ["WatchedSource", "WrapperAdapter", "closing"]


@asynccontextmanager
async def closing(pages: AsyncIterator[Page]) -> AsyncIterator[AsyncIterator[Page]]:
    """Close a listing that is left early at once, not when it is collected as garbage."""
    try:
        yield pages
    finally:
        close = getattr(pages, "aclose", None)
        if close is not None:
            await close()


class WrapperAdapter(Adapter):
    """Hands every call to ``inner``, an adapter or another layer. Layers override the calls they care about."""

    def __init__(self, inner: Adapter) -> None:
        self.inner = inner
        self.info = inner.info
        self.capability = inner.capability

    async def check(self) -> None:
        await self.inner.check()

    async def prepare(self) -> None:
        await self.inner.prepare()

    async def stat(self, key: str) -> ObjectInfo:
        return await self.inner.stat(key)

    def list(self, prefix: str, *, recursive: bool = False, start_after: str | None = None) -> AsyncIterator[Page]:
        return self.inner.list(prefix, recursive=recursive, start_after=start_after)

    def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AbstractAsyncContextManager[ReadStream]:
        return self.inner.read(key, range=range, if_match=if_match)

    async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
        return await self.inner.fetch(key, range=range, if_match=if_match)

    async def fetch_each(self, beginnings: Sequence[Beginning]) -> Sequence[FetchedObject | CdirError]:
        return await self.inner.fetch_each(beginnings)

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
        return await self.inner.write(
            key, source, size=size, modified=modified, mode=mode, if_match=if_match, metadata=metadata, access=access
        )

    async def write_each(self, objects: Sequence[SmallObject]) -> Sequence[ObjectInfo | CdirError]:
        return await self.inner.write_each(objects)

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        await self.inner.delete(key, if_match=if_match)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        return await self.inner.copy(source, target)

    async def move(self, source: str, target: str) -> ObjectInfo:
        return await self.inner.move(source, target)

    async def make_directory(self, key: str) -> None:
        await self.inner.make_directory(key)

    async def remove_directory(self, key: str) -> None:
        await self.inner.remove_directory(key)

    async def digest(self, key: str) -> bytes:
        return await self.inner.digest(key)

    async def get_acl(self, key: str) -> Acl:
        return await self.inner.get_acl(key)

    async def set_acl(self, key: str, acl: Acl) -> Acl:
        return await self.inner.set_acl(key, acl)

    async def usage(self) -> Usage:
        return await self.inner.usage()

    async def sweep(self, older_than: float) -> int:
        return await self.inner.sweep(older_than)

    async def aclose(self) -> None:
        await self.inner.aclose()


class WatchedSource:
    """The pieces of a source, and what broke in it: its errors come out of ``write``, but are not the provider's."""

    __slots__ = ("_source", "error", "size")

    def __init__(self, source: AsyncIterable[bytes]) -> None:
        self._source = source
        self.size = 0
        """Bytes handed out so far."""
        self.error: BaseException | None = None
        """What the source raised."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._source:
                self.size += len(piece)
                yield piece
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise
