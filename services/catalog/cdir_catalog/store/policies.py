"""Policies: the rules set on paths, and placement as they ask for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import InvalidArgument, NotFound
from cdir.paths import split_path
from cdir.v1 import directory_service_pb2, entry_pb2
from cdir_catalog.schema import policies
from cdir_catalog.store.copies import OK
from cdir_catalog.store.entries import ancestors, check_path, entry_row
from cdir_catalog.store.ledger import Ledger
from cdir_catalog.store.locks import change_configuration
from cdir_catalog.store.placement import Placement, effective_policy, place
from cdir_catalog.store.placements import place_anew
from cdir_catalog.store.providers import RegisteredProvider, heirs_of, load_providers
from cdir_catalog.store.workspaces import ensure_workspaces, find_workspace

__all__ = ["Placer", "explain_placement", "get_policy", "rename_provider", "set_policy", "unset_policy"]

_FEW_RULES: Final = 64
"""Up to so many rules of a workspace are read whole: asking for those of many paths costs more."""

_ALL = sa.select(policies.c.path, policies.c.policy).where(policies.c.workspace_id == sa.bindparam("workspace"))
_FIRST = _ALL.limit(_FEW_RULES + 1)
_OF_PATHS = _ALL.where(policies.c.path.in_(sa.bindparam("paths", expanding=True)))

_SCALARS: Final = ("copies", "min_copies", "keep_versions", "keep_seconds")
_LISTS: Final = ("providers", "prefer")
_POSITIVE: Final = ("copies", "min_copies")
_NOT_NEGATIVE: Final = ("keep_versions", "keep_seconds")


def rename_provider(policy: entry_pb2.Policy, old: str, new: str) -> bool:
    """Have a rule name another provider instead of one; returns whether it named that one."""
    found = False
    for names in (policy.providers, policy.prefer):
        if old in names:
            found = True
            names[:] = dict.fromkeys(new if name == old else name for name in names)
    return found


class Placer:
    """Places files of one workspace under the providers and rules of this transaction."""

    def __init__(
        self,
        connection: Connection,
        workspace_id: int | None,
        paths: Iterable[str],
        providers: list[RegisteredProvider] | None = None,
        replaced: tuple[str, str] | None = None,
    ) -> None:
        """``replaced`` places as if the rules that name the first provider named the second instead."""
        self.providers = load_providers(connection) if providers is None else providers
        self.by_id = {provider.id: provider for provider in self.providers}
        self._candidates = [provider.candidate for provider in self.providers]
        self._heirs = heirs_of(self.providers)
        self._rules = _load_rules(connection, workspace_id, paths)
        if replaced is not None:
            for policy in self._rules.values():
                rename_provider(policy, *replaced)
        self._policies: dict[str, entry_pb2.Policy] = {}
        self._everywhere: dict[str, Placement] = {}

    def rules(self, path: str) -> list[tuple[str, entry_pb2.Policy]]:
        """Return the rules that hold for ``path``, nearest first."""
        if not self._rules:
            return []
        places = [path, *ancestors(path), *([] if path == "/" else ["/"])]
        return [(place, self._rules[place]) for place in places if place in self._rules]

    def policy(self, path: str) -> entry_pb2.Policy:
        """Return the policy that holds for ``path``, with its defaults."""
        source = path if path in self._rules else split_path(path)[0]
        policy = self._policies.get(source)
        if policy is None:
            policy = self._policies[source] = effective_policy(rule for _, rule in self.rules(source))
        return policy

    def place(self, path: str, holders: Collection[int] = ()) -> Placement:
        """Return where the file at ``path`` should be; ``holders`` are the row ids of providers with a good copy."""
        policy = self.policy(path)
        if policy.HasField("copies"):
            favoured = {heir for holder in holders for heir in self._heirs.get(holder, ())}
            return place(policy, self._candidates, path, holders, favoured)
        # every provider holds it, so all files under one rule are placed alike
        source = path if path in self._rules else split_path(path)[0]
        placement = self._everywhere.get(source)
        if placement is None:
            placement = self._everywhere[source] = place(policy, self._candidates, path)
        return placement


def _load_rules(connection: Connection, workspace_id: int | None, paths: Iterable[str]) -> dict[str, entry_pb2.Policy]:
    if workspace_id is None:
        return {}
    rows = connection.execute(_FIRST, {"workspace": workspace_id}).all()
    if len(rows) > _FEW_RULES:
        wanted = {"/"}
        for path in paths:
            wanted.add(path)
            wanted.update(ancestors(path))
        rows = connection.execute(_OF_PATHS, {"workspace": workspace_id, "paths": sorted(wanted)}).all()
    return {path: entry_pb2.Policy.FromString(policy) for path, policy in rows}


def _filled(placer: Placer, path: str) -> entry_pb2.Policy:
    """Return the policy with what follows from the number of providers filled in as well."""
    policy = entry_pb2.Policy()
    policy.CopyFrom(placer.policy(path))
    placement = placer.place(path)
    if not policy.HasField("copies"):
        policy.copies = len(placement.chosen)
    if not policy.HasField("min_copies"):
        policy.min_copies = placement.min_copies
    return policy


def _own(connection: Connection, workspace_id: int | None, path: str) -> entry_pb2.Policy | None:
    if workspace_id is None:
        return None
    stored = connection.scalar(
        sa.select(policies.c.policy).where(policies.c.workspace_id == workspace_id, policies.c.path == path)
    )
    return None if stored is None else entry_pb2.Policy.FromString(stored)


def get_policy(
    connection: Connection, request: directory_service_pb2.GetPolicyRequest
) -> directory_service_pb2.GetPolicyResponse:
    """DirectoryService.GetPolicy."""
    path = check_path(request.path)
    workspace_id = find_workspace(connection, request.workspace)
    placer = Placer(connection, workspace_id, [path])
    return directory_service_pb2.GetPolicyResponse(
        own=_own(connection, workspace_id, path), effective=_filled(placer, path)
    )


def _check_policy(policy: entry_pb2.Policy, names: set[str]) -> None:
    for number in _POSITIVE:
        if policy.HasField(number) and getattr(policy, number) < 1:
            raise InvalidArgument(f"{number} must be at least 1")
    for limit in _NOT_NEGATIVE:
        if policy.HasField(limit) and getattr(policy, limit) < 0:
            raise InvalidArgument(f"{limit} cannot be negative")
    for provider in [*policy.providers, *policy.prefer]:
        if provider not in names:
            raise NotFound(f"there is no provider {provider!r}", provider=provider)


def set_policy(
    connection: Connection, request: directory_service_pb2.SetPolicyRequest, _author: str
) -> directory_service_pb2.SetPolicyResponse:
    """DirectoryService.SetPolicy."""
    change_configuration(connection)
    rule = request.rule
    path = check_path(rule.path)
    registered = load_providers(connection)
    _check_policy(rule.policy, {provider.name for provider in registered})
    workspace_id = ensure_workspaces(connection, [rule.workspace])[rule.workspace]
    present = _own(connection, workspace_id, path)
    own = entry_pb2.Policy()
    if present is not None:
        own.CopyFrom(present)
    for name in _SCALARS:
        if rule.policy.HasField(name):
            setattr(own, name, getattr(rule.policy, name))
    own.outside_deletion = rule.policy.outside_deletion or own.outside_deletion
    for names in _LISTS:
        if getattr(rule.policy, names):
            own.ClearField(names)
            getattr(own, names).extend(getattr(rule.policy, names))
    if own.HasField("copies") and own.HasField("min_copies") and own.min_copies > own.copies:
        raise InvalidArgument(f"min_copies ({own.min_copies}) cannot be more than copies ({own.copies})")
    stored = own.SerializeToString(deterministic=True)
    condition = sa.and_(policies.c.workspace_id == workspace_id, policies.c.path == path)
    if present is None:
        connection.execute(policies.insert().values(workspace_id=workspace_id, path=path, policy=stored))
    else:
        connection.execute(policies.update().where(condition).values(policy=stored))
    place_anew(connection, workspace_id, path)
    placer = Placer(connection, workspace_id, [path], registered)
    return directory_service_pb2.SetPolicyResponse(own=own, effective=_filled(placer, path))


def unset_policy(
    connection: Connection, request: directory_service_pb2.UnsetPolicyRequest, _author: str
) -> directory_service_pb2.UnsetPolicyResponse:
    """DirectoryService.UnsetPolicy."""
    change_configuration(connection)
    path = check_path(request.path)
    workspace_id = find_workspace(connection, request.workspace)
    if workspace_id is None or _own(connection, workspace_id, path) is None:
        raise NotFound(f"no policy is set on {path!r}", path=path)
    connection.execute(policies.delete().where(policies.c.workspace_id == workspace_id, policies.c.path == path))
    place_anew(connection, workspace_id, path)
    placer = Placer(connection, workspace_id, [path])
    return directory_service_pb2.UnsetPolicyResponse(effective=_filled(placer, path))


def explain_placement(
    connection: Connection, request: directory_service_pb2.ExplainPlacementRequest
) -> directory_service_pb2.ExplainPlacementResponse:
    """DirectoryService.ExplainPlacement."""
    path = check_path(request.path)
    workspace_id = find_workspace(connection, request.workspace)
    placer = Placer(connection, workspace_id, [path])
    row = entry_row(connection, workspace_id, path)
    holders: set[int] = set()
    if row is not None and row.version_row is not None:
        ledger = Ledger(connection, 0)
        ledger.load([row.version_row], lock=False)
        holders = {
            copy.provider_id for copy in ledger.contents[row.version_row].copies if copy.actual == OK and copy.wanted
        }
    placement = placer.place(path, holders)
    chosen = {candidate.id for candidate in placement.chosen}
    policy = _filled(placer, path)
    return directory_service_pb2.ExplainPlacementResponse(
        policy=policy,
        rules=[
            entry_pb2.PolicyRule(workspace=request.workspace, path=place, policy=rule)
            for place, rule in placer.rules(path)
        ],
        reasons=[
            directory_service_pb2.PlacementReason(
                provider=provider.name, chosen=provider.id in chosen, reason=placement.reasons[provider.id]
            )
            for provider in placer.providers
        ],
    )
