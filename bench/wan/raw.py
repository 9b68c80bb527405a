"""A client without features: what the emulated lines give to somebody who only moves bytes over many connections.

It says whether a run is worth anything: where even this is far above the floor, the machine or the emulation was too
slow, and the run is void.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp

from wan.network import PEER_BUCKET, EmulatedLine
from wan.profiles import read_floor

__all__ = ["RawClient"]

_CONNECTIONS = 100
_PIECE = 200_000
_RANGE = 250_000
_runs = itertools.count()


class RawClient:
    """PUT and GET over up to 100 connections a provider, opened anew each time unless ``warm``."""

    def __init__(self, lines: Iterable[EmulatedLine]) -> None:
        self._lines = list(lines)
        self._signers = {line.name: line.signer() for line in self._lines}

    def write(self, size: int, count: int = 0) -> list[float]:
        """Store ``size`` bytes at every provider; seconds until one, two and all of them have everything.

        The bytes go as ``count`` objects, of which 0 are as many as make the best of one round trip: there is no other
        way to use several connections in it.
        """
        count = count or max(1, min(_CONNECTIONS, size // _PIECE))
        pieces = [bytes(size // count)] * count
        run = next(_runs)
        urls = {
            line.name: [self._signed(line, "put_object", f"raw-{run}/{number}") for number in range(count)]
            for line in self._lines
        }
        return asyncio.run(self._write(urls, pieces))

    async def _write(self, urls: Mapping[str, list[str]], pieces: list[bytes]) -> list[float]:
        async def one(session: aiohttp.ClientSession, url: str, piece: bytes) -> None:
            async with session.put(url, data=piece) as answer:
                answer.raise_for_status()
                await answer.read()

        async def all_of(session: aiohttp.ClientSession, line: str) -> float:
            async with asyncio.TaskGroup() as group:
                for url, piece in zip(urls[line], pieces, strict=True):
                    group.create_task(one(session, url, piece))
            return time.perf_counter() - begin

        async with _session() as session:
            begin = time.perf_counter()
            return sorted(await asyncio.gather(*(all_of(session, line.name) for line in self._lines)))

    def prepare(self, name: str, content: bytes) -> None:
        """Have every provider hold ``content``, to be read."""
        for line in self._lines:
            line.direct().put_object(Bucket=PEER_BUCKET, Key=name, Body=content)

    def read(self, name: str, size: int, lines: Iterable[str]) -> float:
        """Bring ``size`` bytes from some providers together, over warm connections; return the seconds.

        What each brings is known beforehand: what its line can bring until all are done.
        """
        chosen = [line for line in self._lines if line.name in set(lines)]
        floor = read_floor(size, [line.profile for line in chosen], warm=True)
        share = {line.name: line.profile.down * max(0.0, floor - line.profile.rtt) for line in chosen}
        total = sum(share.values())
        plan: list[tuple[str, str, int, int]] = []
        begin = 0
        for line in chosen:
            end = size if line is chosen[-1] else begin + int(size * share[line.name] / total)
            url = self._signed(line, "get_object", name)
            plan += [(line.name, url, at, min(at + _RANGE, end)) for at in range(begin, end, _RANGE)]
            begin = end
        return asyncio.run(self._read(plan))

    async def _read(self, plan: list[tuple[str, str, int, int]]) -> float:
        async with _session(16) as session:

            async def one(url: str, begin: int, end: int) -> int:
                async with session.get(url, headers={"Range": f"bytes={begin}-{end - 1}"}) as answer:
                    answer.raise_for_status()
                    return len(await answer.read())

            urls = {name: url for name, url, _, _ in plan}
            await asyncio.gather(*(one(url, 0, 1) for url in urls.values() for _ in range(16)))  # warm
            started = time.perf_counter()
            await asyncio.gather(*(one(url, begin, end) for _, url, begin, end in plan))
            return time.perf_counter() - started

    def _signed(self, line: EmulatedLine, call: str, key: str) -> str:
        url: Any = self._signers[line.name].generate_presigned_url(call, {"Bucket": PEER_BUCKET, "Key": key})
        return str(url)


def _session(limit: int = _CONNECTIONS) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, limit_per_host=limit, force_close=False)
    return aiohttp.ClientSession(connector=connector, skip_auto_headers={"Content-Type"})
