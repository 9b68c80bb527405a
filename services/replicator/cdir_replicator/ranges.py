"""Cutting a listing in key order into ranges, of each of which everything is known: pure."""

from __future__ import annotations

import dataclasses

from cdir.v1 import adapter_service_pb2

__all__ = ["RANGE_OBJECTS", "Folder", "Gap", "KeyRange", "Listed", "RangeCutter", "end_of", "place_of"]

RANGE_OBJECTS = 1000
"""Most objects of one range."""

_LAST_CHARACTER = "\U0010ffff"


@dataclasses.dataclass(frozen=True, slots=True)
class Folder:
    """A folder about to be looked into: every key before ``key/`` has been seen."""

    key: str


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """A folder of whose content nothing is known."""

    key: str


Listed = adapter_service_pb2.ObjectInfo | Folder | Gap
"""One step of a listing in key order."""


def place_of(info: adapter_service_pb2.ObjectInfo) -> str:
    """Return what an object is sorted by: a folder stands where the keys below it begin."""
    return f"{info.key}/" if info.directory else info.key


def end_of(folder: str) -> str:
    """Return a bound that comes after every key below a folder and before every other key that follows."""
    return f"{folder}/{_LAST_CHARACTER}"


@dataclasses.dataclass(frozen=True, slots=True)
class KeyRange:
    """The keys after ``after`` up to ``until``, both in the order of bytes; ``until`` empty means to the end.

    ``objects`` is every file that lies there.
    """

    after: str
    until: str
    objects: tuple[adapter_service_pb2.ObjectInfo, ...]


class RangeCutter:
    """Takes a listing step by step and hands out its ranges. ``after`` is the key after which the listing begins."""

    def __init__(self, after: str = "", *, size: int = RANGE_OBJECTS) -> None:
        self._after = after
        self._size = size
        self._objects: list[adapter_service_pb2.ObjectInfo] = []

    @property
    def cursor(self) -> str:
        """The key up to which ranges were handed out."""
        return self._after

    def take(self, step: Listed, *, cut: bool = False) -> KeyRange | None:
        """Take the next step; return the range that it completes.

        ``cut`` asks for a range as soon as one can end, also before it has its full size.
        """
        match step:
            case Gap():
                # taken up again inside the folder, there is nothing before it
                found = self._end(f"{step.key}/") if self._after < f"{step.key}/" else None
                self._after = max(self._after, end_of(step.key))
                return found
            case Folder():
                return self._end(f"{step.key}/") if cut else None
            case _:
                self._objects.append(step)
                return self._end(step.key) if cut or len(self._objects) >= self._size else None

    def finish(self) -> KeyRange:
        """The listing has come to its end; return the last range."""
        return self._end("")

    def _end(self, until: str) -> KeyRange:
        found = KeyRange(self._after, until, tuple(self._objects))
        self._after = until
        self._objects.clear()
        return found
