"""Asking seldom whether a provider is back, however many want to know."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cdir.errors import ProviderUnavailable
from cdir.status import translated
from cdir.v1 import adapter_service_pb2 as pb
from cdir_adapters.sparse_checks import SparseChecks


class Provider:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.there = False

    async def check(self) -> float:
        self.asked += 1
        await asyncio.sleep(0)
        if not self.there:
            raise ProviderUnavailable("gone", provider="x")
        return 0.1


async def test_a_provider_that_does_not_answer_is_asked_once_a_second() -> None:
    now = [100.0]
    provider, checks = Provider(), SparseChecks(clock=lambda: now[0])
    for second in range(1, 4):
        failures = await asyncio.gather(*(checks.ask(provider.check) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(one, ProviderUnavailable) for one in failures)
        assert provider.asked == second
        now[0] += 1.0
    provider.there = True
    assert await checks.ask(provider.check) == 0.1
    assert await checks.ask(provider.check) == 0.1, "one that answers is asked whenever somebody wants to know"
    assert provider.asked == 5


async def test_who_leaves_does_not_keep_others_from_asking() -> None:
    checks, provider = SparseChecks(), Provider()
    provider.there = True
    silent = asyncio.create_task(checks.ask(asyncio.Event().wait))  # it never answers
    waiting = asyncio.create_task(checks.ask(provider.check))
    await asyncio.sleep(0)
    assert not waiting.done()
    silent.cancel()
    assert await asyncio.wait_for(waiting, 30) == 0.1


async def test_a_check_tells_what_it_told_a_moment_ago(bench: Any) -> None:
    ref = await bench.add("disk")
    root = bench.folder / "disk"
    away = root.with_name("away")
    root.rename(away)

    async def check(*, once: bool) -> None:
        with translated():
            await bench.adapters.CheckMark(pb.CheckMarkRequest(provider=ref, once=once))

    with pytest.raises(ProviderUnavailable):
        await check(once=True)
    away.rename(root)
    await check(once=False)

    async def is_back() -> bool:
        try:
            await check(once=True)
        except ProviderUnavailable:
            return False
        return True

    await bench.until(is_back)
