"""Bytes that change behind cdir's back are never handed on, and are put right by themselves."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from deployments.deployment import Deployment, eventually_is

MIB = 1024 * 1024


def flip_byte(path: Path, offset: int) -> None:
    """Change one byte, and leave size and modified time as they were."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)
        file.seek(offset)
        file.write(bytes([old[0] ^ 0x20]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(("size", "offset"), [(1_000, 500), (10 * MIB, 9 * MIB)], ids=["small", "large"])
@pytest.mark.parametrize("victim", ["one", "two", "three"])
def test_flipped_byte(
    deployment: Deployment, disks: dict[str, Path], folder: str, size: int, offset: int, victim: str
) -> None:
    content = random.Random(size).randbytes(size)
    deployment.cdir("put", "-", f"{folder}/x", stdin=content)
    copy = disks[victim] / folder[1:] / "x"
    flip_byte(copy, offset)

    assert deployment.cdir("cat", f"{folder}/x").stdout == content
    # Which copies a read looks at is cdir's choice; asked for, it says that this one is bad, and repairs it.
    alone = deployment.cdir("get", f"{folder}/x", "-", "--from", victim, expect=None)
    if alone.exit == 0:
        assert alone.stdout == content, "the copy was repaired between the two reads, or it was handed on"
    eventually_is(content, copy.read_bytes)
    deployment.wait_settled(folder)


def test_truncated_copy(deployment: Deployment, disks: dict[str, Path], folder: str) -> None:
    content = random.Random(5).randbytes(50_000)
    deployment.cdir("put", "-", f"{folder}/x", stdin=content)
    for name in ("one", "two"):
        copy = disks[name] / folder[1:] / "x"
        copy.write_bytes(content[:1_000])
        # with a time that is not older it would be somebody's edit, and the newest content
        os.utime(copy, (1_000_000_000, 1_000_000_000))
    assert deployment.cdir("cat", f"{folder}/x").stdout == content
    for name in ("one", "two"):
        deployment.cdir("get", f"{folder}/x", "-", "--from", name, expect=None)
        copy = disks[name] / folder[1:] / "x"
        eventually_is(content, copy.read_bytes)


def test_no_good_copy_is_an_error_and_no_bytes(
    deployment: Deployment, disks: dict[str, Path], folder: str, tmp_path: Path
) -> None:
    content = random.Random(6).randbytes(50_000)
    deployment.cdir("put", "-", f"{folder}/x", stdin=content)
    for root in disks.values():
        flip_byte(root / folder[1:] / "x", 25_000)
    target = tmp_path / "target"
    done = deployment.cdir("get", f"{folder}/x", target, expect=1)
    assert "Traceback" not in done.stderr
    assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == []
