from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from unit.gateway.harness import Harness, open_harness


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """A gateway without providers."""
    async with open_harness(tmp_path) as composed:
        yield composed


@pytest.fixture
async def trio(harness: Harness) -> Harness:
    """A gateway with three local providers a, b and c."""
    for name in "abc":
        await harness.add_provider(name)
    return harness


@pytest.fixture(params=["loopback", "socket"])
async def any_trio(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    """The same, reached over a loopback channel and over a socket."""
    async with open_harness(tmp_path, socket=request.param == "socket") as composed:
        for name in "abc":
            await composed.add_provider(name)
        yield composed


@pytest.fixture
async def replicated(tmp_path: Path) -> AsyncIterator[Harness]:
    """The same with a replicator at work."""
    async with open_harness(tmp_path, replicator=True) as composed:
        for name in "abc":
            await composed.add_provider(name)
        yield composed
