"""The ``local`` kind: a folder on a disk, a memory card or a network mount of this machine.

Objects are plain files under their own names. What happens on the disk stands in ``local_tree``, ``local_transfers``
and ``local_batches`` beside this file; here it is given threads. File calls block, so they run in a few threads of the
adapter's own: a disk that hangs then delays no other provider. A small object costs one hop to a thread at most.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta
from itertools import chain
from typing import TypeVar

from cdir.errors import CdirError, ConfigInvalid, InvalidPath, IsDirectory
from cdir_adapters.acl import Access, Acl
from cdir_adapters.adapter import (
    FULL,
    NO_METADATA,
    Adapter,
    AdapterInfo,
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
from cdir_adapters.capability import Capability
from cdir_adapters.modes import acl_of_mode, mode_of, require_mode
from cdir_adapters.providers.local_batches import SmallUpload, fetch_beginnings, store_small
from cdir_adapters.providers.local_transfers import FileReader, Upload, Walker
from cdir_adapters.providers.local_tree import TEMPORARY, Tree, info_of, nanoseconds_of
from cdir_adapters.registry import OptionValue
from cdir_adapters.shapes import PIECE_SIZE, collect, exactly, require, require_write

__all__ = ["LocalAdapter"]

T = TypeVar("T")

_THREADS = 8
"""Most of a small write is waiting for the disk to confirm; this many may wait at once."""

_BATCH = 4 * PIECE_SIZE
"""Bytes that a streamed write gathers before it hops to a thread."""

_TOGETHER = 8
"""Small files that one thread stores in one go: enough to share their folder, few enough for the disk to be asked to
confirm several at once."""


class _FileStream(ReadStream):
    def __init__(self, adapter: LocalAdapter, key: str, reader: FileReader, info: ObjectInfo, first: bytes) -> None:
        self.info = info
        self._adapter = adapter
        self._key = key
        self._reader = reader
        self._first = first

    async def __anext__(self) -> bytes:
        piece, self._first = self._first, b""
        if not piece and self._reader.left:
            piece = await self._adapter.in_thread(self._key, self._reader.read)
        if not piece:
            raise StopAsyncIteration
        return piece


_Outcome = TypeVar("_Outcome", ObjectInfo, ObjectInfo | CdirError)


def _with_access(outcome: _Outcome, access: Access | None) -> _Outcome:
    if access is None or isinstance(outcome, CdirError):
        return outcome
    return dataclasses.replace(outcome, access=access)


class LocalAdapter(Adapter):
    """A folder of plain files.

    The option ``root`` is its absolute path. Until the sentinel ``.cdir/provider`` lies there, only that and the
    capability probe's folder can be used; anything else raises ProviderUnavailable: the disk may not be mounted.
    """

    capability = Capability(
        write_if_absent=True,
        # no file system compares and replaces in one step
        write_if_match=False,
        read_if_match=True,
        write_unknown_size=True,
        write_atomic=True,
        copy=True,
        move=True,
        directories=True,
        list_recursive=True,
        list_current=True,
        modified_settable=True,
        modified_listed=True,
        modified_precision=timedelta(microseconds=1),
        acl=os.name == "posix",
        write_access=os.name == "posix",
        usage=True,
        etag=True,
        max_name_bytes=255,
    )

    def __init__(self, name: str, options: Mapping[str, OptionValue]) -> None:
        root = options.get("root")
        if not isinstance(root, str) or not root:
            raise ConfigInvalid("kind local needs the option root", option="root")
        self.info = AdapterInfo("local", name, root)
        self._tree = Tree(root, name)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"cdir-local-{name}")

    async def in_thread(self, key: str, work: Callable[..., T], *arguments: object) -> T:
        """Run blocking ``work`` in one of the adapter's threads; what the system refuses becomes an error of cdir."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        except OSError as error:
            raise self._tree.translate(error, key) from error

    def _tidy(self, work: Callable[[], None]) -> None:
        """Have files closed behind a caller who leaves. Not awaited: a disk that hangs must not keep the caller."""
        try:
            self._threads.submit(work)
        except RuntimeError:  # the adapter was closed first
            work()

    async def check(self) -> None:
        """See :meth:`Adapter.check`. Whether the folder carries the sentinel is told by reading that."""
        await self.in_thread("", self._tree.check)

    async def prepare(self) -> None:
        await self.in_thread("", self._tree.prepare)

    async def stat(self, key: str) -> ObjectInfo:
        return info_of(key, await self.in_thread(key, self._tree.stat, key))

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        require(self, start_after is None or self.capability.list_ordered, "list_ordered")
        walker = Walker(self._tree, prefix, recursive)
        try:
            while objects := await self.in_thread(prefix, walker.next_page):
                yield Page(objects)
        finally:
            self._tidy(walker.close)

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        require(self, if_match is None or self.capability.read_if_match, "read_if_match")
        reader = FileReader(self._tree, key, range, if_match)
        try:
            info, first = await self.in_thread(key, reader.open)
        except asyncio.CancelledError:
            self._tidy(reader.close)
            raise
        try:
            yield _FileStream(self, key, reader, info, first)
        finally:
            if reader.left:
                self._tidy(reader.close)

    async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
        require(self, if_match is None or self.capability.read_if_match, "read_if_match")
        return await self.in_thread(key, FileReader(self._tree, key, range, if_match).read_all)

    async def fetch_each(self, beginnings: Sequence[Beginning]) -> Sequence[FetchedObject | CdirError]:
        return await self.in_thread("", fetch_beginnings, self._tree, beginnings)

    def _check_target(self, key: str) -> None:
        if not key:
            raise IsDirectory(f"the root of provider {self.info.name} is a folder", key=key)
        if TEMPORARY in key and any(name.startswith(TEMPORARY) for name in key.split("/")):
            raise InvalidPath(f"{key}: names that begin with {TEMPORARY} are kept for unfinished writes", key=key)

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
        """See :meth:`Adapter.write`. Metadata is dropped, as the capability says: plain files have no place for it.

        A cancellation that arrives in the very moment in which the file gets its name may find it in place.
        """
        require_write(self, size, mode, if_match, access)
        upload = self._begin_upload(key, modified, mode, access)
        try:
            if isinstance(source, bytes):
                last: Sequence[bytes] = [await collect(source, size, key)]
            else:
                last = await self._write_pieces(upload, key, source, size)
            status = await self.in_thread(key, upload.finish, last)
        except asyncio.CancelledError:
            upload.cut_off()
            self._tidy(upload.drop)
            raise
        except BaseException:
            if upload.is_open:
                await self.in_thread(key, upload.drop)
            raise
        return _with_access(info_of(key, status), access)

    def _begin_upload(self, key: str, modified: datetime, mode: WriteMode, access: Access | None) -> Upload:
        self._check_target(key)
        return Upload(self._tree, key, nanoseconds_of(modified), mode, None if access is None else mode_of(access))

    async def write_each(self, objects: Sequence[SmallObject]) -> Sequence[ObjectInfo | CdirError]:
        outcomes: dict[str, ObjectInfo | CdirError] = {}
        uploads: list[SmallUpload] = []
        for one in sorted(objects, key=lambda one: one.key):  # folder by folder
            try:
                require_write(self, len(one.data), one.mode, None, one.access)
                upload = self._begin_upload(one.key, one.modified, one.mode, one.access)
            except CdirError as error:
                outcomes[one.key] = error
            else:
                uploads.append(SmallUpload(one.key, one.data, upload))
        parts = [uploads[start : start + _TOGETHER] for start in range(0, len(uploads), _TOGETHER)]
        try:
            async with asyncio.TaskGroup() as group:
                storing = [group.create_task(self.in_thread("", store_small, self._tree, part)) for part in parts]
        except asyncio.CancelledError:
            for small in uploads:
                small.upload.cut_off()
            raise
        for small, outcome in zip(uploads, chain.from_iterable(one.result() for one in storing), strict=True):
            outcomes[small.key] = outcome
        return [_with_access(outcomes[one.key], one.access) for one in objects]

    async def _write_pieces(
        self, upload: Upload, key: str, source: AsyncIterable[bytes], size: int | None
    ) -> Sequence[bytes]:
        """Write all of ``source`` but the last pieces, which are returned."""
        waiting: list[bytes] = []
        waiting_bytes = 0
        async with aclosing(exactly(source, size, key)) as pieces:
            async for piece in pieces:
                if waiting_bytes >= _BATCH:
                    await self.in_thread(key, upload.write, waiting)
                    waiting, waiting_bytes = [], 0
                waiting.append(piece)
                waiting_bytes += len(piece)
        return waiting

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        """See :meth:`Adapter.delete`. Folders that are empty afterwards go too."""
        require(self, if_match is None or self.capability.write_if_match, "write_if_match")
        await self.in_thread(key, self._tree.delete, key)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        require(self, self.capability.copy, "copy")
        self._check_target(target)
        upload = Upload(self._tree, target, 0, WriteMode.OVERWRITE)
        try:
            return info_of(target, await self.in_thread(source, upload.copy, source))
        except asyncio.CancelledError:
            upload.cut_off()
            raise

    async def move(self, source: str, target: str) -> ObjectInfo:
        require(self, self.capability.move, "move")
        self._check_target(target)
        return info_of(target, await self.in_thread(source, self._tree.move, source, target))

    async def make_directory(self, key: str) -> None:
        require(self, self.capability.directories, "directories")
        await self.in_thread(key, self._tree.make_directory, key)

    async def remove_directory(self, key: str) -> None:
        require(self, self.capability.directories, "directories")
        await self.in_thread(key, self._tree.remove_directory, key)

    async def get_acl(self, key: str) -> Acl:
        require(self, self.capability.acl, "acl")
        status = await self.in_thread(key, self._tree.file_status, key)
        return acl_of_mode(status.st_mode, status.st_gid)

    async def set_acl(self, key: str, acl: Acl) -> Acl:
        """See :meth:`Adapter.set_acl`. Set are the mode bits: grants to others than owner and group are left out."""
        require(self, self.capability.acl, "acl")
        status = await self.in_thread(key, self._tree.file_status, key, mode_of(acl.access))
        return require_mode(status.st_mode, acl.access, self.info.name)

    async def usage(self) -> Usage:
        require(self, self.capability.usage, "usage")
        return await self.in_thread("", self._tree.usage)

    async def sweep(self, older_than: float) -> int:
        """See :meth:`Adapter.sweep`. The age of a temporary file is that of its last change of any kind."""
        return await self.in_thread("", self._tree.sweep, older_than)

    async def aclose(self) -> None:
        self._threads.shutdown(wait=False)
