"""Objects at their providers, past the virtual directory: looked at, moved between all places, never lost by it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deployments.deployment import Deployment, eventually_is
from deployments.fixtures import Three
from deployments.trees import contents, make_files

pytestmark = pytest.mark.slow_split

FAILED, USAGE, NOT_FOUND, CONFLICT = 1, 2, 4, 6


def put(deployment: Deployment, place: str, content: bytes) -> None:
    deployment.cdir("put", "-", place, stdin=content)


def everywhere(three: Three, key: str) -> set[bytes]:
    """The different contents at a key over the providers."""
    return {(root / key).read_bytes() for root in three.roots.values()}


def read(deployment: Deployment, place: str) -> bytes:
    return deployment.cdir("cat", place).stdout


def test_an_object_is_stored_shown_and_read(deployment: Deployment, three: Three, folder: str, tmp_path: Path) -> None:
    top = folder[1:]
    put(deployment, f"bucket:{top}/d/x.txt", b"hello")
    assert (three.roots["bucket"] / top / "d/x.txt").read_bytes() == b"hello"
    rows = deployment.json("ls", f"bucket:{top}")
    assert [(row["path"], row["name"], row["kind"]) for row in rows] == [(f"bucket:{top}/d", "d", "directory")]
    (row,) = deployment.json("ls", "--recursive", f"bucket:{folder}")
    assert (row["path"], row["kind"], row["size"]) == (f"bucket:{top}/d/x.txt", "file", 5)
    shown = deployment.json("stat", f"bucket:{top}/d/x.txt")
    assert (shown["size"], shown["checksum"]) == (5, "md5:5d41402abc4b2a76b9719d911017c592")
    assert [row["name"] for row in deployment.json("search", "X.*", f"bucket:{top}")] == ["x.txt"]
    assert read(deployment, f"bucket:{top}/d/x.txt") == b"hello"
    deployment.cdir("get", f"bucket:{top}/d/x.txt", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"hello"
    # no path of the directory has this key, so that no scan takes the object for a file
    put(deployment, "host:@alone", b"1")
    assert "--yes" in deployment.cdir("rm", "host:@alone", expect=USAGE).error
    assert deployment.json("rm", "--yes", "host:@alone")["files"] == 1
    assert not (three.roots["host"] / "@alone").exists()


def test_a_tree_goes_from_provider_to_provider_and_to_the_directory_and_back(
    deployment: Deployment, three: Three, folder: str, tmp_path: Path
) -> None:
    top = folder[1:]
    tree = make_files(tmp_path / "tree", 25)
    (tree / "large").write_bytes(os.urandom(9_000_000))
    (tree / "empty").touch()
    os.utime(tree / "large", ns=(0, 1_700_000_000_000_000_000))
    report = deployment.json("put", tree, f"disk:{top}/a", "--recursive")
    assert (report["files"], report["failed"]) == (27, [])
    for source, target in (
        (f"disk:{top}/a", f"bucket:{top}/b"),
        (f"bucket:{top}/b", f"host:{top}/c"),
        (f"host:{top}/c", f"{folder}/d"),
        (f"{folder}/d", f"disk:{top}/e"),
    ):
        deployment.cdir("cp", source, target, expect=FAILED)  # a tree needs --recursive
        report = deployment.json("cp", source, target, "--recursive", "--parallel", "8")
        assert (report["files"], report["skipped"], report["failed"]) == (27, 0, []), (source, target)
    assert contents(three.roots["host"] / top / "c") == contents(tree)
    assert contents(three.roots["disk"] / top / "e") == contents(tree)
    assert os.stat(three.roots["disk"] / top / "e/large").st_mtime == 1_700_000_000
    again = deployment.json("cp", f"{folder}/d", f"disk:{top}/e", "--recursive")
    assert (again["files"], again["skipped"]) == (0, 27)
    fetched = deployment.json("get", "--recursive", f"bucket:{top}/b", tmp_path / "back")
    assert (fetched["files"], contents(tmp_path / "back")) == (27, contents(tree))


def test_a_provider_copies_its_own_objects(deployment: Deployment, three: Three, folder: str) -> None:
    top = folder[1:]
    content = os.urandom(6_000_000)
    put(deployment, f"bucket:{top}/x", content)
    deployment.cdir("cp", f"bucket:{top}/x", f"bucket:{top}/y")
    deployment.cdir("cp", f"disk:{top}/none", f"bucket:{top}/z", expect=NOT_FOUND)
    assert (three.roots["bucket"] / top / "y").read_bytes() == content
    assert "itself" in deployment.cdir("cp", "-r", f"bucket:{top}", f"bucket:{top}/in", expect=USAGE).error


def test_nothing_at_a_provider_is_silently_overwritten(deployment: Deployment, three: Three, folder: str) -> None:
    top = folder[1:]
    put(deployment, f"disk:{top}/x", b"what was there before")
    put(deployment, f"host:{top}/other", b"something else")
    refused = deployment.cdir("cp", f"host:{top}/other", f"disk:{top}/x", expect=CONFLICT)
    assert "--overwrite" in refused.stderr
    assert (three.roots["disk"] / top / "x").read_bytes() == b"what was there before"
    deployment.cdir("cp", "--overwrite", f"host:{top}/other", f"disk:{top}/x")
    assert read(deployment, f"disk:{top}/x") == b"something else"
    # it went through the directory: every copy follows, and the old content is kept
    deployment.wait_settled(folder)
    eventually_is({b"something else"}, everywhere, three, f"{top}/x")
    old = deployment.cdir("cat", "--generation", "1", f"{folder}/x").stdout
    assert old == b"what was there before"


def test_a_file_of_the_directory_is_not_touched_behind_its_back(
    deployment: Deployment, three: Three, folder: str
) -> None:
    top = folder[1:]
    put(deployment, f"{folder}/x", b"kept")
    put(deployment, f"host:{top}-2/x", b"new")
    assert f"{folder}/x" in deployment.cdir("rm", "--yes", f"disk:{top}/x", expect=CONFLICT).stderr
    deployment.cdir("cp", f"host:{top}-2/x", f"disk:{top}/x", expect=CONFLICT)
    deployment.cdir("cp", f"host:{top}-2/x", f"disk:{top}/x/below", expect=CONFLICT)
    assert read(deployment, f"{folder}/x") == b"kept"
    deployment.cdir("policy", "set", folder, "--providers", "host,bucket")
    assert "policy" in deployment.cdir("cp", "-f", f"host:{top}-2/x", f"disk:{top}/x", expect=CONFLICT).stderr
    deployment.cdir("policy", "unset", folder)
    assert read(deployment, f"{folder}/x") == b"kept"


@pytest.mark.parametrize("place", ["disk:.cdir/provider", "disk:/.cdir/provider", "disk:../x", "nobody:x"])
def test_places_that_are_refused(deployment: Deployment, three: Three, folder: str, place: str) -> None:
    mark = (three.roots["disk"] / ".cdir/provider").read_bytes()
    expected = NOT_FOUND if place.startswith("nobody") else USAGE
    for command in (["cat", place], ["put", "-", place], ["rm", "--yes", place], ["cp", f"host:{folder}/x", place]):
        assert deployment.cdir(*command, stdin=b"x", expect=expected).error
    assert (three.roots["disk"] / ".cdir/provider").read_bytes() == mark
    assert not any(".cdir" in row["path"] for row in deployment.json("ls", "--recursive", "disk:"))


def test_a_paused_provider_is_left_alone(deployment: Deployment, three: Three, folder: str) -> None:
    deployment.cdir("provider", "pause", "host")
    try:
        assert "paused" in deployment.cdir("put", "-", f"host:{folder}/x", stdin=b"x", expect=FAILED).error
        assert not (three.roots["host"] / folder[1:]).exists()
    finally:
        deployment.cdir("provider", "resume", "host")
