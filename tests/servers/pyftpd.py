"""pyftpdlib's FTP server: MLSD, MLST and MFMT, under TLS where that is wanted."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from servers.certificates import self_signed
from servers.process import ServerProcess, fresh_folder

__all__ = ["PyFtpServer", "missing", "pyftpd_server"]

_PROCESS = Path(__file__).with_name("pyftpd_process.py")


def missing() -> str | None:
    for module, package in (("pyftpdlib", "pyftpdlib"), ("OpenSSL", "pyopenssl")):
        if importlib.util.find_spec(module) is None:
            return f"{package} is missing: pip install {package}"
    return None


@dataclasses.dataclass(kw_only=True)
class Settings:
    """How the server behaves; changes are in force after its next start."""

    tls: str = "off"
    """``off``, ``explicit`` or ``implicit``; under TLS it takes nothing in the clear."""
    idle: int = 300
    """Seconds after which it says goodbye to a silent client."""
    connections: int = 0
    """The most that it takes from one address; 0 is any number."""
    without: Sequence[str] = ()
    """Commands that it does not know."""
    masquerade: str | None = None
    """The address that it names in its answer to PASV."""
    replaces: bool = True
    """Renaming replaces what has the new name."""


class PyFtpServer(ServerProcess):
    """A running server over ``root``, which its one user sees as ``/``."""

    host = "127.0.0.1"
    user = "tester"
    password = "cdir-test-password"

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.settings = settings
        self.root = folder / "files"
        self.certificate = folder / "certificate.pem"
        super().__init__(self._command, folder=folder)

    def _command(self, port: int) -> list[str]:
        settings = {
            **dataclasses.asdict(self.settings),
            "root": str(self.root),
            "user": self.user,
            "password": self.password,
            "certificate": str(self.certificate),
        }
        return [sys.executable, str(_PROCESS), str(port), json.dumps(settings)]

    def prepare(self) -> None:
        """Make the folder to serve, and a certificate."""
        self.root.mkdir()
        self.renew_certificate()

    def renew_certificate(self, *, expired: bool = False) -> None:
        """Make another certificate, in use after the next start."""
        self_signed(self.certificate, expired=expired)

    def options(self) -> Mapping[str, str | int | bool]:
        """Options of an ``ftp`` provider on the whole of this server."""
        options: dict[str, str | int | bool] = {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "root": "/",
            "tls": self.settings.tls,
        }
        if self.settings.tls != "off":
            options["ca_file"] = str(self.certificate)
        return options


@asynccontextmanager
async def pyftpd_server(
    *,
    tls: str = "off",
    idle: int = 300,
    connections: int = 0,
    without: Sequence[str] = (),
    masquerade: str | None = None,
    replaces: bool = True,
) -> AsyncIterator[PyFtpServer]:
    """Start the server; see :class:`Settings`."""
    settings = Settings(
        tls=tls, idle=idle, connections=connections, without=without, masquerade=masquerade, replaces=replaces
    )
    async with fresh_folder() as folder:
        server = PyFtpServer(folder, settings)
        server.prepare()
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
