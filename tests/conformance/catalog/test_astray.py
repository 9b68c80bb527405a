"""A rename whose worker died or failed may have happened: nobody writes where the object may be until it is found."""

from __future__ import annotations

import pytest

from catalogs.driver import Driver
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import entry_pb2

INSPECT = catalog.DEBT_KIND_INSPECT
RELOCATE = catalog.DEBT_KIND_RELOCATE
MISSING = entry_pb2.REPLICA_STATE_MISSING


async def _renamed_without_a_word(driver: Driver, *, failed: bool) -> catalog.DebtItem:
    """Move /old to /new, let c's rename be tried by somebody from whom no success is heard, and remove /new."""
    await driver.write("/old")
    await driver.move("/old", "/new")
    items = {item.replica.provider: item for item in await driver.claim()}
    assert {(item.kind, item.target_key) for item in items.values()} == {(RELOCATE, "new")}
    tried = items.pop("c")
    await driver.finish(items.values())
    if failed:
        await driver.fail([tried])
    else:
        await driver.call("ReleaseOwner", catalog.ReleaseOwnerRequest())
    await driver.remove("/new")
    return tried


@pytest.mark.parametrize("failed", [False, True])
async def test_nothing_is_written_where_an_acknowledged_content_may_be(mirrored: Driver, failed: bool) -> None:
    await _renamed_without_a_word(mirrored, failed=failed)
    begun = await mirrored.begin_one("/new")
    assert {target.provider: target.writable for target in begun.targets} == {"a": True, "b": True, "c": False}


@pytest.mark.parametrize("failed", [False, True])
async def test_what_is_not_under_its_old_name_is_looked_for_under_the_new_one(mirrored: Driver, failed: bool) -> None:
    tried = await _renamed_without_a_word(mirrored, failed=failed)
    nowhere = catalog.ReplicaObservation(
        version_id=tried.version.version_id, provider_id=mirrored.providers["c"], key="old", state=MISSING
    )
    await mirrored.record(nowhere)
    (item,) = await _of(mirrored, "c")
    assert (item.kind, item.replica.key) == (INSPECT, "new")


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("happened", [False, True])
async def test_it_is_looked_for_in_both_places(mirrored: Driver, failed: bool, happened: bool) -> None:
    tried = await _renamed_without_a_word(mirrored, failed=failed)
    seen = []
    while items := await _of(mirrored, "c"):
        (item,) = items
        assert item.debt_id == tried.debt_id
        seen.append((item.kind, item.replica.key))
        if item.kind == INSPECT and item.replica.key == "new" and not happened:
            await mirrored.finish([item], state=MISSING, failure=entry_pb2.Failure(reason="NOT_FOUND"))
        else:
            begun = await mirrored.begin_one("/new")
            assert not {target.provider: target.writable for target in begun.targets}["c"] or not happened
            await mirrored.abort(begun)
            await mirrored.finish([item])
    if happened:
        assert seen == [(INSPECT, "new"), (RELOCATE, "new")]
    else:
        assert seen == [(INSPECT, "new"), (INSPECT, "old"), (RELOCATE, "old")]
    assert {target.provider for target in (await mirrored.begin_one("/new")).targets if target.writable} == {*"abc"}
    assert (await mirrored.status()).removals == 0


async def test_one_that_shall_stay_after_all_is_looked_for(mirrored: Driver) -> None:
    """Its rename is taken back by another move: nobody knows then that it is not where it is recorded."""
    await mirrored.write("/old")
    await mirrored.move("/old", "/new")
    tried = [item for item in await mirrored.claim() if item.replica.provider == "c"]
    await mirrored.call("ReleaseOwner", catalog.ReleaseOwnerRequest())
    await mirrored.move("/new", "/old")
    (item,) = await _of(mirrored, "c")
    assert (item.debt_id, item.kind, item.replica.key) == (tried[0].debt_id, INSPECT, "new")
    await mirrored.finish([item])
    (item,) = await _of(mirrored, "c")
    assert (item.kind, item.replica.key, item.target_key) == (RELOCATE, "new", "old")


async def test_the_same_rename_is_simply_tried_again(mirrored: Driver) -> None:
    await mirrored.write("/old")
    await mirrored.move("/old", "/new")
    items = await mirrored.claim()
    await mirrored.fail(items)
    again = await mirrored.claim()
    assert {(item.kind, item.target_key) for item in again} == {(RELOCATE, "new")}
    await mirrored.finish(again)
    assert (await mirrored.status()).owed == 0


async def _of(driver: Driver, provider: str) -> list[catalog.DebtItem]:
    """Claim until what is owed at the provider comes, doing the rest; nothing after a few looks at most."""
    for _ in range(5):
        items = await driver.claim()
        mine = [item for item in items if item.replica.provider == provider]
        await driver.finish([item for item in items if item.replica.provider != provider])
        if mine:
            return mine
    return []
