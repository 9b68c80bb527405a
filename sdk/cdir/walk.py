"""Walking a local tree in the order in which the directory lists its entries.

Entries are ordered by (dirname, basename). A depth-first walk is not: ``/a b`` sorts before ``/a/x``. So directories
wait in a heap by their path, and the smallest is read next; all below it sort after it. Memory holds the names of one
directory and the directories still to be read, never the tree.
"""

from __future__ import annotations

import asyncio
import enum
import heapq
import itertools
import os
import stat
import unicodedata
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final

from cdir.errors import CdirError, InvalidArgument, InvalidPath, NotFound, PermissionDenied, Unsupported
from cdir.model import Failed
from cdir.paths import MAX_NAME_BYTES, MAX_PATH_BYTES, join_path, normalize_path

__all__ = ["Found", "FoundKind", "batched_walk", "describe", "error_of", "walk"]

_BATCH: Final = 512
"""Entries per hop to a thread: enough that the hops do not count."""


class FoundKind(enum.Enum):
    """What a walk finds."""

    FILE = "file"
    DIRECTORY = "directory"
    EMPTY_DIRECTORY = "empty directory"


@dataclass(frozen=True, slots=True)
class Found:
    """One local file or directory, and where it goes in the virtual directory."""

    local: str
    dirname: str
    basename: str
    kind: FoundKind
    size: int = 0
    modified_ns: int = 0
    device: int = 0
    inode: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """Its place in the order of listings."""
        return self.dirname, self.basename

    @property
    def path(self) -> str:
        """Its path in the virtual directory."""
        return join_path(self.dirname, self.basename)


def error_of(error: OSError, local: str) -> CdirError:
    """Return what a failed local file operation means."""
    shown = printable(local)
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{shown}: no such local file", path=shown)
    if isinstance(error, PermissionError):
        return PermissionDenied(f"{shown}: not allowed by the local file system", path=shown)
    return InvalidArgument(f"{shown}: {error.strerror or error}", path=shown)


def printable(local: str) -> str:
    """Return a local path that may hold undecodable bytes in a form that can be printed."""
    return local.encode("utf-8", "backslashreplace").decode()


def describe(mode: int) -> str | None:
    """Return what a mode stands for when that cannot be stored, ``None`` for a regular file or a directory."""
    kinds = (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    )
    return next((name for test, name in kinds if test(mode)), None)


def walk(root: str, target: str) -> Iterator[Found | Failed]:
    """Yield all below the local directory ``root``, to be placed below the virtual directory ``target``.

    Symbolic links are not followed. They, and what else is neither a file nor a directory, cannot be read, or has a
    name that the virtual directory refuses, come as :class:`Failed`; the walk goes on. ``root`` itself is not yielded.
    """
    waiting = [(target, root)]
    while waiting:
        dirname, local = heapq.heappop(waiting)
        for found in _read_directory(local, dirname):
            yield found
            if isinstance(found, Found) and found.kind is FoundKind.DIRECTORY:
                heapq.heappush(waiting, (found.path, found.local))


def _read_directory(local: str, dirname: str) -> Iterator[Found | Failed]:
    try:
        with os.scandir(local) as entries:
            names = [(unicodedata.normalize("NFC", entry.name), entry) for entry in entries]
    except OSError as error:
        yield Failed(printable(local), error_of(error, local))
        return
    previous: str | None = None
    for name, entry in sorted(names, key=lambda pair: (pair[0], pair[1].name)):
        try:
            _check(dirname, name)
            if name == previous:
                raise InvalidPath(
                    f"{printable(entry.path)}: another file here has the same name in Unicode normal form; rename one"
                )
            previous = name
            yield _found(entry, dirname, name)
        except OSError as error:
            yield Failed(printable(entry.path), error_of(error, entry.path))
        except CdirError as error:
            yield Failed(printable(entry.path), error)


def _check(dirname: str, name: str) -> None:
    if (
        dirname != "/"
        and name.isascii()
        and name.isprintable()
        and len(name) <= MAX_NAME_BYTES
        and len(dirname) + len(name) < MAX_PATH_BYTES // 4
    ):
        return  # what nearly every name is; the whole check costs more than the rest of the walk
    try:
        normalize_path(join_path(dirname, name))
    except InvalidPath as error:
        raise InvalidPath(f"this name cannot be stored: {error.message}") from error


def _found(entry: os.DirEntry[str], dirname: str, name: str) -> Found:
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        with os.scandir(entry.path) as below:
            empty = next(below, None) is None
        return Found(entry.path, dirname, name, FoundKind.EMPTY_DIRECTORY if empty else FoundKind.DIRECTORY)
    other = describe(status.st_mode)
    if other is not None:
        raise Unsupported(f"{printable(entry.path)}: {other} is not stored")
    return Found(
        local=entry.path,
        dirname=dirname,
        basename=name,
        kind=FoundKind.FILE,
        size=status.st_size,
        modified_ns=status.st_mtime_ns,
        device=status.st_dev,
        inode=status.st_ino,
    )


async def batched_walk(root: str, target: str) -> AsyncIterator[Found | Failed]:
    """Walk as :func:`walk` does, in a thread."""
    found = walk(root, target)
    while batch := await asyncio.to_thread(lambda: list(itertools.islice(found, _BATCH))):
        for item in batch:
            yield item
