"""The catalog is lost; it is made anew from what the providers hold, with and without a snapshot of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from deployments.background import Background
from deployments.deployment import Deployment, EmbeddedDeployment, SplitDeployment, eventually_is
from deployments.fixtures import make_deployment, short_folder
from servers import openssh, rclone_s3
from servers.openssh import openssh_server
from servers.postgres import PostgresServer
from servers.rclone_s3 import rclone_s3_server
from servers.requirement import require

pytestmark = pytest.mark.slow_split

_SMALL = {"a.txt": b"alpha", "d/b.txt": b"beta", "d/e/ü.txt": b"gamma", "d/empty": b""}
_LARGE = os.urandom((9 << 20) + 17)


Lost = tuple[Deployment, Path]
"""A deployment with three providers and a tree on them, and the folder in which the tree's source is."""


Roots = dict[str, Path]
"""Where each provider's objects lie as files, by its name."""


@pytest.fixture
def lost(deployment_kind: str, request: pytest.FixtureRequest) -> Iterator[Lost]:
    """On either deployment."""
    for made, parent in _made(deployment_kind, request):
        _put(made, parent, {name: ("local", {"root": parent / name}) for name in ("one", "two", "three")})
        yield made, parent


@pytest.fixture
def embedded(request: pytest.FixtureRequest) -> Iterator[Lost]:
    """On the embedded deployment, whose command line looks after the catalog's file."""
    for made, parent in _made("embedded", request):
        _put(made, parent, {name: ("local", {"root": parent / name}) for name in ("one", "two", "three")})
        yield made, parent


@pytest.fixture
def mixed(
    deployment_kind: str, request: pytest.FixtureRequest, background: Background
) -> Iterator[tuple[Deployment, Path, Roots]]:
    """On either deployment, with providers of three kinds."""
    require(rclone_s3, openssh)
    s3 = background.enter(rclone_s3_server())
    sftp = background.enter(openssh_server())
    (s3.root / "files").mkdir()
    for made, parent in _made(deployment_kind, request):
        kinds = {
            "disk": ("local", {"root": parent / "disk"}),
            "bucket": ("s3", s3.options("files")),
            "host": ("sftp", sftp.options()),
        }
        _put(made, parent, kinds)
        yield made, parent, {"disk": parent / "disk", "bucket": s3.root / "files", "host": sftp.root}


def _made(kind: str, request: pytest.FixtureRequest) -> Iterator[Lost]:
    for parent in short_folder():
        made = make_deployment(kind, parent / "home", request)
        try:
            made.start()
            yield made, parent
        finally:
            if isinstance(made, EmbeddedDeployment):
                made.cdir("down", expect=None)  # commands may have started it anew
            made.kill()


def _put(deployment: Deployment, parent: Path, providers: Mapping[str, tuple[str, Mapping[str, object]]]) -> None:
    """Add the providers, and put the tree."""
    for name, (kind, options) in providers.items():
        deployment.add_provider(name, kind, options)
    source = parent / "source"
    for name, content in _SMALL.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    (source / "large").write_bytes(_LARGE)
    deployment.cdir("put", "--recursive", source, "/t")


def _change(deployment: Deployment, parent: Path, name: str, content: bytes) -> None:
    (parent / "source" / name).write_bytes(content)
    deployment.cdir("put", parent / "source" / name, f"/t/{name}")


def _lose_catalog(deployment: Deployment, request: pytest.FixtureRequest) -> None:
    """Stop it and delete its database; the split deployment gets an empty one, as its operator would give it."""
    deployment.stop()
    if isinstance(deployment, SplitDeployment):
        server: PostgresServer = request.getfixturevalue("database_server")
        running: Background = request.getfixturevalue("background")
        deployment.database_url = running.run(server.create_database())
        deployment.restart()
    else:
        for file in deployment.home.glob("catalog.sqlite3*"):
            file.unlink()


def _fetched(deployment: Deployment, parent: Path) -> dict[str, bytes]:
    target = parent / "fetched"
    shutil.rmtree(target, ignore_errors=True)
    deployment.cdir("get", "--recursive", "/t", target)
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def test_everything_is_back_from_a_snapshot(lost: Lost, request: pytest.FixtureRequest) -> None:
    deployment, parent = lost
    _change(deployment, parent, "a.txt", b"alpha, again")
    deployment.cdir("rm", "/t/d/b.txt")
    taken = deployment.json("snapshot", "now")
    assert taken["taken"]
    assert len(taken["providers"]) == 3
    assert deployment.json("snapshot", "now") == {"name": taken["name"], "taken": False, "size": 0, "providers": []}
    versions = deployment.json("versions", "/t/a.txt")
    _change(deployment, parent, "d/e/ü.txt", b"after the snapshot")
    tree = deployment.json("ls", "/t", "--recursive")
    deployment.wait_settled()
    _lose_catalog(deployment, request)
    if isinstance(deployment, EmbeddedDeployment):
        assert "cdir rebuild" in deployment.start_expecting_failure()
    report = deployment.json("rebuild")
    assert (report["files"], report["adopted"], report["without_copy"]) == (4, 1, 0)
    assert report["snapshot"] == taken["name"]
    contents = {"a.txt": b"alpha, again", "d/e/ü.txt": b"after the snapshot", "d/empty": b"", "large": _LARGE}
    assert _fetched(deployment, parent) == contents
    assert [entry["path"] for entry in deployment.json("ls", "/t", "--recursive")] == [e["path"] for e in tree]
    assert deployment.json("versions", "/t/a.txt") == versions
    assert deployment.cdir("cat", "/t/a.txt", "--generation", "1").stdout == b"alpha"
    assert [entry["path"] for entry in deployment.json("trash")] == ["/t/d/b.txt"]
    assert deployment.cdir("cat", "/t/d/b.txt", "--generation", "1").stdout == b"beta"
    deployment.wait_settled()


def test_everything_is_back_without_a_snapshot(
    mixed: tuple[Deployment, Path, Roots], request: pytest.FixtureRequest
) -> None:
    deployment, parent, roots = mixed
    deployment.wait_settled()
    _lose_catalog(deployment, request)
    shutil.rmtree(roots["host"] / "t" / "d")  # one provider lost some as well
    report = deployment.json("rebuild")
    assert (report["files"], report["adopted"], report["older"], report["snapshot"]) == (5, 5, 0, None)
    assert _fetched(deployment, parent) == {**_SMALL, "large": _LARGE}
    deployment.wait_settled()
    for root in roots.values():
        eventually_is(_SMALL["d/b.txt"], (root / "t" / "d" / "b.txt").read_bytes)


def test_a_damaged_snapshot_is_passed_over(embedded: Lost, request: pytest.FixtureRequest) -> None:
    deployment, parent = embedded
    first = deployment.json("snapshot", "now")["name"]
    deployment.cdir("mkdir", "/more")
    second = deployment.json("snapshot", "now")["name"]
    assert [row["name"] for row in deployment.json("snapshot", "list")] == [second, first]
    damaged = list(parent.glob(f"*/.cdir/catalog/*/{second}"))
    assert len(damaged) == 3
    for file in damaged:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    _lose_catalog(deployment, request)
    refused = deployment.cdir("snapshot", "restore", second, expect=1)
    assert "damaged" in refused.stderr.splitlines()[-1]
    assert deployment.json("snapshot", "restore")["snapshot"] == first
    assert _fetched(deployment, parent) == {**_SMALL, "large": _LARGE}


def test_a_catalog_that_holds_files_is_not_replaced_unasked(embedded: Lost) -> None:
    deployment, parent = embedded
    assert "snapshot" in deployment.cdir("snapshot", "restore", "--yes", expect=4).stderr.splitlines()[-1]
    assert deployment.json("status")["files"] == 5  # a rebuild that fails leaves everything as it was
    refused = deployment.cdir("rebuild", expect=1)
    assert "holds" in refused.error
    tried = deployment.json("rebuild", "--dry-run")
    assert (tried["files"], tried["old_catalog"]) == (5, None)
    made = deployment.json("rebuild", "--yes")
    assert Path(made["old_catalog"]).exists()
    assert _fetched(deployment, parent) == {**_SMALL, "large": _LARGE}


def test_providers_that_nobody_remembers_are_added_anew(embedded: Lost, request: pytest.FixtureRequest) -> None:
    deployment, parent = embedded
    deployment.cdir("rm", "/t/a.txt")
    deployment.wait_settled()
    deployment.cdir("snapshot", "now")
    _lose_catalog(deployment, request)
    for name in ("providers.json", "key"):
        (deployment.home / name).unlink()
    deployment.restart()
    assert "provider add" in deployment.cdir("rebuild", expect=1).stderr
    for name in ("one", "two"):
        assert "--adopt" in deployment.add_provider(name, "local", {"root": parent / name}, expect=1).error
        deployment.add_provider(name, "local", {"root": parent / name}, "--adopt")
    assert deployment.json("rebuild", "--yes", expect=None)["known"] == 4
    assert _fetched(deployment, parent) == {**{k: v for k, v in _SMALL.items() if k != "a.txt"}, "large": _LARGE}
    assert [entry["path"] for entry in deployment.json("trash")] == ["/t/a.txt"]
