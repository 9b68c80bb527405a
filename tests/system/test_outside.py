"""What other programs do at the providers: taken up by a scan, and nothing is ever lost by it."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from obstore.store import S3Store

from deployments.deployment import Deployment, eventually, eventually_is
from deployments.fixtures import Three
from deployments.trees import contents, make_files

pytestmark = pytest.mark.slow_split

FAILED, NOT_FOUND = 1, 4


def put(deployment: Deployment, path: str, content: bytes) -> None:
    """Put a file that is an hour old: an edit counts as newer only by a whole step of a provider's times."""
    with tempfile.TemporaryDirectory() as folder:
        edit(Path(folder) / "file", content, age=3600)
        deployment.cdir("put", Path(folder) / "file", path, "--require", "all")


def edit(path: Path, content: bytes, *, age: float = 0.0) -> None:
    """Write a file as another program does, ``age`` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    when = time.time() - age
    os.utime(path, (when, when))


def upload(three: Three, key: str, content: bytes) -> None:
    """Store an object as another client of the bucket does. The server would not see what is laid in its folder."""
    options = three.s3.options("")
    store = S3Store(
        "files",
        endpoint=str(options["endpoint"]),
        region=str(options["region"]),
        access_key_id=str(options["access_key"]),
        secret_access_key=str(options["secret_key"]),
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    store.put(key, content)


def scan(deployment: Deployment, path: str, provider: str = "") -> dict[str, Any]:
    """Scan and wait; what was found, added up over the providers."""
    rows = deployment.json("scan", path, "--wait", *(["--provider", provider] if provider else []))
    assert all(row["done"] for row in rows), rows
    return {name: sum(row[name] for row in rows) for name in ("adopted", "changed", "put_back", "missing", "same")}


def old_contents(deployment: Deployment, path: str) -> set[bytes]:
    """What the versions that are not current hold."""
    return {
        deployment.cdir("cat", "--generation", str(version["generation"]), path).stdout
        for version in deployment.json("versions", path)
        if not version["current"]
    }


def everywhere(three: Three, folder: str, name: str) -> set[bytes]:
    """The different contents of one file over the providers."""
    return {(root / folder[1:] / name).read_bytes() for root in three.roots.values()}


def copied(deployment: Deployment, three: Three, folder: str, name: str, content: bytes) -> None:
    """Wait until a file is on every provider; read it through cdir."""
    deployment.wait_settled(folder)
    eventually(lambda: everywhere(three, folder, name) == {content})
    assert deployment.cdir("cat", f"{folder}/{name}").stdout == content


def test_a_newer_edit_becomes_current_everywhere_and_the_old_content_is_kept(
    deployment: Deployment, three: Three, folder: str
) -> None:
    put(deployment, f"{folder}/x", b"written through cdir")
    edit(three.roots["host"] / folder[1:] / "x", b"edited on the server, longer than before")
    found = scan(deployment, folder)
    assert (found["changed"], found["adopted"], found["missing"]) == (1, 0, 0)
    copied(deployment, three, folder, "x", b"edited on the server, longer than before")
    assert old_contents(deployment, f"{folder}/x") == {b"written through cdir"}
    newest = deployment.json("versions", f"{folder}/x")[0]
    assert (newest["generation"], newest["current"]) == (2, True)
    assert "host" in newest["author"]
    assert scan(deployment, folder)["changed"] == 0


def test_something_older_put_over_a_file_is_kept_and_the_newest_put_back(
    deployment: Deployment, three: Three, folder: str
) -> None:
    put(deployment, f"{folder}/x", b"the newest")
    edit(three.roots["host"] / folder[1:] / "x", b"restored from an old backup", age=86_400)
    assert scan(deployment, folder)["put_back"] == 1
    copied(deployment, three, folder, "x", b"the newest")
    assert old_contents(deployment, f"{folder}/x") == {b"restored from an old backup"}


def test_a_new_file_is_adopted_copied_and_read(deployment: Deployment, three: Three, folder: str) -> None:
    large = os.urandom(9 << 20)
    edit(three.roots["host"] / folder[1:] / "deep/er/new", b"made by another program", age=60)
    edit(three.roots["disk"] / folder[1:] / "large", large, age=60)
    assert scan(deployment, folder)["adopted"] == 2
    assert deployment.cdir("cat", f"{folder}/deep/er/new").stdout == b"made by another program"
    copied(deployment, three, folder, "deep/er/new", b"made by another program")
    copied(deployment, three, folder, "large", large)
    # its digests are known since it was copied
    assert len(deployment.json("status", f"{folder}/large")["sha256"]) == 64
    assert deployment.json("versions", f"{folder}/large")[0]["size"] == len(large)


def test_a_file_removed_behind_cdirs_back_is_repaired(deployment: Deployment, three: Three, folder: str) -> None:
    put(deployment, f"{folder}/a", b"content")
    put(deployment, f"{folder}/b/c", b"in a folder")
    (three.roots["host"] / folder[1:] / "a").unlink()
    (three.roots["disk"] / folder[1:] / "b/c").unlink()
    (three.roots["disk"] / folder[1:] / "b").rmdir()
    assert scan(deployment, folder)["missing"] == 2
    copied(deployment, three, folder, "a", b"content")
    copied(deployment, three, folder, "b/c", b"in a folder")


@pytest.mark.parametrize("meaning", ["accept", "ask"])
def test_a_file_removed_by_others_is_what_the_policy_says(
    deployment: Deployment, three: Three, folder: str, meaning: str
) -> None:
    deployment.cdir("mkdir", folder)
    deployment.cdir("policy", "set", folder, "--outside-deletion", meaning)
    shown = deployment.json("policy", "show", folder)
    assert shown["effective"]["outside_deletion"] == meaning
    put(deployment, f"{folder}/file", b"content")
    deployment.wait_settled(folder)
    (three.roots["host"] / folder[1:] / "file").unlink()
    deployment.cdir("scan", "/", "--provider", "host", "--wait", expect=None)
    if meaning == "accept":
        eventually(lambda: deployment.json("ls", folder) == [])
        deployment.cdir("restore", f"{folder}/file")
    else:
        eventually(lambda: deployment.json("status", folder)["absent"] == 1)
        assert "removed by others" in deployment.cdir("status", folder).text
        assert not (three.roots["host"] / folder[1:] / "file").exists()
        deployment.cdir("repair", f"{folder}/file")
    deployment.wait_settled(folder)
    for root in three.roots.values():
        eventually_is(b"content", (root / folder[1:] / "file").read_bytes)


def test_only_what_was_asked_for_is_scanned(deployment: Deployment, three: Three, folder: str) -> None:
    for name in ("a/x", "b/x"):
        put(deployment, f"{folder}/{name}", b"content")
        edit(three.roots["host"] / folder[1:] / name, b"edited on the server")
    assert scan(deployment, f"{folder}/a/x", "disk")["changed"] == 0
    assert scan(deployment, f"{folder}/a/x", "host")["changed"] == 1
    copied(deployment, three, folder, "a/x", b"edited on the server")
    assert len(deployment.json("versions", f"{folder}/b/x")) == 1


def test_a_copy_does_not_replace_what_another_program_put_in_its_place(
    deployment: Deployment, three: Three, folder: str
) -> None:
    root = three.roots["disk"]
    away = root.with_name(f"{root.name} unplugged")
    root.rename(away)
    try:
        deployment.cdir("put", "-", f"{folder}/x", stdin=b"written while the disk was away", expect=3)
        edit(away / folder[1:] / "x", b"written on the disk itself")
    finally:
        away.rename(root)
    deployment.wait_settled(folder)
    contents_now = {deployment.cdir("cat", f"{folder}/x").stdout, *old_contents(deployment, f"{folder}/x")}
    assert contents_now == {b"written while the disk was away", b"written on the disk itself"}


@pytest.mark.parametrize("places", [["disk"], ["bucket"], ["host"], ["disk", "bucket", "host"]], ids="+".join)
def test_a_new_file_does_not_replace_what_no_scan_has_seen(
    deployment: Deployment, three: Three, folder: str, places: list[str]
) -> None:
    every = {b"put through cdir"}
    for age, place in enumerate(places, 1):
        content = b"laid there by another program, at the " + place.encode()
        every.add(content)
        if place == "bucket":
            upload(three, f"{folder[1:]}/x", content)
        else:
            edit(three.roots[place] / folder[1:] / "x", content, age=86_400 * age)
    deployment.cdir("put", "-", f"{folder}/x", stdin=b"put through cdir", expect=None)

    def kept() -> set[bytes]:
        return {deployment.cdir("cat", f"{folder}/x").stdout, *old_contents(deployment, f"{folder}/x")}

    eventually_is(every, kept)
    deployment.wait_settled(folder)
    assert kept() == every
    assert len(everywhere(three, folder, "x")) == 1
    laid = next(
        version["generation"]
        for version in deployment.json("versions", f"{folder}/x")
        if deployment.cdir("cat", "--generation", str(version["generation"]), f"{folder}/x").stdout == content
    )
    deployment.cdir("restore", f"{folder}/x", "--generation", str(laid), expect=None)
    assert deployment.cdir("cat", f"{folder}/x").stdout == content


def test_an_existing_tree_is_added_under_another_name(
    deployment: Deployment, three: Three, folder: str, tmp_path: Path
) -> None:
    source = three.roots["host"] / f"attic{folder.replace('/', '-')}"
    for name, content in {"a.txt": b"first", "sub/b.txt": b"second", "empty": b""}.items():
        edit(source / name, content, age=3600)
    added = deployment.json("add", f"host:{source.name}", f"{folder}/tree", "--recursive")
    assert (added["added"], added["failed"]) == (3, [])
    assert deployment.cdir("cat", f"{folder}/tree/sub/b.txt").stdout == b"second"
    deployment.wait_settled(folder)
    expected = contents(three.roots["host"] / folder[1:] / "tree")
    assert set(expected) == {"a.txt", "sub/b.txt", "empty"}
    for root in three.roots.values():
        assert contents(root / folder[1:] / "tree") == expected
    eventually(lambda: not contents(source))  # renamed at the server, not copied there
    got = deployment.json("get", f"{folder}/tree", tmp_path / "got", "--recursive")
    assert (got["files"], got["failed"]) == (3, [])
    again = deployment.json("add", f"host:{folder[1:]}/tree", f"{folder}/tree", "--recursive")
    assert (again["added"], again["existed"]) == (0, 3)


def test_adding_what_is_not_there_says_so(deployment: Deployment, three: Three, folder: str) -> None:
    refused = deployment.cdir("add", "host:nothing/here", f"{folder}/x", "--recursive", expect=NOT_FOUND)
    assert "nothing lies at host:nothing/here" in refused.error
    refused = deployment.cdir("add", "host:nothing/here", f"{folder}/x", expect=NOT_FOUND)
    assert "nothing lies at host:nothing/here" in refused.error
    refused = deployment.cdir("add", "nowhere:x", f"{folder}/x", expect=NOT_FOUND)
    assert "nowhere" in refused.error
    put(deployment, f"{folder}/dir/x", b"content")
    refused = deployment.cdir("add", f"host:{folder[1:]}/dir", f"{folder}/y", expect=FAILED)
    assert "--recursive" in refused.error
    deployment.cdir("add", "host", f"{folder}/x", expect=2)
    refused = deployment.cdir("scan", folder, "--provider", "nowhere", expect=NOT_FOUND)
    assert "nowhere" in refused.error


def test_an_emptied_disk_loses_nothing_and_costs_no_transfer_when_it_is_back(
    deployment: Deployment, three: Three, folder: str, tmp_path: Path
) -> None:
    tree = make_files(tmp_path / "tree", 300, 100)
    expected = contents(tree)
    deployment.cdir("put", tree, folder, "--recursive", "--require", "all")
    deployment.wait_settled()
    root = three.roots["disk"]
    kept = root.with_name(f"{root.name} kept")
    root.rename(kept)
    # everything looks removed, and yet cdir's mark is there
    (root / ".cdir").mkdir(parents=True)
    (root / ".cdir/provider").write_bytes((kept / ".cdir/provider").read_bytes())
    deployment.cdir("scan", "/", "--provider", "disk", "--wait", expect=None)
    eventually(lambda: deployment.provider_state("disk") in {"down", "unknown"})
    [shown] = [row for row in deployment.json("status")["providers"] if row["name"] == "disk"]
    assert "accept-losses" in shown["reason"]
    for name in ("bucket", "host"):
        assert contents(three.roots[name] / folder[1:]) == expected, f"on {name}"
    assert deployment.json("get", folder, tmp_path / "back", "--recursive")["failed"] == []
    assert contents(root) == {}, "nothing may be written there until a person has looked"

    (root / ".cdir/provider").unlink()
    (root / ".cdir").rmdir()
    root.rmdir()
    kept.rename(root)
    before = {path: path.stat().st_ino for path in root.rglob("*.bin")}
    deployment.cdir("scan", "/", "--provider", "disk", "--wait", expect=None)
    eventually(lambda: deployment.provider_state("disk") == "up")
    deployment.wait_settled()
    assert {path: path.stat().st_ino for path in root.rglob("*.bin")} == before, "something was copied again"


def test_losses_that_a_person_accepts_are_copied_again(
    deployment: Deployment, three: Three, folder: str, tmp_path: Path
) -> None:
    tree = make_files(tmp_path / "tree", 300, 100)
    deployment.cdir("put", tree, folder, "--recursive", "--require", "all")
    deployment.wait_settled()
    root = three.roots["disk"] / folder[1:]
    for path in root.rglob("*.bin"):
        path.unlink()
    deployment.cdir("scan", folder, "--provider", "disk", "--wait", expect=None)
    eventually(lambda: deployment.provider_state("disk") == "unknown")
    deployment.cdir("provider", "check", "disk", "--accept-losses")
    eventually(lambda: contents(root) == contents(tree))
    eventually(lambda: deployment.provider_state("disk") == "up")
