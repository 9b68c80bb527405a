"""One connection by HTTP/1.1, which carries one request at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import httptools

__all__ = ["ERROR_BODY", "Answer", "Connection", "NoAnswer"]

ERROR_BODY: Final = 64 * 1024
"""Bytes of an error's body that are read; the service's own are far shorter."""
_MOST_AROUND: Final = 128 * 1024
"""Bytes of an answer beside its body: interim answers, headers, what stands between chunks and behind them."""
_PER_BYTE: Final = 8
"""As many more for each byte of the body, as chunks of one byte take."""
_COPIED: Final = 64 * 1024
"""Up to this many bytes a body is joined to its head, since that takes less time than a second write."""
_WRITTEN_AT_ONCE: Final = 256 * 1024
"""Bytes of a body given to the socket at once, so that other transfers get their turn and none is copied whole."""
_NAMES_KEPT: Final = 256
_LONGEST_NAME_KEPT: Final = 64
_BODILESS: Final = frozenset({204, 304})

_names: dict[bytes, str] = {}
"""Names of headers as they came, to what they are called here."""


class Answer(NamedTuple):
    """What came. Names of headers are lower-case."""

    status: int
    headers: dict[str, str]
    data: bytes
    """The body, or as much of it as was to be read."""


class NoAnswer(Exception):
    """The service could not be reached, or the connection broke."""

    def __init__(self, why: str, *, untrusted: bool = False, unheard: bool = False) -> None:
        super().__init__(why)
        self.untrusted = untrusted
        """The server's certificate was refused."""
        self.unheard = unheard
        """The connection was closed before anything of an answer came."""


class _Unsound(Exception):
    """What comes is no answer that HTTP knows."""


class Connection(asyncio.Protocol):
    """``now`` tells the time of the loop; ``ended`` is called once, when the connection is closed."""

    __slots__ = (
        "_bodiless",
        "_complete",
        "_connect",
        "_ended",
        "_fields",
        "_headers",
        "_kept",
        "_most",
        "_now",
        "_parser",
        "_pending",
        "_pieces",
        "_received",
        "_room",
        "_status",
        "_to_the_end",
        "_transport",
        "_waiting",
        "moved",
        "on_header",
        "reusable",
    )

    def __init__(self, now: Callable[[], float], ended: Callable[[Connection], None]) -> None:
        self._now = now
        self._ended = ended
        self.moved = now()
        """When something came or went last, in the time of the loop."""
        self.reusable = False
        """Whether another request may be sent."""
        self._transport: Any = None
        self._waiting: asyncio.Future[None] | None = None
        """Of the request under way."""
        self._room: asyncio.Future[None] | None = None
        """While the socket takes no more."""
        self._pending = 0
        self._fields: dict[bytes, bytes] = {}
        self.on_header = self._fields.__setitem__
        self._begin(bodiless=False, connect=False, most=0)
        self._parser = self._make_parser()

    def _begin(self, *, bodiless: bool, connect: bool, most: int) -> None:
        self._bodiless = bodiless
        self._connect = connect
        self._most = most
        self._status = 0
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._kept = 0
        self._received = 0
        self._to_the_end = False
        self._complete = False

    def _make_parser(self) -> httptools.HttpResponseParser:
        parser = httptools.HttpResponseParser(self)
        # what services in use do; each is bounded by the length of what comes
        parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        return parser

    # ------------------------------------------------------------------ sending

    async def exchange(self, method: str, head: bytes, body: bytes | None, most: int) -> Answer:
        """Send a request and read at most ``most`` bytes of the answer's body, less of an error.

        Raises NoAnswer. A caller who leaves closes the connection.
        """
        self._begin(bodiless=method == "HEAD", connect=method == "CONNECT", most=most)
        self.reusable = False
        self.moved = self._now()
        waiting = self._waiting = asyncio.get_running_loop().create_future()
        try:
            if not body:
                self._transport.write(head)
            elif len(body) <= _COPIED:
                self._transport.write(head + body)
            else:
                self._transport.write(head)
                await self._write_slowly(body, waiting)
            await waiting
        except BaseException:
            self.close()
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # or the loop would say that nobody has looked at it
            raise
        finally:
            self._waiting = None
        pieces = self._pieces
        return Answer(self._status, self._headers, pieces[0] if len(pieces) == 1 else b"".join(pieces))

    async def _write_slowly(self, body: bytes, waiting: asyncio.Future[None]) -> None:
        """Hand over a body as the socket takes it; an answer that comes before ends it."""
        view = memoryview(body)
        for start in range(0, len(body), _WRITTEN_AT_ONCE):
            if self._room is not None:
                await asyncio.wait((self._room, waiting), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                # the rest of the body would be taken for the next request
                self.close()
                return
            self._transport.write(view[start : start + _WRITTEN_AT_ONCE])

    def pause_writing(self) -> None:
        if self._room is None:
            self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        self.moved = self._now()
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    # ------------------------------------------------------------------ receiving

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.reusable = True

    def data_received(self, data: bytes) -> None:
        self.moved = self._now()
        waiting = self._waiting
        if waiting is None or waiting.done():
            self.close()  # nobody has asked
            return
        self._received += len(data)
        sound = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            sound = False
        if self._complete:
            waiting.set_result(None)
            if not sound or not self.reusable:
                self.close()
            elif self._bodiless:
                # the parser still waits for a body
                self._parser = self._make_parser()
        elif not sound:
            self._fail("what came is no HTTP")
        elif self._received - self._kept > _MOST_AROUND + _PER_BYTE * self._kept:
            self._fail("the answer's headers have no end")

    def on_message_begin(self) -> None:
        if self._complete:
            raise _Unsound

    def on_headers_complete(self) -> None:
        status = self._status = self._parser.get_status_code()
        fields = self._fields
        headers = {}
        for field, value in fields.items():
            name = _names.get(field) or _name_of(field)
            headers[name] = value.decode(errors="replace")
        fields.clear()
        if status < 200:
            return
        self._headers = headers
        if status >= 300:
            self._most = min(self._most, ERROR_BODY)
        if self._bodiless or status in _BODILESS or (self._connect and status < 300):
            self._bodiless = self._complete = True
            # the parser would say no where no length is told of the body that is not there
            self.reusable = self._connect or (
                self._parser.get_http_version() != "1.0" and "close" not in headers.get("connection", "").lower()
            )
        else:
            self._to_the_end = "content-length" not in headers and "transfer-encoding" not in headers

    def on_body(self, piece: bytes) -> None:
        if self._complete or self._status < 200:
            raise _Unsound
        left = self._most - self._kept
        if len(piece) > left:
            piece = piece[:left]
            self._complete = True
        self._kept += len(piece)
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        self._fields.clear()  # of those behind the body nothing is wanted
        if self._status >= 200 and not self._complete:
            self._complete = True
            self.reusable = self._parser.should_keep_alive()

    def connection_lost(self, error: Exception | None) -> None:
        waiting = self._waiting
        self.reusable = False
        if waiting is not None and not waiting.done():
            if self._to_the_end and error is None:
                waiting.set_result(None)
            else:
                waiting.set_exception(NoAnswer("the connection was closed", unheard=not self._received))
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._ended(self)

    def _fail(self, why: str) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(NoAnswer(why))
        self.close()

    # ------------------------------------------------------------------ the connection

    def give_up_after(self, idle: float) -> None:
        """Close the connection when nothing has come or gone for so many seconds."""
        pending = self._transport.get_write_buffer_size()
        if pending != self._pending:
            self._pending = pending
            self.moved = self._now()
        elif self._now() - self.moved > idle:
            self._fail("nothing came any more")

    def close(self) -> None:
        """Close the connection now; a request under way raises NoAnswer."""
        self.reusable = self._to_the_end = False
        self._transport.abort()

    async def encrypt(self, trusted: Any, host: str) -> None:
        """Go on by TLS, behind a proxy."""
        loop = asyncio.get_running_loop()
        self._transport = await loop.start_tls(self._transport, self, trusted, server_hostname=host)


def _name_of(field: bytes) -> str:
    name = field.decode(errors="replace").strip().lower()
    if len(_names) < _NAMES_KEPT and len(field) <= _LONGEST_NAME_KEPT:
        _names[field] = name
    return name
