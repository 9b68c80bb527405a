"""Objects that lie at a provider become files under paths of a user's choice, where they are."""

from __future__ import annotations

import pytest

from catalogs.driver import Driver
from cdir.errors import NotFound
from cdir.v1 import adapter_service_pb2, entry_pb2, scan_pb2
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import directory_service_pb2 as directory

OK, MISSING = entry_pb2.REPLICA_STATE_OK, entry_pb2.REPLICA_STATE_MISSING
LONG_AGO = 1_500_000_000


def listed(key: str, size: int = 3, etag: str = '"e"') -> adapter_service_pb2.ObjectInfo:
    info = adapter_service_pb2.ObjectInfo(key=key, size=size, etag=etag)
    info.modified.FromSeconds(LONG_AGO)
    return info


async def adopt(
    driver: Driver, *pairs: tuple[str, str], provider: str = "a", workspace: str = ""
) -> list[scan_pb2.AdoptOutcome]:
    """Adopt (key, path) pairs."""
    request = scan_pb2.AdoptObjectsRequest(
        provider_id=driver.providers[provider],
        workspace=workspace,
        objects=[scan_pb2.AdoptedObject(object=listed(key), path=path) for key, path in pairs],
    )
    return list((await driver.call("AdoptObjects", request)).outcomes)


async def reason(driver: Driver, key: str, path: str) -> str:
    (outcome,) = await adopt(driver, (key, path))
    assert outcome.HasField("failure") != outcome.HasField("entry")
    return outcome.failure.reason


async def test_an_object_becomes_a_file_and_is_renamed_and_copied_later(mirrored: Driver) -> None:
    (outcome,) = await adopt(mirrored, ("old/place.txt", "/dir/new.txt"))
    entry = outcome.entry
    assert (entry.path, entry.size, entry.generation, entry.sha256, outcome.existed) == (
        "/dir/new.txt",
        3,
        1,
        b"",
        False,
    )
    assert entry.modified.seconds == LONG_AGO
    replicas = await mirrored.replicas("/dir/new.txt")
    assert (replicas["a"].key, replicas["a"].etag) == ("old/place.txt", '"e"')
    assert {replicas[name].state for name in "bc"} == {MISSING}
    items = {item.replica.provider: item for item in await mirrored.claim()}
    assert (items["a"].kind, items["a"].target_key) == (catalog.DEBT_KIND_RELOCATE, "dir/new.txt")
    assert {items[name].kind for name in "bc"} == {catalog.DEBT_KIND_COPY}
    assert [source.key for source in items["b"].sources] == ["old/place.txt"]
    await mirrored.finish(list(items.values()))
    assert {replica.state for replica in (await mirrored.replicas("/dir/new.txt")).values()} == {OK}
    assert (await mirrored.status()).owed == 0


async def test_an_object_under_its_own_name_stays_where_it_is(mirrored: Driver) -> None:
    await adopt(mirrored, ("dir/file", "/dir/file"), ("@team/x", "/y"))
    replica = (await mirrored.replicas("/dir/file"))["a"]
    assert (replica.key, replica.state) == ("dir/file", OK)
    assert not (await adopt(mirrored, ("b", "/b"), workspace="team"))[0].HasField("failure")


async def test_adopting_again_changes_nothing(mirrored: Driver) -> None:
    (first,) = await adopt(mirrored, ("x", "/y"))
    (again,) = await adopt(mirrored, ("x", "/y"))
    assert again.existed
    assert (again.entry.version_id, again.entry.generation) == (first.entry.version_id, 1)


async def test_what_cannot_be_adopted_says_why_and_stops_nothing_else(mirrored: Driver) -> None:
    await mirrored.write("/taken", on=["a", "b", "c"])
    await mirrored.make_directory("/dir")
    await mirrored.begin_one("/writing")
    assert await reason(mirrored, "x", "/taken") == "ALREADY_EXISTS"
    assert await reason(mirrored, "taken", "/other") == "ALREADY_EXISTS"
    assert await reason(mirrored, "x", "/dir") == "IS_DIRECTORY"
    assert await reason(mirrored, "x", "/taken/below") == "NOT_DIRECTORY"
    assert await reason(mirrored, "x", "/writing") == "CONFLICT"
    assert await reason(mirrored, "writing", "/x") == "CONFLICT"
    assert await reason(mirrored, ".cdir/versions/aa/b", "/x") == "INVALID_PATH"
    assert await reason(mirrored, "x", "//x/") == "INVALID_PATH"
    outcomes = await adopt(mirrored, ("x", "/dir"), ("y", "/y"), ("z", "/y"))
    assert [outcome.failure.reason for outcome in outcomes] == ["IS_DIRECTORY", "", "ALREADY_EXISTS"]
    assert (await mirrored.status()).files == 2


async def test_a_removed_name_gets_a_new_content_and_keeps_its_old_ones(mirrored: Driver) -> None:
    await mirrored.write("/file", on=["a", "b", "c"])
    await mirrored.remove("/file")
    (outcome,) = await adopt(mirrored, ("x", "/file"))
    assert outcome.entry.generation == 2
    versions = (await mirrored.call("ListVersions", directory.ListVersionsRequest(path="/file"))).versions
    assert [(version.generation, version.current) for version in versions] == [(2, True), (1, False)]


async def test_an_unknown_provider_is_refused(mirrored: Driver) -> None:
    mirrored.providers["x"] = "0" * 32
    with pytest.raises(NotFound):
        await adopt(mirrored, ("x", "/x"), provider="x")
