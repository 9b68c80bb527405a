"""What it costs to start a command that asks a running daemon.

Beside it: Python importing grpc and nothing else, and rclone asking a running ``rclone rcd`` for a listing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

from timing import Run, Samples, table

from deployments.deployment import BIN, EmbeddedDeployment
from servers.process import ServerProcess
from servers.rclone_s3 import rclone_binary


def rclone_daemon(folder: Path) -> ServerProcess | None:
    """Return an ``rclone rcd`` to be started; ``None`` where there is no rclone."""
    binary = rclone_binary()
    if binary is None:
        return None
    return ServerProcess(
        lambda port: [binary, "rcd", "--rc-no-auth", "--rc-addr", f"127.0.0.1:{port}"],
        folder=folder,
        environment={"RCLONE_CONFIG": str(folder / "rclone.conf")},
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="runs of each; the median counts (default 15)")
    asked = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="cdir-"))
    deployment = EmbeddedDeployment(scratch / "home")
    samples = Samples()
    cdir = str(BIN / "cdir")
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import grpc'": [sys.executable, "-c", "import grpc"],
        "cdir --version": [cdir, "--version"],
        "cdir ls": [cdir, "ls"],
        "cdir stat": [cdir, "stat", "/file"],
        "cdir cat": [cdir, "cat", "/file"],
    }
    folder = scratch / "disk"
    rcd = rclone_daemon(scratch)
    try:
        deployment.start()
        deployment.add_provider("disk", "local", {"root": folder})
        deployment.cdir("put", "-", "/file", stdin=b"content")
        if rcd is not None:
            asyncio.run(rcd.start())
            commands["rclone rc operations/list"] = [
                *(str(rclone_binary()), "rc", "--url", f"http://127.0.0.1:{rcd.port}/"),
                *("operations/list", f"fs={folder}", "remote="),
            ]
        environment = {**os.environ, **deployment.environment()}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        runs = {name: Run([[command]], environment) for name, command in commands.items()}
        for run in runs.values():
            run()  # compiles modules and fills the disk cache
        for _ in range(asked.repeats):
            samples.measure("start", runs)
    finally:
        if rcd is not None and rcd.running:
            asyncio.run(rcd.stop())
        deployment.kill()
        shutil.rmtree(scratch, ignore_errors=True)
    base = samples.median("start", "python -c 'import grpc'")
    rows = []
    for name in commands:
        median = samples.median("start", name)
        rows.append([name, f"{median:.3f}", samples.spread("start", name), f"{median - base:+.3f}"])
    print(f"Medians of {asked.repeats} in seconds.\n")
    print(table(["command", "median", "min to max", "beyond importing grpc"], rows))


if __name__ == "__main__":
    main()
