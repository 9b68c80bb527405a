"""Copies as messages of ``cdir.v1``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from cdir.v1 import entry_pb2, provider_pb2
from cdir_catalog.keys import aside_key
from cdir_catalog.store.copies import OK, QUARANTINE_ATTEMPTS, Copy
from cdir_catalog.store.providers import RegisteredProvider
from cdir_catalog.wire import fill_time

__all__ = ["ReadOrder", "fill_replica", "replica_message", "shown_state"]

_STATE_ORDER = {
    provider_pb2.PROVIDER_STATE_UP: 0,
    provider_pb2.PROVIDER_STATE_SLOW: 1,
    provider_pb2.PROVIDER_STATE_UNKNOWN: 2,
    provider_pb2.PROVIDER_STATE_DOWN: 3,
}


def shown_state(copy: Copy) -> entry_pb2.ReplicaState.ValueType:
    """Return the state of a copy as others see it."""
    if copy.owed and copy.attempts >= QUARANTINE_ATTEMPTS:
        return entry_pb2.REPLICA_STATE_QUARANTINED
    if copy.actual == OK and (copy.move_to is not None or not copy.wanted):
        return entry_pb2.REPLICA_STATE_STALE
    return entry_pb2.ReplicaState.ValueType(copy.actual)


def replica_message(copy: Copy, version_id: str | None, provider: RegisteredProvider, now: int) -> entry_pb2.Replica:
    """Return the message of a copy; ``version_id`` is the public id of its content, ``None`` for a leftover."""
    message = entry_pb2.Replica()
    fill_replica(message, copy, version_id, provider, now)
    return message


def fill_replica(
    message: entry_pb2.Replica, copy: Copy, version_id: str | None, provider: RegisteredProvider, now: int
) -> None:
    """As :func:`replica_message`, into a message that is empty."""
    message.provider_id = provider.provider_id
    message.provider = provider.name
    message.key = copy.key
    # whoever moves it may not have reported yet: a rename ends at the one key, a writer that makes room at the other
    if copy.move_to is not None and copy.move_to != copy.key:
        message.alternate_keys.append(copy.move_to)
    if version_id is not None and (aside := aside_key(version_id)) not in {copy.key, copy.move_to}:
        message.alternate_keys.append(aside)
    message.state = shown_state(copy)
    message.wanted = bool(copy.wanted)
    message.etag = copy.etag
    message.checksum = copy.checksum
    message.error = copy.error
    message.attempts = copy.attempts
    message.provider_revision = provider.revision
    message.absent = copy.absent_at is not None
    if copy.proven_at is not None:
        fill_time(message.proven, copy.proven_at)
    if copy.due_at is not None and copy.due_at > now and not copy.leased(now):
        fill_time(message.not_before, copy.due_at)


class _Readable(Protocol):
    @property
    def provider_id(self) -> int: ...
    @property
    def actual(self) -> int: ...


Found = TypeVar("Found", bound=_Readable)


class ReadOrder:
    """Which copies are worth reading from, and in which order: by the preference of a policy, then by provider."""

    def __init__(self, providers: dict[int, RegisteredProvider], prefer: Sequence[str] = ()) -> None:
        order = {name: index for index, name in enumerate(prefer)}
        self._ranks = {
            row: (order.get(one.name, len(order)), _STATE_ORDER.get(one.state, 2), *one.sort_key)
            for row, one in providers.items()
            if not one.paused
        }

    def readable(self, copies: Iterable[Found]) -> list[Found]:
        """Return the copies, or rows of them, that are worth reading from, best first."""
        ranks = self._ranks
        found = [copy for copy in copies if copy.actual in _READABLE and copy.provider_id in ranks]
        found.sort(key=lambda copy: (copy.actual != OK, ranks[copy.provider_id]))
        return found


_READABLE = {OK, entry_pb2.REPLICA_STATE_UNKNOWN}
