"""The simulated machine: a database, providers, and the real services over them, which may die and start anew."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import random
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from cdir.status import translated
from cdir.v1 import (
    directory_service_pb2,
    directory_service_pb2_grpc,
    entry_pb2,
    provider_pb2,
    provider_service_pb2,
    provider_service_pb2_grpc,
)
from cdir_catalog.migrate import migrate
from cdir_catalog.service import serve_catalog
from cdir_embedded.composition import compose
from cdir_runtime.loopback import LoopbackChannel
from cdir_runtime.vault import Vault
from simulation.clock import clock
from simulation.database import InlineDatabase, MemoryFile
from simulation.loop import VirtualLoop
from simulation.provider import STORES, SimulatedStore, Stored, Traits
from simulation.scenario import Scenario

__all__ = ["Trace", "World"]

_DAY = 86400.0
_VAULT = Vault.unkept()


class Trace:
    """What happened, in order, and its digest: two runs of one seed have the same."""

    def __init__(self, *, keep: bool) -> None:
        self._digest = hashlib.blake2b(digest_size=16)
        self._lines: list[str] | None = [] if keep else None

    def note(self, *what: object) -> None:
        line = f"{clock.seconds:.6f} {' '.join(map(str, what))}"
        self._digest.update(line.encode())
        if self._lines is not None:
            self._lines.append(line)

    @property
    def hash(self) -> str:
        return self._digest.hexdigest()

    @property
    def lines(self) -> list[str]:
        return self._lines or []


@dataclasses.dataclass(frozen=True, slots=True)
class _Beginning:
    """A catalog with its providers registered and nothing else in it."""

    image: bytes
    objects: Mapping[str, Mapping[str, Stored]]


def seed_chance(seed: object) -> None:
    """Make everything that the services draw follow from ``seed``."""
    random.seed(f"services {seed}")
    ids = random.Random(f"ids {seed}")
    uuid.uuid4 = lambda: uuid.UUID(int=ids.getrandbits(128), version=4)


class World:
    """What outlives the process: providers, database, time."""

    def __init__(self, scenario: Scenario, trace: Trace) -> None:
        beginning = _beginning(tuple(plan.traits for plan in scenario.providers))
        clock.reset(_DAY)
        seed_chance(scenario.seed)
        self.trace = trace
        self.stores: list[SimulatedStore] = []
        STORES.clear()
        for name, plan in zip(_names(len(scenario.providers)), scenario.providers, strict=True):
            store = SimulatedStore(name, plan.traits, beginning.objects[name])
            store.chance = random.Random(f"provider {name} {scenario.seed}")
            store.rates, store.skew, store.latency = plan.rates, plan.skew, plan.latency
            store.note = trace.note
            STORES[name] = store
            self.stores.append(store)
        self._file = MemoryFile(beginning.image)
        self._chance = random.Random(f"database {scenario.seed}")
        self._database: InlineDatabase | None = None

    @asynccontextmanager
    async def process(self) -> AsyncIterator[LoopbackChannel]:
        """Run the services; leave it and they end in order."""
        database = self._database = InlineDatabase(self._file, self._chance)
        async with (
            LoopbackChannel() as door,
            compose(serve_catalog(database), _VAULT, local_files=False) as deployment,
        ):
            for register in deployment.registrars:
                register(door)
            yield door
        self.die()

    def die(self) -> None:
        """Cut the process off from all that outlives it."""
        if self._database is not None:
            self._database.die()
        for store in self.stores:
            store.epoch += 1

    def writes_under_way(self) -> int:
        """Count the writes that have begun and are neither committed nor given up: no call of a user shows them."""
        return self._file.number("SELECT count(*) FROM intents")

    def is_busy(self) -> bool:
        """Say whether the catalog surely has something left to do: asked often, where a call would cost much."""
        return bool(
            self.writes_under_way()
            or self._file.number("SELECT coalesce(sum(owed + removals), 0) FROM counters")
            or self._file.number(f"SELECT count(*) FROM providers WHERE state = {provider_pb2.PROVIDER_STATE_DOWN}")
        )

    def close(self) -> None:
        self._file.close()


@asynccontextmanager
async def _services(database: InlineDatabase) -> AsyncIterator[LoopbackChannel]:
    """Compose the services as the embedded deployment does; give the channel that clients use."""
    async with LoopbackChannel() as door, compose(serve_catalog(database), _VAULT, local_files=False) as deployment:
        for register in deployment.registrars:
            register(door)
        yield door


def _names(count: int) -> list[str]:
    return [f"p{number}" for number in range(count)]


@functools.cache
def _empty_catalog() -> bytes:
    """Return a database of this release's schema: making one takes longer than a scenario."""
    seed_chance("empty catalog")
    file = MemoryFile()
    with file.connection.begin():
        migrate(file.connection)
    image = file.image()
    file.close()
    return image


@functools.cache
def _beginning(traits: tuple[Traits, ...]) -> _Beginning:
    clock.reset()
    empty = _empty_catalog()
    seed_chance(traits)
    STORES.clear()
    for name, nature in zip(_names(len(traits)), traits, strict=True):
        STORES[name] = SimulatedStore(name, nature)
    file = MemoryFile(empty)
    loop = VirtualLoop(clock)
    try:
        loop.run_until_complete(_register(file))
    finally:
        loop.close()
    image = file.image()
    file.close()
    return _Beginning(image, {name: dict(store.objects) for name, store in STORES.items()})


async def _register(file: MemoryFile) -> None:
    async with _services(InlineDatabase(file, random.Random(0))) as door:
        providers = provider_service_pb2_grpc.ProviderServiceStub(door)
        directory = directory_service_pb2_grpc.DirectoryServiceStub(door)
        with translated():
            for name in STORES:
                record = provider_pb2.Provider(name=name, kind="simulated", options={"store": name})
                await providers.AddProvider(provider_service_pb2.AddProviderRequest(provider=record))
            # two copies before anything is acknowledged: whatever one provider loses, another has
            policy = entry_pb2.Policy(min_copies=2, keep_versions=1000)
            rule = entry_pb2.PolicyRule(path="/", policy=policy)
            await directory.SetPolicy(directory_service_pb2.SetPolicyRequest(rule=rule))
        await asyncio.sleep(5)
