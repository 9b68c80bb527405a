"""What it costs to start a command: ``cdir ls`` with a running daemon beside Python importing grpc and nothing else."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from timing import Run, Samples, table

from deployments.deployment import BIN, EmbeddedDeployment


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="runs of each; the median counts (default 15)")
    asked = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="cdir-"))
    deployment = EmbeddedDeployment(scratch / "home")
    samples = Samples()
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import grpc'": [sys.executable, "-c", "import grpc"],
        "cdir --version": [str(BIN / "cdir"), "--version"],
        "cdir ls": [str(BIN / "cdir"), "ls"],
    }
    try:
        deployment.start()
        environment = {**os.environ, **deployment.environment()}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        runs = {name: Run([[command]], environment) for name, command in commands.items()}
        for run in runs.values():
            run()  # compiles modules and fills the disk cache
        for _ in range(asked.repeats):
            samples.measure("start", runs)
    finally:
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
