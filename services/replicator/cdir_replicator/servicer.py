"""ReplicatorService: shows and steers the roles."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc.aio

from cdir.status import translated
from cdir.v1 import catalog_service_pb2, catalog_service_pb2_grpc, scan_pb2, scrub_pb2
from cdir.v1 import replicator_service_pb2 as pb
from cdir.v1 import replicator_service_pb2_grpc as rpc
from cdir_replicator.progress import Progress
from cdir_replicator.roles.scrub import ScrubRole

__all__ = ["ReplicatorServicer"]

logger = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_CATALOG_SECONDS = 60.0


class ReplicatorServicer(rpc.ReplicatorServiceServicer):
    """``wake`` makes the roles look for debt at once, ``wake_scan`` for scans."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        progress: Progress,
        wake: Callable[[], None],
        wake_scan: Callable[[], None],
        scrub: ScrubRole,
    ) -> None:
        self._catalog = catalog
        self._progress = progress
        self._wake = wake
        self._wake_scan = wake_scan
        self._scrub = scrub

    async def GetProgress(self, request: pb.GetProgressRequest, context: Context) -> pb.GetProgressResponse:
        return self._progress.to_message()

    async def StartRepair(self, request: pb.StartRepairRequest, context: Context) -> pb.StartRepairResponse:
        with translated():
            response = await self._catalog.MakeDue(
                catalog_service_pb2.MakeDueRequest(
                    workspace=request.workspace, path=request.path, provider=request.provider
                ),
                timeout=_CATALOG_SECONDS,
            )
        self._wake()
        return pb.StartRepairResponse(due=response.due)

    async def StartScan(self, request: pb.StartScanRequest, context: Context) -> pb.StartScanResponse:
        with translated():
            response = await self._catalog.MakeScanDue(
                scan_pb2.MakeScanDueRequest(workspace=request.workspace, path=request.path, provider=request.provider),
                timeout=_CATALOG_SECONDS,
            )
        self._wake_scan()
        return pb.StartScanResponse(scans=response.scans)

    async def StartScrub(
        self, request: scrub_pb2.StartScrubRequest, context: Context
    ) -> AsyncGenerator[scrub_pb2.StartScrubResponse, None]:
        async with aclosing(self._scrub.scrub(request.scrub)) as steps:
            async for progress in steps:
                yield scrub_pb2.StartScrubResponse(progress=progress)

    async def PauseWork(self, request: pb.PauseWorkRequest, context: Context) -> pb.PauseWorkResponse:
        if not self._progress.paused:
            logger.info("paused: no new work is taken")
        self._progress.paused = True
        return pb.PauseWorkResponse()

    async def ResumeWork(self, request: pb.ResumeWorkRequest, context: Context) -> pb.ResumeWorkResponse:
        if self._progress.paused:
            logger.info("resumed")
        self._progress.paused = False
        self._wake()
        self._wake_scan()
        return pb.ResumeWorkResponse()
