"""Objects that lie at a provider become files under the paths that a user gives them; they stay where they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import AlreadyExists, CdirError, Conflict, InvalidPath, IsDirectory, NotFound
from cdir.paths import RESERVED_ROOT_NAME, fold_name, key_of, split_path
from cdir.status import to_failure
from cdir.v1 import scan_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.keys import is_temporary
from cdir_catalog.schema import entries, intents
from cdir_catalog.store.copies import MISSING, Content, Copy
from cdir_catalog.store.entries import Tree, ancestors, check_path, find_entries, find_removed, live, owed_counts
from cdir_catalog.store.intents import check_batch
from cdir_catalog.store.ledger import Ledger
from cdir_catalog.store.listed import Found
from cdir_catalog.store.locks import lock_workspaces
from cdir_catalog.store.outside import Finding, take_over
from cdir_catalog.store.pairs import pairs_table
from cdir_catalog.store.providers import RegisteredProvider, load_providers, provider_by_id
from cdir_catalog.store.workspaces import ensure_workspaces
from cdir_catalog.wire import DIRECTORY, entry_message

__all__ = ["adopt_objects"]


def adopt_objects(
    connection: Connection, request: scan_pb2.AdoptObjectsRequest, _author: str
) -> scan_pb2.AdoptObjectsResponse:
    """CatalogService.AdoptObjects."""
    check_batch(request.objects)
    provider = provider_by_id(connection, request.provider_id)
    if provider is None:
        raise NotFound(f"there is no provider {request.provider_id!r}", provider=request.provider_id)
    workspace_id = ensure_workspaces(connection, [request.workspace])[request.workspace]
    lock_workspaces(connection, [workspace_id])
    adopting = _Adopting(connection, provider, workspace_id, request.workspace, request.objects)
    outcomes = [adopting.outcome(item) for item in request.objects]
    adopting.save()
    adopting.fill(outcomes, request.objects)
    return scan_pb2.AdoptObjectsResponse(outcomes=outcomes)


class _Adopting:
    """The objects of one call: what they can be is decided one by one, then they are taken over together."""

    def __init__(
        self,
        connection: Connection,
        provider: RegisteredProvider,
        workspace_id: int,
        workspace: str,
        items: Sequence[scan_pb2.AdoptedObject],
    ) -> None:
        self._connection = connection
        self._provider = provider
        self._workspace_id = workspace_id
        self._workspace = workspace
        self._ledger = Ledger(connection, now_ns())
        self._findings: dict[str, Finding] = {}
        self._keys: set[str] = set()
        self._parents: set[str] = set()
        """Keys and directories of the findings."""
        self._load({item.object.key for item in items}, [item.path for item in items if _is_path(item.path)])

    def _load(self, keys: set[str], paths: list[str]) -> None:
        connection, workspace_id = self._connection, self._workspace_id
        there = self._ledger.load_keys(keys)
        self._there = {key: there.get((self._provider.id, key), []) for key in keys}
        wanted = dict.fromkeys(paths)
        for path in paths:
            wanted.update(dict.fromkeys(ancestors(path)))
        self._live = find_entries(connection, workspace_id, wanted)
        self._removed = find_removed(connection, workspace_id, [path for path in paths if path not in self._live])
        self._tree = Tree.of(connection, workspace_id, self._live, self._ledger.now)
        written = keys | {key_of(self._workspace, path) for path in paths}
        self._clashes = self._load_clashes(wanted)
        self._writing = set(connection.scalars(sa.select(intents.c.key).where(intents.c.key.in_(written))))

    def _load_clashes(self, paths: Iterable[str]) -> dict[tuple[str, str], str]:
        """Return the names that exist where a new one would differ from them only by case, by (dirname, folded name);
        none when every provider can tell them apart."""
        new = {
            (dirname, fold_name(basename))
            for path in paths
            if path not in self._live
            for dirname, basename in [split_path(path)]
        }
        if not new or all(provider.case_sensitive for provider in load_providers(self._connection)):
            return {}
        wanted = pairs_table(self._connection)
        clashes: dict[tuple[str, str], str] = {}
        for name in (entries.c.basename, entries.c.folded):
            there = wanted.matching(entries, entries.c.dirname, name, self._workspace_id, live)
            query = sa.select(entries.c.dirname, entries.c.basename).select_from(there)
            rows = self._connection.execute(query, wanted.values(new))
            clashes.update({(row.dirname, fold_name(row.basename)): row.basename for row in rows if row.dirname})
        return clashes

    def outcome(self, item: scan_pb2.AdoptedObject) -> scan_pb2.AdoptOutcome:
        """Decide about one object; what it becomes is filled in later."""
        try:
            return scan_pb2.AdoptOutcome(existed=self._take(item))
        except CdirError as error:
            return scan_pb2.AdoptOutcome(failure=to_failure(error))

    def _take(self, item: scan_pb2.AdoptedObject) -> bool:
        """Note what is to be taken over; True when the object is that file already."""
        key, path = item.object.key, check_path(item.path)
        if path == "/":
            raise IsDirectory("/ is a directory; say what the file is to be called", path=path)
        if key.startswith(f"{RESERVED_ROOT_NAME}/") or is_temporary(key):
            raise InvalidPath(f"{key} is cdir's own, or half of a write under way", path=path)
        leftover = self._require_unclaimed(key, path)
        if leftover is None and any(content is not None for _, content in self._there[key]):
            return True
        self._require_free(path)
        if {key, key_of(self._workspace, path)} & self._writing:
            raise Conflict(f"{path} is being written at this moment; add it again in a moment", path=path)
        if leftover is not None:
            leftover.gone = True  # it was to be removed
        self._keys.add(key)
        self._parents.update(ancestors(path))
        self._findings[path] = Finding(
            self._provider,
            Found.of(item.object),
            self._workspace_id,
            self._workspace,
            path,
            removed=self._removed.get(path),
        )
        return False

    def _require_unclaimed(self, key: str, path: str) -> Copy | None:
        """Raise when the object belongs to another file, or is being worked on; return the row that lets it go."""
        leftover = None
        for copy, content in self._there[key]:
            if copy.actual == MISSING and content is not None:
                continue
            if content is None:
                if copy.leased(self._ledger.now):
                    raise Conflict(f"{key} is being cleared away at this moment; look what is left of it", path=path)
                leftover = copy
            elif not self._is_file(content, path):
                older = "" if content.current else " of an older content"
                raise AlreadyExists(
                    f"{key} is the copy{older} of {content.path} already; use `cdir mv` to rename that", path=path
                )
        if key in self._keys:
            raise AlreadyExists(f"{key} was given another path in the same call", path=path)
        return leftover

    def _is_file(self, content: Content, path: str) -> bool:
        return content.current and (content.workspace_id, content.path) == (self._workspace_id, path)

    def _require_free(self, path: str) -> None:
        """Raise unless a file can be made at a path."""
        self._tree.check_parents(path)
        row = self._live.get(path)
        if row is not None and row.kind == DIRECTORY:
            raise IsDirectory(f"{path} is a directory; say what the file is to be called", path=path)
        if row is not None or path in self._findings:
            raise AlreadyExists(f"{path} exists already; choose another path, or remove it first", path=path)
        for place in [path, *ancestors(path)]:
            dirname, basename = split_path(place)
            other = self._clashes.get((dirname, fold_name(basename)))
            if other is not None and place not in self._live:
                raise AlreadyExists(
                    f"{place!r} differs only by case from {other!r}; not every provider can tell", path=path
                )
        if path in self._parents or any(parent in self._findings for parent in ancestors(path)):
            raise AlreadyExists(f"{path} would be both a file and a directory", path=path)

    def save(self) -> None:
        """Take everything over that was noted."""
        take_over(self._ledger, list(self._findings.values()))
        self._ledger.save()

    def fill(self, outcomes: Sequence[scan_pb2.AdoptOutcome], items: Sequence[scan_pb2.AdoptedObject]) -> None:
        """Write the entries as they are now into the outcomes that are no failures."""
        good = {
            item.path: outcome for item, outcome in zip(items, outcomes, strict=True) if not outcome.HasField("failure")
        }
        rows: dict[str, Any] = find_entries(self._connection, self._workspace_id, good)
        owed = owed_counts(self._connection, [row.version_row for row in rows.values()])
        for path, row in rows.items():
            good[path].entry.CopyFrom(entry_message(self._workspace, row, owed.get(row.version_row, 0)))


def _is_path(path: str) -> bool:
    try:
        return bool(check_path(path))
    except InvalidPath:
        return False
