"""Begin, commit, abort: who may write, what is durable, what is left behind."""

from __future__ import annotations

import asyncio

import pytest

from catalogs.driver import Driver
from cdir.errors import (
    AlreadyExists,
    Conflict,
    InvalidArgument,
    InvalidPath,
    IsDirectory,
    NotDirectory,
    NotFound,
    PreconditionFailed,
    Retry,
)
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import directory_service_pb2 as directory
from cdir.v1 import entry_pb2, provider_pb2


async def test_a_committed_file_is_there_with_its_parents(mirrored: Driver) -> None:
    entry = await mirrored.write("/reports/2026/q3.csv", b"numbers")
    assert (entry.path, entry.size, entry.generation, entry.owed, entry.author) == (
        "/reports/2026/q3.csv",
        7,
        1,
        0,
        "ada",
    )
    assert await mirrored.paths("/", recursive=True) == ["/reports", "/reports/2026", "/reports/2026/q3.csv"]
    resolved = await mirrored.resolve("/reports/2026/q3.csv")
    assert resolved.version.sha256 == entry.sha256
    assert [replica.key for replica in resolved.replicas] == ["reports/2026/q3.csv"] * 3
    assert {replica.etag for replica in resolved.replicas} == {'"a"', '"b"', '"c"'}


async def test_nothing_is_seen_of_a_write_that_is_not_committed(mirrored: Driver) -> None:
    await mirrored.begin_one("/new/file")
    assert await mirrored.paths("/", recursive=True) == []
    with pytest.raises(NotFound):
        await mirrored.entry("/new/file")


async def test_copies_not_stored_are_owed(mirrored: Driver) -> None:
    entry = await mirrored.write("/file", on=["a", "b"])
    assert entry.owed == 1
    assert await mirrored.states("/file") == {"a": "OK", "b": "OK", "c": "MISSING"}
    status = await mirrored.status()
    assert (status.files, status.bytes, status.owed) == (1, 7, 1)
    assert {one.name: (one.files, one.bytes, one.owed) for one in status.providers} == {
        "a": (1, 7, 0),
        "b": (1, 7, 0),
        "c": (0, 0, 1),
    }


async def test_fewer_copies_than_the_policy_wants_are_refused(mirrored: Driver) -> None:
    begun = await mirrored.begin_one("/file")
    assert begun.min_copies == 2
    with pytest.raises(InvalidArgument, match="1 durable"):
        await mirrored.commit_one(mirrored.commitment(begun, on=["a"]))
    await mirrored.commit_one(mirrored.commitment(begun, on=["a", "b"]))


async def test_the_minimum_follows_from_the_number_of_providers(driver: Driver) -> None:
    await driver.add_providers("a", "b")
    assert (await driver.begin_one("/file")).min_copies == 1


async def test_without_a_provider_nothing_can_be_written(driver: Driver) -> None:
    with pytest.raises(PreconditionFailed, match="provider add"):
        await driver.begin_one("/file")


async def test_a_commit_is_idempotent(mirrored: Driver) -> None:
    begun = await mirrored.begin_one("/file")
    commitment = mirrored.commitment(begun, on=["a", "b", "c"])
    first = await mirrored.commit_one(commitment)
    assert await mirrored.commit_one(commitment) == first
    assert len(await mirrored.versions("/file")) == 1


async def test_an_unknown_intent_cannot_be_committed(mirrored: Driver) -> None:
    begun = catalog.BegunWrite(version_id="0" * 32)
    with pytest.raises(Conflict):
        await mirrored.commit_one(mirrored.commitment(begun, on=["a", "b"]))


async def test_paths_not_in_normal_form_are_refused(mirrored: Driver) -> None:
    for path in ("relative", "/a//b", "/a/", "/a/../b", "/.cdir/x", "/@team/x", "/e\u0301"):
        with pytest.raises(InvalidPath):
            await mirrored.begin_one(path)
        with pytest.raises(InvalidPath):
            await mirrored.entry(path)


async def test_one_failing_item_leaves_the_others_alone(mirrored: Driver) -> None:
    await mirrored.make_directory("/d")
    await mirrored.write("/f")
    results = await mirrored.begin("/ok", "/d", "/f/below", "not/normal", "/", "/also/ok")
    assert [result.failure.reason for result in results] == [
        "",
        "IS_DIRECTORY",
        "NOT_DIRECTORY",
        "INVALID_PATH",
        "IS_DIRECTORY",
        "",
    ]


async def test_a_base_generation_guards_against_lost_updates(mirrored: Driver) -> None:
    with pytest.raises(Conflict):
        await mirrored.begin_one("/file", base_generation=1)
    await mirrored.write("/file", b"one", base_generation=0)
    with pytest.raises(Conflict):
        await mirrored.begin_one("/file", base_generation=0)
    entry = await mirrored.write("/file", b"two", base_generation=1)
    assert entry.generation == 2
    assert (await mirrored.write("/file", b"three")).generation == 3


async def test_two_writers_of_one_path_exclude_each_other(mirrored: Driver) -> None:
    first = await mirrored.begin_one("/file")
    with pytest.raises(Conflict, match="under way"):
        await mirrored.begin_one("/file", owner="other")
    same_call = await mirrored.begin("/twice", "/twice")
    assert [result.failure.reason for result in same_call] == ["", "CONFLICT"]
    await mirrored.abort(first)
    await mirrored.begin_one("/file", owner="other")


async def test_racing_writers_leave_one_winner(mirrored: Driver) -> None:
    results = await asyncio.gather(*(mirrored.begin("/file", owner=f"writer {index}") for index in range(20)))
    assert sorted(result[0].failure.reason for result in results) == ["", *["CONFLICT"] * 19]


async def test_a_file_and_a_directory_of_one_name_in_one_commit(mirrored: Driver) -> None:
    file, below = await mirrored.begin("/x", "/x/y")
    results = await mirrored.commit(mirrored.commitment(file, on=["a", "b"]), mirrored.commitment(below, on=["a", "b"]))
    assert [result.failure.reason for result in results] == ["", "CONFLICT"]
    assert await mirrored.paths("/", recursive=True) == ["/x"]


async def test_names_that_differ_only_by_case(driver: Driver) -> None:
    await driver.add_provider("a")
    await driver.write("/Docs/Readme")
    await driver.write("/docs/readme")
    await driver.add_provider("b", case_sensitive=False)
    for path in ("/DOCS/other", "/Docs/README", "/docs/Readme"):
        with pytest.raises(AlreadyExists, match="case"):
            await driver.begin_one(path)
    await driver.write("/Docs/other")
    assert [one.failure.reason for one in await driver.begin("/new", "/NEW")] == ["", "ALREADY_EXISTS"]


async def test_an_overwrite_keeps_the_older_content_aside(mirrored: Driver) -> None:
    old = await mirrored.write("/file", b"old")
    begun = await mirrored.begin_one("/file")
    aside = f".cdir/versions/{old.version_id[:2]}/{old.version_id}"
    assert [(one.key, one.occupant.version_id, one.occupant.aside_key) for one in begun.targets] == [
        ("file", old.version_id, aside)
    ] * 3
    # a reader that comes before the report finds the other place
    assert all(aside in one.alternate_keys for one in (await mirrored.resolve("/file")).replicas)
    await mirrored.displace(begun, ["a", "b", "c"])
    assert {one.key for one in (await mirrored.resolve("/file")).replicas} == {aside}
    await mirrored.commit_one(mirrored.commitment(begun, b"new", ["a", "b", "c"]))
    assert (await mirrored.resolve("/file")).version.size == 3
    older = await mirrored.resolve("/file", generation=1)
    assert [one.key for one in older.replicas] == [aside] * 3
    assert await mirrored.claim() == []
    assert [version.generation for version in await mirrored.versions("/file")] == [2, 1]


async def test_an_abort_puts_the_older_content_back(mirrored: Driver) -> None:
    old = await mirrored.write("/file", b"old")
    begun = await mirrored.begin_one("/file")
    await mirrored.displace(begun, ["a"])
    await mirrored.abort(begun, touched=["a"])
    await mirrored.abort(begun, touched=["a"])  # unknown by now, and success
    (item,) = await mirrored.claim()
    assert (item.kind, item.replica.provider, item.target_key) == (catalog.DEBT_KIND_RELOCATE, "a", "file")
    assert item.version.version_id == old.version_id
    await mirrored.finish([item])
    assert await mirrored.claim() == []  # what the write left there was overwritten by the rename
    assert await mirrored.states("/file") == {"a": "OK", "b": "OK", "c": "OK"}
    assert (await mirrored.status()).removals == 0


async def test_an_abort_of_a_new_file_leaves_only_removals(mirrored: Driver) -> None:
    begun = await mirrored.begin_one("/file")
    await mirrored.abort(begun, touched=["b"])
    assert (await mirrored.status()).removals == 1
    (item,) = await mirrored.claim()
    assert (item.kind, item.replica.provider, item.replica.key, item.path) == (
        catalog.DEBT_KIND_REMOVE,
        "b",
        "file",
        "",
    )
    await mirrored.finish([item])
    assert (await mirrored.status()).removals == 0
    assert await mirrored.claim() == []


async def test_a_write_onto_a_leftover_overwrites_it(mirrored: Driver) -> None:
    await mirrored.abort(await mirrored.begin_one("/file"), touched=["a"])
    begun = await mirrored.begin_one("/file")
    target = next(one for one in begun.targets if one.provider == "a")
    assert target.HasField("occupant")
    assert target.occupant.version_id == ""
    await mirrored.commit_one(mirrored.commitment(begun, on=["a", "b", "c"]))
    assert await mirrored.claim() == []
    assert (await mirrored.status()).removals == 0


async def test_a_leftover_is_not_removed_while_its_key_is_written(mirrored: Driver) -> None:
    await mirrored.abort(await mirrored.begin_one("/file"), touched=["a"])
    await mirrored.begin_one("/file")
    assert await mirrored.claim() == []


async def test_a_copy_whose_write_failed_is_inspected_at_once(mirrored: Driver) -> None:
    begun = await mirrored.begin_one("/file")
    entry = await mirrored.commit_one(mirrored.commitment(begun, on=["a", "b"], touched=["c"]))
    assert entry.owed == 1
    assert (await mirrored.states("/file"))["c"] == "UNKNOWN"
    (item,) = await mirrored.claim()
    assert item.kind == catalog.DEBT_KIND_INSPECT
    await mirrored.finish([item])
    assert await mirrored.states("/file") == {"a": "OK", "b": "OK", "c": "OK"}


async def test_a_copy_still_being_written_is_left_alone(mirrored: Driver) -> None:
    begun = await mirrored.begin_one("/file")
    entry = await mirrored.commit_one(mirrored.commitment(begun, on=["a", "b"], writing=["c"]))
    assert entry.owed == 1
    assert await mirrored.claim() == []
    again = await mirrored.begin_one("/file")
    assert {target.provider: target.writable for target in again.targets} == {"a": True, "b": True, "c": False}
    await mirrored.abort(again)
    await mirrored.see(entry, "c", entry_pb2.REPLICA_STATE_UNKNOWN, writer="writer")  # it ended, badly
    (item,) = await mirrored.claim()
    assert item.kind == catalog.DEBT_KIND_INSPECT


async def test_a_late_copy_is_recorded(mirrored: Driver) -> None:
    begun = await mirrored.begin_one("/file")
    entry = await mirrored.commit_one(mirrored.commitment(begun, on=["a", "b"], writing=["c"]))
    await mirrored.see(entry, "c", entry_pb2.REPLICA_STATE_OK, writer="writer")
    assert (await mirrored.status()).owed == 0
    assert (await mirrored.begin_one("/file")).targets[2].writable


async def test_a_late_copy_is_left_to_its_writer_while_that_renews_its_lease(mirrored: Driver) -> None:
    begun = await mirrored.begin_one("/file", lease=0.001)
    await mirrored.commit_one(mirrored.commitment(begun, on=["a", "b"], writing=["c"]))
    renewal = catalog.RenewWritesRequest(owner="writer", lease_seconds=600, late=["unknown", begun.version_id])
    await mirrored.call("RenewWrites", renewal)
    assert await mirrored.claim() == []
    await mirrored.call("ReleaseOwner", catalog.ReleaseOwnerRequest(owner="writer"))
    (item,) = await mirrored.claim()
    assert (item.kind, item.replica.provider) == (catalog.DEBT_KIND_INSPECT, "c")
    await mirrored.call("RenewWrites", renewal)  # too late: it is the worker's now
    await mirrored.see(await mirrored.entry("/file"), "c", entry_pb2.REPLICA_STATE_MISSING, writer="writer")
    assert await mirrored.claim() == []
    await mirrored.call("ReleaseOwner", catalog.ReleaseOwnerRequest(owner="worker"))
    assert [item.kind for item in await mirrored.claim()] == [catalog.DEBT_KIND_COPY]


@pytest.mark.parametrize("renewal", [{"owner": "another"}, {"owner": "writer"}], ids=["another's", "of others"])
async def test_a_late_copy_that_nobody_renews_is_debt(mirrored: Driver, renewal: dict[str, str]) -> None:
    begun = await mirrored.begin_one("/file", lease=0.001)
    await mirrored.commit_one(mirrored.commitment(begun, on=["a", "b"], writing=["c"]))
    late = [begun.version_id] if renewal["owner"] == "another" else ["other"]
    await mirrored.call("RenewWrites", catalog.RenewWritesRequest(lease_seconds=600, late=late, **renewal))
    (item,) = await mirrored.claim()
    assert item.kind == catalog.DEBT_KIND_INSPECT


async def test_a_late_copy_that_lands_under_a_name_the_file_no_longer_has_is_removed(mirrored: Driver) -> None:
    begun = await mirrored.begin_one("/file")
    entry = await mirrored.commit_one(mirrored.commitment(begun, on=["a", "b"], writing=["c"]))
    await mirrored.see(entry, "c", entry_pb2.REPLICA_STATE_MISSING, writer="writer")
    await mirrored.call("MoveEntry", directory.MoveEntryRequest(source="/file", target="/moved"))
    landed = catalog.ReplicaObservation(
        version_id=entry.version_id,
        provider_id=mirrored.providers["c"],
        key="file",
        state=entry_pb2.REPLICA_STATE_OK,
    )
    await mirrored.record(landed)
    assert (await mirrored.status()).removals == 0, "who has only seen it there has not left it"
    landed.written = True
    await mirrored.record(landed)
    await mirrored.record(landed)
    assert (await mirrored.status()).removals == 1
    items = {(item.kind, item.replica.provider): item for item in await mirrored.claim()}
    assert items[catalog.DEBT_KIND_REMOVE, "c"].replica.key == "file"
    assert items[catalog.DEBT_KIND_COPY, "c"].target_key == "moved"


async def test_what_another_file_has_there_by_now_is_not_removed(mirrored: Driver) -> None:
    begun = await mirrored.begin_one("/file")
    entry = await mirrored.commit_one(mirrored.commitment(begun, on=["a", "b"], writing=["c"]))
    await mirrored.see(entry, "c", entry_pb2.REPLICA_STATE_MISSING, writer="writer")
    await mirrored.call("MoveEntry", directory.MoveEntryRequest(source="/file", target="/moved"))
    while items := await mirrored.claim():
        await mirrored.finish(items)
    await mirrored.write("/file", b"another")
    await mirrored.record(
        catalog.ReplicaObservation(
            version_id=entry.version_id,
            provider_id=mirrored.providers["c"],
            key="file",
            state=entry_pb2.REPLICA_STATE_UNKNOWN,
            written=True,
        )
    )
    assert (await mirrored.status()).removals == 0
    assert await mirrored.states("/file") == {"a": "OK", "b": "OK", "c": "OK"}


async def test_a_lapsed_intent_is_taken_over(mirrored: Driver) -> None:
    lost = await mirrored.begin_one("/file", owner="gone")
    await mirrored.call("ReleaseOwner", catalog.ReleaseOwnerRequest(owner="gone"))
    begun = await mirrored.begin_one("/file", owner="next")
    with pytest.raises(Conflict):
        await mirrored.commit_one(mirrored.commitment(lost, on=["a", "b", "c"]))
    await mirrored.commit_one(mirrored.commitment(begun, on=["a", "b"]))
    # at c the lapsed write may have left bytes: they are cleared away before the copy is made that is owed there
    assert (await mirrored.status()).removals == 1
    kinds = []
    while items := await mirrored.claim():
        kinds += [(item.kind, item.replica.provider) for item in items]
        await mirrored.finish(items)
    assert kinds == [(catalog.DEBT_KIND_REMOVE, "c"), (catalog.DEBT_KIND_COPY, "c")]
    assert (await mirrored.status()).removals == 0


async def test_the_only_copy_is_never_moved_twice(driver: Driver) -> None:
    """A writer that died may have moved the older content aside; what stands at the key may be its own bytes."""
    await driver.add_providers("only")
    old = await driver.write("/file", b"old")
    await driver.begin_one("/file", owner="gone")
    await driver.call("ReleaseOwner", catalog.ReleaseOwnerRequest(owner="gone"))
    with pytest.raises(Conflict) as caught:
        await driver.begin_one("/file", owner="next")
    assert caught.value.retry is Retry.LATER
    lapsed = (await driver.call("ClaimLapsedWrites", catalog.ClaimLapsedWritesRequest(owner="recovery"))).writes
    for write in lapsed:
        await driver.abort(catalog.BegunWrite(version_id=write.version_id), touched=["only"])
    (item,) = await driver.claim()
    assert (item.kind, item.replica.key) == (catalog.DEBT_KIND_INSPECT, "file")
    await driver.finish([item], state=entry_pb2.REPLICA_STATE_CORRUPT)
    # it is looked for where it may have been moved to
    items = {item.kind: item for item in await driver.claim()}
    assert items[catalog.DEBT_KIND_REMOVE].replica.key == "file"
    aside = f".cdir/versions/{old.version_id[:2]}/{old.version_id}"
    assert items[catalog.DEBT_KIND_INSPECT].replica.key == aside
    await driver.finish(items.values())
    (back,) = await driver.claim()
    assert (back.kind, back.target_key) == (catalog.DEBT_KIND_RELOCATE, "file")
    await driver.finish([back])
    assert await driver.states("/file") == {"only": "OK"}


async def test_lapsed_intents_can_be_claimed_and_finished(mirrored: Driver) -> None:
    begun = await mirrored.begin_one("/file", owner="gone", size=7, sha256=b"d" * 32)
    claim = catalog.ClaimLapsedWritesRequest(owner="recovery")
    assert not (await mirrored.call("ClaimLapsedWrites", claim)).writes
    await mirrored.call("ReleaseOwner", catalog.ReleaseOwnerRequest())
    (lapsed,) = (await mirrored.call("ClaimLapsedWrites", claim)).writes
    assert (lapsed.version_id, lapsed.intent.path, lapsed.intent.sha256, lapsed.min_copies) == (
        begun.version_id,
        "/file",
        b"d" * 32,
        2,
    )
    assert [target.key for target in lapsed.targets] == ["file"] * 3
    assert not (await mirrored.call("ClaimLapsedWrites", claim)).writes  # leased
    await mirrored.commit_one(mirrored.commitment(begun, on=["a", "b", "c"]))
    assert (await mirrored.entry("/file")).generation == 1


async def test_renewed_intents_do_not_lapse(mirrored: Driver) -> None:
    await mirrored.begin_one("/file", owner="slow", lease=0.001)
    await mirrored.call("RenewWrites", catalog.RenewWritesRequest(owner="slow", lease_seconds=600))
    claimed = await mirrored.call("ClaimLapsedWrites", catalog.ClaimLapsedWritesRequest(owner="recovery"))
    assert not claimed.writes
    with pytest.raises(Conflict):
        await mirrored.begin_one("/file", owner="other")


async def test_a_path_whose_copy_is_being_moved_is_not_written_there(mirrored: Driver) -> None:
    await mirrored.write("/old", b"x")
    await mirrored.move("/old", "/new")
    items = await mirrored.claim()
    assert {item.kind for item in items} == {catalog.DEBT_KIND_RELOCATE}
    for path in ("/old", "/new"):
        with pytest.raises(Conflict) as caught:
            await mirrored.begin_one(path)
        assert caught.value.retry is Retry.LATER
    await mirrored.finish(items)
    await mirrored.begin_one("/new")
    await mirrored.begin_one("/old")


async def test_paused_and_read_only_providers_owe_from_the_start(mirrored: Driver) -> None:
    await mirrored.change_provider("b", paused=True)
    await mirrored.change_provider("c", read_only=True)
    begun = await mirrored.begin_one("/file")
    assert {target.provider: target.writable for target in begun.targets} == {"a": True, "b": False, "c": False}
    assert begun.targets[1].state == provider_pb2.PROVIDER_STATE_PAUSED


async def test_a_name_given_up_by_a_move_has_an_occupant_until_the_object_has_followed(mirrored: Driver) -> None:
    moved = await mirrored.write("/a-file", b"first")
    await mirrored.move("/a-file", "/b-file")
    begun = await mirrored.begin_one("/a-file")
    assert {target.occupant.version_id for target in begun.targets} == {moved.version_id}
    await mirrored.displace(begun, ["a", "b", "c"])
    await mirrored.commit_one(mirrored.commitment(begun, b"second", ["a", "b", "c"]))
    items = await mirrored.claim()
    assert [(item.kind, item.target_key) for item in items] == [(catalog.DEBT_KIND_RELOCATE, "b-file")] * 3
    await mirrored.finish(items)
    assert {one.key for one in (await mirrored.replicas("/b-file")).values()} == {"b-file"}
    assert {one.key for one in (await mirrored.replicas("/a-file")).values()} == {"a-file"}


async def test_errors_of_a_whole_call(mirrored: Driver) -> None:
    with pytest.raises(InvalidArgument, match="owner"):
        await mirrored.begin("/file", owner="")
    with pytest.raises(InvalidArgument, match="1000"):
        await mirrored.begin(*(f"/{index}" for index in range(1001)))
    await mirrored.write("/file")
    with pytest.raises(NotDirectory):
        await mirrored.begin_one("/file/below")
    await mirrored.make_directory("/d")
    with pytest.raises(IsDirectory):
        await mirrored.begin_one("/d")
