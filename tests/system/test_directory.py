"""What each command about the directory does and prints, as scripts rely on it."""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployments.deployment import Deployment, eventually, eventually_is
from deployments.trees import contents, make_files

DONE, CONFLICT = 0, 6
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")


@pytest.fixture(autouse=True)
def _providers(disks: dict[str, Path]) -> None:
    """Every test here needs the three local providers."""


def put(deployment: Deployment, path: str, content: bytes) -> None:
    deployment.cdir("put", "-", path, stdin=content)


def on_disks(disks: dict[str, Path], key: str) -> list[bytes | None]:
    """What each provider has under ``key``."""
    return [(root / key).read_bytes() if (root / key).is_file() else None for root in disks.values()]


def test_put_reports_what_it_did(deployment: Deployment, folder: str, tmp_path: Path) -> None:
    make_files(tmp_path / "tree", 12)
    report = deployment.json("put", tmp_path / "tree", folder, "--recursive")
    assert set(report) >= {"files", "bytes", "skipped", "failed", "owed", "seconds"}
    assert (report["files"], report["skipped"], report["failed"], report["owed"]) == (12, 0, [], 0)
    assert report["seconds"] > 0


def test_list_shows_files_and_directories(deployment: Deployment, folder: str) -> None:
    put(deployment, f"{folder}/b.txt", b"12345")
    put(deployment, f"{folder}/a/c.txt", b"")
    rows = deployment.json("ls", folder)
    assert [(row["path"], row["name"], row["kind"]) for row in rows] == [
        (f"{folder}/a", "a", "directory"),
        (f"{folder}/b.txt", "b.txt", "file"),
    ]
    file = rows[1]
    assert (file["size"], file["generation"], file["owed"]) == (5, 1, 0)
    assert TIME.fullmatch(file["modified"])
    below = [row["path"] for row in deployment.json("ls", folder, "--recursive")]
    assert sorted(below) == sorted([f"{folder}/a", f"{folder}/a/c.txt", f"{folder}/b.txt"])
    assert "b.txt" in deployment.cdir("ls", folder).text


def test_stat_and_cat(deployment: Deployment, folder: str, tmp_path: Path) -> None:
    source = tmp_path / "note.txt"
    source.write_text("hello\n")
    os.utime(source, ns=(0, 1_700_000_000_250_000_000))
    deployment.cdir("put", source, f"{folder}/note.txt")
    shown = deployment.json("stat", f"{folder}/note.txt")
    assert (shown["path"], shown["kind"], shown["size"]) == (f"{folder}/note.txt", "file", 6)
    assert datetime.fromisoformat(shown["modified"]) == datetime.fromtimestamp(1_700_000_000.25, UTC)
    assert deployment.cdir("cat", f"{folder}/note.txt").stdout == b"hello\n"


def test_standard_input_and_output(deployment: Deployment, folder: str) -> None:
    content = os.urandom(3_000_000)
    put(deployment, f"{folder}/stream", content)
    assert deployment.cdir("get", f"{folder}/stream", "-").stdout == content


def test_status_of_a_file_names_every_copy(deployment: Deployment, folder: str, disks: dict[str, Path]) -> None:
    put(deployment, f"{folder}/x", b"content")
    shown = deployment.json("status", f"{folder}/x")
    assert set(shown) >= {"path", "generation", "size", "sha256", "modified", "layout", "replicas", "owed"}
    assert shown["path"] == f"{folder}/x"
    assert (shown["generation"], shown["size"], shown["owed"], shown["layout"]) == (1, 7, 0, "plain")
    assert shown["sha256"] == hashlib.sha256(b"content").hexdigest()
    assert {row["provider"] for row in shown["replicas"]} == set(disks)
    for row in shown["replicas"]:
        assert set(row) >= {"provider", "state", "key", "etag", "proven_at", "error"}
        assert (row["state"], row["key"]) == ("ok", f"{folder[1:]}/x")


def test_status_of_a_directory_sums_up(deployment: Deployment, folder: str, disks: dict[str, Path]) -> None:
    put(deployment, f"{folder}/x", b"12")
    put(deployment, f"{folder}/y/z", b"345")
    shown = deployment.json("status", folder)
    assert (shown["files"], shown["bytes"], shown["owed"]) == (2, 5, 0)
    assert {row["name"] for row in shown["providers"]} == set(disks)
    for row in shown["providers"]:
        assert (row["kind"], row["state"], row["files"], row["bytes"], row["owed"]) == ("local", "up", 2, 5, 0)
    assert deployment.json("status")["files"] >= 2


def test_provider_list(deployment: Deployment, disks: dict[str, Path]) -> None:
    rows = deployment.json("provider", "list")
    assert [row["name"] for row in rows] == sorted(disks)
    assert set(rows[0]) >= {"name", "kind", "state", "used", "free", "priority", "location"}
    assert {"local", "s3", "sftp"} <= {row["kind"] for row in deployment.json("provider", "kinds")}


def test_tree_search_and_explain(deployment: Deployment, folder: str, disks: dict[str, Path]) -> None:
    put(deployment, f"{folder}/2024/report-1.txt", b"1")
    put(deployment, f"{folder}/2025/report-2.txt", b"2")
    put(deployment, f"{folder}/2025/other.md", b"3")
    drawn = deployment.cdir("tree", folder).text
    assert all(name in drawn for name in ("2024", "2025", "report-1.txt", "other.md"))
    found = deployment.json("search", "report-*.txt", folder)
    assert [row["path"] for row in found] == [f"{folder}/2024/report-1.txt", f"{folder}/2025/report-2.txt"]
    assert deployment.json("search", "no such name", folder) == []
    explained = deployment.cdir("explain", f"{folder}/2025/other.md").text
    assert all(name in explained for name in disks)


def test_overwriting_keeps_the_version_before(deployment: Deployment, folder: str, disks: dict[str, Path]) -> None:
    put(deployment, f"{folder}/x", b"first")
    put(deployment, f"{folder}/x", b"second")
    assert deployment.cdir("cat", f"{folder}/x").stdout == b"second"
    versions = deployment.json("versions", f"{folder}/x")
    assert [(row["generation"], row["size"], row["current"]) for row in versions] == [(2, 6, True), (1, 5, False)]
    assert set(versions[0]) >= {"generation", "size", "sha256", "modified", "author", "current"}
    assert on_disks(disks, f"{folder[1:]}/x") == [b"second"] * 3


def test_two_writers_on_one_path(deployment: Deployment, folder: str) -> None:
    """Both may win, one after the other, or one is told of a conflict; nothing that was acknowledged is lost."""
    put(deployment, f"{folder}/x", b"base")
    contenders = [b"left" * 500_000, b"right" * 500_000]
    with ThreadPoolExecutor() as pool:
        writing = [
            pool.submit(deployment.cdir, "put", "-", f"{folder}/x", stdin=content, expect=None)
            for content in contenders
        ]
        done = [each.result() for each in writing]
    assert all(each.exit == DONE or (each.exit == CONFLICT and each.error) for each in done), done
    winners = [content for content, each in zip(contenders, done, strict=True) if each.exit == DONE]
    assert winners
    kept = {row["sha256"] for row in deployment.json("versions", f"{folder}/x")}
    assert {hashlib.sha256(content).hexdigest() for content in [b"base", *winners]} <= kept
    assert deployment.cdir("cat", f"{folder}/x").stdout in winners


def test_move_moves_the_objects(deployment: Deployment, folder: str, disks: dict[str, Path]) -> None:
    put(deployment, f"{folder}/old/x", b"content")
    deployment.cdir("mv", f"{folder}/old", f"{folder}/new")
    assert deployment.cdir("cat", f"{folder}/new/x").stdout == b"content"
    assert deployment.cdir("cat", f"{folder}/old/x", expect=4).error
    deployment.wait_settled(folder)
    assert on_disks(disks, f"{folder[1:]}/new/x") == [b"content"] * 3
    assert on_disks(disks, f"{folder[1:]}/old/x") == [None] * 3


def test_copy_makes_new_objects(deployment: Deployment, folder: str, disks: dict[str, Path]) -> None:
    put(deployment, f"{folder}/a/x", b"content")
    deployment.cdir("cp", f"{folder}/a", f"{folder}/b", "--recursive")
    deployment.cdir("cp", f"{folder}/a/x", f"{folder}/y")
    deployment.wait_settled(folder)
    for key in ("a/x", "b/x", "y"):
        assert on_disks(disks, f"{folder[1:]}/{key}") == [b"content"] * 3


def test_remove_takes_the_objects_away(deployment: Deployment, folder: str, disks: dict[str, Path]) -> None:
    put(deployment, f"{folder}/d/x", b"1")
    put(deployment, f"{folder}/d/y", b"2")
    deployment.cdir("rm", f"{folder}/d/x")
    assert [row["name"] for row in deployment.json("ls", f"{folder}/d")] == ["y"]
    assert deployment.cdir("rm", f"{folder}/d", expect=1).error
    deployment.cdir("rm", f"{folder}/d", "--recursive", "--yes")
    assert deployment.cdir("ls", f"{folder}/d", expect=4).error
    for name in ("x", "y"):
        eventually_is([None] * 3, on_disks, disks, f"{folder[1:]}/d/{name}")


def test_make_directory_and_the_current_one(deployment: Deployment, folder: str) -> None:
    deployment.cdir("mkdir", f"{folder}/empty/inside")
    assert [row["kind"] for row in deployment.json("ls", f"{folder}/empty")] == ["directory"]
    deployment.cdir("cd", folder)
    try:
        assert deployment.cdir("pwd").text.strip() == folder
        put(deployment, "relative", b"r")
        assert deployment.cdir("cat", f"{folder}/relative").stdout == b"r"
    finally:
        deployment.cdir("cd", "/")


def test_policy_places_fewer_copies(deployment: Deployment, folder: str, disks: dict[str, Path]) -> None:
    put(deployment, f"{folder}/x", b"content")
    deployment.cdir("policy", "set", folder, "--copies", "2")
    assert deployment.json("policy", "show", folder)
    eventually(lambda: len([True for copy in on_disks(disks, f"{folder[1:]}/x") if copy]) == 2)
    deployment.cdir("policy", "unset", folder)
    eventually_is([b"content"] * 3, on_disks, disks, f"{folder[1:]}/x")


def test_repair_restores_what_was_deleted_behind_our_back(
    deployment: Deployment, folder: str, disks: dict[str, Path]
) -> None:
    put(deployment, f"{folder}/x", b"content")
    (disks["two"] / folder[1:] / "x").unlink()
    assert deployment.cdir("get", f"{folder}/x", "-", "--from", "two", expect=None).exit != 0
    assert deployment.cdir("cat", f"{folder}/x").stdout == b"content"
    deployment.cdir("repair", folder)
    eventually_is([b"content"] * 3, on_disks, disks, f"{folder[1:]}/x")


def test_other_outputs(deployment: Deployment, folder: str) -> None:
    put(deployment, f"{folder}/x", b"content")
    assert f"{folder}/x" in deployment.cdir("ls", folder, "--output", "csv").text
    assert f"path: {folder}/x" in deployment.cdir("ls", folder, "--output", "yaml").text


def test_tree_with_awkward_names_comes_back_the_same(deployment: Deployment, folder: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    names = [
        "ü" * 100,
        "spaces and 'quotes\"",
        "-dash",
        "%41%2F",
        "日本語.txt",
        "a+b&c=d?#",
        "trailing.",
        "~tilde",
        "*",
    ]
    for name in names:
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text(name)
    deployment.cdir("put", tree, folder, "--recursive")
    deployment.cdir("get", folder, tmp_path / "back", "--recursive")
    assert contents(tmp_path / "back") == contents(tree)
