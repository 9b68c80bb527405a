"""Restoring: who copies at the provider, who is sent the bytes, and what it never does."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import CdirError, Conflict, InvalidArgument, IsDirectory, NotFound, Unsupported
from cdir.status import from_failure, translated
from cdir.v1 import catalog_service_pb2, entry_pb2, provider_pb2
from cdir.v1 import directory_service_pb2 as pb
from unit.gateway.harness import MODIFIED, Harness

LARGE = os.urandom((9 << 20) + 5)


async def restore(harness: Harness, path: str, **fields: Any) -> dict[str, pb.RestoreEntryResponse]:
    """Restore, and return the outcomes by path; the last message, of what was unchanged, under ``""``."""
    with translated():
        outcomes = [
            answer async for answer in harness.directory.RestoreEntry(pb.RestoreEntryRequest(path=path, **fields))
        ]
    assert [one.path == "" for one in outcomes] == [False] * (len(outcomes) - 1) + [True]
    return {one.path: one for one in outcomes}


async def move(harness: Harness, source: str, target: str) -> None:
    with translated():
        await harness.directory.MoveEntry(pb.MoveEntryRequest(source=source, target=target))


def moved_bytes(harness: Harness) -> list[tuple[str, str]]:
    """Return the calls so far that carried content, and forget them."""
    calls = [
        call for call in harness.faulty.calls if call[0] in {"FetchObject", "PutObject", "PutObjects", "WriteObject"}
    ]
    harness.faulty.calls.clear()
    return calls


@pytest.mark.parametrize("content", [b"", b"one", LARGE], ids=["empty", "small", "large"])
async def test_an_older_content_comes_back_without_moving_a_byte(trio: Harness, content: bytes) -> None:
    await trio.put("/file", content, streamed=len(content) > 1000)
    await trio.put("/file", b"two")
    moved_bytes(trio)
    outcomes = await restore(trio, "/file", generation=1)
    assert moved_bytes(trio) == []
    stored = outcomes["/file"].stored
    assert (outcomes["/file"].generation, stored.entry.generation, stored.entry.modified) == (1, 3, MODIFIED)
    assert sorted(stored.stored) == ["a", "b", "c"]
    assert await trio.get("/file") == content
    for name in "abc":
        assert trio.files(name)["file"] == content
    assert await trio.get("/file", generation=1) == content
    assert await trio.get("/file", generation=2) == b"two"


async def test_a_removed_file_comes_back_at_once(trio: Harness) -> None:
    """Nothing was cleared away yet: its objects are still under its name, and stand in their own way."""
    await trio.put("/d/file", b"one")
    await trio.remove("/d/file")
    moved_bytes(trio)
    stored = (await restore(trio, "/d/file"))["/d/file"].stored
    assert (stored.entry.generation, sorted(stored.stored)) == (2, ["a", "b", "c"])
    assert moved_bytes(trio) == []
    assert await trio.get("/d/file") == b"one"
    assert await trio.get("/d/file", generation=1) == b"one"
    assert {replica.state for replica in (await trio.replicas("/d/file")).values()} == {entry_pb2.REPLICA_STATE_OK}


@pytest.mark.parametrize("content", [b"one", LARGE], ids=["small", "large"])
async def test_a_provider_that_cannot_copy_is_sent_the_bytes(trio: Harness, content: bytes) -> None:
    trio.trouble("b", copies_only=True, error=Unsupported("this provider cannot copy"))
    await trio.put("/file", content, streamed=len(content) > 1000)
    await trio.put("/file", b"two")
    moved_bytes(trio)
    stored = (await restore(trio, "/file", generation=1))["/file"].stored
    assert sorted(stored.stored) == ["a", "b", "c"]
    assert {provider for method, provider in moved_bytes(trio) if method != "FetchObject"} == {trio.ids["b"]}
    assert trio.files("b")["file"] == content


async def test_a_damaged_old_copy_of_another_size_is_not_copied_on(trio: Harness) -> None:
    await trio.put("/file", b"one")
    await trio.put("/file", b"two")
    aside = next(path for path in (trio.root("b") / ".cdir/versions").rglob("*") if path.is_file())
    aside.write_bytes(b"torn off")
    stored = (await restore(trio, "/file", generation=1))["/file"].stored
    assert sorted(stored.stored) == ["a", "b", "c"]
    assert {trio.files(name)["file"] for name in "abc"} == {b"one"}


async def test_an_old_content_of_which_no_good_copy_is_left_stays_away(trio: Harness) -> None:
    await trio.put("/file", b"one")
    await trio.put("/file", b"two")
    for name in "abc":
        for path in (trio.root(name) / ".cdir/versions").rglob("*"):
            if path.is_file():
                path.unlink()
    outcome = (await restore(trio, "/file", generation=1))["/file"]
    assert outcome.HasField("failure")
    assert await trio.get("/file") == b"two"
    assert {trio.files(name).get("file") for name in "abc"} <= {b"two", None}


async def test_a_provider_that_is_down_owes_its_copy(trio: Harness) -> None:
    await trio.put("/file", b"one")
    await trio.put("/file", b"two")
    with translated():
        await trio.catalog.RecordProviderStates(
            catalog_service_pb2.RecordProviderStatesRequest(
                observations=[
                    catalog_service_pb2.ProviderObservation(
                        provider_id=trio.ids["c"], state=provider_pb2.PROVIDER_STATE_DOWN
                    )
                ]
            )
        )
    stored = (await restore(trio, "/file", generation=1))["/file"].stored
    assert (sorted(stored.stored), list(stored.owed)) == (["a", "b"], ["c"])


async def test_a_tree_as_it_was(trio: Harness) -> None:
    for name in ("changed", "removed", "moved", "same"):
        await trio.put(f"/d/{name}", name.encode())
    then = Timestamp()
    then.FromNanoseconds(time.time_ns())
    await trio.put("/d/changed", b"other")
    await trio.put("/d/new", b"new")
    await trio.remove("/d/removed")
    await move(trio, "/d/moved", "/e/moved")
    with pytest.raises(IsDirectory):
        await restore(trio, "/d", at=then)

    planned = await restore(trio, "/d", at=then, recursive=True, dry_run=True)
    assert {path for path, one in planned.items() if one.planned} == {"/d/changed", "/d/moved", "/d/removed"}
    assert planned[""].unchanged == 1
    assert await trio.get("/d/changed") == b"other"

    outcomes = await restore(trio, "/d", at=then, recursive=True)
    assert {path for path, one in outcomes.items() if one.HasField("stored")} == set(planned) - {""}
    for name in ("changed", "removed", "moved", "same"):
        assert await trio.get(f"/d/{name}") == name.encode()
    assert await trio.get("/d/new") == b"new"
    assert await trio.get("/e/moved") == b"moved"
    assert (await restore(trio, "/d", at=then, recursive=True)).keys() == {""}


async def test_one_file_that_cannot_come_back_does_not_stop_the_others(trio: Harness) -> None:
    for name in "xyz":
        await trio.put(f"/d/{name}", name.encode())
    await trio.remove("/d", recursive=True)
    await trio.make_directory("/d/y")
    outcomes = await restore(trio, "/d", recursive=True)
    assert isinstance(from_failure(outcomes["/d/y"].failure), IsDirectory)
    assert await trio.get("/d/x") == b"x"
    assert await trio.get("/d/z") == b"z"


async def test_a_file_that_is_being_written_is_not_replaced(trio: Harness) -> None:
    await trio.put("/file", b"one")
    await trio.put("/file", b"two")
    with translated():
        begun = await trio.catalog.BeginWrites(
            catalog_service_pb2.BeginWritesRequest(
                owner="another", intents=[catalog_service_pb2.WriteIntent(path="/file")]
            )
        )
    assert not begun.results[0].HasField("failure")
    outcome = (await restore(trio, "/file", generation=1))["/file"]
    assert isinstance(from_failure(outcome.failure), Conflict)


@pytest.mark.parametrize(
    ("path", "fields", "error"),
    [
        ("/never", {}, NotFound),
        ("/file", {}, InvalidArgument),
        ("/file", {"generation": 7}, NotFound),
        ("/file/../file", {"generation": 1}, InvalidArgument),
        ("/d", {"generation": 1}, IsDirectory),
        ("/file", {"at": Timestamp(seconds=4_000_000_000)}, InvalidArgument),
        ("/file", {"at": Timestamp(seconds=1)}, NotFound),
    ],
)
async def test_what_cannot_be_restored(
    trio: Harness, path: str, fields: dict[str, Any], error: type[CdirError]
) -> None:
    await trio.put("/file", b"one")
    await trio.put("/d/file", b"one")
    with pytest.raises(error):
        await restore(trio, path, **fields)


async def test_emptying_the_trash_ends_what_can_be_restored(trio: Harness) -> None:
    for name in "xy":
        await trio.put(f"/{name}", name.encode())
        await trio.remove(f"/{name}")
    with translated():
        assert (await trio.directory.EmptyTrash(pb.EmptyTrashRequest(path="/x"))).files == 1
        listed = await trio.directory.ListTrash(pb.ListTrashRequest(path="/"))
    assert [file.path for file in listed.files] == ["/y"]
    with pytest.raises(NotFound):
        await restore(trio, "/x")
    assert "/y" in await restore(trio, "/y")
