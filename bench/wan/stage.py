"""Everybody who takes part, and where they work."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from wan.measuring import Measurements
from wan.network import Network
from wan.ours import Cdir
from wan.raw import RawClient
from wan.rclone import Rclone, RcloneDaemon

__all__ = ["Stage", "make_tree"]


@dataclass
class Stage:
    """One deployment and one network, which all repeats share."""

    scratch: Path
    network: Network
    measurements: Measurements
    raw: RawClient
    rclone: Rclone
    rclone_daemon: RcloneDaemon
    cdir: Cdir
    conditions: bool
    """Whether the servers are those that honour conditional writes, and close every connection after its answer."""
    repeat: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the first repeat."""
        return self.repeat == 0

    @property
    def remark(self) -> str:
        """What sets the servers apart, for the names of works."""
        return ", conditions honoured" if self.conditions else ""


def make_tree(folder: Path, count: int, size: int) -> Path:
    """``count`` files of ``size`` random bytes."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:04}.bin").write_bytes(random.randbytes(size))
    return folder
