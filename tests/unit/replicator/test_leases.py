"""Work that takes longer than its lease keeps it; work that has lost it stops."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest

from cdir.errors import CdirError, Conflict, ProviderUnavailable
from cdir.v1 import adapter_service_pb2, adapter_service_pb2_grpc, catalog_service_pb2, scrub_pb2
from cdir_replicator.service import Replicator
from cdir_runtime.loopback import LoopbackChannel
from cdir_transfer.leases import kept_alive
from cdir_transfer.snapshots import SnapshotStore
from unit.replicator.conftest import HANG, Bench

LEASE = 4.0
"""Seconds: renewed at each third of them. Only a machine that stands still for longer than the rest loses one."""


class HeldWrites(adapter_service_pb2_grpc.AdapterServiceServicer):
    """The adapters service of a bench, at which no write begins before ``let_go`` is set."""

    def __init__(self, inner: adapter_service_pb2_grpc.AdapterServiceAsyncStub) -> None:
        self.inner = inner
        self.let_go = asyncio.Event()
        self.waiting = 0
        self.written = 0

    async def _hold(self) -> None:
        self.waiting += 1
        try:
            await self.let_go.wait()
        finally:
            self.waiting -= 1
        self.written += 1

    async def PutObject(self, request: adapter_service_pb2.PutObjectRequest, context: Any) -> Any:
        await self._hold()
        return await self.inner.PutObject(request)

    async def WriteObject(
        self, request_iterator: AsyncIterator[adapter_service_pb2.WriteObjectRequest], context: Any
    ) -> Any:
        await self._hold()
        return await self.inner.WriteObject(request_iterator)

    async def CheckMark(self, request: adapter_service_pb2.CheckMarkRequest, context: Any) -> Any:
        return await self.inner.CheckMark(request)

    async def StatObject(self, request: adapter_service_pb2.StatObjectRequest, context: Any) -> Any:
        return await self.inner.StatObject(request)

    async def FetchObject(self, request: adapter_service_pb2.FetchObjectRequest, context: Any) -> Any:
        return await self.inner.FetchObject(request)

    async def DeleteObjects(self, request: adapter_service_pb2.DeleteObjectsRequest, context: Any) -> Any:
        return await self.inner.DeleteObjects(request)

    async def ListObjects(
        self, request: adapter_service_pb2.ListObjectsRequest, context: Any
    ) -> AsyncIterator[adapter_service_pb2.ListObjectsResponse]:
        async for page in self.inner.ListObjects(request):
            yield page


class HeldReads(HeldWrites):
    """The same, at which reads are held instead."""

    async def PutObject(self, request: adapter_service_pb2.PutObjectRequest, context: Any) -> Any:
        return await self.inner.PutObject(request)

    async def FetchObject(self, request: adapter_service_pb2.FetchObjectRequest, context: Any) -> Any:
        await self._hold()
        return await self.inner.FetchObject(request)


@asynccontextmanager
async def held_reads(bench: Bench) -> AsyncIterator[tuple[Replicator, HeldReads]]:
    """Give a replicator whose reads are held."""
    reads = HeldReads(bench.adapters)  # type: ignore[abstract] # only the calls of a replicator
    async with LoopbackChannel() as channel:
        adapter_service_pb2_grpc.add_AdapterServiceServicer_to_server(reads, channel)
        replicator = Replicator(bench.catalog_channel, channel, lease_seconds=LEASE)
        await replicator.health.once()
        yield replicator, reads


@asynccontextmanager
async def held_writes(bench: Bench) -> AsyncIterator[tuple[LoopbackChannel, HeldWrites]]:
    """Give a channel to the bench's adapters on which writes are held."""
    writes = HeldWrites(bench.adapters)  # type: ignore[abstract] # the same
    async with LoopbackChannel() as channel:
        adapter_service_pb2_grpc.add_AdapterServiceServicer_to_server(writes, channel)
        yield channel, writes


@asynccontextmanager
async def running(work: Any) -> AsyncIterator[asyncio.Task[Any]]:
    """Run ``work`` beside the block, and no longer."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def scrub_at_a(replicator: Replicator) -> scrub_pb2.ScrubProgress:
    """Have every copy at provider ``a`` proven; returns the last word."""
    async with asyncio.timeout(HANG), asyncio.TaskGroup() as serving:
        steps = replicator.scrub.scrub(scrub_pb2.ScrubTreeRequest(path="/", provider="a"))
        said = [await anext(steps)]
        serving.create_task(replicator.scrub.serve())
        said += [step async for step in steps]
    assert said[-1].done
    return said[-1]


def lease_ends(bench: Bench, table: str) -> set[int]:
    """When the leases in a table of the catalog end."""
    with closing(sqlite3.connect(bench.folder / "catalog" / "catalog.db")) as database:
        query = f"SELECT lease_until FROM {table} WHERE lease_owner IS NOT NULL"
        return {until for (until,) in database.execute(query)}


async def until_outlived(bench: Bench, table: str) -> None:
    """Wait until the leases that are held now would have ended, had nobody renewed them."""
    first = lease_ends(bench, table)
    assert first
    await bench.until(lambda: time.time_ns() > max(first))
    assert min(lease_ends(bench, table)) > max(first)


async def test_a_copy_that_takes_longer_than_its_lease_is_made_once(bench: Bench) -> None:
    await bench.write("/file", b"content", at=["a", "b"])
    async with held_writes(bench) as (channel, writes):
        replicator = Replicator(bench.catalog_channel, channel, lease_seconds=LEASE)
        await replicator.health.once()
        async with running(replicator.propagate.once()) as working:
            await bench.until(lambda: writes.waiting)
            await until_outlived(bench, "replicas")
            assert await bench.replicator.propagate.once() == 0, "another one took it"
            writes.let_go.set()
            assert await asyncio.wait_for(working, HANG) == 1
    assert writes.written == 1
    assert (replicator.progress.copied, bench.replicator.progress.copied) == (1, 0)
    assert await bench.owed() == 0
    assert bench.files("c") == {"file": b"content"}


async def test_work_whose_lease_was_lost_stops(bench: Bench) -> None:
    await bench.write("/file", b"content", at=["a", "b"])
    async with held_writes(bench) as (channel, writes):
        replicator = Replicator(bench.catalog_channel, channel, lease_seconds=LEASE)
        await replicator.health.once()
        async with running(replicator.propagate.once()) as working:
            await bench.until(lambda: writes.waiting)
            await bench.catalog.ReleaseOwner(catalog_service_pb2.ReleaseOwnerRequest(owner=replicator.owner))
            await bench.work_off()
            await bench.until(lambda: not writes.waiting)
            await asyncio.wait_for(working, HANG)
    assert (writes.written, replicator.progress.copied, replicator.progress.active) == (0, 0, 0)
    assert bench.replicator.progress.copied == 1
    assert bench.files("c") == {"file": b"content"}


async def test_a_copy_that_takes_longer_to_read_than_its_lease_is_proven_once(bench: Bench) -> None:
    await bench.write("/file", b"content")
    await bench.write("/other", b"other content")
    async with held_reads(bench) as (replicator, reads), running(scrub_at_a(replicator)) as scrubbing:
        await bench.until(lambda: reads.waiting == 2)
        await until_outlived(bench, "replicas")
        assert (await scrub_at_a(bench.replicator)).proven == 0, "another one took it"
        reads.let_go.set()
        found = await asyncio.wait_for(scrubbing, HANG)
    assert (found.proven, found.failed, found.corrupt) == (2, 0, 0)
    assert lease_ends(bench, "replicas") == set()


async def test_a_copy_that_is_replaced_is_read_no_further(bench: Bench) -> None:
    await bench.write("/file", b"content")
    await bench.write("/other", b"other content")
    async with held_reads(bench) as (replicator, reads), running(scrub_at_a(replicator)) as scrubbing:
        await bench.until(lambda: reads.waiting == 2)
        await bench.remove("/file")
        await bench.until(lambda: reads.waiting == 1)
        reads.let_go.set()
        found = await asyncio.wait_for(scrubbing, HANG)
    assert (found.proven, found.failed, found.corrupt) == (1, 0, 0)
    assert lease_ends(bench, "replicas") == set()


async def test_a_snapshot_that_takes_longer_than_its_lease_is_made_once(bench: Bench) -> None:
    await bench.write("/file", b"content")
    async with held_writes(bench) as (channel, writes):
        adapters = adapter_service_pb2_grpc.AdapterServiceStub(channel)
        store = SnapshotStore(bench.catalog, adapters, owner="slow", lease_seconds=LEASE)
        async with running(store.take(at_once=True)) as taking:
            await bench.until(lambda: writes.waiting)
            await until_outlived(bench, "snapshots")
            other = await SnapshotStore(bench.catalog, bench.adapters, owner="other").take(at_once=True)
            assert (other.made, other.making) == (False, True)
            writes.let_go.set()
            taken = await asyncio.wait_for(taking, HANG)
    assert (taken.made, taken.providers) == (True, ("a", "b", "c"))


async def test_a_snapshot_whose_lease_was_lost_is_given_up(bench: Bench) -> None:
    await bench.write("/file", b"content")
    async with held_writes(bench) as (channel, writes):
        adapters = adapter_service_pb2_grpc.AdapterServiceStub(channel)
        store = SnapshotStore(bench.catalog, adapters, owner="slow", lease_seconds=LEASE)
        async with running(store.take(at_once=True)) as taking:
            await bench.until(lambda: writes.waiting)
            # as if nothing had been heard of it for so long that another one came
            with closing(sqlite3.connect(bench.folder / "catalog" / "catalog.db")) as database, database:
                database.execute("UPDATE snapshots SET lease_until = 1")
            other = await SnapshotStore(bench.catalog, bench.adapters, owner="other").take(at_once=True)
            assert other.made
            with pytest.raises(Conflict, match="has ended"):
                await asyncio.wait_for(taking, HANG)
            assert not writes.waiting
        found, _ = await store.find(await store.providers())
    assert [one.name for one in found] == [other.name]


async def test_a_lease_that_cannot_be_renewed_is_tried_again_until_it_must_have_ended() -> None:
    tried = 0

    async def renew() -> None:
        nonlocal tried
        tried += 1
        raise ProviderUnavailable("refused")

    with pytest.raises(ProviderUnavailable):
        async with kept_alive(renew, seconds=0.3):
            await asyncio.sleep(HANG)
    assert tried >= 3


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    async def renew() -> None:
        raise AssertionError("too early")

    with pytest.raises(CdirError, match="mine"):
        async with kept_alive(renew, seconds=HANG):
            raise Conflict("mine")
    async with kept_alive(renew, seconds=HANG):
        pass
