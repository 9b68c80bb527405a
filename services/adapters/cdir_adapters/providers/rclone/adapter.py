"""The adapter of the ``rclone`` kind."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final
from weakref import WeakValueDictionary

from cdir.errors import (
    CdirError,
    DirectoryNotEmpty,
    IntegrityError,
    InvalidPath,
    IsDirectory,
    NotDirectory,
    NotFound,
    ProviderUnavailable,
    Unsupported,
)
from cdir_adapters.acl import Access
from cdir_adapters.adapter import (
    FULL,
    NO_METADATA,
    Adapter,
    AdapterInfo,
    ByteRange,
    ObjectInfo,
    ObjectKind,
    Page,
    ReadStream,
    Source,
    Usage,
    WriteMode,
)
from cdir_adapters.capability import Capability, ChecksumKind
from cdir_adapters.providers.rclone.disk import Disk
from cdir_adapters.providers.rclone.faults import Faults
from cdir_adapters.providers.rclone.objects import began, info_of, suffix
from cdir_adapters.providers.rclone.program import Program
from cdir_adapters.providers.rclone.settings import RcloneSettings
from cdir_adapters.providers.rclone.spelling import spelled, unspelled
from cdir_adapters.providers.rclone.staging import Staged, Staging
from cdir_adapters.providers.rclone.wire import Backend, Opened, Wire
from cdir_adapters.registry import OptionValue
from cdir_adapters.shapes import PAGE_SIZE, BufferedReadStream, require, require_write, resolve_range

__all__ = ["RcloneAdapter"]

logger = logging.getLogger(__name__)

_MAX_PATH_BYTES: Final = 4000
_UPLOADS: Final = 8
"""Transfers at once; each may hold some pieces in the memory of rclone."""
_LARGE: Final = 8 << 20
_LARGE_UPLOADS: Final = 5
"""As many of the transfers may be larger than that: small files, and checks, wait for no large ones."""
_TIDY_DEADLINE: Final = 30.0
_STORING: Final = "storing a file"
_UNNAMEABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CHANGING: Final = {"IgnoreTimes": True}
"""Else rclone copies nothing when size and time are those of what is there."""


class RcloneAdapter(Adapter):
    """A folder in a remote of rclone.

    ``capability`` is what backends of rclone can do at best; the first call finds out which one it is, and narrows it.
    """

    capability = Capability(
        write_unknown_size=True,
        write_atomic=True,
        copy=True,
        move=True,
        directories=True,
        modified_settable=True,
        modified_listed=True,
        modified_precision=timedelta(microseconds=1),
        usage=True,
        checksums=frozenset({ChecksumKind.MD5, ChecksumKind.SHA1, ChecksumKind.SHA256}),
        max_path_bytes=_MAX_PATH_BYTES,
    )

    def __init__(self, name: str, options: Mapping[str, OptionValue]) -> None:
        settings = RcloneSettings.from_options(options)
        self.info = AdapterInfo("rclone", name, settings.location)
        self.capability = dataclasses.replace(type(self).capability, max_object_size=settings.staging_limit)
        self._settings = settings
        self._faults = Faults(name, settings.hidden())
        self._program = Program(settings, self._faults)
        self._wire = Wire(settings, self._program, self._faults)
        self._staging = Staging(settings.staging_limit, self._faults)
        self._uploads = asyncio.Semaphore(_UPLOADS)
        self._large_uploads = asyncio.Semaphore(_LARGE_UPLOADS)
        self._writers: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._known: Backend | None = None
        self._disk: Disk | None = None
        """The root, where it is a folder of this machine."""

    def __repr__(self) -> str:
        return f"RcloneAdapter({self.info.name!r}, {self.info.location!r})"

    async def _ready(self) -> Backend:
        """Have rclone running, and the capability narrowed to what its backend says."""
        backend = await self._wire.ready()
        if self._known is None:
            self._known = backend
            if backend.folder is not None:
                self._disk = Disk(f"{backend.folder}{self._settings.base}", self._faults)
            has = backend.features
            kept = backend.precision is not None
            self.capability = dataclasses.replace(
                self.capability,
                write_atomic=backend.shows_whole_files,
                copy="Copy" in has,
                move="Move" in has,
                directories="CanHaveEmptyDirectories" in has,
                modified_settable=kept,
                # that would be a request for each object
                modified_listed=kept and "SlowModTime" not in has,
                modified_precision=backend.precision,
                usage="About" in has,
                checksums=frozenset() if backend.checksum is None else frozenset({backend.checksum}),
                case_sensitive="CaseInsensitive" not in has,
            )
        return backend

    def _at(self, key: str) -> dict[str, Any]:
        return {"fs": self._settings.fs, "remote": self._path(key)}

    def _path(self, key: str) -> str:
        return f"{self._settings.base}{spelled(key)}".rstrip("/")

    # ------------------------------------------------------------------ the root

    async def check(self) -> None:
        await self._ready()
        if not await self._wire.is_folder(self._path(""), ""):
            raise NotFound(
                f"provider {self.info.name}: the folder {self.info.location} does not exist", provider=self.info.name
            )

    async def prepare(self) -> None:
        await self._ready()
        if not await self._wire.is_folder(self._path(""), ""):
            await self._wire.call("operations/mkdir", self._at(""), "making the root", "")

    async def _require_root(self, key: str) -> None:
        """Raise ProviderUnavailable when the root is missing: then nothing is known of what should lie in it."""
        if self._disk is not None:
            await self._disk.require(key)
        elif not await self._wire.is_folder(self._path(""), ""):
            raise self._faults.unavailable(f"the folder {self.info.location} does not exist", "looking at the root")

    @asynccontextmanager
    async def _place(self, key: str) -> AsyncIterator[str]:
        """Give the path by which ``key`` is written. Raises ProviderUnavailable as :meth:`_require_root` does."""
        if self._disk is None:
            yield self._path(key)
            return
        async with self._disk.held(key) as folder:
            # from the remote's own root, where that is the root of this machine: else rclone takes no other path
            held = self._known is not None and self._known.folder == "/"
            yield f"{folder[1:]}/{spelled(key)}" if held else self._path(key)

    # ------------------------------------------------------------------ looking

    async def stat(self, key: str) -> ObjectInfo:
        await self._ready()
        found = await self._file(key) if key else None
        if found is not None:
            return found
        if self.capability.directories and await self._wire.is_folder(self._path(key), key):
            return ObjectInfo(key=key, size=0, kind=ObjectKind.DIRECTORY)
        await self._require_root(key)
        raise self._missing(key)

    async def _file(self, key: str) -> ObjectInfo | None:
        """What a file is; ``None`` when there is none."""
        backend = await self._ready()
        options: dict[str, Any] = {"filesOnly": True, "noMimeType": True}
        if backend.checksum is not None:
            options |= {"showHash": True, "hashTypes": [backend.checksum.value]}
        try:
            told = await self._wire.call("operations/stat", {**self._at(key), "opt": options}, "looking at a file", key)
        except (NotFound, NotDirectory, IsDirectory):
            return None
        item = told.get("item")
        return None if item is None else info_of(key, item, backend)

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        require(self, start_after is None, "list_ordered")
        found: list[ObjectInfo] = []
        async with aclosing(self._walk(prefix, recursive=recursive)) as objects:
            async for info in objects:
                if began(info.key) is not None:
                    continue
                found.append(info)
                if len(found) == PAGE_SIZE:
                    yield Page(tuple(found))
                    found.clear()
        if found:
            yield Page(tuple(found))

    async def _walk(self, prefix: str, *, recursive: bool) -> AsyncGenerator[ObjectInfo, None]:
        """Yield what lies below a folder, unfinished uploads too; folders only when not recursive."""
        backend = await self._ready()
        waiting = [prefix]
        while waiting:
            folder = waiting.pop()
            path = self._path(folder)
            last = ""
            entries = self._wire.entries(path, folder, times=self.capability.modified_listed)
            try:
                async with aclosing(entries) as told:
                    async for item in told:
                        name = self._name_of(item, path, folder)
                        if name == last or _UNNAMEABLE.search(name):
                            # services that allow two of one name give each only its own id; nobody can tell them apart
                            continue
                        last = name
                        info = info_of(f"{folder}/{name}" if folder else name, item, backend)
                        if recursive and info.kind is ObjectKind.DIRECTORY:
                            waiting.append(info.key)
                        else:
                            yield info
            except (NotFound, NotDirectory):
                # it went away since the folder above was listed, or was never there, or nothing is
                await self._require_root(folder)

    def _name_of(self, item: Mapping[str, Any], path: str, folder: str) -> str:
        """Return the name of something listed. Raises ProviderUnavailable when it lies somewhere else."""
        name, told = item.get("Name"), item.get("Path")
        expected = f"{path}/{name}" if path else name
        if not isinstance(name, str) or told != expected or name in {"", ".", ".."} or "/" in name:
            raise self._faults.unavailable(
                "the listing names what does not lie in the folder", "listing a folder", folder
            )
        return unspelled(name)

    async def usage(self) -> Usage:
        await self._ready()
        require(self, self.capability.usage, "usage")
        told = await self._wire.call("operations/about", {"fs": self._settings.fs}, "asking for the usage", "")

        def number(name: str) -> int | None:
            value = told.get(name)
            return int(value) if isinstance(value, int | float) and value >= 0 else None

        usage = Usage(used=number("used"), free=number("free"), total=number("total"))
        if usage == Usage():
            self.capability = dataclasses.replace(self.capability, usage=False)
            raise self.unsupported("usage")
        return usage

    # ------------------------------------------------------------------ reading

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        require(self, if_match is None, "read_if_match")
        await self._ready()
        if not key:
            raise self._is_folder(key)
        if range.length == 0:
            info = await self.stat(key)
            if info.kind is ObjectKind.DIRECTORY:
                raise self._is_folder(key)
            resolve_range(range, info.size, key)
            yield BufferedReadStream(info, b"")
            return
        opening = self._wire.open(self._path(key), key, range)
        try:
            opened = await opening.__aenter__()
        except (ProviderUnavailable, NotFound, NotDirectory, IsDirectory) as error:
            yield await self._unopened(key, range, error)
            return
        try:
            async with aclosing(opened.pieces):
                yield _Body(self._read_info(key, opened), opened)
        finally:
            await opening.__aexit__(None, None, None)

    async def _unopened(self, key: str, range: ByteRange, error: CdirError) -> ReadStream:
        """Find out why a file was not opened, and raise that.

        Backends meet a range past the end of a file, or any of an empty one, each in its own way; the latter is none.
        """
        refused = not isinstance(error, ProviderUnavailable)
        if not refused and range == FULL:
            raise error
        info = await self.stat(key)
        if info.kind is ObjectKind.DIRECTORY:
            raise self._is_folder(key)
        resolve_range(range, info.size, key)
        if info.size == 0:
            return BufferedReadStream(info, b"")
        if refused:
            raise self._faults.unavailable("the file came and went meanwhile; try again", "reading a file", key)
        raise error

    def _read_info(self, key: str, opened: Opened) -> ObjectInfo:
        modified = None
        precision = self.capability.modified_precision
        # the head of an answer tells whole seconds: it is the truth only where no more is kept
        if precision is not None and precision >= timedelta(seconds=1) and opened.modified is not None:
            with suppress(ValueError):
                modified = parsedate_to_datetime(opened.modified)
        return ObjectInfo(key=key, size=opened.size, modified=modified)

    # ------------------------------------------------------------------ writing

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
        """See :meth:`Adapter.write`. Metadata is dropped, as the capability says."""
        require_write(self, size, mode, if_match, access)
        self._check_target(key)
        backend = await self._ready()
        checksum = backend.checksum
        staging = self._staging.staged(
            self._program.staging, source, size, key, modified, None if checksum is None else checksum.value
        )
        async with staging as staged, self._writer(key), self._turn(staged.size), self._place(key) as place:
            if "DuplicateFiles" in backend.features:
                await self._require_place(key)
            try:
                if backend.shows_whole_files or "Move" not in backend.features:
                    await self._upload(staged, place, key)
                else:
                    await self._upload_aside(staged, key)
            except CdirError as error:
                raise await self._explained(error, key) from None
            return await self._stored(key, staged, modified.astimezone(UTC), backend)

    async def _upload(self, staged: Staged, place: str, key: str) -> None:
        """Upload to the path ``place``."""
        call = {"srcFs": str(self._program.staging), "srcRemote": staged.name, **self._to(place)}
        await self._wire.transfer("operations/copyfile", call, _STORING, key)

    async def _upload_aside(self, staged: Staged, key: str) -> None:
        """Upload under another name, then rename: of a backend that removes what is there when an upload fails.

        rclone deletes the older file first. When it fails between the two, the new one is all that is left.
        """
        folder, slash, _ = key.rpartition("/")
        aside = f"{folder}{slash}.{secrets.token_hex(4)}{suffix()}"
        renaming = {"srcFs": self._settings.fs, "srcRemote": self._path(aside), **self._to(self._path(key))}
        replacing = False
        try:
            await self._upload(staged, self._path(aside), key)
            replacing = await self._file(key) is not None
            await self._wire.transfer("operations/movefile", renaming, _STORING, key)
        except BaseException:
            await self._tidy(aside, key, renaming, replacing=replacing)
            raise

    async def _tidy(self, aside: str, key: str, renaming: Mapping[str, Any], *, replacing: bool) -> None:
        """After a write that failed, remove the new file, or put it in the place of the older one if that is gone."""
        try:
            async with asyncio.timeout(_TIDY_DEADLINE):
                if replacing and await self._file(key) is None:
                    await self._wire.call("operations/movefile", renaming, _STORING, key)
                else:
                    await self.delete(aside)
        except (CdirError, TimeoutError) as error:
            logger.warning("provider %s: %s remains of a write of %s (%s)", self.info.name, aside, key, error)

    def _to(self, place: str) -> dict[str, Any]:
        return {
            "dstFs": self._settings.fs,
            "dstRemote": place,
            "_config": {**_CHANGING, "PartialSuffix": suffix()},
        }

    def _writer(self, key: str) -> asyncio.Lock:
        """One writer of a key at a time, so that what lies there afterwards is what this one has written."""
        lock = self._writers.get(key)
        if lock is None:
            lock = self._writers[key] = asyncio.Lock()
        return lock

    @asynccontextmanager
    async def _turn(self, size: int) -> AsyncIterator[None]:
        """Wait for the turn of a transfer of ``size`` bytes."""
        async with self._large_uploads if size > _LARGE else nullcontext(), self._uploads:
            yield

    async def _stored(self, key: str, staged: Staged, modified: datetime, backend: Backend) -> ObjectInfo:
        """What lies at ``key`` after a write. rclone has compared it by itself, as far as the service states sums."""
        info = await self._file(key)
        if info is None:
            await self._require_root(key)
            raise IntegrityError(f"provider {self.info.name} said that it stored {key}, and nothing is there", key=key)
        other = (
            info.checksum.value != staged.digest
            if info.checksum is not None and staged.digest is not None
            else info.size != staged.size
        )
        if not other:
            return info
        ours = backend.precision is not None and info.modified is not None
        if ours and info.modified is not None and abs(info.modified - modified) < (backend.precision or timedelta()):
            # with the time of this write it is no other writer's
            await self.delete(key)
        raise IntegrityError(
            f"provider {self.info.name} holds something else as {key} than was sent ({info.size} bytes)", key=key
        )

    async def _explained(self, error: CdirError, key: str) -> CdirError:
        """Find out what stood in the way of a write, where rclone's words do not say it for sure."""
        if not isinstance(error, ProviderUnavailable | NotFound | Unsupported | IsDirectory | NotDirectory):
            return error
        if not self.capability.directories:
            return error if not isinstance(error, NotFound) else self._gone(error, key)
        try:
            if await self._wire.is_folder(self._path(key), key):
                return self._is_folder(key)
            if await self._is_below_file(key):
                return NotDirectory(f"{key} at provider {self.info.name}: a part of the path is not a folder", key=key)
        except CdirError:
            return error
        return self._gone(error, key) if isinstance(error, NotFound | IsDirectory | NotDirectory) else error

    def _gone(self, error: CdirError, key: str) -> CdirError:
        """NotFound is never said of a write: callers conclude that nothing is there any more."""
        return self._faults.unavailable(f"the folder went away meanwhile; try again ({error.message})", _STORING, key)

    async def _is_below_file(self, key: str) -> bool:
        folder = key.rpartition("/")[0]
        while folder:
            if await self._file(folder) is not None:
                return True
            folder = folder.rpartition("/")[0]
        return False

    async def _require_place(self, key: str) -> None:
        """Raise IsDirectory and NotDirectory, where the service would put a file beside a folder of its name."""
        if await self._wire.is_folder(self._path(key), key):
            raise self._is_folder(key)
        if await self._is_below_file(key):
            raise NotDirectory(f"{key} at provider {self.info.name}: a part of the path is not a folder", key=key)

    def _check_target(self, key: str) -> None:
        if not key:
            raise self._is_folder(key)
        if len(self._path(key).encode()) > _MAX_PATH_BYTES:
            raise InvalidPath(f"{key[:40]}… is longer than {_MAX_PATH_BYTES} bytes", key=key)
        if any(began(name) is not None for name in key.split("/")):
            raise InvalidPath(f"{key}: names of this form are kept for unfinished writes", key=key)

    def _is_folder(self, key: str) -> IsDirectory:
        return IsDirectory(f"{key or 'the root'} at provider {self.info.name} is a folder", key=key)

    def _missing(self, key: str) -> NotFound:
        return NotFound(f"{key or 'the root'} does not exist at provider {self.info.name}", key=key)

    # ------------------------------------------------------------------ changing

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        require(self, if_match is None, "write_if_match")
        await self._ready()
        if not key:
            raise self._is_folder(key)
        try:
            await self._wire.call("operations/deletefile", self._at(key), "deleting a file", key)
        except NotDirectory:
            return  # a file lies above
        except (NotFound, IsDirectory):
            if self.capability.directories and await self._wire.is_folder(self._path(key), key):
                raise self._is_folder(key) from None
            await self._require_root(key)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        await self._ready()
        require(self, self.capability.copy, "copy")
        return await self._transfer("operations/copyfile", source, target, "copying a file")

    async def move(self, source: str, target: str) -> ObjectInfo:
        await self._ready()
        require(self, self.capability.move, "move")
        return await self._transfer("operations/movefile", source, target, "moving a file")

    async def _transfer(self, method: str, source: str, target: str, doing: str) -> ObjectInfo:
        self._check_target(target)
        before = await self.stat(source)
        if before.kind is ObjectKind.DIRECTORY:
            raise self._is_folder(source)
        if source == target:
            return before
        at = self._at(source)
        async with self._writer(target), self._turn(before.size), self._place(target) as place:
            call = {"srcFs": at["fs"], "srcRemote": at["remote"], **self._to(place)}
            if self._known is not None and "DuplicateFiles" in self._known.features:
                await self._require_place(target)
            try:
                await self._wire.transfer(method, call, doing, target)
            except CdirError as error:
                if isinstance(error, NotFound) and await self._file(source) is None:
                    await self._require_root(source)
                    raise self._missing(source) from None
                raise await self._explained(error, target) from None
            after = await self._file(target)
        if after is None or after.size != before.size:
            raise IntegrityError(
                f"provider {self.info.name} did not give {target} what {source} was while {doing}", key=target
            )
        return after

    async def make_directory(self, key: str) -> None:
        await self._ready()
        require(self, self.capability.directories, "directories")
        try:
            async with self._place(key) as place:
                call = {"fs": self._settings.fs, "remote": place.rstrip("/")}
                await self._wire.call("operations/mkdir", call, "making a folder", key)
        except (ProviderUnavailable, NotFound):
            if await self._file(key) is not None or await self._is_below_file(key):
                raise NotDirectory(f"{key} at provider {self.info.name} is not a folder", key=key) from None
            raise

    async def remove_directory(self, key: str) -> None:
        await self._ready()
        require(self, self.capability.directories, "directories")
        if not key:
            raise InvalidPath(f"the root of provider {self.info.name} cannot be removed", key=key)
        try:
            async with aclosing(self._wire.entries(self._path(key), key, times=False)) as entries:
                # not every service refuses to remove a folder with something in it
                async for _ in entries:
                    raise DirectoryNotEmpty(f"{key} at provider {self.info.name} is not empty", key=key)
        except NotFound:
            await self._require_root(key)
            return
        with suppress(NotFound):
            await self._wire.call("operations/rmdir", self._at(key), "removing a folder", key)

    async def sweep(self, older_than: float) -> int:
        """See :meth:`Adapter.sweep`. The age is held against this machine's clock."""
        limit = time.time() - older_than
        left: list[str] = []
        async with aclosing(self._walk("", recursive=True)) as objects:
            async for info in objects:
                second = began(info.key)
                if second is not None and second <= limit:
                    left.append(info.key)
        for key in left:
            await self.delete(key)
        return len(left)

    async def aclose(self) -> None:
        await self._program.aclose()


class _Body(ReadStream):
    """The wanted bytes of an answer."""

    def __init__(self, info: ObjectInfo, opened: Opened) -> None:
        self.info = info
        self._pieces = opened.pieces

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)
