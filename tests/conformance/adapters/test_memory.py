from collections.abc import AsyncIterator

import pytest

from cdir.errors import NotFound
from cdir_adapters.acl import Access, Acl
from cdir_adapters.providers.memory import MemoryAdapter
from cdir_adapters.testing.conformance import AdapterConformance
from cdir_adapters.testing.trial import MODIFIED


class TestMemory(AdapterConformance):
    """There is no way around memory: raw access is a second, plain use of the same verbs."""

    many = 2100

    @pytest.fixture
    async def adapter(self) -> AsyncIterator[MemoryAdapter]:
        async with MemoryAdapter("memory", {}) as adapter:
            self.opened = adapter
            await adapter.prepare()
            yield adapter

    async def raw_put(self, key: str, data: bytes) -> None:
        await self.opened.write(key, data, size=len(data), modified=MODIFIED)

    async def raw_open(self, key: str) -> None:
        await self.opened.set_acl(key, Acl(Access.PUBLIC_READ))

    async def raw_get(self, key: str) -> bytes | None:
        try:
            return (await self.opened.fetch(key)).data
        except NotFound:
            return None
