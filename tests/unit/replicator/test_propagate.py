"""Debt becomes work: copies, renames, removals and repairs at real folders."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import Any

import pytest

from cdir.errors import NotDirectory
from cdir.status import to_failure
from cdir.v1 import (
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    entry_pb2,
    provider_pb2,
    replicator_service_pb2,
)
from cdir_replicator.service import Replicator
from cdir_runtime.loopback import LoopbackChannel
from cdir_transfer.digest import BLOCK_SIZE
from unit.replicator.conftest import Bench

OK = entry_pb2.REPLICA_STATE_OK


async def test_a_copy_that_is_owed_is_made(bench: Any) -> None:
    await bench.write("/dir/file.txt", b"content", at=["a"])
    assert await bench.owed() == 2
    assert await bench.replicator.propagate.once() == 2
    for name in "abc":
        assert bench.files(name) == {"dir/file.txt": b"content"}
    assert await bench.owed() == 0
    assert {replica.state for replica in (await bench.replicas("/dir/file.txt")).values()} == {OK}
    assert bench.root("b").joinpath("dir/file.txt").stat().st_mtime == 1_600_000_000
    assert await bench.replicator.propagate.once() == 0


@pytest.mark.parametrize("size", [0, 1, BLOCK_SIZE, BLOCK_SIZE + 1, 3 * BLOCK_SIZE])
async def test_a_content_of_any_size_is_copied_whole(bench: Any, size: int) -> None:
    data = os.urandom(size)
    await bench.write("/file", data, at=["b"])
    await bench.work_off()
    assert bench.files("a") == bench.files("b") == bench.files("c") == {"file": data}
    progress = bench.replicator.progress
    assert (progress.copied, progress.copied_bytes, progress.active) == (2, 2 * size, 0)


class LateClaims(catalog_service_pb2_grpc.CatalogServiceServicer):
    """The catalog of a bench: a claim made while work goes on is answered when that work has ended."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.replicator: Replicator | None = None
        self.late = 0

    async def ClaimDebt(self, request: catalog_service_pb2.ClaimDebtRequest, context: Any) -> Any:
        response = await self.bench.catalog.ClaimDebt(request)
        assert self.replicator is not None
        progress = self.replicator.progress
        if progress.active:
            self.late += 1
            await self.bench.until(lambda: not progress.active)
        else:
            # so that it asks again as soon as the work has begun
            self.replicator.propagate.wake()
        return response

    async def ReadProviders(self, request: catalog_service_pb2.ReadProvidersRequest, context: Any) -> Any:
        return await self.bench.catalog.ReadProviders(request)

    async def RecordProviderStates(self, request: catalog_service_pb2.RecordProviderStatesRequest, context: Any) -> Any:
        return await self.bench.catalog.RecordProviderStates(request)

    async def FinishDebt(self, request: catalog_service_pb2.FinishDebtRequest, context: Any) -> Any:
        return await self.bench.catalog.FinishDebt(request)


async def test_what_ends_while_more_is_claimed_is_reported(bench: Bench) -> None:
    await bench.write("/file", b"content", at=["a", "b"])
    late = LateClaims(bench)  # type: ignore[abstract] # only the calls of this role
    async with LoopbackChannel() as channel:
        catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(late, channel)
        late.replicator = Replicator(channel, bench.adapters_channel)
        await late.replicator.health.once()
        assert await late.replicator.propagate.once() == 1
    assert late.late, "no claim was late"
    assert await bench.owed() == 0


async def test_many_small_copies_are_all_made(bench: Any) -> None:
    contents = {f"dir{number % 7}/file{number}": f"content {number}".encode() for number in range(70)}
    for key, data in contents.items():
        await bench.write(f"/{key}", data, at=["a"])
    await bench.work_off()
    assert bench.files("b") == bench.files("c") == contents


async def test_the_old_version_is_set_aside_before_the_new_one_arrives(bench: Any) -> None:
    first = await bench.write("/file", b"first")
    await bench.write("/file", b"second", at=["a"])
    await bench.work_off()
    aside = f".cdir/versions/{first.version_id[:2]}/{first.version_id}"
    for name in "abc":
        assert bench.files(name) == {"file": b"second", aside: b"first"}


async def test_damage_is_not_copied_but_repaired(bench: Any) -> None:
    await bench.write("/file", b"content", at=["a", "b"])
    bench.corrupt("a", "file")
    await bench.work_off()
    for name in "abc":
        assert bench.files(name) == {"file": b"content"}


async def test_a_copy_that_was_deleted_at_its_provider_comes_back(bench: Any) -> None:
    await bench.write("/file", b"content", at=["a", "b"])
    bench.root("a").joinpath("file").unlink()
    await bench.work_off()
    for name in "abc":
        assert bench.files(name) == {"file": b"content"}


async def test_a_doubtful_copy_is_inspected(bench: Any) -> None:
    entry = await bench.write("/good", b"content")
    bad = await bench.write("/bad", b"content")
    gone = await bench.write("/gone", b"content")
    short = await bench.write("/short", b"content")
    bench.corrupt("b", "bad")
    bench.root("b").joinpath("gone").unlink()
    bench.root("b").joinpath("short").write_bytes(b"con")
    observations = [
        catalog_service_pb2.ReplicaObservation(
            version_id=version.version_id,
            provider_id=bench.providers["b"].provider_id,
            key=version.path[1:],
            state=entry_pb2.REPLICA_STATE_UNKNOWN,
        )
        for version in (entry, bad, gone, short)
    ]
    await bench.catalog.RecordReplicas(catalog_service_pb2.RecordReplicasRequest(observations=observations))
    assert await bench.owed() == 4
    await bench.work_off()
    assert bench.files("b") == dict.fromkeys(["good", "bad", "gone", "short"], b"content")
    # the good one was looked at and left alone
    assert bench.replicator.progress.copied == 3


async def test_a_rename_moves_the_objects(bench: Any) -> None:
    await bench.write("/old/file", b"content")
    await bench.move("/old", "/new")
    await bench.work_off()
    for name in "abc":
        assert bench.files(name) == {"new/file": b"content"}
    assert bench.replicator.progress.relocated == 3
    assert bench.replicator.progress.copied == 0


async def test_two_files_swap_their_names(bench: Any) -> None:
    await bench.write("/x", b"was x")
    await bench.write("/y", b"was y")
    await bench.move("/x", "/between")
    await bench.move("/y", "/x")
    await bench.move("/between", "/y")
    await bench.work_off()
    for name in "abc":
        assert bench.files(name) == {"x": b"was y", "y": b"was x"}
    for path in ("/x", "/y"):
        assert {replica.state for replica in (await bench.replicas(path)).values()} == {OK}


async def test_a_ring_of_names_turns(bench: Any) -> None:
    for number in range(5):
        await bench.write(f"/file{number}", f"content {number}".encode())
    await bench.move("/file0", "/between")
    for number in range(1, 5):
        await bench.move(f"/file{number}", f"/file{number - 1}")
    await bench.move("/between", "/file4")
    await bench.work_off()
    for name in "abc":
        assert bench.files(name) == {f"file{number}": f"content {(number + 1) % 5}".encode() for number in range(5)}


async def test_an_object_that_is_gone_when_it_is_to_be_renamed_is_copied_instead(bench: Any) -> None:
    await bench.write("/old", b"content")
    bench.root("b").joinpath("old").unlink()
    await bench.move("/old", "/new")
    await bench.work_off()
    for name in "abc":
        assert bench.files(name) == {"new": b"content"}


async def test_a_removed_file_is_kept_aside_and_then_let_go(bench: Any) -> None:
    entry = await bench.write("/file", b"content")
    await bench.remove("/file")
    await bench.work_off()
    aside = f".cdir/versions/{entry.version_id[:2]}/{entry.version_id}"
    for name in "abc":
        assert bench.files(name) == {aside: b"content"}
    await bench.set_policy(keep_seconds=0)

    async def nothing_left() -> bool:
        await bench.replicator.place.once()
        await bench.replicator.reap.once()
        await bench.replicator.propagate.once()
        return not any(bench.files(name) for name in "abc")

    await bench.until(nothing_left)
    assert await bench.owed() == 0


async def test_replaced_content_that_no_policy_keeps_is_removed(bench: Any) -> None:
    await bench.set_policy(keep_versions=0)
    await bench.write("/file", b"first")
    await bench.write("/file", b"second")

    async def only_the_second_left() -> bool:
        await bench.replicator.reap.once()
        await bench.replicator.propagate.once()
        return all(bench.files(name) == {"file": b"second"} for name in "abc")

    await bench.until(only_the_second_left)


async def test_what_an_aborted_write_left_is_removed(bench: Any) -> None:
    begun = await bench.begin("/file")
    for target in begun.targets:
        await bench.store(target, b"half a thought")
    abort = catalog_service_pb2.AbortedWrite(
        version_id=begun.version_id, touched=[target.provider_id for target in begun.targets]
    )
    await bench.catalog.AbortWrites(catalog_service_pb2.AbortWritesRequest(aborts=[abort]))
    await bench.work_off()
    for name in "abc":
        assert bench.files(name) == {}


async def test_an_aborted_overwrite_brings_the_old_content_back(bench: Any) -> None:
    await bench.write("/file", b"old")
    begun = await bench.begin("/file")
    for target in begun.targets[:2]:
        await bench.store(target, b"new")
    abort = catalog_service_pb2.AbortedWrite(
        version_id=begun.version_id, touched=[target.provider_id for target in begun.targets]
    )
    await bench.catalog.AbortWrites(catalog_service_pb2.AbortWritesRequest(aborts=[abort]))
    await bench.work_off()
    for name in "abc":
        assert bench.files(name) == {"file": b"old"}


async def test_a_new_provider_is_filled(bench: Any) -> None:
    await bench.write("/file", b"content")
    await bench.add_provider("d")

    async def filled() -> bool:
        await bench.replicator.health.once()
        await bench.replicator.place.once()
        await bench.replicator.propagate.once()
        return bool(bench.files("d") == {"file": b"content"})

    await bench.until(filled)


async def test_two_replicators_share_the_work_and_do_nothing_twice(bench: Any) -> None:
    contents = {f"file{number}": f"content {number}".encode() for number in range(60)}
    for key, data in contents.items():
        await bench.write(f"/{key}", data, at=["a"])
    other = bench.another_replicator()
    await bench.work_off(bench.replicator, other)
    assert bench.files("b") == bench.files("c") == contents
    assert bench.replicator.progress.copied + other.progress.copied == 2 * len(contents)


async def test_a_bad_object_does_not_hold_up_the_others(bench: Any) -> None:
    await bench.write("/bad", b"content", at=["a"])
    bench.corrupt("a", "bad")
    good = {f"good{number}": b"content" for number in range(20)}
    for key, data in good.items():
        await bench.write(f"/{key}", data, at=["a"])
    await bench.until(lambda: bench.files("b") == bench.files("c") == good, bench.replicator.propagate.once)
    assert bench.replicator.progress.failed > 0
    # what is damaged everywhere is told, and nothing that may be of use to a person is thrown away
    replicas = await bench.replicas("/bad")
    assert all(replica.state != OK for replica in replicas.values())
    assert "bad" in bench.files("a")


async def test_a_copy_that_keeps_failing_waits_for_a_person(bench: Any) -> None:
    await bench.write("/dir/file", b"content", at=["a", "c"])
    # at this provider a file is where the directory would have to be
    blocker = bench.root("b") / "dir"
    blocker.write_bytes(b"in the way")
    await bench.replicator.propagate.once()
    replica = (await bench.replicas("/dir/file"))["b"]
    assert replica.attempts >= 1
    assert "dir" in replica.error

    async def quarantined() -> bool:
        return bool((await bench.replicas("/dir/file"))["b"].state == entry_pb2.REPLICA_STATE_QUARANTINED)

    await bench.until(quarantined, lambda: fail_what_is_due(bench))
    blocker.unlink()
    assert await bench.replicator.propagate.once() == 0
    assert bench.files("b") == {}
    request = replicator_service_pb2.StartRepairRequest(path="/dir")
    assert (await bench.replicator.servicer.StartRepair(request, None)).due == 1
    await bench.work_off()
    assert bench.files("b") == {"dir/file": b"content"}


async def fail_what_is_due(bench: Any) -> None:
    """Fail as a replicator does, but without a back-off: the whole of it takes minutes."""
    claimed = await bench.catalog.ClaimDebt(catalog_service_pb2.ClaimDebtRequest(owner="test"))
    outcomes = [
        catalog_service_pb2.DebtOutcome(
            debt_id=item.debt_id, owner="test", failure=to_failure(NotDirectory("dir is a file")), counted=True
        )
        for item in claimed.items
    ]
    await bench.catalog.FinishDebt(catalog_service_pb2.FinishDebtRequest(outcomes=outcomes))


async def test_a_provider_that_is_taken_away_costs_nothing_and_catches_up(bench: Any) -> None:
    for number in range(5):
        await bench.write(f"/before{number}", b"content")
    hidden = bench.folder / "hidden"
    bench.root("b").rename(hidden)
    await bench.write("/during", b"content", at=["a", "c"])
    await bench.replicator.propagate.once()
    bench.replicator.health.suspect(bench.providers["b"].provider_id)
    await bench.replicator.health.once()
    assert (await bench.state_of("b")).state == provider_pb2.PROVIDER_STATE_DOWN
    assert (await bench.state_of("b")).state_reason
    assert await bench.replicator.propagate.once() == 0
    assert await bench.owed() == 1
    assert not bench.root("b").exists()
    # nothing that was known of its copies was given up
    assert (await bench.replicas("/before0"))["b"].state == OK
    hidden.rename(bench.root("b"))

    async def caught_up() -> bool:
        await bench.replicator.health.once()
        await bench.replicator.propagate.once()
        return bool(await bench.owed() == 0)

    await bench.until(caught_up)
    assert bench.files("b") == bench.files("a")
    assert bench.replicator.progress.copied == 1


async def test_an_empty_folder_in_place_of_a_provider_is_not_filled_or_believed(bench: Any) -> None:
    await bench.write("/file", b"content")
    shutil.rmtree(bench.root("b"))
    bench.root("b").mkdir()
    await bench.write("/other", b"content", at=["a", "c"])
    bench.replicator.health.suspect(bench.providers["b"].provider_id)
    await bench.replicator.health.once()
    assert (await bench.state_of("b")).state == provider_pb2.PROVIDER_STATE_UNKNOWN
    await bench.replicator.propagate.once()
    assert list(bench.root("b").iterdir()) == []
    assert (await bench.replicas("/file"))["b"].state == OK
    assert await bench.owed() == 1


async def test_a_pause_takes_no_new_work(bench: Any) -> None:
    await bench.write("/file", b"content", at=["a"])
    bench.replicator.progress.paused = True
    assert await bench.replicator.propagate.once() == 0
    assert bench.files("b") == {}
    bench.replicator.progress.paused = False
    await bench.work_off()
    assert bench.files("b") == {"file": b"content"}


async def test_what_was_cancelled_is_done_by_the_next(bench: Any) -> None:
    data = os.urandom(6 * BLOCK_SIZE)
    await bench.write("/large", data, at=["a"])
    await bench.write("/small", b"content", at=["a"])
    working = asyncio.create_task(bench.replicator.propagate.once())
    await bench.until(lambda: bench.replicator.progress.active)
    working.cancel()
    await asyncio.wait([working])
    assert working.cancelled()
    assert bench.replicator.progress.active == 0
    await bench.replicator.propagate.close()
    other = bench.another_replicator()
    await bench.work_off(other)
    for name in "abc":
        assert bench.files(name) == {"large": data, "small": b"content"}


async def test_a_removed_directory_is_gone_at_every_provider(bench: Any) -> None:
    await bench.set_policy(keep_seconds=0)
    for number in range(30):
        await bench.write(f"/dir/file{number}", b"content")
    await bench.write("/kept", b"content")
    await bench.remove("/dir", recursive=True)

    async def gone() -> bool:
        await bench.replicator.reap.once()
        await bench.replicator.propagate.once()
        return all(bench.files(name) == {"kept": b"content"} for name in "abc")

    await bench.until(gone)
    assert not bench.root("a").joinpath("dir").exists()
