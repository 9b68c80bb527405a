"""The page and the baseline that a run leaves, and what moved since the last one."""

from __future__ import annotations

import datetime
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timing import table

from wan.figure import bars
from wan.measuring import RAW_LIMIT, Measured, Measurements, percentile

__all__ = ["write_report"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
FIGURES = ROOT / "docs" / "benchmarks"
BASELINE = ROOT / "bench" / "baseline.json"
MOVED = 0.15
"""Share by which a ratio must change to be told."""

SET_UP = """\
# cdir beside rclone over an emulated network

Written by `make bench`; see `bench/README.md`. Three S3 servers (`rclone serve s3`), each behind an emulated line:

| line | round trip | up / down | one connection |
|---|---|---|---|
| a | 30 ms | 100 / 100 Mbit/s | 40 Mbit/s |
| b | 80 ms | 50 / 50 Mbit/s | 25 Mbit/s |
| c | 150 ms | 20 / 40 Mbit/s | 15 Mbit/s |

*Floor* is round trips and bytes over the line's rate and nothing else: for commands and the raw client two round trips
(connections are opened), for a running program and for `rcd` one. *Raw* is a client without features over as many
connections as help; where its median is more than {limit} times the floor, machine or emulation were too slow and the
work is **void**: its ratios say little, in either direction. *Object by object* is the same client with a request for
each file, as everybody needs who keeps files under their own names: it says what the machine has time for. `2 copies`
returns when two of three providers hold everything, `3 copies` and everything of rclone's when all do. cdir's daemon
runs between commands and keeps its connections, as rclone's `rcd` does; the start of a command is part of its time.
*Best rclone / it* is the time of rclone's fastest way over this one's: above 1, it is faster. *Requests* are those
seen on each line, a few checks of the daemon in the background included; *done* is when the lines were quiet again.

## What cannot be claimed from this
* The speed of any real service: round trips and rates are those of the table, servers answer at once.
* Behaviour under loss, or while a connection gains speed: neither is emulated; the limit per connection stands for
  windows that are too small.
* Absolute times: client, servers and lines share one machine of two cores. Only ratios within one run count.
* Cost of traffic, of requests, of TLS: the lines carry plain HTTP.
* A provider that is gone before a connection is made: *blackhole* swallows what is sent, but connecting works.
* Conditional writes: these servers do not honour them, so cdir looks before it creates. *Conditions honoured* is the
  same on other servers (moto), which do, but close each connection: the floor is
  that of new ones.
"""


def write_report(measurements: Measurements, *, repeats: int, seed: int, keep: bool) -> None:
    """Print everything; with ``keep``, make it the page and the baseline. Say what moved since the baseline."""
    parts = [_work(measurements, work) for work in measurements.runs]
    parts += _values(measurements)
    text = "\n".join(parts)
    print("\n" + text)
    ratios = _ratios(measurements)
    _say_what_moved(ratios)
    if not keep:
        return
    when = datetime.datetime.now(datetime.UTC).date().isoformat()
    load = f"{os.getloadavg()[2]:.0f} on {os.cpu_count()} cores"
    run = (
        f"\n## Measured\n{when}, up to {repeats} repeats in shuffled order (see *runs*), seed {seed}, load of the"
        f" machine {load}. Median and 95th percentile.\n"
    )
    FIGURES.mkdir(exist_ok=True)
    for work, by in measurements.runs.items():
        heights = {name: statistics.median(run.ratio for run in runs) for name, runs in by.items() if runs}
        (FIGURES / f"{_slug(work)}.svg").write_text(bars(f"{work}: times the floor", heights))
    PAGE.write_text(SET_UP.format(limit=RAW_LIMIT) + run + text)
    baseline = {"date": when, "ratios": ratios}
    BASELINE.write_text(json.dumps(baseline, indent=1, sort_keys=True) + "\n")
    print(f"written: {PAGE.relative_to(ROOT)}, {FIGURES.relative_to(ROOT)}/, {BASELINE.relative_to(ROOT)}")


def _work(measurements: Measurements, work: str) -> str:
    by = measurements.runs[work]
    peers = {name: statistics.median(run.seconds for run in runs) for name, runs in by.items() if _peer(name) and runs}
    rows = [_row(name, runs, peers) for name, runs in by.items() if runs]
    void = "\n\n**void**: raw is too far from the floor." if measurements.void(work) else ""
    head = ["who", "runs", "median ms", "p95 ms", "x floor", "p95", "best rclone / it", "requests a, b, c", "done ms"]
    return f"\n### {work}{void}\n\n![{work}](benchmarks/{_slug(work)}.svg)\n\n{table(head, rows)}\n"


def _row(name: str, runs: Sequence[Measured], peers: Mapping[str, float]) -> list[str]:
    seconds, ratios = [run.seconds for run in runs], [run.ratio for run in runs]
    middle = statistics.median(seconds)
    # what was in the background passes the lines too: the smallest count is the closest to what the work needs
    requests = ", ".join(str(min(run.requests[line] for run in runs)) for line in runs[0].requests)
    rival = f"{min(peers.values()) / middle:.2f}" if peers and not _peer(name) else ""
    return [
        name,
        str(len(runs)),
        f"{middle * 1000:.0f}",
        f"{percentile(seconds, 0.95) * 1000:.0f}",
        f"{statistics.median(ratios):.2f}",
        f"{percentile(ratios, 0.95):.2f}",
        rival,
        requests,
        f"{statistics.median(run.until_quiet for run in runs) * 1000:.0f}",
    ]


def _values(measurements: Measurements) -> list[str]:
    if not measurements.values:
        return []
    columns = list(dict.fromkeys(name for by in measurements.values.values() for name in by))
    rows = []
    for work, by in measurements.values.items():
        row = [work]
        for column in columns:
            figures = by.get(column)
            row.append(f"{statistics.median(figures):.2f}, {max(figures):.2f}" if figures else "")
        rows.append(row)
    title = "\n### P6 one of three providers fails, P9 a watcher is idle: median of the repeats, and the highest\n"
    return [title, table(["who, what", *columns], rows), ""]


def _ratios(measurements: Measurements) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for work, by in measurements.runs.items():
        for name, runs in by.items():
            if runs:
                ratios = [run.ratio for run in runs]
                figures = {"median": statistics.median(ratios), "p95": percentile(ratios, 0.95)}
                found[f"{work}, {name}"] = {key: round(figure, 3) for key, figure in figures.items()}
                found[f"{work}, {name}"] |= {"void": measurements.void(work), "runs": len(runs)}
    return found


def _say_what_moved(ratios: Mapping[str, Any]) -> None:
    if not BASELINE.exists():
        return
    before = json.loads(BASELINE.read_text())["ratios"]
    for name, now in ratios.items():
        if name in before and abs(now["median"] / before[name]["median"] - 1) > MOVED:
            doubt = " (void)" if now["void"] or before[name]["void"] else ""
            print(f"moved: {name}: {before[name]['median']:.2f} -> {now['median']:.2f} x floor{doubt}")


def _peer(name: str) -> bool:
    return name.startswith("rclone")


def _slug(work: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in work.lower())
