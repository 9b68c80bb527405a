"""A running catalog: its database, its group commit, its servicer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cdir_catalog.database import open_database
from cdir_catalog.group_commit import group_commit
from cdir_catalog.migrate import migrate
from cdir_catalog.servicer import CatalogServicer

__all__ = ["open_catalog"]


@asynccontextmanager
async def open_catalog(database_url: str) -> AsyncIterator[CatalogServicer]:
    """Open the catalog in the database that ``database_url`` names, made and migrated as needed.

    ``sqlite:///path/to/file`` or ``postgresql://user:password@host/name``. Errors: :class:`cdir.errors.ConfigInvalid`.
    """
    async with open_database(database_url) as database:
        await database.write(migrate)
        async with group_commit(database) as commits:
            yield CatalogServicer(database, commits)
