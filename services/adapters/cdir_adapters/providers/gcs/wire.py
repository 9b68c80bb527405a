"""Requests to the service: each with the token of the moment, sent once more with another one when that has ended."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from cdir.errors import ConfigInvalid, NotFound
from cdir_adapters.providers.gcs.faults import Fault, Faults, fault_of_answer
from cdir_adapters.providers.gcs.settings import GcsSettings
from cdir_adapters.providers.gcs.signin import SignIn, Token
from cdir_adapters.proxies import proxy_for

__all__ = ["MAX_ANSWER", "Pieces", "Request", "Wire"]

Pieces = Sequence[bytes | memoryview]

MAX_ANSWER: Final = 32 * 1024 * 1024
"""Bytes of a page: a thousand of the longest names and of the most metadata, every character of them escaped."""

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
    """One request. ``path`` begins behind the endpoint and is quoted."""

    method: str
    path: str
    doing: str
    """Completes "while …" in messages."""
    key: str = ""
    """The object meant, for messages."""
    query: Mapping[str, str] = dataclasses.field(default_factory=dict)
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    data: Pieces | None = None
    good: frozenset[int] = frozenset({200})
    """Statuses that are no error."""


class _Body(aiohttp.Payload):
    """The pieces of a request's body, uncopied.

    aiohttp sends a request again when a kept connection breaks before an answer. This one it does not: whoever asked
    looks first what the service has received.
    """

    def __init__(self, pieces: Pieces) -> None:
        super().__init__(pieces, content_type="application/octet-stream")
        self._pieces = pieces
        self._size = sum(map(len, pieces))
        self._begun = False

    @property
    def consumed(self) -> bool:
        return self._begun

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("an object is bytes")

    async def write(self, writer: AbstractStreamWriter) -> None:
        if self._begun:
            raise ConnectionResetError("the connection broke, and the request must not be sent again")
        self._begun = True
        if not self._size:
            # sends the head: where that fails once this has returned, aiohttp tells nobody
            await writer.write(b"")
        for piece in self._pieces:
            view = memoryview(piece)
            for start in range(0, len(view), _WRITE_SIZE):
                await writer.write(view[start : start + _WRITE_SIZE])


class Wire:
    """Speaks for one account at one service."""

    def __init__(self, settings: GcsSettings, faults: Faults, sign_in: SignIn) -> None:
        self._settings = settings
        self._faults = faults
        self._sign_in = sign_in
        self._http: aiohttp.ClientSession | None = None
        self._making = asyncio.Lock()

    async def http(self) -> aiohttp.ClientSession:
        """The connections, made when first needed and kept."""
        if self._http is None:
            async with self._making:
                if self._http is None:
                    self._http = aiohttp.ClientSession(
                        timeout=aiohttp.ClientTimeout(
                            total=None, sock_connect=_CONNECT_TIMEOUT, sock_read=_IDLE_TIMEOUT
                        ),
                        connector=aiohttp.TCPConnector(limit=_POOL, ssl=await self._trusted()),
                        proxy=proxy_for(URL(self._settings.endpoint)),
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
        await self._sign_in.aclose()

    async def _trusted(self) -> ssl.SSLContext | bool:
        """Whose certificates to trust, as aiohttp wants it."""
        ca_file = self._settings.ca_file
        if ca_file is None:
            return True
        try:
            return await asyncio.to_thread(ssl.create_default_context, cafile=ca_file)
        except OSError as error:
            raise ConfigInvalid(
                f"provider {self._faults.provider}: ca_file {ca_file} cannot be read ({error.strerror or error})",
                provider=self._faults.provider,
            ) from None

    @asynccontextmanager
    async def asking(self, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and hand out a good answer, whose body was not read yet; errors are those of cdir.

        Only what is raised before the block begins is translated.
        """
        token = await self._sign_in.token()
        answer = await self._send(token, request)
        if answer.status == 401 and token.text:
            answer.close()
            token = await self._sign_in.renewed(token)
            answer = await self._send(token, request)
        try:
            if answer.status not in request.good:
                with self._faults.translated(request.doing, request.key):
                    fault = await fault_of_answer(answer, (token.text,) if token.text else ())
                if fault.status == 404 and request.key:
                    await self._require_bucket(fault)
                raise self._faults.error(fault, request.doing, request.key)
            yield answer
        finally:
            # closes the connection when the body was not read to its end
            answer.release()

    async def _send(self, token: Token, request: Request) -> aiohttp.ClientResponse:
        url = f"{self._settings.endpoint}{request.path}"
        if request.query:
            url += "?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in request.query.items())
        headers = {"Accept-Encoding": "identity", **request.headers}
        if token.text:
            headers["Authorization"] = f"Bearer {token.text}"
        with self._faults.translated(request.doing, request.key):
            http = await self.http()
            return await http.request(
                request.method,
                URL(url, encoded=True),
                headers=headers,
                data=None if request.data is None else _Body(request.data),
                # the token goes to nobody else
                allow_redirects=False,
            )

    async def _require_bucket(self, fault: Fault) -> None:
        """A 404 does not tell a missing object from a missing bucket, and the latter proves nothing.

        Raises ProviderUnavailable when the bucket is missing, and whatever keeps from finding out.
        """
        if fault.said.startswith("No such object"):
            return  # how the service itself says it, when the bucket is there
        try:
            await self.look_into_bucket()
        except NotFound:
            raise self._faults.bucket_is_gone() from None

    async def look_into_bucket(self) -> None:
        """List as little as possible: what may be done to objects alone does not allow to look at the bucket itself.

        Raises NotFound when the bucket is missing.
        """
        path = f"/storage/v1/b/{self._settings.bucket}/o"
        query = {"maxResults": "1", "prefix": self._settings.prefix, "fields": "kind"}
        await self.json(Request("GET", path, "listing the bucket", query=query))

    async def json(self, request: Request) -> dict[str, Any]:
        """Send a request and return the object that a good answer consists of."""
        async with self.asking(request) as answer:
            return await self.json_of(answer, request)

    async def json_of(self, answer: aiohttp.ClientResponse, request: Request) -> dict[str, Any]:
        """Return the object that an answer consists of. Raises ProviderUnavailable when there is none."""
        body = bytearray()
        with self._faults.translated(request.doing, request.key):
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > MAX_ANSWER:
                    answer.close()
                    raise self._faults.broken("the answer is too long", request.doing)
        try:
            found = json.loads(body or b"null")
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._faults.broken(
                f"{self._settings.endpoint} gives an answer that cannot be read; check endpoint", request.doing
            )
        return found

    async def done(self, request: Request) -> Mapping[str, str]:
        """Send a request and return the headers of a good answer."""
        async with self.asking(request) as answer:
            with self._faults.translated(request.doing, request.key):
                # a short rest, taken so that the connection can be used again
                await answer.content.read(_WRITE_SIZE)
            return answer.headers
