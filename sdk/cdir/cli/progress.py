"""Progress bars on a terminal: files, bytes, rate, time left, and what each provider has and owes."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from cdir.cli.output import Output, human_size

if TYPE_CHECKING:
    from cdir.progress import OnProgress, Progress

__all__ = ["describe_providers", "shown"]

_REDRAW_SECONDS: Final = 0.1
_APPEARS_AFTER_SECONDS: Final = 0.3
"""What is done sooner needs no bar."""


def describe_providers(progress: Progress) -> str:
    """Return what each provider has and owes: ``disk 120 · backup 103 (17 owed)``."""
    return " · ".join(
        f"{name} {tally.stored}" + (f" ({tally.owed} owed)" if tally.owed else "")
        for name, tally in sorted(progress.providers.items())
    )


@contextlib.contextmanager
def shown(output: Output, verb: str) -> Iterator[OnProgress | None]:
    """Show a transfer while it runs; yields what to call, or ``None`` when nobody watches."""
    if output.quiet or not sys.stderr.isatty():
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars
    except ImportError:  # an extra; transfers work without it
        yield None
        return

    bars = Bars(
        TextColumn(f"{verb} {{task.fields[files]}}"),
        BarColumn(),
        TextColumn("{task.fields[bytes]}  {task.fields[rate]}/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[providers]}"),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,
    )
    task = bars.add_task(verb, total=None, files="", bytes="", rate="0 B", providers="")
    started = time.monotonic()
    drawn = started
    live = False

    def on_progress(progress: Progress) -> None:
        nonlocal drawn, live
        now = time.monotonic()
        if now - drawn < _REDRAW_SECONDS or now - started < _APPEARS_AFTER_SECONDS:
            return
        drawn = now
        at_least = "" if progress.complete else "+"
        bars.update(
            task,
            completed=progress.bytes,
            total=progress.found_bytes if progress.complete else None,
            files=f"{progress.files}/{progress.found_files}{at_least} files",
            bytes=f"{human_size(progress.bytes)} of {human_size(progress.found_bytes)}{at_least}",
            rate=human_size(round(progress.bytes / (now - started))),
            providers=describe_providers(progress),
        )
        if not live:
            bars.start()
            live = True
        bars.refresh()

    try:
        yield on_progress
    finally:
        if live:
            bars.stop()
