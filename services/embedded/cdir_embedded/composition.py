"""The composition root of the one-process deployment: the only place that knows every service.

Servicers and stubs meet in loopback channels. Services start from the one that calls nobody to the one that is the
door, and end in the reverse order, each after those that use it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cdir.v1 import (
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    directory_service_pb2_grpc,
    endpoint_service_pb2_grpc,
    provider_service_pb2_grpc,
    recovery_service_pb2_grpc,
    replicator_service_pb2_grpc,
    vault_service_pb2_grpc,
)
from cdir_adapters.layers import LayerSettings
from cdir_adapters.service import open_adapters
from cdir_catalog.service import open_catalog
from cdir_catalog.servicer import CatalogServicer
from cdir_gateway.service import open_gateway
from cdir_replicator.allowance import ScrubPace
from cdir_replicator.service import open_replicator
from cdir_runtime.loopback import LoopbackChannel
from cdir_runtime.server import Registrar
from cdir_runtime.vault import Vault

__all__ = ["Deployment", "compose", "open_deployment"]

_RELEASE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Deployment:
    """A running deployment: what to add to a server so that clients can reach it."""

    registrars: tuple[Registrar, ...]


@asynccontextmanager
async def open_deployment(
    database_url: str,
    vault: Vault,
    *,
    local_files: bool,
    scan_calls_per_minute: int = 600,
    scrub_pace: ScrubPace | None = None,
    provider_card: Path | None = None,
) -> AsyncIterator[Deployment]:
    """Run all services in this process over the catalog in ``database_url``, which nobody else uses meanwhile.

    ``local_files`` lets callers name files of this machine: only where every caller is surely this user.
    ``scan_calls_per_minute`` is what looking for what other programs did may cost each provider. ``provider_card`` is
    the file in which the providers are written down.
    """
    catalog = open_catalog(database_url, provider_card)
    async with compose(
        catalog, vault, local_files=local_files, scan_calls_per_minute=scan_calls_per_minute, scrub_pace=scrub_pace
    ) as deployment:
        yield deployment


@asynccontextmanager
async def compose(
    opening_catalog: AbstractAsyncContextManager[CatalogServicer],
    vault: Vault,
    *,
    local_files: bool,
    scan_calls_per_minute: int = 600,
    scrub_pace: ScrubPace | None = None,
    layers: LayerSettings | None = None,
) -> AsyncIterator[Deployment]:
    """Run all services over the catalog that ``opening_catalog`` opens, see :func:`open_deployment`.

    ``layers`` sets the timeouts, retries, limits and breaker of every provider.
    """
    async with AsyncExitStack() as exits:
        catalog = await exits.enter_async_context(LoopbackChannel())
        adapters = await exits.enter_async_context(LoopbackChannel())
        replicator = await exits.enter_async_context(LoopbackChannel())

        catalog_servicer = await exits.enter_async_context(opening_catalog)
        catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(catalog_servicer, catalog)
        # whoever held a lease in this catalog is gone, since this process is now alone with it
        await catalog_service_pb2_grpc.CatalogServiceStub(catalog).ReleaseOwner(
            catalog_service_pb2.ReleaseOwnerRequest(), timeout=_RELEASE_SECONDS
        )

        adapter_servicer = await exits.enter_async_context(open_adapters(catalog, vault, layers))
        adapter_service_pb2_grpc.add_AdapterServiceServicer_to_server(adapter_servicer, adapters)

        replicator_servicer = await exits.enter_async_context(
            open_replicator(catalog, adapters, scan_calls_per_minute=scan_calls_per_minute, scrub_pace=scrub_pace)
        )
        replicator_service_pb2_grpc.add_ReplicatorServiceServicer_to_server(replicator_servicer, replicator)

        gateway = await exits.enter_async_context(
            open_gateway(catalog, adapters, replicator, vault, local_files=local_files, deployment="embedded")
        )
        yield Deployment(
            (
                lambda server: directory_service_pb2_grpc.add_DirectoryServiceServicer_to_server(
                    gateway.directory, server
                ),
                lambda server: provider_service_pb2_grpc.add_ProviderServiceServicer_to_server(
                    gateway.providers, server
                ),
                lambda server: endpoint_service_pb2_grpc.add_EndpointServiceServicer_to_server(
                    gateway.endpoints, server
                ),
                lambda server: recovery_service_pb2_grpc.add_RecoveryServiceServicer_to_server(
                    gateway.recovery, server
                ),
                lambda server: vault_service_pb2_grpc.add_VaultServiceServicer_to_server(gateway.vault, server),
                lambda server: replicator_service_pb2_grpc.add_ReplicatorServiceServicer_to_server(
                    replicator_servicer, server
                ),
            )
        )
