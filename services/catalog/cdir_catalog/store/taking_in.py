"""Making files of objects that were seen at providers and that nothing known explains."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import CdirError
from cdir.paths import RESERVED_ROOT_NAME, normalize_path, split_path
from cdir.v1 import entry_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.schema import entries, sightings, versions
from cdir_catalog.store.acls import inherited_acls
from cdir_catalog.store.copies import OK, UNKNOWN, Content, Copy
from cdir_catalog.store.entries import Tree, ancestors, find_entries, find_removed, folded
from cdir_catalog.store.ledger import ChangeRow, Ledger
from cdir_catalog.store.policies import Placer
from cdir_catalog.store.recognizing import Listed
from cdir_catalog.store.workspaces import ensure_workspaces, reserve_ids
from cdir_catalog.wire import DIRECTORY, FILE

__all__ = ["AUTHOR", "TakenIn", "take_in_found"]

AUTHOR = "rebuild"
"""Who wrote what a rebuild found."""

_PAGE = 200


@dataclass
class TakenIn:
    """How many files were made, and how many objects cannot be files."""

    adopted: int = 0
    ignored: int = 0


@dataclass
class _Cluster:
    """Objects under one name at several providers that are one content, as far as can be told without reading."""

    size: int
    modified_at: int
    exact: bool
    precision: int
    seen: list[tuple[Any, bool]] = field(default_factory=list)
    """Each with whether it surely is this content."""


@dataclass
class _File:
    """A path, the contents found under it (newest first), and the entry it has or had."""

    path: str
    clusters: list[_Cluster]
    entry: Any | None
    removed: Any | None
    stays: bool = False
    """The content that the entry has remains the current one."""
    entry_id: int = 0
    last: int = 0
    """The greatest generation that the entry has."""
    acl: bytes | None = None


def take_in_found(connection: Connection, listed: Listed) -> TakenIn:
    """Make a file, or a further content of one, of every object that is not explained yet. The newest wins."""
    total = TakenIn()
    outside = sa.or_(sightings.c.key < f"{RESERVED_ROOT_NAME}/", sightings.c.key >= f"{RESERVED_ROOT_NAME}0")
    query = (
        sa.select(sightings.c.key)
        .where(sightings.c.version_id.is_(None), outside)
        .distinct()
        .order_by(sightings.c.key)
        .limit(_PAGE)
    )
    keys = connection.scalars(query).all()
    while keys:
        rows = connection.execute(
            sa.select(sightings).where(sightings.c.key.in_(keys), sightings.c.version_id.is_(None))
        )
        found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        folders = _folders(connection, keys)
        for row in rows:
            place = _place_of(row.key)
            if place is None or row.key in folders:
                total.ignored += 1
            else:
                found[place[0]][place[1]].append(row)
        ids = ensure_workspaces(connection, found)
        for workspace, paths in sorted(found.items()):
            _TakingIn(connection, listed, ids[workspace], workspace, paths, total).run()
        keys = connection.scalars(query.where(sightings.c.key > keys[-1])).all()
    return total


def _folders(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Return those keys below which other objects lie: where one name is both, the many win over the one."""
    inner = sightings.alias()
    inside = sa.and_(inner.c.key >= sightings.c.key + "/", inner.c.key < sightings.c.key + "0")
    return set(
        connection.scalars(sa.select(sightings.c.key).where(sightings.c.key.in_(keys), sa.exists().where(inside)))
    )


def _place_of(key: str) -> tuple[str, str] | None:
    """Return workspace and path of a natural key, ``None`` for what can be no file of the directory."""
    workspace = ""
    if key.startswith("@"):
        workspace, _, key = key[1:].partition("/")
        if not workspace:
            return None
    try:
        path = normalize_path(key)
    except CdirError:
        return None
    return (workspace, path) if path != "/" and path[1:] == key else None


def _clusters(seen: list[Any], listed: Listed) -> list[_Cluster]:
    """Sort objects under one name into contents, the newest first."""
    made: list[_Cluster] = []
    # those whose times say when the content was written come first: the others join them by what else is known
    for one in sorted(seen, key=lambda row: (-row.exact, -(row.modified_at or 0), row.provider)):
        precision = listed.precision(one.provider)
        for cluster in made:
            same = _belongs(one, precision, cluster)
            if same is not None:
                cluster.seen.append((one, same))
                if one.exact and precision < cluster.precision:
                    cluster.modified_at, cluster.precision = one.modified_at, precision
                break
        else:
            made.append(_Cluster(one.size, one.modified_at or 0, bool(one.exact), precision, [(one, True)]))
    return sorted(made, key=lambda cluster: -cluster.modified_at)


def _belongs(one: Any, precision: int, cluster: _Cluster) -> bool | None:
    """Say whether an object is of a content: surely, perhaps (False), or not (``None``)."""
    if one.size != cluster.size:
        return None
    for other, _ in cluster.seen:
        kind = one.checksum.partition(":")[0]
        if one.checksum and other.checksum.partition(":")[0] == kind:
            return True if one.checksum == other.checksum else None
    if one.exact and cluster.exact:
        return True if abs(one.modified_at - cluster.modified_at) <= max(precision, cluster.precision) else None
    return False


class _TakingIn:
    """The found files of one workspace and one page."""

    def __init__(
        self,
        connection: Connection,
        listed: Listed,
        workspace_id: int,
        workspace: str,
        paths: dict[str, list[Any]],
        total: TakenIn,
    ) -> None:
        self._connection = connection
        self._listed = listed
        self._workspace_id = workspace_id
        self._workspace = workspace
        self._seen = paths
        self._total = total
        self._ledger = Ledger(connection, now_ns())
        wanted = dict.fromkeys(paths)
        for path in paths:
            wanted.update(dict.fromkeys(ancestors(path)))
        self._found = find_entries(connection, workspace_id, wanted)
        self._removed = find_removed(connection, workspace_id, [path for path in paths if path not in self._found])
        self._tree = Tree.of(connection, workspace_id, self._found, self._ledger.now)
        self._placer = Placer(connection, workspace_id, paths, list(listed.every))

    def run(self) -> None:
        files = [one for path in sorted(self._seen) if (one := self._accept(path)) is not None]
        if not files:
            return
        self._tree.save()
        self._save_entries(files)
        self._ledger.load(one.entry.version_row for one in files if one.entry is not None)
        for one in files:
            self._decide(one)
        self._save_contents(files)
        self._ledger.settle()
        self._ledger.save()

    def _accept(self, path: str) -> _File | None:
        seen = self._seen[path]
        try:
            self._tree.check_parents(path)
            is_directory = self._tree.kind(path) == DIRECTORY
        except CdirError:
            is_directory = True
        if is_directory:
            self._total.ignored += len(seen)  # a name cannot be a file and a directory
            return None
        self._tree.make_parents(path, self._ledger, AUTHOR)
        self._tree.add_file(path)
        return _File(path, _clusters(seen, self._listed), self._found.get(path), self._removed.get(path))

    def _save_entries(self, files: list[_File]) -> None:
        new = [one for one in files if one.entry is None and one.removed is None]
        acls = inherited_acls(self._connection, self._workspace_id, [one.path for one in new])
        for one in files:
            present = one.entry or one.removed
            one.acl = acls[one.path] if present is None else present.acl
        rows = []
        for one, row_id in zip(new, reserve_ids(self._connection, entries, len(new)), strict=True):
            dirname, basename = split_path(one.path)
            one.entry_id = row_id
            rows.append(
                {
                    "id": row_id,
                    "workspace_id": self._workspace_id,
                    "dirname": dirname,
                    "basename": basename,
                    "folded": folded(basename),
                    "kind": FILE,
                    "author": AUTHOR,
                    "created_at": self._ledger.now,
                    "acl": one.acl,
                }
            )
        if rows:
            self._connection.execute(entries.insert(), rows)
        revived = [one.removed.id for one in files if one.entry is None and one.removed is not None]
        if revived:
            self._connection.execute(
                entries.update()
                .where(entries.c.id.in_(revived))
                .values(removed_at=None, removed_by=None, created_at=self._ledger.now)
            )
        for one in files:
            if (present := one.entry or one.removed) is not None:
                one.entry_id = present.id
        last = sa.select(versions.c.entry_id, sa.func.max(versions.c.generation).label("last")).where(
            versions.c.entry_id.in_([one.entry_id for one in files])
        )
        greatest = {row.entry_id: row.last for row in self._connection.execute(last.group_by(versions.c.entry_id))}
        for one in files:
            one.last = greatest.get(one.entry_id, 0)

    def _decide(self, one: _File) -> None:
        """Let the newest content win; a known one whose object is under another name has been replaced."""
        if one.entry is None:
            return
        known = self._ledger.contents[one.entry.version_row]
        newest = one.clusters[0]
        there = any(copy.key == known.natural_key and copy.actual in {OK, UNKNOWN} for copy in known.copies)
        one.stays = there and newest.modified_at <= one.entry.modified_at + newest.precision
        if not one.stays:
            self._ledger.supersede(known, self._keep(one.path))

    def _keep(self, path: str) -> int | None:
        policy = self._placer.policy(path)
        return policy.keep_seconds if policy.keep_versions > 0 else None

    def _save_contents(self, files: list[_File]) -> None:
        count = sum(len(one.clusters) for one in files)
        row_ids = iter(reserve_ids(self._connection, versions, count))
        self._renumber(files)
        rows: list[dict[str, Any]] = []
        contents: list[Content] = []
        current: list[dict[str, int]] = []
        for one in files:
            # a content that stays takes the number after those that were found beside it
            first = one.last if one.stays else one.last + 1
            for generation, cluster in enumerate(reversed(one.clusters), first):
                content = self._content(one, cluster, next(row_ids), is_current=cluster is one.clusters[0])
                contents.append(content)
                rows.append(self._row(content, cluster, generation))
                if content.current:
                    current.append({"row": one.entry_id, "version_id": content.id})
                    self._count(one, content, generation)
        self._connection.execute(versions.insert(), rows)
        if current:
            self._connection.execute(entries.update().where(entries.c.id == sa.bindparam("row")), current)
        for content in contents:
            self._ledger.add_content(content)
            if not content.current:
                self._ledger.supersede(content, self._keep(content.path))

    def _renumber(self, files: list[_File]) -> None:
        staying = [
            {"row": one.entry.version_row, "generation": one.last + len(one.clusters)}
            for one in files
            if one.entry is not None and one.stays
        ]
        if staying:
            self._connection.execute(versions.update().where(versions.c.id == sa.bindparam("row")), staying)

    def _content(self, one: _File, cluster: _Cluster, row_id: int, *, is_current: bool) -> Content:
        dirname, basename = split_path(one.path)
        content = Content(
            id=row_id,
            version_id=uuid.uuid4().hex,
            entry_id=one.entry_id,
            workspace_id=self._workspace_id,
            workspace=self._workspace,
            dirname=dirname,
            basename=basename,
            size=cluster.size,
            current=is_current and not one.stays,
            acl=one.acl,
        )
        for seen, surely in cluster.seen:
            provider = self._listed.by_id[seen.provider].id
            copy = Copy(None, self._workspace_id, row_id, provider, seen.key)
            copy.mark_ok(self._ledger.now, seen.etag, seen.checksum)
            copy.proven_at = None  # its bytes were not looked at
            if not surely:
                copy.actual = UNKNOWN
            content.copies.append(copy)
        return content

    def _row(self, content: Content, cluster: _Cluster, generation: int) -> dict[str, Any]:
        return {
            "id": content.id,
            "version_id": content.version_id,
            "entry_id": content.entry_id,
            "generation": generation,
            "size": content.size,
            "modified_at": cluster.modified_at or self._ledger.now,
            "sha256": b"",
            "block_digests": b"",
            "author": AUTHOR,
            "committed_at": self._ledger.now,
        }

    def _count(self, one: _File, content: Content, generation: int) -> None:
        known = one.entry
        self._ledger.count_files(
            self._workspace_id, int(known is None), content.size - (0 if known is None else known.size)
        )
        self._ledger.log(
            self._workspace_id, ChangeRow(entry_pb2.CHANGE_KIND_WRITTEN, one.path, FILE, generation, AUTHOR)
        )
        self._total.adopted += 1
