"""Doing without a provider: planning it, beginning it, taking it back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cdir.errors import InvalidArgument, PreconditionFailed
from cdir.status import translated
from cdir.v1 import catalog_service_pb2, catalog_service_pb2_grpc, exit_pb2, provider_pb2
from cdir.v1 import provider_service_pb2 as pb
from cdir_gateway.ledger import CALL_SECONDS, user_metadata
from cdir_runtime.crash import crash_point

__all__ = ["Evacuations"]

_LISTED: Final = 20
"""How many files that cannot be placed are named; all are counted."""
_NAMED: Final = 3
"""How many of them an error names: it is one line."""


class Evacuations:
    """See ProviderService for what each method promises."""

    def __init__(self, catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub) -> None:
        self._catalog = catalog

    async def evacuate(self, request: pb.EvacuateProviderRequest, user: str) -> pb.EvacuateProviderResponse:
        """Plan, and unless that is all that was asked for, begin."""
        if not request.name:
            raise InvalidArgument("name a provider")
        plan = await self._plan(request.name, request.to, "")
        if request.purge:
            plan.calls += plan.files
        response = pb.EvacuateProviderResponse(plan=plan)
        if not request.dry_run:
            await self._check(plan, request.name)
            response.job.CopyFrom(await self._start(request.name, request.to, "", purge=request.purge, user=user))
        return response

    async def replace(self, request: pb.ReplaceProviderRequest, user: str) -> pb.ReplaceProviderResponse:
        """Plan, and unless that is all that was asked for, put the new one in the old one's place."""
        if not request.old or not request.new:
            raise InvalidArgument("name the provider to do without and the one that takes its place")
        plan = await self._plan(request.old, (), request.new)
        if request.purge:
            plan.calls += plan.files
        response = pb.ReplaceProviderResponse(plan=plan)
        if not request.dry_run:
            await self._check(plan, request.old)
            response.job.CopyFrom(await self._start(request.old, (), request.new, purge=request.purge, user=user))
        return response

    async def cancel(self, request: pb.CancelEvacuationRequest) -> pb.CancelEvacuationResponse:
        """Take an evacuation back."""
        with translated():
            return await self._catalog.CancelEvacuation(request, timeout=CALL_SECONDS)

    async def drill(self, request: pb.DrillProvidersRequest) -> pb.DrillProvidersResponse:
        """One page of what would become of files."""
        with translated():
            return await self._catalog.DrillProviders(request, timeout=CALL_SECONDS)

    async def jobs(self, request: pb.ListJobsRequest) -> pb.ListJobsResponse:
        """Work that goes on for long."""
        with translated():
            return await self._catalog.ListJobs(request, timeout=CALL_SECONDS)

    async def _plan(self, name: str, to: Sequence[str], replacement: str) -> exit_pb2.EvacuationPlan:
        """Add up the pages of a plan."""
        whole = exit_pb2.EvacuationPlan()
        request = catalog_service_pb2.PlanEvacuationRequest(name=name, to=to, replacement=replacement)
        gains: dict[str, exit_pb2.PlannedGain] = {}
        while True:
            with translated():
                page = await self._catalog.PlanEvacuation(request, timeout=CALL_SECONDS)
            plan = page.plan
            for field in ("files", "bytes", "only_here", "versions", "calls", "unplaceable", "scarce", "policies"):
                setattr(whole, field, getattr(whole, field) + getattr(plan, field))
            whole.unplaceable_files.extend(plan.unplaceable_files[: _LISTED - len(whole.unplaceable_files)])
            for gain in plan.gains:
                total = gains.setdefault(gain.provider, exit_pb2.PlannedGain(provider=gain.provider))
                total.files += gain.files
                total.bytes += gain.bytes
                total.blocked = gain.blocked
            if not page.next_page_token:
                whole.gains.extend(gains[provider] for provider in sorted(gains))
                return whole
            request.page_token = page.next_page_token

    async def _check(self, plan: exit_pb2.EvacuationPlan, name: str) -> None:
        """Raise PreconditionFailed when the plan cannot come to its end."""
        if plan.unplaceable:
            named = [f"{_spelled(file)} ({file.reason})" for file in plan.unplaceable_files[:_NAMED]]
            more = plan.unplaceable - len(named)
            raise PreconditionFailed(
                f"{name!r} cannot be evacuated: {_files(plan.unplaceable)} may be nowhere else: {', '.join(named)}"
                + (f" and {more} more" if more else "")
                + "; change their policy, add a provider, or see all with --dry-run",
                provider=name,
            )
        if plan.only_here:
            with translated():
                found = await self._catalog.ReadProviders(
                    catalog_service_pb2.ReadProvidersRequest(name=name), timeout=CALL_SECONDS
                )
            if any(one.provider.state == provider_pb2.PROVIDER_STATE_PAUSED for one in found.providers):
                raise PreconditionFailed(
                    f"{name!r} is paused, and only it holds {_files(plan.only_here)}; let it be read with"
                    f" `cdir provider resume {name}`, then evacuate it",
                    provider=name,
                )

    async def _start(self, name: str, to: Sequence[str], replacement: str, *, purge: bool, user: str) -> exit_pb2.Job:
        request = catalog_service_pb2.StartEvacuationRequest(name=name, to=to, replacement=replacement, purge=purge)
        crash_point("evacuate.before_start")
        with translated():
            response = await self._catalog.StartEvacuation(request, timeout=CALL_SECONDS, metadata=user_metadata(user))
        return response.job


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"


def _spelled(file: exit_pb2.PlannedFile) -> str:
    """Return a path as a person types it."""
    return f"@{file.workspace}{file.path}" if file.workspace else file.path
