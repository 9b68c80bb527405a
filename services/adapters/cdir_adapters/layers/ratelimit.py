"""The layer that keeps within what a provider and its owner allow: calls at once, calls a second, bytes a second."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Final

from cdir.errors import CdirError, IntegrityError, RateLimited
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
from cdir_adapters.layers.lines import Line
from cdir_adapters.layers.places import Places
from cdir_adapters.layers.wrapper import WrapperAdapter, closing
from cdir_adapters.sentinel import MARK_KEY

__all__ = ["OBJECTS_IN_BATCH", "LimitSettings", "Limits", "RateLimitAdapter"]


OBJECTS_IN_BATCH: Final = 16
"""Most objects of one call of ``fetch_each`` or ``write_each``."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    concurrency: int = 32
    """Calls at once that change something, as many that do not, and to begin with as many objects each that are read or
    stored in batches."""
    batched: int = 128
    """Most objects at once that are read in batches, and as many that are stored in them, where that makes none slower;
    each may take a connection. Below ``concurrency`` it says nothing."""
    calls: float | None = None
    """Calls a second; ``None`` is no limit."""
    bandwidth: float | None = None
    """Bytes a second to send, and as many to receive; ``None`` is no limit."""

    def within(self, calls: int | None, objects: int | None) -> LimitSettings:
        """Return them with no more calls and objects at once than an adapter makes; ``None`` is no fewer."""
        return dataclasses.replace(
            self,
            concurrency=self.concurrency if calls is None else min(calls, self.concurrency),
            batched=self.batched if objects is None else min(objects, self.batched),
        )


_PORTION_SECONDS: Final = 0.25
"""How long the bytes last that a transfer takes of the bandwidth at once, before it is another one's turn."""
_LEAST_REQUEST: Final = 64 << 10
"""Bytes that are asked for in one request at least, however slow: each request costs a provider something."""


class _Bucket:
    """Tokens that come at a steady rate; up to a second's worth is saved up. Served in the order of asking."""

    __slots__ = ("_due", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._due = 0.0

    async def take(self, tokens: float) -> None:
        now = asyncio.get_running_loop().time()
        seconds = tokens / self.rate
        self._due = max(self._due, now - 1.0) + seconds
        if self._due > now:
            try:
                await asyncio.sleep(self._due - now)
            except asyncio.CancelledError:
                self._due -= seconds  # who leaves makes nobody wait
                raise


class _Bandwidth(_Bucket):
    """Bytes, shared evenly by the transfers under way: each takes a portion at a time, so a small one is soon done."""

    __slots__ = ("_background",)

    def __init__(self, rate: float | None) -> None:
        super().__init__(rate or math.inf)
        self._background = asyncio.Lock()

    def set_rate(self, rate: float | None) -> None:
        """Change the rate, from the next portion of each transfer under way; ``None`` is no limit."""
        rate = rate or math.inf
        if rate != self.rate:
            self.rate = rate
            self._due = 0.0  # what was taken in advance was so at the old rate

    @property
    def limited(self) -> bool:
        return self.rate != math.inf

    def is_soon(self, size: int) -> bool:
        """Whether so many bytes may go at once: no more than what is saved up at most."""
        return size <= self.rate

    def portion(self, size: int) -> int:
        """Return how much of so many bytes goes first; the rest follows, after those of others who wait."""
        return max(int(min(size, self.rate * _PORTION_SECONDS)), 1)

    async def passed(self, size: int, *, background: bool) -> None:
        """Wait until so many bytes may have passed. All transfers in the background share what one has."""
        while size and self.limited:
            portion = self.portion(size)
            if background:
                async with self._background:
                    await self.take(portion)
            else:
                await self.take(portion)
            size -= portion

    async def slowed(self, source: Source, *, background: bool) -> AsyncGenerator[bytes, None]:
        """Yield a source in portions, each when it may go; without a limit as it comes."""
        async for piece in _one(source) if isinstance(source, bytes) else source:
            rest = piece
            while self.limited and rest:
                portion = self.portion(len(rest))
                await self.passed(portion, background=background)
                yield rest[:portion]
                rest = rest[portion:]
            if rest:
                yield rest


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


class Limits:
    """What the calls to one provider share, through however many stacks they go."""

    def __init__(self, settings: LimitSettings) -> None:
        most = max(settings.batched, settings.concurrency)
        batches = max(most // OBJECTS_IN_BATCH, 1)
        self.looking = Line(settings.concurrency)
        self.changing = Line(settings.concurrency)
        self.fetches = Line(batches)
        self.stores = Line(batches)
        self.fetched = Places(settings.concurrency, most)
        """For the objects of the batches that have a place in ``fetches``."""
        self.stored = Places(settings.concurrency, most)
        self.calls = _Bucket(settings.calls) if settings.calls else None
        self.sent = _Bandwidth(settings.bandwidth)
        self.received = _Bandwidth(settings.bandwidth)

    def set_bandwidth(self, bandwidth: float | None) -> None:
        """Change the bytes a second each way, for what is under way as well; ``None`` is no limit."""
        self.sent.set_rate(bandwidth)
        self.received.set_rate(bandwidth)


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
    holds no place, however long its consumer takes. Checking the provider waits in no line: how busy it is kept says
    nothing about whether it is there.

    With a bandwidth, what takes longer than a second is sent in small pieces and read in small requests, so that no
    transfer holds up the others and none comes in a burst.

    A layer that is ``background`` serves calls that nobody waits for: they hold back for the others.
    """

    def __init__(
        self,
        inner: Adapter,
        settings: LimitSettings | None = None,
        *,
        shared: Limits | None = None,
        background: bool = False,
    ) -> None:
        """``shared`` are the limits of another stack for the same provider; then ``settings`` say nothing."""
        super().__init__(inner)
        self.limits = shared or Limits(settings or LimitSettings())
        self._background = background
        lines = (self.limits.looking, self.limits.changing, self.limits.fetches, self.limits.stores)
        self.looking, self.changing, self._fetches, self._stores = (
            line.background if background else line.foreground for line in lines
        )
        self._fetched, self._stored = self.limits.fetched, self.limits.stored
        self._calls, self._sent, self._received = self.limits.calls, self.limits.sent, self.limits.received

    async def _may_call(self) -> None:
        if self._calls is not None:
            await self._calls.take(1)

    async def received(self, size: int) -> None:
        if self._received.limited:
            await self._received.passed(size, background=self._background)

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
        if key == MARK_KEY:
            await self._may_call()
            return await self.inner.fetch(key, range=range, if_match=if_match)
        if range.length is None or self._received.is_soon(range.length):
            return await self._fetch(key, range, if_match)
        step = max(int(self._received.rate), _LEAST_REQUEST)
        return await self._fetch_slowly(key, range, range.length, if_match, step)

    async def _fetch(self, key: str, range: ByteRange, if_match: str | None) -> FetchedObject:
        async with self.looking:
            await self._may_call()
            found = await self.inner.fetch(key, range=range, if_match=if_match)
        await self.received(len(found.data))
        return found

    async def _fetch_slowly(
        self, key: str, range: ByteRange, length: int, if_match: str | None, step: int
    ) -> FetchedObject:
        """Fetch in requests of ``step`` bytes: none is left waiting half answered, which services do not bear long."""
        found = await self._fetch(key, ByteRange(range.offset, min(step, length)), if_match)
        info, parts = found.info, [found.data]
        end = min(range.offset + length, info.size)
        position = range.offset + len(found.data)
        while position < end:
            part = await self._fetch(key, ByteRange(position, min(step, end - position)), if_match)
            if (part.info.size, part.info.etag) != (info.size, info.etag) or not part.data:
                provider = self.info.name
                raise IntegrityError(f"{key} at provider {provider} was changed while it was read", provider=provider)
            parts.append(part.data)
            position += len(part.data)
        return FetchedObject(info, b"".join(parts))

    async def fetch_each(self, beginnings: Sequence[Beginning]) -> Sequence[FetchedObject | CdirError]:
        if self._received.limited and not self._received.is_soon(sum(one.length for one in beginnings)):
            return await Adapter.fetch_each(self, beginnings)
        async with self._fetches, self._fetched.taken(len(beginnings)):
            if self._calls is not None:
                await self._calls.take(len(beginnings))
            found = await self.inner.fetch_each(beginnings)
            if any(isinstance(one, RateLimited) for one in found):
                self._fetched.refused()
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
        store = functools.partial(
            self.inner.write,
            key,
            size=size,
            modified=modified,
            mode=mode,
            if_match=if_match,
            metadata=metadata,
            access=access,
        )
        async with self.changing:
            await self._may_call()
            if isinstance(source, bytes) and self._sent.is_soon(len(source)):
                await self._sent.passed(len(source), background=self._background)
                return await store(source)
            async with aclosing(self._sent.slowed(source, background=self._background)) as portions:
                return await store(portions)

    async def write_each(self, objects: Sequence[SmallObject]) -> Sequence[ObjectInfo | CdirError]:
        size = sum(len(one.data) for one in objects)
        if not self._sent.is_soon(size):
            return await Adapter.write_each(self, objects)
        async with self._stores, self._stored.taken(len(objects)):
            if self._calls is not None:
                await self._calls.take(len(objects))
            if self._sent.limited:
                await self._sent.passed(size, background=self._background)
            stored = await self.inner.write_each(objects)
            if any(isinstance(one, RateLimited) for one in stored):
                self._stored.refused()
            return stored

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
