"""Tells the catalog, in the background, what transfers noticed about copies and providers."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from cdir.errors import CdirError, RateLimited
from cdir.status import translated
from cdir.v1 import catalog_service_pb2, catalog_service_pb2_grpc, provider_pb2, scan_pb2
from cdir_gateway.ledger import CALL_SECONDS
from cdir_transfer.health import ProviderHealth

__all__ = ["Observations"]

logger = logging.getLogger(__name__)

_INTERVAL_SECONDS: Final = 1.0
"""What is noticed within this time is sent together; so a provider is reported at most once in it."""

_DOUBT_SECONDS: Final = 0.8
"""How long a provider must have failed, without a success in between, before the others are told."""

_MOST_NOTES: Final = 1000
"""Notes kept until they are sent; beyond that they are dropped: whoever reads the copy next notices it again."""


class Observations:
    """Gathers notes (it is a ``TransferObserver``); :meth:`run` sends them until it is cancelled."""

    def __init__(self, catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub, health: ProviderHealth) -> None:
        self._catalog = catalog
        self._health = health
        self._replicas: dict[tuple[str, str, str], catalog_service_pb2.ReplicaObservation] = {}
        self._learnt: dict[tuple[str, str], scan_pb2.LearntVersion] = {}
        self._failures: dict[str, tuple[float, str]] = {}
        """When each provider failed first since it answered last, and why it failed last."""
        self._noticed = asyncio.Event()

    def replica_seen(self, observation: catalog_service_pb2.ReplicaObservation) -> None:
        """Note a copy that is missing or corrupt."""
        if len(self._replicas) < _MOST_NOTES:
            self._replicas[(observation.version_id, observation.provider_id, observation.key)] = observation
            self._noticed.set()

    def content_learnt(self, learnt: scan_pb2.LearntVersion) -> None:
        """Note the digests of a content that nobody had read before."""
        if len(self._learnt) < _MOST_NOTES:
            self._learnt[learnt.version_id, learnt.provider_id] = learnt
            self._noticed.set()

    def provider_failed(self, provider_id: str, error: CdirError) -> None:
        """Note that a provider does not answer. One that asks to slow down does answer."""
        if not isinstance(error, RateLimited):
            first, _ = self._failures.get(provider_id, (time.monotonic(), ""))
            self._failures[provider_id] = first, error.message
            self._noticed.set()

    async def run(self) -> None:
        """Send notes as they come, all of an interval together."""
        while True:
            await self._noticed.wait()
            self._noticed.clear()
            await self.flush()
            await asyncio.sleep(_INTERVAL_SECONDS)
            if self._failures:
                self._noticed.set()

    async def flush(self) -> None:
        """Send what was noted so far."""
        replicas, self._replicas = list(self._replicas.values()), {}
        learnt, self._learnt = list(self._learnt.values()), {}
        failures = self._outages()
        try:
            with translated():
                if learnt:
                    await self._catalog.LearnVersions(
                        scan_pb2.LearnVersionsRequest(learnt=learnt), timeout=CALL_SECONDS
                    )
                if replicas:
                    await self._catalog.RecordReplicas(
                        catalog_service_pb2.RecordReplicasRequest(observations=replicas), timeout=CALL_SECONDS
                    )
                if failures:
                    logger.info("providers that failed: %s", "; ".join(failures.values()))
                    await self._catalog.RecordProviderStates(_down(failures), timeout=CALL_SECONDS)
        except CdirError as error:
            logger.warning("cannot record what was noticed at providers: %s", error)

    def _outages(self) -> dict[str, str]:
        """Take the failures that no success followed within a moment: one failed call among others is no outage."""
        outages: dict[str, str] = {}
        for provider_id, (first, reason) in list(self._failures.items()):
            if not self._health.suspect(provider_id):
                del self._failures[provider_id]
            elif time.monotonic() - first >= _DOUBT_SECONDS:
                outages[provider_id] = reason
                del self._failures[provider_id]
        return outages


def _down(failures: dict[str, str]) -> catalog_service_pb2.RecordProviderStatesRequest:
    return catalog_service_pb2.RecordProviderStatesRequest(
        observations=[
            catalog_service_pb2.ProviderObservation(
                provider_id=provider_id, state=provider_pb2.PROVIDER_STATE_DOWN, reason=reason
            )
            for provider_id, reason in failures.items()
        ]
    )
