"""Small files that come in one message and are written together: each has the outcome that it would have alone."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cdir.errors import CdirError, Conflict, IntegrityError, InvalidArgument, InvalidPath, ProviderUnavailable
from cdir.v1 import catalog_service_pb2
from cdir.v1 import directory_service_pb2 as pb
from cdir_catalog.servicer import CatalogServicer
from cdir_gateway import write_stream, writing
from unit.gateway.harness import Harness, Trouble, from_local, open_harness, source_of

FILES = 12
CONTENTS = {number: os.urandom(number) for number in range(FILES)}
STORED = {f"dir/{number}": data for number, data in CONTENTS.items()}


def orders(trio: Harness, **fields: Any) -> list[pb.FileWrite]:
    return [trio.whole(number, f"/dir/{number}", data, **fields) for number, data in CONTENTS.items()]


def stored_at(news: dict[int, list[pb.WriteResult]]) -> set[str]:
    """The providers of each file, in one word when all files have the same."""
    return {"".join(sorted(results[-1].stored.stored)) for results in news.values()}


async def test_files_of_one_message_take_one_call_to_each_provider(trio: Harness) -> None:
    news = await trio.write(orders(trio), together=True)
    assert [len(results) for results in news.values()] == [1] * FILES
    assert stored_at(news) == {"abc"}
    assert [list(results[-1].stored.owed) for results in news.values()] == [[]] * FILES
    for name in "abc":
        assert trio.files(name) == STORED
    assert sorted(trio.faulty.calls) == sorted(("PutObjects", trio.ids[name]) for name in "abc")
    for number, data in CONTENTS.items():
        entry = (await trio.resolved(f"/dir/{number}")).entry
        assert (entry.size, entry.sha256) == (len(data), hashlib.sha256(data).digest())


async def test_more_files_than_a_group_and_large_ones_among_them(trio: Harness) -> None:
    contents = {number: os.urandom(300_000 if number % 20 == 7 else number) for number in range(100)}
    steps = [trio.whole(number, f"/many/{number}", data) for number, data in contents.items()]
    news = await trio.write(steps, together=True)
    assert stored_at(news) == {"abc"}
    assert trio.files("b") == {f"many/{number}": data for number, data in contents.items()}


async def test_each_fails_by_itself(trio: Harness) -> None:
    await trio.put("/dir/1", b"older")
    (trio.root("a") / "dir" / "2").write_bytes(b"another program's")
    steps = orders(trio)
    steps[0].open.path = "/../bad"
    steps[3].commit.sha256 = bytes(32)
    steps[4].open.base_generation = 7
    steps[5].open.base_generation = 0
    news = await trio.write(steps, together=True)
    failures = {number: results[-1].failure.reason for number, results in news.items() if results[-1].failure.reason}
    assert failures == {0: InvalidPath.reason, 3: IntegrityError.reason, 4: Conflict.reason}
    assert [len(results) for results in news.values()] == [1] * FILES
    for number in CONTENTS.keys() - failures.keys():
        assert await trio.get(f"/dir/{number}") == CONTENTS[number]
    assert (await trio.entry("/dir/1")).generation == 2
    assert list(news[2][-1].stored.owed) == ["a"]
    assert trio.files("a")["dir/2"] == b"another program's"


async def test_what_lies_in_the_way_of_one_is_taken_up_as_a_version_of_it(harness: Harness) -> None:
    await harness.add_provider("a")
    (harness.root("a") / "dir").mkdir()
    theirs = harness.root("a") / "dir" / "6"
    theirs.write_bytes(b"another program's")
    os.utime(theirs, (1_000_000_000, 1_000_000_000))
    news = await harness.write(orders(harness), together=True)
    assert stored_at(news) == {"a"}
    generations = {number: results[-1].stored.entry.generation for number, results in news.items()}
    assert generations == dict.fromkeys(CONTENTS, 1) | {6: 2}
    assert await harness.get("/dir/6") == CONTENTS[6]
    assert await harness.get("/dir/6", generation=1) == b"another program's"


async def test_of_two_contents_of_one_path_one_is_kept_beside_it(trio: Harness) -> None:
    steps = [
        trio.whole(number, "/dir/file", bytes([number]), base_generation=0, on_conflict=pb.ON_CONFLICT_KEEP_COPY)
        for number in (1, 2)
    ]
    news = await trio.write([*steps, trio.whole(3, "/dir/other", b"3")], together=True)
    first, second = news[1][-1].stored, news[2][-1].stored
    assert {first.conflict_of, second.conflict_of} == {"", "/dir/file"}
    assert sorted(trio.files("a").values()) == [b"\1", b"\2", b"3"]


@pytest.mark.parametrize("after", [0, 1], ids=["nothing is stored", "it is stored, and nobody knows"])
async def test_a_provider_that_fails_is_owed_all_of_them(trio: Harness, after: int) -> None:
    trio.trouble("c", error=ProviderUnavailable("away"), after=after, writes_only=True)
    news = await trio.write(orders(trio), together=True)
    assert stored_at(news) == {"ab"}
    assert [list(results[-1].stored.owed) for results in news.values()] == [["c"]] * FILES
    assert trio.files("a") == trio.files("b") == STORED


async def test_a_provider_that_fails_the_call_that_they_share_is_asked_for_each(trio: Harness) -> None:
    trio.trouble("c", error=ProviderUnavailable("away"), after=1, methods={"PutObjects"})
    news = await trio.write(orders(trio), together=True)
    assert stored_at(news) == {"abc"}
    assert trio.files("c") == STORED


async def test_a_provider_that_says_it_stored_another_size_is_not_believed(trio: Harness) -> None:
    trio.trouble("c", lies=True)
    news = await trio.write(orders(trio), together=True)
    assert stored_at(news) == {"ab"}
    assert [list(results[-1].stored.owed) for results in news.values()] == [["c"]] * FILES


async def test_too_few_copies_are_no_success_of_any(trio: Harness) -> None:
    for name in "abc":
        trio.trouble(name, error=ProviderUnavailable("away"), writes_only=True)
    news = await trio.write(orders(trio), together=True)
    assert {results[-1].failure.reason for results in news.values()} == {ProviderUnavailable.reason}
    trio.calm()
    await trio.put_when_free("/dir/1", b"x")


async def test_a_silent_provider_does_not_hold_them_up(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as trio:
        for name in "abc":
            await trio.add_provider(name)
        trio.trouble("c", stalls=True)
        async with asyncio.timeout(30):
            news = await trio.write(orders(trio), together=True)
        assert stored_at(news) == {"ab"}
        trio.calm()


async def test_the_minimum_is_answered_and_the_rest_as_it_lands(trio: Harness) -> None:
    trouble = trio.trouble("c", pause=0.2)
    news = await trio.write(orders(trio, wait=pb.WAIT_FOR_MINIMUM), together=True)
    assert trouble.calls
    for results in news.values():
        assert "c" not in results[0].stored.stored
        assert sorted(results[-1].stored.stored) == ["a", "b", "c"]
        assert [result.final for result in results] == [False] * (len(results) - 1) + [True]
    assert trio.files("c") == STORED


async def test_one_that_is_given_up_meanwhile_is_not_stored(trio: Harness) -> None:
    trio.faulty.troubles = {trio.ids[name]: Trouble(pause=0.3, writes_only=True) for name in "abc"}
    given_up = asyncio.Event()

    async def requests() -> AsyncIterator[pb.WriteFilesRequest]:
        yield pb.WriteFilesRequest(writes=orders(trio))
        await trio.faulty.troubles[trio.ids["a"]].met.wait()
        yield pb.WriteFilesRequest(writes=[pb.FileWrite(id=1, abort=True)])
        # its number is free again
        yield pb.WriteFilesRequest(writes=[trio.whole(1, "/another", b"y"), trio.whole(20, "/more", b"z")])

    reasons: dict[int, list[str]] = {}
    async with asyncio.timeout(60):
        async for response in trio.directory.WriteFiles(requests()):
            for result in response.results:
                reasons.setdefault(result.id, []).append(result.failure.reason)
                given_up.set()
    assert reasons == {number: [""] for number in (*CONTENTS, 20)} | {1: [InvalidArgument.reason, ""]}
    assert (await trio.resolved("/dir/1")).HasField("failure")
    await trio.put_when_free("/dir/1", b"x")
    assert (await trio.entry("/dir/1")).generation == 1
    assert await trio.get("/another") == b"y"


async def test_a_removed_file_that_still_has_a_late_copy_is_written_anew(trio: Harness) -> None:
    trouble = trio.trouble("c", pause=0.5)
    stream = trio.directory.WriteFiles(_one_message([trio.whole(1, "/dir/1", b"older", wait=pb.WAIT_FOR_MINIMUM)]))
    async with asyncio.timeout(60):
        async for _ in stream:
            break
        assert trouble.met.is_set()
        await trio.remove("/dir/1")
        news = await trio.write(orders(trio), together=True)
        assert {results[-1].failure.reason for results in news.values()} == {""}
        stream.cancel()
    for name in "abc":
        assert trio.files(name).get("dir/1") in (CONTENTS[1], None)
    assert await trio.get("/dir/1") == CONTENTS[1]


@pytest.mark.parametrize("when", ["intent", "copies", "commit", "commit that is refused"])
async def test_a_caller_that_leaves_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Its files are stored or not, its paths are free, and what was held for them is given back."""
    monkeypatch.setattr(write_stream, "_WHOLE_BYTES", sum(map(len, CONTENTS.values())))
    monkeypatch.setattr(writing, "_SMALL_BYTES", 3 * writing._HELD_TIMES * sum(map(len, CONTENTS.values())))
    arrived, leave = asyncio.Event(), asyncio.Event()
    method = "BeginWrites" if when == "intent" else "CommitWrites"
    if when != "copies":
        _hold_once(monkeypatch, method, arrived, leave, refused="refused" in when)
    async with open_harness(tmp_path) as trio:
        for name in "abc":
            await trio.add_provider(name)
        if when == "copies":
            for name in "abc":
                arrived = trio.trouble(name, pause=0.3, writes_only=True).met

        call = trio.directory.WriteFiles(_one_message(orders(trio)))

        async def listen() -> None:
            async for _ in call:
                pass

        listening = asyncio.create_task(listen())
        async with asyncio.timeout(60):
            await arrived.wait()
            call.cancel()
            await asyncio.wait([listening])
            leave.set()
            trio.calm()
            if when == "commit":
                await trio.until(lambda: _all_resolve(trio))
            elif when == "copies":
                await asyncio.sleep(0.5)  # what goes on would have landed by now
                await trio.until_empty("abc")
            elif when == "intent":
                await trio.until_empty("abc")
            for number in CONTENTS:
                await trio.put_when_free(f"/dir/{number}", b"later")
            news = await trio.write(orders(trio), together=True)
        assert stored_at(news) == {"abc"}
        for name in "abc":
            assert {key: data for key, data in trio.files(name).items() if not key.startswith(".cdir")} == STORED


async def _all_resolve(trio: Harness) -> bool:
    return not any([(await trio.resolved(f"/{path}")).HasField("failure") for path in STORED])


async def _one_message(steps: list[pb.FileWrite]) -> AsyncIterator[pb.WriteFilesRequest]:
    yield pb.WriteFilesRequest(writes=steps)
    await asyncio.Event().wait()


def _hold_once(
    monkeypatch: pytest.MonkeyPatch, method: str, arrived: asyncio.Event, leave: asyncio.Event, *, refused: bool
) -> None:
    """Have the catalog's first call of a method answer only when ``leave`` is set."""
    original: Callable[..., Any] = getattr(CatalogServicer, method)

    async def held(self: CatalogServicer, request: Any, context: Any) -> Any:
        if leave.is_set():
            return await original(self, request, context)
        answer = None if refused else await original(self, request, context)
        arrived.set()
        await leave.wait()
        if refused:
            raise Conflict("lapsed")
        return answer

    monkeypatch.setattr(CatalogServicer, method, held)


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [ProviderUnavailable("away"), Conflict("lapsed")], ids=["away", "refused"])
async def test_a_commit_that_is_not_answered_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: CdirError, done: bool
) -> None:
    commit, failures = CatalogServicer.CommitWrites, [True]

    async def fail_once(
        self: CatalogServicer, request: catalog_service_pb2.CommitWritesRequest, context: Any
    ) -> catalog_service_pb2.CommitWritesResponse:
        if done or not failures:
            answer = await commit(self, request, context)
        if failures:
            failures.pop()
            raise error
        return answer

    monkeypatch.setattr(CatalogServicer, "CommitWrites", fail_once)
    async with open_harness(tmp_path) as trio:
        for name in "abc":
            await trio.add_provider(name)
        news = await trio.write(orders(trio), together=True)
        assert not failures
        assert stored_at(news) == {"abc"}
        assert {(await trio.entry(f"/{path}")).generation for path in STORED} == {1}
        assert trio.files("a") == trio.files("b") == trio.files("c") == STORED


async def test_of_local_files_one_that_changed_is_not_stored(trio: Harness) -> None:
    source = trio.folder / "source"
    source.mkdir()
    steps = []
    for number, data in CONTENTS.items():
        (source / str(number)).write_bytes(data)
        steps.append(from_local(number, f"/dir/{number}", source_of(source / str(number))))
    (source / "3").write_bytes(b"longer than it was")
    (source / "4").unlink()
    news = await trio.write(steps, together=True)
    failed = {number for number, results in news.items() if results[-1].HasField("failure")}
    assert failed == {3, 4}
    assert trio.files("a") == {key: data for key, data in STORED.items() if key not in ("dir/3", "dir/4")}
