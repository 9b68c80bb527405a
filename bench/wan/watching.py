"""P9: what one client writes, other clients that watch the directory read at once."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Final

import cdir
from cdir.client import Client
from cdir.model import Wait
from wan.measuring import Measured
from wan.profiles import PROFILES, write_floor
from wan.stage import Stage

__all__ = ["pushed_changes"]

SIZE: Final = 10_000
WATCHERS: Final = (1, 10, 100)
WRITES: Final = 3
MISSED_SECONDS: Final = 30.0
"""A watcher that has not read a file after this long has missed it, which ends the run."""
IDLE_SECONDS: Final = 60.0


def pushed_changes(stage: Stage) -> None:
    """P9."""
    stage.cdir.settle()
    for count in WATCHERS:
        asyncio.run(_pushed(stage, count))
    if stage.first:
        received = asyncio.run(_idle_bytes(stage.cdir.deployment.address))
        stage.measurements.add_value("cdir, idle watcher", "bytes a minute", received * 60 / IDLE_SECONDS)


def _floor(watchers: int) -> float:
    """Two copies written over open connections, then the nearest provider's line brings every watcher its bytes."""
    nearest = PROFILES[0]
    return write_floor(SIZE, 2, warm=True) + nearest.rtt + watchers * SIZE / nearest.down


@dataclass
class _Watcher:
    """One client that reads what is new in the directory, as soon as it is told."""

    client: Client
    folder: str
    read: dict[str, float] = field(default_factory=dict)
    """When it had all bytes of a file, by their SHA-256, on the clock of ``time.perf_counter``."""
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        async with aclosing(self.client.watch(self.folder)) as changes:
            async for change in changes:
                if change.path and change.path != self.folder:
                    content = await self.client.read(change.path)
                    self.read.setdefault(hashlib.sha256(content).hexdigest(), time.perf_counter())
                    self.moved.set()

    async def has(self, digest: str) -> float:
        while digest not in self.read:
            self.moved.clear()
            await self.moved.wait()
        return self.read[digest]


async def _pushed(stage: Stage, count: int) -> None:
    folder = f"/P9-{count}-{stage.repeat}"
    address = stage.cdir.deployment.address
    work = f"P9 10 kB to {count} watcher{'s' if count > 1 else ''}"
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(await cdir.connect(address))
        await writer.make_directory(folder)
        watchers = [
            _Watcher(await stack.enter_async_context(await cdir.connect(address)), folder) for _ in range(count)
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(watcher.run()) for watcher in watchers]
            await _until_watching(writer, folder, watchers)
            for number in range(WRITES):
                content = random.randbytes(SIZE)
                digest = hashlib.sha256(content).hexdigest()
                stage.network.take()
                began, begin = time.monotonic(), time.perf_counter()
                await writer.write(f"{folder}/{number}.bin", content, wait=Wait.MINIMUM)
                async with asyncio.timeout(MISSED_SECONDS):
                    seconds = sorted([await watcher.has(digest) - begin for watcher in watchers])
                traffic = stage.measurements.traffic(f"{work}, cdir client", began, seconds[-1])
                requests = {line: len(found["requests"]) for line, found in traffic.items()}
                for name, place in (("cdir client, middle one", count // 2), ("cdir client, last one", -1)):
                    stage.measurements.add(work, name, Measured(seconds[place], _floor(count), requests=requests))
            for task in tasks:
                task.cancel()


async def _until_watching(writer: Client, folder: str, watchers: list[_Watcher]) -> None:
    """Write until every watcher has seen one, since a watch reports what happens after it was registered, and then one
    more, which they have read when they are no longer behind."""
    async with asyncio.timeout(MISSED_SECONDS):
        number = 0
        while not all(watcher.read for watcher in watchers):
            await writer.write(f"{folder}/first-{number}.bin", random.randbytes(SIZE), wait=Wait.MINIMUM)
            number += 1
        last = random.randbytes(SIZE)
        await writer.write(f"{folder}/last.bin", last, wait=Wait.MINIMUM)
        for watcher in watchers:
            await watcher.has(hashlib.sha256(last).hexdigest())


async def _idle_bytes(address: str) -> int:
    """What passes between a client that watches and the daemon while nothing happens: bytes, both ways."""
    passed = 0
    relays: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relays.add(asyncio.ensure_future(relayed(reader, writer)))

    async def relayed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await _open(address)

        async def one_way(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            nonlocal passed
            while data := await source.read(1 << 16):
                passed += len(data)
                target.write(data)
                await target.drain()
            target.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(one_way(reader, there_writer))
            group.create_task(one_way(there_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with await cdir.connect(f"127.0.0.1:{port}") as client, aclosing(client.watch("/")) as changes:
        watching = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(IDLE_SECONDS / 10)
        before = passed
        await asyncio.sleep(IDLE_SECONDS)
        received = passed - before
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    server.close()
    for relayed_connection in relays:  # neither end has to close a connection that the other one has left
        relayed_connection.cancel()
    await asyncio.gather(*relays, return_exceptions=True)
    return received


async def _open(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.startswith("unix:"):
        return await asyncio.open_unix_connection(address.removeprefix("unix:").removeprefix("//"))
    host, port = address.rsplit(":", 1)
    return await asyncio.open_connection(host.removeprefix("dns:///"), int(port))
