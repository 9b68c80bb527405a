"""The clients of one provider, made when first needed and kept: their connections stay warm."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

import aiohttp
from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.pipeline.transport import AioHttpTransport
from azure.storage.blob import ContainerSasPermissions, generate_container_sas
from azure.storage.blob.aio import ContainerClient
from yarl import URL

from cdir.errors import ConfigInvalid
from cdir_adapters.providers.azure.faults import ERROR_BODY
from cdir_adapters.providers.azure.settings import AzureSettings
from cdir_adapters.proxies import proxy_for

__all__ = ["Connections"]

# at INFO the library writes a dozen lines for each request
logging.getLogger("azure").setLevel(logging.WARNING)

_CONNECT_TIMEOUT = 10
"""Seconds until a connection attempt is given up."""
_IDLE_TIMEOUT = 60
"""Seconds without a byte after which a connection counts as lost. A limit for a whole call is a layer's matter."""
_POOL = 32
_READ_AHEAD = 1024 * 1024
"""Bytes of one body that may wait to be taken."""
_LONGEST_ANSWER = 64 * 1024 * 1024
"""Bytes of an answer that is read whole; a page of a listing has a few MiB."""
_SIGNATURE_VALID = timedelta(hours=6)
_SIGNATURE_KEPT = timedelta(hours=1)


class _Answer(aiohttp.ClientResponse):
    """An answer whose body, when it is read whole, has a limit: the library reads errors of any length."""

    async def read(self) -> bytes:
        if self._body is not None:
            return self._body
        limit = ERROR_BODY if self.status >= 300 else _LONGEST_ANSWER
        pieces: list[bytes] = []
        length = 0
        while piece := await self.content.readany():
            pieces.append(piece)
            length += len(piece)
            if length > limit:
                self.close()
                if self.status < 300:
                    raise aiohttp.ClientPayloadError("the answer is too long")
                break
        self._body = b"".join(pieces)
        return self._body


class Connections:
    """The library's client and a plain one, on the same connections. Neither retries: exactly one layer above does."""

    def __init__(self, settings: AzureSettings) -> None:
        self._settings = settings
        self._http: aiohttp.ClientSession | None = None
        self._container: ContainerClient | None = None
        self._making = asyncio.Lock()
        self._closing = contextlib.AsyncExitStack()
        self._signature = settings.sas_token or ""
        self._signed_until = datetime.min.replace(tzinfo=UTC)

    async def http(self) -> aiohttp.ClientSession:
        """A plain HTTP client for signed URLs."""
        if self._http is None:
            async with self._making:
                if self._http is None:
                    self._http = await self._make_http()
        return self._http

    async def container(self) -> ContainerClient:
        """The library's client."""
        if self._container is None:
            http = await self.http()
            async with self._making:
                if self._container is None:
                    self._container = self._make_container(http)
        return self._container

    async def aclose(self) -> None:
        """Close what was opened. Idempotent."""
        await self._closing.aclose()
        self._http = self._container = None

    async def url(self, name: str, query: Mapping[str, str] | None = None) -> URL:
        """The signed URL of a blob; ``name`` is its full one."""
        container = await self.container()
        parts = [urlencode(query)] if query else []
        parts.append(self._sign())
        path = f"{container.primary_endpoint.partition('?')[0]}/{quote(name, safe='/~')}"
        return URL(f"{path}?{'&'.join(parts)}", encoded=True)

    async def version(self) -> str:
        """The version of the protocol that requests speak."""
        version: str = (await self.container()).api_version
        return version

    def _sign(self) -> str:
        """The query that makes a URL a signed one; with an account key it is made anew every hour."""
        settings = self._settings
        now = datetime.now(UTC)
        if settings.account_key is not None and now >= self._signed_until:
            assert settings.account is not None
            self._signature = generate_container_sas(
                settings.account,
                settings.container,
                account_key=settings.account_key,
                permission=ContainerSasPermissions(read=True, add=True, create=True, write=True),
                expiry=now + _SIGNATURE_VALID,
            )
            self._signed_until = now + _SIGNATURE_KEPT
        return self._signature

    async def _make_http(self) -> aiohttp.ClientSession:
        trusted: ssl.SSLContext | bool = True
        if self._settings.ca_file is not None:
            try:
                trusted = await asyncio.to_thread(ssl.create_default_context, cafile=self._settings.ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ConfigInvalid(
                    f"azure: ca_file {self._settings.ca_file} cannot be used: {error.strerror or 'no certificates'}",
                    option="ca_file",
                ) from None
        return await self._closing.enter_async_context(
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT, sock_read=_IDLE_TIMEOUT),
                connector=aiohttp.TCPConnector(limit=_POOL, ssl=trusted),
                response_class=_Answer,
                proxy=proxy_for(URL(self._settings.endpoint)),
                cookie_jar=aiohttp.DummyCookieJar(),
                # a blob that was stored compressed is read as it was stored
                auto_decompress=False,
                read_bufsize=_READ_AHEAD,
            )
        )

    def _make_container(self, http: aiohttp.ClientSession) -> ContainerClient:
        settings = self._settings
        credential: AzureNamedKeyCredential | AzureSasCredential
        if settings.account_key is not None:
            assert settings.account is not None
            credential = AzureNamedKeyCredential(settings.account, settings.account_key)
        else:
            assert settings.sas_token is not None
            credential = AzureSasCredential(settings.sas_token)
        return ContainerClient(
            settings.endpoint,
            settings.container,
            credential=credential,
            transport=AioHttpTransport(
                session=http, session_owner=False, connection_timeout=_CONNECT_TIMEOUT, read_timeout=_IDLE_TIMEOUT
            ),
            retry_total=0,
            permit_redirects=False,
        )
