"""Whatever is written, moved, removed or killed, in whatever order: nothing acknowledged is lost, and all converges."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.driver import open_driver
from catalogs.world import World
from cdir.errors import AlreadyExists, Conflict, InvalidArgument, IsDirectory, NotDirectory, NotFound

TOP = "/t"
_NAMES = ("/t/a", "/t/b", "/t/d/a", "/t/d/b", "/t/e/a")
_DIRECTORIES = ("/t/d", "/t/e", "/t/f")
_PROVIDERS = ("a", "b", "c")

_EXPECTED = (AlreadyExists, Conflict, InvalidArgument, IsDirectory, NotDirectory, NotFound)

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
            with contextlib.suppress(*_EXPECTED):
                await _apply(world, operation)
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


_single_operations = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(["/t/a", "/t/b"]), st.integers(-1, 6), st.just(frozenset[int]())),
    st.tuples(st.just("move"), st.sampled_from(["/t/a", "/t/b"]), st.sampled_from(["/t/a", "/t/b"]), st.booleans()),
    st.tuples(st.just("work"), st.integers(1, 4), st.integers(-1, 2)),
    st.tuples(st.just("recover")),
)


async def _run_single(url: str, operations: list[tuple[Any, ...]]) -> None:
    async with open_driver(url) as driver:
        world = World(driver)
        await world.add_provider("only")
        await driver.make_directory(TOP)
        acknowledged: set[str] = set()
        for operation in operations:
            with contextlib.suppress(*_EXPECTED):
                if operation[0] == "write":
                    version = await world.write(operation[1], dies_at=operation[2])
                    acknowledged |= {version} if version else set()
                else:
                    await _apply(world, operation)
            there = {version for objects in world.objects.values() for version in objects.values()}
            assert acknowledged <= there
        await world.settle()
        kept: set[str] = set()
        for path in await driver.paths(TOP):
            for one in await driver.versions(path):
                resolved = await driver.resolve(path, generation=one.generation)
                (replica,) = resolved.replicas
                assert world.objects[replica.provider_id][replica.key] == one.version_id
                kept.add(one.version_id)
        assert acknowledged <= kept


@given(operations=st.lists(_single_operations, max_size=12))
def test_the_only_copy_of_every_version_survives(template: Path, operations: list[tuple[Any, ...]]) -> None:
    """With one provider nothing can be repaired: whoever dies where, no rename may destroy what was acknowledged."""
    with tempfile.TemporaryDirectory(prefix="cdir-") as folder:
        path = Path(folder) / "catalog.db"
        shutil.copy(template, path)
        asyncio.run(_run_single(f"sqlite:///{path}", operations))
