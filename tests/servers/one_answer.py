"""A server in the event loop of the test that gives the same answer to everything."""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

__all__ = ["serving"]


@asynccontextmanager
async def serving(
    answer: Callable[[web.BaseRequest], web.StreamResponse | Awaitable[web.StreamResponse]],
    *,
    certificate: Path | None = None,
) -> AsyncIterator[tuple[str, list[web.BaseRequest]]]:
    """A server that gives the same answer to everything; yields its address and what it was asked.

    With a file that holds a certificate and its key, it speaks TLS.
    """
    asked: list[web.BaseRequest] = []
    transports: set[asyncio.Transport] = set()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request)
        if request.transport is not None:
            transports.add(request.transport)
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # the client waits for that with its body
        while await request.content.readany():
            pass
        answered = answer(request)
        return await answered if inspect.isawaitable(answered) else answered

    tls = None
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()
        for transport in transports:
            # of TLS, one that waits for the client to say goodbye
            transport.abort()
        await asyncio.sleep(0)
