"""An adapter that fails on request: the programmable fault for tests of whatever stands on adapters.

::

    faulty = FaultyAdapter(MemoryAdapter("memory"))
    faulty.fail("write", ProviderUnavailable("gone"), at=2)  # the second write, before anything happens
    faulty.fail("write", ProviderUnavailable("gone"), applied=True)  # the first one takes effect, but reports an error
    faulty.stall("stat")  # never answers
    faulty.truncate("fetch", 3)  # hands out 3 bytes as if they were all
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TypeVar

from cdir_adapters.acl import Access
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

__all__ = ["Fault", "FaultyAdapter"]

T = TypeVar("T")


@dataclasses.dataclass(slots=True, kw_only=True)
class Fault:
    """What happens to some calls of one verb: those from number ``at`` (1 is the first) on, ``times`` in a row."""

    verb: str
    at: int = 1
    times: int = 1
    error: Exception | None = None
    applied: bool = False
    """The error comes after the call has taken effect."""
    stalls: bool = False
    """The call never comes back."""
    keep: int | None = None
    """How many bytes of the content are handed out; after them ``error``, or an end as if it were all."""
    corrupts: bool = False
    """The first byte handed out has another value."""
    hits: int = 0
    """How many calls it has happened to."""


class FaultyAdapter(WrapperAdapter):
    """Hands calls on, except those with a fault. ``read`` and ``list`` are counted when they are entered or begun."""

    def __init__(self, inner: Adapter) -> None:
        super().__init__(inner)
        self.calls: Counter[str] = Counter()
        """Calls so far, by verb, faulty ones included."""
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def fail(self, verb: str, error: Exception, *, at: int = 1, times: int = 1, applied: bool = False) -> Fault:
        return self.add(Fault(verb=verb, error=error, at=at, times=times, applied=applied))

    def stall(self, verb: str, *, at: int = 1, times: int = 1) -> Fault:
        return self.add(Fault(verb=verb, stalls=True, at=at, times=times))

    def truncate(self, verb: str, keep: int, *, error: Exception | None = None, at: int = 1, times: int = 1) -> Fault:
        return self.add(Fault(verb=verb, keep=keep, error=error, at=at, times=times))

    def corrupt(self, verb: str, *, at: int = 1, times: int = 1) -> Fault:
        return self.add(Fault(verb=verb, corrupts=True, at=at, times=times))

    def clear(self) -> None:
        """Drop all faults and begin to count anew."""
        self._faults.clear()
        self.calls.clear()

    def assert_all_hit(self) -> None:
        """Fail when a fault never happened: then a test has not tested what it says."""
        missed = [fault for fault in self._faults if not fault.hits]
        assert not missed, f"faults that never happened: {missed}"

    def _next_fault(self, verb: str) -> Fault | None:
        self.calls[verb] += 1
        number = self.calls[verb]
        for fault in self._faults:
            if fault.verb == verb and fault.at <= number < fault.at + fault.times:
                fault.hits += 1
                return fault
        return None

    @staticmethod
    async def _before(fault: Fault | None) -> None:
        if fault is None:
            return
        if fault.stalls:
            await asyncio.Event().wait()
        if fault.error is not None and not fault.applied and fault.keep is None:
            raise fault.error

    async def _call(self, verb: str, call: Callable[[], Awaitable[T]]) -> T:
        fault = self._next_fault(verb)
        await self._before(fault)
        result = await call()
        if fault is not None and fault.error is not None and fault.applied:
            raise fault.error
        return result

    async def check(self) -> None:
        await self._call("check", self.inner.check)

    async def prepare(self) -> None:
        await self._call("prepare", self.inner.prepare)

    async def stat(self, key: str) -> ObjectInfo:
        return await self._call("stat", lambda: self.inner.stat(key))

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        """``keep`` counts pages here."""
        fault = self._next_fault("list")
        await self._before(fault)
        number = 0
        async with closing(self.inner.list(prefix, recursive=recursive, start_after=start_after)) as pages:
            async for page in pages:
                if fault is not None and fault.keep == number:
                    break
                yield page
                number += 1
        if fault is not None and fault.error is not None:
            raise fault.error

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        fault = self._next_fault("read")
        await self._before(fault)
        async with self.inner.read(key, range=range, if_match=if_match) as stream:
            yield stream if fault is None else _FaultyReadStream(stream, fault)

    async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
        fault = self._next_fault("fetch")
        await self._before(fault)
        found = await self.inner.fetch(key, range=range, if_match=if_match)
        if fault is None:
            return found
        if fault.error is not None:
            raise fault.error
        return FetchedObject(found.info, _spoil(found.data[: fault.keep], fault))

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
        """``keep`` and ``corrupts`` are about the content stored here; it must be bytes then."""
        fault = self._next_fault("write")
        await self._before(fault)
        if fault is not None and (fault.keep is not None or fault.corrupts):
            assert isinstance(source, bytes)
            source = _spoil(source[: fault.keep], fault)
            size = len(source)
        info = await self.inner.write(
            key, source, size=size, modified=modified, mode=mode, if_match=if_match, metadata=metadata, access=access
        )
        if fault is not None and fault.error is not None:
            raise fault.error
        return info

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        await self._call("delete", lambda: self.inner.delete(key, if_match=if_match))

    async def copy(self, source: str, target: str) -> ObjectInfo:
        return await self._call("copy", lambda: self.inner.copy(source, target))

    async def move(self, source: str, target: str) -> ObjectInfo:
        return await self._call("move", lambda: self.inner.move(source, target))

    async def make_directory(self, key: str) -> None:
        await self._call("make_directory", lambda: self.inner.make_directory(key))

    async def remove_directory(self, key: str) -> None:
        await self._call("remove_directory", lambda: self.inner.remove_directory(key))

    async def digest(self, key: str) -> bytes:
        return await self._call("digest", lambda: self.inner.digest(key))

    async def usage(self) -> Usage:
        return await self._call("usage", self.inner.usage)


def _spoil(data: bytes, fault: Fault) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:] if fault.corrupts and data else data


class _FaultyReadStream(ReadStream):
    def __init__(self, inner: ReadStream, fault: Fault) -> None:
        self.info = inner.info
        self._inner = inner
        self._fault = fault
        self._left = fault.keep
        self._begun = False

    async def __anext__(self) -> bytes:
        if self._left == 0:
            if self._fault.error is not None:
                raise self._fault.error
            raise StopAsyncIteration
        piece = await self._inner.__anext__()
        if self._left is not None:
            piece = piece[: self._left]
            self._left -= len(piece)
        if not self._begun:
            self._begun = True
            piece = _spoil(piece, self._fault)
        return piece
