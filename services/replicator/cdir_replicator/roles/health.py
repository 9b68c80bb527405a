"""The role that asks every provider whether it is there, and tells the catalog."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable

from cdir.errors import CdirError, DeadlineExceeded, PreconditionFailed
from cdir.status import translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    provider_pb2,
)
from cdir_replicator.planner import Health, HealthState, worth_recording

__all__ = ["CHECK_SECONDS", "HealthRole"]

logger = logging.getLogger(__name__)

CHECK_SECONDS = 10.0
"""How long a provider may take to answer a check."""

REFRESH_SECONDS = 60.0
"""How often the catalog is told what it knows already, in case another replicator said otherwise."""

_CATALOG_SECONDS = 10.0
_REASON_LENGTH = 300

_STATES = {
    HealthState.UP: provider_pb2.PROVIDER_STATE_UP,
    HealthState.SLOW: provider_pb2.PROVIDER_STATE_SLOW,
    HealthState.DOWN: provider_pb2.PROVIDER_STATE_DOWN,
    HealthState.UNKNOWN: provider_pb2.PROVIDER_STATE_UNKNOWN,
}
_HEALTH_STATES = {number: state for state, number in _STATES.items()}


@dataclasses.dataclass(slots=True)
class _Watched:
    health: Health = dataclasses.field(default_factory=Health)
    revision: int = 0
    due: float = 0.0
    told: float = -REFRESH_SECONDS


class HealthRole:
    """Checks providers when their time has come. ``on_return`` is called after a provider came back."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        on_return: Callable[[], None],
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._on_return = on_return
        self._watched: dict[str, _Watched] = {}
        self._woken = asyncio.Event()

    def suspect(self, provider_id: str) -> None:
        """Check a provider at once: a call to it has just failed. One that is known to be down is left to its turn."""
        watched = self._watched.get(provider_id)
        if watched is not None and watched.health.state in {HealthState.UP, HealthState.SLOW}:
            watched.due = 0.0
            self._woken.set()

    async def wait(self, seconds: float) -> None:
        """Wait until the next look is worth while, at most ``seconds``."""
        self._woken.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def once(self) -> int:
        """Check the providers whose time has come; return how many those were. Paused ones are left alone."""
        with translated():
            response = await self._catalog.ReadProviders(
                catalog_service_pb2.ReadProvidersRequest(), timeout=_CATALOG_SECONDS
            )
        providers = {
            stored.provider.provider_id: stored.provider
            for stored in response.providers
            if stored.provider.state != provider_pb2.PROVIDER_STATE_PAUSED
        }
        self._watched = {
            provider_id: self._watched.get(provider_id) or _Watched(revision=provider.revision)
            for provider_id, provider in providers.items()
        }
        now = time.monotonic()
        due = []
        for provider_id, provider in providers.items():
            watched = self._watched[provider_id]
            if watched.revision != provider.revision:
                # it has other options now: what was found with the old ones says nothing
                watched = self._watched[provider_id] = _Watched(revision=provider.revision)
            if watched.due <= now:
                due.append(provider)
        async with asyncio.TaskGroup() as checks:
            for provider in due:
                checks.create_task(self._check(provider))
        await self._record(due)
        return len(due)

    async def _check(self, provider: provider_pb2.Provider) -> None:
        watched = self._watched[provider.provider_id]
        health = watched.health
        request = adapter_service_pb2.CheckMarkRequest(
            provider=adapter_service_pb2.ProviderRef(provider_id=provider.provider_id, revision=provider.revision)
        )
        try:
            with translated():
                response = await self._adapters.CheckMark(request, timeout=CHECK_SECONDS)
        except PreconditionFailed as error:
            health.foreign(_line(error))
        except CdirError as error:
            health.failed(_line(error), timed_out=isinstance(error, DeadlineExceeded))
        else:
            health.answered(response.seconds)
        watched.due = time.monotonic() + health.next_check()

    async def _record(self, providers: list[provider_pb2.Provider]) -> None:
        observations = []
        returned = False
        now = time.monotonic()
        for provider in providers:
            watched = self._watched[provider.provider_id]
            health = watched.health
            known = _HEALTH_STATES.get(provider.state)
            before = None if known is None else (known, provider.state_reason)
            if not worth_recording(before, health, now - watched.told, REFRESH_SECONDS):
                continue
            watched.told = now
            observations.append(
                catalog_service_pb2.ProviderObservation(
                    provider_id=provider.provider_id, state=_STATES[health.state], reason=health.reason
                )
            )
            if known is not health.state:
                logger.info("provider %s is %s %s", provider.name, health.state.value, health.reason)
                returned = returned or health.state in {HealthState.UP, HealthState.SLOW}
        if observations:
            with translated():
                await self._catalog.RecordProviderStates(
                    catalog_service_pb2.RecordProviderStatesRequest(observations=observations),
                    timeout=_CATALOG_SECONDS,
                )
        if returned:
            self._on_return()


def _line(error: CdirError) -> str:
    """Return the first line of an error, short enough for a table."""
    line = error.message.splitlines()[0] if error.message else error.reason
    return line if len(line) <= _REASON_LENGTH else line[: _REASON_LENGTH - 1] + "…"
