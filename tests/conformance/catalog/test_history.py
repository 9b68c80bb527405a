"""What a restore means, the trash, and conflicting copies in the catalog."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from catalogs.driver import Driver, sha256
from cdir.errors import CdirError, InvalidArgument, IsDirectory, NotFound
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import directory_service_pb2 as directory
from cdir.v1 import entry_pb2


def _at(nanoseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(nanoseconds)
    return stamp


async def _restorable(driver: Driver, path: str, **fields: Any) -> list[catalog.RestorableContent]:
    """Return the contents of every page."""
    found: list[catalog.RestorableContent] = []
    token = ""
    while True:
        request = catalog.ListRestorableRequest(path=path, page_token=token, **{"recursive": True, **fields})
        response = await driver.call("ListRestorable", request)
        found += response.contents
        token = response.next_page_token
        if not token:
            return found


async def _shown(driver: Driver, path: str, at: int, **fields: Any) -> dict[str, bytes]:
    """Return the digests of what a tree showed at a time, by path."""
    return {one.path: one.version.sha256 for one in await _restorable(driver, path, at=_at(at), **fields)}


async def _trash(driver: Driver, path: str = "/", page_size: int = 0) -> list[directory.TrashedFile]:
    found: list[directory.TrashedFile] = []
    token = ""
    while True:
        request = directory.ListTrashRequest(path=path, page_size=page_size, page_token=token)
        response = await driver.call("ListTrash", request)
        found += response.files
        token = response.next_page_token
        if not token:
            return found


async def _empty(driver: Driver, path: str = "/") -> int:
    response = await driver.call("EmptyTrash", directory.EmptyTrashRequest(path=path))
    assert not response.remaining
    files: int = response.files
    return files


async def _work_off(driver: Driver) -> None:
    while items := await driver.claim():
        await driver.finish(items)


# -- what a restore means ----------------------------------------------------------------------------------------------


async def test_a_file_by_generation(mirrored: Driver) -> None:
    for content in (b"one", b"two", b"three"):
        await mirrored.write("/f", content)
    (found,) = await _restorable(mirrored, "/f", generation=1)
    assert (found.path, found.source_path, found.version.sha256) == ("/f", "/f", sha256(b"one"))
    assert (found.version.generation, found.current_generation, found.unchanged) == (1, 3, False)
    (found,) = await _restorable(mirrored, "/f", generation=3)
    assert found.unchanged
    await mirrored.write("/f", b"one")
    (found,) = await _restorable(mirrored, "/f", generation=1)
    assert found.unchanged, "the path shows these bytes again"
    await mirrored.remove("/f")
    (found,) = await _restorable(mirrored, "/f", generation=3)
    assert (found.current_generation, found.unchanged) == (0, False)


async def test_a_file_at_a_time(mirrored: Driver) -> None:
    before = time.time_ns()
    await mirrored.write("/f", b"one")
    first = time.time_ns()
    await mirrored.write("/f", b"two")
    second = time.time_ns()
    await mirrored.remove("/f")
    gone = time.time_ns()
    await mirrored.write("/f", b"three")
    assert await _shown(mirrored, "/f", first, recursive=False) == {"/f": sha256(b"one")}
    assert await _shown(mirrored, "/f", second) == {"/f": sha256(b"two")}
    assert await _shown(mirrored, "/f", time.time_ns()) == {"/f": sha256(b"three")}
    with pytest.raises(NotFound, match="oldest content"):
        await _shown(mirrored, "/f", before)
    with pytest.raises(NotFound, match="showed nothing"):
        await _shown(mirrored, "/f", gone)


async def test_a_tree_at_a_time_with_what_was_changed_removed_and_moved_since(mirrored: Driver) -> None:
    for name in ("changed", "removed", "moved", "deep/moved with its directory", "replaced by a move"):
        await mirrored.write(f"/d/{name}", name.encode())
    await mirrored.write("/elsewhere/comes", b"comes")
    then = time.time_ns()
    expected = {
        f"/d/{name}": sha256(name.encode())
        for name in ("changed", "removed", "moved", "deep/moved with its directory", "replaced by a move")
    }
    await mirrored.write("/d/changed", b"other")
    await mirrored.write("/d/new", b"new")
    await mirrored.remove("/d/removed")
    await mirrored.move("/d/moved", "/e/moved")
    await mirrored.write("/e/moved", b"and changed there")
    await mirrored.move("/d/deep", "/deeper")
    await mirrored.move("/deeper", "/deepest")
    await mirrored.move("/elsewhere/comes", "/d/replaced by a move", overwrite=True)
    for page_size in (1, 2, 100):
        assert await _shown(mirrored, "/d", then, page_size=page_size) == expected
    everything = {**expected, "/elsewhere/comes": sha256(b"comes")}
    assert await _shown(mirrored, "/", then, page_size=2) == everything
    assert await _shown(mirrored, "/d/deep", then) == {
        "/d/deep/moved with its directory": sha256(b"deep/moved with its directory")
    }
    (found,) = [one for one in await _restorable(mirrored, "/d", at=_at(then)) if one.path == "/d/moved"]
    assert (found.source_path, found.version.generation) == ("/e/moved", 1)
    (found,) = await _restorable(mirrored, "/elsewhere/comes", at=_at(then))
    assert (found.source_path, found.current_generation, found.unchanged) == ("/d/replaced by a move", 0, False)
    resolved = await mirrored.resolve(found.source_path, generation=found.version.generation)
    assert resolved.version.version_id == found.version.version_id


async def test_history_that_was_joined_by_a_move_is_told_apart(mirrored: Driver) -> None:
    """A file that was removed where another one is moved to: each content was where it was."""
    await mirrored.write("/a", b"of a, older")
    await mirrored.write("/b", b"of b")
    await mirrored.write("/a", b"of a")
    then = time.time_ns()
    await mirrored.remove("/b")
    await mirrored.move("/a", "/b")
    await mirrored.move("/b", "/c")
    assert await _shown(mirrored, "/", then) == {"/a": sha256(b"of a"), "/b": sha256(b"of b")}
    await _work_off(mirrored)
    await mirrored.remove("/c")
    assert await _shown(mirrored, "/", then) == {"/a": sha256(b"of a"), "/b": sha256(b"of b")}
    assert await _empty(mirrored) == 1
    await _work_off(mirrored)
    with pytest.raises(NotFound):
        await _shown(mirrored, "/a", then)


async def test_what_was_removed_last(mirrored: Driver) -> None:
    for name in ("a", "sub/b", "sub/c"):
        await mirrored.write(f"/d/{name}", name.encode())
    await mirrored.remove("/d/a")
    await mirrored.remove("/d/sub", recursive=True)
    assert [one.path for one in await _restorable(mirrored, "/d", page_size=1)] == ["/d/sub/b", "/d/sub/c"]
    assert [one.path for one in await _restorable(mirrored, "/d/a", recursive=False)] == ["/d/a"]
    assert [one.path for one in await _restorable(mirrored, "/d/sub")] == ["/d/sub/b", "/d/sub/c"]


@pytest.mark.parametrize(
    ("path", "fields", "error"),
    [
        ("/never", {}, NotFound),
        ("/never", {"generation": 1}, NotFound),
        ("/never", {"at": _at(1)}, NotFound),
        ("/file", {}, InvalidArgument),
        ("/file", {"generation": 2}, NotFound),
        ("/file", {"generation": 1, "at": _at(1)}, InvalidArgument),
        ("/file", {"at": _at(4_000_000_000 * 10**9)}, InvalidArgument),
        ("/file", {"at": _at(1)}, NotFound),
        ("/full", {}, NotFound),
        ("/full", {"generation": 1}, IsDirectory),
        ("/", {"generation": 1}, IsDirectory),
        ("/full/", {}, InvalidArgument),
        ("/gone", {"recursive": False}, IsDirectory),
    ],
)
async def test_what_cannot_be_restored(
    mirrored: Driver, path: str, fields: dict[str, Any], error: type[CdirError]
) -> None:
    await mirrored.write("/file")
    await mirrored.write("/full/file")
    await mirrored.write("/gone/file")
    await mirrored.remove("/gone", recursive=True)
    with pytest.raises(error):
        await _restorable(mirrored, path, **fields)


@pytest.mark.parametrize("fields", [{}, {"generation": 1}])
async def test_a_directory_in_the_place_of_a_removed_file_is_named(mirrored: Driver, fields: dict[str, Any]) -> None:
    await mirrored.write("/x")
    await mirrored.remove("/x")
    await mirrored.make_directory("/x")
    with pytest.raises(IsDirectory, match="is a directory now; move it away"):
        await _restorable(mirrored, "/x", **fields)


async def test_a_directory_at_a_time_needs_recursive(mirrored: Driver) -> None:
    await mirrored.write("/d/file")
    with pytest.raises(IsDirectory):
        await _restorable(mirrored, "/d", at=_at(time.time_ns()), recursive=False)


# -- the trash ---------------------------------------------------------------------------------------------------------


async def test_the_trash_lists_what_was_removed_and_by_whom(mirrored: Driver) -> None:
    for path in ("/d/a", "/d/b/c", "/d/b/d", "/e", "/d0"):
        await mirrored.write(path, path.encode())
    await mirrored.remove("/d", user="bob", recursive=True)
    await mirrored.remove("/e")
    found = await _trash(mirrored)
    assert [one.path for one in found] == ["/e", "/d/a", "/d/b/c", "/d/b/d"]
    assert [one.removed_by for one in found] == ["ada", "bob", "bob", "bob"]
    assert found[0].version.sha256 == sha256(b"/e")
    assert found[0].version.generation == 1
    assert found[0].removed.ToNanoseconds() < time.time_ns() < found[0].expires.ToNanoseconds()
    for page_size in (1, 2, 3):
        assert await _trash(mirrored, page_size=page_size) == found
        assert [one.path for one in await _trash(mirrored, "/d/b", page_size)] == ["/d/b/c", "/d/b/d"]
    assert [one.path for one in await _trash(mirrored, "/d/b/c")] == ["/d/b/c"]
    assert await _trash(mirrored, "/never") == []


async def test_what_is_written_again_leaves_the_trash(mirrored: Driver) -> None:
    await mirrored.write("/f", b"one")
    await mirrored.remove("/f")
    await mirrored.write("/f", b"two")
    assert await _trash(mirrored) == []
    await mirrored.remove("/f", user="bob")
    (found,) = await _trash(mirrored)
    assert (found.version.generation, found.removed_by) == (2, "bob")


async def test_what_the_policy_does_not_keep_is_not_in_the_trash(mirrored: Driver) -> None:
    await mirrored.set_policy("/", keep_versions=0)
    await mirrored.write("/f")
    await mirrored.remove("/f")
    assert await _trash(mirrored) == []
    with pytest.raises(NotFound):
        await _restorable(mirrored, "/f", at=_at(time.time_ns()))


async def test_emptying_the_trash_lets_go_of_every_version(mirrored: Driver) -> None:
    for content in (b"one", b"two"):
        await mirrored.write("/d/f", content)
    await mirrored.write("/d/stays", b"one")
    await mirrored.write("/d/stays", b"two")
    await mirrored.write("/other")
    await mirrored.remove("/d/f")
    await mirrored.remove("/other")
    assert await _empty(mirrored, "/d") == 1
    assert await _empty(mirrored, "/d") == 0
    assert [one.path for one in await _trash(mirrored)] == ["/other"]
    with pytest.raises(NotFound):
        await mirrored.resolve("/d/f", generation=1)
    await _work_off(mirrored)
    with pytest.raises(NotFound):
        await mirrored.versions("/d/f")
    assert [version.generation for version in await mirrored.versions("/d/stays")] == [2, 1]
    assert (await mirrored.status()).removals == 0


# -- conflicting copies ------------------------------------------------------------------------------------------------


async def _conflicts(driver: Driver, path: str = "/") -> dict[str, str]:
    """Return the conflicting copies below a path, and what they are copies of."""
    request = directory.ListEntriesRequest(path=path, recursive=True, conflicts=True)
    response = await driver.call("ListEntries", request)
    return {entry.path: entry.conflict_of for entry in response.entries}


async def test_conflicting_copies_are_counted_and_listed_until_they_are_settled(mirrored: Driver) -> None:
    await mirrored.write("/d/f")
    for number in (1, 2, 3):
        entry = await mirrored.write(f"/d/copy {number}", conflict_of="/d/f", base_generation=0)
        assert entry.conflict_of == "/d/f"
    await mirrored.write("/other/copy", conflict_of="/other/f")
    assert (await mirrored.entry("/d/copy 1")).conflict_of == "/d/f"
    assert (await mirrored.entry("/d/f")).conflict_of == ""
    assert await _conflicts(mirrored, "/d") == {f"/d/copy {number}": "/d/f" for number in (1, 2, 3)}
    assert (await mirrored.status("/d")).conflicts == 3
    assert (await mirrored.status("/")).conflicts == 4

    await mirrored.remove("/d/copy 1")
    await mirrored.move("/d/copy 2", "/d/f", overwrite=True)
    assert (await mirrored.entry("/d/f")).conflict_of == ""
    await mirrored.move("/d", "/e")
    assert await _conflicts(mirrored) == {"/e/copy 3": "/e/f", "/other/copy": "/other/f"}
    assert (await mirrored.status("/e")).conflicts == 1


async def test_a_removed_conflicting_copy_that_is_written_anew_is_none(mirrored: Driver) -> None:
    await mirrored.write("/copy", conflict_of="/f")
    await mirrored.remove("/copy")
    entry = await mirrored.write("/copy")
    assert (entry.conflict_of, entry.generation) == ("", 2)
    assert await _conflicts(mirrored) == {}


async def test_the_mark_of_a_conflicting_copy_outlives_its_writer(mirrored: Driver) -> None:
    await mirrored.begin_one("/copy", owner="gone", conflict_of="/f", sha256=sha256(b"content"), size=7)
    await mirrored.call("ReleaseOwner", catalog.ReleaseOwnerRequest(owner="gone"))
    response = await mirrored.call("ClaimLapsedWrites", catalog.ClaimLapsedWritesRequest(owner="other"))
    (lapsed,) = response.writes
    assert lapsed.intent.conflict_of == "/f"
    committed = await mirrored.commit_one(
        catalog.WriteCommitment(
            version_id=lapsed.version_id,
            size=7,
            sha256=sha256(b"content"),
            stored=[catalog.StoredCopy(provider_id=target.provider_id) for target in lapsed.targets],
        )
    )
    assert committed.conflict_of == "/f"
    assert (await mirrored.entry("/copy")).kind == entry_pb2.ENTRY_KIND_FILE


# -- any history -------------------------------------------------------------------------------------------------------


class _Tree:
    """What a workspace shows: contents by path. It refuses what would fail, and then changes nothing."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def below(self, path: str) -> list[str]:
        return [one for one in self.files if one.startswith(f"{path}/")]


_PATHS = ("/a", "/b", "/d/a", "/d/b", "/d/e/a", "/f/e/a", "/f/a")
_DIRECTORIES = ("/d", "/d/e", "/f", "/f/e", "/g")


async def _step(driver: Driver, tree: _Tree, chance: random.Random, number: int) -> None:
    """Do one random change, to the catalog and to the model; what the catalog refuses changes neither."""
    kind = chance.choice(("write", "write", "write", "remove", "remove tree", "move", "move tree"))
    source, target = chance.choice(_PATHS), chance.choice(_PATHS)
    top, place = chance.choice(_DIRECTORIES), chance.choice(_DIRECTORIES)
    try:
        if kind == "write":
            content = f"{number}".encode()
            await driver.write(source, content)
            tree.files[source] = sha256(content)
        elif kind == "remove":
            await driver.remove(source)
            tree.files.pop(source)
        elif kind == "remove tree":
            await driver.remove(top, recursive=True)
            for path in tree.below(top):
                del tree.files[path]
        elif kind == "move":
            await driver.move(source, target, overwrite=True)
            tree.files[target] = tree.files.pop(source)
        else:
            await driver.move(top, place)
            for path in tree.below(top):
                tree.files[place + path[len(top) :]] = tree.files.pop(path)
    except CdirError:
        return


@pytest.mark.parametrize("seed", range(2))
async def test_every_moment_of_any_history_can_be_found_again(mirrored: Driver, seed: int) -> None:
    chance = random.Random(seed)
    await mirrored.set_policy("/", keep_versions=1000)
    tree = _Tree()
    moments: list[tuple[int, dict[str, bytes]]] = []
    for number in range(40):
        await _step(mirrored, tree, chance, number)
        if chance.random() < 0.1:
            await _work_off(mirrored)
        moments.append((time.time_ns(), dict(tree.files)))
    assert len({len(files) for _, files in moments}) > 3, "too little happened"
    for number, (moment, files) in enumerate(moments):
        if files and number % 3 == 0:
            assert await _shown(mirrored, "/", moment, page_size=5) == files
        top = _DIRECTORIES[number % 3]
        expected = {path: content for path, content in files.items() if path.startswith(f"{top}/")}
        if expected:
            assert await _shown(mirrored, top, moment) == expected
