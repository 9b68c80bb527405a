"""Pairing the local walk with the listing, and where things go."""

import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdir import errors
from cdir.downloads import local_below
from cdir.model import Entry, EntryKind, Failed
from cdir.paths import join_path, split_path
from cdir.trees import merged, same_time
from cdir.walk import Found, FoundKind

_Item = TypeVar("_Item")


async def _stream(items: Iterable[_Item]) -> AsyncIterator[_Item]:
    for item in items:
        yield item


def _entry(path: str) -> Entry:
    return Entry("", path, EntryKind.FILE, 1, 0, "", 1, "", 0, "")


def _found(path: str) -> Found:
    dirname, basename = split_path(path)
    return Found(path, dirname, basename, FoundKind.FILE)


_paths = st.lists(st.sampled_from(["a", "a b", "a!", "b", "ä"]), min_size=1, max_size=3).map(
    lambda names: "/t/" + "/".join(names)
)


@given(st.sets(_paths), st.sets(_paths))
def test_each_thing_found_is_paired_with_the_entry_of_its_path(local: set[str], remote: set[str]) -> None:
    async def pairs() -> list[tuple[str, str | None]]:
        walked = [_found(path) for path in sorted(local, key=split_path)]
        listed = [_entry(path) for path in sorted(remote, key=split_path)]
        return [
            (item.path, entry.path if entry else None) async for item, entry in merged(_stream(walked), _stream(listed))
        ]

    import asyncio

    expected = [(path, path if path in remote else None) for path in sorted(local, key=split_path)]
    assert asyncio.run(pairs()) == expected


async def test_failures_pass_through() -> None:
    failure = Failed("x", errors.Unsupported("no"))
    paired = [pair async for pair in merged(_stream([failure, _found("/a")]), _stream([_entry("/a")]))]
    assert paired[0] == (failure, None)
    assert paired[1][1] is not None


async def test_a_listing_out_of_order_is_not_trusted() -> None:
    listed = [_entry("/t/b"), _entry("/t/a"), _entry("/t/c")]
    with pytest.raises(errors.InternalError):
        _ = [pair async for pair in merged(_stream([_found("/t/z")]), _stream(listed))]


def test_times_are_the_same_to_the_microsecond() -> None:
    assert same_time(1_000_000_999, 1_000_000_001)
    assert not same_time(1_000_001_000, 1_000_000_999)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "nul\0"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.InvalidPath):
        local_below(str(tmp_path), ["ok", name])


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=4))
def test_whatever_is_accepted_stays_below(names: list[str]) -> None:
    try:
        local = local_below("/base", names)
    except errors.InvalidPath:
        return
    assert os.path.normpath(local).startswith("/base/")


def test_join_and_split_agree_at_the_root() -> None:
    assert split_path(join_path("/", "a")) == ("/", "a")
