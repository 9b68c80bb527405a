from __future__ import annotations

from typing import Any

import pytest

from cdir.errors import (
    AlreadyExists,
    CdirError,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
    ProviderUnavailable,
)
from cdir.status import translated
from cdir.v1 import catalog_service_pb2, provider_pb2
from cdir.v1 import provider_service_pb2 as pb
from unit.gateway.harness import Harness


async def listed(harness: Harness) -> dict[str, provider_pb2.Provider]:
    with translated():
        response = await harness.providers.ListProviders(pb.ListProvidersRequest())
    return {provider.name: provider for provider in response.providers}


async def update(harness: Harness, name: str, **fields: Any) -> provider_pb2.Provider:
    with translated():
        return (await harness.providers.UpdateProvider(pb.UpdateProviderRequest(name=name, **fields))).provider


async def check(harness: Harness, name: str, *, full: bool = False) -> dict[str, provider_pb2.ConformanceResult]:
    with translated():
        call = harness.providers.CheckProvider(pb.CheckProviderRequest(name=name, full=full))
        return {response.result.name: response.result async for response in call}


async def test_the_kinds_are_shown_with_their_options(harness: Harness) -> None:
    with translated():
        kinds = {spec.kind: spec for spec in (await harness.providers.ListKinds(pb.ListKindsRequest())).kinds}
    assert {"local", "memory", "s3", "sftp"} <= set(kinds)
    assert [option.name for option in kinds["local"].options if option.required] == ["root"]
    assert "secret_key" in {option.name for option in kinds["s3"].options if option.secret}


async def test_an_added_provider_is_probed_marked_and_up(harness: Harness) -> None:
    added = await harness.add_provider("disk", location="cellar", cost="cheap", priority=5)
    assert added.state == provider_pb2.PROVIDER_STATE_UP
    assert (added.location, added.cost, added.priority) == ("cellar", "cheap", 5)
    assert added.capability["write_atomic"] is True
    assert (harness.root("disk") / ".cdir" / "provider").exists()
    assert (await listed(harness))["disk"] == added
    with translated():
        assert (await harness.providers.GetProvider(pb.GetProviderRequest(name="disk"))).provider == added


@pytest.mark.parametrize("name", ["", "-disk", "a:b", "a/b", "a@b", "a b", "ä", "x" * 65, "."])
async def test_names_that_would_not_work_in_an_endpoint_are_refused(harness: Harness, name: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot name a provider"):
        await harness.add_provider(name, "memory")
    assert await listed(harness) == {}


async def test_a_taken_name_is_found_before_the_provider_is_touched(harness: Harness) -> None:
    await harness.add_provider("disk")
    with pytest.raises(AlreadyExists), translated():
        await harness.providers.AddProvider(
            pb.AddProviderRequest(
                provider=provider_pb2.Provider(
                    name="disk", kind="local", options={"root": str(harness.folder / "other")}
                )
            )
        )
    assert not (harness.folder / "other").exists()


@pytest.mark.parametrize(
    ("kind", "options", "secrets"),
    [
        ("no-such-kind", {}, {}),
        ("local", {}, {}),
        ("local", {"root": "/tmp", "colour": "red"}, {}),
        ("local", {"root": "/tmp"}, {"password": "x"}),
        ("s3", {"bucket": "b", "secret_key": "hush"}, {}),
    ],
)
async def test_what_cannot_be_registered_is_not(
    harness: Harness, kind: str, options: dict[str, str], secrets: dict[str, str]
) -> None:
    request = pb.AddProviderRequest(
        provider=provider_pb2.Provider(name="disk", kind=kind, options=options), secrets=secrets
    )
    with pytest.raises(CdirError) as raised, translated():
        await harness.providers.AddProvider(request)
    assert "hush" not in raised.value.message
    assert "\n" not in raised.value.message
    assert await listed(harness) == {}


async def test_one_root_is_not_registered_twice(harness: Harness) -> None:
    await harness.add_provider("disk")
    with pytest.raises(PreconditionFailed), translated():
        await harness.providers.AddProvider(
            pb.AddProviderRequest(
                provider=provider_pb2.Provider(name="twin", kind="local", options={"root": str(harness.root("disk"))})
            )
        )
    assert set(await listed(harness)) == {"disk"}


async def test_secrets_are_sealed_and_never_answered(harness: Harness) -> None:
    stored = catalog_service_pb2.StoredProvider(
        provider=provider_pb2.Provider(provider_id="0" * 32, name="box", kind="sftp", options={"host": "h"})
    )
    with translated():
        await harness.catalog.CreateProvider(catalog_service_pb2.CreateProviderRequest(provider=stored))
    with pytest.raises(CdirError) as raised:
        # nobody answers there: what cannot be reached is not kept
        await update(harness, "box", options={"host": "127.0.0.1", "port": "1"}, secrets={"password": "hush"})
    assert "hush" not in str(raised.value)
    assert list((await listed(harness))["box"].secret_names) == []


async def test_fields_are_changed_one_by_one(harness: Harness) -> None:
    before = await harness.add_provider("disk", location="cellar")
    changed = await update(harness, "disk", new_name="attic", priority=7, read_only=True)
    assert (changed.name, changed.priority, changed.read_only, changed.location) == ("attic", 7, True, "cellar")
    assert changed.provider_id == before.provider_id
    assert set(await listed(harness)) == {"attic"}


async def test_changed_options_are_tried_before_they_are_kept(harness: Harness) -> None:
    await harness.add_provider("disk")
    (harness.folder / "file").write_bytes(b"")
    with pytest.raises(CdirError):
        await update(harness, "disk", options={"root": str(harness.folder / "file" / "below")})
    assert (await listed(harness))["disk"].options["root"] == str(harness.root("disk"))
    moved = harness.folder / "moved"
    harness.root("disk").rename(moved)
    changed = await update(harness, "disk", options={"root": str(moved)})
    assert changed.options["root"] == str(moved)
    assert changed.revision > 1


async def test_a_name_is_not_taken_over(harness: Harness) -> None:
    await harness.add_provider("a")
    await harness.add_provider("b")
    with pytest.raises(AlreadyExists):
        await update(harness, "a", new_name="b")
    with pytest.raises(NotFound):
        await update(harness, "nobody", priority=1)


async def test_a_paused_provider_is_left_alone(trio: Harness) -> None:
    assert (await update(trio, "b", paused=True)).state == provider_pb2.PROVIDER_STATE_PAUSED
    assert list((await trio.put("/file", b"x")).owed) == ["b"]
    assert (await update(trio, "b", paused=False)).state != provider_pb2.PROVIDER_STATE_PAUSED


async def test_a_read_only_provider_is_never_written_to(trio: Harness) -> None:
    await update(trio, "a", read_only=True)
    await update(trio, "b", read_only=True)
    with pytest.raises(ProviderUnavailable, match=r"only 1 .* can be written to"):
        await trio.put("/file", b"x")


async def test_checking_says_whether_it_is_reachable(harness: Harness) -> None:
    await harness.add_provider("disk")
    assert (await check(harness, "disk"))["reachable"].outcome == "passed"
    (harness.root("disk") / ".cdir" / "provider").unlink()
    result = (await check(harness, "disk"))["reachable"]
    assert result.outcome == "failed"
    assert result.message
    with pytest.raises(NotFound):
        await check(harness, "nobody")


async def test_checking_in_full_runs_the_conformance_suite(harness: Harness) -> None:
    await harness.add_provider("disk")
    results = await check(harness, "disk", full=True)
    assert len(results) > 10
    assert {name for name, result in results.items() if result.outcome == "failed"} == set()
    assert harness.files("disk") == {}


async def test_the_last_good_copy_is_not_forgotten_by_accident(harness: Harness) -> None:
    await harness.add_provider("disk")
    await harness.put("/file", b"x")
    with pytest.raises(PreconditionFailed), translated():
        await harness.providers.RemoveProvider(pb.RemoveProviderRequest(name="disk"))
    with translated():
        removed = await harness.providers.RemoveProvider(pb.RemoveProviderRequest(name="disk", force=True))
    assert removed.forgotten_replicas == 1
    assert await listed(harness) == {}
    assert harness.files("disk") == {"file": b"x"}
    with pytest.raises(NotFound), translated():
        await harness.providers.RemoveProvider(pb.RemoveProviderRequest(name="disk"))


async def test_usage_is_asked_of_each(harness: Harness) -> None:
    await harness.add_provider("disk")
    await harness.add_provider("gone")
    (harness.root("gone") / ".cdir" / "provider").unlink()
    with translated():
        usages = (await harness.providers.GetProviderUsage(pb.GetProviderUsageRequest())).usages
    by_name = {usage.name: usage for usage in usages}
    assert set(by_name) == {"disk", "gone"}
    assert by_name["disk"].free > 0
