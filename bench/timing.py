"""Medians, ratios and tables for the benchmarks: what is compared runs in one go, in shuffled order."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

__all__ = ["Samples", "table", "timed", "timed_together"]


class Samples:
    """Seconds by what was done and by whom."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str], list[float]] = {}

    def measure(self, work: str, contenders: Mapping[str, Callable[[], float]]) -> None:
        """Run each contender once, in random order, and keep the seconds it returns."""
        names = list(contenders)
        random.shuffle(names)
        for name in names:
            self._seconds.setdefault((work, name), []).append(contenders[name]())

    def median(self, work: str, name: str) -> float:
        """The median of all runs."""
        return statistics.median(self._seconds[work, name])

    def spread(self, work: str, name: str) -> str:
        """The fastest and the slowest run."""
        seconds = self._seconds[work, name]
        return f"{min(seconds):.2f} to {max(seconds):.2f}"

    def best(self, work: str, names: Sequence[str]) -> str:
        """The name with the smallest median."""
        return min(names, key=lambda name: self.median(work, name))


def timed(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Run one command; return its seconds, its start included."""
    return timed_together([command], environment)


def timed_together(commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> float:
    """Run commands at once; return the seconds until the last one is done. Stops everything when one fails."""
    begin = time.perf_counter()
    running = [
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
        )
        for command in commands
    ]
    errors = [process.communicate()[1] for process in running]
    seconds = time.perf_counter() - begin
    for process, said in zip(running, errors, strict=True):
        if process.returncode != 0:
            sys.exit(f"{process.args!r} ended with {process.returncode}: {said.decode()[-2000:]}")
    return seconds


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
