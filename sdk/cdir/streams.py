"""One file, or many, over one WriteFiles or ReadFiles call."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Final, NamedTuple, Self

import grpc
import grpc.aio

from cdir.connection import Connection
from cdir.conversion import entry_from, write_outcome_from
from cdir.errors import CdirError, IntegrityError, InternalError, ProviderUnavailable
from cdir.model import Entry, Wait, WriteOutcome
from cdir.paths import WorkspacePath
from cdir.status import from_failure, from_rpc_error
from cdir.v1 import directory_service_pb2 as pb

__all__ = ["PIECE", "ReadStream", "WriteStream", "ended_early", "open_read", "open_tree", "write_pieces"]

PIECE: Final = 1024 * 1024
"""Bytes per message: large enough that the cost per message does not count, small enough for tight buffers."""

Settled = Callable[[WriteOutcome | CdirError], None]
Transferred = Callable[[int], None]


def ended_early() -> CdirError:
    """The error of a file whose stream ended first."""
    return ProviderUnavailable("cdir ended the transfer before the file was done (is it shutting down?); run it again")


class _Listener(NamedTuple):
    wait: Wait
    settled: Settled
    transferred: Transferred | None


class WriteStream:
    """One WriteFiles call: steps of files go in, the outcome of each goes to whoever began it.

    Leaving the context normally waits for every outcome; leaving it with an exception cancels the call, and files not
    committed by then are not stored. A call that breaks hands its error to every file under way and raises it on the
    next :meth:`send`. The callbacks run on the event loop and must not block.
    """

    def __init__(self, connection: Connection) -> None:
        self._call = connection.directory.WriteFiles(metadata=connection.metadata)
        self._ids = itertools.count(1)
        self._listeners: dict[int, _Listener] = {}
        self._error: CdirError | None = None
        self._writing = True
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read(), name="cdir write results")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._reader is not None
        try:
            if error is None:
                await self._finish()
        finally:
            self._call.cancel()
            await self._reader

    def begin(self, wait: Wait, settled: Settled, transferred: Transferred | None = None) -> int:
        """Return the id of a new file; ``settled`` is called exactly once, ``transferred`` from time to time."""
        file_id = next(self._ids)
        self._listeners[file_id] = _Listener(wait, settled, transferred)
        return file_id

    def forget(self, file_id: int) -> None:
        """Drop a file that was begun and of which nothing was or will be sent."""
        self._listeners.pop(file_id, None)

    def under_way(self, file_id: int) -> bool:
        """Return whether the file has no outcome yet; sending more of one that has is pointless."""
        return file_id in self._listeners

    async def send(self, writes: Sequence[pb.FileWrite]) -> None:
        """Send steps. Waits while the gateway takes in no more."""
        if self._error is not None:
            raise self._error
        try:
            await self._call.write(pb.WriteFilesRequest(writes=writes))
        except (grpc.RpcError, asyncio.InvalidStateError):
            assert self._reader is not None
            await self._reader
            raise self._error or ended_early() from None

    async def _finish(self) -> None:
        assert self._reader is not None
        self._writing = False
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):  # the reader knows why
            await self._call.done_writing()
        if self._listeners:
            await self._reader

    async def _read(self) -> None:
        try:
            while True:
                response = await self._call.read()
                if not isinstance(response, pb.WriteFilesResponse):
                    break
                for result in response.results:
                    self._dispatch(result)
                if not self._writing and not self._listeners:
                    return
            code = await self._call.code()
            if code is not grpc.StatusCode.OK:
                raise ProviderUnavailable(f"the transfer ended with {code.name}: {await self._call.details()}")
        except grpc.RpcError as error:
            self._fail(from_rpc_error(error))
        except CdirError as error:
            self._fail(error)
        except asyncio.CancelledError:
            # grpc answers a read of a call that we cancelled ourselves this way; a real cancellation goes on
            self._fail(ended_early())
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        else:
            self._fail(ended_early())

    def _dispatch(self, result: pb.WriteResult) -> None:
        news = result.WhichOneof("news")
        listener = self._listeners.get(result.id)
        if listener is None:
            return  # a further copy of a file that was answered already
        if news == "transferred":
            if listener.transferred is not None:
                listener.transferred(result.transferred)
        elif news == "failure":
            del self._listeners[result.id]
            listener.settled(from_failure(result.failure))
        elif news == "stored" and (result.final or listener.wait is Wait.MINIMUM):
            del self._listeners[result.id]
            listener.settled(write_outcome_from(result.stored))

    def _fail(self, error: CdirError) -> None:
        self._error = error
        listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            listener.settled(error)


async def write_pieces(
    connection: Connection, opened: pb.WriteOpen, pieces: AsyncIterable[bytes], wait: Wait
) -> WriteOutcome:
    """Store one file from pieces of any size. If ``pieces`` raises, nothing is stored.

    A content of up to :data:`PIECE` bytes goes in one step: the gateway writes what it has whole in fewer round trips.
    """
    outcome: list[WriteOutcome | CdirError] = []
    async with WriteStream(connection) as stream:
        file_id = stream.begin(wait, outcome.append)
        step = pb.FileWrite(id=file_id, open=opened)
        digest = hashlib.sha256()
        sent = 0
        async with aclosing(_parts(pieces)) as parts:
            async for part in parts:
                if sent:
                    await stream.send([step])
                    step = pb.FileWrite(id=file_id)
                step.data = part
                digest.update(part)
                sent += len(part)
                if not stream.under_way(file_id):
                    break
        if stream.under_way(file_id):
            step.commit.CopyFrom(pb.WriteCommit(size=sent, sha256=digest.digest()))
            await stream.send([step])
    answer = outcome[0]
    if isinstance(answer, CdirError):
        raise answer
    return answer


async def _parts(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the same bytes, at most :data:`PIECE` at a time, the first of them together as far as they fit."""
    first: bytearray | None = bytearray()
    async for piece in pieces:
        for start in range(0, len(piece), PIECE):
            part = piece[start : start + PIECE]
            if first is not None and len(first) + len(part) <= PIECE:
                first += part
                continue
            if first:
                yield bytes(first)
            first = None
            yield part
    if first:
        yield bytes(first)


class ReadStream:
    """One ReadFiles call. Iterating yields its responses; leaving the context cancels what has not arrived."""

    def __init__(self, connection: Connection) -> None:
        self._call = connection.directory.ReadFiles(metadata=connection.metadata)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call.cancel()

    async def request(self, reads: Sequence[pb.FileRead]) -> None:
        """Ask for files. Waits while the gateway takes in no more."""
        try:
            await self._call.write(pb.ReadFilesRequest(reads=reads))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        except asyncio.InvalidStateError:
            raise ended_early() from None

    async def done(self) -> None:
        """Say that no more files will be asked for."""
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):  # iterating raises it
            await self._call.done_writing()

    async def __aiter__(self) -> AsyncIterator[pb.ReadFilesResponse]:
        try:
            while True:
                response = await self._call.read()
                if not isinstance(response, pb.ReadFilesResponse):
                    break
                yield response
            code = await self._call.code()
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        if code is not grpc.StatusCode.OK:
            raise ProviderUnavailable(f"the transfer ended with {code.name}: {await self._call.details()}")


async def open_tree(
    connection: Connection, where: WorkspacePath, provider: str
) -> AsyncGenerator[Sequence[pb.TreeItem], None]:
    """Yield everything below a directory as it comes. Raises NotFound, NotDirectory."""
    request = pb.ReadTreeRequest(workspace=where.workspace, path=where.path, provider=provider)
    call = connection.directory.ReadTree(request, metadata=connection.metadata)
    try:
        async for response in call:
            yield response.items
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    finally:
        call.cancel()


async def open_read(
    connection: Connection,
    where: WorkspacePath,
    *,
    offset: int = 0,
    length: int | None = None,
    generation: int | None = None,
    provider: str = "",
) -> AsyncIterator[bytes]:
    """Yield a file's bytes. A whole file is held against its digest, where there is one yet, once more at the end."""
    entry: Entry | None = None
    digest = hashlib.sha256()
    async with ReadStream(connection) as stream:
        read = pb.FileRead(
            id=1,
            workspace=where.workspace,
            path=where.path,
            generation=generation,
            offset=offset,
            length=length,
            provider=provider,
        )
        await stream.request([read])
        await stream.done()
        async for response in stream:
            for part in response.parts:
                if part.HasField("failure"):
                    raise from_failure(part.failure)
                if part.HasField("entry"):
                    entry = entry_from(part.entry)
                if part.data:
                    digest.update(part.data)
                    yield part.data
                if part.end:
                    if entry is None:
                        raise InternalError(f"{where.path}: the gateway sent no entry")
                    if not offset and length is None and entry.sha256 not in {"", digest.hexdigest()}:
                        raise IntegrityError(
                            f"{where.path}: the bytes received differ from the recorded digest; read it again",
                            path=where.path,
                        )
                    return
    raise ended_early()
