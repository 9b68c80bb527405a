"""The role that follows evacuations: it measures how far they are, and has them concluded when nothing is left.

The work itself is debt like any other, which the role that propagates works off.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from cdir.status import translated
from cdir.v1 import catalog_service_pb2, catalog_service_pb2_grpc, exit_pb2, provider_service_pb2
from cdir_runtime.crash import crash_point

__all__ = ["EvacuateRole"]

logger = logging.getLogger(__name__)

_CATALOG_SECONDS = 300.0
"""Counting what a large provider holds takes its time."""

_SHARE = 10.0
"""A measure is taken again after this many times as long as it took, so that counting is a small part of the load."""

_IDLE_SECONDS = 2.0
_SHORTEST_SECONDS = 0.5


class EvacuateRole:
    """Follows every evacuation that runs. Any number of replicators may: measuring twice does no harm."""

    def __init__(self, catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub, on_purge: Callable[[], None]) -> None:
        """``on_purge`` is called when there may be copies to remove."""
        self._catalog = catalog
        self._on_purge = on_purge

    async def once(self) -> float:
        """Measure each evacuation; return after how many seconds to look again."""
        begin = time.monotonic()
        with translated():
            running = await self._catalog.ListJobs(
                provider_service_pb2.ListJobsRequest(running=True), timeout=_CATALOG_SECONDS
            )
        evacuations = [job for job in running.jobs if job.kind == exit_pb2.JOB_KIND_EVACUATE]
        for job in evacuations:
            await self._follow(job)
        if not evacuations:
            return _IDLE_SECONDS
        return max(_SHORTEST_SECONDS, _SHARE * (time.monotonic() - begin))

    async def _follow(self, job: exit_pb2.Job) -> None:
        with translated():
            measured = await self._catalog.MeasureEvacuation(
                catalog_service_pb2.MeasureEvacuationRequest(job_id=job.job_id), timeout=_CATALOG_SECONDS
            )
            crash_point("evacuate.before_record")
            recorded = await self._catalog.RecordEvacuation(
                catalog_service_pb2.RecordEvacuationRequest(job_id=job.job_id, measure=measured.measure),
                timeout=_CATALOG_SECONDS,
            )
        if recorded.job.state == exit_pb2.JOB_STATE_DONE:
            logger.info("provider %s is evacuated: %s", job.subject, recorded.job.message)
        elif recorded.job.HasField("proof"):
            self._on_purge()
