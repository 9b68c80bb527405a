"""What others do at providers: new files, edits, old files put back, removals; and listings that lie."""

from __future__ import annotations

from typing import Any

import pytest

from catalogs.driver import Driver
from catalogs.scanner import NEW, NOW, OLD, claim, kinds, learn, listed, scan, write_at
from cdir.errors import InvalidArgument, NotFound
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import directory_service_pb2 as directory
from cdir.v1 import entry_pb2, provider_pb2, scan_pb2
from cdir_catalog.clock import SECOND, now_ns
from cdir_catalog.store import scans

_EVERYWHERE = {"a": "OK", "b": "OK", "c": "OK"}
_CORRUPT = entry_pb2.REPLICA_STATE_CORRUPT


def _etags(name: str) -> str:
    return f'"{name}"'


async def _work(driver: Driver, **outcome: Any) -> list[catalog.DebtItem]:
    items = await driver.claim()
    await driver.finish(items, **outcome)
    return items


async def _generations(driver: Driver, path: str) -> list[tuple[int, int, bool]]:
    """Return (generation, size, current) of each version, newest first."""
    return [(one.generation, one.size, one.current) for one in await driver.versions(path)]


async def test_what_is_as_recorded_changes_nothing(mirrored: Driver) -> None:
    await write_at(mirrored, "/d/x")
    scanned = await scan(mirrored, "a", listed("d/x", etag=_etags("a")))
    assert scanned.found == {"same": 1}
    assert await mirrored.states("/d/x") == _EVERYWHERE
    assert await mirrored.claim() == []


# -- new files ---------------------------------------------------------------------------------------------------------


async def test_a_new_object_becomes_a_file_that_the_others_owe(mirrored: Driver) -> None:
    scanned = await scan(mirrored, "b", listed("d/e/new", 9, etag="x"), listed("@team/f", 1))
    assert scanned.found == {"adopted": 2}
    entry = await mirrored.entry("/d/e/new")
    assert (entry.size, entry.sha256, entry.author, entry.generation, entry.owed) == (9, b"", "b (outside)", 1, 2)
    assert entry.modified.seconds == NOW
    assert await mirrored.states("/d/e/new") == {"a": "MISSING", "b": "OK", "c": "MISSING"}
    assert (await mirrored.entry("/f", workspace="team")).size == 1
    assert await mirrored.paths("/d") == ["/d/e"]
    status = await mirrored.status()
    assert (status.files, status.bytes, status.owed) == (1, 9, 2)
    again = await scan(mirrored, "b", listed("d/e/new", 9, etag="x"), listed("@team/f", 1))
    assert again.found == {"same": 2}


_NO_FILES = (
    ".cdir/provider",
    ".cdir/versions/ab/abc",
    "d/.cdir-tmp-1",
    "d/x.partial",
    "d/.rclone_temp_put_1",
    "@/x",
    "a//b",
    "d/../x",
    "file/below",
    "folder",
    "nfd-e\u0301",
)


async def test_what_can_be_no_file_is_ignored(mirrored: Driver) -> None:
    await write_at(mirrored, "/file")
    await mirrored.make_directory("/folder")
    scanned = await scan(mirrored, "a", listed("file", etag=_etags("a")), *map(listed, _NO_FILES))
    assert scanned.found == {"same": 1, "ignored": len(_NO_FILES)}
    assert await mirrored.paths("/", recursive=True) == ["/file", "/folder"]


async def test_directories_and_special_objects_are_no_files(mirrored: Driver) -> None:
    scanned = await scan(mirrored, "a", listed("d", directory=True), listed("pipe", special=True))
    assert scanned.found == {}
    assert await mirrored.paths() == []


async def test_a_name_that_differs_only_by_case_is_left_alone(driver: Driver) -> None:
    await driver.add_provider("a")
    await driver.add_provider("blind", case_sensitive=False)
    await write_at(driver, "/Name")
    scanned = await scan(driver, "a", listed("Name", etag=_etags("a")), listed("name", 9))
    assert scanned.found == {"same": 1, "ignored": 1}
    assert await driver.paths() == ["/Name"]


async def test_a_file_that_is_being_written_is_left_for_the_next_scan(mirrored: Driver) -> None:
    begun = await mirrored.begin_one("/x")
    scanned = await scan(mirrored, "a", listed("x"))
    assert scanned.found == {"postponed": 1}
    await mirrored.commit_one(mirrored.commitment(begun, on="abc"))
    assert await mirrored.states("/x") == _EVERYWHERE


async def test_an_owed_copy_that_may_be_there_is_inspected(mirrored: Driver) -> None:
    await write_at(mirrored, "/x", on="ab")
    scanned = await scan(mirrored, "c", listed("x", etag="c"))
    assert scanned.found == {"suspected": 1}
    (item,) = await mirrored.claim()
    assert item.kind == catalog.DEBT_KIND_INSPECT
    await mirrored.finish([item], done=True, etag="c")
    assert await mirrored.states("/x") == _EVERYWHERE


async def test_a_suspected_object_that_cannot_be_read_is_left_alone(mirrored: Driver) -> None:
    await write_at(mirrored, "/x", on="ab")
    await scan(mirrored, "c", listed("x", modified=OLD))
    unreadable = entry_pb2.Failure(reason="PROVIDER_UNAVAILABLE", message="the connection broke while it was read")
    await mirrored.finish(await mirrored.claim(), done=False, state=_CORRUPT, failure=unreadable)
    (item,) = await mirrored.claim()
    assert (item.kind, item.replica.provider) == (catalog.DEBT_KIND_INSPECT, "c")
    assert await _generations(mirrored, "/x") == [(1, 7, True)]


async def test_an_inspected_object_that_is_something_else_is_kept(mirrored: Driver) -> None:
    await write_at(mirrored, "/x", on="ab")
    await scan(mirrored, "c", listed("x", modified=OLD))
    await _work(mirrored, state=_CORRUPT)
    assert [(one.generation, one.modified.seconds, one.current) for one in await mirrored.versions("/x")] == [
        (2, NOW, True),
        (1, OLD, False),
    ]
    (item,) = [one for one in await mirrored.claim() if one.kind == catalog.DEBT_KIND_COPY]
    assert item.occupant.version_id == (await mirrored.versions("/x"))[1].version_id


async def test_other_content_in_the_place_of_an_owed_copy_is_kept(mirrored: Driver) -> None:
    await write_at(mirrored, "/x", on="ab")
    scanned = await scan(mirrored, "c", listed("x", 9, NEW))
    assert scanned.found == {"changed": 1}
    assert await _generations(mirrored, "/x") == [(2, 9, True), (1, 7, False)]


# -- edits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "modified"),
    [(9, NEW), (7, NEW)],
    ids=["larger and newer", "of the same size and newer"],
)
async def test_a_newer_edit_becomes_current_everywhere(mirrored: Driver, size: int, modified: int) -> None:
    old = await write_at(mirrored, "/d/x")
    scanned = await scan(mirrored, "b", listed("d/x", size, modified, etag="edited"))
    assert scanned.found == {"changed": 1}
    entry = await mirrored.entry("/d/x")
    assert (entry.size, entry.generation, entry.author, entry.sha256) == (size, 2, "b (outside)", b"")
    assert await mirrored.states("/d/x") == {"a": "MISSING", "b": "OK", "c": "MISSING"}
    older = await mirrored.resolve("/d/x", generation=1)
    assert older.entry.version_id == old.version_id
    assert {replica.provider for replica in older.replicas} == {"a", "c"}
    assert kinds(await _work(mirrored)) == {"a": "RELOCATE", "c": "RELOCATE"}
    assert kinds(await _work(mirrored)) == {"a": "COPY", "c": "COPY"}
    assert await mirrored.states("/d/x") == _EVERYWHERE
    assert (await mirrored.status()).bytes == size


@pytest.mark.parametrize("modified", [OLD, NOW], ids=["older", "of the same time"])
async def test_what_is_not_newer_is_kept_and_the_recorded_content_put_back(mirrored: Driver, modified: int) -> None:
    current = await write_at(mirrored, "/d/x")
    scanned = await scan(mirrored, "b", listed("d/x", 5, modified, etag="cut short"))
    assert scanned.found == {"put_back": 1}
    entry = await mirrored.entry("/d/x")
    assert (entry.version_id, entry.size, entry.generation) == (current.version_id, 7, 2)
    assert await mirrored.states("/d/x") == {"a": "OK", "b": "MISSING", "c": "OK"}
    assert await _generations(mirrored, "/d/x") == [(2, 7, True), (1, 5, False)]
    kept = await mirrored.resolve("/d/x", generation=1)
    assert [replica.key for replica in kept.replicas] == ["d/x"]
    await mirrored.write("/d/x", b"third")
    assert (await mirrored.entry("/d/x")).generation == 3


async def test_what_others_replaced_is_kept_even_where_the_policy_keeps_nothing(mirrored: Driver) -> None:
    await mirrored.set_policy("/", keep_versions=0)
    await write_at(mirrored, "/x")
    await scan(mirrored, "b", listed("x", 9, NEW))
    assert await _generations(mirrored, "/x") == [(2, 9, True), (1, 7, False)]


async def test_times_are_compared_as_coarse_as_the_provider_keeps_them(driver: Driver) -> None:
    await driver.add_provider("a", precision=2)
    await driver.add_provider("b")
    await write_at(driver, "/x", NOW + 1)
    assert (await scan(driver, "a", listed("x", modified=NOW))).found == {"same": 1}
    # of another size, and as old as far as the provider can tell
    assert (await scan(driver, "a", listed("x", 9, NOW + 2))).found == {"put_back": 1}
    assert (await driver.entry("/x")).size == 7


async def test_an_edit_newer_by_the_step_of_the_provider_wins(driver: Driver) -> None:
    await driver.add_provider("a", precision=2)
    await driver.add_provider("b")
    await write_at(driver, "/x", NOW)
    assert (await scan(driver, "a", listed("x", 9, NOW + 2))).found == {"changed": 1}


async def test_a_time_in_the_future_wins_only_once(driver: Driver) -> None:
    await driver.add_providers("a", "b")
    await write_at(driver, "/x")
    await scan(driver, "a", listed("x", 8, 4_000_000_000))
    assert (await driver.entry("/x")).size == 8
    await _work(driver)
    assert (await scan(driver, "b", listed("x", 9, 4_000_000_000, etag="n"))).found == {"changed": 1}
    assert (await driver.entry("/x")).size == 9


async def test_the_etag_tells_where_listings_have_no_time_of_the_writer(driver: Driver) -> None:
    await driver.add_provider("a", lists_time=False)
    await driver.add_provider("b", lists_time=False)
    await write_at(driver, "/x")
    assert (await scan(driver, "a", listed("x", modified=NEW, etag=_etags("a")))).found == {"same": 1}
    assert (await scan(driver, "a", listed("x", modified=NEW, etag="other"))).found == {"changed": 1}


async def test_the_time_of_the_provider_tells_where_there_is_nothing_else(driver: Driver) -> None:
    await driver.add_provider("a", lists_time=False)
    await driver.add_provider("b")
    await write_at(driver, "/x")
    assert (await scan(driver, "a", listed("x", modified=NOW + 50))).found == {"same": 1}
    assert (await scan(driver, "a", listed("x", modified=NOW + 50))).found == {"same": 1}
    assert (await scan(driver, "a", listed("x", modified=NOW + 90))).found == {"changed": 1}


async def test_an_etag_that_proves_nothing_is_looked_into(mirrored: Driver) -> None:
    await write_at(mirrored, "/x")
    assert (await scan(mirrored, "a", listed("x", etag="moved"))).found == {"suspected": 1}
    await _work(mirrored, done=True, etag="moved")
    assert (await scan(mirrored, "a", listed("x", etag="moved"))).found == {"same": 1}
    assert await _generations(mirrored, "/x") == [(1, 7, True)]


async def test_the_only_good_copy_is_given_up_only_after_an_inspection(mirrored: Driver) -> None:
    current = await write_at(mirrored, "/x", on="ab")
    await mirrored.see(current, "b", _CORRUPT)
    assert (await scan(mirrored, "a", listed("x", 9, NEW, etag="e"))).found == {"suspected": 1}
    assert (await mirrored.entry("/x")).version_id == current.version_id
    items = [item for item in await mirrored.claim() if item.kind == catalog.DEBT_KIND_INSPECT]
    await mirrored.finish(items, done=False, state=_CORRUPT)
    entry = await mirrored.entry("/x")
    assert (entry.size, entry.generation) == (9, 2)
    assert (await mirrored.states("/x"))["a"] == "OK"


async def test_an_old_listing_of_the_only_good_copy_does_no_harm(driver: Driver) -> None:
    await driver.add_provider("only")
    await write_at(driver, "/x", OLD, b"old")
    current = await write_at(driver, "/x", NOW)
    assert (await scan(driver, "only", listed("x", 3, OLD))).found["put_back"] == 1
    (item,) = [item for item in await driver.claim() if item.kind == catalog.DEBT_KIND_INSPECT]
    await driver.finish([item])
    assert await driver.states("/x") == {"only": "OK"}
    assert (await driver.entry("/x")).version_id == current.version_id


async def test_changes_since_the_listing_began_are_left_for_the_next_scan(mirrored: Driver) -> None:
    due = scan_pb2.MakeScanDueRequest(path="/", provider="a")
    await mirrored.call("MakeScanDue", due)
    claimed = await claim(mirrored, "a")
    assert claimed is not None
    await write_at(mirrored, "/new")
    await write_at(mirrored, "/gone")
    await mirrored.move("/gone", "/moved")
    await _work(mirrored)
    request = scan_pb2.CompareListingRequest(
        provider_id=mirrored.providers["a"],
        owner="scanner",
        scan_id=claimed.scan_id,
        as_of=claimed.as_of,
        ranges=[scan_pb2.ListedRange(recursive=True, complete=True, objects=[listed("gone"), listed("new", 1)])],
    )
    response = await mirrored.call("CompareListing", request)
    assert {field.name: value for field, value in response.counts.ListFields()} == {"postponed": 2}
    assert await mirrored.paths() == ["/moved", "/new"]


# -- removed files -----------------------------------------------------------------------------------------------------


async def test_a_leftover_of_a_removed_file_does_not_bring_it_back(mirrored: Driver) -> None:
    await write_at(mirrored, "/x")
    await mirrored.remove("/x")
    await _work(mirrored)
    scanned = await scan(mirrored, "a", listed("x"))
    assert scanned.found == {"same": 1}
    assert await mirrored.paths() == []
    (item,) = await mirrored.claim()
    assert (item.kind, item.replica.key) == (catalog.DEBT_KIND_REMOVE, "x")


async def test_a_copy_of_a_removed_file_that_was_not_known_is_kept_aside(mirrored: Driver) -> None:
    await write_at(mirrored, "/x", on="ab")
    await mirrored.remove("/x")
    await _work(mirrored)
    await scan(mirrored, "c", listed("x"))
    assert await mirrored.paths() == []
    (item,) = await _work(mirrored)
    assert item.kind == catalog.DEBT_KIND_INSPECT
    (item,) = await mirrored.claim()
    assert item.kind == catalog.DEBT_KIND_RELOCATE


async def test_what_was_put_where_a_file_was_removed_is_a_new_file(mirrored: Driver) -> None:
    await write_at(mirrored, "/x")
    await mirrored.remove("/x")
    await _work(mirrored)
    assert (await scan(mirrored, "a", listed("x", 9, NEW))).found == {"adopted": 1}
    assert await _generations(mirrored, "/x") == [(2, 9, True), (1, 7, False)]


async def test_an_edit_older_than_the_removal_does_not_bring_the_file_back(mirrored: Driver) -> None:
    await write_at(mirrored, "/x")
    await mirrored.remove("/x")
    # provider a was not reached yet: its object still lies under the file's name, and somebody had edited it
    assert (await scan(mirrored, "a", listed("x", 9, NEW))).found == {"adopted": 1}
    assert await mirrored.paths() == []
    assert {one.size for one in await mirrored.versions("/x")} == {7, 9}
    await mirrored.write("/x", b"again")
    assert (await mirrored.entry("/x")).generation == 3


async def test_what_cdir_itself_moved_away_does_not_come_back(mirrored: Driver) -> None:
    await write_at(mirrored, "/x")
    await mirrored.move("/x", "/y")
    await _work(mirrored)
    assert (await scan(mirrored, "a", listed("x"), listed("y"))).found == {"same": 1, "ignored": 1}
    assert await mirrored.paths() == ["/y"]


# -- what is missing ---------------------------------------------------------------------------------------------------


async def _many(driver: Driver, count: int) -> list[str]:
    names = [f"f{number:03}" for number in range(count)]
    for name in names:
        await write_at(driver, f"/{name}")
    return names


async def _not_there(driver: Driver) -> list[catalog.DebtItem]:
    """Inspect what is to be inspected, and find nothing."""
    items = [item for item in await driver.claim() if item.kind == catalog.DEBT_KIND_INSPECT]
    await driver.finish(items, state=entry_pb2.REPLICA_STATE_MISSING)
    return items


async def test_a_missing_copy_is_made_anew(mirrored: Driver) -> None:
    await write_at(mirrored, "/d/x")
    await write_at(mirrored, "/d/y")
    scanned = await scan(mirrored, "a", listed("d/y"))
    assert scanned.found == {"same": 1, "missing": 1}
    assert await mirrored.states("/d/x") == {"a": "UNKNOWN", "b": "OK", "c": "OK"}
    assert kinds(await _not_there(mirrored)) == {"a": "INSPECT"}
    (item,) = await _work(mirrored)
    assert (item.kind, item.replica.provider) == (catalog.DEBT_KIND_COPY, "a")
    assert await mirrored.states("/d/x") == _EVERYWHERE


async def test_a_listing_that_shows_all_needs_no_second_look(driver: Driver) -> None:
    await driver.add_provider("a", lists_all=True)
    await driver.add_provider("b")
    await write_at(driver, "/x", on="ab")
    await write_at(driver, "/only", on="a")
    assert (await scan(driver, "a")).found == {"missing": 2}
    assert await driver.states("/x") == {"a": "MISSING", "b": "OK"}
    # of the last good copy nothing is concluded without looking
    assert (await driver.states("/only"))["a"] == "UNKNOWN"
    items = {item.path: item.kind for item in await driver.claim()}
    assert items == {"/x": catalog.DEBT_KIND_COPY, "/only": catalog.DEBT_KIND_INSPECT}
    assert (await scan(driver, "a")).found == {}


async def test_a_listing_that_left_a_file_out_costs_one_look(mirrored: Driver) -> None:
    await write_at(mirrored, "/x")
    await scan(mirrored, "a")
    assert kinds(await _work(mirrored)) == {"a": "INSPECT"}
    assert await mirrored.states("/x") == _EVERYWHERE
    assert await mirrored.claim() == []


async def test_nothing_follows_from_an_incomplete_listing(mirrored: Driver) -> None:
    await write_at(mirrored, "/x")
    scanned = await scan(mirrored, "a", complete=False)
    assert scanned.found == {}
    assert await mirrored.states("/x") == _EVERYWHERE


async def test_a_directory_is_scanned_alone(mirrored: Driver) -> None:
    for path in ("/d/x", "/d/y", "/d/deep/x", "/x"):
        await write_at(mirrored, path)
    claimed = await scan(mirrored, "a", listed("d/y"), path="/d/y")
    assert (claimed.scan.prefix, claimed.scan.recursive) == ("d", False)
    assert claimed.found == {"same": 1, "missing": 1}
    assert (await mirrored.states("/d/x"))["a"] == "UNKNOWN"
    assert await mirrored.states("/d/deep/x") == _EVERYWHERE
    assert await mirrored.states("/x") == _EVERYWHERE


async def test_a_listing_comes_in_slices(mirrored: Driver) -> None:
    names = await _many(mirrored, 7)
    scanned = await scan(mirrored, "a", *(listed(name) for name in names if name != "f003"), pages=3)
    assert scanned.found == {"same": 6, "missing": 1}
    assert (await mirrored.states("/f003"))["a"] == "UNKNOWN"


async def test_an_accepted_removal_removes_the_file_and_keeps_its_content(mirrored: Driver) -> None:
    await mirrored.set_policy("/", outside_deletion=entry_pb2.OUTSIDE_DELETION_ACCEPT)
    await write_at(mirrored, "/x")
    await write_at(mirrored, "/y")
    await scan(mirrored, "a", listed("y"))
    assert await mirrored.paths() == ["/y"]
    assert len(await mirrored.versions("/x")) == 1
    assert {item.replica.provider for item in await mirrored.claim()} == {"b", "c"}
    (removed,) = (await mirrored.call("ListTrash", directory.ListTrashRequest(path="/"))).files
    assert removed.removed_by == "a (outside)"


async def test_nobody_is_believed_to_have_removed_everything(mirrored: Driver) -> None:
    await mirrored.set_policy("/", outside_deletion=entry_pb2.OUTSIDE_DELETION_ACCEPT)
    names = await _many(mirrored, 3)
    await scan(mirrored, "a")
    assert await mirrored.paths() == [f"/{name}" for name in names]
    assert (await mirrored.states("/f000"))["a"] == "UNKNOWN"


async def test_a_removal_that_is_to_be_asked_about_waits(mirrored: Driver) -> None:
    await mirrored.set_policy("/", outside_deletion=entry_pb2.OUTSIDE_DELETION_ASK)
    await write_at(mirrored, "/d/x")
    await write_at(mirrored, "/d/y")
    await scan(mirrored, "a", listed("d/y"))
    assert await mirrored.claim() == []
    assert (await mirrored.replicas("/d/x"))["a"].absent
    assert ((await mirrored.status()).absent, (await mirrored.status("/d")).absent) == (1, 1)
    await mirrored.call("MakeDue", catalog.MakeDueRequest(path="/d/x"))
    (item,) = await _work(mirrored, state=entry_pb2.REPLICA_STATE_MISSING)
    assert item.kind == catalog.DEBT_KIND_INSPECT
    await _work(mirrored)
    assert await mirrored.states("/d/x") == _EVERYWHERE
    assert (await mirrored.status()).absent == 0


async def test_what_was_absent_and_is_there_again_is_looked_at(mirrored: Driver) -> None:
    await mirrored.set_policy("/", outside_deletion=entry_pb2.OUTSIDE_DELETION_ASK)
    await write_at(mirrored, "/x")
    await write_at(mirrored, "/y")
    await scan(mirrored, "a", listed("y"))
    await scan(mirrored, "a", listed("x"), listed("y"))
    assert kinds(await _work(mirrored)) == {"a": "INSPECT"}
    assert await mirrored.states("/x") == _EVERYWHERE


async def test_a_file_that_came_and_went_unread_is_forgotten(mirrored: Driver) -> None:
    await write_at(mirrored, "/other")
    await scan(mirrored, "a", listed("other"), listed("passing", 3))
    await scan(mirrored, "a", listed("other"))
    await _not_there(mirrored)
    assert await mirrored.paths() == ["/other"]
    assert await mirrored.claim() == []
    with pytest.raises(NotFound):
        await mirrored.versions("/passing")


async def test_an_edit_that_went_away_unread_gives_way_to_what_was_before(mirrored: Driver) -> None:
    await write_at(mirrored, "/other")
    before = await write_at(mirrored, "/x")
    await scan(mirrored, "a", listed("other"), listed("x", 9, NEW))
    await scan(mirrored, "a", listed("other"))
    await _not_there(mirrored)
    entry = await mirrored.entry("/x")
    assert (entry.version_id, entry.size, entry.generation) == (before.version_id, 7, 3)
    while await _work(mirrored):
        pass
    assert await mirrored.states("/x") == _EVERYWHERE


async def test_an_older_copy_taken_away_before_it_was_set_aside_is_given_up(mirrored: Driver) -> None:
    old = await write_at(mirrored, "/x")
    await write_at(mirrored, "/x", NEW, on="ab")
    (item,) = [one for one in await mirrored.claim() if one.kind == catalog.DEBT_KIND_RELOCATE]
    await mirrored.see(old, "c", entry_pb2.REPLICA_STATE_MISSING)
    await mirrored.finish([item], failure=entry_pb2.Failure(message="nothing is there"))
    for _ in range(2):  # it is looked for under both names
        items = [one for one in await mirrored.claim() if one.kind == catalog.DEBT_KIND_INSPECT]
        await mirrored.finish(items, state=entry_pb2.REPLICA_STATE_MISSING)
    older = await mirrored.resolve("/x", generation=1)
    assert {replica.provider for replica in older.replicas} == {"a", "b"}
    assert (await mirrored.states("/x"))["c"] == "MISSING"


# -- the delete guard --------------------------------------------------------------------------------------------------


async def test_an_emptied_provider_loses_nothing_and_needs_no_transfer(mirrored: Driver) -> None:
    names = await _many(mirrored, 12)
    scanned = await scan(mirrored, "a")
    assert "--accept-losses" in scanned.refused
    provider = await mirrored.read_provider("a")
    assert provider.state == provider_pb2.PROVIDER_STATE_UNKNOWN
    assert provider.state_reason == scanned.refused
    assert await mirrored.claim() == []
    assert (await mirrored.status()).owed == 0
    await mirrored.observe("a", provider_pb2.PROVIDER_STATE_UP)
    assert (await mirrored.read_provider("a")).state == provider_pb2.PROVIDER_STATE_UNKNOWN
    back = await scan(mirrored, "a", *(listed(name) for name in names))
    assert back.refused == ""
    assert (await mirrored.read_provider("a")).state == provider_pb2.PROVIDER_STATE_UP
    assert (await mirrored.status()).absent == 0
    assert await mirrored.claim() == []


async def test_what_readers_miss_at_an_emptied_provider_is_not_owed(mirrored: Driver) -> None:
    names = await _many(mirrored, 12)
    assert (await scan(mirrored, "a")).refused
    await mirrored.see(await mirrored.entry(f"/{names[0]}"), "a", entry_pb2.REPLICA_STATE_MISSING)
    assert (await mirrored.status()).owed == 0
    await scan(mirrored, "a", *(listed(name) for name in names))
    await mirrored.see(await mirrored.entry(f"/{names[0]}"), "a", entry_pb2.REPLICA_STATE_MISSING)
    assert (await mirrored.status()).owed == 1


async def test_the_guard_counts_over_the_whole_pass(mirrored: Driver) -> None:
    names = await _many(mirrored, 16)
    scanned = await scan(mirrored, "a", *(listed(name) for name in names[::4]), pages=4)
    assert scanned.refused
    assert (await mirrored.status()).owed == 0


async def test_few_missing_files_pass_the_guard(mirrored: Driver) -> None:
    names = await _many(mirrored, 12)
    scanned = await scan(mirrored, "a", *(listed(name) for name in names[:2]))
    assert (scanned.refused, scanned.found["missing"]) == ("", 10)
    assert (await mirrored.status()).owed == 10


async def test_losses_are_accepted_by_a_person(mirrored: Driver) -> None:
    await _many(mirrored, 13)
    await scan(mirrored, "a")
    response = await mirrored.call("AcceptLosses", scan_pb2.AcceptLossesRequest(name="a"))
    assert response.accepted == 11
    assert (await mirrored.read_provider("a")).state == provider_pb2.PROVIDER_STATE_UP
    scanned = await scan(mirrored, "a")
    assert scanned.refused == ""
    assert (await mirrored.status()).owed == 13
    assert len(await _not_there(mirrored)) == 13
    await _work(mirrored)
    assert (await scan(mirrored, "a")).refused  # the guard is back
    with pytest.raises(NotFound):
        await mirrored.call("AcceptLosses", scan_pb2.AcceptLossesRequest(name="nobody"))


# -- learning ----------------------------------------------------------------------------------------------------------


async def test_digests_are_learnt_once(mirrored: Driver) -> None:
    await scan(mirrored, "a", listed("x", 5))
    entry = await mirrored.entry("/x")
    for _ in range(2):
        outcome = await learn(mirrored, entry, "a", b"bytes")
        assert (outcome.differs, outcome.version.version_id) == (False, entry.version_id)
    assert (await mirrored.entry("/x")).sha256 == outcome.version.sha256 != b""


async def test_bytes_of_another_size_are_not_learnt(mirrored: Driver) -> None:
    await scan(mirrored, "a", listed("x", 5))
    outcome = await learn(mirrored, await mirrored.entry("/x"), "a", b"more bytes")
    assert (outcome.differs, outcome.version.sha256) == (True, b"")


async def test_two_providers_with_different_bytes_under_one_name_keep_both(mirrored: Driver) -> None:
    await scan(mirrored, "a", listed("x", 5))
    await scan(mirrored, "b", listed("x", 5))
    entry = await mirrored.entry("/x")
    await learn(mirrored, entry, "a", b"bytes")
    items = [item for item in await mirrored.claim() if item.kind == catalog.DEBT_KIND_INSPECT]
    assert kinds(items) == {"b": "INSPECT"}
    await mirrored.finish(items, state=_CORRUPT)
    assert await _generations(mirrored, "/x") == [(2, 5, True), (1, 5, False)]
    # of the same time: the one that was known first stays
    assert (await mirrored.resolve("/x")).version.sha256 != b""
    assert (await mirrored.resolve("/x", generation=1)).version.sha256 == b""


async def test_other_bytes_in_a_known_version_become_a_version(mirrored: Driver) -> None:
    entry = await write_at(mirrored, "/x")
    outcome = await learn(mirrored, entry, "a", b"foreign", etag="other", modified=NEW)
    assert outcome.differs
    assert outcome.other_version_id == (await mirrored.entry("/x")).version_id
    assert len(await mirrored.versions("/x")) == 2


async def test_rotten_bytes_are_no_version(mirrored: Driver) -> None:
    entry = await write_at(mirrored, "/x")
    outcome = await learn(mirrored, entry, "a", b"flipped", etag=_etags("a"))
    assert (outcome.differs, outcome.other_version_id) == (True, "")
    assert (await mirrored.states("/x"))["a"] == "CORRUPT"
    assert len(await mirrored.versions("/x")) == 1


async def test_a_malformed_digest_is_refused(mirrored: Driver) -> None:
    request = scan_pb2.LearnVersionsRequest(learnt=[scan_pb2.LearntVersion(version_id="x", sha256=b"short")])
    with pytest.raises(InvalidArgument):
        await mirrored.call("LearnVersions", request)


# -- the schedule ------------------------------------------------------------------------------------------------------


async def test_every_provider_is_scanned_as_a_whole_in_time(mirrored: Driver) -> None:
    assert await claim(mirrored, "a") is None
    response = await mirrored.call("ClaimScan", scan_pb2.ClaimScanRequest(owner="scanner"))
    assert 0 < response.next_due <= 60
    scans = (await mirrored.call("ReadScans", scan_pb2.ReadScansRequest())).scans
    assert [(one.provider, one.prefix, one.recursive) for one in scans] == [(name, "", True) for name in "abc"]


async def test_where_something_happened_is_looked_at_soon(mirrored: Driver) -> None:
    await scan(mirrored, "a", listed("d/x"))
    scans = (await mirrored.call("ReadScans", scan_pb2.ReadScansRequest())).scans
    (busy,) = [one for one in scans if one.prefix == "d"]
    whole = next(one for one in scans if one.prefix == "" and one.provider == "a")
    assert (busy.provider, busy.recursive) == ("a", False)
    assert busy.due.seconds < whole.due.seconds


async def test_what_somebody_asked_for_comes_before_what_is_only_due(
    mirrored: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scan(mirrored, "a", listed("d/x"))
    monkeypatch.setattr(scans, "now_ns", lambda: now_ns() + 3600 * SECOND)
    await mirrored.call("MakeScanDue", scan_pb2.MakeScanDueRequest(path="/", provider="a"))
    asked = await claim(mirrored, "a")
    assert asked is not None
    assert (asked.prefix, asked.recursive) == ("", True)
    late = scan_pb2.FinishScanRequest(scan_id=asked.scan_id, owner="scanner", cursor="d/x")
    await mirrored.call("FinishScan", late)
    again = await claim(mirrored, "a")
    assert again is not None
    assert (again.scan_id, again.cursor) == (asked.scan_id, "d/x")
    done = scan_pb2.FinishScanRequest(scan_id=asked.scan_id, owner="scanner", complete=True)
    await mirrored.call("FinishScan", done)
    due = await claim(mirrored, "a")
    assert due is not None
    assert (due.prefix, due.recursive) == ("d", False)


async def test_a_provider_that_does_not_answer_is_not_scanned(mirrored: Driver) -> None:
    await mirrored.call("MakeScanDue", scan_pb2.MakeScanDueRequest(path="/", provider="a"))
    for state in (provider_pb2.PROVIDER_STATE_DOWN, provider_pb2.PROVIDER_STATE_UNKNOWN):
        await mirrored.observe("a", state)
        assert await claim(mirrored, "a") is None
    await mirrored.observe("a", provider_pb2.PROVIDER_STATE_UP)
    assert await claim(mirrored, "a") is not None


async def test_a_paused_provider_is_not_scanned(mirrored: Driver) -> None:
    await mirrored.change_provider("a", paused=True)
    response = await mirrored.call("MakeScanDue", scan_pb2.MakeScanDueRequest(path="/"))
    assert [one.provider for one in response.scans] == ["b", "c"]
    assert await claim(mirrored, "a") is None


async def test_an_interrupted_scan_is_gone_on_with(mirrored: Driver) -> None:
    await mirrored.call("MakeScanDue", scan_pb2.MakeScanDueRequest(path="/", provider="a"))
    first = await claim(mirrored, "a")
    assert first is not None
    assert await claim(mirrored, "a", owner="other") is None
    stop = scan_pb2.FinishScanRequest(scan_id=first.scan_id, owner="scanner", cursor="d/x", error="it broke")
    await mirrored.call("FinishScan", stop)
    again = await claim(mirrored, "a", owner="other")
    assert again is not None
    assert (again.scan_id, again.cursor, again.passes) == (first.scan_id, "d/x", 0)
    lost = await mirrored.call("FinishScan", stop)
    assert not lost.HasField("scan")
    late = scan_pb2.CompareListingRequest(
        provider_id=mirrored.providers["a"], owner="scanner", scan_id=first.scan_id, as_of=first.as_of
    )
    assert (await mirrored.call("CompareListing", late)).lost_lease
    await mirrored.call("ReleaseOwner", catalog.ReleaseOwnerRequest(owner="other"))
    assert (await claim(mirrored, "a")) is not None


async def test_a_scan_that_was_under_way_does_not_answer_a_request(mirrored: Driver) -> None:
    due = scan_pb2.MakeScanDueRequest(path="/", provider="a")
    await mirrored.call("MakeScanDue", due)
    claimed = await claim(mirrored, "a")
    assert claimed is not None
    (wanted,) = (await mirrored.call("MakeScanDue", due)).scans
    done = scan_pb2.FinishScanRequest(scan_id=claimed.scan_id, owner="scanner", complete=True)
    finished = await mirrored.call("FinishScan", done)
    assert finished.scan.passes == wanted.passes
    assert await claim(mirrored, "a") is not None


async def test_a_pass_that_breaks_off_after_a_request_does_not_answer_it(mirrored: Driver) -> None:
    due = scan_pb2.MakeScanDueRequest(path="/", provider="a")
    await mirrored.call("MakeScanDue", due)
    claimed = await claim(mirrored, "a")
    assert claimed is not None
    (wanted,) = (await mirrored.call("MakeScanDue", due)).scans
    broken = scan_pb2.FinishScanRequest(scan_id=claimed.scan_id, owner="scanner", cursor="d/x", error="it broke")
    await mirrored.call("FinishScan", broken)
    resumed = await claim(mirrored, "a")
    assert resumed is not None
    assert resumed.cursor == "d/x"
    done = scan_pb2.FinishScanRequest(scan_id=claimed.scan_id, owner="scanner", complete=True)
    assert (await mirrored.call("FinishScan", done)).scan.passes == wanted.passes
    another = await claim(mirrored, "a")
    assert another is not None
    assert another.cursor == ""
    assert (await mirrored.call("FinishScan", done)).scan.passes == wanted.passes + 1


async def test_a_pass_that_was_broken_off_begins_anew_when_a_scan_is_asked_for(mirrored: Driver) -> None:
    due = scan_pb2.MakeScanDueRequest(path="/", provider="a")
    await mirrored.call("MakeScanDue", due)
    broken = await claim(mirrored, "a")
    assert broken is not None
    stop = scan_pb2.FinishScanRequest(scan_id=broken.scan_id, owner="scanner", cursor="d/x", error="it broke")
    await mirrored.call("FinishScan", stop)
    (wanted,) = (await mirrored.call("MakeScanDue", due)).scans
    again = await claim(mirrored, "a")
    assert again is not None
    assert (again.scan_id, again.cursor) == (broken.scan_id, "")
    done = scan_pb2.FinishScanRequest(scan_id=again.scan_id, owner="scanner", complete=True)
    finished = await mirrored.call("FinishScan", done)
    assert finished.scan.passes == wanted.passes + 1


async def test_what_may_be_a_file_or_a_directory_is_looked_for_as_both(mirrored: Driver) -> None:
    response = await mirrored.call("MakeScanDue", scan_pb2.MakeScanDueRequest(path="/d/new", provider="a"))
    assert [(one.prefix, one.recursive) for one in response.scans] == [("d", False), ("d/new", True)]
    with pytest.raises(NotFound):
        await mirrored.call("MakeScanDue", scan_pb2.MakeScanDueRequest(path="/", provider="nobody"))


async def test_a_listing_without_a_time_is_refused(mirrored: Driver) -> None:
    with pytest.raises(InvalidArgument):
        await mirrored.call("CompareListing", scan_pb2.CompareListingRequest(provider_id=mirrored.providers["a"]))
