"""The users: each does its steps one after another through the gateway's stub, and tells the oracle what it saw."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import AlreadyExists, CdirError, Conflict, IsDirectory, NotDirectory, NotFound
from cdir.status import from_failure, translated
from cdir.v1 import directory_service_pb2 as pb
from cdir.v1 import directory_service_pb2_grpc, entry_pb2
from simulation.clock import NANO, clock
from simulation.oracle import Content, Operation, Oracle, Outcome
from simulation.scenario import MEDDLER, Step

__all__ = ["User", "content_of", "content_of_others", "read_file"]

_NO_EFFECT = (Conflict, NotFound, AlreadyExists, IsDirectory, NotDirectory)
_PIECE = 1 << 20


def content_of(step: Step) -> bytes:
    """The bytes that a step writes; no two steps write the same."""
    name = f"{step.number} {step.actor} {step.path}\n".encode()
    return (name * (step.amount // len(name) + 1))[: max(step.amount, len(name))]


def content_of_others(step: Step) -> bytes:
    """The bytes that another program puts at a provider, of a size that nobody else writes: size and coarse time alone
    could not tell the two apart."""
    if step.actor == MEDDLER:
        return f"{step.number} meddler {step.path} at p{step.amount}\n".encode().ljust(50 + 16 * step.number)
    return f"{step.number} others {step.path} at p{step.amount}\n".encode().ljust(40 + step.amount)


async def read_file(
    stub: directory_service_pb2_grpc.DirectoryServiceAsyncStub, path: str, **options: Any
) -> tuple[bytes, entry_pb2.Entry]:
    """Return a file's bytes and entry. Raises as ReadFiles fails."""

    async def requests() -> AsyncIterator[pb.ReadFilesRequest]:
        yield pb.ReadFilesRequest(reads=[pb.FileRead(id=1, path=path, **options)])

    pieces: list[bytes] = []
    entry = entry_pb2.Entry()
    with translated():
        async for response in stub.ReadFiles(requests()):
            for part in response.parts:
                if part.HasField("failure"):
                    raise from_failure(part.failure)
                if part.HasField("entry"):
                    entry = part.entry
                pieces.append(part.data)
    return b"".join(pieces), entry


class User:
    """One user. What it has seen of generations outlives the daemon's death, as a person's knowledge does."""

    def __init__(self, name: str, skew: float, oracle: Oracle, note: Callable[..., None]) -> None:
        self.name = name
        self._skew = skew
        self._oracle = oracle
        self._note = note
        self._seen: dict[str, int] = {}
        self._under_way: Operation | None = None

    async def do(self, step: Step, stub: directory_service_pb2_grpc.DirectoryServiceAsyncStub) -> None:
        """Do one step; whatever fails is part of the story."""
        await asyncio.sleep(step.pause)
        match step.verb:
            case "read":
                await self._read(step, stub)
            case "put" | "edit":
                operation = Operation(step.number, "put", step.path, content=content_of(step), keep=step.keep)
                await self._change(operation, self._put(step, operation, stub))
            case "move":
                request = pb.MoveEntryRequest(source=step.path, target=step.target, overwrite=step.flag)
                operation = Operation(step.number, "move", step.path, step.target)
                await self._change(operation, _awaited(stub.MoveEntry, request))
            case "remove":
                removal = pb.EntryRemoval(path=step.path, recursive=step.flag)
                operation = Operation(step.number, "remove", step.path)
                await self._change(operation, _removed(stub, removal))

    def lose_connection(self) -> None:
        """The daemon has died: what was under way has an outcome that nobody knows."""
        operation, self._under_way = self._under_way, None
        if operation is None:
            return
        if operation.verb == "read":
            self._oracle.forget_read(operation)
        else:
            self._oracle.end(operation, Outcome.UNKNOWN)

    async def _change(self, operation: Operation, work: Any) -> None:
        self._under_way = operation
        self._oracle.begin(operation)
        outcome, reason = Outcome.DONE, ""
        try:
            beside = await work
            if beside:
                self._oracle.kept_beside(operation, beside)
                outcome, reason = Outcome.FAILED, beside
        except CdirError as error:
            reason = error.reason
            refused = isinstance(error, _NO_EFFECT) or "was not stored" in error.message
            outcome = Outcome.FAILED if refused else Outcome.UNKNOWN
        self._under_way = None
        self._oracle.end(operation, outcome)
        self._note(self.name, operation.verb, operation.path, operation.number, outcome, reason)

    async def _put(
        self, step: Step, operation: Operation, stub: directory_service_pb2_grpc.DirectoryServiceAsyncStub
    ) -> str:
        """Write; return where the content was kept when its path was denied to it, else an empty text."""
        data = operation.content
        assert data is not None
        modified = Timestamp()
        stated = clock.wall_ns() + round(self._skew * NANO)
        modified.FromNanoseconds(stated)
        # a clock that runs ahead counts as the moment of the commit, which is known when it is acknowledged
        self._oracle.modified[data] = stated if stated <= clock.wall_ns() else None
        opened = pb.WriteOpen(
            path=step.path,
            modified=modified,
            wait=pb.WAIT_FOR_MINIMUM if step.flag else pb.WAIT_FOR_REACHABLE,
            base_generation=self._seen.get(step.path, 0) if step.verb == "edit" else None,
            on_conflict=pb.ON_CONFLICT_KEEP_COPY if step.keep else pb.ON_CONFLICT_UNSPECIFIED,
        )
        commit = pb.WriteCommit(size=len(data), sha256=hashlib.sha256(data).digest())

        async def requests() -> AsyncIterator[pb.WriteFilesRequest]:
            if len(data) <= _PIECE:
                yield pb.WriteFilesRequest(writes=[pb.FileWrite(id=1, open=opened, data=data, commit=commit)])
                return
            yield pb.WriteFilesRequest(writes=[pb.FileWrite(id=1, open=opened)])
            for start in range(0, len(data), _PIECE):
                yield pb.WriteFilesRequest(writes=[pb.FileWrite(id=1, data=data[start : start + _PIECE])])
            yield pb.WriteFilesRequest(writes=[pb.FileWrite(id=1, commit=commit)])

        with translated():
            async for response in stub.WriteFiles(requests(), metadata=(("cdir-user", self.name),)):
                for result in response.results:
                    if result.HasField("failure"):
                        raise from_failure(result.failure)
                    if result.stored.conflict_of:
                        return result.stored.entry.path
                    if result.HasField("stored"):
                        self._oracle.modified[data] = min(stated, clock.wall_ns())
                        self._seen[step.path] = result.stored.entry.generation
                        return ""
        return ""

    async def _read(self, step: Step, stub: directory_service_pb2_grpc.DirectoryServiceAsyncStub) -> None:
        operation = self._under_way = Operation(step.number, "read", step.path)
        self._oracle.begin_read(operation)
        seen: Content = None
        reason = ""
        try:
            seen, entry = await read_file(stub, step.path)
            self._seen[step.path] = entry.generation
        except NotFound:
            reason = "NOT_FOUND"
            self._seen.pop(step.path, None)
        except CdirError as error:
            reason = error.reason
        self._under_way = None
        if reason in {"", "NOT_FOUND"}:
            self._oracle.end_read(operation, seen, describe=describe)
        else:
            self._oracle.forget_read(operation)
        self._note(self.name, "read", step.path, step.number, describe(seen), reason)


def describe(content: Content) -> str:
    """Name a content by the step that wrote it."""
    if content is None:
        return "nothing"
    return f"[{content[:60].splitlines()[0].decode(errors='replace')}]"


async def _removed(stub: directory_service_pb2_grpc.DirectoryServiceAsyncStub, removal: pb.EntryRemoval) -> str:
    with translated():
        (removed,) = (await stub.RemoveEntries(pb.RemoveEntriesRequest(removals=[removal]))).results
    if removed.HasField("failure"):
        raise from_failure(removed.failure)
    return ""


async def _awaited(method: Any, request: Any) -> str:
    with translated():
        await method(request)
    return ""
