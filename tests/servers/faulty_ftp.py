"""A proxy before a real FTP server (in the clear) that understands commands and spoils what it is told to.

It runs in the event loop of the test. The faults are plain attributes and apply to what passes after they were set.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

__all__ = ["FaultyFtp", "faulty_ftp"]

_PORT = re.compile(rb"\(\|\|\|(\d+)\|\)")


class FaultyFtp:
    """Passes control and data connections on to ``127.0.0.1:target_port``, with the faults set on it."""

    host = "127.0.0.1"

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.commands: list[str] = []
        """Every command that came, without what follows the verb but for its first word."""
        self.connections = 0
        """Control connections so far."""
        self.greeting: bytes | None = None
        """Sent in place of the server's own greeting; the connection ends after it."""
        self.instead: dict[str, bytes] = {}
        """Answers to commands that the server does not get to see."""
        self.changed: dict[str, bytes] = {}
        """Last words in place of the server's own: the command has its effect, but the client hears otherwise."""
        self.lost: set[str] = set()
        """Commands that have their effect, but whose connection ends in place of the answer."""
        self.cut_download_after: int | None = None
        """End the data connection (FIN) after so many bytes to the client."""
        self.cut_upload_after: int | None = None
        """Reset both ends of the data connection after so many bytes from the client.

        Let it be more than the systems' buffers hold: a server that is reset before it has accepted the connection
        may wait for another one and never answer.
        """
        self.end_upload_after: int | None = None
        """Let the server see the end of the data connection (FIN) after so many bytes from the client."""
        self.body: bytes | None = None
        """What a data connection brings in place of what the server sends."""
        self._clients: set[asyncio.StreamWriter] = set()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def heal(self) -> None:
        """Take all faults away."""
        self.greeting = self.body = None
        self.cut_download_after = self.cut_upload_after = self.end_upload_after = None
        self.instead.clear()
        self.changed.clear()
        self.lost.clear()

    async def say(self, text: bytes) -> None:
        """Send this to every client, unasked, and end the control connections."""
        for writer in list(self._clients):
            writer.write(text)
            writer.close()

    async def start(self) -> None:
        server = await asyncio.start_server(self._control, self.host, 0)
        self._servers.append(server)
        self.port = server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and end every connection."""
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()

    def _remember(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._remember()
        self.connections += 1
        self._clients.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            if self.greeting is not None:
                writer.write(self.greeting)
                await writer.drain()
                return
            answers, upstream = await asyncio.open_connection(self.host, self.target_port)
            verbs: list[str] = ["greeting"]
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_commands(reader, writer, upstream, verbs))
                group.create_task(self._pass_answers(answers, writer, verbs))
        except* (OSError, _Ended):
            pass
        finally:
            self._clients.discard(writer)
            for end in (writer, upstream):
                if end is not None:
                    end.close()
                    with suppress(OSError):
                        await end.wait_closed()

    async def _pass_commands(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: asyncio.StreamWriter,
        verbs: list[str],
    ) -> None:
        while line := await reader.readline():
            verb = line.split()[0].decode().upper() if line.split() else ""
            self.commands.append(verb)
            if verb in self.instead:
                writer.write(self.instead[verb])
                await writer.drain()
                continue
            verbs.append(verb)
            upstream.write(line)
            await upstream.drain()
        raise _Ended

    async def _pass_answers(
        self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter, verbs: list[str]
    ) -> None:
        while line := await answers.readline():
            verb = verbs[-1]
            if re.match(rb"[2-5]\d\d ", line):
                if verb in self.lost:
                    raise _Ended
                line = self.changed.get(verb, line)
            if verb == "EPSV" and (match := _PORT.search(line)) is not None:
                line = line.replace(match[1], b"%d" % await self._stand_in(int(match[1])))
            writer.write(line)
            await writer.drain()
        raise _Ended

    async def _stand_in(self, real_port: int) -> int:
        """Listen for the one data connection that goes to a port of the server."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._remember()
            server.close()
            upstream: asyncio.StreamWriter | None = None
            try:
                source, upstream = await asyncio.open_connection(self.host, real_port)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._upload(reader, writer, upstream))
                    group.create_task(self._download(source, writer))
            except* (OSError, _Ended):
                pass
            finally:
                for end in (writer, upstream):
                    if end is not None:
                        end.close()
                        with suppress(OSError):
                            await end.wait_closed()

        server = await asyncio.start_server(serve, self.host, 0)
        self._servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _upload(
        self, reader: asyncio.StreamReader, client: asyncio.StreamWriter, upstream: asyncio.StreamWriter
    ) -> None:
        left = self.end_upload_after
        while piece := await reader.read(64 * 1024):
            if left is not None:
                piece, left = piece[:left], left - len(piece[:left])
            if self.cut_upload_after is not None:
                self.cut_upload_after -= len(piece)
                if self.cut_upload_after <= 0:
                    _reset(client)
                    _reset(upstream)
                    raise _Ended
            upstream.write(piece)
            await upstream.drain()
        upstream.close()

    async def _download(self, source: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        left = self.cut_download_after
        while piece := await source.read(64 * 1024):
            if self.body is not None:
                continue
            if left is not None:
                piece, left = piece[:left], left - len(piece[:left])
            client.write(piece)
            await client.drain()
        if self.body is not None:
            client.write(self.body)
            await client.drain()
        raise _Ended


class _Ended(Exception):
    """One side has ended a connection."""


def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def faulty_ftp(target_port: int) -> AsyncIterator[FaultyFtp]:
    """Start a proxy before a loopback port; it passes everything until told otherwise."""
    proxy = FaultyFtp(target_port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
