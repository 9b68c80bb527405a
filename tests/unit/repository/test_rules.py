"""Rules of the repository that no linter knows; each exists because breaking it has a cost that shows only later."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
GENERATED = re.compile(r"sdk/cdir/v1/.*_pb2(_grpc)?\.pyi?$")
TEXT = {".py", ".pyi", ".md", ".toml", ".proto", ".yaml", ".yml", ".sh", ".lock", ".ini", ".cfg", ""}

MAX_LINES = 700
MAX_TEST_LINES = 900
"""All the faults that one kind of provider can meet are one file: they share its servers."""
MAX_MAIN_LINES = 60
MEANINGLESS = {"utils", "util", "common", "helpers", "helper", "misc", "stuff"}
MARKS = re.compile(r"\b(TODO|FIXME|XXX)\b|pragma: no cover")
REGISTRIES = re.compile(
    r"\b(pypi|pythonhosted|npmjs|debian|ubuntu|docker|quay|ghcr|crates)\.(org|com|io|net)\b", re.IGNORECASE
)


def tracked() -> list[Path]:
    """Every file of the repository: what is committed, and what is new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    files = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in files if path.is_file() and not GENERATED.search(path.relative_to(ROOT).as_posix())]


def sources() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py"]


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_a_file_is_one_role() -> None:
    lines = {shown(path): len(path.read_text().splitlines()) for path in sources()}
    most = {path: MAX_TEST_LINES if path.startswith("tests/") else MAX_LINES for path in lines}
    assert {path: count for path, count in lines.items() if count > most[path]} == {}


def test_main_only_puts_together() -> None:
    mains = [path for path in sources() if path.name == "__main__.py" and path.is_relative_to(ROOT / "services")]
    assert {shown(path) for path in mains if len(path.read_text().splitlines()) > MAX_MAIN_LINES} == set()


def test_names_say_what_is_in_there() -> None:
    assert [shown(path) for path in sources() if set(path.with_suffix("").parts) & MEANINGLESS] == []


def test_nothing_is_left_for_later() -> None:
    marked = [
        f"{shown(path)}:{number}"
        for path in sources()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if MARKS.search(line)
    ]
    assert marked == []


def test_no_package_registry_is_named() -> None:
    """What is installed comes from wherever the machine's own clients are set up to look."""
    naming = [
        shown(path)
        for path in tracked()
        if path.suffix in TEXT and path != Path(__file__) and REGISTRIES.search(path.read_text(errors="replace"))
    ]
    assert naming == []


def test_test_names_are_unique_within_a_file() -> None:
    """A second function of the same name silently replaces the first."""
    for path in sources():
        if path.name.startswith("test_"):
            names = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
            assert len(names) == len(set(names)), shown(path)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_built() -> None:
    listed = project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    found = ["sdk/cdir", *sorted(shown(path.parent) for path in (ROOT / "services").glob("*/cdir_*/__init__.py"))]
    assert sorted(listed) == sorted(found)


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"]
    return {canonicalize_name(line.partition("==")[0]): line.partition("==")[2].partition(" ")[0] for line in lines}


def wanted() -> list[str]:
    configured = project()
    extras = configured["project"]["optional-dependencies"].values()
    groups = configured["dependency-groups"].values()
    every = [configured["project"]["dependencies"], *extras, *groups]
    return [line for lines in every for line in lines if not line.startswith("cdir[")]


@pytest.mark.parametrize("line", wanted())
def test_lock_pins_what_the_project_asks_for(line: str) -> None:
    requirement = Requirement(line)
    pinned = pins().get(canonicalize_name(requirement.name))
    assert pinned is not None, "not in requirements.lock: run make lock"
    assert requirement.specifier.contains(pinned, prereleases=True), "run make lock"


def test_help_lists_every_target_meant_for_people() -> None:
    helped = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "demo", "test", "lint", "proto", "fmt", "serve-split", "bench-small", "crash", "clean"):
        assert re.search(rf"^  {target} ", helped, re.MULTILINE), target


def test_ci_runs_what_a_developer_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "make lint" in script
    assert "make test" in script
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
