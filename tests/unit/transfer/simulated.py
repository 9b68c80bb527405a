"""Providers in virtual time: links with a round trip, a shared rate and a rate per connection, and slow requests."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from collections.abc import Callable, Coroutine, Sequence
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
        self.requests += 1
        self.flows += 1
        self.most_flows = max(self.most_flows, self.flows)
        try:
            if self.silent:
                await asyncio.Event().wait()
            slow = chance.uniform(20, 60) if chance.random() < self.slow_share else 1.0
            usual = self.round_trip * math.exp(chance.gauss(0, self.spread))
            await asyncio.sleep(usual * slow * self.slowdown)
            await self._move(length)
        except asyncio.CancelledError:
            self.ended_early += 1
            raise
        finally:
            self.flows -= 1

    async def go_on(self, length: int, chance: random.Random) -> None:
        """More of an answer that has begun."""
        if self.silent:
            await asyncio.Event().wait()
        await self._move(length)

    async def _move(self, length: int) -> None:
        self.moving += 1
        try:
            left = float(length)
            while left > 0 and not math.isinf(self.rate):
                step = max(min(_STEP, left / self.connection_rate), 0.002)
                await asyncio.sleep(step)
                left -= min(self.connection_rate, self.rate / self.moving) * step
            self.delivered += length
        finally:
            self.moving -= 1


async def _as_it_is(answer: Any) -> Any:
    return answer


class SimulatedStream:
    """The answer to a ReadObject of whole blocks, all over one connection."""

    def __init__(self, link: Link, blocks: Sequence[bytes], size: int, adapters: SimulatedAdapters) -> None:
        self._link = link
        self._blocks = iter(blocks)
        self._size = size
        self._adapters = adapters
        self._begun = False

    def __aiter__(self) -> SimulatedStream:
        return self

    async def __anext__(self) -> adapter_service_pb2.ReadObjectResponse:
        block = next(self._blocks, None)
        if block is None:
            raise StopAsyncIteration
        await (self._link.go_on if self._begun else self._link.fetch)(len(block), self._adapters.chance)
        self._begun = True
        spoilt: adapter_service_pb2.ReadObjectResponse = await self._adapters.spoil(
            adapter_service_pb2.ReadObjectResponse(data=block, size=self._size)
        )
        return spoilt

    def cancel(self) -> bool:
        return True


@dataclass
class SimulatedAdapters:
    """The calls of an AdapterService stub that readers make; ``contents`` by key are at every provider."""

    links: dict[str, Link]
    contents: dict[str, Sequence[bytes]] = field(default_factory=dict)
    """The blocks of each content."""
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    spoil: Callable[[Any], Coroutine[Any, Any, Any]] = field(default=_as_it_is)
    """What becomes of each block of a ReadObject."""

    async def FetchObject(self, request: adapter_service_pb2.FetchObjectRequest, *, timeout: float) -> Any:
        blocks = self.contents[request.key]
        index, begin = divmod(request.offset, BLOCK_SIZE)
        data = blocks[index][begin : begin + request.length]
        await self.links[request.provider.provider_id].fetch(len(data), self.chance)
        return adapter_service_pb2.FetchObjectResponse(data=data, size=sum(map(len, blocks)))

    def ReadObject(self, request: adapter_service_pb2.ReadObjectRequest) -> SimulatedStream:
        blocks = self.contents[request.key]
        first = request.offset // BLOCK_SIZE
        return SimulatedStream(
            self.links[request.provider.provider_id],
            blocks[first : first + -(-request.length // BLOCK_SIZE)],
            sum(map(len, blocks)),
            self,
        )

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
