"""The one layer that retries.

Outside of it nothing is tried twice in a row: an error that comes out after the last attempt is marked as exhausted.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TypeVar

from cdir.errors import AlreadyExists, CdirError, NotFound, PreconditionFailed, Retry
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
    Source,
    Usage,
    WriteMode,
)
from cdir_adapters.layers.wrapper import WrapperAdapter, closing

__all__ = ["RetryAdapter", "RetrySettings", "tried_once"]

T = TypeVar("T")

_once: ContextVar[bool] = ContextVar("cdir_adapters.tried_once", default=False)


@contextmanager
def tried_once() -> Iterator[None]:
    """What fails within is not tried again: it only asks whether the provider is back."""
    token = _once.set(True)
    try:
        yield
    finally:
        _once.reset(token)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    attempts: int = 5
    """Most attempts of one call, the first included."""
    budget: float = 10.0
    """Seconds after the first attempt began in which another one may still begin."""
    first_delay: float = 0.15
    """Seconds; the pause before attempt n is drawn evenly from 0 to this times 2 to the power of n - 2."""
    longest_delay: float = 5.0
    """Seconds that a pause never exceeds, unless the provider asks for more."""


class _Attempts:
    """The attempts of one call."""

    __slots__ = ("_begun", "_layer", "failed", "number")

    def __init__(self, layer: RetryAdapter) -> None:
        self._layer = layer
        self._begun = layer.clock()
        self.number = 1
        self.failed: CdirError | None = None
        """How the attempt before failed; its outcome at the provider is unknown."""

    async def pause(self, error: CdirError) -> None:
        """Wait until it is time to try again. Raises ``error``, exhausted, when that is no use."""
        settings = self._layer.settings
        if error.retry is not Retry.LATER:
            raise error
        if _once.get():
            raise error.exhausted() from error
        delay = self._layer.jitter() * min(settings.first_delay * 2 ** (self.number - 1), settings.longest_delay)
        if error.retry_after is not None:
            delay = max(delay, error.retry_after)
        spent = self._layer.clock() - self._begun
        if self.number >= settings.attempts or spent + delay > settings.budget:
            raise error.exhausted() from error
        await self._layer.sleep(delay)
        self.number += 1
        self.failed = error


class RetryAdapter(WrapperAdapter):
    """Tries again what failed with an error that passes (``retry`` is LATER), after a pause with full jitter.

    What ``fetch_each`` does not get and ``write_each`` does not store is not tried again: their callers go on with such
    objects one by one.
    A stream of content cannot be had twice, so a ``write`` is retried only when its source is bytes. ``read`` and
    ``list`` are retried until they have given their first piece; after that the caller decides.

    An attempt that failed may have taken effect all the same. So a retried conditional ``write`` that finds its
    condition broken looks whether the object there is what it wrote, and a retried ``move`` that misses its source
    reports the first failure.

    ``clock``, ``sleep`` and ``jitter`` (0 to 1) are there for tests.
    """

    def __init__(
        self,
        inner: Adapter,
        settings: RetrySettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(inner)
        self.settings = settings or RetrySettings()
        self.clock = clock
        self.sleep = sleep
        self.jitter = jitter

    async def _try(self, call: Callable[..., Awaitable[T]], *arguments: object) -> T:
        try:
            return await call(*arguments)
        except CdirError as error:
            attempts = _Attempts(self)
            failed = error
        while True:
            await attempts.pause(failed)
            try:
                return await call(*arguments)
            except CdirError as error:
                failed = error

    async def check(self) -> None:
        await self._try(self.inner.check)

    async def prepare(self) -> None:
        await self._try(self.inner.prepare)

    async def stat(self, key: str) -> ObjectInfo:
        return await self._try(self.inner.stat, key)

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        attempts = _Attempts(self)
        while True:
            begun = False
            try:
                async with closing(self.inner.list(prefix, recursive=recursive, start_after=start_after)) as pages:
                    async for page in pages:
                        begun = True
                        yield page
            except CdirError as error:
                if begun:
                    raise
                await attempts.pause(error)
            else:
                return

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        attempts = _Attempts(self)
        async with AsyncExitStack() as stack:
            while True:
                try:
                    stream = await stack.enter_async_context(self.inner.read(key, range=range, if_match=if_match))
                    break
                except CdirError as error:
                    await attempts.pause(error)
            yield stream

    async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
        async def call() -> FetchedObject:
            return await self.inner.fetch(key, range=range, if_match=if_match)

        return await self._try(call)

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
        if not isinstance(source, bytes):
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
        attempts = _Attempts(self)
        while True:
            try:
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
            except (AlreadyExists, PreconditionFailed):
                if attempts.failed is not None:
                    ours = await self._find_same(key, source)
                    if ours is not None:
                        return ours
                raise
            except CdirError as error:
                await attempts.pause(error)

    async def _find_same(self, key: str, data: bytes) -> ObjectInfo | None:
        """Return what lies at ``key`` when it is ``data``: then an attempt that failed had taken effect."""
        try:
            found = await self._try(self.inner.stat, key)
            if found.size != len(data):
                return None
            return found if (await self.fetch(key)).data == data else None
        except NotFound:
            return None

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        async def call() -> None:
            await self.inner.delete(key, if_match=if_match)

        await self._try(call)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        return await self._try(self.inner.copy, source, target)

    async def move(self, source: str, target: str) -> ObjectInfo:
        attempts = _Attempts(self)
        while True:
            try:
                return await self.inner.move(source, target)
            except NotFound as error:
                if attempts.failed is not None:
                    raise attempts.failed.exhausted() from error
                raise
            except CdirError as error:
                await attempts.pause(error)

    async def make_directory(self, key: str) -> None:
        await self._try(self.inner.make_directory, key)

    async def remove_directory(self, key: str) -> None:
        await self._try(self.inner.remove_directory, key)

    async def digest(self, key: str) -> bytes:
        return await self._try(self.inner.digest, key)

    async def get_acl(self, key: str) -> Acl:
        return await self._try(self.inner.get_acl, key)

    async def set_acl(self, key: str, acl: Acl) -> Acl:
        return await self._try(self.inner.set_acl, key, acl)

    async def usage(self) -> Usage:
        return await self._try(self.inner.usage)

    async def sweep(self, older_than: float) -> int:
        return await self._try(self.inner.sweep, older_than)
