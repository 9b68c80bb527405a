"""Making a lost catalog anew: every provider is listed, a snapshot is found, and the catalog puts the two together."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final

from cdir.errors import CdirError, IntegrityError, NotFound, PreconditionFailed, ProviderUnavailable
from cdir.paths import RESERVED_ROOT_NAME
from cdir.status import translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_recovery_pb2,
    catalog_service_pb2_grpc,
    provider_pb2,
)
from cdir.v1 import recovery_service_pb2 as pb
from cdir_transfer.listing import listed_pages, provider_ref
from cdir_transfer.snapshots import Found, SnapshotStore

__all__ = ["Rebuilder"]

_CALL_SECONDS: Final = 60.0
_REBUILD_SECONDS: Final = 24 * 3600.0
_BATCH: Final = 1000
_STATS_AT_ONCE: Final = 16
_SLACK_SECONDS: Final = 3600
"""How much clocks may differ between a provider and the machine that took the snapshot."""
_LATEST: Final = "latest"
_OWN: Final = f"{RESERVED_ROOT_NAME}/"
_OLDER: Final = f"{RESERVED_ROOT_NAME}/versions/"


class Rebuilder:
    """Rebuilds the catalog behind these stubs."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        store: SnapshotStore,
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._store = store

    async def run(self, request: pb.RebuildRequest) -> AsyncGenerator[pb.RebuildResponse, None]:
        """See RecoveryService.Rebuild."""
        providers = await self._chosen(request)
        found, unreachable = await self._store.find(providers)
        self._require_answers(request, providers, unreachable)
        candidates = _candidates(request, found)
        listed: list[provider_pb2.Provider] = []
        for provider in providers:
            if provider.name in unreachable:
                continue
            yield pb.RebuildResponse(stage=f"listing {provider.name}")
            try:
                count = await self._see(provider, candidates[0] if candidates else None)
            except CdirError as error:
                unreachable[provider.name] = error
                self._require_answers(request, providers, unreachable)
                yield pb.RebuildResponse(stage=f"{provider.name} could not be listed: {error.message}")
            else:
                listed.append(provider)
                yield pb.RebuildResponse(stage=f"{provider.name} holds {count} objects")
        for candidate in candidates:
            for holder in candidate.holders:
                yield pb.RebuildResponse(stage=f"taking the snapshot {candidate.name} from {holder.name}")
                try:
                    report = await self._put_together(request, listed, (candidate, holder))
                except (IntegrityError, NotFound, ProviderUnavailable) as error:
                    if request.snapshot and candidate is candidates[-1] and holder is candidate.holders[-1]:
                        raise
                    yield pb.RebuildResponse(stage=f"the snapshot cannot be used: {error.message}")
                else:
                    yield pb.RebuildResponse(report=report, unreachable=sorted(unreachable))
                    return
        yield pb.RebuildResponse(stage="rebuilding without a snapshot")
        report = await self._put_together(request, listed, None)
        yield pb.RebuildResponse(report=report, unreachable=sorted(unreachable))

    async def _chosen(self, request: pb.RebuildRequest) -> list[provider_pb2.Provider]:
        registered = {provider.name: provider for provider in await self._store.providers()}
        if not registered:
            raise PreconditionFailed(
                "no provider is registered; add those that hold the files with `cdir provider add NAME … --adopt`, then"
                " rebuild"
            )
        for name in request.providers:
            if name not in registered:
                raise NotFound(f"no provider is named {name}; `cdir provider list` shows them", provider=name)
        return [one for name, one in registered.items() if not request.providers or name in request.providers]

    @staticmethod
    def _require_answers(
        request: pb.RebuildRequest, providers: Sequence[provider_pb2.Provider], failed: dict[str, CdirError]
    ) -> None:
        """Raise the error of a provider that was asked for by name, or when none answers at all."""
        if failed and (request.providers or len(failed) == len(providers)):
            raise next(iter(failed.values()))

    # -- the providers --------------------------------------------------------------------------------------------

    async def _see(self, provider: provider_pb2.Provider, snapshot: Found | None) -> int:
        """Tell the catalog every object of one provider; returns how many there are.

        The mark is looked at before and after: what a root shows that was unmounted meanwhile proves nothing.
        """
        await self._check_mark(provider)
        count = 0
        first = True
        async with aclosing(self._sightings(provider, snapshot)) as batches:
            async for batch in batches:
                await self._record(provider, batch, first=first)
                count += len(batch)
                first = False
        if first:
            await self._record(provider, [], first=True)
        await self._check_mark(provider)
        return count

    async def _check_mark(self, provider: provider_pb2.Provider) -> None:
        with translated():
            await self._adapters.CheckMark(
                adapter_service_pb2.CheckMarkRequest(provider=provider_ref(provider)), timeout=_CALL_SECONDS
            )

    async def _record(
        self, provider: provider_pb2.Provider, sightings: list[catalog_recovery_pb2.Sighting], *, first: bool
    ) -> None:
        request = catalog_recovery_pb2.RecordSightingsRequest(
            provider_id=provider.provider_id, first=first, sightings=sightings
        )
        with translated():
            await self._catalog.RecordSightings(request, timeout=_CALL_SECONDS)

    async def _sightings(
        self, provider: provider_pb2.Provider, snapshot: Found | None
    ) -> AsyncGenerator[list[catalog_recovery_pb2.Sighting], None]:
        listed_exactly = _flag(provider, "modified_listed") and _flag(provider, "modified_settable")
        ask = _flag(provider, "modified_settable") and not listed_exactly
        request = adapter_service_pb2.ListObjectsRequest(provider=provider_ref(provider), recursive=True)
        async with aclosing(listed_pages(self._adapters, request, where=provider.name)) as pages:
            async for page in pages:
                objects = [info for info in page if _is_content(info)]
                for begin in range(0, len(objects), _BATCH):
                    batch = [_sighting(info, exact=listed_exactly) for info in objects[begin : begin + _BATCH]]
                    if ask:
                        await self._ask(provider, [one for one in batch if _is_newer(one, snapshot)])
                    yield batch

    async def _ask(self, provider: provider_pb2.Provider, sightings: Sequence[catalog_recovery_pb2.Sighting]) -> None:
        """Ask for the time that the writer gave each object, where a listing tells only when it was stored."""
        waiting = iter(sightings)

        async def work() -> None:
            for one in waiting:
                try:
                    with translated():
                        response = await self._adapters.StatObject(
                            adapter_service_pb2.StatObjectRequest(provider=provider_ref(provider), key=one.key),
                            timeout=_CALL_SECONDS,
                        )
                except NotFound:
                    continue
                if response.info.HasField("modified"):
                    one.modified.CopyFrom(response.info.modified)
                    one.exact = True
                one.checksum = response.info.checksum or one.checksum

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(_STATS_AT_ONCE, len(sightings))):
                    workers.create_task(work())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    # -- putting together -----------------------------------------------------------------------------------------

    async def _put_together(
        self,
        request: pb.RebuildRequest,
        listed: Sequence[provider_pb2.Provider],
        snapshot: tuple[Found, provider_pb2.Provider] | None,
    ) -> catalog_recovery_pb2.RebuildReport:
        async def steps() -> AsyncIterator[catalog_recovery_pb2.RebuildCatalogRequest]:
            start = catalog_recovery_pb2.RebuildStart(
                listed=[provider.provider_id for provider in listed], dry_run=request.dry_run
            )
            yield catalog_recovery_pb2.RebuildCatalogRequest(start=start)
            if snapshot is not None:
                found, holder = snapshot
                for one in filter(None, (found.base, found)):
                    yield catalog_recovery_pb2.RebuildCatalogRequest(file=one.name)
                    # the base may lie elsewhere than its increment
                    async with aclosing(self._store.read(one, _holder(one, holder))) as pieces:
                        async for piece in pieces:
                            yield catalog_recovery_pb2.RebuildCatalogRequest(data=piece)
            yield catalog_recovery_pb2.RebuildCatalogRequest(commit=catalog_recovery_pb2.RebuildCommit())

        with translated():
            response = await self._catalog.RebuildCatalog(steps(), timeout=_REBUILD_SECONDS)
        return response.report


def _candidates(request: pb.RebuildRequest, found: Sequence[Found]) -> list[Found]:
    """Return the snapshots to try, one after the other."""
    if request.without_snapshot:
        return []
    chosen = [one for one in found if request.snapshot in {"", _LATEST, one.name}]
    if request.snapshot and not chosen:
        named = "" if request.snapshot == _LATEST else f" {request.snapshot}"
        raise NotFound(f"no provider that answers holds a snapshot{named}; `cdir snapshot list` shows them")
    return chosen


def _holder(one: Found, preferred: provider_pb2.Provider) -> provider_pb2.Provider:
    same = (holder for holder in one.holders if holder.provider_id == preferred.provider_id)
    return next(itertools.chain(same, one.holders))


def _is_content(info: adapter_service_pb2.ObjectInfo) -> bool:
    if info.directory or info.special:
        return False
    return info.key.startswith(_OLDER) or not info.key.startswith(_OWN)


def _is_newer(one: catalog_recovery_pb2.Sighting, snapshot: Found | None) -> bool:
    """Return whether an object was stored after the snapshot, which then knows nothing of it."""
    return snapshot is None or one.modified.seconds > snapshot.taken.seconds - _SLACK_SECONDS


def _sighting(info: adapter_service_pb2.ObjectInfo, *, exact: bool) -> catalog_recovery_pb2.Sighting:
    return catalog_recovery_pb2.Sighting(
        key=info.key,
        size=info.size,
        modified=info.modified if info.HasField("modified") else None,
        exact=exact and info.HasField("modified"),
        etag=info.etag,
        checksum=info.checksum,
    )


def _flag(provider: provider_pb2.Provider, name: str) -> bool:
    value = provider.capability.fields.get(name)
    return value is not None and value.bool_value
