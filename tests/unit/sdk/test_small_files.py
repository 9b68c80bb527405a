"""Small files that many tasks write and read one by one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import grpc.aio
import pytest

import cdir
from cdir import errors
from cdir.model import OnConflict, Wait
from cdir.small_files import SMALL
from cdir.v1 import directory_service_pb2 as pb
from servers.embedded import Embedded

HANG = 60.0


class CountedCalls:
    """A stub's method, and how often it was called."""

    def __init__(self, method: object) -> None:
        self._method = method
        self.count = 0

    def __call__(self, *arguments: object, **fields: object) -> object:
        self.count += 1
        assert callable(self._method)
        return self._method(*arguments, **fields)


async def test_a_crowd_shares_streams_and_each_gets_its_own_answer(
    client: cdir.Client, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, reads = (
        CountedCalls(client.connection.directory.WriteFiles),
        CountedCalls(client.connection.directory.ReadFiles),
    )
    monkeypatch.setattr(client.connection.directory, "WriteFiles", writes)
    monkeypatch.setattr(client.connection.directory, "ReadFiles", reads)
    contents = {f"{folder}/{number % 7}/{number}": os.urandom(number * 40) for number in range(300)}
    contents[f"{folder}/largest"] = os.urandom(SMALL)
    await client.write(f"{folder}/file", b"")
    async with asyncio.timeout(HANG):
        outcomes = await asyncio.gather(
            *(client.write(path, data) for path, data in contents.items()),
            client.write(f"{folder}/file", b"", base_generation=0),
            client.write(f"{folder}/file/below", b""),
            client.write(f"{folder}/../up", b""),
            return_exceptions=True,
        )
    stored, failed = outcomes[: len(contents)], outcomes[len(contents) :]
    assert {one.entry.path: one.entry.size for one in stored if not isinstance(one, BaseException)} == {
        path: len(data) for path, data in contents.items()
    }
    assert [type(one) for one in failed] == [errors.Conflict, errors.NotDirectory, errors.InvalidPath]
    async with asyncio.timeout(HANG):
        found = await asyncio.gather(
            *map(client.read, contents), client.read(f"{folder}/none"), client.read(folder), return_exceptions=True
        )
    assert found[: len(contents)] == list(contents.values())
    assert [type(one) for one in found[len(contents) :]] == [errors.NotFound, errors.IsDirectory]
    assert writes.count < 10
    assert reads.count < 10


@pytest.mark.parametrize("wait", [Wait.MINIMUM, Wait.REACHABLE])
async def test_options_are_each_writers_own(client: cdir.Client, folder: str, wait: Wait) -> None:
    path = f"{folder}/a.txt"
    await client.write(path, b"one")
    kept, plain = await asyncio.gather(
        client.write(path, b"two", base_generation=0, on_conflict=OnConflict.KEEP_COPY, wait=wait, modified_ns=10**18),
        client.write(f"{folder}/b.txt", b"three"),
    )
    assert (kept.conflict_of, kept.entry.modified_ns) == (path, 10**18)
    assert sorted(plain.stored) == ["one", "three", "two"]
    assert (await client.read(path), await client.read(kept.entry.path)) == (b"one", b"two")


async def test_reading_generations_and_single_copies_and_larger_files(client: cdir.Client, folder: str) -> None:
    path = f"{folder}/a"
    large = os.urandom(SMALL + 1)
    await client.write(path, b"one")
    await client.write(path, large)
    older, *current = await asyncio.gather(
        client.read(path, generation=1), client.read(path), client.read(path, provider="two"), client.read(path)
    )
    assert older == b"one"
    assert current == [large] * 3
    with pytest.raises(errors.NotFound):
        await client.read(path, provider="nobody")


async def test_who_leaves_does_not_disturb_the_others(client: cdir.Client, folder: str) -> None:
    writing = {number: asyncio.create_task(client.write(f"{folder}/{number}", b"x" * number)) for number in range(200)}
    await writing[0]
    gone = [task for number, task in writing.items() if number % 2 and task.cancel()]
    assert gone
    await asyncio.wait(writing.values(), timeout=HANG)
    for number, task in writing.items():
        assert task.cancelled() if task in gone else task.result().entry.size == number
    reading = {number: asyncio.create_task(client.read(f"{folder}/{number}")) for number in range(0, 200, 2)}
    await reading[0]
    for number in range(2, 200, 4):
        reading[number].cancel()
    await asyncio.wait(reading.values(), timeout=HANG)
    for number in range(0, 200, 4):
        assert reading[number].result() == b"x" * number

    async def taken(number: int) -> None:
        """A path that was given up is free soon."""
        while True:
            try:
                await client.write(f"{folder}/{number}", b"again")
            except errors.Conflict:
                await asyncio.sleep(0.01)
            else:
                return

    async with asyncio.timeout(HANG):
        await asyncio.gather(*map(taken, range(200)))


async def test_closing_ends_what_is_under_way(embedded: Embedded, folder: str) -> None:
    client = await cdir.connect(embedded.address)
    writing = [asyncio.create_task(client.write(f"{folder}/{number}", b"x")) for number in range(50)]
    reading = [asyncio.create_task(client.read(f"{folder}/{number}")) for number in range(50)]
    await asyncio.sleep(0)
    await client.close()
    done, pending = await asyncio.wait([*writing, *reading], timeout=HANG)
    assert not pending
    assert not any(task.cancelled() for task in done)


async def test_a_stream_that_breaks_fails_what_shares_it_and_the_next_one_works(
    embedded: Embedded, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await cdir.connect(embedded.address)
    directory = client.connection.directory
    streams: list[grpc.aio.StreamStreamCall[object, object]] = []

    def broken(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(**fields: object) -> object:
            stream = method(**fields)
            if len(streams) < 2:
                stream.cancel()
            streams.append(stream)
            return stream

        return call

    with monkeypatch.context() as patch:
        patch.setattr(directory, "WriteFiles", broken(directory.WriteFiles))
        patch.setattr(directory, "ReadFiles", broken(directory.ReadFiles))
        async with asyncio.timeout(HANG):
            writing = [asyncio.create_task(client.write(f"{folder}/{number}", b"x")) for number in range(200)]
            reading = [asyncio.create_task(client.read(f"{folder}/{number}")) for number in range(200)]
            await asyncio.sleep(0)
            for task in [*writing[::3], *reading[::3]]:
                task.cancel()
            outcomes = await asyncio.gather(*writing, *reading, return_exceptions=True)
    assert {type(one) for one in outcomes} <= {errors.ProviderUnavailable, asyncio.CancelledError}
    assert len(streams) == 2
    async with asyncio.timeout(HANG):
        await asyncio.gather(*(client.write(f"{folder}/{number}", b"y") for number in range(200)))
        assert await asyncio.gather(*(client.read(f"{folder}/{number}") for number in range(200))) == [b"y"] * 200
        await client.close()


async def test_nobody_answers_any_more(embedded: Embedded) -> None:
    client = await cdir.connect(embedded.address)
    await client.close()
    for _ in range(2):
        with pytest.raises(Exception, match="losed"):
            await asyncio.wait_for(client.write("/x", b""), HANG)
        with pytest.raises(Exception, match="losed"):
            await asyncio.wait_for(client.read("/x"), HANG)


async def test_a_read_says_when_the_file_is_larger_than_wanted(client: cdir.Client, folder: str) -> None:
    await client.write(f"{folder}/a", b"0123456789")
    call = client.connection.directory.ReadFiles(metadata=client.connection.metadata)
    reads = [pb.FileRead(id=number, path=f"{folder}/a", most=number) for number in (9, 10)]
    await call.write(pb.ReadFilesRequest(reads=reads))
    await call.done_writing()
    parts = {part.id: part async for response in call for part in response.parts}
    assert {number: (part.data, part.entry.size, part.end) for number, part in parts.items()} == {
        9: (b"", 10, True),
        10: (b"0123456789", 10, True),
    }
