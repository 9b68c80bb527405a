"""What follows from an object that a listing shows and that is not simply as recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from cdir.paths import RESERVED_ROOT_NAME, fold_name, split_path
from cdir.v1 import scan_pb2
from cdir_catalog.keys import place_of
from cdir_catalog.schema import entries, intents, replicas, versions
from cdir_catalog.store.copies import CORRUPT, MISSING, OK, UNKNOWN, Content, Copy
from cdir_catalog.store.entries import ancestors, find_entries, find_removed, live
from cdir_catalog.store.ledger import Ledger
from cdir_catalog.store.listed import Found, Likeness, Yardstick
from cdir_catalog.store.outside import Finding
from cdir_catalog.store.pairs import pairs_table
from cdir_catalog.store.providers import RegisteredProvider
from cdir_catalog.store.vacancies import Vacancies
from cdir_catalog.wire import DIRECTORY, FILE

__all__ = ["Judge"]


class Judge:
    """Judges objects found at one provider, in the state of this transaction, whose workspaces are locked.

    What is to become a version is left in ``findings``, the directories in which something happened in ``stirred``;
    copies are changed in the ledger.
    """

    def __init__(
        self,
        ledger: Ledger,
        registered: Sequence[RegisteredProvider],
        provider: RegisteredProvider,
        workspaces: dict[str, int],
        as_of: int,
        counts: scan_pb2.ScanCounts,
        founds: Sequence[Found],
    ) -> None:
        self.findings: list[Finding] = []
        self.stirred: set[str] = set()
        self._ledger = ledger
        self._connection = ledger.connection
        self._registered = registered
        self._provider = provider
        self._yardstick = Yardstick.of(provider)
        self._workspaces = workspaces
        self._as_of = as_of
        self._counts = counts
        self._places = {found.key: place for found in founds if (place := place_of(found.key)) is not None}
        self._load([found.key for found in founds])

    def _load(self, keys: list[str]) -> None:
        connection, provider = self._connection, self._provider.id
        there = self._ledger.load_keys(keys)
        self._there = {key: there.get((provider, key), []) for key in keys}
        paths: dict[int, list[str]] = defaultdict(list)
        for place in self._places.values():
            if place.workspace in self._workspaces:
                paths[self._workspaces[place.workspace]].append(place.path)
        self._live: dict[tuple[int, str], Any] = {}
        self._removed: dict[tuple[int, str], Any] = {}
        for workspace_id, these in paths.items():
            wanted = dict.fromkeys(these)
            for path in these:
                wanted.update(dict.fromkeys(ancestors(path)))
            found = find_entries(connection, workspace_id, wanted)
            self._live.update({(workspace_id, path): row for path, row in found.items()})
            removed = find_removed(connection, workspace_id, [path for path in these if path not in found])
            self._removed.update({(workspace_id, path): row for path, row in removed.items()})
        self._load_versions()
        natural = {content.natural_key for content in self._ledger.contents.values()}
        self._writing = set(connection.scalars(sa.select(intents.c.key).where(intents.c.key.in_(natural | set(keys)))))
        self._handled = set(
            connection.scalars(
                sa.select(replicas.c.lease_key).where(
                    replicas.c.lease_key.in_(keys),
                    replicas.c.provider_id == provider,
                    replicas.c.lease_until > self._ledger.now,
                )
            )
        ) | set(
            connection.scalars(
                sa.select(replicas.c.move_to).where(replicas.c.move_to.in_(keys), replicas.c.provider_id == provider)
            )
        )
        self._vacancies = Vacancies(connection, provider, keys)
        self._clashes = self._load_clashes(paths)

    def _load_versions(self) -> None:
        """Load every version of the entries concerned, and of the contents recorded at the keys."""
        of_entries = {row.id for row in [*self._live.values(), *self._removed.values()] if row.kind == FILE}
        query = sa.select(
            versions.c.id,
            versions.c.entry_id,
            versions.c.modified_at,
            versions.c.sha256,
            versions.c.superseded_at,
            versions.c.expires_at,
        ).where(sa.or_(versions.c.entry_id.in_(of_entries), versions.c.id.in_(self._ledger.contents.keys())))
        self._versions = {row.id: row for row in self._connection.execute(query)}
        self._ledger.load(self._versions)
        self._of_entry: dict[int, list[Content]] = defaultdict(list)
        for content in self._ledger.contents.values():
            self._of_entry[content.entry_id].append(content)

    def _load_clashes(self, paths: dict[int, list[str]]) -> set[tuple[int, str]]:
        """Return new paths whose names differ only by case from others, where a provider cannot tell them apart."""
        if all(provider.case_sensitive for provider in self._registered):
            return set()
        clashing: set[tuple[int, str]] = set()
        for workspace_id, these in paths.items():
            new = {
                (dirname, fold_name(basename)): place
                for path in these
                for place in [path, *ancestors(path)]
                if (workspace_id, place) not in self._live
                for dirname, basename in [split_path(place)]
            }
            if not new:
                continue
            taken: set[tuple[str, str]] = set()
            wanted = pairs_table(self._connection)
            for name in (entries.c.basename, entries.c.folded):
                rows = wanted.matching(entries, entries.c.dirname, name, workspace_id, live)
                query = sa.select(entries.c.dirname, entries.c.basename).select_from(rows)
                there = self._connection.execute(query, wanted.values(new.keys()))
                taken.update((row.dirname, fold_name(row.basename)) for row in there if row[0])
            for path in these:
                places = [split_path(place) for place in [path, *ancestors(path)]]
                if any((dirname, fold_name(basename)) in taken & new.keys() for dirname, basename in places):
                    clashing.add((workspace_id, path))
        return clashing

    # -- judging ------------------------------------------------------------------------------------------------------

    def judge(self, founds: Iterable[Found]) -> None:
        """Judge each object."""
        for found in founds:
            self._judge(found)

    def _judge(self, found: Found) -> None:
        if self._is_postponed(found):
            self._counts.postponed += 1
            return
        for copy, content in self._there[found.key]:
            if copy.actual == MISSING:
                continue
            if content is None:
                self._counts.same += 1  # a leftover: its removal is owed
                return
            likeness = self._yardstick.compare(copy, content.size, self._versions[content.id].modified_at, found)
            if likeness is Likeness.SAME:
                self._seen_again(copy, found)
                return
            if copy.actual == UNKNOWN and copy.absent_at is None:
                self._counts.postponed += 1  # it is to be inspected already: it may be what a failed write has left
                return
            if found.key.startswith(f"{RESERVED_ROOT_NAME}/"):
                copy.doubt()  # nobody else has anything to put there
                self._counts.suspected += 1
                return
            if likeness is Likeness.DOUBTFUL and copy.wanted:
                self._suspect(copy, found)
                return
            if content.current:
                self._replaced(content, copy, found)
                return
            copy.actual = MISSING  # an older content that was still under the file's name was overwritten
            self._unexplained(found, overwritten=True)
            return
        self._unexplained(found)

    def _is_postponed(self, found: Found) -> bool:
        """Say whether the key is in motion, so that the listing may show what is no more or not yet."""
        key, now = found.key, self._ledger.now
        if key in self._writing or key in self._handled or self._vacancies.since(key, self._as_of):
            return True
        involved = list(self._there[key])
        current = self._current(key)
        if current is not None:
            copy = current.at(self._provider.id)
            involved += [] if copy is None else [(copy, current)]
        return any(
            copy.leased(now)
            or (copy.changed_at is not None and copy.changed_at >= self._as_of)
            or (content is not None and content.natural_key in self._writing)
            for copy, content in involved
        )

    def _current(self, key: str) -> Content | None:
        """Return the current content of the file whose natural key it is."""
        row = self._row(self._live, key)
        return None if row is None or row.kind != FILE else self._ledger.contents.get(row.version_row)

    def _row(self, rows: dict[tuple[int, str], Any], key: str) -> Any | None:
        place = self._places.get(key)
        if place is None or place.workspace not in self._workspaces:
            return None
        return rows.get((self._workspaces[place.workspace], place.path))

    def _seen_again(self, copy: Copy, found: Found) -> None:
        """Note that a copy is where and as it should be."""
        self._counts.same += 1
        copy.absent_at = None
        if copy.actual == OK:
            copy.etag = copy.etag or found.etag
            copy.checksum = copy.checksum or found.checksum

    def _suspect(self, copy: Copy, found: Found) -> None:
        """Have the object inspected: whether it is the content recorded, or others' content that is to be kept."""
        copy.suspect(found.size, found.modified)
        copy.key, copy.etag, copy.checksum = found.key, found.etag, found.checksum
        copy.attempts = 0
        self._counts.suspected += 1
        self._stir(found.key)

    def _replaced(self, content: Content, copy: Copy, found: Found) -> None:
        """The copy of a current content was replaced."""
        older = self._known(content.entry_id, found, other_than=content)
        if older is not None and any(one.actual == OK for one in older.copies):
            # an older content was put back, or the listing is old: nothing in it is new
            copy.doubt()
            self._recollect(older, found)
            self._counts.put_back += 1
            self._stir(found.key)
            return
        others = any(one.actual == OK and one is not copy for one in content.copies)
        if copy.actual == OK and not others and self._versions[content.id].sha256:
            self._suspect(copy, found)  # on the word of a listing alone, the only good copy is not given up
            return
        copy.actual = MISSING
        self._find(found, content)

    def _known(self, entry_id: int, found: Found, other_than: Content | None = None) -> Content | None:
        """Return the kept older version of an entry that an object is, as far as can be told without reading."""
        for content in self._of_entry[entry_id]:
            row = self._versions[content.id]
            if content is other_than or row.superseded_at is None or row.expires_at is None:
                continue
            if self._yardstick.equals(content.at(self._provider.id), content.size, row.modified_at, found):
                return content
        return None

    def _recollect(self, content: Content, found: Found) -> None:
        """Record an object as a copy of an older content that was taken for gone here, so that it is set aside.

        It may be the last one: of the other copies only what is recorded is known.
        """
        if content.at(self._provider.id) is None:
            copy = Copy(None, content.workspace_id, content.id, self._provider.id, found.key)
            copy.doubt()
            content.copies.append(copy)

    # -- objects that nothing recorded explains -----------------------------------------------------------------------

    def _unexplained(self, found: Found, *, overwritten: bool = False) -> None:
        place = self._places.get(found.key)
        if place is None:
            self._counts.ignored += 1
            return
        workspace_id = self._workspaces[place.workspace]
        parents = [self._live.get((workspace_id, parent)) for parent in ancestors(place.path)]
        row = self._live.get((workspace_id, place.path))
        blocked = any(parent is not None and parent.kind != DIRECTORY for parent in parents)
        if row is not None:
            blocked = blocked or row.kind == DIRECTORY or self._vacancies.shows(found, self._yardstick)
        if blocked or (workspace_id, place.path) in self._clashes:
            self._counts.ignored += 1
        elif row is not None:
            self._beside(self._ledger.contents[row.version_row], found)
        else:
            self._without_file(workspace_id, found, overwritten=overwritten)

    def _beside(self, content: Content, found: Found) -> None:
        """An object under the name of a file whose copy here is owed, or that should have none here."""
        copy = content.at(self._provider.id)
        modified_at = self._versions[content.id].modified_at
        if copy is None:
            if self._yardstick.equals(None, content.size, modified_at, found):
                self._counts.ignored += 1  # a further copy, which nobody has asked for
            else:
                self._find(found, content)
            return
        if copy.actual in {OK, UNKNOWN}:
            self._counts.postponed += 1  # the copy is elsewhere at this provider, and on its way here
            return
        if found.size == content.size and copy.actual in {MISSING, CORRUPT}:
            self._suspect(copy, found)
            return
        older = self._known(content.entry_id, found, other_than=content)
        if older is not None and any(one.actual == OK for one in older.copies):
            self._counts.same += 1  # an older content in the place of the copy that is owed
            self._recollect(older, found)
            return
        self._find(found, content)

    def _without_file(self, workspace_id: int, found: Found, *, overwritten: bool) -> None:
        place = self._places[found.key]
        removed = self._removed.get((workspace_id, place.path))
        if removed is not None:
            known = self._known(removed.id, found)
            if known is not None:
                self._left_behind(known, found)
                return
        if self._vacancies.shows(found, self._yardstick):
            self._counts.ignored += 1
            return
        outdated = False
        if removed is not None and overwritten and removed.version_row in self._versions:
            # what was written over a file before that was removed is older than the removal
            superseded = self._versions[removed.version_row].superseded_at
            outdated = found.modified is not None and superseded is not None and found.modified < superseded
        self.findings.append(
            Finding(
                self._provider,
                found,
                workspace_id,
                place.workspace,
                place.path,
                removed=removed,
                outdated=outdated,
            )
        )
        self._stir(found.key)

    def _left_behind(self, content: Content, found: Found) -> None:
        """An object that is a content of a removed file: it does not bring the file back."""
        self._counts.same += 1
        if content.at(self._provider.id) is None:
            copy = Copy(None, content.workspace_id, content.id, self._provider.id, found.key)
            copy.suspect(found.size, found.modified)
            copy.etag, copy.checksum = found.etag, found.checksum
            content.copies.append(copy)
        else:
            self._ledger.add_leftover(content.workspace_id, self._provider.id, found.key)

    def _find(self, found: Found, content: Content) -> None:
        self.findings.append(
            Finding(self._provider, found, content.workspace_id, content.workspace, content.path, content=content)
        )
        self._stir(found.key)

    def _stir(self, key: str) -> None:
        self.stirred.add(key.rpartition("/")[0])
