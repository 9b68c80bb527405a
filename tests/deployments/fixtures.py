"""Fixtures of the system and fault tests: a fresh deployment for each file, and the providers it uses."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments.background import Background
from deployments.deployment import Deployment, EmbeddedDeployment, SplitDeployment
from servers import openssh, postgres, rclone_s3
from servers.openssh import OpenSshServer, openssh_server
from servers.postgres import PostgresServer, postgres_server
from servers.rclone_s3 import RcloneS3Server, rclone_s3_server
from servers.requirement import require

__all__ = [
    "Three",
    "background",
    "database_server",
    "deployment",
    "deployment_kind",
    "disks",
    "folder",
    "local_disks",
    "make_deployment",
    "short_folder",
    "three",
]

BUCKET = "files"


def short_folder() -> Iterator[Path]:
    """A new folder whose path is short enough for Unix sockets in it, and which other users may enter."""
    made = Path(tempfile.mkdtemp(prefix="cdir-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def background() -> Iterator[Background]:
    with Background() as running:
        yield running


@pytest.fixture(scope="session")
def database_server(background: Background) -> PostgresServer:
    require(postgres)
    return background.enter(postgres_server())


@pytest.fixture(scope="module", params=["embedded", "split"])
def deployment_kind(request: pytest.FixtureRequest) -> str:
    kind = request.param
    assert isinstance(kind, str)
    return kind


def make_deployment(kind: str, home: Path, request: pytest.FixtureRequest) -> Deployment:
    """Return a deployment over ``home``, not yet started."""
    if kind == "embedded":
        return EmbeddedDeployment(home)
    server: PostgresServer = request.getfixturevalue("database_server")
    running: Background = request.getfixturevalue("background")
    return SplitDeployment(home, running.run(server.create_database()))


@pytest.fixture(scope="module")
def deployment(deployment_kind: str, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """One running deployment without providers, shared by the tests of a file."""
    for parent in short_folder():
        made = make_deployment(deployment_kind, parent / "home", request)
        try:
            made.start()
            yield made
        finally:
            made.kill()


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> str:
    """A virtual directory of the test's own."""
    return "/" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")


@pytest.fixture(scope="module")
def local_disks(deployment_kind: str) -> Iterator[Path]:
    """A folder in which the deployment's local providers have their roots."""
    yield from short_folder()


@pytest.fixture(scope="module")
def disks(deployment: Deployment, local_disks: Path) -> dict[str, Path]:
    """Three local providers ``one``, ``two`` and ``three``: their roots by name."""
    roots = {name: local_disks / name for name in ("one", "two", "three")}
    for name, root in roots.items():
        deployment.add_provider(name, "local", {"root": root})
    return roots


@dataclass(frozen=True)
class Three:
    """Three providers of different kinds, ``disk``, ``bucket`` and ``host``."""

    roots: dict[str, Path]
    """Where each provider's objects lie as files, by its name."""
    s3: RcloneS3Server
    sftp: OpenSshServer


@pytest.fixture(scope="module")
def three(deployment: Deployment, local_disks: Path, background: Background) -> Three:
    """Registers them; the servers are new for each deployment."""
    require(rclone_s3, openssh)
    s3 = background.enter(rclone_s3_server())
    sftp = background.enter(openssh_server())
    (s3.root / BUCKET).mkdir()
    deployment.add_provider("disk", "local", {"root": local_disks / "disk"})
    deployment.add_provider("bucket", "s3", s3.options(BUCKET))
    deployment.add_provider("host", "sftp", sftp.options())
    return Three({"disk": local_disks / "disk", "bucket": s3.root / BUCKET, "host": sftp.root}, s3, sftp)
