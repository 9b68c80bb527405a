"""What servers write about files: facts of MLSD and MLST, lines of LIST, times; and a place for long listings."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, Self

from cdir_adapters.adapter import ObjectKind

__all__ = ["Entry", "Spool", "parse_facts", "parse_list_line", "parse_time", "stamp_of"]

_IN_MEMORY = 4 * 1024 * 1024
_BATCH = 128 * 1024
"""Bytes of a listing that are looked at together."""
_LINE_LIMIT = 64 * 1024

_TIME = re.compile(r"(\d{14})(?:\.(\d{1,6}))?")
_KINDS = {
    "file": ObjectKind.FILE,
    "dir": ObjectKind.DIRECTORY,
    "cdir": ObjectKind.DIRECTORY,
    "pdir": ObjectKind.DIRECTORY,
}
_UNIX_KINDS = {"-": ObjectKind.FILE, "d": ObjectKind.DIRECTORY}
_UNIX = re.compile(
    r"(?P<kind>[-dlbcpsDn])[-rwxsStTlL?]{9}[.+@]?\s+\d+\s+"
    r"(?:\S.*?)\s+(?P<size>\d+(?:,\s*\d+)?)\s+"
    r"(?:[^\W\d_]{1,9}\.?\s+\d{1,2}|\d{1,2}\.?\s+[^\W\d_]{1,9}\.?|\d{4}-\d\d-\d\d)\s+(?:\d{4}|\d{1,2}:\d\d(?::\d\d)?) "
    r"(?P<name>.+)",
    re.S,
)
_WINDOWS = re.compile(
    r"\d\d-\d\d-(?:\d\d|\d{4}) +\d\d:\d\d(?:[AP]M)? +(?:(?P<folder><(?:DIR|JUNCTION|SYMLINKD?)>) {10}|(?P<size>\d+) )"
    r"(?P<name>.+)",
    re.S,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What a server says about one name."""

    name: str
    kind: ObjectKind
    size: int | None = None
    modified: datetime | None = None
    unique: str = ""
    """The same text for the same file or folder, wherever it is shown; empty when the server does not tell."""
    itself: bool = False
    """It stands for the folder that is listed, or the one above it."""


def parse_time(text: str) -> datetime | None:
    """Read the form that MDTM, MLSD and MFMT share: ``20010203040506.789``, always UTC."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    try:
        moment = datetime.strptime(match[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return moment.replace(microsecond=int((match[2] or "").ljust(6, "0")))


def stamp_of(moment: datetime) -> str:
    """Write a time as servers take it: UTC, whole seconds."""
    moment = moment.astimezone(UTC)
    # strftime leaves the year's leading zeros to the platform
    return f"{moment.year:04}{moment:%m%d%H%M%S}"


def parse_facts(line: str) -> Entry | None:
    """Read a line of MLSD or MLST, ``type=file;size=3;modify=20010203040506; name``; ``None`` when it is none."""
    facts_text, space, name = line.partition(" ")
    if not space or not name:
        return None
    facts: dict[str, str] = {}
    for fact in filter(None, facts_text.split(";")):
        label, equals, value = fact.partition("=")
        if not equals:
            return None
        facts[label.lower()] = value
    kind = facts.get("type", "").lower()
    if not kind:
        return None
    size = facts.get("size", "")
    return Entry(
        name=name,
        kind=_KINDS.get(kind, ObjectKind.OTHER),
        size=int(size) if size.isascii() and size.isdigit() else None,
        modified=parse_time(facts.get("modify", "")),
        unique=facts.get("unique", ""),
        itself=kind in {"cdir", "pdir"},
    )


def parse_list_line(line: str) -> Entry | None:
    """Read a line of LIST in the form of ``ls -l`` or of ``dir``; ``None`` when it is neither.

    The times in it are of the server's own zone, without seconds, and after half a year without hours: they are not
    taken over.
    """
    match = _UNIX.fullmatch(line)
    if match is not None:
        name, kind = match["name"], _UNIX_KINDS.get(match["kind"], ObjectKind.OTHER)
        if match["kind"] == "l":
            name = name.partition(" -> ")[0]
        size = int(match["size"]) if kind is ObjectKind.FILE and match["size"].isdigit() else None
        return Entry(name, kind, size, itself=name in {".", ".."})
    match = _WINDOWS.fullmatch(line)
    if match is not None:
        if match["folder"]:
            folder = match["folder"] == "<DIR>"
            return Entry(match["name"], ObjectKind.DIRECTORY if folder else ObjectKind.OTHER)
        return Entry(match["name"], ObjectKind.FILE, int(match["size"]))
    return None


class Spool:
    """A listing as the server sent it, kept in memory while it is small and in a temporary file when it is not.

    So the connection is free before the first entry is looked at, and nothing is shown of a listing that broke off.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 # closed by __exit__
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop what was kept. Idempotent."""
        self._file.close()

    @property
    def _on_disk(self) -> bool:
        return self.size > _IN_MEMORY

    async def write(self, data: bytes) -> None:
        self.size += len(data)
        if self._on_disk:
            await asyncio.to_thread(self._file.write, data)
        else:
            self._file.write(data)

    async def batches(self) -> AsyncIterator[list[str]]:
        """Yield all lines from the beginning, many at a time, undecodable bytes as surrogates. Raises ValueError for a
        line without an end: there the listing broke off."""
        self._file.seek(0)
        while True:
            if self._on_disk:
                lines = await asyncio.to_thread(self._some_lines)
            else:
                lines = self._some_lines()
            if not lines:
                return
            yield [line.decode("utf-8", "surrogateescape") for line in lines]

    def _some_lines(self) -> list[bytes]:
        lines: list[bytes] = []
        taken = 0
        while taken < _BATCH:
            line = self._file.readline(_LINE_LIMIT)
            if not line:
                break
            if not line.endswith(b"\n"):
                raise ValueError("a line is too long" if len(line) == _LINE_LIMIT else "it breaks off")
            taken += len(line)
            if stripped := line.removesuffix(b"\n").removesuffix(b"\r"):
                lines.append(stripped)
        return lines
