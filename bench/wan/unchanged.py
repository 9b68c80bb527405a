"""P8: putting a tree again that is there already."""

from __future__ import annotations

from typing import Final

from cdir.model import Wait
from wan.measuring import Contender
from wan.profiles import PROFILES
from wan.rclone import TUNED
from wan.stage import Stage, make_tree

__all__ = ["nothing_to_do"]

FILES: Final = 1000


def nothing_to_do(stage: Stage) -> None:
    """P8."""
    folder = "P8"
    source = stage.scratch / folder
    cdir, rclone = stage.cdir, stage.rclone
    if stage.first:
        make_tree(source, FILES, 1000)
        cdir.put(source, folder, Wait.REACHABLE)
        rclone.prepare(source, folder)
    cdir.settle()
    trip = sorted(line.rtt for line in PROFILES)[1]
    contenders = {
        "rclone union": Contender(rclone.union(source, folder), 2 * trip),
        "rclone union, 32": Contender(rclone.union(source, folder, *TUNED), 2 * trip),
        "rclone rcd union, 32": Contender(
            lambda: stage.rclone_daemon.copy(str(source), f"all:{folder}", transfers=32), trip
        ),
        "cdir put": Contender(cdir.put_command(source, folder), trip),
        "cdir sync": Contender(cdir.command("sync", str(source), f"cdir:/{folder}"), trip),
        "cdir client": Contender(lambda: cdir.put(source, folder, Wait.REACHABLE), trip),
    }
    stage.measurements.compare(f"P8 put {FILES} unchanged files again", contenders, first=stage.first)
