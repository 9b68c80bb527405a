"""Requests with little to send and little to receive, over connections that stay warm.

By an event loop's own transports and a parser in C: a client made for everything takes several times as long for such a
request as the exchange itself does (``bench/s3_client_cost.py``).
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import Iterable
from typing import Final

import aiohappyeyeballs
from yarl import URL

from cdir.errors import InvalidArgument
from cdir_adapters.providers.s3.exchange import Answer, Connection, NoAnswer

__all__ = ["SmallRequests"]

_IN_FLIGHT: Final = 128
"""Requests at once, and connections kept: as many as the layers above let through in batches."""
_SPARE_FOR: Final = 90.0
"""Seconds for which a connection is kept that nobody uses: as long as Go's clients do. A service that ends one earlier
is noticed."""
_OFTEN: Final = 0.25
"""Looks for connections that are stuck or unused, each time after this share of the time that one may be."""
_SECOND_ADDRESS_AFTER: Final = 0.25
"""Seconds until the next address of a host is tried beside the one that has not answered."""
_ALWAYS: Final = ("Accept: */*", "User-Agent: cdir")


class SmallRequests:
    """Requests to the host that ``origin`` names. Follows no redirect, and sends no request twice, but for one that a
    kept connection has not taken to the service any more.

    ``connect`` and ``idle`` are limits in seconds: until a connection stands, and without a byte either way.
    ``trusted`` says whose certificates are good; ``None`` is for where none is asked for. ``proxy`` has a URL of the
    scheme ``http`` or ``https``, with its credentials in it.
    """

    def __init__(
        self, origin: URL, *, connect: float, idle: float, trusted: ssl.SSLContext | None, proxy: URL | None
    ) -> None:
        self._origin = origin
        self._connect_within = connect
        self._idle = idle
        self._trusted = trusted
        self._proxy = proxy
        through = proxy is not None and origin.scheme == "http"
        self._target = str(origin.origin()) if through else ""
        """What stands before the path in a request."""
        self._always = (*_ALWAYS, *_proxy_headers(proxy)) if through else _ALWAYS
        self._room = asyncio.Semaphore(_IN_FLIGHT)
        self._open: set[Connection] = set()
        self._spare: list[Connection] = []
        """The one that was used last is used next, so that what is not needed becomes unused."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(
        self,
        method: str,
        path: str,
        headers: Iterable[str],
        body: bytes | None,
        most: int,
        *,
        repeatable: bool = True,
    ) -> Answer:
        """Send a request and read at most ``most`` bytes of the answer's body; less of an error.

        ``path`` is encoded, its query included; ``headers`` are lines. One that is ``repeatable`` has the same outcome
        however often it is sent. Raises NoAnswer. A caller who leaves closes the connection.
        """
        lines = [f"{method} {self._target}{path} HTTP/1.1", *headers, *self._always]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines) + "\r\n\r\n"
        if not head.count("\n") == head.count("\r") == len(lines) + 1:
            raise InvalidArgument("what is sent with an object must not hold line breaks")
        sent = head.encode()
        async with self._room:
            connection = self._take()
            if connection is not None:
                try:
                    return await self._exchange(connection, method, sent, body, most)
                except NoAnswer as error:
                    if not (error.unheard and repeatable):
                        raise
            # what else is kept may be as dead as that
            return await self._exchange(await self._connect(), method, sent, body, most)

    def _take(self) -> Connection | None:
        spare = self._spare
        while spare:
            connection = spare.pop()
            if connection.reusable:
                return connection
        return None

    async def _exchange(
        self, connection: Connection, method: str, head: bytes, body: bytes | None, most: int
    ) -> Answer:
        answer = await connection.exchange(method, head, body, most)
        if connection.reusable:
            self._spare.append(connection)
        return answer

    # ------------------------------------------------------------------ connections

    async def _connect(self) -> Connection:
        if self._closed:
            raise NoAnswer("closed")
        try:
            async with asyncio.timeout(self._connect_within):
                connection = await self._open_connection()
        except (OSError, UnicodeError) as error:  # a time-out is one, what is wrong with a certificate too
            raise NoAnswer(type(error).__name__, untrusted=isinstance(error, ssl.SSLCertVerificationError)) from None
        if self._closed or not connection.reusable:
            connection.close()
            raise NoAnswer("closed")
        self._open.add(connection)
        self._look_again()
        return connection

    async def _open_connection(self) -> Connection:
        first = self._proxy or self._origin
        host, port = first.raw_host, first.port
        if host is None or port is None:
            raise NoAnswer("no address")
        loop = asyncio.get_running_loop()
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        plain = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=_SECOND_ADDRESS_AFTER)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            encrypted = first.scheme == "https"
            _, connection = await loop.create_connection(
                lambda: Connection(loop.time, self._ended),
                sock=plain,
                ssl=self._trusted if encrypted else None,
                server_hostname=host if encrypted else None,
            )
        except BaseException:
            plain.close()
            raise
        if self._proxy is not None and self._origin.scheme == "https":
            await self._pass_through(connection, self._proxy)
        return connection

    async def _pass_through(self, connection: Connection, proxy: URL) -> None:
        """Have the proxy connect to the host, and go on by TLS."""
        host = self._origin.raw_host or ""
        place = f"[{host}]:{self._origin.port}" if ":" in host else f"{host}:{self._origin.port}"
        lines = (f"CONNECT {place} HTTP/1.1", f"Host: {place}", *_ALWAYS[1:], *_proxy_headers(proxy))
        answer = await connection.exchange("CONNECT", ("\r\n".join(lines) + "\r\n\r\n").encode(), None, 0)
        if answer.status != 200:
            connection.close()
            raise NoAnswer(f"the proxy answers {answer.status}")
        try:
            await connection.encrypt(self._trusted, host)
        except BaseException:
            connection.close()
            raise

    def _ended(self, connection: Connection) -> None:
        self._open.discard(connection)

    def _look_again(self) -> None:
        if self._timer is None and self._open:
            seconds = min(self._idle, _SPARE_FOR) * _OFTEN
            self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """Close what is stuck, and what has not been used for long."""
        self._timer = None
        spare = set(self._spare)
        for connection in tuple(self._open):
            connection.give_up_after(_SPARE_FOR if connection in spare else self._idle)
        self._spare = [connection for connection in self._spare if connection.reusable]
        self._look_again()

    def close(self) -> None:
        """Close all connections; requests under way raise NoAnswer."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for connection in tuple(self._open):
            connection.close()
        self._spare.clear()


def _proxy_headers(proxy: URL | None) -> tuple[str, ...]:
    if proxy is None or proxy.user is None:
        return ()
    credentials = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
    return (f"Proxy-Authorization: Basic {credentials}",)
