"""What transfers notice in passing, kept until it is told to the catalog."""

from __future__ import annotations

from collections.abc import Callable

from cdir.errors import CdirError
from cdir.status import translated
from cdir.v1 import catalog_service_pb2, catalog_service_pb2_grpc, scan_pb2

__all__ = ["Notes"]

_MOST = 10_000
"""Notes kept while the catalog does not answer; a copy found bad is found bad again when it is read next."""

_BATCH = 1000
_CATALOG_SECONDS = 30.0


class Notes:
    """A :class:`cdir_transfer.observer.TransferObserver` that keeps the newest note on each copy.

    ``on_provider_failed`` is called with the id of a provider that failed a transfer.
    """

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        on_provider_failed: Callable[[str], None],
    ) -> None:
        self._catalog = catalog
        self._on_provider_failed = on_provider_failed
        self._seen: dict[tuple[str, str], catalog_service_pb2.ReplicaObservation] = {}
        self._learnt: dict[tuple[str, str], scan_pb2.LearntVersion] = {}

    def replica_seen(self, observation: catalog_service_pb2.ReplicaObservation) -> None:
        if len(self._seen) < _MOST:
            self._seen[observation.version_id, observation.provider_id] = observation

    def content_learnt(self, learnt: scan_pb2.LearntVersion) -> None:
        if len(self._learnt) < _MOST:
            self._learnt[learnt.version_id, learnt.provider_id] = learnt

    def provider_failed(self, provider_id: str, error: CdirError) -> None:
        self._on_provider_failed(provider_id)

    async def flush(self) -> None:
        """Tell the catalog. What it could not be told is kept."""
        while self._learnt:
            learnt = dict(list(self._learnt.items())[:_BATCH])
            await self.learn(list(learnt.values()))
            for key in learnt:
                self._learnt.pop(key, None)
        while self._seen:
            batch = list(self._seen.items())[:_BATCH]
            await self.record([observation for _, observation in batch])
            for key, observation in batch:
                if self._seen.get(key) is observation:
                    del self._seen[key]

    async def record(self, observations: list[catalog_service_pb2.ReplicaObservation]) -> None:
        """Tell the catalog at once; returns when it is durable there."""
        with translated():
            await self._catalog.RecordReplicas(
                catalog_service_pb2.RecordReplicasRequest(observations=observations), timeout=_CATALOG_SECONDS
            )

    async def learn(self, learnt: list[scan_pb2.LearntVersion]) -> list[scan_pb2.LearnOutcome]:
        """Tell the catalog at once what contents turned out to be; return what it made of each."""
        with translated():
            response = await self._catalog.LearnVersions(
                scan_pb2.LearnVersionsRequest(learnt=learnt), timeout=_CATALOG_SECONDS
            )
        return list(response.outcomes)
