"""The command: run scenarios in processes of their own, count, shrink what fails."""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from simulation.clock import install

__all__ = ["main"]

_SHRINKING_RUNS = 120
_HERE = Path(__file__).parent


def main() -> int:
    """Run as the command line says; 0 when every scenario kept every promise."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds, one after another")
    parser.add_argument("--steps", type=int, default=0, help="steps of each scenario; default: a few, as its seed says")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--trace", action="store_true", help="show everything that happened")
    parser.add_argument("--hashes", action="store_true", help="show the trace hash of each seed")
    parser.add_argument("--no-shrink", dest="shrink", action="store_false", help="do not look for a shorter failure")
    parser.add_argument("--swaps", action="store_true", help="let a root be another, empty one for a while")
    parser.add_argument("--rivals", action="store_true", help="let others put different contents under one name")
    parser.add_argument("--meddler", action="store_true", help="let another program change objects meanwhile")
    parser.add_argument("--only", default="", help="numbers of the steps to keep, 1,2,3; default all")
    parser.add_argument("--backwards", action="store_true", help="run the last seed first")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return _work(arguments)
    return _lead(arguments)


# --- the leading process ----------------------------------------------------------------------------------------------


def _lead(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    jobs = max(1, min(arguments.jobs, arguments.count))
    share, rest = divmod(arguments.count, jobs)
    first = arguments.seed
    workers = []
    for number in range(jobs):
        count = share + (number < rest)
        worker = _start_worker(arguments, first, count)
        # all are read at once: who is not read from stands still when the pipe is full
        workers.append((worker, _lines_of(worker)))
        first += count
    runs = struck = 0
    failed: list[int] = []
    broken = 0
    fired: Counter[str] = Counter()
    virtual = 0.0
    for worker, lines in workers:
        while line := lines.get():
            report = json.loads(line)
            runs += 1
            struck += bool(report["fired"])
            fired.update(report["fired"])
            virtual += report["seconds"]
            if report["violations"]:
                failed.append(report["seed"])
            _show(report, arguments)
        if worker.wait():
            print(f"a worker ended with {worker.returncode}", file=sys.stderr)
            broken += 1
    took = time.monotonic() - began
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(fired.items())) or "none"
    print(
        f"{runs} scenarios in {took:.1f} s ({runs / took:.1f} a second, {virtual / took:.0f}"
        f" times real time); {struck} met a fault ({kinds}); {len(failed)} failed"
        + (f": seeds {', '.join(map(str, sorted(failed)))}" if failed else "")
    )
    return 1 if failed or broken or runs < arguments.count else 0


def _start_worker(arguments: argparse.Namespace, first: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "simulation", "--worker", f"--seed={first}", f"--count={count}"]
    command.append(f"--steps={arguments.steps}")
    if arguments.swaps:
        command.append("--swaps")
    if arguments.rivals:
        command.append("--rivals")
    if arguments.meddler:
        command.append("--meddler")
    if arguments.backwards:
        command.append("--backwards")
    if arguments.only:
        command.append(f"--only={arguments.only}")
    if arguments.trace:
        command.append("--trace")
    if not arguments.shrink:
        command.append("--no-shrink")
    environment = {
        **os.environ,
        # the order of sets of texts must be the same in every process
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join((str(_HERE.parent), str(_HERE / "installed"))),
    }
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def _lines_of(worker: subprocess.Popen[str]) -> queue.SimpleQueue[str]:
    """What a worker prints, line by line; an empty text at the end."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    return lines


def _show(report: dict[str, Any], arguments: argparse.Namespace) -> None:
    for line in report["lines"]:
        print(line)
    if arguments.hashes:
        print(f"seed {report['seed']}: trace {report['hash']}")
    if not report["violations"]:
        return
    print(f"seed {report['seed']} FAILED (trace {report['hash']}):")
    for violation in report["violations"]:
        print(f"  {violation}")
    for step in report["steps"].values():
        print(f"    {step}")
    again = f"--seed {report['seed']} --only {','.join(report['steps'])}"
    if arguments.steps:
        again += f" --steps {arguments.steps}"
    if arguments.swaps:
        again += " --swaps"
    if arguments.rivals:
        again += " --rivals"
    if arguments.meddler:
        again += " --meddler"
    print(f"  again, in tests: python -m simulation {again} --trace")


# --- one process ------------------------------------------------------------------------------------------------------


def _work(arguments: argparse.Namespace) -> int:
    install()
    # only now: what follows keeps the clock that it finds
    import logging
    import warnings

    from simulation.engine import run_scenario
    from simulation.scenario import make_scenario
    from simulation.shrink import shrink

    # the coroutines of dead processes complain when they are closed
    logging.basicConfig(level=logging.CRITICAL)
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _: None
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    for seed in reversed(seeds) if arguments.backwards else seeds:
        scenario = make_scenario(
            seed, arguments.steps, swaps=arguments.swaps, rivals=arguments.rivals, meddler=arguments.meddler
        )
        if arguments.only:
            kept = frozenset(map(int, arguments.only.split(",")))
            scenario = scenario.without(frozenset(step.number for step in scenario.steps) - kept)
        result = run_scenario(scenario, keep_trace=arguments.trace)
        if result.violations and arguments.shrink:
            scenario, result = shrink(scenario, result, most_runs=_SHRINKING_RUNS)
        report = {
            "seed": seed,
            "violations": result.violations,
            "hash": result.hash,
            "fired": result.fired,
            "seconds": result.seconds,
            "lines": result.lines,
            "steps": {step.number: str(step) for step in scenario.steps},
        }
        print(json.dumps(report), flush=True)
    return 0
