from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from cdir import batching
from cdir.batching import Together
from cdir.errors import CdirError, InternalError, NotFound, ProviderUnavailable


class Service:
    """Answers with ten times the number, once it is let; odd hundreds are not found."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.open = asyncio.Event()
        self.error: Exception | None = None

    async def answer(self, numbers: Sequence[int]) -> Sequence[int | CdirError]:
        self.calls.append(list(numbers))
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return [NotFound(str(number)) if number >= 100 else number * 10 for number in numbers]


async def test_what_comes_alone_is_asked_at_once() -> None:
    service = Service()
    service.open.set()
    together = Together(service.answer, most=10)
    assert [await together.ask(number) for number in range(3)] == [0, 10, 20]
    assert service.calls == [[0], [1], [2]]


async def test_a_crowd_shares_calls_and_each_gets_its_own_answer() -> None:
    service = Service()
    together = Together(service.answer, most=10)
    asking = [asyncio.create_task(together.ask(number)) for number in (*range(25), 100)]
    await asyncio.sleep(0)
    service.open.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert answers[:25] == [number * 10 for number in range(25)]
    assert isinstance(answers[25], NotFound)
    assert max(map(len, service.calls)) == 10
    assert len(service.calls) < 6
    assert sorted(number for call in service.calls for number in call) == [*range(25), 100]


async def test_a_call_that_fails_fails_for_all_of_it_and_the_next_one_is_made() -> None:
    service = Service()
    service.error = ProviderUnavailable("away")
    service.open.set()
    together = Together(service.answer, most=10)
    answers = await asyncio.gather(*map(together.ask, range(5)), return_exceptions=True)
    assert all(isinstance(answer, ProviderUnavailable) for answer in answers)
    service.error = None
    assert await together.ask(1) == 10


async def test_it_has_ended_when_no_call_is_under_way() -> None:
    service = Service()
    together = Together(service.answer, most=1)
    asking = asyncio.create_task(together.ask(1))
    await asyncio.sleep(0)
    ending = asyncio.create_task(together.ended())
    await asyncio.sleep(0.01)
    assert not ending.done()
    service.open.set()
    await ending
    assert await asking == 10
    await together.ended()


async def test_who_is_cancelled_is_not_asked_for_and_disturbs_nobody() -> None:
    service = Service()
    together = Together(service.answer, most=1)
    asking = [asyncio.create_task(together.ask(number)) for number in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking[0].cancel()
    asking[4].cancel()
    await asyncio.sleep(0)
    service.open.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert answers[1:4] == [10, 20, 30]
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [4] not in service.calls


async def test_answers_that_are_missing_are_a_defect_that_is_told() -> None:
    async def none(_: Sequence[int]) -> Sequence[int]:
        return []

    with pytest.raises(InternalError):
        await Together(none, most=5).ask(1)


async def test_a_defect_is_told_to_those_who_wait() -> None:
    service = Service()
    service.error = ZeroDivisionError()
    service.open.set()
    with pytest.raises(ZeroDivisionError):
        await Together(service.answer, most=5).ask(1)


@pytest.mark.parametrize("calls", [1, 2])
async def test_who_asks_just_when_the_last_call_has_ended_is_not_left_waiting(
    calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "_CALLS", calls)
    service = Service()
    service.open.set()
    together = Together(service.answer, most=10)

    async def asks(worker: int) -> None:
        for number in range(100):
            await together.ask(number)
            for _ in range((worker + number) % 5):
                await asyncio.sleep(0)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for worker in range(20):
            group.create_task(asks(worker))
    assert sum(map(len, service.calls)) == 2000
