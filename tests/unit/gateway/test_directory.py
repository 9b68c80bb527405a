from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cdir.errors import (
    AlreadyExists,
    CdirError,
    DirectoryNotEmpty,
    InvalidArgument,
    InvalidPath,
    IsDirectory,
    NotFound,
)
from cdir.status import from_failure, translated
from cdir.v1 import directory_service_pb2 as pb
from cdir.v1 import entry_pb2
from cdir_transfer.digest import BLOCK_SIZE
from unit.gateway.harness import HANG, MODIFIED, Harness

LARGE = os.urandom(BLOCK_SIZE + 12_345)


async def listing(harness: Harness, path: str = "/", *, recursive: bool = True) -> list[str]:
    with translated():
        page = await harness.directory.ListEntries(pb.ListEntriesRequest(path=path, recursive=recursive))
    assert page.next_page_token == ""
    return [entry.path for entry in page.entries]


async def copy(harness: Harness, source: str, target: str, **fields: Any) -> dict[str, CdirError | None]:
    """Copy and return each file's error or ``None``."""
    outcomes: dict[str, CdirError | None] = {}
    async with asyncio.timeout(HANG):
        with translated():
            async for done in harness.directory.CopyEntry(pb.CopyEntryRequest(source=source, target=target, **fields)):
                outcomes[done.path] = from_failure(done.failure) if done.HasField("failure") else None
    return outcomes


async def test_the_server_says_who_it_is(harness: Harness) -> None:
    server = await harness.directory.GetServer(pb.GetServerRequest())
    assert (server.deployment, server.local_files, server.process_id) == ("embedded", True, os.getpid())
    assert server.version


async def test_paths_are_brought_into_normal_form(trio: Harness) -> None:
    made = await trio.make_directory("//a//u\u0308/")
    assert made.entry.path == "/a/\u00fc"
    assert (await trio.entry("a/u\u0308")).path == "/a/\u00fc"
    await trio.put("a//file", b"x")
    assert await listing(trio) == ["/a", "/a/file", "/a/\u00fc"]


async def test_what_many_paths_name_is_told_in_their_order(trio: Harness) -> None:
    await trio.put("/d/file", b"x")
    paths = ["/d/file", "/none", "/d", "/../x", "/", "/d/file"]
    request = pb.GetEntriesRequest(refs=[pb.EntryRef(path=path) for path in paths])
    results = (await trio.directory.GetEntries(request)).results
    found = [one.failure.reason or one.entry.path for one in results]
    assert found == ["/d/file", "NOT_FOUND", "/d", "INVALID_PATH", "/", "/d/file"]
    assert not (await trio.directory.GetEntries(pb.GetEntriesRequest())).results
    request = pb.GetEntriesRequest(refs=[pb.EntryRef(path="/")] * 1001)
    with pytest.raises(InvalidArgument), translated():
        await trio.directory.GetEntries(request)


@pytest.mark.parametrize("path", ["/../x", "/a/./b", "/.cdir/x", "/@team/x", "/a\0b"])
async def test_paths_that_can_never_be_are_refused(trio: Harness, path: str) -> None:
    with pytest.raises(InvalidPath):
        await trio.entry(path)
    with pytest.raises(InvalidPath):
        await trio.make_directory(path)
    with pytest.raises(InvalidPath):
        await trio.remove(path)
    with pytest.raises(InvalidPath), translated():
        await trio.directory.MoveEntry(pb.MoveEntryRequest(source="/a", target=path))
    with pytest.raises(InvalidPath):
        await trio.put(path, b"x")
    with pytest.raises(InvalidPath):
        await trio.get(path)


async def test_moving_searching_and_removing(trio: Harness) -> None:
    await trio.put("/dir/one.txt", b"1")
    await trio.put("/dir/two.txt", b"2")
    with translated():
        moved = await trio.directory.MoveEntry(pb.MoveEntryRequest(source="/dir", target="/new/place"))
        assert moved.moved == 2
        assert await trio.get("/new/place/one.txt") == b"1"
        found = await trio.directory.SearchEntries(pb.SearchEntriesRequest(path="/", pattern="*.TXT"))
        assert [entry.path for entry in found.entries] == ["/new/place/one.txt", "/new/place/two.txt"]
    with pytest.raises(DirectoryNotEmpty):
        await trio.remove("/new/place")
    assert await trio.remove("/new/place", recursive=True) == 2
    with pytest.raises(NotFound):
        await trio.get("/new/place/one.txt")


async def test_versions_status_and_placement_are_the_catalogs_answers(trio: Harness) -> None:
    await trio.put("/file", b"one")
    await trio.put("/file", b"two!")
    with translated():
        versions = (await trio.directory.ListVersions(pb.ListVersionsRequest(path="/file"))).versions
        tree = await trio.directory.GetTreeStatus(pb.GetTreeStatusRequest(path="/"))
        placement = await trio.directory.ExplainPlacement(pb.ExplainPlacementRequest(path="/file"))
    assert [(version.generation, version.size) for version in versions] == [(2, 4), (1, 3)]
    assert (tree.files, tree.bytes) == (1, 4)
    assert {reason.provider for reason in placement.reasons if reason.chosen} == {"a", "b", "c"}


async def test_policies_are_set_read_and_unset(trio: Harness) -> None:
    with translated():
        set_ = await trio.directory.SetPolicy(
            pb.SetPolicyRequest(rule=entry_pb2.PolicyRule(path="dir/", policy=entry_pb2.Policy(copies=2)))
        )
        assert set_.effective.copies == 2
        assert (await trio.directory.GetPolicy(pb.GetPolicyRequest(path="/dir"))).own.copies == 2
    stored = await trio.put("/dir/file", b"x")
    assert len(stored.stored) + len(stored.owed) == 2
    with translated():
        await trio.directory.UnsetPolicy(pb.UnsetPolicyRequest(path="/dir"))
    with pytest.raises(NotFound), translated():
        await trio.directory.UnsetPolicy(pb.UnsetPolicyRequest(path="/dir"))


async def test_the_author_travels_to_the_catalog(trio: Harness) -> None:
    async def requests() -> AsyncIterator[pb.WriteFilesRequest]:
        yield pb.WriteFilesRequest(writes=[trio.whole(1, "/file", b"x")])

    async for _ in trio.directory.WriteFiles(requests(), metadata=(("cdir-user", "ada"),)):
        pass
    assert (await trio.entry("/file")).author == "ada"


async def test_changes_are_watched_until_the_caller_leaves(trio: Harness) -> None:
    await trio.put("/one", b"1")
    call = trio.directory.WatchChanges(pb.WatchChangesRequest())
    seen: list[str] = []
    async with asyncio.timeout(HANG):
        async for response in call:
            seen += [change.path for change in response.changes]
            if seen == ["/one"]:
                await trio.put("/two", b"2")
            if "/two" in seen:
                break
    call.cancel()
    assert seen == ["/one", "/two"]


@pytest.mark.parametrize("content", [b"", b"small", LARGE], ids=len)
async def test_a_file_is_copied_with_its_time(trio: Harness, content: bytes) -> None:
    await trio.put("/file", content, streamed=True)
    assert await copy(trio, "/file", "/dir/copy") == {"/dir/copy": None}
    assert await trio.get("/dir/copy") == content
    assert (await trio.entry("/dir/copy")).modified == MODIFIED
    assert all(trio.files(name)["dir/copy"] == content for name in "abc")


async def test_a_tree_is_copied_whole(trio: Harness) -> None:
    await trio.write(trio.whole(number, f"/tree/{number % 3}/{number}", b"x" * number) for number in range(40))
    await trio.make_directory("/tree/empty")
    outcomes = await copy(trio, "/tree", "/copy", recursive=True)
    assert set(outcomes.values()) == {None}
    assert len(outcomes) == 40
    below = [path.removeprefix("/tree") for path in await listing(trio, "/tree")]
    assert [path.removeprefix("/copy") for path in await listing(trio, "/copy")] == below
    assert await trio.get("/copy/0/39") == b"x" * 39


async def test_a_copy_replaces_only_when_told(trio: Harness) -> None:
    await trio.put("/tree/one", b"new")
    await trio.put("/tree/two", b"new")
    await trio.put("/copy/one", b"old")
    outcomes = await copy(trio, "/tree", "/copy", recursive=True)
    assert isinstance(outcomes["/copy/one"], AlreadyExists)
    assert outcomes["/copy/two"] is None
    assert await trio.get("/copy/one") == b"old"
    assert set((await copy(trio, "/tree", "/copy", recursive=True, overwrite=True)).values()) == {None}
    assert await trio.get("/copy/one") == b"new"


async def test_copies_that_make_no_sense_are_refused(trio: Harness) -> None:
    await trio.put("/tree/file", b"x")
    with pytest.raises(IsDirectory):
        await copy(trio, "/tree", "/copy")
    with pytest.raises(InvalidArgument):
        await copy(trio, "/tree", "/tree/below", recursive=True)
    with pytest.raises(InvalidArgument):
        await copy(trio, "/tree/file", "/tree/file", overwrite=True)
    with pytest.raises(NotFound):
        await copy(trio, "/missing", "/copy")


async def test_one_bad_file_does_not_stop_a_copy(trio: Harness) -> None:
    await trio.put("/tree/bad", b"bad")
    await trio.put("/tree/good", b"good")
    for name in "abc":
        (trio.root(name) / "tree/bad").write_bytes(b"BAD")
    outcomes = await copy(trio, "/tree", "/copy", recursive=True)
    assert outcomes["/copy/good"] is None
    assert outcomes["/copy/bad"] is not None
    assert await listing(trio, "/copy") == ["/copy/good"]
