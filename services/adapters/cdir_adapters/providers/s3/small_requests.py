"""Requests with little to send and little to receive, over libcurl, driven by the event loop itself.

Waking a thread for each, or carrying headers through layers of Python, costs more than the exchange
(``bench/s3_client_cost.py``).
"""

from __future__ import annotations

import asyncio
import io
import itertools
import ssl
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

import pycurl

__all__ = ["ERROR_BODY", "Answer", "NoAnswer", "SmallRequests"]

ERROR_BODY: Final = 64 * 1024
"""Bytes of an error's body that are read; the service's own are far shorter."""
_IN_FLIGHT: Final = 128
"""Requests at once, and connections kept: as many as the layers above let through in batches."""
_RECEIVED_AT_ONCE: Final = 128 * 1024
_UNTRUSTED: Final = {pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT_BADFILE, pycurl.E_SSL_ISSUER_ERROR}


class Answer(NamedTuple):
    """What came. Names of headers are lower-case."""

    status: int
    headers: dict[str, str]
    data: bytes
    """The body, or as much of it as was to be read."""


class NoAnswer(Exception):
    """The service could not be reached, or the connection broke."""

    def __init__(self, code: int) -> None:
        super().__init__(f"libcurl's error {code}")
        self.untrusted = code in _UNTRUSTED
        """The server's certificate was refused."""


class _Exchange:
    """One request under way and what has come of its answer."""

    __slots__ = ("_kept", "_most", "_pieces", "_status", "head")

    def __init__(self, most: int) -> None:
        self.head = io.BytesIO()
        """Takes the lines of headers."""
        self._status = 0
        self._pieces: list[bytes] = []
        self._kept = 0
        self._most = most

    def take_body(self, piece: bytes) -> int:
        """Return how much was taken; fewer bytes than there are end the request."""
        if not self._pieces and self._read_status() >= 300:
            self._most = min(self._most, ERROR_BODY)
        taken = piece[: self._most - self._kept]
        self._pieces.append(taken)
        self._kept += len(taken)
        return len(taken)

    @property
    def is_full(self) -> bool:
        """Whether all that was to be read has come."""
        return self._kept == self._most

    def answer(self) -> Answer:
        headers = {}
        for line in self._head_lines()[1:]:
            name, colon, value = line.partition(":")
            if colon:
                headers[name.strip().lower()] = value.strip()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        return Answer(self._read_status(), headers, data)

    def _read_status(self) -> int:
        if not self._status:
            self._status = int(self._head_lines()[0].split(None, 2)[1])
        return self._status

    def _head_lines(self) -> list[str]:
        """The lines of the final answer; interim ones may have come before."""
        text = self.head.getvalue().decode(errors="replace").replace("\r\n", "\n")
        return text.rstrip().rpartition("\n\n")[2].split("\n")


class SmallRequests:
    """Connections that stay warm. ``connect`` and ``idle`` are limits in seconds; ``ca_file`` holds certificates to
    trust instead of the machine's. Follows no redirect; uses the proxy that the environment names."""

    def __init__(self, *, connect: int, idle: int, ca_file: str | None) -> None:
        self._connect = connect
        self._idle = idle
        trusted = ssl.get_default_verify_paths()
        self._ca_file = ca_file or trusted.cafile
        self._ca_path = None if ca_file else trusted.capath
        self._room = asyncio.Semaphore(_IN_FLIGHT)
        self._spare: defaultdict[str, list[pycurl.Curl]] = defaultdict(list)
        """Prepared by method."""
        self._multi = pycurl.AsyncCurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, _IN_FLIGHT)

    async def send(self, method: str, url: str, headers: Iterable[str], body: bytes | None, most: int) -> Answer:
        """Send a request and read at most ``most`` bytes of the answer's body; less of an error.

        ``headers`` are lines. Raises NoAnswer. A caller who leaves closes the connection.
        """
        async with self._room:
            spare = self._spare[method]
            handle = spare.pop() if spare else self._make(method)
            exchange = _Exchange(most)
            set_option = handle.setopt
            set_option(pycurl.URL, url)
            # a header without a value is one that the library would add by itself
            set_option(pycurl.HTTPHEADER, [*headers, "Content-Type:", "Expect:"])
            if body is not None:
                set_option(pycurl.POSTFIELDS, body)
            set_option(pycurl.HEADERFUNCTION, exchange.head.write)
            set_option(pycurl.WRITEFUNCTION, exchange.take_body)
            try:
                await self._multi.perform(handle)
            except pycurl.error as error:
                if not (error.args[0] == pycurl.E_WRITE_ERROR and exchange.is_full):
                    raise NoAnswer(error.args[0]) from None
            except asyncio.CancelledError:
                # the handle is not spare: it may still be let go of
                task = asyncio.current_task()
                if self._multi.closed and task is not None and not task.cancelling():
                    raise NoAnswer(pycurl.E_ABORTED_BY_CALLBACK) from None
                raise
            spare.append(handle)
            return exchange.answer()

    def _make(self, method: str) -> pycurl.Curl:
        handle = pycurl.Curl()
        set_option = handle.setopt
        set_option(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        set_option(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        set_option(pycurl.PATH_AS_IS, 1)
        set_option(pycurl.NOSIGNAL, 1)
        set_option(pycurl.BUFFERSIZE, _RECEIVED_AT_ONCE)
        set_option(pycurl.CONNECTTIMEOUT, self._connect)
        set_option(pycurl.LOW_SPEED_LIMIT, 1)
        set_option(pycurl.LOW_SPEED_TIME, self._idle)
        if self._ca_file is not None:
            set_option(pycurl.CAINFO, self._ca_file)
        if self._ca_path is not None:
            set_option(pycurl.CAPATH, self._ca_path)
        if method == "HEAD":
            set_option(pycurl.NOBODY, 1)
        elif method != "GET":
            set_option(pycurl.CUSTOMREQUEST, method)
        return handle

    async def aclose(self) -> None:
        """Close all connections; requests under way raise NoAnswer."""
        await self._multi.aclose()
        for handle in itertools.chain.from_iterable(self._spare.values()):
            handle.close()
        self._spare.clear()
