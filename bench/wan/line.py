"""An emulated wide-area line to one HTTP server, run as a process of its own.

The first line on standard input is the set-up, every further one a command, each answered by one line on standard
output; all are JSON. The process ends with its standard input.

Modelled: half a round trip each way, one round trip to connect, a rate each way that all connections share, a rate that
no connection exceeds, and the faults of :data:`FAULTS`. Not modelled: loss, slow start, queues that overflow. Requests
are written down in the order in which they leave the client.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Any

FAULTS = ("", "refuse", "blackhole", "503", "slow")
SLOW_FACTOR = 60
PIECE = 16 << 10
SLACK = 0.004
"""Seconds that a rate may catch up: timers are late by about a millisecond."""


class Rate:
    """Bytes a second, in the order of asking."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._free = 0.0

    def reserve(self, at: float, size: int) -> float:
        """Return when ``size`` bytes that may go from ``at`` on will have passed."""
        self._free = max(self._free, at - SLACK) + size / self.rate
        return self._free


class Line:
    """State that all connections share."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.target_port: int = setup["target_port"]
        self.rtt: float = setup["rtt"]
        self.per_connection: float = setup["per_connection"]
        self.up, self.down = Rate(setup["up"]), Rate(setup["down"])
        self.fault = ""
        self.passable = asyncio.Event()
        self.passable.set()
        self.requests: list[dict[str, Any]] = []
        self.connections = 0
        self.open_requests = 0
        self.last_activity = 0.0
        self.passed = {"up": 0, "down": 0}
        self.tasks: set[asyncio.Task[None]] = set()

    def command(self, given: dict[str, Any]) -> object:
        """Carry out one command."""
        match given["do"]:
            case "fault":
                self.fault = given["fault"]
                if self.fault == "blackhole":
                    self.passable.clear()
                else:
                    self.passable.set()
                if self.fault == "refuse":
                    for task in self.tasks:
                        task.cancel()
            case "rate":
                self.up.rate *= given["factor"]
                self.down.rate *= given["factor"]
                self.per_connection *= given["factor"]
            case "state":
                return {"open": self.open_requests, "last": self.last_activity}
            case "take":
                taken = {"requests": self.requests, "connections": self.connections, **self.passed}
                self.requests, self.connections, self.passed = [], 0, {"up": 0, "down": 0}
                return taken
            case _:
                raise ValueError(given)
        return {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, from its start to its end."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            if self.fault == "refuse":
                return
            self.connections += 1
            connected_at = time.monotonic() + self.rtt * self.slowness
            answers, upstream = await asyncio.open_connection("127.0.0.1", self.target_port, limit=PIECE)
            upstream.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, connected_at, writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(connection.carry("up", reader, upstream))
                group.create_task(connection.carry("down", answers, writer))
        except* (OSError, asyncio.IncompleteReadError):
            pass  # one side is gone; the other one is closed below
        except* asyncio.CancelledError:
            pass  # the line was told to refuse: nobody waits for this task
        finally:
            self.tasks.discard(task)
            for end in (writer, upstream):
                if end is not None:
                    end.transport.abort()

    @property
    def slowness(self) -> float:
        """What delays and transfer times are multiplied by."""
        return SLOW_FACTOR if self.fault == "slow" else 1.0


class Connection:
    """What passes over one connection, in both directions."""

    def __init__(self, line: Line, connected_at: float, client: asyncio.StreamWriter) -> None:
        self._line = line
        self._connected_at = connected_at
        self._client = client
        self._requests = Requests()
        self._open: deque[dict[str, Any]] = deque()
        self._last: dict[str, Any] = {}
        """The request that is being answered, or was."""

    async def carry(self, way: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Pass on what comes from ``source``, as late and as slowly as the line is."""
        line = self._line
        own = Rate(line.per_connection)
        shared = line.up if way == "up" else line.down
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivering = asyncio.create_task(self._deliver(queue, sink))
        try:
            while not delivering.done():  # else whoever it was for has gone, and the sender hears of that
                piece = await source.read(PIECE)
                now = time.monotonic()
                line.last_activity = now
                if way == "up":
                    for head in self._requests.take(piece):
                        self._asked(head, now)
                own.rate = line.per_connection / line.slowness
                begin = max(now, self._connected_at)
                passed = max(shared.reserve(begin, len(piece)), own.reserve(begin, len(piece)))
                line.passed[way] += len(piece)
                if way == "up" and line.fault == "503":
                    if not piece:
                        return
                    if self._requests.between:
                        await self._refuse_503()
                    continue
                queue.put_nowait((passed + line.rtt / 2 * line.slowness, piece))
                if not piece:
                    break
                if way == "down":
                    self._answered(piece, passed + line.rtt / 2)
                await asyncio.sleep(passed - time.monotonic() - SLACK / 2)
            await delivering
            if way == "down":
                raise ConnectionResetError("the server has closed")
        finally:
            delivering.cancel()
            if way == "up":
                line.open_requests -= len(self._open)
                self._open.clear()

    async def _deliver(self, queue: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        while True:
            due, piece = await queue.get()
            await asyncio.sleep(due - time.monotonic())
            await self._line.passable.wait()
            if not piece:
                with suppress(OSError):
                    sink.write_eof()
                return
            sink.write(piece)
            await sink.drain()

    async def _refuse_503(self) -> None:
        wait = max(self._connected_at - time.monotonic(), 0) + self._line.rtt
        await asyncio.sleep(wait)
        answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
        while self._open:
            self._answered(answer, time.monotonic())
            self._client.write(answer)
        await self._client.drain()

    def _asked(self, head: str, now: float) -> None:
        method, target, *_ = head.split(" ")
        request = {"at": max(now, self._connected_at), "method": method, "target": target.partition("?")[0]}
        request["query"] = ",".join(part.partition("=")[0] for part in target.partition("?")[2].split("&"))
        self._line.requests.append(request)
        self._open.append(request)
        self._line.open_requests += 1

    def _answered(self, piece: bytes, at: float) -> None:
        """The bytes of an answer: with no pipelining, it belongs to the oldest request without one."""
        if self._open and piece.startswith(b"HTTP/1.") and piece[9:12] != b"100":
            request = self._open.popleft()
            request["status"], request["answered"] = piece[9:12].decode(), at
            self._line.open_requests -= 1
            self._last = request
        self._last["done"] = at


class Requests:
    """Finds the requests in what a client sends over one connection."""

    def __init__(self) -> None:
        self._head = b""
        self._body = 0
        self._chunked = False
        self._tail = b""

    @property
    def between(self) -> bool:
        """Whether the last request has come whole."""
        return not self._head and not self._body and not self._chunked

    def take(self, piece: bytes) -> list[str]:
        """Return the request lines that became complete with ``piece``."""
        found = []
        while piece:
            if self._body:
                size = min(self._body, len(piece))
                self._body -= size
                piece = piece[size:]
            elif self._chunked:
                self._tail = (self._tail + piece)[-7:]
                self._chunked = not self._tail.endswith(b"\r\n0\r\n\r\n")
                piece = b""
            else:
                head, end, rest = (self._head + piece).partition(b"\r\n\r\n")
                self._head = b"" if end else head
                if not end:
                    break
                lines = head.decode("latin-1").split("\r\n")
                fields = (line.partition(":") for line in lines[1:])
                headers = {name.lower(): value.strip() for name, _, value in fields}
                self._body = int(headers.get("content-length", 0))
                self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
                self._tail = b"\r\n"
                found.append(lines[0])
                piece = rest
        return found


async def main() -> None:
    """Serve until standard input ends."""
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    line = Line(json.loads(await commands.readline()))
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0, limit=PIECE, backlog=512)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    while text := await commands.readline():
        print(json.dumps(line.command(json.loads(text))), flush=True)
    sys.stdout.flush()
    os._exit(0)  # connections may be open still, and nothing is worth keeping


if __name__ == "__main__":
    asyncio.run(main())
