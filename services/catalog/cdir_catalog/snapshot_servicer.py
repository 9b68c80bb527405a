"""The part of CatalogService that keeps a catalog elsewhere and makes it anew."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection

from cdir.errors import CdirError, InvalidArgument
from cdir.v1 import catalog_recovery_pb2 as pb
from cdir_catalog.database import Database
from cdir_catalog.group_commit import GroupCommit
from cdir_catalog.snapshot_file import check_digest
from cdir_catalog.store.rebuilding import SnapshotFile, rebuild_catalog
from cdir_catalog.store.sightings import record_sightings
from cdir_catalog.store.snapshots import claim_snapshot, dump_catalog, finish_snapshot, renew_snapshot

__all__ = ["SnapshotMethods"]

_MESSAGE = 1 << 20
"""Bytes of one message of a dump."""


class _DryRun(CdirError):
    """Rolls a rebuild back that was only tried; carries its report."""

    def __init__(self, report: pb.RebuildReport) -> None:
        super().__init__("tried only")
        self.report = report


class SnapshotMethods:
    """Methods of :class:`cdir_catalog.servicer.CatalogServicer`."""

    _database: Database
    _commits: GroupCommit

    async def ClaimSnapshot(self, request: pb.ClaimSnapshotRequest, context: Any) -> pb.ClaimSnapshotResponse:
        return await self._commits.run(lambda connection: claim_snapshot(connection, request, ""))

    async def DumpCatalog(self, request: pb.DumpCatalogRequest, context: Any) -> AsyncIterator[pb.DumpCatalogResponse]:
        async with aclosing(self._database.iterate(partial(dump_catalog, request=request))) as pieces:
            async for piece in pieces:
                for begin in range(0, len(piece), _MESSAGE):
                    yield pb.DumpCatalogResponse(data=piece[begin : begin + _MESSAGE])

    async def RenewSnapshot(self, request: pb.RenewSnapshotRequest, context: Any) -> pb.RenewSnapshotResponse:
        return await self._commits.run(lambda connection: renew_snapshot(connection, request, ""))

    async def FinishSnapshot(self, request: pb.FinishSnapshotRequest, context: Any) -> pb.FinishSnapshotResponse:
        return await self._commits.run(lambda connection: finish_snapshot(connection, request, ""))

    async def RecordSightings(self, request: pb.RecordSightingsRequest, context: Any) -> pb.RecordSightingsResponse:
        return await self._commits.run(lambda connection: record_sightings(connection, request, ""))

    async def RebuildCatalog(
        self, request_iterator: AsyncIterator[pb.RebuildCatalogRequest], context: Any
    ) -> pb.RebuildCatalogResponse:
        start: pb.RebuildStart | None = None
        files: list[SnapshotFile] = []
        committed = False
        with ExitStack() as opened:
            async for request in request_iterator:
                match request.WhichOneof("step"):
                    case "start" if start is None:
                        start = request.start
                    case "file" if start is not None:
                        files.append(SnapshotFile(request.file, opened.enter_context(tempfile.TemporaryFile())))
                    case "data" if files:
                        await asyncio.to_thread(files[-1].file.write, request.data)
                    case "commit" if start is not None:
                        committed = True
                    case _:
                        raise InvalidArgument("a rebuild is sent as start, files, commit; nothing was changed")
            if start is None or not committed:
                raise InvalidArgument("the stream ended without a commit; nothing was changed")
            return pb.RebuildCatalogResponse(report=await self._rebuild(start, files))

    async def _rebuild(self, start: pb.RebuildStart, files: list[SnapshotFile]) -> pb.RebuildReport:
        for one in files:
            await asyncio.to_thread(check_digest, one.file, one.name)

        def rebuild(connection: Connection) -> pb.RebuildReport:
            report = rebuild_catalog(connection, start, files)
            if start.dry_run:
                raise _DryRun(report)
            return report

        try:
            return await self._database.write(rebuild)
        except _DryRun as tried:
            return tried.report
