"""The audit and the inventory: what the catalog says of itself, and of what a provider should hold."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from catalogs.driver import Driver
from catalogs.world import World
from cdir.errors import InvalidArgument, NotFound
from cdir.v1 import check_pb2, entry_pb2
from cdir_catalog.database import open_database
from cdir_catalog.store.audit import audit_catalog

OK = entry_pb2.REPLICA_STATE_OK


class _Undone(Exception):
    """Rolls a transaction back."""


async def _audit(driver: Driver, examples: int = 0) -> check_pb2.AuditCatalogResponse:
    response: check_pb2.AuditCatalogResponse = await driver.call(
        "AuditCatalog", check_pb2.AuditCatalogRequest(examples=examples)
    )
    return response


async def _rules(driver: Driver) -> set[str]:
    return {finding.rule for finding in (await _audit(driver)).findings}


async def _break(driver: Driver, statement: str) -> None:
    """Change the database behind the catalog's back."""
    async with open_database(driver.url) as database:
        await database.write(lambda connection: connection.execute(sa.text(statement)))


async def _busy(driver: Driver) -> None:
    """Have a bit of everything: directories, older versions, removed files, moves, owed copies, a write under way."""
    await driver.make_directory("/d")
    for number in range(4):
        await driver.write(f"/d/f{number}")
    await driver.write("/d/f0", b"newer", on=["a", "b"])
    await driver.write("/top", on=["a", "c"])
    await driver.move("/d/f1", "/moved")
    await driver.move("/d", "/e")
    await driver.remove("/e/f2")
    await driver.write("/gone/x")
    await driver.remove("/gone", recursive=True)
    await driver.begin_one("/e/coming")


async def test_a_catalog_in_use_keeps_its_rules(mirrored: Driver) -> None:
    await _busy(mirrored)
    found = await _audit(mirrored)
    assert list(found.findings) == []
    assert (found.summary.files, found.summary.versions, found.summary.writes) == (4, 7, 1)
    assert found.summary.copies >= 3 * 7 - 3


async def test_a_world_of_crashes_keeps_its_rules(mirrored: Driver) -> None:
    world = World(mirrored, {provider: {} for provider in mirrored.providers.values()})
    for step in range(12):
        await world.write(f"/f{step % 3}", dies_at=step, failing=[step % 3])
        assert list((await _audit(mirrored)).findings) == []
        await world.recover()
        await world.work(limit=2, dies_after=step % 2)
        assert list((await _audit(mirrored)).findings) == []
    await world.settle()
    found = await _audit(mirrored)
    assert (list(found.findings), found.summary.writes) == ([], 0)


async def test_an_empty_catalog_is_clean(driver: Driver) -> None:
    assert list((await _audit(driver)).findings) == []


_BREAKS = [
    ("UPDATE counters SET owed = owed + 1", "counters"),
    ("UPDATE counters SET bytes = bytes - 1", "counters"),
    ("UPDATE workspaces SET files = files + 1", "totals"),
    ("UPDATE workspaces SET revision = revision + 1", "changes"),
    ("DELETE FROM changes WHERE revision = 2", "changes"),
    ("DELETE FROM entries WHERE kind = 1", "parents"),
    ("UPDATE entries SET version_id = NULL WHERE basename = 'f0' AND removed_at IS NULL", "current"),
    ("UPDATE versions SET superseded_at = NULL", "current"),
    ("DELETE FROM replicas", "copies"),
    ("UPDATE replicas SET wanted = 0 WHERE move_to IS NULL", "copies"),
    ("UPDATE replicas SET owed = 0, due_at = NULL", "debt"),
    ("UPDATE replicas SET due_at = NULL", "due"),
    ("UPDATE replicas SET due_at = 1", "due"),
    ("UPDATE replicas SET key = 'top' WHERE actual = 1", "keys"),
    ("UPDATE intents SET lease_until = 1", "writes"),
]


async def test_each_rule_can_be_broken(mirrored: Driver) -> None:
    await _busy(mirrored)
    async with open_database(mirrored.url) as database:
        for statement, rule in _BREAKS:
            found: set[str] = set()

            def look(connection: sa.Connection, statement: str = statement, found: set[str] = found) -> None:
                connection.execute(sa.text(statement))
                found |= {one.rule for one in audit_catalog(connection, check_pb2.AuditCatalogRequest()).findings}
                raise _Undone

            with pytest.raises(_Undone):
                await database.write(look)
            assert rule in found, statement
    assert await _rules(mirrored) == set()


async def test_findings_are_counted_beyond_the_examples(mirrored: Driver) -> None:
    await _busy(mirrored)
    await _break(mirrored, "UPDATE replicas SET due_at = 1")
    found = await _audit(mirrored, examples=2)
    assert len(found.findings) == 2 < found.summary.findings
    with pytest.raises(InvalidArgument):
        await _audit(mirrored, examples=-1)


async def _copies(driver: Driver, name: str, **fields: Any) -> list[check_pb2.RecordedCopy]:
    """Return the copies of every page."""
    found: list[check_pb2.RecordedCopy] = []
    token = ""
    while True:
        request = check_pb2.ListCopiesRequest(provider_id=driver.providers[name], page_token=token, **fields)
        response = await driver.call("ListCopies", request)
        found += response.copies
        token = response.next_page_token
        if not token:
            return found


async def test_copies_come_in_pages_by_key(mirrored: Driver) -> None:
    await _busy(mirrored)
    whole = await _copies(mirrored, "a")
    keys = [copy.replica.key for copy in whole]
    assert keys == sorted(keys, key=str.encode)
    assert await _copies(mirrored, "a", page_size=2) == whole
    assert {"moved", "top"} & {copy.path[1:] for copy in whole if copy.settled} == {"top"}
    below = await _copies(mirrored, "b", top="d")
    assert below
    assert all(copy.replica.key.startswith("d/") for copy in below)
    assert not below[0].version.sha256
    assert (await _copies(mirrored, "b", top="d", with_digests=True))[0].version.sha256
    with pytest.raises(NotFound):
        await mirrored.call("ListCopies", check_pb2.ListCopiesRequest(provider_id="0" * 32))


async def test_objects_are_explained(mirrored: Driver) -> None:
    entry = await mirrored.write("/x", on=["a", "b"])
    begun = await mirrored.begin_one("/x")
    aside = f".cdir/versions/{entry.version_id[:2]}/{entry.version_id}"
    await mirrored.write("/y")
    request = check_pb2.ExplainObjectsRequest(
        provider_id=mirrored.providers["a"], keys=["y", "x", aside, "stranger", ".cdir/versions/00/" + "0" * 32]
    )
    quiet, written, stepping, stranger, unknown = (await mirrored.call("ExplainObjects", request)).objects
    assert (quiet.changing, [copy.settled for copy in quiet.copies]) == (False, [True])
    assert (written.changing, stepping.changing) == (True, True)
    assert (stranger.changing, list(stranger.copies), unknown.changing) == (False, [], False)
    await mirrored.abort(begun)
    explained = (await mirrored.call("ExplainObjects", request)).objects
    assert not explained[1].changing
