"""P4: reading one large file that every provider holds, on steady lines and with one that slows down midway."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable
from typing import Final

from cdir.model import Wait
from wan.measuring import Contender
from wan.network import BUCKET, PEER_BUCKET, EmulatedLine
from wan.profiles import read_floor
from wan.stage import Stage, make_tree

__all__ = ["large_file"]

MEGABYTE: Final = 1_000_000
DROP_AFTER: Final = {16: 0.25, 64: 1.0}
DROP_FACTOR: Final = 0.1
DROPS: Final = "a"


def large_file(stage: Stage) -> None:
    """P4."""
    for megabytes in (16, 64):
        _read(stage, megabytes)


def _read(stage: Stage, megabytes: int) -> None:
    size = megabytes * MEGABYTE
    folder, name = f"P4-{megabytes}", "0000.bin"
    cdir, raw = stage.cdir, stage.raw
    if stage.first:
        source = make_tree(stage.scratch / folder, 1, size)
        cdir.put(source, folder, Wait.REACHABLE)
        stage.rclone.prepare(source, folder)
        raw.prepare(f"{folder}-raw", random.randbytes(size))
    cdir.settle()
    lines = stage.network.lines
    for line in lines.values():
        # a server takes the digest of an object when it is asked for it first and after some minutes again, for each
        # request that comes meanwhile: who reads first must not pay for that
        line.look_at(BUCKET, f"{folder}/{name}")
        line.look_at(PEER_BUCKET, f"{folder}/{name}")
        line.look_at(PEER_BUCKET, f"{folder}-raw")
    warm, cold = read_floor(size, warm=True), read_floor(size, warm=False)
    alone = {name: read_floor(size, [line.profile], warm=True) for name, line in lines.items()}
    best = min(alone, key=lambda name: alone[name])
    into = stage.scratch / "got"
    contenders = {
        "raw, all providers": Contender(lambda: raw.read(f"{folder}-raw", size, lines), warm),
        "single best, raw": Contender(lambda: raw.read(f"{folder}-raw", size, [best]), warm),
        "rclone union": Contender(stage.rclone.read_union(folder, into), cold),
        "rclone rcd union": Contender(lambda: stage.rclone_daemon.copy(f"all:{folder}", str(into)), warm),
        "cdir get": Contender(cdir.command("get", f"/{folder}/{name}", str(into / name), leaves=[into]), cold),
        "cdir client": Contender(lambda: cdir.read(f"/{folder}/{name}"), warm),
    }
    stage.measurements.compare(f"P4 read {megabytes} MB", _fresh(stage, contenders), first=stage.first)

    after = DROP_AFTER[megabytes]
    floor = read_floor(size, warm=True, drop=(DROPS, after, DROP_FACTOR))
    dropping = {
        "cdir client": Contender(_dropped(lines[DROPS], after, lambda: cdir.read(f"/{folder}/{name}")), floor),
        "rclone rcd union": Contender(
            _dropped(lines[DROPS], after, lambda: stage.rclone_daemon.copy(f"all:{folder}", str(into))),
            floor,
            once=True,
        ),
    }
    stage.measurements.compare(f"P4 read {megabytes} MB, drop", _fresh(stage, dropping), first=stage.first)
    for _ in range(2):
        cdir.read(f"/{folder}/{name}")  # what was learnt of the line while it was slow must not tell on what comes next


def _fresh(stage: Stage, contenders: dict[str, Contender]) -> dict[str, Contender]:
    """Have each find an empty folder to read into."""
    into = stage.scratch / "got"

    def wrapped(run: Callable[[], float]) -> Callable[[], float]:
        def fresh() -> float:
            shutil.rmtree(into, ignore_errors=True)
            into.mkdir()
            return run()

        return fresh

    return {name: Contender(wrapped(one.run), one.floor, one.once) for name, one in contenders.items()}


def _dropped(line: EmulatedLine, after: float, run: Callable[[], float]) -> Callable[[], float]:
    """``run`` with the line's rate dropping ``after`` seconds, and coming back in the end."""

    def dropped() -> float:
        begin = time.monotonic()
        timer = threading.Timer(after, line.scale_rate, [DROP_FACTOR])
        timer.start()
        try:
            return run()
        finally:
            timer.cancel()
            timer.join()
            if time.monotonic() - begin >= after:
                line.scale_rate(1 / DROP_FACTOR)

    return dropped
