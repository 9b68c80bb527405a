"""Debt: leases, outcomes, back-offs, quarantine, observations."""

from __future__ import annotations

import asyncio

import pytest

from catalogs.driver import Driver
from cdir.errors import InvalidArgument
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import directory_service_pb2 as directory
from cdir.v1 import entry_pb2, provider_pb2

COPY = catalog.DEBT_KIND_COPY
CORRUPT = entry_pb2.REPLICA_STATE_CORRUPT
DOWN = provider_pb2.PROVIDER_STATE_DOWN
OK = entry_pb2.REPLICA_STATE_OK
UP = provider_pb2.PROVIDER_STATE_UP
UNREADABLE = entry_pb2.Failure(reason="PROVIDER_UNAVAILABLE", message="the connection broke while it was read")


async def _owing(driver: Driver, count: int = 1) -> None:
    """Write files that c owes."""
    for number in range(count):
        await driver.write(f"/f{number}", on=["a", "b"])


async def test_an_owed_copy_is_claimed_once_and_finished(mirrored: Driver) -> None:
    await _owing(mirrored)
    (item,) = await mirrored.claim()
    assert (item.kind, item.path, item.target_key, item.replica.provider) == (COPY, "/f0", "f0", "c")
    assert [source.provider for source in item.sources] == ["a", "b"]
    assert await mirrored.claim(owner="other") == []
    await mirrored.finish([item], done=True, etag='"e"', checksum="md5:00")
    replica = (await mirrored.replicas("/f0"))["c"]
    assert (replica.state, replica.etag, replica.checksum) == (entry_pb2.REPLICA_STATE_OK, '"e"', "md5:00")
    assert replica.HasField("proven")
    assert (await mirrored.status()).owed == 0


async def test_workers_never_get_the_same_item(mirrored: Driver) -> None:
    await _owing(mirrored, 12)
    claims = await asyncio.gather(*(mirrored.claim(owner=f"w{number}", limit=3) for number in range(8)))
    ids = [item.debt_id for items in claims for item in items]
    assert len(ids) == len(set(ids))
    while items := await mirrored.claim(owner="last"):
        ids += [item.debt_id for item in items]
    assert len(ids) == len(set(ids)) == 12


async def test_outcomes_under_a_lost_lease_are_ignored(mirrored: Driver) -> None:
    await _owing(mirrored)
    items = await mirrored.claim(owner="slow")
    await mirrored.call("ReleaseOwner", catalog.ReleaseOwnerRequest(owner="slow"))
    again = await mirrored.claim(owner="quick")
    assert [item.debt_id for item in again] == [item.debt_id for item in items]
    await mirrored.finish(items, owner="slow")
    assert (await mirrored.status()).owed == 1
    await mirrored.finish(again, owner="quick")
    assert (await mirrored.status()).owed == 0


async def test_a_lease_is_renewed_while_it_is_held_and_no_longer(mirrored: Driver) -> None:
    await _owing(mirrored, 2)
    kept, let_go = await mirrored.claim(owner="slow", limit=1), await mirrored.claim(owner="gone", limit=1)

    async def lost(owner: str, *items: catalog.DebtItem, seconds: float = 600.0) -> list[int]:
        request = catalog.RenewDebtRequest(
            owner=owner, debt_ids=[item.debt_id for item in items], lease_seconds=seconds
        )
        return list((await mirrored.call("RenewDebt", request)).lost)

    assert await lost("slow", *kept, seconds=1e-3) == []
    assert await lost("slow", *let_go) == [let_go[0].debt_id], "it is another owner's"
    await asyncio.sleep(0.01)
    assert await lost("slow", *kept) == [kept[0].debt_id], "it has ended"
    again = await mirrored.claim(owner="quick")
    assert [item.debt_id for item in again] == [kept[0].debt_id]
    assert await lost("gone", *let_go) == []
    await mirrored.finish(let_go, owner="gone")
    assert await lost("gone", *let_go) == [let_go[0].debt_id], "it is done"
    assert await lost("quick") == []
    for bad in (
        catalog.RenewDebtRequest(debt_ids=[1]),
        catalog.RenewDebtRequest(owner="quick", debt_ids=[1] * 1001),
        catalog.RenewDebtRequest(owner="quick", debt_ids=[1], lease_seconds=-1),
    ):
        with pytest.raises(InvalidArgument):
            await mirrored.call("RenewDebt", bad)


async def test_a_renewed_lease_keeps_the_name_that_its_occupant_makes_room_for(mirrored: Driver) -> None:
    await mirrored.write("/f")
    await mirrored.write("/g")
    for source, target in (("/f", "/h"), ("/g", "/f"), ("/h", "/g")):
        await mirrored.call("MoveEntry", directory.MoveEntryRequest(source=source, target=target))
    (item,) = await mirrored.claim(owner="slow", limit=1)
    assert item.HasField("occupant")
    request = catalog.RenewDebtRequest(owner="slow", debt_ids=[item.debt_id], lease_seconds=1e-3)
    assert not (await mirrored.call("RenewDebt", request)).lost
    await asyncio.sleep(0.01)
    # both leases have ended, so another worker gets the same: the occupant's would keep it off else
    again = {one.debt_id: one.occupant.version_id for one in await mirrored.claim(owner="quick")}
    assert again[item.debt_id] == item.occupant.version_id


async def test_a_failure_is_put_off_and_shown(mirrored: Driver) -> None:
    await _owing(mirrored)
    await mirrored.fail(await mirrored.claim(), retry=3600)
    response = await mirrored.call("ClaimDebt", catalog.ClaimDebtRequest(owner="w"))
    assert not response.items
    assert 3500 < response.next_due <= 3600
    replica = (await mirrored.replicas("/f0"))["c"]
    assert (replica.attempts, replica.error) == (1, "it broke")
    assert replica.HasField("not_before")


async def test_a_copy_without_a_source_is_due_once_there_is_one(mirrored: Driver) -> None:
    entry = await mirrored.write("/f", on=["a", "b"])
    for name in ("a", "b"):
        await mirrored.see(entry, name, entry_pb2.REPLICA_STATE_UNKNOWN)
    items = {item.replica.provider: item for item in await mirrored.claim()}
    assert {name: item.kind for name, item in items.items()} == dict.fromkeys("ab", catalog.DEBT_KIND_INSPECT)
    waiting = (await mirrored.replicas("/f"))["c"]
    assert waiting.error == "no good copy is known of until what lies at a, b is looked at"
    assert waiting.HasField("not_before")
    await mirrored.finish([items["b"]])
    (item,) = await mirrored.claim()
    assert (item.kind, item.replica.provider) == (catalog.DEBT_KIND_COPY, "c")
    assert [source.provider for source in item.sources] == ["b"]


async def test_what_fails_again_and_again_waits_for_a_person(mirrored: Driver) -> None:
    await _owing(mirrored)
    for _ in range(3):
        await mirrored.fail(await mirrored.claim(), counted=False)
    for _ in range(8):
        items = await mirrored.claim()
        assert len(items) == 1
        await mirrored.fail(items)
    response = await mirrored.call("ClaimDebt", catalog.ClaimDebtRequest(owner="w"))
    assert not response.items
    assert not response.HasField("next_due")
    assert (await mirrored.states("/f0"))["c"] == "QUARANTINED"
    for path in ("/", "/f0"):
        if path == "/":
            status = await mirrored.status()
            assert (status.owed, status.quarantined) == (1, 1)
            (copy,) = status.quarantined_copies
            assert (copy.path, copy.provider, copy.error) == ("/f0", "c", "it broke")
    made = await mirrored.call("MakeDue", catalog.MakeDueRequest(path="/f0", provider="c"))
    assert made.due == 1
    assert (await mirrored.status()).quarantined == 0
    assert not (await mirrored.status()).quarantined_copies
    await mirrored.finish(await mirrored.claim())
    assert (await mirrored.status()).owed == 0


async def test_making_debt_due(mirrored: Driver) -> None:
    await mirrored.write("/d/f", on=["a", "b"])
    await mirrored.write("/g", on=["a", "b"])
    await mirrored.fail(await mirrored.claim(), retry=3600)
    assert (await mirrored.call("MakeDue", catalog.MakeDueRequest(path="/", provider="a"))).due == 0
    assert (await mirrored.call("MakeDue", catalog.MakeDueRequest(path="/d"))).due == 1
    assert [item.path for item in await mirrored.claim()] == ["/d/f"]


async def test_providers_that_cannot_be_written_are_left_alone(mirrored: Driver) -> None:
    await _owing(mirrored)
    await mirrored.observe("c", DOWN, "no route")
    assert await mirrored.claim() == []
    await mirrored.observe("c", UP)
    assert len(await mirrored.claim(exclude_providers=[mirrored.providers["c"]])) == 0
    await mirrored.change_provider("c", paused=True)
    assert await mirrored.claim() == []
    await mirrored.change_provider("c", paused=False, read_only=True)
    assert await mirrored.claim() == []
    await mirrored.change_provider("c", read_only=False)
    assert len(await mirrored.claim()) == 1


async def test_a_provider_that_comes_back_is_repaired_at_once(mirrored: Driver) -> None:
    await _owing(mirrored, 3)
    await mirrored.fail(await mirrored.claim(), retry=3600, counted=False)
    await mirrored.observe("c", DOWN, "gone")
    await mirrored.observe("c", UP)
    assert len(await mirrored.claim()) == 3


async def test_without_a_source_a_copy_is_put_off_with_a_reason(mirrored: Driver) -> None:
    await _owing(mirrored)
    await mirrored.observe("a", DOWN)
    await mirrored.observe("b", DOWN)
    assert await mirrored.claim() == []
    assert "a, b is down" in (await mirrored.replicas("/f0"))["c"].error
    await mirrored.observe("a", UP)
    (item,) = await mirrored.claim()
    assert [source.provider for source in item.sources] == ["a"]


async def test_a_damaged_copy_becomes_debt_and_is_no_source(mirrored: Driver) -> None:
    entry = await mirrored.write("/f")
    await mirrored.see(entry, "b", entry_pb2.REPLICA_STATE_CORRUPT)
    assert [one.provider for one in (await mirrored.resolve("/f")).replicas] == ["a", "c"]
    assert (await mirrored.entry("/f")).owed == 1
    (item,) = await mirrored.claim()
    assert (item.kind, item.replica.provider, [one.provider for one in item.sources]) == (COPY, "b", ["a", "c"])
    assert not item.HasField("occupant")
    await mirrored.finish([item])
    assert (await mirrored.states("/f"))["b"] == "OK"


async def test_a_lost_copy_becomes_debt(mirrored: Driver) -> None:
    entry = await mirrored.write("/f")
    await mirrored.see(entry, "a", entry_pb2.REPLICA_STATE_MISSING)
    await mirrored.see(entry, "b", entry_pb2.REPLICA_STATE_UNKNOWN)
    kinds = {item.replica.provider: item.kind for item in await mirrored.claim()}
    assert kinds == {"a": COPY, "b": catalog.DEBT_KIND_INSPECT}


async def test_an_inspection_that_finds_nothing_orders_a_copy(mirrored: Driver) -> None:
    entry = await mirrored.write("/f")
    await mirrored.see(entry, "b", entry_pb2.REPLICA_STATE_UNKNOWN)
    await mirrored.finish(await mirrored.claim(), state=entry_pb2.REPLICA_STATE_MISSING)
    (item,) = await mirrored.claim()
    assert (item.kind, item.replica.provider) == (COPY, "b")


async def test_an_object_that_cannot_be_read_is_copied_from_elsewhere(mirrored: Driver) -> None:
    entry = await mirrored.write("/f")
    await mirrored.see(entry, "b", entry_pb2.REPLICA_STATE_UNKNOWN)
    await mirrored.finish(await mirrored.claim(), done=False, state=CORRUPT, failure=UNREADABLE)
    (item,) = await mirrored.claim()
    assert (item.kind, item.replica.provider, item.replica.state) == (COPY, "b", CORRUPT)


async def test_the_only_copy_that_cannot_be_read_is_not_given_up(mirrored: Driver) -> None:
    entry = await mirrored.write("/f")
    for name in ("a", "c"):
        await mirrored.see(entry, name, entry_pb2.REPLICA_STATE_MISSING)
    await mirrored.see(entry, "b", entry_pb2.REPLICA_STATE_UNKNOWN)
    inspections = [item for item in await mirrored.claim() if item.kind == catalog.DEBT_KIND_INSPECT]
    await mirrored.finish(inspections, done=False, state=CORRUPT, failure=UNREADABLE)
    (again,) = [item for item in await mirrored.claim() if item.kind == catalog.DEBT_KIND_INSPECT]
    assert (again.replica.provider, again.replica.attempts, again.replica.error) == ("b", 0, UNREADABLE.message)
    await mirrored.finish([again])
    assert (await mirrored.states("/f"))["b"] == "OK"


async def test_observations_that_came_too_late_are_ignored(mirrored: Driver) -> None:
    entry = await mirrored.write("/f")
    await mirrored.see(entry, "a", entry_pb2.REPLICA_STATE_MISSING, key="elsewhere")
    assert (await mirrored.states("/f"))["a"] == "OK"
    begun = await mirrored.begin_one("/f")
    await mirrored.see(entry, "a", entry_pb2.REPLICA_STATE_MISSING)  # it is being moved aside
    assert (await mirrored.states("/f"))["a"] == "OK"
    await mirrored.displace(begun, ["a", "b", "c"])
    await mirrored.commit_one(mirrored.commitment(begun, on=["a", "b", "c"]))
    await mirrored.see(entry, "a", entry_pb2.REPLICA_STATE_CORRUPT)  # it moved
    await mirrored.record(
        catalog.ReplicaObservation(version_id="f" * 32, provider_id=mirrored.providers["a"], key="f", state=OK)
    )
    assert await mirrored.claim() == []
    assert len((await mirrored.resolve("/f", generation=1)).replicas) == 3


async def test_an_older_content_makes_room_before_the_copy_that_is_owed(mirrored: Driver) -> None:
    """c was away during an overwrite: it has the older content under the name of the newer one."""
    old = await mirrored.write("/f", b"old")
    begun = await mirrored.begin_one("/f")
    await mirrored.displace(begun, ["a", "b"])
    await mirrored.commit_one(mirrored.commitment(begun, b"new", ["a", "b"]))
    aside = f".cdir/versions/{old.version_id[:2]}/{old.version_id}"
    (first,) = await mirrored.claim()
    assert (first.kind, first.replica.key, first.target_key) == (catalog.DEBT_KIND_RELOCATE, "f", aside)
    await mirrored.finish([first])
    (second,) = await mirrored.claim()
    assert (second.kind, second.target_key) == (COPY, "f")
    await mirrored.finish([second])
    assert (await mirrored.states("/f"))["c"] == "OK"
    assert len((await mirrored.resolve("/f", generation=1)).replicas) == 3


async def test_a_copy_to_a_name_that_another_file_left(mirrored: Driver) -> None:
    """The object of a moved file is still under its old name where a new file of that name is owed."""
    moved = await mirrored.write("/f", b"first")
    await mirrored.move("/f", "/g")
    begun = await mirrored.begin_one("/f")
    await mirrored.displace(begun, ["a", "b"])
    await mirrored.commit_one(mirrored.commitment(begun, b"second", ["a", "b"]))
    await mirrored.fail([item for item in await mirrored.claim() if item.path == "/g"], retry=3600)
    assert await mirrored.claim() == []  # it may have been renamed all the same
    (item,) = await mirrored.claim()
    assert (item.kind, item.replica.key) == (catalog.DEBT_KIND_INSPECT, "g")
    await mirrored.finish([item], state=entry_pb2.REPLICA_STATE_MISSING)
    (item,) = await mirrored.claim()
    assert (item.kind, item.path, item.replica.provider) == (COPY, "/f", "c")
    assert item.occupant.version_id == moved.version_id
    await mirrored.record(
        catalog.ReplicaObservation(
            version_id=moved.version_id,
            provider_id=mirrored.providers["c"],
            key=item.occupant.aside_key,
            previous_key="f",
            state=entry_pb2.REPLICA_STATE_OK,
        )
    )
    await mirrored.finish([item])
    (seen,) = await mirrored.claim()
    assert (seen.kind, seen.replica.key) == (catalog.DEBT_KIND_INSPECT, item.occupant.aside_key)
    await mirrored.finish([seen])
    await mirrored.call("MakeDue", catalog.MakeDueRequest(path="/"))
    rest = await mirrored.claim()
    assert {(one.replica.key, one.target_key) for one in rest} == {(item.occupant.aside_key, "g")}
    assert len(rest) == 3
    await mirrored.finish(rest)
    assert (await mirrored.status()).owed == 0


async def test_a_file_moved_while_its_copy_is_written(mirrored: Driver) -> None:
    await _owing(mirrored)
    (item,) = await mirrored.claim()
    await mirrored.move("/f0", "/g")
    await mirrored.finish([item])  # it was written under the old name
    items = {one.replica.provider: one for one in await mirrored.claim()}
    assert (items["c"].kind, items["c"].replica.key, items["c"].target_key) == (catalog.DEBT_KIND_RELOCATE, "f0", "g")


async def test_a_copy_that_failed_at_a_name_given_up_leaves_nothing(mirrored: Driver) -> None:
    await _owing(mirrored)
    (item,) = await mirrored.claim()
    await mirrored.move("/f0", "/g")
    await mirrored.fail([item], retry=3600)
    kinds = {(one.replica.provider, one.replica.key): one.kind for one in await mirrored.claim()}
    assert kinds["c", "f0"] == catalog.DEBT_KIND_REMOVE


async def test_claims_name_their_owner(mirrored: Driver) -> None:
    with pytest.raises(InvalidArgument):
        await mirrored.claim(owner="")
