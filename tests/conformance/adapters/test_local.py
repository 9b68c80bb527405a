from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cdir_adapters.providers.local import LocalAdapter
from cdir_adapters.testing.conformance import AdapterConformance


class TestLocal(AdapterConformance):
    many = 2100

    @pytest.fixture
    async def adapter(self, tmp_path: Path) -> AsyncIterator[LocalAdapter]:
        self.root = tmp_path / "root"
        async with LocalAdapter("disk", {"root": str(self.root)}) as adapter:
            await adapter.prepare()
            await self.raw_put(".cdir/provider", b"{}")
            yield adapter

    async def raw_put(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    async def raw_open(self, key: str) -> None:
        (self.root / key).chmod(0o644)

    async def raw_get(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
