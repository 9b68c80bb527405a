"""Sending local files: many small ones over one stream, large ones over a few streams of their own.

A small file costs one step of one message, and up to :data:`_BATCH_FILES` of them share a message. Where the gateway
may read local files itself, only their names travel. The number of files under way is bounded, so memory is too.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cdir.connection import Connection
from cdir.conversion import ON_CONFLICT, WAIT, timestamp
from cdir.errors import CdirError, InvalidArgument
from cdir.model import OnConflict, Wait, WriteOutcome
from cdir.paths import WorkspacePath
from cdir.progress import Tally
from cdir.streams import PIECE, WriteStream
from cdir.threads import run_to_the_end
from cdir.v1 import directory_service_pb2 as pb
from cdir.walk import error_of, printable

__all__ = ["SMALL_FILE", "Upload", "Uploader", "file_pieces"]

SMALL_FILE: Final = 4 * 1024 * 1024
"""Files up to this size share a stream."""

_BATCH_FILES: Final = 64
_BATCH_BYTES: Final = 1024 * 1024
_UNDER_WAY: Final = 256
"""Small files sent and not yet answered."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One local file and where it goes. Size, time, device and inode are as found; a file that differs when it is
    read is refused rather than stored torn.
    """

    local: str
    where: WorkspacePath
    size: int
    modified_ns: int
    device: int
    inode: int
    base_generation: int | None = None


class Uploader:
    """Takes in uploads with :meth:`put` while :meth:`run` sends them; :meth:`finish` says that no more will come."""

    def __init__(
        self, connection: Connection, tally: Tally, *, parallel: int, wait: Wait, on_conflict: OnConflict
    ) -> None:
        self._connection = connection
        self._local_files = connection.server.local_files
        self._tally = tally
        self._parallel = parallel
        self._wait = wait
        self._on_conflict = on_conflict
        self._small: asyncio.Queue[Upload | None] = asyncio.Queue(_UNDER_WAY)
        self._large: asyncio.Queue[Upload | None] = asyncio.Queue(parallel)
        self._slots = asyncio.Semaphore(min(_UNDER_WAY, parallel * _BATCH_FILES))

    async def put(self, upload: Upload) -> None:
        """Hand over one file; waits while too many wait."""
        self._tally.found(upload.size)
        await (self._small if upload.size <= SMALL_FILE else self._large).put(upload)

    async def finish(self) -> None:
        """Say that no more files will come."""
        await self._small.put(None)
        await self._large.put(None)

    async def run(self) -> None:
        """Send everything handed over until :meth:`finish`. Raises when the connection breaks."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_small(), name="cdir small uploads")
            for number in range(self._parallel):
                group.create_task(self._send_large(), name=f"cdir large uploads {number}")

    # small files

    async def _send_small(self) -> None:
        first = await self._small.get()
        if first is None:
            return
        async with WriteStream(self._connection) as stream:
            batch, last = self._batch(first)
            while batch:
                await self._send_batch(stream, batch)
                if last:
                    return
                following = await self._small.get()
                batch, last = ([], True) if following is None else self._batch(following)

    def _batch(self, first: Upload) -> tuple[list[Upload], bool]:
        """Return what waits already, up to one message full, and whether it is the last."""
        batch = [first]
        total = 0 if self._local_files else first.size
        while len(batch) < _BATCH_FILES and total < _BATCH_BYTES:
            try:
                upload = self._small.get_nowait()
            except asyncio.QueueEmpty:
                break
            if upload is None:
                return batch, True
            batch.append(upload)
            total += 0 if self._local_files else upload.size
        return batch, False

    async def _send_batch(self, stream: WriteStream, batch: list[Upload]) -> None:
        contents: list[bytes | CdirError | None] = [None] * len(batch)
        if not self._local_files:
            contents = await asyncio.to_thread(lambda: [_read_small(upload) for upload in batch])
        steps: list[pb.FileWrite] = []
        weight = 0
        for upload, content in zip(batch, contents, strict=True):
            if isinstance(content, CdirError):
                self._tally.fail(printable(upload.local), content)
                continue
            if self._slots.locked() and steps:
                # what is gathered must leave before waiting for answers that it may have to bring itself
                await stream.send(steps)
                steps, weight = [], 0
            await self._slots.acquire()
            file_id = stream.begin(self._wait, functools.partial(self._settle_small, upload))
            for step in _small_steps(self._open(upload), file_id, upload, content):
                steps.append(step)
                weight += len(step.data)
                if weight >= _BATCH_BYTES:
                    await stream.send(steps)
                    steps, weight = [], 0
        if steps:
            await stream.send(steps)

    def _settle_small(self, upload: Upload, outcome: WriteOutcome | CdirError) -> None:
        self._slots.release()
        if not isinstance(outcome, CdirError):
            self._tally.moved(upload.size)
        self._settle(upload, outcome)

    def _settle(self, upload: Upload, outcome: WriteOutcome | CdirError) -> None:
        if isinstance(outcome, CdirError):
            self._tally.fail(printable(upload.local), outcome)
        else:
            self._tally.stored(outcome)
            self._tally.done(upload.size)

    def _open(self, upload: Upload) -> pb.WriteOpen:
        return pb.WriteOpen(
            workspace=upload.where.workspace,
            path=upload.where.path,
            modified=timestamp(upload.modified_ns),
            size=upload.size,
            base_generation=upload.base_generation,
            wait=WAIT[self._wait],
            on_conflict=ON_CONFLICT[self._on_conflict],
            local_source=pb.LocalFile(
                path=os.path.abspath(upload.local),
                device=upload.device,
                inode=upload.inode,
                size=upload.size,
                modified_ns=upload.modified_ns,
            )
            if self._local_files
            else None,
        )

    # large files

    async def _send_large(self) -> None:
        upload = await self._large.get()
        if upload is not None:
            async with WriteStream(self._connection) as stream:
                while upload is not None:
                    await self._send_one(stream, upload)
                    upload = await self._large.get()
        await self._large.put(None)  # for the next worker; the last one leaves it to nobody

    async def _send_one(self, stream: WriteStream, upload: Upload) -> None:
        answer: asyncio.Future[WriteOutcome | CdirError] = asyncio.get_running_loop().create_future()
        counted = 0

        def moved(total: int) -> None:
            nonlocal counted
            self._tally.moved(total - counted)
            counted = total

        def settled(outcome: WriteOutcome | CdirError) -> None:
            if not answer.done():
                answer.set_result(outcome)

        file_id = stream.begin(self._wait, settled, moved if self._local_files else None)
        if self._local_files:
            commit = pb.WriteCommit(size=upload.size)
            await stream.send([pb.FileWrite(id=file_id, open=self._open(upload), commit=commit)])
        else:
            await stream.send([pb.FileWrite(id=file_id, open=self._open(upload))])
            try:
                await self._send_content(stream, file_id, upload, moved)
            except (OSError, InvalidArgument) as error:
                stream.forget(file_id)
                await stream.send([pb.FileWrite(id=file_id, abort=True)])
                settled(error_of(error, upload.local) if isinstance(error, OSError) else error)
        outcome = await answer
        moved(0 if isinstance(outcome, CdirError) else upload.size)
        self._settle(upload, outcome)

    async def _send_content(
        self, stream: WriteStream, file_id: int, upload: Upload, moved: Callable[[int], None]
    ) -> None:
        file = await asyncio.to_thread(_open_source, upload)
        try:
            digest = hashlib.sha256()
            sent = 0
            while stream.under_way(file_id):
                piece = await run_to_the_end(_next_piece, file, digest)
                sent += len(piece)
                if sent > upload.size:
                    raise _changed(upload)
                if not piece:
                    await asyncio.to_thread(_check_unchanged, file, upload)
                    commit = pb.WriteCommit(size=sent, sha256=digest.digest())
                    await stream.send([pb.FileWrite(id=file_id, commit=commit)])
                    return
                await stream.send([pb.FileWrite(id=file_id, data=piece)])
                moved(sent)
            # it failed there meanwhile; what was announced must be closed all the same
            await stream.send([pb.FileWrite(id=file_id, abort=True)])
        finally:
            file.close()


def _changed(upload: Upload) -> InvalidArgument:
    shown = printable(upload.local)
    return InvalidArgument(f"{shown}: changed while it was read; run it again when it rests", path=shown)


def _open_source(upload: Upload) -> io.FileIO:
    # not blocking, should a named pipe have taken the file's place meanwhile
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = io.FileIO(os.open(upload.local, flags))
    try:
        _check_unchanged(file, upload)
    except BaseException:
        file.close()
        raise
    return file


def _check_unchanged(file: io.FileIO, upload: Upload) -> None:
    status = os.fstat(file.fileno())
    if (
        not stat.S_ISREG(status.st_mode)
        or status.st_size != upload.size
        or status.st_mtime_ns != upload.modified_ns
        or status.st_ino != upload.inode
    ):
        raise _changed(upload)


def _next_piece(file: io.FileIO, digest: hashlib._Hash) -> bytes:
    piece = file.read(PIECE)
    digest.update(piece)
    return piece


def _read_small(upload: Upload) -> bytes | CdirError:
    try:
        with _open_source(upload) as file:
            content = b"".join(iter(lambda: file.read(PIECE), b""))
            _check_unchanged(file, upload)
    except OSError as error:
        return error_of(error, upload.local)
    except CdirError as error:
        return error
    return content if len(content) == upload.size else _changed(upload)


def _small_steps(opened: pb.WriteOpen, file_id: int, upload: Upload, content: bytes | None) -> Iterator[pb.FileWrite]:
    """Yield the steps of one small file: a single one up to :data:`PIECE` bytes."""
    if content is None:
        yield pb.FileWrite(id=file_id, open=opened, commit=pb.WriteCommit(size=upload.size))
        return
    commit = pb.WriteCommit(size=len(content), sha256=hashlib.sha256(content).digest())
    starts = range(0, max(len(content), 1), PIECE)
    for start in starts:
        yield pb.FileWrite(
            id=file_id,
            open=opened if start == 0 else None,
            data=content[start : start + PIECE],
            commit=commit if start == starts[-1] else None,
        )


async def file_pieces(local: str) -> tuple[AsyncIterator[bytes], int, int]:
    """Open a local file; returns its pieces, its size, and its modified time in nanoseconds since 1970.

    Iterating fails with :class:`InvalidArgument` when the file changes meanwhile.
    """

    def look() -> tuple[Upload, io.FileIO]:
        try:
            status = os.stat(local)
            upload = Upload(
                local=local,
                where=WorkspacePath("", "/"),
                size=status.st_size,
                modified_ns=status.st_mtime_ns,
                device=status.st_dev,
                inode=status.st_ino,
            )
            return upload, _open_source(upload)
        except OSError as error:
            raise error_of(error, local) from error

    upload, file = await asyncio.to_thread(look)

    async def pieces() -> AsyncIterator[bytes]:
        with file:
            while piece := await run_to_the_end(file.read, PIECE):
                yield piece
            await asyncio.to_thread(_check_unchanged, file, upload)

    return pieces(), upload.size, upload.modified_ns
