"""What was measured: by work and by whom, each run with its floor and with what passed over the lines."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wan.network import Network

__all__ = ["RAW_LIMIT", "Contender", "Measured", "Measurements", "percentile"]

RAW_LIMIT = 1.25
"""A work whose raw client is further from the floor than this is void."""


@dataclass(frozen=True)
class Contender:
    """Somebody who does a work: ``run`` returns seconds, ``floor`` is the least that it could take."""

    run: Callable[[], float]
    floor: float
    once: bool = False
    """So slow that it is run in the first repeat only."""


@dataclass(frozen=True)
class Measured:
    """One run."""

    seconds: float
    floor: float
    until_quiet: float = 0.0
    """Seconds until nothing passed any more: what went on in the background is done then."""
    requests: Mapping[str, int] = field(default_factory=dict)
    """Requests over each line."""
    up: int = 0
    """Bytes that went to providers, over all lines."""

    @property
    def ratio(self) -> float:
        return self.seconds / self.floor


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not below ``share`` of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


class Measurements:
    """Everything that was measured in one go."""

    network: Network
    """What is measured on; to be set before anything runs."""

    def __init__(self, trace: Path | None) -> None:
        self._trace = trace
        self.runs: dict[str, dict[str, list[Measured]]] = {}
        self.values: dict[str, dict[str, list[float]]] = {}
        """Figures that are no times: shares, quotients."""

    def compare(self, work: str, contenders: Mapping[str, Contender], *, first: bool) -> None:
        """Run everybody once, in random order, each on quiet lines."""
        names = [name for name, contender in contenders.items() if first or not contender.once]
        for name in contenders:
            self.runs.setdefault(work, {}).setdefault(name, [])  # the order of the table
        random.shuffle(names)
        for name in names:
            contender = contenders[name]
            seconds, quiet, traffic = self.watch(f"{work}, {name}", contender.run)
            requests = {line: len(found["requests"]) for line, found in traffic.items()}
            up = sum(found["up"] for found in traffic.values())
            self.add(work, name, Measured(seconds, contender.floor, quiet, requests, up))

    def watch(self, title: str, run: Callable[[], float]) -> tuple[float, float, dict[str, dict[str, Any]]]:
        """Run on quiet lines: the seconds, those until the lines are quiet again, and what passed."""
        self.network.wait_quiet()
        self.network.take()
        begin = time.monotonic()
        seconds = run()
        quiet = max(self.network.wait_quiet() - begin, seconds)
        return seconds, quiet, self.traffic(title, begin, seconds)

    def traffic(self, title: str, begin: float, seconds: float) -> dict[str, dict[str, Any]]:
        """What passed over the lines since the last call, traced under ``title`` as relative to ``begin``."""
        traffic = self.network.take()
        if self._trace is not None:
            self._write_trace(title, begin, seconds, traffic)
        return traffic

    def add(self, work: str, name: str, measured: Measured) -> None:
        """Keep one run."""
        self.runs.setdefault(work, {}).setdefault(name, []).append(measured)
        print(f"  {work:28} {name:34} {measured.seconds:8.3f} s {measured.ratio:8.2f} x floor", flush=True)

    def add_value(self, work: str, name: str, value: float) -> None:
        """Keep one figure."""
        self.values.setdefault(work, {}).setdefault(name, []).append(value)
        print(f"  {work:28} {name:34} {value:8.3f}", flush=True)

    def median(self, work: str, name: str) -> float:
        """Median seconds."""
        return statistics.median(run.seconds for run in self.runs[work][name])

    def void(self, work: str) -> bool:
        """Whether the raw client was too far from the floor for the work's figures to mean anything."""
        raw = [name for name in self.runs[work] if name.startswith("raw")]
        return any(statistics.median(run.ratio for run in self.runs[work][name]) > RAW_LIMIT for name in raw)

    def _write_trace(self, title: str, begin: float, seconds: float, traffic: Mapping[str, Mapping[str, Any]]) -> None:
        assert self._trace is not None
        numbered = itertools.count()
        rows = sorted(
            (request["at"] - begin, next(numbered), line, request)
            for line, found in traffic.items()
            for request in found["requests"]
        )
        with self._trace.open("a") as file:
            connections = ", ".join(f"{line} {found['connections']}" for line, found in traffic.items())
            print(f"\n{title}: {seconds * 1000:.0f} ms; new connections: {connections}", file=file)
            for at, _, line, request in rows:
                first, last = (
                    f"{(request[when] - begin) * 1000:7.0f}" if when in request else "   none"
                    for when in ("answered", "done")
                )
                what = f"{request['method']:6} {request['target']} ?{request['query']}"
                print(f"{at * 1000:7.0f} {first} {last} ms  {line} {request.get('status', '---')} {what}", file=file)
