"""Contents made by others, at a provider and behind cdir's back, become entries and versions.

The newest wins: of the current content and the one found, the one with the later modified time becomes or stays
current. Times are compared at the coarser step of the two, and no content counts as newer than the moment at which it
was first known, so that a clock that runs ahead wins once and not for ever. At equal times the recorded content stays:
what was changed and kept its time was rather damaged than edited. A content without a time is as new as its discovery.
Whichever loses is kept as a version, for as long as the policy keeps versions and at least for a day; even where the
policy keeps none, because nobody here has asked for it to be replaced.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.paths import split_path
from cdir.v1 import entry_pb2
from cdir_catalog.schema import entries, versions
from cdir_catalog.store.acls import inherited_acls
from cdir_catalog.store.copies import MISSING, OK, Content, Copy
from cdir_catalog.store.entries import Tree, ancestors, find_entries, find_removed, folded
from cdir_catalog.store.ledger import ChangeRow, Ledger
from cdir_catalog.store.listed import Found, Yardstick
from cdir_catalog.store.policies import Placer
from cdir_catalog.store.providers import RegisteredProvider, load_providers
from cdir_catalog.store.workspaces import reserve_ids
from cdir_catalog.wire import FILE

__all__ = ["Finding", "author_of", "confirm_suspects", "kept_for", "take_over"]

_KEPT_AT_LEAST = 24 * 3600


@dataclass(slots=True)
class Finding:
    """A content found at a provider that belongs to ``path``.

    ``content`` is the file's current one, ``None`` when there is no file; then ``removed`` is the removed entry that
    the path had, if any. What was put there before that was removed (``outdated``) does not bring the file back and is
    only kept with it. ``is_current`` and ``version_id`` are set once it was taken over.
    """

    provider: RegisteredProvider
    found: Found
    workspace_id: int
    workspace: str
    path: str
    content: Content | None = None
    removed: Any | None = None
    outdated: bool = False
    is_current: bool = field(default=False, init=False)
    version_id: str = field(default="", init=False)


def author_of(provider: RegisteredProvider) -> str:
    """Return who is named as the author of what others did at a provider."""
    return f"{provider.name} (outside)"


def kept_for(policy: entry_pb2.Policy) -> int:
    """Return for how many seconds a content is kept that nobody here has replaced."""
    return max(policy.keep_seconds, _KEPT_AT_LEAST)


def take_over(ledger: Ledger, findings: Sequence[Finding]) -> None:
    """Make versions of findings, at most one for each path. The ledger is settled then, and still to be saved."""
    if findings:
        _TakingOver(ledger, findings).run()
    ledger.settle()


class _TakingOver:
    def __init__(self, ledger: Ledger, findings: Sequence[Finding]) -> None:
        self._ledger = ledger
        self._connection: Connection = ledger.connection
        self._now = ledger.now
        self._findings = findings
        self._placers: dict[int, Placer] = {}
        self._replaced: dict[int, Any] = {}
        self._versions: list[dict[str, Any]] = []
        self._current: list[dict[str, int]] = []
        self._renumbered: list[dict[str, int]] = []
        self._acls: dict[str, bytes | None] = {}

    def run(self) -> None:
        """Insert entries and versions, with their copies."""
        self._load()
        entry_ids = self._save_entries()
        ids = reserve_ids(self._connection, versions, len(self._findings))
        for finding, entry_id, row_id in zip(self._findings, entry_ids, ids, strict=True):
            if finding.content is not None:
                self._replace(finding, finding.content, row_id)
            else:
                self._adopt(finding, entry_id, row_id)
        if self._renumbered:
            self._connection.execute(
                versions.update().where(versions.c.id == sa.bindparam("row")).values(generation=sa.bindparam("number")),
                self._renumbered,
            )
        self._connection.execute(versions.insert(), self._versions)
        if self._current:
            self._connection.execute(
                entries.update().where(entries.c.id == sa.bindparam("row")).values(version_id=sa.bindparam("version")),
                self._current,
            )

    def _load(self) -> None:
        by_workspace: dict[int, list[Finding]] = defaultdict(list)
        for finding in self._findings:
            by_workspace[finding.workspace_id].append(finding)
        for workspace_id, findings in by_workspace.items():
            self._placers[workspace_id] = Placer(self._connection, workspace_id, [one.path for one in findings])
            self._make_parents(workspace_id, [one for one in findings if one.content is None and not one.outdated])
        ids = {finding.content.id for finding in self._findings if finding.content is not None}
        if ids:
            rows = self._connection.execute(sa.select(versions).where(versions.c.id.in_(ids)))
            self._replaced = {row.id: row for row in rows}

    def _make_parents(self, workspace_id: int, findings: list[Finding]) -> None:
        if not findings:
            return
        parents = {parent: None for finding in findings for parent in ancestors(finding.path)}
        tree = Tree.of(self._connection, workspace_id, find_entries(self._connection, workspace_id, parents), self._now)
        for finding in findings:
            tree.make_parents(finding.path, self._ledger, author_of(finding.provider))
        tree.save()

    def _inherit(self, new: list[Finding]) -> None:
        """Say which ACL each of these files has: as a new one, or as the removed one that it is again."""
        for workspace_id in {finding.workspace_id for finding in new}:
            here = [finding for finding in new if finding.workspace_id == workspace_id]
            fresh = [finding.path for finding in here if finding.removed is None]
            self._acls |= {finding.path: finding.removed.acl for finding in here if finding.removed is not None}
            self._acls |= inherited_acls(self._connection, workspace_id, fresh)

    def _save_entries(self) -> list[int]:
        """Insert or revive the entries of files that are new; returns the entry of each finding."""
        new = [one for one in self._findings if one.content is None and one.removed is None]
        reserved = iter(reserve_ids(self._connection, entries, len(new)))
        self._inherit([one for one in self._findings if one.content is None])
        ids: list[int] = []
        inserted: list[dict[str, Any]] = []
        revived: list[int] = []
        for finding in self._findings:
            if finding.content is not None:
                ids.append(finding.content.entry_id)
            elif finding.removed is not None:
                ids.append(finding.removed.id)
                if not finding.outdated:
                    revived.append(finding.removed.id)
            else:
                ids.append(next(reserved))
                dirname, basename = split_path(finding.path)
                inserted.append(
                    {
                        "id": ids[-1],
                        "workspace_id": finding.workspace_id,
                        "dirname": dirname,
                        "basename": basename,
                        "folded": folded(basename),
                        "kind": FILE,
                        "author": author_of(finding.provider),
                        "created_at": self._now,
                        "acl": self._acls[finding.path],
                    }
                )
        if inserted:
            self._connection.execute(entries.insert(), inserted)
        if revived:
            self._connection.execute(
                entries.update()
                .where(entries.c.id.in_(revived))
                .values(removed_at=None, removed_by=None, conflict_of=None, created_at=self._now)
            )
        return ids

    # -- in the place of another content ------------------------------------------------------------------------------

    def _replace(self, finding: Finding, old: Content, row_id: int) -> None:
        row = self._replaced[old.id]
        left = any(copy.actual == OK and not copy.gone for copy in old.copies)
        # with no copy of the other left, there is nothing to put back
        finding.is_current = not left or self._is_newer(finding, row)
        keep = kept_for(self._placers[old.workspace_id].policy(old.path))
        if finding.is_current:
            self._ledger.supersede(old, keep)
            new = self._insert(finding, row_id, old.entry_id, row.generation + 1)
            self._place(finding, new)
            self._ledger.count_files(old.workspace_id, 0, new.size - old.size)
        else:
            # the one found takes its place before the current one, which moves up: generations follow the times
            self._renumbered.append({"row": old.id, "number": row.generation + 1})
            self._insert(finding, row_id, old.entry_id, row.generation, keep)
        self._log(finding, row.generation + 1)

    def _is_newer(self, finding: Finding, row: Any) -> bool:
        """Say whether what was found is newer than the content of a row of ``versions``."""
        if finding.found.modified is None:
            return True
        step = max(Yardstick.of(finding.provider).step, row.modified_step or 0)
        known: int = min(row.modified_at, row.committed_at)
        return min(finding.found.modified, self._now) >= known + step

    # -- where no file is ---------------------------------------------------------------------------------------------

    def _adopt(self, finding: Finding, entry_id: int, row_id: int) -> None:
        removed = finding.removed
        last = 0 if removed is None or removed.generation is None else removed.generation
        finding.is_current = not finding.outdated
        if finding.is_current:
            new = self._insert(finding, row_id, entry_id, last + 1)
            self._place(finding, new)
            self._ledger.count_files(finding.workspace_id, 1, new.size)
            self._log(finding, last + 1)
            return
        assert removed is not None
        self._renumbered.append({"row": removed.version_row, "number": last + 1})
        keep = kept_for(self._placers[finding.workspace_id].policy(finding.path))
        self._insert(finding, row_id, entry_id, last, keep)

    # -- the new version ----------------------------------------------------------------------------------------------

    def _insert(
        self, finding: Finding, row_id: int, entry_id: int, generation: int, keep: int | None = None
    ) -> Content:
        """Add the version with the copy found; it is the current one unless it is to be kept for ``keep`` seconds."""
        found, now = finding.found, self._now
        finding.version_id = uuid.uuid4().hex
        current = keep is None
        self._versions.append(
            {
                "id": row_id,
                "version_id": finding.version_id,
                "entry_id": entry_id,
                "generation": generation,
                "size": found.size,
                "modified_at": now if found.modified is None else found.modified,
                "modified_step": Yardstick.of(finding.provider).step,
                "sha256": found.sha256,
                "block_digests": found.block_digests,
                "author": author_of(finding.provider),
                "committed_at": now,
                "superseded_at": None if keep is None else now,
                "expires_at": None if keep is None else now + keep * 1_000_000_000,
            }
        )
        dirname, basename = split_path(finding.path)
        content = Content(
            row_id,
            finding.version_id,
            entry_id,
            finding.workspace_id,
            finding.workspace,
            dirname,
            basename,
            found.size,
            current=current,
            removed=finding.outdated,
            was_current=current,
            acl=self._acls[finding.path] if finding.content is None else finding.content.acl,
        )
        if current:
            self._current.append({"row": entry_id, "version": row_id})
        copy = Copy(None, finding.workspace_id, row_id, finding.provider.id, found.key, actual=OK)
        copy.etag, copy.checksum, copy.seen_modified = found.etag, found.checksum, found.modified
        copy.proven_at = now if found.sha256 else None
        content.copies.append(copy)
        self._ledger.add_content(content)
        return content

    def _place(self, finding: Finding, content: Content) -> None:
        """Say which other providers owe a copy."""
        placer = self._placers[finding.workspace_id]
        chosen = {one.id for one in placer.place(finding.path, {finding.provider.id}).chosen}
        if chosen:
            content.copies[0].wanted = int(finding.provider.id in chosen)
        for provider in sorted(chosen - {finding.provider.id}):
            content.copies.append(Copy(None, finding.workspace_id, content.id, provider, content.natural_key))

    def _log(self, finding: Finding, generation: int) -> None:
        self._ledger.log(
            finding.workspace_id,
            ChangeRow(entry_pb2.CHANGE_KIND_WRITTEN, finding.path, FILE, generation, author_of(finding.provider)),
        )


def confirm_suspects(ledger: Ledger, suspects: Sequence[tuple[Content, Copy]]) -> None:
    """Take over what inspections have shown to be others' content; of several for one file the rest is left for later.

    The ledger is settled then, and still to be saved.
    """
    registered = {provider.id: provider for provider in load_providers(ledger.connection)}
    by_entry: dict[int, tuple[Content, Copy]] = {}
    for content, copy in suspects:
        by_entry.setdefault(content.entry_id, (content, copy))
    paths: dict[int, list[str]] = defaultdict(list)
    for content, _ in by_entry.values():
        paths[content.workspace_id].append(content.path)
    current = {key: find_entries(ledger.connection, key, these) for key, these in paths.items()}
    removed = {key: find_removed(ledger.connection, key, these) for key, these in paths.items()}
    ledger.load(row.version_row for rows in current.values() for row in rows.values() if row.kind == FILE)
    findings = []
    for content, copy in by_entry.values():
        assert copy.seen_size is not None
        found = Found(copy.key, copy.seen_size, copy.seen_modified, copy.etag, copy.checksum)
        row = current[content.workspace_id].get(content.path)
        gone = removed[content.workspace_id].get(content.path)
        if row is None and (gone is None or gone.version_row is None):
            continue
        if row is not None and row.kind != FILE:
            continue
        copy.actual = MISSING
        findings.append(
            Finding(
                registered[copy.provider_id],
                found,
                content.workspace_id,
                content.workspace,
                content.path,
                content=None if row is None else ledger.contents[row.version_row],
                removed=gone if row is None else None,
                outdated=row is None,
            )
        )
    take_over(ledger, findings)
