"""An adapters service over a real catalog, both behind loopback channels."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from google.protobuf import struct_pb2

from cdir.status import translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    provider_pb2,
)
from cdir_adapters.service import open_adapters
from cdir_catalog.service import open_catalog
from cdir_runtime.loopback import LoopbackChannel
from cdir_runtime.vault import Vault


@dataclasses.dataclass
class Bench:
    """The service under test and the catalog beside it."""

    adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub
    catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub
    vault: Vault
    home_id: str
    folder: Path

    def probe_request(
        self, name: str, kind: str = "local", **changes: object
    ) -> adapter_service_pb2.ProbeProviderRequest:
        request = adapter_service_pb2.ProbeProviderRequest(
            provider_id=uuid.uuid4().hex, home_id=self.home_id, name=name, kind=kind
        )
        if kind == "local":
            request.options["root"] = str(self.folder / name)
        for field, value in changes.items():
            setattr(request, field, value)
        return request

    async def probe(
        self, request: adapter_service_pb2.ProbeProviderRequest
    ) -> adapter_service_pb2.ProbeProviderResponse:
        with translated():
            return await self.adapters.ProbeProvider(request, timeout=60)

    async def register(
        self, request: adapter_service_pb2.ProbeProviderRequest, capability: struct_pb2.Struct | None = None
    ) -> adapter_service_pb2.ProviderRef:
        """Register what the request describes, as the gateway does after probing."""
        with translated():
            response = await self.catalog.CreateProvider(
                catalog_service_pb2.CreateProviderRequest(
                    provider=catalog_service_pb2.StoredProvider(
                        provider=provider_pb2.Provider(
                            provider_id=request.provider_id,
                            name=request.name,
                            kind=request.kind,
                            options=request.options,
                            priority=100,
                            capability=capability,
                        ),
                        sealed_secrets=request.sealed_secrets,
                    )
                )
            )
        return adapter_service_pb2.ProviderRef(provider_id=request.provider_id, revision=response.provider.revision)

    async def add(self, name: str, kind: str = "local", **narrowed: bool) -> adapter_service_pb2.ProviderRef:
        """Probe and register a provider; ``narrowed`` are capabilities that it is recorded not to have."""
        request = self.probe_request(name, kind)
        capability = (await self.probe(request)).capability
        capability.update(narrowed)
        return await self.register(request, capability)

    async def put(self, ref: adapter_service_pb2.ProviderRef, key: str, data: bytes) -> None:
        with translated():
            await self.adapters.PutObject(
                adapter_service_pb2.PutObjectRequest(
                    header=adapter_service_pb2.ObjectHeader(provider=ref, key=key), data=data
                )
            )

    async def get(self, ref: adapter_service_pb2.ProviderRef, key: str) -> bytes:
        with translated():
            response = await self.adapters.FetchObject(
                adapter_service_pb2.FetchObjectRequest(provider=ref, key=key, length=1 << 20)
            )
        return response.data

    async def until(self, condition: Callable[[], Awaitable[object]]) -> None:
        """Wait until ``condition`` holds."""
        async with asyncio.timeout(60):
            while True:
                if await condition():
                    return
                await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def new_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the database of a new catalog: copying it is much quicker than making it."""
    folder = tmp_path_factory.mktemp("catalog")

    async def make() -> None:
        async with open_catalog(f"sqlite:///{folder}/catalog.db"):
            pass

    asyncio.run(make())
    return folder


@pytest.fixture
async def bench(tmp_path: Path, new_catalog: Path) -> AsyncIterator[Bench]:
    shutil.copytree(new_catalog, tmp_path / "catalog")
    vault = Vault.unkept()
    async with (
        open_catalog(f"sqlite:///{tmp_path}/catalog/catalog.db") as catalog,
        LoopbackChannel() as catalog_channel,
    ):
        catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(catalog, catalog_channel)
        async with open_adapters(catalog_channel, vault) as adapters, LoopbackChannel() as adapters_channel:
            adapter_service_pb2_grpc.add_AdapterServiceServicer_to_server(adapters, adapters_channel)
            stub = catalog_service_pb2_grpc.CatalogServiceStub(catalog_channel)
            identity = await stub.GetIdentity(catalog_service_pb2.GetIdentityRequest())
            yield Bench(
                adapters=adapter_service_pb2_grpc.AdapterServiceStub(adapters_channel),
                catalog=stub,
                vault=vault,
                home_id=identity.home_id,
                folder=tmp_path,
            )
