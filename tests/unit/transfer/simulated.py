"""Providers in virtual time: links with a round trip, a shared rate and a rate per connection, and slow requests."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

from blake3 import blake3
from simulation.clock import VirtualClock
from simulation.loop import VirtualLoop

from cdir.v1 import adapter_service_pb2, entry_pb2
from cdir_transfer.digest import BLOCK_SIZE
from cdir_transfer.health import ProviderHealth
from cdir_transfer.reader import OpenContent, VerifiedReader
from unit.transfer.notes import Notes

__all__ = ["MBIT", "Link", "SimulatedAdapters", "World", "large_content", "run"]

MBIT: Final = 1_000_000 / 8
"""Bytes a second."""

_STEP: Final = 0.01
"""Seconds of virtual time between two looks at what a connection may move."""

Result = TypeVar("Result")


@dataclass
class Link:
    """The way to one provider. Rates are in bytes a second."""

    round_trip: float = 0.05
    spread: float = 0.0
    """Standard deviation of the logarithm of the round trip."""
    rate: float = math.inf
    connection_rate: float = math.inf
    slow_share: float = 0.0
    """Share of the requests that take 20 to 60 times as long to be answered."""
    slowdown: float = 1.0
    """What every request takes longer by."""
    silent: bool = False
    """Nothing is ever answered."""
    requests: int = 0
    delivered: int = 0
    flows: int = 0
    moving: int = 0
    """Requests whose bytes are on the way."""
    most_flows: int = 0
    ended_early: int = 0
    """Requests that were cancelled."""

    async def fetch(self, length: int, chance: random.Random) -> None:
        """A request and its answer."""
        await self.begin(chance)
        try:
            await self.move(length)
        finally:
            self.flows -= 1

    async def begin(self, chance: random.Random) -> None:
        """A request until its answer begins; it is under way until ``flows`` is one less."""
        self.requests += 1
        self.flows += 1
        self.most_flows = max(self.most_flows, self.flows)
        try:
            if self.silent:
                await asyncio.Event().wait()
            slow = chance.uniform(20, 60) if chance.random() < self.slow_share else 1.0
            usual = self.round_trip * math.exp(chance.gauss(0, self.spread))
            await asyncio.sleep(usual * slow * self.slowdown)
        except asyncio.CancelledError:
            self.flows -= 1
            self.ended_early += 1
            raise

    async def move(self, length: int) -> None:
        """Bytes of an answer."""
        self.moving += 1
        try:
            if self.silent:
                await asyncio.Event().wait()
            left = float(length)
            while left > 0 and not math.isinf(self.rate):
                step = max(min(_STEP, left / self.connection_rate), 0.0001)
                await asyncio.sleep(step)
                left -= min(self.connection_rate, self.rate / self.moving) * step
            self.delivered += length
        except asyncio.CancelledError:
            self.ended_early += 1
            raise
        finally:
            self.moving -= 1


async def _as_it_is(answer: Any, _: str) -> Any:
    return answer


class SimulatedStream:
    """The answer to a ReadObject, all over one connection."""

    def __init__(self, provider_id: str, pieces: Iterator[bytes], size: int, adapters: SimulatedAdapters) -> None:
        self._provider_id = provider_id
        self._link = adapters.links[provider_id]
        self._pieces = pieces
        self._size = size
        self._adapters = adapters
        self._is_open = False
        self._begun = False

    def __aiter__(self) -> SimulatedStream:
        return self

    async def __anext__(self) -> adapter_service_pb2.ReadObjectResponse:
        piece = next(self._pieces, None)
        if piece is None:
            raise StopAsyncIteration
        if not self._begun:
            self._begun = True
            await self._link.begin(self._adapters.chance)
            self._is_open = True
        await self._link.move(len(piece))
        spoilt: adapter_service_pb2.ReadObjectResponse = await self._adapters.spoil(
            adapter_service_pb2.ReadObjectResponse(data=piece, size=self._size), self._provider_id
        )
        return spoilt

    def cancel(self) -> bool:
        if self._is_open:
            self._is_open = False
            self._link.flows -= 1
        return True


@dataclass
class SimulatedAdapters:
    """The calls of an AdapterService stub that readers make; ``contents`` by key are at every provider."""

    links: dict[str, Link]
    contents: dict[str, Sequence[bytes]] = field(default_factory=dict)
    """The blocks of each content."""
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    spoil: Callable[[Any, str], Coroutine[Any, Any, Any]] = field(default=_as_it_is)
    """What becomes of each piece of a ReadObject from a provider."""

    async def FetchObject(self, request: adapter_service_pb2.FetchObjectRequest, *, timeout: float) -> Any:
        blocks = self.contents[request.key]
        index, begin = divmod(request.offset, BLOCK_SIZE)
        data = blocks[index][begin : begin + request.length]
        await self.links[request.provider.provider_id].fetch(len(data), self.chance)
        return adapter_service_pb2.FetchObjectResponse(data=data, size=sum(map(len, blocks)))

    def ReadObject(self, request: adapter_service_pb2.ReadObjectRequest) -> SimulatedStream:
        blocks = self.contents[request.key]
        end = request.offset + request.length

        def pieces() -> Iterator[bytes]:
            for at in range(request.offset, end, request.piece_length):
                index, begin = divmod(at, BLOCK_SIZE)
                yield blocks[index][begin : begin + min(request.piece_length, end - at)]

        return SimulatedStream(request.provider.provider_id, pieces(), sum(map(len, blocks)), self)

    async def FetchObjects(self, request: adapter_service_pb2.FetchObjectsRequest, *, timeout: float) -> Any:
        wanted = [b"".join(self.contents[beginning.key]) for beginning in request.objects]
        await self.links[request.provider.provider_id].fetch(sum(map(len, wanted)), self.chance)
        return adapter_service_pb2.FetchObjectsResponse(
            outcomes=[
                adapter_service_pb2.FetchOutcome(
                    object=adapter_service_pb2.FetchObjectResponse(data=data, size=len(data))
                )
                for data in wanted
            ]
        )


class World:
    """A reader over simulated providers. Made inside the loop."""

    def __init__(self, links: dict[str, Link], seed: int = 1, **settings: Any) -> None:
        self.now = asyncio.get_running_loop().time
        self.adapters = cast("Any", SimulatedAdapters(links, chance=random.Random(seed)))
        self.links = links
        self.notes = Notes()
        self.health = ProviderHealth(clock=self.now)
        self.reader = VerifiedReader(self.adapters, self.health, self.notes, **settings)

    def replicas(self, key: str, names: Sequence[str] = ()) -> list[entry_pb2.Replica]:
        return [entry_pb2.Replica(provider_id=name, provider=name, key=key) for name in names or self.links]

    def open(self, version: entry_pb2.Version, key: str, names: Sequence[str] = ()) -> OpenContent:
        replicas = self.replicas(key, names)

        async def resolve_again() -> Sequence[entry_pb2.Replica]:
            return replicas

        return self.reader.open(version, replicas, resolve_again, label=f"/{key}")

    def small(self, key: str, size: int) -> entry_pb2.Version:
        """Lay a small content everywhere."""
        data = key.encode().ljust(size, b".")
        self.adapters.contents[key] = [data]
        return entry_pb2.Version(size=size, sha256=hashlib.sha256(data).digest())

    @property
    def requests(self) -> int:
        return sum(link.requests for link in self.links.values())


def large_content(blocks: int) -> tuple[list[bytes], entry_pb2.Version]:
    """Blocks of 4 MiB that share their memory by eights, and the version that they make."""
    some = [bytes([number]) * BLOCK_SIZE for number in range(8)]
    digests = [blake3(block).digest() for block in some]
    version = entry_pb2.Version(
        size=blocks * BLOCK_SIZE, sha256=bytes(32), block_digests=b"".join(digests[n % 8] for n in range(blocks))
    )
    return [some[number % 8] for number in range(blocks)], version


def run(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run ``work`` in a loop whose time is virtual."""
    loop = VirtualLoop(VirtualClock())
    try:
        return loop.run_until_complete(work())
    finally:
        loop.close()
