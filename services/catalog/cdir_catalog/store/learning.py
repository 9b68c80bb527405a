"""LearnVersions: the digests of contents that were made by others and are read here for the first time."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import InvalidArgument
from cdir.v1 import scan_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.schema import entries, versions
from cdir_catalog.store.copies import CORRUPT, MISSING, OK, UNKNOWN, Content, Copy
from cdir_catalog.store.entries import find_entries
from cdir_catalog.store.intents import check_batch
from cdir_catalog.store.ledger import Ledger
from cdir_catalog.store.listed import Found, Likeness, Yardstick
from cdir_catalog.store.locks import lock_workspaces
from cdir_catalog.store.outside import Finding, take_over
from cdir_catalog.store.providers import RegisteredProvider, load_providers
from cdir_catalog.store.scans import warm
from cdir_catalog.wire import from_timestamp, version_message

__all__ = ["learn_versions"]


def learn_versions(
    connection: Connection, request: scan_pb2.LearnVersionsRequest, _author: str
) -> scan_pb2.LearnVersionsResponse:
    """CatalogService.LearnVersions."""
    check_batch(request.learnt)
    for learnt in request.learnt:
        if len(learnt.sha256) != 32 or learnt.size < 0 or len(learnt.block_digests) % 32:
            raise InvalidArgument("the size or a digest of what was learnt is malformed")
    ids = {learnt.version_id for learnt in request.learnt}
    workspaces = connection.scalars(
        sa.select(entries.c.workspace_id)
        .join(versions, versions.c.entry_id == entries.c.id)
        .where(versions.c.version_id.in_(ids))
        .distinct()
    ).all()
    lock_workspaces(connection, workspaces)
    learning = _Learning(connection, ids)
    outcomes = [learning.learn(learnt) for learnt in request.learnt]
    learning.save(outcomes)
    for learnt, outcome in zip(request.learnt, outcomes, strict=True):
        learning.fill(outcome, learnt.version_id)
    return scan_pb2.LearnVersionsResponse(outcomes=outcomes)


class _Learning:
    def __init__(self, connection: Connection, ids: set[str]) -> None:
        self._connection = connection
        self._ids = ids
        self._ledger = Ledger(connection, now_ns())
        self._rows = self._load_rows()
        self._ledger.load(row.id for row in self._rows.values())
        self._by_id = {content.version_id: content for content in self._ledger.contents.values()}
        self._registered = {provider.provider_id: provider for provider in load_providers(connection)}
        self._digests: dict[str, tuple[bytes, bytes]] = {}
        self._findings: dict[int, tuple[Finding, int]] = {}
        self._outcomes = 0

    def _load_rows(self) -> dict[str, Any]:
        rows = self._connection.execute(sa.select(versions).where(versions.c.version_id.in_(self._ids)))
        return {row.version_id: row for row in rows}

    def learn(self, learnt: scan_pb2.LearntVersion) -> scan_pb2.LearnOutcome:
        """Take in what one pass over a copy has shown."""
        index = self._outcomes
        self._outcomes += 1
        outcome = scan_pb2.LearnOutcome()
        content = self._by_id.get(learnt.version_id)
        provider = self._registered.get(learnt.provider_id)
        copy = None if content is None or provider is None else content.at(provider.id)
        if content is None or provider is None or copy is None or copy.key != learnt.key:
            return outcome
        if copy.actual not in {OK, UNKNOWN} or (copy.leased(self._ledger.now) and copy.lease_key != copy.key):
            return outcome
        sha256, _ = self._digests.get(content.version_id) or (self._rows[content.version_id].sha256, b"")
        if learnt.size == content.size and learnt.sha256 == sha256:
            self._prove(copy, learnt)
        elif sha256:
            outcome.differs = True
            self._differs(content, copy, provider, learnt, index)
        elif learnt.size == content.size:
            self._digests[content.version_id] = learnt.sha256, learnt.block_digests
            self._prove(copy, learnt)
            self._doubt_others(content, copy)
        else:
            # replaced since it was listed: the next listing tells with what
            outcome.differs = True
            warm(self._connection, provider.id, [copy.key.rpartition("/")[0]], self._ledger.now)
        return outcome

    def _prove(self, copy: Copy, learnt: scan_pb2.LearntVersion) -> None:
        due = copy.due_at if copy.lease_until is not None else None
        copy.mark_ok(self._ledger.now, learnt.etag or copy.etag, learnt.checksum or copy.checksum)
        copy.due_at = due

    def _doubt_others(self, content: Content, read: Copy) -> None:
        """Copies that were taken for the same content without being read are inspected, now that it can be told."""
        modified = self._rows[content.version_id].modified_at
        for copy in content.copies:
            if copy is not read and copy.actual == OK and copy.proven_at is None and copy.wanted:
                copy.suspect(content.size, copy.seen_modified if copy.seen_modified is not None else modified)

    def _differs(
        self,
        content: Content,
        copy: Copy,
        provider: RegisteredProvider,
        learnt: scan_pb2.LearntVersion,
        index: int,
    ) -> None:
        """The bytes read are not the version's: rotten, or others' content."""
        modified = from_timestamp(learnt.modified) if learnt.HasField("modified") else copy.seen_modified
        found = Found(
            copy.key, learnt.size, modified, learnt.etag, learnt.checksum, learnt.sha256, learnt.block_digests
        )
        row = self._rows[content.version_id]
        likeness = Yardstick.of(provider).compare(copy, content.size, row.modified_at, found)
        if copy.proven_at is not None and likeness is Likeness.SAME:
            # the object that was proven before, with other bytes in it
            copy.actual, copy.error = CORRUPT, "its bytes differ from the recorded digest"
            return
        current = find_entries(self._connection, content.workspace_id, [content.path]).get(content.path)
        if current is None or current.version_row is None or content.entry_id in self._findings:
            copy.suspect(learnt.size, modified)
            return
        self._ledger.load([current.version_row])
        copy.actual = MISSING
        self._findings[content.entry_id] = (
            Finding(
                provider,
                found,
                content.workspace_id,
                content.workspace,
                content.path,
                content=self._ledger.contents[current.version_row],
            ),
            index,
        )

    def save(self, outcomes: list[scan_pb2.LearnOutcome]) -> None:
        """Write it all, and complete the outcomes."""
        if self._digests:
            self._connection.execute(
                versions.update()
                .where(versions.c.version_id == sa.bindparam("version"))
                .values(sha256=sa.bindparam("whole"), block_digests=sa.bindparam("blocks")),
                [
                    {"version": version_id, "whole": sha256, "blocks": blocks}
                    for version_id, (sha256, blocks) in self._digests.items()
                ],
            )
        take_over(self._ledger, [finding for finding, _ in self._findings.values()])
        for finding, index in self._findings.values():
            outcomes[index].other_version_id = finding.version_id
        self._ledger.save()
        self._rows = self._load_rows()

    def fill(self, outcome: scan_pb2.LearnOutcome, version_id: str) -> None:
        """Add the version as it is now."""
        row = self._rows.get(version_id)
        if row is not None:
            outcome.version.CopyFrom(version_message(row))
