"""One WriteFiles stream: takes the files of a stream apart, writes each, and sends the results as they come.

Whole files (one step, or a local source) run side by side, many at a time, and small ones that come in one message are
written together. A file in several steps has a task that its data is handed to; when that is busy the stream waits, and
with it the caller.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import CdirError, Conflict, IntegrityError, InvalidArgument
from cdir.paths import normalize_path
from cdir.status import to_failure
from cdir.v1 import directory_service_pb2 as pb
from cdir_gateway.budget import ByteBudget
from cdir_gateway.file_group import GROUP_BYTES, GROUP_FILES, LARGEST, FileGroup
from cdir_gateway.local_files import LocalContent, LocalFiles, LocalSource
from cdir_gateway.orders import WriteOrder
from cdir_gateway.outbox import Outbox
from cdir_gateway.upload import LateCopies, StoredFile, Upload
from cdir_gateway.writing import FileWriter, SmallFile
from cdir_transfer.digest import BLOCK_SIZE, INLINE_BYTES, ContentDigest

__all__ = ["WriteStreams"]

_MAX_PIECE: Final = BLOCK_SIZE
_WHOLE_AT_ONCE: Final = 256
"""Small files in flight per stream: enough to fill the catalog's batches."""
_LARGE_AT_ONCE: Final = 8
"""Large local sources in flight per stream."""
_OPEN_AT_ONCE: Final = 16
"""Files in several steps that a stream may have open. More would have to wait for each other's data, for ever."""
_WHOLE_BYTES: Final = 8 << 20
"""Bytes of small files in flight in the process, each counted once; their copies have a bound of their own."""
_LARGE_BYTES: Final = 128 << 20
"""Bytes of large local sources that all writes in the process may hold together. Files in several steps do not wait
for room: what they would wait for may be behind them in the same stream."""
_LOCAL_PIECE: Final = 1 << 20
"""Bytes of a large local source that are read, hashed and passed on together. Every target holds several pieces, and
each of them copies what it holds: small pieces keep that small."""
_NEWS_SECONDS: Final = 0.2


class WriteStreams:
    """Serves WriteFiles streams. One per gateway."""

    def __init__(self, writer: FileWriter, local: LocalFiles) -> None:
        self.writer = writer
        self.local = local
        self.budget = ByteBudget(_WHOLE_BYTES)
        self.large = ByteBudget(_LARGE_BYTES)

    async def serve(
        self, requests: AsyncIterator[pb.WriteFilesRequest], user: str
    ) -> AsyncGenerator[pb.WriteFilesResponse, None]:
        """Yield the responses of one stream. Leaving early gives up every file that is not committed."""
        stream = _WriteStream(self, user)
        async with aclosing(stream.outbox.filled_by(stream.run(requests))) as batches:
            async for results in batches:
                yield pb.WriteFilesResponse(results=results)


@dataclass(slots=True)
class _Incoming:
    """A file in several steps: what has arrived and was not written yet."""

    steps: asyncio.Queue[bytes | pb.WriteCommit | None] = field(default_factory=lambda: asyncio.Queue(1))
    """Data, the commit, or ``None`` for the caller's abort."""
    ended: bool = False
    """Nobody reads the steps any more."""

    async def give(self, step: bytes | pb.WriteCommit | None) -> None:
        if not self.ended:
            await self.steps.put(step)

    def end(self) -> None:
        self.ended = True
        while not self.steps.empty():
            self.steps.get_nowait()


class _WriteStream:
    def __init__(self, shared: WriteStreams, user: str) -> None:
        self.outbox: Outbox[pb.WriteResult] = Outbox(batch_weight=1, capacity=1)
        self._writer = shared.writer
        self._local = shared.local
        self._budget = shared.budget
        self._room = shared.large
        self._user = user
        self._whole = asyncio.Semaphore(_WHOLE_AT_ONCE)
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._open: dict[int, _Incoming] = {}
        self._files = asyncio.TaskGroup()
        self._written: dict[int, Callable[[], bool]] = {}
        """Files that came whole and are not answered yet, and what gives each up; false when it has ended."""

    async def run(self, requests: AsyncIterator[pb.WriteFilesRequest]) -> None:
        """Take steps until the caller ends the stream, then see every file end."""
        try:
            async with self._files:
                async for request in requests:
                    await self._take_each(request.writes)
                for incoming in self._open.values():
                    # the end of the stream is no commit, whatever made it end
                    await incoming.give(None)
        finally:
            self.outbox.close()

    async def _take_each(self, steps: Iterable[pb.FileWrite]) -> None:
        """Take the steps of one message; small files that come whole are written together."""
        group: dict[int, pb.FileWrite] = {}
        size = 0
        for step in steps:
            if not self._may_go_together(step) or step.id in group:
                await self._take_group(list(group.values()))
                await self._take(step)
                group, size = {}, 0
                continue
            group[step.id] = step
            size += _whole_size(step)
            if len(group) == GROUP_FILES or size >= GROUP_BYTES:
                await self._take_group(list(group.values()))
                group, size = {}, 0
        await self._take_group(list(group.values()))

    def _may_go_together(self, step: pb.FileWrite) -> bool:
        whole = step.HasField("open") and step.HasField("commit") and not step.abort
        return whole and _whole_size(step) <= LARGEST and step.id not in self._open and step.id not in self._written

    async def _take_group(self, steps: Sequence[pb.FileWrite]) -> None:
        if len(steps) < 2:
            for step in steps:
                await self._take(step)
            return
        for _ in steps:
            await self._whole.acquire()
        sizes = {step.id: _whole_size(step) for step in steps}
        await self._budget.take(sum(sizes.values()))

        def end(file_id: int) -> None:
            if (size := sizes.pop(file_id, None)) is not None:
                self._forget(file_id, given_up[file_id])
                self._budget.give(size)

        def end_all(_: asyncio.Task[None]) -> None:
            for file_id in tuple(sizes):
                end(file_id)

        group = FileGroup(self._writer, self._report_outcome, end)
        given_up = {step.id: partial(group.give_up, step.id) for step in steps}
        self._written.update(given_up)
        self._files.create_task(self._write_together(group, steps, end)).add_done_callback(end_all)

    async def _write_together(
        self, group: FileGroup, steps: Sequence[pb.FileWrite], end: Callable[[int], None]
    ) -> None:
        """Small files that came together with all their bytes."""
        files: dict[int, SmallFile] = {}
        for step, content in zip(steps, await self._contents(steps), strict=True):
            if step.id in group.given_up:
                continue
            try:
                if isinstance(content, Exception):
                    raise content
                order = self._order(step.open)
                _check(step.open, step.commit, len(content.data), content.sha256)
            except CdirError as error:
                await self._fail(step.id, error)
                end(step.id)
            else:
                files[step.id] = SmallFile(order, content.data, content.sha256)
        await group.store(files)

    async def _contents(self, steps: Sequence[pb.FileWrite]) -> list[LocalContent | Exception]:
        """The bytes of small files with their digests, or why there are none."""
        sent = [step.data for step in steps if not step.open.HasField("local_source")]
        named = [step.open.local_source for step in steps if step.open.HasField("local_source")]
        inline = sum(map(len, sent)) < INLINE_BYTES
        hashed = iter(_hashed(sent) if inline else await asyncio.to_thread(_hashed, sent))
        read: Iterator[LocalContent | Exception] = iter(())
        if named:
            try:
                self._local.check_enabled()
                read = iter(await self._local.read_each(named))
            except CdirError as error:
                read = itertools.repeat(error)
        return [next(read if step.open.HasField("local_source") else hashed) for step in steps]

    async def _take(self, step: pb.FileWrite) -> None:
        if len(step.data) > _MAX_PIECE:
            raise InvalidArgument(f"a piece of {len(step.data)} bytes was sent; {_MAX_PIECE} are the most")
        if not step.HasField("open"):
            await self._continue(step)
        elif step.id in self._open or step.id in self._written:
            raise InvalidArgument(f"file {step.id} of this stream is open already; give every file its own id")
        elif step.abort:
            await self._fail(step.id, InvalidArgument("the caller gave this file up"))
        elif step.open.HasField("local_source"):
            if not step.HasField("commit"):
                await self._fail(step.id, InvalidArgument("a local source is committed in the step that opens it"))
                return
            await self._whole.acquire()
            self._begin(step.id, self._files.create_task(self._write_local(step)))
        elif step.HasField("commit"):
            await self._whole.acquire()
            held = await self._budget.take(len(step.data))
            writing = self._files.create_task(self._write_whole(step))
            self._begin(step.id, writing)
            writing.add_done_callback(lambda _: self._budget.give(held))
        elif len(self._open) >= _OPEN_AT_ONCE:
            await self._fail(
                step.id,
                InvalidArgument(f"at most {_OPEN_AT_ONCE} files of one stream can be open at once; commit some first"),
            )
            self._open[step.id] = _Incoming(ended=True)
        else:
            incoming = self._open[step.id] = _Incoming()
            self._files.create_task(self._write_steps(step.id, step.open, incoming))
            if step.data:
                await incoming.give(step.data)

    def _begin(self, file_id: int, writing: asyncio.Task[None]) -> None:
        """Keep what gives up a file that came whole.

        What is to be given back at its end is given back here: a task that is cancelled before it starts runs no line.
        """
        cancel = self._written[file_id] = writing.cancel
        writing.add_done_callback(lambda _: self._forget(file_id, cancel))

    def _forget(self, file_id: int, give_up: Callable[[], bool]) -> None:
        """A file that came whole has ended; another one may have its id by now if it was given up."""
        if self._written.get(file_id) is give_up:
            del self._written[file_id]
        self._whole.release()

    async def _continue(self, step: pb.FileWrite) -> None:
        incoming = self._open.get(step.id)
        if incoming is None and step.abort:
            await self._give_up(step.id)
            return
        if incoming is None:
            raise InvalidArgument(f"file {step.id} of this stream is not open")
        if step.data:
            await incoming.give(step.data)
        if step.HasField("commit"):
            await incoming.give(step.commit)
        elif step.abort:
            await incoming.give(None)
        else:
            return
        del self._open[step.id]

    async def _give_up(self, file_id: int) -> None:
        """End a file that came whole; one that has ended is left as it is."""
        give_up = self._written.pop(file_id, None)
        if give_up is not None and give_up():
            await self._fail(file_id, InvalidArgument("the caller gave this file up"))

    async def _write_whole(self, step: pb.FileWrite) -> None:
        """A small file that came with all its bytes."""
        try:
            data = step.data
            order = self._order(step.open)
            digest = (
                hashlib.sha256(data) if len(data) < INLINE_BYTES else await asyncio.to_thread(hashlib.sha256, data)
            ).digest()
            _check(step.open, step.commit, len(data), digest)
            stored = await self._writer.store(SmallFile(order, data, digest))
        except CdirError as error:
            await self._fail(step.id, error)
            return
        await self._report(step.id, stored)

    async def _write_local(self, step: pb.FileWrite) -> None:
        """A file that the gateway reads by itself."""
        source = step.open.local_source
        try:
            self._local.check_enabled()
            order = self._order(step.open)
            if source.size <= BLOCK_SIZE:
                async with self._budget.taken(source.size):
                    content = await self._local.read_whole(source)
                    _check(step.open, step.commit, len(content.data), content.sha256)
                    stored = await self._writer.store(SmallFile(order, content.data, content.sha256))
            else:
                async with self._large:
                    stored = await self._write_large_or_again(step, order)
        except CdirError as error:
            await self._fail(step.id, error)
            return
        await self._report(step.id, stored)

    async def _write_large_or_again(self, step: pb.FileWrite, order: WriteOrder) -> StoredFile:
        try:
            return await self._write_large(step, order)
        except Conflict as error:
            if not order.may_begin_anew(error):
                raise
        return await self._write_large(step, order)

    async def _write_large(self, step: pb.FileWrite, order: WriteOrder) -> StoredFile:
        source = await self._local.open_source(step.open.local_source)
        try:
            async with self._writer.upload(order, step.open.local_source.size, self._room) as upload:
                news = _News(self, step.id)
                async with aclosing(_pieces_of(source, upload.digest)) as pieces:
                    async for piece in pieces:
                        await upload.send(piece)
                        await news.tell(upload.digest.size)
                await asyncio.to_thread(source.check_unchanged)
                return await _finish(upload, step.open, step.commit)
        finally:
            source.close()

    async def _write_steps(self, file_id: int, opened: pb.WriteOpen, incoming: _Incoming) -> None:
        """A file whose bytes come piece by piece."""
        try:
            order = self._order(opened)
            async with self._writer.upload(order, opened.size if opened.HasField("size") else None) as upload:
                news = _News(self, file_id)
                while isinstance(step := await incoming.steps.get(), bytes):
                    await upload.send_hashed(step)
                    await news.tell(upload.digest.size)
                if step is None:
                    raise InvalidArgument(f"{opened.path} was given up before it was committed; nothing was stored")
                stored = await _finish(upload, opened, step)
        except CdirError as error:
            await self._fail(file_id, error)
            return
        finally:
            incoming.end()
        await self._report(file_id, stored)

    def _order(self, opened: pb.WriteOpen) -> WriteOrder:
        path = normalize_path(opened.path)
        modified = opened.modified
        if not opened.HasField("modified"):
            modified = Timestamp()
            modified.GetCurrentTime()
        return WriteOrder(
            workspace=opened.workspace,
            path=path,
            modified=modified,
            user=self._user,
            base_generation=opened.base_generation if opened.HasField("base_generation") else None,
            minimum=opened.wait == pb.WAIT_FOR_MINIMUM,
            keep_copy=opened.on_conflict == pb.ON_CONFLICT_KEEP_COPY,
        )

    async def _fail(self, file_id: int, error: CdirError) -> None:
        await self.outbox.put(pb.WriteResult(id=file_id, failure=to_failure(error), final=True))

    async def _report_outcome(self, file_id: int, outcome: StoredFile | CdirError) -> None:
        if isinstance(outcome, CdirError):
            await self._fail(file_id, outcome)
        else:
            await self._report(file_id, outcome)

    async def _report(self, file_id: int, stored: StoredFile) -> None:
        """Say that the file is stored; while copies are under way, say so again as each lands."""
        late = stored.late
        await self.outbox.put(pb.WriteResult(id=file_id, stored=stored.message(), final=late is None))
        if late is not None:
            self._files.create_task(self._report_late(file_id, late))

    async def _report_late(self, file_id: int, late: LateCopies) -> None:
        async with aclosing(late.news()) as news:
            async for now in news:
                await self.outbox.put(pb.WriteResult(id=file_id, stored=now.message(), final=now.late is None))


class _News:
    """Tells from time to time how far a large file is."""

    def __init__(self, stream: _WriteStream, file_id: int) -> None:
        self._stream = stream
        self._file_id = file_id
        self._next = time.monotonic() + _NEWS_SECONDS

    async def tell(self, transferred: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _NEWS_SECONDS
            await self._stream.outbox.put(pb.WriteResult(id=self._file_id, transferred=transferred))


async def _pieces_of(source: LocalSource, digest: ContentDigest) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of a local file, the next one being read and hashed meanwhile."""
    reading = asyncio.ensure_future(asyncio.to_thread(source.read_next, _LOCAL_PIECE, digest))
    try:
        while piece := await reading:
            reading = asyncio.ensure_future(asyncio.to_thread(source.read_next, _LOCAL_PIECE, digest))
            yield piece
    finally:
        # the thread cannot be stopped; the file may be closed only when it has ended
        await asyncio.wait([reading])


def _whole_size(step: pb.FileWrite) -> int:
    """Bytes of a file that came whole."""
    return max(step.open.local_source.size, 0) if step.open.HasField("local_source") else len(step.data)


def _hashed(contents: Iterable[bytes]) -> list[LocalContent]:
    return [LocalContent(data, hashlib.sha256(data).digest()) for data in contents]


async def _finish(upload: Upload, opened: pb.WriteOpen, commit: pb.WriteCommit) -> StoredFile:
    digest = upload.digest
    sha256 = digest.sha256()
    _check(opened, commit, digest.size, sha256)
    return await upload.finish(digest.size, sha256, digest.block_digests())


def _check(opened: pb.WriteOpen, commit: pb.WriteCommit, size: int, sha256: bytes) -> None:
    """Raise unless what arrived is what the caller says it sent."""
    local = opened.HasField("local_source")
    if not commit.sha256 and not local:
        raise InvalidArgument(f"{opened.path}: a commit carries the SHA-256 of what was sent; nothing was stored")
    announced = [opened.size] if opened.HasField("size") else []
    if not local or commit.sha256:
        announced.append(commit.size)
    for expected in announced:
        if expected != size:
            raise IntegrityError(
                f"{opened.path}: {size} bytes arrived, but {expected} were announced; nothing was stored",
                path=opened.path,
            )
    if commit.sha256 and commit.sha256 != sha256:
        raise IntegrityError(
            f"{opened.path}: the SHA-256 of what arrived differs from the announced one; nothing was stored",
            path=opened.path,
        )
