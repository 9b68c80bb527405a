"""Connections to one SSH server: a few, made when needed, kept, and made anew after they were lost."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncssh

from cdir.errors import ConfigInvalid, ProviderUnavailable
from cdir_adapters.providers.sftp.connecting import Connection, connect
from cdir_adapters.providers.sftp.faults import is_lost, translated
from cdir_adapters.providers.sftp.settings import SftpSettings

__all__ = ["Features", "Session", "Sessions"]

_MAX_SESSIONS = 3
"""Connections at once. One carries many requests, but no more than two megabytes per round trip."""
_BUSY = 8
"""With this many users on every connection another one is made."""


@dataclasses.dataclass(frozen=True, slots=True)
class Features:
    """What a server offers beyond the plain protocol."""

    replacing_rename: bool
    hard_links: bool
    copy_data: bool
    file_system_status: bool
    digests: bool
    """The account has a shell, with a program that computes SHA-256."""


class Session:
    """One connection with its SFTP channel."""

    def __init__(self, connection: Connection, sftp: asyncssh.SFTPClient, root: str) -> None:
        self.sftp = sftp
        self.root = root
        """Absolute path of the provider's root, without a slash at the end: the empty text when it is ``/``."""
        self.users = 0
        self.fsync_works = True
        self._connection = connection
        self._lost = False

    @property
    def usable(self) -> bool:
        return not self._lost and not self._connection.closed

    async def run_shell(self, script: str) -> bytes:
        """Run a script by the account's ``sh`` and return what it prints; nothing where it fails or there is no shell.

        The script goes in over standard input, so that no other shell of the account ever reads it.
        """
        try:
            done = await self._connection.ssh.run(
                "exec sh -s", input=script.encode(errors="surrogateescape"), encoding=None
            )
        except (asyncssh.ChannelOpenError, BrokenPipeError):
            # there is no shell, or it ended before it had read the script
            return b""
        return done.stdout if isinstance(done.stdout, bytes) and done.exit_status == 0 else b""

    def path(self, key: str) -> str:
        """The path of a key on the server."""
        return f"{self.root}/{key}" if key else self.root or "/"

    def discard(self) -> None:
        """Use this session no more; requests in flight fail."""
        self._lost = True
        self._connection.abort()

    async def aclose(self) -> None:
        """Close the connection, for a limited time in good order."""
        self._lost = True
        self.sftp.exit()
        await self._connection.aclose()


class Sessions:
    """The pool of one provider."""

    def __init__(self, settings: SftpSettings, provider: str) -> None:
        self.features: Features | None = None
        """Known once a connection was made."""
        self._settings = settings
        self._provider = provider
        self._sessions: list[Session] = []
        self._connecting = asyncio.Lock()

    @asynccontextmanager
    async def session(self, key: str) -> AsyncIterator[Session]:
        """Lend a session. What its use raises becomes an error of cdir; ``key`` is for its message."""
        with translated(self._provider, key):
            session = await self._pick()
            session.users += 1
            try:
                yield session
            except BaseException as error:
                if is_lost(error):
                    session.discard()
                raise
            finally:
                session.users -= 1

    async def aclose(self) -> None:
        """Close all connections. Idempotent."""
        sessions, self._sessions = self._sessions, []
        await asyncio.gather(*(session.aclose() for session in sessions))

    async def _pick(self) -> Session:
        found = self._best()
        if found is not None and found.users < _BUSY:
            return found
        async with self._connecting:
            # another caller may have connected while this one waited
            found = self._best()
            if found is not None and (found.users < _BUSY or len(self._sessions) >= _MAX_SESSIONS):
                return found
            try:
                session = await self._connect()
            except ProviderUnavailable:
                if found is not None and found.usable:
                    return found  # the server limits connections
                raise
            self._sessions.append(session)
            return session

    def _best(self) -> Session | None:
        self._sessions = [session for session in self._sessions if session.usable]
        return min(self._sessions, key=lambda session: session.users, default=None)

    async def _connect(self) -> Session:
        connection = await connect(self._settings, self._provider)
        try:
            return await self._open_channel(connection)
        except BaseException:
            connection.abort()
            await connection.aclose()
            raise

    async def _open_channel(self, connection: Connection) -> Session:
        server = self._settings.server
        try:
            # names that are not UTF-8 come out with surrogates, and listings leave them out
            sftp = await connection.ssh.start_sftp_client(path_errors="surrogateescape")
        except (asyncssh.ChannelOpenError, asyncssh.SFTPError) as error:
            raise ConfigInvalid(
                f"provider {self._provider}: {server.where} lets {server.user} in, but offers no SFTP",
                provider=self._provider,
            ) from error
        root = self._settings.root
        if not root.startswith("/"):
            home = await sftp.realpath(".")
            root = f"{home}/{root}" if root else str(home)
        session = Session(connection, sftp, root.rstrip("/"))
        if self.features is None:
            self.features = await _probe(session)
        return session


async def _probe(session: Session) -> Features:
    """Ask for each feature in a way that changes nothing: on a name that does not exist."""
    missing = session.path(".cdir-tmp-that-never-exists")
    sftp = session.sftp

    async def offered(request: Any) -> bool:
        try:
            await request
        except asyncssh.SFTPOpUnsupported:
            return False
        except asyncssh.SFTPError as error:
            if is_lost(error):
                raise
        return True

    replacing, links, status, program = await asyncio.gather(
        offered(sftp.posix_rename(missing, f"{missing}-target")),
        offered(sftp.link(missing, f"{missing}-target")),
        offered(sftp.statvfs("/")),
        session.run_shell("command -v sha256sum || command -v shasum\n"),
    )
    return Features(replacing, links, sftp.supports_remote_copy, status, b"sha" in program)
