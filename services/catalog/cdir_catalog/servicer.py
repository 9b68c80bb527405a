"""CatalogService: each RPC is one store function in one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from cdir.v1 import (
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    check_pb2,
    directory_service_pb2,
    provider_service_pb2,
    scan_pb2,
    scrub_pb2,
)
from cdir_catalog.change_feed import ChangeFeed
from cdir_catalog.database import Database
from cdir_catalog.group_commit import GroupCommit
from cdir_catalog.provider_card import ProviderCard
from cdir_catalog.snapshot_servicer import SnapshotMethods
from cdir_catalog.store.accesses import owe_access, read_access
from cdir_catalog.store.acls import get_acl, set_acl
from cdir_catalog.store.adopting import adopt_objects
from cdir_catalog.store.audit import audit_catalog
from cdir_catalog.store.begin import begin_writes
from cdir_catalog.store.changes import get_identity
from cdir_catalog.store.commit import commit_writes
from cdir_catalog.store.comparing import compare_listing
from cdir_catalog.store.debt import claim_debt, renew_debt
from cdir_catalog.store.directories import make_directories
from cdir_catalog.store.drill import drill_providers
from cdir_catalog.store.evacuation import (
    cancel_evacuation,
    measure_evacuation,
    record_evacuation,
    start_evacuation,
)
from cdir_catalog.store.evacuation_plan import plan_evacuation
from cdir_catalog.store.history import list_restorable
from cdir_catalog.store.intents import abort_writes, claim_lapsed_writes, release_owner, renew_writes
from cdir_catalog.store.inventory import explain_objects, list_copies
from cdir_catalog.store.jobs import list_jobs
from cdir_catalog.store.learning import learn_versions
from cdir_catalog.store.listing import list_entries, search_entries
from cdir_catalog.store.losses import accept_losses
from cdir_catalog.store.moving import move_entry
from cdir_catalog.store.outcomes import finish_debt, make_due, record_replicas
from cdir_catalog.store.placing import place_entries
from cdir_catalog.store.policies import explain_placement, get_policy, set_policy, unset_policy
from cdir_catalog.store.proofs import claim_proofs, finish_proofs, prove_objects, read_proofs, renew_proofs
from cdir_catalog.store.providers import (
    change_provider,
    create_provider,
    drop_provider,
    read_providers,
    record_provider_states,
    replace_secrets,
)
from cdir_catalog.store.removing import remove_entries
from cdir_catalog.store.resolving import get_file_status, list_versions, resolve_entries
from cdir_catalog.store.retention import reap_versions
from cdir_catalog.store.scans import claim_scan, finish_scan, make_scan_due, read_scans
from cdir_catalog.store.status import get_tree_status
from cdir_catalog.store.trash import empty_trash, list_trash
from cdir_catalog.store.tree_contents import resolve_tree
from cdir_runtime.crash import crash_point

__all__ = ["CatalogServicer"]

Request = TypeVar("Request")
Response = TypeVar("Response")

_USER_KEY = "cdir-user"


def _author(context: Any) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == _USER_KEY:
            return value if isinstance(value, str) else value.decode("utf-8", "replace")
    return ""


class CatalogServicer(SnapshotMethods, catalog_service_pb2_grpc.CatalogServiceServicer):
    """Serves one catalog; made by :func:`cdir_catalog.service.open_catalog`."""

    def __init__(self, database: Database, commits: GroupCommit, card: ProviderCard | None = None) -> None:
        self._database = database
        self._commits = commits
        self._card = card
        self._feed = ChangeFeed(database, commits)

    async def _read(self, function: Callable[[Connection, Request], Response], request: Request) -> Response:
        return await self._database.read(lambda connection: function(connection, request))

    async def _write(
        self,
        function: Callable[[Connection, Request, str], Response],
        request: Request,
        context: Any,
        *,
        crash: tuple[str, str] | None = None,
    ) -> Response:
        """Run a store function in a transaction. ``crash`` names the crash points right before and after its commit."""
        author = _author(context)
        if crash is None:
            return await self._commits.run(lambda connection: function(connection, request, author))
        in_transaction, committed = crash

        def run(connection: Connection) -> Response:
            response = function(connection, request, author)
            crash_point(in_transaction)
            return response

        response = await self._commits.run(run)
        crash_point(committed)
        return response

    async def _written_down(self, response: Response) -> Response:
        """Pass on the answer to a change of the providers once they stand on the card as they are now."""
        if self._card is not None:
            await self._card.keep(self._database)
        return response

    async def ResolveEntries(
        self, request: catalog_service_pb2.ResolveEntriesRequest, context: Any
    ) -> catalog_service_pb2.ResolveEntriesResponse:
        return await self._read(resolve_entries, request)

    async def ResolveTree(
        self, request: catalog_service_pb2.ResolveTreeRequest, context: Any
    ) -> catalog_service_pb2.ResolveTreeResponse:
        return await self._read(resolve_tree, request)

    async def ListEntries(
        self, request: directory_service_pb2.ListEntriesRequest, context: Any
    ) -> directory_service_pb2.ListEntriesResponse:
        return await self._read(list_entries, request)

    async def SearchEntries(
        self, request: directory_service_pb2.SearchEntriesRequest, context: Any
    ) -> directory_service_pb2.SearchEntriesResponse:
        return await self._read(search_entries, request)

    async def MakeDirectories(
        self, request: directory_service_pb2.MakeDirectoriesRequest, context: Any
    ) -> directory_service_pb2.MakeDirectoriesResponse:
        return await self._write(make_directories, request, context)

    async def MoveEntry(
        self, request: directory_service_pb2.MoveEntryRequest, context: Any
    ) -> directory_service_pb2.MoveEntryResponse:
        return await self._write(move_entry, request, context, crash=("move.in_commit", "move.committed"))

    async def RemoveEntries(
        self, request: directory_service_pb2.RemoveEntriesRequest, context: Any
    ) -> directory_service_pb2.RemoveEntriesResponse:
        return await self._write(remove_entries, request, context, crash=("remove.in_commit", "remove.committed"))

    async def ListVersions(
        self, request: directory_service_pb2.ListVersionsRequest, context: Any
    ) -> directory_service_pb2.ListVersionsResponse:
        return await self._read(list_versions, request)

    async def GetFileStatus(
        self, request: directory_service_pb2.GetFileStatusRequest, context: Any
    ) -> directory_service_pb2.GetFileStatusResponse:
        return await self._read(get_file_status, request)

    async def GetTreeStatus(
        self, request: directory_service_pb2.GetTreeStatusRequest, context: Any
    ) -> directory_service_pb2.GetTreeStatusResponse:
        return await self._read(get_tree_status, request)

    async def ExplainPlacement(
        self, request: directory_service_pb2.ExplainPlacementRequest, context: Any
    ) -> directory_service_pb2.ExplainPlacementResponse:
        return await self._read(explain_placement, request)

    async def GetPolicy(
        self, request: directory_service_pb2.GetPolicyRequest, context: Any
    ) -> directory_service_pb2.GetPolicyResponse:
        return await self._read(get_policy, request)

    async def SetPolicy(
        self, request: directory_service_pb2.SetPolicyRequest, context: Any
    ) -> directory_service_pb2.SetPolicyResponse:
        return await self._write(set_policy, request, context)

    async def UnsetPolicy(
        self, request: directory_service_pb2.UnsetPolicyRequest, context: Any
    ) -> directory_service_pb2.UnsetPolicyResponse:
        return await self._write(unset_policy, request, context)

    async def GetAcl(
        self, request: directory_service_pb2.GetAclRequest, context: Any
    ) -> directory_service_pb2.GetAclResponse:
        return await self._read(get_acl, request)

    async def SetAcl(
        self, request: directory_service_pb2.SetAclRequest, context: Any
    ) -> directory_service_pb2.SetAclResponse:
        return await self._write(set_acl, request, context)

    async def ListRestorable(
        self, request: catalog_service_pb2.ListRestorableRequest, context: Any
    ) -> catalog_service_pb2.ListRestorableResponse:
        return await self._read(list_restorable, request)

    async def ListTrash(
        self, request: directory_service_pb2.ListTrashRequest, context: Any
    ) -> directory_service_pb2.ListTrashResponse:
        return await self._read(list_trash, request)

    async def EmptyTrash(
        self, request: directory_service_pb2.EmptyTrashRequest, context: Any
    ) -> directory_service_pb2.EmptyTrashResponse:
        return await self._write(empty_trash, request, context)

    async def WatchChanges(
        self, request: directory_service_pb2.WatchChangesRequest, context: Any
    ) -> AsyncIterator[directory_service_pb2.WatchChangesResponse]:
        async with aclosing(self._feed.follow(request.workspace, request.after_revision)) as feed:
            async for changes in feed:
                yield directory_service_pb2.WatchChangesResponse(changes=changes)

    async def BeginWrites(
        self, request: catalog_service_pb2.BeginWritesRequest, context: Any
    ) -> catalog_service_pb2.BeginWritesResponse:
        return await self._write(begin_writes, request, context, crash=("write.in_begin", "write.begun"))

    async def CommitWrites(
        self, request: catalog_service_pb2.CommitWritesRequest, context: Any
    ) -> catalog_service_pb2.CommitWritesResponse:
        return await self._write(commit_writes, request, context, crash=("write.in_commit", "write.committed"))

    async def AbortWrites(
        self, request: catalog_service_pb2.AbortWritesRequest, context: Any
    ) -> catalog_service_pb2.AbortWritesResponse:
        return await self._write(abort_writes, request, context)

    async def RenewWrites(
        self, request: catalog_service_pb2.RenewWritesRequest, context: Any
    ) -> catalog_service_pb2.RenewWritesResponse:
        return await self._write(renew_writes, request, context)

    async def ReleaseOwner(
        self, request: catalog_service_pb2.ReleaseOwnerRequest, context: Any
    ) -> catalog_service_pb2.ReleaseOwnerResponse:
        return await self._write(release_owner, request, context)

    async def ClaimLapsedWrites(
        self, request: catalog_service_pb2.ClaimLapsedWritesRequest, context: Any
    ) -> catalog_service_pb2.ClaimLapsedWritesResponse:
        return await self._write(claim_lapsed_writes, request, context)

    async def RecordReplicas(
        self, request: catalog_service_pb2.RecordReplicasRequest, context: Any
    ) -> catalog_service_pb2.RecordReplicasResponse:
        return await self._write(record_replicas, request, context)

    async def ClaimDebt(
        self, request: catalog_service_pb2.ClaimDebtRequest, context: Any
    ) -> catalog_service_pb2.ClaimDebtResponse:
        return await self._write(claim_debt, request, context)

    async def RenewDebt(
        self, request: catalog_service_pb2.RenewDebtRequest, context: Any
    ) -> catalog_service_pb2.RenewDebtResponse:
        return await self._write(renew_debt, request, context)

    async def FinishDebt(
        self, request: catalog_service_pb2.FinishDebtRequest, context: Any
    ) -> catalog_service_pb2.FinishDebtResponse:
        return await self._write(finish_debt, request, context, crash=("repair.in_finish", "repair.finished"))

    async def MakeDue(
        self, request: catalog_service_pb2.MakeDueRequest, context: Any
    ) -> catalog_service_pb2.MakeDueResponse:
        return await self._write(make_due, request, context)

    async def CompareListing(
        self, request: scan_pb2.CompareListingRequest, context: Any
    ) -> scan_pb2.CompareListingResponse:
        return await self._write(compare_listing, request, context, crash=("scan.in_compare", "scan.compared"))

    async def ClaimScan(self, request: scan_pb2.ClaimScanRequest, context: Any) -> scan_pb2.ClaimScanResponse:
        return await self._write(claim_scan, request, context)

    async def FinishScan(self, request: scan_pb2.FinishScanRequest, context: Any) -> scan_pb2.FinishScanResponse:
        return await self._write(finish_scan, request, context)

    async def MakeScanDue(self, request: scan_pb2.MakeScanDueRequest, context: Any) -> scan_pb2.MakeScanDueResponse:
        return await self._write(make_scan_due, request, context)

    async def ReadScans(self, request: scan_pb2.ReadScansRequest, context: Any) -> scan_pb2.ReadScansResponse:
        return await self._read(read_scans, request)

    async def LearnVersions(
        self, request: scan_pb2.LearnVersionsRequest, context: Any
    ) -> scan_pb2.LearnVersionsResponse:
        return await self._write(learn_versions, request, context)

    async def AcceptLosses(self, request: scan_pb2.AcceptLossesRequest, context: Any) -> scan_pb2.AcceptLossesResponse:
        return await self._write(accept_losses, request, context)

    async def PlaceEntries(
        self, request: catalog_service_pb2.PlaceEntriesRequest, context: Any
    ) -> catalog_service_pb2.PlaceEntriesResponse:
        return await self._write(place_entries, request, context)

    async def ReapVersions(
        self, request: catalog_service_pb2.ReapVersionsRequest, context: Any
    ) -> catalog_service_pb2.ReapVersionsResponse:
        return await self._write(reap_versions, request, context)

    async def CreateProvider(
        self, request: catalog_service_pb2.CreateProviderRequest, context: Any
    ) -> catalog_service_pb2.CreateProviderResponse:
        return await self._written_down(await self._write(create_provider, request, context))

    async def ChangeProvider(
        self, request: catalog_service_pb2.ChangeProviderRequest, context: Any
    ) -> catalog_service_pb2.ChangeProviderResponse:
        return await self._written_down(await self._write(change_provider, request, context))

    async def ReplaceSecrets(
        self, request: catalog_service_pb2.ReplaceSecretsRequest, context: Any
    ) -> catalog_service_pb2.ReplaceSecretsResponse:
        return await self._written_down(await self._write(replace_secrets, request, context))

    async def DropProvider(
        self, request: catalog_service_pb2.DropProviderRequest, context: Any
    ) -> catalog_service_pb2.DropProviderResponse:
        return await self._written_down(await self._write(drop_provider, request, context))

    async def ReadProviders(
        self, request: catalog_service_pb2.ReadProvidersRequest, context: Any
    ) -> catalog_service_pb2.ReadProvidersResponse:
        return await self._read(read_providers, request)

    async def RecordProviderStates(
        self, request: catalog_service_pb2.RecordProviderStatesRequest, context: Any
    ) -> catalog_service_pb2.RecordProviderStatesResponse:
        return await self._write(record_provider_states, request, context)

    async def ClaimProofs(self, request: scrub_pb2.ClaimProofsRequest, context: Any) -> scrub_pb2.ClaimProofsResponse:
        return await self._write(claim_proofs, request, context)

    async def RenewProofs(self, request: scrub_pb2.RenewProofsRequest, context: Any) -> scrub_pb2.RenewProofsResponse:
        return await self._write(renew_proofs, request, context)

    async def FinishProofs(
        self, request: scrub_pb2.FinishProofsRequest, context: Any
    ) -> scrub_pb2.FinishProofsResponse:
        return await self._write(finish_proofs, request, context)

    async def ProveObjects(
        self, request: scrub_pb2.ProveObjectsRequest, context: Any
    ) -> scrub_pb2.ProveObjectsResponse:
        return await self._write(prove_objects, request, context)

    async def ReadProofs(self, request: scrub_pb2.ReadProofsRequest, context: Any) -> scrub_pb2.ReadProofsResponse:
        return await self._read(read_proofs, request)

    async def ReadAccess(self, request: scrub_pb2.ReadAccessRequest, context: Any) -> scrub_pb2.ReadAccessResponse:
        return await self._read(read_access, request)

    async def OweAccess(self, request: scrub_pb2.OweAccessRequest, context: Any) -> scrub_pb2.OweAccessResponse:
        return await self._write(owe_access, request, context)

    async def AdoptObjects(self, request: scan_pb2.AdoptObjectsRequest, context: Any) -> scan_pb2.AdoptObjectsResponse:
        return await self._write(adopt_objects, request, context)

    async def AuditCatalog(
        self, request: check_pb2.AuditCatalogRequest, context: Any
    ) -> check_pb2.AuditCatalogResponse:
        return await self._read(audit_catalog, request)

    async def ListCopies(self, request: check_pb2.ListCopiesRequest, context: Any) -> check_pb2.ListCopiesResponse:
        return await self._read(list_copies, request)

    async def ExplainObjects(
        self, request: check_pb2.ExplainObjectsRequest, context: Any
    ) -> check_pb2.ExplainObjectsResponse:
        return await self._read(explain_objects, request)

    async def PlanEvacuation(
        self, request: catalog_service_pb2.PlanEvacuationRequest, context: Any
    ) -> catalog_service_pb2.PlanEvacuationResponse:
        return await self._read(plan_evacuation, request)

    async def StartEvacuation(
        self, request: catalog_service_pb2.StartEvacuationRequest, context: Any
    ) -> catalog_service_pb2.StartEvacuationResponse:
        return await self._write(start_evacuation, request, context, crash=("evacuate.in_start", "evacuate.started"))

    async def CancelEvacuation(
        self, request: provider_service_pb2.CancelEvacuationRequest, context: Any
    ) -> provider_service_pb2.CancelEvacuationResponse:
        return await self._write(cancel_evacuation, request, context)

    async def MeasureEvacuation(
        self, request: catalog_service_pb2.MeasureEvacuationRequest, context: Any
    ) -> catalog_service_pb2.MeasureEvacuationResponse:
        return await self._read(measure_evacuation, request)

    async def RecordEvacuation(
        self, request: catalog_service_pb2.RecordEvacuationRequest, context: Any
    ) -> catalog_service_pb2.RecordEvacuationResponse:
        return await self._write(record_evacuation, request, context, crash=("evacuate.in_record", "evacuate.recorded"))

    async def DrillProviders(
        self, request: provider_service_pb2.DrillProvidersRequest, context: Any
    ) -> provider_service_pb2.DrillProvidersResponse:
        return await self._read(drill_providers, request)

    async def ListJobs(
        self, request: provider_service_pb2.ListJobsRequest, context: Any
    ) -> provider_service_pb2.ListJobsResponse:
        return await self._read(list_jobs, request)

    async def GetIdentity(
        self, request: catalog_service_pb2.GetIdentityRequest, context: Any
    ) -> catalog_service_pb2.GetIdentityResponse:
        return await self._read(get_identity, request)
