"""The layer that counts: calls, errors, bytes and time, for each verb.

Nothing but numbers in memory; whoever publishes them takes a :meth:`MetricsAdapter.snapshot`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from types import TracebackType

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
from cdir_adapters.layers.wrapper import WatchedSource, WrapperAdapter, closing

__all__ = ["MetricsAdapter", "MetricsSnapshot", "VerbSnapshot"]

_WEIGHT = 0.2
"""How much the newest call counts in the average latency."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerbSnapshot:
    calls: int
    """Calls that ended, however."""
    errors: Mapping[str, int]
    """How many of them failed, by the error's reason; CANCELLED where the caller left."""
    seconds: float | None
    """Average time of the recent ones that succeeded, an exponentially weighted mean; ``None`` before the first. For
    ``read`` it is the time until the object was open, for ``list`` that of a page."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSnapshot:
    in_flight: int
    bytes_in: int
    """Content received."""
    bytes_out: int
    """Content sent, that of failed calls included."""
    verbs: Mapping[str, VerbSnapshot]


class _Verb:
    """The numbers of one verb, and the context in which a call of it runs."""

    __slots__ = ("calls", "errors", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.errors: Counter[str] = Counter()
        self.seconds: float | None = None

    def ended(self, seconds: float, error: BaseException | None) -> None:
        self.calls += 1
        if error is None:
            self.seconds = seconds if self.seconds is None else self.seconds + _WEIGHT * (seconds - self.seconds)
        elif isinstance(error, CdirError):
            self.errors[error.reason] += 1
        elif isinstance(error, asyncio.CancelledError):
            self.errors["CANCELLED"] += 1
        elif not isinstance(error, StopAsyncIteration):
            self.errors["INTERNAL"] += 1


class _Call:
    __slots__ = ("_begun", "_layer", "_verb")

    def __init__(self, layer: MetricsAdapter, verb: str) -> None:
        self._layer = layer
        self._verb = layer.verb(verb)

    def __enter__(self) -> None:
        self._layer.in_flight += 1
        self._begun = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._layer.in_flight -= 1
        self._verb.ended(time.perf_counter() - self._begun, error)


class _MeasuredReadStream(ReadStream):
    def __init__(self, layer: MetricsAdapter, inner: ReadStream) -> None:
        self.info = inner.info
        self._layer = layer
        self._inner = inner

    async def __anext__(self) -> bytes:
        try:
            piece = await self._inner.__anext__()
        except CdirError as error:
            self._layer.verb("read").errors[error.reason] += 1
            raise
        self._layer.bytes_in += len(piece)
        return piece


class MetricsAdapter(WrapperAdapter):
    """Measures what the callers of the stack see."""

    def __init__(self, inner: Adapter) -> None:
        super().__init__(inner)
        self._verbs: dict[str, _Verb] = {}
        self.in_flight = 0
        self.bytes_in = 0
        self.bytes_out = 0

    def verb(self, name: str) -> _Verb:
        """Return the numbers of one verb."""
        found = self._verbs.get(name)
        if found is None:
            found = self._verbs[name] = _Verb()
        return found

    def snapshot(self) -> MetricsSnapshot:
        """Return all numbers as they are now; verbs that were never called are absent."""
        return MetricsSnapshot(
            in_flight=self.in_flight,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            verbs={
                name: VerbSnapshot(calls=verb.calls, errors=dict(verb.errors), seconds=verb.seconds)
                for name, verb in self._verbs.items()
            },
        )

    async def check(self) -> None:
        with _Call(self, "check"):
            await self.inner.check()

    async def stat(self, key: str) -> ObjectInfo:
        with _Call(self, "stat"):
            return await self.inner.stat(key)

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        async with closing(self.inner.list(prefix, recursive=recursive, start_after=start_after)) as pages:
            while True:
                with _Call(self, "list"):
                    page = await anext(pages, None)
                if page is None:
                    return
                yield page

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        async with AsyncExitStack() as stack:
            with _Call(self, "read"):
                stream = await stack.enter_async_context(self.inner.read(key, range=range, if_match=if_match))
            yield _MeasuredReadStream(self, stream)

    async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
        with _Call(self, "fetch"):
            found = await self.inner.fetch(key, range=range, if_match=if_match)
        self.bytes_in += len(found.data)
        return found

    async def fetch_each(self, beginnings: Sequence[Beginning]) -> Sequence[FetchedObject | CdirError]:
        with _Call(self, "fetch_each"):
            found = await self.inner.fetch_each(beginnings)
        for one in found:
            if isinstance(one, CdirError):
                self.verb("fetch_each").errors[one.reason] += 1
            else:
                self.bytes_in += len(one.data)
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
        watched = None if isinstance(source, bytes) else WatchedSource(source)
        try:
            with _Call(self, "write"):
                return await self.inner.write(
                    key,
                    watched or source,
                    size=size,
                    modified=modified,
                    mode=mode,
                    if_match=if_match,
                    metadata=metadata,
                    access=access,
                )
        finally:
            self.bytes_out += watched.size if watched is not None else len(source) if isinstance(source, bytes) else 0

    async def write_each(self, objects: Sequence[SmallObject]) -> Sequence[ObjectInfo | CdirError]:
        try:
            with _Call(self, "write_each"):
                stored = await self.inner.write_each(objects)
        finally:
            self.bytes_out += sum(len(one.data) for one in objects)
        for one in stored:
            if isinstance(one, CdirError):
                self.verb("write_each").errors[one.reason] += 1
        return stored

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        with _Call(self, "delete"):
            await self.inner.delete(key, if_match=if_match)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        with _Call(self, "copy"):
            return await self.inner.copy(source, target)

    async def move(self, source: str, target: str) -> ObjectInfo:
        with _Call(self, "move"):
            return await self.inner.move(source, target)

    async def make_directory(self, key: str) -> None:
        with _Call(self, "make_directory"):
            await self.inner.make_directory(key)

    async def remove_directory(self, key: str) -> None:
        with _Call(self, "remove_directory"):
            await self.inner.remove_directory(key)

    async def digest(self, key: str) -> bytes:
        with _Call(self, "digest"):
            return await self.inner.digest(key)

    async def get_acl(self, key: str) -> Acl:
        with _Call(self, "get_acl"):
            return await self.inner.get_acl(key)

    async def set_acl(self, key: str, acl: Acl) -> Acl:
        with _Call(self, "set_acl"):
            return await self.inner.set_acl(key, acl)

    async def usage(self) -> Usage:
        with _Call(self, "usage"):
            return await self.inner.usage()

    async def sweep(self, older_than: float) -> int:
        with _Call(self, "sweep"):
            return await self.inner.sweep(older_than)
