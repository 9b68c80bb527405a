"""History on three kinds of providers: versions, restoring, the trash, and edits that conflict."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployments.deployment import BIN, Deployment, eventually, eventually_is
from deployments.fixtures import Three
from deployments.trees import contents, make_files

pytestmark = pytest.mark.slow_split

DONE, FAILED, USAGE, OWED, NOT_FOUND, CONFLICT = 0, 1, 2, 3, 4, 6
MIB = 1 << 20


def put(deployment: Deployment, path: str, content: bytes, expect: int = DONE) -> None:
    deployment.cdir("put", "-", path, "--require", "all", stdin=content, expect=expect)


def aside(three: Three) -> dict[str, list[bytes]]:
    """The older contents that each provider holds, sorted."""
    return {
        name: sorted(path.read_bytes() for path in (root / ".cdir/versions").rglob("*") if path.is_file())
        for name, root in three.roots.items()
    }


def everywhere(three: Three, path: str) -> set[bytes | None]:
    """What the providers hold under a name."""
    places = [root / path[1:] for root in three.roots.values()]
    return {place.read_bytes() if place.exists() else None for place in places}


KEPT_ONE = "/kept-one"


@pytest.fixture(scope="module", autouse=True)
def _written_early(deployment: Deployment, three: Three) -> None:
    """A file whose older contents the last test wants to be cleared away, for which there is time meanwhile."""
    deployment.cdir("mkdir", KEPT_ONE)
    deployment.cdir("policy", "set", KEPT_ONE, "--keep-versions", "1")
    for number in range(4):
        put(deployment, f"{KEPT_ONE}/file", f"kept one {number}".encode())


def test_older_contents_are_kept_read_and_restored(
    deployment: Deployment, three: Three, folder: str, tmp_path: Path
) -> None:
    path = f"{folder}/file.txt"
    for content in (b"one", b"two", b"three"):
        put(deployment, path, content)
    assert all({b"one", b"two"} <= set(kept) for kept in aside(three).values())
    assert deployment.cdir("cat", path, "--generation", "1").stdout == b"one"

    restored = deployment.json("restore", path, "--generation", "1")
    assert (restored["files"], restored["bytes"], restored["failed"], restored["owed"]) == (1, 3, [], 0)
    assert everywhere(three, path) == {b"one"}
    versions = deployment.json("versions", path)
    assert [(row["generation"], row["current"]) for row in versions] == [(4, True), (3, False), (2, False), (1, False)]
    assert deployment.json("restore", path, "--generation", "1")["files"] == 0

    deployment.cdir("rm", path)
    assert deployment.cdir("cat", path, "--generation", "2").stdout == b"two"
    deployment.cdir("get", path, tmp_path / "old", "--generation", "3")
    assert (tmp_path / "old").read_bytes() == b"three"
    deployment.cdir("restore", path)
    assert deployment.cdir("cat", path).stdout == b"one"
    eventually_is({b"one"}, everywhere, three, path)


def test_a_removed_tree_comes_back_or_is_let_go(
    deployment: Deployment, three: Three, folder: str, tmp_path: Path
) -> None:
    tree = make_files(tmp_path / "tree", 30)
    deployment.cdir("put", "--recursive", tree, folder, "--require", "all")
    deployment.cdir("rm", "--recursive", folder)
    trash = deployment.json("trash", folder)
    assert sorted(row["path"] for row in trash) == sorted(f"{folder}/{path}" for path in contents(tree))
    assert {"path", "generation", "size", "removed_at", "removed_by", "expires_at"} == set(trash[0])

    assert deployment.json("restore", "--recursive", folder, "--dry-run")["files"] == 30
    assert deployment.json("trash", folder) == trash
    # where the old object is only now being moved aside, the copy that comes back is owed for a moment
    restored = deployment.cdir("restore", "--recursive", folder, "--output", "json", expect=None)
    assert restored.exit in {DONE, OWED}
    assert restored.json["files"] == 30
    deployment.wait_settled(folder)
    for root in three.roots.values():
        eventually_is(contents(tree), contents, root / folder[1:])
    assert deployment.json("trash", folder) == []

    deployment.cdir("rm", "--recursive", folder)
    error = deployment.cdir("trash", folder, "--empty", expect=USAGE).error
    assert "--yes" in error
    assert deployment.json("trash", folder, "--empty", "--yes")["files"] == 30
    assert deployment.json("trash", folder) == []
    deployment.cdir("restore", "--recursive", folder, expect=NOT_FOUND)
    small = {path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    eventually(lambda: all(small.isdisjoint(kept) for kept in aside(three).values()))


def test_a_tree_as_it_was(deployment: Deployment, three: Three, folder: str, tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", 12)
    deployment.cdir("put", "--recursive", tree, folder, "--require", "all")
    then = datetime.now(UTC).isoformat()
    put(deployment, f"{folder}/d000/f00000.bin", b"changed")
    put(deployment, f"{folder}/new", b"new")
    deployment.cdir("rm", f"{folder}/d000/f00001.bin")
    deployment.cdir("mv", f"{folder}/d001", f"{folder}-elsewhere")

    restored = deployment.cdir("restore", "--recursive", folder, "--at", then, "--output", "json", expect=None)
    assert restored.exit in {DONE, OWED}  # as above
    assert restored.json["files"] == 4
    deployment.cdir("get", "--recursive", folder, tmp_path / "back")
    back = contents(tmp_path / "back")
    assert {path: digest for path, digest in back.items() if path != "new"} == contents(tree)
    assert "new" in back
    deployment.wait_settled(folder)
    for root in three.roots.values():
        eventually_is(back, contents, root / folder[1:])


def test_of_two_writers_of_one_file_nobody_loses(
    deployment: Deployment, three: Three, folder: str, tmp_path: Path
) -> None:
    path = f"{folder}/report.txt"
    first = subprocess.Popen(
        [str(BIN / "cdir"), "put", "-", path],
        stdin=subprocess.PIPE,
        env={**os.environ, **deployment.environment()},
    )
    assert first.stdin is not None
    first.stdin.write(b"a" * (24 * MIB))  # more than fits into buffers: so the write has begun
    (tmp_path / "mine").write_bytes(b"mine")
    second = deployment.cdir("put", tmp_path / "mine", path, "--output", "json", expect=CONFLICT)
    first.stdin.close()
    assert first.wait(120) == DONE

    (kept,) = second.json["conflicts"]
    assert kept["path"] == path
    assert "conflicting copy" in kept["kept_as"]
    assert kept["kept_as"] in second.error
    assert deployment.cdir("cat", kept["kept_as"]).stdout == b"mine"
    assert deployment.cdir("stat", path, "--output", "json").json["size"] == 24 * MIB
    assert deployment.json("status", folder)["conflicts"] == 1
    assert "1 conflicting copy" in deployment.cdir("status", folder).text
    (listed,) = deployment.json("status", folder, "--conflicts")
    assert (listed["path"], listed["conflict_of"]) == (kept["kept_as"], path)

    deployment.cdir("mv", "--overwrite", kept["kept_as"], path)
    assert deployment.json("status", folder)["conflicts"] == 0
    assert deployment.cdir("cat", path).stdout == b"mine"


def test_what_cannot_be_had_is_said_in_one_line(deployment: Deployment, three: Three, folder: str) -> None:
    put(deployment, f"{folder}/full/file", b"one")
    put(deployment, f"{folder}/file", b"one")
    file, never = f"{folder}/file", f"{folder}/never"
    cases: list[tuple[list[str], int, str]] = [
        (["restore", never], NOT_FOUND, never),
        (["restore", file], USAGE, "cdir versions"),
        (["restore", file, "--generation", "9"], NOT_FOUND, "generation 9"),
        (["restore", file, "--generation", "1", "--at", "1s"], USAGE, "--at"),
        (["restore", file, "--at", "2100-01-01"], USAGE, "future"),
        (["restore", file, "--at", "1999-01-01"], NOT_FOUND, "oldest"),
        (["restore", file, "--at", "yesterday-ish"], USAGE, "is no time"),
        (["restore", f"{folder}/full", "--generation", "1"], FAILED, "directory"),
        (["restore", folder, "--at", "0s"], FAILED, "--recursive"),
        (["cat", file, "--generation", "9"], NOT_FOUND, "9"),
        (["get", never, "/tmp/never", "--generation", "1"], NOT_FOUND, never),
        (["versions", never], NOT_FOUND, never),
    ]
    for arguments, code, said in cases:
        assert said in deployment.cdir(*arguments, expect=code).error, arguments


def test_a_file_does_not_come_back_over_a_directory(deployment: Deployment, three: Three, folder: str) -> None:
    put(deployment, f"{folder}/name", b"one")
    deployment.cdir("rm", f"{folder}/name")
    deployment.cdir("mkdir", f"{folder}/name")
    error = deployment.cdir("restore", f"{folder}/name", "--generation", "1", expect=FAILED).error
    assert "directory" in error


def test_the_policy_says_how_many_are_kept(deployment: Deployment, three: Three) -> None:
    def kept() -> dict[str, list[bytes]]:
        return {name: [one for one in found if one.startswith(b"kept one")] for name, found in aside(three).items()}

    deployment.stop()
    deployment.restart()  # what is no longer kept is looked for at the start, then once a minute
    eventually_is({name: [b"kept one 2"] for name in three.roots}, kept, within=120.0)
    assert [row["generation"] for row in deployment.json("versions", f"{KEPT_ONE}/file")] == [4, 3]
