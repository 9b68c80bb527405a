"""The layer that stops asking a provider that does not answer, and finds out when it does again.

It stands outside the retries: one count is a call that failed for good.
"""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from datetime import datetime

from cdir.errors import CdirError, DeadlineExceeded, ProviderUnavailable
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
from cdir_adapters.layers.retry import tried_once
from cdir_adapters.layers.wrapper import WatchedSource, WrapperAdapter, closing

__all__ = ["BreakerAdapter", "BreakerSettings", "BreakerState"]


class BreakerState(enum.StrEnum):
    CLOSED = "closed"
    """Calls pass."""
    OPEN = "open"
    """Calls are refused at once."""
    HALF_OPEN = "half-open"
    """One call is under way to find out; the others are refused."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    failures: int = 5
    """Calls in a row that must find the provider unavailable before it is left alone."""
    pause: float = 1.0
    """Seconds until one call may try again, a single time."""


class _CountedReadStream(ReadStream):
    """Counts what breaks off; a stream that has begun is not refused."""

    def __init__(self, layer: BreakerAdapter, inner: ReadStream) -> None:
        self.info = inner.info
        self._layer = layer
        self._inner = inner

    async def __anext__(self) -> bytes:
        try:
            return await self._inner.__anext__()
        except (ProviderUnavailable, DeadlineExceeded):
            self._layer.failed()
            raise


class BreakerAdapter(WrapperAdapter):
    """Refuses calls with ProviderUnavailable while the provider is known not to answer.

    Any answer, an error such as NotFound included, shows that the provider is there. ``check`` always passes, whatever
    the state, and what it finds counts: asking whether the provider is back is its purpose.
    """

    def __init__(
        self,
        inner: Adapter,
        settings: BreakerSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner)
        self.settings = settings or BreakerSettings()
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._trying = False

    @property
    def state(self) -> BreakerState:
        if self._opened_at is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._trying else BreakerState.OPEN

    def _answered(self) -> None:
        self._failures = 0
        self._opened_at = None

    def failed(self) -> None:
        """Count a failure."""
        self._failures += 1
        if self._opened_at is not None or self._failures >= self.settings.failures:
            self._opened_at = self._clock()

    def _enter(self) -> bool:
        """Let a call pass; return whether it is the one that tries. Raises ProviderUnavailable."""
        if self._opened_at is None:
            return False
        left = self._opened_at + self.settings.pause - self._clock()
        if left > 0 or self._trying:
            raise ProviderUnavailable(
                f"provider {self.info.name} did not answer to {self._failures} calls in a row; it is tried again in"
                f" {max(left, 1.0):.0f} seconds",
                retry_after=max(left, 1.0),
                provider=self.info.name,
            )
        self._trying = True
        return True

    @contextmanager
    def _counted(self, source: WatchedSource | None = None, *, always: bool = False) -> Iterator[None]:
        """Let a call pass and learn from how it ends. A cancelled one teaches nothing, nor do a source's own errors."""
        trying = False if always else self._enter()
        try:
            with tried_once() if trying else nullcontext():
                yield
        except (ProviderUnavailable, DeadlineExceeded) as error:
            if source is None or source.error is not error:
                self.failed()
            raise
        except CdirError as error:
            if source is None or source.error is not error:
                self._answered()
            raise
        else:
            self._answered()
        finally:
            if trying:
                self._trying = False

    async def check(self) -> None:
        with self._counted(always=True):
            await self.inner.check()

    async def prepare(self) -> None:
        with self._counted(always=True):
            await self.inner.prepare()

    async def stat(self, key: str) -> ObjectInfo:
        with self._counted():
            return await self.inner.stat(key)

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        async with closing(self.inner.list(prefix, recursive=recursive, start_after=start_after)) as pages:
            while True:
                with self._counted():
                    page = await anext(pages, None)
                if page is None:
                    return
                yield page

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        async with AsyncExitStack() as stack:
            with self._counted():
                stream = await stack.enter_async_context(self.inner.read(key, range=range, if_match=if_match))
            yield _CountedReadStream(self, stream)

    async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
        with self._counted():
            return await self.inner.fetch(key, range=range, if_match=if_match)

    async def fetch_each(self, beginnings: Sequence[Beginning]) -> Sequence[FetchedObject | CdirError]:
        """One call, as far as counting goes. Raises the first error where nothing else than no answer came."""
        with self._counted():
            found = await self.inner.fetch_each(beginnings)
            if found and all(isinstance(one, (ProviderUnavailable, DeadlineExceeded)) for one in found):
                assert isinstance(found[0], CdirError)
                raise found[0]
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
        with self._counted(watched):
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

    async def write_each(self, objects: Sequence[SmallObject]) -> Sequence[ObjectInfo | CdirError]:
        """One call, as :meth:`fetch_each`."""
        with self._counted():
            stored = await self.inner.write_each(objects)
            if stored and all(isinstance(one, (ProviderUnavailable, DeadlineExceeded)) for one in stored):
                assert isinstance(stored[0], CdirError)
                raise stored[0]
            return stored

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        with self._counted():
            await self.inner.delete(key, if_match=if_match)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        with self._counted():
            return await self.inner.copy(source, target)

    async def move(self, source: str, target: str) -> ObjectInfo:
        with self._counted():
            return await self.inner.move(source, target)

    async def make_directory(self, key: str) -> None:
        with self._counted():
            await self.inner.make_directory(key)

    async def remove_directory(self, key: str) -> None:
        with self._counted():
            await self.inner.remove_directory(key)

    async def digest(self, key: str) -> bytes:
        with self._counted():
            return await self.inner.digest(key)

    async def get_acl(self, key: str) -> Acl:
        with self._counted():
            return await self.inner.get_acl(key)

    async def set_acl(self, key: str, acl: Acl) -> Acl:
        with self._counted():
            return await self.inner.set_acl(key, acl)

    async def usage(self) -> Usage:
        with self._counted():
            return await self.inner.usage()

    async def sweep(self, older_than: float) -> int:
        with self._counted():
            return await self.inner.sweep(older_than)
