"""CommitWrites: intents become current versions."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import CdirError, Conflict, InvalidArgument
from cdir.paths import split_path
from cdir.status import to_failure
from cdir.v1 import catalog_service_pb2, entry_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.keys import aside_key
from cdir_catalog.schema import entries, intents, versions, workspaces
from cdir_catalog.store.acls import adopt_history, inherited, root_acl
from cdir_catalog.store.copies import MISSING, UNKNOWN, Content, Copy, owe
from cdir_catalog.store.entries import (
    Tree,
    ancestors,
    entries_with_content,
    entry_with_owed,
    find_entries,
    find_removed,
    folded,
)
from cdir_catalog.store.intents import check_batch
from cdir_catalog.store.ledger import ChangeRow, Ledger
from cdir_catalog.store.locks import lock_workspaces
from cdir_catalog.store.policies import Placer
from cdir_catalog.store.providers import load_providers
from cdir_catalog.store.retention import trim_versions
from cdir_catalog.store.workspaces import reserve_ids
from cdir_catalog.wire import DIRECTORY, FILE, from_timestamp

__all__ = ["commit_writes"]


_INTENTS = (
    sa.select(intents, workspaces.c.name.label("workspace"))
    .join(workspaces, workspaces.c.id == intents.c.workspace_id)
    .where(intents.c.version_id.in_(sa.bindparam("ids", expanding=True)))
)
_INSERT = versions.insert()
_INSERT_ENTRIES = entries.insert()
_SET_VERSION = entries.update().where(entries.c.id == sa.bindparam("row"))


_FORGET_INTENTS = intents.delete().where(intents.c.version_id.in_(sa.bindparam("ids", expanding=True)))


def commit_writes(
    connection: Connection, request: catalog_service_pb2.CommitWritesRequest, _author: str
) -> catalog_service_pb2.CommitWritesResponse:
    """CatalogService.CommitWrites."""
    check_batch(request.commitments)
    ids = [commitment.version_id for commitment in request.commitments]
    found = connection.execute(_INTENTS, {"ids": ids}).all()
    lock_workspaces(connection, {row.workspace_id for row in found})
    if connection.dialect.name == "postgresql":
        found = connection.execute(_INTENTS, {"ids": ids}).all()  # as they are now that nobody else can change them
    present = {row.version_id: row for row in found}
    by_workspace: dict[int, list[tuple[int, Any, catalog_service_pb2.WriteCommitment]]] = defaultdict(list)
    results: list[catalog_service_pb2.CommittedWrite | None] = [None] * len(ids)
    seen: set[str] = set()
    for index, commitment in enumerate(request.commitments):
        row = present.get(commitment.version_id)
        if row is not None and commitment.version_id not in seen:
            seen.add(commitment.version_id)
            by_workspace[row.workspace_id].append((index, row, commitment))
    for workspace_id, items in by_workspace.items():
        _Commit(connection, workspace_id, items).run(results)
    _answer_committed(connection, request, results)
    return catalog_service_pb2.CommitWritesResponse(results=[result for result in results if result is not None])


def _answer_committed(
    connection: Connection,
    request: catalog_service_pb2.CommitWritesRequest,
    results: list[catalog_service_pb2.CommittedWrite | None],
) -> None:
    """Answer for those without an intent: committed before, or gone."""
    rest = [index for index, result in enumerate(results) if result is None]
    if not rest:
        return
    ids = {request.commitments[index].version_id for index in rest}
    committed = sa.select(versions.c.version_id, versions.c.entry_id).where(versions.c.version_id.in_(ids))
    entry_of = {row.version_id: row.entry_id for row in connection.execute(committed)}
    query = (
        entries_with_content()
        .add_columns(workspaces.c.name.label("workspace"))
        .join(workspaces, workspaces.c.id == entries.c.workspace_id)
        .where(entries.c.id.in_(set(entry_of.values())))
    )
    rows = {row.id: row for row in connection.execute(query)}
    for index in rest:
        version_id = request.commitments[index].version_id
        row = rows.get(entry_of.get(version_id, 0))
        if row is None:
            error = Conflict("this write is not under way any more: its lease lapsed, or it was given up; write again")
            results[index] = catalog_service_pb2.CommittedWrite(failure=to_failure(error))
        else:
            results[index] = catalog_service_pb2.CommittedWrite(entry=entry_with_owed(connection, row.workspace, row))


class _Commit:
    """The commitments of one workspace in this transaction."""

    def __init__(
        self,
        connection: Connection,
        workspace_id: int,
        items: list[tuple[int, Any, catalog_service_pb2.WriteCommitment]],
    ) -> None:
        self._connection = connection
        self._workspace_id = workspace_id
        self._items = items
        self._now = now_ns()
        paths = [row.path for _, row, _ in items]
        wanted = dict.fromkeys(paths)
        for path in paths:
            wanted.update(dict.fromkeys(ancestors(path)))
        self._found = find_entries(connection, workspace_id, wanted)
        self._removed = find_removed(connection, workspace_id, [path for path in paths if path not in self._found])
        self._tree = Tree.of(connection, workspace_id, self._found, self._now)
        self._placer = Placer(connection, workspace_id, paths, load_providers(connection))
        self._row_ids = {provider.provider_id: provider.id for provider in self._placer.providers}
        self._ledger = Ledger(connection, self._now)
        self._there = self._ledger.load_keys(row.key for _, row, _ in items)
        self._ledger.load(
            row.version_row for path in paths if (row := self._found.get(path)) is not None and row.kind == FILE
        )
        self._overwritten: list[tuple[int, str]] = []
        root = root_acl(connection, workspace_id)
        self._acls = {
            path: present.acl if (present := self._found.get(path)) is not None else inherited(path, self._found, root)
            for path in paths
        }

    def run(self, results: list[catalog_service_pb2.CommittedWrite | None]) -> None:
        """Commit each; one that fails leaves no trace."""
        accepted = []
        for index, row, commitment in self._items:
            try:
                self._accept(row, commitment)
            except CdirError as error:
                results[index] = catalog_service_pb2.CommittedWrite(failure=to_failure(error))
            else:
                accepted.append((index, row, commitment))
        if not accepted:
            return
        self._tree.save()
        entry_ids = self._save_entries([row for _, row, _ in accepted])
        contents = self._save_versions(accepted, entry_ids)
        for (_, row, commitment), content in zip(accepted, contents, strict=True):
            self._place(row, commitment, content)
        self._ledger.settle()
        for (index, row, commitment), content in zip(accepted, contents, strict=True):
            results[index] = catalog_service_pb2.CommittedWrite(entry=self._entry(row, commitment, content))
        self._connection.execute(_FORGET_INTENTS, {"ids": [row.version_id for _, row, _ in accepted]})
        self._ledger.save()
        trim_versions(
            self._connection,
            {entry_id: self._placer.policy(path).keep_versions for entry_id, path in self._overwritten},
            self._now,
        )

    # -- checking -----------------------------------------------------------------------------------------------------

    def _accept(self, row: Any, commitment: catalog_service_pb2.WriteCommitment) -> None:
        """Check everything, then take the path and its parents; nothing fails afterwards."""
        path = row.path
        if len(commitment.sha256) != 32 or commitment.size < 0 or len(commitment.block_digests) % 32:
            raise InvalidArgument(f"the size or a digest of {path!r} is malformed", path=path)
        stored = {copy.provider_id for copy in commitment.stored if copy.provider_id in self._row_ids}
        # a provider that was dropped meanwhile holds no copy, and fewer may be needed without it
        needed = min(row.min_copies, max(1, len(self._row_ids)))
        if len(stored) < needed:
            raise InvalidArgument(
                f"{path!r} has {len(stored)} durable copies; its policy wants at least {needed}", path=path
            )
        present = self._found.get(path)
        current = 0 if present is None or present.kind == DIRECTORY else present.generation
        if self._tree.kind(path) == DIRECTORY:
            raise Conflict(f"{path!r} became a directory meanwhile", path=path)
        if row.base_generation is not None and row.base_generation != current:
            raise Conflict(
                f"{path!r} is at generation {current}, no longer {row.base_generation}; read it again", path=path
            )
        try:
            self._tree.check_parents(path)
        except CdirError as error:
            raise Conflict(error.message, path=path) from error
        self._tree.make_parents(path, self._ledger, row.author)
        self._tree.add_file(path)

    # -- writing ------------------------------------------------------------------------------------------------------

    def _save_entries(self, rows: list[Any]) -> list[int]:
        """Insert or revive the entries; returns their row ids."""
        new = [row for row in rows if row.path not in self._found and row.path not in self._removed]
        reserved = iter(reserve_ids(self._connection, entries, len(new)))
        ids: list[int] = []
        inserted: list[dict[str, Any]] = []
        revived: list[dict[str, Any]] = []
        for row in rows:
            if (present := self._found.get(row.path)) is not None:
                ids.append(present.id)
                continue
            if (removed := self._removed.get(row.path)) is not None:
                ids.append(removed.id)
                revived.append({"row": removed.id, "mark": row.conflict_of, "list": self._acls[row.path]})
                continue
            dirname, basename = split_path(row.path)
            ids.append(next(reserved))
            inserted.append(
                {
                    "id": ids[-1],
                    "workspace_id": self._workspace_id,
                    "dirname": dirname,
                    "basename": basename,
                    "folded": folded(basename),
                    "kind": FILE,
                    "author": row.author,
                    "created_at": self._now,
                    "conflict_of": row.conflict_of,
                    "acl": self._acls[row.path],
                }
            )
        if inserted:
            self._connection.execute(_INSERT_ENTRIES, inserted)
        if revived:
            self._connection.execute(
                entries.update()
                .where(entries.c.id == sa.bindparam("row"))
                .values(
                    removed_at=None,
                    removed_by=None,
                    conflict_of=sa.bindparam("mark"),
                    acl=sa.bindparam("list"),
                    created_at=self._now,
                ),
                revived,
            )
            for row in rows:
                removed = None if row.path in self._found else self._removed.get(row.path)
                if removed is not None and removed.acl != self._acls[row.path]:
                    adopt_history(self._ledger, removed.id, self._acls[row.path])
        return ids

    def _generation(self, path: str) -> int:
        last = self._found.get(path) or self._removed.get(path)
        return 1 if last is None else (last.generation or 0) + 1

    def _save_versions(
        self, accepted: list[tuple[int, Any, catalog_service_pb2.WriteCommitment]], entry_ids: list[int]
    ) -> list[Content]:
        version_ids = reserve_ids(self._connection, versions, len(accepted))
        inserted = []
        contents = []
        for (_, row, commitment), entry_id, row_id in zip(accepted, entry_ids, version_ids, strict=True):
            dirname, basename = split_path(row.path)
            inserted.append(
                {
                    "id": row_id,
                    "version_id": row.version_id,
                    "entry_id": entry_id,
                    "generation": self._generation(row.path),
                    "size": commitment.size,
                    "modified_at": from_timestamp(commitment.modified),
                    "sha256": commitment.sha256,
                    "block_digests": commitment.block_digests,
                    "author": row.author,
                    "committed_at": self._now,
                }
            )
            contents.append(
                Content(
                    row_id,
                    row.version_id,
                    entry_id,
                    self._workspace_id,
                    row.workspace,
                    dirname,
                    basename,
                    commitment.size,
                    current=True,
                    acl=self._acls[row.path],
                )
            )
        self._connection.execute(_INSERT, inserted)
        self._connection.execute(
            _SET_VERSION,
            [{"row": one.entry_id, "version_id": one.id} for one in contents],
        )
        return contents

    def _place(self, row: Any, commitment: catalog_service_pb2.WriteCommitment, content: Content) -> None:
        """Record the copies of the new content and what becomes of those of the older one."""
        ledger, now = self._ledger, self._now
        size = commitment.size
        present = self._found.get(row.path)
        if present is not None:
            self._supersede(present, row.path)
            size -= present.size
            ledger.count_files(self._workspace_id, 0, size)
        else:
            ledger.count_files(self._workspace_id, 1, size)
        stored = {
            self._row_ids[copy.provider_id]: copy for copy in commitment.stored if copy.provider_id in self._row_ids
        }
        writing = {self._row_ids[one] for one in commitment.writing if one in self._row_ids} - stored.keys()
        failed = {self._row_ids[one] for one in commitment.touched if one in self._row_ids} - stored.keys() - writing
        touched = failed | writing
        wanted = {candidate.id for candidate in self._placer.place(row.path, stored.keys()).chosen}
        for provider in sorted(wanted | stored.keys() | touched):
            copy = Copy(None, self._workspace_id, content.id, provider, row.key, wanted=int(provider in wanted))
            if provider in stored:
                copy.mark_ok(now, stored[provider].etag, stored[provider].checksum)
                if stored[provider].HasField("acl"):
                    copy.take_acl(stored[provider].acl)
            elif provider in touched:
                copy.actual = UNKNOWN
            if provider in writing:
                copy.lease_owner, copy.lease_until = row.owner, row.lease_until
                copy.lease_kind, copy.lease_key = catalog_service_pb2.DEBT_KIND_COPY, row.key
                copy.due_at = copy.lease_until
            content.copies.append(copy)
            if provider in stored or provider in touched:
                self._clear_way(provider, row.key, overwritten=provider in stored)
        ledger.add_content(content)
        ledger.log(
            self._workspace_id,
            ChangeRow(entry_pb2.CHANGE_KIND_WRITTEN, row.path, FILE, self._generation(row.path), row.author),
        )

    def _supersede(self, present: Any, path: str) -> None:
        policy = self._placer.policy(path)
        older = self._ledger.contents[present.version_row]
        self._ledger.supersede(older, policy.keep_seconds if policy.keep_versions > 0 else None)
        self._overwritten.append((present.id, path))

    def _clear_way(self, provider: int, key: str, *, overwritten: bool) -> None:
        """Note that what was recorded at the key was moved aside by the writer, or may have been."""
        for copy, other in self._there.get((provider, key), []):
            if other is None:
                copy.gone = copy.gone or overwritten  # the leftover's bytes were replaced
            elif copy.actual != MISSING:
                aside = aside_key(other.version_id)
                copy.mark_displaced(aside)
                if overwritten:
                    copy.key, copy.move_to = aside, None
                owe(copy, True, self._now)

    def _entry(self, row: Any, commitment: catalog_service_pb2.WriteCommitment, content: Content) -> entry_pb2.Entry:
        present = self._found.get(row.path)
        return entry_pb2.Entry(
            workspace=row.workspace,
            path=row.path,
            kind=FILE,
            size=commitment.size,
            modified=commitment.modified,
            sha256=commitment.sha256,
            generation=self._generation(row.path),
            version_id=row.version_id,
            owed=sum(copy.owed for copy in content.copies if copy.wanted),
            author=row.author,
            conflict_of=row.conflict_of if present is None else present.conflict_of,
        )
