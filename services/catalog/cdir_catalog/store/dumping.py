"""The catalog as lines of a snapshot file: every row of it, or what has changed since an earlier state.

A whole snapshot has every row. An increment has the tables that are small as a whole, and of entries and what hangs on
them those at paths that the change log names since its base. It begins by saying which paths those are: what the base
has there is forgotten before the rows are taken in.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.paths import split_path
from cdir_catalog import schema
from cdir_catalog.schema import (
    changes,
    entries,
    intents,
    metadata,
    providers,
    scans,
    sightings,
    snapshots,
    vacancies,
    versions,
    workspaces,
)
from cdir_catalog.snapshot_file import FORMAT
from cdir_catalog.store.entries import ancestors, live
from cdir_catalog.store.listing import subtree_ranges
from cdir_catalog.store.pairs import pairs_table
from cdir_catalog.wire import FILE

__all__ = [
    "CONTENT_TABLES",
    "REFERRED",
    "TABLES",
    "Line",
    "decode_rows",
    "dump_increment",
    "dump_whole",
    "hangs_on_versions",
]

Line = dict[str, Any]

_OF_THE_MOMENT = (intents, scans, sightings, snapshots, vacancies)
"""What is under way in one catalog means nothing to another."""

REFERRED = (workspaces, providers)
"""Small tables whose rows others refer to. They come first in a file."""

TABLES = (
    *REFERRED,
    *(table for table in metadata.sorted_tables if table not in (*REFERRED, *_OF_THE_MOMENT)),
)
"""What a snapshot holds, in an order in which rows can be inserted."""

_PAGE = 256
"""Rows of one line. A version of a very large file brings its block digests, so that pages stay small."""

_ENTRIES = 64
"""Entries of an increment that are looked up at once, with every version of them."""


def hangs_on_versions(table: sa.Table) -> sa.Column[Any] | None:
    """Return the column by which rows of ``table`` belong to versions, ``None`` where they do not."""
    return next((key.parent for key in table.foreign_keys if key.column is versions.c.id), None)


CONTENT_TABLES = tuple(
    table for table in TABLES if table in (entries, versions) or hangs_on_versions(table) is not None
)
"""Entries and what hangs on them: of these an increment has only what was touched."""


def dump_whole(connection: Connection, header: Line) -> Iterator[Line]:
    """Yield the lines of a whole snapshot."""
    yield {**header, "format": FORMAT, "schema": schema.REVISION}
    for table in TABLES:
        yield from _rows(connection, table)


def dump_increment(connection: Connection, header: Line, since: Mapping[int, int]) -> Iterator[Line]:
    """Yield the lines of an increment; ``since`` are the revisions of the workspaces, by row id, that its base has."""
    yield {**header, "format": FORMAT, "schema": schema.REVISION}
    for table in TABLES:
        if table not in CONTENT_TABLES and table is not changes:
            yield from _rows(connection, table)
    for workspace_id in connection.scalars(sa.select(workspaces.c.id).order_by(workspaces.c.id)).all():
        newer = sa.and_(changes.c.workspace_id == workspace_id, changes.c.revision > since.get(workspace_id, 0))
        yield from _rows(connection, changes, newer)
        files, trees = _touched(connection, newer)
        yield {"forget": workspace_id, "files": files, "trees": trees}
        yield from _entries_at(connection, workspace_id, [*files, *trees])
        for tree in trees:
            yield from _entries_below(connection, workspace_id, tree)


def _touched(connection: Connection, newer: sa.ColumnElement[bool]) -> tuple[list[str], list[str]]:
    """Return the paths that the changes name: of files, and of directories, none of them inside of another one."""
    paths: dict[str, bool] = {}
    for path, old_path, kind in connection.execute(
        sa.select(changes.c.path, changes.c.old_path, changes.c.entry_kind).where(newer)
    ):
        for one in filter(None, (path, old_path)):
            paths[one] = paths.get(one, False) or kind != FILE
    trees = {path for path, is_tree in paths.items() if is_tree}
    outermost = sorted(path for path in trees if trees.isdisjoint(_above(path)))
    inside = set(outermost)
    files = sorted(path for path in paths if path not in trees and inside.isdisjoint(_above(path)))
    return files, outermost


def _above(path: str) -> list[str]:
    return [] if path == "/" else [*ancestors(path), "/"]


def _entries_at(connection: Connection, workspace_id: int, paths: Sequence[str]) -> Iterator[Line]:
    for begin in range(0, len(paths), _ENTRIES):
        pairs = [split_path(path) for path in paths[begin : begin + _ENTRIES]]
        for condition in (live, ~live):  # each has an index of its own
            wanted = pairs_table(connection)
            mine = wanted.matching(entries, entries.c.dirname, entries.c.basename, workspace_id, condition)
            rows = connection.execute(sa.select(*entries.c).select_from(mine), wanted.values(pairs)).all()
            yield from _contents(connection, [row for row in rows if row.id is not None])


def _entries_below(connection: Connection, workspace_id: int, tree: str) -> Iterator[Line]:
    for condition in (live, ~live):
        query = (
            sa.select(entries)
            .where(entries.c.workspace_id == workspace_id, condition)
            .order_by(entries.c.dirname, entries.c.basename)
            .limit(_ENTRIES)
        )
        after: tuple[str, str] | None = None
        while True:
            rows: list[Any] = []
            for part in subtree_ranges(tree, after):
                rows.extend(connection.execute(query.where(part)))
                if len(rows) >= _ENTRIES:
                    break
            yield from _contents(connection, rows)
            if len(rows) < _ENTRIES:
                break
            after = rows[-1].dirname, rows[-1].basename


def _contents(connection: Connection, rows: Sequence[Any]) -> Iterator[Line]:
    """Yield entries with the versions they have and what hangs on those."""
    if not rows:
        return
    yield _line(entries, rows)
    ids = connection.scalars(sa.select(versions.c.id).where(versions.c.entry_id.in_([row.id for row in rows]))).all()
    for begin in range(0, len(ids), _PAGE):
        page = ids[begin : begin + _PAGE]
        for table in CONTENT_TABLES:
            column = versions.c.id if table is versions else hangs_on_versions(table)
            if column is not None:
                yield _line(table, connection.execute(sa.select(table).where(column.in_(page))).all())


def _rows(connection: Connection, table: sa.Table, condition: sa.ColumnElement[bool] | None = None) -> Iterator[Line]:
    """Yield the rows of a table, in the order of its key."""
    key = list(table.primary_key.columns)
    query = sa.select(table).order_by(*key).limit(_PAGE)
    if condition is not None:
        query = query.where(condition)
    rows = connection.execute(query).all()
    while rows:
        yield _line(table, rows)
        if len(rows) < _PAGE:
            return
        last = [getattr(rows[-1], column.name) for column in key]
        after = key[0] > last[0] if len(key) == 1 else sa.tuple_(*key) > sa.tuple_(*map(sa.literal, last))
        rows = connection.execute(query.where(after)).all()


def _line(table: sa.Table, rows: Sequence[Any]) -> Line:
    encode = [_encode if isinstance(column.type, sa.LargeBinary) else _same for column in table.c]
    return {
        "table": table.name,
        "columns": [column.name for column in table.c],
        "rows": [[one(value) for one, value in zip(encode, row, strict=True)] for row in rows],
    }


def decode_rows(table: sa.Table, line: Line) -> list[dict[str, Any]]:
    """Return the rows of a line as they are inserted."""
    columns = line["columns"]
    binary = {column.name for column in table.c if isinstance(column.type, sa.LargeBinary)}
    decode = [_decode if name in binary else _same for name in columns]
    return [{name: one(value) for name, one, value in zip(columns, decode, row, strict=True)} for row in line["rows"]]


def _same(value: Any) -> Any:
    return value


def _encode(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode("ascii")


def _decode(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value)
