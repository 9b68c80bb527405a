"""What the gateway notices and leaves owed, the replicator makes good."""

from __future__ import annotations

import os

import pytest

from cdir.errors import NotFound, ProviderUnavailable
from cdir.status import translated
from cdir.v1 import directory_service_pb2 as pb
from cdir_transfer.digest import BLOCK_SIZE
from unit.gateway.harness import Harness

LARGE = os.urandom(BLOCK_SIZE + 12_345)


async def repair(harness: Harness, path: str) -> int:
    with translated():
        return (await harness.directory.RepairEntry(pb.RepairEntryRequest(path=path))).due


@pytest.mark.parametrize("content", [b"content", LARGE], ids=len)
async def test_a_damaged_copy_that_was_read_is_replaced(replicated: Harness, content: bytes) -> None:
    await replicated.put("/file", content, streamed=True)
    first = (await replicated.resolved("/file")).replicas[0]
    damaged = replicated.root(first.provider) / "file"
    before = damaged.stat()
    damaged.write_bytes(b"X" + content[1:])
    # a disk that rots leaves the time alone; with another time it would be somebody's edit, and newer
    os.utime(damaged, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert await replicated.get("/file") == content

    async def healed() -> bool:
        return damaged.read_bytes() == content

    await replicated.until(healed)


async def test_a_copy_that_was_owed_is_made_when_its_provider_is_back(replicated: Harness) -> None:
    replicated.trouble("b", error=ProviderUnavailable("the line is dead"))
    assert list((await replicated.put("/file", b"content")).owed) == ["b"]
    replicated.calm()

    async def made() -> bool:
        return (await replicated.entry("/file")).owed == 0

    await replicated.until(made)
    assert replicated.files("b")["file"] == b"content"


async def test_a_write_that_failed_leaves_nothing_in_the_end(replicated: Harness) -> None:
    for name in "ab":
        replicated.trouble(name, error=ProviderUnavailable(f"{name} is dead"), after=1)
    with pytest.raises(ProviderUnavailable):
        await replicated.put("/file", b"content")
    replicated.calm()

    async def cleared() -> bool:
        return all(replicated.files(name) == {} for name in "abc")

    await replicated.until(cleared)


async def test_repair_is_passed_to_the_replicator(replicated: Harness) -> None:
    await replicated.put("/dir/file", b"content")
    assert await repair(replicated, "dir") == 0
    with pytest.raises(NotFound):
        await repair(replicated, "/missing")
