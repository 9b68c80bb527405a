"""Making a failure shorter: drop steps as long as something still goes wrong."""

from __future__ import annotations

from simulation.engine import Result, run_scenario
from simulation.scenario import Scenario

__all__ = ["shrink"]


def shrink(scenario: Scenario, result: Result, *, most_runs: int) -> tuple[Scenario, Result]:
    """Return the shortest failing scenario found in that many runs, and what it showed."""
    runs = 0
    size = max(len(scenario.steps) // 2, 1)
    while runs < most_runs:
        start = 0
        shortened = False
        while start < len(scenario.steps) and runs < most_runs:
            dropped = frozenset(step.number for step in scenario.steps[start : start + size])
            shorter = scenario.without(dropped)
            tried = run_scenario(shorter)
            runs += 1
            if tried.violations:
                scenario, result, shortened = shorter, tried, True
            else:
                start += size
        if size > 1:
            size //= 2
        elif not shortened:
            break
    return scenario, result
