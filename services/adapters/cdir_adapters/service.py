"""Composing the adapters service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio

from cdir.v1 import catalog_service_pb2_grpc
from cdir_adapters.layers import LayerSettings
from cdir_adapters.pool import AdapterPool
from cdir_adapters.servicer import AdapterServicer
from cdir_runtime.vault import Vault

__all__ = ["open_adapters"]


@asynccontextmanager
async def open_adapters(
    catalog_channel: grpc.aio.Channel, vault: Vault, layers: LayerSettings | None = None
) -> AsyncIterator[AdapterServicer]:
    """Give the servicer of the providers that the catalog behind ``catalog_channel`` knows.

    ``vault`` opens their secrets; ``layers`` sets their timeouts, retries, limits and breaker. Nothing is contacted
    before it is called for. At the exit every adapter is closed; the server has drained by then.
    """
    catalog = catalog_service_pb2_grpc.CatalogServiceStub(catalog_channel)
    async with AdapterPool(catalog, vault, layers) as pool:
        yield AdapterServicer(pool, vault)
