"""Commands of a process that is loaded already behave as those of the script."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from deployments.commands import run_command
from deployments.deployment import BIN

SCRIPT = str(BIN / "cdir")


@pytest.mark.parametrize("arguments", [["--version"], ["status", "--no-start"], ["no-such-command"]])
def test_a_command_says_and_returns_what_the_script_does(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "CDIR_HOME": str(tmp_path / "home")}
    command = [SCRIPT, *arguments]
    script = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
    ours = run_command(command, stdin=b"nobody reads this" * 10_000, environment=environment, within=60)
    assert (ours.returncode, ours.stdout, ours.stderr) == (script.returncode, script.stdout, script.stderr)


def test_a_command_that_hangs_is_killed(tmp_path: Path) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections and says nothing
    with silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        environment = {**os.environ, "CDIR_HOME": str(tmp_path / "home"), "CDIR_ADDRESS": address}
        with pytest.raises(subprocess.TimeoutExpired):
            run_command([SCRIPT, "status"], stdin=b"", environment=environment, within=0.5)
