"""``check`` finds what is not as recorded, ``scrub`` proves copies and has what is wrong put right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deployments.deployment import Deployment, eventually, eventually_is
from deployments.fixtures import Three
from deployments.trees import make_files

DONE, FAILED, OWED, NOT_FOUND, USAGE = 0, 1, 3, 4, 2


def _flip(path: Path) -> None:
    """Change a byte; size and time stay, as when a disk rots."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _kinds(deployment: Deployment, *arguments: str) -> set[tuple[str, str]]:
    """Return (kind, provider) of what a check finds."""
    found = deployment.json("check", *arguments, expect=None)
    assert found["clean"] == (not found["findings"])
    return {(finding["kind"], finding["provider"]) for finding in found["findings"]}


def test_a_clean_home(deployment: Deployment, three: Three, folder: str, tmp_path: Path) -> None:
    deployment.cdir("put", make_files(tmp_path / "tree", 20), folder, "--recursive")
    for content in (b"content", b"newer content"):
        deployment.cdir("put", "-", f"{folder}/x", stdin=content)
    deployment.cdir("put", "-", f"{folder}/y", stdin=b"content")
    deployment.cdir("rm", f"{folder}/y")

    def all_there() -> bool:
        found = deployment.json("check", "--deep")
        return all((one["copies"], one["owed"], one["changing"]) == (23, 0, 0) for one in found["providers"])

    eventually(all_there)
    before = deployment.json("status")
    assert before["line"].startswith("21 files, all on 3 providers, every copy proven within the last ")
    assert "has begun" in deployment.cdir("scrub").text
    eventually(lambda: deployment.json("status")["proven_at"] > before["proven_at"])


@pytest.mark.slow_split
def test_bad_input(deployment: Deployment, three: Three) -> None:
    assert deployment.cdir("check", "/nothing", expect=NOT_FOUND).error
    assert deployment.cdir("scrub", "--provider", "nobody", expect=NOT_FOUND).error
    assert deployment.cdir("scrub", "--sample", "0", expect=USAGE).error


@pytest.mark.slow_split
def test_what_is_deleted_and_added_behind_its_back_is_reported(
    deployment: Deployment, three: Three, folder: str
) -> None:
    deployment.cdir("put", "-", f"{folder}/x", stdin=b"content")
    places = {name: three.roots[name] / folder[1:] for name in ("disk", "host")}
    places["disk"].joinpath("x").unlink()
    places["host"].joinpath("half.partial").write_bytes(b"?")
    places["host"].joinpath(".hidden\n\u00e9").symlink_to("x")  # no scan takes it for a file
    told = deployment.cdir("check", folder, expect=FAILED).text
    assert f"missing: disk:{folder[1:]}/x ({folder}/x, generation 1)" in told
    assert _kinds(deployment, folder) == {("missing", "disk"), ("unexplained", "host")}
    places["host"].joinpath(".hidden\n\u00e9").unlink()
    assert deployment.json("scrub", folder, "--wait", expect=OWED)["missing"] == 1
    eventually_is(b"content", places["disk"].joinpath("x").read_bytes)
    eventually(lambda: deployment.cdir("check", folder, expect=None).exit == DONE)


def test_a_byte_that_rots_is_found_and_put_right(deployment: Deployment, three: Three, folder: str) -> None:
    deployment.cdir("put", "-", f"{folder}/x", stdin=b"content" * 1000)
    before = {one["provider"]: one["proven_at"] for one in deployment.json("status", f"{folder}/x")["replicas"]}
    for name in ("disk", "host"):
        _flip(three.roots[name] / folder[1:] / "x")
    assert _kinds(deployment, folder) == set()
    assert _kinds(deployment, folder, "--deep") == {("corrupt", "disk"), ("corrupt", "host")}
    found = deployment.json("scrub", folder, "--wait", expect=OWED)
    assert (found["proven"], found["corrupt"], found["missing"]) == (1, 2, 0)
    for name in ("disk", "host"):
        eventually_is(b"content" * 1000, (three.roots[name] / folder[1:] / "x").read_bytes)
    deployment.wait_settled(folder)
    assert deployment.cdir("check", folder, "--deep").exit == DONE
    assert deployment.json("scrub", folder, "--wait")["proven"] == 3
    after = {one["provider"]: one["proven_at"] for one in deployment.json("status", f"{folder}/x")["replicas"]}
    assert all(after[name] > before[name] for name in before)


@pytest.mark.slow_split
def test_a_host_with_a_shell_proves_without_reading(deployment: Deployment, three: Three, folder: str) -> None:
    content = bytes(range(256)) * 1000
    name = "it's $(one) \\ name"
    deployment.cdir("put", "-", f"{folder}/{name}", stdin=content)
    deployment.wait_settled(folder)
    found = deployment.json("scrub", folder, "--provider", "host", "--wait")
    assert (found["proven"], found["by_checksum"], found["bytes"]) == (1, 1, 0)
    _flip(three.roots["host"] / folder[1:] / name)
    found = deployment.json("scrub", folder, "--provider", "host", "--wait", expect=OWED)
    assert (found["proven"], found["corrupt"], found["bytes"]) == (0, 1, 0)
    eventually_is(content, (three.roots["host"] / folder[1:] / name).read_bytes)


@pytest.mark.slow_split
def test_an_object_replaced_at_a_bucket_is_found_without_reading(
    deployment: Deployment, three: Three, folder: str
) -> None:
    deployment.cdir("put", "-", f"{folder}/x", stdin=b"content")
    copy = three.roots["bucket"] / folder[1:] / "x"

    def found_by_both() -> bool:
        copy.write_bytes(b"CONTENT")
        os.utime(copy, (1_500_000_000, 1_500_000_000))  # older than what cdir wrote: the newer one is put back
        kinds = _kinds(deployment, folder)
        found = deployment.json("scrub", folder, "--provider", "bucket", "--wait", expect=None)
        eventually_is(b"content", copy.read_bytes)
        return kinds == {("changed", "bucket")} and (found["proven"], found["changed"], found["bytes"]) == (0, 1, 0)

    eventually(found_by_both)  # unless a scan is faster
    deployment.wait_settled(folder)
    found = deployment.json("scrub", folder, "--provider", "bucket", "--wait")
    assert (found["by_checksum"], found["bytes"]) == (1, 0)
    assert deployment.cdir("cat", f"{folder}/x").stdout == b"content"


@pytest.mark.slow_split
def test_a_provider_that_is_away_is_not_passed_over(deployment: Deployment, three: Three, folder: str) -> None:
    deployment.cdir("put", "-", f"{folder}/x", stdin=b"content")
    root = three.roots["disk"]
    away = root.with_name("unplugged")
    root.rename(away)
    try:
        assert _kinds(deployment, folder) == {("unchecked", "disk")}
        assert deployment.json("scrub", folder, "--wait", expect=FAILED)["unreachable"] == ["disk"]
    finally:
        away.rename(root)
    eventually(lambda: deployment.cdir("check", folder, expect=None).exit == DONE)
