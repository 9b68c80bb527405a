"""What an evacuation would do: one page of a provider's copies after the other, each placed as if it had left."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import InvalidArgument
from cdir.v1 import catalog_service_pb2, entry_pb2, exit_pb2, provider_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.schema import policies, replicas
from cdir_catalog.store.copies import OK, Content
from cdir_catalog.store.evacuation import blocked_reason, check_targets
from cdir_catalog.store.ledger import Ledger
from cdir_catalog.store.placement import Candidate
from cdir_catalog.store.policies import Placer, rename_provider
from cdir_catalog.store.providers import RegisteredProvider, load_providers

__all__ = ["plan_evacuation", "row_token"]

_PAGE = 1000
_LISTED = 20
_BLOCK_SIZE = 4 * 1024 * 1024
"""What one call reads of a larger file."""


def row_token(token: str) -> int:
    """Return the row id after which a page begins."""
    if not token:
        return 0
    if not (token.isascii() and token.isdecimal()):
        raise InvalidArgument("the page_token is none that an earlier page returned")
    return int(token)


def plan_evacuation(
    connection: Connection, request: catalog_service_pb2.PlanEvacuationRequest
) -> catalog_service_pb2.PlanEvacuationResponse:
    """CatalogService.PlanEvacuation."""
    after = row_token(request.page_token)
    registered = load_providers(connection)
    provider, targets = check_targets(registered, request.name, request.to, request.replacement)
    planning = _Planning(connection, registered, provider, targets, request)
    rows = connection.execute(
        sa.select(replicas.c.id, replicas.c.version_id)
        .where(replicas.c.id > after, replicas.c.provider_id == provider.id, replicas.c.version_id.is_not(None))
        .order_by(replicas.c.id)
        .limit(_PAGE)
    ).all()
    planning.take([row.version_id for row in rows])
    if not after:
        planning.count_policies()
    token = str(rows[-1].id) if len(rows) == _PAGE else ""
    return catalog_service_pb2.PlanEvacuationResponse(plan=planning.plan(), next_page_token=token)


class _Planning:
    """One page of a plan."""

    def __init__(
        self,
        connection: Connection,
        registered: list[RegisteredProvider],
        provider: RegisteredProvider,
        targets: list[RegisteredProvider],
        request: catalog_service_pb2.PlanEvacuationRequest,
    ) -> None:
        self._connection = connection
        self._provider = provider
        self._allowed = {one.id for one in targets} if request.to else None
        self._replaced = (provider.name, request.replacement) if request.replacement else None
        record = provider_pb2.Provider()
        record.CopyFrom(provider.record)
        leaving = exit_pb2.ProviderExit(state=exit_pb2.EXIT_STATE_LEAVING, to=[one.provider_id for one in targets])
        record.exit.CopyFrom(leaving)
        left = dataclasses.replace(provider, record=record)
        self._registered = [left if one.id == provider.id else one for one in registered]
        self._by_id = {one.id: one for one in self._registered}
        self._gains: dict[int, list[int]] = defaultdict(lambda: [0, 0])
        self._plan = exit_pb2.EvacuationPlan()

    def take(self, version_ids: list[int]) -> None:
        """Plan for these versions, by row id."""
        ledger = Ledger(self._connection, now_ns())
        ledger.load(version_ids, lock=False)
        by_workspace: dict[int, list[Content]] = defaultdict(list)
        for content in ledger.contents.values():
            by_workspace[content.workspace_id].append(content)
        for workspace_id, contents in by_workspace.items():
            paths = [content.path for content in contents]
            placer = Placer(self._connection, workspace_id, paths, self._registered, self._replaced)
            for content in contents:
                if content.current:
                    self._take_file(content, placer)
                else:
                    self._take_version(content)

    def _take_file(self, content: Content, placer: Placer) -> None:
        plan = self._plan
        here = content.at(self._provider.id)
        if here is None or not (here.wanted or here.actual == OK):
            return
        plan.files += 1
        plan.bytes += content.size
        holders = {copy.provider_id for copy in content.copies if copy.actual == OK}
        if holders == {self._provider.id}:
            plan.only_here += 1
        policy = placer.policy(content.path)
        chosen = placer.place(content.path, holders).chosen
        reason = self._hindrance(content, policy, chosen, holders)
        if reason:
            plan.unplaceable += 1
            if len(plan.unplaceable_files) < _LISTED:
                plan.unplaceable_files.add(workspace=content.workspace, path=content.path, reason=reason)
            return
        if policy.HasField("copies") and len(chosen) < policy.copies:
            plan.scarce += 1
        for candidate in chosen:
            if candidate.id not in holders:
                gain = self._gains[candidate.id]
                gain[0] += 1
                gain[1] += content.size
                plan.calls += _calls(content.size)

    def _hindrance(
        self, content: Content, policy: entry_pb2.Policy, chosen: tuple[Candidate, ...], holders: set[int]
    ) -> str:
        """Say why a file cannot be kept without the provider; empty when it can."""
        if not chosen:
            return "its policy allows no other provider" if policy.providers else "there is no other provider"
        if not any(one.id in holders or self._by_id[one.id].writable for one in chosen):
            names = ", ".join(f"{one.name} ({blocked_reason(self._by_id[one.id])})" for one in chosen)
            return f"it may only be at {names}"
        if self._allowed is None or not policy.HasField("copies"):
            return ""
        owed = {copy.provider_id for copy in content.copies if copy.wanted}
        strangers = [one.name for one in chosen if one.id not in holders | self._allowed | owed]
        return f"it would also need {', '.join(strangers)} to have as many copies as it should" if strangers else ""

    def _take_version(self, content: Content) -> None:
        here = content.at(self._provider.id)
        if here is None or here.actual != OK or not any(copy.wanted for copy in content.copies):
            return
        if not any(copy.actual == OK and copy.wanted and copy is not here for copy in content.copies):
            self._plan.versions += 1
            self._plan.calls += _calls(content.size)

    def count_policies(self) -> None:
        """Count the rules that name the provider."""
        rules = self._connection.scalars(sa.select(policies.c.policy))
        self._plan.policies = sum(
            rename_provider(entry_pb2.Policy.FromString(rule), self._provider.name, "") for rule in rules
        )

    def plan(self) -> exit_pb2.EvacuationPlan:
        """Return what was planned."""
        for row_id, (files, size) in self._gains.items():
            provider = self._by_id[row_id]
            self._plan.gains.add(provider=provider.name, files=files, bytes=size, blocked=blocked_reason(provider))
        return self._plan


def _calls(size: int) -> int:
    """Return about how many calls it takes to copy a file: reads, a block each, and one write."""
    return max(1, -(-size // _BLOCK_SIZE)) + 1
