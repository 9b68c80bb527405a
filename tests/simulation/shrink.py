"""Making a failure shorter: drop steps as long as the same still goes wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable

from simulation.engine import Result, run_scenario
from simulation.scenario import Scenario

__all__ = ["shrink"]

_DETAILS = re.compile(r"\[[^]]*\]|\S*/\S*|\d+")
"""What differs between two failures of one kind: contents, paths, numbers."""


def shrink(scenario: Scenario, result: Result, *, most_runs: int) -> tuple[Scenario, Result]:
    """Return the shortest scenario found in that many runs that fails in the same way, and what it showed."""
    wanted = _kinds(result.violations)
    runs = 0
    size = max(len(scenario.steps) // 2, 1)
    while runs < most_runs:
        start = 0
        shortened = False
        while start < len(scenario.steps) and runs < most_runs:
            shorter = scenario.without(frozenset(step.number for step in scenario.steps[start : start + size]))
            tried = run_scenario(shorter)
            runs += 1
            if wanted & _kinds(tried.violations):
                scenario, result, shortened = shorter, tried, True
            else:
                start += size
        if size > 1:
            size //= 2
        elif not shortened:
            break
    return scenario, result


def _kinds(violations: Iterable[str]) -> set[str]:
    return {_DETAILS.sub("", violation) for violation in violations}
