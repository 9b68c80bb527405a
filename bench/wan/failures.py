"""P6: one of three providers fails in the middle of many small reads and writes."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdir.errors import CdirError
from cdir.model import Wait
from wan.measuring import percentile
from wan.profiles import PROFILES, read_floor, write_floor
from wan.rclone import RcloneDaemon, RcloneFailed
from wan.stage import Stage, make_tree

__all__ = ["provider_fails"]

FAULTS: Final = {"healthy": "", "killed": "refuse", "blackhole": "blackhole", "503": "503", "60 times slower": "slow"}
FAILING: Final = "a"
"""The nearest one: it is the one that everything is read from."""
LEFT: Final = [line for line in PROFILES if line.name != FAILING]
SIZE: Final = 10_000
FLOORS: Final = {"read": read_floor(SIZE, LEFT, warm=True), "write": write_floor(SIZE, 2, LEFT, warm=True)}
"""Least seconds of an operation with the providers that are left: nobody can go on as if the nearest were there."""
OPERATIONS: Final = 100
AT_ONCE: Final = 4
FAULT_AFTER: Final = 25
DETECTION_SECONDS: Final = 1.0
PEER_SECONDS: Final = 5.0
"""After this long an operation of rclone's counts as failed: its own limits are minutes."""
PEER_OPERATIONS: Final = 40
_runs = itertools.count()


@dataclass
class _Operation:
    began: float
    seconds: float
    worked: bool


def provider_fails(stage: Stage) -> None:
    """P6."""
    folder = "P6"
    source = stage.scratch / folder
    if stage.first:
        make_tree(source, OPERATIONS, SIZE)
        stage.cdir.put(source, folder, Wait.REACHABLE)
        stage.rclone.prepare(source, folder)
    contents = [(source / _name(number)).read_bytes() for number in range(OPERATIONS)]
    client = stage.cdir.client

    def read(number: int) -> bool:
        return client.read(f"/{folder}/{_name(number)}") == contents[number]

    def write(number: int) -> bool:
        client.write(f"/{folder}-new-{run}/{_name(number)}", contents[number], wait=Wait.MINIMUM)
        return True

    stage.cdir.settle()
    for operation in (read, write):
        healthy = None
        for title, fault in FAULTS.items():
            run = next(_runs)
            found = _under_fault(stage, operation, fault, OPERATIONS)
            work = f"P6 cdir {operation.__name__}, {title}"
            healthy = _keep(stage, work, found, healthy, FLOORS[operation.__name__])
            if fault:
                stage.cdir.recover(FAILING)
    if stage.first:
        _peer_fails(stage, source, contents)


def _peer_fails(stage: Stage, source: Path, contents: list[bytes]) -> None:
    """The same done by rclone's union, with fewer operations: most of them take as long as they may."""
    into = stage.scratch / "P6-got"

    def read(number: int) -> bool:
        target = into / str(run)
        daemon.copy_file(f"all:{source.name}", str(target), _name(number), within=PEER_SECONDS)
        return (target / _name(number)).read_bytes() == contents[number]

    def write(number: int) -> bool:
        daemon.copy_file(str(source), f"all:{source.name}-new-{run}", _name(number), within=PEER_SECONDS)
        return True

    for operation in (read, write):
        healthy = None
        for title, fault in FAULTS.items():
            run = next(_runs)
            # a daemon for each: it goes on with what nobody waits for any more
            with RcloneDaemon(stage.rclone) as daemon:
                found = _under_fault(stage, operation, fault, PEER_OPERATIONS)
            work = f"P6 rclone union {operation.__name__}, {title}"
            healthy = _keep(stage, work, found, healthy, FLOORS[operation.__name__])


def _name(number: int) -> str:
    return f"{number:04}.bin"


def _under_fault(
    stage: Stage, operation: Callable[[int], bool], fault: str, count: int
) -> tuple[list[_Operation], float]:
    """Do all operations, some at once; return them, and when the fault began."""
    line = stage.network.lines[FAILING]
    stage.network.wait_quiet()
    stage.network.take()
    started = threading.Semaphore(0)
    failed_at = first_at = time.monotonic()

    def one(number: int) -> _Operation:
        started.release()
        began = time.monotonic()
        try:
            worked = operation(number)
        except (CdirError, RcloneFailed, OSError):
            worked = False
        return _Operation(began, time.monotonic() - began, worked)

    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            running = [pool.submit(one, number) for number in range(count)]
            for _ in range(FAULT_AFTER):
                started.acquire()
            if fault:
                line.fail(fault)
                failed_at = time.monotonic()
            try:
                done = [future.result() for future in running]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                line.fail("")  # within the pool: leaving it waits for what is under way
    finally:
        line.fail("")
    title = f"P6 {operation.__qualname__}, {fault or 'healthy'}, fault at {(failed_at - first_at) * 1000:.0f} ms"
    stage.measurements.traffic(title, first_at, time.monotonic() - first_at)
    return done, failed_at


def _keep(stage: Stage, work: str, found: tuple[list[_Operation], float], healthy: float | None, floor: float) -> float:
    """Keep the figures of what ended after the fault; return the 99th percentile without one."""
    operations, failed_at = found
    later = [one for one in operations if one.began + one.seconds >= failed_at]
    settled = [one for one in later if one.began > failed_at + DETECTION_SECONDS]
    p99 = percentile([one.seconds for one in later], 0.99)
    keep = stage.measurements.add_value
    keep(work, "worked", sum(one.worked for one in later) / len(later))
    keep(work, "p99 seconds", p99)
    keep(work, "longest seconds", max(one.seconds for one in later))
    if healthy is None:
        return p99
    keep(work, "p99 / healthy", p99 / healthy)
    if settled:
        late = percentile([one.seconds for one in settled], 0.99)
        keep(work, "p99 / healthy, after 1 s", late / healthy)
        keep(work, "p99 / floor of the two left, after 1 s", late / floor)
    return healthy
