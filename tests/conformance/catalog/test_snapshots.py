"""Snapshots hold the whole catalog, on either database; what a catalog is rebuilt from prevails in a fixed order."""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogs.driver import Driver, open_driver
from catalogs.recovery import File, rebuild, see, see_world, take
from catalogs.world import World
from cdir.errors import (
    AlreadyExists,
    Conflict,
    IntegrityError,
    InvalidArgument,
    IsDirectory,
    NotDirectory,
    NotFound,
    PreconditionFailed,
)
from cdir.status import translated
from cdir.v1 import catalog_recovery_pb2 as recovery
from cdir.v1 import entry_pb2
from cdir_catalog.database import open_database
from cdir_catalog.migrate import migrate
from cdir_catalog.snapshot_file import read_lines, write_frames
from cdir_catalog.store.dumping import dump_whole
from cdir_catalog.store.loading import load_file, wipe

if TYPE_CHECKING:
    from conformance.catalog.conftest import Databases

_EXPECTED = (AlreadyExists, Conflict, InvalidArgument, IsDirectory, NotDirectory, NotFound)
_NAMES = ("/t/a", "/t/b", "/t/d/a", "/t/d/b", "/t/e/a")
_PROVIDERS = ("a", "b", "c")


def _rows(file: File) -> dict[str, list[Any]]:
    """The rows of a whole snapshot by table, in one order."""
    found: dict[str, list[Any]] = {}
    for line in list(read_lines(io.BytesIO(file.data), file.name))[1:]:
        found.setdefault(line["table"], []).extend(dict(zip(line["columns"], row, strict=True)) for row in line["rows"])
    return {name: sorted(rows, key=repr) for name, rows in found.items()}


async def _reloaded(url: str, *files: File) -> File:
    """Load files as they are into the new database ``url``, and dump that again."""
    async with open_database(url) as database:
        await database.write(migrate)

        def load(connection: Any) -> None:
            wipe(connection)
            base = ""
            for file in files:
                load_file(connection, io.BytesIO(file.data), file.name, base)
                base = file.name

        await database.write(load)
        dumped = await database.read(lambda connection: b"".join(write_frames(dump_whole(connection, {"base": ""}))))
    return File("again", dumped)


async def _fill(driver: Driver) -> None:
    await driver.write("/a/one", b"first")
    await driver.write("/a/one", b"second")
    await driver.write("/a/two", on=["a", "b"], base_generation=0)
    await driver.write("/ä/😀\u2028", b"")
    await driver.write("/gone")
    await driver.remove("/gone")
    await driver.write("/in", workspace="team")
    await driver.move("/a", "/b")
    await driver.set_policy("/b", copies=2)


@pytest.fixture(params=["sqlite", "postgres"])
def elsewhere(request: pytest.FixtureRequest) -> Databases:
    """Where to a catalog is taken."""
    made: Databases = request.getfixturevalue(f"{request.param}_databases")
    return made


async def test_a_snapshot_is_the_catalog_whatever_the_database(mirrored: Driver, elsewhere: Databases) -> None:
    await _fill(mirrored)
    taken = await take(mirrored)
    assert taken is not None
    assert _rows(await _reloaded(await elsewhere.empty(), taken)) == _rows(taken)


async def test_rows_made_after_a_rebuild_are_numbered_on(mirrored: Driver, other: Driver) -> None:
    await _fill(mirrored)
    taken = await take(mirrored)
    assert taken is not None
    other.providers.update(mirrored.providers)
    await rebuild(other, [taken])
    await other.write("/new")
    assert sorted(await other.paths("/")) == ["/b", "/new", "/ä"]


@pytest.fixture
async def other(databases: Databases) -> AsyncIterator[Driver]:
    """A second catalog, empty and without providers."""
    url, _ = await databases.catalog(mirrored=False)
    async with open_driver(url) as opened:
        yield opened


@pytest.fixture
async def again(databases: Databases) -> AsyncIterator[Driver]:
    """A second catalog that knows the providers of ``mirrored`` under their ids, and nothing else."""
    url, providers = await databases.catalog(mirrored=True)
    async with open_driver(url) as opened:
        opened.providers.update(providers)
        yield opened


# -- when --------------------------------------------------------------------------------------------------------------


async def _due(driver: Driver, **fields: Any) -> str:
    request = recovery.ClaimSnapshotRequest(owner="one", **fields)
    name: str = (await driver.call("ClaimSnapshot", request)).name
    return name


async def test_nothing_is_due_before_the_first_change_or_without_another(mirrored: Driver) -> None:
    assert await take(mirrored) is None
    await mirrored.write("/a")
    assert await take(mirrored) is not None
    assert await take(mirrored) is None
    await mirrored.set_policy("/a", copies=1)
    assert await take(mirrored) is not None


async def test_a_change_waits_a_little_for_others(mirrored: Driver) -> None:
    await mirrored.write("/a")
    assert await _due(mirrored) == ""
    assert await _due(mirrored, delay_seconds=1e-9) != ""


async def test_one_at_a_time_makes_a_snapshot_until_its_lease_ends(mirrored: Driver) -> None:
    await mirrored.write("/a")
    first = await _due(mirrored, at_once=True, lease_seconds=1e-9)
    assert await _due(mirrored, at_once=True) != ""  # the lease before has ended
    assert await _due(mirrored, at_once=True) == ""
    late = recovery.FinishSnapshotRequest(name=first, owner="another", stored=True)
    await mirrored.call("FinishSnapshot", late)
    assert await _due(mirrored, at_once=True) == ""


async def test_a_claim_is_renewed_while_it_is_held_and_no_longer(mirrored: Driver) -> None:
    await mirrored.write("/a")
    name = await _due(mirrored, at_once=True)

    async def renew(owner: str, seconds: float = 600.0) -> None:
        request = recovery.RenewSnapshotRequest(name=name, owner=owner, lease_seconds=seconds)
        await mirrored.call("RenewSnapshot", request)

    await renew("one")
    with pytest.raises(Conflict, match="has ended"):
        await renew("another")
    await renew("one", 1e-9)
    with pytest.raises(Conflict, match="has ended"):
        await renew("one")
    assert await _due(mirrored, at_once=True) != ""


async def test_one_that_was_not_stored_is_due_again(mirrored: Driver) -> None:
    await mirrored.write("/a")
    name = await _due(mirrored, at_once=True)
    await mirrored.call("FinishSnapshot", recovery.FinishSnapshotRequest(name=name, owner="one", stored=False))
    assert await take(mirrored) is not None


async def test_increments_follow_a_whole_snapshot_while_it_is_young(mirrored: Driver) -> None:
    names = []
    for number in range(3):
        await mirrored.write(f"/{number}")
        taken = await take(mirrored)
        assert taken is not None
        names.append(taken.name.rpartition(".")[2])
    assert names == ["snapshot", "increment", "increment"]
    await mirrored.write("/more")
    whole = await take(mirrored, whole_seconds=1e-9)
    assert whole is not None
    assert whole.name.endswith(".snapshot")


async def test_a_dump_of_what_was_not_claimed_is_refused(mirrored: Driver) -> None:
    with pytest.raises(NotFound), translated():
        async for _ in mirrored.stub.DumpCatalog(recovery.DumpCatalogRequest(name="20260101T000000000Z-1.snapshot")):
            pass


# -- rebuilding --------------------------------------------------------------------------------------------------------


def _seen(key: str, size: int, modified: int, *, exact: bool = True, **fields: Any) -> recovery.Sighting:
    sighting = recovery.Sighting(key=key, size=size, exact=exact, **fields)
    sighting.modified.seconds = modified
    return sighting


async def _three_files(driver: Driver) -> File:
    """Files of 7 bytes, modified at the epoch, on every provider; returns a snapshot."""
    for path in ("/x", "/y", "/z"):
        await driver.write(path)
    taken = await take(driver)
    assert taken is not None
    return taken


async def test_a_catalog_with_files_is_not_rebuilt(mirrored: Driver, again: Driver) -> None:
    taken = await _three_files(mirrored)
    await again.make_directory("/mine")
    with pytest.raises(PreconditionFailed):
        await rebuild(again, [taken])
    assert await again.paths() == ["/mine"]


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "trailing"])
async def test_a_damaged_snapshot_changes_nothing(mirrored: Driver, again: Driver, how: str) -> None:
    data = (await _three_files(mirrored)).data
    middle = len(data) // 2
    damaged = {
        "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut": data[:-40],
        "empty": b"",
        "trailing": data + b"x",
    }[how]
    with pytest.raises(IntegrityError, match="older one"):
        await rebuild(again, [File("s", damaged)])
    assert await again.paths() == []
    assert (await again.read_provider("a")).name == "a"


async def test_an_increment_needs_its_own_base(mirrored: Driver, again: Driver) -> None:
    taken = await _three_files(mirrored)
    await mirrored.write("/more")
    increment = await take(mirrored)
    assert increment is not None
    with pytest.raises(IntegrityError):
        await rebuild(again, [increment])
    with pytest.raises(IntegrityError):
        await rebuild(again, [File("another", taken.data), increment])
    await rebuild(again, [taken, increment])
    assert await again.paths() == ["/more", "/x", "/y", "/z"]


async def test_a_stream_without_a_commit_and_a_dry_run_change_nothing(mirrored: Driver, again: Driver) -> None:
    taken = await _three_files(mirrored)
    with pytest.raises(InvalidArgument):
        await rebuild(again, [taken], commit=False)
    assert (await rebuild(again, [taken], dry_run=True)).files == 3
    assert await again.paths() == []


async def test_objects_that_are_as_recorded_need_no_work(mirrored: Driver, again: Driver) -> None:
    taken = await _three_files(mirrored)
    for name in _PROVIDERS:
        await see(again, name, [_seen(key, 7, 0) for key in ("x", "y", "z")])
    report = await rebuild(again, [taken], listed=_PROVIDERS)
    assert (report.files, report.known, report.adopted, report.without_copy) == (3, 3, 0, 0)
    await again.place()
    assert await again.claim() == []
    assert (await again.status()).files == 3
    assert (await again.entry("/x")).sha256 == (await mirrored.entry("/x")).sha256


async def test_what_one_provider_lost_is_owed_there(mirrored: Driver, again: Driver) -> None:
    taken = await _three_files(mirrored)
    await see(again, "a", [_seen(key, 7, 0) for key in ("x", "y", "z")])
    await see(again, "b", [_seen(key, 7, 0) for key in ("x", "z")])
    await rebuild(again, [taken], listed=["a", "b"])
    assert await again.states("/y") == {"a": "OK", "b": "MISSING", "c": "UNKNOWN"}


async def test_a_file_that_no_provider_holds_is_said_and_kept(mirrored: Driver, again: Driver) -> None:
    taken = await _three_files(mirrored)
    for name in _PROVIDERS:
        await see(again, name, [_seen(key, 7, 0) for key in ("x", "y")])
    report = await rebuild(again, [taken], listed=_PROVIDERS)
    assert (report.without_copy, list(report.without_copy_paths)) == (1, ["/z"])
    assert await again.paths() == ["/x", "/y", "/z"]


async def test_a_newer_object_wins_and_the_known_content_stays_a_version(mirrored: Driver, again: Driver) -> None:
    taken = await _three_files(mirrored)
    await see(again, "a", [_seen("x", 9, 500)])
    await see(again, "b", [_seen("x", 7, 0)])
    await see(again, "c", [])
    await rebuild(again, [taken], listed=_PROVIDERS)
    entry = await again.entry("/x")
    assert (entry.size, entry.generation, entry.sha256) == (9, 2, b"")
    assert [(version.size, version.current) for version in await again.versions("/x")] == [(9, True), (7, False)]
    await again.place()
    assert await again.states("/x") == {"a": "OK", "b": "MISSING", "c": "MISSING"}


async def test_an_older_object_is_kept_as_a_version(mirrored: Driver, again: Driver) -> None:
    begun = await mirrored.begin_one("/x")
    commitment = mirrored.commitment(begun, b"content", _PROVIDERS)
    commitment.modified.seconds = 1000
    await mirrored.commit_one(commitment)
    taken = await take(mirrored)
    assert taken is not None
    await see(again, "a", [_seen("x", 9, 500)])
    await see(again, "b", [_seen("x", 7, 1000)])
    await see(again, "c", [])
    await rebuild(again, [taken], listed=_PROVIDERS)
    assert [(one.generation, one.size, one.current) for one in await again.versions("/x")] == [
        (2, 7, True),
        (1, 9, False),
    ]
    assert await again.states("/x") == {"a": "MISSING", "b": "OK", "c": "MISSING"}
    assert (await again.entry("/x")).sha256 != b""
    await again.write("/x", b"third", on=["b", "c"])  # the next number is free
    assert (await again.entry("/x")).generation == 3


async def test_what_was_set_aside_everywhere_was_removed(mirrored: Driver, again: Driver) -> None:
    taken = await _three_files(mirrored)
    version = (await mirrored.entry("/z")).version_id
    for name in _PROVIDERS:
        aside = f".cdir/versions/{version[:2]}/{version}"
        await see(again, name, [_seen("x", 7, 0), _seen("y", 7, 0), _seen(aside, 7, 0)])
    report = await rebuild(again, [taken], listed=_PROVIDERS)
    assert (report.files, report.removed) == (2, 1)
    assert await again.paths() == ["/x", "/y"]
    assert [one.version_id for one in await again.versions("/z")] == [version]


async def _renamed(mirrored: Driver, again: Driver, objects: dict[str, int]) -> recovery.RebuildReport:
    """Rebuild from a snapshot of some files, all of 7 bytes, and providers that hold these objects now, by time."""
    taken = await take(mirrored)
    assert taken is not None
    for name in _PROVIDERS:
        await see(again, name, [_seen(key, 7, modified) for key, modified in objects.items()])
    return await rebuild(again, [taken], listed=_PROVIDERS)


async def _write_at(driver: Driver, times: dict[str, int]) -> dict[str, str]:
    """Write files of 7 bytes with these modified times; returns their version ids."""
    for path, modified in times.items():
        begun = await driver.begin_one(path)
        commitment = driver.commitment(begun, b"content", _PROVIDERS)
        commitment.modified.seconds = modified
        await driver.commit_one(commitment)
    return {path: (await driver.entry(path)).version_id for path in times}


async def test_a_file_renamed_since_keeps_its_history_under_its_new_name(mirrored: Driver, again: Driver) -> None:
    known = await _write_at(mirrored, {"/d/a": 100, "/d/b": 200})
    report = await _renamed(mirrored, again, {"e/other": 100, "d/b": 200})
    assert (report.files, report.adopted, report.without_copy) == (2, 0, 0)
    assert (await again.entry("/e/other")).version_id == known["/d/a"]
    assert (await again.entry("/e/other")).sha256 != b""
    assert await again.states("/e/other") == dict.fromkeys(_PROVIDERS, "OK")
    assert await again.paths("/d") == ["/d/b"]
    await again.place()
    assert await again.claim() == []


async def test_files_renamed_over_one_another_are_followed(mirrored: Driver, again: Driver) -> None:
    known = await _write_at(mirrored, {"/a": 100, "/b": 200})
    aside = f".cdir/versions/{known['/b'][:2]}/{known['/b']}"
    report = await _renamed(mirrored, again, {"b": 100, aside: 200})
    assert (report.files, report.without_copy) == (1, 0)
    assert [one.version_id for one in await again.versions("/b")] == [known["/a"], known["/b"]]


async def test_a_folder_renamed_since_takes_along_what_is_all_alike(mirrored: Driver, again: Driver) -> None:
    names = [f"x{number}/__init__.py" for number in range(5)]
    times = {f"/old/{name}": 100 for name in names} | {f"/old/x{number}/m{number}.py": 200 for number in range(5)}
    known = await _write_at(mirrored, times)
    report = await _renamed(mirrored, again, {path.replace("/old", "new"): at for path, at in times.items()})
    assert (report.files, report.adopted, report.without_copy) == (10, 0, 0)
    found = await again.paths("/new", recursive=True, kind=entry_pb2.ENTRY_KIND_FILE)
    assert {path: (await again.entry(path)).version_id for path in found} == {
        path.replace("/old", "/new"): version for path, version in known.items()
    }


async def test_what_cannot_be_told_apart_is_not_followed(mirrored: Driver, again: Driver) -> None:
    await _write_at(mirrored, {"/a": 100, "/b": 100})
    report = await _renamed(mirrored, again, {"c": 100, "d": 100})
    assert (report.files, report.adopted, report.without_copy) == (4, 2, 2)


async def test_a_name_that_is_taken_is_not_given_away(mirrored: Driver, again: Driver) -> None:
    """Two providers hold the file as it was, one holds another's content under its name."""
    known = await _write_at(mirrored, {"/a": 100, "/b": 200})
    taken = await take(mirrored)
    assert taken is not None
    for name in _PROVIDERS:
        await see(again, name, [_seen("b", 7, 100 if name == "a" else 200)])
    await rebuild(again, [taken], listed=_PROVIDERS)
    assert (await again.entry("/b")).version_id == known["/b"]
    assert await again.paths("/") == ["/a", "/b"]


async def test_without_a_snapshot_names_sizes_and_times_tell(again: Driver) -> None:
    await see(again, "a", [_seen("d/f", 5, 100), _seen("@team/g", 1, 1), _seen(".cdir/versions/ab/ab", 1, 1)])
    await see(again, "b", [_seen("d/f", 5, 100), _seen("d", 3, 1), _seen("bad/../name", 3, 1)])
    await see(again, "c", [_seen("d/f", 6, 50)])
    report = await rebuild(again, listed=_PROVIDERS)
    assert (report.files, report.adopted, report.older, report.unexplained) == (2, 2, 1, 1)
    assert report.ignored == 2
    assert await again.paths("/", recursive=True) == ["/d", "/d/f"]
    await again.place()
    assert (await again.entry("/g", workspace="team")).size == 1


async def test_providers_are_recognised_by_what_they_are(driver: Driver, other: Driver) -> None:
    """They were added anew, one under another name; the third is not there any more, the fourth is new."""
    for name in _PROVIDERS:
        await driver.add_provider(name, options={"root": f"/{name}"})
    taken = await _three_files(driver)
    await other.add_provider("disk", options={"root": "/a"})
    await other.add_provider("b", options={"root": "/moved"})
    await other.add_provider("d", options={"root": "/d"})
    for name in ("disk", "b"):
        await see(other, name, [_seen(key, 7, 0) for key in ("x", "y", "z")])
    await see(other, "d", [])
    await rebuild(other, [taken], listed=["disk", "b", "d"])
    assert (await other.read_provider("disk")).provider_id == other.providers["disk"]
    assert (await other.read_provider("c")).provider_id == driver.providers["c"]
    await other.place()
    assert await other.states("/x") == {"disk": "OK", "b": "OK", "c": "UNKNOWN", "d": "MISSING"}


# -- whatever happened before ------------------------------------------------------------------------------------------

_names = st.sampled_from(_NAMES)
_directories = st.sampled_from(("/t/d", "/t/e", "/t/f"))
_operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _names, st.integers(-1, 14)),
        st.tuples(st.just("write"), _names, st.just(-1)),
        st.tuples(st.just("move"), _names, _names),
        st.tuples(st.just("move"), _directories, _directories),
        st.tuples(st.just("remove"), st.one_of(_names, _directories)),
        st.tuples(st.just("work"), st.integers(1, 6)),
        st.tuples(st.just("recover")),
    ),
    max_size=8,
)


async def _apply(world: World, operations: list[tuple[Any, ...]]) -> None:
    for operation in operations:
        with contextlib.suppress(*_EXPECTED):
            match operation:
                case "write", path, dies_at:
                    await world.write(path, dies_at=dies_at)
                case "move", source, target:
                    await world.driver.move(source, target, overwrite=True)
                case "remove", path:
                    await world.driver.remove(path, recursive=True)
                case "work", limit:
                    await world.work(limit=limit)
                case _:
                    await world.recover()


async def _current(driver: Driver) -> dict[str, str]:
    paths = await driver.paths("/", recursive=True, kind=entry_pb2.ENTRY_KIND_FILE)
    return {path: (await driver.entry(path)).version_id for path in paths}


async def _adopt(world: World) -> set[str]:
    """Give what was adopted the id that the catalog made for it; returns the ids of all contents that can be read."""
    readable = set()
    for path in [*(await _current(world.driver)), *_NAMES]:
        with contextlib.suppress(NotFound, IsDirectory):
            for version in await world.driver.versions(path):
                for replica in (await world.driver.resolve(path, version.generation)).replicas:
                    there = world.objects[replica.provider_id]
                    if replica.key not in there:
                        continue
                    readable.add(there[replica.key])
                    if not version.sha256:
                        world.modified[version.version_id] = world.modified[there[replica.key]]
                        there[replica.key] = version.version_id
    return readable


async def _run(folder: Path, before: Any, between: Any, after: Any) -> None:
    files: list[File] = []
    async with open_driver(f"sqlite:///{folder / 'old.db'}") as driver:
        world = World(driver)
        for name in _PROVIDERS:
            await world.add_provider(name)
        for operations in (before, between):
            await _apply(world, operations)
            if (taken := await take(driver)) is not None:
                files.append(taken)
        known = set(world.modified)
        if len(files) == 2:
            again = await _reloaded(f"sqlite:///{folder / 'again.db'}", *files)
            assert _contents(again) == _contents(await _whole(driver))
        await _apply(world, after)
        current = await _current(driver)
    async with open_driver(f"sqlite:///{folder / 'new.db'}") as rebuilt:
        for name in _PROVIDERS:
            await rebuilt.add_provider(name)
        new = World(rebuilt, modified=world.modified)
        new.objects = {rebuilt.providers[name]: world.objects[driver.providers[name]] for name in _PROVIDERS}
        await see_world(rebuilt, world, _PROVIDERS)
        await rebuild(rebuilt, files, listed=_PROVIDERS)
        # a write that died is in no snapshot: what it left is taken for somebody's newer edit, and the current one kept
        died = any(operation[0] == "write" and operation[2] >= 0 for operation in (*before, *between))
        if files and not after and not died:
            found = await _current(rebuilt)
            assert {path: version for path, version in found.items() if path in current} == current
        lost = set(current.values()) - await _adopt(new)
        # what was moved aside and no snapshot knows lies there and is counted as unexplained: a write died that was to
        # replace it, or its file was renamed and had not come to its new name yet
        aside = {version for there in new.objects.values() for key, version in there.items() if key[0] == "."}
        assert not lost - (aside - known)
        await new.check_readable()
        await new.settle()
        await new.check_readable()
        await new.check_settled()


async def _whole(driver: Driver) -> File:
    """What a whole snapshot would hold now."""
    async with open_database(driver.url) as database:
        data = await database.read(lambda connection: b"".join(write_frames(dump_whole(connection, {"base": ""}))))
    return File("whole", data)


def _contents(file: File) -> dict[str, list[Any]]:
    """Entries and versions: the part of which an increment brings only what has changed."""
    rows = _rows(file)
    return {name: rows.get(name, []) for name in ("entries", "versions", "providers", "workspaces", "changes")}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty catalog to begin each example with."""
    path = tmp_path_factory.mktemp("template") / "catalog.db"

    async def make() -> None:
        async with open_driver(f"sqlite:///{path}"):
            pass

    asyncio.run(make())
    return path


@settings(max_examples=settings().max_examples // 2)
@given(before=_operations, between=_operations, after=_operations)
def test_what_was_current_survives_the_loss_of_the_catalog(
    template: Path, before: Any, between: Any, after: Any
) -> None:
    """A snapshot, an increment, and whatever nobody wrote down; the catalog made anew has it, and comes to rest."""
    with tempfile.TemporaryDirectory(prefix="cdir-") as folder:
        for name in ("old", "again", "new"):
            shutil.copy(template, Path(folder) / f"{name}.db")
        asyncio.run(_run(Path(folder), before, between, after))
