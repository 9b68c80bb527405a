"""The role that cleans up: versions that are no longer kept, files to be placed anew, and what crashed writes left."""

from __future__ import annotations

import asyncio
import logging
import time

from cdir.errors import CdirError
from cdir.status import translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    provider_pb2,
)
from cdir_runtime.crash import crash_point
from cdir_transfer.listing import provider_ref

__all__ = ["PlaceRole", "ReapRole", "SweepRole"]

logger = logging.getLogger(__name__)

_CATALOG_SECONDS = 60.0
_BATCH = 500

SWEEP_AGE = 3600.0
"""Seconds after which an unfinished write at a provider cannot be going on any more."""

_SWEEP_SECONDS = 600.0

_ANSWERING = {provider_pb2.PROVIDER_STATE_UP, provider_pb2.PROVIDER_STATE_SLOW}


class ReapRole:
    """Marks versions for removal that their policy no longer keeps."""

    def __init__(self, catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub) -> None:
        self._catalog = catalog

    async def once(self) -> int:
        """Reap until nothing more is due; return how many versions there were."""
        total = 0
        while True:
            with translated():
                response = await self._catalog.ReapVersions(
                    catalog_service_pb2.ReapVersionsRequest(limit=_BATCH), timeout=_CATALOG_SECONDS
                )
            total += response.reaped
            if response.reaped < _BATCH:
                return total


class PlaceRole:
    """Works changes of providers and policies into the files they concern."""

    def __init__(self, catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub) -> None:
        self._catalog = catalog

    async def once(self) -> int:
        """Place one batch; return how many files were looked at, 0 when nothing remains.

        One batch only: between two of them the catalog serves the others who write.
        """
        with translated():
            response = await self._catalog.PlaceEntries(
                catalog_service_pb2.PlaceEntriesRequest(limit=_BATCH), timeout=_CATALOG_SECONDS
            )
        if response.placed:
            crash_point("place.committed")
        return max(response.placed, 1) if response.remaining else 0


class SweepRole:
    """Removes unfinished writes at every provider that answers: once at the start, then every hour."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        *,
        interval: float = 3600.0,
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._interval = interval
        self._due: dict[str, float] = {}

    async def once(self) -> int:
        """Sweep the providers whose time has come, all at the same time; return how many leftovers were removed."""
        with translated():
            response = await self._catalog.ReadProviders(
                catalog_service_pb2.ReadProvidersRequest(), timeout=_CATALOG_SECONDS
            )
        now = time.monotonic()
        providers = [stored.provider for stored in response.providers]
        self._due = {provider.provider_id: self._due.get(provider.provider_id, now) for provider in providers}
        async with asyncio.TaskGroup() as sweeps:
            tasks = [
                sweeps.create_task(self._sweep(provider))
                for provider in providers
                if provider.state in _ANSWERING and not provider.read_only and self._due[provider.provider_id] <= now
            ]
        return sum(task.result() for task in tasks)

    async def _sweep(self, provider: provider_pb2.Provider) -> int:
        self._due[provider.provider_id] = time.monotonic() + self._interval
        request = adapter_service_pb2.SweepProviderRequest(
            provider=provider_ref(provider),
            older_than=SWEEP_AGE,
        )
        try:
            with translated():
                response = await self._adapters.SweepProvider(request, timeout=_SWEEP_SECONDS)
        except CdirError as error:
            logger.warning("provider %s: what crashed writes left could not be swept: %s", provider.name, error)
            return 0
        if response.removed:
            logger.info("provider %s: removed %d leftovers of crashed writes", provider.name, response.removed)
        return response.removed
