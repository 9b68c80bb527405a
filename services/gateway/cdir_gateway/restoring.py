"""Restoring older contents and removed files, and letting go of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

from cdir.errors import CdirError, Conflict, IsDirectory
from cdir.paths import normalize_path
from cdir.status import to_failure, translated
from cdir.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from cdir.v1 import directory_service_pb2 as pb
from cdir_gateway.ledger import CALL_SECONDS, user_metadata
from cdir_gateway.orders import WriteOrder
from cdir_gateway.outbox import Outbox
from cdir_gateway.reading import FileReader, OpenFile
from cdir_gateway.upload import StoredFile
from cdir_gateway.writing import FileWriter
from cdir_transfer.copying import HeldContent
from cdir_transfer.digest import BLOCK_SIZE

__all__ = ["Restorer"]

_AT_ONCE: Final = 16
_LARGE_AT_ONCE: Final = 4
_FIND_SECONDS: Final = 120.0
"""Deadline for one page of what is to be restored: as of a time, a whole tree may be looked through for it."""


class Restorer:
    """See DirectoryService for what RestoreEntry and EmptyTrash promise."""

    def __init__(
        self, catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub, reader: FileReader, writer: FileWriter
    ) -> None:
        self._catalog = catalog
        self._reader = reader
        self._writer = writer

    async def empty_trash(self, request: pb.EmptyTrashRequest, user: str) -> pb.EmptyTrashResponse:
        """Let go of removed files at or below a path."""
        part = pb.EmptyTrashRequest(workspace=request.workspace, path=normalize_path(request.path))
        files = 0
        while True:
            with translated():
                done = await self._catalog.EmptyTrash(part, timeout=CALL_SECONDS, metadata=user_metadata(user))
            files += done.files
            if not done.remaining:
                return pb.EmptyTrashResponse(files=files)

    async def restore(
        self, request: pb.RestoreEntryRequest, user: str
    ) -> AsyncGenerator[pb.RestoreEntryResponse, None]:
        """Yield one outcome per file as it is done."""
        outbox: Outbox[pb.RestoreEntryResponse] = Outbox(batch_weight=1, capacity=1)
        async with aclosing(outbox.filled_by(self._restore_all(request, user, outbox))) as batches:
            async for outcomes in batches:
                for outcome in outcomes:
                    yield outcome

    async def _restore_all(
        self, request: pb.RestoreEntryRequest, user: str, outbox: Outbox[pb.RestoreEntryResponse]
    ) -> None:
        slots, large = asyncio.Semaphore(_AT_ONCE), asyncio.Semaphore(_LARGE_AT_ONCE)
        unchanged = 0

        async def restore_one(wanted: catalog_service_pb2.RestorableContent) -> None:
            outcome = _outcome(wanted)
            try:
                stored = await self._restore_one(request.workspace, wanted, user, large)
                outcome.stored.CopyFrom(stored.message())
            except CdirError as error:
                outcome.failure.CopyFrom(to_failure(error))
            finally:
                slots.release()
            await outbox.put(outcome)

        try:
            async with asyncio.TaskGroup() as restores:
                async for wanted in self._wanted(request):
                    if wanted.unchanged:
                        unchanged += 1
                    elif request.dry_run:
                        outcome = _outcome(wanted)
                        outcome.planned = True
                        await outbox.put(outcome)
                    else:
                        await slots.acquire()
                        restores.create_task(restore_one(wanted))
            await outbox.put(pb.RestoreEntryResponse(unchanged=unchanged))
        finally:
            outbox.close()

    async def _wanted(self, request: pb.RestoreEntryRequest) -> AsyncIterator[catalog_service_pb2.RestorableContent]:
        page = catalog_service_pb2.ListRestorableRequest(
            workspace=request.workspace,
            path=normalize_path(request.path),
            generation=request.generation if request.HasField("generation") else None,
            at=request.at if request.HasField("at") else None,
            recursive=request.recursive,
        )
        while True:
            with translated():
                found = await self._catalog.ListRestorable(page, timeout=_FIND_SECONDS)
            for wanted in found.contents:
                yield wanted
            page.page_token = found.next_page_token
            if not page.page_token:
                return

    async def _restore_one(
        self,
        workspace: str,
        wanted: catalog_service_pb2.RestorableContent,
        user: str,
        large: asyncio.Semaphore,
    ) -> StoredFile:
        path, version = wanted.path, wanted.version
        opened = await self._reader.open(workspace, wanted.source_path, generation=version.generation)
        if opened.content.version.version_id != version.version_id:
            raise Conflict(f"{wanted.source_path} was moved or replaced meanwhile; restore {path} again", path=path)
        order = WriteOrder(
            workspace=workspace,
            path=path,
            modified=version.modified,
            user=user,
            base_generation=wanted.current_generation,
        )
        try:
            if version.size <= BLOCK_SIZE:
                return await self._store(order, opened)
            async with large:
                return await self._store(order, opened)
        except IsDirectory as error:
            raise IsDirectory(
                f"{path} is a directory now; move it away to restore the file that was there", path=path
            ) from error

    async def _store(self, order: WriteOrder, opened: OpenFile) -> StoredFile:
        content = opened.content
        version = content.version
        if version.sha256:
            return await self._writer.copy(order, HeldContent(content, opened.replicas))
        # nobody has read it yet: its digests are learnt on the way
        async with self._writer.upload(order, version.size) as upload:
            async with aclosing(content.blocks()) as blocks:
                async for block in blocks:
                    if block:
                        await upload.send_hashed(block)
            digest = upload.digest
            return await upload.finish(digest.size, digest.sha256(), digest.block_digests())


def _outcome(wanted: catalog_service_pb2.RestorableContent) -> pb.RestoreEntryResponse:
    return pb.RestoreEntryResponse(path=wanted.path, generation=wanted.version.generation, size=wanted.version.size)
