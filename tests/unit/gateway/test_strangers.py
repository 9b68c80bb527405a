"""Objects of other programs at the very keys that new files are written to, before any scan has seen them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from cdir.errors import IntegrityError, NotFound, ProviderUnavailable
from cdir.status import translated
from cdir.v1 import directory_service_pb2 as pb
from cdir_transfer.digest import BLOCK_SIZE
from unit.gateway.harness import Harness

OURS, THEIRS = b"put through cdir", b"laid there by another program"
LARGE = os.urandom(2 * BLOCK_SIZE + 1)


def lay(harness: Harness, provider: str, content: bytes, *, modified: float = 1_000_000_000.0) -> Path:
    """Write as another program does, long before what the tests put was modified."""
    path = harness.root(provider) / "dir" / "file"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (modified, modified))
    return path


async def contents(harness: Harness) -> list[bytes | None]:
    """What every version of the file holds, the current one first; ``None`` for one of which no copy is left."""
    with translated():
        listed = await harness.directory.ListVersions(pb.ListVersionsRequest(path="/dir/file"))
    found: list[bytes | None] = []
    for version in listed.versions:
        try:
            found.append(await harness.get("/dir/file", generation=version.generation))
        except (IntegrityError, NotFound, ProviderUnavailable):
            found.append(None)
    return found


async def until_settled(harness: Harness, names: str, current: bytes) -> None:
    async def settled() -> bool:
        return all(harness.files(name).get("dir/file") == current for name in names)

    await harness.until(settled)


@pytest.mark.parametrize("base", [None, 0])
@pytest.mark.parametrize("streamed", [False, True])
async def test_it_becomes_an_older_version_of_the_file_that_is_put_there(
    harness: Harness, streamed: bool, base: int | None
) -> None:
    await harness.add_provider("a")
    lay(harness, "a", THEIRS)
    content = LARGE if streamed else OURS
    stored = await harness.put("/dir/file", content, streamed=streamed, base_generation=base)
    assert stored.entry.generation == 2
    assert await contents(harness) == [content, THEIRS]


@pytest.mark.parametrize("streamed", [False, True])
async def test_one_that_has_replaced_every_copy_becomes_a_version_too(replicated: Harness, streamed: bool) -> None:
    await replicated.put("/dir/file", b"recorded")
    for name in "abc":
        lay(replicated, name, THEIRS)
    content = LARGE if streamed else OURS
    await replicated.put("/dir/file", content, streamed=streamed)
    await until_settled(replicated, "abc", content)
    # of what was recorded they have left nothing
    assert {content, THEIRS} <= set(await contents(replicated)) <= {content, THEIRS, None}


async def test_one_that_has_replaced_a_copy_is_kept_when_enough_others_are_written(replicated: Harness) -> None:
    await replicated.put("/dir/file", b"recorded")
    lay(replicated, "b", THEIRS)
    await replicated.put("/dir/file", OURS)
    await until_settled(replicated, "abc", OURS)
    assert set(await contents(replicated)) == {OURS, b"recorded", THEIRS}


async def test_every_one_of_several_is_kept(trio: Harness) -> None:
    laid = {name: THEIRS + bytes(ord(name)) for name in "abc"}
    for name, content in laid.items():
        lay(trio, name, content, modified=1_000_000_000.0 + ord(name))
    stored = await trio.put("/dir/file", OURS, base_generation=0)
    assert stored.entry.path == "/dir/file"
    kept = await contents(trio)
    assert kept[0] == OURS
    assert set(kept[1:]) == set(laid.values())
    assert len(kept) == 1 + len(laid)


@pytest.mark.parametrize("streamed", [False, True])
async def test_where_enough_other_providers_are_free_it_is_taken_up_behind_the_put(
    replicated: Harness, streamed: bool
) -> None:
    lay(replicated, "b", THEIRS)
    content = LARGE if streamed else OURS
    await replicated.put("/dir/file", content, streamed=streamed)
    await until_settled(replicated, "abc", content)
    assert set(await contents(replicated)) == {content, THEIRS}


async def test_one_that_is_newer_wins_and_what_was_put_is_kept(replicated: Harness) -> None:
    lay(replicated, "b", THEIRS, modified=1_700_000_000.0)
    await replicated.put("/dir/file", OURS)
    await until_settled(replicated, "abc", THEIRS)
    assert await contents(replicated) == [THEIRS, OURS]


async def test_one_of_the_same_size_is_kept_as_well(replicated: Harness) -> None:
    lay(replicated, "b", OURS.upper())
    await replicated.put("/dir/file", OURS)
    await until_settled(replicated, "abc", OURS)
    assert set(await contents(replicated)) == {OURS, OURS.upper()}


async def test_a_link_holds_no_content_and_is_replaced(harness: Harness) -> None:
    await harness.add_provider("a")
    lay(harness, "a", b"").unlink()
    (harness.root("a") / "dir/file").symlink_to("elsewhere")
    await harness.put("/dir/file", OURS)
    assert await contents(harness) == [OURS]


async def test_a_provider_that_does_not_answer_is_not_looked_at_for_long(harness: Harness) -> None:
    for name in "abc":
        await harness.add_provider(name)
    trouble = harness.trouble("a", stalls=True, methods={"StatObject"})
    async with asyncio.timeout(30):  # a look may take a minute elsewhere
        stored = await harness.put("/dir/file", LARGE, streamed=True)
    assert trouble.met.is_set()
    assert stored.entry.owed == 1
    assert harness.files("a") == {}
