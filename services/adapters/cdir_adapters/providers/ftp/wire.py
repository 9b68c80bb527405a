"""One control connection and the data connections that belong to it: commands, replies, transfers.

Nothing here knows files. A refusal raises :class:`Refusal` and leaves the connection in order; whatever else goes wrong
is an OSError, after which it is of no further use.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import ssl
from typing import Any

from cdir_adapters.providers.ftp.faults import ConnectionLost, Refusal
from cdir_adapters.providers.ftp.security import ResumingContext, certificate_of

__all__ = ["Control", "Data", "Reply"]

_LINE_LIMIT = 16 * 1024
_REPLY_LIMIT = 64 * 1024
"""Bytes of one reply. The longest in good order is a list of features."""
_READ_AHEAD = 512 * 1024
"""Bytes of a data connection that are taken in before they are wanted, twice this at most."""
_WRITE_BEHIND = 1024 * 1024
"""Bytes waiting to be sent before a writer is made to wait."""
_CONNECT_DEADLINE = 15.0
_HANDSHAKE_DEADLINE = 15.0
_SETTLE_DEADLINE = 10.0
"""Seconds that a server gets to notice that a transfer was given up."""

_EXTENDED = re.compile(r"\(([!-~])\1\1(\d{1,5})\1\)")
_PASSIVE = re.compile(r"(?:\d{1,3},){4}(\d{1,3}),(\d{1,3})")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """One reply. ``lines`` are without the code in front, and undecodable bytes in them are surrogates."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The first line that says something, fit for a message."""
        return _UNPRINTABLE.sub(" ", next((line.strip() for line in self.lines if line.strip()), ""))[:200]


class Control:
    """A control connection. One command, or one transfer, at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host
        self._context: ssl.SSLContext | None = None
        self._protects_data = False
        self._extended = True
        self._pending = 0
        self._lost = False

    @classmethod
    async def connect(cls, host: str, port: int, implicit: ssl.SSLContext | None = None) -> Control:
        """Connect, at once under TLS where a context is given. The greeting is the first reply. Raises OSError."""
        async with asyncio.timeout(_CONNECT_DEADLINE):
            if implicit is None:
                reader, writer = await asyncio.open_connection(host, port, limit=_LINE_LIMIT)
            else:
                reader, writer = await asyncio.open_connection(
                    host, port, limit=_LINE_LIMIT, ssl=implicit, server_hostname=host
                )
        control = cls(reader, writer, host)
        control._context = implicit
        control._pending = 1
        return control

    # ------------------------------------------------------------------ state

    @property
    def usable(self) -> bool:
        """It can take the next command: nothing is lost, and no reply is owed."""
        return not self._lost and not self._pending and not self._writer.is_closing() and not self._reader.at_eof()

    @property
    def tls(self) -> Any:
        """The ``ssl.SSLObject``; ``None`` in the clear."""
        return self._writer.get_extra_info("ssl_object")

    async def is_quiet(self) -> bool:
        """Tell whether nothing has come that was not asked for: an end, or a goodbye to an idle client."""
        for _ in range(2):
            await asyncio.sleep(0)  # what has arrived by now is taken in by then
        try:
            async with asyncio.timeout(0):
                await self._reader.read(1)
        except TimeoutError:
            return self.usable
        except OSError:
            pass
        self._lost = True
        return False

    def discard(self) -> None:
        """End the connection without a word."""
        self._lost = True
        _abort(self._writer)

    async def aclose(self) -> None:
        """Say goodbye and end the connection; the server need not answer."""
        if self.usable:
            with contextlib.suppress(OSError):
                self._writer.write(b"QUIT\r\n")
                await self._writer.drain()
        self._lost = True
        self._writer.close()
        try:
            async with asyncio.timeout(2):
                await self._writer.wait_closed()
        except OSError:
            _abort(self._writer)

    # ------------------------------------------------------------------ commands

    async def command(self, verb: str, argument: str = "", *, accept: str = "2") -> Reply:
        """Send a command and return its reply, whose code begins with a digit of ``accept``. Raises Refusal."""
        await self._send(verb, argument)
        return await self._answer(verb, accept)

    async def greeting(self) -> Reply:
        """The server's first reply. Raises Refusal."""
        return await self._answer("the connection", "2")

    async def _send(self, verb: str, argument: str = "") -> None:
        line = f"{verb} {argument}" if argument else verb
        assert not {"\r", "\n", "\0"} & set(line), "a command is one line"
        if self._lost or self._writer.is_closing():
            raise ConnectionLost("the connection is closed")
        self._pending += 1
        self._writer.write(line.encode("utf-8", "surrogateescape") + b"\r\n")
        await self._writer.drain()

    async def _answer(self, verb: str, accept: str) -> Reply:
        reply = await self._reply()
        if str(reply.code)[0] not in accept:
            raise Refusal(verb, reply.code, reply.text)
        return reply

    async def _reply(self) -> Reply:
        lines = [await self._line()]
        taken = len(lines[0])
        start = lines[0][:4]
        if not re.fullmatch(r"[1-5][0-9]{2}[ -]?", start):
            raise self._nonsense(lines[0])
        code = start[:3]
        while start[3:] == "-" and not (len(lines) > 1 and lines[-1].startswith(f"{code} ")):
            lines.append(await self._line())
            taken += len(lines[-1])
            if taken > _REPLY_LIMIT:
                raise self._nonsense("a reply without an end")
        if code[0] != "1":
            self._pending -= 1
        texts = [line[4:] if line[:4] in {f"{code} ", f"{code}-"} else line for line in lines]
        reply = Reply(int(code), tuple(texts))
        if reply.code == 421:
            self.discard()
            raise ConnectionLost(f"the server says goodbye: {reply.text}")
        return reply

    def _nonsense(self, line: str) -> ConnectionLost:
        self.discard()
        return ConnectionLost(f"this is no FTP: {_UNPRINTABLE.sub(' ', line)[:60]!r}")

    async def _line(self) -> str:
        try:
            line = await self._reader.readline()
        except ValueError:
            raise self._nonsense("a line without an end") from None
        if not line.endswith(b"\n"):
            self._lost = True
            raise ConnectionLost("the server has closed the connection")
        # only what ends the line is taken off: names may end with a space
        return line[:-1].removesuffix(b"\r").decode("utf-8", "surrogateescape")

    async def settle(self) -> None:
        """Wait until no reply is owed, for a limited time. Raises OSError, and then it is of no further use."""
        try:
            async with asyncio.timeout(_SETTLE_DEADLINE):
                while self._pending:
                    await self._reply()
        except OSError:
            self.discard()
            raise

    # ------------------------------------------------------------------ TLS

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Go on under TLS, after the server agreed. Raises OSError."""
        if not await self.is_quiet():
            # somebody on the way may have put in what would later pass for an answer of the server
            raise self._nonsense("something came between the consent to TLS and its start")
        await self._writer.start_tls(context, server_hostname=self._host, ssl_handshake_timeout=_HANDSHAKE_DEADLINE)
        self._context = context

    async def protect_data(self) -> None:
        """Have data connections under TLS too. Raises Refusal."""
        await self.command("PBSZ", "0")
        await self.command("PROT", "P")
        self._protects_data = True

    # ------------------------------------------------------------------ transfers

    async def open_data(self, verb: str, argument: str = "", *, offset: int = 0) -> Data:
        """Begin a transfer. With an ``offset`` the server skips that many bytes. Raises Refusal, also of REST."""
        port = await self._passive_port()
        # whatever address the server names: data goes where the commands go, and nowhere else
        peer: str = self._writer.get_extra_info("peername")[0]
        async with asyncio.timeout(_CONNECT_DEADLINE):
            reader, writer = await asyncio.open_connection(peer, port, limit=_READ_AHEAD)
        data = Data(self, verb, reader, writer)
        try:
            if offset:
                await self.command("REST", str(offset), accept="3")
            await self._send(verb, argument)
            reply = await self._answer(verb, "12")
            data.ended = reply.code >= 200  # it had nothing to send
            if self._protects_data and not data.ended:
                await self._protect(writer)
        except BaseException:
            _abort(writer)
            raise
        writer.transport.set_write_buffer_limits(high=_WRITE_BEHIND)
        return data

    async def _protect(self, writer: asyncio.StreamWriter) -> None:
        assert self._context is not None
        tls = self.tls
        await writer.start_tls(
            ResumingContext(self._context, tls.session),
            server_hostname=self._host,
            ssl_handshake_timeout=_HANDSHAKE_DEADLINE,
        )
        if certificate_of(writer.get_extra_info("ssl_object")) != certificate_of(tls):
            raise ConnectionLost("the data connection shows another certificate than the control connection")

    async def _passive_port(self) -> int:
        if self._extended:
            try:
                reply = await self.command("EPSV")
            except Refusal as refusal:
                if refusal.code < 500:
                    raise
                self._extended = False
            else:
                match = _EXTENDED.search(reply.text)
                if match is None or not 0 < int(match[2]) < 65536:
                    raise self._nonsense(reply.text)
                return int(match[2])
        reply = await self.command("PASV")
        match = _PASSIVE.search(reply.text)
        if match is None or not 0 < (port := int(match[1]) * 256 + int(match[2])) < 65536:
            raise self._nonsense(reply.text)
        return port

    async def end_of_transfer(self, verb: str) -> Reply:
        """The reply after the last byte. Raises Refusal."""
        return await self._answer(verb, "2")


class Data:
    """One transfer: either ``read`` until it gives nothing, or ``write`` and then ``finish``. Always ``abandon`` it in
    the end."""

    def __init__(self, control: Control, verb: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ended = False
        """The server has had its last word about the transfer."""
        self._control = control
        self._verb = verb
        self._reader = reader
        self._writer = writer

    async def read(self, most: int) -> bytes:
        """The next bytes; none at the end."""
        return await self._reader.read(most)

    async def write(self, data: bytes) -> None:
        """Send bytes. Raises Refusal when the server has ended the transfer and says why."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError:
            await self._hear_why()
            raise

    async def _hear_why(self) -> None:
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_SETTLE_DEADLINE):
                await self._control.end_of_transfer(self._verb)
                self.ended = True

    async def finish(self) -> Reply | None:
        """End the transfer in good order. The server confirms it, else Refusal is raised."""
        if self.ended:
            return None
        try:
            # not 0: asyncio's TLS takes an empty buffer for a full one then, and waits for ever
            self._writer.transport.set_write_buffer_limits(high=1, low=0)
            await self._writer.drain()
        except OSError:
            await self._hear_why()
            raise
        self._writer.close()
        reply = await self._control.end_of_transfer(self._verb)
        self.ended = True
        return reply

    def abandon(self) -> None:
        """End the data connection, whatever is under way. The server's last word may still be owed:
        :meth:`Control.settle`."""
        _abort(self._writer)


def _abort(writer: asyncio.StreamWriter) -> None:
    """End a connection at once; that it has ended already is no error."""
    # the first releases of Python 3.11 fail here when a TLS connection was closed before
    with contextlib.suppress(AttributeError):
        writer.transport.abort()
