"""What commands do with ``PROVIDER:path``: objects at their storage services, past the virtual directory."""

from __future__ import annotations

import fnmatch
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import click

from cdir.cli.commands.transfer import finish, standard_input
from cdir.cli.exits import Exit, one_line
from cdir.cli.output import Output, Row, count, human_size, human_time, rfc3339
from cdir.cli.progress import shown
from cdir.cli.session import Session
from cdir.endpoint_trees import copy_trees
from cdir.endpoint_trees import get_objects as fetch
from cdir.endpoint_trees import put_objects as store
from cdir.model import TransferReport
from cdir.paths import Endpoint, parse_endpoint

if TYPE_CHECKING:
    from cdir.client import Client
    from cdir.endpoints import EndpointObject
    from cdir.trees import OnFile

__all__ = [
    "copy_between",
    "get_objects",
    "list_objects",
    "put_objects",
    "remove_objects",
    "search_objects",
    "stat_object",
]


def _row(found: EndpointObject) -> dict[str, object]:
    return {
        "path": found.target,
        "name": found.name,
        "kind": "directory" if found.is_directory else "file",
        "size": found.size,
        "modified": rfc3339(found.modified),
    }


def _line(row: Row, *, long: bool, whole: bool) -> str:
    is_directory = row["kind"] == "directory"
    name = f"{row['path'] if whole else row['name']}{'/' if is_directory else ''}"
    return name if not long else f"{row['size_text']:>9}  {row['time_text']:>16}  {name}"


async def _print(session: Session, objects: AsyncIterator[EndpointObject], *, long: bool, whole: bool) -> None:
    if not session.output.for_people:
        await session.output.stream(_rows(objects), lambda row: "")
        return
    async for found in objects:
        size = "-" if found.is_directory else human_size(found.size)
        when = "-" if found.modified is None else human_time(found.modified)
        row = {**_row(found), "size_text": size, "time_text": when}
        session.output.line(_line(row, long=long, whole=whole))


async def _rows(objects: AsyncIterator[EndpointObject]) -> AsyncIterator[Row]:
    async for found in objects:
        yield _row(found)


async def list_objects(session: Session, endpoint: Endpoint, *, long: bool, recursive: bool) -> None:
    """``ls PROVIDER:path``: in the service's own order."""
    async with session.client() as client:
        objects = client.endpoints.list(str(endpoint), recursive=recursive)
        await _print(session, objects, long=long, whole=recursive)


async def search_objects(session: Session, pattern: str, endpoint: Endpoint, *, long: bool, recursive: bool) -> None:
    """``search PATTERN PROVIDER:path``: by name, ignoring case, as in the virtual directory."""
    folded = pattern.casefold()
    glob = folded if any(sign in folded for sign in "*?") else f"*{folded.replace('[', '[[]')}*"

    async def matching(client: Client) -> AsyncIterator[EndpointObject]:
        async for found in client.endpoints.list(str(endpoint), recursive=recursive):
            if fnmatch.fnmatchcase(found.name.casefold(), glob):
                yield found

    async with session.client() as client:
        await _print(session, matching(client), long=long, whole=True)


async def stat_object(session: Session, endpoint: Endpoint) -> None:
    """``stat PROVIDER:path``."""
    async with session.client() as client:
        found = await client.endpoints.stat(str(endpoint))
    row = {**_row(found), "etag": found.etag, "checksum": found.checksum}
    lines = [f"{found.target}: {row['kind']}"]
    if not found.is_directory:
        lines += [
            f"  size        {human_size(found.size)} ({found.size} bytes)",
            f"  modified    {rfc3339(found.modified) or '-'}",
            f"  etag        {found.etag or '-'}",
            f"  checksum    {found.checksum or '-'}",
        ]
    session.output.record(row, lines)


async def copy_between(
    session: Session,
    sources: Sequence[str],
    target: str,
    *,
    recursive: bool,
    replace: bool,
    parallel: int,
    dry_run: bool,
) -> int:
    """``cp`` where a side is ``PROVIDER:path``."""
    async with session.client() as client:
        with shown(session.output, "copy") as on_progress:
            report = await copy_trees(
                client,
                sources,
                target,
                recursive=recursive,
                replace=replace,
                parallel=parallel,
                dry_run=dry_run,
                on_progress=on_progress,
                on_file=_planned(session.output, "copy") if dry_run else None,
            )
    return finish(session.output, report, "would be copied" if dry_run else "")


async def put_objects(
    session: Session,
    sources: Sequence[str],
    target: Endpoint,
    *,
    recursive: bool,
    replace: bool,
    parallel: int,
    dry_run: bool,
) -> int:
    """``put`` to ``PROVIDER:path``."""
    if "-" in sources:
        if len(sources) > 1 or not target.name or target.path.endswith("/"):
            raise click.UsageError("standard input needs a file as its destination, and comes alone")
        if dry_run:
            session.output.say(f"would put standard input → {target}")
            return Exit.DONE
        started = time.monotonic()
        async with session.client() as client:
            placed = await client.endpoints.write(str(target), standard_input(), replace=replace)
        report = TransferReport(
            files=1,
            bytes=placed.size,
            skipped=0,
            failed=(),
            owed=len(placed.owed),
            seconds=time.monotonic() - started,
            owed_to=placed.owed,
        )
        return finish(session.output, report)
    async with session.client() as client:
        with shown(session.output, "put") as on_progress:
            report = await store(
                client,
                sources,
                target,
                recursive=recursive,
                replace=replace,
                parallel=parallel,
                dry_run=dry_run,
                on_progress=on_progress,
                on_file=_planned(session.output, "put") if dry_run else None,
            )
    return finish(session.output, report, "would be put" if dry_run else "")


async def get_objects(
    session: Session, sources: Sequence[str], target: str, *, recursive: bool, parallel: int, dry_run: bool
) -> int:
    """``get`` from ``PROVIDER:path``."""
    async with session.client() as client:
        with shown(session.output, "get") as on_progress:
            report = await fetch(
                client,
                sources,
                target,
                recursive=recursive,
                parallel=parallel,
                dry_run=dry_run,
                on_progress=on_progress,
                on_file=_planned(session.output, "get") if dry_run else None,
            )
    return finish(session.output, report, "would be fetched" if dry_run else "")


def _planned(output: Output, verb: str) -> OnFile:
    return lambda source, target: output.say(f"would {verb} {source} → {target}")


async def remove_objects(session: Session, paths: Sequence[str], *, recursive: bool, yes: bool, dry_run: bool) -> int:
    """``rm PROVIDER:path``: for good, so it asks, and needs ``--yes`` where nobody can answer."""
    if not all(parse_endpoint(path) for path in paths):
        raise click.UsageError(
            "remove objects at storage services and files of the virtual directory one after the other"
        )
    if not (yes or dry_run):
        if not sys.stdin.isatty():
            raise click.UsageError("an object at a storage service is removed for good; add --yes")
        if not click.confirm(f"Remove {', '.join(paths)} for good?", err=True):
            raise click.Abort
    removed = 0
    failed: list[dict[str, str]] = []
    async with session.client() as client:
        for path in paths:
            provider = path.partition(":")[0]
            async for outcome in client.endpoints.remove(path, recursive=recursive, dry_run=dry_run):
                removed += len(outcome.removed)
                if dry_run:
                    for key in outcome.removed:
                        session.output.say(f"would remove {provider}:{key}")
                for key, error in outcome.refused:
                    failed.append({"path": f"{provider}:{key}", "error": one_line(error.message)})
                    session.output.complain(f"cdir: {one_line(error.message)}")
    row = {"files": removed, "failed": failed}
    session.output.record(row, [f"{count(removed, 'object')} {'would be ' if dry_run else ''}removed"])
    return Exit.CONFLICT if failed else Exit.DONE
