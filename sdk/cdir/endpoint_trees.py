"""Files and trees to, from and between providers, past the virtual directory.

Files are looked at and moved side by side, no more at a time than asked for; nothing is held beyond what is under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from cdir.downloads import local_below
from cdir.errors import CdirError, IsDirectory, NotDirectory, NotFound, Unsupported
from cdir.model import Failed, TransferReport
from cdir.parallelism import bounded
from cdir.paths import Endpoint, parse_endpoint, parse_target, split_path
from cdir.progress import OnProgress, Tally
from cdir.threads import run_to_the_end
from cdir.trees import OnFile
from cdir.uploads import file_pieces
from cdir.walk import FoundKind, batched_walk, describe, error_of, printable

if TYPE_CHECKING:
    from cdir.client import Client
    from cdir.endpoints import EndpointObject

__all__ = ["copy_trees", "get_objects", "put_objects"]

_SAME_NS: Final = 2_000_000_000
"""Times that differ by no more are the same: some providers keep them in steps of two seconds."""


async def put_objects(
    client: Client,
    sources: Sequence[str],
    target: Endpoint,
    *,
    recursive: bool = False,
    replace: bool = False,
    parallel: int = 4,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    on_file: OnFile | None = None,
) -> TransferReport:
    """Store local files and trees at a provider; where each goes is as :meth:`cdir.client.Client.put` has it.

    What is there with the same size and time is skipped; what differs fails with AlreadyExists unless ``replace``.
    """
    started = time.monotonic()
    tally = Tally(on_progress)

    async def put_file(local: str, place: Endpoint) -> None:
        shown = printable(local)
        try:
            pieces, size, modified_ns = await file_pieces(local)
            tally.found(size)
            async with aclosing(_counted(pieces, tally)) as counted:
                placed = await client.endpoints.write(
                    str(place), counted, size=size, modified_ns=modified_ns, replace=replace, dry_run=dry_run
                )
        except CdirError as error:
            tally.fail(shown, error)
            return
        if placed.skipped:
            tally.skipped(0)
            return
        if on_file is not None:
            on_file(shown, str(place))
        tally.done(size)
        tally.owe(placed.owed)

    async def plan(start: _Start) -> None:
        looked_at = [(source, await asyncio.to_thread(_stat, source)) for source in sources]
        for source, status in looked_at:
            if stat.S_ISDIR(status.st_mode) and not recursive:
                raise IsDirectory(f"{printable(source)}: is a directory; add --recursive to put all below it")
        several = len(sources) > 1
        inside = several or target.path.endswith("/") or not target.path or await _is_folder(client, str(target))
        for source, status in looked_at:
            name = os.path.basename(os.path.realpath(source))
            if not stat.S_ISDIR(status.st_mode):
                if (other := describe(status.st_mode)) is not None:
                    tally.fail(printable(source), Unsupported(f"{printable(source)}: {other} is not stored"))
                    continue
                await start(put_file(os.path.realpath(source), target.below(name) if inside else target))
                continue
            async for item in batched_walk(source, "/"):
                if isinstance(item, Failed):
                    tally.fail_with(item)
                elif item.kind is FoundKind.FILE:
                    top = target.below(name) if several else target
                    await start(put_file(item.local, top.below(item.path[1:])))

    await _side_by_side(plan, parallel)
    tally.all_found()
    return tally.report(time.monotonic() - started)


async def get_objects(
    client: Client,
    sources: Sequence[str],
    target: str,
    *,
    recursive: bool = False,
    parallel: int = 4,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    on_file: OnFile | None = None,
) -> TransferReport:
    """Fetch objects and folders from providers; where each goes is as :meth:`cdir.client.Client.get` has it.

    What is there with the same size and time is skipped. A file appears whole, with its time, or not at all.
    """
    started = time.monotonic()
    tally = Tally(on_progress)

    async def get_file(found: EndpointObject, local: str) -> None:
        try:
            if await asyncio.to_thread(_is_there, found, local):
                tally.skipped(0)
                return
            tally.found(found.size)
            if not dry_run:
                pieces = client.endpoints.read(found.target)
                async with aclosing(pieces), aclosing(_counted(pieces, tally)) as counted:
                    await _place(counted, local, found.modified_ns)
        except CdirError as error:
            tally.fail(found.target, error)
            return
        if on_file is not None:
            on_file(found.target, local)
        tally.done(found.size)

    async def plan(start: _Start) -> None:
        tops = [await client.endpoints.stat(source) for source in sources]
        for top in tops:
            if top.is_directory and not recursive:
                raise IsDirectory(f"{top.target}: is a folder; add --recursive to get all below it")
        several = len(tops) > 1
        inside = several or target.endswith(("/", os.sep)) or await asyncio.to_thread(os.path.isdir, target)
        for top in tops:
            if not top.is_directory:
                await start(get_file(top, local_below(target, [top.name]) if inside else target))
                continue
            below = local_below(target, [top.name]) if several and top.name else target
            strip = len(top.key) + 1 if top.key else 0
            async for found in client.endpoints.list(top.target, recursive=True):
                if found.is_directory:
                    continue
                try:
                    local = local_below(below, found.key[strip:].split("/"))
                except CdirError as error:
                    tally.fail(found.target, error)
                    continue
                await start(get_file(found, local))

    await _side_by_side(plan, parallel)
    tally.all_found()
    return tally.report(time.monotonic() - started)


async def copy_trees(
    client: Client,
    sources: Sequence[str],
    target: str,
    *,
    recursive: bool = False,
    replace: bool = False,
    parallel: int = 4,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    on_file: OnFile | None = None,
) -> TransferReport:
    """Copy files and trees between the directory and providers, or among providers; no byte comes by here.

    A file goes into ``target`` where that is a folder, ends with ``/``, or there are several sources. What lies below a
    folder goes below ``target``; of several folders each goes to ``target/NAME``.
    """
    started = time.monotonic()
    tally = Tally(on_progress)
    for source, place in await _placed(client, sources, target):
        copying = client.endpoints.copy(
            source, place, recursive=recursive, replace=replace, parallel=parallel, dry_run=dry_run
        )
        async for placed in copying:
            if placed.error is not None:
                tally.fail(_spelled(place, placed.target or placed.source), placed.error)
            elif placed.skipped:
                tally.skipped(0)
            else:
                if on_file is not None:
                    on_file(_spelled(source, placed.source), _spelled(place, placed.target))
                tally.found(placed.size)
                tally.moved(placed.size)
                tally.done(placed.size)
                tally.owe(placed.owed)
    tally.all_found()
    return tally.report(time.monotonic() - started)


async def _placed(client: Client, sources: Sequence[str], target: str) -> list[tuple[str, str]]:
    """Say which place each source goes to."""
    several = len(sources) > 1
    inside = several or target.endswith(("/", ":")) or await _is_folder(client, target)
    placed = []
    for source in sources:
        apart = several if await _is_folder(client, source) else inside
        placed.append((source, _below(target, _name_of(source)) if apart else target))
    return placed


def _name_of(place: str) -> str:
    endpoint = parse_endpoint(place)
    return endpoint.name if endpoint is not None else split_path(parse_target(place).path)[1]


def _below(place: str, name: str) -> str:
    endpoint = parse_endpoint(place)
    return str(endpoint.below(name)) if endpoint is not None else f"{place.rstrip('/')}/{name}"


def _spelled(place: str, path: str) -> str:
    """Return a path of an outcome as a person writes it: with the provider or workspace of its place."""
    endpoint = parse_endpoint(place)
    if endpoint is not None:
        return f"{endpoint.provider}:{path}"
    return f"{place.partition('/')[0]}{path}" if place.startswith("@") else path


_Start = Callable[[Awaitable[None]], Awaitable[None]]
"""Begins one file's work when fewer than the most are under way."""


async def _side_by_side(plan: Callable[[_Start], Awaitable[None]], parallel: int) -> None:
    """Run what ``plan`` starts; of several errors the first is raised, by itself."""
    slots = asyncio.Semaphore(bounded(parallel).files)

    async def run(work: Awaitable[None]) -> None:
        try:
            await work
        finally:
            slots.release()

    try:
        async with asyncio.TaskGroup() as group:

            async def start(work: Awaitable[None]) -> None:
                await slots.acquire()
                group.create_task(run(work))

            await plan(start)
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def _is_folder(client: Client, place: str) -> bool:
    """Whether a folder or directory is there; what else may be wrong with a place, its use says better."""
    try:
        if parse_endpoint(place) is not None:
            return (await client.endpoints.stat(place)).is_directory
        return (await client.stat(place)).is_directory
    except NotFound:
        return False


async def _counted(pieces: AsyncIterator[bytes], tally: Tally) -> AsyncGenerator[bytes, None]:
    async for piece in pieces:
        tally.moved(len(piece))
        yield piece


def _stat(local: str) -> os.stat_result:
    try:
        return os.stat(local)
    except OSError as error:
        raise error_of(error, local) from error


def _is_there(found: EndpointObject, local: str) -> bool:
    """Whether the local file is what was found; raises IsDirectory when a directory is in the way."""
    try:
        status = os.lstat(local)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise error_of(error, local) from error
    if stat.S_ISDIR(status.st_mode):
        raise IsDirectory(f"{local}: a local directory is in the way of this file; move it")
    same_time = abs(status.st_mtime_ns - found.modified_ns) <= _SAME_NS
    return stat.S_ISREG(status.st_mode) and status.st_size == found.size and same_time


async def _place(pieces: AsyncIterator[bytes], local: str, modified_ns: int) -> None:
    folder, name = os.path.split(os.path.abspath(local))
    short = name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")
    temporary = os.path.join(folder, f".{short}.cdir-{secrets.token_hex(6)}")

    def begin() -> int:
        try:
            os.makedirs(folder, exist_ok=True)
        except FileExistsError as error:
            raise NotDirectory(f"{folder}: a local file is in the way of this directory; move it") from error
        return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def write(piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(file, rest) :]

    def finish() -> None:
        if modified_ns:
            os.utime(temporary, ns=(modified_ns, modified_ns))
        os.replace(temporary, local)

    try:
        file = await run_to_the_end(begin)
        try:
            async for piece in pieces:
                await run_to_the_end(write, piece)
        finally:
            os.close(file)
        await run_to_the_end(finish)
    except OSError as error:
        raise error_of(error, local) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
