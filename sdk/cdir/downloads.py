"""Fetching files to a local disk: many small ones over one stream, large ones over a few streams of their own.

A file appears under its name whole or not at all: its bytes go to a temporary file beside it, are held against the
recorded digest, and then take the name. Where the gateway may write local files itself, it does that for large ones,
and their bytes do not travel. Small ones always do, many to a message: writing them here leaves the gateway's
interpreter, the busiest part of a fetch of many files, to the fetching.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import itertools
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdir.connection import Connection
from cdir.conversion import entry_from
from cdir.errors import CdirError, IntegrityError, InvalidPath, IsDirectory, ProviderUnavailable
from cdir.model import Entry
from cdir.progress import Tally
from cdir.status import from_failure
from cdir.streams import ReadStream
from cdir.threads import run_to_the_end
from cdir.uploads import SMALL_FILE
from cdir.v1 import directory_service_pb2 as pb
from cdir.walk import error_of

__all__ = ["Download", "Downloader", "differing", "local_below", "place"]

_BATCH_FILES: Final = 64
"""Small files that are asked for together. What a request costs the gateway and its catalog is mostly the same for one
file and for many, so the next files wait until so many others are done."""
_UNDER_WAY: Final = 256
"""Files asked for and not yet done; each may hold a local file open."""

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NUMBERS = itertools.count(secrets.randbits(32))
"""Tells temporary files of this process apart, and nearly always from what other processes have left."""


def _temporary(path: str) -> str:
    """Return the name under which a file's bytes gather, hidden and beside it."""
    dirname, name = os.path.split(path)
    kept = os.fsencode(name)[:200].decode("utf-8", "ignore")  # a name may be as long as the disk allows already
    return os.path.join(dirname, f".{kept}.cdir-{next(_NUMBERS):08x}")


def local_below(local: str, names: Sequence[str]) -> str:
    """Return the local path for names from the directory; refuses what would lead elsewhere on this system."""
    for name in names:
        if name in {"", ".", ".."} or "\0" in name or os.sep in name or (os.altsep and os.altsep in name):
            raise InvalidPath(f"{'/'.join(names)}: this name is not safe on the local disk; rename it first")
        if os.name == "nt" and (Path(name).drive or name.rstrip(" .") != name):
            raise InvalidPath(f"{'/'.join(names)}: Windows cannot hold this name; rename it first")
    return os.path.join(local, *names)


def differing(target: str) -> IntegrityError:
    """Return the error of bytes that are not those of the file."""
    return IntegrityError(f"{target}: the bytes received differ from the recorded digest; run it again", path=target)


def place(local: str, data: bytes, modified_ns: int) -> None:
    """Write a whole file and give it its name and time. Blocks; raises OSError, IsDirectory (one is in the way)."""
    temporary = _temporary(local)
    file = os.open(temporary, _NEW_FILE, 0o666)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            os.utime(file, ns=(modified_ns, modified_ns))
        finally:
            os.close(file)
        _rename(temporary, local)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _rename(temporary: str, local: str) -> None:
    try:
        os.replace(temporary, local)
    except IsADirectoryError as error:
        raise IsDirectory(f"{local}: a directory of this name is in the way") from error


@dataclass(frozen=True, slots=True)
class Download:
    """One file and where it goes; the local directory exists."""

    entry: Entry
    local: str
    generation: int | None = None
    """The generation to fetch; ``None`` fetches what is current then."""


class _Arriving:
    """A local file under way. Its methods block; they run in a thread, one at a time."""

    def __init__(self, download: Download) -> None:
        self.download = download
        self.written = 0
        self._digest = hashlib.sha256()
        self._temporary = _temporary(download.local)
        self._file: io.FileIO | None = None

    def add(self, data: bytes) -> None:
        if self._file is None:
            self._file = io.FileIO(self._temporary, "xb")
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._digest.update(data)
        self.written += len(data)

    def finish(self, entry: Entry) -> None:
        """Hold the bytes against the digest, where there is one yet, and give them their name and time."""
        self.add(b"")
        assert self._file is not None
        if self.written != entry.size or entry.sha256 not in {"", self._digest.hexdigest()}:
            raise differing(entry.target)
        os.utime(self._file.fileno(), ns=(entry.modified_ns, entry.modified_ns))
        self._file.close()
        _rename(self._temporary, self.download.local)
        self._file = None

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)


class Downloader:
    """Takes in downloads with :meth:`put` while :meth:`run` fetches them; :meth:`finish` ends the intake."""

    def __init__(self, connection: Connection, tally: Tally, *, parallel: int, provider: str) -> None:
        self.connection = connection
        self.local_files = connection.server.local_files
        self.tally = tally
        self._parallel = parallel
        self.provider = provider
        self._small: asyncio.Queue[Download | None] = asyncio.Queue(_UNDER_WAY)
        self._large: asyncio.Queue[Download | None] = asyncio.Queue(parallel)

    async def put(self, download: Download) -> None:
        """Hand over one file; waits while too many wait."""
        self.tally.found(download.entry.size)
        await (self._small if download.entry.size <= SMALL_FILE else self._large).put(download)

    async def finish(self) -> None:
        """Say that no more files will come."""
        await self._small.put(None)
        await self._large.put(None)

    async def run(self) -> None:
        """Fetch everything handed over until :meth:`finish`. Raises when the connection breaks."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._worker(self._small, _UNDER_WAY), name="cdir small downloads")
            for number in range(self._parallel):
                group.create_task(self._worker(self._large, 1), name=f"cdir large downloads {number}")

    async def _worker(self, queue: asyncio.Queue[Download | None], at_once: int) -> None:
        first = await queue.get()
        if first is not None:
            await _Fetch(self, queue, at_once).run(first)
        await queue.put(None)  # for the next worker of the same queue

    def read_of(self, file_id: int, download: Download) -> pb.FileRead:
        """Return the request for one file."""
        entry = download.entry
        placed = self.local_files and entry.size > SMALL_FILE
        return pb.FileRead(
            id=file_id,
            workspace=entry.workspace,
            path=entry.path,
            generation=download.generation,
            provider=self.provider,
            local_target=pb.LocalTarget(path=os.path.abspath(download.local)) if placed else None,
        )


class _Fetch:
    """One ReadFiles call, fed from a queue with at most ``at_once`` files under way."""

    def __init__(self, downloader: Downloader, queue: asyncio.Queue[Download | None], at_once: int) -> None:
        self._downloader = downloader
        self._tally = downloader.tally
        self._queue = queue
        self._batch = min(_BATCH_FILES, at_once)
        self._free = at_once
        self._room = asyncio.Event()
        self._ids = itertools.count(1)
        self._arriving: dict[int, _Arriving] = {}
        self._entries: dict[int, Entry] = {}
        """Of the files that are not, or may not be, what they were when they were asked for."""
        self._counted: dict[int, int] = {}

    async def run(self, first: Download) -> None:
        try:
            async with ReadStream(self._downloader.connection) as stream, asyncio.TaskGroup() as group:
                group.create_task(self._ask(stream, first), name="cdir read requests")
                async for response in stream:
                    await self._take(response.parts)
                if self._arriving:
                    raise ProviderUnavailable(
                        "cdir ended the transfer before every file was there (is it shutting down?); run it again"
                    )
        finally:
            for arriving in self._arriving.values():
                arriving.discard()

    async def _ask(self, stream: ReadStream, first: Download) -> None:
        following: Download | None = first
        while following is not None:
            while self._free < self._batch:
                self._room.clear()
                await self._room.wait()
            reads = [self._begin(following)]
            while len(reads) < self._batch and not self._queue.empty():
                following = self._queue.get_nowait()
                if following is None:
                    break
                reads.append(self._begin(following))
            await stream.request(reads)
            if following is not None:
                following = await self._queue.get()
        await stream.done()

    def _begin(self, download: Download) -> pb.FileRead:
        self._free -= 1
        file_id = next(self._ids)
        self._arriving[file_id] = _Arriving(download)
        self._counted[file_id] = 0
        return self._downloader.read_of(file_id, download)

    async def _take(self, parts: Iterable[pb.FilePart]) -> None:
        """Take in what arrived, in order; whatever has to be stored is stored in one go in a thread."""
        known = [(part, self._arriving[part.id]) for part in parts if part.id in self._arriving]
        for part, arriving in known:
            listed = arriving.download.entry
            if part.HasField("entry") and not (listed.sha256 and part.entry.version_id == listed.version_id):
                self._entries[part.id] = entry_from(part.entry)
        stored = [(part, arriving) for part, arriving in known if not part.transferred and (part.end or part.data)]
        failures = await run_to_the_end(self._store, stored) if stored else {}
        for part, arriving in known:
            failure = from_failure(part.failure) if part.HasField("failure") else failures.get(part.id)
            if part.id not in self._arriving:
                continue  # an earlier part of this message ended it
            if failure is not None:
                await self._drop(part.id, arriving, failure)
                continue
            self._count(part.id, part.transferred or arriving.written)
            if part.end:
                self._finished(part.id, arriving)

    def _store(self, parts: Iterable[tuple[pb.FilePart, _Arriving]]) -> dict[int, CdirError]:
        """Write pieces; return what went wrong, by the file's id. Blocks; nothing more is written of a failed file."""
        failures: dict[int, CdirError] = {}
        for part, arriving in parts:
            if part.id in failures:
                continue
            try:
                if data := part.data:  # each access copies it
                    arriving.add(data)
                if part.end:
                    arriving.finish(self._entries.get(part.id, arriving.download.entry))
            except OSError as error:
                failures[part.id] = error_of(error, arriving.download.local)
            except CdirError as error:
                failures[part.id] = error
        return failures

    def _count(self, file_id: int, total: int) -> None:
        if total > self._counted[file_id]:
            self._tally.moved(total - self._counted[file_id])
            self._counted[file_id] = total

    def _finished(self, file_id: int, arriving: _Arriving) -> None:
        entry = self._forget(file_id) or arriving.download.entry
        self._tally.moved(entry.size - self._counted.pop(file_id))
        self._tally.done(entry.size)

    async def _drop(self, file_id: int, arriving: _Arriving, error: CdirError) -> None:
        self._forget(file_id)
        await asyncio.to_thread(arriving.discard)
        self._tally.moved(-self._counted.pop(file_id))
        self._tally.fail(arriving.download.entry.target, error)

    def _forget(self, file_id: int) -> Entry | None:
        del self._arriving[file_id]
        self._free += 1
        if self._free >= self._batch:
            self._room.set()
        return self._entries.pop(file_id, None)
