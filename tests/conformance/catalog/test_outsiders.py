"""Whatever others do at providers, and whatever listings say: cdir itself destroys nothing that was acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from catalogs.driver import open_driver
from catalogs.outsiders import Outsiders
from cdir.errors import Conflict, NotFound
from cdir.v1 import catalog_service_pb2 as catalog

_PROVIDERS = ("a", "b", "c")
_FILES = ("/t/x", "/t/y")

_files = st.sampled_from(_FILES)
_providers = st.sampled_from(_PROVIDERS)
_operations = st.one_of(
    st.tuples(st.just("write"), _files),
    st.tuples(st.just("edit"), _providers, _files, st.integers(1, 2), st.sampled_from([0, 5000])),
    st.tuples(st.just("delete"), _providers, _files),
    st.tuples(st.just("scan"), _providers, st.just("true")),
    st.tuples(st.just("scan"), _providers, st.sampled_from(["empty", "partial", "old", "swapped"])),
    st.tuples(st.just("work"), st.integers(1, 6)),
    st.tuples(st.just("down"), _providers, st.booleans()),
    st.tuples(st.just("remember"), _providers),
)


async def _apply(world: Outsiders, operation: tuple[Any, ...], old: dict[str, dict[str, str]]) -> str | None:
    """Do one operation; returns the version acknowledged, if it was a write."""
    match operation:
        case "write", path:
            return await world.write(path)
        case "edit", provider, path, size, age:
            world.edit(provider, path[1:], size=size, age=age)
        case "delete", provider, path:
            world.objects[world.driver.providers[provider]].pop(path[1:], None)
        case "remember", provider:
            old[provider] = world.listing(provider)
        case "scan", provider, kind:
            shown = world.listing(provider)
            if kind == "empty":
                shown = {}
            elif kind == "partial":
                shown = dict(list(shown.items())[:1])
            elif kind == "old":
                shown = old.get(provider, {})
            elif kind == "swapped":
                shown = world.listing(_PROVIDERS[(_PROVIDERS.index(provider) + 1) % 3])
            await world.scan(provider, shown)
        case "work", limit:
            await world.work(limit=limit)
        case "down", provider, down:
            await world.set_down(provider, down=down)
    return None


async def _run(url: str, operations: list[tuple[Any, ...]]) -> None:
    async with open_driver(url) as driver:
        world = Outsiders(driver)
        for name in _PROVIDERS:
            await world.add_provider(name)
        old: dict[str, dict[str, str]] = {}
        acknowledged: dict[str, str] = {}
        for operation in [*(("write", path) for path in _FILES), *operations]:
            before = world.present()
            with contextlib.suppress(Conflict, NotFound):
                version = await _apply(world, operation, old)
                if version is not None:
                    acknowledged[version] = operation[1]
            if operation[0] not in {"edit", "delete"}:
                assert acknowledged.keys() & before <= world.present()
        before = world.present()
        for name in _PROVIDERS:
            await world.set_down(name, down=False)
        # the first round may find out that what is current is nowhere, and the next one what there is instead
        for last in (False, False, True):
            for name in _PROVIDERS:
                await world.scan(name, world.listing(name))
            if not last:
                await world.recover()
                for _ in range(6):
                    await driver.call("MakeDue", catalog.MakeDueRequest(path="/"))
                    await world.work()
        await world.settle()
        assert acknowledged.keys() & before <= world.present()
        await world.check_reachable(acknowledged)
        if acknowledged:
            await world.check_counters("/t")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty catalog to begin each example with."""
    path = tmp_path_factory.mktemp("template") / "catalog.db"

    async def make() -> None:
        async with open_driver(f"sqlite:///{path}"):
            pass

    asyncio.run(make())
    return path


@settings(max_examples=15)
@given(operations=st.lists(_operations, min_size=4, max_size=12))
@example([("edit", "a", "/t/x", 2, 0), ("scan", "a", "true"), ("work", 6), ("work", 6)])
@example([("edit", "a", "/t/x", 1, 5000), ("scan", "a", "true"), ("work", 6), ("work", 6)])
@example([("remember", "a"), ("write", "/t/x"), ("scan", "a", "old"), ("work", 6), ("write", "/t/x")])
@example([("delete", "b", "/t/x"), ("delete", "c", "/t/x"), ("scan", "a", "empty"), ("work", 6), ("work", 6)])
@example([("edit", "b", "/t/y", 2, 0), ("scan", "a", "swapped"), ("work", 6), ("work", 6)])
@example([("delete", "a", "/t/x"), ("edit", "c", "/t/x", 2, 0), ("scan", "b", "swapped")])
def test_nothing_acknowledged_is_lost_by_what_listings_say(template: Path, operations: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory(prefix="cdir-") as folder:
        path = Path(folder) / "catalog.db"
        shutil.copy(template, path)
        asyncio.run(_run(f"sqlite:///{path}", operations))
