"""Access control lists on all copies, each looked at behind cdir's back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiobotocore.session
import pytest

from deployments.background import Background
from deployments.deployment import Deployment, eventually, eventually_is
from servers import ceph, moto_s3, openssh, rclone_s3
from servers.ceph import CephServer, ceph_server
from servers.moto_s3 import MotoS3Server, moto_s3_server
from servers.openssh import OpenSshServer, openssh_server
from servers.rclone_s3 import rclone_s3_server
from servers.requirement import require

pytestmark = pytest.mark.slow_split

BUCKET = "files"
EVERYONE = "http://acs.amazonaws.com/groups/global/AllUsers"


@dataclass(frozen=True)
class Four:
    """Registered providers: ``disk`` and ``host`` have modes, ``bucket`` has lists, ``plain`` has neither."""

    disk: Path
    sftp: OpenSshServer
    everyone_reads: Callable[[str], bool]
    """Whether the object in the bucket says that everyone may read it."""
    open_to_everyone: Callable[[str], None]
    """Has the object in the bucket read by everyone, without cdir."""

    def modes(self, key: str) -> tuple[str, str]:
        return tuple(f"{(root / key).stat().st_mode & 0o777:o}" for root in (self.disk, self.sftp.root))  # type: ignore[return-value] # two roots, two modes


@asynccontextmanager
async def _looking_at(server: MotoS3Server | CephServer) -> AsyncIterator[Any]:
    """A client that goes around cdir. One for all looks: making it costs more than all of them."""
    async with aiobotocore.session.AioSession().create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    ) as client:
        yield client


async def _grantees(client: Any, key: str) -> list[str]:
    answer = await client.get_object_acl(Bucket=BUCKET, Key=key)
    return [grant["Grantee"].get("URI", "") for grant in answer["Grants"]]


@pytest.fixture(scope="module", params=["moto", pytest.param("ceph", marks=pytest.mark.slow)])
def bucket_server(request: pytest.FixtureRequest) -> str:
    """Which server has lists."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture(scope="module", params=["embedded", "split"])
def deployment_kind(request: pytest.FixtureRequest, bucket_server: str) -> str:
    """A new deployment for each of those servers."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture(scope="module")
def four(bucket_server: str, deployment: Deployment, local_disks: Path, background: Background) -> Four:
    require(openssh, rclone_s3)
    listed: MotoS3Server | CephServer
    if bucket_server == "moto":
        require(moto_s3)
        listed = background.enter(moto_s3_server())
    else:
        require(ceph)
        listed = background.enter(ceph_server())
    sftp = background.enter(openssh_server())
    plain = background.enter(rclone_s3_server())
    (plain.root / BUCKET).mkdir()
    deployment.add_provider("disk", "local", {"root": local_disks / "disk"})
    deployment.add_provider("host", "sftp", sftp.options())
    deployment.add_provider("bucket", "s3", listed.options(BUCKET))
    deployment.add_provider("plain", "s3", plain.options(BUCKET))
    client = background.enter(_looking_at(listed))
    return Four(
        local_disks / "disk",
        sftp,
        lambda key: EVERYONE in background.run(_grantees(client, key)),
        lambda key: background.run(client.put_object_acl(Bucket=BUCKET, Key=key, ACL="public-read")),
    )


def _states(answer: dict[str, object]) -> dict[str, str]:
    rows = answer["providers"]
    assert isinstance(rows, list)
    return {row["provider"]: row["state"] for row in rows}


EVERYWHERE = {"disk": "applied", "host": "applied", "bucket": "applied", "plain": "unsupported"}


def test_an_acl_is_in_force_on_all_copies_of_a_file_and_of_what_replaces_it(
    deployment: Deployment, four: Four, tmp_path: Path, folder: str
) -> None:
    source, path, key = tmp_path / "source", f"{folder}/file", f"{folder[1:]}/file"
    source.write_bytes(b"first")
    deployment.cdir("put", source, path, "--require", "all")
    assert not four.everyone_reads(key)

    answer = deployment.json("acl", "set", path, "public-read")
    assert _states(answer) == EVERYWHERE
    assert (four.modes(key), four.everyone_reads(key)) == (("644", "644"), True)
    note = next(row["note"] for row in answer["providers"] if row["provider"] == "plain")
    assert "plain (s3) has no access control lists" in note

    source.write_bytes(b"second")
    deployment.cdir("put", source, path, "--require", "all")
    assert (four.modes(key), four.everyone_reads(key)) == (("644", "644"), True)
    aside = four.disk / ".cdir/versions"
    eventually_is({0o600}, lambda: {one.stat().st_mode & 0o777 for one in aside.rglob("*") if one.is_file()})

    shown = deployment.json("acl", "set", path, "private")
    assert _states(shown) == EVERYWHERE
    assert (four.modes(key), four.everyone_reads(key)) == (("600", "600"), False)
    in_force = {row["provider"]: row["in_force"] for row in deployment.json("acl", "show", path)["providers"]}
    private = {"access": "private", "grants": []}
    assert in_force == {"disk": private, "host": private, "bucket": private, "plain": None}

    deployment.cdir("mv", path, f"{path}-moved")
    deployment.wait_settled()
    assert four.modes(f"{key}-moved") == ("600", "600")
    deployment.cdir("acl", "set", f"{path}-moved", "public-read")
    deployment.cdir("mv", f"{path}-moved", path)
    deployment.wait_settled()
    assert (four.modes(key), four.everyone_reads(key)) == (("644", "644"), True)
    assert deployment.json("check")["findings"] == []


def test_what_a_provider_that_is_down_owes_is_set_when_it_is_back(
    deployment: Deployment, four: Four, background: Background, tmp_path: Path, folder: str
) -> None:
    source, path, key = tmp_path / "source", f"{folder}/file", f"{folder[1:]}/file"
    source.write_bytes(b"content")
    deployment.cdir("put", source, path, "--require", "all")
    deployment.cdir("acl", "set", path, "public-read")
    background.run(four.sftp.kill())
    eventually(lambda: deployment.provider_state("host") == "down")
    try:
        answer = deployment.json("acl", "set", path, "private", expect=3)
        assert _states(answer) == {**EVERYWHERE, "host": "owed"}
        assert answer["owed"] == 1
        assert four.modes(key) == ("600", "644")
        assert not four.everyone_reads(key)
    finally:
        background.run(four.sftp.restart())
    deployment.wait_settled()
    assert four.modes(key) == ("600", "600")
    assert _states(deployment.json("acl", "show", path)) == EVERYWHERE


def _found(deployment: Deployment, path: str, exit_code: int) -> tuple[object, ...]:
    """Scrub; return how many copies were right, too wide, or otherwise wrong."""
    told = deployment.json("scrub", path, "--wait", expect=exit_code)
    return told["access_right"], told["access_wider"], told["access_other"]


def test_access_that_others_change_is_seen_and_put_right(
    deployment: Deployment, four: Four, tmp_path: Path, folder: str
) -> None:
    source, path, key = tmp_path / "source", f"{folder}/file", f"{folder[1:]}/file"
    source.write_bytes(b"content")
    deployment.cdir("put", source, path, "--require", "all")
    deployment.cdir("acl", "set", path, "private")
    assert _found(deployment, path, 0) == (3, 0, 0)
    (four.disk / key).chmod(0o666)
    (four.sftp.root / key).chmod(0o640)
    four.open_to_everyone(key)
    shown = {row["provider"]: row["note"] for row in deployment.json("acl", "show", path)["providers"]}
    assert all("scrub" in shown[name] for name in ("disk", "host", "bucket"))
    told = deployment.json("scrub", path, "--wait", expect=3)
    assert (told["access_right"], told["access_wider"], told["access_other"]) == (0, 3, 0)
    assert told["access_untold"] == ["plain"]
    deployment.wait_settled()
    assert (four.modes(key), four.everyone_reads(key)) == (("600", "600"), False)
    assert _states(deployment.json("acl", "show", path)) == EVERYWHERE
    deployment.cdir("acl", "set", path, "public-read")
    (four.disk / key).chmod(0o600)
    assert _found(deployment, path, 3) == (2, 0, 1)
    deployment.wait_settled()
    assert (four.modes(key), four.everyone_reads(key)) == (("644", "644"), True)
    assert _found(deployment, path, 0) == (3, 0, 0)


def test_the_access_of_a_provider_that_fails_counts_as_right_nowhere(
    deployment: Deployment, four: Four, background: Background, tmp_path: Path, folder: str
) -> None:
    source, path, key = tmp_path / "source", f"{folder}/file", f"{folder[1:]}/file"
    source.write_bytes(b"content")
    deployment.cdir("put", source, path, "--require", "all")
    deployment.cdir("acl", "set", path, "private")
    background.run(four.sftp.kill())
    try:
        (four.sftp.root / key).chmod(0o644)
        told = deployment.json("scrub", path, "--wait", expect=1)
        assert (told["access_right"], told["access_wider"], told["unreachable"]) == (2, 0, ["host"])
    finally:
        background.run(four.sftp.restart())
    eventually(lambda: deployment.provider_state("host") == "up")
    assert _found(deployment, path, 3) == (2, 1, 0)
    deployment.wait_settled()
    assert four.modes(key) == ("600", "600")


def test_a_directory_says_what_new_files_get_and_recursive_sets_it_on_all(
    deployment: Deployment, four: Four, tmp_path: Path, folder: str
) -> None:
    source, key = tmp_path / "source", folder[1:]
    source.write_bytes(b"content")
    deployment.cdir("put", source, f"{folder}/inner/old", "--require", "all")
    deployment.cdir("acl", "set", folder, "private")
    before = four.modes(f"{key}/inner/old")
    deployment.cdir("put", source, f"{folder}/inner/new", "--require", "all")
    assert (four.modes(f"{key}/inner/new"), four.modes(f"{key}/inner/old")) == (("600", "600"), before)
    answer = deployment.json("acl", "set", folder, "authenticated-read", "--recursive")
    assert {(row["provider"], row["state"], row["files"]) for row in answer["providers"]} == {
        (provider, state, 2) for provider, state in EVERYWHERE.items()
    }
    for name in ("old", "new"):
        assert four.modes(f"{key}/inner/{name}") == ("640", "640")


def test_unset_falls_back_to_what_is_said_above_and_else_to_private(
    deployment: Deployment, four: Four, tmp_path: Path, folder: str
) -> None:
    source, path, key = tmp_path / "source", f"{folder}/inner/file", f"{folder[1:]}/inner/file"
    source.write_bytes(b"content")
    deployment.cdir("put", source, path, "--require", "all")
    made = four.modes(key)
    assert deployment.json("acl", "unset", path)["acl"] is None  # what never had one stays as it is
    assert four.modes(key) == made
    deployment.cdir("acl", "set", folder, "authenticated-read")
    deployment.cdir("acl", "set", path, "public-read")
    assert _states(deployment.json("acl", "unset", path)) == EVERYWHERE
    assert (four.modes(key), four.everyone_reads(key)) == (("640", "640"), False)
    deployment.cdir("acl", "set", folder, "public-read", "--recursive")
    assert (four.modes(key), four.everyone_reads(key)) == (("644", "644"), True)
    answer = deployment.json("acl", "unset", folder, "--recursive")
    assert (answer["acl"], answer["default"], _states(answer)) == (None, None, EVERYWHERE)
    assert (four.modes(key), four.everyone_reads(key)) == (("600", "600"), False)
    deployment.cdir("put", source, f"{folder}/inner/new", "--require", "all")
    assert deployment.json("acl", "show", f"{folder}/inner/new")["acl"] is None
    assert deployment.cdir("acl", "unset", f"{folder}/nothing", expect=4).error


@pytest.mark.slow
def test_many_small_files_below_a_directory_get_its_list_with_the_write(
    deployment: Deployment, four: Four, tmp_path: Path, folder: str
) -> None:
    source, names = tmp_path / "many", [f"{number % 4}/{number}" for number in range(40)]
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(f"content of {name}".encode())
    deployment.cdir("mkdir", folder)
    deployment.cdir("acl", "set", folder, "public-read")
    deployment.cdir("put", "--recursive", source, folder, "--require", "all")
    assert {four.modes(f"{folder[1:]}/{name}") for name in names} == {("644", "644")}
    assert all(four.everyone_reads(f"{folder[1:]}/{name}") for name in names)
    answer = deployment.json("acl", "show", folder)
    assert {(row["provider"], row["state"], row["files"]) for row in answer["providers"]} == {
        (provider, state, len(names)) for provider, state in EVERYWHERE.items()
    }
    assert answer["owed"] == 0


def test_bad_input(deployment: Deployment, four: Four, tmp_path: Path, folder: str) -> None:
    source, path = tmp_path / "source", f"{folder}/file"
    source.write_bytes(b"content")
    deployment.cdir("put", source, path, "--require", "all")
    for arguments, exit_code, said in (
        ((path, "pubic-read"), 2, "is not one of"),
        ((path, "private", "--grant", ":read"), 2, "user:ID"),
        ((path, "private", "--grant", "user:ada"), 2, ":read, :write or :full"),
        ((path, "private", "--grant", "ada:read"), 2, "user:ID"),
        ((f"{folder}/nothing", "private"), 4, "nothing"),
        (("disk:nothing", "private"), 4, "nothing"),
    ):
        assert said in deployment.cdir("acl", "set", *arguments, expect=exit_code).error
    assert deployment.cdir("acl", "show", f"{folder}/nothing", expect=4).error
    assert deployment.json("acl", "show", path)["acl"] is None
