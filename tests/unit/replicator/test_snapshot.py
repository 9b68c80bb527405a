"""Snapshots reach several providers, the old ones go, and one provider's failure is its own."""

from __future__ import annotations

import pytest

from cdir.errors import CdirError
from cdir_replicator.roles.snapshot import SnapshotRole
from cdir_transfer.snapshots import FOLDER, SnapshotStore
from unit.replicator.conftest import Bench


def _store(bench: Bench) -> SnapshotStore:
    return SnapshotStore(bench.catalog, bench.adapters, owner="test")


def _files(bench: Bench, name: str) -> list[str]:
    folder = bench.root(name) / FOLDER / bench.home_id
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


async def test_a_snapshot_is_the_same_at_every_provider(bench: Bench) -> None:
    await bench.write("/f", b"content")
    taken = await _store(bench).take(at_once=True)
    assert taken.made
    assert set(taken.providers) == {"a", "b", "c"}
    contents = {(bench.root(name) / FOLDER / bench.home_id / taken.name).read_bytes() for name in "abc"}
    assert [len(content) for content in contents] == [taken.size]
    found, failed = await _store(bench).find(await _store(bench).providers())
    assert [(one.name, one.revision, len(one.holders)) for one in found] == [(taken.name, found[0].revision, 3)]
    assert failed == {}


async def test_the_last_seven_stay(bench: Bench) -> None:
    names = []
    for number in range(9):
        await bench.write(f"/{number}", b"content")
        names.append((await _store(bench).take(at_once=True, every=1e-9)).name)
    assert _files(bench, "a") == names[-7:]


async def test_of_increments_the_last_two_stay(bench: Bench) -> None:
    names = []
    for number in range(4):
        await bench.write(f"/{number}", b"content")
        names.append((await _store(bench).take(at_once=True)).name)
    assert _files(bench, "b") == [names[0], *names[-2:]]
    found, _ = await _store(bench).find(await _store(bench).providers())
    assert [None if one.base is None else one.base.name for one in found] == [names[0], names[0], None]


async def test_a_provider_that_fails_is_passed_over(bench: Bench) -> None:
    await bench.write("/f", b"content")
    (bench.root("b") / ".cdir" / "catalog").write_bytes(b"a file is in the way")
    taken = await _store(bench).take(at_once=True)
    assert set(taken.providers) == {"a", "c"}


async def test_one_that_nobody_took_is_due_again(bench: Bench) -> None:
    await bench.write("/f", b"content")
    for name in "abc":
        (bench.root(name) / ".cdir" / "catalog").write_bytes(b"a file is in the way")
    with pytest.raises(CdirError):
        await _store(bench).take(at_once=True)
    for name in "abc":
        (bench.root(name) / ".cdir" / "catalog").unlink()
    assert (await _store(bench).take(at_once=True)).made


async def test_the_role_waits_for_a_while_after_a_change(bench: Bench) -> None:
    await bench.write("/f", b"content")
    assert not await SnapshotRole(_store(bench)).once()
    assert _files(bench, "a") == []
