"""The layer that gives up on a provider that does not answer.

It stands inside the retries, so its limits are those of one attempt.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import TypeVar

from cdir.errors import CdirError, ProviderUnavailable
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

__all__ = ["TimeoutAdapter", "TimeoutSettings"]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutSettings:
    call: float = 30.0
    """Seconds for a call that moves little: stat, delete, a page of a listing, opening an object, a small object."""
    progress: float = 60.0
    """Seconds without a step of a stream: a piece read, the source asked for its next piece, or the end of a write."""
    copy: float = 900.0
    """Seconds for copying, moving or reading an object inside the provider, which takes as long as its disks need."""
    slowest: float = 64 * 1024.0
    """Bytes a second: an object that is sent or fetched whole gets this much longer than ``call`` for its size, and a
    piece of a stream than ``progress``."""


class _PacedSource:
    """A source whose pieces tell that the write gets on. While the source itself is waited for, no time runs."""

    def __init__(self, source: AsyncIterable[bytes], limit: asyncio.Timeout, settings: TimeoutSettings) -> None:
        self._source = source
        self._limit = limit
        self._settings = settings

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        seconds = self._settings.progress
        self._limit.reschedule(None)
        async for piece in self._source:
            self._limit.reschedule(loop.time() + seconds + len(piece) / self._settings.slowest)
            yield piece
            self._limit.reschedule(None)
        self._limit.reschedule(loop.time() + seconds)


class _PacedReadStream(ReadStream):
    def __init__(self, layer: TimeoutAdapter, inner: ReadStream, key: str) -> None:
        self.info = inner.info
        self._layer = layer
        self._inner = inner
        self._key = key

    async def __anext__(self) -> bytes:
        return await self._layer.within(self._layer.settings.progress, "read", self._key, self._inner.__anext__())


class TimeoutAdapter(WrapperAdapter):
    """Turns silence into ProviderUnavailable. Whether a change took effect by then is not known."""

    def __init__(self, inner: Adapter, settings: TimeoutSettings | None = None) -> None:
        super().__init__(inner)
        self.settings = settings or TimeoutSettings()

    def _late(self, verb: str, key: str, seconds: float) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"provider {self.info.name} did not answer to {verb} {key} within {seconds:g} seconds",
            provider=self.info.name,
            key=key,
        )

    async def within(self, seconds: float, verb: str, key: str, call: Awaitable[T]) -> T:
        """Await ``call``. Raises ProviderUnavailable after ``seconds``."""
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await call
        except TimeoutError as error:
            if limit.expired():
                raise self._late(verb, key, seconds) from error
            raise

    async def check(self) -> None:
        await self.within(self.settings.call, "check", "", self.inner.check())

    async def prepare(self) -> None:
        await self.within(self.settings.call, "prepare", "", self.inner.prepare())

    async def stat(self, key: str) -> ObjectInfo:
        return await self.within(self.settings.call, "stat", key, self.inner.stat(key))

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        async with closing(self.inner.list(prefix, recursive=recursive, start_after=start_after)) as pages:
            while (page := await self.within(self.settings.call, "list", prefix, anext(pages, None))) is not None:
                yield page

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        async with AsyncExitStack() as stack:
            opening = stack.enter_async_context(self.inner.read(key, range=range, if_match=if_match))
            stream = await self.within(self.settings.call, "read", key, opening)
            yield _PacedReadStream(self, stream, key)

    async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
        seconds = self.settings.call + (range.length or 0) / self.settings.slowest
        return await self.within(seconds, "fetch", key, self.inner.fetch(key, range=range, if_match=if_match))

    async def fetch_each(self, beginnings: Sequence[Beginning]) -> Sequence[FetchedObject | CdirError]:
        seconds = self.settings.call + sum(one.length for one in beginnings) / self.settings.slowest
        return await self.within(seconds, "fetch_each", beginnings[0].key, self.inner.fetch_each(beginnings))

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
        if isinstance(source, bytes):
            seconds = self.settings.call + len(source) / self.settings.slowest
        else:
            seconds = self.settings.progress
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await self.inner.write(
                    key,
                    source if isinstance(source, bytes) else _PacedSource(source, limit, self.settings),
                    size=size,
                    modified=modified,
                    mode=mode,
                    if_match=if_match,
                    metadata=metadata,
                    access=access,
                )
        except TimeoutError as error:
            if limit.expired():
                raise self._late("write", key, seconds) from error
            raise

    async def write_each(self, objects: Sequence[SmallObject]) -> Sequence[ObjectInfo | CdirError]:
        seconds = self.settings.call + sum(len(one.data) for one in objects) / self.settings.slowest
        return await self.within(seconds, "write_each", objects[0].key, self.inner.write_each(objects))

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        await self.within(self.settings.call, "delete", key, self.inner.delete(key, if_match=if_match))

    async def copy(self, source: str, target: str) -> ObjectInfo:
        return await self.within(self.settings.copy, "copy", source, self.inner.copy(source, target))

    async def move(self, source: str, target: str) -> ObjectInfo:
        return await self.within(self.settings.copy, "move", source, self.inner.move(source, target))

    async def make_directory(self, key: str) -> None:
        await self.within(self.settings.call, "make_directory", key, self.inner.make_directory(key))

    async def remove_directory(self, key: str) -> None:
        await self.within(self.settings.call, "remove_directory", key, self.inner.remove_directory(key))

    async def digest(self, key: str) -> bytes:
        return await self.within(self.settings.copy, "digest", key, self.inner.digest(key))

    async def get_acl(self, key: str) -> Acl:
        return await self.within(self.settings.call, "get_acl", key, self.inner.get_acl(key))

    async def set_acl(self, key: str, acl: Acl) -> Acl:
        return await self.within(self.settings.call, "set_acl", key, self.inner.set_acl(key, acl))

    async def usage(self) -> Usage:
        return await self.within(self.settings.call, "usage", "", self.inner.usage())
