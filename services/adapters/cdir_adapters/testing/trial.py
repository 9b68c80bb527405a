"""What a conformance case works with: an adapter, a folder of its own, and ways around the adapter.

Needs nothing but the adapter, so that the same cases run under pytest and on a user's own provider.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from cdir.errors import CdirError, NotFound
from cdir_adapters.adapter import FULL, Adapter, ByteRange, ObjectInfo, ObjectKind
from cdir_adapters.capability import Capability

__all__ = [
    "CASES",
    "MIB",
    "MODIFIED",
    "Case",
    "Trial",
    "case",
    "expect",
    "failing",
    "pattern",
    "same",
    "stalling",
    "stream",
]

MIB = 1 << 20

MODIFIED = datetime(2001, 2, 3, 4, 5, 7, 123457, tzinfo=UTC)
"""When the test objects were modified: long ago, at an odd second with a fraction no coarse clock can hold."""

RawPut = Callable[[str, bytes], Awaitable[None]]
RawGet = Callable[[str], Awaitable[bytes | None]]
RawOpen = Callable[[str], Awaitable[None]]


def pattern(size: int, seed: int = 0) -> bytes:
    """Return ``size`` bytes in which no two places look alike, so that a piece out of order shows."""
    block = b"".join((number * 2654435761 + seed & 0xFFFFFFFF).to_bytes(4, "big") for number in range(4099))
    return (block * (size // len(block) + 1))[:size]


async def stream(data: bytes, piece: int = 100_003) -> AsyncIterator[bytes]:
    """Yield ``data`` in pieces of an odd size."""
    for offset in range(0, len(data), piece):
        yield data[offset : offset + piece]


async def failing(data: bytes, error: Exception) -> AsyncIterator[bytes]:
    """Yield ``data``, then raise."""
    async for piece in stream(data):
        yield piece
    raise error


async def stalling(data: bytes, reached: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield ``data``, say so, then never go on."""
    async for piece in stream(data):
        yield piece
    reached.set()
    await asyncio.Event().wait()


@contextmanager
def expect(*errors: type[BaseException]) -> Iterator[list[BaseException]]:
    """Fail unless the body raises one of ``errors``; the list given holds it afterwards."""
    names = " or ".join(error.__name__ for error in errors)
    raised: list[BaseException] = []
    try:
        yield raised
    except errors as error:
        raised.append(error)
        return
    except CdirError as error:
        raise AssertionError(f"expected {names}, got {type(error).__name__}: {error}") from error
    raise AssertionError(f"expected {names}, but nothing was raised")


def same(got: object, wanted: object, what: str) -> None:
    """Fail unless ``got`` is ``wanted``; long values are shown by their length."""
    if got != wanted:
        raise AssertionError(f"{what}: expected {_short(wanted)}, got {_short(got)}")


def _short(value: object) -> str:
    if isinstance(value, bytes) and len(value) > 40:
        return f"{len(value)} bytes {value[:16]!r}…"
    return repr(value)


@dataclasses.dataclass(kw_only=True)
class Trial:
    """One run of one case."""

    adapter: Adapter
    prefix: str
    """The folder that is the case's own; nothing lies in it yet."""
    raw_put: RawPut
    """Put an object behind the adapter's back."""
    raw_get: RawGet
    """Get an object behind the adapter's back; ``None`` when it is missing."""
    raw_open: RawOpen
    """Let everyone read an object behind the adapter's back; called only where ``acl`` is true."""
    many: int = 60
    """How many objects a long listing has."""

    @property
    def capability(self) -> Capability:
        return self.adapter.capability

    def key(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    async def write(self, name: str, data: bytes, **options: Any) -> ObjectInfo:
        """Write bytes that are in memory, by the adapter."""
        options = {"size": len(data), "modified": MODIFIED, **options}
        return await self.adapter.write(self.key(name), data, **options)

    async def write_stream(
        self, name: str, source: AsyncIterator[bytes], size: int | None, **options: Any
    ) -> ObjectInfo:
        """Write pieces, by the adapter."""
        return await self.adapter.write(self.key(name), source, **{"size": size, "modified": MODIFIED, **options})

    async def put(self, name: str, data: bytes) -> None:
        """Put an object behind the adapter's back."""
        await self.raw_put(self.key(name), data)

    async def get(self, name: str) -> bytes | None:
        """Get an object behind the adapter's back."""
        return await self.raw_get(self.key(name))

    async def read(self, name: str, range: ByteRange = FULL) -> bytes:
        """Read by the adapter, looking at the pieces on the way."""
        pieces = []
        async with self.adapter.read(self.key(name), range=range) as opened:
            same(opened.info.key, self.key(name), "the key of what is read")
            async for piece in opened:
                assert piece, "a piece is empty"
                assert len(piece) <= 8 * MIB, f"a piece has {len(piece)} bytes"
                pieces.append(piece)
        return b"".join(pieces)

    async def fetch(self, name: str, range: ByteRange = FULL) -> bytes:
        return (await self.adapter.fetch(self.key(name), range=range)).data

    async def is_missing(self, name: str) -> bool:
        try:
            await self.adapter.stat(self.key(name))
        except NotFound:
            return True
        return False

    async def objects(self, name: str = "", **options: Any) -> list[ObjectInfo]:
        """List a folder of the case's own, whole."""
        prefix = self.key(name) if name else self.prefix
        return [found async for page in self.adapter.list(prefix, **options) for found in page.objects]

    async def names(self, name: str = "", **options: Any) -> list[str]:
        """List names within the case's folder in the order given; directories end with a slash."""
        start = len(self.prefix) + 1
        return [
            found.key[start:] + ("/" if found.kind is ObjectKind.DIRECTORY else "")
            for found in await self.objects(name, **options)
        ]


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One thing that every adapter has to do."""

    name: str
    run: Callable[[Trial], Awaitable[None]]
    selected: Callable[[Capability], bool]
    needs: str
    """What a provider lacks when the case is skipped."""


CASES: list[Case] = []
"""Every case, filled when the modules of cases are imported."""

Run = Callable[[Trial], Awaitable[None]]


def case(selected: Callable[[Capability], bool] = lambda _: True, needs: str = "") -> Callable[[Run], Run]:
    """Register a case that runs where ``selected`` says so of the capability; ``needs`` tells why it is skipped."""

    def register(run: Run) -> Run:
        CASES.append(Case(run.__name__, run, selected, needs))
        return run

    return register
