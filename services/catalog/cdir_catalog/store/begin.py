"""BeginWrites: who may write what, and where to."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import (
    AlreadyExists,
    CdirError,
    Conflict,
    InvalidArgument,
    IsDirectory,
    PreconditionFailed,
    Retry,
)
from cdir.paths import fold_name, key_of, split_path
from cdir.status import to_failure
from cdir.v1 import catalog_service_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.schema import entries, intents
from cdir_catalog.store.acls import inherited, root_acl
from cdir_catalog.store.copies import OK
from cdir_catalog.store.entries import Tree, ancestors, check_path, find_entries, find_removed, live
from cdir_catalog.store.intents import check_batch, check_owner, lease_end, target_ids, targets_text, undo
from cdir_catalog.store.ledger import Ledger
from cdir_catalog.store.locks import lock_workspaces
from cdir_catalog.store.occupancy import Occupancy
from cdir_catalog.store.pairs import pairs_table
from cdir_catalog.store.placement import Placement
from cdir_catalog.store.policies import Placer
from cdir_catalog.store.providers import load_providers
from cdir_catalog.store.workspaces import ensure_workspaces
from cdir_catalog.wire import DIRECTORY, from_timestamp

__all__ = ["begin_writes"]


class _UnderWay(NamedTuple):
    """A write to ``path`` that has begun; its owner shows that it lives by moving ``lease_until``."""

    path: str
    owner: str
    lease_until: int


@dataclass(slots=True)
class _Wish:
    """One intent of the request that has a valid path."""

    index: int
    intent: catalog_service_pb2.WriteIntent
    key: str
    folded: str


_INSERT = intents.insert()
_UNDER_WAY = sa.select(intents).where(
    intents.c.workspace_id == sa.bindparam("workspace"), intents.c.folded.in_(sa.bindparam("paths", expanding=True))
)


def begin_writes(
    connection: Connection, request: catalog_service_pb2.BeginWritesRequest, author: str
) -> catalog_service_pb2.BeginWritesResponse:
    """CatalogService.BeginWrites."""
    owner = check_owner(request.owner)
    check_batch(request.intents)
    now = now_ns()
    until = lease_end(now, request.lease_seconds)
    results: list[catalog_service_pb2.BegunWrite | None] = [None] * len(request.intents)
    by_workspace: dict[str, list[_Wish]] = {}
    for index, intent in enumerate(request.intents):
        try:
            wish = _wish(index, intent)
        except CdirError as error:
            results[index] = _failed(error)
        else:
            by_workspace.setdefault(intent.workspace, []).append(wish)
    ids = ensure_workspaces(connection, by_workspace)
    lock_workspaces(connection, ids.values())
    rows: list[dict[str, Any]] = []
    for workspace, wishes in by_workspace.items():
        _Beginning(connection, ids[workspace], wishes, owner, author, now, until).run(results, rows)
    if rows:
        connection.execute(_INSERT, rows)
    return catalog_service_pb2.BeginWritesResponse(results=[result for result in results if result is not None])


def _failed(error: CdirError) -> catalog_service_pb2.BegunWrite:
    return catalog_service_pb2.BegunWrite(failure=to_failure(error))


def _wish(index: int, intent: catalog_service_pb2.WriteIntent) -> _Wish:
    path = check_path(intent.path)
    if path == "/":
        raise IsDirectory("'/' is a directory", path=path)
    if intent.sha256 and len(intent.sha256) != 32:
        raise InvalidArgument("sha256 has 32 bytes", path=path)
    if intent.size < 0:
        raise InvalidArgument("a size cannot be negative", path=path)
    return _Wish(index, intent, key_of(intent.workspace, path), fold_name(path))


class _Beginning:
    """The wishes of one workspace, judged against its state in this transaction."""

    def __init__(
        self,
        connection: Connection,
        workspace_id: int,
        wishes: list[_Wish],
        owner: str,
        author: str,
        now: int,
        until: int,
    ) -> None:
        self._connection = connection
        self._workspace_id = workspace_id
        self._wishes = wishes
        self._owner, self._author = owner, author
        self._now, self._until = now, until
        paths = [wish.intent.path for wish in wishes]
        self._present = self._live_intents()
        wanted = dict.fromkeys(paths)
        for path in paths:
            wanted.update(dict.fromkeys(ancestors(path)))
        self._found = find_entries(connection, workspace_id, wanted)
        self._tree = Tree.of(connection, workspace_id, self._found, now)
        self._removed = find_removed(connection, workspace_id, [path for path in paths if path not in self._found])
        self._placer = Placer(connection, workspace_id, paths)
        self._holders = self._load_holders()
        self._occupancy = Occupancy(connection, [wish.key for wish in wishes], now)
        self._clashes = self._load_clashes()
        self._root_acl = root_acl(connection, workspace_id)

    def run(self, results: list[catalog_service_pb2.BegunWrite | None], rows: list[dict[str, Any]]) -> None:
        """Judge each wish; append the rows of those granted."""
        for wish in self._wishes:
            try:
                results[wish.index] = self._begin(wish, rows)
            except CdirError as error:
                results[wish.index] = _failed(error)

    # -- what is there ------------------------------------------------------------------------------------------------

    def _live_intents(self) -> dict[str, _UnderWay]:
        """Return the writes under way, by folded path; intents that have lapsed are undone here."""
        wanted = {"workspace": self._workspace_id, "paths": sorted({wish.folded for wish in self._wishes})}
        present: dict[str, _UnderWay] = {}
        lapsed = []
        paths = {wish.intent.path for wish in self._wishes}
        for row in self._connection.execute(_UNDER_WAY, wanted):
            if row.lease_until <= self._now and row.path in paths:
                lapsed.append(row)
            else:
                present[row.folded] = _UnderWay(row.path, row.owner, row.lease_until)
        if lapsed:
            registered = {provider.id for provider in load_providers(self._connection)}
            ledger = Ledger(self._connection, self._now)
            undo(ledger, [(row, registered.intersection(target_ids(row))) for row in lapsed])
            ledger.save()
        return present

    def _load_holders(self) -> dict[int, set[int]]:
        """Return which providers hold the current content, where the choice depends on it; by version row."""
        chosen = [
            self._found[wish.intent.path].version_row
            for wish in self._wishes
            if wish.intent.path in self._found and self._placer.policy(wish.intent.path).HasField("copies")
        ]
        ledger = Ledger(self._connection, self._now)
        ledger.load([row for row in chosen if row is not None], lock=False)
        return {
            row_id: {copy.provider_id for copy in content.copies if copy.actual == OK and copy.wanted}
            for row_id, content in ledger.contents.items()
        }

    def _load_clashes(self) -> dict[tuple[str, str], str]:
        """Return names that a provider without case could mix up with a new one, by (dirname, folded name)."""
        if all(provider.case_sensitive for provider in self._placer.providers):
            return {}
        new: set[tuple[str, str]] = set()
        for wish in self._wishes:
            for path in [wish.intent.path, *ancestors(wish.intent.path)]:
                if path not in self._found:
                    dirname, basename = split_path(path)
                    new.add((dirname, fold_name(basename)))
        if not new:
            return {}
        clashes: dict[tuple[str, str], str] = {}
        wanted = pairs_table(self._connection)
        for name in (entries.c.basename, entries.c.folded):
            found = wanted.matching(entries, entries.c.dirname, name, self._workspace_id, live)
            query = sa.select(entries.c.dirname, entries.c.basename).select_from(found)
            rows = self._connection.execute(query, wanted.values(new))
            clashes.update({(row.dirname, fold_name(row.basename)): row.basename for row in rows if row.dirname})
        return clashes

    # -- judging ------------------------------------------------------------------------------------------------------

    def _begin(self, wish: _Wish, rows: list[dict[str, Any]]) -> catalog_service_pb2.BegunWrite:
        intent, path = wish.intent, wish.intent.path
        self._tree.check_parents(path)
        row = self._found.get(path)
        if row is not None and row.kind == DIRECTORY:
            raise IsDirectory(f"{path!r} is a directory", path=path)
        current: int = row.generation if row is not None else 0
        base = intent.base_generation if intent.HasField("base_generation") else None
        if base is not None and base != current:
            raise Conflict(f"{path!r} is at generation {current}, not {base}; read it again", path=path)
        writing = self._present.get(wish.folded)
        if writing is not None and writing.path == path:
            raise Conflict(
                f"another write to {path!r} is under way",
                path=path,
                generation=str(current),
                writer=writing.owner,
                lease=str(writing.lease_until),
            )
        holders = self._holders.get(row.version_row, ()) if row is not None else ()
        placement = self._placer.place(path, holders)
        if not placement.chosen:
            raise PreconditionFailed(
                f"no provider is registered for {path!r}; add one with 'cdir provider add'", path=path
            )
        self._check_case(wish, placement)
        targets = [self._occupancy.target(self._placer.by_id[candidate.id], wish.key) for candidate in placement.chosen]
        self._check_targets(path, placement, targets)
        acl = row.acl if row is not None else inherited(path, self._found, self._root_acl)
        if acl is not None:
            for target in targets:
                target.acl.MergeFromString(acl)
        last: int = current if row is not None else getattr(self._removed.get(path), "generation", None) or 0
        version_id = uuid.uuid4().hex
        self._present[wish.folded] = _UnderWay(path, self._owner, self._until)
        rows.append(
            {
                "version_id": version_id,
                "workspace_id": self._workspace_id,
                "path": path,
                "folded": wish.folded,
                "key": wish.key,
                "base_generation": base,
                "generation": last + 1,
                "min_copies": placement.min_copies,
                "targets": targets_text(tuple([candidate.id for candidate in placement.chosen])),
                "size": intent.size,
                "sha256": intent.sha256,
                "modified_at": from_timestamp(intent.modified),
                "author": self._author,
                "conflict_of": intent.conflict_of or None,
                "owner": self._owner,
                "lease_until": self._until,
            }
        )
        return catalog_service_pb2.BegunWrite(
            version_id=version_id, generation=last + 1, min_copies=placement.min_copies, targets=targets
        )

    def _check_case(self, wish: _Wish, placement: Placement) -> None:
        """Refuse a name that differs only by case from another, when a provider of the file cannot tell them apart."""
        path = wish.intent.path
        blind = next(
            (one for candidate in placement.chosen if not (one := self._placer.by_id[candidate.id]).case_sensitive),
            None,
        )
        if blind is None:
            return
        for place in [path, *ancestors(path)]:
            if place in self._found:
                break
            dirname, basename = split_path(place)
            other = self._clashes.get((dirname, fold_name(basename)))
            if other is not None and other != basename:
                raise AlreadyExists(
                    f"{place!r} differs only by case from {other!r}, and {blind.name!r} cannot tell them apart",
                    path=place,
                    provider=blind.name,
                )
        writing = self._present.get(wish.folded)
        if writing is not None and writing.path != path:
            raise AlreadyExists(
                f"{path!r} differs only by case from {writing.path!r}, and {blind.name!r} cannot tell them apart",
                path=path,
                provider=blind.name,
            )

    def _check_targets(self, path: str, placement: Placement, targets: list[catalog_service_pb2.WriteTarget]) -> None:
        """Refuse for the moment when too few providers are free because copies of the path are being worked on."""
        writable = sum(target.writable for target in targets)
        possible = sum(self._placer.by_id[candidate.id].writable for candidate in placement.chosen)
        if writable < placement.min_copies and writable < possible:
            raise Conflict(
                f"a copy of {path!r} is being moved or checked at this moment; try again in a second",
                retry=Retry.LATER,
                retry_after=1.0,
                path=path,
            )
