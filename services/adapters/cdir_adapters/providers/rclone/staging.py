"""Files on their way to rclone. It keeps a modified time only of a file that it copies, so every object becomes one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import hashlib
import os
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, ParamSpec, Protocol, TypeVar

from cdir.errors import InvalidPath, QuotaExceeded
from cdir_adapters.adapter import Source
from cdir_adapters.providers.rclone.faults import Faults
from cdir_adapters.shapes import PIECE_SIZE, collect, rechunk

__all__ = ["Staged", "Staging"]

T = TypeVar("T")
P = ParamSpec("P")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_BLOCK: Final = 2 * PIECE_SIZE


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Staged:
    """A file with the content and the modified time of an object."""

    name: str
    size: int
    digest: str | None
    """Lower-case hex, of the kind that was asked for."""


class _Room:
    """Bytes that may lie on the way at once, handed out in the order of asking.

    Who knows how much it needs takes it at once, and so needs no more to finish. Of the others one is served at a time;
    it grows in front of the queue, since what it holds comes back only when it ends.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.growing = asyncio.Lock()

    async def take(self, size: int, *, first: bool = False) -> None:
        if size <= self._free and (first or not self._waiting):
            self._free -= size
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, granted)
        if first:
            self._waiting.appendleft(entry)
        else:
            self._waiting.append(entry)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.give(size)
            else:
                self._waiting.remove(entry)
                self._grant()
            raise

    def give(self, size: int) -> None:
        self._free += size
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, granted = self._waiting.popleft()
            if granted.cancelled():
                continue
            self._free -= size
            granted.set_result(None)


class Staging:
    """Makes staged files within a limit of space."""

    def __init__(self, limit: int, faults: Faults) -> None:
        self._limit = limit
        self._faults = faults
        self._room = _Room(limit)

    @asynccontextmanager
    async def staged(
        self, folder: Path, source: Source, size: int | None, key: str, modified: datetime, digest: str | None
    ) -> AsyncIterator[Staged]:
        """A file that holds ``source``, removed in the end. Raises what :func:`exactly` raises, and QuotaExceeded."""
        if isinstance(source, bytes):
            source = await collect(source, size, key)
            size = len(source)
        if size is not None and size > self._limit:
            raise self._too_large(key)
        path = folder / uuid.uuid4().hex
        async with contextlib.AsyncExitStack() as stack:
            if size is None:
                await stack.enter_async_context(self._room.growing)
            else:
                await self._room.take(size)
                stack.callback(self._room.give, size)
            stack.push_async_callback(_to_end, _remove, path)
            summed = hashlib.new(digest, usedforsecurity=False) if digest else None
            nanoseconds = (modified - _EPOCH) // _MICROSECOND * 1000
            with self._explained(key):
                if isinstance(source, bytes):
                    await _to_end(_store, path, source, summed, nanoseconds)
                    length = len(source)
                else:
                    length = await self._spool(stack, path, source, size, key, summed, nanoseconds)
            yield Staged(path.name, length, summed.hexdigest() if summed else None)

    async def _spool(
        self,
        stack: contextlib.AsyncExitStack,
        path: Path,
        source: Source,
        size: int | None,
        key: str,
        summed: _Digest | None,
        nanoseconds: int,
    ) -> int:
        length = 0
        file = await _to_end(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            async with aclosing(rechunk(source, _BLOCK, size=size, key=key)) as blocks:
                async for block in blocks:
                    if size is None:
                        if length + len(block) > self._limit:
                            raise self._too_large(key)
                        await self._room.take(len(block), first=True)
                        stack.callback(self._room.give, len(block))
                    await _to_end(_append, file, block, summed)
                    length += len(block)
            await _to_end(os.utime, file, ns=(nanoseconds, nanoseconds))
        finally:
            os.close(file)
        return length

    def _too_large(self, key: str) -> InvalidPath:
        return InvalidPath(
            f"{key} is larger than what may lie on the way to provider {self._faults.provider} ({self._limit} bytes);"
            " raise its option staging_limit",
            key=key,
        )

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise QuotaExceeded(
                    f"no space is left on the disk for what is on its way to provider {self._faults.provider}; make"
                    " room, or set its option staging",
                    key=key,
                ) from None
            raise self._faults.unavailable(
                f"a temporary file cannot be written ({error.strerror})", "staging a file", key
            ) from None


async def _to_end(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a call in a thread, and do not leave before it has ended: what follows undoes it."""
    work = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        if not work.cancelled():
            work.exception()
        raise


def _store(path: Path, data: bytes, summed: _Digest | None, nanoseconds: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _append(file, data, summed)
        os.utime(file, ns=(nanoseconds, nanoseconds))
    finally:
        os.close(file)


def _append(file: int, block: bytes, summed: _Digest | None) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(file, rest) :]
    if summed is not None:
        summed.update(block)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
