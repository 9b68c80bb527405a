"""Whatever is written, moved, removed, lost or killed, in whatever order: nothing acknowledged is lost, and all converges."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.driver import open_driver
from catalogs.world import World
from cdir.errors import CdirError

TOP = "/t"
_NAMES = ("/t/a", "/t/b", "/t/d/a", "/t/d/b", "/t/e/a")
_DIRECTORIES = ("/t/d", "/t/e", "/t/f")
_PROVIDERS = ("a", "b", "c")

_names = st.sampled_from(_NAMES)
_directories = st.sampled_from(_DIRECTORIES)
_operations = st.one_of(
    st.tuples(st.just("write"), _names, st.integers(-1, 14), st.frozensets(st.integers(0, 2), max_size=2)),
    st.tuples(st.just("write"), _names, st.just(-1), st.just(frozenset[int]())),
    st.tuples(st.just("move"), _names, _names, st.booleans()),
    st.tuples(st.just("move"), _directories, _directories, st.just(False)),
    st.tuples(st.just("remove"), st.one_of(_names, _directories)),
    st.tuples(st.just("work"), st.integers(1, 6), st.integers(-1, 3)),
    st.tuples(st.just("recover")),
    st.tuples(st.just("down"), st.sampled_from(_PROVIDERS), st.booleans()),
    st.tuples(st.just("policy"), st.sampled_from(["/t", "/t/d", "/t/a"]), st.integers(1, 3), st.integers(0, 2)),
    st.tuples(st.just("place"), st.integers(1, 3)),
)


async def _apply(world: World, operation: tuple[Any, ...]) -> None:
    driver = world.driver
    match operation:
        case "write", path, dies_at, failing:
            await world.write(path, dies_at=dies_at, failing=failing)
        case "move", source, target, overwrite:
            await driver.move(source, target, overwrite=overwrite)
        case "remove", path:
            await driver.remove(path, recursive=True)
        case "work", limit, dies_after:
            await world.work(limit=limit, dies_after=dies_after)
        case ("recover",):
            await world.recover()
        case "down", name, down:
            await world.set_down(name, down=down)
        case "policy", path, copies, keep:
            await driver.set_policy(path, copies=copies, min_copies=1, keep_versions=keep)
        case "place", limit:
            await driver.place(limit)


async def _run(url: str, operations: list[tuple[Any, ...]]) -> None:
    async with open_driver(url) as driver:
        world = World(driver)
        for name in _PROVIDERS:
            await world.add_provider(name)
        await driver.make_directory(TOP)
        for operation in operations:
            try:
                await _apply(world, operation)
            except CdirError as error:
                assert error.reason != "INTERNAL", operation
            await world.check_readable()
            await world.check_counters(TOP)
        await world.settle()
        await world.check_readable()
        await world.check_settled()
        await world.check_aside([*_NAMES, *(f"{one}/{name}" for one in _DIRECTORIES for name in "ab")])
        await world.check_counters(TOP)
        assert (await driver.status()).removals == 0


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty catalog to begin each example with."""
    path = tmp_path_factory.mktemp("template") / "catalog.db"

    async def make() -> None:
        async with open_driver(f"sqlite:///{path}"):
            pass

    asyncio.run(make())
    return path


@given(operations=st.lists(_operations, max_size=14))
def test_everything_converges_and_nothing_is_lost(template: Path, operations: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory(prefix="cdir-") as folder:
        path = Path(folder) / "catalog.db"
        shutil.copy(template, path)
        asyncio.run(_run(f"sqlite:///{path}", operations))
