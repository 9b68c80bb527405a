"""OpenSSH's own sshd with its internal SFTP server; it lets in by key or certificate, and has a certificate itself."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh

from servers.process import ServerProcess, fresh_folder

__all__ = ["OpenSshServer", "missing", "openssh_server", "sshd_binary"]


def sshd_binary() -> str | None:
    """Absolute path of sshd, which re-executes itself and therefore insists on one."""
    return shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin") or shutil.which("sshd")


def missing() -> str | None:
    return None if sshd_binary() else "sshd is missing: apt-get install openssh-server"


class OpenSshServer(ServerProcess):
    """A running sshd that lets in the current user with one key, or one that :attr:`authority` has signed."""

    host = "127.0.0.1"

    def __init__(self, *, folder: Path, port: int | None, shell: bool) -> None:
        self.folder = folder
        self._shell = shell
        self.root = folder / "files"
        """An empty folder meant as a provider's root (sshd itself serves the whole disk)."""
        self.user = getpass.getuser()
        self.key_file = folder / "user_key"
        self.authority = asyncssh.generate_private_key("ssh-ed25519")
        """Signs the certificates of users and of this host."""
        self._host_key_file = folder / "host_key"
        binary = sshd_binary()
        if binary is None:
            raise RuntimeError(missing())
        super().__init__(
            lambda chosen: [binary, "-D", "-e", "-f", str(self._write_config(chosen))], folder=folder, port=port
        )

    @property
    def host_key(self) -> str:
        """The public host key as one line, ``ssh-ed25519 AAAA…``."""
        return " ".join(self._host_key_file.with_suffix(".pub").read_text().split()[:2])

    @property
    def authority_key(self) -> str:
        """The public key of :attr:`authority` as one line."""
        return " ".join(self.authority.export_public_key().decode().split()[:2])

    def make_signed_key(self, path: Path, *, valid_before: str = "+1h") -> None:
        """Make a key that is not known here, with a certificate beside it that is."""
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(path)
        certificate = self.authority.generate_user_certificate(
            key, "tester", principals=[self.user], valid_after="20200101", valid_before=valid_before
        )
        certificate.write_certificate(f"{path}-cert.pub")

    def prepare(self) -> None:
        """Make the folder to serve, the user's key and the host key."""
        self.root.mkdir()
        self.authority.write_public_key(self.folder / "authority.pub")
        self.renew_host_key()
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(self.key_file)
        self.key_file.chmod(0o600)
        key.write_public_key(self.folder / "authorized_keys")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd locks its unprivileged half away

    def renew_host_key(self) -> None:
        """Make another host key, in use after the next start."""
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(self._host_key_file)
        self._host_key_file.chmod(0o600)
        key.write_public_key(self._host_key_file.with_suffix(".pub"))
        certificate = self.authority.generate_host_certificate(key, "server", principals=[self.host])
        certificate.write_certificate(f"{self._host_key_file}-cert.pub")

    def options(self) -> Mapping[str, str | int | bool]:
        """Options of an ``sftp`` provider on this server's ``root``."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "root": str(self.root),
            "host_key": self.host_key,
            "key_file": str(self.key_file),
        }

    def _write_config(self, port: int) -> Path:
        settings = [
            "ListenAddress 127.0.0.1",
            f"Port {port}",
            f"HostKey {self._host_key_file}",
            f"HostCertificate {self._host_key_file}-cert.pub",
            f"TrustedUserCAKeys {self.folder / 'authority.pub'}",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "StrictModes no",
            "UsePAM no",
            "PidFile none",
            "MaxStartups 100",
            "MaxSessions 100",
            "Subsystem sftp internal-sftp",
            *(() if self._shell else ("ForceCommand internal-sftp",)),
        ]
        path = self.folder / "sshd_config"
        path.write_text("\n".join(settings) + "\n")
        return path


@asynccontextmanager
async def openssh_server(*, port: int | None = None, shell: bool = True) -> AsyncIterator[OpenSshServer]:
    """Start sshd; without ``shell`` whoever signs in gets nothing but SFTP.

    ``kill`` ends its open sessions too; ``restart`` keeps port, keys and files.
    """
    async with fresh_folder() as folder:
        server = OpenSshServer(folder=folder, port=port, shell=shell)
        await asyncio.to_thread(server.prepare)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
