"""Writing many small contents: one call to a provider for many of them.

The short way, as for reading (:mod:`cdir_transfer.small_reads`): it is tried once, and whatever goes wrong is left to
the long way, one call for one content, which is tried again and can tell what an earlier attempt has stored.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import CdirError
from cdir.status import from_failure, translated
from cdir.v1 import adapter_service_pb2, adapter_service_pb2_grpc, entry_pb2
from cdir_transfer.health import ProviderHealth
from cdir_transfer.observer import REFUSALS
from cdir_transfer.reader import transfer_deadline
from cdir_transfer.shared_calls import SMALL_CONTENT, SharedCalls

__all__ = ["Attempt", "Outcome", "SmallContent", "SmallWrites", "write_late"]


_LATE_SECONDS: Final = 0.5
_LATE_RATE: Final = 1 << 20


def write_late(size: int) -> float:
    """Seconds after which a provider is late in storing ``size`` bytes: disks and services stall more when they write
    than when they read."""
    return _LATE_SECONDS + size / _LATE_RATE


class Attempt(enum.Enum):
    """What the short way has done for a content that it has not stored for sure."""

    NOTHING = enum.auto()
    UNCERTAIN = enum.auto()
    """It may have stored it all the same."""


Outcome = adapter_service_pb2.ObjectInfo | Attempt
"""What has become of a content: where it is not stored for sure, the long way is to be gone."""


class SmallContent(NamedTuple):
    """What is to be stored, as in ``SmallObject``. A message would hold the data a second time while it waits."""

    key: str
    modified: Timestamp
    only_if_absent: bool
    data: bytes
    acl: entry_pb2.Acl | None


class _Wanted(NamedTuple):
    revision: int
    content: SmallContent


class SmallWrites:
    """An async context manager; at its exit the calls under way are cancelled. One per process."""

    def __init__(
        self,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        health: ProviderHealth,
        *,
        background: bool = False,
    ) -> None:
        """Calls in the ``background`` hold back for those that somebody waits for."""
        self._adapters = adapters
        self._background = background
        self._health = health
        # a write that its caller has given up must not land later, when somebody has cleared up after it
        self._calls: SharedCalls[_Wanted, Outcome] = SharedCalls(self._store, leaving_cancels=True)

    async def __aenter__(self) -> Self:
        await self._calls.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._calls.__aexit__(kind, error, trace)

    async def write(self, provider: adapter_service_pb2.ProviderRef, wanted: SmallContent) -> Outcome:
        """Store a content; what is no info is left to the long way."""
        if len(wanted.data) > SMALL_CONTENT:
            return Attempt.NOTHING
        return (await self.write_together(provider, [wanted]))[0]

    async def write_together(
        self, provider: adapter_service_pb2.ProviderRef, contents: Sequence[SmallContent]
    ) -> Sequence[Outcome]:
        """As :meth:`write`, for contents that one call carries: at most ``OBJECTS_IN_CALL``, each small."""
        if self._health.suspect(provider.provider_id):
            return [Attempt.NOTHING] * len(contents)
        wanted = [_Wanted(provider.revision, content) for content in contents]
        asked = await self._calls.ask_together(provider.provider_id, wanted)
        # without an answer nobody knows
        return [Attempt.UNCERTAIN if one is None else one for one in asked]

    async def write_each(
        self, provider: adapter_service_pb2.ProviderRef, contents: Sequence[SmallContent]
    ) -> Sequence[Outcome]:
        """As :meth:`write`, for contents of at most 8 MiB in all; the context need not be entered for it."""
        if not contents or self._health.suspect(provider.provider_id):
            return [Attempt.NOTHING] * len(contents)
        stored = await self._store(provider.provider_id, [_Wanted(provider.revision, one) for one in contents])
        return stored or [Attempt.UNCERTAIN] * len(contents)

    async def _store(self, provider_id: str, batch: Sequence[_Wanted]) -> Sequence[Outcome]:
        request = adapter_service_pb2.PutObjectsRequest(
            provider=adapter_service_pb2.ProviderRef(
                provider_id=provider_id,
                revision=max(wanted.revision for wanted in batch),
                background=self._background,
            ),
        )
        size = 0
        for wanted in batch:
            # in place: a list of messages would be copied into the request, by way of their bytes
            request.objects.add(**wanted.content._asdict())
            size += len(wanted.content.data)
        try:
            with self._health.waiting(provider_id, write_late(size)), translated():
                response = await self._adapters.PutObjects(request, timeout=transfer_deadline(size))
        except CdirError:
            # tried once, this says little of the provider: the long way tries again, and tells
            return ()
        self._health.answered(provider_id)
        return [_read(outcome) for outcome in response.outcomes]


def _read(outcome: adapter_service_pb2.PutOutcome) -> Outcome:
    if outcome.HasField("info"):
        return outcome.info
    return Attempt.NOTHING if isinstance(from_failure(outcome.failure), REFUSALS) else Attempt.UNCERTAIN
