"""Composing the gateway."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import grpc.aio

from cdir.v1 import adapter_service_pb2_grpc, catalog_service_pb2_grpc, replicator_service_pb2_grpc
from cdir_gateway.acls import AccessControl
from cdir_gateway.background import Background
from cdir_gateway.budget import ByteBudget
from cdir_gateway.checking import Checker
from cdir_gateway.copying_trees import TreeCopier
from cdir_gateway.directory import Directory
from cdir_gateway.endpoint_servicer import EndpointServicer
from cdir_gateway.endpoints import Endpoints
from cdir_gateway.evacuation import Evacuations
from cdir_gateway.ledger import Ledger
from cdir_gateway.local_files import LocalFiles
from cdir_gateway.observations import Observations
from cdir_gateway.outside import Outside
from cdir_gateway.providers import Providers
from cdir_gateway.read_stream import ReadStreams
from cdir_gateway.reading import FileReader
from cdir_gateway.rebuilding import Rebuilder
from cdir_gateway.recovery import RecoveryServicer
from cdir_gateway.restoring import Restorer
from cdir_gateway.servicer import DirectoryServicer, ProviderServicer
from cdir_gateway.strangers import Strangers
from cdir_gateway.tree_stream import TreeStreams
from cdir_gateway.vault import VaultServicer
from cdir_gateway.write_stream import WriteStreams
from cdir_gateway.writing import FileWriter
from cdir_runtime.vault import Vault
from cdir_transfer.health import ProviderHealth
from cdir_transfer.probing import Probing
from cdir_transfer.reader import VerifiedReader
from cdir_transfer.small_reads import SmallReads
from cdir_transfer.small_writes import SmallWrites
from cdir_transfer.snapshots import SnapshotStore
from cdir_transfer.writer import ProviderWriter

__all__ = ["Gateway", "open_gateway"]

_SMALL_BYTES: Final = 8 << 20
"""Bytes of small files being read, in the process."""
_LATE_SECONDS: Final = 5.0
"""How long the end waits for copies that go on after their file was committed."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The servicers of a gateway."""

    directory: DirectoryServicer
    providers: ProviderServicer
    recovery: RecoveryServicer
    vault: VaultServicer
    endpoints: EndpointServicer


@asynccontextmanager
async def open_gateway(
    catalog_channel: grpc.aio.Channel,
    adapters_channel: grpc.aio.Channel,
    replicator_channel: grpc.aio.Channel,
    vault: Vault,
    *,
    local_files: bool,
    deployment: str,
    patience: float = 20.0,
) -> AsyncIterator[Gateway]:
    """Give the servicers of a gateway between these services; the server has drained when this is left.

    ``vault`` seals secrets before they are stored. ``local_files`` lets callers name files of this machine: only where
    they surely are this user. ``deployment`` is ``"embedded"`` or ``"split"``. ``patience`` is for how many seconds a
    slow provider may hold up a write that has enough copies without it.
    """
    catalog = catalog_service_pb2_grpc.CatalogServiceStub(catalog_channel)
    adapters = adapter_service_pb2_grpc.AdapterServiceStub(adapters_channel)
    replicator = replicator_service_pb2_grpc.ReplicatorServiceStub(replicator_channel)
    health = ProviderHealth()
    observations = Observations(catalog, health)
    async with AsyncExitStack() as exits:
        ledger = await exits.enter_async_context(Ledger(catalog))
        local = await exits.enter_async_context(LocalFiles(enabled=local_files))
        small = await exits.enter_async_context(SmallReads(adapters, health, observations))
        small_writes = await exits.enter_async_context(SmallWrites(adapters, health))
        background = Background(await exits.enter_async_context(asyncio.TaskGroup()))
        observing = background.start("recording observations", observations.run())
        probing = background.start("asking for providers", Probing(adapters, health, observations).run())
        writer = FileWriter(
            ledger,
            ProviderWriter(adapters, health, observations, small=small_writes, patience=patience),
            Strangers(catalog, adapters, health),
            background,
        )
        verified = VerifiedReader(adapters, health, observations)
        reader = FileReader(ledger, verified)
        budget = ByteBudget(_SMALL_BYTES)
        checker = Checker(catalog, adapters, verified)
        outside = Outside(catalog, adapters, replicator)
        restorer = Restorer(catalog, reader, writer)
        directory = Directory(catalog, replicator, reader, writer, local_files=local_files, deployment=deployment)
        endpoints = Endpoints(catalog, adapters, health, observations)
        snapshots = SnapshotStore(catalog, adapters, owner=f"gateway-{uuid.uuid4().hex}")
        try:
            yield Gateway(
                directory=DirectoryServicer(
                    directory,
                    WriteStreams(writer, local),
                    ReadStreams(reader, small, local, budget),
                    TreeStreams(catalog, small, budget),
                    checker,
                    outside,
                    restorer,
                    AccessControl(catalog, adapters, replicator),
                ),
                recovery=RecoveryServicer(snapshots, Rebuilder(catalog, adapters, snapshots)),
                vault=VaultServicer(vault, catalog, adapters),
                endpoints=EndpointServicer(endpoints, TreeCopier(endpoints, directory, reader, writer)),
                providers=ProviderServicer(Providers(catalog, adapters, vault), Evacuations(catalog), outside),
            )
        finally:
            await writer.wait_for_late_copies(_LATE_SECONDS)
            await writer.end_late_copies()
            observing.cancel()
            probing.cancel()
            await observations.flush()
