"""The adapter of the ``sftp`` kind."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import re
import shlex
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncssh

from cdir.errors import (
    AlreadyExists,
    ConfigInvalid,
    DirectoryNotEmpty,
    IntegrityError,
    InvalidPath,
    IsDirectory,
    NotDirectory,
    NotFound,
)
from cdir_adapters.acl import Access, Acl
from cdir_adapters.adapter import (
    FULL,
    NO_METADATA,
    Adapter,
    AdapterInfo,
    ByteRange,
    FetchedObject,
    ObjectInfo,
    ObjectKind,
    Page,
    ReadStream,
    Source,
    Usage,
    WriteMode,
)
from cdir_adapters.capability import Capability
from cdir_adapters.modes import PRIVATE_MODE, acl_of_mode, mode_of, require_mode
from cdir_adapters.providers.sftp.faults import CallerFailed
from cdir_adapters.providers.sftp.sessions import Session, Sessions
from cdir_adapters.providers.sftp.settings import SftpSettings
from cdir_adapters.providers.sftp.transfers import FileStream, block_size, read_at, write_pieces
from cdir_adapters.providers.sftp.tree import ATTEMPTS, Tree, kind_of, permissions_of
from cdir_adapters.registry import OptionValue
from cdir_adapters.shapes import PAGE_SIZE, exactly, require, require_write, resolve_range

__all__ = ["SftpAdapter"]

logger = logging.getLogger(__name__)

TEMPORARY = ".cdir-tmp-"
"""How the names of unfinished writes begin. They lie beside their targets, since a rename works only within a disk."""

_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 4000
_FIRST_READ = 4 * 1024 * 1024
"""The most bytes of a range that are asked for together with the size, before that is known."""
_TIDY_DEADLINE = 10.0
"""Seconds that removing an unfinished write may take; what remains is left to ``sweep``."""
_DIGEST = re.compile(rb"([0-9a-f]{64})\s")
_LATEST = 0xFFFF_FFFF
"""Where the protocol's seconds since 1970 end: in 2106."""


class SftpAdapter(Adapter):
    """A folder on an SSH server. Symbolic links below it are shown as such and never followed.

    What the server can do is known after the first connection; ``capability`` is narrowed then.
    """

    capability = Capability(
        write_if_absent=True,
        write_unknown_size=True,
        write_atomic=True,
        copy=True,
        move=True,
        directories=True,
        list_current=True,
        modified_settable=True,
        modified_listed=True,
        modified_precision=timedelta(seconds=1),
        digest=True,
        acl=True,
        write_access=True,
        usage=True,
        max_path_bytes=_MAX_PATH_BYTES,
        max_name_bytes=_MAX_NAME_BYTES,
    )

    def __init__(self, name: str, options: Mapping[str, OptionValue]) -> None:
        settings = SftpSettings.from_options(options)
        self.info = AdapterInfo("sftp", name, settings.location)
        self._sessions = Sessions(settings, name)
        self._tree = Tree(name)
        self._narrowed = False

    def __repr__(self) -> str:
        return f"SftpAdapter({self.info.name!r}, {self.info.location!r})"

    @asynccontextmanager
    async def _session(self, key: str) -> AsyncIterator[Session]:
        async with self._sessions.session(key) as session:
            if not self._narrowed:
                self._narrow()
            yield session

    def _narrow(self) -> None:
        features = self._sessions.features
        assert features is not None
        self._narrowed = True
        self.capability = dataclasses.replace(
            self.capability,
            # a hard link is the one request of the protocol that never replaces
            write_if_absent=self.capability.write_if_absent and features.hard_links,
            write_atomic=self.capability.write_atomic and features.replacing_rename,
            move=self.capability.move and features.replacing_rename,
            copy=self.capability.copy and features.copy_data,
            digest=self.capability.digest and features.digests,
            usage=self.capability.usage and features.file_system_status,
        )

    # ------------------------------------------------------------------ the root

    async def check(self) -> None:
        async with self._session("") as session:
            try:
                attributes = await session.sftp.stat(session.path(""))
            except asyncssh.SFTPNoSuchFile:
                raise NotFound(
                    f"provider {self.info.name}: the folder {session.path('')} does not exist on the server",
                    provider=self.info.name,
                ) from None
            if kind_of(attributes) is not ObjectKind.DIRECTORY:
                raise ConfigInvalid(
                    f"provider {self.info.name}: {session.path('')} is not a folder; set root", option="root"
                )

    async def prepare(self) -> None:
        async with self._session("") as session:
            await session.sftp.makedirs(session.path(""), exist_ok=True)
        await self.check()

    # ------------------------------------------------------------------ looking

    async def stat(self, key: str) -> ObjectInfo:
        async with self._session(key) as session:
            return self._tree.info_of(key, await self._tree.attributes(session, key))

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        require(self, start_after is None or self.capability.list_ordered, "list_ordered")
        waiting = [prefix]
        found: list[ObjectInfo] = []
        while waiting:
            folder = waiting.pop()
            async with aclosing(self._scan(folder)) as objects:
                async for info in objects:
                    if recursive and info.kind is ObjectKind.DIRECTORY:
                        waiting.append(info.key)
                        continue
                    if info.key.rpartition("/")[2].startswith(TEMPORARY):
                        continue
                    found.append(info)
                    if len(found) == PAGE_SIZE:
                        yield Page(tuple(found))
                        found.clear()
        if found:
            yield Page(tuple(found))

    async def _scan(self, folder: str) -> AsyncGenerator[ObjectInfo, None]:
        async with self._session(folder) as session, aclosing(self._tree.scan(session, folder)) as objects:
            async for info in objects:
                yield info

    # ------------------------------------------------------------------ reading

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        require(self, if_match is None or self.capability.read_if_match, "read_if_match")
        try:
            async with self._session(key) as session, self._opened(session, key) as file:
                info = self._tree.info_of(key, await file.stat())
                offset, length = resolve_range(range, info.size, key)
                block = block_size(session.sftp.limits.max_read_len)
                stream = FileStream(info, file, offset, length, block=block, provider=self.info.name)
                async with aclosing(stream):
                    try:
                        yield stream
                    except Exception as error:
                        raise CallerFailed(error) from error
        except CallerFailed as failed:
            raise failed.error  # noqa: B904 # the caller gets back the very error that it raised

    async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
        require(self, if_match is None or self.capability.read_if_match, "read_if_match")
        async with self._session(key) as session, self._opened(session, key) as file:
            block = block_size(session.sftp.limits.max_read_len)
            first = block if range.length is None else min(range.length, _FIRST_READ)
            attributes, data = await asyncio.gather(file.stat(), read_at(file, range.offset, first, block))
            info = self._tree.info_of(key, attributes)
            offset, length = resolve_range(range, info.size, key)
            if len(data) < length and len(data) == first:
                data += await read_at(file, offset + first, length - first, block)
            if len(data) < length:
                raise IntegrityError(f"{key} at provider {self.info.name} became shorter while it was read", key=key)
            return FetchedObject(info, data[:length])

    @asynccontextmanager
    async def _opened(self, session: Session, key: str) -> AsyncIterator[asyncssh.SFTPClientFile]:
        """Open a file for reading. A link is looked at, not followed; that costs no round trip of its own."""
        opening = asyncio.ensure_future(_open(session, key, "rb"))
        try:
            attributes = await self._tree.attributes(session, key)
        except BaseException:
            await _close_when_open(opening)
            raise
        kind = kind_of(attributes)
        if kind is not ObjectKind.FILE:
            await _close_when_open(opening)
            if kind is ObjectKind.DIRECTORY:
                raise IsDirectory(f"{key} at provider {self.info.name} is a folder", key=key)
            raise NotFound(f"{key} at provider {self.info.name} is not a regular file", key=key)
        file = await opening
        try:
            yield file
        finally:
            await _close(file)

    async def digest(self, key: str) -> bytes:
        """See :meth:`Adapter.digest`. Computed by ``sha256sum`` or ``shasum`` where the account has a shell."""
        async with self._session(key) as session:
            require(self, self.capability.digest, "digest")
            async with self._opened(session, key):  # a regular file, and one that may be read
                path = shlex.quote(session.path(key))
                said = await session.run_shell(
                    f"if command -v sha256sum >/dev/null; then sha256sum < {path}; else shasum -a 256 < {path}; fi\n"
                )
        found = _DIGEST.match(said)
        if found is None:
            raise self.unsupported("digest")
        return bytes.fromhex(found[1].decode())

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
        """See :meth:`Adapter.write`. Metadata is dropped, as the capability says: plain files have no place for it."""
        require_write(self, size, mode, if_match, access)
        self._check_target(key)
        seconds = min(max(0, int(modified.timestamp() // 1)), _LATEST)
        try:
            async with self._session(key) as session:
                # once more, as connecting may have narrowed the capability
                require_write(self, size, mode, if_match, access)
                permissions = await self._permissions(session, key, mode, access)
                async with self._temporary(session, key, permissions) as (file, temporary):
                    async with aclosing(_pieces(source, size, key)) as pieces:
                        length = await self._fill(session, file, pieces, key)
                    await self._settle(session, file, key, length, seconds, permissions)
                    await self._name(session, temporary, key, mode)
        except CallerFailed as failed:
            raise failed.error  # noqa: B904 # the caller gets back the very error that its source raised
        return ObjectInfo(key=key, size=length, modified=datetime.fromtimestamp(seconds, UTC), access=access)

    async def _permissions(self, session: Session, key: str, mode: WriteMode, access: Access | None) -> int | None:
        """Those that a written file gets: what is asked for, else what the file had that it replaces."""
        if access is not None:
            return mode_of(access)
        return None if mode is WriteMode.CREATE else await self._tree.permissions_at(session, key)

    def _check_target(self, key: str) -> None:
        if not key:
            raise IsDirectory(f"the root of provider {self.info.name} is a folder", key=key)
        if len(key.encode()) > _MAX_PATH_BYTES:
            raise InvalidPath(f"{key[:40]}… is longer than {_MAX_PATH_BYTES} bytes", key=key)
        for name in key.split("/"):
            if name.startswith(TEMPORARY):
                raise InvalidPath(f"{key}: names that begin with {TEMPORARY} are kept for unfinished writes", key=key)
            if len(name.encode()) > _MAX_NAME_BYTES:
                raise InvalidPath(f"{key}: a name is longer than {_MAX_NAME_BYTES} bytes", key=key)

    @asynccontextmanager
    async def _temporary(
        self, session: Session, key: str, permissions: int | None
    ) -> AsyncIterator[tuple[asyncssh.SFTPClientFile, str]]:
        """A new file beside the target, removed when the body raises; one that shall have mode bits of its own in the
        end is nobody else's until then."""
        folder, slash, _ = key.rpartition("/")
        temporary = f"{folder}{slash}{TEMPORARY}{uuid.uuid4().hex}"
        file = await self._create(session, temporary, folder, key, private=permissions is not None)
        try:
            yield file, temporary
        except BaseException:
            await self._drop(session, file, temporary)
            raise

    async def _create(
        self, session: Session, temporary: str, folder: str, key: str, *, private: bool
    ) -> asyncssh.SFTPClientFile:
        for _ in range(ATTEMPTS):
            opening = asyncio.ensure_future(_open(session, temporary, "xb", PRIVATE_MODE if private else None))
            try:
                return await asyncio.shield(opening)
            except asyncio.CancelledError:
                with contextlib.suppress(asyncssh.Error, OSError, TimeoutError):
                    async with asyncio.timeout(_TIDY_DEADLINE):
                        await self._drop(session, await opening, temporary)
                raise
            except asyncssh.SFTPNoSuchFile:
                await self._tree.make_folder(session, folder)
            except (asyncssh.SFTPFailure, asyncssh.SFTPNotADirectory):
                if await self._tree.is_below_file(session, key):
                    raise NotDirectory(
                        f"{key} at provider {self.info.name}: a part of the path is not a folder", key=key
                    ) from None
                await self._tree.require_space(session, key)
                raise
        raise self._tree.contended(key)

    async def _fill(
        self, session: Session, file: asyncssh.SFTPClientFile, pieces: AsyncIterator[bytes], key: str
    ) -> int:
        try:
            return await write_pieces(file, pieces, block_size(session.sftp.limits.max_write_len))
        except asyncssh.SFTPFailure:
            await self._tree.require_space(session, key)
            raise

    async def _settle(
        self,
        session: Session,
        file: asyncssh.SFTPClientFile,
        key: str,
        length: int,
        seconds: int,
        permissions: int | None,
    ) -> None:
        """Set time and permissions, have the server confirm size and disk, and close the file."""
        # the time of access tells ``sweep`` that the file is young, whatever the time of change says
        given = asyncssh.SFTPAttrs(atime=int(time.time()), mtime=seconds, permissions=permissions)
        _, _, attributes = await asyncio.gather(file.setstat(given), self._fsync(session, file), file.stat())
        if attributes.size != length:
            raise IntegrityError(
                f"provider {self.info.name} kept {attributes.size} of the {length} bytes of {key}", key=key
            )
        await file.close()

    async def _fsync(self, session: Session, file: asyncssh.SFTPClientFile) -> None:
        if session.fsync_works:
            try:
                await file.fsync()
            except asyncssh.SFTPOpUnsupported:
                session.fsync_works = False

    async def _name(self, session: Session, temporary: str, key: str, mode: WriteMode) -> None:
        """Let the finished file appear under its name."""
        sftp, source, target = session.sftp, session.path(temporary), session.path(key)
        if mode is WriteMode.CREATE:
            try:
                await sftp.link(source, target)
            except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):
                if await self._tree.kind_at(session, key) is None:
                    raise
                raise AlreadyExists(f"{key} exists already at provider {self.info.name}", key=key) from None
            await sftp.remove(source)
            return
        try:
            if self._sessions.features is not None and self._sessions.features.replacing_rename:
                await sftp.posix_rename(source, target)
            else:
                await self._replace(session, temporary, key)
        except (asyncssh.SFTPFailure, asyncssh.SFTPFileIsADirectory, asyncssh.SFTPPermissionDenied):
            if await self._tree.kind_at(session, key) is ObjectKind.DIRECTORY:
                raise IsDirectory(f"{key} at provider {self.info.name} is a folder", key=key) from None
            raise

    async def _replace(self, session: Session, source: str, target: str) -> None:
        """Rename over a target where the server's rename refuses that: for a moment the name is missing."""
        if await self._tree.kind_at(session, target) is ObjectKind.DIRECTORY:
            raise IsDirectory(f"{target} at provider {self.info.name} is a folder", key=target)
        source, target = session.path(source), session.path(target)
        folder, slash, _ = target.rpartition("/")
        aside = f"{folder}{slash}{TEMPORARY}{uuid.uuid4().hex}"
        try:
            await session.sftp.rename(target, aside)
        except asyncssh.SFTPNoSuchFile:
            await session.sftp.rename(source, target)
            return
        try:
            await session.sftp.rename(source, target)
        except asyncssh.SFTPError:
            await session.sftp.rename(aside, target)
            raise
        await session.sftp.remove(aside)

    async def _drop(self, session: Session, file: asyncssh.SFTPClientFile, temporary: str) -> None:
        """Remove an unfinished write, for a limited time."""
        try:
            async with asyncio.timeout(_TIDY_DEADLINE):
                await _close(file)
                with contextlib.suppress(asyncssh.SFTPNoSuchFile):
                    await session.sftp.remove(session.path(temporary))
                await self._tree.prune(session, temporary)
        except (asyncssh.Error, OSError, TimeoutError) as error:
            logger.info("provider %s: %s remains until the next sweep: %s", self.info.name, temporary, error)

    # ------------------------------------------------------------------ changing

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        """See :meth:`Adapter.delete`. Folders that are empty afterwards go too."""
        require(self, if_match is None or self.capability.write_if_match, "write_if_match")
        async with self._session(key) as session:
            try:
                await session.sftp.remove(session.path(key))
            except asyncssh.SFTPNoSuchFile:
                await self._tree.require_root(session)
                return
            except asyncssh.SFTPError:
                kind = await self._tree.kind_at(session, key)
                if kind is ObjectKind.DIRECTORY:
                    raise IsDirectory(f"{key} at provider {self.info.name} is a folder", key=key) from None
                if kind is None and await self._tree.is_below_file(session, key):
                    return
                raise
            await self._tree.prune(session, key)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        self._check_target(target)
        async with self._session(source) as session:
            require(self, self.capability.copy, "copy")
            async with self._opened(session, source) as original:
                attributes = await original.stat()
                info = self._tree.info_of(source, attributes)
                assert info.modified is not None
                permissions = permissions_of(attributes)
                async with self._temporary(session, target, permissions) as (file, temporary):
                    if info.size:
                        await session.sftp.remote_copy(original, file)
                    await self._settle(session, file, target, info.size, int(info.modified.timestamp()), permissions)
                    await self._name(session, temporary, target, WriteMode.OVERWRITE)
        return dataclasses.replace(info, key=target)

    async def move(self, source: str, target: str) -> ObjectInfo:
        self._check_target(target)
        async with self._session(source) as session:
            require(self, self.capability.move, "move")
            info = self._tree.info_of(source, await self._tree.attributes(session, source))
            for _ in range(ATTEMPTS):
                try:
                    await session.sftp.posix_rename(session.path(source), session.path(target))
                    break
                except asyncssh.SFTPNoSuchFile:
                    await self._tree.attributes(session, source)
                    await self._tree.make_folder(session, target.rpartition("/")[0])
                except asyncssh.SFTPFailure:
                    if await self._tree.kind_at(session, target) is ObjectKind.DIRECTORY:
                        raise IsDirectory(f"{target} at provider {self.info.name} is a folder", key=target) from None
                    if await self._tree.is_below_file(session, target):
                        raise NotDirectory(
                            f"{target} at provider {self.info.name}: a part of the path is not a folder", key=target
                        ) from None
                    raise
            else:
                raise self._tree.contended(target)
            await self._tree.prune(session, source)
        return dataclasses.replace(info, key=target)

    async def make_directory(self, key: str) -> None:
        require(self, self.capability.directories, "directories")
        async with self._session(key) as session:
            await self._tree.make_folder(session, key)

    async def remove_directory(self, key: str) -> None:
        require(self, self.capability.directories, "directories")
        async with self._session(key) as session:
            try:
                await session.sftp.rmdir(session.path(key))
            except asyncssh.SFTPNoSuchFile:
                await self._tree.require_root(session)
            except (asyncssh.SFTPFailure, asyncssh.SFTPDirNotEmpty):
                kind = await self._tree.kind_at(session, key)
                if kind is ObjectKind.DIRECTORY:
                    raise DirectoryNotEmpty(f"{key} at provider {self.info.name} is not empty", key=key) from None
                if kind is not None:
                    raise NotDirectory(f"{key} at provider {self.info.name} is not a folder", key=key) from None
                raise

    async def get_acl(self, key: str) -> Acl:
        async with self._session(key) as session, self._opened(session, key) as file:
            attributes = await file.stat()
            if attributes.permissions is None:
                raise self.unsupported("acl: the server tells no modes")
            return acl_of_mode(attributes.permissions, attributes.gid)

    async def set_acl(self, key: str, acl: Acl) -> Acl:
        """See :meth:`Adapter.set_acl`. Set are the mode bits: grants to others than owner and group are left out."""
        async with self._session(key) as session, self._opened(session, key) as file:
            await file.setstat(asyncssh.SFTPAttrs(permissions=mode_of(acl.access)))
            return require_mode((await file.stat()).permissions, acl.access, self.info.name)

    async def usage(self) -> Usage:
        async with self._session("") as session:
            require(self, self.capability.usage, "usage")
            status = await session.sftp.statvfs(session.path(""))
            unit = status.frsize or status.bsize
            return Usage(
                used=(status.blocks - status.bfree) * unit, free=status.bavail * unit, total=status.blocks * unit
            )

    async def sweep(self, older_than: float) -> int:
        """See :meth:`Adapter.sweep`. The age is held against this machine's clock."""
        limit = time.time() - older_than
        swept = 0
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            async with aclosing(self._scan(folder)) as objects:
                async for info in objects:
                    if info.kind is ObjectKind.DIRECTORY:
                        waiting.append(info.key)
                    elif info.key.rpartition("/")[2].startswith(TEMPORARY):
                        swept += await self._sweep_one(info.key, limit)
        return swept

    async def _sweep_one(self, key: str, limit: float) -> bool:
        async with self._session(key) as session:
            try:
                attributes = await session.sftp.lstat(session.path(key))
                if max(attributes.atime or 0, attributes.mtime or 0) > limit:
                    return False
                await session.sftp.remove(session.path(key))
            except asyncssh.SFTPNoSuchFile:
                return False  # its writer has finished
            return True

    async def aclose(self) -> None:
        await self._sessions.aclose()


async def _open(session: Session, key: str, mode: str, permissions: int | None = None) -> asyncssh.SFTPClientFile:
    attributes = asyncssh.SFTPAttrs(permissions=permissions)
    # a block size of 0 makes each read and write one request: how many are in flight is decided here
    return await session.sftp.open(session.path(key), mode, attributes, block_size=0)


async def _close(file: asyncssh.SFTPClientFile) -> None:
    with contextlib.suppress(asyncssh.Error, OSError, ValueError):
        await file.close()


async def _close_when_open(opening: asyncio.Future[asyncssh.SFTPClientFile]) -> None:
    """Undo an open that was asked for in vain."""
    with contextlib.suppress(asyncssh.Error, OSError, TimeoutError):
        async with asyncio.timeout(_TIDY_DEADLINE):
            await _close(await opening)


async def _pieces(source: Source, size: int | None, key: str) -> AsyncGenerator[bytes, None]:
    """The pieces of a source, whose own errors are kept apart from those of the server."""
    async with aclosing(exactly(source, size, key)) as pieces:
        try:
            async for piece in pieces:
                yield piece
        except Exception as error:
            raise CallerFailed(error) from error
