"""The role that asks every provider whether it is there, and tells the catalog."""

from __future__ import annotations

import asyncio
import contextlib
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
from cdir_transfer.listing import provider_ref

__all__ = ["CHECK_SECONDS", "HealthRole"]

logger = logging.getLogger(__name__)

CHECK_SECONDS = 10.0
"""How long a provider may take to answer a check."""

REFRESH_SECONDS = 60.0
"""How often the catalog is told what it knows already, in case another replicator said otherwise."""

DOUBTED_SECONDS = 2.0
"""Pause between checks of a provider that answers here and that the catalog holds for down."""

_LOOK_SECONDS = 1.0
"""Longest pause until a new provider, or one whose time has come, is seen."""

_CATALOG_SECONDS = 10.0
_REASON_LENGTH = 300

_STATES = {
    HealthState.UP: provider_pb2.PROVIDER_STATE_UP,
    HealthState.SLOW: provider_pb2.PROVIDER_STATE_SLOW,
    HealthState.DOWN: provider_pb2.PROVIDER_STATE_DOWN,
    HealthState.UNKNOWN: provider_pb2.PROVIDER_STATE_UNKNOWN,
}
_ANSWERING = {HealthState.UP, HealthState.SLOW}
_HEALTH_STATES = {number: state for state, number in _STATES.items()}


@dataclasses.dataclass(slots=True)
class _Watched:
    health: Health = dataclasses.field(default_factory=Health)
    revision: int = 0
    due: float = 0.0
    checked: float = 0.0
    checking: bool = False
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
        self.known = asyncio.Event()
        """Set when the providers have been read for the first time: from then on :meth:`unfit` can be relied on."""

    def unfit(self) -> list[str]:
        """Return the providers that did not answer their last check, answered without cdir's mark, or were not checked
        yet."""
        return [provider_id for provider_id, watched in self._watched.items() if watched.health.state not in _ANSWERING]

    def suspect(self, provider_id: str) -> None:
        """Check a provider at once: a call to it has just failed. One that is known to be down is left to its turn."""
        watched = self._watched.get(provider_id)
        if watched is not None and watched.health.state in _ANSWERING:
            watched.due = 0.0
            self._woken.set()

    async def once(self) -> int:
        """Check the providers whose time has come, all at the same time; return how many those were.

        Paused ones are left alone. What is found is recorded as each answers.
        """
        async with asyncio.TaskGroup() as checks:
            return await self._start_due(checks)

    async def run(self) -> None:
        """Check every provider when its time has come, until cancelled: one that hangs delays no other."""
        try:
            async with asyncio.TaskGroup() as checks:
                while True:
                    await self._start_due(checks)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_SECONDS):
                            await self._woken.wait()
                    self._woken.clear()
        except BaseExceptionGroup as group:
            # checks raise nothing, so this is the catalog that does not answer
            raise group.exceptions[0] from None

    async def _start_due(self, checks: asyncio.TaskGroup) -> int:
        with translated():
            response = await self._catalog.ReadProviders(
                catalog_service_pb2.ReadProvidersRequest(), timeout=_CATALOG_SECONDS
            )
        providers = [
            stored.provider
            for stored in response.providers
            if stored.provider.state != provider_pb2.PROVIDER_STATE_PAUSED
        ]
        self._watched = {provider.provider_id: self._watch(provider) for provider in providers}
        self.known.set()
        now = time.monotonic()
        started = 0
        for provider in providers:
            watched = self._watched[provider.provider_id]
            if watched.health.state in _ANSWERING and _HEALTH_STATES.get(provider.state) not in _ANSWERING:
                # a gateway or another replicator found it failing: looked at as often as one that failed here
                watched.due = min(watched.due, watched.checked + DOUBTED_SECONDS)
            if watched.due <= now and not watched.checking:
                watched.checking = True
                checks.create_task(self._check(provider, watched))
                started += 1
        return started

    def _watch(self, provider: provider_pb2.Provider) -> _Watched:
        """Return what is known of a provider: nothing when it has other options now than it had then."""
        watched = self._watched.get(provider.provider_id)
        if watched is None or watched.revision != provider.revision:
            return _Watched(revision=provider.revision)
        return watched

    async def _check(self, provider: provider_pb2.Provider, watched: _Watched) -> None:
        health = watched.health
        # one failure of a provider that answers may be chance, and takes it out of use; the others are asked often
        once = health.state not in _ANSWERING
        request = adapter_service_pb2.CheckMarkRequest(provider=provider_ref(provider), once=once)
        try:
            with translated():
                response = await self._adapters.CheckMark(request, timeout=CHECK_SECONDS)
        except PreconditionFailed as error:
            health.foreign(_line(error))
        except CdirError as error:
            health.failed(_line(error), timed_out=isinstance(error, DeadlineExceeded))
        else:
            health.answered(response.seconds)
        finally:
            watched.checking = False
        watched.checked = time.monotonic()
        watched.due = watched.checked + health.next_check()
        try:
            await self._record(provider, watched)
        except CdirError as error:
            logger.warning("the state of provider %s could not be recorded: %s", provider.name, error)

    async def _record(self, provider: provider_pb2.Provider, watched: _Watched) -> None:
        """Tell the catalog when it is news; ``provider`` is what the catalog said before the check."""
        health = watched.health
        now = time.monotonic()
        known = _HEALTH_STATES.get(provider.state)
        before = None if known is None else (known, provider.state_reason)
        if not worth_recording(before, health, now - watched.told, REFRESH_SECONDS):
            return
        observation = catalog_service_pb2.ProviderObservation(
            provider_id=provider.provider_id, state=_STATES[health.state], reason=health.reason
        )
        with translated():
            await self._catalog.RecordProviderStates(
                catalog_service_pb2.RecordProviderStatesRequest(observations=[observation]),
                timeout=_CATALOG_SECONDS,
            )
        watched.told = now
        if known is not health.state:
            logger.info("provider %s is %s %s", provider.name, health.state.value, health.reason)
            if health.state in _ANSWERING:
                self._on_return()


def _line(error: CdirError) -> str:
    """Return the first line of an error, short enough for a table."""
    line = error.message.splitlines()[0] if error.message else error.reason
    return line if len(line) <= _REASON_LENGTH else line[: _REASON_LENGTH - 1] + "…"
