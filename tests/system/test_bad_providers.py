"""Providers that cannot be added or used: one line that says why, the right exit code, and nothing changed."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from deployments.background import Background
from deployments.deployment import Deployment, eventually
from servers import asyncssh_sftp, moto_s3, openssh, rclone_s3
from servers.asyncssh_sftp import asyncssh_sftp_server
from servers.moto_s3 import MotoS3Server, moto_s3_server
from servers.openssh import OpenSshServer, openssh_server
from servers.rclone_s3 import RcloneS3Server, rclone_s3_server
from servers.requirement import require

pytestmark = pytest.mark.slow_split

FAILED, USAGE, OWED, NOT_FOUND, NOT_ALLOWED, CONFLICT = 1, 2, 3, 4, 5, 6


@pytest.fixture(autouse=True)
def _same_providers(deployment: Deployment) -> Iterator[None]:
    """A provider that could not be added leaves no trace; what a test adds, it removes."""
    before = deployment.json("provider", "list")
    yield
    assert [row["name"] for row in deployment.json("provider", "list")] == [row["name"] for row in before]


def remove_everything(deployment: Deployment, *providers: str) -> None:
    """Leave the deployment as the next test wants it: no files, none of these providers."""
    for row in deployment.json("ls", "/"):
        deployment.cdir("rm", row["path"], "--recursive", "--yes")
    for name in providers:
        deployment.cdir("provider", "remove", name, "--force", "--yes")


@pytest.fixture(scope="module")
def s3(deployment_kind: str, background: Background) -> RcloneS3Server:
    require(rclone_s3)
    server = background.enter(rclone_s3_server())
    (server.root / "files").mkdir()
    return server


@pytest.fixture(scope="module")
def sftp(deployment_kind: str, background: Background) -> OpenSshServer:
    require(openssh)
    return background.enter(openssh_server())


def test_put_without_any_provider(deployment: Deployment) -> None:
    assert "provider add" in deployment.cdir("put", "-", "/x", stdin=b"content", expect=FAILED).error
    assert deployment.json("ls", "/") == []


def test_name_taken(deployment: Deployment, local_disks: Path) -> None:
    deployment.add_provider("taken", "local", {"root": local_disks / "first"})
    said = deployment.add_provider("taken", "local", {"root": local_disks / "second"}, expect=CONFLICT).error
    assert "taken" in said
    assert deployment.add_provider("other", "local", {"root": local_disks / "first"}, expect=FAILED).error
    deployment.cdir("provider", "remove", "taken")


def test_unknown_kind_option_and_name(deployment: Deployment, local_disks: Path) -> None:
    said = deployment.add_provider("x", "carrier-pigeon", {}, expect=None)
    assert said.exit in (FAILED, USAGE)
    assert "carrier-pigeon" in said.error
    said = deployment.add_provider("x", "local", {"root": local_disks / "x", "colour": "red"}, expect=None)
    assert said.exit in (FAILED, USAGE)
    assert "colour" in said.error
    said = deployment.add_provider("x", "local", {}, expect=None)
    assert said.exit in (FAILED, USAGE)
    assert "root" in said.error
    assert deployment.add_provider("a/b", "local", {"root": local_disks / "x"}, expect=None).exit in (FAILED, USAGE)
    assert deployment.cdir("provider", "show", "nobody", expect=NOT_FOUND).error
    assert deployment.cdir("provider", "remove", "nobody", expect=NOT_FOUND).error
    assert not (local_disks / "x").exists()


def test_root_that_cannot_be_made(deployment: Deployment, local_disks: Path) -> None:
    (local_disks / "a file").write_text("in the way")
    assert deployment.add_provider("x", "local", {"root": local_disks / "a file" / "root"}, expect=None).error
    assert deployment.add_provider("x", "local", {"root": "relative"}, expect=None).error


def test_wrong_credentials(deployment: Deployment, s3: RcloneS3Server) -> None:
    options = {**s3.options("files"), "secret_key": "wrong-secret"}
    said = deployment.add_provider("x", "s3", options, expect=NOT_ALLOWED).error
    assert "wrong-secret" not in said


def test_secrets_are_never_shown(deployment: Deployment, s3: RcloneS3Server) -> None:
    deployment.add_provider("secretive", "s3", s3.options("files"))
    shown = [
        deployment.cdir("provider", "show", "secretive", "--output", output).text
        for output in ("table", "json", "yaml")
    ]
    shown.append(deployment.cdir("provider", "list", "--output", "json").text)
    shown.append(deployment.log_tail())
    assert not any(s3.secret_key in text for text in shown)
    for path in deployment.home.rglob("*"):
        if path.is_file():
            assert s3.secret_key.encode() not in path.read_bytes(), path
    deployment.cdir("provider", "remove", "secretive")


def test_server_that_does_not_answer(deployment: Deployment) -> None:
    options = {"bucket": "files", "endpoint": "http://127.0.0.1:9", "access_key": "key", "secret_key": "secret"}
    assert "cannot be reached" in deployment.add_provider("x", "s3", options, expect=FAILED).error


@pytest.fixture
def locked_s3(background: Background) -> Iterator[tuple[MotoS3Server, str, str]]:
    """An S3 server that checks permissions, and the keys of a user who has none."""
    require(moto_s3)
    server = background.enter(moto_s3_server())
    access = {
        "endpoint_url": server.endpoint,
        "region_name": "us-east-1",
        "aws_access_key_id": server.access_key,
        "aws_secret_access_key": server.secret_key,
    }
    boto3.client("s3", **access).create_bucket(Bucket="private")
    iam = boto3.client("iam", **access)
    iam.create_user(UserName="nobody")
    key = iam.create_access_key(UserName="nobody")["AccessKey"]
    checking = urllib.request.Request(
        f"{server.endpoint}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}, method="POST"
    )
    urllib.request.urlopen(checking, timeout=30).close()  # from now on, every call must be allowed by a policy
    yield server, key["AccessKeyId"], key["SecretAccessKey"]
    background.run(server.stop())


def test_bucket_that_one_may_not_use(deployment: Deployment, locked_s3: tuple[MotoS3Server, str, str]) -> None:
    server, access_key, secret_key = locked_s3
    options = {**server.options("private"), "access_key": access_key, "secret_key": secret_key}
    said = deployment.add_provider("x", "s3", options, expect=NOT_ALLOWED).error
    assert secret_key not in said


def test_wrong_host_key(deployment: Deployment, sftp: OpenSshServer) -> None:
    right = sftp.host_key
    wrong = right[:-8] + ("A" * 8 if not right.endswith("A" * 8) else "B" * 8)
    said = deployment.add_provider("x", "sftp", {**sftp.options(), "host_key": wrong}, expect=None)
    assert said.exit in (FAILED, NOT_ALLOWED)
    assert "key" in said.error
    assert list(sftp.root.iterdir()) == []


def test_host_key_that_changes(
    deployment: Deployment, sftp: OpenSshServer, background: Background, local_disks: Path
) -> None:
    """Writes go on to the others; the provider is shown with the reason until somebody looks."""
    deployment.add_provider("disk", "local", {"root": local_disks / "disk"})
    deployment.add_provider("host", "sftp", sftp.options())
    sftp.renew_host_key()
    background.run(sftp.restart())

    done = deployment.cdir("put", "-", "/changed", stdin=b"content", expect=OWED)
    assert "Traceback" not in done.stderr
    assert deployment.cdir("cat", "/changed").stdout == b"content"
    assert deployment.owed() == 1
    eventually(lambda: deployment.provider_state("host") == "down")
    assert "key" in deployment.cdir("provider", "show", "host").text

    deployment.cdir("provider", "set", "host", "--set", f"host_key={sftp.host_key}")
    deployment.wait_settled()
    assert (sftp.root / "changed").read_bytes() == b"content"
    remove_everything(deployment, "host", "disk")


def test_names_that_differ_only_by_case(deployment: Deployment, background: Background, local_disks: Path) -> None:
    """A provider that takes both for one name would overwrite one by the other: the second name is refused."""
    require(asyncssh_sftp)
    server = background.enter(asyncssh_sftp_server(ignore_case=True))
    deployment.add_provider("plain", "local", {"root": local_disks / "plain"})
    deployment.add_provider("folding", "sftp", server.options())
    deployment.cdir("put", "-", "/names/Readme", stdin=b"one")
    said = deployment.cdir("put", "-", "/names/README", stdin=b"two", expect=CONFLICT).error
    assert "folding" in said
    assert "case" in said
    assert [row["name"] for row in deployment.json("ls", "/names")] == ["Readme"]
    for provider in ("plain", "folding"):
        assert deployment.cdir("get", "/names/Readme", "-", "--from", provider).stdout == b"one"
    remove_everything(deployment, "plain", "folding")


def test_root_of_another_home(deployment: Deployment, local_disks: Path) -> None:
    """A root that carries another home's mark is not taken over unless asked for."""
    root = local_disks / "foreign"
    deployment.add_provider("theirs", "local", {"root": root})
    deployment.cdir("provider", "remove", "theirs", "--force", "--yes")
    mark = root / ".cdir" / "provider"
    values = json.loads(mark.read_text())
    mark.write_text(json.dumps({**values, "home_id": "another home"}))
    assert "adopt" in deployment.add_provider("mine", "local", {"root": root}, expect=FAILED).error
    deployment.add_provider("mine", "local", {"root": root}, "--adopt")
    deployment.cdir("provider", "remove", "mine", "--force", "--yes")


def test_a_place_may_be_a_template_that_is_filled_in_once(deployment: Deployment, tmp_path: Path) -> None:
    for wrong in ("{who}", "{", "{user!r}"):
        refused = deployment.add_provider("mine", "local", {"root": f"{tmp_path}/{wrong}"}, expect=USAGE)
        assert "option root" in refused.error
        assert not list(tmp_path.iterdir())
    root = f"{tmp_path}/cdir-at-{{name}}-{{{{x}}}}"
    planned = deployment.add_provider("mine", "local", {"root": root}, "--dry-run")
    assert f"root={tmp_path}/cdir-at-mine-{{x}}" in planned.stderr
    try:
        deployment.add_provider("mine", "local", {"root": root})
        assert deployment.json("provider", "show", "mine")["options"] == {"root": f"{tmp_path}/cdir-at-mine-{{x}}"}
        assert (tmp_path / "cdir-at-mine-{x}" / ".cdir").is_dir()
    finally:
        remove_everything(deployment, "mine")
