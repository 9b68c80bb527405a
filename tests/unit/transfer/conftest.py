"""Transfers against real providers behind an AdapterService that fails on request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cdir.v1 import adapter_service_pb2, catalog_service_pb2, entry_pb2
from cdir_transfer.health import ProviderHealth
from unit.gateway.harness import Harness, open_harness
from unit.transfer.notes import Notes


@dataclass
class Providers:
    """Three local providers a, b and c."""

    harness: Harness
    notes: Notes
    health: ProviderHealth

    def target(self, name: str, key: str = "file") -> catalog_service_pb2.WriteTarget:
        return catalog_service_pb2.WriteTarget(
            provider_id=self.harness.ids[name], provider=name, writable=True, key=key
        )

    def replica(self, name: str, key: str = "file", *alternate_keys: str) -> entry_pb2.Replica:
        return entry_pb2.Replica(
            provider_id=self.harness.ids[name],
            provider=name,
            key=key,
            alternate_keys=alternate_keys,
            state=entry_pb2.REPLICA_STATE_OK,
            wanted=True,
        )

    def lay(self, name: str, content: bytes, key: str = "file") -> None:
        """Put an object at a provider, behind everybody's back."""
        path = self.harness.root(name) / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    async def stat(self, name: str, key: str = "file") -> adapter_service_pb2.ObjectInfo:
        request = adapter_service_pb2.StatObjectRequest(
            provider=adapter_service_pb2.ProviderRef(provider_id=self.harness.ids[name]), key=key
        )
        return (await self.harness.adapters.StatObject(request)).info


@pytest.fixture
async def providers(tmp_path: Path) -> AsyncIterator[Providers]:
    async with open_harness(tmp_path) as harness:
        for name in "abc":
            await harness.add_provider(name)
        yield Providers(harness, Notes(), ProviderHealth())
