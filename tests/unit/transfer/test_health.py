from __future__ import annotations

from cdir_transfer.health import ProviderHealth


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


def test_late_is_judged_by_the_providers_own_pace_and_by_size() -> None:
    health = ProviderHealth()
    assert health.late_after("a", 10) is None
    for _ in range(100):
        health.succeeded("a", 10, 0.010)
        health.succeeded("a", 4 << 20, 0.500)
    small, large = health.late_after("a", 10), health.late_after("a", 4 << 20)
    assert small is not None
    assert large is not None
    assert 0.010 <= small < 0.1
    assert 0.500 <= large < 1


def test_suspects_come_last_and_the_order_stays_else() -> None:
    health = ProviderHealth()
    health.failed("a")
    assert health.ordered(["a", "b", "c"], lambda name: name) == ["b", "c", "a"]
