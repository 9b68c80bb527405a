"""Providers, policies, placement."""

from __future__ import annotations

import pytest

from catalogs.driver import Driver
from cdir.errors import AlreadyExists, Conflict, InvalidArgument, NotFound, PreconditionFailed
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import directory_service_pb2 as directory
from cdir.v1 import provider_pb2


async def _work_off(driver: Driver) -> None:
    while items := await driver.claim():
        await driver.finish(items)


async def _remove_policy(driver: Driver, path: str) -> None:
    await driver.call("UnsetPolicy", directory.UnsetPolicyRequest(path=path))


async def test_a_provider_is_registered(driver: Driver) -> None:
    await driver.add_provider("b", location="cellar", priority=20)
    await driver.add_provider("a", priority=30)
    with pytest.raises(AlreadyExists):
        await driver.add_provider("a")
    response = await driver.call("ReadProviders", catalog.ReadProvidersRequest())
    assert [one.provider.name for one in response.providers] == ["b", "a"]
    assert [one.sealed_secrets for one in response.providers] == [b"", b""]
    request = catalog.ReadProvidersRequest(provider_id=driver.providers["b"], with_secrets=True)
    (stored,) = (await driver.call("ReadProviders", request)).providers
    assert stored.sealed_secrets == b"sealed"
    assert (stored.provider.location, stored.provider.revision) == ("cellar", 1)
    assert not (await driver.call("ReadProviders", catalog.ReadProvidersRequest(name="none"))).providers


async def test_changing_a_provider(mirrored: Driver) -> None:
    assert (await mirrored.change_provider("a", location="attic")).revision == 1  # nothing an adapter reads
    provider = await mirrored.read_provider("a")
    provider.options["root"] = "/new"
    request = catalog.ChangeProviderRequest(expected_revision=1, keep_secrets=True)
    request.provider.provider.CopyFrom(provider)
    assert (await mirrored.call("ChangeProvider", request)).provider.revision == 2
    with pytest.raises(Conflict):
        await mirrored.call("ChangeProvider", request)
    with pytest.raises(AlreadyExists):
        await mirrored.change_provider("a", name="b")
    assert (await mirrored.change_provider("a", name="z")).name == "z"
    unknown = catalog.ChangeProviderRequest()
    unknown.provider.provider.provider_id = "0" * 32
    with pytest.raises(NotFound):
        await mirrored.call("ChangeProvider", unknown)


async def test_a_pause_hides_what_is_observed_and_ends(mirrored: Driver) -> None:
    await mirrored.write("/f")
    assert (await mirrored.change_provider("a", paused=True)).state == provider_pb2.PROVIDER_STATE_PAUSED
    assert [one.provider for one in (await mirrored.resolve("/f")).replicas] == ["b", "c"]
    await mirrored.observe("a", provider_pb2.PROVIDER_STATE_SLOW)
    assert (await mirrored.read_provider("a")).state == provider_pb2.PROVIDER_STATE_PAUSED
    assert (await mirrored.change_provider("a", paused=False)).state == provider_pb2.PROVIDER_STATE_SLOW


async def test_the_order_of_reading(mirrored: Driver) -> None:
    await mirrored.write("/f")
    await mirrored.observe("a", provider_pb2.PROVIDER_STATE_DOWN, "gone")
    await mirrored.change_provider("c", priority=1)
    assert [one.provider for one in (await mirrored.resolve("/f")).replicas] == ["c", "b", "a"]
    await mirrored.set_policy("/f", prefer=["b"])
    assert [one.provider for one in (await mirrored.resolve("/f")).replicas] == ["b", "c", "a"]


async def test_a_new_provider_gets_every_file(mirrored: Driver) -> None:
    for number in range(5):
        await mirrored.write(f"/d/f{number}")
    assert await mirrored.place() >= 0
    await mirrored.add_provider("new")
    assert (await mirrored.status()).unplaced
    assert (await mirrored.status("/d")).unplaced
    assert await mirrored.place(limit=2) == 5
    status = await mirrored.status()
    assert not status.unplaced
    assert status.owed == 5
    await _work_off(mirrored)
    assert {one.name: one.files for one in (await mirrored.status()).providers} == {"a": 5, "b": 5, "c": 5, "new": 5}
    assert (await mirrored.status()).owed == 0


async def test_a_write_that_began_before_a_provider_came_is_owed_there(mirrored: Driver) -> None:
    begun = await mirrored.begin_one("/f")
    await mirrored.add_provider("new")
    await mirrored.place()
    entry = await mirrored.commit_one(mirrored.commitment(begun, on=["a", "b", "c"]))
    assert entry.owed == 1


async def test_dropping_a_provider(mirrored: Driver) -> None:
    await mirrored.write("/everywhere")
    drop = catalog.DropProviderRequest(name="b")
    assert (await mirrored.call("DropProvider", drop)).forgotten_replicas == 1
    with pytest.raises(NotFound):
        await mirrored.call("DropProvider", drop)
    assert [one.name for one in (await mirrored.status()).providers] == ["a", "c"]
    await mirrored.write("/only-a", on=["a"])
    with pytest.raises(PreconditionFailed, match="only good copy"):
        await mirrored.call("DropProvider", catalog.DropProviderRequest(name="a"))
    await mirrored.call("DropProvider", catalog.DropProviderRequest(name="a", force=True))
    assert await mirrored.claim() == []
    assert "no good copy" in (await mirrored.replicas("/only-a"))["c"].error
    assert (await mirrored.status()).owed == 1


async def test_older_contents_are_not_dropped_with_the_only_provider_that_has_them(driver: Driver) -> None:
    await driver.add_providers("old")
    await driver.set_policy("/", keep_versions=3)
    await driver.write("/f", b"first")
    await driver.write("/f", b"second")
    await driver.add_providers("new")
    await driver.place()
    (item,) = [one for one in await driver.claim() if one.kind == catalog.DEBT_KIND_COPY]
    await driver.finish([item])
    assert await driver.states("/f") == {"old": "OK", "new": "OK"}
    with pytest.raises(PreconditionFailed, match="only good copy of some older contents"):
        await driver.call("DropProvider", catalog.DropProviderRequest(name="old"))
    await driver.call("DropProvider", catalog.DropProviderRequest(name="old", force=True))


async def test_a_dropped_provider_is_replaced(driver: Driver) -> None:
    await driver.add_providers("a", "b", "c")
    await driver.set_policy("/", copies=2)
    entry = await driver.write("/f")
    assert entry.owed == 0
    (left_out,) = {"a", "b", "c"} - (await driver.replicas("/f")).keys()
    gone = sorted((await driver.replicas("/f")).keys())[0]
    await driver.call("DropProvider", catalog.DropProviderRequest(name=gone))
    await driver.place()
    (item,) = await driver.claim()
    assert (item.kind, item.replica.provider) == (catalog.DEBT_KIND_COPY, left_out)


async def test_policies_are_inherited_and_unset(mirrored: Driver) -> None:
    effective = (await mirrored.set_policy("/", keep_versions=3)).effective
    assert (effective.copies, effective.min_copies, effective.keep_versions, effective.keep_seconds) == (
        3,
        2,
        3,
        2_592_000,
    )
    await mirrored.set_policy("/d", copies=2)
    response = await mirrored.set_policy("/d", min_copies=1)
    assert (response.own.copies, response.own.min_copies) == (2, 1)
    got = await mirrored.call("GetPolicy", directory.GetPolicyRequest(path="/d/deep/er"))
    assert not got.HasField("own")
    assert (got.effective.copies, got.effective.min_copies, got.effective.keep_versions) == (2, 1, 3)
    await _remove_policy(mirrored, "/d")
    got = await mirrored.call("GetPolicy", directory.GetPolicyRequest(path="/d"))
    assert got.effective.copies == 3
    with pytest.raises(NotFound):
        await _remove_policy(mirrored, "/d")


async def test_policies_that_make_no_sense(mirrored: Driver) -> None:
    for fields in ({"copies": 0}, {"min_copies": 0}, {"keep_versions": -1}, {"copies": 1, "min_copies": 2}):
        with pytest.raises(InvalidArgument):
            await mirrored.set_policy("/", **fields)
    with pytest.raises(NotFound):
        await mirrored.set_policy("/", providers=["none"])


async def test_a_policy_with_fewer_copies_removes_only_what_is_safe(mirrored: Driver) -> None:
    await mirrored.write("/d/f", on=["a", "b"])
    await mirrored.set_policy("/d", providers=["c"])
    await mirrored.place()
    (item,) = await mirrored.claim()  # nothing is removed before c has it
    assert (item.kind, item.replica.provider) == (catalog.DEBT_KIND_COPY, "c")
    await mirrored.finish([item])
    items = await mirrored.claim()
    assert {(one.kind, one.replica.provider) for one in items} == {
        (catalog.DEBT_KIND_REMOVE, "a"),
        (catalog.DEBT_KIND_REMOVE, "b"),
    }
    await mirrored.finish(items)
    assert await mirrored.states("/d/f") == {"c": "OK"}
    assert {one.name: one.files for one in (await mirrored.status()).providers} == {"a": 0, "b": 0, "c": 1}


async def test_copies_that_are_good_stay_where_they_are(mirrored: Driver) -> None:
    await mirrored.write("/f", on=["b", "c"])
    await mirrored.set_policy("/", copies=2)
    await mirrored.place()
    assert await mirrored.claim() == []
    assert set(await mirrored.states("/f")) == {"b", "c"}


async def test_a_move_into_another_policy_places_anew(mirrored: Driver) -> None:
    await mirrored.write("/f")
    await mirrored.write("/d/g")
    await mirrored.set_policy("/one", copies=1)
    await mirrored.place()
    await mirrored.move("/f", "/one/f")
    await mirrored.move("/d", "/one/d")
    await mirrored.place()
    await _work_off(mirrored)
    for path in ("/one/f", "/one/d/g"):
        assert list((await mirrored.states(path)).values()) == ["OK"]


async def test_placement_explains_itself(mirrored: Driver) -> None:
    await mirrored.set_policy("/d", providers=["a", "b"], copies=1)
    response = await mirrored.call("ExplainPlacement", directory.ExplainPlacementRequest(path="/d/new"))
    assert [rule.path for rule in response.rules] == ["/d"]
    assert sum(reason.chosen for reason in response.reasons) == 1
    assert all(reason.reason for reason in response.reasons)
    assert response.policy.copies == 1
    stored = await mirrored.write("/d/new")
    chosen = [reason.provider for reason in response.reasons if reason.chosen]
    assert list(await mirrored.replicas("/d/new")) == chosen
    assert stored.owed == 0


async def test_the_identity_is_made_once(mirrored: Driver) -> None:
    first = await mirrored.call("GetIdentity", catalog.GetIdentityRequest())
    assert len(first.home_id) == 32
    assert await mirrored.call("GetIdentity", catalog.GetIdentityRequest()) == first


async def test_states_of_providers_are_shown(mirrored: Driver) -> None:
    await mirrored.observe("a", provider_pb2.PROVIDER_STATE_DOWN, "no route to host")
    (a, *_) = (await mirrored.status()).providers
    assert (a.state, a.state_reason) == (provider_pb2.PROVIDER_STATE_DOWN, "no route to host")
    await mirrored.observe("a", provider_pb2.PROVIDER_STATE_UP)
    assert (await mirrored.read_provider("a")).state_reason == ""
    await mirrored.call(
        "RecordProviderStates",
        catalog.RecordProviderStatesRequest(
            observations=[catalog.ProviderObservation(provider_id="x", state=provider_pb2.PROVIDER_STATE_UP)]
        ),
    )
