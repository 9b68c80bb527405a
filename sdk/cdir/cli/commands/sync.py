"""``sync``: making one tree like another, now or in the background, and how it went."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from cdir.cli.command import command, dry_run_option, parallel_option
from cdir.cli.commands.transfer import finish
from cdir.cli.exits import Exit, one_line
from cdir.cli.output import Row, human_size, rfc3339
from cdir.cli.progress import shown
from cdir.cli.session import Session
from cdir.cli.sync_record import SyncRecord, default_name, records
from cdir.errors import CdirError, NotFound

if TYPE_CHECKING:
    from cdir.client import Client
    from cdir.model import TransferReport
    from cdir.progress import Progress
    from cdir.syncing import Side

__all__ = ["sync"]


@command(
    "sync",
    "cdir sync ~/photos /photos",
    "cdir sync /photos nas:backup/photos --name nightly --async",
    "cdir sync --name nightly",
    "cdir sync status",
)
@click.argument("places", nargs=-1, metavar="[SRC DEST | status]")
@click.option("--name", default="", help="Remember the two sides under this name; alone, run that again.")
@click.option("--async", "background", is_flag=True, help="Return at once; `cdir sync status` tells how it goes.")
@click.option("--watch", is_flag=True, hidden=True)
@click.option("--lock-descriptor", type=int, hidden=True)
@parallel_option
@dry_run_option
async def sync(
    session: Session,
    places: Sequence[str],
    name: str,
    background: bool,
    watch: bool,
    lock_descriptor: int | None,
    parallel: int,
    dry_run: bool,
) -> int:
    """Make DEST like SRC, one way: what is new or changed is transferred, and nothing is removed.

    Each side is a local folder, a directory of the virtual directory, or PROVIDER:PATH. Write file:PATH or cdir:PATH
    where a path could be local or virtual. What is replaced in the virtual directory or at a storage service stays
    restorable; local files are replaced.
    """
    if watch:
        raise click.UsageError("sync does not watch yet; run it again when something changed, from cron for example")
    if places == ("status",):
        return _status(session, name)
    if len(places) not in {0, 2} or not (places or name):
        raise click.UsageError("name two sides, or the --name of a sync that ran before, or `status`")
    if places:
        source, target = places
    else:
        known = SyncRecord.of(session.home, name).read()
        if known is None:
            raise NotFound(f"no sync is called {name!r}; `cdir sync status` lists them")
        source, target = known["source"], known["target"]
    async with session.client() as client:
        from cdir.syncing import sides

        one, other = await sides(client, source, target, session.current())
        if dry_run:
            return await _planned(session, client, one, other, parallel)
        record = SyncRecord.of(session.home, name or default_name(str(one), str(other)))
        lock = record.lock() if lock_descriptor is None else lock_descriptor
        try:
            if background:
                return _detached(session, record, lock, one, other, parallel)
            return await _recorded(session, client, record, one, other, parallel)
        finally:
            os.close(lock)


async def _planned(session: Session, client: Client, source: Side, target: Side, parallel: int) -> int:
    from cdir.syncing import sync as run

    report = await run(
        client,
        source,
        target,
        parallel=parallel,
        dry_run=True,
        on_file=lambda one, other: session.output.say(f"would transfer {one} → {other}"),
    )
    return finish(session.output, report, "would be transferred")


async def _recorded(
    session: Session, client: Client, record: SyncRecord, source: Side, target: Side, parallel: int
) -> int:
    """Run it here and remember how it goes; what ends it early is remembered too."""
    from cdir.syncing import sync as run

    state = record.begin(str(source), str(target))
    try:
        with shown(session.output, "sync") as show:

            def on_progress(progress: Progress) -> None:
                record.progress(state, progress)
                if show is not None:
                    show(progress)

            report = await run(client, source, target, parallel=parallel, on_progress=on_progress)
    except CdirError as error:
        _ended(record, state, "failed", error=one_line(error.message))
        raise
    except BaseException:
        _ended(record, state, "interrupted")
        raise
    _ended(record, state, "failed" if report.failed else "done", report)
    return finish(session.output, report)


def _ended(
    record: SyncRecord, state: dict[str, Any], how: str, report: TransferReport | None = None, error: str = ""
) -> None:
    state.update(state=how, ended=rfc3339(datetime.now(UTC)), error=error)
    if report is not None:
        first = report.failed[0] if report.failed else None
        state.update(
            files=report.files,
            bytes=report.bytes,
            skipped=report.skipped,
            failed=len(report.failed),
            owed=report.owed,
            error="" if first is None else one_line(f"{first.path}: {first.error.message}"),
        )
    record.write(state)


def _detached(session: Session, record: SyncRecord, lock: int, source: Side, target: Side, parallel: int) -> int:
    """Run it in a process of its own, which inherits the lock and outlives this one."""
    record.begin(str(source), str(target))
    command = [sys.executable, "-m", "cdir.cli", "sync", "--name", record.name, "--parallel", str(parallel)]
    with record.log.open("wb") as log:
        subprocess.Popen(  # noqa: S603 - our own interpreter and module; no shell
            [*command, "--lock-descriptor", str(lock), "--", str(source), str(target)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock],
            start_new_session=True,
        )
    session.output.record(
        {"name": record.name, "state": "running"},
        [f"sync {record.name} runs in the background; `cdir sync status --name {record.name}` tells how it goes"],
    )
    return Exit.DONE


def _status(session: Session, name: str) -> int:
    found = list(records(session.home))
    if name:
        found = [record for record in found if record["name"] == name]
        if not found:
            raise NotFound(f"no sync is called {name!r}; `cdir sync status` lists them")
    session.output.rows(
        found,
        [
            ("NAME", lambda row: str(row["name"])),
            ("STATE", lambda row: str(row["state"])),
            ("FILES", lambda row: str(row["files"])),
            ("SIZE", lambda row: human_size(int(str(row["bytes"])))),
            ("UNCHANGED", lambda row: str(row["skipped"])),
            ("FAILED", lambda row: str(row["failed"])),
            ("BETWEEN", _between),
        ],
        right=(2, 3, 4, 5),
        empty="no sync has run yet",
    )
    return Exit.DONE


def _between(row: Row) -> str:
    error = f": {row['error']}" if row["error"] else ""
    return f"{row['source']} → {row['target']}{error}"
