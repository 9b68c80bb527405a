"""Scans of real folders: what others did is taken up, and no trouble of a provider makes anything disappear."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cdir.errors import CdirError, DeadlineExceeded, ProviderUnavailable, RateLimited, Unauthenticated
from cdir.status import translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    directory_service_pb2,
    entry_pb2,
    provider_pb2,
    scan_pb2,
)
from cdir_replicator.service import Replicator
from cdir_runtime.loopback import LoopbackChannel
from cdir_transfer.digest import BLOCK_SIZE

LONG_AGO = 1_500_000_000.0
UP = provider_pb2.PROVIDER_STATE_UP


class FaultyListings(adapter_service_pb2_grpc.AdapterServiceServicer):
    """The adapters service of a bench, whose listings of one provider fail in a chosen way."""

    def __init__(self, inner: adapter_service_pb2_grpc.AdapterServiceAsyncStub) -> None:
        self.inner = inner
        self.faulty = ""
        self.error: CdirError | None = None
        self.pages = -1
        """How many pages come before the error, or before the listing ends without saying that it was complete; -1
        for all of it."""
        self.after_listing: Callable[[], None] | None = None
        """Called when a listing has come to its end."""

    async def ListObjects(
        self, request: adapter_service_pb2.ListObjectsRequest, context: Any
    ) -> AsyncIterator[adapter_service_pb2.ListObjectsResponse]:
        broken = request.provider.provider_id == self.faulty and self.pages >= 0
        left = self.pages
        async for page in self.inner.ListObjects(request):
            if broken and not left:
                break
            left -= 1
            yield page
        if broken and self.error is not None:
            raise self.error
        if self.after_listing is not None:
            self.after_listing()

    async def StatObject(self, request: adapter_service_pb2.StatObjectRequest, context: Any) -> Any:
        return await self.inner.StatObject(request)

    async def CheckMark(self, request: adapter_service_pb2.CheckMarkRequest, context: Any) -> Any:
        return await self.inner.CheckMark(request)

    async def FetchObject(self, request: adapter_service_pb2.FetchObjectRequest, context: Any) -> Any:
        return await self.inner.FetchObject(request)

    async def PutObject(self, request: adapter_service_pb2.PutObjectRequest, context: Any) -> Any:
        return await self.inner.PutObject(request)

    async def MoveObject(self, request: adapter_service_pb2.MoveObjectRequest, context: Any) -> Any:
        return await self.inner.MoveObject(request)

    async def DeleteObjects(self, request: adapter_service_pb2.DeleteObjectsRequest, context: Any) -> Any:
        return await self.inner.DeleteObjects(request)


async def scan(
    bench: Any, path: str = "/", provider: str = "", replicator: Replicator | None = None
) -> scan_pb2.ScanCounts:
    """Have a path scanned at once; the counts of all providers added up."""
    with translated():
        due = await bench.catalog.MakeScanDue(scan_pb2.MakeScanDueRequest(path=path, provider=provider))
        await (replicator or bench.replicator).scan.once()
        done = await bench.catalog.ReadScans(scan_pb2.ReadScansRequest(scan_ids=[one.scan_id for one in due.scans]))
    total = scan_pb2.ScanCounts()
    for one in done.scans:
        for field, number in one.counts.ListFields():
            setattr(total, field.name, getattr(total, field.name) + number)
    return total


def outside(path: Path, content: bytes, *, when: float | None = None) -> None:
    """Write a file as another program does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    stamp = time.time() if when is None else when
    os.utime(path, (stamp, stamp))


async def versions_of(bench: Any, path: str) -> list[entry_pb2.Version]:
    with translated():
        response = await bench.catalog.ListVersions(directory_service_pb2.ListVersionsRequest(path=path))
    return list(response.versions)


async def test_a_new_file_is_adopted_and_copied_and_its_digests_learnt(bench: Any) -> None:
    large = os.urandom(2 * BLOCK_SIZE + 5)
    outside(bench.root("a") / "dir/new", b"content", when=LONG_AGO)
    outside(bench.root("b") / "large", large, when=LONG_AGO)
    outside(bench.root("b") / "empty", b"", when=LONG_AGO)
    assert (await scan(bench)).adopted == 3
    await bench.work_off()
    for name in "abc":
        assert bench.files(name) == {"dir/new": b"content", "empty": b"", "large": large}
        assert (bench.root(name) / "large").stat().st_mtime == LONG_AGO
    for path in ("/dir/new", "/large", "/empty"):
        [version] = await versions_of(bench, path)
        assert len(version.sha256) == 32
    assert (await scan(bench)).same == 9


async def test_a_source_that_changes_before_it_is_copied_is_scanned_again(bench: Any) -> None:
    outside(bench.root("a") / "new", b"first state", when=LONG_AGO)
    await scan(bench)
    outside(bench.root("a") / "new", b"second state, longer", when=LONG_AGO + 60)

    async def copied() -> bool:
        await bench.replicator.propagate.once()
        await bench.replicator.scan.once()
        return bool(bench.files("b").get("new") == bench.files("c").get("new") == b"second state, longer")

    await bench.until(copied)


async def test_a_copy_leaves_alone_what_another_program_put_in_its_place(bench: Any) -> None:
    await bench.write("/file", b"through cdir", at=["a"])
    outside(bench.root("b") / "file", b"by another program")

    async def settled() -> bool:
        await bench.replicator.propagate.once()
        await bench.replicator.scan.once()
        return not await bench.owed()

    await bench.until(settled)
    kept = {content for name in "abc" for content in bench.files(name).values()}
    assert kept == {b"through cdir", b"by another program"}
    assert len(await versions_of(bench, "/file")) == 2


async def test_an_edit_that_a_reader_stumbles_over_is_kept_and_not_repaired_away(bench: Any) -> None:
    entry = await bench.write("/file", b"through cdir")
    outside(bench.root("b") / "file", b"edited by another program")
    corrupt = catalog_service_pb2.ReplicaObservation(
        version_id=entry.version_id,
        provider_id=bench.providers["b"].provider_id,
        key="file",
        state=entry_pb2.REPLICA_STATE_CORRUPT,
        error="the object has 25 bytes instead of 12",
    )
    with translated():
        await bench.catalog.RecordReplicas(catalog_service_pb2.RecordReplicasRequest(observations=[corrupt]))

    async def settled() -> bool:
        await bench.replicator.propagate.once()
        await bench.replicator.scan.once()
        return not await bench.owed()

    await bench.until(settled)
    kept = {content for name in "abc" for content in bench.files(name).values()}
    assert kept == {b"through cdir", b"edited by another program"}


async def test_a_copy_that_rotted_is_repaired_and_no_version_made_of_it(bench: Any) -> None:
    entry = await bench.write("/file", b"content")
    bench.corrupt("b", "file")
    corrupt = catalog_service_pb2.ReplicaObservation(
        version_id=entry.version_id,
        provider_id=bench.providers["b"].provider_id,
        key="file",
        state=entry_pb2.REPLICA_STATE_CORRUPT,
        error="the SHA-256 differs from the recorded one",
    )
    with translated():
        await bench.catalog.RecordReplicas(catalog_service_pb2.RecordReplicasRequest(observations=[corrupt]))
    await bench.work_off()
    for name in "abc":
        assert bench.files(name) == {"file": b"content"}
    assert len(await versions_of(bench, "/file")) == 1


async def test_a_listing_that_breaks_off_says_nothing_about_what_it_did_not_show(bench: Any) -> None:
    for number in range(20):
        await bench.write(f"/file{number}", b"content")
    async with faulty_replicator(bench) as (replicator, listings):
        listings.faulty = bench.providers["a"].provider_id
        for error in (None, ProviderUnavailable("refused"), RateLimited("slow down"), Unauthenticated("who are you?")):
            for pages in (0, 1):
                listings.error, listings.pages = error, pages
                assert (await scan(bench, replicator=replicator)).missing == 0
        assert await bench.owed() == 0
        listings.faulty = ""
        assert (await scan(bench, replicator=replicator)).missing == 0


async def test_a_root_that_is_emptied_after_it_was_listed_does_not_count(bench: Any) -> None:
    await bench.write("/file", b"content")
    root = bench.root("a")

    def unmount() -> None:
        if root.exists():
            root.rename(root.with_name("away"))
            root.mkdir()

    async with faulty_replicator(bench) as (replicator, listings):
        (root / "file").rename(root / "moved")  # an answer that would count if the root were there afterwards
        listings.after_listing = unmount
        found = await scan(bench, provider="a", replicator=replicator)
        assert (found.missing, found.adopted) == (0, 0)
    root.rmdir()
    root.with_name("away").rename(root)
    (root / "moved").rename(root / "file")
    assert await bench.owed() == 0


# --- troubles of every kind, one after another ------------------------------------------------------------------------

FILES = 30


class Trouble:
    """What happens to provider a, and how it ends; cdir's promise is that none of it loses a file."""

    def __init__(self, bench: Any, listings: FaultyListings) -> None:
        self.root: Path = bench.root("a")
        self.kept = self.root.with_name("a kept")
        self.old = self.root.with_name("a as it was")
        self.foreign = bench.root("b")
        self.listings = listings
        listings.faulty = bench.providers["a"].provider_id

    def refusing(self) -> None:
        self.listings.error, self.listings.pages = ProviderUnavailable("refused"), 0

    def timing_out(self) -> None:
        self.listings.error, self.listings.pages = DeadlineExceeded("too late"), 0

    def half_listed(self) -> None:
        self.listings.error, self.listings.pages = None, 1

    def credentials_lost(self) -> None:
        self.listings.error, self.listings.pages = Unauthenticated("who are you?"), 0

    def unmounted(self) -> None:
        self.root.rename(self.kept)
        self.root.mkdir()

    def emptied(self) -> None:
        self.root.rename(self.kept)
        (self.root / ".cdir").mkdir(parents=True)
        shutil.copy2(self.kept / ".cdir/provider", self.root / ".cdir/provider")

    def swapped(self) -> None:
        self.root.rename(self.kept)
        shutil.copytree(self.foreign, self.root)

    def back_as_it_was(self) -> None:
        """An old copy of the disk takes its place, for good."""
        if self.old.exists():
            shutil.rmtree(self.root)
            shutil.copytree(self.old, self.root)

    def over(self) -> None:
        self.listings.error, self.listings.pages = None, -1
        if self.kept.exists():
            shutil.rmtree(self.root)
            self.kept.rename(self.root)


TROUBLES = [
    Trouble.refusing,
    Trouble.timing_out,
    Trouble.half_listed,
    Trouble.credentials_lost,
    Trouble.unmounted,
    Trouble.emptied,
    Trouble.swapped,
    Trouble.back_as_it_was,
]


@pytest.mark.parametrize("seed", range(2))
async def test_no_trouble_of_a_provider_makes_anything_disappear(bench: Any, seed: int) -> None:
    chance = random.Random(seed)
    newest: dict[str, bytes] = {}
    clock = 1_600_000_000

    async def write(path: str) -> None:
        nonlocal clock
        clock += 60
        content = chance.randbytes(chance.randrange(1, 200))
        await bench.write(path, content, at=["b", "c"], modified=clock)
        newest[path] = content

    async with faulty_replicator(bench) as (replicator, listings):
        trouble = Trouble(bench, listings)
        trouble.over()
        for number in range(FILES):
            await write(f"/d{number % 4}/file{number}")
        await work(bench, replicator)
        for kind in chance.sample(TROUBLES, len(TROUBLES)):
            if not trouble.old.exists():
                shutil.copytree(trouble.root, trouble.old)
            await write(chance.choice(sorted(newest)))
            kind(trouble)
            await replicator.health.once()
            await scan(bench, replicator=replicator)
            await replicator.propagate.once()
            await check_nothing_is_lost(bench, newest)
            trouble.over()
            await work(bench, replicator)
            await check_nothing_is_lost(bench, newest)
        for name in "abc":
            assert {f"/{key}": content for key, content in bench.files(name).items() if key[0] == "d"} == newest, name


async def work(bench: Any, replicator: Replicator) -> None:
    """Let the replicator work until the provider is up again and nothing is owed."""

    async def settled() -> bool:
        for name in "abc":
            replicator.health.suspect(bench.providers[name].provider_id)
        await replicator.health.once()
        await scan(bench, replicator=replicator)
        for _ in range(20):  # a scan comes seldom, and work is done in between
            await replicator.propagate.once()
            if not await bench.owed():
                break
            await asyncio.sleep(0.05)
        return not await bench.owed() and (await bench.state_of("a")).state == UP

    await bench.until(settled)


async def check_nothing_is_lost(bench: Any, newest: dict[str, bytes]) -> None:
    """Every file is there, its newest content is the current one, and a provider that was not in trouble holds it."""
    paths = sorted(newest)
    with translated():
        response = await bench.catalog.ResolveEntries(
            catalog_service_pb2.ResolveEntriesRequest(
                refs=[catalog_service_pb2.PathRef(path=path) for path in paths], with_replicas=True
            )
        )
    stored = [bench.files(name) for name in "bc"]
    for path, found in zip(paths, response.results, strict=True):
        assert not found.HasField("failure"), (path, found.failure)
        content = newest[path]
        assert found.version.sha256 in {b"", hashlib.sha256(content).digest()}, path
        assert found.version.size == len(content), path
        assert all(files.get(path[1:]) == content for files in stored), path


@asynccontextmanager
async def faulty_replicator(bench: Any) -> AsyncIterator[tuple[Replicator, FaultyListings]]:
    """A second replicator of the bench, with a hand on what it is told of listings."""
    listings = FaultyListings(bench.adapters)  # type: ignore[abstract] # only the calls of a scan
    async with LoopbackChannel() as channel:
        adapter_service_pb2_grpc.add_AdapterServiceServicer_to_server(listings, channel)
        replicator = Replicator(bench.catalog_channel, channel)
        await replicator.health.once()
        yield replicator, listings
