"""Many small copies at once: how few requests they cost, and that they replace nothing of another program's."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cdir.v1 import catalog_service_pb2, entry_pb2
from servers import rclone_s3
from servers.faulty_http import Answer, Request, faulty_http
from servers.requirement import require

BUCKET = "files"
CONTENTS = {f"dir/file{number:02}": f"content {number}".encode() * (number + 1) for number in range(40)}


class Store:
    """An S3 server that honours no condition, and the requests that it got."""

    def __init__(self, server: rclone_s3.RcloneS3Server) -> None:
        self.folder: Path = server.root / BUCKET
        self.requests: list[Request] = []

    async def take(self, request: Request) -> Answer:
        self.requests.append(request)
        return await request.forward()

    def files(self) -> dict[str, bytes]:
        found = {str(path.relative_to(self.folder)): path for path in self.folder.rglob("*") if path.is_file()}
        return {key: path.read_bytes() for key, path in found.items() if not key.startswith(".cdir/")}


@pytest.fixture
async def store(bench: Any) -> AsyncIterator[Store]:
    require(rclone_s3)
    async with rclone_s3.rclone_s3_server(dir_cache="10ms") as server, faulty_http(server.port) as proxy:
        store = Store(server)
        store.folder.mkdir()
        options = {**server.options(BUCKET), "endpoint": proxy.endpoint}
        secret = str(options.pop("secret_key"))
        await bench.add_provider("s3", "s3", options, secret_key=secret)
        await bench.replicator.health.once()
        while await bench.replicator.place.once():
            pass
        proxy.break_by(store.take)
        yield store


async def test_what_a_provider_lost_comes_back_with_one_request_a_file(bench: Any, store: Store) -> None:
    entries = [await bench.write(f"/{key}", data) for key, data in CONTENTS.items()]
    assert store.files() == CONTENTS
    for key in CONTENTS:
        store.folder.joinpath(key).unlink()
    await bench.catalog.RecordReplicas(
        catalog_service_pb2.RecordReplicasRequest(
            observations=[
                catalog_service_pb2.ReplicaObservation(
                    version_id=entry.version_id,
                    provider_id=bench.providers["s3"].provider_id,
                    key=entry.path[1:],
                    state=entry_pb2.REPLICA_STATE_UNKNOWN,
                )
                for entry in entries
            ]
        )
    )
    store.requests.clear()
    await bench.work_off()
    assert store.files() == CONTENTS
    # beside the writes, one listing finds out what is gone and what is free; on a busy machine it may be made again
    assert len(store.requests) <= len(CONTENTS) + 5, [(one.method, one.target) for one in store.requests]


@pytest.mark.parametrize("provider", ["b", "s3"])
async def test_many_copies_replace_nothing_that_another_program_has_put_there(
    bench: Any, store: Store, provider: str
) -> None:
    folder = store.folder if provider == "s3" else bench.root(provider)
    rivals = {key: os.urandom(30) for key in list(CONTENTS)[::7]}
    for key, data in rivals.items():
        folder.joinpath(key).parent.mkdir(exist_ok=True)
        folder.joinpath(key).write_bytes(data)
    for key, data in CONTENTS.items():
        await bench.write(f"/{key}", data, at=["a"])
    await bench.replicator.propagate.once()
    found = store.files() if provider == "s3" else bench.files(provider)
    assert found == {**CONTENTS, **rivals}
    for key in rivals:
        replica = (await bench.replicas(f"/{key}"))[provider]
        assert "put there by another program" in replica.error
