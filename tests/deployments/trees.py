"""Trees of files to put, and what is compared of them."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sysconfig
from pathlib import Path

__all__ = ["contents", "copy_of_library", "make_files", "times", "without_leftovers"]

_SAMPLE = ("asyncio", "concurrent", "email", "importlib", "json", "logging", "xml", "zoneinfo", "unittest", "wsgiref")
"""Packages of the standard library: some 150 files, with directories in directories."""

WHOLE_LIBRARY = os.environ.get("CDIR_TEST_WHOLE_LIBRARY") == "1"


def copy_of_library(target: Path) -> Path:
    """Copy part of Python's standard library to ``target``, or all of it when CDIR_TEST_WHOLE_LIBRARY=1."""
    library = Path(sysconfig.get_path("stdlib"))
    ignore = shutil.ignore_patterns("__pycache__", "site-packages", "config-*", "test" if not WHOLE_LIBRARY else "")
    if WHOLE_LIBRARY:
        shutil.copytree(library, target, ignore=ignore, symlinks=False)
    else:
        for name in _SAMPLE:
            shutil.copytree(library / name, target / name, ignore=ignore)
        for path in sorted(library.glob("*.py")):
            shutil.copy2(path, target / path.name)
    deep = target / Path(*(f"level {number}" for number in range(1, 13)))
    deep.mkdir(parents=True)
    (deep / "at the bottom.txt").write_text("deep\n")
    (target / "empty").touch()
    os.utime(target / "empty", ns=(0, 1_234_567_890_123_456_000))
    return target


def make_files(folder: Path, count: int, size: int = 1_000, *, seed: int = 1) -> Path:
    """Make ``count`` files of about ``size`` bytes, ten to a directory."""
    chance = random.Random(seed)
    for number in range(count):
        path = folder / f"d{number // 10:03}" / f"f{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(size + chance.randrange(size)))
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below ``folder`` by relative path.

    Not those in cdir's own ``.cdir``, nor unfinished ones: what a killed process leaves of those is swept away later.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and relative.parts[0] != ".cdir" and not path.name.startswith(".cdir-tmp-"):
            found[relative.as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def without_leftovers(stored: dict[str, str]) -> dict[str, str]:
    """What is stored but for the temporary files in which rclone's server was receiving objects when it was killed:
    ``NAME.partial`` for a put, ``.rclone_temp_put_ID`` for one of unknown size."""
    return {
        path: digest
        for path, digest in stored.items()
        if not path.endswith(".partial") and not path.rpartition("/")[2].startswith(".rclone_temp_put_")
    }


def times(folder: Path) -> dict[str, int]:
    """Modified time of every file below ``folder``, in nanoseconds."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
