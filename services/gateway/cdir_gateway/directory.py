"""The virtual directory's use cases beside reading and writing: what the catalog answers, and copying."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

from google.protobuf.message import Message

from cdir.errors import AlreadyExists, CdirError, Conflict, IntegrityError, InvalidArgument, IsDirectory
from cdir.paths import join_path, normalize_path
from cdir.status import from_failure, to_failure, translated
from cdir.v1 import (
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    entry_pb2,
    replicator_service_pb2,
    replicator_service_pb2_grpc,
    scrub_pb2,
)
from cdir.v1 import directory_service_pb2 as pb
from cdir_gateway.ledger import CALL_SECONDS, user_metadata
from cdir_gateway.orders import WriteOrder
from cdir_gateway.outbox import Outbox
from cdir_gateway.reading import FileReader
from cdir_gateway.upload import StoredFile
from cdir_gateway.writing import FileWriter, SmallFile
from cdir_transfer.digest import BLOCK_SIZE

__all__ = ["TREE_SECONDS", "Directory", "normal"]

TREE_SECONDS: Final = 600.0
"""Deadline of a call that may touch a whole tree."""

_COPIES_AT_ONCE: Final = 16
_LARGE_COPIES_AT_ONCE: Final = 4
_PAGE: Final = 1000

Request = TypeVar("Request", bound=Message)
_Item = TypeVar("_Item", pb.EntryRef, pb.EntryRemoval)
_Result = TypeVar("_Result", pb.FoundEntry, pb.MadeDirectory, pb.RemovedEntry)


@functools.cache
def _version() -> str:
    """Return the release that runs; what is installed is looked through only once."""
    return importlib.metadata.version("cdir")


def normal(request: Request, *fields: str) -> Request:
    """Return the request with its paths in normal form; the one given is the caller's and stays as it is."""
    changed = type(request)()
    changed.CopyFrom(request)
    for name in fields:
        setattr(changed, name, normalize_path(getattr(request, name)))
    return changed


class Directory:
    """See DirectoryService for what each method promises."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        replicator: replicator_service_pb2_grpc.ReplicatorServiceAsyncStub,
        reader: FileReader,
        writer: FileWriter,
        *,
        local_files: bool,
        deployment: str,
    ) -> None:
        self.catalog = catalog
        self._replicator = replicator
        self._reader = reader
        self._writer = writer
        self._server = pb.GetServerResponse(
            version=_version(),
            deployment=deployment,
            local_files=local_files,
            process_id=os.getpid(),
        )

    def server(self) -> pb.GetServerResponse:
        """Who answers."""
        return self._server

    async def entries(self, refs: Sequence[pb.EntryRef]) -> pb.GetEntriesResponse:
        """DirectoryService.GetEntries."""
        response = pb.GetEntriesResponse()
        asked = list(_normal_each(refs, response.results.add))
        request = catalog_service_pb2.ResolveEntriesRequest(
            refs=[catalog_service_pb2.PathRef(workspace=ref.workspace, path=ref.path) for ref, _ in asked]
        )
        with translated():
            found = await self.catalog.ResolveEntries(request, timeout=CALL_SECONDS)
        for (_, result), one in zip(asked, found.results, strict=True):
            if one.HasField("failure"):
                result.failure.CopyFrom(one.failure)
            else:
                result.entry.CopyFrom(one.entry)
        return response

    async def make_each(self, refs: Sequence[pb.EntryRef], user: str) -> pb.MakeDirectoriesResponse:
        """DirectoryService.MakeDirectories."""
        response = pb.MakeDirectoriesResponse()
        asked = list(_normal_each(refs, response.results.add))
        request = pb.MakeDirectoriesRequest(refs=[ref for ref, _ in asked])
        with translated():
            made = await self.catalog.MakeDirectories(request, timeout=CALL_SECONDS, metadata=user_metadata(user))
        for (_, result), one in zip(asked, made.results, strict=True):
            result.CopyFrom(one)
        return response

    async def remove_each(self, removals: Sequence[pb.EntryRemoval], user: str) -> pb.RemoveEntriesResponse:
        """DirectoryService.RemoveEntries."""
        response = pb.RemoveEntriesResponse()
        asked = list(_normal_each(removals, response.results.add))
        request = pb.RemoveEntriesRequest(removals=[removal for removal, _ in asked])
        with translated():
            removed = await self.catalog.RemoveEntries(request, timeout=TREE_SECONDS, metadata=user_metadata(user))
        for (_, result), one in zip(asked, removed.results, strict=True):
            result.CopyFrom(one)
        return response

    async def entry(self, workspace: str, path: str) -> entry_pb2.Entry:
        """What a path in normal form names. Raises NotFound."""
        request = catalog_service_pb2.ResolveEntriesRequest(
            refs=[catalog_service_pb2.PathRef(workspace=workspace, path=path)]
        )
        with translated():
            response = await self.catalog.ResolveEntries(request, timeout=CALL_SECONDS)
        found = response.results[0]
        if found.HasField("failure"):
            raise from_failure(found.failure)
        return found.entry

    async def make(self, workspace: str, path: str, user: str) -> None:
        """Make a directory and its parents; existing is fine. Raises NotDirectory."""
        with translated():
            made = await self.catalog.MakeDirectories(
                pb.MakeDirectoriesRequest(refs=[pb.EntryRef(workspace=workspace, path=path)]),
                timeout=CALL_SECONDS,
                metadata=user_metadata(user),
            )
        if made.results[0].HasField("failure"):
            raise from_failure(made.results[0].failure)

    async def placed_at(self, workspace: str, path: str) -> set[str]:
        """The names of the providers where a file belongs by its policy, whether it exists or not."""
        with translated():
            explained = await self.catalog.ExplainPlacement(
                pb.ExplainPlacementRequest(workspace=workspace, path=path), timeout=CALL_SECONDS
            )
        return {reason.provider for reason in explained.reasons if reason.chosen}

    async def watch(self, request: pb.WatchChangesRequest) -> AsyncGenerator[pb.WatchChangesResponse, None]:
        """Yield changes until the caller leaves."""
        call = self.catalog.WatchChanges(request)
        try:
            with translated():
                async for response in call:
                    yield response
        finally:
            call.cancel()

    async def repair(self, request: pb.RepairEntryRequest) -> pb.RepairEntryResponse:
        """Make debt at or below a path due now."""
        with translated():
            started = await self._replicator.StartRepair(
                replicator_service_pb2.StartRepairRequest(
                    workspace=request.workspace, path=normalize_path(request.path), provider=request.provider
                ),
                timeout=CALL_SECONDS,
            )
        return pb.RepairEntryResponse(due=started.due)

    async def scrub(self, request: scrub_pb2.ScrubTreeRequest) -> AsyncGenerator[scrub_pb2.ScrubTreeResponse, None]:
        """Have copies proven and yield how far that is; it goes on when the caller leaves."""
        call = self._replicator.StartScrub(scrub_pb2.StartScrubRequest(scrub=normal(request, "path")))
        try:
            with translated():
                async for step in call:
                    yield scrub_pb2.ScrubTreeResponse(progress=step.progress)
        finally:
            call.cancel()

    async def copy(self, request: pb.CopyEntryRequest, user: str) -> AsyncGenerator[pb.CopyEntryResponse, None]:
        """Copy a file or a tree; yield one outcome per file as it is done."""
        request = normal(request, "source", "target")
        source = await self.entry(request.source_workspace, request.source)
        is_tree = source.kind == entry_pb2.ENTRY_KIND_DIRECTORY
        if is_tree and not request.recursive:
            raise IsDirectory(f"{request.source} is a directory; copy it with --recursive", path=request.source)
        if request.source_workspace == request.target_workspace and (
            request.target == request.source or (is_tree and _is_below(request.target, request.source))
        ):
            raise InvalidArgument(f"{request.source} cannot be copied onto or into itself", path=request.source)
        outbox: Outbox[pb.CopyEntryResponse] = Outbox(batch_weight=1, capacity=1)
        async with aclosing(outbox.filled_by(self._copy_all(request, source, user, outbox))) as batches:
            async for outcomes in batches:
                for outcome in outcomes:
                    yield outcome

    async def _copy_all(
        self, request: pb.CopyEntryRequest, source: entry_pb2.Entry, user: str, outbox: Outbox[pb.CopyEntryResponse]
    ) -> None:
        slots, large = asyncio.Semaphore(_COPIES_AT_ONCE), asyncio.Semaphore(_LARGE_COPIES_AT_ONCE)

        async def copy_file(entry: entry_pb2.Entry, target: str) -> None:
            try:
                stored = await self._copy_file(request, entry, target, user, large)
                outcome = pb.CopyEntryResponse(path=target, stored=stored.message())
            except CdirError as error:
                outcome = pb.CopyEntryResponse(path=target, failure=to_failure(error))
            finally:
                slots.release()
            await outbox.put(outcome)

        try:
            async with asyncio.TaskGroup() as copies:
                async for entry in self.tree(request.source_workspace, source):
                    target = _moved(entry.path, request.source, request.target)
                    if entry.kind == entry_pb2.ENTRY_KIND_DIRECTORY:
                        await self.make(request.target_workspace, target, user)
                    else:
                        await slots.acquire()
                        copies.create_task(copy_file(entry, target))
        finally:
            outbox.close()

    async def tree(self, workspace: str, top: entry_pb2.Entry) -> AsyncGenerator[entry_pb2.Entry, None]:
        """Yield ``top`` and everything below it."""
        yield top
        if top.kind != entry_pb2.ENTRY_KIND_DIRECTORY:
            return
        token = ""
        while True:
            request = pb.ListEntriesRequest(
                workspace=workspace, path=top.path, recursive=True, page_size=_PAGE, page_token=token
            )
            with translated():
                page = await self.catalog.ListEntries(request, timeout=CALL_SECONDS)
            for entry in page.entries:
                yield entry
            token = page.next_page_token
            if not token:
                return

    async def _copy_file(
        self, request: pb.CopyEntryRequest, entry: entry_pb2.Entry, target: str, user: str, large: asyncio.Semaphore
    ) -> StoredFile:
        """Copy one file; what is stored has the digest that was recorded for what was read."""
        opened = await self._reader.open(request.source_workspace, entry.path)
        version = opened.content.version
        order = WriteOrder(
            workspace=request.target_workspace,
            path=target,
            modified=version.modified,
            user=user,
            base_generation=None if request.overwrite else 0,
        )
        try:
            if version.size <= BLOCK_SIZE:
                return await self._writer.store(SmallFile(order, await opened.content.whole(), version.sha256))
            async with large, self._writer.upload(order, version.size) as upload:
                async with aclosing(opened.content.blocks()) as blocks:
                    async for block in blocks:
                        await upload.send_hashed(block)
                if upload.digest.sha256() != version.sha256:
                    raise IntegrityError(f"{entry.path} was read with a digest that was not recorded", path=entry.path)
                return await upload.finish(version.size, version.sha256, version.block_digests)
        except Conflict as error:
            if request.overwrite:
                raise
            raise AlreadyExists(f"{target} exists already; copy with --overwrite to replace it", path=target) from error


def _normal_each(items: Sequence[_Item], add: Callable[[], _Result]) -> Iterator[tuple[_Item, _Result]]:
    """Yield the items with their paths in normal form, and a result that was added for each; others fail in theirs."""
    for item in items:
        result = add()
        try:
            normalized = normal(item, "path")
        except CdirError as error:
            result.failure.CopyFrom(to_failure(error))
        else:
            yield normalized, result


def _is_below(path: str, top: str) -> bool:
    return path.startswith(top if top == "/" else f"{top}/")


def _moved(path: str, top: str, target: str) -> str:
    """Where ``path``, at or below ``top``, lies when ``top`` is copied to ``target``."""
    if path == top:
        return target
    below = path[1:] if top == "/" else path[len(top) + 1 :]
    return join_path(target, below)
