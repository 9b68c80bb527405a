"""An index of the three-character parts of names, for searching; and one of the copies nobody could repair.

SQLite has it as a table of its full-text module, which triggers keep right whoever writes ``entries``. It holds no text
(``content=''``) and no positions (``detail=none``): a search asks it for candidates and then looks at their names. The
names in it are folded already. PostgreSQL has it as an index of its extension ``pg_trgm``.

Where the module is not compiled in, or the extension is not installed or not allowed, there is no such index, and
searching walks over the names.
"""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa
from alembic import op
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_SQLITE = (
    """
    CREATE VIRTUAL TABLE entry_names USING fts5 (
        name, content='', columnsize=0, detail=none, tokenize='trigram case_sensitive 1'
    )
    """,
    "INSERT INTO entry_names (rowid, name) SELECT id, coalesce(folded, basename) FROM entries",
    "INSERT INTO entry_names (entry_names) VALUES ('optimize')",
    """
    CREATE TRIGGER entry_names_insert AFTER INSERT ON entries BEGIN
        INSERT INTO entry_names (rowid, name) VALUES (new.id, coalesce(new.folded, new.basename));
    END
    """,
    """
    CREATE TRIGGER entry_names_delete AFTER DELETE ON entries BEGIN
        INSERT INTO entry_names (entry_names, rowid, name)
        VALUES ('delete', old.id, coalesce(old.folded, old.basename));
    END
    """,
    """
    CREATE TRIGGER entry_names_update AFTER UPDATE OF basename, folded ON entries
    WHEN coalesce(old.folded, old.basename) <> coalesce(new.folded, new.basename) BEGIN
        INSERT INTO entry_names (entry_names, rowid, name)
        VALUES ('delete', old.id, coalesce(old.folded, old.basename));
        INSERT INTO entry_names (rowid, name) VALUES (new.id, coalesce(new.folded, new.basename));
    END
    """,
)
_NOT_TO_BE_HAD = {"0A000", "42501", "58P01"}
"""SQLSTATE of an extension that is not installed (by age of the server) and of one that this user may not add."""

_QUARANTINED = sa.text("owed = 1 AND attempts >= 8")


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        _index_names_on_postgresql(connection)
    elif _has_trigrams(connection):
        for statement in _SQLITE:
            connection.exec_driver_sql(statement)
    op.create_index(
        "ix_replicas_quarantined",
        "replicas",
        ["version_id"],
        sqlite_where=_QUARANTINED,
        postgresql_where=_QUARANTINED,
    )


def _has_trigrams(connection: Connection) -> bool:
    module = connection.exec_driver_sql("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'").first()
    return module is not None and sqlite3.sqlite_version_info >= (3, 34)


def _index_names_on_postgresql(connection: Connection) -> None:
    try:
        with connection.begin_nested():
            connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in _NOT_TO_BE_HAD:
            raise
    else:
        connection.exec_driver_sql(
            "CREATE INDEX ix_entries_name ON entries USING gin (coalesce(folded, basename) gin_trgm_ops)"
        )
