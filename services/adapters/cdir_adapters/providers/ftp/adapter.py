"""The adapter of the ``ftp`` kind."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count

from cdir.errors import (
    DirectoryNotEmpty,
    IntegrityError,
    InvalidPath,
    IsDirectory,
    NotDirectory,
    NotFound,
    ProviderUnavailable,
    Retry,
)
from cdir_adapters.acl import Access
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
    WriteMode,
)
from cdir_adapters.capability import Capability
from cdir_adapters.providers.ftp.faults import CallerFailed, Refusal
from cdir_adapters.providers.ftp.sessions import Session, Sessions, Use
from cdir_adapters.providers.ftp.settings import FtpSettings
from cdir_adapters.providers.ftp.transfers import Changed, open_file
from cdir_adapters.providers.ftp.tree import ATTEMPTS, PATIENCE, Tree
from cdir_adapters.providers.ftp.uploads import (
    TEMPORARY,
    TIDY_DEADLINE,
    begin,
    drop,
    finish,
    pieces_of,
    send,
    set_time,
    temporary_beside,
    was_begun,
)
from cdir_adapters.providers.ftp.wire import Data
from cdir_adapters.registry import OptionValue
from cdir_adapters.shapes import (
    PAGE_SIZE,
    PIECE_SIZE,
    BufferedReadStream,
    require,
    require_write,
    resolve_range,
)

__all__ = ["FtpAdapter"]

logger = logging.getLogger(__name__)

_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 1950
"""Some servers take no longer commands than 2048 bytes, and an unfinished write has a name of its own."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_USUAL_YEARS = range(1980, 2038)
"""Times that every file system can keep: one that does not come back says that the server keeps none."""


_Entries = Sequence[tuple[ObjectInfo, str]]


class FtpAdapter(Adapter):
    """A folder on an FTP server.

    What the server can do is known after the first connection, and some of it after the first write; ``capability`` is
    narrowed then.
    """

    capability = Capability(
        write_unknown_size=True,
        write_atomic=True,
        move=True,
        directories=True,
        list_current=True,
        modified_settable=True,
        modified_listed=True,
        modified_precision=timedelta(seconds=1),
        max_path_bytes=_MAX_PATH_BYTES,
        max_name_bytes=_MAX_NAME_BYTES,
    )

    def __init__(self, name: str, options: Mapping[str, OptionValue]) -> None:
        settings = FtpSettings.from_options(options)
        self.info = AdapterInfo("ftp", name, settings.location)
        self._sessions = Sessions(settings, name)
        self.calls_at_once = self._sessions.streams
        self.objects_at_once = settings.connections - self._sessions.streams
        self._tree = Tree(name)
        self._narrowed = False

    def __repr__(self) -> str:
        return f"FtpAdapter({self.info.name!r}, {self.info.location!r})"

    @asynccontextmanager
    async def _session(self, key: str, use: Use = Use.ASKING) -> AsyncIterator[Session]:
        async with self._sessions.session(key, use) as session:
            if not self._narrowed:
                self._narrowed = True
                features = session.features
                if not features.mfmt and not features.mdtm:
                    self._cannot_set_time()
                if not features.facts and not features.mdtm:
                    self.capability = dataclasses.replace(self.capability, modified_listed=False)
            yield session

    def _cannot_set_time(self) -> None:
        self.capability = dataclasses.replace(
            self.capability, modified_settable=False, modified_listed=False, modified_precision=None
        )

    # ------------------------------------------------------------------ the root

    async def check(self) -> None:
        async with self._session("") as session:
            if not await session.enters(""):
                raise NotFound(
                    f"provider {self.info.name}: there is no folder {session.path('')} on the server that its user may"
                    " enter; set root",
                    provider=self.info.name,
                )

    async def prepare(self) -> None:
        async with self._session("") as session:
            names = session.path("").strip("/").split("/")
            for end in range(1, len(names) + 1):
                if await session.enters(""):
                    break
                folder = "/" + "/".join(names[:end])
                try:
                    await session.control.command("MKD", folder)
                except Refusal as refusal:
                    # those above exist as a rule, and may be closed to us
                    if refusal.passing or (end == len(names) and not await session.enters("")):
                        raise
        await self.check()

    # ------------------------------------------------------------------ looking

    async def stat(self, key: str) -> ObjectInfo:
        async with self._session(key) as session:
            return await self._tree.require(session, key)

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        require(self, start_after is None or self.capability.list_ordered, "list_ordered")
        found: list[ObjectInfo] = []
        async with aclosing(self._walk(prefix, recursive=recursive)) as objects:
            async for info in objects:
                if recursive and info.kind is ObjectKind.DIRECTORY:
                    continue
                if info.key.rpartition("/")[2].startswith(TEMPORARY):
                    continue
                found.append(info)
                if len(found) == PAGE_SIZE:
                    yield Page(tuple(found))
                    found.clear()
        if found:
            yield Page(tuple(found))

    async def _walk(self, prefix: str, *, recursive: bool) -> AsyncGenerator[ObjectInfo, None]:
        """Everything in a folder, or below it, unfinished writes included.

        A link that leads to a folder above would make the walk endless; where the server tells folders apart it is
        shown as something else, elsewhere the walk ends with an error.
        """
        waiting: list[tuple[str, frozenset[str]]] = [(prefix, frozenset())]
        while waiting:
            folder, above = waiting.pop()
            if len(folder.encode()) > _MAX_PATH_BYTES:
                raise ProviderUnavailable(
                    f"{folder[:100]}… at provider {self.info.name}: folders lie in each other without an end; does a"
                    " link there lead to a folder above it?",
                    provider=self.info.name,
                )
            async with aclosing(self._scan(folder)) as objects:
                async for info, unique in objects:
                    if recursive and info.kind is ObjectKind.DIRECTORY:
                        if unique and unique in above:
                            yield dataclasses.replace(info, kind=ObjectKind.OTHER)
                            continue
                        waiting.append((info.key, above | {unique} if unique else above))
                    yield info

    async def _scan(self, folder: str) -> AsyncGenerator[tuple[ObjectInfo, str], None]:
        """What lies right in a folder; nothing when it does not exist. No connection is held meanwhile."""
        async with self._session(folder) as session:
            spool = await self._tree.listing(session, folder)
            timed = session.features.facts
        if spool is None:
            return
        with spool:
            async with aclosing(self._tree.entries(session, folder, spool)) as batches:
                async for entries in batches:
                    for entry in entries if timed else await self._timed(folder, entries):
                        yield entry

    async def _timed(self, folder: str, entries: _Entries) -> _Entries:
        """Ask for the modified times, which LIST does not tell: one round trip for each file."""
        async with self._session(folder) as session:
            if not session.features.mdtm:
                return entries
            return [
                (dataclasses.replace(info, modified=await self._tree.time_of(session, info.key)), unique)
                if info.kind is ObjectKind.FILE
                else (info, unique)
                for info, unique in entries
            ]

    # ------------------------------------------------------------------ reading

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        require(self, if_match is None or self.capability.read_if_match, "read_if_match")
        try:
            async with AsyncExitStack() as stack:
                session = await stack.enter_async_context(self._session(key, Use.READING))
                info = await self._require_file(session, key)
                offset, length = resolve_range(range, info.size, key)
                stream: ReadStream
                if length <= PIECE_SIZE:
                    fetched = await self._fetch(session, key, range, info)
                    await stack.aclose()
                    stream = BufferedReadStream(fetched.info, fetched.data)
                else:
                    opened = await open_file(self._tree, session, info, offset, length, self.info.name)
                    stream = await stack.enter_async_context(aclosing(opened))
                try:
                    yield stream
                except Exception as error:
                    raise CallerFailed(error) from error
        except CallerFailed as failed:
            raise failed.error  # noqa: B904 # the caller gets back the very error that it raised

    async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
        require(self, if_match is None or self.capability.read_if_match, "read_if_match")
        async with self._session(key) as session:
            return await self._fetch(session, key, range, await self._require_file(session, key))

    async def _fetch(self, session: Session, key: str, range: ByteRange, info: ObjectInfo) -> FetchedObject:
        """Read a range whole. FTP tells the size of a name, not of the file that is being read: when that has been
        replaced in between, all is read again."""
        for attempt in count(1):
            offset, length = resolve_range(range, info.size, key)
            if not length:
                break
            stream = await open_file(self._tree, session, info, offset, length, self.info.name)
            try:
                async with aclosing(stream):
                    pieces = [piece async for piece in stream]
            except Changed:
                if attempt == ATTEMPTS:
                    raise
                info = await self._require_file(session, key)
            else:
                return FetchedObject(info, pieces[0] if len(pieces) == 1 else b"".join(pieces))
        return FetchedObject(info, b"")

    async def _require_file(self, session: Session, key: str) -> ObjectInfo:
        info = await self._tree.require(session, key)
        if info.kind is ObjectKind.DIRECTORY:
            raise IsDirectory(f"{key} at provider {self.info.name} is a folder", key=key)
        if info.kind is not ObjectKind.FILE:
            raise NotFound(f"{key} at provider {self.info.name} is not a regular file", key=key)
        return info

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
        try:
            async with aclosing(pieces_of(source, size, key)) as pieces:
                # a source that reads from this very server has its connection before this write takes one
                first = await anext(pieces, b"")
                use = Use.ASKING if isinstance(source, bytes) else Use.WRITING
                async with self._session(key, use) as session:
                    self._check_path(session, key)
                    return await self._store(session, key, first, pieces, modified)
        except CallerFailed as failed:
            raise failed.error  # noqa: B904 # the caller gets back the very error that its source raised

    def _check_target(self, key: str) -> None:
        if not key:
            raise IsDirectory(f"the root of provider {self.info.name} is a folder", key=key)
        for name in key.split("/"):
            if name.startswith(TEMPORARY):
                raise InvalidPath(f"{key}: names that begin with {TEMPORARY} are kept for unfinished writes", key=key)
            if len(name.encode()) > _MAX_NAME_BYTES:
                raise InvalidPath(f"{key}: a name is longer than {_MAX_NAME_BYTES} bytes", key=key)

    def _check_path(self, session: Session, key: str) -> None:
        if len(session.path(key).encode()) > _MAX_PATH_BYTES:
            raise InvalidPath(f"{key[:40]}… is longer than {_MAX_PATH_BYTES} bytes with the root", key=key)

    async def _store(
        self, session: Session, key: str, first: bytes, pieces: AsyncIterator[bytes], modified: datetime
    ) -> ObjectInfo:
        temporary = temporary_beside(key)
        data: Data | None = None
        try:
            data = await begin(self._tree, session, temporary)
            length = await send(data, first, pieces)
            await finish(session, data)
            stored = await self._settle(session, temporary, key, length, modified)
            await self._name(session, temporary, key)
        except BaseException:
            await drop(self._tree, session, data, temporary, self.info.name)
            raise
        return dataclasses.replace(stored, key=key)

    async def _settle(self, session: Session, temporary: str, key: str, length: int, modified: datetime) -> ObjectInfo:
        """Set the time, and have the server confirm time and size."""
        moment = max(modified.astimezone(UTC).replace(microsecond=0), _EPOCH)
        tried = await set_time(session, temporary, moment)
        stored = await self._tree.require(session, temporary)
        if stored.kind is not ObjectKind.FILE or stored.size != length:
            # the end of a connection that was cut looks to the server like the end of the file
            raise IntegrityError(
                f"provider {self.info.name} kept {stored.size} of the {length} bytes of {key}; the old object stays",
                retry=Retry.LATER,
                key=key,
            )
        kept = stored.modified is not None and stored.modified.replace(microsecond=0) == moment
        if moment.year in _USUAL_YEARS:
            if tried == "MDTM":
                session.features.sets_time_by_mdtm = kept
            if not kept and self.capability.modified_settable:
                logger.info("provider %s: the server does not keep the modified times it is given", self.info.name)
                self._cannot_set_time()
        return stored

    async def _name(self, session: Session, temporary: str, key: str) -> None:
        """Let the finished file appear under its name."""
        if not self.capability.write_atomic:
            await self._replace(session, temporary, key)
            return
        try:
            await self._rename(session, temporary, key)
        except Refusal as refusal:
            found = None if refusal.passing else await self._tree.look(session, key)
            if found is None:
                raise
            if found.kind is ObjectKind.DIRECTORY:
                raise IsDirectory(f"{key} at provider {self.info.name} is a folder", key=key) from None
            await self._replace(session, temporary, key)
            # this server's renaming does not replace
            self.capability = dataclasses.replace(self.capability, write_atomic=False, move=False)

    async def _rename(self, session: Session, source: str, target: str) -> None:
        await session.control.command("RNFR", session.path(source), accept="3")
        await session.control.command("RNTO", session.path(target))

    async def _replace(self, session: Session, temporary: str, key: str) -> None:
        """Rename over a target where the server's rename refuses that: for a moment the name is missing."""
        found = await self._tree.look(session, key)
        if found is None:
            await self._rename(session, temporary, key)
            return
        if found.kind is ObjectKind.DIRECTORY:
            raise IsDirectory(f"{key} at provider {self.info.name} is a folder", key=key)
        aside = temporary_beside(key)
        await self._rename(session, key, aside)
        try:
            await self._rename(session, temporary, key)
        except BaseException:
            await self._put_back(session, aside, key)
            raise
        try:
            await session.control.command("DELE", session.path(aside))
        except Refusal as refusal:
            logger.info("provider %s: %s remains until the next sweep: %s", self.info.name, aside, refusal)

    async def _put_back(self, session: Session, aside: str, key: str) -> None:
        try:
            async with asyncio.timeout(TIDY_DEADLINE):
                await session.control.settle()
                await self._rename(session, aside, key)
        except (Refusal, OSError):
            logger.exception("provider %s: %s was set aside as %s and stays there", self.info.name, key, aside)

    # ------------------------------------------------------------------ changing

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        """See :meth:`Adapter.delete`. Folders that are empty afterwards go too."""
        require(self, if_match is None or self.capability.write_if_match, "write_if_match")
        async with self._session(key) as session:
            try:
                await session.control.command("DELE", session.path(key))
            except Refusal as refusal:
                if refusal.passing:
                    raise
                found = await self._tree.look(session, key)
                if found is None:
                    return
                if found.kind is ObjectKind.DIRECTORY:
                    raise IsDirectory(f"{key} at provider {self.info.name} is a folder", key=key) from None
                raise
            await self._tree.prune(session, key)

    async def move(self, source: str, target: str) -> ObjectInfo:
        self._check_target(target)
        async with self._session(source) as session:
            require(self, self.capability.move, "move")
            self._check_path(session, target)
            info = await self._tree.require(session, source)
            for attempt in range(ATTEMPTS):
                try:
                    await self._rename(session, source, target)
                    break
                except Refusal as refusal:
                    if refusal.passing or refusal.unknown_command:
                        raise
                    await self._tree.require(session, source)
                    found = await self._tree.look(session, target)
                    if found is not None and found.kind is ObjectKind.DIRECTORY:
                        raise IsDirectory(f"{target} at provider {self.info.name} is a folder", key=target) from None
                    if found is not None:
                        # this server's renaming does not replace
                        self.capability = dataclasses.replace(self.capability, write_atomic=False, move=False)
                        require(self, False, "move")
                    folder = target.rpartition("/")[0]
                    if not await self._tree.make_folder(session, folder) and (refusal.denies or attempt >= PATIENCE):
                        raise
            else:
                raise self._tree.contended(target)
            await self._tree.prune(session, source)
        return dataclasses.replace(info, key=target)

    async def make_directory(self, key: str) -> None:
        require(self, self.capability.directories, "directories")
        async with self._session(key) as session:
            self._check_path(session, key)
            await self._tree.make_folder(session, key)

    async def remove_directory(self, key: str) -> None:
        require(self, self.capability.directories, "directories")
        async with self._session(key) as session:
            try:
                await session.control.command("RMD", session.path(key))
            except Refusal as refusal:
                if refusal.passing:
                    raise
                found = await self._tree.look(session, key)
                if found is None:
                    return
                if found.kind is not ObjectKind.DIRECTORY:
                    raise NotDirectory(f"{key} at provider {self.info.name} is not a folder", key=key) from None
                if await self._tree.is_empty(session, key):
                    raise
                raise DirectoryNotEmpty(f"{key} at provider {self.info.name} is not empty", key=key) from None

    async def sweep(self, older_than: float) -> int:
        """See :meth:`Adapter.sweep`. The age is that in the name, which the writer's clock has put there, and the
        server's own: a write that takes long is young by that."""
        limit = datetime.now(UTC) - timedelta(seconds=older_than)
        swept = 0
        async with aclosing(self._walk("", recursive=True)) as objects:
            async for info in objects:
                name = info.key.rpartition("/")[2]
                if info.kind is not ObjectKind.FILE or not name.startswith(TEMPORARY):
                    continue
                begun = was_begun(info)
                if begun is not None and begun <= limit:
                    swept += await self._sweep_one(info.key)
        return swept

    async def _sweep_one(self, key: str) -> bool:
        async with self._session(key) as session:
            try:
                await session.control.command("DELE", session.path(key))
            except Refusal as refusal:
                if refusal.passing:
                    raise
                if await self._tree.look(session, key) is None:
                    return False  # its writer has finished
                raise
            return True

    async def aclose(self) -> None:
        await self._sessions.aclose()
