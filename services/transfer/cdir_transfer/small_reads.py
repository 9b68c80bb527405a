"""Reading many small contents: one call to a provider for many of them.

This is the short way. It is tried once, at the best copy, with nothing but a look at the digest; whatever goes wrong,
be it for one content or for a whole call, is left to the long way (:mod:`cdir_transfer.reader`), which knows how to go
on. Most of what a small read costs is the same whatever it carries, so what is asked for at the same time shares it.
"""

from __future__ import annotations

import asyncio
import time
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
from cdir_transfer.shared_calls import SMALL_CONTENT, SharedCalls

__all__ = ["SmallReads"]

_PATIENCE: Final = 1.0
"""Seconds that a call has in any case: a crowd of them on a busy machine is late by itself."""


class _Wanted(NamedTuple):
    replica: entry_pb2.Replica
    version: entry_pb2.Version
    others: bool
    """Whether there are other copies."""


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
        self._calls: SharedCalls[_Wanted, bytes] = SharedCalls(self._fetch)

    async def __aenter__(self) -> Self:
        await self._calls.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._calls.__aexit__(kind, error, trace)

    async def read(self, version: entry_pb2.Version, replicas: Sequence[entry_pb2.Replica]) -> bytes | None:
        """Return a content of at most :data:`SMALL_CONTENT` bytes, verified; ``None`` where that takes the long way.

        ``replicas`` are its copies, best first.
        """
        if not version.sha256 or version.size > SMALL_CONTENT:
            return None
        replica = next((one for one in replicas if not self._health.suspect(one.provider_id)), None)
        if replica is None:
            return None
        return await self._calls.ask(replica.provider_id, _Wanted(replica, version, len(replicas) > 1))

    async def _fetch(self, provider_id: str, batch: Sequence[_Wanted]) -> Sequence[bytes | None]:
        size = sum(wanted.version.size for wanted in batch)
        may_overtake = all(wanted.others for wanted in batch) and self._overtaking.allowed()
        patience = self._overtaking.patience(provider_id, size) if may_overtake else None
        began = time.monotonic()
        limit = asyncio.timeout(patience)
        try:
            async with limit:
                outcomes = await self._call(provider_id, batch, transfer_deadline(size))
        except TimeoutError:
            if not limit.expired():
                raise
            self._health.failed(provider_id)
            return ()
        except CdirError as error:
            if is_providers_fault(error):
                self._health.failed(provider_id)
                self._observer.provider_failed(provider_id, error)
            return ()
        if patience is not None:
            self._overtaking.spared()
        self._pace.succeeded(provider_id, size, time.monotonic() - began)
        return [_content(wanted.version, outcome) for wanted, outcome in zip(batch, outcomes, strict=False)]

    async def _call(
        self, provider_id: str, batch: Sequence[_Wanted], deadline: float
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
