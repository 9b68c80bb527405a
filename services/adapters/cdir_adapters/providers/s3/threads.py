"""Large ranges, each read by threads that block.

A body that passes through an event loop costs it a call for every hundred kilobytes, and a copy or two. A blocking read
of megabytes at once costs the interpreter next to nothing: the kernel fills the bytes that are handed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

import urllib3

from cdir_adapters.providers.s3.exchange import Answer
from cdir_adapters.providers.s3.signing import SignedRequest
from cdir_adapters.proxies import proxy_for

__all__ = ["LargeBody", "RangeReaders"]

T = TypeVar("T")

_THREADS: Final = 16
_ERROR_BODY: Final = 64 * 1024


class _Reading:
    """One request. Its methods block, each in whatever thread; the loop may :meth:`leave` at any time."""

    def __init__(self) -> None:
        self._response: urllib3.BaseHTTPResponse | None = None
        self._lock = threading.Lock()
        self._busy = False
        self._left = False

    def begin(self, pool: urllib3.PoolManager, request: SignedRequest, most: int | None) -> Answer:
        """Send the request and read at most ``most`` bytes of the body, ``None`` for all."""
        with self._working():
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
            if self._left:
                raise urllib3.exceptions.HTTPError("nobody waits for the answer any more")
            whole = response.status in {200, 206}
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, headers, self._take(most if whole else _ERROR_BODY, whole))

    def more(self, most: int) -> bytes:
        """Read at most ``most`` further bytes; nothing at the end of the body."""
        with self._working():
            return self._take(most, whole=True)

    def leave(self) -> None:
        """Let go of the connection, and keep it when its answer was read to the end; wakes a thread that reads."""
        with self._lock:
            if not self._left:
                self._left = True
                if not self._busy:
                    self._close()
                elif self._response is not None:
                    with contextlib.suppress(Exception):  # it ended by itself just now
                        self._response.shutdown()

    def _take(self, most: int | None, whole: bool) -> bytes:
        assert self._response is not None
        data = b"" if most == 0 else self._response.read(most, decode_content=False)
        missing = self._response.length_remaining
        if whole and missing and (most is None or len(data) < most):
            # asked for a number of bytes, the library takes the end of the connection for that of the body
            raise urllib3.exceptions.IncompleteRead(len(data), missing)
        return data

    @contextmanager
    def _working(self) -> Iterator[None]:
        with self._lock:
            if self._left:
                raise urllib3.exceptions.HTTPError("nobody waits for the answer any more")
            self._busy = True
        try:
            yield
        finally:
            with self._lock:
                self._busy = False
                if self._left:
                    self._close()

    def _close(self) -> None:
        if self._response is None:
            return
        if self._response.length_remaining == 0:
            # reads nothing more; but an empty body that nobody has asked for counts as one that is still read
            self._response.drain_conn()
            self._response.release_conn()
        else:
            self._response.close()


class LargeBody:
    """An answer whose body is read as it is wanted, a few megabytes at a time."""

    def __init__(self, readers: RangeReaders, reading: _Reading, begun: Answer) -> None:
        self.begun = begun
        """Status and headers; of an answer that is no success, the beginning of its body too."""
        self._readers = readers
        self._reading = reading

    async def read(self, most: int) -> bytes:
        """Return at most ``most`` further bytes, fewer only at the end of the body. Raises what urllib3 raises."""
        return await self._readers._in_thread(functools.partial(self._reading.more, most))


class RangeReaders:
    """Threads with connections that stay warm, to one service. ``connect`` and ``idle`` are limits in seconds.

    ``ca_file`` holds certificates to trust instead of the machine's.
    """

    def __init__(self, *, connect: float, idle: float, ca_file: str | None = None) -> None:
        self._ca_file = ca_file
        self._timeout = urllib3.Timeout(connect=connect, read=idle)
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._threads = ThreadPoolExecutor(_THREADS, "s3-range")

    async def get(self, request: SignedRequest, most: int | None) -> Answer:
        """Send a request and read at most ``most`` bytes of the answer, ``None`` for all.

        Raises what urllib3 raises. A caller who leaves closes the connection, at the latest when the answer begins.
        """
        reading = _Reading()
        try:
            return await self._in_thread(lambda: reading.begin(self._pool_for(request), request, most))
        finally:
            reading.leave()

    @asynccontextmanager
    async def open(self, request: SignedRequest) -> AsyncIterator[LargeBody]:
        """Send a request and hand out the answer when it begins; errors and leaving as in :meth:`get`."""
        reading = _Reading()
        try:
            begun = await self._in_thread(lambda: reading.begin(self._pool_for(request), request, 0))
            yield LargeBody(self, reading, begun)
        finally:
            reading.leave()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _pool_for(self, request: SignedRequest) -> urllib3.PoolManager:
        proxy = str(proxy_for(request.url) or "")
        pool = self._pools.get(proxy)
        if pool is None:
            # reads the certificates of the machine, which takes a while
            encrypted = "https" in {request.url.scheme, proxy.partition(":")[0]}
            trusted = ssl.create_default_context(cafile=self._ca_file) if encrypted else None
            make = functools.partial(urllib3.ProxyManager, proxy) if proxy else urllib3.PoolManager
            pool = make(maxsize=_THREADS, timeout=self._timeout, ssl_context=trusted)
            pool = self._pools.setdefault(proxy, pool)
        return pool

    def close(self) -> None:
        """Let the threads end; connections in use close with them."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for pool in self._pools.values():
            pool.clear()
