"""An SFTP server in the test's own event loop: faults can be set from the test, and names can ignore case."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh

from servers.process import fresh_folder

__all__ = ["AsyncSshSftpServer", "Faults", "asyncssh_sftp_server", "missing"]


def missing() -> str | None:
    return None if importlib.util.find_spec("asyncssh") else 'asyncssh is missing: pip install "cdir[sftp]"'


class Faults:
    """What goes wrong; everything works by default."""

    def __init__(self) -> None:
        self.disk_full = False
        """Writes fail with "no space"."""
        self.cut_write_after: int | None = None
        """Drop the connection once this many more bytes were written, over all connections."""
        self.cut_read_after: int | None = None
        """Drop the connection once this many more bytes were read."""
        self.no_hardlinks = False
        """As a file system without hard links."""
        self.no_posix_rename = False
        """Refuse the renaming that replaces."""
        self.delay = 0.0
        """Seconds that each read and write takes."""


class AsyncSshSftpServer:
    """A running server over ``root``, which clients see as ``/``."""

    host = "127.0.0.1"
    user = "tester"
    password = "cdir-test-password"

    def __init__(self, folder: Path, *, ignore_case: bool) -> None:
        self.root = folder / "files"
        self.key_file = folder / "user_key"
        self.passphrase_key_file = folder / "user_key_encrypted"
        self.passphrase = "cdir-test-passphrase"
        self.faults = Faults()
        self.ignore_case = ignore_case
        self.port = 0
        self._user_key = asyncssh.generate_private_key("ssh-ed25519")
        self._host_key = asyncssh.generate_private_key("ssh-ed25519")
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._connections: set[asyncssh.SSHServerConnection] = set()

    @property
    def host_key(self) -> str:
        """The public host key as one line, ``ssh-ed25519 AAAA…``."""
        return " ".join(self._host_key.export_public_key().decode().split()[:2])

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the host key, ``SHA256:…``."""
        return self._host_key.get_fingerprint()

    def options(self) -> Mapping[str, str | int | bool]:
        """Options of an ``sftp`` provider that signs in with the key."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "root": "/",
            "host_key": self.host_key,
            "key_file": str(self.key_file),
        }

    def prepare(self) -> None:
        """Make the folder to serve and write the user's key, plain and encrypted."""
        self.root.mkdir()
        self._user_key.write_private_key(self.key_file)
        # PKCS#8, since OpenSSH's own encrypted form needs the optional bcrypt
        self._user_key.write_private_key(self.passphrase_key_file, "pkcs8-pem", passphrase=self.passphrase)

    def renew_host_key(self) -> None:
        """Make another host key, in use after the next start."""
        self._host_key = asyncssh.generate_private_key("ssh-ed25519")

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._acceptor = await asyncssh.listen(
            self.host,
            self.port,
            server_factory=lambda: _Login(self),
            server_host_keys=[self._host_key],
            sftp_factory=lambda channel: _FaultySftp(channel, self),
            encoding=None,
        )
        self.port = self._acceptor.get_port()

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self._acceptor is not None:
            self._acceptor.close()
            self.drop_connections()
            await self._acceptor.wait_closed()
            self._acceptor = None

    async def restart(self) -> None:
        """Stop and listen again on the same port."""
        await self.stop()
        await self.start()

    def drop_connections(self) -> None:
        """Abort every connection, without a word of SSH."""
        for connection in list(self._connections):
            connection.abort()

    def joined(self, connection: asyncssh.SSHServerConnection) -> None:
        self._connections.add(connection)

    def left(self, connection: asyncssh.SSHServerConnection) -> None:
        self._connections.discard(connection)

    def knows_key(self, user: str, key: asyncssh.SSHKey) -> bool:
        return user == self.user and key.public_data == self._user_key.public_data


class _Login(asyncssh.SSHServer):
    """One connection: lets in the test user by key or password."""

    def __init__(self, server: AsyncSshSftpServer) -> None:
        self._server = server
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._server.joined(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._server.left(self._connection)

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return self._server.knows_key(username, key)

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return username == self._server.user and password == self._server.password


class _FaultySftp(asyncssh.SFTPServer):
    """asyncssh's own server over a folder, with the faults of the test."""

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], server: AsyncSshSftpServer) -> None:
        super().__init__(channel, chroot=os.fsencode(server.root))
        self._server = server
        self._faults = server.faults

    def map_path(self, path: bytes) -> bytes:
        mapped = super().map_path(path)
        if not self._server.ignore_case:
            return mapped
        root = os.fsencode(self._server.root)
        found = root
        for name in mapped[len(root) :].split(b"/"):
            if name:
                found = os.path.join(found, _existing_name(found, name))
        return found

    async def write(self, file_obj: object, offset: int, data: bytes) -> int:
        await self._pause()
        if self._faults.disk_full:
            raise asyncssh.SFTPFailure("No space left on device")
        self._faults.cut_write_after = self._count(self._faults.cut_write_after, len(data))
        written = super().write(file_obj, offset, data)
        assert isinstance(written, int)
        return written

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        await self._pause()
        data = super().read(file_obj, offset, size)
        assert isinstance(data, bytes)
        self._faults.cut_read_after = self._count(self._faults.cut_read_after, len(data))
        return data

    def link(self, oldpath: bytes, newpath: bytes) -> None:
        if self._faults.no_hardlinks:
            raise asyncssh.SFTPOpUnsupported("Operation not supported")
        super().link(oldpath, newpath)

    def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        if self._faults.no_posix_rename:
            raise asyncssh.SFTPOpUnsupported("Operation not supported")
        super().posix_rename(oldpath, newpath)

    async def _pause(self) -> None:
        if self._faults.delay:
            await asyncio.sleep(self._faults.delay)

    def _count(self, left: int | None, size: int) -> int | None:
        """Take ``size`` from what is ``left``; cut the connection when nothing is."""
        if left is None:
            return None
        if left <= size:
            self.connection.abort()
            raise asyncssh.SFTPConnectionLost("cut by the test")
        return left - size


def _existing_name(folder: bytes, name: bytes) -> bytes:
    """The name in ``folder`` that equals ``name`` but for case, else ``name``."""
    wanted = name.decode().casefold()
    try:
        names = os.listdir(folder)
    except OSError:
        return name
    return next((each for each in names if each.decode().casefold() == wanted), name)


@asynccontextmanager
async def asyncssh_sftp_server(*, ignore_case: bool = False) -> AsyncIterator[AsyncSshSftpServer]:
    """Start the server in the current event loop."""
    async with fresh_folder() as folder:
        server = AsyncSshSftpServer(folder, ignore_case=ignore_case)
        await asyncio.to_thread(server.prepare)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
