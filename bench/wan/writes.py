"""P1 and P2: mirrored writes of one file and of many small ones."""

from __future__ import annotations

import time

from cdir.model import Wait
from wan.measuring import Contender
from wan.profiles import write_floor
from wan.rclone import TUNED
from wan.stage import Stage, make_tree

__all__ = ["many_small", "one_file"]


def one_file(stage: Stage) -> None:
    """P1."""
    _write(stage, "P1 write 1 x 100 kB", 1, 100_000)
    _write(stage, "P1 write 1 x 1 MB", 1, 1_000_000)


def many_small(stage: Stage) -> None:
    """P2."""
    _write(stage, "P2 write 100 x 10 kB", 100, 10_000)
    _write(stage, "P2 write 1000 x 1 kB", 1000, 1_000, patience=False)


def _write(stage: Stage, work: str, count: int, size: int, *, patience: bool = True) -> None:
    """``patience`` of ``False`` leaves out those who would take minutes, a few files at a time."""
    work += stage.remark
    folder = "-".join(work.replace(",", "").split()) + f"-{stage.repeat}"
    source = make_tree(stage.scratch / folder, count, size)
    total = count * size
    cold = {copies: write_floor(total, copies, warm=False) for copies in (2, 3)}
    warm = {copies: write_floor(total, copies, warm=not stage.conditions) for copies in (2, 3)}
    rclone, daemon, cdir = stage.rclone, stage.rclone_daemon, stage.cdir
    contenders = {
        "raw, 2 copies": Contender(lambda: stage.raw.write(total)[1], cold[2]),
        "raw, 3 copies": Contender(lambda: stage.raw.write(total)[2], cold[3]),
        "object by object, 2 copies": Contender(lambda: stage.raw.write(total, count)[1], cold[2]),
        "object by object, 3 copies": Contender(lambda: stage.raw.write(total, count)[2], cold[3]),
        "rclone copy to each": Contender(rclone.each(source, f"{folder}-each"), cold[3]),
        "rclone copy to each, 32": Contender(rclone.each(source, f"{folder}-each32", *TUNED), cold[3]),
        "rclone union": Contender(rclone.union(source, f"{folder}-union"), cold[3]),
        "rclone union, 32": Contender(rclone.union(source, f"{folder}-union32", *TUNED), cold[3]),
        "rclone rcd union, 32": Contender(lambda: daemon.copy(str(source), f"all:{folder}-rcd", transfers=32), warm[3]),
        "cdir put, 2 copies": Contender(cdir.put_command(source, f"{folder}-min", "--wait", "min"), cold[2]),
        "cdir put, 3 copies": Contender(cdir.put_command(source, f"{folder}-all", "--require", "all"), cold[3]),
        "cdir client, 2 copies": Contender(lambda: cdir.put(source, f"{folder}-wmin", Wait.MINIMUM), warm[2]),
        "cdir client, 3 copies": Contender(lambda: cdir.put(source, f"{folder}-wall", Wait.REACHABLE), warm[3]),
    }
    if not patience:
        del contenders["rclone copy to each"], contenders["rclone union"]
    if count == 1:
        del contenders["object by object, 2 copies"], contenders["object by object, 3 copies"]
    begin = time.monotonic()
    stage.measurements.compare(work, contenders, first=stage.first)
    cdir.settle()
    if stage.first:
        for ending in ("min", "all", "wmin", "wall"):
            held = {name: line.holds(f"{folder}-{ending}") for name, line in stage.network.lines.items()}
            assert set(held.values()) == {count}, f"{folder}-{ending} is not whole: {held}"
        print(f"  all copies in place; {time.monotonic() - begin:.0f} s for all of it", flush=True)
