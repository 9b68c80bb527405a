"""Directories, listing, search, moving, removing, versions."""

from __future__ import annotations

from typing import Any

import pytest

from catalogs.driver import Driver
from cdir.errors import (
    AlreadyExists,
    CdirError,
    Conflict,
    InvalidArgument,
    IsDirectory,
    NotDirectory,
    NotFound,
)
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import directory_service_pb2 as directory
from cdir.v1 import entry_pb2
from cdir_catalog.store import listing, name_parts


async def _work_off(driver: Driver) -> None:
    while items := await driver.claim():
        await driver.finish(items)


# -- directories and listing ------------------------------------------------------------------------------------------


async def test_making_a_directory(mirrored: Driver) -> None:
    response = await mirrored.make_directory("/a/b")
    assert (response.made, response.entry.path, response.entry.kind) == (True, "/a/b", entry_pb2.ENTRY_KIND_DIRECTORY)
    assert not (await mirrored.make_directory("/a/b")).made
    assert not (await mirrored.make_directory("/")).made
    assert await mirrored.paths("/", recursive=True) == ["/a", "/a/b"]
    await mirrored.write("/file")
    for path in ("/file", "/file/below"):
        with pytest.raises(NotDirectory):
            await mirrored.make_directory(path)


async def test_directories_made_together_succeed_or_fail_alone(mirrored: Driver) -> None:
    await mirrored.write("/file")
    refs = [
        *(directory.EntryRef(path=path) for path in ("/a/b", "/a", "/file/x/y", "no/root", "/a/b", "/", "/file")),
        directory.EntryRef(workspace="team", path="/a"),
    ]
    results = await mirrored.make_directories(*refs)
    assert [one.failure.reason for one in results] == [
        "",
        "",
        "NOT_DIRECTORY",
        "INVALID_PATH",
        "",
        "",
        "NOT_DIRECTORY",
        "",
    ]
    assert [one.made for one in results] == [True, False, False, False, False, False, False, True]
    assert [one.entry.path for one in results] == ["/a/b", "/a", "", "", "/a/b", "/", "", "/a"]
    assert await mirrored.paths("/", recursive=True) == ["/a", "/file", "/a/b"]
    with pytest.raises(InvalidArgument, match="1001 items"):
        await mirrored.make_directories(*(directory.EntryRef(path=f"/{number}") for number in range(1001)))


async def test_removals_together_succeed_or_fail_alone(mirrored: Driver) -> None:
    for path in ("/a", "/b", "/c", "/d/x", "/d/y", "/full/z", "/written"):
        await mirrored.write(path)
    await mirrored.make_directory("/empty")
    await mirrored.write("/a", workspace="team")
    await mirrored.begin_one("/written")
    removals = [
        directory.EntryRemoval(path="/a"),
        directory.EntryRemoval(path="/a"),
        directory.EntryRemoval(path="/b", if_generation=2),
        directory.EntryRemoval(path="/c", if_generation=1),
        directory.EntryRemoval(path="/d", recursive=True),
        directory.EntryRemoval(path="/full"),
        directory.EntryRemoval(path="/written"),
        directory.EntryRemoval(path="/empty"),
        directory.EntryRemoval(path="/none"),
        directory.EntryRemoval(path="/"),
        directory.EntryRemoval(path="no/root"),
        directory.EntryRemoval(workspace="team", path="/a"),
        directory.EntryRemoval(workspace="none", path="/a"),
    ]
    results = await mirrored.remove_each(*removals)
    assert [one.failure.reason or one.files for one in results] == [
        *(1, "NOT_FOUND", "CONFLICT", 1, 2, "DIRECTORY_NOT_EMPTY", "CONFLICT", 0, "NOT_FOUND"),
        *("INVALID_ARGUMENT", "INVALID_PATH", 1, "NOT_FOUND"),
    ]
    assert await mirrored.paths("/", recursive=True) == ["/b", "/full", "/written", "/full/z"]
    assert (await mirrored.status()).files == 3
    with pytest.raises(InvalidArgument, match="1001 items"):
        await mirrored.remove_each(*(directory.EntryRemoval(path=f"/{number}") for number in range(1001)))


async def test_files_removed_together_are_removals_of_their_own(mirrored: Driver) -> None:
    """What the latest removal took away is one of them, not all that went with it."""
    for name in ("x", "y", "z"):
        await mirrored.write(f"/d/{name}", on=["a", "b", "c"])
    await mirrored.remove_each(*(directory.EntryRemoval(path=f"/d/{name}") for name in ("x", "y", "z")))
    response = await mirrored.call("ListRestorable", catalog.ListRestorableRequest(path="/d", recursive=True))
    assert [one.path for one in response.contents] == ["/d/z"]


async def test_a_listing_is_in_the_order_of_bytes(mirrored: Driver) -> None:
    """Names that sort between a directory and what lies below it do not disturb the order."""
    for path in ("/a/x", "/a-b", "/a b", "/a!/y", "/a0", "/B", "/é", "/a/é", "/a/z/deep"):
        await mirrored.write(path)
    listed = await mirrored.paths("/", recursive=True)
    keys = [((path.rpartition("/")[0] or "/").encode(), path.rpartition("/")[2].encode()) for path in listed]
    assert keys == sorted(keys)
    assert len(listed) == 12
    assert await mirrored.paths("/a", recursive=True) == ["/a/x", "/a/z", "/a/é", "/a/z/deep"]
    assert await mirrored.paths("/a") == ["/a/x", "/a/z", "/a/é"]


async def test_pages_cover_everything_once(mirrored: Driver) -> None:
    for path in ("/d/1", "/d/2", "/d/2x/a", "/d/2x/b", "/d-/no", "/d/3"):
        await mirrored.write(path)
    for recursive, count in ((False, 4), (True, 6)):
        whole = await mirrored.paths("/d", recursive=recursive)
        assert len(whole) == count
        for page_size in (1, 2, 3, 100):
            assert await mirrored.paths("/d", recursive=recursive, page_size=page_size) == whole


async def test_pages_are_not_shifted_by_what_comes_and_goes(mirrored: Driver) -> None:
    for name in "bdfh":
        await mirrored.write(f"/{name}")
    request = directory.ListEntriesRequest(path="/", page_size=2)
    page = await mirrored.call("ListEntries", request)
    assert [entry.path for entry in page.entries] == ["/b", "/d"]
    await mirrored.write("/a")
    await mirrored.remove("/d")
    await mirrored.write("/e")
    request.page_token = page.next_page_token
    page = await mirrored.call("ListEntries", request)
    assert [entry.path for entry in page.entries] == ["/e", "/f"]


async def test_a_listing_by_kind_and_of_a_file(mirrored: Driver) -> None:
    await mirrored.write("/d/f")
    await mirrored.write("/g", on=["a", "b"])
    assert await mirrored.paths("/", recursive=True, kind=entry_pb2.ENTRY_KIND_FILE) == ["/g", "/d/f"]
    assert await mirrored.paths("/", recursive=True, kind=entry_pb2.ENTRY_KIND_DIRECTORY) == ["/d"]
    assert await mirrored.paths("/g") == ["/g"]
    response = await mirrored.call("ListEntries", directory.ListEntriesRequest(path="/"))
    assert {entry.path: entry.owed for entry in response.entries} == {"/d": 0, "/g": 1}


_ABSENT: list[tuple[str, Any]] = [
    ("ListEntries", directory.ListEntriesRequest(path="/none")),
    ("ResolveTree", catalog.ResolveTreeRequest(path="/none")),
    ("ResolveTree", catalog.ResolveTreeRequest(workspace="none", path="/")),
    ("SearchEntries", directory.SearchEntriesRequest(path="/none", pattern="x")),
    ("MoveEntry", directory.MoveEntryRequest(source="/none", target="/x")),
    ("ListVersions", directory.ListVersionsRequest(path="/none")),
    ("GetFileStatus", directory.GetFileStatusRequest(path="/none")),
    ("GetTreeStatus", directory.GetTreeStatusRequest(path="/none")),
    ("MakeDue", catalog.MakeDueRequest(path="/none")),
    ("MakeDue", catalog.MakeDueRequest(path="/", provider="none")),
    ("UnsetPolicy", directory.UnsetPolicyRequest(path="/none")),
    ("ListEntries", directory.ListEntriesRequest(workspace="none", path="/")),
]


async def test_what_is_not_there(mirrored: Driver) -> None:
    for method, request in _ABSENT:
        with pytest.raises(NotFound):
            await mirrored.call(method, request)


_REFUSED: list[tuple[str, Any, type[CdirError]]] = [
    ("ListEntries", directory.ListEntriesRequest(path="/", page_token="%"), InvalidArgument),
    ("ListEntries", directory.ListEntriesRequest(path="/", page_size=-1), InvalidArgument),
    ("ResolveTree", catalog.ResolveTreeRequest(path="/", page_token="%"), InvalidArgument),
    ("ResolveTree", catalog.ResolveTreeRequest(path="/", page_size=-1), InvalidArgument),
    ("ResolveTree", catalog.ResolveTreeRequest(path="/d/f"), NotDirectory),
    ("SearchEntries", directory.SearchEntriesRequest(path="/", pattern=""), InvalidArgument),
    ("SearchEntries", directory.SearchEntriesRequest(path="/d/f", pattern="x"), NotDirectory),
    ("GetTreeStatus", directory.GetTreeStatusRequest(path="/d/f"), NotDirectory),
    ("ListVersions", directory.ListVersionsRequest(path="/d"), IsDirectory),
    ("GetFileStatus", directory.GetFileStatusRequest(path="/d"), IsDirectory),
    ("MoveEntry", directory.MoveEntryRequest(source="/d", target="/d/e/x"), InvalidArgument),
    ("MoveEntry", directory.MoveEntryRequest(source="/d", target="/"), AlreadyExists),
    ("MoveEntry", directory.MoveEntryRequest(source="/", target="/x"), InvalidArgument),
    ("MoveEntry", directory.MoveEntryRequest(source="/d/f", target="/d/g"), AlreadyExists),
    ("MoveEntry", directory.MoveEntryRequest(source="/d/f", target="/d", overwrite=True), AlreadyExists),
    ("MoveEntry", directory.MoveEntryRequest(source="/d", target="/h", overwrite=True), NotDirectory),
    ("MoveEntry", directory.MoveEntryRequest(source="/d/f", target="/d/g/x"), NotDirectory),
]


async def test_what_cannot_be_done(mirrored: Driver) -> None:
    for path in ("/d/f", "/d/g", "/h"):
        await mirrored.write(path)
    before = await mirrored.paths("/", recursive=True)
    for method, request, error in _REFUSED:
        with pytest.raises(error):
            await mirrored.call(method, request)
        assert await mirrored.paths("/", recursive=True) == before


# -- search -----------------------------------------------------------------------------------------------------------


_SEARCHES = [
    ("/", "report", ["/Report.txt", "/d/my report.csv", "/d/report_1"]),
    ("/", "REPORT*", ["/Report.txt", "/d/report_1"]),
    ("/", "*.csv", ["/d/my report.csv"]),
    ("/", "report?1", ["/d/report_1"]),
    ("/", "_", ["/d/report_1"]),
    ("/", "100%", ["/100% ok"]),
    ("/d", "report", ["/d/my report.csv", "/d/report_1"]),
    ("/", "STRASSE", ["/straße"]),
    ("/", "none", []),
]


async def _search(driver: Driver, path: str, pattern: str) -> list[str]:
    hits: list[str] = []
    token = ""
    while True:
        request = directory.SearchEntriesRequest(path=path, pattern=pattern, page_size=2, page_token=token)
        page = await driver.call("SearchEntries", request)
        hits += [entry.path for entry in page.entries]
        token = page.next_page_token
        if not token:
            return hits


async def test_search(mirrored: Driver) -> None:
    for name in ("/Report.txt", "/d/my report.csv", "/d/report_1", "/100% ok", "/straße", "/d2/x"):
        await mirrored.write(name)
    for path, pattern, found in _SEARCHES:
        assert await _search(mirrored, path, pattern) == found, pattern


_ODD = ["/a'b\"c.txt", "/!x%y_z", "/back\\slash", "/ümläut.TXT", "/日本語の名前"]


async def test_a_part_of_a_name_is_found_whatever_it_is_made_of(mirrored: Driver) -> None:
    """Also where the index is asked, which knows no parts shorter than three characters."""
    for name in _ODD:
        await mirrored.write(name)
    for name in _ODD:
        for length in (1, 2, 3, 4, len(name) - 1):
            for begin in range(1, len(name) - length + 1):
                part = name[begin : begin + length]
                assert name in await _search(mirrored, "/", part), part
    for pattern in ('"""', "a'b\" OR", "%%%", "!!!", "\\\\\\", "NEAR(", "日本人", "b c"):
        assert await _search(mirrored, "/", pattern) == [], pattern
    with pytest.raises(InvalidArgument):
        await _search(mirrored, "/", "a\0b")


async def test_a_search_follows_what_becomes_of_names(mirrored: Driver) -> None:
    await mirrored.write("/Quarterly.csv")
    await mirrored.write("/d/quarter")
    await mirrored.move("/Quarterly.csv", "/d/Yearly.csv")
    assert await _search(mirrored, "/", "quarter") == ["/d/quarter"]
    assert await _search(mirrored, "/", "yearly") == ["/d/Yearly.csv"]
    await mirrored.move("/d", "/quarters")
    assert await _search(mirrored, "/", "quarter") == ["/quarters", "/quarters/quarter"]
    await mirrored.remove("/quarters/quarter")
    assert await _search(mirrored, "/", "quarter") == ["/quarters"]
    await mirrored.write("/quarters/quarter")
    assert await _search(mirrored, "/quarters", "quarter") == ["/quarters/quarter"]


async def test_a_search_looks_at_one_name_after_another_where_the_index_is_of_no_use(
    mirrored: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("/part-1", "/other", "/d/part-2", "/d/part-3", "/e/part-4", "/e/part-5"):
        await mirrored.write(name)
    found = await _search(mirrored, "/", "part-")
    assert found == ["/part-1", "/d/part-2", "/d/part-3", "/e/part-4", "/e/part-5"]
    monkeypatch.setattr(name_parts, "_MOST_CANDIDATES", 4)
    monkeypatch.setattr(listing, "_SEARCH_CHUNK", 3)
    assert await _search(mirrored, "/", "part-") == found


# -- moving -----------------------------------------------------------------------------------------------------------


async def test_moving_a_file_changes_the_path_at_once_and_the_objects_later(mirrored: Driver) -> None:
    written = await mirrored.write("/old/f")
    response = await mirrored.move("/old/f", "/new/g")
    assert (response.moved, response.entry.path, response.entry.version_id, response.entry.owed) == (
        1,
        "/new/g",
        written.version_id,
        3,
    )
    assert await mirrored.paths("/", recursive=True) == ["/new", "/old", "/new/g"]
    resolved = await mirrored.resolve("/new/g")
    assert {(one.key, one.alternate_keys[0]) for one in resolved.replicas} == {("old/f", "new/g")}
    await _work_off(mirrored)
    assert {one.key for one in (await mirrored.resolve("/new/g")).replicas} == {"new/g"}
    assert (await mirrored.entry("/new/g")).owed == 0


async def test_moving_there_and_back_owes_nothing(mirrored: Driver) -> None:
    await mirrored.write("/a")
    await mirrored.move("/a", "/b")
    await mirrored.move("/b", "/a")
    assert await mirrored.claim() == []
    assert (await mirrored.status()).owed == 0


async def test_a_move_onto_itself_is_nothing(mirrored: Driver) -> None:
    await mirrored.write("/a")
    assert (await mirrored.move("/a", "/a")).moved == 0


async def test_moving_over_a_file_keeps_both_histories(mirrored: Driver) -> None:
    await mirrored.write("/a", b"a1")
    await mirrored.write("/b", b"b1")
    replaced = await mirrored.write("/b", b"b2")
    entry = (await mirrored.move("/a", "/b", overwrite=True)).entry
    assert entry.generation == 3  # the path goes on counting
    assert [(one.generation, one.size) for one in await mirrored.versions("/b")] == [(3, 2), (2, 2), (1, 2)]
    assert (await mirrored.resolve("/b", generation=2)).version.version_id == replaced.version_id
    with pytest.raises(NotFound):
        await mirrored.entry("/a")
    await _work_off(mirrored)
    assert {one.key for one in (await mirrored.resolve("/b")).replicas} == {"b"}
    status = await mirrored.status()
    assert (status.files, status.bytes, status.owed, status.removals) == (1, 2, 0, 0)


async def test_two_names_change_places(mirrored: Driver) -> None:
    first, second = await mirrored.write("/a", b"1"), await mirrored.write("/b", b"2")
    await mirrored.move("/a", "/c")
    await mirrored.move("/b", "/a")
    await mirrored.move("/c", "/b")
    displaced: list[catalog.ReplicaObservation] = []
    while items := await mirrored.claim():
        for item in items:
            if item.HasField("occupant"):
                displaced.append(
                    catalog.ReplicaObservation(
                        version_id=item.occupant.version_id,
                        provider_id=item.replica.provider_id,
                        key=item.occupant.aside_key,
                        previous_key=item.target_key,
                        state=entry_pb2.REPLICA_STATE_OK,
                    )
                )
                await mirrored.record(displaced[-1])
            await mirrored.finish([item])
    assert len(displaced) == 3  # at each provider one of them made room
    assert (await mirrored.entry("/a")).version_id == second.version_id
    assert (await mirrored.entry("/b")).version_id == first.version_id
    assert {one.key for one in (await mirrored.replicas("/a")).values()} == {"a"}
    assert {one.key for one in (await mirrored.replicas("/b")).values()} == {"b"}


async def test_moving_a_directory_takes_all_along(mirrored: Driver) -> None:
    for path in ("/d/x", "/d/e/y", "/d-stays", "/d0/stays"):
        await mirrored.write(path)
    await mirrored.write("/d/owed", on=["a", "b"])
    response = await mirrored.move("/d", "/n/m")
    assert response.moved == 3
    assert await mirrored.paths("/", recursive=True) == [
        "/d-stays", "/d0", "/n", "/d0/stays", "/n/m", "/n/m/e", "/n/m/owed", "/n/m/x", "/n/m/e/y",
    ]  # fmt: skip
    assert (await mirrored.status()).owed == 9
    assert (await mirrored.status("/n")).owed == 9
    await _work_off(mirrored)
    assert (await mirrored.status()).owed == 0
    assert {one.key for one in (await mirrored.replicas("/n/m/e/y")).values()} == {"n/m/e/y"}
    assert {one.key for one in (await mirrored.replicas("/n/m/owed")).values()} == {"n/m/owed"}


async def test_a_write_under_way_holds_up_moving_and_removing(mirrored: Driver) -> None:
    await mirrored.write("/d/f")
    await mirrored.write("/other")
    begun = await mirrored.begin_one("/d/g")
    with pytest.raises(Conflict):
        await mirrored.move("/d", "/e")
    with pytest.raises(Conflict):
        await mirrored.remove("/d", recursive=True)
    with pytest.raises(Conflict):
        await mirrored.move("/other", "/d/g")
    await mirrored.abort(begun)
    await mirrored.move("/d", "/e")


# -- removing ---------------------------------------------------------------------------------------------------------


async def test_a_removed_file_stays_restorable(mirrored: Driver) -> None:
    old = await mirrored.write("/d/f", b"precious")
    assert await mirrored.remove("/d/f", if_generation=1) == 1
    with pytest.raises(NotFound):
        await mirrored.entry("/d/f")
    assert await mirrored.paths("/d") == []
    (version,) = await mirrored.versions("/d/f")
    assert not version.current
    await _work_off(mirrored)
    aside = f".cdir/versions/{old.version_id[:2]}/{old.version_id}"
    assert {one.key for one in (await mirrored.resolve("/d/f", generation=1)).replicas} == {aside}
    status = await mirrored.status()
    assert (status.files, status.bytes, status.owed, status.removals) == (0, 0, 0, 0)


async def test_a_path_written_again_goes_on_counting(mirrored: Driver) -> None:
    await mirrored.write("/f", b"1")
    await mirrored.remove("/f")
    with pytest.raises(Conflict):
        await mirrored.begin_one("/f", base_generation=1)
    assert (await mirrored.write("/f", b"2", base_generation=0)).generation == 2
    assert [one.generation for one in await mirrored.versions("/f")] == [2, 1]


async def test_removing_a_directory(mirrored: Driver) -> None:
    for path in ("/d/x", "/d/e/y", "/d/e/z", "/d!"):
        await mirrored.write(path)
    await mirrored.write("/d/owed", on=["a", "b"])
    await mirrored.make_directory("/empty")
    assert await mirrored.remove("/empty") == 0
    assert await mirrored.remove("/d", recursive=True) == 4
    assert await mirrored.paths("/", recursive=True) == ["/d!"]
    status = await mirrored.status()
    assert (status.files, status.owed, status.removals) == (1, 0, 11)
    await _work_off(mirrored)
    assert (await mirrored.status()).removals == 0
    assert [one.generation for one in await mirrored.versions("/d/e/y")] == [1]
    await mirrored.make_directory("/d/x/now/a/directory")
    assert (await mirrored.write("/d/e/y")).generation == 2


async def test_removing_everything(mirrored: Driver) -> None:
    await mirrored.write("/a")
    await mirrored.write("/d/b")
    assert await mirrored.remove("/", recursive=True) == 2
    assert await mirrored.paths("/", recursive=True) == []


async def test_without_retention_removal_clears_away(mirrored: Driver) -> None:
    await mirrored.set_policy("/", keep_versions=0)
    await mirrored.set_policy("/d/kept", keep_versions=1)
    for path in ("/f", "/d/g", "/d/kept/h"):
        await mirrored.write(path)
    await mirrored.remove("/f")
    await mirrored.remove("/d", recursive=True)
    items = await mirrored.claim()
    kinds = sorted((catalog.DebtKind.Name(item.kind), item.replica.key) for item in items)
    assert kinds == sorted(
        [("DEBT_KIND_REMOVE", "f"), ("DEBT_KIND_REMOVE", "d/g"), ("DEBT_KIND_RELOCATE", "d/kept/h")] * 3
    )
    await mirrored.finish(items)
    assert await mirrored.claim() == []
    for path in ("/f", "/d/g"):
        with pytest.raises(NotFound):
            await mirrored.versions(path)
    assert len(await mirrored.versions("/d/kept/h")) == 1


async def test_a_copy_being_written_while_its_file_is_removed_is_not_forgotten(mirrored: Driver) -> None:
    await mirrored.write("/f", on=["a", "b"])
    (item,) = await mirrored.claim()
    assert item.kind == catalog.DEBT_KIND_COPY
    await mirrored.remove("/f")
    await mirrored.finish([item])  # by now there is an object at c, under a name that is gone
    claimed = await mirrored.claim()
    assert {(one.replica.provider, one.replica.key) for one in claimed} == {("a", "f"), ("b", "f"), ("c", "f")}


# -- versions ---------------------------------------------------------------------------------------------------------


async def test_only_so_many_versions_are_kept(mirrored: Driver) -> None:
    await mirrored.set_policy("/", keep_versions=2)
    for number in range(5):
        await mirrored.write("/f", b"x" * number)
    reaped = await mirrored.call("ReapVersions", catalog.ReapVersionsRequest())
    assert reaped.reaped == 2
    assert [one.generation for one in await mirrored.versions("/f")] == [5, 4, 3]
    items = await mirrored.claim()
    assert [item.kind for item in items] == [catalog.DEBT_KIND_REMOVE] * 6
    await mirrored.finish(items)
    assert (await mirrored.call("ReapVersions", catalog.ReapVersionsRequest())).reaped == 0
    assert (await mirrored.status()).removals == 0


async def test_versions_are_kept_only_for_so_long(mirrored: Driver) -> None:
    await mirrored.write("/f", b"1")
    await mirrored.write("/f", b"2")
    assert (await mirrored.call("ReapVersions", catalog.ReapVersionsRequest())).reaped == 0
    await mirrored.set_policy("/f", keep_seconds=0)
    await mirrored.place()
    assert (await mirrored.call("ReapVersions", catalog.ReapVersionsRequest())).reaped == 1
    assert [one.generation for one in await mirrored.versions("/f")] == [2]


async def test_workspaces_are_apart(mirrored: Driver) -> None:
    await mirrored.write("/f", b"mine")
    await mirrored.write("/f", b"the team's", workspace="team")
    assert (await mirrored.resolve("/f", workspace="team")).replicas[0].key == "@team/f"
    assert (await mirrored.status(workspace="team")).bytes == 10
    assert (await mirrored.status()).bytes == 4
    await mirrored.call("MoveEntry", directory.MoveEntryRequest(workspace="team", source="/f", target="/d/g"))
    await mirrored.call("MoveEntry", directory.MoveEntryRequest(workspace="team", source="/d", target="/e"))
    await _work_off(mirrored)
    assert (await mirrored.resolve("/e/g", workspace="team")).replicas[0].key == "@team/e/g"
