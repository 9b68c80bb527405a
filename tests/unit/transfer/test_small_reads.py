"""Many small contents in few calls: the short way, and when it gives up in favour of the long one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from cdir.errors import ProviderUnavailable
from cdir.v1 import entry_pb2
from cdir_transfer.shared_calls import OBJECTS_IN_CALL, SMALL_CONTENT
from cdir_transfer.small_reads import SmallReads
from unit.gateway.harness import HANG, version_of

CONTENTS = {f"f{number}": f"content {number}".encode() * (number + 1) for number in range(100)}


@pytest.fixture
async def reads(providers: Any) -> AsyncIterator[SmallReads]:
    async with SmallReads(providers.harness.adapters, providers.health, providers.notes) as opened:
        yield opened


async def _read(reads: SmallReads, version: entry_pb2.Version, replicas: Sequence[entry_pb2.Replica]) -> bytes | None:
    """One reader of one content."""
    calls = reads.together([(version, replicas)])
    return (await reads.read(calls[0]))[0] if calls else None


async def _read_all(reads: SmallReads, providers: Any, *names: str) -> list[bytes | None]:
    async with asyncio.timeout(HANG), asyncio.TaskGroup() as group:
        reading = [
            group.create_task(_read(reads, version_of(data), [providers.replica(name, key) for name in names]))
            for key, data in CONTENTS.items()
        ]
    return [task.result() for task in reading]


def _lay(providers: Any, *names: str) -> None:
    for name in names:
        for key, data in CONTENTS.items():
            providers.lay(name, data, key)


def _calls(providers: Any) -> int:
    return len(providers.harness.faulty.calls)


async def test_a_crowd_of_contents_takes_few_calls(providers: Any, reads: SmallReads) -> None:
    _lay(providers, "a")
    assert await _read_all(reads, providers, "a") == list(CONTENTS.values())
    assert _calls(providers) < len(CONTENTS) / 4


async def test_what_is_missing_or_damaged_is_left_and_the_others_are_read(providers: Any, reads: SmallReads) -> None:
    _lay(providers, "a")
    providers.lay("a", CONTENTS["f5"][:-1], "f5")
    providers.lay("a", CONTENTS["f6"] + b"more", "f6")
    providers.lay("a", CONTENTS["f7"][::-1], "f7")
    (providers.harness.root("a") / "f8").unlink()
    left = {"f5", "f6", "f7", "f8"}
    expected = [None if key in left else data for key, data in CONTENTS.items()]
    assert await _read_all(reads, providers, "a") == expected
    assert providers.notes.failures == []
    assert not providers.health.suspect(providers.harness.ids["a"])


async def test_a_provider_that_does_not_answer_costs_one_call(providers: Any, reads: SmallReads) -> None:
    _lay(providers, "a", "b")
    providers.harness.trouble("a", error=ProviderUnavailable("down"))
    assert await _read_all(reads, providers, "a", "b") == list(CONTENTS.values())
    assert {provider for provider, _ in providers.notes.failures} == {providers.harness.ids["a"]}
    first = _calls(providers)
    assert await _read_all(reads, providers, "a", "b") == list(CONTENTS.values())
    assert {provider for _, provider in providers.harness.faulty.calls[first:]} == {providers.harness.ids["b"]}


async def test_a_provider_that_hangs_is_overtaken(providers: Any, reads: SmallReads) -> None:
    _lay(providers, "a", "b")
    providers.harness.trouble("a", stalls=True)
    assert await _read_all(reads, providers, "a", "b") == list(CONTENTS.values())
    first = _calls(providers)
    assert await _read_all(reads, providers, "a", "b") == list(CONTENTS.values())
    assert {provider for _, provider in providers.harness.faulty.calls[first:]} == {providers.harness.ids["b"]}


async def test_when_no_copy_can_be_reached_the_contents_are_left(providers: Any, reads: SmallReads) -> None:
    for name in "ab":
        providers.harness.trouble(name, error=ProviderUnavailable("down"))
    assert set(await _read_all(reads, providers, "a", "b")) == {None}


async def test_nobody_is_asked_for_an_empty_content(providers: Any, reads: SmallReads) -> None:
    first = _calls(providers)
    assert await _read(reads, version_of(b""), [providers.replica("a")]) == b""
    assert _calls(providers) == first


async def test_contents_that_need_the_long_way_are_not_asked_for(providers: Any, reads: SmallReads) -> None:
    large = bytes(SMALL_CONTENT + 1)
    assert await _read(reads, version_of(large), [providers.replica("a")]) is None
    assert await _read(reads, entry_pb2.Version(size=3), [providers.replica("a")]) is None
    assert await _read(reads, version_of(b"x"), []) is None
    assert _calls(providers) == 0


async def test_contents_wanted_together_share_calls_from_the_first_on(providers: Any, reads: SmallReads) -> None:
    _lay(providers, "a")
    contents = [(version_of(data), [providers.replica("a", key)]) for key, data in CONTENTS.items()]
    large = (version_of(bytes(SMALL_CONTENT + 1)), [providers.replica("a")])
    calls = reads.together([large, *contents])
    assert [number for call in calls for number in call.numbers] == list(range(1, len(contents) + 1))
    async with asyncio.timeout(HANG):
        found = await asyncio.gather(*map(reads.read, calls))
    assert [data for call in found for data in call] == list(CONTENTS.values())
    assert _calls(providers) == math.ceil(len(CONTENTS) / OBJECTS_IN_CALL)


async def test_contents_wanted_together_are_asked_for_where_each_of_them_lies(
    providers: Any, reads: SmallReads
) -> None:
    _lay(providers, "a", "b")
    names = ["ab" if number % 2 else "b" for number in range(len(CONTENTS))]
    calls = reads.together(
        [
            (version_of(data), [providers.replica(one, key) for one in holders])
            for (key, data), holders in zip(CONTENTS.items(), names, strict=True)
        ]
    )
    for call in calls:
        assert {providers.harness.ids[names[number][0]] for number in call.numbers} == {call.provider_id}
    async with asyncio.timeout(HANG):
        found = {
            number: data for call in calls for number, data in zip(call.numbers, await reads.read(call), strict=True)
        }
    assert [found[number] for number in range(len(CONTENTS))] == list(CONTENTS.values())


async def test_readers_who_leave_do_not_disturb_the_others(providers: Any, reads: SmallReads) -> None:
    _lay(providers, "a")
    providers.harness.trouble("a", pause=0.2)
    staying, leaving = (
        [
            asyncio.create_task(_read(reads, version_of(data), [providers.replica("a", key)]))
            for key, data in CONTENTS.items()
        ]
        for _ in range(2)
    )
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    async with asyncio.timeout(HANG):
        assert await asyncio.gather(*staying) == list(CONTENTS.values())


def _readers(providers: Any, reads: SmallReads, *names: str) -> list[asyncio.Task[bytes | None]]:
    """A crowd that reads one content, all under way."""
    replicas = [providers.replica(name, "f9") for name in names]
    return [asyncio.create_task(_read(reads, version_of(CONTENTS["f9"]), replicas)) for _ in range(100)]


async def test_a_crowd_that_reads_one_content_has_it_from_one_call(providers: Any, reads: SmallReads) -> None:
    _lay(providers, "a")
    trouble = providers.harness.trouble("a", pause=0.2)
    readers = _readers(providers, reads, "a")
    async with asyncio.timeout(HANG):
        await trouble.met.wait()
        readers += _readers(providers, reads, "a")
        first, *others = readers
        first.cancel()  # who began it
        assert await asyncio.gather(*others) == [CONTENTS["f9"]] * len(others)
    assert _calls(providers) == 1


async def test_a_crowd_is_handed_over_to_another_copy_as_one_reader_is(providers: Any, reads: SmallReads) -> None:
    _lay(providers, "a", "b")
    providers.harness.trouble("a", stalls=True)
    async with asyncio.timeout(HANG):
        assert set(await asyncio.gather(*_readers(providers, reads, "a", "b"))) == {CONTENTS["f9"]}
    assert [provider for _, provider in providers.harness.faulty.calls] == [
        providers.harness.ids["a"],
        providers.harness.ids["b"],
    ]


async def test_what_a_crowd_has_read_is_verified(providers: Any, reads: SmallReads) -> None:
    providers.lay("a", CONTENTS["f9"][::-1], "f9")
    async with asyncio.timeout(HANG):
        assert set(await asyncio.gather(*_readers(providers, reads, "a"))) == {None}


async def test_one_content_at_other_places_is_read_there(providers: Any, reads: SmallReads) -> None:
    _lay(providers, "a", "b")
    async with asyncio.timeout(HANG):
        assert set(await asyncio.gather(*_readers(providers, reads, "a"), *_readers(providers, reads, "b"))) == {
            CONTENTS["f9"]
        }
    assert sorted(provider for _, provider in providers.harness.faulty.calls) == sorted(
        providers.harness.ids[name] for name in "ab"
    )


async def test_at_the_end_nobody_is_left_waiting(providers: Any) -> None:
    providers.harness.trouble("a", stalls=True)
    async with SmallReads(providers.harness.adapters, providers.health, providers.notes) as reads:
        waiting = [
            asyncio.create_task(_read(reads, version_of(data), [providers.replica("a", key)]))
            for key, data in CONTENTS.items()
        ]
        done, _ = await asyncio.wait(waiting, timeout=0.2)
        assert not done
    async with asyncio.timeout(HANG):
        assert set(await asyncio.gather(*waiting)) == {None}
    assert await _read(reads, version_of(b"x"), [providers.replica("a")]) is None
