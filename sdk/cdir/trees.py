"""Putting and getting files and whole trees: what goes where, and what need not go at all.

``put`` walks the local tree and pages through the directory's listing side by side, both in the same order, and sends
what differs in size or time; ``get`` pages through the listing and looks at each local file. Neither holds more than a
page and what is under way. A tree that goes where nothing is yet is asked for as a whole.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from cdir.conversion import entry_from
from cdir.downloads import Download, Downloader, local_below
from cdir.errors import CdirError, InternalError, InvalidPath, IsDirectory, NotDirectory, NotFound, Unsupported
from cdir.model import Entry, EntryKind, Failed, OnConflict, TransferReport, Wait, time_of
from cdir.parallelism import bounded
from cdir.paths import WorkspacePath, join_path, normalize_path, parse_target, split_path
from cdir.progress import OnProgress, Tally
from cdir.streams import open_tree
from cdir.threads import run_to_the_end
from cdir.tree_downloads import TakenIn, TreeTarget
from cdir.uploads import Upload, Uploader
from cdir.v1 import entry_pb2
from cdir.walk import Found, FoundKind, batched_walk, describe, error_of, printable

if TYPE_CHECKING:
    from cdir.client import Client

__all__ = ["OnFile", "get", "merged", "put", "same_time"]

OnFile = Callable[[str, str], None]
"""Called with source and target of each file that is, or with ``dry_run`` would be, transferred."""

_PAGE: Final = 2000
"""Entries per page: a few hundred kilobytes."""
_FIRST_PAGE: Final = 256
"""Entries of the first page of a tree that is got: enough to be busy with while the next one is listed."""


def same_time(one_ns: int, other_ns: int) -> bool:
    """Return whether two modified times are the same, to the microsecond that every file system and catalog keeps."""
    return one_ns // 1000 == other_ns // 1000


def _target_text(where: WorkspacePath) -> str:
    return f"@{where.workspace}{where.path}" if where.workspace else where.path


def _below(where: WorkspacePath, name: str) -> WorkspacePath:
    try:
        return WorkspacePath(where.workspace, normalize_path(join_path(where.path, name)))
    except InvalidPath as error:
        raise InvalidPath(f"{printable(name)}: this name cannot be stored: {error.message}") from error


async def _run(engine: Coroutine[Any, Any, None], plan: Coroutine[Any, Any, None]) -> None:
    """Run the two halves of a transfer; of several errors the first is raised, by itself."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(engine, name="cdir transfer")
            group.create_task(plan, name="cdir transfer plan")
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


# putting


@dataclass(frozen=True, slots=True)
class _Source:
    """One source named by the caller, looked at."""

    local: str
    status: os.stat_result
    where: WorkspacePath

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


async def put(
    client: Client,
    sources: Sequence[str | os.PathLike[str]],
    target: str,
    *,
    recursive: bool = False,
    parallel: int = 4,
    wait: Wait = Wait.REACHABLE,
    on_conflict: OnConflict = OnConflict.FAIL,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    on_file: OnFile | None = None,
) -> TransferReport:
    """See :meth:`cdir.client.Client.put`."""
    started = time.monotonic()
    tally = Tally(on_progress)
    uploader = Uploader(client.connection, tally, parallel=bounded(parallel).files, wait=wait, on_conflict=on_conflict)
    planner = _PutPlanner(client, uploader, tally, dry_run=dry_run, on_file=on_file)
    found = await planner.place([os.fspath(source) for source in sources], target, recursive=recursive)
    await _run(uploader.run(), planner.plan(found))
    return tally.report(time.monotonic() - started)


class _PutPlanner:
    def __init__(
        self, client: Client, uploader: Uploader, tally: Tally, *, dry_run: bool, on_file: OnFile | None
    ) -> None:
        self._client = client
        self._uploader = uploader
        self._tally = tally
        self._dry_run = dry_run
        self._on_file = on_file

    async def place(self, sources: Sequence[str], target: str, *, recursive: bool) -> list[_Source]:
        """Say where each source goes. What cannot be a source is raised before anything is sent."""
        looked_at = await asyncio.to_thread(lambda: [(source, _stat(source)) for source in sources])
        where = parse_target(target)
        entry = await self._client.find(target)
        directories = sum(stat.S_ISDIR(status.st_mode) for _, status in looked_at)
        for source, status in looked_at:
            if stat.S_ISDIR(status.st_mode) and not recursive:
                raise IsDirectory(f"{printable(source)}: is a directory; add --recursive to put all below it")
        inside = len(sources) > 1 or target.endswith("/") or (entry is not None and entry.is_directory)
        if entry is not None and not entry.is_directory and (inside or directories):
            raise NotDirectory(f"{target}: is a file; name a directory to put several files or a tree into")
        placed = []
        for source, status in looked_at:
            apart = len(sources) > 1 if stat.S_ISDIR(status.st_mode) else inside
            placed.append(_Source(source, status, _below(where, _name_of(source)) if apart else where))
        return placed

    async def plan(self, sources: Sequence[_Source]) -> None:
        for source in sources:
            if source.is_directory:
                await self._plan_tree(source)
            else:
                await self._plan_file(source)
        self._tally.all_found()
        await self._uploader.finish()

    async def _plan_file(self, source: _Source) -> None:
        status = source.status
        other = describe(status.st_mode)
        if other is not None:
            error = Unsupported(f"{printable(source.local)}: {other} is not stored; pipe it to `cdir put - DEST`")
            self._tally.fail(printable(source.local), error)
            return
        dirname, basename = split_path(source.where.path)
        found = Found(
            # a link that was named is meant as what it leads to; whoever opens it, here or there, follows none
            local=await asyncio.to_thread(os.path.realpath, source.local),
            dirname=dirname,
            basename=basename,
            kind=FoundKind.FILE,
            size=status.st_size,
            modified_ns=status.st_mtime_ns,
            device=status.st_dev,
            inode=status.st_ino,
        )
        await self._file(source.where.workspace, found, await self._client.find(_target_text(source.where)))

    async def _plan_tree(self, source: _Source) -> None:
        workspace = source.where.workspace
        if not self._dry_run:
            await self._client.make_directory(_target_text(source.where))
        walked = batched_walk(source.local, source.where.path)
        listed = self._listed(source.where)
        async for item, entry in merged(walked, listed):
            if isinstance(item, Failed):
                self._tally.fail_with(item)
            elif item.kind is FoundKind.FILE:
                await self._file(workspace, item, entry)
            elif item.kind is FoundKind.EMPTY_DIRECTORY and entry is None and not self._dry_run:
                await self._directory(workspace, item)

    async def _listed(self, where: WorkspacePath) -> AsyncIterator[Entry]:
        try:
            async for entry in self._client.list(_target_text(where), recursive=True, page_size=_PAGE):
                yield entry
        except NotFound:
            return

    async def _directory(self, workspace: str, item: Found) -> None:
        try:
            await self._client.make_directory(_target_text(WorkspacePath(workspace, item.path)))
        except NotDirectory as error:
            self._tally.fail(printable(item.local), error)

    async def _file(self, workspace: str, item: Found, entry: Entry | None) -> None:
        if entry is not None and entry.is_directory:
            error = IsDirectory(f"{entry.target}: a directory is in the way of this file; move one of them")
            self._tally.fail(printable(item.local), error)
            return
        if entry is not None and entry.size == item.size and same_time(entry.modified_ns, item.modified_ns):
            self._tally.skipped(entry.owed)
            return
        where = WorkspacePath(workspace, item.path)
        if self._on_file is not None:
            self._on_file(printable(item.local), _target_text(where))
        if self._dry_run:
            self._tally.found(item.size)
            self._tally.moved(item.size)
            self._tally.done(item.size)
            return
        await self._uploader.put(
            Upload(
                local=item.local,
                where=where,
                size=item.size,
                modified_ns=item.modified_ns,
                device=item.device,
                inode=item.inode,
                base_generation=0 if entry is None else entry.generation,
            )
        )


def _stat(local: str) -> os.stat_result:
    try:
        return os.stat(local)
    except OSError as error:
        raise error_of(error, local) from error


def _name_of(local: str) -> str:
    """Return the name that a source brings along; ``.`` and ``dir/..`` have one once they are resolved."""
    name = os.path.basename(os.path.normpath(local))
    return name if name not in {"", ".", ".."} else os.path.basename(os.path.realpath(local))


async def merged(
    walked: AsyncIterator[Found | Failed], listed: AsyncIterator[Entry]
) -> AsyncIterator[tuple[Found | Failed, Entry | None]]:
    """Pair each thing found with the entry of the same path, if there is one. Both come in the order of listings."""
    entry = await anext(listed, None)
    last = ("", "")
    async for item in walked:
        if isinstance(item, Failed):
            yield item, None
            continue
        while entry is not None and (place := split_path(entry.path)) < item.key:
            if place < last:
                raise InternalError(f"the listing is out of order at {entry.target}")
            last = place
            entry = await anext(listed, None)
        yield item, entry if entry is not None and split_path(entry.path) == item.key else None


# getting


async def get(
    client: Client,
    sources: Sequence[str],
    target: str | os.PathLike[str],
    *,
    recursive: bool = False,
    parallel: int = 4,
    provider: str = "",
    generation: int | None = None,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    on_file: OnFile | None = None,
) -> TransferReport:
    """See :meth:`cdir.client.Client.get`."""
    started = time.monotonic()
    tally = Tally(on_progress)
    downloader = Downloader(client.connection, tally, parallel=bounded(parallel).files, provider=provider)
    planner = _GetPlanner(
        client, downloader, tally, dry_run=dry_run, on_file=on_file, anew=bool(provider), generation=generation
    )
    placed = await planner.place(sources, os.fspath(target), recursive=recursive)
    await _run(downloader.run(), planner.plan(placed))
    return tally.report(time.monotonic() - started)


class _GetPlanner:
    def __init__(
        self,
        client: Client,
        downloader: Downloader,
        tally: Tally,
        *,
        dry_run: bool,
        on_file: OnFile | None,
        anew: bool,
        generation: int | None,
    ) -> None:
        self._client = client
        self._downloader = downloader
        self._tally = tally
        self._dry_run = dry_run
        self._on_file = on_file
        self._anew = anew
        self._generation = generation
        self._here = ""
        """The directory of the file before."""
        self._begun_empty = False
        """Whether nothing was in it when its first file came."""

    async def place(self, sources: Sequence[str], target: str, *, recursive: bool) -> list[tuple[Entry, str]]:
        """Say where each source goes. What cannot be fetched at all is raised before anything is written."""
        entries = [await self._entry(source) for source in sources]
        for entry in entries:
            if entry.is_directory and not recursive:
                raise IsDirectory(f"{entry.target}: is a directory; add --recursive to get all below it")
        several = len(entries) > 1
        inside = several or target.endswith(("/", os.sep)) or os.path.isdir(target)
        placed = []
        for entry in entries:
            apart = several if entry.is_directory else inside
            placed.append((entry, local_below(target, [entry.name]) if apart and entry.name else target))
        return placed

    async def _entry(self, source: str) -> Entry:
        if self._generation is None:
            return await self._client.stat(source)
        where = parse_target(source)
        for version in await self._client.versions(source):
            if version.generation == self._generation:
                return Entry(
                    workspace=where.workspace,
                    path=where.path,
                    kind=EntryKind.FILE,
                    size=version.size,
                    modified_ns=(version.modified - time_of(0)) // timedelta(microseconds=1) * 1000,
                    sha256=version.sha256,
                    generation=version.generation,
                    version_id=version.version_id,
                    owed=0,
                    author=version.author,
                )
        raise NotFound(f"{source}: no generation {self._generation} is kept; see `cdir versions {source}`")

    async def plan(self, placed: Sequence[tuple[Entry, str]]) -> None:
        for entry, local in placed:
            if entry.is_directory:
                await self._plan_tree(entry, local)
            else:
                await asyncio.to_thread(self._make_directory, os.path.dirname(local) or ".")
                await self._file(entry, local, await asyncio.to_thread(_looked_at, local))
        self._tally.all_found()
        await self._downloader.finish()

    async def _plan_tree(self, top: Entry, local: str) -> None:
        await asyncio.to_thread(self._make_directory, local)
        if not self._dry_run and await asyncio.to_thread(_is_empty, local):
            await self._plan_new_tree(top, local)
            return
        self._here = ""
        prefix = top.path.rstrip("/") + "/"
        pages = self._client.pages(top.target, recursive=True, page_size=_PAGE, first_page=_FIRST_PAGE)
        async for page in pages:
            placed = await asyncio.to_thread(self._prepare, page, prefix, local)
            for item in placed:
                if isinstance(item, Failed):
                    self._tally.fail_with(item)
                else:
                    await self._file(*item)

    async def _plan_new_tree(self, top: Entry, local: str) -> None:
        """Take in a tree where nothing is yet."""
        target = TreeTarget(top.path, local, self._make_directory)
        where = WorkspacePath(top.workspace, top.path)
        async with aclosing(open_tree(self._client.connection, where, self._downloader.provider)) as arriving:
            async for items in arriving:
                for taken in await run_to_the_end(target.take, items):
                    await self._taken_in(taken)

    async def _taken_in(self, taken: TakenIn) -> None:
        if taken.error is not None:
            self._tally.fail(entry_from(taken.entry).target, taken.error)
        elif taken.stored:
            size = taken.entry.size
            if self._on_file is not None:
                self._on_file(entry_from(taken.entry).target, taken.local)
            self._tally.found(size)
            self._tally.moved(size)
            self._tally.done(size)
        elif taken.entry.kind == entry_pb2.ENTRY_KIND_FILE:
            await self._file(entry_from(taken.entry), taken.local, None)

    def _prepare(
        self, page: Sequence[Entry], prefix: str, local: str
    ) -> list[tuple[Entry, str, os.stat_result | None] | Failed]:
        """Make the directories of a page and look at what is there of its files; blocks on the disk."""
        files: list[tuple[Entry, str, os.stat_result | None] | Failed] = []
        for entry in page:
            try:
                path = local_below(local, entry.path.removeprefix(prefix).split("/"))
                if entry.is_directory:
                    self._make_directory(path)
                else:
                    files.append((entry, path, self._found_at(path)))
            except CdirError as error:
                files.append(Failed(entry.target, error))
        return files

    def _found_at(self, local: str) -> os.stat_result | None:
        """Return what is there of the next file; those of one directory come after each other."""
        directory = os.path.dirname(local)
        if directory != self._here:
            self._here, self._begun_empty = directory, _is_empty(directory)
        return None if self._begun_empty else _looked_at(local)

    def _make_directory(self, local: str) -> None:
        if self._dry_run:
            return
        try:
            os.makedirs(local, exist_ok=True)
        except FileExistsError as error:
            raise NotDirectory(f"{local}: a local file is in the way of this directory; move it") from error
        except OSError as error:
            raise error_of(error, local) from error

    async def _file(self, entry: Entry, local: str, status: os.stat_result | None) -> None:
        if status is not None and stat.S_ISDIR(status.st_mode):
            error = IsDirectory(f"{local}: a local directory is in the way of this file; move it")
            self._tally.fail(entry.target, error)
            return
        if (
            status is not None
            and not self._anew
            and stat.S_ISREG(status.st_mode)
            and status.st_size == entry.size
            and same_time(status.st_mtime_ns, entry.modified_ns)
        ):
            self._tally.skipped(0)
            return
        if self._on_file is not None:
            self._on_file(entry.target, local)
        if self._dry_run:
            self._tally.found(entry.size)
            self._tally.moved(entry.size)
            self._tally.done(entry.size)
            return
        await self._downloader.put(Download(entry, local, self._generation))


def _is_empty(directory: str) -> bool:
    try:
        with os.scandir(directory) as found:
            return next(found, None) is None
    except OSError:
        return False  # looking at a file in it says why


def _looked_at(local: str) -> os.stat_result | None:
    try:
        return os.lstat(local)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise error_of(error, local) from error
