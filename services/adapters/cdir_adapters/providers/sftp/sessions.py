"""Connections to one SSH server: a few, made when needed, kept, and made anew after they were lost."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncssh

from cdir.errors import CdirError, ConfigInvalid, ProviderUnavailable, Unauthenticated
from cdir_adapters.providers.sftp.faults import is_lost, translated
from cdir_adapters.providers.sftp.settings import PinnedKey, SftpSettings

__all__ = ["Features", "Session", "Sessions"]

_MAX_SESSIONS = 3
"""Connections at once. One carries many requests, but no more than two megabytes per round trip."""
_BUSY = 8
"""With this many users on every connection another one is made."""
_CONNECT_TIMEOUT = 15
_LOGIN_TIMEOUT = 30
_KEEPALIVE = 20
"""Seconds of silence after which the server is asked whether it is still there; three silences end the connection."""
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
"""Put first, as processors compute these themselves: half the work of the usual first choice."""


@dataclasses.dataclass(frozen=True, slots=True)
class Features:
    """What a server offers beyond the plain protocol."""

    replacing_rename: bool
    hard_links: bool
    copy_data: bool
    file_system_status: bool


class _Client(asyncssh.SSHClient):
    """Accepts the pinned host key only, and remembers which one was shown."""

    def __init__(self, pinned: PinnedKey | None) -> None:
        self._pinned = pinned
        self.shown: asyncssh.SSHKey | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.shown = key
        return self._pinned is not None and key.get_fingerprint() == self._pinned.fingerprint


class Session:
    """One connection with its SFTP channel."""

    def __init__(self, connection: asyncssh.SSHClientConnection, sftp: asyncssh.SFTPClient, root: str) -> None:
        self.sftp = sftp
        self.root = root
        """Absolute path of the provider's root, without a slash at the end: the empty text when it is ``/``."""
        self.users = 0
        self.fsync_works = True
        self._connection = connection
        self._lost = False

    @property
    def usable(self) -> bool:
        return not self._lost and not self._connection.is_closed()

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
        self._connection.close()
        try:
            async with asyncio.timeout(5):
                await self._connection.wait_closed()
        except (TimeoutError, OSError, asyncssh.Error):
            self._connection.abort()


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
        settings = self._settings
        login: dict[str, Any] = await asyncio.to_thread(settings.login)
        client = _Client(settings.pinned)
        where = f"{settings.host}:{settings.port}"
        try:
            connection = await asyncssh.connect(
                settings.host,
                settings.port,
                client_factory=lambda: client,
                config=None,
                known_hosts=([], [], []),  # nobody is known from elsewhere: the client above decides
                server_host_key_algs=settings.signatures,
                encryption_algs=_CIPHERS,
                compression_algs=None,
                connect_timeout=_CONNECT_TIMEOUT,
                login_timeout=_LOGIN_TIMEOUT,
                keepalive_interval=_KEEPALIVE,
                **login,
            )
        except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed) as error:
            raise self._host_key_error(client.shown, error) from None
        except asyncssh.PermissionDenied:
            raise Unauthenticated(
                f"provider {self._provider}: {where} does not let {settings.user} in; check user, key_file, password",
                provider=self._provider,
            ) from None
        except (OSError, asyncssh.Error) as error:
            raise ProviderUnavailable(
                f"provider {self._provider}: no SSH connection to {where} ({_reason(error)})", provider=self._provider
            ) from error
        try:
            return await self._open_channel(connection)
        except BaseException:
            connection.abort()
            with contextlib.suppress(OSError, asyncssh.Error):
                await connection.wait_closed()
            raise

    async def _open_channel(self, connection: asyncssh.SSHClientConnection) -> Session:
        try:
            # names that are not UTF-8 come out with surrogates, and listings leave them out
            sftp = await connection.start_sftp_client(path_errors="surrogateescape")
        except (asyncssh.ChannelOpenError, asyncssh.SFTPError) as error:
            raise ConfigInvalid(
                f"provider {self._provider}: {self._settings.host} lets {self._settings.user} in, but offers no SFTP",
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

    def _host_key_error(self, shown: asyncssh.SSHKey | None, error: asyncssh.Error) -> CdirError:
        settings = self._settings
        where = f"{settings.host}:{settings.port}"
        if shown is None:
            if settings.pinned is None:
                return ProviderUnavailable(
                    f"provider {self._provider}: {where} and this client have no method in common ({error.reason})",
                    provider=self._provider,
                )
            return Unauthenticated(
                f"provider {self._provider}: {where} does not show a host key of the type that host_key names"
                f" ({settings.pinned.fingerprint}); if the server was set up anew on purpose, set host_key anew",
                provider=self._provider,
                option="host_key",
            )
        line = " ".join(shown.export_public_key().decode().split()[:2])
        if settings.pinned is None:
            return ConfigInvalid(
                f"provider {self._provider}: the host key of {where} is {shown.get_fingerprint()}; compare that with"
                f" what the server's owner says, then trust it with --set 'host_key={line}'",
                provider=self._provider,
                option="host_key",
                fingerprint=shown.get_fingerprint(),
            )
        return Unauthenticated(
            f"provider {self._provider}: {where} shows the host key {shown.get_fingerprint()}, not"
            f" {settings.pinned.fingerprint}: another machine may be posing as it. Only if its owner confirms the"
            f" change, set 'host_key={line}'",
            provider=self._provider,
            option="host_key",
            fingerprint=shown.get_fingerprint(),
        )


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)[:200]


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

    replacing, links, status = await asyncio.gather(
        offered(sftp.posix_rename(missing, f"{missing}-target")),
        offered(sftp.link(missing, f"{missing}-target")),
        offered(sftp.statvfs("/")),
    )
    return Features(replacing, links, sftp.supports_remote_copy, status)
