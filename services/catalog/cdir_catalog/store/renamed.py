"""Following files that were renamed after the snapshot from which a catalog is rebuilt.

A snapshot knows such a file under its old name, where no provider has it any more, and the objects under its new name
are explained by nothing. They are one: of the same size and the same modified time, and told apart from others like
them by their name or by the folder that moved as a whole. Where that leaves a doubt nothing is followed: the file stays
listed without a copy, and what was found becomes a file of its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import CdirError
from cdir.paths import join_path, key_of, split_path
from cdir.v1 import directory_service_pb2
from cdir_catalog.keys import place_of
from cdir_catalog.schema import entries, replicas, sightings, versions, workspaces
from cdir_catalog.store.copies import OK, UNKNOWN
from cdir_catalog.store.entries import live
from cdir_catalog.store.moving import move_entry
from cdir_catalog.store.recognizing import Listed, recognize
from cdir_catalog.wire import FILE

__all__ = ["follow_renames"]

_PAGE = 200
_MOST_ALIKE = 1000
"""Files of one size and time, and objects of them: with more, nothing is told apart."""
_MOST_FOLDERS = 10_000


def follow_renames(connection: Connection, listed: Listed, author: str) -> int:
    """Give lost files the names under which their contents were found; return how many.

    For what :func:`~cdir_catalog.store.recognizing.recognize_known` has left unexplained.
    """
    following = _Following(connection, listed, author)
    for _, alike in groupby(_lost(connection), key=lambda row: (row.size, row.modified_at)):
        following.follow(list(alike))
    following.finish()
    return following.followed


def _lost(connection: Connection) -> Iterator[Any]:
    """Yield the files of whose content no copy was found, the largest first: the least likely to be alike."""
    there = sa.exists().where(replicas.c.version_id == versions.c.id, replicas.c.actual.in_((OK, UNKNOWN)))
    query = (
        sa.select(
            entries.c.dirname,
            entries.c.basename,
            workspaces.c.name.label("workspace"),
            versions.c.id,
            versions.c.size,
            versions.c.modified_at,
        )
        .join(versions, versions.c.id == entries.c.version_id)
        .join(workspaces, workspaces.c.id == entries.c.workspace_id)
        .where(live, entries.c.kind == FILE, ~there)
        .order_by(versions.c.size.desc(), versions.c.modified_at.desc(), versions.c.id.desc())
        .limit(_PAGE)
    )
    place = sa.tuple_(versions.c.size, versions.c.modified_at, versions.c.id)
    rows = connection.execute(query).all()
    while rows:
        yield from rows
        last = rows[-1]
        rows = connection.execute(query.where(place < sa.tuple_(last.size, last.modified_at, last.id))).all()


class _Following:
    def __init__(self, connection: Connection, listed: Listed, author: str) -> None:
        self._connection = connection
        self._listed = listed
        self._author = author
        self._step = max((listed.precision(provider_id) for provider_id in listed.by_id), default=0)
        self._moved: dict[tuple[str, str], str] = {}
        """Where files of a folder have gone, by workspace and old folder."""
        self._fresh: dict[int, int] = {}
        """Contents whose new place is not recorded yet, with their times."""
        self.followed = 0

    def follow(self, alike: list[Any]) -> None:
        """Follow files whose contents have the same size and time."""
        found = self._found(alike[0].size, alike[0].modified_at) if len(alike) <= _MOST_ALIKE else {}
        if not found:
            return
        left = [row for row in alike if not self._follow_folder(row, found)]
        named: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        for workspace, path in found:
            named[workspace, split_path(path)[1]].append((workspace, path))
        wanted = Counter((row.workspace, row.basename) for row in left)
        alone = [row for row in left if wanted[row.workspace, row.basename] == 1]
        for row in alone:
            same = named[row.workspace, row.basename]
            if len(same) == 1 and self._take(row, same[0], found):
                left.remove(row)
        if len(left) == len(found) == 1:
            (place,) = found
            if place[0] == left[0].workspace:
                self._take(left[0], place, found)

    def _follow_folder(self, row: Any, found: dict[tuple[str, str], None]) -> bool:
        folder = self._moved.get((row.workspace, row.dirname))
        return folder is not None and self._take(row, (row.workspace, join_path(folder, row.basename)), found)

    def _found(self, size: int, modified_at: int) -> dict[tuple[str, str], None]:
        """Return the places, as (workspace, path), of objects that nothing explains and that may be such a content."""
        rows = self._connection.execute(
            sa.select(sightings)
            .where(
                sightings.c.size == size,
                sightings.c.modified_at.between(modified_at - self._step, modified_at + self._step),
                sightings.c.exact == 1,
                sightings.c.version_id.is_(None),
            )
            .limit(_MOST_ALIKE + 1)
        ).all()
        if len(rows) > _MOST_ALIKE:
            return {}
        exact = (row for row in rows if abs(row.modified_at - modified_at) <= self._listed.precision(row.provider))
        places = (place_of(key) for key in dict.fromkeys(row.key for row in exact))
        return {(place.workspace, place.path): None for place in places if place is not None}

    def _take(self, row: Any, place: tuple[str, str], found: dict[tuple[str, str], None]) -> bool:
        """Rename a file in the catalog, if an object lies at the new place and no other file has its content there."""
        if place not in found:
            return False
        workspace, path = place
        explained = sa.select(sightings.c.key).where(
            sightings.c.key == key_of(workspace, path), sightings.c.version_id.is_not(None)
        )
        if self._connection.execute(explained.limit(1)).first() is not None:
            return False
        request = directory_service_pb2.MoveEntryRequest(
            workspace=workspace, source=join_path(row.dirname, row.basename), target=path, overwrite=True
        )
        try:
            move_entry(self._connection, request, self._author)
        except CdirError:  # a folder has that name meanwhile, or a file is where a folder should be
            return False
        del found[place]
        self.followed += 1
        self._fresh[row.id] = row.modified_at
        if len(self._moved) < _MOST_FOLDERS:
            self._moved.setdefault((workspace, row.dirname), split_path(path)[0])
        if len(self._fresh) >= _PAGE:
            self.finish()
        return True

    def finish(self) -> None:
        """Record where the contents of the files that were followed lie."""
        if self._fresh:
            recognize(self._connection, self._listed, self._fresh)
            self._fresh.clear()
