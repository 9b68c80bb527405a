"""Copies as messages of ``cdir.v1``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cdir.v1 import entry_pb2, provider_pb2
from cdir_catalog.keys import aside_key
from cdir_catalog.store.copies import OK, QUARANTINE_ATTEMPTS, Copy
from cdir_catalog.store.providers import RegisteredProvider
from cdir_catalog.wire import timestamp

__all__ = ["readable", "replica_message", "shown_state"]

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
    # whoever moves it may not have reported yet: a rename ends at the one key, a writer that makes room at the other
    alternates = [copy.move_to] if copy.move_to is not None else []
    if version_id is not None:
        alternates.append(aside_key(version_id))
    message = entry_pb2.Replica(
        provider_id=provider.provider_id,
        provider=provider.name,
        key=copy.key,
        alternate_keys=[key for key in dict.fromkeys(alternates) if key != copy.key],
        state=shown_state(copy),
        wanted=bool(copy.wanted),
        etag=copy.etag,
        checksum=copy.checksum,
        error=copy.error,
        attempts=copy.attempts,
        provider_revision=provider.revision,
        absent=copy.absent_at is not None,
    )
    if copy.proven_at is not None:
        message.proven.CopyFrom(timestamp(copy.proven_at))
    if copy.due_at is not None and copy.due_at > now and not copy.leased(now):
        message.not_before.CopyFrom(timestamp(copy.due_at))
    return message


def readable(
    copies: Iterable[Copy], providers: dict[int, RegisteredProvider], prefer: Sequence[str] = ()
) -> list[Copy]:
    """Return the copies worth reading from, best first."""
    order = {name: index for index, name in enumerate(prefer)}
    found = []
    for copy in copies:
        provider = providers.get(copy.provider_id)
        if provider is None or provider.paused or copy.actual not in _READABLE:
            continue
        rank = (
            copy.actual != OK,
            order.get(provider.name, len(order)),
            _STATE_ORDER.get(provider.state, 2),
            *provider.sort_key,
        )
        found.append((rank, copy))
    found.sort(key=lambda pair: pair[0])
    return [copy for _, copy in found]


_READABLE = {OK, entry_pb2.REPLICA_STATE_UNKNOWN}
