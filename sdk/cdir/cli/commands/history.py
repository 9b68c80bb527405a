"""``restore`` and ``trash``: bringing back what was changed, removed or moved, and letting go of it.

Also what ``status --conflicts`` prints.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import click

from cdir.cli.command import command, dry_run_option, yes_option
from cdir.cli.exits import Exit, one_line
from cdir.cli.output import Row, count, human_size, human_time, rfc3339
from cdir.cli.session import Session
from cdir.errors import AlreadyExists, Conflict

if TYPE_CHECKING:
    from cdir.client import Client
    from cdir.history import Trashed

__all__ = ["conflict_line", "conflict_rows", "restore", "time_given", "trash"]

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def time_given(text: str, now: datetime | None = None) -> datetime:
    """Return the time that a person means: RFC 3339, a local date with or without a time, or how long ago (``2h``).

    Raises :class:`click.BadParameter`.
    """
    ago = re.fullmatch(r"(\d+)\s*([smhdw])(?:\s+ago)?", text.strip())
    try:
        if ago is not None:
            return (now or datetime.now(UTC)) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(
            f"{text!r} is no time; write 2026-01-31T14:02:00Z, '2026-01-31 14:02' (local), or how long ago: 90m, 2h, 3d"
        ) from None


def _time(ctx: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    return None if value is None else time_given(value)


@command(
    "restore",
    "cdir restore /report.txt",
    "cdir restore --generation 3 /report.txt",
    "cdir restore --recursive --at 2h /reports",
    "cdir restore --recursive --at '2026-01-31 14:02' --dry-run /",
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@click.option(
    "--generation", type=click.IntRange(min=1), metavar="N", help="This content of a file, as `cdir versions` counts."
)
@click.option(
    "--at", callback=_time, metavar="TIME", help="What the path showed then: a date, a time, or how long ago (2h, 3d)."
)
@click.option("-r", "--recursive", is_flag=True, help="Restore directories with all below them.")
@dry_run_option
async def restore(
    session: Session,
    paths: Sequence[str],
    generation: int | None,
    at: datetime | None,
    recursive: bool,
    dry_run: bool,
) -> int:
    """Make older contents current again, or bring back what was removed.

    A file comes back by generation or as of a time; a directory as of a time: what was changed, removed or moved since
    is as it was then, under its name of then. Without either, what the latest removal at or below PATH took away comes
    back.

    Nothing is lost by it: what is current now stays as a version, files that came later stay where they are. Contents
    are found as far back as the policy keeps them.
    """
    if generation is not None and at is not None:
        raise click.UsageError("--generation and --at exclude each other")
    if generation is not None and len(paths) > 1:
        raise click.UsageError("--generation belongs to one file; name only that")
    targets = [session.path(path) for path in paths]
    restored = _Restored(session, dry_run=dry_run)
    async with session.client() as client:
        for target in targets:
            await restored.take(client, target, generation=generation, at=at, recursive=recursive)
    return restored.finish()


class _Restored:
    """Counts what was restored and tells what was not."""

    def __init__(self, session: Session, *, dry_run: bool) -> None:
        self._output = session.output
        self._dry_run = dry_run
        self._files = self._bytes = self._owed = self._conflicts = 0
        self._failed: list[dict[str, str]] = []

    async def take(
        self, client: Client, target: str, *, generation: int | None, at: datetime | None, recursive: bool
    ) -> None:
        outcomes = client.history.restore(
            target, generation=generation, at=at, recursive=recursive, dry_run=self._dry_run
        )
        async for outcome in outcomes:
            if outcome.error is not None:
                self._conflicts += isinstance(outcome.error, AlreadyExists | Conflict)
                message = one_line(outcome.error.message)
                self._failed.append({"path": outcome.path, "error": message})
                self._output.complain(f"cdir: {message if outcome.path in message else f'{outcome.path}: {message}'}")
                continue
            self._files += 1
            self._bytes += outcome.size
            if outcome.stored is not None:
                self._owed += len(outcome.stored.owed)
            else:
                size = human_size(outcome.size)
                self._output.say(f"would restore {outcome.path} (generation {outcome.generation}, {size})")

    def finish(self) -> int:
        """Print the result and return the exit code."""
        row = {"files": self._files, "bytes": self._bytes, "failed": self._failed, "owed": self._owed}
        done = "would be restored" if self._dry_run else "restored"
        text = f"{count(self._files, 'file')}, {human_size(self._bytes)} {done}"
        if not self._files and not self._failed:
            text = "nothing to do: all is as it was"
        if self._owed:
            text += f"; {count(self._owed, 'copy', 'copies')} owed"
        self._output.record(row, [text])
        if self._failed:
            return Exit.CONFLICT if self._conflicts == len(self._failed) else Exit.FAILED
        return Exit.OWED if self._owed else Exit.DONE


@command("trash", "cdir trash", "cdir trash /reports --output json", "cdir trash --empty --yes /reports")
@click.argument("path", default="/", metavar="[PATH]")
@click.option("--empty", is_flag=True, help="Let go of what is listed, with all its versions. Cannot be undone.")
@yes_option
@dry_run_option
async def trash(session: Session, path: str, empty: bool, yes: bool, dry_run: bool) -> None:
    """List the removed files at or below PATH that `cdir restore` can bring back."""
    target = session.path(path)
    async with session.client() as client:
        if not empty:
            number = await session.output.stream(_rows(client, target), _line)
            if not number and session.output.for_people:
                session.output.say("nothing that was removed is kept here")
            return
        if dry_run or not yes:
            if not dry_run and not sys.stdin.isatty():
                raise click.UsageError("emptying the trash cannot be undone; add --yes")
            files = 0
            async for _ in client.history.trash(target):
                files += 1
            if dry_run:
                session.output.say(f"would let go of {count(files, 'removed file')}")
                return
            if not click.confirm(f"Let go of {count(files, 'removed file')} for good?", err=True):
                raise click.Abort
        files = await client.history.empty_trash(target)
    session.output.record({"files": files}, [f"{count(files, 'removed file')} let go"])


async def _rows(client: Client, target: str) -> AsyncIterator[Row]:
    async for file in client.history.trash(target):
        yield _row(file)


def _row(file: Trashed) -> dict[str, object]:
    return {
        "path": file.path,
        "generation": file.version.generation,
        "size": file.version.size,
        "removed_at": rfc3339(file.removed_at),
        "removed_by": file.removed_by,
        "expires_at": rfc3339(file.expires_at),
    }


def _line(row: Row) -> str:
    removed = human_time(datetime.fromisoformat(str(row["removed_at"])))
    size = human_size(int(str(row["size"])))
    return f"{removed:>16}  {size:>8}  {row['removed_by'] or '-'!s:<10}  {row['path']}"


async def conflict_rows(client: Client, target: str) -> AsyncIterator[Row]:
    """Yield the conflicting copies below a directory as programs read them."""
    async for entry in client.history.conflicts(target):
        yield {
            "path": entry.target,
            "conflict_of": f"@{entry.workspace}{entry.conflict_of}" if entry.workspace else entry.conflict_of,
            "size": entry.size,
            "modified": rfc3339(entry.modified),
            "author": entry.author,
        }


def conflict_line(row: Row) -> str:
    """Return a conflicting copy in one line."""
    return f"{row['path']}  ({human_size(int(str(row['size'])))}, for {row['conflict_of']})"
