"""History: which contents a restore means, and what was removed.

A content was what a path showed from its commit until it was superseded. Where its file was at that time, if it was
moved since, says the table ``locations``.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import InvalidArgument, IsDirectory, NotFound
from cdir.paths import join_path, split_path
from cdir.v1 import catalog_service_pb2
from cdir_catalog.clock import SECOND, now_ns
from cdir_catalog.schema import entries, locations, versions
from cdir_catalog.store.entries import below, check_path, find_entries, find_removed, live
from cdir_catalog.store.listing import Position, page_token_of, position_of, subtree_ranges
from cdir_catalog.store.retention import kept
from cdir_catalog.store.trash import restorable
from cdir_catalog.store.workspaces import find_workspace
from cdir_catalog.wire import DIRECTORY, FILE, from_timestamp, version_message

__all__ = ["list_restorable"]

_DEFAULT_PAGE = 500
_LARGEST_PAGE = 1000

_FROM_ENTRY = (
    entries.c.dirname,
    entries.c.basename,
    entries.c.dirname.label("source_dirname"),
    entries.c.basename.label("source_basename"),
    *versions.c,
)
_FROM_LOCATION = (
    locations.c.dirname,
    locations.c.basename,
    entries.c.dirname.label("source_dirname"),
    entries.c.basename.label("source_basename"),
    *versions.c,
)
"""Where a content is wanted, in whose history it is now, and the content."""


def list_restorable(
    connection: Connection, request: catalog_service_pb2.ListRestorableRequest
) -> catalog_service_pb2.ListRestorableResponse:
    """CatalogService.ListRestorable."""
    path = check_path(request.path)
    if request.HasField("generation") and request.HasField("at"):
        raise InvalidArgument("name a generation or a time, not both")
    workspace_id = find_workspace(connection, request.workspace)
    if workspace_id is None:
        raise _never_known(path)
    finding = _Finding(connection, workspace_id, path)
    size = min(request.page_size or _DEFAULT_PAGE, _LARGEST_PAGE)
    page, _, removed_at = request.page_token.partition(".")
    after = position_of(page)
    if request.HasField("generation"):
        rows = [finding.of_generation(request.generation)]
    elif request.HasField("at"):
        rows = finding.shown_at(from_timestamp(request.at), after, size + 1, recursive=request.recursive)
    else:
        if not removed_at:
            rows, removed_at = finding.last_removed_file(), ""
            if not rows:
                removed_at = str(finding.last_removal(recursive=request.recursive))
        if removed_at:
            rows = finding.removed_at(int(removed_at), after, size + 1)
    token = ""
    if len(rows) > size:
        rows = rows[:size]
        token = f"{page_token_of((rows[-1].dirname, rows[-1].basename))}.{removed_at}"
    return catalog_service_pb2.ListRestorableResponse(contents=finding.messages(rows), next_page_token=token)


def _never_known(path: str) -> NotFound:
    return NotFound(f"there is nothing at {path!r}, and nothing that was there is kept", path=path)


def _is_same(now: Any, content: Any) -> bool:
    """Say whether an entry shows that content: it is its current one, or is a copy of it (restored before, perhaps)."""
    if now.version_row == content.id:
        return True
    return bool(content.sha256) and (now.sha256, now.modified_at) == (content.sha256, content.modified_at)


def _written(time: int) -> str:
    return datetime.fromtimestamp(time // SECOND, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


class _Finding:
    """Looks for contents at or below one path."""

    def __init__(self, connection: Connection, workspace_id: int, path: str) -> None:
        self._connection = connection
        self._workspace_id = workspace_id
        self._path = path
        self._live = find_entries(connection, workspace_id, [path]).get(path)
        self._removed = find_removed(connection, workspace_id, [path]).get(path)

    @property
    def _is_directory(self) -> bool:
        return self._path == "/" or (self._live is not None and self._live.kind == DIRECTORY)

    def messages(self, rows: list[Any]) -> list[catalog_service_pb2.RestorableContent]:
        """Return the contents with what their paths show now."""
        paths = [join_path(row.dirname, row.basename) for row in rows]
        present = find_entries(self._connection, self._workspace_id, paths)
        found = []
        for path, row in zip(paths, rows, strict=True):
            now = present.get(path)
            found.append(
                catalog_service_pb2.RestorableContent(
                    path=path,
                    version=version_message(row),
                    source_path=join_path(row.source_dirname, row.source_basename),
                    current_generation=now.generation if now is not None and now.kind == FILE else 0,
                    unchanged=now is not None and _is_same(now, row),
                )
            )
        return found

    # -- a file by generation -----------------------------------------------------------------------------------------

    def of_generation(self, generation: int) -> Any:
        """Return the content of that generation."""
        if self._is_directory:
            self._require_no_file_before()
            raise IsDirectory(f"{self._path!r} is a directory and has no generations; name a time", path=self._path)
        entry = self._live or self._removed
        if entry is None:
            raise _never_known(self._path)
        query = self._contents().where(versions.c.entry_id == entry.id, versions.c.generation == generation)
        row = self._connection.execute(query).first()
        if row is None:
            raise NotFound(
                f"no generation {generation} of {self._path!r} is kept; see `cdir versions {self._path}`",
                path=self._path,
            )
        return row

    # -- what was removed last ----------------------------------------------------------------------------------------

    def last_removed_file(self) -> list[Any]:
        """Return the last content of the file that was at the path itself; nothing when none was removed there."""
        if self._live is not None and self._live.kind == FILE:
            raise InvalidArgument(
                f"{self._path!r} was not removed; say which content to restore, by generation or by time"
                f" (see `cdir versions {self._path}`)",
                path=self._path,
            )
        if self._is_directory or self._removed is None:
            return []
        query = self._contents().where(versions.c.id == self._removed.version_row)
        return list(self._connection.execute(query))

    def last_removal(self, *, recursive: bool) -> int:
        """Return when something below the path was removed last."""
        last: int | None = self._connection.scalar(
            sa.select(sa.func.max(entries.c.removed_at))
            .join(versions, versions.c.id == entries.c.version_id)
            .where(entries.c.workspace_id == self._workspace_id, restorable(now_ns()), below(self._path))
        )
        if last is None:
            if self._is_directory:
                self._require_no_file_before()
                raise NotFound(f"nothing that was removed below {self._path!r} is kept", path=self._path)
            raise _never_known(self._path)
        self._check_recursive(recursive)
        return last

    def removed_at(self, time: int, after: Position | None, limit: int) -> list[Any]:
        """Return the contents of the files below the path that were removed at that time, in order."""
        query = (
            sa.select(*_FROM_ENTRY)
            .join(versions, versions.c.id == entries.c.version_id)
            .where(entries.c.workspace_id == self._workspace_id, entries.c.removed_at == time, kept)
        )
        return list(self._in_order(query, entries, after, limit))

    # -- what was shown at a time -------------------------------------------------------------------------------------

    def shown_at(self, time: int, after: Position | None, limit: int, *, recursive: bool) -> list[Any]:
        """Return what the path showed at a time: the file that it was, else the files below it, in order."""
        if time > now_ns():
            raise InvalidArgument(f"{_written(time)} lies in the future; name a time that has passed")
        queries = self._shown_at(time)
        dirname, basename = split_path(self._path)
        for query, table in queries:
            own = query.where(table.c.dirname == dirname, table.c.basename == basename)
            row = self._connection.execute(own).first()
            if row is not None:
                return [row]
        found = heapq.merge(
            *(self._in_order(query, table, after, limit) for query, table in queries),
            key=lambda row: (row.dirname, row.basename),
        )
        rows = [row for row, _ in zip(found, range(limit), strict=False)]
        if rows:
            self._check_recursive(recursive)
        elif after is None:
            raise self._nothing_at(time)
        return rows

    def _shown_at(self, time: int) -> list[tuple[sa.Select[Any], sa.Table]]:
        """Return the queries that find, together, what every path showed at a time."""
        shown = sa.and_(
            versions.c.committed_at <= time,
            sa.or_(versions.c.superseded_at.is_(None), versions.c.superseded_at > time),
            kept,
        )
        later = locations.alias("later")
        moves_since = sa.and_(later.c.version_id == versions.c.id, later.c.until_at > time)
        in_place = self._contents().where(shown, ~sa.exists().where(moves_since))
        moved_since = (
            sa.select(*_FROM_LOCATION)
            .join(versions, versions.c.id == locations.c.version_id)
            .join(entries, entries.c.id == versions.c.entry_id)
            .where(
                locations.c.workspace_id == self._workspace_id,
                shown,
                locations.c.until_at == sa.select(sa.func.min(later.c.until_at)).where(moves_since).scalar_subquery(),
            )
        )
        return [
            (in_place.where(live), entries),
            (in_place.where(entries.c.removed_at.is_not(None)), entries),
            (moved_since, locations),
        ]

    def _nothing_at(self, time: int) -> NotFound:
        entry = self._live or self._removed
        if entry is not None and entry.kind == FILE:
            first = self._connection.scalar(
                sa.select(sa.func.min(versions.c.committed_at)).where(versions.c.entry_id == entry.id, kept)
            )
            if first is not None and first > time:
                return NotFound(
                    f"nothing of {self._path!r} is kept from {_written(time)}; its oldest content is of"
                    f" {_written(first)}",
                    path=self._path,
                )
        if entry is not None or self._path == "/" or self._known_below():
            return NotFound(f"{self._path!r} showed nothing at {_written(time)} that is kept", path=self._path)
        return _never_known(self._path)

    def _known_below(self) -> bool:
        """Whether there was ever something at or below the path, as far as that is kept."""
        removed = (
            sa.select(entries.c.id).where(entries.c.workspace_id == self._workspace_id, below(self._path)).limit(1)
        )
        if self._connection.scalar(removed) is not None:
            return True
        moved = sa.select(locations.c.version_id).where(locations.c.workspace_id == self._workspace_id)
        return any(
            self._connection.scalar(moved.where(condition).limit(1)) is not None
            for condition in subtree_ranges(self._path, None, table=locations)
        )

    def _require_no_file_before(self) -> None:
        """Raise IsDirectory when the directory stands where a file was removed that is kept."""
        if self._removed is not None:
            raise IsDirectory(
                f"{self._path!r} is a directory now; move it away (`cdir mv`) to bring back the file that was removed",
                path=self._path,
            )

    # -- both ---------------------------------------------------------------------------------------------------------

    def _contents(self) -> sa.Select[Any]:
        return (
            sa.select(*_FROM_ENTRY)
            .join(versions, versions.c.entry_id == entries.c.id)
            .where(entries.c.workspace_id == self._workspace_id, kept)
        )

    def _in_order(self, query: sa.Select[Any], table: sa.Table, after: Position | None, limit: int) -> Iterator[Any]:
        """Yield at most ``limit`` rows below the path, by (dirname, basename)."""
        left = limit
        for condition in subtree_ranges(self._path, after, table=table):
            ordered = query.where(condition).order_by(table.c.dirname, table.c.basename).limit(left)
            rows = self._connection.execute(ordered).all()
            yield from rows
            left -= len(rows)
            if left == 0:
                return

    def _check_recursive(self, recursive: bool) -> None:
        if not recursive:
            raise IsDirectory(
                f"{self._path!r} is or was a directory; use --recursive to restore all below it", path=self._path
            )
