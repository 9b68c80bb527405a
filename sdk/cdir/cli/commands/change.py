"""``mkdir``, ``cp``, ``mv``, ``rm``: changing the directory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from cdir.cli.command import command, dry_run_option, parallel_option, yes_option
from cdir.cli.exits import Exit, one_line
from cdir.cli.output import count
from cdir.cli.session import Session
from cdir.errors import AlreadyExists, Conflict, IsDirectory, NotDirectory
from cdir.paths import parse_endpoint, parse_target

if TYPE_CHECKING:
    from cdir.client import Client
    from cdir.model import Entry

__all__ = ["cp", "mkdir", "mv", "rm"]


@command("mkdir", "cdir mkdir /photos/2024")
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@dry_run_option
async def mkdir(session: Session, paths: Sequence[str], dry_run: bool) -> None:
    """Make directories and their parents; what exists is fine.

    A folder at a storage service (PROVIDER:PATH) needs no making: it comes with the first object in it.
    """
    targets = [session.place(path) for path in paths]
    async with session.client() as client:
        for target in targets:
            if endpoint := parse_endpoint(target):
                await client.providers.get(endpoint.provider)
                session.output.say(f"{target}: comes with the first object in it")
                session.output.record({"path": target, "made": False}, [])
                continue
            if dry_run:
                session.output.say(f"would make {target}")
                continue
            made = await client.make_directory(target)
            session.output.record({"path": target.rstrip("/") or "/", "made": made}, [])


async def _placed(client: Client, sources: Sequence[str], target: str) -> list[tuple[Entry, str]]:
    """Return each source and the exact path it goes to, by the rules of ``cp`` and ``mv``."""
    entries = [await client.stat(source) for source in sources]
    found = await client.find(target)
    inside = len(sources) > 1 or target.endswith("/") or (found is not None and found.is_directory)
    if inside and found is not None and not found.is_directory:
        raise NotDirectory(f"{target}: is a file; name a directory to put several sources into")
    base = target.rstrip("/")
    return [(entry, f"{base}/{entry.name}" if inside else target) for entry in entries]


@command("mv", "cdir mv /draft.txt /done.txt", "cdir mv /a.jpg /b.jpg /photos")
@click.argument("sources", nargs=-1, required=True, metavar="SRC…")
@click.argument("target", metavar="DEST")
@click.option("-f", "--overwrite", is_flag=True, help="Replace a file at DEST; it stays restorable.")
@dry_run_option
async def mv(session: Session, sources: Sequence[str], target: str, overwrite: bool, dry_run: bool) -> None:
    """Rename SRC to DEST, or move SRC… into the directory DEST.

    Takes effect at once; the providers' objects follow in the background.
    """
    paths, full = [session.path(source) for source in sources], session.path(target)
    async with session.client() as client:
        placed = await _placed(client, paths, full)
        for entry, path in placed:
            if dry_run:
                session.output.say(f"would move {entry.target} → {path}")
            else:
                moved = await client.move(entry.target, path, overwrite=overwrite)
                session.output.record({"path": moved.target, "old_path": entry.target}, [])


@command(
    "cp",
    "cdir cp /photos/cat.jpg /cat.jpg",
    "cdir cp --recursive /photos /backup",
    "cdir cp aws:source.txt oracle:target.txt",
    "cdir cp --recursive --parallel 8 nas:old/photos /photos",
)
@click.argument("sources", nargs=-1, required=True, metavar="SRC…")
@click.argument("target", metavar="DEST")
@click.option("-r", "--recursive", is_flag=True, help="Copy directories with all below them.")
@click.option("-f", "--overwrite", "--force", is_flag=True, help="Replace files that exist; they stay restorable.")
@parallel_option
@dry_run_option
async def cp(
    session: Session,
    sources: Sequence[str],
    target: str,
    recursive: bool,
    overwrite: bool,
    parallel: int,
    dry_run: bool,
) -> int:
    """Copy SRC to DEST, or SRC… into the directory DEST. No byte passes through this machine's disk.

    Either side may be PROVIDER:PATH, an object at its storage service. Then all below a directory goes below DEST, what
    is there unchanged is skipped, and what differs is left alone without --overwrite. A service copies by itself where
    source and target are its own.
    """
    if any(parse_endpoint(path) for path in (*sources, target)):
        from cdir.cli.endpoints import copy_between

        places = [session.place(source) for source in sources]
        return await copy_between(
            session,
            places,
            session.place(target),
            recursive=recursive,
            replace=overwrite,
            parallel=parallel,
            dry_run=dry_run,
        )
    files = size = owed = conflicts = 0
    failed: list[dict[str, str]] = []
    paths, full = [session.path(source) for source in sources], session.path(target)
    async with session.client() as client:
        placed = await _placed(client, paths, full)
        for entry, path in placed:
            if entry.is_directory and not recursive:
                raise IsDirectory(f"{entry.target}: is a directory; add --recursive to copy all below it")
            if dry_run:
                session.output.say(f"would copy {entry.target} → {path}")
                continue
            async for outcome in client.copy(entry.target, path, recursive=recursive, overwrite=overwrite):
                if outcome.stored is not None:
                    files += 1
                    size += outcome.stored.entry.size
                    owed += len(outcome.stored.owed)
                elif outcome.error is not None:
                    conflicts += isinstance(outcome.error, AlreadyExists | Conflict)
                    message = one_line(outcome.error.message)
                    failed.append({"path": outcome.path, "error": message})
                    session.output.complain(f"cdir: {message}")
    summary = f"{count(files, 'file')} copied" + (f"; {count(owed, 'copy', 'copies')} owed" if owed else "")
    row = {"files": files, "bytes": size, "failed": failed, "owed": owed}
    session.output.record(row, [] if dry_run else [summary])
    if failed:
        return Exit.CONFLICT if conflicts == len(failed) else Exit.FAILED
    return Exit.OWED if owed else Exit.DONE


@command("rm", "cdir rm /old.txt", "cdir rm --recursive --yes /photos/2019")
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@click.option("-r", "--recursive", is_flag=True, help="Remove directories with all below them.")
@yes_option
@dry_run_option
async def rm(session: Session, paths: Sequence[str], recursive: bool, yes: bool, dry_run: bool) -> int:
    """Remove files, empty directories, or with --recursive whole trees.

    What is removed stays restorable for the time the policy says. PROVIDER:PATH removes an object at a storage service
    for good, unless it is a file of the virtual directory.
    """
    if any(parse_endpoint(path) for path in paths):
        from cdir.cli.endpoints import remove_objects

        return await remove_objects(session, paths, recursive=recursive, yes=yes, dry_run=dry_run)
    targets = [session.path(path) for path in paths]
    files = 0
    async with session.client() as client:
        for target in targets:
            if parse_target(target).path == "/" and not recursive:
                raise IsDirectory(f"{target}: is the root; add --recursive to remove all below it")
            if dry_run or (recursive and not yes and sys.stdin.isatty()):
                entry = await client.stat(target)
                below = (await client.tree_status(entry.target)).files if entry.is_directory else 1
                if dry_run:
                    session.output.say(f"would remove {target} ({count(below, 'file')})")
                    continue
                if entry.is_directory and not click.confirm(f"Remove {target} ({count(below, 'file')})?", err=True):
                    raise click.Abort
            files += await client.remove(target, recursive=recursive)
    if not dry_run:
        session.output.record({"files": files}, [])
    return Exit.DONE
