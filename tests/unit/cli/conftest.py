"""One daemon for all tests of the commands that need one."""

import itertools
from collections.abc import Iterator

import pytest

from servers.embedded import Embedded, embedded_daemon

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def embedded() -> Iterator[Embedded]:
    with embedded_daemon("one", "two") as running:
        yield running


@pytest.fixture
def folder() -> str:
    return f"/c{next(_numbers)}"
