"""Copying files and trees between the virtual directory and the providers, and from provider to provider.

A file is looked at where it is and where it goes. What is there unchanged is passed over; what is not there is made;
what is there and differs is kept, or, when it is to be replaced, given its new content through the directory, so that
all copies follow and the old content stays a version. Bytes pass in blocks that the reader has verified.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import (
    AlreadyExists,
    CdirError,
    Conflict,
    IntegrityError,
    InvalidArgument,
    IsDirectory,
    NotFound,
    Unsupported,
)
from cdir.paths import WorkspacePath, key_of, normalize_path
from cdir.status import to_failure
from cdir.v1 import adapter_service_pb2, entry_pb2
from cdir.v1 import endpoint_service_pb2 as pb
from cdir_gateway.directory import Directory
from cdir_gateway.endpoints import Endpoint, Endpoints, entry_of_key
from cdir_gateway.orders import WriteOrder
from cdir_gateway.outbox import Outbox
from cdir_gateway.reading import FileReader
from cdir_gateway.upload import StoredFile
from cdir_gateway.writing import FileWriter, SmallFile
from cdir_transfer.digest import BLOCK_SIZE, INLINE_BYTES, ContentDigest
from cdir_transfer.reader import OpenContent
from cdir_transfer.strangers import is_same_time

__all__ = ["TreeCopier"]

_PARALLEL: Final = 4
_MOST_PARALLEL: Final = 32
_COMPARED: Final = frozenset({"md5", "sha1", "sha256", "crc32c", "crc64nvme"})
"""Checksums that say the same of the same content, wherever it lies."""


@dataclass(frozen=True, slots=True)
class Content:
    """A content that is to be stored: what is known of it, and its bytes, which can be had once."""

    size: int | None
    """Bytes; ``None`` when only its end will tell."""
    modified: Timestamp
    checksums: frozenset[str]
    """What is known of its bytes, each as "kind:value"."""
    pieces: AsyncIterator[bytes]
    """Of at most one block each. They come to their end only when all of them were right."""
    at: Endpoint | None = None
    """The object that it is, where it is one."""
    file: WorkspacePath | None = None
    """The file of the directory that it is, where it is one."""

    def is_like(self, size: int, modified: Timestamp, checksums: frozenset[str], *, keeps_times: bool) -> bool:
        """Whether what lies somewhere is surely or most probably this content. Digests decide where both state one of
        the same kind; else the size and the time, which is when it was stored where the provider keeps no other."""
        if size != self.size:
            return False
        kinds = {one.partition(":")[0] for one in self.checksums} & {one.partition(":")[0] for one in checksums}
        if kinds & _COMPARED:
            return all(
                ({one for one in self.checksums if one.startswith(f"{kind}:")})
                == {one for one in checksums if one.startswith(f"{kind}:")}
                for kind in kinds & _COMPARED
            )
        if keeps_times:
            return is_same_time(modified, self.modified)
        return modified.ToNanoseconds() >= self.modified.ToNanoseconds() > 0


@dataclass(frozen=True, slots=True)
class _Found:
    """Something to copy: where it lies below the source, empty for the source itself."""

    below: str
    is_directory: bool = False


class TreeCopier:
    """See EndpointService.CopyTree and WriteEndpoint."""

    def __init__(self, endpoints: Endpoints, directory: Directory, reader: FileReader, writer: FileWriter) -> None:
        self.endpoints = endpoints
        self.directory = directory
        self.reader = reader
        self.writer = writer

    async def copy(self, request: pb.CopyTreeRequest, user: str) -> AsyncGenerator[pb.CopyTreeResponse, None]:
        """Copy, and yield outcomes as files are done."""
        source = await self._source(request.source)
        target = await self._target(request.target, user)
        _check_apart(source, target)
        outbox: Outbox[pb.PlacedFile] = Outbox(batch_weight=64, capacity=256)
        async with aclosing(outbox.filled_by(self._copy_all(request, source, target, outbox))) as batches:
            async for files in batches:
                yield pb.CopyTreeResponse(files=files)

    async def write(self, opened: pb.WriteEndpointOpen, pieces: AsyncIterator[bytes], user: str) -> pb.PlacedFile:
        """Store one object whose bytes a caller sends."""
        target = _EndpointTarget(self, await self.endpoints.locate(opened.place, writing=True), user)
        modified = opened.modified
        if not opened.HasField("modified"):
            modified = Timestamp()
            modified.GetCurrentTime()
        size = opened.size if opened.HasField("size") else None
        content = Content(size, modified, frozenset(), pieces)
        return await target.take("", content, replace=opened.replace, dry_run=opened.dry_run)

    async def _source(self, place: pb.Place) -> _Source:
        if place.provider:
            return _EndpointSource(self, await self.endpoints.locate(place))
        return _DirectorySource(self, WorkspacePath(place.workspace, normalize_path(place.path)))

    async def _target(self, place: pb.Place, user: str) -> _Target:
        if place.provider:
            return _EndpointTarget(self, await self.endpoints.locate(place, writing=True), user)
        return _DirectoryTarget(self, WorkspacePath(place.workspace, normalize_path(place.path)), user)

    async def _copy_all(
        self, request: pb.CopyTreeRequest, source: _Source, target: _Target, outbox: Outbox[pb.PlacedFile]
    ) -> None:
        slots = asyncio.Semaphore(min(max(request.parallel or _PARALLEL, 1), _MOST_PARALLEL))

        async def copy_file(found: _Found) -> None:
            try:
                async with source.open(found.below) as content:
                    placed = await target.take(found.below, content, replace=request.replace, dry_run=request.dry_run)
                placed.source = source.name(found.below)
            except CdirError as error:
                placed = failed(found, error)
            finally:
                slots.release()
            await outbox.put(placed)

        def failed(found: _Found, error: CdirError) -> pb.PlacedFile:
            # a name that one side cannot have is shown as it is
            paths = [f"{place.path.rstrip('/')}/{found.below}" for place in (request.source, request.target)]
            one, other = (path.rstrip("/") if found.below else path[:-1] for path in paths)
            return pb.PlacedFile(source=one, target=other, failure=to_failure(error))

        try:
            async with asyncio.TaskGroup() as copies, aclosing(source.files(recursive=request.recursive)) as files:
                async for found in files:
                    if found.is_directory:
                        try:
                            if not request.dry_run:
                                await target.make_directory(found.below)
                        except CdirError as error:
                            await outbox.put(failed(found, error))
                        continue
                    await slots.acquire()
                    copies.create_task(copy_file(found))
        finally:
            outbox.close()


class _Source(ABC):
    def __init__(self, copier: TreeCopier) -> None:
        self._copier = copier

    @abstractmethod
    def files(self, *, recursive: bool) -> AsyncGenerator[_Found, None]:
        """Yield what is to be copied. Raises NotFound, IsDirectory."""

    @abstractmethod
    def open(self, below: str) -> AbstractAsyncContextManager[Content]:
        """Open one file; its reading ends with the context."""

    @abstractmethod
    def name(self, below: str) -> str:
        """The path of one file."""


class _EndpointSource(_Source):
    def __init__(self, copier: TreeCopier, top: Endpoint) -> None:
        super().__init__(copier)
        self.top = top

    def name(self, below: str) -> str:
        return self.top.below(below).key

    async def files(self, *, recursive: bool) -> AsyncGenerator[_Found, None]:
        info = await self._copier.endpoints.stat(self.top)
        if not info.directory:
            yield _Found("")
            return
        if not recursive:
            raise IsDirectory(f"{self.top.shown}: is a folder; add --recursive to copy all below it")
        strip = len(self.top.key) + 1 if self.top.key else 0
        async with aclosing(self._copier.endpoints.pages(self.top, recursive=True)) as pages:
            async for page in pages:
                for one in page:
                    if not one.directory:
                        yield _Found(one.key[strip:])

    @asynccontextmanager
    async def open(self, below: str) -> AsyncIterator[Content]:
        endpoint = self.top.below(below)
        info = await self._copier.endpoints.find(endpoint)
        if info is None:
            raise NotFound(f"nothing lies at {endpoint.shown} any more", path=endpoint.key)
        opened = self._copier.endpoints.open(endpoint, info)
        checksums = frozenset({info.checksum.lower()} - {""})
        async with aclosing(_pieces(opened, info.size)) as pieces:
            yield Content(info.size, info.modified, checksums, pieces, at=endpoint)


class _DirectorySource(_Source):
    def __init__(self, copier: TreeCopier, top: WorkspacePath) -> None:
        super().__init__(copier)
        self.top = top

    def name(self, below: str) -> str:
        return normalize_path(f"{self.top.path}/{below}")

    async def files(self, *, recursive: bool) -> AsyncGenerator[_Found, None]:
        directory = self._copier.directory
        top = await directory.entry(self.top.workspace, self.top.path)
        if top.kind == entry_pb2.ENTRY_KIND_FILE:
            yield _Found("")
            return
        if not recursive:
            raise IsDirectory(f"{self.top.path}: is a directory; add --recursive to copy all below it")
        strip = len(self.top.path.rstrip("/")) + 1
        async with aclosing(directory.tree(self.top.workspace, top)) as entries:
            async for entry in entries:
                is_directory = entry.kind == entry_pb2.ENTRY_KIND_DIRECTORY
                yield _Found(entry.path[strip:], is_directory)

    @asynccontextmanager
    async def open(self, below: str) -> AsyncIterator[Content]:
        path = self.name(below)
        opened = await self._copier.reader.open(self.top.workspace, path)
        version = opened.content.version
        # a content that was found at a provider has no digest until it is read once
        checksums = frozenset({f"sha256:{version.sha256.hex()}"} if version.sha256 else ())
        where = WorkspacePath(self.top.workspace, path)
        async with aclosing(_pieces(opened.content, version.size)) as pieces:
            yield Content(version.size, version.modified, checksums, pieces, file=where)


class _Target(ABC):
    def __init__(self, copier: TreeCopier, user: str) -> None:
        self._copier = copier
        self._user = user

    @abstractmethod
    async def take(self, below: str, content: Content, *, replace: bool, dry_run: bool) -> pb.PlacedFile:
        """Store one file, or see that it is there. Raises AlreadyExists when another one is, and the errors of
        writing."""

    @abstractmethod
    async def make_directory(self, below: str) -> None:
        """Make a directory where there are such things."""

    @abstractmethod
    def name(self, below: str) -> str:
        """The path of one file."""

    async def _store(self, where: WorkspacePath, content: Content, generation: int) -> StoredFile:
        """Store a content as a file of the directory on top of ``generation``."""
        order = WriteOrder(
            workspace=where.workspace,
            path=where.path,
            modified=content.modified,
            user=self._user,
            base_generation=generation,
        )
        if content.size is not None and content.size <= BLOCK_SIZE:
            data = b"".join([piece async for piece in content.pieces])
            digest = ContentDigest()
            if len(data) < INLINE_BYTES:
                digest.update(data)
            else:
                await asyncio.to_thread(digest.update, data)
            return await self._copier.writer.store(SmallFile(order, data, digest.sha256()))
        async with self._copier.writer.upload(order, content.size) as upload:
            async for piece in content.pieces:
                await upload.send_hashed(piece)
            digest = upload.digest
            return await upload.finish(digest.size, digest.sha256(), digest.block_digests())


class _DirectoryTarget(_Target):
    def __init__(self, copier: TreeCopier, top: WorkspacePath, user: str) -> None:
        super().__init__(copier, user)
        self.top = top

    def name(self, below: str) -> str:
        return normalize_path(f"{self.top.path}/{below}")

    async def make_directory(self, below: str) -> None:
        await self._copier.directory.make(self.top.workspace, self.name(below), self._user)

    async def take(self, below: str, content: Content, *, replace: bool, dry_run: bool) -> pb.PlacedFile:
        where = WorkspacePath(self.top.workspace, self.name(below))
        placed = pb.PlacedFile(target=where.path, entry=where.path, size=content.size or 0)
        entry = await _entry(self._copier.directory, where)
        if entry is not None and entry.kind == entry_pb2.ENTRY_KIND_DIRECTORY:
            raise IsDirectory(f"{where.path} is a directory; name a file", path=where.path)
        if entry is not None:
            checksums = frozenset({f"sha256:{entry.sha256.hex()}"} if entry.sha256 else ())
            if content.is_like(entry.size, entry.modified, checksums, keeps_times=True):
                placed.skipped = True
                return placed
            if not replace:
                raise AlreadyExists(
                    f"{where.path} exists already; copy with --overwrite to replace it, it stays restorable",
                    path=where.path,
                )
        if not dry_run:
            stored = await self._store(where, content, 0 if entry is None else entry.generation)
            placed.size = stored.entry.size
            placed.owed.extend(stored.owed)
        return placed


class _EndpointTarget(_Target):
    def __init__(self, copier: TreeCopier, top: Endpoint, user: str) -> None:
        super().__init__(copier, user)
        self.top = top
        capability = dict(top.provider.capability)
        self._keeps_times = bool(capability.get("modified_settable"))
        self._copies = bool(capability.get("copy"))

    def name(self, below: str) -> str:
        return self.top.below(below).key

    async def make_directory(self, below: str) -> None:
        """Folders at a provider come with the first object in them."""

    async def take(self, below: str, content: Content, *, replace: bool, dry_run: bool) -> pb.PlacedFile:
        target = self.top.below(below)
        if not target.key:
            raise IsDirectory(f"{target.shown}: is the root of the provider; name an object", path="")
        endpoints = self._copier.endpoints
        placed = pb.PlacedFile(target=target.key, size=content.size or 0)
        info = await endpoints.find(target)
        if info is not None:
            if info.directory or info.special:
                raise IsDirectory(f"{target.shown} is no file; name another target", path=target.key)
            checksums = frozenset({info.checksum.lower()} - {""})
            if content.is_like(info.size, info.modified, checksums, keeps_times=self._keeps_times):
                placed.skipped = True
                return placed
        (owner,) = await endpoints.entries([target.key])
        if info is None and not owner:
            if not dry_run:
                await self._create(target, content, placed)
            return placed
        if not replace:
            what = f"belongs to {owner} of the virtual directory" if owner else "holds something else already"
            raise AlreadyExists(
                f"{target.shown} {what}; --overwrite replaces it everywhere, and keeps the old content as a version",
                path=target.key,
            )
        await self._replace(target, info, content, placed, dry_run=dry_run)
        return placed

    async def _create(self, target: Endpoint, content: Content, placed: pb.PlacedFile) -> None:
        endpoints = self._copier.endpoints
        source = content.at
        if source is not None and source.provider.provider_id == target.provider.provider_id and self._copies:
            try:
                info = await endpoints.copy_at_provider(source, target)
            except Unsupported:
                pass
            else:
                if info.size != content.size or not content.is_like(
                    info.size, content.modified, frozenset({info.checksum.lower()} - {""}), keeps_times=True
                ):
                    raise IntegrityError(
                        f"{target.shown}: the copy is not what {source.shown} was; it changed meanwhile, copy it again",
                        path=target.key,
                    )
                placed.at_provider = True
                return
        info = await endpoints.create(target, content.pieces, size=content.size, modified=content.modified)
        placed.size = info.size

    async def _replace(
        self,
        target: Endpoint,
        info: adapter_service_pb2.ObjectInfo | None,
        content: Content,
        placed: pb.PlacedFile,
        *,
        dry_run: bool,
    ) -> None:
        """Give the file of the directory to which the target belongs a new content."""
        where = entry_of_key(target.key)
        if where is None:
            raise Conflict(f"{target.shown} cannot be a file of the virtual directory; remove it first")
        if where == content.file:
            raise Conflict(f"{target.shown} is a copy of {where.path}; `cdir repair {where.path}` brings it up to date")
        directory = self._copier.directory
        if target.provider.name not in await directory.placed_at(where.workspace, where.path):
            raise Conflict(
                f"{where.path} keeps no copy at {target.provider.name} by its policy; copy to {where.path} instead, or"
                f" change the policy",
                path=where.path,
            )
        if dry_run:
            placed.entry = where.path
            return
        if await _entry(directory, where) is None and info is not None:
            await self._copier.endpoints.adopt(target, info, where)
        entry = await _entry(directory, where)
        if entry is None or entry.kind == entry_pb2.ENTRY_KIND_DIRECTORY:
            raise Conflict(f"{target.shown}: a directory or a parent of it is in the way in the virtual directory")
        stored = await self._store(where, content, entry.generation)
        placed.size = stored.entry.size
        placed.entry = where.path
        placed.owed.extend(stored.owed)


async def _pieces(content: OpenContent, size: int) -> AsyncGenerator[bytes, None]:
    """The verified bytes of a content; of an empty one too it was looked whether it is."""
    if not size:
        await content.whole()
        return
    async with aclosing(content.blocks()) as blocks:
        async for block in blocks:
            yield block


async def _entry(directory: Directory, where: WorkspacePath) -> entry_pb2.Entry | None:
    try:
        return await directory.entry(where.workspace, where.path)
    except NotFound:
        return None


def _check_apart(source: _Source, target: _Target) -> None:
    """Raise InvalidArgument when a tree would go onto or into itself."""
    if isinstance(source, _EndpointSource) and isinstance(target, _EndpointTarget):
        if source.top.provider.provider_id != target.top.provider.provider_id:
            return
        one, other, shown = source.top.key, target.top.key, source.top.shown
    elif isinstance(source, _DirectorySource) and isinstance(target, _DirectoryTarget):
        one = key_of(source.top.workspace, source.top.path)
        other = key_of(target.top.workspace, target.top.path)
        shown = source.top.path
    else:
        return
    if one == other or not one or other.startswith(f"{one}/"):
        raise InvalidArgument(f"{shown} cannot be copied onto or into itself")
