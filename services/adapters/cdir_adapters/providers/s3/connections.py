"""The clients of one provider, made when first needed and kept: their connections stay warm."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiobotocore.config
import aiobotocore.session
import aiohttp
import botocore.exceptions
import botocore.handlers
from aiobotocore.awsrequest import AioAWSResponse
from aiobotocore.httpsession import AIOHTTPSession
from botocore.credentials import ReadOnlyCredentials
from yarl import URL

from cdir.errors import ConfigInvalid
from cdir_adapters.providers.s3.descriptions import descriptions
from cdir_adapters.providers.s3.exchange import ERROR_BODY, Answer
from cdir_adapters.providers.s3.faults import LONGEST_ANSWER, Redirected
from cdir_adapters.providers.s3.headers import parse_time
from cdir_adapters.providers.s3.settings import S3Settings
from cdir_adapters.providers.s3.signing import (
    UNSIGNED,
    HeaderSigner,
    SignedRequest,
    metadata_headers,
    sign_as_sent,
    sign_old,
)
from cdir_adapters.providers.s3.small_requests import SmallRequests
from cdir_adapters.providers.s3.threads import RangeReaders
from cdir_adapters.proxies import proxy_for
from cdir_runtime.inline_hash import hash_inline

__all__ = ["Connections"]

_METHODS = {"get_object": "GET", "put_object": "PUT", "upload_part": "PUT"}
_QUERY = {"PartNumber": "partNumber", "UploadId": "uploadId"}
"""Parameters of operations that stand in the URL."""

_CONNECT_TIMEOUT = 10
"""Seconds until a connection attempt is given up."""
_IDLE_TIMEOUT = 60
"""Seconds without a byte after which a connection counts as lost. A limit for a whole call is a layer's matter."""
_INLINE_DIGEST = 256 * 1024
"""Up to this many bytes a digest takes less time than handing it to a thread is worth."""
_POOL = 32
"""Connections kept for aiobotocore."""


async def _refuse_redirect(_: object, __: object, told: aiohttp.TraceRequestRedirectParams) -> None:
    told.response.close()
    raise Redirected(told.response.status)


_NO_REDIRECTS = aiohttp.TraceConfig()
"""Else aiohttp follows them, and leaves out the signature but not a session token."""
_NO_REDIRECTS.on_request_redirect.append(_refuse_redirect)
_NO_REDIRECTS.freeze()


class _Body:
    """The body of an answer that is read whole; the library would read one of any length."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def read(self) -> bytes:
        """Return all of it. Of an error, one that is too long says nothing."""
        limit = ERROR_BODY if self._answer.status >= 300 else LONGEST_ANSWER
        body = bytearray()
        while piece := await self._answer.content.readany():
            body += piece
            if len(body) > limit:
                self._answer.close()
                if self._answer.status < 300:
                    raise aiohttp.ClientPayloadError("the answer is too long")
                return b""
        return bytes(body)


class _Session(AIOHTTPSession):  # type: ignore[misc] # the library has no types
    """What aiobotocore sends its requests by: it follows no redirect, and keeps no answer without end."""

    async def _get_session(self, proxy_url: str | None) -> aiohttp.ClientSession:
        session: aiohttp.ClientSession = await super()._get_session(proxy_url)
        if _NO_REDIRECTS not in session.trace_configs:
            session.trace_configs.append(_NO_REDIRECTS)
        return session

    async def send(self, request: Any) -> Any:
        # else the body is read before it can be seen
        request.stream_output = True
        try:
            answer = await super().send(request)
        except botocore.exceptions.HTTPClientError as error:
            cause = error.kwargs.get("error")
            raise cause if isinstance(cause, Redirected) else error from None
        whole = AioAWSResponse(answer.url, answer.status_code, answer.headers, _Body(answer.raw))
        await whole.content
        return whole


class _Small(NamedTuple):
    """What sends small requests to one bucket."""

    requests: SmallRequests
    path: str
    """That of the bucket, empty where the host names it."""
    encrypted: bool
    signer: HeaderSigner


class Connections:
    """Clients of all libraries. None of them retries: exactly one layer above does."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._given = None
        if settings.access_key is not None:
            self._given = ReadOnlyCredentials(settings.access_key, settings.secret_key, settings.session_token)
        self._session = aiobotocore.session.AioSession()
        self._small: _Small | None = None
        self._client: Any = None
        self._http: aiohttp.ClientSession | None = None
        self._range_readers: RangeReaders | None = None
        self._making = asyncio.Lock()
        self._closing = contextlib.AsyncExitStack()

    async def client(self) -> Any:
        """The aiobotocore client."""
        if self._client is None:
            async with self._making:
                if self._client is None:
                    self._client = await self._make_client()
        return self._client

    async def send(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes | None,
        most: int,
        *,
        repeatable: bool = True,
    ) -> Answer:
        """Send a small request, signed by version 4; ``path`` is that in the bucket. Raises NoAnswer.

        Headers of the service's own have names in lower case. Of a body that succeeds, at most ``most`` bytes are read.
        One that is ``repeatable`` has the same outcome however often it is sent.
        """
        if self._small is None:
            client = await self.client()
            async with self._making:
                if self._small is None:
                    self._small = await self._make_small(client.meta.endpoint_url)
        small = self._small
        digest = UNSIGNED
        if body is not None and not small.encrypted:  # nothing else protects the body
            if len(body) <= _INLINE_DIGEST:
                digest = hash_inline(hashlib.sha256, body).hexdigest()
            else:
                digest = await asyncio.to_thread(lambda: hashlib.sha256(body).hexdigest())
        path = f"{small.path}{path}" or "/"
        lines = small.signer.sign(method, path, query, headers, digest, self._given or await self._credentials())
        target = f"{path}?{query}" if query else path
        return await small.requests.send(method, target, lines, body, most, repeatable=repeatable)

    async def _make_small(self, endpoint: str) -> _Small:
        settings = self._settings
        parts = urlsplit(endpoint)
        encrypted = parts.scheme == "https"
        host = parts.netloc.removesuffix(":443" if encrypted else ":80")
        path = parts.path.rstrip("/")
        if settings.path_style:
            path += f"/{settings.bucket}"
        else:
            host = f"{settings.bucket}.{host}"
        origin = URL(f"{parts.scheme}://{host}")
        proxy = proxy_for(origin)
        if proxy is not None and proxy.scheme not in {"http", "https"}:
            raise ConfigInvalid(
                f"s3: the proxy in the environment variable {parts.scheme}_proxy must be an http or https one, not"
                f" {proxy.scheme}"
            )
        trusted = None
        if encrypted or (proxy is not None and proxy.scheme == "https"):
            trusted = await self._trusted() or await asyncio.to_thread(ssl.create_default_context)
        requests = SmallRequests(origin, connect=_CONNECT_TIMEOUT, idle=_IDLE_TIMEOUT, trusted=trusted, proxy=proxy)
        self._closing.callback(requests.close)
        return _Small(requests, path, encrypted, HeaderSigner(settings.region, host))

    async def http(self) -> aiohttp.ClientSession:
        """A plain HTTP client to store with, for what :meth:`signed` makes."""
        if self._http is None:
            client = await self.client()
            async with self._making:
                if self._http is None:
                    trusted = await self._trusted()
                    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT, sock_read=_IDLE_TIMEOUT)
                    self._http = await self._closing.enter_async_context(
                        aiohttp.ClientSession(
                            timeout=timeout,
                            connector=aiohttp.TCPConnector(limit=_POOL, ssl=trusted or True),
                            proxy=proxy_for(URL(client.meta.endpoint_url)),
                            cookie_jar=aiohttp.DummyCookieJar(),
                        )
                    )
        return self._http

    @property
    def range_readers(self) -> RangeReaders:
        """Threads to read with, for what :meth:`signed` makes."""
        if self._range_readers is None:
            self._range_readers = RangeReaders(
                connect=_CONNECT_TIMEOUT, idle=_IDLE_TIMEOUT, ca_file=self._settings.ca_file
            )
            self._closing.callback(self._range_readers.close)
        return self._range_readers

    @property
    def headers_are_signed(self) -> bool:
        """Whether what :meth:`signed` makes is good for its headers alone."""
        return self._settings.signature_v2

    async def signed(
        self,
        operation: str,
        key: str,
        *,
        valid: int,
        headers: Mapping[str, str] = MappingProxyType({}),
        metadata: Mapping[str, str] = MappingProxyType({}),
        **parameters: str | int,
    ) -> SignedRequest:
        """Sign a request for :meth:`http`.

        ``operation`` and ``parameters`` are named as in aiobotocore; ``headers`` are sent too, without being signed,
        and must not be of the kind that is signed. The request must reach the service within ``valid`` seconds (by
        version 2: a quarter of an hour, whatever was asked for).
        """
        client = await self.client()
        settings = self._settings
        if settings.signature_v2:
            return sign_old(
                _METHODS[operation],
                client.meta.endpoint_url,
                settings.bucket,
                key,
                path_style=settings.path_style,
                query={_QUERY[name]: str(value) for name, value in parameters.items()},
                headers={**headers, **metadata_headers(metadata)},
                credentials=await self._credentials(),
            )
        named: dict[str, Any] = {"Bucket": settings.bucket, "Key": key, **parameters}
        if metadata:
            named["Metadata"] = dict(metadata)
        url = await client.generate_presigned_url(operation, Params=named, ExpiresIn=valid)
        return SignedRequest(URL(url, encoded=True), {**headers, **metadata_headers(metadata)})

    async def _credentials(self) -> ReadOnlyCredentials:
        if self._given is not None:
            return self._given
        found = await self._session.get_credentials()
        if found is None:
            raise botocore.exceptions.NoCredentialsError
        # the library asks the machine again before they expire
        return await found.get_frozen_credentials()

    async def aclose(self) -> None:
        """Close what was opened. Idempotent."""
        await self._closing.aclose()
        self._client = self._http = self._small = self._range_readers = None

    async def _trusted(self) -> ssl.SSLContext | None:
        """Whose certificates to trust, ``None`` for those the machine does. Raises ConfigInvalid."""
        ca_file = self._settings.ca_file
        if ca_file is None:
            return None
        try:
            return await asyncio.to_thread(ssl.create_default_context, cafile=ca_file)
        except OSError as error:
            raise ConfigInvalid(
                f"s3: ca_file {ca_file} cannot be used: {error.strerror or 'no certificates'}", option="ca_file"
            ) from None

    async def _make_client(self) -> Any:
        await self._trusted()
        self._session.register_component("data_loader", await asyncio.to_thread(descriptions))
        # a time that cannot be read is one that is not told, no reason to fail
        self._session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse_time)
        settings = self._settings
        config = aiobotocore.config.AioConfig(
            signature_version="s3" if settings.signature_v2 else "s3v4",
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=_IDLE_TIMEOUT,
            max_pool_connections=_POOL,
            retries={"total_max_attempts": 1, "mode": "standard"},
            # trailing checksums, the default since 2025, are refused or stored as content by older services
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            http_session_cls=_Session,
            s3={"addressing_style": "path" if settings.path_style else "virtual"},
        )
        client = await self._closing.enter_async_context(
            self._session.create_client(
                "s3",
                region_name=settings.region,
                endpoint_url=settings.endpoint,
                verify=settings.ca_file,
                aws_access_key_id=settings.access_key,
                aws_secret_access_key=settings.secret_key,
                aws_session_token=settings.session_token,
                config=config,
            )
        )
        events = client.meta.events
        if settings.signature_v2 and settings.path_style:
            events.register("before-sign.s3", sign_as_sent)
        if not settings.profile.list_url_encoded:
            for operation in ("ListObjects", "ListObjectsV2"):
                events.unregister(
                    f"before-parameter-build.s3.{operation}", botocore.handlers.set_list_objects_encoding_type_url
                )
        return client
