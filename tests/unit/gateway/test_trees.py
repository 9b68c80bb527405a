"""ReadTree: everything below a directory, each entry once, small files with their verified content."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from cdir.errors import InvalidPath, NotDirectory, NotFound, ProviderUnavailable
from cdir.status import translated
from cdir.v1 import directory_service_pb2 as pb
from cdir_transfer.shared_calls import SMALL_CONTENT
from unit.gateway.harness import HANG, Harness


async def read_tree(harness: Harness, path: str, provider: str = "") -> dict[str, bytes | None]:
    """The content of each path; ``None`` for what came without one."""
    found: dict[str, bytes | None] = {}
    async with asyncio.timeout(HANG):
        with translated():
            async for response in harness.directory.ReadTree(pb.ReadTreeRequest(path=path, provider=provider)):
                for item in response.items:
                    assert item.entry.path not in found
                    found[item.entry.path] = item.data if item.whole else None
    return found


async def test_all_of_a_tree_comes_once(any_trio: Harness) -> None:
    small = {f"/t/d{number % 7}/f{number}": os.urandom(number) for number in range(600)}
    writes = [any_trio.whole(number, path, content) for number, (path, content) in enumerate(small.items())]
    await any_trio.write(writes)
    largest, larger = os.urandom(SMALL_CONTENT), os.urandom(SMALL_CONTENT + 1)
    await any_trio.put("/t/largest", largest)
    await any_trio.put("/t/larger", larger)
    await any_trio.put("/beside", b"x")
    await any_trio.make_directory("/t/empty")
    folders = {f"/t/d{number}": None for number in range(7)} | {"/t/empty": None}
    assert await read_tree(any_trio, "/t") == small | folders | {"/t/largest": largest, "/t/larger": None}
    assert await read_tree(any_trio, "/t/empty") == {}
    assert (await read_tree(any_trio, "/"))["/beside"] == b"x"


async def test_a_provider_that_fails_is_passed_over(trio: Harness) -> None:
    await trio.put("/t/file", b"x")
    trio.trouble("a", error=ProviderUnavailable("a is away"))
    assert await read_tree(trio, "/t") == {"/t/file": b"x"}


async def test_wrong_bytes_are_never_sent(trio: Harness) -> None:
    await trio.put("/t/file", b"right")
    trio.trouble("a", corrupt=True)
    assert await read_tree(trio, "/t") in ({"/t/file": None}, {"/t/file": b"right"})
    assert await trio.get("/t/file") == b"right"


async def test_what_no_provider_answers_for_comes_without_content(trio: Harness) -> None:
    await trio.put("/t/file", b"x")
    for name in "abc":
        trio.trouble(name, error=ProviderUnavailable("all are away"))
    assert await read_tree(trio, "/t") == {"/t/file": None}


async def test_one_provider_is_read_from_if_that_is_asked(trio: Harness) -> None:
    for name in ("there", "wrong"):
        await trio.put(f"/t/{name}", b"y")
    (trio.root("b") / "t" / "wrong").write_bytes(b"z")
    await trio.make_directory("/t/d")
    await trio.set_policy("/t/d", providers=["a", "c"])
    await trio.put("/t/d/elsewhere", b"x")
    assert await read_tree(trio, "/t", provider="b") == {
        "/t/d": None,
        "/t/d/elsewhere": None,
        "/t/there": b"y",
        "/t/wrong": None,
    }
    assert await read_tree(trio, "/t", provider="a") == {
        "/t/d": None,
        "/t/d/elsewhere": b"x",
        "/t/there": b"y",
        "/t/wrong": b"y",
    }


async def test_what_cannot_be_read_says_why(trio: Harness) -> None:
    await trio.put("/file", b"x")
    for path, error in (("/none", NotFound), ("/file", NotDirectory), ("/../x", InvalidPath)):
        with pytest.raises(error):
            await read_tree(trio, path)


async def test_whoever_leaves_early_is_not_read_for(trio: Harness) -> None:
    await trio.put("/t/d/file", b"x")
    troubles = [trio.trouble(name, stalls=True) for name in "abc"]
    call = trio.directory.ReadTree(pb.ReadTreeRequest(path="/t"))
    response = await anext(aiter(call))
    assert [item.entry.path for item in response.items] == ["/t/d"]
    async with asyncio.timeout(HANG):
        await asyncio.wait([asyncio.ensure_future(one.met.wait()) for one in troubles], return_when="FIRST_COMPLETED")
    call.cancel()
    trio.calm()
    assert await read_tree(trio, "/t") == {"/t/d": None, "/t/d/file": b"x"}


@pytest.mark.parametrize("tree", [True, False], ids=["ReadTree", "ReadFiles"])
async def test_one_who_does_not_read_on_holds_up_nobody_else(trio: Harness, *, tree: bool) -> None:
    content = os.urandom(SMALL_CONTENT)
    paths = [f"/t/{number}" for number in range(120)]
    await trio.write([trio.whole(number, path, content) for number, path in enumerate(paths)])

    async def requests() -> AsyncIterator[pb.ReadFilesRequest]:
        yield pb.ReadFilesRequest(reads=[pb.FileRead(id=number, path=path) for number, path in enumerate(paths)])

    call = trio.directory.ReadTree(pb.ReadTreeRequest(path="/t")) if tree else trio.directory.ReadFiles(requests())
    await anext(aiter(call))
    calls = 0
    while calls < len(trio.faulty.calls):  # until nothing more is read for it
        calls = len(trio.faulty.calls)
        await asyncio.sleep(0.3)
    for path in paths:
        assert await trio.get(path) == content
    call.cancel()
