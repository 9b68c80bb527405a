"""Measure, write the page and the baseline, say what moved."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from wan.failures import provider_fails
from wan.measuring import Measurements
from wan.network import Network
from wan.ours import Cdir
from wan.raw import RawClient
from wan.rclone import Rclone, RcloneDaemon
from wan.reads import large_file
from wan.rebuilding import lost_provider
from wan.report import write_report
from wan.stage import Stage
from wan.unchanged import nothing_to_do
from wan.watching import pushed_changes
from wan.writes import many_small, one_file

WORKLOADS: dict[str, Callable[[Stage], None]] = {
    "P1": one_file,
    "P2": many_small,
    "P4": large_file,
    "P6": provider_fails,
    "P7": lost_provider,
    "P8": nothing_to_do,
    "P9": pushed_changes,
}
WITH_CONDITIONS = ("P1",)
"""Run once more at servers that honour conditional writes, where a look before each can be saved."""
CLIENT_CORE, NETWORK_CORE = 0, 1


@contextmanager
def on_core(number: int) -> Iterator[None]:
    """Have what is started in the block run on one core, where there are several."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[number % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def workloads(text: str) -> list[str]:
    """The workloads that a comma-separated list names."""
    names = text.upper().split(",")
    for name in names:
        if name not in WORKLOADS:
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(WORKLOADS)}")
    return names


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="make bench-wan", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="runs of each (default 7)")
    parser.add_argument("--only", type=workloads, default=list(WORKLOADS), metavar="P1,P2", help="some workloads")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write every request of every run to FILE")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="of the order of runs")
    parser.add_argument("--write", action="store_true", help="make the outcome the page and the baseline")
    parser.add_argument("--folder", type=Path, default=None, help="where to work (default: memory, if there is any)")
    asked = parser.parse_args()
    if asked.repeats < 1:
        parser.error("--repeats must be at least 1")

    print(f"seed {asked.seed}")
    random.seed(asked.seed)
    memory = Path("/dev/shm")
    scratch = Path(tempfile.mkdtemp(prefix="cdir-wan-", dir=asked.folder or (memory if memory.is_dir() else None)))
    measurements = Measurements(asked.trace)
    try:
        with suppress(KeyboardInterrupt):
            for conditions in (False, True):
                names = [name for name in asked.only if not conditions or name in WITH_CONDITIONS]
                if names:
                    measure(scratch / f"conditions-{conditions}", conditions, measurements, names, asked.repeats)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    write_report(measurements, repeats=asked.repeats, seed=asked.seed, keep=asked.write)


def measure(scratch: Path, conditions: bool, measurements: Measurements, names: list[str], repeats: int) -> None:
    """Run the workloads, all of them once before any of them again. Ctrl-C ends it early; what was measured counts."""
    scratch.mkdir()
    with ExitStack() as stack:
        with on_core(NETWORK_CORE):
            network = measurements.network = stack.enter_context(Network(scratch, conditions=conditions))
        stack.enter_context(on_core(CLIENT_CORE))
        lines = list(network.lines.values())
        rclone = Rclone(scratch, lines)
        daemon = stack.enter_context(RcloneDaemon(rclone))
        cdir = stack.enter_context(Cdir(scratch, lines))
        stage = Stage(scratch, network, measurements, RawClient(lines), rclone, daemon, cdir, conditions)
        for stage.repeat in range(repeats):
            for name in names:
                print(f"{name}{stage.remark}, repeat {stage.repeat + 1} of {repeats}", flush=True)
                WORKLOADS[name](stage)


if __name__ == "__main__":
    main()
