"""The check: every kind of difference is found, and nothing else, while others go on writing."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from cdir.errors import NotFound
from cdir.paths import is_temporary
from cdir.status import translated
from cdir.v1 import check_pb2, directory_service_pb2
from cdir_gateway.listed_objects import ListedObject, ObjectSorter
from cdir_gateway.suspicion import is_metadata
from unit.gateway.harness import HANG, Harness

Kind = check_pb2.CheckFindingKind


async def _check(harness: Harness, **fields: Any) -> list[check_pb2.CheckTreeResponse]:
    async with asyncio.timeout(HANG):
        with translated():
            call = harness.directory.CheckTree(check_pb2.CheckTreeRequest(**{"path": "/", **fields}))
            return [answer async for answer in call]


def _findings(answers: Iterable[check_pb2.CheckTreeResponse]) -> set[tuple[str, str, str]]:
    """Return (kind, provider, key) of each finding."""
    return {
        (Kind.Name(found.kind).removeprefix("CHECK_FINDING_KIND_").lower(), found.provider, found.key)
        for answer in answers
        if (found := answer.finding).kind
    }


def _sums(answers: Iterable[check_pb2.CheckTreeResponse]) -> dict[str, check_pb2.CheckedProvider]:
    return {answer.provider.provider: answer.provider for answer in answers if answer.HasField("provider")}


async def _is_settled(harness: Harness) -> bool:
    """Whether nothing is under way any more."""
    return not any(one.changing or one.owed for one in _sums(await _check(harness)).values())


def _flip(path: Path) -> None:
    """Change a byte; size and time stay."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def _fill(harness: Harness) -> None:
    """Some files, an older content, a removed one, and nothing left to be done about them but by a replicator."""
    for number in range(6):
        await harness.put(f"/d/f{number}", b"content %d" % number)
    await harness.put("/d/f0", b"newer content")
    await harness.put("/large", bytes(5_000_000), streamed=True)


async def test_what_is_as_recorded_is_clean(trio: Harness) -> None:
    await _fill(trio)
    answers = await _check(trio)
    assert _findings(answers) == set()
    for found in _sums(answers).values():
        assert (found.copies, found.objects, found.metadata, found.owed, found.changing) == (8, 9, 1, 0, 0)
    (audit,) = [answer.catalog for answer in answers if answer.HasField("catalog")]
    assert (audit.files, audit.versions, audit.copies, audit.findings) == (7, 8, 24, 0)


async def test_every_kind_of_difference_is_found(trio: Harness) -> None:
    await _fill(trio)
    trio.root("a").joinpath("d/f1").unlink()
    trio.root("b").joinpath("d/f2").write_bytes(b"longer than it was")
    trio.root("c").joinpath("d/f3").write_bytes(b"CONTENT 3")
    trio.root("a").joinpath("stranger").write_bytes(b"?")
    trio.root("b").joinpath(".cdir/versions/00").mkdir(parents=True)
    trio.root("b").joinpath(".cdir/versions/00", "0" * 32).write_bytes(b"?")
    trio.root("c").joinpath("d/half.partial").write_bytes(b"?")
    for name in ("d/f4", "large"):
        _flip(trio.root("a") / name)
    expected = {
        ("missing", "a", "d/f1"),
        ("wrong_size", "b", "d/f2"),
        ("changed", "c", "d/f3"),
        ("unexplained", "a", "stranger"),
        ("unexplained", "b", f".cdir/versions/00/{'0' * 32}"),
    }
    answers = await _check(trio)
    assert _findings(answers) == expected
    assert (_sums(answers)["c"].temporary, _sums(answers)["a"].findings) == (1, 2)
    deep = await _check(trio, deep=True)
    assert _findings(deep) == expected | {("corrupt", "a", "d/f4"), ("corrupt", "a", "large")}
    assert _sums(deep)["c"].bytes_read > 5_000_000
    (found,) = [answer.finding for answer in deep if answer.finding.key == "d/f4"]
    assert (found.path, found.generation) == ("/d/f4", 1)


async def test_a_path_and_a_provider_restrict_it(trio: Harness) -> None:
    await _fill(trio)
    for name in "ab":
        trio.root(name).joinpath("d/f1").unlink()
        trio.root(name).joinpath("stranger").write_bytes(b"?")
    assert _findings(await _check(trio, provider="b")) == {("missing", "b", "d/f1"), ("unexplained", "b", "stranger")}
    below = await _check(trio, path="/d")
    assert _findings(below) == {("missing", name, "d/f1") for name in "ab"}
    assert not any(answer.HasField("catalog") for answer in below)
    assert _findings(await _check(trio, path="/d/f1", provider="a")) == {("missing", "a", "d/f1")}
    one = await _check(trio, path="/d/f0")
    assert (_findings(one), _sums(one)["a"].copies) == (set(), 1)
    with pytest.raises(NotFound):
        await _check(trio, path="/nothing")
    with pytest.raises(NotFound):
        await _check(trio, provider="nobody")


async def test_what_is_owed_is_no_finding(trio: Harness) -> None:
    await _fill(trio)
    trio.trouble("c", error=NotFound("no"), writes_only=True)
    await trio.put("/d/owed", b"content")
    trio.calm()
    with translated():
        await trio.directory.MoveEntry(directory_service_pb2.MoveEntryRequest(source="/d/f1", target="/moved"))
    await trio.remove("/d/f2")
    answers = await _check(trio)
    assert _findings(answers) == set()
    assert (_sums(answers)["a"].owed, _sums(answers)["c"].owed) == (2, 3)


async def test_a_provider_that_is_away_is_unchecked_and_nothing_is_concluded(trio: Harness) -> None:
    await _fill(trio)
    root = trio.root("b")
    away = root.with_name("away")
    root.rename(away)
    assert _findings(await _check(trio)) == {("unchecked", "b", "")}
    root.mkdir()
    assert _findings(await _check(trio)) == {("unchecked", "b", "")}
    shutil.rmtree(root)
    away.rename(root)
    assert _findings(await _check(trio)) == set()


async def test_a_listing_that_breaks_off_concludes_nothing(trio: Harness) -> None:
    await _fill(trio)
    trio.root("a").joinpath("d/f1").unlink()
    trio.trouble("a", cuts_listings=True)
    assert _findings(await _check(trio)) == {("unchecked", "a", "")}
    trio.calm()
    assert _findings(await _check(trio)) == {("missing", "a", "d/f1")}


async def test_writing_meanwhile_is_no_finding(replicated: Harness) -> None:
    ended = asyncio.Event()

    async def churn(number: int) -> None:
        step = 0
        while not ended.is_set():
            step += 1
            path = f"/d/f{number}-{step % 3}"
            await replicated.put(path, os.urandom(50))
            if step % 3 == 0:
                await replicated.remove(path)
            if step % 5 == 0:
                move = directory_service_pb2.MoveEntryRequest(source=f"/d/f{number}-1", target=f"/m{number}-{step}")
                with translated():
                    await replicated.directory.MoveEntry(move)

    async with asyncio.TaskGroup() as tasks:
        for number in range(4):
            tasks.create_task(churn(number))
        try:
            for _ in range(8):
                assert _findings(await _check(replicated, deep=True)) == set()
        finally:
            ended.set()
    await replicated.until(lambda: _is_settled(replicated))
    assert _findings(await _check(replicated, deep=True)) == set()


async def test_objects_come_sorted_however_many(tmp_path: Path) -> None:
    names = [f"{number * 7919 % 1000:03}/ä\n{number}" for number in range(1000)] + ["a-b", "a/b", "a0", "\U0001f600"]
    async with ObjectSorter(run=64) as sorter:
        for start in range(0, len(names), 10):
            await sorter.add(ListedObject(name, 1, '"e"') for name in names[start : start + 10])
        assert sorter.count == len(names)
        found = [one.key async for piece in sorter.pieces() for one in piece]
    assert found == sorted(names, key=str.encode)


def test_names_are_told_apart() -> None:
    assert is_metadata(".cdir/provider")
    assert not is_metadata(".cdir/versions/00/x")
    assert not is_metadata("x/.cdir/provider")
    assert is_temporary("d/.cdir-tmp-0123")
    assert is_temporary("d/file.partial")
    assert not is_temporary("partial/file")
