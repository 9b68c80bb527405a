"""RecoveryService: snapshots of the catalog, and the way back from them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc.aio

from cdir.errors import Conflict, PreconditionFailed
from cdir.v1 import recovery_service_pb2 as pb
from cdir.v1 import recovery_service_pb2_grpc as rpc
from cdir_gateway.rebuilding import Rebuilder
from cdir_transfer.snapshots import SnapshotStore

__all__ = ["RecoveryServicer"]

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class RecoveryServicer(rpc.RecoveryServiceServicer):
    """Serves one catalog's snapshots."""

    def __init__(self, store: SnapshotStore, rebuilder: Rebuilder) -> None:
        self._store = store
        self._rebuilder = rebuilder

    async def TakeSnapshot(self, request: pb.TakeSnapshotRequest, context: Context) -> pb.TakeSnapshotResponse:
        if not await self._store.providers():
            raise PreconditionFailed("no provider is registered that could hold a snapshot; add one first")
        taken = await self._store.take(at_once=True)
        if taken.making:
            raise Conflict("a snapshot is being made at this moment; try again in a minute")
        if not taken.name:
            raise PreconditionFailed("the catalog is empty: there is nothing to keep yet")
        return pb.TakeSnapshotResponse(name=taken.name, taken=taken.made, size=taken.size, providers=taken.providers)

    async def ListSnapshots(self, request: pb.ListSnapshotsRequest, context: Context) -> pb.ListSnapshotsResponse:
        found, failed = await self._store.find(await self._store.providers())
        return pb.ListSnapshotsResponse(
            snapshots=[
                pb.Snapshot(
                    name=one.name,
                    home_id=one.home_id,
                    taken=one.taken,
                    revision=one.revision,
                    base="" if one.base is None else one.base.name,
                    size=one.size,
                    providers=[holder.name for holder in one.holders],
                )
                for one in found
            ],
            unreachable=sorted(failed),
        )

    async def Rebuild(self, request: pb.RebuildRequest, context: Context) -> AsyncGenerator[pb.RebuildResponse, None]:
        async with aclosing(self._rebuilder.run(request)) as responses:
            async for response in responses:
                yield response
