"""The older spelling, and ``sync``: the same meaning as the newer commands, and what is remembered of a sync."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments.deployment import Deployment, eventually
from deployments.trees import contents, make_files

pytestmark = pytest.mark.slow_split

USAGE, NOT_FOUND, CONFLICT = 2, 4, 6


@pytest.fixture(autouse=True)
def _providers(disks: dict[str, Path]) -> None:
    """Every test here needs the three local providers."""


def storage(deployment: Deployment, *arguments: str | Path) -> Any:
    return deployment.json("storage", *arguments)


def test_every_form_at_a_service(deployment: Deployment, disks: dict[str, Path], folder: str, tmp_path: Path) -> None:
    top = folder[1:]
    tree = make_files(tmp_path / "tree", 12)
    assert [row["name"] for row in storage(deployment, "config", "list")] == sorted(disks)
    assert storage(deployment, "--storage=one", "create", "dir", top) == {"path": f"one:{top}", "made": False}
    put = storage(deployment, "--storage=one", "--parallel=2", "put", tree, top, "--recursive")
    assert (put["files"], contents(disks["one"] / top)) == (12, contents(tree))
    assert storage(deployment, "--storage=one", "get", top, tmp_path / "back", "--recursive")["files"] == 12
    assert contents(tmp_path / "back") == contents(tree)
    listed = storage(deployment, "--storage=one", "list", top, "--recursive")
    assert {row["path"] for row in listed} == {f"one:{top}/{name}" for name in contents(tree)}
    name = sorted(contents(tree))[0]
    basename = name.rpartition("/")[2]
    found = storage(deployment, "--storage=one", "search", top, basename, "--recursive")
    assert [row["path"] for row in found] == [f"one:{top}/{name}"]
    assert storage(deployment, "--storage=one", "search", "", basename) == []
    assert storage(deployment, "copy", f"one:{top}/{name}", f"two:{top}-target.txt")["files"] == 1
    assert (disks["two"] / f"{top}-target.txt").read_bytes() == (tree / name).read_bytes()
    assert storage(deployment, "--storage=two", "--parallel=3", "copy", f"one:{top}", top, "-r")["files"] == 12
    deployment.cdir("put", "-", "three:@alone", stdin=b"1")
    assert storage(deployment, "--storage=three", "delete", "@alone", "--yes")["files"] == 1


def test_the_same_forms_in_the_virtual_directory(deployment: Deployment, folder: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"x")
    assert storage(deployment, "create", "dir", f"{folder}/d")["made"]
    assert storage(deployment, "put", tmp_path / "x.txt", f"{folder}/d/x.txt")["files"] == 1
    assert [row["path"] for row in storage(deployment, "list", folder, "-r")] == [f"{folder}/d", f"{folder}/d/x.txt"]
    assert storage(deployment, "search", folder, "x.txt") == []
    assert len(storage(deployment, "search", f"{folder}/d", "x.txt")) == 1
    assert storage(deployment, "copy", f"{folder}/d/x.txt", f"{folder}/y.txt")["files"] == 1
    storage(deployment, "get", f"{folder}/y.txt", tmp_path / "y.txt")
    assert (tmp_path / "y.txt").read_bytes() == b"x"
    assert storage(deployment, "delete", f"{folder}/y.txt")["files"] == 1
    assert deployment.cdir("storage", "list", f"{folder}/y.txt", expect=NOT_FOUND).error
    assert deployment.cdir("storage", "put", "alone", expect=USAGE).error


def test_sync_transfers_what_is_new_or_changed_and_nothing_else(
    deployment: Deployment, disks: dict[str, Path], folder: str, tmp_path: Path
) -> None:
    top = folder[1:]
    tree = make_files(tmp_path / "tree", 12)
    steps = [
        (f"file:{tree}", f"cdir:{folder}/a"),
        (f"cdir:{folder}/a", f"one:{top}/b"),
        (f"one:{top}/b", f"two:{top}/c"),
        (f"two:{top}/c", f"file:{tmp_path / 'back'}"),
    ]
    for source, target in steps:
        assert deployment.json("sync", source, target)["files"] == 12, (source, target)
    (disks["two"] / top / "c" / "of another").write_bytes(b"stays")
    changed = tree / sorted(contents(tree))[3]
    before = changed.read_bytes()
    changed.write_bytes(b"changed")
    for source, target in steps:
        report = deployment.json("sync", source, target)
        assert report["files"] in {1, 2}, (source, target)  # the file of another goes along from where it is
        assert (report["skipped"], report["failed"]) == (11, [])
    assert contents(tmp_path / "back") == {
        **contents(tree),
        "of another": contents(disks["two"] / top / "c")["of another"],
    }
    # what was replaced at a provider became a file of the directory, whose old content is kept
    path = f"/{top}/b/{changed.relative_to(tree)}"
    assert deployment.cdir("cat", "--generation", "1", path).stdout == before


def test_a_sync_is_remembered_by_its_name(
    deployment: Deployment, disks: dict[str, Path], folder: str, tmp_path: Path
) -> None:
    tree = make_files(tmp_path / "tree", 3)
    started = storage(deployment, "--storage=one", "sync", tree, folder, "--name=nightly", "--async")
    assert started == {"name": "nightly", "state": "running"}

    def ended() -> Any:
        (record,) = storage(deployment, "sync", "status", "--name=nightly")
        return record if record["state"] != "running" else None

    record = eventually(ended)
    assert (record["state"], record["files"], record["source"]) == ("done", 3, f"file:{tree}")
    assert contents(disks["one"] / folder[1:]) == contents(tree)
    (tree / "more").write_bytes(b"more")
    assert deployment.json("sync", "--name", "nightly")["files"] == 1
    assert "nightly" in deployment.cdir("sync", "status").text
    assert deployment.cdir("sync", "status", "--name", "unknown", expect=NOT_FOUND).error
    assert deployment.cdir("sync", tmp_path / "none", "one:x", "--name", "bad", expect=NOT_FOUND).error
    assert deployment.cdir("sync", tree, "one:x", "--watch", "--async", expect=USAGE).error
    assert deployment.cdir("sync", tree, "one:x", "--name", "../bad", expect=USAGE).error


def test_a_sync_that_was_killed_is_interrupted_and_one_that_runs_is_not_run_twice(
    deployment: Deployment, folder: str, tmp_path: Path
) -> None:
    """Stopped as soon as it says that it runs; on a fast machine it may have ended by then, which is fine as well."""
    tree = make_files(tmp_path / "tree", 2)
    running = deployment.begin("sync", tree, folder, "--name", "killed")
    record = Path(deployment.environment()["CDIR_HOME"]) / "syncs" / "killed.json"
    eventually(record.exists, pause=0.001)
    process = psutil.Process(running.pid)
    try:
        process.suspend()
        if running.poll() is None and deployment.json("sync", "status", "--name", "killed")[0]["state"] == "running":
            assert deployment.cdir("sync", tree, folder, "--name", "killed", expect=CONFLICT).error
            process.kill()
            running.wait(30)
            assert deployment.json("sync", "status", "--name", "killed")[0]["state"] == "interrupted"
    finally:
        if running.poll() is None:
            running.kill()
        running.communicate()
    deployment.cdir("sync", tree, folder, "--name", "killed")
    assert deployment.json("sync", "status", "--name", "killed")[0]["state"] == "done"
