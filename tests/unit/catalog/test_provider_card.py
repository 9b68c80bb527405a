"""The card says which providers there are, and a new catalog begins with them, paused until it is rebuilt."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from catalogs.driver import Driver
from catalogs.recovery import rebuild
from cdir.errors import ConfigInvalid
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import catalog_service_pb2_grpc, provider_pb2
from cdir_catalog.service import open_catalog
from cdir_runtime.loopback import LoopbackChannel

_PAUSED = provider_pb2.PROVIDER_STATE_PAUSED


@asynccontextmanager
async def _catalog(folder: Path, name: str) -> AsyncIterator[Driver]:
    url = f"sqlite:///{folder / name}.db"
    async with open_catalog(url, folder / "card.json") as servicer, LoopbackChannel() as channel:
        catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(servicer, channel)
        driver = Driver(catalog_service_pb2_grpc.CatalogServiceStub(channel), url)
        providers = (await driver.call("ReadProviders", catalog.ReadProvidersRequest())).providers
        driver.providers.update({one.provider.name: one.provider.provider_id for one in providers})
        yield driver


async def _home(driver: Driver) -> str:
    home_id: str = (await driver.call("GetIdentity", catalog.GetIdentityRequest())).home_id
    return home_id


def _names(folder: Path) -> list[str]:
    card = folder / "card.json"
    values = json.loads(card.read_text()) if card.exists() else {"providers": []}
    return sorted(one["provider"]["name"] for one in values["providers"])


async def test_every_change_of_the_providers_is_on_the_card(tmp_path: Path) -> None:
    async with _catalog(tmp_path, "first") as driver:
        assert _names(tmp_path) == []
        await driver.add_providers("a", "b", "c")
        assert _names(tmp_path) == ["a", "b", "c"]
        await driver.change_provider("a", name="d")
        await driver.call("DropProvider", catalog.DropProviderRequest(name="b"))
        assert _names(tmp_path) == ["c", "d"]
    assert (tmp_path / "card.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".new"] == []


async def test_a_new_catalog_begins_with_the_providers_of_the_card(tmp_path: Path) -> None:
    async with _catalog(tmp_path, "first") as driver:
        await driver.add_providers("a", "b")
        await driver.change_provider("b", paused=True)
        home_id = await _home(driver)
    for attempt in ("second", "third"):  # the second was never rebuilt
        async with _catalog(tmp_path, attempt) as driver:
            assert await _home(driver) == home_id
            stored = (await driver.call("ReadProviders", catalog.ReadProvidersRequest(with_secrets=True))).providers
            assert [one.sealed_secrets for one in stored] == [b"sealed", b"sealed"]
            assert [one.provider.state for one in stored] == [_PAUSED, _PAUSED]
            assert "rebuilt" in (await driver.read_provider("a")).state_reason
    async with _catalog(tmp_path, "third") as driver:
        await rebuild(driver, listed=["a", "b"])
        assert (await driver.read_provider("a")).state == provider_pb2.PROVIDER_STATE_UP
        assert (await driver.read_provider("b")).state == _PAUSED  # a person had paused it


async def test_a_catalog_that_is_there_pays_no_heed_to_the_card(tmp_path: Path) -> None:
    async with _catalog(tmp_path, "first") as driver:
        await driver.add_providers("a")
    kept = (tmp_path / "card.json").read_bytes()
    async with _catalog(tmp_path, "first") as driver:
        await driver.call("DropProvider", catalog.DropProviderRequest(name="a"))
        await driver.make_directory("/d")
    (tmp_path / "card.json").write_bytes(kept)
    async with _catalog(tmp_path, "first"):
        assert _names(tmp_path) == []


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": 1, "home_id": "h", "providers": [{"provider": 3}]}'])
async def test_a_damaged_card_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(ConfigInvalid, match=r"card\.json"):
        async with _catalog(tmp_path, "first"):
            pass
