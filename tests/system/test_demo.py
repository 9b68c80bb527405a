"""What the README promises of its first commands, and the example of the Python client."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.deployment import BIN, EmbeddedDeployment

ROOT = Path(__file__).parents[2]


def test_demo_passes_and_leaves_nothing(home: Path) -> None:
    done = subprocess.run(
        [str(BIN / "cdir"), "demo"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "CDIR_HOME": str(home / "untouched")},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (home / "untouched").exists()


def python_examples() -> list[str]:
    """The Python code blocks of the README that use the client."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [block for block in blocks if "import cdir" in block]


def test_python_example_of_the_readme_runs(home: Path, tmp_path: Path) -> None:
    examples = python_examples()
    if not examples:
        pytest.fail("the README shows no use of the Python client")
    deployment = EmbeddedDeployment(home / "home")
    try:
        deployment.start()
        for name in ("one", "two"):
            deployment.add_provider(name, "local", {"root": home / name})
        for example in examples:
            done = subprocess.run(
                [sys.executable, "-c", example],
                capture_output=True,
                text=True,
                timeout=120,
                cwd=tmp_path,
                env={**os.environ, **deployment.environment()},
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
    finally:
        deployment.kill()
