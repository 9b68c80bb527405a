"""Contents that are written together, and what goes on by itself when that does not go well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from cdir_transfer.shared_puts import SharedPuts, SmallPut
from cdir_transfer.small_writes import Attempt, SmallWrites
from cdir_transfer.writer import Copies, ProviderWriter
from unit.gateway.harness import HANG

CONTENTS = {f"dir/{number}": bytes([number]) * number for number in range(10)}
WHEN = Timestamp(seconds=1_600_000_000)


@pytest.fixture
async def writer(providers: Any) -> AsyncIterator[ProviderWriter]:
    async with SmallWrites(providers.harness.adapters, providers.health) as small:
        yield ProviderWriter(providers.harness.adapters, providers.health, providers.notes, small=small)


def begin(writer: ProviderWriter, providers: Any) -> SharedPuts:
    puts = [SmallPut([providers.target(name, key) for name in "ab"], data, WHEN) for key, data in CONTENTS.items()]
    shared = writer.put_together(puts)
    assert shared is not None
    return shared


def go_on(writer: ProviderWriter, shared: SharedPuts, number: int) -> Copies:
    async def no_displaced(observation: object) -> None:
        raise AssertionError(f"nothing was to be displaced: {observation}")

    return writer.put(
        shared.targets(number),
        list(CONTENTS.values())[number],
        modified=WHEN,
        needed=1,
        record_displaced=no_displaced,
        begun=partial(shared.outcome, number),
    )


async def test_all_land_with_one_call_to_each_provider(providers: Any, writer: ProviderWriter) -> None:
    async with asyncio.timeout(HANG):
        shared = begin(writer, providers)
        await shared.landed()
    for number in range(len(CONTENTS)):
        copies = shared.copies(number)
        assert copies is not None
        assert [copy.provider_id for copy in copies] == [providers.harness.ids[name] for name in "ab"]
    assert providers.harness.files("a") == providers.harness.files("b") == CONTENTS
    assert [method for method, _ in providers.harness.faulty.calls] == ["PutObjects"] * 2


async def test_what_has_landed_is_not_written_again_by_one_that_goes_on(providers: Any, writer: ProviderWriter) -> None:
    providers.lay("b", b"foreign", "dir/3")
    async with asyncio.timeout(HANG):
        shared = begin(writer, providers)
        await shared.landed()
        assert shared.copies(3) is None
        assert await shared.outcome(3, providers.harness.ids["b"]) is Attempt.NOTHING
        copies = go_on(writer, shared, 3)
        assert await copies.settled()
    assert [copy.provider_id for copy in copies.stored] == [providers.harness.ids["a"]]
    methods = [(method, provider) for method, provider in providers.harness.faulty.calls if method == "PutObject"]
    assert methods == [("PutObject", providers.harness.ids["b"])]
    assert providers.harness.files("b") == CONTENTS | {"dir/3": b"foreign"}


async def test_needed_providers_are_enough_to_go_on(providers: Any, writer: ProviderWriter) -> None:
    providers.harness.trouble("b", pause=0.2)
    async with asyncio.timeout(HANG):
        shared = begin(writer, providers)
        await shared.landed(1)
        assert shared.copies(3) is None
        copies = go_on(writer, shared, 3)
        assert await copies.minimum()
        assert [copy.provider_id for copy in copies.stored] == [providers.harness.ids["a"]]
        assert await copies.settled()
    assert len(copies.stored) == 2
    assert providers.harness.files("b") == CONTENTS


@pytest.mark.parametrize("who", ["all", "one that goes on"])
async def test_what_is_given_up_does_not_land_later(providers: Any, writer: ProviderWriter, who: str) -> None:
    for name in "ab":
        providers.harness.trouble(name, pause=0.2)
    async with asyncio.timeout(HANG):
        shared = begin(writer, providers)
        if who == "all":
            await shared.cancel()
        else:
            copies = go_on(writer, shared, 3)
            await asyncio.sleep(0)
            await copies.abandon()
            assert await shared.outcome(4, providers.harness.ids["a"]) is Attempt.UNCERTAIN
        await asyncio.sleep(0.3)
    assert providers.harness.files("a") == providers.harness.files("b") == {}


async def test_one_that_is_given_up_at_once_is_called_uncertain(providers: Any, writer: ProviderWriter) -> None:
    async with asyncio.timeout(HANG):
        shared = begin(writer, providers)
        copies = go_on(writer, shared, 3)
        await copies.abandon()
        await shared.cancel()
    assert copies.touched == [providers.harness.ids[name] for name in "ab"]
