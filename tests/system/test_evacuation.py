"""Doing without a provider: evacuated under a running put, refused, taken back, replaced, drilled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.deployment import Deployment, eventually
from deployments.trees import contents, make_files

pytestmark = pytest.mark.slow_split

FAILED, USAGE, OWED, NOT_FOUND = 1, 2, 3, 4
NAMES = ("one", "two", "three", "four")


@pytest.fixture(scope="module")
def roots(deployment: Deployment, local_disks: Path) -> dict[str, Path]:
    """Where the objects of each provider lie; each test leaves all four registered and in use."""
    found = {name: local_disks / name for name in NAMES}
    for name, root in found.items():
        deployment.add_provider(name, "local", {"root": root})
    return found


@pytest.fixture(autouse=True)
def _as_before(deployment: Deployment, roots: dict[str, Path]) -> Iterator[None]:
    yield
    rows = {row["name"]: row for row in deployment.json("provider", "list")}
    for name in rows.keys() - roots.keys():
        deployment.cdir("provider", "remove", name, "--force", "--yes")
    for name in roots.keys() - rows.keys():
        deployment.add_provider(name, "local", {"root": roots[name]})
    for name, row in rows.items():
        if row["exit"]:
            deployment.cdir("provider", "evacuate", name, "--cancel")
        if row["state"] == "paused":
            deployment.cdir("provider", "resume", name)


def exit_of(deployment: Deployment, name: str) -> Any:
    return next(row["exit"] for row in deployment.json("provider", "list") if row["name"] == name)


def below(root: Path, folder: str) -> dict[str, str]:
    return contents(root / folder[1:])


def test_under_a_running_put(deployment: Deployment, roots: dict[str, Path], folder: str, tmp_path: Path) -> None:
    source = make_files(tmp_path / "source", 400)
    deployment.cdir("mkdir", folder)
    deployment.cdir("policy", "set", folder, "--copies", "2")
    putting = deployment.begin("put", "--recursive", source, folder)
    eventually(lambda: below(roots["four"], folder))
    assert putting.poll() is None, "the put was over before the evacuation began"

    done = deployment.json("provider", "evacuate", "four", "--yes", "--wait")
    said = putting.communicate(timeout=120)[1].decode()
    assert putting.returncode in (0, OWED), said
    assert done["job"]["state"] == "done"
    assert done["job"]["files_left"] == 0
    proof = done["job"]["proof"]
    assert proof["held"] == [{"copies": 2, "files": proof["files"]}]
    assert exit_of(deployment, "four") == "evacuated"

    stayed = below(roots["four"], folder)
    assert proof["files"] == len(stayed)  # they stay under their names
    deployment.cdir("put", "-", f"{folder}/later", stdin=b"later")
    deployment.wait_settled()
    assert below(roots["four"], folder) == stayed
    assert deployment.json("provider", "remove", "four")["forgotten"] == len(stayed)

    expected = {**contents(source), **below(roots["one"], folder), **below(roots["two"], folder)}
    assert len(expected) == 401
    held = [below(roots[name], folder) for name in ("one", "two", "three")]
    for path, digest in expected.items():
        assert [copies[path] for copies in held if path in copies] == [digest] * 2, path
    deployment.cdir("get", "--recursive", folder, tmp_path / "back")
    assert contents(tmp_path / "back") == expected


def test_it_goes_on_after_a_crash(deployment: Deployment, roots: dict[str, Path], folder: str) -> None:
    deployment.cdir("mkdir", folder)
    deployment.cdir("policy", "set", folder, "--copies", "1", "--providers", "one")
    deployment.cdir("put", "-", f"{folder}/f", stdin=b"content")
    deployment.cdir("policy", "set", folder, "--providers", "one,two")
    deployment.cdir("provider", "pause", "two")
    planned = deployment.json("provider", "evacuate", "one", "--dry-run", expect=FAILED)
    (hindered,) = planned["plan"]["unplaceable_files"]
    assert hindered["path"] == f"{folder}/f"
    assert "paused" in hindered["reason"]
    deployment.cdir("provider", "resume", "two")
    # a folder where the copy has to go: it cannot be made while that is there
    obstacle = roots["two"] / folder[1:]
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.write_text("in the way")
    begun = deployment.json("provider", "evacuate", "one", "--yes")
    assert begun["job"]["state"] == "running"
    eventually(lambda: deployment.json("jobs", "--running")[0]["files_left"] == 1)
    deployment.kill()
    obstacle.unlink()
    deployment.restart()
    deployment.cdir("repair", folder)
    eventually(lambda: exit_of(deployment, "one") == "evacuated")
    (ended,) = [job for job in deployment.json("jobs") if job["id"] == begun["job"]["id"]]
    assert (ended["state"], ended["files_left"]) == ("done", 0)
    assert (roots["two"] / folder[1:] / "f").read_bytes() == b"content"
    deployment.cdir("policy", "unset", folder)


def test_purging(deployment: Deployment, roots: dict[str, Path], folder: str) -> None:
    deployment.cdir("put", "-", f"{folder}/f", stdin=b"older")
    deployment.cdir("put", "-", f"{folder}/f", stdin=b"content")
    deployment.wait_settled()
    done = deployment.cdir("provider", "evacuate", "three", "--purge", "--yes", "--wait")
    assert "evacuated" in done.text
    assert [path for path in roots["three"].rglob("*") if path.is_file()] == [roots["three"] / ".cdir" / "provider"]
    assert deployment.cdir("cat", f"{folder}/f").stdout == b"content"
    deployment.cdir("provider", "remove", "three")


def test_what_may_be_nowhere_else(deployment: Deployment, roots: dict[str, Path], folder: str, tmp_path: Path) -> None:
    source = make_files(tmp_path / "source", 25, size=10)
    deployment.cdir("mkdir", folder)
    deployment.cdir("policy", "set", folder, "--providers", "two")
    deployment.cdir("put", "--recursive", source, folder)
    said = deployment.cdir("provider", "evacuate", "two", "--yes", "--quiet", expect=FAILED).error
    assert "25 files" in said
    assert "policy" in said
    plan = deployment.json("provider", "evacuate", "two", "--dry-run", expect=FAILED)["plan"]
    assert (plan["unplaceable"], len(plan["unplaceable_files"])) == (25, 20)
    assert "and 5 more files" in deployment.cdir("provider", "evacuate", "two", "--dry-run", expect=FAILED).text
    assert exit_of(deployment, "two") is None
    deployment.cdir("rm", "--recursive", "--yes", folder)


def test_bad_names(deployment: Deployment, roots: dict[str, Path]) -> None:
    for arguments, code in (
        (("evacuate", "nobody"), NOT_FOUND),
        (("evacuate", "one", "--to", "one"), USAGE),
        (("evacuate", "one", "--cancel"), FAILED),
        (("evacuate", "one", "--cancel", "--wait"), USAGE),
        (("replace", "one", "nobody"), NOT_FOUND),
        (("drill", "--without", "nobody"), NOT_FOUND),
    ):
        assert "Traceback" not in deployment.cdir("provider", *arguments, expect=code).stderr
    deployment.cdir("provider", "pause", "three")
    assert "paused" in deployment.cdir("provider", "evacuate", "one", "--to", "three", expect=FAILED).error
    assert "resume" in deployment.cdir("provider", "drill", "--without", "three", expect=FAILED).error
    assert not deployment.json("jobs", "--running")


def test_taking_it_back(deployment: Deployment, roots: dict[str, Path], folder: str) -> None:
    deployment.cdir("put", "-", f"{folder}/before", stdin=b"before")
    deployment.wait_settled()
    deployment.cdir("provider", "evacuate", "one", "--yes", "--wait")
    deployment.cdir("put", "-", f"{folder}/meanwhile", stdin=b"meanwhile")
    written = (roots["one"] / folder[1:] / "before").stat()
    deployment.cdir("provider", "evacuate", "one", "--cancel")
    deployment.wait_settled()
    assert (roots["one"] / folder[1:] / "meanwhile").read_bytes() == b"meanwhile"
    assert (roots["one"] / folder[1:] / "before").stat() == written  # nothing was moved for it
    deployment.cdir("put", "-", f"{folder}/after", stdin=b"after")
    assert (roots["one"] / folder[1:] / "after").read_bytes() == b"after"


def test_one_in_anothers_place(
    deployment: Deployment, roots: dict[str, Path], local_disks: Path, folder: str, tmp_path: Path
) -> None:
    source = make_files(tmp_path / "source", 30)
    deployment.cdir("mkdir", folder)
    deployment.cdir("policy", "set", folder, "--providers", "one,two")
    deployment.cdir("put", "--recursive", source, folder)
    deployment.add_provider("new", "local", {"root": local_disks / "new"})
    assert deployment.json("provider", "replace", "one", "new", "--dry-run")["plan"]["policies"] == 1
    done = deployment.json("provider", "replace", "one", "new", "--yes", "--wait")
    assert done["job"]["state"] == "done"
    assert deployment.json("policy", "show", folder)["effective"]["providers"] == ["new", "two"]
    assert below(local_disks / "new", folder) == contents(source)
    deployment.cdir("provider", "remove", "one")
    deployment.cdir("rm", "--recursive", "--yes", folder)
    deployment.cdir("policy", "unset", folder)


def test_a_drill(deployment: Deployment, roots: dict[str, Path], folder: str) -> None:
    deployment.cdir("put", "-", f"{folder}/everywhere", stdin=b"content")
    deployment.wait_settled()
    assert "stays readable" in deployment.cdir("provider", "drill", "--without", "one").stderr
    deployment.cdir("mkdir", f"{folder}/pinned")
    deployment.cdir("policy", "set", f"{folder}/pinned", "--providers", "one")
    deployment.cdir("put", "-", f"{folder}/pinned/f", stdin=b"content")
    rows = deployment.json("provider", "drill", "--without", "one", expect=FAILED)
    assert [(row["path"], row["verdict"]) for row in rows] == [(f"{folder}/pinned/f", "lost")]
    assert deployment.json("provider", "drill", "--without", "two") == []
    assert "PreconditionFailed" not in deployment.cdir("provider", "remove", "one", expect=FAILED).error
    deployment.cdir("rm", "--recursive", "--yes", f"{folder}/pinned")
