"""Bring a database to this release's schema, under a lock, when a catalog starts."""

from __future__ import annotations

import uuid
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import ConfigInvalid
from cdir_catalog import schema

__all__ = ["migrate"]

_LOCK = 0x63646972
"""The advisory lock that makes one of several starting catalogs the one that migrates."""

_REVISIONS = sa.table("alembic_version", sa.column("version_num", sa.Text()))


def migrate(connection: Connection) -> None:
    """Upgrade the schema inside the transaction that ``connection`` is in; without effect when it is up to date.

    On SQLite that transaction is the lock, since it began as a writing one. Raises :class:`ConfigInvalid` for a
    database of a newer release.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    present = _revision(connection)
    if present == schema.REVISION:
        return
    _upgrade(connection, present)
    if connection.scalar(sa.select(schema.identity.c.home_id)) is None:
        connection.execute(schema.identity.insert().values(home_id=uuid.uuid4().hex))


def _revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(sa.select(_REVISIONS.c.version_num))
    return revision


def _upgrade(connection: Connection, present: str | None) -> None:
    # Alembic is loaded only when there is something to migrate: it costs a start a tenth of a second
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    if present is not None:
        try:
            ScriptDirectory.from_config(config).get_revision(present)
        except CommandError as error:
            raise ConfigInvalid("the catalog was written by a newer release of cdir; upgrade cdir") from error
    command.upgrade(config, "head")
