"""Writes whose writer is gone: completed when they are proven to be whole, undone otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest

from cdir.errors import Conflict, NotFound
from cdir.v1 import catalog_service_pb2, entry_pb2
from cdir_transfer.digest import BLOCK_SIZE


async def leave(
    bench: Any, path: str, data: bytes, *, at: Iterable[str], known: bool = True, stored: bytes | None = None
) -> Any:
    """Begin a write, store it at some targets, and vanish."""
    await bench.set_policy(min_copies=2)
    begun = await bench.begin(path, data, known=known)
    for target in begun.targets:
        if target.provider in set(at):
            await bench.store(target, data if stored is None else stored)
    await bench.catalog.ReleaseOwner(catalog_service_pb2.ReleaseOwnerRequest(owner="gateway"))
    return begun


@pytest.mark.parametrize("size", [0, 100, BLOCK_SIZE + 1])
async def test_a_write_that_was_whole_is_completed(bench: Any, size: int) -> None:
    data = os.urandom(size)
    await leave(bench, "/file", data, at="ab")
    assert await bench.replicator.recover.once() == 1
    states = {name: replica.state for name, replica in (await bench.replicas("/file")).items()}
    assert states["a"] == states["b"] == entry_pb2.REPLICA_STATE_OK
    assert states["c"] != entry_pb2.REPLICA_STATE_OK
    await bench.work_off()
    assert bench.files("a") == bench.files("b") == bench.files("c") == {"file": data}
    assert await bench.replicator.recover.once() == 0


@pytest.mark.parametrize(
    ("at", "known", "stored"),
    [
        ("a", True, None),  # one copy, and two are needed
        ("ab", False, None),  # whole, but nobody can know that
        ("ab", True, b"other bytes"),  # of the right size, with other bytes
        ("ab", True, b"short"),
        ("", True, None),
    ],
)
async def test_a_write_that_is_not_proven_is_undone(bench: Any, at: str, known: bool, stored: bytes | None) -> None:
    await leave(bench, "/file", b"the content", at=at, known=known, stored=stored)
    assert await bench.replicator.recover.once() == 1
    with pytest.raises(NotFound):
        await bench.replicas("/file")
    await bench.work_off()
    for name in "abc":
        assert bench.files(name) == {}
    await bench.write("/file", b"again")
    await bench.work_off()
    assert bench.files("c") == {"file": b"again"}


async def test_an_overwrite_that_was_whole_is_completed(bench: Any) -> None:
    old = await bench.write("/file", b"old")
    await leave(bench, "/file", b"new", at="abc")
    await bench.replicator.recover.once()
    await bench.work_off()
    aside = f".cdir/versions/{old.version_id[:2]}/{old.version_id}"
    for name in "abc":
        assert bench.files(name) == {"file": b"new", aside: b"old"}


async def test_an_overwrite_that_is_undone_gives_the_old_content_back(bench: Any) -> None:
    await bench.write("/file", b"old")
    await leave(bench, "/file", b"new", at="ab", known=False)
    await bench.replicator.recover.once()
    await bench.work_off()
    for name in "abc":
        assert bench.files(name) == {"file": b"old"}


async def test_an_overwrite_by_the_same_content_is_not_mistaken_for_done(bench: Any) -> None:
    await bench.write("/file", b"same")
    await leave(bench, "/file", b"same", at="")
    await bench.replicator.recover.once()
    await bench.work_off()
    for name in "abc":
        assert bench.files(name) == {"file": b"same"}
    replicas = await bench.replicas("/file")
    assert {replica.state for replica in replicas.values()} == {entry_pb2.REPLICA_STATE_OK}


async def test_a_writer_that_lives_is_left_alone(bench: Any) -> None:
    begun = await bench.begin("/file", b"content", known=True)
    assert await bench.replicator.recover.once() == 0
    with pytest.raises(Conflict):
        await bench.begin("/file")
    assert begun.version_id


async def test_a_provider_that_is_away_does_not_stop_recovery(bench: Any) -> None:
    await leave(bench, "/file", b"content", at="ab")
    await leave(bench, "/other", b"content", at="bc")
    bench.root("c").rename(bench.folder / "hidden")
    assert await bench.replicator.recover.once() == 2
    replicas = await bench.replicas("/file")
    assert replicas["a"].state == replicas["b"].state == entry_pb2.REPLICA_STATE_OK
    assert replicas["c"].state != entry_pb2.REPLICA_STATE_OK
    # of the other one a single copy could be proven, and two are needed
    with pytest.raises(NotFound):
        await bench.replicas("/other")
    assert not bench.root("c").exists()
