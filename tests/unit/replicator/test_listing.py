"""Listings in key order, of providers that list so themselves and of those that do not."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest

from cdir.status import translated
from cdir.v1 import adapter_service_pb2
from cdir_replicator.listing import KeyOrderLister
from cdir_replicator.ranges import Folder, Gap

KEYS = ["a", "a.txt", "a0", "b/1", "b/c/deep", "b/d", "b.txt", "b0", "z/é", "日"]


@pytest.fixture(params=["local", "memory"])
async def lister(bench: Any, request: pytest.FixtureRequest) -> KeyOrderLister:
    kind = request.param
    await bench.add_provider("listed", kind)
    ref = bench.providers["listed"]
    for key in KEYS:
        with translated():
            await bench.adapters.PutObject(
                adapter_service_pb2.PutObjectRequest(
                    header=adapter_service_pb2.ObjectHeader(provider=ref, key=key), data=b"x"
                )
            )
    return make_lister(bench, ordered=kind == "memory")


def make_lister(bench: Any, *, ordered: bool = False, kept: int = 20_000) -> KeyOrderLister:
    async def at_once() -> None:
        return

    return KeyOrderLister(bench.adapters, bench.providers["listed"], ordered=ordered, may_call=at_once, kept=kept)


async def steps(lister: KeyOrderLister, prefix: str = "", *, recursive: bool = True, after: str = "") -> list[Any]:
    async with aclosing(lister.list(prefix, recursive=recursive, after=after)) as found:
        return [step async for step in found]


async def keys(lister: KeyOrderLister, prefix: str = "", *, recursive: bool = True, after: str = "") -> list[str]:
    found = await steps(lister, prefix, recursive=recursive, after=after)
    return [step.key for step in found if isinstance(step, adapter_service_pb2.ObjectInfo)]


async def test_keys_come_in_the_order_of_their_bytes_without_what_is_cdirs_own(lister: KeyOrderLister) -> None:
    assert await keys(lister) == sorted(KEYS)
    assert Gap(".cdir") in await steps(lister)


async def test_a_listing_can_be_taken_up_after_any_key(lister: KeyOrderLister) -> None:
    for after in [*KEYS, "b", "b/", "b/c/", "b/c/zzz", "b/\U0010ffff", ".cdir/\U0010ffff", "日日"]:
        assert await keys(lister, after=after) == [key for key in sorted(KEYS) if key > after], after


async def test_one_folder_alone_or_with_what_is_below_it(lister: KeyOrderLister) -> None:
    assert await keys(lister, "b") == ["b/1", "b/c/deep", "b/d"]
    assert await keys(lister, "b", recursive=False) == ["b/1", "b/d"]
    assert await keys(lister, "b", recursive=False, after="b/1") == ["b/d"]
    assert await keys(lister, "missing") == []


async def test_a_folder_that_is_too_large_is_read_in_parts(bench: Any) -> None:
    await bench.add_provider("listed")
    names = [f"{number:03}" for number in range(50)]
    for name in names:
        folder = bench.root("listed") / (f"{name}/in" if int(name) % 7 == 0 else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    wanted = sorted(f"{name}/in/{name}" if int(name) % 7 == 0 else name for name in names)
    assert await keys(make_lister(bench, kept=3)) == wanted
    assert await keys(make_lister(bench, kept=3), after=wanted[20]) == wanted[21:]


async def test_a_folder_that_cannot_be_looked_into_is_a_gap(bench: Any) -> None:
    await bench.add_provider("listed")
    unspeakable = bench.root("listed") / "bell\a"
    unspeakable.mkdir()
    (unspeakable / "file").write_bytes(b"x")
    (bench.root("listed") / "open").write_bytes(b"x")
    found = await steps(make_lister(bench))
    assert found[:3] == [Gap(".cdir"), Folder("bell\a"), Gap("bell\a")]
    assert [step.key for step in found[3:]] == ["open"]


async def test_links_are_neither_followed_nor_listed(bench: Any) -> None:
    await bench.add_provider("listed")
    root = bench.root("listed")
    (root / "file").write_bytes(b"x")
    (root / "link").symlink_to("file")
    (root / "folder link").symlink_to("/")
    assert await keys(make_lister(bench)) == ["file"]
