"""What stands between cdir and a real server, or works on it beside cdir: conditions that are dropped on the way, and
unfinished uploads that somebody else ends."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import pytest

from cdir.errors import CdirError, Retry
from cdir_adapters.adapter import Adapter
from cdir_adapters.probe import probe
from cdir_adapters.providers.swift import adapter as swift_adapter
from cdir_adapters.providers.swift import upload
from cdir_adapters.registry import open_adapter
from cdir_adapters.testing.trial import MODIFIED, pattern
from servers import azurite, moto_s3, swift_cluster
from servers.azurite import azurite_server
from servers.faulty_http import Answer, Request, faulty_http
from servers.gcs import gcs_server
from servers.moto_s3 import moto_s3_server
from servers.requirement import require

FILES = "files"
MIB = 1024 * 1024


@dataclass(frozen=True)
class Placed:
    """A real server, and how to reach it at another port of this machine."""

    port: int
    options: Mapping[str, object]
    end_uploads: Callable[[], Awaitable[None]] | None = None
    """End what somebody else uploads at the moment; ``None``: it holds nothing unfinished."""

    def opened(self, kind: str, port: int) -> Adapter:
        """An adapter that asks at ``port``."""
        here, there = f"127.0.0.1:{self.port}", f"127.0.0.1:{port}"
        return open_adapter(kind, "x", {name: str(value).replace(here, there) for name, value in self.options.items()})


@contextlib.asynccontextmanager
async def _azure() -> AsyncIterator[Placed]:
    require(azurite)
    async with azurite_server() as server:

        async def end() -> None:
            # who commits first discards the blocks of every other
            async with server.client(FILES) as client:
                await client.get_blob_client("object").commit_block_list([])

        yield Placed(server.port, server.options(FILES), end)


@contextlib.asynccontextmanager
async def _gcs() -> AsyncIterator[Placed]:
    async with gcs_server() as server:

        async def end() -> None:
            server.uploads.clear()

        yield Placed(server.port, server.options(FILES), end)


@contextlib.asynccontextmanager
async def _swift() -> AsyncIterator[Placed]:
    require(swift_cluster)
    async with swift_cluster.swift_cluster() as server:

        async def end() -> None:
            async with server.raw() as raw:
                for container in (row for row in await _containers(raw) if row != FILES):
                    for name in await raw.names(container):
                        await raw.ask("DELETE", f"{container}/{name}")

        async def _containers(raw: swift_cluster.RawSwift) -> list[str]:
            return (await raw.ask("GET", "")).body.decode().split()

        yield Placed(server.port, server.options(FILES), end)


@contextlib.asynccontextmanager
async def _s3() -> AsyncIterator[Placed]:
    require(moto_s3)
    async with moto_s3_server() as server:
        yield Placed(server.port, server.options(FILES))


SERVERS: Mapping[str, Callable[[], contextlib.AbstractAsyncContextManager[Placed]]] = {
    "azure": _azure,
    "gcs": _gcs,
    "swift": _swift,
    "s3": _s3,
}

_CONDITIONS = re.compile(r"if|if-match|if-none-match|if-(un)?modified-since", re.IGNORECASE)


async def _without_conditions(request: Request) -> Answer:
    headers = {name: value for name, value in request.headers.items() if not _CONDITIONS.fullmatch(name)}
    target = re.sub(r"(?<=[?&])if(Source)?(Meta)?[Gg]eneration(Not)?Match=\d+&?", "", request.target)
    return await replace(request, headers=headers, target=target).forward()


@pytest.mark.parametrize("kind", ["azure", "gcs", pytest.param("s3", marks=pytest.mark.slow)])
async def test_conditions_that_are_dropped_are_found_out(kind: str) -> None:
    """Whoever relied on them would overwrite what another has written."""
    async with (
        SERVERS[kind]() as placed,
        faulty_http(placed.port) as proxy,
        placed.opened(kind, proxy.port) as adapter,
    ):
        await adapter.prepare()
        kept = await probe(adapter)
        proxy.break_by(_without_conditions)
        found = await probe(adapter)
    assert kept.write_if_absent
    assert not found.write_if_absent
    assert not found.write_if_match
    assert found == replace(kept, write_if_absent=False, write_if_match=False, read_if_match=found.read_if_match)


@pytest.mark.parametrize("kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("azure", "swift")), "gcs"])
async def test_upload_that_somebody_else_ends(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails as a whole, no mixture appears, and the next attempt goes through."""
    for module in (upload, swift_adapter):
        monkeypatch.setattr(module, "SEGMENT_SIZE", 4 * MIB)
    data = pattern(33 * MIB + 5)
    async with SERVERS[kind]() as placed, placed.opened(kind, placed.port) as adapter:
        assert placed.end_uploads is not None
        await adapter.prepare()
        await adapter.write("object", b"the old one", size=11, modified=MODIFIED)

        async def interrupted() -> AsyncIterator[bytes]:
            assert placed.end_uploads is not None
            for start in range(0, len(data), MIB):
                if start == 24 * MIB:
                    await placed.end_uploads()
                yield data[start : start + MIB]

        with pytest.raises(CdirError) as caught:
            await adapter.write("object", interrupted(), size=len(data), modified=MODIFIED)
        assert caught.value.retry is not Retry.NEVER, caught.value
        assert (await adapter.fetch("object")).data in {b"the old one", b""}

        async def whole() -> AsyncIterator[bytes]:
            for start in range(0, len(data), MIB):
                yield data[start : start + MIB]

        await adapter.write("object", whole(), size=len(data), modified=MODIFIED)
        assert (await adapter.fetch("object")).data == data
