"""The same suite over SQLite and PostgreSQL. Each test gets a copy of a catalog that was made once."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from catalogs.driver import Driver, open_driver
from servers import postgres
from servers.postgres import PostgresServer, postgres_server
from servers.requirement import require

_PROVIDERS = ("a", "b", "c")


@dataclass
class Databases:
    """Makes databases of one kind, empty or with a catalog in it."""

    folder: Path
    server: PostgresServer | None
    templates: dict[bool, tuple[str, dict[str, str]]] = field(default_factory=dict)
    """The catalogs made once, without and with providers: database and provider ids."""

    def _url(self, name: str) -> str:
        return f"sqlite:///{self.folder / name}.db" if self.server is None else self.server.url_of(name)

    async def empty(self) -> str:
        """Return the URL of a database with nothing in it."""
        return self._url(uuid.uuid4().hex) if self.server is None else await self.server.create_database()

    async def catalog(self, *, mirrored: bool) -> tuple[str, dict[str, str]]:
        """Return the URL of a catalog of its own, and the ids of its providers by name."""
        if mirrored not in self.templates:
            url = await self.empty()
            async with open_driver(url) as driver:
                await driver.add_providers(*(_PROVIDERS if mirrored else ()))
            self.templates[mirrored] = url.rpartition("/")[2].removesuffix(".db"), driver.providers
        template, providers = self.templates[mirrored]
        name = f"c{uuid.uuid4().hex}"
        if self.server is None:
            await asyncio.to_thread(shutil.copy, self.folder / f"{template}.db", self.folder / f"{name}.db")
        else:
            connection = await asyncpg.connect(self.server.url)
            await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
            await connection.close()
        return self._url(name), dict(providers)


@pytest.fixture(scope="session")
def sqlite_databases(tmp_path_factory: pytest.TempPathFactory) -> Databases:
    return Databases(tmp_path_factory.mktemp("sqlite"), None)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_databases(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Databases]:
    require(postgres)
    async with postgres_server() as server:
        yield Databases(tmp_path_factory.mktemp("postgres"), server)


@pytest.fixture(params=["sqlite", "postgres"])
def databases(request: pytest.FixtureRequest) -> Databases:
    """The databases that this test runs over; PostgreSQL is started only when a test asks for it."""
    made: Databases = request.getfixturevalue(f"{request.param}_databases")
    return made


@pytest.fixture
async def driver(databases: Databases) -> AsyncIterator[Driver]:
    """A catalog without providers."""
    url, _ = await databases.catalog(mirrored=False)
    async with open_driver(url) as opened:
        yield opened


@pytest.fixture
async def mirrored(databases: Databases) -> AsyncIterator[Driver]:
    """A catalog with the providers a, b and c."""
    url, providers = await databases.catalog(mirrored=True)
    async with open_driver(url) as opened:
        opened.providers.update(providers)
        yield opened
