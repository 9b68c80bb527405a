"""Fetching a whole tree into an empty directory: small files come with their entries, without being asked for.

Where nothing is yet there is nothing to compare, so that no file has to be listed before it is fetched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from cdir.downloads import differing, local_below, place
from cdir.errors import CdirError
from cdir.paths import split_path
from cdir.v1 import directory_service_pb2 as pb
from cdir.v1 import entry_pb2
from cdir.walk import error_of

__all__ = ["TakenIn", "TreeTarget"]

_MOST_KNOWN: Final = 1000
"""Directories that are remembered to be there."""


class TakenIn(NamedTuple):
    """What became of one item."""

    entry: entry_pb2.Entry
    local: str
    stored: bool
    """A file is there; false for directories, and for what has to be fetched yet."""
    error: CdirError | None = None


class TreeTarget:
    """The local directory that a tree is taken into. Nothing is in it at first."""

    def __init__(self, path: str, local: str, make_directory: Callable[[str], None]) -> None:
        """``path`` is of the tree's directory; ``make_directory`` makes a local one and those above it, if missing."""
        self._prefix = path.rstrip("/") + "/"
        self._local = local
        self._make_directory = make_directory
        self._known: dict[str, str] = {}

    def take(self, items: Iterable[pb.TreeItem]) -> list[TakenIn]:
        """Make directories and write the files that came whole. Blocks on the disk."""
        return [self._take(item) for item in items]

    def _take(self, item: pb.TreeItem) -> TakenIn:
        entry = item.entry
        local = ""
        try:
            if entry.kind == entry_pb2.ENTRY_KIND_DIRECTORY:
                local = self._directory(entry.path)
                return TakenIn(entry, local, stored=False)
            dirname, basename = split_path(entry.path)
            local = local_below(self._directory(dirname), [basename])
            if not item.whole:
                return TakenIn(entry, local, stored=False)
            data = item.data  # each access copies it
            if len(data) != entry.size or hashlib.sha256(data).digest() != entry.sha256:
                raise differing(entry.path)
            modified = entry.modified
            place(local, data, modified.seconds * 1_000_000_000 + modified.nanos)
        except OSError as error:
            return TakenIn(entry, local, stored=False, error=error_of(error, local))
        except CdirError as error:
            return TakenIn(entry, local, stored=False, error=error)
        return TakenIn(entry, local, stored=True)

    def _directory(self, path: str) -> str:
        """Return the local directory for one of the tree, which is there then."""
        local = self._known.get(path)
        if local is None:
            below = path.removeprefix(self._prefix) if path.startswith(self._prefix) else ""
            local = local_below(self._local, below.split("/")) if below else self._local
            self._make_directory(local)
            if len(self._known) == _MOST_KNOWN:
                self._known.clear()
            self._known[path] = local
        return local
