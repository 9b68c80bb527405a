"""A provider's bandwidth, set on the command line while it is in use: kept to both ways, and lifted at once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from deployments.deployment import Deployment

RATE = 8 << 10
"""Bytes a second."""
SIZE = 40_000
AT_ONCE = RATE
"""What is saved up passes without waiting."""
LEAST_SECONDS = (SIZE - AT_ONCE) / RATE


@pytest.fixture
def slow(deployment: Deployment, disks: dict[str, Path]) -> str:
    """A disk that is held to a few kilobytes a second; disks without a limit are there as well."""
    name = next(iter(disks))
    deployment.cdir("put", "-", "/before/file", stdin=os.urandom(SIZE))
    deployment.cdir("provider", "set", name, "--bandwidth", "8KiB")
    return name


def test_a_few_kilobytes_a_second(deployment: Deployment, slow: str, folder: str, tmp_path: Path) -> None:
    assert deployment.json("provider", "show", slow)["bandwidth"] == RATE
    content = os.urandom(SIZE)
    began = time.monotonic()
    deployment.cdir("put", "-", f"{folder}/file", "--wait", "min", stdin=content, expect=3)
    assert deployment.cdir("cat", f"{folder}/file").stdout == content
    deployment.wait_settled(folder)
    assert time.monotonic() - began > LEAST_SECONDS, "more was written than the provider's bandwidth allows"

    back = tmp_path / "back"
    began = time.monotonic()
    deployment.cdir("get", f"{folder}/file", back, "--from", slow)
    assert back.read_bytes() == content
    assert time.monotonic() - began > LEAST_SECONDS, "more was read than the provider's bandwidth allows"

    deployment.cdir("put", "-", f"{folder}/large", "--wait", "min", stdin=os.urandom(60 * RATE), expect=3)
    began = time.monotonic()
    deployment.cdir("provider", "set", slow, "--bandwidth", "0")
    assert deployment.json("provider", "show", slow)["bandwidth"] == 0
    deployment.wait_settled(folder)
    assert time.monotonic() - began < 30, "a copy under way still goes at the bandwidth that the provider had"


@pytest.mark.parametrize("limit", ["-1", "fast", ""])
def test_a_bandwidth_that_is_none(deployment: Deployment, disks: dict[str, Path], limit: str) -> None:
    name = next(iter(disks))
    refused = deployment.cdir("provider", "set", name, "--bandwidth", limit, expect=2)
    assert "--bandwidth" in refused.error
