"""Requests to one account: each with the token of the moment, sent once more with another one when that has ended."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import quote

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from cdir.errors import ConfigInvalid, NotFound, PermissionDenied
from cdir_adapters.providers.swift.faults import Faults, fault_of_answer
from cdir_adapters.providers.swift.settings import SwiftSettings
from cdir_adapters.providers.swift.signin import Account, SignIn
from cdir_adapters.proxies import proxy_for

__all__ = ["Pieces", "Request", "Wire"]

Pieces = Sequence[bytes | memoryview]

_CONNECT_TIMEOUT: Final = 10.0
"""Seconds until a connection attempt is given up."""
_IDLE_TIMEOUT: Final = 60.0
"""Seconds without a byte after which a connection counts as lost. A limit for a whole call is a layer's matter."""
_POOL: Final = 32
_READ_AHEAD: Final = 1024 * 1024
"""Bytes of one body that may wait to be taken."""
_WRITE_SIZE: Final = 512 * 1024
"""Bytes given to the socket at once, so that other transfers get their turn."""


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One request to the account. ``path`` is ``container`` or ``container/object``, not yet quoted."""

    method: str
    path: str
    doing: str
    """Completes "while …" in messages."""
    key: str = ""
    """The object meant, for messages."""
    query: Mapping[str, str] = dataclasses.field(default_factory=dict)
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    data: Pieces | None = None
    idle: float = _IDLE_TIMEOUT
    """Seconds that the service may be silent."""
    whole: asyncio.Event | None = None
    """Set just before the last of the request goes out; from then on the service may carry it out, early or late."""


class _Body(aiohttp.Payload):
    """The pieces of a request's body, which can be sent again when a kept connection turns out dead."""

    def __init__(self, pieces: Pieces, whole: asyncio.Event | None) -> None:
        super().__init__(pieces, content_type="application/octet-stream")
        self._pieces = pieces
        self._size = sum(map(len, pieces))
        self._whole = whole

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("an object is bytes")

    async def write(self, writer: AbstractStreamWriter) -> None:
        if not self._size:
            # sends the head: where that fails once this has returned, aiohttp tells nobody
            await writer.write(b"")
        left = sum(map(len, self._pieces))
        for piece in self._pieces:
            view = memoryview(piece)
            for start in range(0, len(view), _WRITE_SIZE):
                part = view[start : start + _WRITE_SIZE]
                left -= len(part)
                if not left and self._whole is not None:
                    self._whole.set()
                await writer.write(part)


class Wire:
    """Speaks for one account at one service."""

    def __init__(self, settings: SwiftSettings, faults: Faults) -> None:
        self._settings = settings
        self._faults = faults
        self._http: aiohttp.ClientSession | None = None
        self._making = asyncio.Lock()
        self._sign_in = SignIn(settings, faults, self.http)

    async def http(self) -> aiohttp.ClientSession:
        """The connections, made when first needed and kept."""
        if self._http is None:
            async with self._making:
                if self._http is None:
                    self._http = aiohttp.ClientSession(
                        timeout=_timeout(_IDLE_TIMEOUT),
                        connector=aiohttp.TCPConnector(limit=_POOL, ssl=await self._trusted()),
                        cookie_jar=aiohttp.DummyCookieJar(),
                        # an object that was stored compressed is read as it was stored
                        auto_decompress=False,
                        read_bufsize=_READ_AHEAD,
                    )
        return self._http

    async def aclose(self) -> None:
        """Close what was opened. Idempotent."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    async def _trusted(self) -> ssl.SSLContext | bool:
        """Whose certificates to trust, as aiohttp wants it."""
        if not self._settings.verify_tls:
            return False
        ca_file = self._settings.ca_file
        if ca_file is None:
            return True
        try:
            # reads the certificates of the machine, too
            context = await asyncio.to_thread(ssl.create_default_context)
            await asyncio.to_thread(context.load_verify_locations, ca_file)
        except OSError as error:
            raise ConfigInvalid(
                f"provider {self._faults.provider}: ca_file {ca_file} cannot be read ({error.strerror or error})",
                provider=self._faults.provider,
            ) from None
        return context

    @asynccontextmanager
    async def asking(self, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and hand out a good answer, whose body was not read yet; errors are those of cdir.

        Only what is raised before the block begins is translated.
        """
        account = await self._sign_in.account()
        answer = await self._send(account, request)
        if answer.status == 401:
            answer.close()
            account = await self._sign_in.renewed(account)
            answer = await self._send(account, request)
        try:
            if not 200 <= answer.status < 300:
                with self._faults.translated(request.doing, request.key):
                    fault = await fault_of_answer(answer, (*self._settings.secrets, account.token))
                raise self._faults.error(fault, request.doing, request.key)
            yield answer
        finally:
            # closes the connection when the body was not read to its end
            answer.release()

    async def _send(self, account: Account, request: Request) -> aiohttp.ClientResponse:
        url = f"{account.url}/{quote(request.path)}" if request.path else account.url
        if request.query:
            url += "?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in request.query.items())
        target = URL(url, encoded=True)
        if request.data is None and request.whole is not None:
            request.whole.set()
        with self._faults.translated(request.doing, request.key):
            http = await self.http()
            return await http.request(
                request.method,
                target,
                headers={"Accept-Encoding": "identity", **request.headers, "X-Auth-Token": account.token},
                data=None if request.data is None else _Body(request.data, request.whole),
                # the token goes to nobody else
                allow_redirects=False,
                proxy=proxy_for(target),
                timeout=_timeout(request.idle),
            )

    async def headers(self, request: Request) -> Mapping[str, str]:
        """Send a request and return the headers of a good answer."""
        async with self.asking(request) as answer:
            with self._faults.translated(request.doing, request.key):
                # a short rest, taken so that the connection can be used again
                await answer.content.read(_WRITE_SIZE)
            return answer.headers

    async def body(self, request: Request, limit: int) -> bytes:
        """Send a request and return the whole body of a good answer."""
        async with self.asking(request) as answer:
            return await self.body_of(answer, request.doing, limit)

    async def body_of(self, answer: aiohttp.ClientResponse, doing: str, limit: int) -> bytes:
        """Return a whole body. Raises ProviderUnavailable when it breaks off or is longer than ``limit`` bytes."""
        body = bytearray()
        with self._faults.translated(doing):
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > limit:
                    raise self._faults.broken("the answer is too long", doing)
        return bytes(body)

    async def require_container(self, container: str) -> None:
        """A 404 does not tell a missing object from a missing container, and the latter proves nothing.

        Raises ProviderUnavailable when the container is missing, and whatever keeps from finding out.
        """
        try:
            await self.headers(Request("HEAD", container, "looking at the container"))
        except NotFound:
            raise self._faults.container_is_gone(container) from None
        except PermissionDenied:
            return  # not allowed to look at the container as a whole: it is there

    @asynccontextmanager
    async def telling_apart(self, container: str) -> AsyncIterator[None]:
        """Let NotFound of the block pass only when it is no more than an object that is missing."""
        try:
            yield
        except NotFound:
            await self.require_container(container)
            raise


def _timeout(idle: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT, sock_read=idle)
