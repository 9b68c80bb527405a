"""The budget of calls."""

from __future__ import annotations

import pytest

from cdir_replicator.pace import CallPace


def test_a_minutes_worth_may_be_spent_at_once_and_then_the_budget_holds() -> None:
    pace = CallPace(60)
    assert [pace.take(100.0) for _ in range(60)] == [0.0] * 60
    waits = [pace.take(100.0) for _ in range(3)]
    assert waits == pytest.approx([1.0, 2.0, 3.0])
    assert pace.take(163.0) == pytest.approx(0.0)


def test_what_was_not_used_is_saved_for_no_more_than_a_minute() -> None:
    pace = CallPace(60)
    pace.take(0.0)
    assert [pace.take(10_000.0) for _ in range(60)] == [0.0] * 60
    assert pace.take(10_000.0) > 0


def test_no_budget_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        CallPace(0)
