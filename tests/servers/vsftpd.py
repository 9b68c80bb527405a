"""vsftpd: no MLSD and no MFMT, so LIST and MDTM; under TLS it insists on data connections that resume the session."""

from __future__ import annotations

import getpass
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from servers.certificates import self_signed
from servers.process import ServerProcess, fresh_folder

__all__ = ["VsftpdServer", "missing", "vsftpd_server"]


def vsftpd_binary() -> str | None:
    return shutil.which("vsftpd", path="/usr/sbin:/usr/local/sbin:/sbin") or shutil.which("vsftpd")


def missing() -> str | None:
    return None if vsftpd_binary() else "vsftpd is missing: apt-get install vsftpd"


class VsftpdServer(ServerProcess):
    """A running vsftpd that lets anybody in and write, without any right beyond those of the user who started it."""

    host = "127.0.0.1"

    def __init__(self, folder: Path, *, tls: bool, zone: str) -> None:
        self.folder = folder
        self.served = folder / "served"
        self.root = self.served / "files"
        """What clients see as ``files`` where they are put; they may only read there, as vsftpd insists."""
        self.tls = tls
        self.certificate = folder / "certificate.pem"
        binary = vsftpd_binary()
        if binary is None:
            raise RuntimeError(missing())
        super().__init__(
            lambda chosen: [binary, str(self._write_config(chosen))], folder=folder, environment={"TZ": zone}
        )

    def prepare(self) -> None:
        """Make the folders to serve, and a certificate."""
        self.root.mkdir(parents=True)
        (self.folder / "empty").mkdir()
        self.served.chmod(0o555)
        self_signed(self.certificate)

    def options(self) -> Mapping[str, str | int | bool]:
        """Options of an ``ftp`` provider on this server's ``root``."""
        options: dict[str, str | int | bool] = {"host": self.host, "port": self.port, "root": "files", "tls": "off"}
        if self.tls:
            options |= {"tls": "explicit", "ca_file": str(self.certificate)}
        return options

    def _write_config(self, port: int) -> Path:
        settings = {
            "listen": "YES",
            "listen_address": "127.0.0.1",
            "listen_port": port,
            "background": "NO",
            "run_as_launching_user": "YES",
            "nopriv_user": getpass.getuser(),
            "ftp_username": getpass.getuser(),
            "secure_chroot_dir": self.folder / "empty",
            "anonymous_enable": "YES",
            "local_enable": "NO",
            "no_anon_password": "YES",
            "anon_root": self.served,
            "write_enable": "YES",
            "anon_upload_enable": "YES",
            "anon_mkdir_write_enable": "YES",
            "anon_other_write_enable": "YES",
            "anon_world_readable_only": "NO",
            "anon_umask": "022",
            "seccomp_sandbox": "NO",
            "ssl_enable": "YES" if self.tls else "NO",
            "allow_anon_ssl": "YES" if self.tls else "NO",
            "rsa_cert_file": self.certificate,
            "require_ssl_reuse": "YES",
            "ssl_ciphers": "HIGH",
        }
        path = self.folder / "vsftpd.conf"
        path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        path.chmod(0o600)
        return path


@asynccontextmanager
async def vsftpd_server(*, tls: bool = False, zone: str = "UTC") -> AsyncIterator[VsftpdServer]:
    """Start vsftpd, with its clock's zone."""
    async with fresh_folder() as folder:
        server = VsftpdServer(folder, tls=tls, zone=zone)
        server.prepare()
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
            os.chmod(server.served, 0o755)
