from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cdir.errors import ProviderUnavailable
from cdir_transfer.health import ProviderHealth
from cdir_transfer.probing import Probing
from unit.gateway.harness import HANG


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_provider_that_failed_is_avoided_for_a_while() -> None:
    clock = Clock()
    health = ProviderHealth(suspect_seconds=2, clock=clock)
    assert not health.suspect("a")
    health.failed("a")
    assert health.suspect("a")
    assert not health.suspect("b")
    clock.now += 2.1
    assert not health.suspect("a")


def test_failures_in_a_row_are_avoided_for_longer_until_one_call_succeeds() -> None:
    clock = Clock()
    health = ProviderHealth(suspect_seconds=2, clock=clock)
    for _ in range(3):
        health.failed("a")
    clock.now += 3.9
    assert health.suspect("a")
    health.succeeded("a", 10, 0.1)
    assert not health.suspect("a")
    health.failed("a")
    clock.now += 2.1
    assert not health.suspect("a")


def test_suspects_come_last_and_the_order_stays_else() -> None:
    health = ProviderHealth()
    health.failed("a")
    assert health.ordered(["a", "b", "c"], lambda name: name, 10) == ["b", "c", "a"]


def test_a_provider_that_gives_no_answer_at_all_is_avoided() -> None:
    clock = Clock()
    health = ProviderHealth(clock=clock)
    with health.waiting("a", 0.1), health.waiting("b", 1.0):
        clock.now += 0.9
        assert not health.suspect("a")
        clock.now += 0.2
        assert not health.suspect("a"), "its answer may lie there unread"
        clock.now += 0.2
        assert health.suspect("a")
        assert health.suspects() == ["a"], "of the other one more patience was asked"
    clock.now += 2.1
    assert not health.suspect("a")


def test_any_answer_ends_the_silence() -> None:
    clock = Clock()
    health = ProviderHealth(clock=clock)
    with health.waiting("a", 0.1):
        for _ in range(10):
            clock.now += 0.5
            health.answered("a")
            assert not health.suspect("a")
        clock.now += 9
        assert not health.suspect("a"), "calls begun before the answer say nothing any more"


def test_a_call_that_was_overtaken_speaks_against_a_provider_only_if_it_lost_by_much() -> None:
    health = ProviderHealth()
    for _ in range(20):
        health.overtaken("a", 0.3, 0.1)
    assert not health.suspect("a")
    health.overtaken("a", 0.9, 0.01)
    assert not health.suspect("a")
    health.overtaken("a", 1.1, 0.1)
    assert health.suspect("a")


async def test_a_suspect_is_asked_once_a_second_until_it_is_back(
    providers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdir_transfer.probing._PAUSE_SECONDS", 0.05)
    health, root = providers.health, providers.harness.root("a")
    name = providers.harness.ids["a"]
    away = root.with_name("away")
    root.rename(away)
    probing = asyncio.create_task(Probing(providers.harness.adapters, health, providers.notes).run())
    try:
        async with asyncio.timeout(HANG):
            health.failed(name)
            while not providers.notes.failures:  # noqa: ASYNC110 # nothing tells of it
                await asyncio.sleep(0.01)
            assert isinstance(providers.notes.failures[0][1], ProviderUnavailable)
            assert health.suspect(name)
            away.rename(root)
            while health.suspect(name):  # noqa: ASYNC110 # nothing tells of it
                await asyncio.sleep(0.01)
    finally:
        probing.cancel()
        await asyncio.wait([probing])
