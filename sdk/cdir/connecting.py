"""Making a connection to a gateway."""

from __future__ import annotations

import os
from collections.abc import Generator
from types import TracebackType

from cdir.client import Client
from cdir.connection import Connection
from cdir.locations import default_address, home

__all__ = ["Connecting", "connect"]


def connect(address: str | None = None, token: str | None = None, start: bool = False) -> Connecting:
    """Connect to a gateway: ``async with cdir.connect() as client`` or ``client = await cdir.connect()``.

    ``address`` is ``host:port``, ``unix:/path`` or ``https://host``; by default ``CDIR_ADDRESS``, else the daemon of
    this user's ``CDIR_HOME``. ``token`` signs in; by default ``CDIR_TOKEN``. With ``start`` a daemon is started in the
    background when none answers; that is only done where no address is given. The second form leaves closing to the
    caller: ``await client.close()``.

    Raises :class:`~cdir.errors.ProviderUnavailable` when nobody answers.
    """
    return Connecting(address, token, start)


class Connecting:
    """A connection to be made: await it, or enter it."""

    def __init__(self, address: str | None, token: str | None, start: bool) -> None:
        self._address = address
        self._token = token
        self._start = start
        self._client: Client | None = None

    def __await__(self) -> Generator[object, None, Client]:
        return self._open().__await__()

    async def __aenter__(self) -> Client:
        self._client = await self._open()
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()

    async def _open(self) -> Client:
        token = self._token or os.environ.get("CDIR_TOKEN") or None
        if self._start and self._address is None and not os.environ.get("CDIR_ADDRESS"):
            from cdir.daemon import ensure_running

            await ensure_running(home())
        connection = Connection(self._address or default_address(), token)
        try:
            await connection.open()
        except BaseException:
            await connection.close()
            raise
        return Client(connection)
