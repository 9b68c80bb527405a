from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from cdir.errors import (
    IntegrityError,
    InvalidArgument,
    IsDirectory,
    NotFound,
    ProviderUnavailable,
    RangeNotSatisfied,
)
from cdir.v1 import catalog_service_pb2, entry_pb2, provider_pb2
from cdir.v1 import directory_service_pb2 as pb
from cdir_transfer.digest import BLOCK_SIZE
from unit.gateway.harness import MODIFIED, Harness

LARGE = os.urandom(2 * BLOCK_SIZE + 12_345)
SMALL = b"a small content"


async def store(harness: Harness, path: str, content: bytes) -> None:
    await harness.put(path, content, streamed=len(content) > BLOCK_SIZE)


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=len)
async def test_a_whole_file(any_trio: Harness, content: bytes) -> None:
    await store(any_trio, "/file", content)
    assert await any_trio.get("/file") == content


@pytest.mark.parametrize(("offset", "length"), [(0, 5), (3, None), (5, 10**9), (0, 0)])
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=len)
async def test_ranges(trio: Harness, content: bytes, offset: int, length: int | None) -> None:
    await store(trio, "/file", content)
    end = len(content) if length is None else offset + length
    assert await trio.get("/file", offset=offset, length=length) == content[offset:end]


async def test_a_range_past_the_end_and_one_that_makes_no_sense(trio: Harness) -> None:
    await trio.put("/file", SMALL)
    with pytest.raises(RangeNotSatisfied):
        await trio.get("/file", offset=len(SMALL) + 1)
    with pytest.raises(InvalidArgument):
        await trio.get("/file", offset=-1)
    with pytest.raises(InvalidArgument):
        await trio.get("/file", length=-1)


async def test_what_cannot_be_read_says_why(trio: Harness) -> None:
    await trio.put("/dir/file", SMALL)
    with pytest.raises(NotFound):
        await trio.get("/missing")
    with pytest.raises(IsDirectory):
        await trio.get("/dir")


async def test_many_files_come_over_one_stream(any_trio: Harness) -> None:
    contents = {number: os.urandom(number * 10) for number in range(100)}
    await any_trio.write(any_trio.whole(number, f"/{number}", data) for number, data in contents.items())
    parts = await any_trio.read(pb.FileRead(id=number, path=f"/{number}") for number in [*contents, 999])
    assert {number: b"".join(part.data for part in parts[number]) for number in contents} == contents
    assert all(parts[number][-1].end for number in contents)
    assert parts[999][-1].failure.reason == NotFound.reason


async def test_one_providers_copy_can_be_asked_for(trio: Harness) -> None:
    await trio.put("/file", SMALL)
    trio.faulty.calls.clear()
    assert await trio.get("/file", provider="c") == SMALL
    assert trio.faulty.calls == [("FetchObjects", trio.ids["c"])]
    (trio.root("c") / "file").unlink()
    with pytest.raises(IntegrityError):
        await trio.get("/file", provider="c")
    with pytest.raises(NotFound):
        await trio.get("/file", provider="nobody")


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=len)
@pytest.mark.parametrize("damage", ["corrupt", "missing"])
async def test_a_bad_copy_is_never_handed_out_and_is_noted_for_repair(
    trio: Harness, content: bytes, damage: str
) -> None:
    await store(trio, "/file", content)
    first = (await trio.resolved("/file")).replicas[0]
    bad = trio.root(first.provider) / "file"
    if damage == "corrupt":
        bad.write_bytes(b"X" + content[1:])
    else:
        bad.unlink()
    assert await trio.get("/file") == content
    expected = entry_pb2.REPLICA_STATE_CORRUPT if damage == "corrupt" else entry_pb2.REPLICA_STATE_MISSING

    async def noted() -> bool:
        return (await trio.replicas("/file"))[first.provider].state == expected

    await trio.until(noted)


async def test_when_every_copy_is_bad_it_is_said(trio: Harness) -> None:
    await trio.put("/file", SMALL)
    for name in "abc":
        (trio.root(name) / "file").write_bytes(b"X" + SMALL[1:])
    with pytest.raises(IntegrityError, match="no good copy of /file is left"):
        await trio.get("/file")


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=len)
async def test_a_provider_that_fails_is_passed_over_and_recorded_as_down(trio: Harness, content: bytes) -> None:
    await store(trio, "/file", content)
    first = (await trio.resolved("/file")).replicas[0]
    trio.trouble(first.provider, error=ProviderUnavailable("the line is dead"))

    async def down() -> bool:
        # one failed call is no outage: it is tried again after a while, until it has failed several times in a row
        assert await trio.get("/file") == content
        listed = await trio.catalog.ReadProviders(catalog_service_pb2.ReadProvidersRequest(name=first.provider))
        return listed.providers[0].provider.state == provider_pb2.PROVIDER_STATE_DOWN

    await trio.until(down)


async def test_when_no_provider_answers_it_is_said(trio: Harness) -> None:
    await trio.put("/file", SMALL)
    for name in "abc":
        trio.trouble(name, error=ProviderUnavailable(f"{name} is dead"))
    with pytest.raises(ProviderUnavailable, match="a is dead"):
        await trio.get("/file")


@pytest.mark.parametrize("content", [b"", SMALL, LARGE[:BLOCK_SIZE], LARGE], ids=len)
async def test_a_local_target_is_written_by_the_gateway(trio: Harness, content: bytes) -> None:
    await store(trio, "/file", content)
    target = trio.folder / "target"
    parts = (await trio.read([pb.FileRead(id=1, path="/file", local_target=pb.LocalTarget(path=str(target)))]))[1]
    assert parts[-1].end
    assert parts[-1].transferred == len(content)
    assert all(part.data == b"" for part in parts)
    assert target.read_bytes() == content
    assert target.stat().st_mtime_ns == MODIFIED.ToNanoseconds()


async def test_many_local_targets(trio: Harness) -> None:
    await trio.write(trio.whole(number, f"/{number}", b"x" * number) for number in range(80))
    targets = trio.folder / "targets"
    targets.mkdir()
    parts = await trio.read(
        pb.FileRead(id=number, path=f"/{number}", local_target=pb.LocalTarget(path=str(targets / f"{number}")))
        for number in range(80)
    )
    assert all(found[-1].end for found in parts.values())
    assert {path.name: path.read_bytes() for path in targets.iterdir()} == {
        f"{number}": b"x" * number for number in range(80)
    }


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=len)
async def test_a_local_target_that_fails_leaves_nothing(trio: Harness, content: bytes) -> None:
    await store(trio, "/file", content)
    for name in "abc":
        (trio.root(name) / "file").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    targets = trio.folder / "targets"
    targets.mkdir()
    read = pb.FileRead(id=1, path="/file", local_target=pb.LocalTarget(path=str(targets / "file")))
    assert (await trio.read([read]))[1][-1].failure.reason == IntegrityError.reason
    assert os.listdir(targets) == []


async def test_a_caller_that_leaves_gets_no_local_target(any_trio: Harness) -> None:
    await store(any_trio, "/file", LARGE)
    targets = any_trio.folder / "targets"
    targets.mkdir()
    for name in "abc":
        any_trio.trouble(name, pause=0.2)

    async def requests() -> AsyncIterator[pb.ReadFilesRequest]:
        read = pb.FileRead(id=1, path="/file", local_target=pb.LocalTarget(path=str(targets / "file")))
        yield pb.ReadFilesRequest(reads=[read])
        await asyncio.Event().wait()

    call = any_trio.directory.ReadFiles(requests())
    async for _ in call:
        break
    call.cancel()

    async def removed() -> bool:
        return os.listdir(targets) == []

    await any_trio.until(removed)


async def test_a_local_target_takes_whole_files_in_existing_folders(trio: Harness) -> None:
    await trio.put("/file", SMALL)
    target = pb.LocalTarget(path=str(trio.folder / "target"))
    parts = await trio.read(
        [
            pb.FileRead(id=1, path="/file", offset=1, local_target=target),
            pb.FileRead(id=2, path="/file", local_target=pb.LocalTarget(path=str(trio.folder / "no" / "target"))),
            pb.FileRead(id=3, path="/file", local_target=pb.LocalTarget(path=str(trio.folder))),
        ]
    )
    assert parts[1][-1].failure.reason == InvalidArgument.reason
    assert parts[2][-1].failure.reason == NotFound.reason
    assert parts[3][-1].failure.reason == IsDirectory.reason
