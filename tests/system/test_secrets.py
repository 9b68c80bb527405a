"""Secrets stay secret: whatever cdir writes, says or starts is searched for them, in every form they could take."""

from __future__ import annotations

import base64
import secrets
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

import asyncpg
import grpc
import psutil
import pytest

from cdir.v1 import provider_service_pb2 as pb
from cdir.v1.provider_service_pb2_grpc import ProviderServiceStub
from cdir.v1.vault_service_pb2 import GetVaultRequest
from cdir.v1.vault_service_pb2_grpc import VaultServiceStub
from deployments.background import Background
from deployments.deployment import Deployment, Result, SplitDeployment
from servers import rclone_s3
from servers.asyncssh_sftp import AsyncSshSftpServer, asyncssh_sftp_server
from servers.pyftpd import PyFtpServer, pyftpd_server
from servers.rclone_s3 import RcloneS3Server, rclone_s3_server
from servers.requirement import require
from servers.wsgidav_server import WsgiDavServer, wsgidav_server

pytestmark = pytest.mark.slow_split

WRONG: dict[str, dict[str, object]] = {
    "s3": {"bucket": "files", "endpoint": "http://127.0.0.1:9", "access_key": "known"},
    "azure": {"container": "c", "account": "a", "endpoint": "http://127.0.0.1:9/a"},
    "swift": {"container": "c", "auth_url": "http://127.0.0.1:9/auth/v1.0", "user": "u"},
    "webdav": {"url": "http://127.0.0.1:9/dav", "user": "u"},
    "ftp": {"host": "127.0.0.1", "port": 9, "user": "u"},
    "sftp": {"host": "127.0.0.1", "port": 9, "user": "u", "root": "/"},
}
"""Providers that cannot be reached, by kind; each kind's secret option is in SECRET."""

SECRET = {
    "s3": "secret_key", "azure": "key", "swift": "key", "webdav": "password", "ftp": "password", "sftp": "password",
}  # fmt: skip


def _secret() -> str:
    return f"{secrets.token_hex(12)}/+&%z"


def _forms(secret: str) -> set[bytes]:
    """The secret as it could be written: plainly, in hexadecimal, in URLs, in JSON, in base64 after any other bytes."""
    plain = secret.encode()
    forms = {plain, plain[:24], plain.hex().encode(), quote(secret, safe="").encode(), quote_plus(secret).encode()}
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + plain)
        inner = encoded[-(-before * 8 // 6) : (before + len(plain)) * 8 // 6 - 1]
        forms |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return forms


@dataclass
class Search:
    """Everything there is to search, and what must not be found in it."""

    deployment: Deployment
    secrets: dict[str, str] = field(default_factory=dict)
    said: list[Result] = field(default_factory=list)

    def new(self, name: str) -> str:
        self.secrets[name] = _secret()
        return self.secrets[name]

    def run(self, *arguments: str | Path, stdin: bytes = b"", environment: Mapping[str, str] | None = None) -> Result:
        """Run a command that may fail, and keep what it says."""
        done = self.deployment.cdir(*arguments, expect=None, stdin=stdin, environment=environment)
        assert "Traceback" not in done.stderr
        self.said.append(done)
        return done

    def add(self, name: str, kind: str, options: Mapping[str, object], *extra: str) -> Result:
        done = self.deployment.add_provider(name, kind, options, *extra, "--output", "json", expect=None)
        self.said.append(done)
        return done

    def find(self, where: Mapping[str, bytes]) -> None:
        """Fail if any of ``where`` holds a secret."""
        forms = {name: _forms(secret) for name, secret in self.secrets.items()}
        found = [
            f"{name} in {place}"
            for place, content in where.items()
            for name, its in forms.items()
            if any(form in content for form in its)
        ]
        assert not found


@pytest.fixture(scope="module")
def search(deployment: Deployment) -> Search:
    return Search(deployment)


@pytest.fixture(scope="module")
def roots(deployment: Deployment, search: Search, background: Background, local_disks: Path) -> Iterator[list[Path]]:
    """Providers of several kinds, each with a random secret; the folders in which they hold what they hold."""
    require(rclone_s3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RcloneS3Server, "secret_key", search.new("s3"))
        patch.setattr(WsgiDavServer, "password", search.new("webdav"))
        patch.setattr(PyFtpServer, "password", search.new("ftp"))
        patch.setattr(AsyncSshSftpServer, "password", search.new("sftp"))
        s3, dav = background.enter(rclone_s3_server()), background.enter(wsgidav_server())
        ftp, sftp = background.enter(pyftpd_server()), background.enter(asyncssh_sftp_server())
        (s3.root / "files").mkdir()
        ssh = {name: value for name, value in sftp.options().items() if name != "key_file"}
        for name, kind, options in (
            ("disk", "local", {"root": local_disks / "disk"}),
            ("s3", "s3", s3.options("files")),
            ("webdav", "webdav", dav.options("files")),
            ("ftp", "ftp", ftp.options()),
            ("sftp", "sftp", {**ssh, "password": sftp.password}),
        ):
            added = search.add(name, kind, options)
            assert added.exit == 0, added.stderr
        yield [local_disks, s3.root, dav.root, ftp.root, sftp.root]


def _files(*folders: Path) -> dict[str, bytes]:
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                found[str(path)] = content + _inflated(content) if path.suffix == ".snapshot" else content
    return found


def _inflated(snapshot: bytes) -> bytes:
    """The lines of a snapshot: after a first line, frames of four bytes of length and so many of zlib."""
    lines, at = b"", snapshot.index(b"\n") + 1
    while size := int.from_bytes(snapshot[at : at + 4]):
        lines += zlib.decompress(snapshot[at + 4 : at + 4 + size])
        at += 4 + size
    assert b"sealed_secrets" in lines
    return lines


async def _in_postgres(url: str) -> Path:
    """Where the server keeps everything, written out."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CHECKPOINT")
        return Path(await connection.fetchval("SHOW data_directory"))
    finally:
        await connection.close()


def _processes(deployment: Deployment) -> dict[str, bytes]:
    found = {}
    for process in deployment.processes():
        for name in ("cmdline", "environ"):
            found[f"{name} of {process.name()}"] = Path(f"/proc/{process.pid}/{name}").read_bytes()
    return found


def _answers(deployment: Deployment) -> dict[str, bytes]:
    token = deployment.environment().get("CDIR_TOKEN")
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.insecure_channel(deployment.address) as channel:
        providers = ProviderServiceStub(channel)
        answers = [
            providers.ListProviders(pb.ListProvidersRequest(), metadata=metadata),
            providers.ListKinds(pb.ListKindsRequest(), metadata=metadata),
            *(
                providers.GetProvider(pb.GetProviderRequest(name=name), metadata=metadata)
                for name in ("s3", "webdav", "ftp", "sftp")
            ),
            VaultServiceStub(channel).GetVault(GetVaultRequest(), metadata=metadata),
        ]
    return {type(answer).__name__: answer.SerializeToString() for answer in answers}


def test_no_secret_is_anywhere(
    deployment: Deployment, search: Search, roots: list[Path], tmp_path: Path, background: Background
) -> None:
    deployment.stop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            deployment,
            "server_environment",
            lambda: {**type(deployment).server_environment(deployment), "CDIR_LOG_LEVEL": "debug"},
        )
        deployment.restart()
    (tmp_path / "file").write_bytes(b"content")
    for kind, options in WRONG.items():
        failed = search.add(f"no-{kind}", kind, {**options, SECRET[kind]: search.new(f"wrong {kind}")})
        assert failed.exit != 0
        open_ = [f"{SECRET[kind]}={search.secrets[f'wrong {kind}']}"]
        for how in ("--set", "--secret"):
            refused = search.run("provider", "add", "x", "--kind", kind, how, *open_, "--output", "json")
            assert refused.exit == 2
    for name, kind in (("s3", "s3"), ("webdav", "webdav"), ("ftp", "ftp"), ("sftp", "sftp")):
        wrong = search.new(f"rejected {name}")
        failed = search.run(
            "provider", "set", name, "--secret", f"{SECRET[kind]}=env:IT", "-o", "json", environment={"IT": wrong}
        )
        assert failed.exit != 0, f"{name} took a wrong secret"
    for command in (
        ("put", tmp_path / "file", "/file", "--require", "all"),
        ("provider", "list"), ("provider", "show", "s3"), ("provider", "check", "s3"), ("provider", "usage"),
        ("cat", "/missing"), ("cat", "/file"), ("status", "/file"), ("explain", "/file"),
        ("snapshot", "now"), ("snapshot", "list"), ("vault", "rotate"), ("vault", "status"), ("snapshot", "now"),
        ("scrub", "/", "--wait"), ("check", "/"),
    ):  # fmt: skip
        search.run(*command, "--output", "json")
    assert search.run("cat", "/file").stdout == b"content"

    said = {f"what {' '.join(one.command[:2])} said": one.stdout + one.stderr.encode() for one in search.said}
    log = {"the log": deployment._log.read_bytes()}
    assert b"DEBUG" in log["the log"]
    search.find({**said, **log, **_files(deployment.home, *roots), **_processes(deployment), **_answers(deployment)})
    if isinstance(deployment, SplitDeployment):
        assert deployment.database_url is not None
        search.find(_files(background.run(_in_postgres(deployment.database_url))))


def test_a_daemon_that_a_command_starts_does_not_inherit_its_secrets(
    deployment: Deployment, search: Search, roots: list[Path]
) -> None:
    if deployment.kind != "embedded":
        pytest.skip("capability: nobody starts a gateway elsewhere")
    deployment.stop()
    environment = {"IT": search.secrets["s3"]}
    search.said.append(
        deployment.cdir("provider", "set", "s3", "--secret", "secret_key=env:IT", environment=environment)
    )
    daemon = psutil.Process(int((deployment.home / "daemon.pid").read_text()))
    search.find({"its environment": Path(f"/proc/{daemon.pid}/environ").read_bytes()})
    deployment.cdir("down")
    deployment.restart()


def test_the_search_finds_what_it_should() -> None:
    secret = _secret()
    for written in (
        secret,
        f"user:{secret}@host",
        quote(secret, safe=""),
        secret.encode().hex(),
        *(base64.b64encode(f"{'u' * length}:{secret}".encode()).decode() for length in range(4)),
    ):
        assert any(form in written.encode() for form in _forms(secret)), written
