"""Disks that are full, for copies and for the catalog; a catalog that this release does not know; a port in use."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.deployment import Deployment, EmbeddedDeployment, SplitDeployment, eventually
from deployments.fixtures import make_deployment, short_folder

OWED = 3
MIB = 1024 * 1024


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of 16 MiB."""
    for folder in short_folder():
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip("capability: this user cannot mount a small disk")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free, and return the file that takes the room."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(64 * 1024))
        except OSError:
            pass
    return filler


@pytest.fixture
def fresh(deployment_kind: str, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """A running deployment of the test's own."""
    for folder in short_folder():
        made = make_deployment(deployment_kind, folder / "home", request)
        try:
            made.start()
            yield made
        finally:
            made.kill()


def test_provider_whose_disk_is_full(fresh: Deployment, small_disk: Path, tmp_path: Path) -> None:
    fresh.add_provider("small", "local", {"root": small_disk / "root"})
    filler = fill(small_disk)
    content = os.urandom(20 * MIB)
    alone = fresh.cdir("put", "-", "/alone", stdin=content, expect=1)
    assert "Traceback" not in alone.stderr
    assert fresh.json("ls", "/") == []

    fresh.add_provider("large", "local", {"root": tmp_path / "large"})
    fresh.cdir("put", "-", "/x", stdin=b"content" * 20_000, expect=OWED)
    assert fresh.cdir("cat", "/x").stdout == b"content" * 20_000
    assert not (small_disk / "root" / "x").exists()
    filler.unlink()
    fresh.cdir("repair", "/")
    fresh.wait_settled()
    assert (small_disk / "root" / "x").read_bytes() == b"content" * 20_000


def test_no_disk_for_the_catalog(small_disk: Path, tmp_path: Path) -> None:
    deployment = EmbeddedDeployment(small_disk / "home")
    deployment.home.mkdir()
    try:
        deployment.start()
        deployment.add_provider("disk", "local", {"root": tmp_path / "root"})
        deployment.cdir("put", "-", "/before", stdin=b"before")
        filler = fill(small_disk)
        failed = None
        for number in range(2_000):  # the catalog's own file may have room for some
            done = deployment.cdir("put", "-", f"/during/{number}", stdin=b"x", expect=None)
            if done.exit != 0:
                failed = done
                break
        assert failed is not None
        assert failed.exit == 1
        assert "Traceback" not in failed.stderr
        assert failed.error
        filler.unlink()
        eventually(lambda: deployment.cdir("put", "-", "/after", stdin=b"after", expect=None).exit == 0)
        for name in ("before", "after"):
            assert deployment.cdir("cat", f"/{name}").stdout == name.encode()
    finally:
        deployment.kill()


def test_catalog_of_a_newer_release(home: Path) -> None:
    deployment = EmbeddedDeployment(home / "home")
    try:
        deployment.start()
        deployment.stop()
        catalog = next(
            path
            for path in deployment.home.iterdir()
            if path.is_file() and path.read_bytes().startswith(b"SQLite format 3")
        )
        with sqlite3.connect(catalog) as connection:
            connection.execute("UPDATE alembic_version SET version_num = 'from the future'")
        connection.close()
        said = deployment.start_expecting_failure()
        assert "newer" in said
        assert "Traceback" not in said
    finally:
        deployment.kill()


def test_port_in_use(deployment_kind: str, home: Path, request: pytest.FixtureRequest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        made = make_deployment(deployment_kind, home / "home", request)
        if isinstance(made, SplitDeployment):
            made.listen = listen
        else:
            made.extra_arguments = ["--listen", listen]
        said = made.start_expecting_failure()
        assert listen in said
        assert "Traceback" not in said


def test_daemon_that_runs_already(home: Path) -> None:
    deployment = EmbeddedDeployment(home / "home")
    try:
        deployment.start()
        second = EmbeddedDeployment(home / "home")
        done = second.cdir("up", expect=None)
        assert "runs already" in done.text + done.stderr
        assert deployment.cdir("status").exit == 0
    finally:
        deployment.kill()
