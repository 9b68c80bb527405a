"""Finding out which of many objects are gone: one listing of their folder tells what else takes a call for each."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection
from contextlib import aclosing
from typing import Final

from cdir.errors import CdirError
from cdir.status import translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
)
from cdir_transfer.listing import listed_pages
from cdir_transfer.observer import is_providers_fault

__all__ = ["Absence"]

_FEW: Final = 3
"""So many objects of one folder are worth listing it."""
_BYSTANDERS: Final = 2000
"""Objects that a listing may show beside those that are looked for: in a larger folder each is asked for by itself."""
_BELIEVABLE: Final = ("list_current", "case_sensitive", "unicode_preserving")
"""Capabilities of a provider whose listing shows all that was stored before it, under the names that it was given."""
_CATALOG_SECONDS: Final = 30.0


class Absence:
    """Looks into folders of providers whose listings can be believed about what is not there."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters

    async def gone(self, provider: adapter_service_pb2.ProviderRef, keys: Collection[str]) -> set[str]:
        """Return those of the keys at which surely nothing lies; of the others nothing is known.

        Raises only what speaks about the provider as a whole.
        """
        folders: defaultdict[str, set[str]] = defaultdict(set)
        for key in keys:
            folders[key.rpartition("/")[0]].add(key)
        worth = {folder: wanted for folder, wanted in folders.items() if len(wanted) >= _FEW}
        if not worth or not await self._believable(provider.provider_id):
            return set()
        try:
            async with asyncio.TaskGroup() as looks:
                found = [looks.create_task(self._not_in(provider, folder, wanted)) for folder, wanted in worth.items()]
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        return {key for look in found for key in look.result()}

    async def _not_in(self, provider: adapter_service_pb2.ProviderRef, folder: str, wanted: set[str]) -> set[str]:
        request = adapter_service_pb2.ListObjectsRequest(provider=provider, prefix=folder)
        missing, seen = set(wanted), 0
        try:
            async with aclosing(listed_pages(self._adapters, request, where=folder or "the root")) as pages:
                async for page in pages:
                    missing.difference_update(info.key for info in page)
                    seen += len(page)
                    if not missing or seen > _BYSTANDERS + len(wanted):
                        return set()
        except CdirError as error:
            if is_providers_fault(error):
                raise
            return set()
        return missing

    async def _believable(self, provider_id: str) -> bool:
        with translated():
            response = await self._catalog.ReadProviders(
                catalog_service_pb2.ReadProvidersRequest(provider_id=provider_id), timeout=_CATALOG_SECONDS
            )
        fields = response.providers[0].provider.capability.fields if response.providers else {}
        return all(name in fields and fields[name].bool_value for name in _BELIEVABLE)
