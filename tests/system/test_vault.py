"""The vault through the command line: keys are changed, killed over, locked and lost, and secrets stay readable."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from cdir_runtime.credentials import DataKey
from cdir_runtime.vault_file import VaultFile
from deployments.background import Background
from deployments.deployment import Deployment, eventually
from servers import rclone_s3, secret_service
from servers.rclone_s3 import RcloneS3Server, rclone_s3_server
from servers.requirement import require
from servers.secret_service import secret_service as start_secret_service

pytestmark = pytest.mark.slow_split

FAILED, USAGE, NOT_ALLOWED = 1, 2, 5
PASSPHRASE = "correct horse battery"


@pytest.fixture(scope="module")
def cloud(deployment: Deployment, background: Background) -> RcloneS3Server:
    """A provider ``cloud`` with a secret, and a file ``/kept`` on it alone."""
    require(rclone_s3)
    server = background.enter(rclone_s3_server())
    (server.root / "files").mkdir()
    deployment.add_provider("cloud", "s3", server.options("files"))
    deployment.cdir("put", "-", "/kept", stdin=b"content")
    return server


def _restart(deployment: Deployment) -> None:
    deployment.kill()
    deployment.restart()


def _readable(deployment: Deployment) -> bool:
    return deployment.cdir("cat", "/kept", expect=None).stdout == b"content"


def _current(deployment: Deployment) -> str:
    key = deployment.json("vault", "status")["keys"][0]
    assert key["providers"] == ["cloud"]
    assert key["held"]
    return str(key["id"])


def test_a_rotation_seals_everything_under_a_new_key(deployment: Deployment, cloud: RcloneS3Server) -> None:
    before = _current(deployment)
    done = deployment.json("vault", "rotate")
    assert (done["resealed"], done["lost"]) == (1, [])
    assert _current(deployment) == done["key"] != before
    assert [key["id"] for key in deployment.json("vault", "status")["keys"]] == [done["key"], before]
    _restart(deployment)
    eventually(lambda: _readable(deployment))


def test_killed_at_any_moment_of_a_rotation_everything_is_readable(
    deployment: Deployment, cloud: RcloneS3Server
) -> None:
    for pause in (0.35, 0.45):
        rotating = deployment.begin("vault", "rotate", "--no-start")
        time.sleep(pause)  # any moment will do
        deployment.kill()
        rotating.communicate(timeout=60)
        deployment.restart()
        eventually(lambda: _readable(deployment))
    deployment.cdir("vault", "rotate")
    _current(deployment)


def test_behind_a_passphrase(deployment: Deployment, cloud: RcloneS3Server, tmp_path: Path) -> None:
    said = tmp_path / "passphrase"
    said.write_text(PASSPHRASE + "\n")
    protect = ("vault", "protect", "--with", "passphrase", "--passphrase")
    for source in ("env:NO_SUCH_VARIABLE", f"@{tmp_path / 'missing'}", PASSPHRASE):
        refused = deployment.cdir(*protect, source, expect=USAGE)
        assert PASSPHRASE not in refused.error
    assert "8 characters" in deployment.cdir(*protect, "-", stdin=b"short\n", expect=USAGE).error
    before = _current(deployment)
    deployment.cdir(*protect, f"@{said}")
    assert not (deployment.home / "key").exists()
    assert _current(deployment) == before
    deployment.cdir("vault", "rotate")
    assert _readable(deployment)

    _restart(deployment)
    assert [row["path"] for row in deployment.json("ls", "/")] == ["/kept"]
    assert "vault unlock" in deployment.json("vault", "status")["locked"]
    assert "cdir vault unlock" in deployment.cdir("vault", "rotate", expect=NOT_ALLOWED).error
    assert "wrong" in deployment.cdir("vault", "unlock", "--passphrase", "-", stdin=b"x\n", expect=NOT_ALLOWED).error
    assert "terminal" in deployment.cdir("vault", "unlock", expect=USAGE).error
    deployment.cdir("vault", "unlock", "--passphrase", f"@{said}")
    eventually(lambda: _readable(deployment))
    deployment.cdir("provider", "check", "cloud")

    deployment.cdir("vault", "protect", "--with", "file")
    _restart(deployment)
    assert deployment.json("vault", "status")["locked"] is None
    eventually(lambda: _readable(deployment))


def test_without_a_keyring_the_key_stays_where_it_is(deployment: Deployment, cloud: RcloneS3Server) -> None:
    before = (deployment.home / "key").read_bytes()
    assert "keyring" in deployment.cdir("vault", "protect", "--with", "keyring", expect=FAILED).error
    assert (deployment.home / "key").read_bytes() == before


@pytest.mark.slow
def test_in_the_keyring_of_the_system(
    deployment: Deployment, cloud: RcloneS3Server, background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(secret_service)
    service = background.enter(start_secret_service())
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    _restart(deployment)
    before = _current(deployment)
    deployment.cdir("vault", "protect", "--with", "keyring")
    assert not (deployment.home / "key").exists()
    deployment.cdir("vault", "rotate")
    assert _current(deployment) != before
    _restart(deployment)
    assert deployment.json("vault", "status")["locked"] is None
    eventually(lambda: _readable(deployment))

    # nobody is logged in
    background.run(service.stop())
    _restart(deployment)
    assert [row["path"] for row in deployment.json("ls", "/")] == ["/kept"]
    assert "cdir vault unlock" in deployment.json("vault", "status")["locked"]
    assert "keyring" in deployment.cdir("vault", "rotate", expect=NOT_ALLOWED).error
    background.run(service.start())
    deployment.cdir("vault", "unlock")
    eventually(lambda: _readable(deployment))

    deployment.cdir("vault", "protect", "--with", "file")
    background.run(service.stop())
    monkeypatch.undo()
    _restart(deployment)
    eventually(lambda: _readable(deployment))


def test_keys_that_seal_nothing_are_forgotten_once_nobody_can_be_sealing_under_them(
    deployment: Deployment, cloud: RcloneS3Server
) -> None:
    deployment.cdir("vault", "rotate")
    current = _current(deployment)
    old = [key["id"] for key in deployment.json("vault", "status")["keys"]][1:]
    assert old[0] in deployment.json("vault", "forget", "--yes")["recent"]

    # two hours later
    file = VaultFile(deployment.home / "key")
    opened = file.open()
    earlier = [DataKey(key.key, key.made and key.made - timedelta(hours=2)) for key in opened.keys]
    file._write(replace(opened, keys=tuple(earlier)))
    assert set(deployment.json("vault", "forget", "--dry-run")["forgotten"]) == set(old)
    assert set(deployment.json("vault", "forget", "--yes")["forgotten"]) == set(old)
    assert [key["id"] for key in deployment.json("vault", "status")["keys"]] == [current]
    assert deployment.json("vault", "forget", "--yes") == {"forgotten": [], "recent": []}
    _restart(deployment)
    eventually(lambda: _readable(deployment))
    deployment.cdir("provider", "check", "cloud")


def test_a_lost_key_is_told_and_the_secrets_are_set_anew(deployment: Deployment, cloud: RcloneS3Server) -> None:
    deployment.kill()
    (deployment.home / "key").unlink()
    deployment.restart()
    assert "put it back" in deployment.json("vault", "status")["locked"]
    deployment.kill()
    (deployment.home / "vault.json").unlink()
    deployment.restart()
    keys = deployment.json("vault", "status")["keys"]
    assert [(key["held"], key["providers"]) for key in keys] == [(True, []), (False, ["cloud"])]
    checked = deployment.cdir("provider", "check", "cloud", expect=FAILED)
    assert "cdir provider set" in checked.text
    assert "provider set cloud" in deployment.cdir("vault", "rotate", expect=FAILED).stderr
    deployment.cdir("provider", "set", "cloud", "--secret", "secret_key=env:KEY", environment={"KEY": cloud.secret_key})
    assert _current(deployment)
    eventually(lambda: _readable(deployment))
