from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import IsDirectory, NotFound, ProviderUnavailable, QuotaExceeded
from cdir.v1 import catalog_service_pb2, entry_pb2
from cdir_transfer.digest import BLOCK_SIZE
from cdir_transfer.writer import Copies, FanOut, ProviderWriter
from unit.gateway.harness import HANG

LARGE = os.urandom(2 * BLOCK_SIZE + 12_345)
PIECES = [LARGE[start : start + (1 << 20)] for start in range(0, len(LARGE), 1 << 20)]


class Bench:
    """A writer, and the record of what it displaced."""

    def __init__(self, providers: Any, **settings: Any) -> None:
        self.writer = ProviderWriter(providers.harness.adapters, providers.health, providers.notes, **settings)
        self.displaced: list[catalog_service_pb2.ReplicaObservation] = []
        self.files_when_displaced: list[dict[str, bytes]] = []
        self.providers = providers

    async def record(self, observation: catalog_service_pb2.ReplicaObservation) -> None:
        self.displaced.append(observation)
        self.files_when_displaced.append(self.providers.harness.files("a"))

    def stream(self, targets: list[catalog_service_pb2.WriteTarget], needed: int = 1) -> FanOut:
        return self.writer.stream(
            targets,
            modified=Timestamp(seconds=1_600_000_000),
            size=None,
            needed=needed,
            record_displaced=self.record,
        )

    def put(
        self,
        targets: list[catalog_service_pb2.WriteTarget],
        data: bytes,
        needed: int = 1,
        spares: Sequence[catalog_service_pb2.WriteTarget] = (),
    ) -> Copies:
        return self.writer.put(
            targets,
            data,
            spares=spares,
            modified=Timestamp(seconds=1_600_000_000),
            needed=needed,
            record_displaced=self.record,
        )


async def send_all(copies: FanOut) -> None:
    async with asyncio.timeout(HANG):
        for piece in PIECES:
            await copies.send(piece)
        copies.commit()


async def test_a_stream_reaches_every_target(providers: Any) -> None:
    copies = Bench(providers).stream([providers.target(name, "dir/file") for name in "abc"])
    await send_all(copies)
    assert await copies.settled()
    assert {copy.provider_id for copy in copies.stored} == set(providers.harness.ids.values())
    assert copies.touched == []
    for name in "abc":
        assert providers.harness.files(name) == {"dir/file": LARGE}
        assert (await providers.stat(name, "dir/file")).modified.seconds == 1_600_000_000


@pytest.mark.parametrize("content", [b"", b"x", os.urandom(BLOCK_SIZE)], ids=len)
async def test_a_whole_content_reaches_every_target(providers: Any, content: bytes) -> None:
    copies = Bench(providers).put([providers.target(name) for name in "abc"], content)
    assert await copies.settled()
    assert len(copies.stored) == 3
    assert all(providers.harness.files(name) == {"file": content} for name in "abc")


async def test_an_empty_stream_is_an_empty_object(providers: Any) -> None:
    copies = Bench(providers).stream([providers.target("a")])
    copies.commit()
    assert await copies.settled()
    assert providers.harness.files("a") == {"file": b""}


async def test_without_a_commit_nothing_is_stored(providers: Any) -> None:
    copies = Bench(providers).stream([providers.target(name) for name in "ab"])
    for piece in PIECES:
        await copies.send(piece)
    await copies.abandon()
    assert copies.stored == []
    await providers.harness.until_empty("ab")


async def test_a_target_that_fails_is_dropped_and_the_others_go_on(providers: Any) -> None:
    providers.harness.trouble("b", error=ProviderUnavailable("the line is dead"), after=1 << 20)
    copies = Bench(providers).stream([providers.target(name) for name in "abc"], needed=2)
    await send_all(copies)
    assert await copies.settled()
    assert {copy.provider_id for copy in copies.stored} == {providers.harness.ids["a"], providers.harness.ids["c"]}
    assert copies.touched == [providers.harness.ids["b"]]
    await providers.harness.until_empty("b")
    assert [provider for provider, _ in providers.notes.failures] == [providers.harness.ids["b"]]


async def test_a_plain_refusal_touches_nothing(providers: Any) -> None:
    (providers.harness.root("b") / "file").mkdir()
    copies = Bench(providers).put([providers.target(name) for name in "ab"], b"x")
    assert await copies.settled()
    assert copies.touched == []
    assert isinstance(copies.branches[1].error, IsDirectory)
    assert providers.notes.failures == []


async def test_when_too_few_are_left_the_source_is_told_at_once(providers: Any) -> None:
    for name in "ab":
        providers.harness.trouble(name, error=ProviderUnavailable(f"{name} is dead"), after=1 << 20)
    copies = Bench(providers).stream([providers.target(name) for name in "abc"], needed=2)
    with pytest.raises(ProviderUnavailable, match=r"stored on 0 of 2 .*: a: a is dead; b: b is dead"):
        await send_all(copies)
    await copies.abandon()
    await providers.harness.until_empty("abc")


async def test_what_all_say_is_what_the_caller_hears(providers: Any) -> None:
    for name in "ab":
        providers.harness.trouble(name, error=QuotaExceeded("the disk is full"))
    copies = Bench(providers).put([providers.target(name) for name in "ab"], b"x")
    assert not await copies.settled()
    failure = copies.failure()
    assert isinstance(failure, QuotaExceeded)
    assert "a: the disk is full; b: the disk is full" in failure.message
    assert copies.touched == []


async def test_a_target_that_stalls_is_cut_loose(providers: Any) -> None:
    providers.harness.trouble("b", stalls=True)
    copies = Bench(providers, patience=0.2, slowdown=0).stream([providers.target(name) for name in "abc"], needed=2)
    await send_all(copies)
    assert await copies.settled()
    assert {copy.provider_id for copy in copies.stored} == {providers.harness.ids["a"], providers.harness.ids["c"]}
    assert copies.touched == [providers.harness.ids["b"]]
    assert providers.health.suspect(providers.harness.ids["b"])
    assert [provider for provider, _ in providers.notes.failures] == [providers.harness.ids["b"]]


async def test_a_whole_content_does_not_wait_for_a_stalled_target(providers: Any) -> None:
    providers.harness.trouble("b", stalls=True)
    copies = Bench(providers, patience=0.2, slowdown=0).put([providers.target(name) for name in "ab"], b"x")
    assert await copies.settled()
    assert [copy.provider_id for copy in copies.stored] == [providers.harness.ids["a"]]
    assert copies.touched == [providers.harness.ids["b"]]


async def test_a_target_that_is_dead_is_not_waited_for_as_long_as_a_slow_one(providers: Any) -> None:
    providers.harness.trouble("b", stalls=True)
    copies = Bench(providers, patience=10 * HANG).put([providers.target(name) for name in "ab"], b"x")
    providers.health.failed(providers.harness.ids["b"])
    async with asyncio.timeout(HANG):
        assert await copies.settled()
    assert [copy.provider_id for copy in copies.stored] == [providers.harness.ids["a"]]
    assert copies.touched == [providers.harness.ids["b"]]


async def test_a_target_that_was_suspect_and_answers_is_waited_for(providers: Any) -> None:
    providers.harness.trouble("b", stalls=True)
    copies = Bench(providers, patience=10 * HANG).put([providers.target(name) for name in "ab"], b"x")
    providers.health.failed(providers.harness.ids["b"])
    settled = asyncio.create_task(copies.settled())
    await asyncio.sleep(0.5)
    providers.health.answered(providers.harness.ids["b"])
    await asyncio.wait([settled], timeout=2.0)
    assert [branch.target.provider for branch in copies.pending] == ["b"]
    settled.cancel()
    await asyncio.wait([settled])
    await copies.abandon()


@pytest.mark.parametrize("trouble", [{"stalls": True}, {"error": ProviderUnavailable("gone", provider="b")}])
async def test_a_spare_takes_the_place_of_one_that_may_not_come(providers: Any, trouble: dict[str, Any]) -> None:
    providers.harness.trouble("b", **trouble)
    targets = [providers.target(name) for name in "abc"]
    copies = Bench(providers).put(targets[:2], b"x", needed=2, spares=targets[2:])
    if "stalls" in trouble:
        providers.health.failed(providers.harness.ids["b"])
    async with asyncio.timeout(HANG):
        assert await copies.minimum()
    assert {copy.provider_id for copy in copies.stored} == {providers.harness.ids[name] for name in "ac"}
    await copies.abandon()


async def test_a_spare_is_left_alone_while_the_others_answer(providers: Any) -> None:
    targets = [providers.target(name) for name in "abc"]
    copies = Bench(providers).put(targets[:2], b"x", needed=2, spares=targets[2:])
    assert await copies.settled()
    assert len(copies.branches) == 2
    assert providers.harness.files("c") == {}


async def test_a_slow_target_that_moves_is_waited_for(providers: Any) -> None:
    providers.harness.trouble("b", pause=0.01)
    copies = Bench(providers, patience=HANG).stream([providers.target(name) for name in "ab"])
    await send_all(copies)
    assert await copies.settled()
    assert len(copies.stored) == 2


async def test_a_target_that_is_needed_is_never_cut_loose(providers: Any) -> None:
    providers.harness.trouble("b", pause=0.05)
    copies = Bench(providers, patience=0.01, slowdown=0).stream([providers.target(name) for name in "ab"], needed=2)
    await send_all(copies)
    assert await copies.settled()
    assert len(copies.stored) == 2


async def test_the_minimum_is_reached_while_others_go_on(providers: Any) -> None:
    trouble = providers.harness.trouble("b", stalls=True)
    copies = Bench(providers).put([providers.target(name) for name in "ab"], b"x")
    async with asyncio.timeout(HANG):
        assert await copies.minimum()
    assert [branch.target.provider for branch in copies.pending] == ["b"]
    assert trouble.calls == 1
    await copies.abandon()
    assert copies.pending == []


def occupied(target: catalog_service_pb2.WriteTarget, version_id: str = "f" * 32) -> catalog_service_pb2.WriteTarget:
    target.occupant.version_id = version_id
    target.occupant.aside_key = ".cdir/versions/ff/old"
    return target


async def test_an_occupant_is_moved_aside_and_recorded_before_it_is_replaced(providers: Any) -> None:
    providers.lay("a", b"old")
    bench = Bench(providers)
    assert await bench.put([occupied(providers.target("a"))], b"new").settled()
    assert providers.harness.files("a") == {"file": b"new", ".cdir/versions/ff/old": b"old"}
    assert bench.files_when_displaced == [{".cdir/versions/ff/old": b"old"}]
    (seen,) = bench.displaced
    assert (seen.version_id, seen.key, seen.previous_key) == ("f" * 32, ".cdir/versions/ff/old", "file")
    assert seen.state == entry_pb2.REPLICA_STATE_OK


async def test_an_occupant_that_is_gone_is_reported_missing_and_in_nobodys_way(providers: Any) -> None:
    bench = Bench(providers)
    assert await bench.put([occupied(providers.target("a"))], b"new").settled()
    assert providers.harness.files("a") == {"file": b"new"}
    (seen,) = bench.displaced
    assert (seen.key, seen.previous_key, seen.state) == ("file", "", entry_pb2.REPLICA_STATE_MISSING)


async def test_when_the_occupant_cannot_be_recorded_it_is_not_replaced(providers: Any) -> None:
    providers.lay("a", b"old")
    bench = Bench(providers)

    async def unable(_: catalog_service_pb2.ReplicaObservation) -> None:
        raise ProviderUnavailable("the catalog is away")

    copies = bench.writer.put(
        [occupied(providers.target("a"))], b"new", modified=Timestamp(), needed=1, record_displaced=unable
    )
    assert not await copies.settled()
    assert providers.harness.files("a") == {".cdir/versions/ff/old": b"old"}
    assert copies.touched == [providers.harness.ids["a"]]


async def test_leftovers_without_a_version_are_simply_replaced(providers: Any) -> None:
    providers.lay("a", b"leftover")
    bench = Bench(providers)
    assert await bench.put([occupied(providers.target("a"), "")], b"new").settled()
    assert providers.harness.files("a") == {"file": b"new"}
    assert bench.displaced == []


async def test_an_unknown_provider_is_an_error_of_its_target_alone(providers: Any) -> None:
    stranger = catalog_service_pb2.WriteTarget(provider_id="0" * 32, provider="stranger", key="file")
    copies = Bench(providers).put([stranger, providers.target("a")], b"x")
    assert await copies.settled()
    assert isinstance(copies.branches[0].error, NotFound)
    assert providers.harness.files("a") == {"file": b"x"}
