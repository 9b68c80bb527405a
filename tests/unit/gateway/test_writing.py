from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cdir.errors import (
    Conflict,
    IntegrityError,
    InvalidArgument,
    InvalidPath,
    IsDirectory,
    PreconditionFailed,
    ProviderUnavailable,
    QuotaExceeded,
)
from cdir.status import from_failure, translated
from cdir.v1 import catalog_service_pb2, entry_pb2, provider_pb2
from cdir.v1 import directory_service_pb2 as pb
from cdir_catalog.servicer import CatalogServicer
from cdir_gateway import ledger, write_stream
from cdir_transfer.digest import BLOCK_SIZE
from cdir_transfer.writer import FanOut, ProviderWriter
from unit.gateway.harness import MODIFIED, Harness, Trouble, from_local, open_harness, source_of

LARGE = os.urandom(2 * BLOCK_SIZE + 12_345)


@pytest.mark.parametrize("content", [b"", b"x", os.urandom(100_000), LARGE[:BLOCK_SIZE]], ids=len)
async def test_a_small_file_is_stored_everywhere(trio: Harness, content: bytes) -> None:
    stored = await trio.put("/dir/file.bin", content)
    assert sorted(stored.stored) == ["a", "b", "c"]
    assert list(stored.owed) == []
    assert (stored.entry.path, stored.entry.size, stored.entry.generation) == ("/dir/file.bin", len(content), 1)
    assert stored.entry.sha256 == hashlib.sha256(content).digest()
    assert stored.entry.modified == MODIFIED
    for name in "abc":
        assert trio.files(name) == {"dir/file.bin": content}
    assert await trio.get("/dir/file.bin") == content


@pytest.mark.parametrize("piece", [BLOCK_SIZE, 1_000_000])
async def test_a_large_file_is_streamed_everywhere(any_trio: Harness, piece: int) -> None:
    stored = await any_trio.put("/large", LARGE, streamed=True, piece=piece, size=len(LARGE))
    assert sorted(stored.stored) == ["a", "b", "c"]
    for name in "abc":
        assert any_trio.files(name) == {"large": LARGE}
    version = (await any_trio.resolved("/large")).version
    assert version.sha256 == hashlib.sha256(LARGE).digest()
    assert len(version.block_digests) == 3 * 32
    assert await any_trio.get("/large") == LARGE


async def test_five_hundred_small_files_go_over_one_stream(trio: Harness) -> None:
    contents = {number: os.urandom(number) for number in range(500)}
    news = await trio.write(trio.whole(number, f"/many/{number}", data) for number, data in contents.items())
    assert set(news) == set(contents)
    assert all(len(results) == 1 and results[0].HasField("stored") for results in news.values())
    expected = {f"many/{number}": data for number, data in contents.items()}
    assert trio.files("a") == trio.files("b") == trio.files("c") == expected


async def test_files_of_a_stream_fail_one_by_one(trio: Harness) -> None:
    wrong = trio.whole(2, "/wrong", b"content")
    wrong.commit.sha256 = hashlib.sha256(b"another").digest()
    news = await trio.write(
        [trio.whole(1, "/good", b"x"), wrong, trio.whole(3, "/../bad", b"x"), trio.whole(4, "/fine", b"y")]
    )
    assert news[1][-1].HasField("stored")
    assert news[2][-1].failure.reason == IntegrityError.reason
    assert news[3][-1].failure.reason == InvalidPath.reason
    assert news[4][-1].HasField("stored")
    assert trio.files("a") == {"good": b"x", "fine": b"y"}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("lie", ["digest", "size", "announced"])
async def test_what_arrived_must_be_what_was_meant(trio: Harness, streamed: bool, lie: str) -> None:
    steps = trio.steps(1, "/file", b"content") if streamed else [trio.whole(1, "/file", b"content")]
    if lie == "digest":
        steps[-1].commit.sha256 = hashlib.sha256(b"another").digest()
    elif lie == "size":
        steps[-1].commit.size = 6
    else:
        steps[0].open.size = 8
    failure = (await trio.write(steps))[1][-1].failure
    assert failure.reason == IntegrityError.reason
    await trio.until_empty("abc")
    assert list((await trio.put("/file", b"content")).owed) == []


async def test_a_commit_carries_a_digest(trio: Harness) -> None:
    step = trio.whole(1, "/file", b"content")
    step.commit.sha256 = b""
    failure = (await trio.write([step]))[1][-1].failure
    assert failure.reason == InvalidArgument.reason
    assert trio.files("a") == {}


@pytest.mark.parametrize("end", ["abort", "end of stream"])
async def test_without_a_commit_nothing_is_stored(any_trio: Harness, end: str) -> None:
    steps = any_trio.steps(1, "/file", LARGE)[:-1]
    if end == "abort":
        steps.append(pb.FileWrite(id=1, abort=True))
    results = (await any_trio.write(steps))[1]
    assert results[-1].final
    assert results[-1].failure.reason == InvalidArgument.reason
    await any_trio.until_empty("abc")
    assert (await any_trio.resolved("/file")).HasField("failure")
    assert (await any_trio.put("/file", b"x")).entry.generation == 1


async def test_one_of_many_whole_files_can_be_given_up(trio: Harness) -> None:
    trio.faulty.troubles = {trio.ids[name]: Trouble(stalls=True, writes_only=True) for name in "abc"}

    async def requests() -> AsyncIterator[pb.WriteFilesRequest]:
        yield pb.WriteFilesRequest(writes=[trio.whole(number, f"/{number}", b"x") for number in (1, 2)])
        await trio.faulty.troubles[trio.ids["a"]].met.wait()
        yield pb.WriteFilesRequest(writes=[pb.FileWrite(id=1, abort=True)])
        await given_up.wait()
        for trouble in trio.faulty.troubles.values():
            trouble.stalls = False
        # of what has ended, or never was, it means nothing
        yield pb.WriteFilesRequest(writes=[pb.FileWrite(id=number, abort=True) for number in (1, 9)])
        yield pb.WriteFilesRequest(writes=[trio.whole(3, "/3", b"y")])

    given_up = asyncio.Event()
    results: dict[int, pb.WriteResult] = {}
    async with asyncio.timeout(60):
        async for response in trio.directory.WriteFiles(requests()):
            for result in response.results:
                assert result.id not in results
                results[result.id] = result
                given_up.set()
                if result.id == 1:
                    assert result.failure.reason == InvalidArgument.reason
    assert results.keys() == {1, 2, 3}
    await trio.put_when_free("/1", b"x")
    assert (await trio.entry("/1")).generation == 1
    assert await trio.get("/3") == b"y"


async def test_a_caller_that_leaves_stores_nothing(any_trio: Harness) -> None:
    arrived = asyncio.Event()

    async def requests() -> AsyncIterator[pb.WriteFilesRequest]:
        for step in any_trio.steps(1, "/file", LARGE)[:-1]:
            yield pb.WriteFilesRequest(writes=[step])
        arrived.set()
        await asyncio.Event().wait()

    call = any_trio.directory.WriteFiles(requests())

    async def listen() -> None:
        async for _ in call:
            pass

    listening = asyncio.create_task(listen())
    async with asyncio.timeout(60):
        await arrived.wait()
        call.cancel()
        await asyncio.wait([listening])

        await any_trio.until_empty("abc")

        # the intent is given up as well, so that the path is free
        await any_trio.put_when_free("/file", b"x")
    assert (await any_trio.entry("/file")).size == 1


async def test_a_stale_base_is_a_conflict(trio: Harness) -> None:
    await trio.put("/file", b"one", base_generation=0)
    with pytest.raises(Conflict):
        await trio.put("/file", b"two", base_generation=0)
    await trio.put("/file", b"two", base_generation=1)
    with pytest.raises(Conflict):
        await trio.put("/file", b"three", base_generation=1)
    assert await trio.get("/file") == b"two"
    assert trio.files("a")["file"] == b"two"


async def test_of_two_writers_of_one_path_one_is_refused(trio: Harness) -> None:
    news = await trio.write(
        [*trio.steps(1, "/file", LARGE)[:-1], trio.whole(2, "/file", b"x"), trio.steps(1, "/file", LARGE)[-1]]
    )
    assert news[1][-1].HasField("stored")
    assert news[2][-1].failure.reason == Conflict.reason
    assert await trio.get("/file") == LARGE


async def test_an_overwrite_keeps_the_old_content_aside(trio: Harness) -> None:
    await trio.put("/file", b"one")
    stored = await trio.put("/file", b"two")
    assert stored.entry.generation == 2
    files = trio.files("a")
    assert files.pop("file") == b"two"
    assert list(files.values()) == [b"one"]
    assert await trio.get("/file") == b"two"
    assert await trio.get("/file", generation=1) == b"one"


@pytest.mark.parametrize("content", [b"small", LARGE], ids=len)
async def test_a_provider_that_fails_is_owed(trio: Harness, content: bytes) -> None:
    trio.trouble("b", error=ProviderUnavailable("the line is dead"))
    stored = await trio.put("/file", content, streamed=len(content) > BLOCK_SIZE)
    assert sorted(stored.stored) == ["a", "c"]
    assert list(stored.owed) == ["b"]
    assert stored.entry.owed == 1
    assert await trio.get("/file") == content
    replicas = await trio.replicas("/file")
    assert replicas["b"].state != entry_pb2.REPLICA_STATE_OK
    assert replicas["a"].state == replicas["c"].state == entry_pb2.REPLICA_STATE_OK


async def test_a_provider_that_fails_again_and_again_is_recorded_as_down_and_left_alone(trio: Harness) -> None:
    trio.trouble("b", error=ProviderUnavailable("the line is dead"))
    numbers = itertools.count()

    async def down() -> bool:
        # one failed call is no outage: it is tried again after a while, until it has failed several times in a row
        await trio.put(f"/first{next(numbers)}", b"x")
        listed = await trio.catalog.ReadProviders(catalog_service_pb2.ReadProvidersRequest(name="b"))
        return listed.providers[0].provider.state == provider_pb2.PROVIDER_STATE_DOWN

    await trio.until(down)
    trio.calm()
    trio.faulty.calls.clear()
    assert list((await trio.put("/second", b"x")).owed) == ["b"]
    assert trio.ids["b"] not in {provider for _, provider in trio.faulty.calls}


async def test_providers_that_are_down_are_tried_when_too_few_are_left(trio: Harness) -> None:
    observations = [
        catalog_service_pb2.ProviderObservation(
            provider_id=trio.ids[name], state=provider_pb2.PROVIDER_STATE_DOWN, reason="it was away"
        )
        for name in "ab"
    ]
    await trio.catalog.RecordProviderStates(catalog_service_pb2.RecordProviderStatesRequest(observations=observations))
    assert sorted((await trio.put("/file", b"x")).stored) == ["a", "b", "c"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_fewer_copies_than_needed_are_no_success(trio: Harness, streamed: bool) -> None:
    trio.trouble("a", error=ProviderUnavailable("a is dead"))
    trio.trouble("b", error=ProviderUnavailable("b is dead"))
    with pytest.raises(ProviderUnavailable, match=r"/file was not stored: .*a: a is dead; b: b is dead"):
        await trio.put("/file", b"content", streamed=streamed)
    assert (await trio.resolved("/file")).HasField("failure")
    trio.calm()
    assert sorted((await trio.put("/file", b"content")).stored) == ["a", "b", "c"]
    assert trio.files("a")["file"] == b"content"


async def test_a_full_disk_is_called_by_its_name(trio: Harness) -> None:
    for name in "abc":
        trio.trouble(name, error=QuotaExceeded("no space is left"))
    with pytest.raises(QuotaExceeded, match="c: no space is left"):
        await trio.put("/file", b"x")


async def test_without_providers_nothing_can_be_stored(harness: Harness) -> None:
    with pytest.raises(PreconditionFailed):
        await harness.put("/file", b"x")


async def test_a_directory_is_not_overwritten_by_a_file(trio: Harness) -> None:
    await trio.put("/dir/file", b"x")
    with pytest.raises(IsDirectory):
        await trio.put("/dir", b"x")


async def test_a_slow_provider_is_cut_loose_and_owed(tmp_path: Path) -> None:
    async with open_harness(tmp_path, patience=0.2) as harness:
        for name in "abc":
            await harness.add_provider(name)
        harness.trouble("b", stalls=True)
        stored = await harness.put("/file", b"x")
        assert sorted(stored.stored) == ["a", "c"]
        assert list(stored.owed) == ["b"]


async def test_the_minimum_is_answered_at_once_and_the_rest_as_it_lands(any_trio: Harness) -> None:
    any_trio.trouble("b", pause=1.5)
    results = (await any_trio.write([any_trio.whole(1, "/file", b"x", wait=pb.WAIT_FOR_MINIMUM)]))[1]
    assert len(results) >= 2
    first, last = results[0].stored, results[-1].stored
    assert (sorted(first.stored), list(first.owed), first.entry.owed) == (["a", "c"], ["b"], 1)
    assert (sorted(last.stored), list(last.owed), last.entry.owed) == (["a", "b", "c"], [], 0)
    assert [result.final for result in results] == [False] * (len(results) - 1) + [True]
    assert (await any_trio.replicas("/file"))["b"].state == entry_pb2.REPLICA_STATE_OK


async def test_a_late_copy_lands_though_its_caller_left(trio: Harness) -> None:
    trio.trouble("b", pause=0.5)

    async def requests() -> AsyncIterator[pb.WriteFilesRequest]:
        yield pb.WriteFilesRequest(writes=[trio.whole(1, "/file", b"x", wait=pb.WAIT_FOR_MINIMUM)])

    call = trio.directory.WriteFiles(requests())
    async for response in call:
        assert not response.results[0].final
        break
    call.cancel()

    async def landed() -> bool:
        return (await trio.replicas("/file"))["b"].state == entry_pb2.REPLICA_STATE_OK

    await trio.until(landed)
    assert trio.files("b") == {"file": b"x"}


async def test_a_late_copy_is_nobody_elses_for_as_long_as_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_LEASE_SECONDS", 0.4)
    monkeypatch.setattr(ledger, "_RENEW_SECONDS", 0.1)
    claim = catalog_service_pb2.ClaimDebtRequest(owner="replicator")
    async with open_harness(tmp_path) as harness:
        for name in "abc":
            await harness.add_provider(name)
        harness.trouble("b", pause=1.5)
        landed = asyncio.create_task(
            harness.write([harness.whole(1, "/file", b"x", wait=pb.WAIT_FOR_MINIMUM)]), name="landed"
        )
        while not landed.done():
            assert not (await harness.catalog.ClaimDebt(claim)).items
            await asyncio.sleep(0.02)
        assert (await landed)[1][-1].final
        assert (await harness.replicas("/file"))["b"].state == entry_pb2.REPLICA_STATE_OK


async def test_a_late_copy_never_lands_on_a_newer_content(trio: Harness) -> None:
    trio.trouble("b", pause=1.0)

    async def requests() -> AsyncIterator[pb.WriteFilesRequest]:
        yield pb.WriteFilesRequest(writes=[trio.whole(1, "/file", b"one", wait=pb.WAIT_FOR_MINIMUM)])

    call = trio.directory.WriteFiles(requests())
    async for _ in call:
        break
    trio.calm()
    stored = await trio.put("/file", b"two")
    assert {"a", "c"} <= set(stored.stored)
    async for _ in call:
        pass
    # the provider may owe the new content, but what it is thought to hold is what it holds
    if (await trio.replicas("/file"))["b"].state == entry_pb2.REPLICA_STATE_OK:
        assert trio.files("b")["file"] == b"two"
    assert await trio.get("/file") == b"two"


async def test_more_open_files_than_a_stream_can_hold_are_refused_one_by_one(trio: Harness) -> None:
    opened = [trio.steps(number, f"/{number}", b"x") for number in range(20)]
    steps = [step for number in range(3) for step in (one[number] for one in opened)]
    news = await trio.write(steps)
    stored = [number for number, results in news.items() if results[-1].HasField("stored")]
    refused = [from_failure(results[-1].failure) for results in news.values() if results[-1].HasField("failure")]
    assert len(stored) == 16
    assert all(isinstance(error, InvalidArgument) for error in refused)
    assert len(refused) == 4


async def test_steps_of_a_file_that_is_not_open_end_the_stream(trio: Harness) -> None:
    with pytest.raises(InvalidArgument, match="not open"):
        await trio.write([pb.FileWrite(id=7, data=b"x")])


async def test_large_files_tell_how_far_they_are(trio: Harness) -> None:
    trio.trouble("a", pause=0.1)
    news = (await trio.write(trio.steps(1, "/large", LARGE)))[1]
    told = [result.transferred for result in news if result.HasField("transferred")]
    assert told
    assert told == sorted(told)
    assert told[-1] <= len(LARGE)
    assert news[-1].HasField("stored")


@pytest.mark.parametrize("content", [b"", b"x", LARGE[:BLOCK_SIZE], LARGE], ids=len)
async def test_a_local_source_is_read_by_the_gateway(trio: Harness, content: bytes) -> None:
    path = trio.folder / "source"
    path.write_bytes(content)
    stored = (await trio.write([from_local(1, "/file", source_of(path))]))[1][-1].stored
    assert stored.entry.sha256 == hashlib.sha256(content).digest()
    assert trio.files("a") == trio.files("b") == trio.files("c") == {"file": content}
    assert await trio.get("/file") == content


@pytest.mark.parametrize("content", [b"content", LARGE], ids=len)
async def test_a_local_source_that_changed_is_not_stored(trio: Harness, content: bytes) -> None:
    path = trio.folder / "source"
    path.write_bytes(content)
    source = source_of(path)
    path.write_bytes(content + b"more")
    failure = (await trio.write([from_local(1, "/file", source)]))[1][-1].failure
    assert failure.reason == InvalidArgument.reason
    assert "changed while it was read" in failure.message
    assert all(trio.files(name) == {} for name in "abc")


async def test_many_local_sources_go_over_one_stream(trio: Harness) -> None:
    folder = trio.folder / "sources"
    folder.mkdir()
    steps = []
    for number in range(100):
        path = folder / f"{number}"
        path.write_bytes(b"x" * number)
        steps.append(from_local(number, f"/many/{number}", source_of(path)))
    news = await trio.write(steps)
    assert all(results[-1].HasField("stored") for results in news.values())
    assert trio.files("b") == {f"many/{number}": b"x" * number for number in range(100)}


async def test_local_files_are_refused_where_callers_may_be_elsewhere(tmp_path: Path) -> None:
    async with open_harness(tmp_path, local_files=False) as harness:
        await harness.add_provider("a")
        path = tmp_path / "source"
        path.write_bytes(b"x")
        failure = (await harness.write([from_local(1, "/file", source_of(path))]))[1][-1].failure
        assert failure.reason == "UNSUPPORTED"
        with translated():
            assert not (await harness.directory.GetServer(pb.GetServerRequest())).local_files


@pytest.mark.parametrize("refused", [False, True])
async def test_large_local_sources_wait_until_there_is_room_for_what_all_providers_hold_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    size = BLOCK_SIZE + 1
    monkeypatch.setattr(write_stream, "_LARGE_BYTES", 2 * 3 * size)
    open_now: set[FanOut] = set()
    most = 0
    stream = ProviderWriter.stream

    def counted(self: ProviderWriter, *arguments: Any, **named: Any) -> FanOut:
        nonlocal most
        open_now.difference_update([one for one in open_now if not one.pending])
        made = stream(self, *arguments, **named)
        open_now.add(made)
        most = max(most, len(open_now))
        return made

    monkeypatch.setattr(ProviderWriter, "stream", counted)
    async with open_harness(tmp_path) as trio:
        for name in "abc":
            await trio.add_provider(name)
        if refused:
            for name in "abc":
                trio.trouble(name, error=QuotaExceeded("full"), after=1)
        steps = []
        for number in range(6):
            source = tmp_path / f"source-{number}"
            source.write_bytes(os.urandom(size))
            steps.append(from_local(number, f"/{number}", source_of(source)))
        news = await trio.write(steps)
        assert [results[-1].HasField("failure") for results in news.values()] == [refused] * 6
    assert most == 2


async def test_a_write_is_given_up_even_if_the_catalog_does_not_hear_of_it_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the gateway lives it renews its leases: what it has given up would never lapse."""
    abort, deaf = CatalogServicer.AbortWrites, [True, True]

    async def abort_in_the_end(
        self: CatalogServicer, request: catalog_service_pb2.AbortWritesRequest, context: Any
    ) -> catalog_service_pb2.AbortWritesResponse:
        if deaf:
            deaf.pop()
            raise ProviderUnavailable("the catalog is away")
        return await abort(self, request, context)

    monkeypatch.setattr(CatalogServicer, "AbortWrites", abort_in_the_end)
    async with open_harness(tmp_path) as harness:
        await harness.add_provider("a")
        harness.trouble("a", error=ProviderUnavailable("away"))
        with pytest.raises(ProviderUnavailable):
            await harness.put("/file", b"lost")
        harness.calm()
        await harness.put_when_free("/file", b"kept")
    assert not deaf
