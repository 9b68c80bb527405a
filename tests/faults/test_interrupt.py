"""Ctrl-C in the middle: exit 130, nothing half there, and doing it again finishes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from deployments.background import Background
from deployments.deployment import Deployment, eventually
from deployments.trees import contents, make_files
from servers import asyncssh_sftp
from servers.asyncssh_sftp import AsyncSshSftpServer, asyncssh_sftp_server
from servers.requirement import require

FILES = 150
INTERRUPTED = 130


@pytest.fixture(scope="module")
def slow(deployment: Deployment, background: Background) -> AsyncSshSftpServer:
    """The only provider: its server takes as long as the test says."""
    require(asyncssh_sftp)
    server = background.enter(asyncssh_sftp_server())
    deployment.add_provider("slow", "sftp", server.options())
    return server


def test_put(deployment: Deployment, slow: AsyncSshSftpServer, folder: str, tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", FILES)
    expected = contents(tree)
    slow.faults.delay = 0.1
    try:
        putting = deployment.begin("put", tree, folder, "--recursive", "--parallel", "2")
        eventually(lambda: len(contents(slow.root)) >= 3, pause=0.02)
        assert putting.poll() is None, "the put was over before it could be interrupted"
        putting.send_signal(signal.SIGINT)
        _, errors = putting.communicate(timeout=120)
        assert putting.returncode == INTERRUPTED
        assert b"Traceback" not in errors
    finally:
        slow.faults.delay = 0.0
    again = deployment.json("put", tree, folder, "--recursive")
    assert again["failed"] == []
    deployment.wait_settled(folder)
    assert contents(slow.root / folder[1:]) == expected


def test_get(deployment: Deployment, slow: AsyncSshSftpServer, folder: str, tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", FILES)
    expected = contents(tree)
    deployment.json("put", tree, folder, "--recursive")
    target = tmp_path / "back"
    slow.faults.delay = 0.1
    try:
        getting = deployment.begin("get", folder, target, "--recursive", "--parallel", "2")
        eventually(lambda: target.exists() and len(set(contents(target)) & set(expected)) >= 3, pause=0.02)
        assert getting.poll() is None, "the get was over before it could be interrupted"
        getting.send_signal(signal.SIGINT)
        _, errors = getting.communicate(timeout=120)
        assert getting.returncode == INTERRUPTED
        assert b"Traceback" not in errors
    finally:
        slow.faults.delay = 0.0
    for path, digest in contents(target).items():
        if path in expected:
            assert digest == expected[path]
    deployment.json("get", folder, target, "--recursive")
    assert contents(target) == expected
