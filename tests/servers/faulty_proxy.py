"""A TCP proxy that misbehaves on request: cuts a connection after some bytes, resets it, delays it, refuses it.

It runs in the event loop of the test. The faults are plain attributes; they apply to bytes that pass after they were
set, on connections that are open and on new ones.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

__all__ = ["FaultyProxy", "faulty_proxy"]

_CHUNK = 64 * 1024


class FaultyProxy:
    """Passes bytes between clients and ``127.0.0.1:target_port``, with the faults set on it."""

    host = "127.0.0.1"

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.cut_answer_after: int | None = None
        """End the connection (FIN) once this many more bytes went to clients, counted over all connections."""
        self.cut_request_after: int | None = None
        """The same for bytes that clients send."""
        self.corrupt_request_at: int | None = None
        """Flip the bits of the byte that clients send after this many more bytes, once."""
        self.reset = False
        """Cut with a reset (RST) instead of a regular end."""
        self.delay = 0.0
        """Seconds to wait before each piece is passed on, in both directions."""
        self.refuse = False
        """Close new connections at once."""
        self.connections = 0
        """Connections accepted so far."""
        self.answered = 0
        """Bytes that went to clients so far."""
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def heal(self) -> None:
        """Take all faults away."""
        self.cut_answer_after = self.cut_request_after = self.corrupt_request_at = None
        self.delay = 0.0
        self.reset = self.refuse = False

    def drop_connections(self) -> None:
        """Cut every open connection now, with a reset when ``reset`` is set."""
        for writer in list(self._writers):
            self._cut(writer)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
        self.drop_connections()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        self._writers.add(writer)
        self.connections += 1
        upstream: asyncio.StreamWriter | None = None
        try:
            if self.refuse:
                return
            answers, upstream = await asyncio.open_connection("127.0.0.1", self.target_port)
            self._writers.add(upstream)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, upstream, "cut_request_after", writer))
                group.create_task(self._pass(answers, writer, "cut_answer_after", upstream))
        except* OSError:
            pass  # one side is gone; the other one is closed below
        finally:
            for end in (writer, upstream):
                if end is not None:
                    self._writers.discard(end)
                    end.close()
                    with suppress(OSError):
                        await end.wait_closed()

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, limit: str, other: asyncio.StreamWriter
    ) -> None:
        while piece := await source.read(_CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            if limit == "cut_request_after":
                piece = self._corrupted(piece)
            left: int | None = getattr(self, limit)
            if left is not None:
                piece, cut = piece[:left], len(piece) >= left
                setattr(self, limit, left - len(piece))
                if cut:
                    sink.write(piece)
                    await sink.drain()
                    self._cut(sink)
                    self._cut(other)
                    return
            sink.write(piece)
            if limit == "cut_answer_after":
                self.answered += len(piece)
            await sink.drain()
        if not sink.is_closing() and sink.can_write_eof():
            sink.write_eof()

    def _corrupted(self, piece: bytes) -> bytes:
        at = self.corrupt_request_at
        if at is None:
            return piece
        if at >= len(piece):
            self.corrupt_request_at = at - len(piece)
            return piece
        self.corrupt_request_at = None
        return piece[:at] + bytes([piece[at] ^ 0xFF]) + piece[at + 1 :]

    def _cut(self, writer: asyncio.StreamWriter) -> None:
        if self.reset:
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()


@asynccontextmanager
async def faulty_proxy(target_port: int) -> AsyncIterator[FaultyProxy]:
    """Start a proxy in front of a loopback port; it passes everything until told otherwise."""
    proxy = FaultyProxy(target_port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
