"""What a sync's target has and its source has not: found by comparing both whole, and removed under a guard.

Nothing is removed unless the source was listed completely and has files; unless what has to be transferred was; and
unless it is no more than a limit allows. In the virtual directory what is removed stays restorable, and so does an
object at a provider that is a file of the directory. Other objects, and local files, are gone. What changed since it
was compared stays.

Both listings are held in a private SQLite file on disk, so memory does not grow with the trees.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeVar

from cdir.errors import (
    CdirError,
    Conflict,
    DirectoryNotEmpty,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
    Unsupported,
)
from cdir.model import Failed
from cdir.parallelism import bounded
from cdir.paths import key_of, parse_endpoint, parse_target
from cdir.sides import Side, is_folder
from cdir.threads import run_to_the_end
from cdir.walk import FoundKind, batched_walk, error_of, printable

if TYPE_CHECKING:
    from cdir.client import Client
    from cdir.endpoints import EndpointObject

__all__ = ["Deletion", "Limit", "OnRemoved", "Removal", "Surplus"]

OnRemoved = Callable[[str], None]
"""Called with each file that is, or in a dry run would be, removed."""

_Result = TypeVar("_Result")

_BATCH: Final = 1000
_DIRECTORY, _FILE, _WALL = range(3)
"""What a path of the source is; a wall is a link, a pipe: it is there, and nobody knows what else is behind it."""

_OWN: Final = ".cdir"
"""The folder at the root of a local provider that is cdir's own."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How much may be removed at once: a number of files, or a share of the target's."""

    files: int | None = None
    percent: float | None = None

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Read ``100`` or ``25%``. Raises InvalidArgument."""
        number = text.strip().removesuffix("%")
        try:
            limit = cls(files=int(number)) if number == text.strip() else cls(percent=float(number))
        except ValueError:
            raise InvalidArgument(f"{text!r} limits nothing; write a number of files, or a share such as 25%") from None
        if (limit.files or 0) < 0 or not 0 <= (limit.percent or 0) <= 100:
            raise InvalidArgument(f"{text!r}: a limit is at least 0, and at most 100%")
        return limit

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.percent is not None else str(self.files)

    def allows(self, files: int, total: int) -> bool:
        """Whether so many files of so many may be removed."""
        if self.percent is not None:
            return files * 100 <= self.percent * total
        return self.files is None or files <= self.files


@dataclass(frozen=True, slots=True)
class Deletion:
    """How a sync removes what the source has not."""

    limit: Limit = Limit(percent=50.0)
    force: bool = False
    """Remove also when the source is empty or could not be listed completely, or when a transfer failed. The limit
    holds all the same."""


@dataclass(slots=True)
class Removal:
    """What came of it."""

    files: int = 0
    """Files removed, or in a dry run to be removed."""
    failed: list[Failed] = field(default_factory=list)
    held_back: CdirError | None = None
    """Why nothing was removed."""


class _Item(NamedTuple):
    """One thing at the target."""

    path: str
    """Below the top, in normal form."""
    place: str
    """Where it is, as its side spells it."""
    directory: bool
    mark: str
    """What differs once it has changed."""


class Surplus:
    """A comparison of two trees. Use it as an asynchronous context manager around the sync that it belongs to."""

    def __init__(self, client: Client, source: Side, target: Side, deletion: Deletion) -> None:
        self._client = client
        self._source = source
        self._target = target
        self._deletion = deletion
        self._unlisted: list[Failed] = []
        self._files = 0
        """Of the surplus."""
        self._total = 0
        """Files of the target, those that the sync will have copied to it included."""
        self._sources = 0
        """Files of the source."""
        self._database: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        self._database = await run_to_the_end(_open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._database is not None:
            await run_to_the_end(self._database.close)

    async def compare(self) -> None:
        """List both sides. Raises NotFound (the source), InvalidArgument (a side that is a file, or one within the
        other), and what listing raises: then nothing is known, and nothing may be removed."""
        if _within(self._source, self._target) or _within(self._target, self._source):
            raise InvalidArgument(
                f"{self._source} and {self._target} lie one within the other; a sync that removes wants them apart"
            )
        for side in (self._source, self._target):
            if await is_folder(self._client, side) is False:
                raise InvalidArgument(f"{side}: is a file; what a sync removes is told by comparing two folders")
        async for paths in _batches(self._sources_of()):
            await self._run(_add_sources, paths)
        async for items in _batches(_items(self._client, self._target)):
            await self._run(_add_targets, [item for item in items if not item.path.startswith(f"{_OWN}/")])
        self._files, total, self._sources = await self._run(_settle)
        # what was only renamed is there twice once the sync has copied it
        self._total = max(total, self._files + self._sources)

    def held_back(self, failed: Iterable[Failed] = ()) -> CdirError | None:
        """Return why nothing may be removed, after a transfer in which ``failed`` were not transferred."""
        if not self._files:
            return None
        what = f"nothing was removed at {self._target}"
        if not self._deletion.force:
            if self._unlisted:
                first = self._unlisted[0]
                return PreconditionFailed(
                    f"{what}: {self._source} could not be listed completely ({first.path}: {first.error.message}); put"
                    " that right, or say --force"
                )
            if not self._sources:
                return PreconditionFailed(
                    f"{what}: {self._source} has no file, perhaps it is not mounted; if it is meant to be empty, say"
                    " --force"
                )
            missed = sum(not isinstance(one.error, Unsupported) for one in failed)
            if missed:
                return PreconditionFailed(
                    f"{what}: {missed} of the files could not be transferred; put that right and sync again, or say"
                    " --force"
                )
        if not self._deletion.limit.allows(self._files, self._total):
            return PreconditionFailed(
                f"{what}: {self._files} of {self._total} files there are not in {self._source}, and --max-delete"
                f" {self._deletion.limit} allows fewer; `--dry-run --max-delete {self._files}` shows which, and without"
                " --dry-run they are removed"
            )
        return None

    async def remove(self, *, dry_run: bool = False, parallel: int = 4, on_removed: OnRemoved | None = None) -> Removal:
        """Remove it, files first, then the directories that they leave empty. One that fails does not stop the rest."""
        removal = Removal()
        slots = asyncio.Semaphore(bounded(parallel).files)

        async def one(item: _Item) -> None:
            async with slots:
                try:
                    gone = True if dry_run else await self._remove(item)
                except CdirError as error:
                    if not (item.directory and isinstance(error, DirectoryNotEmpty)):
                        removal.failed.append(Failed(item.place, error))
                    return
                if gone and not item.directory:
                    removal.files += 1
                    if on_removed is not None:
                        on_removed(item.place)

        for directories in (False, True):
            last = None
            while page := await self._run(_page, directories, last):
                last = page[-1].path
                if directories:  # the deepest first
                    for item in page:
                        await one(item)
                    continue
                async with asyncio.TaskGroup() as group:
                    for item in page:
                        group.create_task(one(item))
        return removal

    # one side each

    async def _sources_of(self) -> AsyncIterator[tuple[str, int]]:
        """Yield what the source has, and what each is."""
        if not self._source.is_local:
            async for item in _items(self._client, self._source):
                yield item.path, _DIRECTORY if item.directory else _FILE
            return
        async for found in batched_walk(self._source.path, "/"):
            if not isinstance(found, Failed):
                yield found.path[1:], _FILE if found.kind is FoundKind.FILE else _DIRECTORY
            elif isinstance(found.error, Unsupported):
                yield _normal(os.path.relpath(found.path, printable(self._source.path))), _WALL
            else:
                self._unlisted.append(found)

    async def _remove(self, item: _Item) -> bool:
        """Remove one thing unless it changed; returns whether it did."""
        if self._target.is_local:
            return await run_to_the_end(_unlink, item)
        if parse_endpoint(item.place) is not None:
            return await self._remove_object(item)
        try:
            await self._client.remove(item.place, if_generation=None if item.directory else int(item.mark))
        except (NotFound, Conflict):
            return False
        return True

    async def _remove_object(self, item: _Item) -> bool:
        try:
            if _mark(await self._client.endpoints.stat(item.place)) != item.mark:
                return False
            refused = [one async for page in self._client.endpoints.remove(item.place) for one in page.refused]
        except NotFound:
            return False
        if not refused:
            return True
        ((key, error),) = refused
        entry = await self._client.find(key if key.startswith("@") else f"/{key}")
        if not isinstance(error, Conflict) or entry is None or entry.is_directory:
            raise error
        try:
            await self._client.remove(entry.target, if_generation=entry.generation)
        except (NotFound, Conflict):
            return False
        return True

    async def _run(self, work: Callable[..., _Result], *arguments: object) -> _Result:
        assert self._database is not None
        return await run_to_the_end(work, self._database, *arguments)


async def _items(client: Client, side: Side) -> AsyncIterator[_Item]:
    """Yield what lies below a side; nothing where a target does not exist yet. A source's absence is told before."""
    if side.is_local:
        async for found in batched_walk(side.path, "/"):
            if isinstance(found, Failed):
                continue  # what is no file, or cannot be looked at, stays
            directory = found.kind is not FoundKind.FILE
            mark = "" if directory else f"{found.inode} {found.size} {found.modified_ns}"
            yield _Item(found.path[1:], found.local, directory, mark)
        return
    endpoint = parse_endpoint(side.path)
    try:
        if endpoint is None:
            top = parse_target(side.path).path.rstrip("/") + "/"
            async for entry in client.list(side.path, recursive=True, page_size=_BATCH):
                if not entry.conflict_of:  # a copy kept for a person to compare is for that person to remove
                    yield _Item(entry.path.removeprefix(top), entry.target, entry.is_directory, str(entry.generation))
            return
        top = f"{folder}/" if (folder := _normal(endpoint.path.strip("/"))) else ""
        async for one in client.endpoints.list(side.path, recursive=True):
            if not one.is_directory:
                yield _Item(_normal(one.key).removeprefix(top), one.target, False, _mark(one))
    except NotFound:
        return


def _within(inner: Side, outer: Side) -> bool:
    """Whether one side lies below another, as far as their names tell: objects of a provider may be files of the
    directory, which have the same keys."""
    if inner.is_local or outer.is_local:
        return False
    providers, keys = [], []
    for side in (inner, outer):
        endpoint = parse_endpoint(side.path)
        where = parse_target(side.path) if endpoint is None else None
        providers.append("" if endpoint is None else endpoint.provider)
        keys.append(key_of(*where) if where else _normal(endpoint.path.strip("/")) if endpoint else "")
    if all(providers) and providers[0] != providers[1]:
        return False
    return keys[0] != keys[1] and (not keys[1].rstrip("/") or keys[0].startswith(f"{keys[1].rstrip('/')}/"))


def _mark(found: EndpointObject) -> str:
    return f"{found.size} {found.modified_ns} {found.etag}"


def _normal(path: str) -> str:
    return unicodedata.normalize("NFC", path)


async def _batches(items: AsyncIterator[_Result]) -> AsyncIterator[list[_Result]]:
    batch: list[_Result] = []
    async for item in items:
        batch.append(item)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _unlink(item: _Item) -> bool:
    """Remove a local file or an empty directory, unless it changed."""
    try:
        status = os.lstat(item.place)
        if item.directory:
            with os.scandir(item.place) as below:
                if next(below, None) is not None:
                    return False
            os.rmdir(item.place)
        elif f"{status.st_ino} {status.st_size} {status.st_mtime_ns}" == item.mark and stat.S_ISREG(status.st_mode):
            os.unlink(item.place)
        else:
            return False
    except FileNotFoundError:
        return False
    except OSError as error:
        raise error_of(error, item.place) from error
    return True


# the listings, on disk; all of this blocks


def _open() -> sqlite3.Connection:
    database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
    database.executescript(
        """
        PRAGMA journal_mode = OFF;
        PRAGMA synchronous = OFF;
        CREATE TABLE source (path TEXT PRIMARY KEY, kind INTEGER NOT NULL) WITHOUT ROWID;
        CREATE INDEX walls ON source (path) WHERE kind = 2;
        CREATE TABLE target (path TEXT NOT NULL, place TEXT NOT NULL, directory INTEGER NOT NULL, mark TEXT NOT NULL);
        BEGIN;
        """
    )
    return database


def _add_sources(database: sqlite3.Connection, paths: list[tuple[str, int]]) -> None:
    """Add paths and the directories that they lie in, which not every side lists."""
    parents: dict[str, None] = {}
    for path, _ in paths:
        while (path := path.rpartition("/")[0]) and path not in parents:
            parents[path] = None
    database.executemany("INSERT OR REPLACE INTO source VALUES (?, ?)", paths)
    database.executemany("INSERT OR IGNORE INTO source VALUES (?, 0)", [(path,) for path in parents])


def _add_targets(database: sqlite3.Connection, items: list[_Item]) -> None:
    database.executemany("INSERT INTO target VALUES (?, ?, ?, ?)", items)


def _settle(database: sqlite3.Connection) -> tuple[int, int, int]:
    """Make the difference; return how many files it has, how many the target has, and how many the source."""
    database.executescript(
        """
        CREATE TABLE surplus AS SELECT * FROM target
        WHERE NOT EXISTS (SELECT 1 FROM source WHERE source.path = target.path)
        AND NOT EXISTS (
            SELECT 1 FROM source AS wall
            WHERE wall.kind = 2 AND substr(target.path, 1, length(wall.path) + 1) = wall.path || '/'
        );
        CREATE INDEX ordered ON surplus (directory, path);
        """
    )

    def count(query: str) -> int:
        (found,) = database.execute(query).fetchone()
        return int(found)

    return (
        count("SELECT count(*) FROM surplus WHERE directory = 0"),
        count("SELECT count(*) FROM target WHERE directory = 0"),
        count("SELECT count(*) FROM source WHERE kind = 1"),
    )


def _page(database: sqlite3.Connection, directories: bool, last: str | None) -> list[_Item]:
    """Return the next of the difference after ``last``: files by their paths, directories the other way round."""
    if directories:
        rows = database.execute(
            "SELECT * FROM surplus WHERE directory = 1 AND (?1 IS NULL OR path < ?1) ORDER BY path DESC LIMIT ?2",
            (last, _BATCH),
        )
    else:
        rows = database.execute(
            "SELECT * FROM surplus WHERE directory = 0 AND path > ?1 ORDER BY path LIMIT ?2", (last or "", _BATCH)
        )
    return [_Item(path, place, bool(directory), mark) for path, place, directory, mark in rows]
