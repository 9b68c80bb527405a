"""The replicator as a whole: its roles run by themselves, and end when they are told to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cdir.errors import NotFound
from cdir.status import translated
from cdir.v1 import replicator_service_pb2 as pb
from cdir.v1 import replicator_service_pb2_grpc as rpc
from cdir_replicator.service import open_replicator
from cdir_runtime.loopback import LoopbackChannel


async def test_debt_is_worked_off_by_itself(bench: Any) -> None:
    async with (
        open_replicator(bench.catalog_channel, bench.adapters_channel) as servicer,
        LoopbackChannel() as channel,
    ):
        rpc.add_ReplicatorServiceServicer_to_server(servicer, channel)
        stub = rpc.ReplicatorServiceStub(channel)
        await bench.write("/file", b"content", at=["a"])
        await bench.until(lambda: bench.files("b") == bench.files("c") == {"file": b"content"})
        await bench.add_provider("d")
        await bench.until(lambda: bench.files("d") == {"file": b"content"})

        async def nothing_owed() -> bool:
            return bool(await bench.owed() == 0)

        await bench.until(nothing_owed)
        progress = await stub.GetProgress(pb.GetProgressRequest())
        assert (progress.copied, progress.copied_bytes, progress.failed) == (3, 21, 0)
        assert not progress.paused
        assert progress.HasField("started")


async def test_a_pause_holds_until_work_is_resumed(bench: Any) -> None:
    async with (
        open_replicator(bench.catalog_channel, bench.adapters_channel) as servicer,
        LoopbackChannel() as channel,
    ):
        rpc.add_ReplicatorServiceServicer_to_server(servicer, channel)
        stub = rpc.ReplicatorServiceStub(channel)
        await stub.PauseWork(pb.PauseWorkRequest())
        await bench.write("/file", b"content", at=["a"])
        # more than two of its looks for work
        await asyncio.sleep(2.5)
        assert bench.files("b") == {}
        assert (await stub.GetProgress(pb.GetProgressRequest())).paused
        await stub.ResumeWork(pb.ResumeWorkRequest())
        await bench.until(lambda: bench.files("b") == {"file": b"content"})


async def test_repair_of_what_does_not_exist_is_not_found(bench: Any) -> None:
    async with LoopbackChannel() as channel:
        rpc.add_ReplicatorServiceServicer_to_server(bench.replicator.servicer, channel)
        stub = rpc.ReplicatorServiceStub(channel)
        for request in (pb.StartRepairRequest(path="/missing"), pb.StartRepairRequest(path="/", provider="missing")):
            with pytest.raises(NotFound), translated():
                await stub.StartRepair(request)


async def test_it_ends_promptly_and_gives_its_leases_up(bench: Any) -> None:
    async with open_replicator(bench.catalog_channel, bench.adapters_channel):
        for number in range(40):
            await bench.write(f"/file{number}", b"content", at=["a"])
    # whatever was claimed can be taken by another at once
    await bench.work_off(bench.another_replicator())
    assert len(bench.files("b")) == len(bench.files("c")) == 40


async def test_a_provider_that_comes_back_is_caught_up_with(bench: Any) -> None:
    async with open_replicator(bench.catalog_channel, bench.adapters_channel):
        bench.root("b").rename(bench.folder / "hidden")
        await bench.write("/file", b"content", at=["a", "c"])

        async def down() -> bool:
            return bool((await bench.state_of("b")).state_reason)

        await bench.until(down)
        bench.folder.joinpath("hidden").rename(bench.root("b"))
        await bench.until(lambda: bench.files("b") == {"file": b"content"})
