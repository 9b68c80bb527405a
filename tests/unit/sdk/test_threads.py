"""Blocking work whose caller is cancelled meanwhile."""

import asyncio
import threading

import pytest

from cdir.threads import run_to_the_end


async def test_what_the_work_returns_or_raises_is_passed_on() -> None:
    assert await run_to_the_end(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await run_to_the_end(divmod, 7, 0)


async def test_a_cancelled_caller_waits_until_the_work_has_ended() -> None:
    begun, let_go, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        let_go.wait(60)
        ended.set()

    running = asyncio.create_task(run_to_the_end(work))
    assert await asyncio.to_thread(begun.wait, 60)
    for _ in range(3):
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=0.05)
        assert not done
    let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()
