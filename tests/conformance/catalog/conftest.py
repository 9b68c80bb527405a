"""The same suite over SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from catalogs.driver import Driver, open_driver
from servers import postgres
from servers.postgres import PostgresServer, postgres_server
from servers.requirement import require


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster() -> AsyncIterator[PostgresServer]:
    require(postgres)
    async with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def backend(request: pytest.FixtureRequest) -> str:
    """Which database this test runs over."""
    name: str = request.param
    return name


@pytest.fixture
def server(backend: str, request: pytest.FixtureRequest) -> PostgresServer | None:
    """The cluster, started only when a test runs over it."""
    return request.getfixturevalue("cluster") if backend == "postgres" else None


@pytest.fixture
async def url(server: PostgresServer | None, tmp_path: Path) -> str:
    """The URL of an empty database."""
    return f"sqlite:///{tmp_path / 'catalog.db'}" if server is None else await server.create_database()


@pytest.fixture
async def driver(url: str) -> AsyncIterator[Driver]:
    """A catalog without providers."""
    async with open_driver(url) as opened:
        yield opened


@pytest.fixture
async def mirrored(driver: Driver) -> Driver:
    """A catalog with the providers a, b and c."""
    await driver.add_providers("a", "b", "c")
    return driver
