"""The calls to the catalog that every file needs, batched across files."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from types import TracebackType
from typing import Final, Self

from cdir.errors import CdirError
from cdir.status import from_failure, translated
from cdir.v1 import catalog_service_pb2, catalog_service_pb2_grpc, entry_pb2
from cdir_gateway.batching import Batcher
from cdir_runtime.crash import crash_point
from cdir_runtime.interceptors import USER_KEY

__all__ = ["CALL_SECONDS", "Ledger", "user_metadata"]

logger = logging.getLogger(__name__)

CALL_SECONDS: Final = 30.0
"""Deadline of one call to the catalog, which answers in milliseconds."""

_READ_SPACING: Final = 0.03
_WRITE_SPACING: Final = 0.06
"""Seconds between two calls in a crowd. A call costs the catalog some milliseconds, and some tenths of one for each
file in it: thirty files that share a call cost less than half of what they cost alone."""

_MANY_READERS: Final = 16
_MANY_WRITES: Final = 48
"""Callers who read, and writes under way, that are a crowd. The reads of one caller come together by themselves."""
_MOST_RESOLVED: Final = 256

_LEASE_SECONDS: Final = 60.0
_RENEW_SECONDS: Final = 5.0
_MOST_RENEWED: Final = 1000
"""Most late copies that one call may renew."""


def user_metadata(user: str) -> tuple[tuple[str, str], ...]:
    """The metadata that tells the catalog on whose behalf a call is made."""
    return ((USER_KEY, user),) if user else ()


class Ledger:
    """Begins, commits and aborts writes, resolves paths and records what was seen, many at a time.

    The methods return futures: the call goes on even when the one who waits is cancelled. ``user`` is the author of a
    change. Intents, and leases on copies that go on after their commit, are kept alive while this is open, and given
    back when it is closed.
    """

    def __init__(self, catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub) -> None:
        self.owner = uuid.uuid4().hex
        self._catalog = catalog
        self._begin = Batcher(self._begin_many, spacing=_WRITE_SPACING, enough=self._enough_writes)
        self._commit = Batcher(self._commit_many, spacing=_WRITE_SPACING, enough=self._enough_writes)
        self._abort = Batcher(self._abort_many)
        self._resolve = Batcher(
            self._resolve_many, spacing=_READ_SPACING, enough=self._enough_reads, max_items=_MOST_RESOLVED
        )
        self._record = Batcher(self._record_many)
        self._callers = 0
        self._live = 0
        self._late: set[str] = set()
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            exits.push_async_callback(self._release)
            for batcher in (self._abort, self._record, self._resolve, self._commit, self._begin):
                await exits.enter_async_context(batcher)
            renewing = asyncio.create_task(self._renew())
            exits.push_async_callback(_ended, renewing)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exits.__aexit__(kind, error, trace)

    def begin(
        self, intent: catalog_service_pb2.WriteIntent, user: str
    ) -> asyncio.Future[catalog_service_pb2.BegunWrite]:
        """Record the intent to write a file. End it with :meth:`commit` or :meth:`abort`."""
        begun = self._begin.submit(intent, group=user)
        self._live += 1
        begun.add_done_callback(self._forget_unless_begun)
        return begun

    def commit(self, commitment: catalog_service_pb2.WriteCommitment, user: str) -> asyncio.Future[entry_pb2.Entry]:
        """Turn an intent into the current version; the result is the entry. When it fails, :meth:`abort` the intent."""
        committed = self._commit.submit(commitment, group=user)
        committed.add_done_callback(self._forget_if_committed)
        return committed

    def begin_each(
        self, intents: Sequence[catalog_service_pb2.WriteIntent], user: str
    ) -> asyncio.Future[list[catalog_service_pb2.BegunWrite | Exception]]:
        """As :meth:`begin`, for several files, each of which is refused by itself."""
        begun = self._begin.submit_each(intents, group=user)
        self._live += len(intents)

        def forget(done: asyncio.Future[list[catalog_service_pb2.BegunWrite | Exception]]) -> None:
            if not done.cancelled():
                failed = done.exception() is not None
                self._live -= len(intents) if failed else sum(isinstance(one, Exception) for one in done.result())

        begun.add_done_callback(forget)
        return begun

    def commit_each(
        self, commitments: Sequence[catalog_service_pb2.WriteCommitment], user: str
    ) -> asyncio.Future[list[entry_pb2.Entry | Exception]]:
        """As :meth:`commit`, for several files, each of which is refused by itself."""
        committed = self._commit.submit_each(commitments, group=user)

        def forget(done: asyncio.Future[list[entry_pb2.Entry | Exception]]) -> None:
            if not done.cancelled() and done.exception() is None:
                self._live -= sum(not isinstance(one, Exception) for one in done.result())

        committed.add_done_callback(forget)
        return committed

    def abort(self, write: catalog_service_pb2.AbortedWrite) -> asyncio.Future[None]:
        """Give an intent up."""
        self._live -= 1
        return self._abort.submit(write)

    def resolve(self, ref: catalog_service_pb2.PathRef) -> asyncio.Future[catalog_service_pb2.ResolvedEntry]:
        """Find what a path names, with content and replicas."""
        return self._resolve.submit(ref)

    async def resolve_each(
        self, refs: Sequence[catalog_service_pb2.PathRef]
    ) -> list[catalog_service_pb2.ResolvedEntry | CdirError]:
        """As :meth:`resolve`, for several paths."""
        try:
            found = await self._resolve.submit_each(refs)
        except CdirError as error:
            return [error] * len(refs)
        resolved = []
        for one in found:
            if isinstance(one, Exception) and not isinstance(one, CdirError):
                raise one
            resolved.append(one)
        return resolved

    def record(self, observation: catalog_service_pb2.ReplicaObservation) -> asyncio.Future[None]:
        """Store what was seen or done at a provider."""
        return self._record.submit(observation)

    @contextmanager
    def holding(self, version_id: str) -> Iterator[None]:
        """Keep the leases alive on copies of a committed version that are still being written."""
        self._late.add(version_id)
        try:
            yield
        finally:
            self._late.discard(version_id)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count one caller who reads: what many callers resolve at a time is gathered."""
        self._callers += 1
        try:
            yield
        finally:
            self._callers -= 1

    def _enough_reads(self) -> int:
        return 1 if self._callers < _MANY_READERS else _MOST_RESOLVED

    def _enough_writes(self) -> int:
        return 1 if self._live < _MANY_WRITES else self._live // 2

    def _forget_unless_begun(self, begun: asyncio.Future[catalog_service_pb2.BegunWrite]) -> None:
        if not begun.cancelled() and begun.exception() is not None:
            self._live -= 1

    def _forget_if_committed(self, committed: asyncio.Future[entry_pb2.Entry]) -> None:
        if not committed.cancelled() and committed.exception() is None:
            self._live -= 1

    async def _begin_many(
        self, user: str, intents: list[catalog_service_pb2.WriteIntent]
    ) -> Sequence[catalog_service_pb2.BegunWrite | Exception]:
        request = catalog_service_pb2.BeginWritesRequest(
            owner=self.owner, lease_seconds=_LEASE_SECONDS, intents=intents
        )
        crash_point("write.before_begin")
        with translated():
            response = await self._catalog.BeginWrites(request, timeout=CALL_SECONDS, metadata=user_metadata(user))
        return [from_failure(begun.failure) if begun.HasField("failure") else begun for begun in response.results]

    async def _commit_many(
        self, user: str, commitments: list[catalog_service_pb2.WriteCommitment]
    ) -> Sequence[entry_pb2.Entry | Exception]:
        request = catalog_service_pb2.CommitWritesRequest(commitments=commitments)
        crash_point("write.before_commit")
        with translated():
            response = await self._catalog.CommitWrites(request, timeout=CALL_SECONDS, metadata=user_metadata(user))
        crash_point("write.after_commit")
        return [from_failure(done.failure) if done.HasField("failure") else done.entry for done in response.results]

    async def _abort_many(self, _: str, aborts: list[catalog_service_pb2.AbortedWrite]) -> Sequence[None]:
        with translated():
            await self._catalog.AbortWrites(catalog_service_pb2.AbortWritesRequest(aborts=aborts), timeout=CALL_SECONDS)
        return [None] * len(aborts)

    async def _resolve_many(
        self, _: str, refs: list[catalog_service_pb2.PathRef]
    ) -> Sequence[catalog_service_pb2.ResolvedEntry | Exception]:
        request = catalog_service_pb2.ResolveEntriesRequest(refs=refs, with_replicas=True)
        with translated():
            response = await self._catalog.ResolveEntries(request, timeout=CALL_SECONDS)
        return [from_failure(found.failure) if found.HasField("failure") else found for found in response.results]

    async def _record_many(self, _: str, observations: list[catalog_service_pb2.ReplicaObservation]) -> Sequence[None]:
        with translated():
            await self._catalog.RecordReplicas(
                catalog_service_pb2.RecordReplicasRequest(observations=observations, owner=self.owner),
                timeout=CALL_SECONDS,
            )
        return [None] * len(observations)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            late = list(self._late)
            if self._live <= 0 and not late:
                continue
            try:
                for start in range(0, max(len(late), 1), _MOST_RENEWED):
                    request = catalog_service_pb2.RenewWritesRequest(
                        owner=self.owner, lease_seconds=_LEASE_SECONDS, late=late[start : start + _MOST_RENEWED]
                    )
                    with translated():
                        await self._catalog.RenewWrites(request, timeout=CALL_SECONDS)
            except CdirError as error:
                logger.warning("cannot renew the leases of writes under way: %s", error)

    async def _release(self) -> None:
        request = catalog_service_pb2.ReleaseOwnerRequest(owner=self.owner)
        try:
            with translated():
                await self._catalog.ReleaseOwner(request, timeout=CALL_SECONDS)
        except CdirError as error:
            logger.warning("cannot give back the intents of this gateway; they lapse by themselves: %s", error)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
