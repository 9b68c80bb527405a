"""One ReadFiles stream: opens the files asked for, reads them side by side, and sends their parts as they are ready.

Of a small file most of the cost is what there is of it however small it is. So small files that are asked for together
are opened, read and sent together, without a task for each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from cdir.errors import CdirError, InvalidArgument
from cdir.paths import normalize_path
from cdir.status import to_failure
from cdir.threads import run_to_the_end
from cdir.v1 import directory_service_pb2 as pb
from cdir.v1 import entry_pb2
from cdir_gateway.budget import ByteBudget
from cdir_gateway.local_files import LocalFiles, LocalPlacement
from cdir_gateway.outbox import GATHERED_BYTES, MESSAGE_BYTES, Outbox
from cdir_gateway.reading import FileReader, OpenFile, WantedFile
from cdir_transfer.digest import BLOCK_SIZE
from cdir_transfer.small_reads import SmallCall, SmallReads

__all__ = ["ReadStreams"]

_FILES_AT_ONCE: Final = 256
"""Files in flight per stream, the large ones among them."""
_OPENED_TOGETHER: Final = 64
"""Files of one request whose paths are resolved by one task."""
_LARGE_AT_ONCE: Final = 4
"""Large files in flight per stream."""
_NEWS_SECONDS: Final = 0.2


class _Part(NamedTuple):
    """A ``FilePart``, which is made in the response: by itself it would hold the data a second time, to be copied."""

    id: int
    entry: entry_pb2.Entry | None = None
    data: bytes = b""
    transferred: int = 0
    end: bool = False
    failure: entry_pb2.Failure | None = None


class ReadStreams:
    """Serves ReadFiles streams. One per gateway."""

    def __init__(self, reader: FileReader, small: SmallReads, local: LocalFiles, budget: ByteBudget) -> None:
        """``budget`` bounds what is being read of small files in the process."""
        self.reader = reader
        self.small = small
        self.local = local
        self.budget = budget

    async def serve(self, requests: AsyncIterator[pb.ReadFilesRequest]) -> AsyncGenerator[pb.ReadFilesResponse, None]:
        """Yield the responses of one stream. Leaving early stops every read and removes unfinished local targets."""
        stream = _ReadStream(self)
        with self.reader.reading():
            async with aclosing(stream.outbox.filled_by(stream.run(requests))) as batches:
                async for parts in batches:
                    response = pb.ReadFilesResponse()
                    for part in parts:
                        response.parts.add(**part._asdict())
                    yield response


class _ReadStream:
    def __init__(self, shared: ReadStreams) -> None:
        self.outbox: Outbox[_Part] = Outbox(batch_weight=MESSAGE_BYTES, capacity=GATHERED_BYTES)
        self._reader = shared.reader
        self._small = shared.small
        self._local = shared.local
        self._budget = shared.budget
        # what is read and waits for the caller takes no budget: one who does not read on would hold up all others
        self._room = ByteBudget(GATHERED_BYTES)
        self._files = asyncio.Semaphore(_FILES_AT_ONCE)
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

    async def run(self, requests: AsyncIterator[pb.ReadFilesRequest]) -> None:
        """Begin reads until the caller ends the stream, then see every one end."""
        try:
            async with asyncio.TaskGroup() as files:
                async for request in requests:
                    reads = list(request.reads)
                    for start in range(0, len(reads), _OPENED_TOGETHER):
                        some = reads[start : start + _OPENED_TOGETHER]
                        for _ in some:
                            await self._files.acquire()
                        files.create_task(self._begin(files, some))
        finally:
            self.outbox.close()

    async def _begin(self, files: asyncio.TaskGroup, reads: Sequence[pb.FileRead]) -> None:
        """Open files and begin to read them: small ones together, others one by one."""
        checked: list[pb.FileRead] = []
        wanted: list[WantedFile] = []
        for read in reads:
            try:
                wanted.append(self._wanted(read))
                checked.append(read)
            except CdirError as error:
                await self._fail(read, error)
        small: list[tuple[pb.FileRead, OpenFile]] = []
        for read, opened in zip(checked, await self._reader.open_each(wanted), strict=True):
            if isinstance(opened, CdirError):
                await self._fail(read, opened)
            elif read.HasField("most") and opened.version.size > read.most:
                await self.outbox.put(_Part(read.id, opened.entry, end=True))
                self._files.release()
            elif read.offset or read.HasField("length") or read.HasField("local_target"):
                files.create_task(self._read(read, opened))
            else:
                small.append((read, opened))
        left = dict(enumerate(small))
        for call in self._small.together([(opened.version, opened.replicas) for _, opened in small]):
            files.create_task(self._send_together(files, call, [left.pop(number) for number in call.numbers]))
        for read, opened in left.values():
            files.create_task(self._read(read, opened))

    async def _send_together(
        self, files: asyncio.TaskGroup, call: SmallCall, reads: Sequence[tuple[pb.FileRead, OpenFile]]
    ) -> None:
        """Send small files whole; what the short way does not bring is read by itself."""
        size = sum(opened.version.size for _, opened in reads)
        async with self._room.taken(size):
            async with self._budget.taken(size):
                contents = await self._small.read(call)
            for (read, opened), data in zip(reads, contents, strict=True):
                if data is None:
                    files.create_task(self._read(read, opened))
                    continue
                await self.outbox.put(_Part(read.id, opened.entry, data, end=True), len(data))
                self._files.release()

    async def _read(self, read: pb.FileRead, opened: OpenFile) -> None:
        try:
            if opened.version.size <= BLOCK_SIZE:
                async with self._room.taken(opened.version.size):
                    await self._send_small(read, opened)
            else:
                async with self._large:
                    await (self._place_large if read.HasField("local_target") else self._send)(read, opened)
        except CdirError as error:
            await self._fail(read, error)
        else:
            self._files.release()

    async def _fail(self, read: pb.FileRead, error: CdirError) -> None:
        await self.outbox.put(_Part(read.id, failure=to_failure(error)))
        self._files.release()

    def _wanted(self, read: pb.FileRead) -> WantedFile:
        self._check(read)
        generation = read.generation if read.HasField("generation") else None
        return WantedFile(read.workspace, normalize_path(read.path), generation, read.provider)

    def _check(self, read: pb.FileRead) -> None:
        if read.offset < 0 or (read.HasField("length") and read.length < 0):
            raise InvalidArgument("a range has neither a negative offset nor a negative length")
        if read.HasField("local_target"):
            self._local.check_enabled()
            if read.offset or read.HasField("length"):
                raise InvalidArgument("a local target takes whole files only")

    async def _send(self, read: pb.FileRead, opened: OpenFile) -> None:
        """Send the bytes. The part that ends the file is the last one with data, unless there is none."""
        part = _Part(read.id, opened.entry)
        async with aclosing(opened.content.pieces(*_range(read))) as pieces:
            async for piece in pieces:
                if part.data:
                    await self.outbox.put(part, len(part.data))
                    part = _Part(read.id)
                part = part._replace(data=piece)
        await self.outbox.put(part._replace(end=True), len(part.data))

    async def _send_small(self, read: pb.FileRead, opened: OpenFile) -> None:
        async with self._budget.taken(opened.version.size):
            async with aclosing(opened.content.pieces(*_range(read))) as pieces:
                data = b"".join([piece async for piece in pieces])
            part = _Part(read.id, opened.entry, data, end=True)
            if read.HasField("local_target"):
                modified_ns = opened.entry.modified.ToNanoseconds()
                await self._local.place(LocalPlacement(read.local_target.path, data, modified_ns))
                part = part._replace(data=b"", transferred=len(data))
        await self.outbox.put(part, len(part.data))

    async def _place_large(self, read: pb.FileRead, opened: OpenFile) -> None:
        target = await self._local.open_target(read.local_target.path, opened.entry.modified.ToNanoseconds())
        try:
            await self.outbox.put(_Part(read.id, opened.entry))
            written = 0
            told = time.monotonic()
            async with aclosing(opened.content.blocks()) as blocks:
                async for block in blocks:
                    await run_to_the_end(target.write_at, written, block)
                    written += len(block)
                    if time.monotonic() - told >= _NEWS_SECONDS:
                        told = time.monotonic()
                        await self.outbox.put(_Part(read.id, transferred=written))
            await run_to_the_end(target.finish)
        except BaseException:
            await asyncio.to_thread(target.discard)
            raise
        await self.outbox.put(_Part(read.id, transferred=written, end=True))


def _range(read: pb.FileRead) -> tuple[int, int | None]:
    """Return offset and length."""
    return read.offset, read.length if read.HasField("length") else None
