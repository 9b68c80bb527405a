"""Random sequences of operations against a dictionary that does the same."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cdir.errors import AlreadyExists, IntegrityError, NotFound, RangeNotSatisfied
from cdir_adapters.adapter import Adapter, ByteRange, ObjectInfo, ObjectKind, WriteMode
from cdir_adapters.providers.local import LocalAdapter
from cdir_adapters.providers.memory import MemoryAdapter

T = TypeVar("T")

KEYS = st.sampled_from(["a", "b.txt", "d/a", "d/b", "d/e/f", "d/e/ g ", "é/ü", "z/y/x/w"])
CONTENTS = st.binary(max_size=40) | st.integers(0, 3).map(lambda n: bytes([n]) * 70_000)
MOMENTS = st.integers(0, 2**31).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


class AdapterMachine(RuleBasedStateMachine):
    """What both machines share; ``open`` gives the adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.adapter = self.run(self.open())
        self.model: dict[str, tuple[bytes, datetime]] = {}

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    async def open(self) -> Adapter:
        raise NotImplementedError

    def teardown(self) -> None:
        self.run(self.adapter.aclose())
        self.runner.close()

    @staticmethod
    async def pieces(data: bytes) -> AsyncIterator[bytes]:
        for offset in range(0, len(data), 7001):
            yield data[offset : offset + 7001]

    @rule(key=KEYS, data=CONTENTS, moment=MOMENTS, streamed=st.booleans(), sized=st.booleans())
    def write(self, key: str, data: bytes, moment: datetime, streamed: bool, sized: bool) -> None:
        source = self.pieces(data) if streamed else data
        self.run(self.adapter.write(key, source, size=len(data) if sized else None, modified=moment))
        self.model[key] = (data, moment)

    @rule(key=KEYS, data=CONTENTS, moment=MOMENTS)
    def create(self, key: str, data: bytes, moment: datetime) -> None:
        call = self.adapter.write(key, data, size=len(data), modified=moment, mode=WriteMode.CREATE)
        if key in self.model:
            with pytest.raises(AlreadyExists):
                self.run(call)
        else:
            self.run(call)
            self.model[key] = (data, moment)

    @rule(key=KEYS, data=CONTENTS, off=st.integers(1, 9))
    def write_wrong_size(self, key: str, data: bytes, off: int) -> None:
        call = self.adapter.write(key, self.pieces(data), size=len(data) + off, modified=datetime.now(UTC))
        with pytest.raises(IntegrityError):
            self.run(call)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.run(self.adapter.delete(key))
        self.model.pop(key, None)

    @rule(source=KEYS, to=KEYS, keep=st.booleans())
    def copy_or_move(self, source: str, to: str, keep: bool) -> None:
        call = (self.adapter.copy if keep else self.adapter.move)(source, to)
        if source not in self.model:
            with pytest.raises(NotFound):
                self.run(call)
            return
        self.run(call)
        self.model[to] = self.model[source] if keep else self.model.pop(source)

    @rule(key=KEYS, offset=st.integers(0, 50), length=st.none() | st.integers(0, 50))
    def read_range(self, key: str, offset: int, length: int | None) -> None:
        call = self.adapter.fetch(key, range=ByteRange(offset, length))
        if key not in self.model:
            with pytest.raises(NotFound):
                self.run(call)
            return
        data = self.model[key][0]
        if offset >= len(data) and offset:
            with pytest.raises(RangeNotSatisfied):
                self.run(call)
            return
        assert self.run(call).data == (data[offset:] if length is None else data[offset : offset + length])

    @rule(key=KEYS)
    def stat(self, key: str) -> None:
        if key not in self.model:
            with pytest.raises(NotFound):
                self.run(self.adapter.stat(key))
            return
        info = self.run(self.adapter.stat(key))
        assert (info.size, info.modified) == (len(self.model[key][0]), self.model[key][1])

    @rule(prefix=st.sampled_from(["d", "d/e", "z", "é", "nothing"]))
    def list_folder(self, prefix: str) -> None:
        found = {info.key for info in self.run(self.collect(prefix, False))}
        start = f"{prefix}/"
        assert found == {start + key[len(start) :].partition("/")[0] for key in self.model if key.startswith(start)}

    async def collect(self, prefix: str, recursive: bool) -> list[ObjectInfo]:
        return [info async for page in self.adapter.list(prefix, recursive=recursive) for info in page.objects]

    @invariant()
    def lists_what_is_there(self) -> None:
        found = {
            info.key: (info.size, info.modified)
            for info in self.run(self.collect("", True))
            if info.kind is ObjectKind.FILE and info.key != ".cdir/provider"
        }
        assert found == {key: (len(data), moment) for key, (data, moment) in self.model.items()}


class MemoryMachine(AdapterMachine):
    async def open(self) -> Adapter:
        return MemoryAdapter("memory", {})


class LocalMachine(AdapterMachine):
    async def open(self) -> Adapter:
        self.root = tempfile.mkdtemp(prefix="cdir-model-")
        adapter = LocalAdapter("disk", {"root": self.root})
        await adapter.write(".cdir/provider", b"{}", size=2, modified=datetime.now(UTC))
        return adapter

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.root)


QUICK = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

TestMemoryModel = MemoryMachine.TestCase
TestMemoryModel.settings = settings(QUICK, max_examples=60)
TestLocalModel = LocalMachine.TestCase
TestLocalModel.settings = QUICK
