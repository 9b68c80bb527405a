"""What commands print: tables for people; JSON, YAML and CSV for programs. Results go to standard output, all else to
standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TextIO

from cdir.errors import Unsupported

__all__ = [
    "FORMATS",
    "NO_PROVIDER",
    "Column",
    "Output",
    "OutputClosed",
    "count",
    "human_size",
    "human_time",
    "rfc3339",
    "table",
]

FORMATS: Final = ("table", "json", "yaml", "csv")

NO_PROVIDER: Final = (
    "no storage service is registered; add one: cdir provider add disk --kind local --set root=/mnt/disk/cdir"
)

Row = Mapping[str, object]
Column = tuple[str, Callable[[Row], str]]
"""A heading and what stands below it."""

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def human_size(size: int) -> str:
    """Return a size for people: ``0 B``, ``1.5 KiB``, ``12 MiB``."""
    value = float(size)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    digits = 1 if unit != "B" and value < 9.95 else 0
    return f"{value:.{digits}f} {unit}".replace(".0 ", " ")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return ``1 file``, ``12 034 files``; nothing is written as ``no files``."""
    if number == 1:
        return f"1 {noun}"
    written = f"{number:,}".replace(",", " ") if number else "no"
    return f"{written} {plural or noun + 's'}"


def rfc3339(time: datetime | None) -> str | None:
    """Return a time as RFC 3339 in UTC, with a fraction when it has one; ``None`` stays."""
    return None if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def human_time(time: datetime, now: datetime | None = None) -> str:
    """Return a time for people, in their zone: ``14:02`` today, else ``2026-01-31 14:02``."""
    local = time.astimezone()
    today = (now or datetime.now(UTC)).astimezone().date()
    return local.strftime("%H:%M" if local.date() == today else "%Y-%m-%d %H:%M")


def printable(value: object) -> str:
    """Return a value for a table cell or a CSV field."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return str(value)


def table(rows: Sequence[Sequence[str]], headings: Sequence[str] = (), right: Iterable[int] = ()) -> list[str]:
    """Return aligned lines; the columns numbered in ``right`` are flush right."""
    lines = [list(headings), *rows] if headings else list(rows)
    if not lines:
        return []
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    flush_right = set(right)
    return [
        "  ".join(
            cell.rjust(width) if column in flush_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


class OutputClosed(Exception):
    """Whoever read our output had enough."""


class Output:
    """Prints results in the format asked for."""

    def __init__(self, form: str = "table", *, quiet: bool = False, stdout: TextIO | None = None) -> None:
        self.form = form
        self.quiet = quiet
        self._stdout = stdout

    @property
    def for_people(self) -> bool:
        return self.form == "table"

    def line(self, text: str) -> None:
        """Print one line of a result."""
        out = self._stdout or sys.stdout
        out.write(_encodable(text, out) + "\n")

    def say(self, text: str) -> None:
        """Tell a person, on standard error, unless they asked for quiet."""
        if not self.quiet:
            self.complain(text)

    def complain(self, text: str) -> None:
        """Tell a person what went wrong, on standard error."""
        sys.stderr.write(_encodable(text, sys.stderr) + "\n")
        sys.stderr.flush()

    def record(self, row: Row, lines: Iterable[str]) -> None:
        """Print one result: ``lines`` for people (none when quiet), ``row`` for programs."""
        if self.for_people:
            if not self.quiet:
                for line in lines:
                    self.line(line)
        elif self.form == "json":
            self.line(json.dumps(row, ensure_ascii=False))
        elif self.form == "yaml":
            self._yaml(row)
        else:
            self._csv(list(row))
            self._csv([printable(value) for value in row.values()])

    def flush(self) -> None:
        """Hand on what was printed, for results that come over a long time."""
        (self._stdout or sys.stdout).flush()

    def rows(self, rows: Sequence[Row], columns: Sequence[Column], right: Iterable[int] = (), empty: str = "") -> None:
        """Print a list of results that is known whole; ``empty`` is what people read when there are none."""
        if self.for_people:
            if rows:
                cells = [[render(row) for _, render in columns] for row in rows]
                for line in table(cells, [heading for heading, _ in columns], right):
                    self.line(line)
            elif empty:
                self.say(empty)
        elif self.form == "json":
            self.line(json.dumps(list(rows), ensure_ascii=False))
        elif self.form == "yaml":
            self._yaml([dict(row) for row in rows])
        else:
            for number, row in enumerate(rows):
                if number == 0:
                    self._csv(list(row))
                self._csv([printable(value) for value in row.values()])

    async def stream(self, rows: AsyncIterator[Row], line: Callable[[Row], str], *, lines: bool = False) -> int:
        """Print results as they come and return how many; memory does not grow with them.

        JSON is one array, or with ``lines`` one object a line, for results that come without end.
        """
        number = 0
        async for row in rows:
            self._streamed(row, line, number, lines=lines)
            number += 1
            if lines:
                self.flush()
        if self.form == "json" and not lines:
            self.line("\n]" if number else "[]")
        elif self.form == "yaml" and not number:
            self.line("[]")
        return number

    def _streamed(self, row: Row, line: Callable[[Row], str], number: int, *, lines: bool) -> None:
        if self.for_people:
            self.line(line(row))
        elif self.form == "json":
            text = json.dumps(row, ensure_ascii=False)
            if lines:
                self.line(text)
            else:
                (self._stdout or sys.stdout).write(("[\n" if number == 0 else ",\n") + text)
        elif self.form == "yaml":
            self._yaml([dict(row)])
        else:
            if number == 0:
                self._csv(list(row))
            self._csv([printable(value) for value in row.values()])

    def _yaml(self, value: object) -> None:
        try:
            import yaml
        except ImportError as error:
            raise Unsupported("--output yaml needs PyYAML; run `pip install 'cdir[yaml]'`") from error
        text = yaml.safe_dump(_plain(value), sort_keys=False, allow_unicode=True, default_flow_style=False)
        self.line(text.rstrip("\n"))

    def _csv(self, fields: Sequence[str]) -> None:
        import csv

        csv.writer(self._stdout or sys.stdout, lineterminator="\n").writerow(fields)


def _plain(value: object) -> object:
    """Return the same with nothing but the types that YAML knows."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _encodable(text: str, stream: TextIO) -> str:
    """Return text that the stream can print; names may hold what its encoding cannot."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
