"""The one-process deployment as a process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdir import status
from cdir.errors import NotFound
from cdir.v1 import directory_service_pb2, directory_service_pb2_grpc
from cdir_runtime.channel import open_channel

pytestmark = pytest.mark.timeout(150)


class Daemons:
    """Starts daemons in one home and stops what still runs."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "cdir_embedded", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "CDIR_HOME": str(self.home), **environment},
        )
        self._processes.append(process)
        return process

    def ready(self, *arguments: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
        process = self.start(*arguments, **environment)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        said = json.loads(line)
        assert said["pid"] == process.pid
        return process, said["address"]

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


@pytest.fixture
def daemons() -> Iterator[Daemons]:
    folder = Path(tempfile.mkdtemp(prefix="cdir-"))
    started = Daemons(folder / "home")
    yield started
    started.stop()
    shutil.rmtree(folder)


async def test_it_serves_on_the_homes_socket_and_ends_well(daemons: Daemons) -> None:
    process, address = daemons.ready()
    assert stat.S_IMODE(daemons.home.stat().st_mode) == 0o700
    async with open_channel(address) as channel:
        stub = directory_service_pb2_grpc.DirectoryServiceStub(channel)
        server = await stub.GetServer(directory_service_pb2.GetServerRequest())
        assert (server.deployment, server.local_files, server.process_id) == ("embedded", True, process.pid)
        with pytest.raises(NotFound), status.translated():
            await stub.ListEntries(directory_service_pb2.ListEntriesRequest(path="/missing"))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert not (daemons.home / "daemon.sock").exists()
    assert not (daemons.home / "daemon.pid").exists()


def test_two_daemons_never_share_a_home(daemons: Daemons) -> None:
    first, _ = daemons.ready()
    second = daemons.start()
    _, err = second.communicate(timeout=60)
    assert second.returncode == 1
    assert err.count("\n") == 1
    assert f"process {first.pid}" in err


async def test_a_killed_daemon_is_no_hindrance(daemons: Daemons) -> None:
    first, _ = daemons.ready()
    first.kill()
    first.communicate()
    _, address = daemons.ready()
    async with open_channel(address) as channel:
        stub = directory_service_pb2_grpc.DirectoryServiceStub(channel)
        await stub.ListEntries(directory_service_pb2.ListEntriesRequest(path="/"))


async def test_a_second_address(daemons: Daemons) -> None:
    token = daemons.home.parent / "token"
    token.write_text("right")
    _, address = daemons.ready("--listen", "127.0.0.1:0", CDIR_TOKEN_FILE=str(token), CDIR_LOG_LEVEL="info")
    async with open_channel(address) as channel:
        stub = directory_service_pb2_grpc.DirectoryServiceStub(channel)
        server = await stub.GetServer(directory_service_pb2.GetServerRequest())
        assert not server.local_files, "another machine's paths are not this machine's"


def test_other_machines_need_a_token(daemons: Daemons) -> None:
    process = daemons.start("--listen", "0.0.0.0:0")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "CDIR_TOKEN_FILE" in err
    assert err.count("\n") == 1


def test_a_home_that_is_a_file(daemons: Daemons) -> None:
    daemons.home.write_text("precious")
    process = daemons.start()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count("\n") == 1
    assert daemons.home.read_text() == "precious"


def test_a_catalog_that_is_no_database(daemons: Daemons) -> None:
    daemons.home.mkdir(mode=0o700)
    (daemons.home / "catalog.sqlite3").write_bytes(b"this is no database" * 100)
    process = daemons.start()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert err.count("\n") == 1
