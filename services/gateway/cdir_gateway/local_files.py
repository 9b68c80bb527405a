"""Files of the machine that gateway and caller share: sources of writes and targets of reads.

Only the one-process deployment does this, where both are the same user. The caller names a source with its identity,
so that the bytes stored are surely those of the file the caller meant. A target appears whole, by rename, or not at
all. Everything here blocks and runs in threads; small files are done many at a time, because changing threads costs
more than reading a small file.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeVar

from cdir.errors import (
    CdirError,
    InternalError,
    InvalidArgument,
    IsDirectory,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    Unsupported,
)
from cdir.v1 import directory_service_pb2
from cdir_gateway.batching import Batcher
from cdir_transfer.digest import BLOCK_SIZE, ContentDigest

__all__ = ["LocalContent", "LocalFiles", "LocalPlacement", "LocalSource", "LocalTarget"]

_SOURCE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TARGET_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE_SIZE: Final = 256 << 10
"""Bytes written at once. For a write of megabytes the kernel may take huge pages; in a virtual machine that gets its
memory from the host as it is used, that was seen to cost up to ten times the copying."""
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Item = TypeVar("Item")
Result = TypeVar("Result")


class LocalContent(NamedTuple):
    """A small local file, read whole."""

    data: bytes
    sha256: bytes


class LocalPlacement(NamedTuple):
    """A small file to put in place."""

    path: str
    data: bytes
    modified_ns: int


class LocalSource:
    """A local file being read. Blocking; close it."""

    def __init__(self, source: directory_service_pb2.LocalFile) -> None:
        """Open the file. Raises InvalidArgument when it is not the file the caller saw, NotFound, PermissionDenied."""
        self._source = source
        if not os.path.isabs(source.path):
            raise InvalidArgument(f"the local path {source.path!r} is not absolute")
        try:
            # without O_NONBLOCK a FIFO would wait for a writer
            self._fd = os.open(source.path, _SOURCE_FLAGS)
        except OSError as error:
            raise _local_error(source.path, error) from error
        self._offset = 0
        try:
            self._check_identity()
        except CdirError:
            self.close()
            raise

    def read_next(self, most: int = BLOCK_SIZE, digest: ContentDigest | None = None) -> bytes:
        """Return the next ``most`` bytes (fewer at the end, none after it), added to ``digest``."""
        pieces: list[bytes] = []
        # memory is taken for all that is asked for; one byte more than the file had tells that it has grown
        wanted = min(most, self._source.size - self._offset + 1)
        try:
            while wanted and (piece := os.pread(self._fd, wanted, self._offset)):
                pieces.append(piece)
                wanted -= len(piece)
                self._offset += len(piece)
        except OSError as error:
            raise _local_error(self._source.path, error) from error
        if self._offset > self._source.size:
            raise self._changed()
        block = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if digest is not None:
            digest.update(block)
        return block

    def check_unchanged(self) -> None:
        """Raise InvalidArgument unless the whole file was read and it is still what it was."""
        if self._offset != self._source.size:
            raise self._changed()
        self._check_identity()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _check_identity(self) -> None:
        found, source = os.fstat(self._fd), self._source
        if not stat.S_ISREG(found.st_mode):
            raise InvalidArgument(f"{source.path} is not a regular file")
        seen = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if seen != (source.device, source.inode, source.size, source.modified_ns):
            raise self._changed()

    def _changed(self) -> InvalidArgument:
        return InvalidArgument(f"{self._source.path} changed while it was read; put it again")


class LocalTarget:
    """A local file being written beside its place. Blocking; :meth:`finish` or :meth:`discard` it."""

    def __init__(self, path: str, modified_ns: int) -> None:
        """Make the temporary file. Raises NotFound (no such folder), IsDirectory, PermissionDenied, QuotaExceeded."""
        if not os.path.isabs(path):
            raise InvalidArgument(f"the local path {path!r} is not absolute")
        folder, name = os.path.split(path)
        if not name or os.path.isdir(path):
            raise IsDirectory(f"{path} is a directory; name a file")
        self._path = path
        self._modified_ns = modified_ns
        short = name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")
        self._temporary = os.path.join(folder, f".{short}.cdir-{secrets.token_hex(6)}")
        try:
            self._fd = os.open(self._temporary, _TARGET_FLAGS, 0o666)
        except OSError as error:
            raise _local_error(path, error) from error

    def write_at(self, offset: int, data: bytes) -> None:
        """Write a piece."""
        try:
            rest = memoryview(data)
            while rest:
                written = os.pwrite(self._fd, rest[:_WRITE_SIZE], offset)
                rest = rest[written:]
                offset += written
        except OSError as error:
            raise _local_error(self._path, error) from error

    def finish(self) -> None:
        """Set the modified time and put the file in its place."""
        try:
            os.utime(self._fd, ns=(self._modified_ns, self._modified_ns))
            os.close(self._fd)
            self._fd = -1
            os.replace(self._temporary, self._path)
        except OSError as error:
            raise _local_error(self._path, error) from error

    def discard(self) -> None:
        """Remove the temporary file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)


class LocalFiles:
    """Reads and writes whole small local files, many in one change of threads.

    ``enabled`` false refuses everything with Unsupported: callers may be on another machine.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._sources: Batcher[directory_service_pb2.LocalFile, LocalContent] = Batcher(
            _in_thread(_read_whole), max_items=64, parallel=2
        )
        self._targets: Batcher[LocalPlacement, None] = Batcher(_in_thread(_place), max_items=64, parallel=2)
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(self._sources)
            await exits.enter_async_context(self._targets)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exits.__aexit__(kind, error, trace)

    def check_enabled(self) -> None:
        """Raise Unsupported unless local files may be named."""
        if not self.enabled:
            raise Unsupported("this gateway does not read or write files of its own machine; send or receive the bytes")

    async def read_whole(self, source: directory_service_pb2.LocalFile) -> LocalContent:
        """Read a source of at most 4 MiB; errors as :class:`LocalSource`."""
        return await self._sources.submit(source)

    async def read_each(self, sources: Sequence[directory_service_pb2.LocalFile]) -> Sequence[LocalContent | Exception]:
        """As :meth:`read_whole`, for several sources; what that would raise stands in the place of its content."""
        return await self._sources.submit_each(sources)

    async def place(self, placement: LocalPlacement) -> None:
        """Write a small target; errors as :class:`LocalTarget`."""
        await self._targets.submit(placement)

    @staticmethod
    async def open_source(source: directory_service_pb2.LocalFile) -> LocalSource:
        """Open a large source in a thread."""
        return await _opened(lambda: LocalSource(source), LocalSource.close)

    @staticmethod
    async def open_target(path: str, modified_ns: int) -> LocalTarget:
        """Begin a large target in a thread."""
        return await _opened(lambda: LocalTarget(path, modified_ns), LocalTarget.discard)


async def _opened(open_file: Callable[[], Result], undo: Callable[[Result], None]) -> Result:
    """Open in a thread; what a caller that left no longer takes is undone."""
    opening = asyncio.ensure_future(asyncio.to_thread(open_file))

    def forgotten(opened: asyncio.Future[Result]) -> None:
        if not opened.cancelled() and opened.exception() is None:
            undo(opened.result())

    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(forgotten)
        raise


def _read_whole(source: directory_service_pb2.LocalFile) -> LocalContent:
    opened = LocalSource(source)
    try:
        data = opened.read_next()
        opened.check_unchanged()
    finally:
        opened.close()
    return LocalContent(data, hashlib.sha256(data).digest())


def _place(placement: LocalPlacement) -> None:
    target = LocalTarget(placement.path, placement.modified_ns)
    try:
        target.write_at(0, placement.data)
        target.finish()
    except CdirError:
        target.discard()
        raise


def _in_thread(
    work: Callable[[Item], Result],
) -> Callable[[str, list[Item]], asyncio.Future[Sequence[Result | Exception]]]:
    def each(items: list[Item]) -> Sequence[Result | Exception]:
        results: list[Result | Exception] = []
        for item in items:
            try:
                results.append(work(item))
            except Exception as error:
                results.append(error)
        return results

    return lambda _, items: asyncio.ensure_future(asyncio.to_thread(each, items))


def _local_error(path: str, error: OSError) -> CdirError:
    match error.errno:
        case errno.ENOENT:
            return NotFound(f"{path}: no such file or directory on this machine")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return PermissionDenied(f"{path}: {error.strerror}")
        case errno.EISDIR:
            return IsDirectory(f"{path} is a directory; name a file")
        case errno.ELOOP | errno.ENOTDIR | errno.ENAMETOOLONG | errno.ENXIO:
            return InvalidArgument(f"{path}: {error.strerror}; name a regular file by its real path")
        case code if code in _FULL:
            return QuotaExceeded(f"{path}: {error.strerror}; make room on this machine's disk")
        case _:
            return InternalError(f"{path}: {error.strerror}")
