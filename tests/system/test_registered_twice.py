"""One root under two names, or in two homes: refused, with the name of the one that has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.background import Background
from deployments.deployment import Deployment, EmbeddedDeployment
from deployments.fixtures import BUCKET, short_folder
from servers import openssh, rclone_s3
from servers.openssh import openssh_server
from servers.rclone_s3 import rclone_s3_server
from servers.requirement import require

FAILED = 1


@pytest.fixture(scope="module")
def deployment_kind() -> str:
    """Whose root it is, adapters and catalog decide, which are the same everywhere: one deployment is enough."""
    return "embedded"


@pytest.fixture(scope="module")
def other_home() -> Iterator[Deployment]:
    """The cdir of somebody else."""
    for parent in short_folder():
        made = EmbeddedDeployment(parent / "home")
        try:
            made.start()
            yield made
        finally:
            made.kill()


@pytest.fixture(scope="module", params=["local", "s3", "sftp"])
def place(request: pytest.FixtureRequest, local_disks: Path, background: Background) -> tuple[str, dict[str, Any]]:
    """A kind of provider, and the options that reach one root."""
    if request.param == "s3":
        require(rclone_s3)
        s3 = background.enter(rclone_s3_server())
        (s3.root / BUCKET).mkdir()
        return "s3", dict(s3.options(BUCKET))
    if request.param == "sftp":
        require(openssh)
        return "sftp", dict(background.enter(openssh_server()).options())
    return "local", {"root": local_disks / "root"}


def test_one_root(deployment: Deployment, other_home: Deployment, place: tuple[str, dict[str, Any]]) -> None:
    kind, options = place
    first = f"first-{kind}"
    deployment.add_provider(first, kind, options)

    # a second name in the same home, --adopt or not
    for extra in ((), ("--adopt",)):
        said = deployment.add_provider("second", kind, options, *extra, expect=FAILED).error
        assert f"registered already as {first}" in said

    # another home, which may take it over when it says so
    said = other_home.add_provider("theirs", kind, options, expect=FAILED).error
    assert first in said
    assert "--adopt" in said
    other_home.add_provider("theirs", kind, options, "--adopt")

    # the home that had it no longer takes it for its own, and says why
    deployment.cdir("provider", "check", first, expect=FAILED)
    shown = deployment.json("provider", "show", first)
    assert shown["state"] == "unknown"
    assert "another cdir home" in shown["state_reason"]
    other_home.cdir("provider", "remove", "theirs")
