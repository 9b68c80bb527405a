"""DirectoryService and ProviderService: each call handed to its use case, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc.aio

from cdir.status import translated
from cdir.v1 import check_pb2, directory_service_pb2_grpc, provider_service_pb2_grpc, scan_pb2, scrub_pb2
from cdir.v1 import directory_service_pb2 as directory_pb
from cdir.v1 import provider_service_pb2 as provider_pb
from cdir_gateway.acls import AccessControl
from cdir_gateway.checking import Checker
from cdir_gateway.directory import TREE_SECONDS, Directory, normal
from cdir_gateway.evacuation import Evacuations
from cdir_gateway.ledger import CALL_SECONDS, user_metadata
from cdir_gateway.outside import Outside
from cdir_gateway.providers import Providers
from cdir_gateway.read_stream import ReadStreams
from cdir_gateway.restoring import Restorer
from cdir_gateway.tree_stream import TreeStreams
from cdir_gateway.write_stream import WriteStreams
from cdir_runtime.interceptors import user_of

__all__ = ["DirectoryServicer", "ProviderServicer"]

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class DirectoryServicer(directory_service_pb2_grpc.DirectoryServiceServicer):
    """Serves the virtual directory. What the catalog answers alone is passed to it with paths in normal form."""

    def __init__(
        self,
        directory: Directory,
        writes: WriteStreams,
        reads: ReadStreams,
        trees: TreeStreams,
        checker: Checker,
        outside: Outside,
        restorer: Restorer,
        access: AccessControl,
    ) -> None:
        self._access = access
        self._directory = directory
        self._checker = checker
        self._writes = writes
        self._reads = reads
        self._trees = trees
        self._outside = outside
        self._restorer = restorer

    async def GetServer(
        self, request: directory_pb.GetServerRequest, context: Context
    ) -> directory_pb.GetServerResponse:
        return self._directory.server()

    async def GetEntries(
        self, request: directory_pb.GetEntriesRequest, context: Context
    ) -> directory_pb.GetEntriesResponse:
        return await self._directory.entries(request.refs)

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

    async def MakeDirectories(
        self, request: directory_pb.MakeDirectoriesRequest, context: Context
    ) -> directory_pb.MakeDirectoriesResponse:
        return await self._directory.make_each(request.refs, user_of(context) or "")

    async def MoveEntry(
        self, request: directory_pb.MoveEntryRequest, context: Context
    ) -> directory_pb.MoveEntryResponse:
        with translated():
            return await self._directory.catalog.MoveEntry(
                normal(request, "source", "target"), timeout=TREE_SECONDS, metadata=_on_behalf(context)
            )

    async def RemoveEntries(
        self, request: directory_pb.RemoveEntriesRequest, context: Context
    ) -> directory_pb.RemoveEntriesResponse:
        return await self._directory.remove_each(request.removals, user_of(context) or "")

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

    async def GetAcl(self, request: directory_pb.GetAclRequest, context: Context) -> directory_pb.GetAclResponse:
        return await self._access.get(request)

    async def SetAcl(self, request: directory_pb.SetAclRequest, context: Context) -> directory_pb.SetAclResponse:
        return await self._access.set(request, user_of(context) or "")

    async def RepairEntry(
        self, request: directory_pb.RepairEntryRequest, context: Context
    ) -> directory_pb.RepairEntryResponse:
        return await self._directory.repair(request)

    async def ScanEntry(
        self, request: directory_pb.ScanEntryRequest, context: Context
    ) -> directory_pb.ScanEntryResponse:
        return directory_pb.ScanEntryResponse(scans=await self._outside.scan(request))

    async def GetScans(self, request: directory_pb.GetScansRequest, context: Context) -> directory_pb.GetScansResponse:
        return directory_pb.GetScansResponse(scans=await self._outside.scans(request.scan_ids))

    async def AdoptEntries(
        self, request: directory_pb.AdoptEntriesRequest, context: Context
    ) -> AsyncGenerator[directory_pb.AdoptEntriesResponse, None]:
        async with aclosing(self._outside.adopt(request, user_of(context) or "")) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async def ScrubTree(
        self, request: scrub_pb2.ScrubTreeRequest, context: Context
    ) -> AsyncGenerator[scrub_pb2.ScrubTreeResponse, None]:
        async with aclosing(self._directory.scrub(request)) as responses:
            async for response in responses:
                yield response

    async def CheckTree(
        self, request: check_pb2.CheckTreeRequest, context: Context
    ) -> AsyncGenerator[check_pb2.CheckTreeResponse, None]:
        async with aclosing(self._checker.check(request)) as responses:
            async for response in responses:
                yield response

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

    async def ReadTree(
        self, request: directory_pb.ReadTreeRequest, context: Context
    ) -> AsyncGenerator[directory_pb.ReadTreeResponse, None]:
        async with aclosing(self._trees.serve(request)) as responses:
            async for response in responses:
                yield response

    async def RestoreEntry(
        self, request: directory_pb.RestoreEntryRequest, context: Context
    ) -> AsyncGenerator[directory_pb.RestoreEntryResponse, None]:
        async with aclosing(self._restorer.restore(request, user_of(context) or "")) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async def ListTrash(
        self, request: directory_pb.ListTrashRequest, context: Context
    ) -> directory_pb.ListTrashResponse:
        with translated():
            return await self._directory.catalog.ListTrash(normal(request, "path"), timeout=CALL_SECONDS)

    async def EmptyTrash(
        self, request: directory_pb.EmptyTrashRequest, context: Context
    ) -> directory_pb.EmptyTrashResponse:
        return await self._restorer.empty_trash(request, user_of(context) or "")

    async def WatchChanges(
        self, request: directory_pb.WatchChangesRequest, context: Context
    ) -> AsyncGenerator[directory_pb.WatchChangesResponse, None]:
        async with aclosing(self._directory.watch(request)) as responses:
            async for response in responses:
                yield response


class ProviderServicer(provider_service_pb2_grpc.ProviderServiceServicer):
    """Serves the registered providers."""

    def __init__(self, providers: Providers, evacuations: Evacuations, outside: Outside) -> None:
        self._providers = providers
        self._evacuations = evacuations
        self._outside = outside

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

    async def AcceptLosses(
        self, request: scan_pb2.AcceptLossesRequest, context: Context
    ) -> scan_pb2.AcceptLossesResponse:
        return scan_pb2.AcceptLossesResponse(accepted=await self._outside.accept_losses(request.name))

    async def RemoveProvider(
        self, request: provider_pb.RemoveProviderRequest, context: Context
    ) -> provider_pb.RemoveProviderResponse:
        forgotten = await self._providers.remove(request.name, force=request.force)
        return provider_pb.RemoveProviderResponse(forgotten_replicas=forgotten)

    async def GetProviderUsage(
        self, request: provider_pb.GetProviderUsageRequest, context: Context
    ) -> provider_pb.GetProviderUsageResponse:
        return provider_pb.GetProviderUsageResponse(usages=await self._providers.usages())

    async def EvacuateProvider(
        self, request: provider_pb.EvacuateProviderRequest, context: Context
    ) -> provider_pb.EvacuateProviderResponse:
        return await self._evacuations.evacuate(request, user_of(context) or "")

    async def CancelEvacuation(
        self, request: provider_pb.CancelEvacuationRequest, context: Context
    ) -> provider_pb.CancelEvacuationResponse:
        return await self._evacuations.cancel(request)

    async def ReplaceProvider(
        self, request: provider_pb.ReplaceProviderRequest, context: Context
    ) -> provider_pb.ReplaceProviderResponse:
        return await self._evacuations.replace(request, user_of(context) or "")

    async def DrillProviders(
        self, request: provider_pb.DrillProvidersRequest, context: Context
    ) -> provider_pb.DrillProvidersResponse:
        return await self._evacuations.drill(request)

    async def ListJobs(self, request: provider_pb.ListJobsRequest, context: Context) -> provider_pb.ListJobsResponse:
        return await self._evacuations.jobs(request)


def _on_behalf(context: Context) -> tuple[tuple[str, str], ...]:
    return user_metadata(user_of(context) or "")
