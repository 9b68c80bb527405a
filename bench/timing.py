"""Medians, ratios and tables for the benchmarks: what is compared runs in one go, in shuffled order."""

from __future__ import annotations

import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Run", "Samples", "table"]


class Samples:
    """Seconds by what was done and by whom."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str], list[float]] = {}

    def measure(self, work: str, contenders: Mapping[str, Callable[[], float]]) -> None:
        """Run each contender once, in random order, and keep the seconds it returns."""
        names = list(contenders)
        random.shuffle(names)
        for name in names:
            self.add(work, name, contenders[name]())

    def add(self, work: str, name: str, seconds: float) -> None:
        """Keep one measurement."""
        self._seconds.setdefault((work, name), []).append(seconds)

    def works(self) -> list[str]:
        """What was done, in the order in which it was first done."""
        return list(dict.fromkeys(work for work, _ in self._seconds))

    def median(self, work: str, name: str) -> float:
        """The median of all runs."""
        return statistics.median(self._seconds[work, name])

    def spread(self, work: str, name: str) -> str:
        """The fastest and the slowest run."""
        seconds = self._seconds[work, name]
        return f"{min(seconds):.2f} to {max(seconds):.2f}"

    def scatter(self, work: str, name: str) -> float:
        """How far the middle half of the runs lies apart, as a share of the median."""
        low, middle, high = statistics.quantiles(self._seconds[work, name], n=4)
        return (high - low) / middle


@dataclass(frozen=True)
class Run:
    """Commands to be timed: the stages one after the other, the commands of a stage at once."""

    stages: Sequence[Sequence[Sequence[str]]]
    environment: Mapping[str, str]
    leaves: Sequence[Path] = ()
    """Folders that it makes on this machine; removed afterwards, so that the next run does everything again."""
    accepts: Sequence[int] = (0,)
    """The exit codes that are no failure."""

    def __call__(self) -> float:
        """Run the commands, their starts included, and return the seconds. Stops everything when one fails."""
        seconds = sum(self._stage(commands) for commands in self.stages)
        for folder in self.leaves:
            shutil.rmtree(folder)
        return seconds

    def _stage(self, commands: Sequence[Sequence[str]]) -> float:
        begin = time.perf_counter()
        running = [
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=self.environment,
            )
            for command in commands
        ]
        errors = [process.communicate()[1] for process in running]
        seconds = time.perf_counter() - begin
        for process, said in zip(running, errors, strict=True):
            if process.returncode not in self.accepts:
                sys.exit(f"{process.args!r} ended with {process.returncode}: {said.decode()[-2000:]}")
        return seconds


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
