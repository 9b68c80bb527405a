"""Reading many small contents: one call to a provider for many of them.

This is the short way. It is tried once, at the best copy, with nothing but a look at the digest; whatever goes wrong,
be it for one content or for a whole call, is left to the long way (:mod:`cdir_transfer.reader`), which knows how to go
on. Most of what a small read costs is the same whatever it carries, so what is asked for at the same time shares it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

from cdir.errors import CdirError, IntegrityError
from cdir.status import translated
from cdir.v1 import adapter_service_pb2, adapter_service_pb2_grpc, entry_pb2
from cdir_transfer.digest import check_whole
from cdir_transfer.health import ProviderHealth
from cdir_transfer.observer import TransferObserver, is_providers_fault
from cdir_transfer.overtaking import Overtaking
from cdir_transfer.reader import transfer_deadline

__all__ = ["SMALL_CONTENT", "SmallReads"]

SMALL_CONTENT: Final = 256 << 10
"""Bytes of the largest content that is read this way. Of larger ones the transfer costs more than the call."""

_IN_ONE_CALL: Final = 16
_PATIENCE: Final = 1.0
"""Seconds that a call has in any case: a crowd of them on a busy machine is late by itself."""
_CALLS_AT_ONCE: Final = 8
"""Calls under way at one provider."""


class _Wanted(NamedTuple):
    replica: entry_pb2.Replica
    version: entry_pb2.Version
    answer: asyncio.Future[bytes | None]


class _Line:
    """What waits for one provider."""

    __slots__ = ("calls", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Wanted] = deque()
        self.calls = 0


class SmallReads:
    """An async context manager; at its exit the calls under way are cancelled. One per process."""

    def __init__(
        self,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        health: ProviderHealth,
        observer: TransferObserver,
    ) -> None:
        self._adapters = adapters
        self._health = health
        self._observer = observer
        # a call for many takes longer than one for one, so its pace is measured apart
        self._pace = ProviderHealth()
        self._overtaking = Overtaking(self._pace, at_least=_PATIENCE)
        self._lines: dict[str, _Line] = {}
        self._tasks = asyncio.TaskGroup()
        self._calls: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for call in self._calls:
            call.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    async def read(self, version: entry_pb2.Version, replicas: Sequence[entry_pb2.Replica]) -> bytes | None:
        """Return a content of at most :data:`SMALL_CONTENT` bytes, verified; ``None`` where that takes the long way.

        ``replicas`` are its copies, best first.
        """
        if self._closed or not version.sha256 or version.size > SMALL_CONTENT:
            return None
        replica = next((one for one in replicas if not self._health.suspect(one.provider_id)), None)
        if replica is None:
            return None
        line = self._lines.setdefault(replica.provider_id, _Line())
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        line.waiting.append(_Wanted(replica, version, answer))
        if line.calls < _CALLS_AT_ONCE:
            line.calls += 1
            call = self._tasks.create_task(self._serve(line, may_overtake=len(replicas) > 1))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        return await answer

    async def _serve(self, line: _Line, *, may_overtake: bool) -> None:
        batch: list[_Wanted] = []
        try:
            while line.waiting:
                taken = [line.waiting.popleft() for _ in range(min(_IN_ONE_CALL, len(line.waiting)))]
                batch = [wanted for wanted in taken if not wanted.answer.done()]
                if batch:
                    await self._fetch(batch, may_overtake)
        finally:
            line.calls -= 1
            if self._closed:
                batch.extend(line.waiting)
                line.waiting.clear()
            _leave(batch)

    async def _fetch(self, batch: list[_Wanted], may_overtake: bool) -> None:
        provider_id = batch[0].replica.provider_id
        size = sum(wanted.version.size for wanted in batch)
        patience = self._overtaking.patience(provider_id, size) if may_overtake and self._overtaking.allowed() else None
        began = time.monotonic()
        limit = asyncio.timeout(patience)
        try:
            async with limit:
                outcomes = await self._call(provider_id, batch, transfer_deadline(size))
        except TimeoutError:
            if not limit.expired():
                raise
            self._health.failed(provider_id)
        except CdirError as error:
            if is_providers_fault(error):
                self._health.failed(provider_id)
                self._observer.provider_failed(provider_id, error)
        else:
            if patience is not None:
                self._overtaking.spared()
            self._pace.succeeded(provider_id, size, time.monotonic() - began)
            for wanted, outcome in zip(batch, outcomes, strict=False):
                if not wanted.answer.done():
                    wanted.answer.set_result(_content(wanted.version, outcome))
        _leave(batch)

    async def _call(
        self, provider_id: str, batch: list[_Wanted], deadline: float
    ) -> Sequence[adapter_service_pb2.FetchOutcome]:
        request = adapter_service_pb2.FetchObjectsRequest(
            provider=adapter_service_pb2.ProviderRef(
                provider_id=provider_id, revision=max(wanted.replica.provider_revision for wanted in batch)
            ),
            objects=[
                adapter_service_pb2.ObjectBeginning(key=wanted.replica.key, length=max(wanted.version.size, 1))
                for wanted in batch
            ],
        )
        self._overtaking.asked()
        with translated():
            response = await self._adapters.FetchObjects(request, timeout=deadline)
        return response.outcomes


def _leave(batch: Sequence[_Wanted]) -> None:
    """Leave to the long way what has no answer yet."""
    for wanted in batch:
        if not wanted.answer.done():
            wanted.answer.set_result(None)


def _content(version: entry_pb2.Version, outcome: adapter_service_pb2.FetchOutcome) -> bytes | None:
    """Return the content if this is it: of anything else the long way finds out what it is, and says so."""
    found = outcome.object
    if not outcome.HasField("object") or found.size != version.size:
        return None
    try:
        check_whole(version, found.data)
    except IntegrityError:
        return None
    return found.data
