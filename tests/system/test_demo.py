"""What the README promises of its first commands, and the example of the Python client."""

from __future__ import annotations

import itertools
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


RUN = """
import ast, asyncio, inspect, sys
code = compile(sys.argv[1], "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
result = eval(code, {})
if inspect.iscoroutine(result):
    asyncio.run(result)
"""
"""Runs code as ``python -m asyncio`` does, which lets ``await`` stand at the top."""


@pytest.mark.parametrize("example", python_examples(), ids=itertools.count())
def test_python_examples_of_the_readme_run(example: str, home: Path, tmp_path: Path) -> None:
    deployment = EmbeddedDeployment(home / "home")
    try:
        deployment.start()
        for name in ("one", "two"):
            deployment.add_provider(name, "local", {"root": home / name})
        done = subprocess.run(
            [sys.executable, "-c", RUN, example],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env={**os.environ, **deployment.environment()},
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout
    finally:
        deployment.kill()


def test_readme_shows_the_client() -> None:
    assert python_examples()


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_example_runs(example: Path, home: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(example)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=home,
        env={**os.environ, "CDIR_HOME": str(home / "untouched"), "PATH": f"{BIN}:{os.environ['PATH']}"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (home / "untouched").exists()
