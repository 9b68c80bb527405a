"""Paths, names and trees that cannot be done: one line that says why, the right exit code, and nothing changed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from deployments.deployment import Deployment

pytestmark = pytest.mark.slow_split

FAILED, USAGE, NOT_FOUND, CONFLICT = 1, 2, 4, 6


@pytest.fixture(autouse=True)
def _providers(disks: dict[str, Path]) -> None:
    """Every test here needs the three local providers."""


@pytest.fixture
def one_file(deployment: Deployment, folder: str) -> str:
    """A virtual directory with the file ``x`` and nothing else."""
    deployment.cdir("put", "-", f"{folder}/x", stdin=b"content")
    return folder


def listing(deployment: Deployment) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = deployment.json("ls", "/", "--recursive")
    return rows


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/a/../b", "'..'"),
        ("/a\nb", "control character"),
        ("/" + "n" * 256, "255"),
        ("/" + "ü" * 128, "255"),
        ("/" + "/".join(["n" * 250] * 5), "1024"),
        ("/.cdir/x", ".cdir"),
    ],
)
def test_path_that_can_never_be(deployment: Deployment, path: str, said: str) -> None:
    before = listing(deployment)
    assert said in deployment.cdir("put", "-", path, stdin=b"content", expect=USAGE).error
    assert deployment.cdir("mkdir", path, expect=USAGE).error
    assert listing(deployment) == before


@pytest.mark.parametrize("command", ["cat", "ls", "stat", "versions", "status"])
def test_what_does_not_exist(deployment: Deployment, folder: str, command: str) -> None:
    assert f"{folder}/missing" in deployment.cdir(command, f"{folder}/missing", expect=NOT_FOUND).error


def test_file_where_a_directory_is(deployment: Deployment, one_file: str) -> None:
    before = listing(deployment)
    assert deployment.cdir("put", "-", one_file, stdin=b"new", expect=None).exit != 0
    assert deployment.cdir("cat", one_file, expect=FAILED).error
    assert deployment.cdir("put", "-", f"{one_file}/x/below", stdin=b"new", expect=FAILED).error
    assert deployment.cdir("mkdir", f"{one_file}/x", expect=FAILED).error
    assert listing(deployment) == before


def test_directory_that_is_not_empty(deployment: Deployment, one_file: str) -> None:
    assert "recursive" in deployment.cdir("rm", one_file, "--yes", expect=FAILED).error
    assert deployment.cdir("cat", f"{one_file}/x").stdout == b"content"


def test_directory_without_recursive(deployment: Deployment, one_file: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").write_text("1")
    before = listing(deployment)
    for arguments in (("put", tmp_path / "d", one_file), ("get", one_file, tmp_path / "got")):
        assert "--recursive" in deployment.cdir(*arguments, expect=FAILED).error
    assert listing(deployment) == before


def test_move_and_copy_onto_something_else(deployment: Deployment, one_file: str) -> None:
    deployment.cdir("put", "-", f"{one_file}/d/y", stdin=b"other")
    before = listing(deployment)
    assert deployment.cdir("mv", f"{one_file}/missing", f"{one_file}/z", expect=NOT_FOUND).error
    assert deployment.cdir("mv", f"{one_file}/d", f"{one_file}/d/inside/deeper", expect=USAGE).error
    assert deployment.cdir("cp", f"{one_file}/d", f"{one_file}/e", expect=FAILED).error
    assert deployment.cdir("mv", f"{one_file}/d/y", f"{one_file}/x", expect=CONFLICT).error
    assert listing(deployment) == before


def test_local_source_that_does_not_exist(deployment: Deployment, folder: str, tmp_path: Path) -> None:
    assert str(tmp_path / "none") in deployment.cdir("put", tmp_path / "none", folder, expect=NOT_FOUND).error


@pytest.mark.parametrize("arguments", [("nonsense",), ("ls", "--nonsense"), ("put",), ("ls", "--output", "paper")])
def test_wrong_usage(deployment: Deployment, arguments: tuple[str, ...]) -> None:
    done = deployment.cdir(*arguments, expect=USAGE)
    assert "Traceback" not in done.stderr


def test_empty_file_and_long_name(deployment: Deployment, folder: str, tmp_path: Path) -> None:
    name = "é" * 127  # 254 bytes in UTF-8
    deployment.cdir("put", "-", f"{folder}/{name}", stdin=b"")
    deployment.cdir("get", f"{folder}/{name}", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b""
    assert deployment.json("status", f"{folder}/{name}")["owed"] == 0


def test_name_of_200_characters(deployment: Deployment, folder: str, disks: dict[str, Path]) -> None:
    """As UTF-8 it is longer than any disk takes: refused before anything is written."""
    done = deployment.cdir("put", "-", f"{folder}/{'語' * 200}", stdin=b"content", expect=USAGE)
    assert "255" in done.error
    for root in disks.values():
        assert not (root / folder[1:]).exists()


def test_tree_with_what_cannot_be_stored(
    deployment: Deployment, folder: str, tmp_path: Path, disks: dict[str, Path]
) -> None:
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "good").write_text("good")
    (tree / "d" / "good too").write_text("good too")
    (tree / "link").symlink_to(tree / "good")
    (tree / "dangling").symlink_to(tree / "nothing")
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        # a path relative to the folder, since a socket's path is short
        here = os.open(tree, os.O_RDONLY)
        try:
            listening.bind(f"/proc/self/fd/{here}/socket")
        finally:
            os.close(here)
        report = deployment.json("put", tree, folder, "--recursive", expect=FAILED)
    assert report["files"] == 2
    assert {Path(failure["path"]).name for failure in report["failed"]} == {"link", "dangling", "pipe", "socket"}
    assert all("\n" not in failure["error"] and failure["error"] for failure in report["failed"])
    paths = {row["path"] for row in deployment.json("ls", folder, "--recursive") if row["kind"] == "file"}
    assert {path.rsplit("/", 1)[1] for path in paths} == {"good", "good too"}


def test_source_that_is_shorter_than_it_says(deployment: Deployment, folder: str) -> None:
    """A file of sysfs says 4096 bytes and has fewer: what a file that shrinks while it is read looks like."""
    source = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not source.is_file():
        pytest.skip("capability: this system has no sysfs")
    assert len(source.read_bytes()) < source.stat().st_size
    before = listing(deployment)
    done = deployment.cdir("put", source, f"{folder}/x", expect=FAILED)
    assert str(source) in done.error
    assert [row for row in listing(deployment) if row["kind"] == "file"] == [
        row for row in before if row["kind"] == "file"
    ]


def test_unreadable_file_in_a_tree(deployment: Deployment, folder: str, tmp_path: Path) -> None:
    """Permission bits hold for root only when it has no capabilities: then the client runs without."""
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if deployment.kind == "embedded":
            pytest.skip("capability: the daemon reads local files itself, and as root may read every one")
        prefix = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "good").write_text("good")
    (tree / "secret").write_text("secret")
    (tree / "secret").chmod(0)
    done = deployment.cdir("put", tree, folder, "--recursive", "--output", "json", expect=FAILED, prefix=prefix)
    assert [Path(failure["path"]).name for failure in done.json["failed"]] == ["secret"]
    assert [row["name"] for row in deployment.json("ls", folder)] == ["good"]


def test_get_does_not_replace_a_directory(deployment: Deployment, one_file: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "x").mkdir(parents=True)
    (target / "x" / "precious").write_text("precious")
    assert deployment.cdir("get", f"{one_file}/x", target, expect=None).exit != 0
    assert (target / "x" / "precious").read_text() == "precious"
