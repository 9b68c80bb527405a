"""Creating many objects where the provider honours no condition: one look at the folder, and nothing is replaced."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest

from cdir.errors import AlreadyExists, CdirError
from cdir_adapters.adapter import Adapter, Beginning, FetchedObject, ObjectInfo, Page, SmallObject, WriteMode
from cdir_adapters.creating import KnownFolders, names_in_folder, store_each
from cdir_adapters.layers import WrapperAdapter
from cdir_adapters.providers.memory import MemoryAdapter

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
CONTENTS = {f"dir/f{number:02}": f"content {number}".encode() for number in range(40)}


class Plain(WrapperAdapter):
    """A provider without conditions, that counts the looks into it."""

    def __init__(self, inner: Adapter, *, list_current: bool) -> None:
        super().__init__(inner)
        self.capability = dataclasses.replace(
            inner.capability, write_if_absent=False, write_if_match=False, list_current=list_current
        )
        self.listings = 0
        self.looked_at: list[str] = []

    def list(self, prefix: str, *, recursive: bool = False, start_after: str | None = None) -> AsyncIterator[Page]:
        self.listings += 1
        return super().list(prefix, recursive=recursive, start_after=start_after)

    async def fetch_each(self, beginnings: Sequence[Beginning]) -> Sequence[FetchedObject | CdirError]:
        self.looked_at += [one.key for one in beginnings]
        return await super().fetch_each(beginnings)


@pytest.fixture
async def plain() -> Plain:
    memory = MemoryAdapter("memory")
    for key in ("dir/others", "dir/f07", "dir/f21"):
        await memory.write(key, b"another program's", size=17, modified=WHEN)
    return Plain(memory, list_current=True)


def small(key: str, data: bytes) -> SmallObject:
    return SmallObject(key, data, WHEN, WriteMode.CREATE)


async def create_all(adapter: Adapter, folders: KnownFolders) -> dict[str, ObjectInfo | CdirError]:
    outcomes: dict[str, ObjectInfo | CdirError] = {}
    for start in range(0, len(CONTENTS), 16):
        some = dict(list(CONTENTS.items())[start : start + 16])
        stored = await store_each(adapter, [small(key, data) for key, data in some.items()], folders)
        outcomes.update(zip(some, stored, strict=True))
    return outcomes


def refused(outcomes: dict[str, ObjectInfo | CdirError]) -> list[str]:
    assert all(isinstance(one, (ObjectInfo, AlreadyExists)) for one in outcomes.values())
    return [key for key, one in outcomes.items() if isinstance(one, AlreadyExists)]


async def test_the_files_of_a_folder_need_one_look(plain: Plain) -> None:
    folders = KnownFolders()
    assert refused(await create_all(plain, folders)) == ["dir/f07", "dir/f21"]
    assert plain.listings == 1
    # only what the listing has shown is looked at, since it may be gone by now
    assert plain.looked_at == ["dir/f07", "dir/f21"]
    assert (await plain.fetch("dir/f07")).data == b"another program's"


async def test_what_was_stored_since_the_look_is_not_taken_for_free(plain: Plain) -> None:
    folders = KnownFolders()
    await create_all(plain, folders)
    assert refused(await create_all(plain, folders)) == list(CONTENTS)
    assert plain.listings == 1


async def test_a_look_holds_for_seconds(plain: Plain) -> None:
    now = 100.0
    folders = KnownFolders(clock=lambda: now)
    await store_each(plain, [small("dir/one", b"1")], folders)
    await plain.write("dir/two", b"another program's", size=17, modified=WHEN)
    now += 10.0
    assert isinstance((await store_each(plain, [small("dir/two", b"2")], folders))[0], AlreadyExists)
    assert plain.listings == 2


async def test_a_listing_says_nothing_of_what_is_stored_while_it_goes_on(plain: Plain) -> None:
    now = 100.0
    folders = KnownFolders(clock=lambda: now)
    with folders.storing(["dir/during"]):
        folders.listed(plain, "dir", {"dir/others"}, began=100.0)
        assert not folders.is_vacant("dir/during")
        now += 0.1
    assert not folders.is_vacant("dir/during")
    assert folders.is_vacant("dir/free")
    assert not folders.is_vacant("dir/others")
    assert not folders.is_vacant("elsewhere/free")


async def test_a_listing_that_may_lag_says_only_that_a_folder_is_empty(plain: Plain) -> None:
    lagging = Plain(plain.inner, list_current=False)
    outcomes = await create_all(lagging, KnownFolders())
    assert refused(outcomes) == ["dir/f07", "dir/f21"]
    assert lagging.looked_at == list(CONTENTS)
    fresh = Plain(MemoryAdapter("memory"), list_current=False)
    assert not refused(await create_all(fresh, KnownFolders()))
    assert not fresh.looked_at


@pytest.mark.parametrize("folder", ["", "dir", "dir/deeper"])
async def test_a_listing_of_all_below_tells_what_a_look_at_the_folder_does(folder: str) -> None:
    memory = MemoryAdapter("memory")
    for key in ("file", "dir/file", "dir/other/file", "dir/deeper/file", "dir/deeper/still/a", "dir/deeper/still/b"):
        await memory.write(key, b"", size=0, modified=WHEN)
    below, right_there = [
        [info.key async for page in memory.list(folder, recursive=recursive) for info in page.objects]
        for recursive in (True, False)
    ]
    assert set(names_in_folder(folder, below)) == set(right_there)


async def test_what_was_listed_a_moment_ago_is_not_looked_at_again(plain: Plain) -> None:
    folders = KnownFolders()
    began = folders.clock()
    pages = plain.list("dir", recursive=True)
    keys = [info.key async for page in pages for info in page.objects]
    folders.listed(plain, "dir", set(names_in_folder("dir", keys)), began)
    assert refused(await create_all(plain, folders)) == ["dir/f07", "dir/f21"]
    assert plain.listings == 1
