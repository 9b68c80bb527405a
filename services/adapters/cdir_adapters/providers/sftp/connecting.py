"""Making an SSH connection: whom to trust, how to sign in, over which other host; and what a refusal means."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import asyncssh

from cdir.errors import CdirError, ConfigInvalid, ProviderUnavailable, Unauthenticated
from cdir_adapters.providers.sftp.settings import HostSettings, SftpSettings, TrustedKey

__all__ = ["Connection", "connect"]

_CONNECT_TIMEOUT = 15
_LOGIN_TIMEOUT = 30
_CLOSE_TIMEOUT = 5
_KEEPALIVE = 20
"""Seconds of silence after which the server is asked whether it is still there; three silences end the connection."""
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
"""Put first, as processors compute these themselves: half the work of the usual first choice."""


class Connection:
    """A connection, together with that to the host it goes over."""

    def __init__(self, ssh: asyncssh.SSHClientConnection, jump: asyncssh.SSHClientConnection | None) -> None:
        self.ssh = ssh
        self._jump = jump

    @property
    def closed(self) -> bool:
        return self.ssh.is_closed()

    def abort(self) -> None:
        """End it at once; requests in flight fail."""
        self.ssh.abort()
        if self._jump is not None:
            self._jump.abort()

    async def aclose(self) -> None:
        """End it, for a limited time in good order."""
        for connection in (self.ssh, self._jump):
            if connection is not None:
                await _close(connection)


async def connect(settings: SftpSettings, provider: str) -> Connection:
    """Connect and sign in. Raises errors of cdir that say what to do."""
    login = await asyncio.to_thread(settings.login)
    jump = None if settings.jump is None else await _connect(settings.jump, settings, provider, login, None)
    try:
        ssh = await _connect(settings.server, settings, provider, login, jump)
    except BaseException:
        if jump is not None:
            jump.abort()
            await _close(jump)
        raise
    return Connection(ssh, jump)


async def _connect(
    host: HostSettings,
    settings: SftpSettings,
    provider: str,
    login: dict[str, Any],
    jump: asyncssh.SSHClientConnection | None,
) -> asyncssh.SSHClientConnection:
    client = _Client(host.trusted)
    try:
        return await asyncssh.connect(
            host.name,
            host.port,
            tunnel=jump or (),
            client_factory=lambda: client,
            config=None,
            known_hosts=([], [], []),  # nobody is known from elsewhere: the client above decides
            server_host_key_algs=host.signatures,
            encryption_algs=_CIPHERS,
            compression_algs=None,
            connect_timeout=_CONNECT_TIMEOUT,
            login_timeout=_LOGIN_TIMEOUT,
            keepalive_interval=_KEEPALIVE,
            username=host.user,
            **login,
        )
    except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed) as error:
        raise _host_key_error(host, provider, client.shown, error) from None
    except asyncssh.PermissionDenied:
        raise Unauthenticated(
            f"provider {provider}: {host.where} does not let {host.user} in; {await _what_was_tried(settings)}",
            provider=provider,
        ) from None
    except (OSError, asyncssh.Error) as error:
        over = f" over {settings.jump.where}" if jump is not None and settings.jump is not None else ""
        raise ProviderUnavailable(
            f"provider {provider}: no SSH connection to {host.where}{over} ({_reason(error)})", provider=provider
        ) from error


class _Client(asyncssh.SSHClient):
    """Accepts the trusted key only, and remembers which one was shown."""

    def __init__(self, trusted: TrustedKey | None) -> None:
        self._trusted = trusted
        self.shown: asyncssh.SSHKey | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.shown = key
        return self._is_trusted(key, authority=False)

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.shown = key
        return self._is_trusted(key, authority=True)

    def _is_trusted(self, key: asyncssh.SSHKey, *, authority: bool) -> bool:
        trusted = self._trusted
        return trusted is not None and trusted.authority is authority and key.get_fingerprint() == trusted.fingerprint


async def _close(connection: asyncssh.SSHClientConnection) -> None:
    connection.close()
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await connection.wait_closed()
    except (TimeoutError, OSError, asyncssh.Error):
        connection.abort()


async def _what_was_tried(settings: SftpSettings) -> str:
    """Say what the server did not accept, and so what to look at."""
    if settings.key_file is not None and settings.password is not None:
        return f"check user, the key {settings.key_file} and password"
    if settings.key_file is not None:
        return f"check user, and that the key {settings.key_file} is allowed there"
    if settings.password is not None:
        return "check user and password"
    own = "and no key in ~/.ssh is accepted; set key_file or password"
    if not os.environ.get("SSH_AUTH_SOCK"):
        return f"there is no SSH agent (SSH_AUTH_SOCK is not set where cdir runs), {own}"
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT), asyncssh.connect_agent() as agent:
            keys = list(await agent.get_keys())
    except (OSError, TimeoutError, asyncssh.Error):
        return f"the SSH agent of SSH_AUTH_SOCK does not answer, {own}"
    if not keys:
        return f"the SSH agent holds no key (add one with ssh-add), {own}"
    return f"none of the {len(keys)} keys of the SSH agent is accepted; check user, or set key_file or password"


def _host_key_error(
    host: HostSettings, provider: str, shown: asyncssh.SSHKey | None, error: asyncssh.Error
) -> CdirError:
    trusted, option = host.trusted, host.key_option
    if trusted is not None and trusted.authority:
        if shown is not None and shown.get_fingerprint() == trusted.fingerprint:
            what = f"shows a certificate that is not good ({error.reason}); its owner must have it signed anew"
        elif shown is not None:
            what = (
                f"shows a certificate of the authority {shown.get_fingerprint()}, not {trusted.fingerprint}: another"
                f" machine may be posing as it; only if its owner confirms the change, set {option} anew"
            )
        else:
            what = f"shows no certificate of the authority {trusted.fingerprint} that {option} names"
        return Unauthenticated(f"provider {provider}: {host.where} {what}", provider=provider, option=option)
    if shown is None:
        if trusted is None:
            return ProviderUnavailable(
                f"provider {provider}: {host.where} and this client have no method in common ({error.reason})",
                provider=provider,
            )
        return Unauthenticated(
            f"provider {provider}: {host.where} does not show a host key of the type that {option} names"
            f" ({trusted.fingerprint}); if the server was set up anew on purpose, set {option} anew",
            provider=provider,
            option=option,
        )
    line = " ".join(shown.export_public_key().decode().split()[:2])
    if trusted is None:
        return ConfigInvalid(
            f"provider {provider}: the host key of {host.where} is {shown.get_fingerprint()}; compare that with"
            f" what the server's owner says, then trust it with --set '{option}={line}'",
            provider=provider,
            option=option,
            fingerprint=shown.get_fingerprint(),
        )
    return Unauthenticated(
        f"provider {provider}: {host.where} shows the host key {shown.get_fingerprint()}, not"
        f" {trusted.fingerprint}: another machine may be posing as it. Only if its owner confirms the"
        f" change, set '{option}={line}'",
        provider=provider,
        option=option,
        fingerprint=shown.get_fingerprint(),
    )


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)[:200]
