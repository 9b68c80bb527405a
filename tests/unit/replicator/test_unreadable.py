"""Objects that are there and cannot be read, at a provider that answers, as files on a bad sector of a disk are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cdir.v1 import entry_pb2
from servers import rclone_s3
from servers.faulty_http import Answer, Request, faulty_http
from servers.requirement import require
from unit.replicator.conftest import Bench

BUCKET = "files"


class Sector:
    """What lies at ``bad`` cannot be read until it is written again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bad = ""
        self.refuses = False
        """Refuse what is bad, and not break off."""

    async def serve(self, request: Request) -> Answer:
        here = bool(self.bad) and request.target.partition("?")[0] == f"/{BUCKET}/{self.bad}"
        if here and request.method == "GET":
            if self.refuses:
                return Answer(429)
            request.cut(reset=True)
            return Answer(500)
        if here and request.method == "PUT":
            self.bad = ""
        return await request.forward()


@pytest.fixture
async def sector(bench: Bench) -> AsyncIterator[Sector]:
    require(rclone_s3)
    # with ETags that say nothing, so that copies are proven by reading
    async with rclone_s3.rclone_s3_server(etag_hash="SHA1") as server, faulty_http(server.port) as proxy:
        sector = Sector(server.root / BUCKET)
        sector.folder.mkdir()
        options = {**server.options(BUCKET), "endpoint": proxy.endpoint}
        secret = str(options.pop("secret_key"))
        await bench.add_provider("s3", "s3", {name: str(value) for name, value in options.items()}, secret_key=secret)
        while await bench.replicator.place.once():
            pass
        await bench.replicator.health.once()
        proxy.break_by(sector.serve)
        yield sector


async def _state(bench: Bench, path: str) -> entry_pb2.ReplicaState.ValueType:
    return (await bench.replicas(path))["s3"].state


async def test_it_is_found_by_a_scrub_and_written_again(
    bench: Bench, sector: Sector, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("x", "y", "z"):
        await bench.write(f"/{name}", b"content")
    sector.bad = "x"
    found = await bench.scrub(provider="s3")
    # one file that cannot be read keeps no other from being proven
    assert (found.proven, found.failed, list(found.unreachable)) == (2, 1, [])
    assert await _state(bench, "/x") == entry_pb2.REPLICA_STATE_UNKNOWN
    await bench.work_off()
    assert sector.bad == ""
    # the fourth failure was what it was given up for
    assert len([record for record in caplog.records if "cannot read /x" in record.message]) == 3
    assert await _state(bench, "/x") == entry_pb2.REPLICA_STATE_OK
    assert (await bench.scrub(provider="s3")).proven == 3


async def test_a_provider_that_is_asked_too_often_is_not_doubted(bench: Bench, sector: Sector) -> None:
    for name in ("x", "y", "z"):
        await bench.write(f"/{name}", b"content")
    sector.bad, sector.refuses = "x", True
    found = await bench.scrub(provider="s3")
    assert (found.proven, found.failed) == (2, 1)
    assert await _state(bench, "/x") == entry_pb2.REPLICA_STATE_OK
