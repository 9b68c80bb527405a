"""What proving may cost."""

from __future__ import annotations

from cdir_replicator.allowance import Allowance, ScrubPace


def test_without_bounds_there_is_always_something_left() -> None:
    allowance = Allowance()
    allowance.spend(bytes=10**15, calls=10**9)
    assert allowance.left


def test_either_bound_ends_it() -> None:
    for spent in ({"bytes": 100}, {"calls": 3}):
        allowance = Allowance(bytes=100, calls=3)
        assert allowance.left
        allowance.spend(**spent)
        assert not allowance.left


def test_a_copy_larger_than_all_of_it_is_begun_and_paid_for_afterwards() -> None:
    allowance = Allowance(bytes=100)
    allowance.spend(bytes=250)
    for _ in range(15):
        allowance.refill(0.1)
    assert not allowance.left
    allowance.refill(0.1)
    assert allowance.left


def test_what_comes_in_does_not_pile_up() -> None:
    allowance = Allowance(bytes=100, calls=10)
    allowance.refill(5.0)
    allowance.spend(bytes=100)
    assert not allowance.left


def test_a_sample_is_spread_over_the_day_and_never_nothing() -> None:
    pace = ScrubPace(sample=0.01)
    assert pace.reads(14_400_000, 600.0) == 1000
    assert pace.reads(5, 600.0) == 1
    assert ScrubPace(sample=0.0).reads(5, 600.0) == 0
