"""Composing the replicator: its roles, and the tasks that keep them going."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio

from cdir.errors import CdirError
from cdir.v1 import adapter_service_pb2_grpc, catalog_service_pb2_grpc
from cdir_replicator.access import AccessWatch
from cdir_replicator.allowance import ScrubPace
from cdir_replicator.lookout import Lookout
from cdir_replicator.notes import Notes
from cdir_replicator.progress import Progress
from cdir_replicator.proving import Prover
from cdir_replicator.repair import Repairer
from cdir_replicator.roles.evacuate import EvacuateRole
from cdir_replicator.roles.health import HealthRole
from cdir_replicator.roles.propagate import LEASE_SECONDS, PropagateRole
from cdir_replicator.roles.reap import PlaceRole, ReapRole, SweepRole
from cdir_replicator.roles.recover import RecoverRole
from cdir_replicator.roles.scan import CALLS_PER_MINUTE, ScanRole
from cdir_replicator.roles.scrub import STEP_SECONDS, ScrubRole
from cdir_replicator.roles.snapshot import SnapshotRole
from cdir_replicator.servicer import ReplicatorServicer
from cdir_runtime.background import run_forever
from cdir_transfer.health import ProviderHealth
from cdir_transfer.reader import VerifiedReader
from cdir_transfer.small_reads import SmallReads
from cdir_transfer.small_writes import SmallWrites
from cdir_transfer.snapshots import SnapshotStore
from cdir_transfer.writer import ProviderWriter

__all__ = ["Replicator", "open_replicator"]

logger = logging.getLogger(__name__)

_RECOVER_SECONDS = 5.0
_PLACE_SECONDS = 2.0
_REAP_SECONDS = 60.0
_SWEEP_SECONDS = 60.0
_SNAPSHOT_SECONDS = 30.0
"""Pauses between two looks of a role; what each look finds due is for the role to say."""

_CLOSE_SECONDS = 5.0

_SPARE_BLOCKS = 8
"""Blocks that repairs read ahead: nobody waits for one of them, so several are better than a fast one."""


class Replicator:
    """The roles and what they share. Each role's ``once`` does what is due; :meth:`run` keeps all of them going.

    Any number of replicators can work on one catalog: what each does is leased under its ``owner`` id.
    ``scan_calls_per_minute`` is what looking for outside edits may cost each provider; ``lease_seconds`` how long
    debt, and copies to prove, that it claimed are left to it after the last that was heard of it.
    """

    def __init__(
        self,
        catalog_channel: grpc.aio.Channel,
        adapters_channel: grpc.aio.Channel,
        *,
        scan_calls_per_minute: int = CALLS_PER_MINUTE,
        scrub_pace: ScrubPace | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        catalog = catalog_service_pb2_grpc.CatalogServiceStub(catalog_channel)
        adapters = adapter_service_pb2_grpc.AdapterServiceStub(adapters_channel)
        self.owner = f"replicator-{uuid.uuid4().hex}"
        self.progress = Progress()
        self.health = HealthRole(catalog, adapters, self.wake)
        self.scan = ScanRole(
            catalog,
            adapters,
            self.progress,
            owner=self.owner,
            avoid=self.health.unfit,
            on_found=self.wake,
            on_trouble=self.health.suspect,
            calls_per_minute=scan_calls_per_minute,
        )
        notes = Notes(catalog, self.health.suspect)
        pace = ProviderHealth()
        reader = VerifiedReader(adapters, pace, notes, spare_blocks=_SPARE_BLOCKS, background=True)
        repairer = Repairer(
            catalog,
            adapters,
            reader,
            ProviderWriter(adapters, pace, notes, background=True),
            SmallReads(adapters, pace, notes, background=True),
            SmallWrites(adapters, pace, background=True),
            notes,
            self.progress,
            Lookout(catalog, adapters, self.scan.wake),
            owner=self.owner,
        )
        self.propagate = PropagateRole(
            catalog,
            repairer,
            notes,
            self.progress,
            owner=self.owner,
            avoid=self.health.unfit,
            lease_seconds=lease_seconds,
        )
        self.recover = RecoverRole(catalog, adapters, self.progress, owner=self.owner)
        self.reap = ReapRole(catalog)
        self.place = PlaceRole(catalog)
        self.sweep = SweepRole(catalog, adapters)
        self.snapshot = SnapshotRole(SnapshotStore(catalog, adapters, owner=self.owner))
        self.evacuate = EvacuateRole(catalog, self.wake)
        self.scrub = ScrubRole(
            catalog,
            Prover(catalog, adapters, reader, notes, owner=self.owner, lease_seconds=lease_seconds),
            AccessWatch(catalog, adapters, self.wake),
            self.progress,
            avoid=self.health.unfit,
            on_found=self.wake,
            pace=scrub_pace,
        )
        self.servicer = ReplicatorServicer(catalog, self.progress, self.wake, self.scan.wake, self.scrub)

    def wake(self) -> None:
        """Make the role that works off debt look at once."""
        self.propagate.wake()

    async def run(self) -> None:
        """Keep every role going until it is cancelled; then give up what is leased."""
        try:
            async with asyncio.TaskGroup() as roles:
                roles.create_task(run_forever("health", self.health.run, interval=0.0))
                roles.create_task(run_forever("propagate", self._propagate_step, interval=0.0))
                roles.create_task(run_forever("scan", self._scan_step, interval=0.0))
                roles.create_task(run_forever("scrub", self._scrub_step, interval=STEP_SECONDS))
                roles.create_task(run_forever("scrub on request", self.scrub.serve, interval=0.0))
                roles.create_task(run_forever("recover", self.recover.once, interval=_RECOVER_SECONDS))
                roles.create_task(run_forever("place", self._place_step, interval=0.0))
                roles.create_task(run_forever("reap", self.reap.once, interval=_REAP_SECONDS))
                roles.create_task(run_forever("evacuate", self._evacuate_step, interval=0.0))
                roles.create_task(run_forever("sweep", self.sweep.once, interval=_SWEEP_SECONDS))
                roles.create_task(run_forever("snapshot", self.snapshot.once, interval=_SNAPSHOT_SECONDS))
        finally:
            await self._close()

    async def _propagate_step(self) -> None:
        await self.health.known.wait()
        if not await self.propagate.once():
            await self.propagate.wait()

    async def _scan_step(self) -> None:
        await self.health.known.wait()
        await self.scan.run()

    async def _scrub_step(self) -> None:
        await self.health.known.wait()
        await self.scrub.once()

    async def _place_step(self) -> None:
        if await self.place.once():
            self.wake()
        else:
            await asyncio.sleep(_PLACE_SECONDS)

    async def _evacuate_step(self) -> None:
        await asyncio.sleep(await self.evacuate.once())

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.propagate.close()
        except (CdirError, TimeoutError) as error:
            logger.warning("leases could not be given up and lapse by themselves: %s", error)


@asynccontextmanager
async def open_replicator(
    catalog_channel: grpc.aio.Channel,
    adapters_channel: grpc.aio.Channel,
    *,
    scan_calls_per_minute: int = CALLS_PER_MINUTE,
    scrub_pace: ScrubPace | None = None,
) -> AsyncIterator[ReplicatorServicer]:
    """Give the servicer of a replicator at work. At the exit its work is cancelled and its leases are given up; both
    channels have to live until then."""
    replicator = Replicator(
        catalog_channel, adapters_channel, scan_calls_per_minute=scan_calls_per_minute, scrub_pace=scrub_pace
    )
    # no task group: an error of the block has to come out as itself, not as a group
    running = asyncio.create_task(replicator.run())
    try:
        yield replicator.servicer
    finally:
        running.cancel()
        await asyncio.wait([running])
        if not running.cancelled() and (defect := running.exception()) is not None:
            logger.error("the replicator had ended before it was told to", exc_info=defect)
