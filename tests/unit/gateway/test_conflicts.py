"""Conflicting copies: their names, and when a content is kept as one."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import unicodedata
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdir.errors import Conflict, InvalidPath
from cdir.paths import MAX_NAME_BYTES, normalize_path
from cdir.status import translated
from cdir.v1 import catalog_service_pb2
from cdir.v1 import directory_service_pb2 as pb
from cdir_gateway import ledger
from cdir_gateway.conflicts import conflict_path
from unit.gateway.harness import Harness, open_harness

KEEP = pb.ON_CONFLICT_KEEP_COPY
WHEN = datetime(2026, 11, 21, 14, 3, 7, tzinfo=UTC)
LARGE = os.urandom((9 << 20) + 5)


@pytest.mark.parametrize(
    ("path", "user", "number", "expected"),
    [
        ("/a.txt", "ada", 1, "/a (conflicting copy of ada, 2026-11-21 14-03-07).txt"),
        ("/d/a.txt", "ada", 2, "/d/a (conflicting copy of ada, 2026-11-21 14-03-07 2).txt"),
        ("/a.tar.gz", "", 1, "/a.tar (conflicting copy, 2026-11-21 14-03-07).gz"),
        ("/.bashrc", "ada", 1, "/.bashrc (conflicting copy of ada, 2026-11-21 14-03-07)"),
        ("/a", "some/one\n", 1, "/a (conflicting copy of someone, 2026-11-21 14-03-07)"),
        ("/a.not really an extension", "", 1, "/a.not really an extension (conflicting copy, 2026-11-21 14-03-07)"),
    ],
)
def test_names(path: str, user: str, number: int, expected: str) -> None:
    assert conflict_path(path, user, WHEN, number) == expected


@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1, max_size=80),
    st.text(max_size=80),
    st.integers(1, 10**6),
)
def test_names_are_always_valid_and_keep_the_extension(name: str, user: str, number: int) -> None:
    try:
        path = normalize_path(f"/d/{name}.jpeg")
    except InvalidPath:
        return
    found = conflict_path(path, user, WHEN, number)
    assert found == normalize_path(found)
    assert found.startswith("/d/")
    if name.strip("."):  # else it is no extension, but the name of a hidden file
        assert found.endswith(".jpeg")
    assert found != path
    assert unicodedata.is_normalized("NFC", found)


def test_long_names_are_shortened_and_whole_paths_too() -> None:
    found = conflict_path("/" + "ä" * 125 + ".txt", "ada", WHEN, 1)
    assert MAX_NAME_BYTES - 1 <= len(found[1:].encode()) <= MAX_NAME_BYTES
    assert found.endswith(" (conflicting copy of ada, 2026-11-21 14-03-07).txt")
    deep = "/" + "/".join(["d" * 200] * 4)
    assert conflict_path(f"{deep}/{'f' * 200}", "ada", WHEN, 1).startswith(f"{deep}/f")
    with pytest.raises(InvalidPath):
        conflict_path("/" + "/".join(["d" * 250] * 4) + "/" + "f" * 10, "ada", WHEN, 1)


async def _conflicts(harness: Harness) -> dict[str, str]:
    with translated():
        listed = await harness.directory.ListEntries(pb.ListEntriesRequest(path="/", recursive=True, conflicts=True))
    return {entry.path: entry.conflict_of for entry in listed.entries}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_content_based_on_a_stale_generation_is_kept_beside(trio: Harness, streamed: bool) -> None:
    await trio.put("/d/file.txt", b"one")
    await trio.put("/d/file.txt", b"two")
    stored = await trio.put("/d/file.txt", b"mine", streamed=streamed, base_generation=1, on_conflict=KEEP)
    assert stored.conflict_of == "/d/file.txt"
    assert re.fullmatch(r"/d/file \(conflicting copy, \d{4}-\d\d-\d\d \d\d-\d\d-\d\d\)\.txt", stored.entry.path)
    assert await trio.get("/d/file.txt") == b"two"
    assert await trio.get(stored.entry.path) == b"mine"
    assert await _conflicts(trio) == {stored.entry.path: "/d/file.txt"}
    assert stored.entry.conflict_of == "/d/file.txt"


async def test_several_within_one_second_get_names_of_their_own(trio: Harness) -> None:
    await trio.put("/file", b"one")
    found = [
        (await trio.put("/file", str(number).encode(), base_generation=0, on_conflict=KEEP)).entry.path
        for number in range(5)
    ]
    assert len(set(found)) == 5
    for number, path in enumerate(found):
        assert await trio.get(path) == str(number).encode()


async def test_of_two_writers_of_one_path_both_contents_stay(trio: Harness) -> None:
    first = trio.steps(1, "/file", LARGE, on_conflict=KEEP)
    news = await trio.write([*first[:-1], trio.whole(2, "/file", b"x", on_conflict=KEEP), first[-1]])
    assert news[1][-1].stored.conflict_of == ""
    kept = news[2][-1].stored
    assert kept.conflict_of == "/file"
    assert await trio.get("/file") == LARGE
    assert await trio.get(kept.entry.path) == b"x"


@pytest.mark.parametrize("ends", ["given up", "lives"])
async def test_a_write_that_is_given_up_makes_no_conflict(trio: Harness, ends: str) -> None:
    await trio.put("/file", b"one")
    intent = catalog_service_pb2.WriteIntent(path="/file")
    with translated():
        begun = await trio.catalog.BeginWrites(
            catalog_service_pb2.BeginWritesRequest(owner="another", intents=[intent])
        )
    writing = asyncio.create_task(trio.put("/file", b"two", on_conflict=KEEP))
    await asyncio.sleep(0)
    if ends == "given up":
        abort = catalog_service_pb2.AbortedWrite(version_id=begun.results[0].version_id)
        with translated():
            await trio.catalog.AbortWrites(catalog_service_pb2.AbortWritesRequest(aborts=[abort]))
    while ends == "lives" and not writing.done():
        with translated():
            await trio.catalog.RenewWrites(catalog_service_pb2.RenewWritesRequest(owner="another"))
        await asyncio.sleep(0.05)
    stored = await writing
    assert (stored.conflict_of == "") == (ends == "given up")
    assert await trio.get("/file") == (b"two" if ends == "given up" else b"one")
    assert await trio.get(stored.entry.path) == b"two"


async def test_a_large_local_file_is_kept_beside(trio: Harness, tmp_path: Path) -> None:
    await trio.put("/file", b"one")
    source = tmp_path / "source"
    source.write_bytes(LARGE)
    status = source.stat()
    opened = pb.WriteOpen(
        path="/file",
        base_generation=0,
        on_conflict=KEEP,
        local_source=pb.LocalFile(
            path=str(source),
            device=status.st_dev,
            inode=status.st_ino,
            size=status.st_size,
            modified_ns=status.st_mtime_ns,
        ),
    )
    news = await trio.write([pb.FileWrite(id=1, open=opened, commit=pb.WriteCommit(size=status.st_size))])
    stored = news[1][-1].stored
    assert stored.conflict_of == "/file"
    assert hashlib.sha256(await trio.get(stored.entry.path)).digest() == hashlib.sha256(LARGE).digest()


async def test_without_a_conflict_nothing_is_kept_beside(trio: Harness) -> None:
    stored = await trio.put("/file", b"one", base_generation=0, on_conflict=KEEP)
    assert (stored.entry.path, stored.conflict_of) == ("/file", "")
    stored = await trio.put("/file", b"two", base_generation=1, on_conflict=KEEP)
    assert (stored.entry.generation, stored.conflict_of) == (2, "")
    assert await _conflicts(trio) == {}
    with pytest.raises(Conflict):
        await trio.put("/file", b"three", base_generation=1)


@pytest.mark.parametrize("same", [True, False], ids=["same content", "other content"])
async def test_a_write_that_ends_meanwhile_is_a_conflict_unless_it_was_the_same(trio: Harness, same: bool) -> None:
    content = os.urandom(3 << 20)
    first = trio.steps(1, "/file", content, on_conflict=KEEP)
    second = content if same else b"other"
    news = await trio.write([*first[:-1], trio.whole(2, "/file", second, on_conflict=KEEP), first[-1]])
    assert (news[2][-1].stored.conflict_of == "") == same
    assert await trio.get("/file") == content


async def test_a_write_that_is_being_given_up_is_waited_for_however_often_its_lease_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_RENEW_SECONDS", 0.1)
    abort = ledger.Ledger.abort

    async def slowly(self: ledger.Ledger, aborted: catalog_service_pb2.AbortedWrite) -> None:
        await asyncio.sleep(1.5)
        await abort(self, aborted)

    monkeypatch.setattr(ledger.Ledger, "abort", slowly)
    async with open_harness(tmp_path) as duo:
        for name in "ab":
            await duo.add_provider(name)
        stalled = duo.trouble("b", stalls=True)

        async def interrupted() -> AsyncIterator[pb.WriteFilesRequest]:
            yield pb.WriteFilesRequest(writes=[duo.whole(1, "/file", b"interrupted")])
            await asyncio.Event().wait()

        call = duo.directory.WriteFiles(interrupted())
        writing = asyncio.ensure_future(anext(aiter(call)))
        await stalled.met.wait()
        writing.cancel()
        call.cancel()
        duo.calm()
        stored = await duo.put("/file", b"put again", on_conflict=KEEP)
        assert stored.entry.path == "/file"
        assert await duo.get("/file") == b"put again"
