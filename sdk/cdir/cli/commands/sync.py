"""``sync``: making one tree like another, now or in the background, and how it went."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from cdir.cli.command import command, dry_run_option, parallel_option
from cdir.cli.commands.transfer import finish, summary
from cdir.cli.exits import Exit, one_line
from cdir.cli.output import Row, count, human_size, rfc3339
from cdir.cli.progress import shown
from cdir.cli.session import Session
from cdir.cli.sync_record import SyncRecord, default_name, records
from cdir.errors import CdirError, InvalidArgument, NotFound

if TYPE_CHECKING:
    from cdir.client import Client
    from cdir.progress import Progress
    from cdir.syncing import Deletion, Side, SyncReport

__all__ = ["sync"]

_ENDS: Final = (signal.SIGINT, signal.SIGTERM)


@command(
    "sync",
    "cdir sync ~/photos /photos",
    "cdir sync ~/photos /photos --delete --dry-run",
    "cdir sync ~/photos /photos --delete --max-delete 100 --watch",
    "cdir sync /photos nas:backup/photos --name nightly --async",
    "cdir sync --name nightly",
    "cdir sync status",
)
@click.argument("places", nargs=-1, metavar="[SRC DEST | status]")
@click.option("--name", default="", help="Remember the two sides under this name; alone, run that again.")
@click.option("--async", "background", is_flag=True, help="Return at once; `cdir sync status` tells how it goes.")
@click.option("--delete", is_flag=True, help="Remove at DEST what is not in SRC.")
@click.option(
    "--max-delete",
    metavar="N|P%",
    help="With --delete: remove nothing when it would be more files, or a greater share of DEST's.  [default: 50%]",
)
@click.option(
    "-f",
    "--force",
    is_flag=True,
    help="With --delete: also when SRC is empty or could not be listed completely, or a transfer failed.",
)
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C: transfer what changes in SRC as it changes.")
@click.option(
    "--every",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="With --watch: compare both sides whole this often.  [default: 300]",
)
@click.option("--lock-descriptor", type=int, hidden=True)
@parallel_option
@dry_run_option
async def sync(
    session: Session,
    places: Sequence[str],
    name: str,
    background: bool,
    delete: bool,
    max_delete: str | None,
    force: bool,
    watch: bool,
    every: float | None,
    lock_descriptor: int | None,
    parallel: int,
    dry_run: bool,
) -> int:
    """Make DEST like SRC, one way: what is new or changed is transferred; with --delete, what SRC has not is removed.

    Each side is a local folder, a directory of the virtual directory, or PROVIDER:PATH. Write file:PATH or cdir:PATH
    where a path could be local or virtual. What is replaced or removed in the virtual directory stays restorable; local
    files are replaced and removed for good.

    --delete compares both sides before anything is transferred, and removes last. It holds back, and says why, rather
    than take a source that is not mounted or half listed for one whose files were removed.
    """
    for given, option, wants in (
        (max_delete is not None, "--max-delete", delete),
        (force, "--force", delete),
        (every is not None, "--every", watch),
    ):
        if given and not wants:
            raise click.UsageError(
                f"{option} has no meaning without {'--watch' if option == '--every' else '--delete'}"
            )
    if watch and (dry_run or background):
        raise click.UsageError(f"--watch and {'--dry-run' if dry_run else '--async'} do not go together")
    if places == ("status",):
        return _status(session, name)
    if len(places) not in {0, 2} or not (places or name):
        raise click.UsageError("name two sides, or the --name of a sync that ran before, or `status`")
    deletion = _deletion(max_delete, force) if delete else None
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
            return await _planned(session, client, one, other, deletion, parallel)
        record = SyncRecord.of(session.home, name or default_name(str(one), str(other)))
        lock = record.lock() if lock_descriptor is None else lock_descriptor
        try:
            if background:
                return _detached(session, record, lock, one, other, deletion, parallel)
            if watch:
                return await _watched(session, client, record, one, other, deletion, parallel, every)
            return await _recorded(session, client, record, one, other, deletion, parallel)
        finally:
            os.close(lock)


def _deletion(max_delete: str | None, force: bool) -> Deletion:
    from cdir.syncing import Deletion, Limit

    try:
        return Deletion(force=force) if max_delete is None else Deletion(Limit.parse(max_delete), force)
    except InvalidArgument as error:
        raise click.BadParameter(error.message, param_hint="--max-delete") from error


async def _planned(
    session: Session, client: Client, source: Side, target: Side, deletion: Deletion | None, parallel: int
) -> int:
    from cdir.syncing import sync as run

    report = await run(
        client,
        source,
        target,
        delete=deletion,
        parallel=parallel,
        dry_run=True,
        on_file=lambda one, other: session.output.say(f"would transfer {one} → {other}"),
        on_removed=lambda one: session.output.say(f"would remove {one}"),
    )
    return finish(session.output, report.transfer, "would be transferred", removal=report.removal if deletion else None)


async def _recorded(
    session: Session,
    client: Client,
    record: SyncRecord,
    source: Side,
    target: Side,
    deletion: Deletion | None,
    parallel: int,
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

            report = await run(client, source, target, delete=deletion, parallel=parallel, on_progress=on_progress)
    except CdirError as error:
        _ended(record, state, "failed", error=one_line(error.message))
        raise
    except BaseException:
        _ended(record, state, "interrupted")
        raise
    well = not report.transfer.failed and not report.removal.failed and report.removal.held_back is None
    _ended(record, state, "done" if well else "failed", report)
    return finish(session.output, report.transfer, removal=report.removal if deletion else None)


async def _watched(
    session: Session,
    client: Client,
    record: SyncRecord,
    source: Side,
    target: Side,
    deletion: Deletion | None,
    parallel: int,
    every: float | None,
) -> int:
    """Keep at it until Ctrl-C or a request to end; that is how it ends well."""
    from cdir.keeping_alike import COMPARE_SECONDS, KeepAlike

    state = record.begin(str(source), str(target))
    output = session.output
    first = True

    def on_round(report: SyncReport) -> None:
        nonlocal first
        transfer, removal = report.transfer, report.removal
        state["files"] += transfer.files
        state["bytes"] += transfer.bytes
        state["removed"] += removal.files
        state.update(skipped=max(state["skipped"], transfer.skipped), failed=len(transfer.failed) + len(removal.failed))
        record.write(state)
        if transfer.files or removal.files or first:
            row = {"files": transfer.files, "bytes": transfer.bytes, "removed": removal.files, "owed": transfer.owed}
            removed = f"; {count(removal.files, 'file')} removed" if removal.files else ""
            output.record(row, [summary(transfer) + removed])
            output.flush()
        for kept in transfer.conflicts:
            output.complain(f"cdir: {kept.path}: was changed by somebody else meanwhile; yours is {kept.kept_as!r}")
        if first:
            output.say(f"watching {source}; Ctrl-C ends it")
        first = False

    def on_trouble(line: str) -> None:
        state["error"] = one_line(line)
        record.write(state)
        output.complain(f"cdir: {one_line(line)}")

    keeping = KeepAlike(
        client,
        source,
        target,
        delete=deletion,
        parallel=parallel,
        every=COMPARE_SECONDS if every is None else every,
        on_round=on_round,
        on_trouble=on_trouble,
    )
    loop = asyncio.get_running_loop()
    working = asyncio.create_task(keeping.run())
    for number in _ENDS:
        loop.add_signal_handler(number, working.cancel)
    try:
        await working
    except asyncio.CancelledError:
        for number in _ENDS:
            loop.remove_signal_handler(number)
    except CdirError as error:
        _ended(record, state, "failed", error=one_line(error.message))
        raise
    _ended(record, state, "done", error=state["error"])
    output.say("ended; nothing was left half-written")
    return Exit.DONE


def _ended(
    record: SyncRecord, state: dict[str, Any], how: str, report: SyncReport | None = None, error: str = ""
) -> None:
    state.update(state=how, ended=rfc3339(datetime.now(UTC)), error=error)
    if report is not None:
        failed = (*report.transfer.failed, *report.removal.failed)
        held_back = report.removal.held_back
        if failed:
            error = f"{failed[0].path}: {failed[0].error.message}"
        elif held_back is not None:
            error = held_back.message
        state.update(
            files=report.transfer.files,
            bytes=report.transfer.bytes,
            skipped=report.transfer.skipped,
            removed=report.removal.files,
            failed=len(failed),
            owed=report.transfer.owed,
            error=one_line(error),
        )
    record.write(state)


def _detached(
    session: Session,
    record: SyncRecord,
    lock: int,
    source: Side,
    target: Side,
    deletion: Deletion | None,
    parallel: int,
) -> int:
    """Run it in a process of its own, which inherits the lock and outlives this one."""
    record.begin(str(source), str(target))
    command = [sys.executable, "-m", "cdir.cli", "sync", "--name", record.name, "--parallel", str(parallel)]
    if deletion is not None:
        command += ["--delete", "--max-delete", str(deletion.limit), *(["--force"] if deletion.force else [])]
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
            ("REMOVED", lambda row: str(row["removed"])),
            ("UNCHANGED", lambda row: str(row["skipped"])),
            ("FAILED", lambda row: str(row["failed"])),
            ("BETWEEN", _between),
        ],
        right=(2, 3, 4, 5, 6),
        empty="no sync has run yet",
    )
    return Exit.DONE


def _between(row: Row) -> str:
    error = f": {row['error']}" if row["error"] else ""
    return f"{row['source']} → {row['target']}{error}"
