"""ResolveTree says of a whole tree what ResolveEntries says of each of its paths, on either database."""

from __future__ import annotations

import pytest

from catalogs.driver import Driver
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import directory_service_pb2 as directory
from cdir.v1 import entry_pb2


async def _fill(driver: Driver) -> None:
    """A tree with whatever may be true of a copy."""
    await driver.write("/t/a", b"first")
    await driver.write("/t/a", b"second")
    await driver.write("/t/d/owed", on=["a", "b"])
    for name, state in (
        ("missing", entry_pb2.REPLICA_STATE_MISSING),
        ("corrupt", entry_pb2.REPLICA_STATE_CORRUPT),
        ("unknown", entry_pb2.REPLICA_STATE_UNKNOWN),
    ):
        await driver.see(await driver.write(f"/t/d/{name}"), "a", state)
    await driver.write("/t/e/preferred")
    await driver.set_policy("/t/e", prefer=["c", "b"])
    await driver.write("/t/e/moved")
    await driver.move("/t/e/moved", "/t/e/here")
    await driver.make_directory("/t/empty")
    await driver.write("/beside")
    await driver.write("/t/gone")
    await driver.remove("/t/gone")
    await driver.write("/t/a", b"another's", workspace="team")


async def _pages(driver: Driver, path: str, size: int, workspace: str = "") -> list[list[catalog.ResolvedEntry]]:
    pages = []
    request = catalog.ResolveTreeRequest(workspace=workspace, path=path, page_size=size)
    while True:
        response = await driver.call("ResolveTree", request)
        pages.append(list(response.results))
        if not response.next_page_token:
            return pages
        request.page_token = response.next_page_token


def _where(found: catalog.ResolvedEntry) -> list[tuple[str, str, int, str]]:
    return [(one.provider_id, one.provider, one.provider_revision, one.key) for one in found.replicas]


@pytest.mark.parametrize("size", [0, 1, 3])
@pytest.mark.parametrize("path", ["/", "/t", "/t/d"])
async def test_a_tree_is_resolved_as_each_of_its_paths(mirrored: Driver, path: str, size: int) -> None:
    await _fill(mirrored)
    pages = await _pages(mirrored, path, size)
    assert all(len(page) <= size for page in pages) if size else len(pages) == 1
    results = [found for page in pages for found in page]
    assert [found.entry.path for found in results] == await mirrored.paths(path, recursive=True)
    for found in results:
        alone = await mirrored.resolve(found.entry.path)
        assert found.entry == alone.entry
        assert _where(found) == _where(alone)
        for field in ("version_id", "size", "sha256"):
            assert getattr(found.version, field) == getattr(alone.version, field)


async def test_copies_at_paused_providers_are_left_out(mirrored: Driver) -> None:
    await mirrored.write("/t/file")
    await mirrored.change_provider("a", paused=True)
    ((found,),) = await _pages(mirrored, "/t", 0)
    assert [replica.provider for replica in found.replicas] == ["b", "c"]


async def test_a_workspace_of_its_own(mirrored: Driver) -> None:
    await _fill(mirrored)
    ((found,),) = await _pages(mirrored, "/t", 0, "team")
    assert (found.entry.workspace, found.entry.path, found.entry.size) == ("team", "/t/a", len(b"another's"))
    listed = await mirrored.call("ListEntries", directory.ListEntriesRequest(workspace="team", path="/t"))
    assert [found.entry] == list(listed.entries)


async def test_nothing_is_below_an_empty_directory(mirrored: Driver) -> None:
    await mirrored.make_directory("/empty")
    assert await _pages(mirrored, "/empty", 0) == [[]]
