"""What other programs put where a new file is to be written, before any scan has seen it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import CdirError
from cdir.status import translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    scan_pb2,
)
from cdir_gateway.ledger import CALL_SECONDS
from cdir_transfer.health import ProviderHealth
from cdir_transfer.observer import is_providers_fault
from cdir_transfer.strangers import ContentIdentity, has_stranger

__all__ = ["Stranger", "Strangers", "TakenUp"]

_STAT_SECONDS: Final = 60.0
_GLANCE_SECONDS: Final = 2.0
"""What looking at a provider may hold up a write. One that takes longer would hold it up itself, and is left out."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """An object that lies at the key of a target which the catalog takes for free."""

    target: catalog_service_pb2.WriteTarget
    info: adapter_service_pb2.ObjectInfo


@dataclass(slots=True)
class TakenUp:
    """What became of strangers."""

    contents: int = 0
    """How many became contents of the file: so many generations it is further."""
    replaceable: set[str] = field(default_factory=set)
    """Ids of providers where nothing of it is to be kept: the catalog knows that content, or it can be no content."""


class Strangers:
    """Looks for strangers, and has the catalog take them up as a scan would."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        health: ProviderHealth,
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._health = health

    async def are_at(
        self,
        targets: Sequence[catalog_service_pb2.WriteTarget],
        modified: Timestamp,
        sent: ContentIdentity | None,
    ) -> set[str]:
        """Return the ids of those providers where a write that was given up has surely left nothing of its own: what
        lies there is another program's. ``sent`` is the content, where all of it was sent."""
        found = await asyncio.gather(*(has_stranger(self._adapters, target, modified, sent) for target in targets))
        return {target.provider_id for target, is_there in zip(targets, found, strict=True) if is_there}

    async def find(self, targets: Iterable[catalog_service_pb2.WriteTarget]) -> list[Stranger]:
        """Look at the keys of targets where nothing is to be, or something of a certain size.

        Where it cannot be looked, the write will tell; a provider that does not answer in time is suspect then.
        """
        doubtful = [one for one in targets if not one.HasField("occupant") or one.occupant.HasField("size")]
        found = await asyncio.gather(*(self._look(target, _GLANCE_SECONDS) for target in doubtful))
        return [
            Stranger(target, info)
            for target, info in zip(doubtful, found, strict=True)
            if info is not None and not (target.HasField("occupant") and info.size == target.occupant.size)
        ]

    async def take_up(self, strangers: Sequence[Stranger]) -> TakenUp:
        """Make contents of strangers; the file must not be under way. Raises what the catalog raises."""
        taken = TakenUp()
        for stranger in strangers:
            target = stranger.target
            as_of = (await self._compare(target.provider_id, Timestamp(), [])).as_of
            # only what is seen after that moment may be compared with what is recorded then
            info = await self._look(target)
            if info is None:
                continue
            listed = scan_pb2.ListedRange(prefix=target.key.rpartition("/")[0], objects=[info])
            counts = (await self._compare(target.provider_id, as_of, [listed])).counts
            contents = counts.adopted + counts.changed + counts.put_back
            taken.contents += contents
            if not (contents or counts.suspected or counts.postponed):
                taken.replaceable.add(target.provider_id)
        return taken

    async def _look(
        self, target: catalog_service_pb2.WriteTarget, seconds: float = _STAT_SECONDS
    ) -> adapter_service_pb2.ObjectInfo | None:
        request = adapter_service_pb2.StatObjectRequest(
            provider=adapter_service_pb2.ProviderRef(provider_id=target.provider_id, revision=target.provider_revision),
            key=target.key,
        )
        try:
            with translated():
                response = await self._adapters.StatObject(request, timeout=seconds)
        except CdirError as error:
            if is_providers_fault(error):
                self._health.failed(target.provider_id)
            return None
        return None if response.info.directory else response.info

    async def _compare(
        self, provider_id: str, as_of: Timestamp, ranges: Sequence[scan_pb2.ListedRange]
    ) -> scan_pb2.CompareListingResponse:
        with translated():
            return await self._catalog.CompareListing(
                scan_pb2.CompareListingRequest(provider_id=provider_id, as_of=as_of, ranges=ranges),
                timeout=CALL_SECONDS,
            )
