"""What ``sync`` removes, what holds it back from that, and how it keeps two trees alike while it watches."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import cdir
from cdir.model import OnConflict
from deployments.deployment import Deployment, eventually, eventually_is
from deployments.trees import contents, make_files

pytestmark = pytest.mark.slow_split

FAILED, USAGE, NOT_FOUND = 1, 2, 4


@pytest.fixture(autouse=True)
def _providers(disks: dict[str, Path]) -> None:
    """Every test here needs the three local providers."""


def names(deployment: Deployment, folder: str) -> set[str]:
    """Paths of the files below a virtual directory."""
    listed = deployment.json("ls", "--recursive", folder)
    return {row["path"].removeprefix(f"{folder}/") for row in listed if row["kind"] == "file"}


def removals(stderr: str) -> set[str]:
    return {line.removeprefix("would remove ") for line in stderr.splitlines() if line.startswith("would remove ")}


def test_delete_makes_every_kind_of_target_like_its_source(
    deployment: Deployment, disks: dict[str, Path], folder: str, tmp_path: Path
) -> None:
    tree = make_files(tmp_path / "tree", 24)
    top = folder[1:]
    steps = [
        (f"file:{tree}", f"cdir:{folder}"),
        (f"cdir:{folder}", f"one:{top}-b"),
        (f"one:{top}-b", f"two:{top}-c"),
        (f"two:{top}-c", f"file:{tmp_path / 'back'}"),
    ]
    for source, target in steps:
        assert deployment.json("sync", source, target, "--delete")["removed"] == 0
    for path in (tree / "d000").iterdir():
        path.unlink()
    (tree / "d000").rmdir()
    before = datetime.now(UTC)
    (tree / "d001" / "more").write_bytes(b"more")
    for source, target in steps:
        planned = deployment.cdir("sync", source, target, "--delete", "--dry-run", "--output", "json")
        told = removals(planned.stderr)
        assert (len(told), planned.json["removed"], planned.json["files"]) == (10, 10, 1), target
        assert any(line.endswith("d000/f00000.bin") for line in told)
        done = deployment.json("sync", source, target, "--delete")
        assert (done["removed"], done["held_back"], done["failed"]) == (10, None, []), target
    assert contents(tmp_path / "back") == contents(tree)
    assert not (tmp_path / "back" / "d000").exists()
    assert names(deployment, folder) == set(contents(tree))
    deployment.cdir("restore", "--recursive", "--at", before.isoformat(), f"{folder}/d000")
    assert len(names(deployment, folder)) == len(contents(tree)) + 10


def test_delete_holds_back_rather_than_believe_a_source_that_may_not_be_whole(
    deployment: Deployment, disks: dict[str, Path], folder: str, tmp_path: Path
) -> None:
    tree = make_files(tmp_path / "tree", 20)
    deployment.cdir("sync", tree, folder)
    kept = names(deployment, folder)

    def held_back(*arguments: str | Path, because: str) -> None:
        ended = deployment.cdir("sync", *arguments, folder, "--delete", expect=FAILED)
        assert because in ended.stderr
        assert "Traceback" not in ended.stderr
        assert names(deployment, folder) == kept

    empty = tmp_path / "not mounted"
    (empty / "lost+found").mkdir(parents=True)
    held_back(empty, because="--force")
    held_back(empty, "--force", because="--max-delete")
    for path in (tree / "d001").iterdir():
        path.unlink()
    held_back(tree, "--max-delete", "9", because="--max-delete 10")
    held_back(tree, "--max-delete", "49%", because="--max-delete 10")
    unlistable = Path(os.fsdecode(os.fsencode(tree) + b"/\xff"))
    unlistable.write_bytes(b"")
    held_back(tree, because="could not be listed completely")
    unlistable.unlink()
    assert deployment.cdir("sync", tmp_path / "none", folder, "--delete", expect=NOT_FOUND).error
    assert deployment.cdir("sync", tree / "d000" / "f00000.bin", folder, "--delete", expect=USAGE).error
    for wrong in (["--delete", "--max-delete", "many"], ["--delete", "--max-delete", "120%"], ["--max-delete", "3"]):
        assert "--max-delete" in deployment.cdir("sync", tree, folder, *wrong, expect=USAGE).error
    assert names(deployment, folder) == kept
    # a provider whose disk is gone is no empty source
    deployment.cdir("sync", folder, f"three:{folder[1:]}-copy")
    root = disks["three"]
    root.rename(root.with_name("away"))
    try:
        ended = deployment.cdir("sync", f"three:{folder[1:]}-copy", folder, "--delete", "--force", expect=None)
        assert ended.exit != 0
    finally:
        root.with_name("away").rename(root)
    assert names(deployment, folder) == kept
    assert deployment.json("sync", tree, folder, "--delete", "--max-delete", "10")["removed"] == 10


def test_delete_leaves_what_a_link_may_stand_for_and_copies_kept_for_a_person(
    deployment: Deployment, folder: str, tmp_path: Path
) -> None:
    tree = make_files(tmp_path / "tree", 20)
    deployment.cdir("sync", tree, folder)
    (tree / "d001").rename(tmp_path / "elsewhere")
    (tree / "d001").symlink_to(tmp_path / "elsewhere")
    with cdir.connect_blocking(deployment.address, deployment.environment().get("CDIR_TOKEN")) as client:
        kept = client.write(f"{folder}/both.txt", b"1") and client.write(
            f"{folder}/both.txt", b"2", base_generation=0, on_conflict=OnConflict.KEEP_COPY
        )
    before = names(deployment, folder)
    ended = deployment.cdir("sync", tree, folder, "--delete", "--output", "json", expect=FAILED)  # the link
    assert ended.json["removed"] == 1
    assert names(deployment, folder) == before - {"both.txt"}
    assert kept.entry.path.removeprefix(f"{folder}/") in names(deployment, folder)


@contextlib.contextmanager
def watching(deployment: Deployment, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A sync that watches, from when it says so until it is told to end, which it must do well."""
    running = deployment.begin("sync", *arguments, "--watch")
    said: list[str] = []
    ready = threading.Event()

    def listen() -> None:
        assert running.stderr is not None
        for line in running.stderr:
            said.append(line.decode())
            if line.startswith(b"watching"):
                ready.set()

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        assert ready.wait(60), said
        yield running
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0, said
    finally:
        if running.poll() is None:
            running.kill()
        running.wait()
        listener.join()
        for pipe in (running.stdout, running.stderr):
            assert pipe is not None
            pipe.close()
    assert "Traceback" not in "".join(said)


def test_what_changes_in_a_local_folder_is_followed_until_it_ends(
    deployment: Deployment, folder: str, tmp_path: Path
) -> None:
    tree = make_files(tmp_path / "tree", 12)
    with watching(deployment, tree, folder, "--delete", "--name", "followed"):
        (tree / "new").mkdir()
        make_files(tree / "new", 30, seed=2)
        (tree / "d000" / "f00000.bin").write_bytes(b"changed")
        (tree / "d000" / "f00001.bin").rename(tree / "renamed")
        (tree / "link").symlink_to(tree / "renamed")
        os.mkfifo(tree / "pipe")
        (tree / "d001" / "f00010.bin").unlink()
        expected = set(contents(tree)) - {"link"}
        eventually(lambda: names(deployment, folder) == expected)
        eventually(lambda: deployment.cdir("cat", f"{folder}/d000/f00000.bin").stdout == b"changed")
        (tree / "late").write_bytes(b"after the trouble with link and pipe")
        eventually(lambda: "late" in names(deployment, folder))
    assert deployment.json("sync", "status", "--name", "followed")[0]["state"] == "done"
    deployment.cdir("get", "--recursive", folder, tmp_path / "back")
    (tree / "link").unlink()
    assert contents(tmp_path / "back") == contents(tree)


def test_what_changes_in_the_directory_is_followed_to_a_local_folder(
    deployment: Deployment, folder: str, tmp_path: Path
) -> None:
    tree = make_files(tmp_path / "tree", 12)
    deployment.cdir("put", "--recursive", tree, folder)
    copy = tmp_path / "copy"
    with watching(deployment, folder, f"file:{copy}", "--delete"):
        deployment.cdir("mv", f"{folder}/d000", f"{folder}/moved")
        deployment.cdir("rm", f"{folder}/d001/f00010.bin", "--yes")
        deployment.cdir("put", "-", f"{folder}/new/from here", stdin=b"1")
        (tree / "d000").rename(tree / "moved")
        (tree / "d001" / "f00010.bin").unlink()
        (tree / "new").mkdir()
        (tree / "new" / "from here").write_bytes(b"1")
        eventually_is(contents(tree), contents, copy)
    assert not [path for path in copy.rglob("*") if ".cdir-" in path.name]


@pytest.mark.slow
def test_an_unreachable_service_does_not_end_the_watching(
    deployment: Deployment, disks: dict[str, Path], folder: str, tmp_path: Path
) -> None:
    if deployment.kind != "embedded":
        pytest.skip("what is tried again is decided by the command alone")
    tree = make_files(tmp_path / "tree", 3)
    with watching(deployment, tree, folder):
        deployment.stop()
        (tree / "meanwhile").write_bytes(b"1")
        deployment.start()
        eventually(lambda: "meanwhile" in names(deployment, folder))
    assert deployment.cdir("sync", tree, folder, "--watch", "--async", expect=USAGE).error
    assert deployment.cdir("sync", tree, folder, "--watch", "--dry-run", expect=USAGE).error
    assert deployment.cdir("sync", tmp_path / "none", folder, "--watch", expect=NOT_FOUND).error


def test_a_tree_is_never_synced_with_removal_into_or_around_itself(deployment: Deployment, folder: str) -> None:
    deployment.cdir("put", "-", f"{folder}/inner/file", stdin=b"1")
    deployment.cdir("put", "-", f"{folder}/outer", stdin=b"1")
    inner, outer = f"cdir:{folder}/inner", f"cdir:{folder}"
    for source, target in ((inner, outer), (outer, inner), (inner, f"one:{folder[1:]}"), ("one:", "one:x")):
        error = deployment.cdir("sync", source, target, "--delete", expect=USAGE).error
        assert "one within the other" in error
    assert names(deployment, folder) == {"inner/file", "outer"}
