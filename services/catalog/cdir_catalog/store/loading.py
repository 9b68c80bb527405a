"""Taking snapshot files into a catalog that is empty, or holds the whole snapshot that an increment builds on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import ConfigInvalid, IntegrityError
from cdir.paths import split_path
from cdir_catalog import schema
from cdir_catalog.schema import changes, entries, providers, replicas, versions
from cdir_catalog.snapshot_file import read_lines
from cdir_catalog.store.dumping import CONTENT_TABLES, REFERRED, TABLES, Line, decode_rows, hangs_on_versions
from cdir_catalog.store.entries import below, live
from cdir_catalog.store.pairs import pairs_table

__all__ = ["load_file", "wipe"]

_BATCH = 500


def wipe(connection: Connection) -> None:
    """Delete every row that a snapshot can bring, and what refers to it."""
    for table in reversed(schema.metadata.sorted_tables):
        if table not in (schema.sightings, schema.snapshots):
            connection.execute(table.delete())


def load_file(connection: Connection, file: IO[bytes], name: str, base: str) -> Line:
    """Take in one file, at its beginning; returns its header.

    ``base`` is the name of the whole snapshot that the catalog holds, empty when it holds none. Raises IntegrityError
    when the file is damaged or builds on another base, ConfigInvalid when a newer release made it.
    """
    lines = read_lines(file, name)
    header = next(lines)
    if header["schema"] > schema.REVISION:
        raise ConfigInvalid(f"the snapshot {name} was made by a newer release of cdir; upgrade cdir")
    if header["base"] != base:
        raise IntegrityError(f"the snapshot {name} needs {header['base'] or 'an empty catalog'} before it")
    known = {table.name: table for table in TABLES}
    if base:
        _load_increment(connection, lines, known)
    else:
        for line in lines:
            _insert(connection, known, line)
    _count_ids_on(connection)
    return header


def _insert(connection: Connection, known: dict[str, sa.Table], line: Line) -> None:
    table = known.get(line["table"])
    if table is None or not line["rows"]:
        return
    connection.execute(table.insert(), decode_rows(table, line))


def _load_increment(connection: Connection, lines: Iterator[Line], known: dict[str, sa.Table]) -> None:
    for table in reversed(TABLES):
        if table not in (*CONTENT_TABLES, *REFERRED, changes):
            connection.execute(table.delete())
    referred: dict[str, list[dict[str, Any]]] = {table.name: [] for table in REFERRED}
    settled = False
    for line in lines:
        table = line.get("table")
        if table in referred:
            referred[table] += decode_rows(known[table], line)
            continue
        if not settled:
            _settle_referred(connection, referred)
            settled = True
        if "forget" in line:
            _forget(connection, line)
            continue
        if table == changes.name:
            _forget_changes(connection, line)
        _insert(connection, known, line)


def _settle_referred(connection: Connection, referred: dict[str, list[dict[str, Any]]]) -> None:
    """Bring workspaces and providers to what the increment says."""
    for table in REFERRED:
        present = set(connection.scalars(sa.select(table.c.id)))
        rows = referred[table.name]
        gone = present - {row["id"] for row in rows}
        if table is providers and gone:
            # of tables that refer to it only this one is not empty: small ones come anew
            connection.execute(replicas.delete().where(replicas.c.provider_id.in_(gone)))
            connection.execute(providers.delete().where(providers.c.id.in_(gone)))
        for row in rows:
            if row["id"] in present:
                connection.execute(table.update().where(table.c.id == row["id"]).values(row))
            else:
                connection.execute(table.insert().values(row))


def _forget_changes(connection: Connection, line: Line) -> None:
    """Delete those changes of a line that the base has already: it was written a little later than it was begun."""
    for row in decode_rows(changes, line)[:1]:
        connection.execute(
            changes.delete().where(changes.c.workspace_id == row["workspace_id"], changes.c.revision >= row["revision"])
        )


def _forget(connection: Connection, line: Line) -> None:
    """Delete what the base has at the paths that the increment brings anew."""
    workspace_id = line["forget"]
    paths = [*line["files"], *line["trees"]]
    for begin in range(0, len(paths), _BATCH):
        pairs = [split_path(path) for path in paths[begin : begin + _BATCH]]
        for condition in (live, ~live):
            wanted = pairs_table(connection)
            mine = wanted.matching(entries, entries.c.dirname, entries.c.basename, workspace_id, condition)
            found = connection.scalars(sa.select(entries.c.id).select_from(mine), wanted.values(pairs)).all()
            _delete(connection, [row_id for row_id in found if row_id is not None])
    for tree in line["trees"]:
        inside = sa.and_(entries.c.workspace_id == workspace_id, below(tree))
        while found := connection.scalars(sa.select(entries.c.id).where(inside).limit(_BATCH)).all():
            _delete(connection, found)


def _delete(connection: Connection, entry_ids: Any) -> None:
    if not entry_ids:
        return
    theirs = sa.select(versions.c.id).where(versions.c.entry_id.in_(entry_ids))
    for table in CONTENT_TABLES:
        column = hangs_on_versions(table)
        if column is not None:
            connection.execute(table.delete().where(column.in_(theirs)))
    connection.execute(versions.delete().where(versions.c.entry_id.in_(entry_ids)))
    connection.execute(entries.delete().where(entries.c.id.in_(entry_ids)))


def _count_ids_on(connection: Connection) -> None:
    """Have PostgreSQL number new rows after those that were taken in."""
    if connection.dialect.name != "postgresql":
        return
    for table in TABLES:
        if list(table.primary_key.columns.keys()) == ["id"]:
            last = sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0) + 1).scalar_subquery()
            sequence = sa.func.pg_get_serial_sequence(table.name, "id")
            connection.execute(sa.select(sa.func.setval(sequence, last, sa.false())))
