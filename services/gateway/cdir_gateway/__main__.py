"""``python -m cdir_gateway``: serve a gateway on ``CDIR_LISTEN`` (default 127.0.0.1:7070)."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from cdir.v1.directory_service_pb2_grpc import add_DirectoryServiceServicer_to_server
from cdir.v1.endpoint_service_pb2_grpc import add_EndpointServiceServicer_to_server
from cdir.v1.provider_service_pb2_grpc import add_ProviderServiceServicer_to_server
from cdir.v1.recovery_service_pb2_grpc import add_RecoveryServiceServicer_to_server
from cdir.v1.vault_service_pb2_grpc import add_VaultServiceServicer_to_server
from cdir_gateway.service import open_gateway
from cdir_runtime.channel import open_channel
from cdir_runtime.server import serve
from cdir_runtime.service import run_service, until_stopped
from cdir_runtime.settings import Settings
from cdir_runtime.vault import Vault


async def run(settings: Settings) -> None:
    vault = await Vault.open(Path(settings.require("key_file")), settings.passphrase_file)
    async with AsyncExitStack() as exits:
        catalog = await exits.enter_async_context(open_channel(settings.catalog_address))
        adapters = await exits.enter_async_context(open_channel(settings.adapters_address))
        replicator = await exits.enter_async_context(open_channel(settings.replicator_address))
        gateway = await exits.enter_async_context(
            open_gateway(catalog, adapters, replicator, vault, local_files=False, deployment="split")
        )
        directory = partial(add_DirectoryServiceServicer_to_server, gateway.directory)
        providers = partial(add_ProviderServiceServicer_to_server, gateway.providers)
        recovery = partial(add_RecoveryServiceServicer_to_server, gateway.recovery)
        keys = partial(add_VaultServiceServicer_to_server, gateway.vault)
        endpoints = partial(add_EndpointServiceServicer_to_server, gateway.endpoints)
        listen = settings.listen or "127.0.0.1:7070"
        services = [directory, providers, recovery, keys, endpoints]
        await exits.enter_async_context(serve(listen, services, token=settings.token()))
        await until_stopped()


def main() -> int:
    return run_service("gateway", run)


if __name__ == "__main__":
    sys.exit(main())
