"""What holds for three files has to hold for ten thousand: a disk that comes back costs nothing, a lost catalog is made
anew, a check is a matter of seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deployments.background import Background
from deployments.deployment import Deployment, EmbeddedDeployment, SplitDeployment, eventually
from deployments.fixtures import make_deployment, short_folder
from deployments.trees import contents, make_files
from servers.postgres import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FILES = 10_000
PROVIDERS = ("one", "two", "three")

CHECK_CPU_SECONDS = 10.0
"""Most processor time that the check of all of it may take in the processes of a deployment: on a quiet machine it is
never longer than that, and what else runs there does not count."""


@dataclass(frozen=True)
class Large:
    """A deployment whose three local providers hold the same ten thousand files."""

    deployment: Deployment
    roots: dict[str, Path]
    expected: dict[str, str]
    """Digests by relative path."""
    target: Path
    """A folder to fetch into."""

    def cpu_seconds(self) -> float:
        """Processor time that its processes have had so far."""
        times = [process.cpu_times() for process in self.deployment.processes()]
        return sum(one.user + one.system for one in times)


@pytest.fixture(scope="module")
def large(
    deployment_kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Large]:
    tree = make_files(tmp_path_factory.mktemp("tree"), FILES, 200)
    for parent in short_folder():
        made = make_deployment(deployment_kind, parent / "home", request)
        try:
            made.start()
            roots = {name: parent / name for name in PROVIDERS}
            for name, root in roots.items():
                made.add_provider(name, "local", {"root": root})
            made.cdir("put", tree, "/t", "--recursive", "--require", "all", within=600)
            made.wait_settled(within=300)
            yield Large(made, roots, contents(tree), parent / "fetched")
        finally:
            if isinstance(made, EmbeddedDeployment):
                made.cdir("down", expect=None)  # a rebuild may have started it anew
            made.kill()


@dataclass
class Untouched:
    """Sees whether any file below some folders was read, written, renamed or replaced since."""

    folders: list[Path]

    def __post_init__(self) -> None:
        for path in self._files():
            status = path.stat()
            os.utime(path, ns=(0, status.st_mtime_ns))  # the next reading sets the time of access, whatever the mount
        self._before = self._seen()

    def touched(self) -> set[str]:
        """Return the files that were read or changed, came or went."""
        now = self._seen()
        return {path for path in self._before.keys() | now.keys() if self._before.get(path) != now.get(path)}

    def _files(self) -> Iterator[Path]:
        for folder in self.folders:
            # cdir's own are at its root: its mark, which is read all the time, and snapshots of the catalog
            yield from (path for path in (folder / "t").rglob("*") if path.is_file())

    def _seen(self) -> dict[str, tuple[int, int, int, int]]:
        seen = {}
        for path in self._files():
            status = path.stat()
            seen[str(path)] = (status.st_ino, status.st_size, status.st_ctime_ns, status.st_atime_ns)
        return seen


def _provider(deployment: Deployment, name: str) -> dict[str, Any]:
    """What ``status`` says of one provider."""
    [row] = [row for row in deployment.json("status")["providers"] if row["name"] == name]
    assert isinstance(row, dict)
    return row


def _states(deployment: Deployment, name: str) -> set[str]:
    """The state of a provider by each command that shows it."""
    shown = deployment.json("provider", "show", name)["state"]
    return {deployment.provider_state(name), shown, _provider(deployment, name)["state"]}


def test_an_emptied_disk_deletes_nothing_and_costs_nothing_when_it_is_back(large: Large, tmp_path: Path) -> None:
    deployment, root = large.deployment, large.roots["two"]
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "probe").write_bytes(b"content")
    control = Untouched([tmp_path])
    (tmp_path / "t" / "probe").read_bytes()
    assert control.touched(), "this file system does not tell what was read"

    untouched = Untouched(list(large.roots.values()))
    tree = deployment.json("ls", "/", "--recursive")
    away = root.with_name("unmounted")
    root.rename(away)
    root.mkdir()
    eventually(lambda: _states(deployment, "two") == {"unknown"})
    row = _provider(deployment, "two")
    assert f"{root} answers, but cdir's mark .cdir/provider is missing there" in row["reason"]
    assert "\n" not in row["reason"]
    for command in (("provider", "list"), ("provider", "show", "two"), ("status",)):
        lines = [line for line in deployment.cdir(*command).text.splitlines() if "is missing there" in line]
        assert len(lines) == 1, command
        assert "unknown" in lines[0], command
    assert deployment.json("ls", "/", "--recursive") == tree
    assert list(root.iterdir()) == [], "nothing may be written where the disk is not"

    root.rmdir()
    away.rename(root)
    eventually(lambda: _states(deployment, "two") == {"up"})
    deployment.cdir("scan", "/", "--provider", "two", "--wait", within=900)  # what the put made hot comes first
    deployment.wait_settled(within=300)
    assert untouched.touched() == set(), "files were read or written that nobody had changed"
    status = deployment.json("status")
    assert (status["files"], status["owed"], status["absent"], status["quarantined"]) == (FILES, 0, 0, 0)
    assert {(one["state"], one["files"], one["owed"]) for one in status["providers"]} == {("up", FILES, 0)}
    assert deployment.json("trash") == []


def test_a_check_of_all_of_it_takes_seconds(large: Large) -> None:
    deployment = large.deployment
    before = large.cpu_seconds()
    begin = time.monotonic()
    found = deployment.json("check", "/")
    spent = large.cpu_seconds() - before
    print(
        f"check of {FILES} files at {len(PROVIDERS)} providers: {time.monotonic() - begin:.1f} s, {spent:.1f} s of CPU"
    )
    assert found["clean"]
    assert [(one["objects"] > FILES, one["copies"]) for one in found["providers"]] == [(True, FILES)] * len(PROVIDERS)
    assert spent < CHECK_CPU_SECONDS


def test_a_lost_catalog_is_made_anew(large: Large, request: pytest.FixtureRequest) -> None:
    deployment = large.deployment
    deployment.stop()
    if isinstance(deployment, SplitDeployment):
        # as its operator would give it
        server: PostgresServer = request.getfixturevalue("database_server")
        running: Background = request.getfixturevalue("background")
        deployment.database_url = running.run(server.create_database())
        deployment.restart()
    else:
        for file in deployment.home.glob("catalog.sqlite3*"):
            file.unlink()
    report = deployment.cdir("rebuild", "--output", "json", within=600).json
    assert (report["files"], report["without_copy"], report["unexplained"], report["removed"]) == (FILES, 0, 0, 0)
    assert report["known"] + report["adopted"] == FILES
    got = deployment.cdir("get", "/t", large.target, "--recursive", "--output", "json", within=600).json
    assert (got["files"], got["failed"]) == (FILES, [])
    assert contents(large.target) == large.expected
    deployment.wait_settled(within=300)
    for name, root in large.roots.items():
        assert contents(root / "t") == large.expected, f"on {name}"
    assert deployment.json("check", "/")["clean"]
