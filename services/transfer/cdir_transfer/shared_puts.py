"""Small contents that are written to the same providers, one call to each for all of them.

This is the way of contents that meet no trouble. It is given up early: what has not landed then is left to the
branches of :mod:`cdir_transfer.writer`, a set for each content, which wait for the rest of what was begun here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.v1 import adapter_service_pb2, catalog_service_pb2
from cdir_runtime.crash import crash_point
from cdir_transfer.health import ProviderHealth
from cdir_transfer.small_writes import Attempt, Outcome, SmallContent, SmallWrites

__all__ = ["SharedPuts", "SmallPut", "stored_copy"]

_SECONDS: Final = 2.0
"""How long contents wait for each other."""
_LOOK_SECONDS: Final = 0.25
"""Between two looks at whether the providers that are waited for have become suspect."""
_GRACE_SECONDS: Final = 0.002
"""How long contents that are durable at as many providers as they need wait for the others: a copy that lands a moment
later is one more thing to record, which costs more than the moment."""


class SmallPut(NamedTuple):
    """A content of at most 256 KiB, and the targets where nothing is that has to be moved aside."""

    targets: Sequence[catalog_service_pb2.WriteTarget]
    data: bytes
    modified: Timestamp


class SharedPuts:
    """At most ``OBJECTS_IN_CALL`` contents on their way to the same providers; they are told apart by their number.

    Not to be dropped: wait until it has :meth:`landed`, then ask for every :meth:`outcome` or :meth:`cancel` it.
    """

    def __init__(self, small: SmallWrites, health: ProviderHealth, puts: Sequence[SmallPut]) -> None:
        self._puts = puts
        self._health = health
        self._calls = {
            targets[0].provider_id: asyncio.create_task(self._write(small, targets))
            for targets in zip(*(put.targets for put in puts), strict=True)
        }

    async def landed(self, needed: int | None = None) -> None:
        """Wait until the contents are stored, or it is better not to wait any longer: for ``needed`` providers, all if
        it is ``None``, but neither for long nor for one that may have gone away."""
        stop = time.monotonic() + _SECONDS
        enough = len(self._calls) if needed is None else needed
        while pending := {name: call for name, call in self._calls.items() if not call.done()}:
            if len(self._calls) - len(pending) >= enough:
                await asyncio.wait(pending.values(), timeout=_GRACE_SECONDS)
                return
            left = stop - time.monotonic()
            if left <= 0 or any(map(self._health.suspect, pending)):
                return
            await asyncio.wait(pending.values(), timeout=min(left, _LOOK_SECONDS), return_when=asyncio.FIRST_COMPLETED)

    def copies(self, number: int) -> list[catalog_service_pb2.StoredCopy] | None:
        """The copies of a content that is durable at all providers; ``None`` when it is not, as far as is known."""
        copies: list[catalog_service_pb2.StoredCopy] = []
        for provider_id, call in self._calls.items():
            if not call.done() or call.cancelled():
                return None
            stored = call.result()[number]
            if isinstance(stored, Attempt) or stored.size != len(self._puts[number].data):
                return None
            copies.append(stored_copy(provider_id, stored))
        return copies

    def targets(self, number: int) -> Sequence[catalog_service_pb2.WriteTarget]:
        """Where a content is written to."""
        return self._puts[number].targets

    async def outcome(self, number: int, provider_id: str) -> Outcome:
        """Wait for what has become of a content at a provider. Who is cancelled meanwhile cancels the call, for all
        that it carries, and sees it end."""
        call = self._calls[provider_id]
        try:
            await asyncio.wait([call])
        except asyncio.CancelledError:
            call.cancel()
            await asyncio.wait([call])
            raise
        return Attempt.UNCERTAIN if call.cancelled() else call.result()[number]

    async def cancel(self) -> None:
        """Cancel what is under way and see it end."""
        for call in self._calls.values():
            call.cancel()
        await asyncio.wait(self._calls.values())

    async def _write(self, small: SmallWrites, targets: Sequence[catalog_service_pb2.WriteTarget]) -> Sequence[Outcome]:
        provider = adapter_service_pb2.ProviderRef(
            provider_id=targets[0].provider_id, revision=max(target.provider_revision for target in targets)
        )
        crash_point("write.before_copies")
        outcomes = await small.write_together(
            provider,
            [
                SmallContent(
                    key=target.key,
                    modified=put.modified,
                    only_if_absent=not target.HasField("occupant"),
                    data=put.data,
                    acl=target.acl if target.HasField("acl") else None,
                )
                for target, put in zip(targets, self._puts, strict=True)
            ],
        )
        crash_point("write.after_copies")
        return outcomes


def stored_copy(provider_id: str, info: adapter_service_pb2.ObjectInfo) -> catalog_service_pb2.StoredCopy:
    """What the catalog is told of a copy that is durable."""
    return catalog_service_pb2.StoredCopy(
        provider_id=provider_id,
        etag=info.etag,
        checksum=info.checksum,
        acl=info.acl if info.HasField("acl") else None,
    )
