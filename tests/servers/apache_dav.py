"""Apache's own WebDAV (mod_dav) over a local folder."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from servers.process import ServerProcess, fresh_folder

__all__ = ["ApacheDavServer", "apache_binary", "apache_dav_server", "missing"]

_MODULES = (
    *("mpm_event", "authn_core", "authn_file", "auth_basic", "auth_digest", "authz_core", "authz_user"),
    *("alias", "dav", "dav_fs", "dir"),
)


def apache_binary() -> str | None:
    """Absolute path of Apache, whose modules lie beside it."""
    return shutil.which("apache2", path="/usr/sbin:/usr/local/sbin:/sbin") or shutil.which("apache2")


def _modules() -> Path:
    return Path("/usr/lib/apache2/modules")


def missing() -> str | None:
    if apache_binary() is None or not (_modules() / "mod_dav.so").exists():
        return "Apache is missing: apt-get install apache2-bin"
    return None


class ApacheDavServer(ServerProcess):
    """A running server. Files below ``root`` are what it serves, below the path ``/dav``."""

    user = "cdir"
    password = "cdir-test-secret"

    def __init__(self, *, folder: Path, digest: bool) -> None:
        self.root = folder / "files"
        self._folder = folder
        self._digest = digest
        binary = apache_binary()
        if binary is None:
            raise RuntimeError(missing())
        super().__init__(
            lambda chosen: [binary, "-X", "-f", str(self._write_config(chosen)), "-DFOREGROUND"], folder=folder
        )

    def prepare(self) -> None:
        """Make the folder to serve and the file of accounts, for the account that Apache runs as."""
        self.root.mkdir()
        locks = self._folder / "locks"
        locks.mkdir()
        digest = hashlib.sha1(self.password.encode()).digest()
        (self._folder / "basic").write_text(f"{self.user}:{{SHA}}{base64.b64encode(digest).decode()}\n")
        secret = hashlib.md5(f"{self.user}:cdir:{self.password}".encode()).hexdigest()
        (self._folder / "digest").write_text(f"{self.user}:cdir:{secret}\n")
        if os.geteuid() == 0:
            # Apache refuses to serve as root; the tests themselves read and write the files as root
            for path in (self._folder, self.root, locks):
                shutil.chown(path, "www-data", "www-data")

    def options(self, folder: str) -> Mapping[str, str | int | bool]:
        """Options of a ``webdav`` provider in ``folder`` below ``root``."""
        return {
            "url": f"http://127.0.0.1:{self.port}/dav/{folder}",
            "profile": "apache",
            "user": self.user,
            "password": self.password,
            "auth": "digest" if self._digest else "basic",
        }

    def _write_config(self, port: int) -> Path:
        kind = "Digest" if self._digest else "Basic"
        lines = [
            *(f"LoadModule {name}_module {_modules() / f'mod_{name}.so'}" for name in _MODULES),
            f"ServerRoot {self._folder}",
            "ServerName localhost",
            f"Listen 127.0.0.1:{port}",
            f"PidFile {self._folder / 'apache.pid'}",
            "ErrorLog /dev/stderr",
            f"Mutex file:{self._folder / 'locks'}",
            f"DefaultRuntimeDir {self._folder}",
            f"DocumentRoot {self._folder}",
            f"DavLockDB {self._folder / 'locks' / 'dav'}",
            *(("User www-data", "Group www-data") if os.geteuid() == 0 else ()),
            f"Alias /dav {self.root}",
            f"<Directory {self.root}>",
            "Dav On",
            "AllowOverride None",
            f"AuthType {kind}",
            "AuthName cdir",
            f"Auth{kind}Provider file",
            f"AuthUserFile {self._folder / kind.lower()}",
            "Require valid-user",
            "</Directory>",
        ]
        path = self._folder / "apache.conf"
        path.write_text("\n".join(lines) + "\n")
        return path


@asynccontextmanager
async def apache_dav_server(*, digest: bool = False) -> AsyncIterator[ApacheDavServer]:
    """Start the server, as an account without rights when that of the tests is root."""
    async with fresh_folder() as folder:
        server = ApacheDavServer(folder=folder, digest=digest)
        server.prepare()
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
