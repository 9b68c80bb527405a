"""Small files that many tasks write or read one by one: what is asked for meanwhile shares a stream and its messages.

A stream lasts as long as anything is under way on it. What comes alone goes out at once.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeAlias, TypeVar

from cdir.batching import settle
from cdir.connection import Connection
from cdir.errors import IntegrityError
from cdir.model import Wait, WriteOutcome
from cdir.status import from_failure
from cdir.streams import PIECE, ReadStream, WriteStream, ended_early
from cdir.v1 import directory_service_pb2 as pb

__all__ = ["SMALL", "SmallReads", "SmallWrites"]

SMALL: Final = PIECE
"""Bytes of the largest content that goes or comes this way."""

_BATCH_FILES: Final = 64
_BATCH_BYTES: Final = 1024 * 1024

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_Batch: TypeAlias = list[tuple[Item, asyncio.Future[Answer]]]
_Send: TypeAlias = Callable[[_Batch[Item, Answer], set[asyncio.Future[Answer]]], Awaitable[None]]


class _SharedStream(ABC, Generic[Item, Answer]):
    """What waits to be sent, and the task that sends it over one stream after another."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._under_way: set[asyncio.Future[Answer]] = set()
        self._given_up: set[asyncio.Future[Answer]] = set()
        self._changed = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    async def ended(self) -> None:
        """Wait until nothing is under way any more."""
        while self._serving is not None:
            await asyncio.wait([self._serving])

    async def _ask(self, item: Item) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        self._changed.set()
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve(), name="cdir shared stream")
        return await answer

    async def _serve(self) -> None:
        try:
            while self._waiting:
                await self._use_stream()
        except Exception as error:
            waiting = [answer for _, answer in self._waiting]
            self._waiting.clear()
            for answer in [*self._under_way, *waiting]:
                settle(answer, error)
        except BaseException:  # the loop ends
            for answer in [*self._under_way, *(waiting for _, waiting in self._waiting)]:
                answer.cancel()
            raise
        finally:
            # here and not when the task is seen to be done: whoever asks in between would wait for nobody
            self._serving = None

    @abstractmethod
    async def _use_stream(self) -> None:
        """Open a stream and use it until nothing is under way."""

    async def _send_while_any(self, send: _Send[Item, Answer]) -> None:
        """Send what waits, batch by batch, until nothing does and everything that was sent is answered.

        ``send`` is told as well which of those that were sent have been given up meanwhile.
        """
        while True:
            batch = self._take()
            for _, answer in batch:
                self._under_way.add(answer)
                answer.add_done_callback(self._settle)
            given_up, self._given_up = self._given_up, set()
            if batch or given_up:
                await send(batch, given_up)
            elif self._under_way:
                self._changed.clear()
                await self._changed.wait()
            else:
                return

    def _settle(self, answer: asyncio.Future[Answer]) -> None:
        self._under_way.discard(answer)
        if answer.cancelled():
            self._given_up.add(answer)
        self._changed.set()

    def _take(self) -> _Batch[Item, Answer]:
        batch: _Batch[Item, Answer] = []
        weight = 0
        while self._waiting and len(batch) < _BATCH_FILES and weight < _BATCH_BYTES:
            item, answer = self._waiting.popleft()
            if not answer.done():  # else whoever asked is gone
                batch.append((item, answer))
                weight += self._weight(item)
        return batch

    def _weight(self, item: Item) -> int:
        """Return the bytes that an item adds to a message, as far as they count."""
        return 0


class SmallWrites(_SharedStream[tuple[pb.FileWrite, Wait], WriteOutcome]):
    """Writes contents of up to :data:`SMALL` bytes."""

    async def write(self, opened: pb.WriteOpen, content: bytes, wait: Wait) -> WriteOutcome:
        """Store one file, or nothing of it. Cancelled, it is given up as far as it is not committed by then."""
        commit = pb.WriteCommit(size=len(content), sha256=hashlib.sha256(content).digest())
        return await self._ask((pb.FileWrite(open=opened, data=content, commit=commit), wait))

    async def _use_stream(self) -> None:
        ids: dict[asyncio.Future[WriteOutcome], int] = {}
        async with WriteStream(self._connection) as stream:

            def forget(answer: asyncio.Future[WriteOutcome]) -> None:
                if not answer.cancelled():
                    del ids[answer]

            async def send(
                batch: _Batch[tuple[pb.FileWrite, Wait], WriteOutcome], given_up: set[asyncio.Future[WriteOutcome]]
            ) -> None:
                # what was sent over a stream that broke is not in this one
                steps = [pb.FileWrite(id=ids.pop(answer), abort=True) for answer in given_up if answer in ids]
                for (step, wait), answer in batch:
                    ids[answer] = step.id = stream.begin(wait, functools.partial(settle, answer))
                    answer.add_done_callback(forget)
                    steps.append(step)
                await stream.send(steps)

            await self._send_while_any(send)

    def _weight(self, item: tuple[pb.FileWrite, Wait]) -> int:
        return len(item[0].data)


class SmallReads(_SharedStream[pb.FileRead, bytes | None]):
    """Reads whole files; of one that is larger than :data:`SMALL` it only finds that out."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[bytes | None]] = {}

    async def read(self, read: pb.FileRead) -> bytes | None:
        """Return the content, held against its digest; ``None`` if it is larger than :data:`SMALL`."""
        read.most = SMALL
        return await self._ask(read)

    async def _use_stream(self) -> None:
        self._asked = {}
        async with ReadStream(self._connection) as stream:
            receiving = asyncio.create_task(self._receive(stream), name="cdir small contents")
            try:

                async def send(batch: _Batch[pb.FileRead, bytes | None], _: set[asyncio.Future[bytes | None]]) -> None:
                    for read, answer in batch:
                        read.id = next(self._ids)
                        self._asked[read.id] = answer
                    if batch:  # a read that was given up is short, and ends by itself
                        await stream.request([read for read, _ in batch])

                await self._send_while_any(send)
            finally:
                receiving.cancel()
                await asyncio.wait([receiving])

    async def _receive(self, stream: ReadStream) -> None:
        """Hand out what arrives, until cancelled; a stream that ends by itself fails what is under way."""
        try:
            async for response in stream:
                for part in response.parts:
                    self._hand_out(part)
            ended: Exception = ended_early()
        except Exception as error:
            ended = error
        for answer in self._asked.values():
            settle(answer, ended)

    def _hand_out(self, part: pb.FilePart) -> None:
        answer = self._asked.pop(part.id)
        entry, data = part.entry, part.data
        if part.HasField("failure"):
            settle(answer, from_failure(part.failure))
        elif len(data) != entry.size:
            settle(answer, None)
        elif entry.sha256 not in {b"", hashlib.sha256(data).digest()}:
            settle(
                answer,
                IntegrityError(
                    f"{entry.path}: the bytes received differ from the recorded digest; read it again", path=entry.path
                ),
            )
        else:
            settle(answer, data)
