"""DirectoryService and ProviderService: each call handed to its use case, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc.aio

from cdir.paths import normalize_path
from cdir.status import translated
from cdir.v1 import directory_service_pb2 as directory_pb
from cdir.v1 import directory_service_pb2_grpc, provider_service_pb2_grpc
from cdir.v1 import provider_service_pb2 as provider_pb
from cdir_gateway.directory import TREE_SECONDS, Directory, normal
from cdir_gateway.ledger import CALL_SECONDS, user_metadata
from cdir_gateway.providers import Providers
from cdir_gateway.read_stream import ReadStreams
from cdir_gateway.write_stream import WriteStreams
from cdir_runtime.interceptors import user_of

__all__ = ["DirectoryServicer", "ProviderServicer"]

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class DirectoryServicer(directory_service_pb2_grpc.DirectoryServiceServicer):
    """Serves the virtual directory. What the catalog answers alone is passed to it with paths in normal form."""

    def __init__(self, directory: Directory, writes: WriteStreams, reads: ReadStreams) -> None:
        self._directory = directory
        self._writes = writes
        self._reads = reads

    async def GetServer(
        self, request: directory_pb.GetServerRequest, context: Context
    ) -> directory_pb.GetServerResponse:
        return self._directory.server()

    async def GetEntry(self, request: directory_pb.GetEntryRequest, context: Context) -> directory_pb.GetEntryResponse:
        entry = await self._directory.entry(request.workspace, normalize_path(request.path))
        return directory_pb.GetEntryResponse(entry=entry)

    async def ListEntries(
        self, request: directory_pb.ListEntriesRequest, context: Context
    ) -> directory_pb.ListEntriesResponse:
        with translated():
            return await self._directory.catalog.ListEntries(normal(request, "path"), timeout=CALL_SECONDS)

    async def SearchEntries(
        self, request: directory_pb.SearchEntriesRequest, context: Context
    ) -> directory_pb.SearchEntriesResponse:
        with translated():
            return await self._directory.catalog.SearchEntries(normal(request, "path"), timeout=CALL_SECONDS)

    async def MakeDirectory(
        self, request: directory_pb.MakeDirectoryRequest, context: Context
    ) -> directory_pb.MakeDirectoryResponse:
        with translated():
            return await self._directory.catalog.MakeDirectory(
                normal(request, "path"), timeout=CALL_SECONDS, metadata=_on_behalf(context)
            )

    async def MoveEntry(
        self, request: directory_pb.MoveEntryRequest, context: Context
    ) -> directory_pb.MoveEntryResponse:
        with translated():
            return await self._directory.catalog.MoveEntry(
                normal(request, "source", "target"), timeout=TREE_SECONDS, metadata=_on_behalf(context)
            )

    async def RemoveEntry(
        self, request: directory_pb.RemoveEntryRequest, context: Context
    ) -> directory_pb.RemoveEntryResponse:
        with translated():
            return await self._directory.catalog.RemoveEntry(
                normal(request, "path"), timeout=TREE_SECONDS, metadata=_on_behalf(context)
            )

    async def ListVersions(
        self, request: directory_pb.ListVersionsRequest, context: Context
    ) -> directory_pb.ListVersionsResponse:
        with translated():
            return await self._directory.catalog.ListVersions(normal(request, "path"), timeout=CALL_SECONDS)

    async def GetFileStatus(
        self, request: directory_pb.GetFileStatusRequest, context: Context
    ) -> directory_pb.GetFileStatusResponse:
        with translated():
            return await self._directory.catalog.GetFileStatus(normal(request, "path"), timeout=CALL_SECONDS)

    async def GetTreeStatus(
        self, request: directory_pb.GetTreeStatusRequest, context: Context
    ) -> directory_pb.GetTreeStatusResponse:
        with translated():
            return await self._directory.catalog.GetTreeStatus(normal(request, "path"), timeout=CALL_SECONDS)

    async def ExplainPlacement(
        self, request: directory_pb.ExplainPlacementRequest, context: Context
    ) -> directory_pb.ExplainPlacementResponse:
        with translated():
            return await self._directory.catalog.ExplainPlacement(normal(request, "path"), timeout=CALL_SECONDS)

    async def GetPolicy(
        self, request: directory_pb.GetPolicyRequest, context: Context
    ) -> directory_pb.GetPolicyResponse:
        with translated():
            return await self._directory.catalog.GetPolicy(normal(request, "path"), timeout=CALL_SECONDS)

    async def UnsetPolicy(
        self, request: directory_pb.UnsetPolicyRequest, context: Context
    ) -> directory_pb.UnsetPolicyResponse:
        with translated():
            return await self._directory.catalog.UnsetPolicy(
                normal(request, "path"), timeout=TREE_SECONDS, metadata=_on_behalf(context)
            )

    async def SetPolicy(
        self, request: directory_pb.SetPolicyRequest, context: Context
    ) -> directory_pb.SetPolicyResponse:
        changed = directory_pb.SetPolicyRequest(rule=normal(request.rule, "path"))
        with translated():
            return await self._directory.catalog.SetPolicy(changed, timeout=TREE_SECONDS, metadata=_on_behalf(context))

    async def RepairEntry(
        self, request: directory_pb.RepairEntryRequest, context: Context
    ) -> directory_pb.RepairEntryResponse:
        return await self._directory.repair(request)

    async def CopyEntry(
        self, request: directory_pb.CopyEntryRequest, context: Context
    ) -> AsyncGenerator[directory_pb.CopyEntryResponse, None]:
        async with aclosing(self._directory.copy(request, user_of(context) or "")) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async def WriteFiles(
        self, request_iterator: AsyncIterator[directory_pb.WriteFilesRequest], context: Context
    ) -> AsyncGenerator[directory_pb.WriteFilesResponse, None]:
        async with aclosing(self._writes.serve(request_iterator, user_of(context) or "")) as responses:
            async for response in responses:
                yield response

    async def ReadFiles(
        self, request_iterator: AsyncIterator[directory_pb.ReadFilesRequest], context: Context
    ) -> AsyncGenerator[directory_pb.ReadFilesResponse, None]:
        async with aclosing(self._reads.serve(request_iterator)) as responses:
            async for response in responses:
                yield response

    async def WatchChanges(
        self, request: directory_pb.WatchChangesRequest, context: Context
    ) -> AsyncGenerator[directory_pb.WatchChangesResponse, None]:
        async with aclosing(self._directory.watch(request)) as responses:
            async for response in responses:
                yield response


class ProviderServicer(provider_service_pb2_grpc.ProviderServiceServicer):
    """Serves the registered providers."""

    def __init__(self, providers: Providers) -> None:
        self._providers = providers

    async def ListKinds(self, request: provider_pb.ListKindsRequest, context: Context) -> provider_pb.ListKindsResponse:
        return provider_pb.ListKindsResponse(kinds=await self._providers.kinds())

    async def AddProvider(
        self, request: provider_pb.AddProviderRequest, context: Context
    ) -> provider_pb.AddProviderResponse:
        return provider_pb.AddProviderResponse(provider=await self._providers.add(request))

    async def ListProviders(
        self, request: provider_pb.ListProvidersRequest, context: Context
    ) -> provider_pb.ListProvidersResponse:
        return provider_pb.ListProvidersResponse(providers=await self._providers.all())

    async def GetProvider(
        self, request: provider_pb.GetProviderRequest, context: Context
    ) -> provider_pb.GetProviderResponse:
        return provider_pb.GetProviderResponse(provider=await self._providers.get(request.name))

    async def UpdateProvider(
        self, request: provider_pb.UpdateProviderRequest, context: Context
    ) -> provider_pb.UpdateProviderResponse:
        return provider_pb.UpdateProviderResponse(provider=await self._providers.update(request))

    async def CheckProvider(
        self, request: provider_pb.CheckProviderRequest, context: Context
    ) -> AsyncGenerator[provider_pb.CheckProviderResponse, None]:
        async with aclosing(self._providers.check(request.name, full=request.full)) as results:
            async for result in results:
                yield provider_pb.CheckProviderResponse(result=result)

    async def RemoveProvider(
        self, request: provider_pb.RemoveProviderRequest, context: Context
    ) -> provider_pb.RemoveProviderResponse:
        forgotten = await self._providers.remove(request.name, force=request.force)
        return provider_pb.RemoveProviderResponse(forgotten_replicas=forgotten)

    async def GetProviderUsage(
        self, request: provider_pb.GetProviderUsageRequest, context: Context
    ) -> provider_pb.GetProviderUsageResponse:
        return provider_pb.GetProviderUsageResponse(usages=await self._providers.usages())


def _on_behalf(context: Context) -> tuple[tuple[str, str], ...]:
    return user_metadata(user_of(context) or "")
