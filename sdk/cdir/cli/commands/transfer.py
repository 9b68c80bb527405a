"""``put``, ``get``, ``cat``: bytes in and out."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from cdir.cli.command import command, dry_run_option, parallel_option
from cdir.cli.exits import Exit, exit_of_report, one_line
from cdir.cli.output import Output, count, human_size
from cdir.cli.progress import shown
from cdir.cli.session import Session
from cdir.errors import InvalidArgument
from cdir.model import OnConflict, ProviderState, ReplicaState, TransferReport, Wait
from cdir.paths import parse_endpoint
from cdir.progress import kept_copy

if TYPE_CHECKING:
    from cdir.client import Client
    from cdir.surplus import Removal

__all__ = ["cat", "finish", "get", "put", "standard_input", "summary"]

_STUCK_SECONDS: Final = 30.0
"""How long ``--require all`` waits while no owed copy lands, before it gives up."""

_UNREACHABLE_SECONDS: Final = 5.0
"""The same when every provider that owes one is down or paused."""

_PIECE: Final = 1024 * 1024


def _generation_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--generation",
        type=click.IntRange(min=1),
        metavar="N",
        help="An older content, as `cdir versions` counts them; also of a removed file.",
    )(function)


@command(
    "put",
    "cdir put report.pdf /reports/",
    "cdir put --recursive ~/photos /photos",
    "tar c . | cdir put - /backup.tar",
)
@click.argument("sources", nargs=-1, required=True, metavar="SRC…")
@click.argument("target", metavar="DEST")
@click.option("-r", "--recursive", is_flag=True, help="Put directories: their contents go below DEST.")
@parallel_option
@click.option(
    "--wait",
    type=click.Choice([wait.value for wait in Wait]),
    default=Wait.REACHABLE.value,
    show_default=True,
    help="Return when the policy's minimum is durable, or when every provider that is up has its copy.",
)
@click.option("--require", type=click.Choice(["all"]), help="Wait for every copy; fail if one stays owed.")
@click.option("-f", "--overwrite", "--force", is_flag=True, help="At PROVIDER:PATH: replace what differs there.")
@dry_run_option
async def put(
    session: Session,
    sources: Sequence[str],
    target: str,
    recursive: bool,
    parallel: int,
    wait: str,
    require: str | None,
    overwrite: bool,
    dry_run: bool,
) -> int:
    """Store local files; those already there with the same size and time are skipped.

    A file goes into DEST when DEST is a directory, ends with "/", or there are several sources; else it gets the name
    DEST. With --recursive a directory's contents go below DEST, which is made, so running it again finds all in place;
    of several directories each goes to DEST/NAME. SRC may be "-" for standard input.

    Symbolic links inside a directory, named pipes, sockets and devices are not stored. They, and files that cannot be
    read, are listed as failed (exit code 1), and the rest goes on.

    A file that somebody else changed meanwhile is not overwritten: yours is kept beside it as a conflicting copy (exit
    code 6; see `cdir status --conflicts`).

    DEST may be PROVIDER:PATH, an object or folder at one storage service, past the virtual directory.
    """
    if endpoint := parse_endpoint(target):
        from cdir.cli.endpoints import put_objects

        if wait != Wait.REACHABLE.value or require:
            raise click.UsageError("--wait and --require belong to the virtual directory; PROVIDER:PATH is one service")
        return await put_objects(
            session, sources, endpoint, recursive=recursive, replace=overwrite, parallel=parallel, dry_run=dry_run
        )
    full = session.path(target)
    if "-" in sources:
        if len(sources) > 1 or full.endswith("/"):
            raise click.UsageError("standard input needs a file as its destination, and comes alone")
        return await _put_stdin(session, full, Wait(wait), require=require == "all", dry_run=dry_run)
    async with session.client() as client:
        with shown(session.output, "put") as on_progress:
            report = await client.put(
                list(sources),
                full,
                recursive=recursive,
                parallel=parallel,
                wait=Wait(wait),
                on_conflict=OnConflict.KEEP_COPY,
                dry_run=dry_run,
                on_progress=on_progress,
                on_file=_planned(session.output, "put") if dry_run else None,
            )
        report = await _followed_up(session, client, full, report, require=require == "all")
    done = "would be put" if dry_run else ""
    return finish(session.output, report, done, putting=True, require=require == "all")


async def _put_stdin(session: Session, target: str, wait: Wait, *, require: bool, dry_run: bool) -> int:
    if dry_run:
        session.output.say(f"would put standard input → {target}")
        return Exit.DONE
    started = time.monotonic()
    async with session.client() as client:
        outcome = await client.write(target, standard_input(), wait=wait, on_conflict=OnConflict.KEEP_COPY)
        report = TransferReport(
            files=1,
            bytes=outcome.entry.size,
            skipped=0,
            failed=(),
            owed=len(outcome.owed),
            seconds=time.monotonic() - started,
            owed_to=outcome.owed,
            conflicts=(kept_copy(outcome),) if outcome.conflict_of else (),
        )
        report = await _followed_up(session, client, outcome.entry.target, report, require=require)
    return finish(session.output, report, putting=True, require=require)


async def standard_input() -> AsyncIterator[bytes]:
    """Yield standard input as it comes.

    It is read in a daemon thread: a read that waits for more must not hold up the end of the process after Ctrl-C.
    """
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes | OSError] = asyncio.Queue(2)

    def read() -> None:
        piece: bytes | OSError = b"-"
        while piece and not isinstance(piece, OSError):
            try:
                piece = os.read(0, _PIECE)
            except OSError as error:
                piece = error
            handing_over = pieces.put(piece)
            try:
                asyncio.run_coroutine_threadsafe(handing_over, loop).result()
            except (concurrent.futures.CancelledError, RuntimeError):  # the transfer ended, or the loop with it
                handing_over.close()
                return

    threading.Thread(target=read, name="cdir standard input", daemon=True).start()
    while piece := await pieces.get():
        if isinstance(piece, OSError):
            raise InvalidArgument(f"standard input cannot be read: {piece.strerror}")
        yield piece


@command(
    "get",
    "cdir get /reports/q3.csv .",
    "cdir get --recursive /photos ~/photos",
    "cdir get --from backup /notes.txt -",
    "cdir get --generation 3 /notes.txt notes-then.txt",
)
@click.argument("sources", nargs=-1, required=True, metavar="SRC…")
@click.argument("target", metavar="DEST")
@click.option("-r", "--recursive", is_flag=True, help="Get directories: their contents go below DEST.")
@parallel_option
@click.option("--from", "provider", default="", metavar="PROVIDER", help="Fetch this provider's copy and no other.")
@_generation_option
@dry_run_option
async def get(
    session: Session,
    sources: Sequence[str],
    target: str,
    recursive: bool,
    parallel: int,
    provider: str,
    generation: int | None,
    dry_run: bool,
) -> int:
    """Fetch files to the local disk; those already there with the same size and time are skipped.

    Where things go mirrors `cdir put`. Each file appears whole, verified and with its time, or not at all. DEST may be
    "-" for standard output. SRC may be PROVIDER:PATH, an object at a storage service, past the virtual directory.
    """
    paths = [session.place(source) for source in sources]
    _check_generation(generation, sources)
    if any(parse_endpoint(path) for path in paths) and target != "-":
        from cdir.cli.endpoints import get_objects

        if provider or generation is not None or not all(parse_endpoint(path) for path in paths):
            raise click.UsageError("PROVIDER:PATH goes without --from and --generation, and not with other paths")
        return await get_objects(session, paths, target, recursive=recursive, parallel=parallel, dry_run=dry_run)
    async with session.client() as client:
        if target == "-":
            await _print_files(client, paths, provider, generation)
            return Exit.DONE
        with shown(session.output, "get") as on_progress:
            report = await client.get(
                paths,
                target,
                recursive=recursive,
                parallel=parallel,
                provider=provider,
                generation=generation,
                dry_run=dry_run,
                on_progress=on_progress,
                on_file=_planned(session.output, "get") if dry_run else None,
            )
    return finish(session.output, report, "would be fetched" if dry_run else "")


@command("cat", "cdir cat /notes/today.txt", "cdir cat --generation 3 /notes/today.txt")
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@click.option("--from", "provider", default="", metavar="PROVIDER", help="Read this provider's copy and no other.")
@_generation_option
async def cat(session: Session, paths: Sequence[str], provider: str, generation: int | None) -> None:
    """Print files, byte for byte, to standard output. Every byte was verified before it is printed.

    PROVIDER:PATH prints an object at a storage service; what is wrong with it may show only at its end.
    """
    targets = [session.place(path) for path in paths]
    _check_generation(generation, paths)
    async with session.client() as client:
        await _print_files(client, targets, provider, generation)


def _check_generation(generation: int | None, paths: Sequence[str]) -> None:
    if generation is not None and len(paths) > 1:
        raise click.UsageError("--generation belongs to one file; name only that")


async def _print_files(client: Client, paths: Sequence[str], provider: str, generation: int | None) -> None:
    out = sys.stdout.buffer
    for path in paths:
        at_provider = parse_endpoint(path) is not None
        pieces = (
            client.endpoints.read(path)
            if at_provider
            else client.open_read(path, provider=provider, generation=generation)
        )
        async for piece in pieces:
            await asyncio.to_thread(out.write, piece)
    await asyncio.to_thread(out.flush)


def _planned(output: Output, verb: str) -> Callable[[str, str], None]:
    return lambda source, target: output.say(f"would {verb} {source} → {target}")


async def _owed(client: Client, target: str) -> tuple[int, tuple[str, ...]]:
    """Return how many copies are owed at or below a path, and to whom."""
    entry = await client.stat(target)
    if entry.is_directory:
        tree = await client.tree_status(entry.target)
        return tree.owed, tuple(provider.name for provider in tree.providers if provider.owed)
    status = await client.file_status(entry.target)
    owing = [replica.provider for replica in status.replicas if replica.wanted and replica.state is not ReplicaState.OK]
    return status.owed, tuple(owing)


async def _followed_up(
    session: Session, client: Client, target: str, report: TransferReport, *, require: bool
) -> TransferReport:
    """Name the providers that owe copies; with ``require`` wait first, until none does or nothing moves any more."""
    if not report.owed or (report.owed_to and not require):
        return report
    owed, names = await _owed(client, target)
    if not require:
        return dataclasses.replace(report, owed_to=names)
    started = moved = time.monotonic()
    if owed:
        session.output.say(f"waiting for {count(owed, 'owed copy', 'owed copies')}: {', '.join(names)}")
    while owed:
        now = time.monotonic()
        states = {provider.name: provider.state for provider in await client.providers.list()}
        answering = any(states.get(name) not in {ProviderState.DOWN, ProviderState.PAUSED} for name in names)
        if now - moved > (_STUCK_SECONDS if answering else _UNREACHABLE_SECONDS):
            break
        await asyncio.sleep(0.25)
        before = owed
        owed, names = await _owed(client, target)
        if owed < before:
            moved = time.monotonic()
    seconds = report.seconds + time.monotonic() - started
    return dataclasses.replace(report, owed=owed, owed_to=names if owed else (), seconds=seconds)


def summary(report: TransferReport, done: str = "") -> str:
    """Return a transfer in one line: ``2 000 files, 12 MiB in 4.1 s; 17 copies owed to backup``."""
    unchanged = f"{count(report.skipped, 'file')} there unchanged"
    if not report.files and report.skipped and not report.failed:
        text = f"nothing to do, {unchanged}"
    else:
        text = f"{count(report.files, 'file')}, {human_size(report.bytes)} {done or f'in {report.seconds:.1f} s'}"
        if report.skipped:
            text += f"; {unchanged}"
    if report.failed:
        text += f"; {len(report.failed)} failed"
    if report.conflicts:
        text += f"; {count(len(report.conflicts), 'conflict')}"
    if report.owed:
        to = f" to {', '.join(report.owed_to)}" if report.owed_to else ""
        text += f"; {count(report.owed, 'copy', 'copies')} owed{to}"
    return text


def finish(
    output: Output,
    report: TransferReport,
    done: str = "",
    *,
    putting: bool = False,
    require: bool = False,
    removal: Removal | None = None,
) -> int:
    """Print how a transfer ended, and what was removed after it; return its exit code."""
    removed = "" if removal is None else f"; {count(removal.files, 'file')} {'to remove' if done else 'removed'}"
    if removal is not None:
        report = dataclasses.replace(report, failed=(*report.failed, *removal.failed))
    for failed in report.failed:
        output.complain(f"cdir: {_told(failed.path, failed.error.message)}")
    for kept in report.conflicts:
        output.complain(
            f"cdir: {kept.path}: was changed by somebody else meanwhile; yours is kept as {kept.kept_as!r}: "
            "rename or remove it when you have compared them"
        )
    row = {
        "files": report.files,
        "bytes": report.bytes,
        "skipped": report.skipped,
        "failed": [{"path": failed.path, "error": one_line(failed.error.message)} for failed in report.failed],
        "owed": report.owed,
        "seconds": round(report.seconds, 3),
    }
    if putting:
        row["conflicts"] = [{"path": kept.path, "kept_as": kept.kept_as} for kept in report.conflicts]
    if removal is not None:
        row["removed"] = removal.files
        row["held_back"] = None if removal.held_back is None else one_line(removal.held_back.message)
    told = summary(report, done)
    if removal is not None and removal.files:
        told = told.removeprefix("nothing to do, ")
    output.record(row, [told + removed])
    if removal is not None and removal.held_back is not None:
        output.complain(f"cdir: {one_line(removal.held_back.message)}")
        return Exit.FAILED
    if require and report.owed and not report.failed:
        output.complain(
            f"cdir: {count(report.owed, 'copy', 'copies')} stayed owed to {', '.join(report.owed_to) or 'providers'}; "
            "the files are stored, the copies follow when those answer"
        )
        return Exit.FAILED
    return exit_of_report(report)


def _told(path: str, message: str) -> str:
    """Return a failure in one line that names the path, once."""
    line = one_line(message)
    return line if path in line else f"{path}: {line}"
