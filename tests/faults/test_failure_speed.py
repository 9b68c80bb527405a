"""A preferred provider that stops working: who reads and writes notices little, and it is used again by itself."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments.background import Background
from deployments.deployment import Deployment, eventually
from deployments.trees import contents, make_files
from servers import rclone_s3
from servers.faulty_proxy import FaultyProxy, faulty_proxy
from servers.rclone_s3 import rclone_s3_server
from servers.requirement import require

FOREVER = 3600.0


@dataclass(frozen=True)
class Preferred:
    """The line to an S3 server that files are read from first; disks hold copies too."""

    line: FaultyProxy


@pytest.fixture(scope="module")
def preferred(deployment: Deployment, background: Background, disks: dict[str, Path]) -> Preferred:
    require(rclone_s3)
    s3 = background.enter(rclone_s3_server())
    (s3.root / "files").mkdir()
    line = background.enter(faulty_proxy(s3.port))
    options = {**s3.options("files"), "endpoint": f"http://127.0.0.1:{line.port}"}
    deployment.add_provider("bucket", "s3", options)
    deployment.cdir("provider", "set", "bucket", "--priority", "1")
    return Preferred(line)


def cut(background: Background, line: FaultyProxy) -> None:
    """End the connections that are open; new ones meet the faults of the moment."""

    async def drop() -> None:
        line.drop_connections()

    background.run(drop())


def reads_from(line: FaultyProxy, deployment: Deployment, path: str) -> bool:
    """Whether a read goes over the line."""
    before = line.answered
    deployment.cdir("cat", path)
    return line.answered - before > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["refuses", "is silent", "is slow"])
def test_preferred_provider_that_stops_working(
    deployment: Deployment, background: Background, preferred: Preferred, folder: str, tmp_path: Path, fault: str
) -> None:
    line = preferred.line
    tree = make_files(tmp_path / "tree", 60)
    (tree / "one").write_bytes(b"x" * 100_000)
    expected = contents(tree)
    deployment.cdir("put", tree, folder, "--recursive")
    deployment.wait_settled(folder)
    eventually(lambda: reads_from(line, deployment, f"{folder}/one"))

    line.refuse = fault == "refuses"
    line.delay = {"is silent": FOREVER, "is slow": 2.0}.get(fault, 0.0)
    if fault == "refuses":
        cut(background, line)
    seconds = []
    for turn in range(3):
        began = time.monotonic()
        report = deployment.json("get", folder, tmp_path / f"back-{turn}", "--recursive")
        seconds.append(time.monotonic() - began)
        assert (report["files"], report["failed"]) == (len(expected), [])
        assert contents(tmp_path / f"back-{turn}") == expected
    deployment.cdir("put", "-", f"{folder}/new", stdin=b"content", expect=None)
    assert deployment.cdir("cat", f"{folder}/new").stdout == b"content"
    print(f"a provider that {fault}: {', '.join(f'{one:.2f}' for one in seconds)} s for each of three gets")

    line.heal()
    cut(background, line)
    eventually(lambda: reads_from(line, deployment, f"{folder}/one"), within=120)
    deployment.wait_settled(folder)
