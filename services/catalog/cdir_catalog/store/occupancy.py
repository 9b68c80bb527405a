"""What is at keys that are to be written, and who works on it at the moment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.v1 import catalog_service_pb2
from cdir_catalog.keys import aside_key
from cdir_catalog.schema import replicas, versions
from cdir_catalog.store.copies import CORRUPT, MISSING, OK, QUARANTINE_ATTEMPTS, UNKNOWN, Copy
from cdir_catalog.store.ledger import COPY_COLUMNS, copy_of
from cdir_catalog.store.providers import RegisteredProvider

__all__ = ["Occupancy", "Occupied"]

_keys: sa.BindParameter[Any] = sa.bindparam("keys", expanding=True)
_AT = (
    sa.select(*COPY_COLUMNS, versions.c.version_id.label("version"), versions.c.size.label("size"))
    .outerjoin(versions, versions.c.id == replicas.c.version_id)
    .where(replicas.c.key.in_(_keys))
)
_COMING = sa.select(*COPY_COLUMNS).where(
    sa.or_(replicas.c.lease_key.in_(_keys), sa.and_(replicas.c.move_to.in_(_keys), replicas.c.actual == UNKNOWN))
)


@dataclass(frozen=True, slots=True)
class Occupied:
    """One row that has, or may have, its object at a key."""

    copy: Copy
    version: str | None
    """The version's public id; ``None`` for a leftover."""
    size: int | None
    """The version's, in bytes."""

    @property
    def uncertain(self) -> bool:
        """Whether it may be in another place, where somebody who is gone moved it: moving it again could destroy it."""
        return self.version is not None and self.copy.actual == UNKNOWN and self.copy.move_to is not None

    @property
    def suspected(self) -> bool:
        """Whether it may be others' content, and is inspected soon: moved aside, it would be taken for a bad copy."""
        return self.copy.suspected and self.copy.attempts < QUARANTINE_ATTEMPTS

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """Where two rows claim one key: which one is likelier to be there."""
        return self.version is not None, self.copy.actual == OK, self.copy.id or 0


class Occupancy:
    """What is recorded at each of some keys, by provider."""

    def __init__(self, connection: Connection, keys: Iterable[str], now: int) -> None:
        self._now = now
        self._at: dict[tuple[int, str], list[Occupied]] = defaultdict(list)
        self._worked_on: dict[tuple[int, str], list[Copy]] = defaultdict(list)
        wanted = sorted(set(keys))
        if not wanted:
            return
        for row in connection.execute(_AT, {"keys": wanted}):
            copy = copy_of(row[:-2])
            if copy.actual != MISSING:
                self._at[copy.provider_id, copy.key].append(Occupied(copy, row.version, row.size))
            if _alters(copy, now):
                self._worked_on[copy.provider_id, copy.key].append(copy)
        for row in connection.execute(_COMING, {"keys": wanted}):
            copy = copy_of(row)
            if copy.actual == UNKNOWN and copy.move_to is not None:
                self._worked_on[copy.provider_id, copy.move_to].append(copy)
            coming = copy.lease_key != copy.key and (_alters(copy, now) or copy.astray(now))
            if copy.lease_key is not None and coming:
                self._worked_on[copy.provider_id, copy.lease_key].append(copy)

    def at(self, provider: int, key: str) -> list[Occupied]:
        """Return what is recorded at a key, likeliest first."""
        return sorted(self._at.get((provider, key), ()), key=lambda one: one.rank, reverse=True)

    def occupant(self, provider: int, key: str) -> Occupied | None:
        """Return what is to be moved aside before the key is written."""
        there = self.at(provider, key)
        return there[0] if there else None

    def busy(self, provider: int, key: str, *, ignoring: int | None = None) -> bool:
        """Say whether somebody may be changing what is at the key, or what may be there must be looked at first."""
        if any(copy.id != ignoring for copy in self._worked_on.get((provider, key), ())):
            return True
        others = (one for one in self._at.get((provider, key), ()) if one.copy.id != ignoring)
        return any(one.uncertain or one.suspected or one.copy.astray(self._now) for one in others)

    def target(self, provider: RegisteredProvider, key: str) -> catalog_service_pb2.WriteTarget:
        """Return the message that says how to write the key at a provider."""
        target = catalog_service_pb2.WriteTarget(
            provider_id=provider.provider_id,
            provider=provider.name,
            provider_revision=provider.revision,
            state=provider.state,
            writable=provider.writable and not self.busy(provider.id, key),
            key=key,
        )
        occupant = self.occupant(provider.id, key)
        if occupant is not None:
            target.occupant.CopyFrom(occupant_message(occupant))
        return target


def _alters(copy: Copy, now: int) -> bool:
    """Whether its lease is of a kind that changes objects; looking at one disturbs nobody."""
    return copy.leased(now) and copy.lease_kind != catalog_service_pb2.DEBT_KIND_INSPECT


def occupant_message(occupied: Occupied) -> catalog_service_pb2.Occupant:
    """Return the message of an occupant; a leftover has no id and no key to go to: it is overwritten.

    A copy that was found bad may have been replaced by another program, which its size tells as it does of a good one.
    """
    if occupied.version is None:
        return catalog_service_pb2.Occupant()
    return catalog_service_pb2.Occupant(
        version_id=occupied.version,
        aside_key=aside_key(occupied.version),
        size=occupied.size if occupied.copy.actual in {OK, CORRUPT} else None,
    )
