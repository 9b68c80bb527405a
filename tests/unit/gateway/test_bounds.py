"""The budget of bytes and the outbox: what keeps memory bounded."""

from __future__ import annotations

import asyncio

import pytest

from cdir_gateway.budget import ByteBudget
from cdir_gateway.outbox import Outbox


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
