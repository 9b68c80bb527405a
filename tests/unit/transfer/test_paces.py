from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from cdir_transfer.paces import Paces

SMALL, LARGE = 10, 4 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def paces(clock: Clock) -> Paces:
    return Paces(clock=clock)


@pytest.fixture
def order(paces: Paces) -> Callable[..., list[str]]:
    return lambda names, size=SMALL: paces.ordered(names, str, size)


def took(paces: Paces, name: str, seconds: float, size: int = SMALL, times: int = 50) -> None:
    for _ in range(times):
        paces.took(name, size, seconds)


def test_late_is_judged_by_the_providers_own_pace_and_by_size(paces: Paces) -> None:
    assert paces.late_after("a", SMALL) is None
    took(paces, "a", 0.010)
    took(paces, "a", 0.500, LARGE)
    assert paces.late_after("a", SMALL) == pytest.approx(0.015)
    assert paces.late_after("a", LARGE) == pytest.approx(0.75)
    assert paces.late_after("a", LARGE // 4) == pytest.approx(0.75 / 4)


def test_late_is_later_than_nearly_all_calls(paces: Paces) -> None:
    chance = random.Random(7)
    for _ in range(500):
        paces.took("a", SMALL, chance.lognormvariate(-3, 0.35))
    late = paces.late_after("a", SMALL)
    assert late is not None
    assert 0.02 < sum(chance.lognormvariate(-3, 0.35) > late for _ in range(2000)) / 2000 < 0.12


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_slow_calls_are_late_however_many_they_are(paces: Paces, share: float) -> None:
    chance = random.Random(7)
    for _ in range(500):
        paces.took("a", SMALL, 3.0 if chance.random() < share else 0.05)
    late = paces.late_after("a", SMALL)
    assert late is not None
    assert late < 0.2


def test_the_preferred_one_stays_first_unless_another_is_much_faster(
    paces: Paces, order: Callable[..., list[str]]
) -> None:
    took(paces, "a", 0.090)
    took(paces, "b", 0.050)
    assert order(["a", "b", "c"]) == ["a", "b", "c"]
    took(paces, "b", 0.010)
    assert order(["a", "b"]) == ["b", "a"]
    assert order(["c", "a", "b"]) == ["c", "b", "a"], "an unmeasured one keeps its place"
    assert order(["a", "b"], LARGE) == ["a", "b"], "nothing is known of large ones"


def test_a_trifle_is_not_worth_leaving_the_preferred_one(paces: Paces, order: Callable[..., list[str]]) -> None:
    took(paces, "a", 0.015)
    took(paces, "b", 0.001)
    assert order(["a", "b"]) == ["a", "b"]


def test_one_that_was_slow_is_tried_again_by_one_call(
    paces: Paces, clock: Clock, order: Callable[..., list[str]]
) -> None:
    took(paces, "a", 0.5)
    took(paces, "b", 0.05)
    assert order(["a", "b"]) == ["b", "a"]
    clock.now += 120
    assert order(["a", "b"]) == ["a", "b"]
    paces.asked("a", SMALL)
    assert order(["a", "b"]) == ["b", "a"], "until its answer is known"
    paces.took("a", SMALL, 0.05)
    assert order(["a", "b"]) == ["a", "b"], "a try that shows it to be fast is enough"
    assert paces.late_after("a", SMALL) == pytest.approx(0.125), "and late is what is late now"


def test_one_fast_call_among_slow_ones_is_no_reason_to_go_back(
    paces: Paces, clock: Clock, order: Callable[..., list[str]]
) -> None:
    took(paces, "b", 0.05)
    for _ in range(50):
        paces.asked("a", SMALL)
        clock.now += 0.5
        paces.took("a", SMALL, 0.5)
    paces.asked("a", SMALL)
    paces.took("a", SMALL, 0.05)
    assert order(["a", "b"]) == ["b", "a"]


def test_a_try_that_was_slow_or_given_up_changes_nothing(
    paces: Paces, clock: Clock, order: Callable[..., list[str]]
) -> None:
    took(paces, "a", 0.5)
    took(paces, "b", 0.05)
    clock.now += 120
    paces.asked("a", SMALL)
    paces.took_longer("a", SMALL, 0.25)
    assert order(["a", "b"]) == ["b", "a"]
    paces.took("a", SMALL, 0.05)
    assert order(["a", "b"]) == ["b", "a"]


def test_time_alone_does_not_put_another_one_before_the_preferred(
    paces: Paces, clock: Clock, order: Callable[..., list[str]]
) -> None:
    took(paces, "a", 0.05)
    took(paces, "b", 0.08)
    clock.now += 1000
    took(paces, "a", 0.05)
    assert order(["a", "b"]) == ["a", "b"]


def test_a_call_that_was_given_up_counts_for_more_than_the_time_it_had(
    paces: Paces, order: Callable[..., list[str]]
) -> None:
    took(paces, "a", 0.05)
    took(paces, "b", 0.05)
    paces.took_longer("a", SMALL, 0.2)
    assert order(["a", "b"]) == ["a", "b"], "that happens"
    paces.took_longer("a", SMALL, 0.2)
    assert order(["a", "b"]) == ["b", "a"]
