"""The layer that keeps within what a provider and its owner allow: calls at once, calls a second, bytes a second."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

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
from cdir_adapters.layers.wrapper import WrapperAdapter, closing

__all__ = ["OBJECTS_IN_BATCH", "LimitSettings", "RateLimitAdapter"]


OBJECTS_IN_BATCH: Final = 16
"""Most objects of one call of ``fetch_each`` or ``write_each``."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    concurrency: int = 32
    """Calls at once that change something, as many that do not, and as many objects each that are read or stored in
    batches."""
    calls: float | None = None
    """Calls a second; ``None`` is no limit."""
    bandwidth: float | None = None
    """Bytes a second to send, and as many to receive; ``None`` is no limit."""


class _Bucket:
    """Tokens that come at a steady rate; up to a second's worth is saved up. Served in the order of asking."""

    __slots__ = ("_due", "_rate")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._due = 0.0

    async def take(self, tokens: float) -> None:
        now = asyncio.get_running_loop().time()
        self._due = max(self._due, now - 1.0) + tokens / self._rate
        if self._due > now:
            await asyncio.sleep(self._due - now)


class _Slowed:
    """A source that keeps to the bandwidth."""

    def __init__(self, source: AsyncIterable[bytes], bucket: _Bucket) -> None:
        self._source = source
        self._bucket = bucket

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._source:
            await self._bucket.take(len(piece))
            yield piece


class _LimitedReadStream(ReadStream):
    def __init__(self, layer: RateLimitAdapter, inner: ReadStream) -> None:
        self.info = inner.info
        self._layer = layer
        self._inner = inner

    async def __anext__(self) -> bytes:
        async with self._layer.looking:
            piece = await anext(self._inner)
        await self._layer.received(len(piece))
        return piece


class RateLimitAdapter(WrapperAdapter):
    """Holds calls back until they may go.

    Calls that change something and calls that look wait in two lines, since a write may have to wait for a read at the
    same provider (copying by way of this process); a read waits for no one. Between its pieces a read or a listing
    holds no place, however long its consumer takes.
    """

    def __init__(self, inner: Adapter, settings: LimitSettings | None = None) -> None:
        super().__init__(inner)
        self.settings = settings or LimitSettings()
        self.looking = asyncio.Semaphore(self.settings.concurrency)
        self.changing = asyncio.Semaphore(self.settings.concurrency)
        batches = max(self.settings.concurrency // OBJECTS_IN_BATCH, 1)
        self._fetches = asyncio.Semaphore(batches)
        self._stores = asyncio.Semaphore(batches)
        self._calls = _Bucket(self.settings.calls) if self.settings.calls else None
        self._sent = _Bucket(self.settings.bandwidth) if self.settings.bandwidth else None
        self._received = _Bucket(self.settings.bandwidth) if self.settings.bandwidth else None

    async def _may_call(self) -> None:
        if self._calls is not None:
            await self._calls.take(1)

    async def received(self, size: int) -> None:
        if self._received is not None:
            await self._received.take(size)

    async def check(self) -> None:
        await self._may_call()
        await self.inner.check()

    async def stat(self, key: str) -> ObjectInfo:
        async with self.looking:
            await self._may_call()
            return await self.inner.stat(key)

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        async with closing(self.inner.list(prefix, recursive=recursive, start_after=start_after)) as pages:
            while True:
                async with self.looking:
                    await self._may_call()
                    page = await anext(pages, None)
                if page is None:
                    return
                yield page

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        await self._may_call()
        async with self.inner.read(key, range=range, if_match=if_match) as stream:
            yield _LimitedReadStream(self, stream)

    async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
        async with self.looking:
            await self._may_call()
            found = await self.inner.fetch(key, range=range, if_match=if_match)
        await self.received(len(found.data))
        return found

    async def fetch_each(self, beginnings: Sequence[Beginning]) -> Sequence[FetchedObject | CdirError]:
        async with self._fetches:
            if self._calls is not None:
                await self._calls.take(len(beginnings))
            found = await self.inner.fetch_each(beginnings)
        await self.received(sum(len(one.data) for one in found if not isinstance(one, CdirError)))
        return found

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
        async with self.changing:
            await self._may_call()
            if self._sent is not None:
                if isinstance(source, bytes):
                    await self._sent.take(len(source))
                else:
                    source = _Slowed(source, self._sent)
            return await self.inner.write(
                key,
                source,
                size=size,
                modified=modified,
                mode=mode,
                if_match=if_match,
                metadata=metadata,
                access=access,
            )

    async def write_each(self, objects: Sequence[SmallObject]) -> Sequence[ObjectInfo | CdirError]:
        async with self._stores:
            if self._calls is not None:
                await self._calls.take(len(objects))
            if self._sent is not None:
                await self._sent.take(sum(len(one.data) for one in objects))
            return await self.inner.write_each(objects)

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        async with self.changing:
            await self._may_call()
            await self.inner.delete(key, if_match=if_match)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        async with self.changing:
            await self._may_call()
            return await self.inner.copy(source, target)

    async def move(self, source: str, target: str) -> ObjectInfo:
        async with self.changing:
            await self._may_call()
            return await self.inner.move(source, target)

    async def make_directory(self, key: str) -> None:
        async with self.changing:
            await self._may_call()
            await self.inner.make_directory(key)

    async def remove_directory(self, key: str) -> None:
        async with self.changing:
            await self._may_call()
            await self.inner.remove_directory(key)

    async def digest(self, key: str) -> bytes:
        async with self.looking:
            await self._may_call()
            return await self.inner.digest(key)

    async def get_acl(self, key: str) -> Acl:
        async with self.looking:
            await self._may_call()
            return await self.inner.get_acl(key)

    async def set_acl(self, key: str, acl: Acl) -> Acl:
        async with self.changing:
            await self._may_call()
            return await self.inner.set_acl(key, acl)

    async def usage(self) -> Usage:
        async with self.looking:
            await self._may_call()
            return await self.inner.usage()
