"""A running catalog: its database, its group commit, its servicer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cdir_catalog.database import Database, open_database
from cdir_catalog.group_commit import group_commit
from cdir_catalog.migrate import migrate
from cdir_catalog.provider_card import ProviderCard
from cdir_catalog.servicer import CatalogServicer

__all__ = ["open_catalog", "serve_catalog"]


@asynccontextmanager
async def open_catalog(database_url: str, provider_card: Path | None = None) -> AsyncIterator[CatalogServicer]:
    """Open the catalog in the database that ``database_url`` names, made and migrated as needed.

    ``sqlite:///path/to/file`` or ``postgresql://user:password@host/name``. ``provider_card`` is the file in which the
    providers are written down, for the day on which the database is lost; a new catalog begins with those it names.
    Errors: :class:`cdir.errors.ConfigInvalid`.
    """
    async with open_database(database_url) as database, serve_catalog(database, provider_card) as servicer:
        yield servicer


@asynccontextmanager
async def serve_catalog(database: Database, provider_card: Path | None = None) -> AsyncIterator[CatalogServicer]:
    """Serve the catalog in a database that is open, made and migrated as needed; it stays open."""
    await database.write(migrate)
    card = None if provider_card is None else ProviderCard(provider_card)
    if card is not None:
        await card.introduce(database)
        await card.keep(database)
    async with group_commit(database) as commits:
        yield CatalogServicer(database, commits, card)
