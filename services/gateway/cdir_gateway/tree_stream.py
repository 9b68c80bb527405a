"""One ReadTree stream: a tree listed page by page, and its small files read together and sent with their entries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from cdir.paths import normalize_path
from cdir.status import translated
from cdir.v1 import catalog_service_pb2, catalog_service_pb2_grpc, entry_pb2
from cdir.v1 import directory_service_pb2 as pb
from cdir_gateway.budget import ByteBudget
from cdir_gateway.ledger import CALL_SECONDS
from cdir_gateway.outbox import GATHERED_BYTES, MESSAGE_BYTES, Outbox
from cdir_gateway.reading import copies_at
from cdir_transfer.small_reads import SmallCall, SmallReads

__all__ = ["TreeStreams"]

_PAGE: Final = 256
"""Entries that are listed together, while the files of the page before are read."""
_CALLS_AT_ONCE: Final = 16
"""Calls to providers under way per stream; each brings up to 16 files."""


class _Item(NamedTuple):
    """A ``TreeItem``, which is made in the response: by itself it would hold the data a second time, to be copied."""

    entry: entry_pb2.Entry
    data: bytes = b""
    whole: bool = False


class TreeStreams:
    """Serves ReadTree streams. One per gateway; ``budget`` bounds what is being read of small files in the process."""

    def __init__(
        self, catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub, small: SmallReads, budget: ByteBudget
    ) -> None:
        self.catalog = catalog
        self.small = small
        self.budget = budget

    async def serve(self, request: pb.ReadTreeRequest) -> AsyncGenerator[pb.ReadTreeResponse, None]:
        """Yield the responses of one stream. Leaving early stops every read."""
        stream = _TreeStream(self, request)
        async with aclosing(stream.outbox.filled_by(stream.run())) as batches:
            async for items in batches:
                response = pb.ReadTreeResponse()
                for item in items:
                    response.items.add(entry=item.entry, data=item.data, whole=item.whole)
                yield response


class _TreeStream:
    def __init__(self, shared: TreeStreams, request: pb.ReadTreeRequest) -> None:
        self.outbox: Outbox[_Item] = Outbox(batch_weight=MESSAGE_BYTES, capacity=GATHERED_BYTES)
        self._catalog = shared.catalog
        self._small = shared.small
        self._budget = shared.budget
        # as for ReadFiles
        self._room = ByteBudget(GATHERED_BYTES)
        self._provider = request.provider
        self._request = catalog_service_pb2.ResolveTreeRequest(
            workspace=request.workspace, path=normalize_path(request.path), page_size=_PAGE
        )
        self._calls = asyncio.Semaphore(_CALLS_AT_ONCE)

    async def run(self) -> None:
        """List the tree and see every read end. Raises the errors of the listing."""
        try:
            async with asyncio.TaskGroup() as calls, aclosing(self._pages()) as pages:
                async for page in pages:
                    await self._begin(calls, page)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            self.outbox.close()

    async def _pages(self) -> AsyncGenerator[Sequence[catalog_service_pb2.ResolvedEntry], None]:
        while True:
            with translated():
                response = await self._catalog.ResolveTree(self._request, timeout=CALL_SECONDS)
            yield response.results
            if not response.next_page_token:
                return
            self._request.page_token = response.next_page_token

    async def _begin(self, calls: asyncio.TaskGroup, page: Sequence[catalog_service_pb2.ResolvedEntry]) -> None:
        """Begin to read the small files of a page, and send what else there is."""
        left = dict(enumerate(page))
        contents = [(found.version, copies_at(found.replicas, self._provider)) for found in page]
        for call in self._small.together(contents):
            entries = [left.pop(number).entry for number in call.numbers]
            await self._calls.acquire()
            calls.create_task(self._read(call, entries))
        for found in left.values():
            await self.outbox.put(_Item(found.entry))

    async def _read(self, call: SmallCall, entries: Sequence[entry_pb2.Entry]) -> None:
        size = sum(entry.size for entry in entries)
        async with self._room.taken(size):
            async with self._budget.taken(size):
                contents = await self._small.read(call)
            for entry, data in zip(entries, contents, strict=True):
                item = _Item(entry) if data is None else _Item(entry, data, whole=True)
                await self.outbox.put(item, len(item.data))
        self._calls.release()
