"""The requests themselves: one session, credentials that go to one server only, errors of cdir."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from cdir.errors import ConfigInvalid
from cdir_adapters.providers.webdav.bodies import Content
from cdir_adapters.providers.webdav.faults import Fault, Faults, is_redirect
from cdir_adapters.providers.webdav.multistatus import MultistatusError, MultistatusParser, Response
from cdir_adapters.providers.webdav.settings import WebdavSettings
from cdir_adapters.proxies import proxy_for

__all__ = ["MovedToFolder", "Reply", "Wire"]

_CONNECT_TIMEOUT: Final = 10
"""Seconds until a connection attempt is given up."""
_IDLE_TIMEOUT: Final = 60
"""Seconds without a byte after which a connection counts as lost. A limit for a whole call is a layer's matter."""
_KEPT: Final = 4
"""Seconds that an idle connection is kept: Apache closes it after five, and a request sent just then is lost."""
_POOL: Final = 32
"""Connections kept."""
_READ_AHEAD: Final = 1024 * 1024
"""Bytes of one body that may wait to be taken."""
_SMALL_BODY: Final = 64 * 1024
"""The most that is read of an answer which needs no body."""
_PARSED: Final = 64 * 1024
"""Bytes of XML read at once."""


class MovedToFolder(Exception):
    """The server says that a folder lies here: it sends to the same name with a slash at the end."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose body does not matter, or says what went wrong."""

    status: int
    headers: Mapping[str, str]
    fault: Fault


class Wire:
    """Makes the requests of one provider. It never follows a redirect, so that no other server sees credentials."""

    def __init__(self, settings: WebdavSettings, faults: Faults) -> None:
        self._settings = settings
        self._faults = faults
        self._session: aiohttp.ClientSession | None = None
        self._making = asyncio.Lock()

    async def call(
        self,
        method: str,
        url: URL,
        doing: str,
        key: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        body: Content | bytes | None = None,
        accept: Collection[int] = (),
        patience: float = _IDLE_TIMEOUT,
    ) -> Reply:
        """Make a request whose answer is short. Raises the error of every status but those of ``accept``.

        ``patience`` is for what the server works on without a byte.
        """
        async with self._sent(method, url, doing, key, headers, body, patience) as answer:
            with self._faults.translated(doing, key):
                fault = self._fault(answer, await _beginning(answer))
            if answer.status not in accept:
                raise self._faults.error(fault, doing, key)
            return Reply(answer.status, answer.headers, fault)

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: URL,
        doing: str,
        key: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        accept: Collection[int],
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make a request whose answer is read as it comes; raises as :meth:`call` does, and MovedToFolder."""
        async with self._sent(method, url, doing, key, headers, body, _IDLE_TIMEOUT) as answer:
            if answer.status not in accept:
                with self._faults.translated(doing, key):
                    said = await _beginning(answer)
                if is_redirect(answer.status) and _target(answer) == _with_slash(url):
                    raise MovedToFolder
                raise self._faults.error(self._fault(answer, said), doing, key)
            yield answer

    @asynccontextmanager
    async def responses(
        self,
        method: str,
        url: URL,
        doing: str,
        key: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
    ) -> AsyncIterator[AsyncIterator[Response]]:
        """Make a request that is answered by a multi-status, and yield its responses as they come.

        An answer that ends early raises ProviderUnavailable.
        """
        headers = {**headers, "Content-Type": "application/xml; charset=utf-8"}
        async with self.open(method, url, doing, key, headers=headers, body=body, accept={207}) as answer:
            yield self._parsed(answer, doing, key)

    async def _parsed(self, answer: aiohttp.ClientResponse, doing: str, key: str) -> AsyncIterator[Response]:
        parser = MultistatusParser()
        try:
            while True:
                with self._faults.translated(doing, key):
                    piece = await answer.content.read(_PARSED)
                if not piece:
                    break
                for response in parser.feed(piece):
                    yield response
            parser.close()
        except MultistatusError as error:
            raise self._faults.unavailable(f"the server's answer cannot be read: {error}", doing, key) from None

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @asynccontextmanager
    async def _sent(
        self,
        method: str,
        url: URL,
        doing: str,
        key: str,
        headers: Mapping[str, str] | None,
        body: Content | bytes | None,
        patience: float,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        session = await self._opened()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT, sock_read=patience)
        content = body if isinstance(body, Content) else None
        try:
            with self._faults.translated(doing, key):
                answer = await session.request(
                    method,
                    url,
                    headers=headers,
                    data=content.body() if content else body,
                    allow_redirects=False,
                    timeout=timeout,
                )
        except Exception:
            if content is not None and content.error is not None:
                raise content.error from None
            raise
        try:
            yield answer
        finally:
            # a body that was read to its end leaves the connection for the next request; else it is closed
            if answer.content.at_eof():
                answer.release()
            else:
                answer.close()

    def _fault(self, answer: aiohttp.ClientResponse, said: bytes) -> Fault:
        elsewhere = ""
        if is_redirect(answer.status) and (target := _target(answer)) is not None and target.absolute:
            elsewhere = str(target.origin())
        return Fault.of(answer.status, answer.headers, said, elsewhere)

    async def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            async with self._making:
                if self._session is None:
                    # reading certificates takes a while
                    plain = self._settings.origin.startswith("http:")
                    self._session = self._make_session(True if plain else await asyncio.to_thread(self._tls))
        return self._session

    def _make_session(self, tls: ssl.SSLContext | bool) -> aiohttp.ClientSession:
        settings = self._settings
        headers = {"Accept-Encoding": "identity", "User-Agent": "cdir"}
        middlewares: tuple[aiohttp.ClientMiddlewareType, ...] = ()
        if settings.token is not None:
            headers["Authorization"] = f"Bearer {settings.token}"
        elif settings.user is not None and settings.password is not None:
            if settings.digest:
                middlewares = (aiohttp.DigestAuthMiddleware(settings.user, settings.password),)
            else:
                pair = base64.b64encode(f"{settings.user}:{settings.password}".encode()).decode()
                headers["Authorization"] = f"Basic {pair}"
        return aiohttp.ClientSession(
            headers=headers,
            middlewares=middlewares,
            connector=aiohttp.TCPConnector(limit=_POOL, keepalive_timeout=_KEPT, ssl=tls),
            proxy=proxy_for(URL(settings.origin)),
            cookie_jar=aiohttp.DummyCookieJar(),
            # a file that was stored compressed is read as it was stored
            auto_decompress=False,
            read_bufsize=_READ_AHEAD,
        )

    def _tls(self) -> ssl.SSLContext | bool:
        if not self._settings.verify_tls:
            return False
        try:
            return ssl.create_default_context(cafile=self._settings.ca_file)
        except (OSError, ssl.SSLError):
            raise ConfigInvalid(
                f"provider {self._faults.provider}: the certificates in {self._settings.ca_file} cannot be read;"
                " check ca_file",
                option="ca_file",
            ) from None


async def _beginning(answer: aiohttp.ClientResponse) -> bytes:
    """The body of an answer, and no more of it than is needed to say what went wrong."""
    said = bytearray()
    while len(said) < _SMALL_BODY and (piece := await answer.content.read(_SMALL_BODY)):
        said += piece
    return bytes(said)


def _target(answer: aiohttp.ClientResponse) -> URL | None:
    """Where a redirect leads; ``None`` when it says nothing that can be understood."""
    try:
        return answer.url.join(URL(answer.headers["Location"], encoded=True))
    except (KeyError, ValueError):
        return None


def _with_slash(url: URL) -> URL:
    return url if url.raw_path.endswith("/") else URL(f"{url}/", encoded=True)
