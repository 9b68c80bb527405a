"""One daemon for all tests of the client; every test works in a directory of its own."""

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

import cdir
from servers.embedded import Embedded, embedded_daemon

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def embedded() -> Iterator[Embedded]:
    with embedded_daemon("one", "two", "three") as running:
        yield running


@pytest.fixture
async def client(embedded: Embedded) -> AsyncIterator[cdir.Client]:
    async with cdir.connect(embedded.address) as connected:
        yield connected


@pytest.fixture
def folder() -> str:
    return f"/t{next(_numbers)}"
