"""The budget of bytes and the outbox: what keeps memory bounded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cdir.v1 import directory_service_pb2 as pb
from cdir_gateway import writing
from cdir_gateway.budget import ByteBudget
from cdir_gateway.outbox import Outbox
from cdir_transfer.writer import Copies, ProviderWriter
from unit.gateway.harness import open_harness


async def test_a_budget_is_never_exceeded_and_is_first_come_first_served() -> None:
    budget = ByteBudget(100)
    held = peak = 0
    order: list[int] = []

    async def hold(number: int, amount: int) -> None:
        nonlocal held, peak
        async with budget.taken(amount):
            order.append(number)
            held += amount
            peak = max(peak, held)
            await asyncio.sleep(0)
            held -= amount

    async with asyncio.timeout(30):
        await asyncio.gather(*(hold(number, 30 + number % 3 * 20) for number in range(50)))
    assert peak <= 100
    assert order == list(range(50))


async def test_more_than_the_whole_budget_passes_alone() -> None:
    budget = ByteBudget(100)
    assert await budget.take(500) == 100
    waiting = asyncio.create_task(budget.take(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    budget.give(100)
    assert await waiting == 1


@pytest.mark.parametrize("granted_first", [False, True])
async def test_a_waiter_that_leaves_gives_its_share_to_the_next(granted_first: bool) -> None:
    budget = ByteBudget(100)
    await budget.take(100)
    leaving = asyncio.create_task(budget.take(100))
    staying = asyncio.create_task(budget.take(50))
    await asyncio.sleep(0)
    if granted_first:
        budget.give(100)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    if not granted_first:
        budget.give(100)
    async with asyncio.timeout(30):
        assert await staying == 50
    assert await budget.take(50) == 50


async def test_an_outbox_hands_out_what_has_gathered_in_bounded_batches() -> None:
    outbox: Outbox[int] = Outbox(batch_weight=10, capacity=1000)
    for item in (4, 4, 4, 30, 1):
        await outbox.put(item, item)
    outbox.close()
    assert [batch async for batch in outbox.batches()] == [[4, 4], [4], [30], [1]]


async def test_a_full_outbox_holds_back_those_who_fill_it() -> None:
    outbox: Outbox[int] = Outbox(batch_weight=10, capacity=10)
    await outbox.put(1, 8)
    filling = asyncio.create_task(outbox.put(2, 8))
    await asyncio.sleep(0)
    assert not filling.done()
    batches = outbox.batches()
    assert await anext(batches) == [1]
    async with asyncio.timeout(30):
        await filling
    assert await anext(batches) == [2]
    await batches.aclose()


@pytest.mark.parametrize("late", [False, True], ids=["all wanted", "one copy late"])
async def test_whole_contents_wait_until_there_is_room_for_what_all_providers_hold_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    size = 100_000
    monkeypatch.setattr(writing, "_SMALL_BYTES", 2 * 3 * writing._HELD_TIMES * size)
    monkeypatch.setattr(writing, "_ROOM_SECONDS", 60.0)  # nobody has to give way, however slow the machine is
    begun: list[Copies] = []
    most = 0
    put = ProviderWriter.put

    def counted(self: ProviderWriter, *arguments: Any, **named: Any) -> Copies:
        nonlocal most
        begun.append(put(self, *arguments, **named))
        most = max(most, sum(bool(copies.pending) for copies in begun))
        return begun[-1]

    monkeypatch.setattr(ProviderWriter, "put", counted)
    async with open_harness(tmp_path) as trio:
        for name in "abc":
            await trio.add_provider(name)
        if late:
            trio.trouble("c", pause=0.3)
        wait = pb.WAIT_FOR_MINIMUM if late else pb.WAIT_FOR_REACHABLE
        news = await trio.write([trio.whole(number, f"/{number}", os.urandom(size), wait=wait) for number in range(8)])
        assert [list(results[-1].stored.owed) for results in news.values()] == [[]] * 8
    assert most == 2


async def test_late_copies_give_way_to_writes_that_wait_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 100_000
    monkeypatch.setattr(writing, "_SMALL_BYTES", 2 * 3 * writing._HELD_TIMES * size)
    monkeypatch.setattr(writing, "_ROOM_SECONDS", 0.05)
    async with open_harness(tmp_path) as trio:
        for name in "abc":
            await trio.add_provider(name)
        trio.trouble("c", pause=20.0)
        orders = [trio.whole(number, f"/{number}", os.urandom(size), wait=pb.WAIT_FOR_MINIMUM) for number in range(8)]

        async def requests() -> AsyncIterator[pb.WriteFilesRequest]:
            for order in orders:
                yield pb.WriteFilesRequest(writes=[order])
            await asyncio.Event().wait()

        first: dict[int, list[str]] = {}
        call = trio.directory.WriteFiles(requests())
        async with asyncio.timeout(15):  # far from the minute and more that "c" would take
            async for response in call:
                for result in response.results:
                    first.setdefault(result.id, sorted(result.stored.stored))
                if len(first) == len(orders):
                    break
        call.cancel()
        assert list(first.values()) == [["a", "b"]] * 8
