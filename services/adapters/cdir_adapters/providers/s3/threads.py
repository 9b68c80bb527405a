"""Large ranges, each read by a thread that blocks.

A body that passes through an event loop costs it a call for every hundred kilobytes, and a copy or two. A blocking read
of the whole range costs the interpreter next to nothing: the kernel fills the bytes that are handed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import urllib3

from cdir_adapters.providers.s3.signing import SignedRequest

__all__ = ["Answer", "RangeReaders"]

_THREADS: Final = 16
_ERROR_BODY: Final = 64 * 1024


class Answer(NamedTuple):
    """What came: of an answer that is no success, the beginning of its body."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class _Reading:
    """One request; the loop may end it while its thread is reading."""

    def __init__(self) -> None:
        self._response: urllib3.BaseHTTPResponse | None = None
        self._stopped = False

    def run(self, pool: urllib3.PoolManager, request: SignedRequest, most: int | None) -> Answer:
        response = pool.request(
            "GET",
            str(request.url),
            headers=dict(request.headers),
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
        )
        self._response = response
        try:
            if self._stopped:
                raise urllib3.exceptions.HTTPError("nobody waits for the answer any more")
            whole = response.status in {200, 206}
            data = response.read(most if whole else _ERROR_BODY, decode_content=False)
            if response.length_remaining and (most is None or len(data) < most) and whole:
                # asked for a number of bytes, the library takes the end of the connection for that of the body
                raise urllib3.exceptions.IncompleteRead(len(data), response.length_remaining)
            answer = Answer(response.status, response.headers, data)
        finally:
            self._response = None
            if response.length_remaining == 0:
                response.release_conn()
            else:
                response.close()
        return answer

    def stop(self) -> None:
        self._stopped = True
        response = self._response
        if response is not None:
            with contextlib.suppress(Exception):  # it ended by itself just now
                response.shutdown()


class RangeReaders:
    """Threads with connections that stay warm, to one service. ``connect`` and ``idle`` are limits in seconds."""

    def __init__(self, *, connect: float, idle: float) -> None:
        self._timeout = urllib3.Timeout(connect=connect, read=idle)
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._threads = ThreadPoolExecutor(_THREADS, "s3-range")

    async def get(self, request: SignedRequest, most: int | None) -> Answer:
        """Send a request and read at most ``most`` bytes of the answer, ``None`` for all.

        Raises what urllib3 raises. A caller who leaves closes the connection, at the latest when the answer begins.
        """
        reading = _Reading()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._get, reading, request, most)
        except asyncio.CancelledError:
            reading.stop()
            raise

    def _get(self, reading: _Reading, request: SignedRequest, most: int | None) -> Answer:
        proxy = _proxy_of(request)
        pool = self._pools.get(proxy)
        if pool is None:
            # reads the certificates of the machine
            make = functools.partial(urllib3.ProxyManager, proxy) if proxy else urllib3.PoolManager
            pool = make(maxsize=_THREADS, timeout=self._timeout, ssl_context=ssl.create_default_context())
            pool = self._pools.setdefault(proxy, pool)
        return reading.run(pool, request, most)

    def close(self) -> None:
        """Let the threads end; connections in use close with them."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for pool in self._pools.values():
            pool.clear()


def _proxy_of(request: SignedRequest) -> str:
    """Return the proxy that the environment names for a request; empty for none."""
    host = request.url.host or ""
    if urllib.request.proxy_bypass(f"{host}:{request.url.port}"):
        return ""
    return urllib.request.getproxies().get(request.url.scheme, "")
