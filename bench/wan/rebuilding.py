"""P7: one provider lost what it held, and gets it back from the others."""

from __future__ import annotations

import time

from cdir.model import Wait
from wan.measuring import Contender
from wan.profiles import PROFILES
from wan.rclone import TUNED
from wan.stage import Stage, make_tree

__all__ = ["lost_provider"]

LOST = PROFILES[-1]
SOURCE = PROFILES[0]
HANG_SECONDS = 300.0
BYSTANDERS = 500
"""Files that are not lost: where a provider misses more than a fifth of its files at once, a person is asked first."""


def lost_provider(stage: Stage) -> None:
    """P7."""
    if stage.first:
        stage.cdir.put(make_tree(stage.scratch / "P7-bystanders", BYSTANDERS, 100), "P7-bystanders", Wait.REACHABLE)
    _rebuild(stage, "P7 rebuild 100 x 10 kB", 100, 10_000)
    _rebuild(stage, "P7 rebuild 1 x 16 MB", 1, 16_000_000)


def _rebuild(stage: Stage, work: str, count: int, size: int) -> None:
    folder = "-".join(work.split()) + f"-{stage.repeat}"
    source = make_tree(stage.scratch / folder, count, size)
    cdir, rclone, line = stage.cdir, stage.rclone, stage.network.lines[LOST.name]
    cdir.put(source, folder, Wait.REACHABLE)
    cdir.settle()
    for ending in ("", "-32"):
        rclone.prepare(source, f"{folder}{ending}", [SOURCE.name])
    # it does what P2 does with as many bytes at one provider; what is read elsewhere comes faster than it goes
    floor = 2 * LOST.rtt + count * size / LOST.up

    def found_and_repaired() -> float:
        # not before: a scan on cdir's own account could find it while others are measured
        line.empty(f"{folder}/")
        begin = time.perf_counter()
        cdir.client.scan(f"/{folder}", provider=LOST.name, wait=True)
        cdir.client.repair(f"/{folder}", provider=LOST.name)
        while line.holds(folder) < count or cdir.client.tree_status(f"/{folder}").owed:
            if time.perf_counter() - begin > HANG_SECONDS:
                raise RuntimeError(f"not rebuilt within {HANG_SECONDS:g} s: {cdir.client.tree_status(f'/{folder}')}")
            time.sleep(0.01)
        return time.perf_counter() - begin

    contenders = {
        "raw, 3 copies": Contender(lambda: stage.raw.write(count * size)[2], floor),
        "rclone copy a to c": Contender(rclone.between(SOURCE.name, LOST.name, folder), floor),
        "rclone copy a to c, 32": Contender(rclone.between(SOURCE.name, LOST.name, f"{folder}-32", *TUNED), floor),
        "cdir scan and repair": Contender(found_and_repaired, floor),
    }
    stage.measurements.compare(work, contenders, first=stage.first)
    cdir.settle()
