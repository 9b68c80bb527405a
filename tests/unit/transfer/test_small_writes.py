"""Many small contents in few calls: the short way, and when it gives up in favour of the long one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import AlreadyExists, ProviderUnavailable
from cdir.v1 import adapter_service_pb2, entry_pb2
from cdir_transfer.shared_calls import SMALL_CONTENT
from cdir_transfer.small_writes import Attempt, SmallContent, SmallWrites
from cdir_transfer.writer import Copies, ProviderWriter
from unit.gateway.harness import HANG

CONTENTS = {f"dir{number % 3}/f{number}": f"content {number}".encode() * number for number in range(100)}
WHEN = Timestamp(seconds=1_600_000_000)


@pytest.fixture
async def writes(providers: Any) -> AsyncIterator[SmallWrites]:
    async with SmallWrites(providers.harness.adapters, providers.health) as opened:
        yield opened


def _write(
    writes: SmallWrites, providers: Any, key: str, data: bytes
) -> asyncio.Task[adapter_service_pb2.ObjectInfo | Attempt]:
    ref = adapter_service_pb2.ProviderRef(provider_id=providers.harness.ids["a"])
    small = SmallContent(key=key, modified=WHEN, only_if_absent=True, data=data, acl=None)
    return asyncio.create_task(writes.write(ref, small))


async def _write_all(writes: SmallWrites, providers: Any) -> list[adapter_service_pb2.ObjectInfo | Attempt]:
    async with asyncio.timeout(HANG):
        return await asyncio.gather(*(_write(writes, providers, key, data) for key, data in CONTENTS.items()))


def _calls(providers: Any, method: str) -> int:
    return sum(name == method for name, _ in providers.harness.faulty.calls)


async def test_a_crowd_of_contents_takes_few_calls(providers: Any, writes: SmallWrites) -> None:
    stored = await _write_all(writes, providers)
    assert [one.size for one in stored if isinstance(one, adapter_service_pb2.ObjectInfo)] == [
        len(data) for data in CONTENTS.values()
    ]
    assert providers.harness.files("a") == CONTENTS
    assert _calls(providers, "PutObjects") < len(CONTENTS) / 4


async def test_what_others_have_put_there_is_left_and_the_others_are_written(
    providers: Any, writes: SmallWrites
) -> None:
    taken = ["dir0/f3", "dir1/f7"]
    for key in taken:
        providers.lay("a", b"foreign", key)
    stored = await _write_all(writes, providers)
    assert [key for key, one in zip(CONTENTS, stored, strict=True) if one is Attempt.NOTHING] == taken
    assert providers.harness.files("a") == CONTENTS | dict.fromkeys(taken, b"foreign")


async def test_a_provider_that_does_not_answer_is_left_to_the_long_way(providers: Any, writes: SmallWrites) -> None:
    providers.harness.trouble("a", error=ProviderUnavailable("down"))
    assert set(await _write_all(writes, providers)) == {Attempt.UNCERTAIN}
    assert providers.notes.failures == []
    assert not providers.health.suspect(providers.harness.ids["a"])


async def test_large_contents_are_left_to_the_long_way(providers: Any, writes: SmallWrites) -> None:
    assert await _write(writes, providers, "large", bytes(SMALL_CONTENT + 1)) is Attempt.NOTHING
    assert providers.harness.faulty.calls == []


async def test_a_write_that_is_given_up_does_not_land_later(providers: Any, writes: SmallWrites) -> None:
    trouble = providers.harness.trouble("a", stalls=True)
    async with asyncio.timeout(HANG):
        leaving, staying = (_write(writes, providers, key, b"x") for key in ("leaving", "staying"))
        await trouble.met.wait()
        leaving.cancel()
        await asyncio.wait([leaving])
        assert await staying is Attempt.UNCERTAIN
    assert providers.harness.files("a") == {}


async def test_at_the_end_nobody_is_left_waiting(providers: Any) -> None:
    providers.harness.trouble("a", stalls=True)
    async with SmallWrites(providers.harness.adapters, providers.health) as writes:
        waiting = [_write(writes, providers, key, data) for key, data in CONTENTS.items()]
        await asyncio.sleep(0)
    async with asyncio.timeout(HANG):
        assert set(await asyncio.gather(*waiting)) == {Attempt.UNCERTAIN}
    assert await _write(writes, providers, "late", b"x") is Attempt.UNCERTAIN


class Bench:
    """A writer of contents that share calls."""

    def __init__(self, providers: Any, writes: SmallWrites, **settings: Any) -> None:
        self._providers = providers
        self._writer = ProviderWriter(
            providers.harness.adapters, providers.health, providers.notes, small=writes, **settings
        )

    def put(self, key: str, data: bytes, *, occupied: bool = False, acl: entry_pb2.Acl | None = None) -> Copies:
        targets = [self._providers.target(name, key) for name in "ab"]
        for target in targets:
            if occupied:
                target.occupant.SetInParent()
            if acl is not None:
                target.acl.CopyFrom(acl)
        return self._writer.put(targets, data, modified=WHEN, needed=1, record_displaced=self._no_displaced)

    async def _no_displaced(self, observation: object) -> None:
        raise AssertionError(f"nothing was to be displaced: {observation}")


async def test_contents_reach_every_target(providers: Any, writes: SmallWrites) -> None:
    bench = Bench(providers, writes)
    async with asyncio.timeout(HANG):
        copies = [bench.put(key, data) for key, data in CONTENTS.items()]
        assert all([await one.settled() for one in copies])
    assert all(len(one.stored) == 2 and one.touched == [] for one in copies)
    assert providers.harness.files("a") == providers.harness.files("b") == CONTENTS
    assert _calls(providers, "PutObject") == 0


async def test_the_list_of_each_target_goes_along_and_what_became_of_it_comes_back(
    providers: Any, writes: SmallWrites
) -> None:
    bench = Bench(providers, writes)
    acl = entry_pb2.Acl(access=entry_pb2.ACL_ACCESS_AUTHENTICATED_READ)
    async with asyncio.timeout(HANG):
        copies = [bench.put(key, data, acl=acl) for key, data in CONTENTS.items()]
        assert all([await one.settled() for one in copies])
        without = bench.put("without", b"x")
        assert await without.settled()
    applied = entry_pb2.AclOutcome(asked=acl, state=entry_pb2.ACL_STATE_APPLIED)
    assert all([stored.acl for stored in one.stored] == [applied] * 2 for one in copies)
    assert not any(stored.HasField("acl") for stored in without.stored)
    assert _calls(providers, "PutObject") == 0


async def test_what_was_stored_by_a_call_that_looked_failed_is_found(providers: Any, writes: SmallWrites) -> None:
    providers.harness.trouble("b", error=ProviderUnavailable("the answer was lost"), after=1, methods={"PutObjects"})
    copies = Bench(providers, writes).put("file", b"content")
    async with asyncio.timeout(HANG):
        assert await copies.settled()
    assert len(copies.stored) == 2
    assert providers.harness.files("b") == {"file": b"content"}


async def test_a_stranger_is_not_replaced_but_an_occupant_is(providers: Any, writes: SmallWrites) -> None:
    bench = Bench(providers, writes)
    providers.lay("b", b"foreign", "file")
    async with asyncio.timeout(HANG):
        copies = bench.put("file", b"content")
        assert await copies.settled()
        assert [type(branch.error) for branch in copies.branches] == [type(None), AlreadyExists]
        assert await bench.put("file", b"newer", occupied=True).settled()
    assert providers.harness.files("a") == providers.harness.files("b") == {"file": b"newer"}


async def test_a_target_that_hangs_is_cut_loose(providers: Any, writes: SmallWrites) -> None:
    providers.harness.trouble("b", stalls=True)
    copies = Bench(providers, writes, patience=0.2, slowdown=0.0).put("file", b"content")
    async with asyncio.timeout(HANG):
        assert await copies.settled()
    assert copies.touched == [providers.harness.ids["b"]]
    assert providers.harness.files("b") == {}
