"""The audit: does the catalog keep its own rules?

Everything is read on one snapshot, a page at a time, and nothing is changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import InvalidArgument
from cdir.paths import join_path, split_path
from cdir.v1 import check_pb2
from cdir_catalog.clock import SECOND, now_ns
from cdir_catalog.schema import changes, counters, entries, intents, providers, replicas, versions, workspaces
from cdir_catalog.store.copies import (
    LEFTOVER_CONTRIBUTION,
    OK,
    QUARANTINE_ATTEMPTS,
    Content,
    Contribution,
    Copy,
    contribution,
    settle,
)
from cdir_catalog.store.entries import live
from cdir_catalog.store.ledger import COPY_COLUMNS, Ledger, copy_of
from cdir_catalog.store.pairs import pairs_table
from cdir_catalog.wire import DIRECTORY, FILE

__all__ = ["audit_catalog"]

_EXAMPLES: Final = 20
_PAGE: Final = 2000
_LAPSED_GRACE: Final = 60 * SECOND
"""How long a lapsed write may wait for whoever finishes or undoes it."""


def audit_catalog(connection: Connection, request: check_pb2.AuditCatalogRequest) -> check_pb2.AuditCatalogResponse:
    """CatalogService.AuditCatalog."""
    if request.examples < 0:
        raise InvalidArgument("examples cannot be negative")
    audit = _Audit(connection, request.examples or _EXAMPLES)
    for rule in (
        audit.check_directories,
        audit.check_current,
        audit.check_copies,
        audit.check_leftovers,
        audit.check_counters,
        audit.check_totals,
        audit.check_keys,
        audit.check_changes,
        audit.check_writes,
    ):
        rule()
    return audit.response()


class _Audit:
    """One run; each rule adds what breaks it."""

    def __init__(self, connection: Connection, examples: int) -> None:
        self._connection = connection
        self._examples = examples
        self._now = now_ns()
        self._counts: dict[str, int] = defaultdict(int)
        self._findings: list[check_pb2.AuditFinding] = []
        self._summary = check_pb2.AuditedCatalog()
        self._names = {row.id: row.name for row in connection.execute(sa.select(providers.c.id, providers.c.name))}
        self._workspaces = {row.id: row for row in connection.execute(sa.select(workspaces))}
        self._recount: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0] * len(Contribution._fields))

    def response(self) -> check_pb2.AuditCatalogResponse:
        self._summary.findings = sum(self._counts.values())
        return check_pb2.AuditCatalogResponse(findings=self._findings, summary=self._summary)

    def _found(self, rule: str, message: str, content: Content | None = None, **where: Any) -> None:
        self._counts[rule] += 1
        if self._counts[rule] > self._examples:
            return
        finding = check_pb2.AuditFinding(rule=rule, message=message, **where)
        if content is not None:
            finding.workspace, finding.path = content.workspace, content.path
        self._findings.append(finding)

    def _pages(self, query: sa.Select[Any], row_id: sa.ColumnElement[int]) -> Iterator[list[Any]]:
        """Yield the rows of ``query`` in pages by ``row_id``, which it must select as ``id``."""
        last = 0
        while True:
            page = list(self._connection.execute(query.where(row_id > last).order_by(row_id).limit(_PAGE)))
            if page:
                yield page
            if len(page) < _PAGE:
                return
            last = page[-1].id

    # -- the tree -----------------------------------------------------------------------------------------------------

    def check_directories(self) -> None:
        """Whatever lives lies in a directory that lives."""
        for workspace in self._workspaces.values():
            last = "/"
            while True:
                query = (
                    sa.select(entries.c.dirname)
                    .where(entries.c.workspace_id == workspace.id, live, entries.c.dirname > last)
                    .order_by(entries.c.dirname)
                    .distinct()
                    .limit(_PAGE)
                )
                dirnames = list(self._connection.scalars(query))
                self._check_parents(workspace, dirnames)
                if len(dirnames) < _PAGE:
                    break
                last = dirnames[-1]

    def _check_parents(self, workspace: Any, dirnames: list[str]) -> None:
        if not dirnames:
            return
        pairs = pairs_table(self._connection)
        known = pairs.matching(entries, entries.c.dirname, entries.c.basename, workspace.id, live)
        rows = self._connection.execute(
            sa.select(entries.c.dirname, entries.c.basename).select_from(known).where(entries.c.kind == DIRECTORY),
            pairs.values([split_path(path) for path in dirnames]),
        )
        there = {join_path(row.dirname, row.basename) for row in rows}
        for path in dirnames:
            if path not in there:
                self._found(
                    "parents", f"what lies in {path} has no directory to lie in", workspace=workspace.name, path=path
                )

    def check_current(self) -> None:
        """A file that lives has exactly one current version, its own; nothing else has one."""
        query = (
            sa.select(
                entries.c.id,
                entries.c.workspace_id,
                entries.c.dirname,
                entries.c.basename,
                versions.c.entry_id,
                versions.c.superseded_at,
            )
            .select_from(entries.outerjoin(versions, versions.c.id == entries.c.version_id))
            .where(live, entries.c.kind == FILE)
        )
        for page in self._pages(query, entries.c.id):
            self._summary.files += len(page)
            for row in page:
                if row.entry_id == row.id and row.superseded_at is None:
                    continue
                self._found(
                    "current",
                    "the file has no current content"
                    if row.entry_id is None
                    else "the file's current content is one that was replaced, or another file's",
                    workspace=self._workspaces[row.workspace_id].name,
                    path=join_path(row.dirname, row.basename),
                )
        stray = (
            sa.select(versions.c.version_id)
            .join(entries, entries.c.id == versions.c.entry_id)
            .where(
                versions.c.superseded_at.is_(None),
                sa.or_(entries.c.removed_at.is_not(None), entries.c.version_id != versions.c.id),
            )
        )
        for version_id in self._connection.scalars(stray):
            self._found("current", f"version {version_id} counts as current, but no file shows it")

    # -- copies -------------------------------------------------------------------------------------------------------

    def check_copies(self) -> None:
        """Each copy is owed exactly when it is not as it should be, and whatever is owed will be worked on."""
        unplaced = bool(self._connection.scalar(sa.text("SELECT 1 FROM placements LIMIT 1")))
        for page in self._pages(sa.select(versions.c.id), versions.c.id):
            self._summary.versions += len(page)
            ledger = Ledger(self._connection, self._now)
            ledger.load((row.id for row in page), lock=False)
            for content in ledger.contents.values():
                self._check_content(content, unplaced=unplaced)

    def _check_content(self, content: Content, *, unplaced: bool) -> None:
        self._summary.copies += len(content.copies)
        for copy in content.copies:
            self._count(
                copy, contribution(content.size, content.current, copy.wanted, copy.actual, copy.owed, copy.attempts)
            )
            self._check_due(copy, content)
        if not content.copies:
            self._found("copies", "the content has no copy anywhere, not even one that is owed", content)
        elif content.current and self._names and not unplaced and not any(copy.wanted for copy in content.copies):
            self._found("copies", "no provider is meant to hold the current content", content)
        # settling is the one rule of what is owed: where it would change something, some change was made without it
        before = [_debt(copy) for copy in content.copies]
        strays = settle(content, self._now)
        # an ACL of a whole tree becomes debt as the tree is worked through
        told = not unplaced or content.acl is None
        if told and (strays or before != [_debt(copy) for copy in content.copies]):
            self._found("debt", "what is owed of the content is not what follows from the state of its copies", content)

    def _check_due(self, copy: Copy, content: Content | None) -> None:
        where = f"{copy.key} at {self._names.get(copy.provider_id, 'a provider that is gone')}"
        if copy.owed and copy.due_at is None and copy.attempts < QUARANTINE_ATTEMPTS and not copy.leased(self._now):
            self._found("due", f"{where} is owed, but nobody will ever work on it", content)
        elif not copy.owed and copy.due_at is not None:
            self._found("due", f"{where} is due for work, but nothing is owed there", content)

    def check_leftovers(self) -> None:
        """Objects that belong to no content are owed a removal."""
        query = sa.select(*COPY_COLUMNS).where(replicas.c.version_id.is_(None))
        for page in self._pages(query, replicas.c.id):
            for copy in map(copy_of, page):
                self._count(copy, LEFTOVER_CONTRIBUTION)
                self._check_due(copy, None)
                if not copy.owed:
                    self._found("debt", f"{copy.key} belongs to no content and is not to be removed either")

    def check_keys(self) -> None:
        """No two good copies lie at one key of one provider."""
        query = (
            sa.select(replicas.c.key, replicas.c.provider_id)
            .where(replicas.c.actual == OK)
            .group_by(replicas.c.key, replicas.c.provider_id)
            .having(sa.func.count() > 1)
        )
        for row in self._connection.execute(query):
            self._found("keys", f"{row.key} at {self._names[row.provider_id]} is said to hold two contents at once")

    # -- counters -----------------------------------------------------------------------------------------------------

    def _count(self, copy: Copy, counted: Contribution) -> None:
        counts = self._recount[copy.workspace_id, copy.provider_id]
        for index, value in enumerate(counted):
            counts[index] += value

    def check_counters(self) -> None:
        """The counters of each workspace and provider are what a count gives; after the copies were counted."""
        kept = {
            (row.workspace_id, row.provider_id): [getattr(row, name) for name in Contribution._fields]
            for row in self._connection.execute(sa.select(counters))
        }
        nothing = [0] * len(Contribution._fields)
        for place in sorted(kept.keys() | self._recount.keys()):
            says, is_so = kept.get(place, nothing), self._recount.get(place, nothing)
            for name, said, counted in zip(Contribution._fields, says, is_so, strict=True):
                if said != counted:
                    self._found(
                        "counters",
                        f"the counter of {name} at {self._names.get(place[1], place[1])} says {said};"
                        f" counted are {counted}",
                        workspace=self._workspaces[place[0]].name,
                    )

    def check_totals(self) -> None:
        """Each workspace's files and bytes are what a count gives."""
        query = (
            sa.select(
                entries.c.workspace_id, sa.func.count().label("files"), sa.func.sum(versions.c.size).label("bytes")
            )
            .select_from(entries.join(versions, versions.c.id == entries.c.version_id))
            .where(live, entries.c.kind == FILE)
            .group_by(entries.c.workspace_id)
        )
        counted = {row.workspace_id: (row.files, int(row.bytes)) for row in self._connection.execute(query)}
        for workspace in self._workspaces.values():
            files, size = counted.get(workspace.id, (0, 0))
            if (workspace.files, workspace.bytes) != (files, size):
                self._found(
                    "totals",
                    f"the workspace is said to have {workspace.files} files with {workspace.bytes} bytes;"
                    f" counted are {files} with {size}",
                    workspace=workspace.name,
                )

    # -- what goes on -------------------------------------------------------------------------------------------------

    def check_changes(self) -> None:
        """The change log has no gap and ends with the workspace's revision."""
        query = sa.select(
            changes.c.workspace_id,
            sa.func.min(changes.c.revision).label("first"),
            sa.func.max(changes.c.revision).label("last"),
            sa.func.count().label("kept"),
        ).group_by(changes.c.workspace_id)
        for row in self._connection.execute(query):
            workspace = self._workspaces[row.workspace_id]
            if row.kept != row.last - row.first + 1:
                self._found("changes", "the change log has gaps", workspace=workspace.name)
            if row.last != workspace.revision:
                self._found(
                    "changes",
                    f"the change log ends with revision {row.last}; the workspace is at {workspace.revision}",
                    workspace=workspace.name,
                )

    def check_writes(self) -> None:
        """A write whose writer is gone is finished or undone soon."""
        query = sa.select(intents.c.workspace_id, intents.c.path, intents.c.lease_until)
        for row in self._connection.execute(query):
            self._summary.writes += 1
            if row.lease_until < self._now - _LAPSED_GRACE:
                self._found(
                    "writes",
                    f"a write that lapsed {(self._now - row.lease_until) // SECOND} s ago was not finished or undone",
                    workspace=self._workspaces[row.workspace_id].name,
                    path=row.path,
                )


def _debt(copy: Copy) -> tuple[Any, ...]:
    return copy.key, copy.move_to, copy.wanted, copy.actual, copy.owed, copy.gone
