"""The launcher of the deployment in separate processes: starts on nothing, stops as one, says what died."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployments.background import Background
from deployments.deployment import HANG_SECONDS, SplitDeployment, eventually
from deployments.fixtures import short_folder
from servers import postgres
from servers.postgres import PostgresServer
from servers.requirement import require


@pytest.fixture
def database_url(background: Background, database_server: PostgresServer) -> str:
    return background.run(database_server.create_database())


@pytest.fixture
def folder_for_split() -> Iterator[Path]:
    yield from short_folder()


def services(deployment: SplitDeployment) -> dict[str, psutil.Process]:
    """Its services' processes by name."""
    found = {}
    for process in deployment.processes():
        words = process.cmdline()
        if "-m" in words:
            found[words[words.index("-m") + 1]] = process
    return found


def test_private_database_is_kept(folder_for_split: Path) -> None:
    require(postgres)
    deployment = SplitDeployment(folder_for_split / "home", None)
    try:
        deployment.start()
        deployment.add_provider("disk", "local", {"root": folder_for_split / "disk"})
        deployment.cdir("put", "-", "/x", stdin=b"content")
        running = deployment.processes()
        deployment.stop()
        assert not [process for process in running if process.is_running()]
        deployment.restart()
        assert deployment.cdir("cat", "/x").stdout == b"content"
    finally:
        deployment.kill()


@pytest.mark.parametrize("victim", ["cdir_catalog", "cdir_gateway"])
def test_one_process_dies(folder_for_split: Path, database_url: str, victim: str) -> None:
    deployment = SplitDeployment(folder_for_split / "home", database_url)
    try:
        deployment.start()
        launcher, *others = deployment.processes()
        assert set(services(deployment)) >= {"cdir_catalog", "cdir_adapters", "cdir_replicator", "cdir_gateway"}
        services(deployment)[victim].kill()
        eventually(lambda: not [process for process in (launcher, *others) if _alive(process)], within=HANG_SECONDS)
        assert f"{victim.removeprefix('cdir_')} was killed by SIGKILL" in deployment.log_tail()
        assert "Traceback" not in deployment.log_tail()
    finally:
        deployment.kill()


def test_no_token_no_entry(folder_for_split: Path, database_url: str) -> None:
    deployment = SplitDeployment(folder_for_split / "home", database_url)
    try:
        deployment.start()
        for token in ("", "wrong"):
            done = deployment.cdir("ls", "/", environment={"CDIR_TOKEN": token}, expect=5)
            assert "token" in done.error
    finally:
        deployment.kill()


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
