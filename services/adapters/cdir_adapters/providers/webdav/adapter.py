"""The adapter of the ``webdav`` kind."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

from cdir.errors import (
    ConfigInvalid,
    InvalidArgument,
    InvalidPath,
    IsDirectory,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    RangeNotSatisfied,
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
from cdir_adapters.providers.webdav.addresses import Addresses
from cdir_adapters.providers.webdav.faults import Faults
from cdir_adapters.providers.webdav.reading import READING, Body, Part, range_header
from cdir_adapters.providers.webdav.settings import WebdavSettings
from cdir_adapters.providers.webdav.times import TimeKeeper
from cdir_adapters.providers.webdav.tree import TEMPORARY, Tree, comparable_etag, quoted_etag, time_of
from cdir_adapters.providers.webdav.uploads import began_before
from cdir_adapters.providers.webdav.wire import MovedToFolder, Wire
from cdir_adapters.providers.webdav.writing import Writer, if_header
from cdir_adapters.registry import OptionValue
from cdir_adapters.shapes import PAGE_SIZE, BufferedReadStream, require, require_write, resolve_range

__all__ = ["WebdavAdapter"]

_MAX_PATH_BYTES: Final = 4000


class WebdavAdapter(Adapter):
    """A folder on a WebDAV server.

    ``capability`` is what servers can do at best. The profile narrows it, and so does a server that turns out to keep
    no times or to tell no quota. No server creates a file exclusively: between its look at what is there and the new
    file others may come, and a lock on a name where nothing lies makes an empty file.
    """

    capability = Capability(
        write_if_match=True,
        read_if_match=True,
        write_unknown_size=True,
        write_atomic=True,
        copy=True,
        move=True,
        directories=True,
        list_current=True,
        modified_settable=True,
        modified_listed=True,
        modified_precision=timedelta(seconds=1),
        usage=True,
        etag=True,
        checksums=frozenset({ChecksumKind.SHA1}),
        max_path_bytes=_MAX_PATH_BYTES,
        max_name_bytes=255,
    )

    def __init__(self, name: str, options: Mapping[str, OptionValue]) -> None:
        settings = WebdavSettings.from_options(options)
        profile = settings.profile
        self.info = AdapterInfo("webdav", name, settings.location)
        self.capability = dataclasses.replace(
            type(self).capability,
            write_atomic=profile.direct,
            modified_settable=profile.times,
            modified_listed=profile.times,
            modified_precision=type(self).capability.modified_precision if profile.times else None,
            checksums=frozenset() if profile.checksum is None else frozenset({profile.checksum}),
            case_sensitive=profile.case_sensitive,
            max_name_bytes=profile.max_name_bytes,
            forbidden_names=profile.forbidden_names,
        )
        self._profile = profile
        self._faults = Faults(
            name, settings.origin, tuple(secret for secret in (settings.password, settings.token) if secret)
        )
        self._addresses = Addresses(settings)
        self._wire = Wire(settings, self._faults)
        self._tree = Tree(self._wire, self._addresses, self._faults, profile.checksum)
        times = TimeKeeper(self._wire, self._tree, self._addresses, profile, self._keeps_no_times)
        self._writer = Writer(self._wire, self._tree, self._addresses, self._faults, profile, times, self._whole)

    def __repr__(self) -> str:
        return f"WebdavAdapter({self.info.name!r}, {self.info.location!r})"

    def _keeps_no_times(self) -> None:
        self.capability = dataclasses.replace(
            self.capability, modified_settable=False, modified_listed=False, modified_precision=None
        )

    # ------------------------------------------------------------------ the root

    async def check(self) -> None:
        try:
            found = await self._tree.look("")
        except NotFound:
            raise NotFound(
                f"provider {self.info.name}: the folder {self.info.location} does not exist", provider=self.info.name
            ) from None
        except (Unsupported, InvalidArgument, MovedToFolder) as error:
            raise ConfigInvalid(
                f"provider {self.info.name}: {self.info.location} is no WebDAV folder; set url ({error})",
                provider=self.info.name,
                option="url",
            ) from None
        if found.kind is not ObjectKind.DIRECTORY:
            raise self._tree.no_folder()

    async def prepare(self) -> None:
        with contextlib.suppress(NotFound):
            await self.check()
            return
        await self._tree.make_root()

    # ------------------------------------------------------------------ looking

    async def stat(self, key: str) -> ObjectInfo:
        return await self._tree.stat(key)

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        require(self, start_after is None or self.capability.list_ordered, "list_ordered")
        waiting = [prefix]
        found: list[ObjectInfo] = []
        listed = False
        while waiting:
            folder = waiting.pop()
            async with aclosing(self._tree.scan(folder, listed=listed)) as objects:
                async for info in objects:
                    if recursive and info.kind is ObjectKind.DIRECTORY:
                        waiting.append(info.key)
                    elif not info.key.rpartition("/")[2].startswith(TEMPORARY):
                        found.append(info)
                    if len(found) == PAGE_SIZE:
                        yield Page(tuple(found))
                        found.clear()
            listed = True
        if found:
            yield Page(tuple(found))

    async def usage(self) -> Usage:
        require(self, self.capability.usage, "usage")
        usage = await self._tree.usage()
        if usage is None:
            self.capability = dataclasses.replace(self.capability, usage=False)
            raise self.unsupported("usage")
        return usage

    # ------------------------------------------------------------------ reading

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        require(self, if_match is None or self.capability.read_if_match, "read_if_match")
        if not key:
            raise self._is_folder(key)
        async with contextlib.AsyncExitStack() as stack:
            yield await self._open(stack, key, range, if_match)

    async def _open(
        self, stack: contextlib.AsyncExitStack, key: str, range: ByteRange, if_match: str | None
    ) -> ReadStream:
        if range.length == 0:
            info = await self._file(key, if_match)
            resolve_range(range, info.size, key)
            return BufferedReadStream(info, b"")
        opening = self._wire.open(
            "GET", self._addresses.file(key), READING, key, headers=range_header(range), accept={200, 206}
        )
        try:
            answer = await stack.enter_async_context(opening)
        except MovedToFolder:
            raise self._is_folder(key) from None
        except NotFound:
            await self._tree.require_root()
            raise
        except RangeNotSatisfied:
            info = await self._file(key, if_match)
            if range.offset or info.size:
                raise
            return BufferedReadStream(info, b"")
        except (PermissionDenied, Unsupported, InvalidArgument):
            if await self._tree.kind_at(key) is ObjectKind.DIRECTORY:
                raise self._is_folder(key) from None
            raise
        part = Part.of(answer.status, answer.headers, range)
        if part is None:
            raise self._faults.unavailable("the server sends another part than was asked for", READING, key)
        etag = quoted_etag(answer.headers.get("ETag"))
        if etag is None or part.size is None:
            # perhaps the page that a server makes of a folder; if not, what is missing is said elsewhere
            info = await self._file(key, if_match)
        else:
            info = ObjectInfo(key=key, size=part.size, modified=time_of(answer.headers.get("Last-Modified")), etag=etag)
            self._require_match(info, if_match)
        offset, length = resolve_range(range, info.size, key)
        return Body(info, answer, self._faults, min(part.skip, offset), length)

    async def _file(self, key: str, if_match: str | None) -> ObjectInfo:
        """Raises IsDirectory and PreconditionFailed."""
        info = await self._tree.stat(key)
        if info.kind is ObjectKind.DIRECTORY:
            raise self._is_folder(key)
        self._require_match(info, if_match)
        return info

    @staticmethod
    def _require_match(info: ObjectInfo, if_match: str | None) -> None:
        """Hold a condition against the answer itself, since few servers look at it as they should."""
        if if_match is not None and comparable_etag(info.etag) != comparable_etag(if_match):
            raise PreconditionFailed(f"{info.key} is not the file with the ETag {if_match} any more", key=info.key)

    async def _whole(self, key: str) -> bytes:
        return (await self.fetch(key)).data

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
        return await self._writer.store(key, source, size, modified, if_match)

    def _check_target(self, key: str) -> None:
        if not key:
            raise self._is_folder(key)
        if len(key.encode()) > _MAX_PATH_BYTES:
            raise InvalidPath(f"{key[:40]}… is longer than {_MAX_PATH_BYTES} bytes", key=key)
        for name in key.split("/"):
            if name.startswith(TEMPORARY):
                raise InvalidPath(f"{key}: names that begin with {TEMPORARY} are kept for unfinished writes", key=key)
            if len(name.encode()) > self._profile.max_name_bytes:
                raise InvalidPath(f"{key}: a name is longer than {self._profile.max_name_bytes} bytes", key=key)

    def _is_folder(self, key: str) -> IsDirectory:
        return IsDirectory(f"{key or 'the root'} at provider {self.info.name} is a folder", key=key)

    # ------------------------------------------------------------------ changing

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        """See :meth:`Adapter.delete`. Folders stay: a DELETE would take what another puts there meanwhile."""
        require(self, if_match is None or self.capability.write_if_match, "write_if_match")
        try:
            # a DELETE takes a folder with all that is in it, so it is not sent before a look
            await self._file(key, if_match)
        except NotFound:
            return
        url = self._addresses.file(key)
        await self._wire.call(
            "DELETE", url, "deleting a file", key, headers=if_header(url, if_match), accept={200, 204, 404, 410}
        )

    async def copy(self, source: str, target: str) -> ObjectInfo:
        self._check_target(target)
        return await self._writer.copy(await self._file(source, None), target)

    async def move(self, source: str, target: str) -> ObjectInfo:
        self._check_target(target)
        found = await self._tree.stat(source)
        return found if source == target else await self._writer.move(found, target)

    async def make_directory(self, key: str) -> None:
        await self._tree.make_folder(key)

    async def remove_directory(self, key: str) -> None:
        if not key:
            raise InvalidPath(f"the root of provider {self.info.name} cannot be removed", key=key)
        await self._tree.remove_folder(key)

    async def sweep(self, older_than: float) -> int:
        """See :meth:`Adapter.sweep`. The age is held against this machine's clock."""
        limit = time.time() - older_than
        swept = await self._writer.uploads.sweep(limit) if self._profile.chunks else 0
        waiting = [""]
        while waiting:
            left = []
            async with aclosing(self._tree.scan(waiting.pop())) as objects:
                async for info in objects:
                    if info.kind is ObjectKind.DIRECTORY:
                        waiting.append(info.key)
                    elif began_before(info.key.rpartition("/")[2], TEMPORARY, limit):
                        left.append(info.key)
            for key in left:
                reply = await self._wire.call(
                    "DELETE", self._addresses.file(key), "sweeping", key, accept={200, 204, 404}
                )
                swept += reply.status != 404
        return swept

    async def aclose(self) -> None:
        await self._wire.aclose()
