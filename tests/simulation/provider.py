"""Simulated providers: what they hold outlives every process, and what they answer is decided by a seed.

The ``simulated`` kind is installed as any kind from outside is: through an entry point (``installed/``).
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from cdir.errors import CdirError, NotFound, ProviderUnavailable, RateLimited
from cdir_adapters.acl import Access
from cdir_adapters.adapter import (
    FULL,
    NO_METADATA,
    Adapter,
    AdapterInfo,
    ByteRange,
    Checksum,
    FetchedObject,
    ObjectInfo,
    ObjectKind,
    Page,
    ReadStream,
    Source,
    WriteMode,
)
from cdir_adapters.capability import Capability, ChecksumKind
from cdir_adapters.registry import KindSpec, OptionSpec, OptionValue
from cdir_adapters.sentinel import MARK_KEY
from cdir_adapters.shapes import BufferedReadStream, collect, pages_of, resolve_range
from simulation.clock import NANO, clock

__all__ = ["KIND", "LIES", "STORES", "TROUBLES", "SimulatedAdapter", "SimulatedStore", "Traits"]

T = TypeVar("T")

TROUBLES = ("refuse", "reset", "slow", "hang", "limit", "twice", "garble", "break")
"""What may happen to a call at any provider: an error before it took effect or after, a long wait, no answer at all
(with or without effect), a request to slow down, a request that arrives twice, bytes changed on their way, and a
listing that breaks off."""

LIES = ("lost", "echo", "omit")
"""What only a provider does that loses data: success without effect, a request that arrives once more a good while
later, and a listing without some objects."""


_SLOW = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Traits:
    """What a provider is like; the catalog learns it when the provider is added."""

    move: bool = True
    checksums: bool = True
    etags: bool = True
    keeps_modified: bool = True
    precision: float = 0.0
    """Seconds by which modified times are cut; 0 keeps microseconds."""
    ordered: bool = True

    def capability(self) -> Capability:
        return Capability(
            write_unknown_size=True,
            write_atomic=True,
            copy=True,
            move=self.move,
            list_recursive=True,
            list_ordered=self.ordered,
            modified_settable=self.keeps_modified,
            modified_listed=self.keeps_modified,
            modified_precision=timedelta(seconds=self.precision or 1e-6) if self.keeps_modified else None,
            etag=self.etags,
            checksums=frozenset({ChecksumKind.MD5}) if self.checksums else frozenset(),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """One object. Its modified time is in nanoseconds."""

    data: bytes
    modified: int
    md5: str
    """As it was when it was stored: rot does not show in it."""


class SimulatedStore:
    """What one provider holds, and how it misbehaves."""

    def __init__(self, name: str, traits: Traits, objects: Mapping[str, Stored] | None = None) -> None:
        self.name = name
        self.traits = traits
        self.objects: dict[str, Stored] = dict(objects or {})
        self.hidden: dict[str, Stored] | None = None
        """What it held before its root was emptied."""
        self.chance = random.Random(0)
        self.skew = 0.0
        self.rates: Mapping[str, float] = {}
        self.latency = 0.01
        self.down_until = 0.0
        self.down_silently = False
        self.epoch = 0
        """Counts the processes that have used it."""
        self.fired: Counter[str] = Counter()
        self.note: Callable[..., None] = lambda *_: None
        self._late: list[tuple[float, str, Callable[[], Any]]] = []

    def calm(self) -> None:
        """Misbehave no more; what is still under way arrives now."""
        self.rates = {}
        self.down_until = 0.0
        self._arrive(everything=True)

    def is_down(self) -> bool:
        return clock.seconds < self.down_until

    def empty(self) -> None:
        """Show another root: one with nothing in it."""
        if self.hidden is None:
            self.hidden, self.objects = self.objects, {}

    def restore(self) -> None:
        """Show the old root again."""
        if self.hidden is not None:
            self.objects, self.hidden = self.hidden, None

    def flip(self, choice: int) -> str:
        """Change one bit of one object that is no mark; return its key, empty when there is none."""
        keys = [key for key, stored in sorted(self.objects.items()) if stored.data and key != MARK_KEY]
        if not keys:
            return ""
        key = keys[choice % len(keys)]
        stored = self.objects[key]
        at = choice % len(stored.data)
        spoiled = stored.data[:at] + bytes([stored.data[at] ^ 1]) + stored.data[at + 1 :]
        self.objects[key] = dataclasses.replace(stored, data=spoiled)
        return key

    # --- one call -----------------------------------------------------------------------------------------------------

    async def call(self, epoch: int, verb: str, key: str, work: Callable[[], T], *, changes: bool = False) -> T:
        """Do ``work``, which takes no time, as a call to this provider by the process ``epoch`` would."""
        fault = self._draw(verb, changes)
        await self._travel(60 if fault == "slow" else 1)
        self._check_alive(epoch)
        self._arrive()
        try:
            result = await self._serve(fault, key, work)
        except CdirError as error:
            self.note(self.name, verb, key, fault, error.reason)
            raise
        self.note(self.name, verb, key, fault, "")
        await self._travel(1)
        self._check_alive(epoch)
        return result

    async def _serve(self, fault: str, key: str, work: Callable[[], T]) -> T:
        if self.is_down():
            self.fired["down"] += 1
            if self.down_silently:
                await asyncio.sleep(self.down_until - clock.seconds + _SLOW)
            raise self._unavailable("is down")
        match fault:
            case "refuse":
                raise self._unavailable("refuses")
            case "limit":
                raise RateLimited(f"{self.name} asks to slow down", retry_after=self.chance.choice((None, 0.5, 5.0)))
            case "reset":
                work()
                raise self._unavailable("broke the connection")
            case "hang":
                if self.chance.random() < 0.5:
                    work()
                await asyncio.sleep(100 * _SLOW)
            case "twice":
                work()
            case "echo":
                self._late.append((clock.seconds + self.chance.uniform(0.1, 120), key, work))
            case "lost":
                before = dict(self.objects)
                result = work()
                self.objects = before
                return result
        return work()

    def _draw(self, verb: str, changes: bool) -> str:
        """Return the fault that this call meets; empty for none."""
        point = self.chance.random()
        for fault, rate in self.rates.items():
            if fault in _OF_ANSWERS:
                continue
            point -= rate
            if point < 0:
                if (fault in _OF_CHANGES and not changes) or (fault in _OF_WRITES and verb != "write"):
                    return ""
                self.fired[fault] += 1
                return fault
        return ""

    def strikes(self, fault: str) -> bool:
        """Say whether an answer is spoiled in this way."""
        struck = self.chance.random() < self.rates.get(fault, 0)
        self.fired[fault] += struck
        return struck

    async def _travel(self, factor: float) -> None:
        await asyncio.sleep(self.latency * factor * self.chance.uniform(0.5, 2.0))

    def _check_alive(self, epoch: int) -> None:
        if epoch != self.epoch:
            raise RuntimeError("this process is dead")

    def _arrive(self, *, everything: bool = False) -> None:
        """Let the calls take effect that were long under way."""
        due = [late for late in self._late if everything or late[0] <= clock.seconds]
        self._late = [late for late in self._late if late not in due]
        for _, key, work in due:
            # where nothing is any more, it cannot be told from a person who puts the file there again
            if key in self.objects:
                work()

    def _unavailable(self, what: str) -> ProviderUnavailable:
        return ProviderUnavailable(f"provider {self.name} {what}", provider=self.name)

    # --- effects ------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Stored:
        try:
            return self.objects[key]
        except KeyError:
            raise NotFound(f"{key} does not exist at provider {self.name}", key=key) from None

    def put(self, key: str, data: bytes, modified: int) -> ObjectInfo:
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self.objects[key] = Stored(data, self._kept(modified), md5)
        return self.info(key)

    def copy(self, source: str, target: str) -> ObjectInfo:
        self.objects[target] = self.get(source)
        return self.info(target)

    def move(self, source: str, target: str) -> ObjectInfo:
        self.objects[target] = self.get(source)
        if source != target:
            del self.objects[source]
        return self.info(target)

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def info(self, key: str) -> ObjectInfo:
        stored = self.get(key)
        seconds, rest = divmod(stored.modified, NANO)
        return ObjectInfo(
            key=key,
            size=len(stored.data),
            modified=datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=rest // 1000),
            etag=f'"{stored.md5}"' if self.traits.etags else None,
            checksum=Checksum(ChecksumKind.MD5, stored.md5) if self.traits.checksums else None,
        )

    def _kept(self, modified: int) -> int:
        kept = modified if self.traits.keeps_modified else clock.wall_ns() + round(self.skew * NANO)
        step = round(self.traits.precision * NANO)
        return kept - kept % step if step else kept

    def listing(self, prefix: str, recursive: bool, start_after: str | None, lie: str) -> list[ObjectInfo]:
        """Return what lies below ``prefix``, as it is or as a lie has it."""
        found: dict[str, ObjectInfo] = {}
        below = f"{prefix}/" if prefix else ""
        for key in sorted(self.objects, key=str.encode):
            if not key.startswith(below) or (start_after is not None and key <= start_after):
                continue
            if lie == "omit" and key != MARK_KEY and self.chance.random() < 0.3:
                continue
            name, slash, _ = key[len(below) :].partition("/")
            if slash and not recursive:
                found[below + name] = ObjectInfo(key=below + name, size=0, kind=ObjectKind.DIRECTORY)
            else:
                found[key] = self.info(key)
        objects = list(found.values())
        if not self.traits.ordered:
            self.chance.shuffle(objects)
        return objects


_OF_CHANGES = frozenset({"reset", "twice"})
_OF_WRITES = frozenset({"lost", "echo"})
"""Renames and deletions are spared: a provider that makes a name come back cannot be told from a person who does."""

_OF_ANSWERS = frozenset({"garble", "break", "omit"})

STORES: dict[str, SimulatedStore] = {}
"""The providers of the scenario that runs, by name."""


class SimulatedAdapter(Adapter):
    """One process's way to a store. It ends with the process."""

    capability = Traits().capability()

    def __init__(self, name: str, options: Mapping[str, OptionValue]) -> None:
        self._store = STORES[str(options["store"])]
        self._epoch = self._store.epoch
        self.info = AdapterInfo("simulated", name, f"the store {self._store.name}")
        self.capability = self._store.traits.capability()

    def _call(self, verb: str, key: str, work: Callable[[], T], *, changes: bool = False) -> Any:
        return self._store.call(self._epoch, verb, key, work, changes=changes)

    async def check(self) -> None:
        await self._call("check", "", lambda: None)

    async def prepare(self) -> None:
        await self._call("prepare", "", lambda: None)

    async def stat(self, key: str) -> ObjectInfo:
        info: ObjectInfo = await self._call("stat", key, lambda: self._store.info(key))
        return info

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        store = self._store
        fault = next((name for name in ("omit", "break") if store.strikes(name)), "")
        objects = await self._call("list", prefix, lambda: store.listing(prefix, recursive, start_after, fault))
        if fault == "break":
            objects = objects[: len(objects) // 2]
        for page in pages_of(objects):
            yield page
        if fault == "break":
            raise ProviderUnavailable(f"provider {store.name} broke off a listing", provider=store.name)

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        found = await self.fetch(key, range=range, if_match=if_match)
        yield BufferedReadStream(found.info, found.data)

    async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
        def work() -> FetchedObject:
            data = self._store.get(key).data
            offset, length = resolve_range(range, len(data), key)
            return FetchedObject(self._store.info(key), data[offset : offset + length])

        found: FetchedObject = await self._call("fetch", key, work)
        if found.data and key != MARK_KEY and self._store.strikes("garble"):
            return dataclasses.replace(found, data=bytes([found.data[0] ^ 1]) + found.data[1:])
        return found

    async def write(
        self,
        key: str,
        source: Source,
        *,
        size: int | None,
        modified: datetime,
        mode: WriteMode = WriteMode.OVERWRITE,
        if_match: str | None = None,
        metadata: Mapping[str, str] = NO_METADATA,
        access: Access | None = None,
    ) -> ObjectInfo:
        data = await collect(source, size, key)
        at = round(modified.timestamp() * 1e6) * 1000
        info: ObjectInfo = await self._call("write", key, lambda: self._store.put(key, data, at), changes=True)
        return info

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        await self._call("delete", key, lambda: self._store.delete(key), changes=True)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        info: ObjectInfo = await self._call("copy", target, lambda: self._store.copy(source, target), changes=True)
        return info

    async def move(self, source: str, target: str) -> ObjectInfo:
        info: ObjectInfo = await self._call("move", target, lambda: self._store.move(source, target), changes=True)
        return info


KIND = KindSpec(
    kind="simulated",
    target="simulation.provider:SimulatedAdapter",
    description="A provider of the simulation.",
    options=(OptionSpec("store", "Name of the simulated store.", required=True),),
)
