"""Providers that go away and come back: reading and writing go on, and what is owed is settled without being asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments.background import Background
from deployments.deployment import Deployment, eventually, eventually_is
from deployments.trees import contents, make_files, without_leftovers
from servers import rclone_s3
from servers.faulty_proxy import FaultyProxy, faulty_proxy
from servers.rclone_s3 import RcloneS3Server, rclone_s3_server
from servers.requirement import require

DONE, OWED = 0, 3


@dataclass(frozen=True)
class Fleet:
    """Two disks, and an S3 server behind a line that can be made slow."""

    disks: dict[str, Path]
    s3: RcloneS3Server
    line: FaultyProxy

    @property
    def bucket(self) -> Path:
        return self.s3.root / "files"


@pytest.fixture(scope="module")
def fleet(deployment: Deployment, background: Background, disks: dict[str, Path]) -> Fleet:
    require(rclone_s3)
    # what the server cannot read for a while after a listing in the midst of writes stays owed no longer than its cache
    s3 = background.enter(rclone_s3_server(dir_cache="1s"))
    (s3.root / "files").mkdir()
    line = background.enter(faulty_proxy(s3.port))
    options = {**s3.options("files"), "endpoint": f"http://127.0.0.1:{line.port}"}
    deployment.add_provider("bucket", "s3", options)
    return Fleet(disks, s3, line)


def put_everywhere(deployment: Deployment) -> int:
    """Exit code of a put."""
    return deployment.cdir("put", "-", "/probe", stdin=b"content", expect=None).exit


@pytest.fixture(autouse=True)
def _all_well(deployment: Deployment, fleet: Fleet) -> None:
    """Every test begins with nothing owed and every provider up, to the gateway too, which avoids one for a while."""
    fleet.line.heal()
    deployment.wait_settled()
    eventually_is(DONE, put_everywhere, deployment)
    eventually(lambda: {row["state"] for row in deployment.json("provider", "list")} == {"up"})


@pytest.mark.timeout(300)
def test_server_killed_in_the_middle_of_a_put(
    deployment: Deployment, fleet: Fleet, background: Background, folder: str, tmp_path: Path
) -> None:
    tree = make_files(tmp_path / "tree", 300)
    expected = contents(tree)
    fleet.line.delay = 0.02  # so slow that the put is surely under way when the server dies
    putting = deployment.begin("put", tree, folder, "--recursive", "--output", "json")
    eventually(lambda: len(contents(fleet.bucket)) >= 10, pause=0.01)
    assert putting.poll() is None, "the put was over before the server could be killed"
    background.run(fleet.s3.kill())
    output, errors = putting.communicate(timeout=120)
    assert putting.returncode == OWED, errors.decode()
    assert b'"owed"' in output

    assert deployment.owed(folder) > 0
    target = tmp_path / "back"
    report = deployment.json("get", folder, target, "--recursive")
    assert (report["files"], report["failed"]) == (300, [])
    eventually(lambda: deployment.provider_state("bucket") == "down")

    fleet.line.delay = 0.0
    background.run(fleet.s3.restart())
    seconds = deployment.wait_settled(folder)
    print(f"debt settled {seconds:.1f} s after the server was back")
    assert without_leftovers(contents(fleet.bucket / folder[1:])) == expected


@pytest.mark.slow_split
def test_disk_that_is_unmounted_and_mounted_again(deployment: Deployment, fleet: Fleet, folder: str) -> None:
    deployment.cdir("put", "-", f"{folder}/before", stdin=b"before")
    root = fleet.disks["one"]
    away = root.with_name(f"{root.name} unplugged")
    root.rename(away)
    root.mkdir()  # an empty mount point: everything looks deleted
    assert deployment.cdir("cat", f"{folder}/before").stdout == b"before"
    deployment.cdir("put", "-", f"{folder}/during", stdin=b"during", expect=OWED)
    deployment.cdir("rm", f"{folder}/before")
    deployment.cdir("put", "-", f"{folder}/before", stdin=b"again", expect=OWED)
    eventually(lambda: deployment.provider_state("one") in {"down", "unknown"})
    assert list(root.iterdir()) == [], "nothing may be written to a mount point without its disk"

    root.rmdir()
    away.rename(root)
    deployment.wait_settled(folder)
    assert (root / folder[1:] / "during").read_bytes() == b"during"
    assert (root / folder[1:] / "before").read_bytes() == b"again"
    eventually(lambda: deployment.provider_state("one") == "up")


@pytest.mark.slow_split
def test_require_all_fails_when_a_copy_stays_owed(deployment: Deployment, fleet: Fleet, folder: str) -> None:
    root = fleet.disks["two"]
    away = root.with_name(f"{root.name} unplugged")
    root.rename(away)
    try:
        done = deployment.cdir("put", "-", f"{folder}/x", "--require", "all", stdin=b"content", expect=None)
        assert done.exit == 1
        assert deployment.cdir("cat", f"{folder}/x").stdout == b"content"
    finally:
        away.rename(root)
    deployment.wait_settled(folder)


@pytest.mark.slow_split
def test_paused_provider_is_left_alone(deployment: Deployment, fleet: Fleet, folder: str) -> None:
    deployment.cdir("provider", "pause", "three")
    try:
        deployment.cdir("put", "-", f"{folder}/x", stdin=b"content", expect=None)
        assert deployment.provider_state("three") == "paused"
        assert not (fleet.disks["three"] / folder[1:] / "x").exists()
        assert deployment.cdir("cat", f"{folder}/x").stdout == b"content"
    finally:
        deployment.cdir("provider", "resume", "three")
    deployment.wait_settled(folder)
    assert (fleet.disks["three"] / folder[1:] / "x").read_bytes() == b"content"


@pytest.mark.slow_split
def test_two_of_four_gone(deployment: Deployment, fleet: Fleet, background: Background, folder: str) -> None:
    deployment.cdir("put", "-", f"{folder}/x", stdin=b"content")
    root = fleet.disks["one"]
    away = root.with_name(f"{root.name} unplugged")
    root.rename(away)
    background.run(fleet.s3.kill())
    try:
        assert deployment.cdir("cat", f"{folder}/x").stdout == b"content"
        deployment.cdir("put", "-", f"{folder}/y", stdin=b"more", expect=OWED)
        assert deployment.cdir("cat", f"{folder}/y").stdout == b"more"
    finally:
        away.rename(root)
        background.run(fleet.s3.restart())
    deployment.wait_settled(folder)
