"""Conformance cases: writing is all or nothing."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from cdir.errors import (
    AlreadyExists,
    CdirError,
    IntegrityError,
    InvalidPath,
    IsDirectory,
    NotDirectory,
    PreconditionFailed,
    Unsupported,
)
from cdir_adapters.adapter import SmallObject, WriteMode
from cdir_adapters.capability import ChecksumKind
from cdir_adapters.testing.trial import MIB, MODIFIED, Trial, case, expect, failing, pattern, same, stalling, stream
from cdir_runtime.crc32c import Crc32c


@case()
async def write_small_objects(trial: Trial) -> None:
    for size in (0, 1, 3, 1000, 65_537):
        data = pattern(size)
        info = await trial.write(f"bytes-{size}", data)
        same((info.key, info.size), (trial.key(f"bytes-{size}"), size), "what write returns")
        same(await trial.get(f"bytes-{size}"), data, f"{size} bytes written whole")
        await trial.write_stream(f"pieces-{size}", stream(data, 17 if size < 2000 else 4099), size)
        same(await trial.get(f"pieces-{size}"), data, f"{size} bytes written in pieces")


@case()
async def write_many_small_objects(trial: Trial) -> None:
    contents = {f"many/{size}": pattern(size) for size in (0, 1, 1000, 65_537)}
    await trial.put("many/1", b"what was there")
    await trial.put("taken", b"an object")
    wanted = [SmallObject(trial.key(name), data, MODIFIED) for name, data in contents.items()]
    wanted.append(SmallObject(trial.key("taken/below"), b"x", MODIFIED))
    *stored, below = await trial.adapter.write_each(wanted)
    for one, (name, data) in zip(stored, contents.items(), strict=True):
        assert not isinstance(one, CdirError), f"{name}: {one}"
        same((one.key, one.size), (trial.key(name), len(data)), "what write_each returns")
        same(await trial.get(name), data, name)
    if trial.capability.directories:
        assert isinstance(below, NotDirectory), f"{below!r} instead of NotDirectory"
    if trial.capability.write_if_absent:
        again = [one._replace(mode=WriteMode.CREATE, data=b"new") for one in wanted[:2]]
        again.append(SmallObject(trial.key("many/new"), b"new", MODIFIED, WriteMode.CREATE))
        *refused, new = await trial.adapter.write_each(again)
        assert all(isinstance(one, AlreadyExists) for one in refused), f"{refused} instead of AlreadyExists"
        assert not isinstance(new, CdirError), f"a new object among others: {new}"
        same(await trial.get("many/1"), contents["many/1"], "the object that existed first")
        same(await trial.get("many/new"), b"new", "a new object among others")


@case()
async def write_large_objects(trial: Trial) -> None:
    for size in (MIB - 1, MIB, MIB + 1, 4 * MIB, 4 * MIB + 1, 8 * MIB + 1):
        data = pattern(size)
        info = await trial.write_stream("large", stream(data, 300_007), size)
        same(info.size, size, "the size that write returns")
        same(await trial.get("large"), data, f"{size} bytes")


@case()
async def write_large_pieces(trial: Trial) -> None:
    data = pattern(9 * MIB + 5)
    await trial.write_stream("one-piece", stream(data, len(data)), len(data))
    same(await trial.get("one-piece"), data, "a piece larger than any buffer")


@case(lambda capability: capability.write_unknown_size, "write_unknown_size")
async def write_unknown_size(trial: Trial) -> None:
    for size in (0, 1, 70_001, 5 * MIB + 3):
        data = pattern(size)
        info = await trial.write_stream("unknown", stream(data), None)
        same(info.size, size, "the size that write returns")
        same(await trial.get("unknown"), data, f"{size} bytes of unknown size")


@case(lambda capability: not capability.write_unknown_size, "a provider without write_unknown_size")
async def write_unknown_size_unsupported(trial: Trial) -> None:
    with expect(Unsupported):
        await trial.write_stream("unknown", stream(b"x"), None)
    same(await trial.get("unknown"), None, "what an unsupported write left")


@case()
async def write_replaces(trial: Trial) -> None:
    await trial.write("object", pattern(5000))
    await trial.write("object", b"short")
    same(await trial.get("object"), b"short", "a long object replaced by a short one")


@case()
async def write_makes_parents(trial: Trial) -> None:
    await trial.write("a/b c/d/object", b"deep")
    same(await trial.get("a/b c/d/object"), b"deep", "an object below new folders")


@case()
async def write_bad_size_leaves_old(trial: Trial) -> None:
    for name, size in (("small", 1000), ("large", 6 * MIB)):
        data = pattern(size, 1)
        await trial.write(name, b"old")
        for wrong in (size - 1, size + 1):
            for missing in (name, f"{name}-new-{wrong}"):
                with expect(IntegrityError):
                    await trial.write_stream(missing, stream(data), wrong)
                with expect(IntegrityError):
                    await trial.write(missing, data, size=wrong)
            same(await trial.get(f"{name}-new-{wrong}"), None, f"{size} bytes announced as {wrong}")
        same(await trial.get(name), b"old", f"the old object after {size} bytes of another size")


@case()
async def write_failing_source_leaves_old(trial: Trial) -> None:
    for name, size in (("empty", 0), ("small", 1000), ("large", 9 * MIB)):
        await trial.write(name, b"old")
        error = RuntimeError("the source broke")
        for target in (name, f"{name}-new"):
            with expect(RuntimeError) as raised:
                await trial.write_stream(target, failing(pattern(size), error), size + 10)
            assert raised == [error], "another error than the source's came out"
        same(await trial.get(name), b"old", f"the old object after a source broke at {size}")
        same(await trial.get(f"{name}-new"), None, f"a new object after a source broke at {size}")


@case()
async def write_cancelled_leaves_old(trial: Trial) -> None:
    for name, size in (("small", 1000), ("large", 9 * MIB)):
        await trial.write(name, b"old")
        for target, wanted in ((name, b"old"), (f"{name}-new", None)):
            reached = asyncio.Event()
            write = asyncio.ensure_future(trial.write_stream(target, stalling(pattern(size), reached), size + 10))
            waiting = asyncio.ensure_future(reached.wait())
            await asyncio.wait({write, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            write.cancel()
            with expect(asyncio.CancelledError):
                await write
            same(await trial.get(target), wanted, f"{target} after a cancelled write")
    same(sorted(await trial.names(recursive=True)), ["large", "small"], "the listing after cancelled writes")


@case()
async def write_unfinished_is_hidden(trial: Trial) -> None:
    reached = asyncio.Event()
    size = 9 * MIB
    write = asyncio.ensure_future(trial.write_stream("pending", stalling(pattern(size), reached), size + 1))
    waiting = asyncio.ensure_future(reached.wait())
    try:
        await asyncio.wait({write, waiting}, return_when=asyncio.FIRST_COMPLETED)
        assert not write.done(), "the write ended before its source did"
        assert await trial.is_missing("pending"), "stat shows an unfinished write"
        same(await trial.names(recursive=True), [], "the recursive listing during a write")
        same(await trial.names(), [], "the listing during a write")
    finally:
        waiting.cancel()
        write.cancel()
        await asyncio.wait({write})


@case(lambda capability: capability.write_if_absent, "write_if_absent")
async def write_create(trial: Trial) -> None:
    await trial.write("object", b"first", mode=WriteMode.CREATE)
    with expect(AlreadyExists):
        await trial.write("object", b"second", mode=WriteMode.CREATE)
    with expect(AlreadyExists):
        await trial.write_stream("object", stream(pattern(6 * MIB)), 6 * MIB, mode=WriteMode.CREATE)
    same(await trial.get("object"), b"first", "the object that existed first")
    await trial.put("foreign", b"foreign")
    with expect(AlreadyExists):
        await trial.write("foreign", b"ours", mode=WriteMode.CREATE)
    same(await trial.get("foreign"), b"foreign", "the object that someone else had made")


@case(lambda capability: capability.write_if_absent, "write_if_absent")
async def write_create_race(trial: Trial) -> None:
    async def create(number: int) -> bytes | None:
        data = pattern(3000 + number, number)
        try:
            await trial.write("raced", data, mode=WriteMode.CREATE)
        except AlreadyExists:
            return None
        return data

    results = await asyncio.gather(*(create(number) for number in range(8)))
    winners = [data for data in results if data is not None]
    same(len(winners), 1, "the number of winners of eight racing creators")
    same(await trial.get("raced"), winners[0], "the content after the race")


@case(lambda capability: not capability.write_if_absent, "a provider without write_if_absent")
async def write_create_unsupported(trial: Trial) -> None:
    with expect(Unsupported):
        await trial.write("object", b"x", mode=WriteMode.CREATE)
    same(await trial.get("object"), None, "what an unsupported write left")


@case(lambda capability: capability.write_if_match, "write_if_match")
async def write_if_match(trial: Trial) -> None:
    first = await trial.write("object", b"first")
    second = await trial.write("object", b"second", if_match=first.etag)
    with expect(PreconditionFailed):
        await trial.write("object", b"third", if_match=first.etag)
    same(await trial.get("object"), b"second", "the object after a stale write")
    await trial.write("object", b"third", if_match=second.etag)
    same(await trial.get("object"), b"third", "the object after a write with its ETag")
    with expect(PreconditionFailed):
        await trial.write("absent", b"x", if_match=first.etag)
    same(await trial.get("absent"), None, "a missing object after a conditional write")


@case(lambda capability: not capability.write_if_match, "a provider without write_if_match")
async def write_if_match_unsupported(trial: Trial) -> None:
    await trial.write("object", b"first")
    with expect(Unsupported):
        await trial.write("object", b"second", if_match='"1"')
    same(await trial.get("object"), b"first", "the object after an unsupported write")


@case(lambda capability: bool(capability.checksums), "checksums")
async def write_states_checksum(trial: Trial) -> None:
    digests: dict[ChecksumKind, Callable[[], Any]] = {
        ChecksumKind.MD5: hashlib.md5,
        ChecksumKind.SHA1: hashlib.sha1,
        ChecksumKind.SHA256: hashlib.sha256,
        ChecksumKind.CRC32C: Crc32c,
    }
    for size in (0, 1000):
        data = pattern(size)
        written = await trial.write("object", data)
        for info in (written, await trial.adapter.stat(trial.key("object"))):
            if info.checksum is None:
                continue
            assert info.checksum.kind in trial.capability.checksums, f"{info.checksum.kind} is not declared"
            if info.checksum.kind in digests:
                digest = digests[info.checksum.kind]()
                digest.update(data)
                same(info.checksum.value, digest.hexdigest(), "the checksum stated")


@case(lambda capability: capability.metadata, "metadata")
async def write_keeps_metadata(trial: Trial) -> None:
    metadata = {"cdir-version": "0123abcd", "cdir-author": "someone"}
    await trial.write("object", b"x", metadata=metadata)
    found = (await trial.adapter.stat(trial.key("object"))).metadata
    same({name: found.get(name) for name in metadata}, metadata, "the metadata")
    await trial.write("object", b"y")
    found = (await trial.adapter.stat(trial.key("object"))).metadata
    assert not set(metadata) & set(found), "metadata of the old object stayed"


@case(lambda capability: not capability.metadata, "a provider without metadata")
async def write_drops_metadata(trial: Trial) -> None:
    """Metadata helps where it can be kept; where it cannot, a write does not fail for it."""
    await trial.write("object", b"x", metadata={"cdir-version": "0123abcd"})
    same(dict((await trial.adapter.stat(trial.key("object"))).metadata), {}, "the metadata")
    same(await trial.get("object"), b"x", "the object")


@case(lambda capability: capability.modified_settable, "modified_settable")
async def write_keeps_modified(trial: Trial) -> None:
    precision = trial.capability.modified_precision
    assert precision is not None, "a provider that keeps the modified time has a precision"
    for moment in (
        MODIFIED,
        MODIFIED + timedelta(seconds=1),
        datetime(1980, 1, 2, tzinfo=UTC),
        datetime(2040, 5, 6, 7, 8, 9, 999999, tzinfo=UTC),
    ):
        written = await trial.write("object", b"x", modified=moment)
        found = [("write", written), ("stat", await trial.adapter.stat(trial.key("object")))]
        if trial.capability.modified_listed:
            found += [("list", info) for info in await trial.objects()]
        for verb, info in found:
            assert info.modified is not None, f"{verb} gives no modified time"
            assert info.modified.tzinfo is not None, f"{verb} gives a naive time"
            assert abs(info.modified - moment) < precision or info.modified == moment, (
                f"{verb}: {info.modified} is not {moment} at a precision of {precision}"
            )


@case(lambda capability: capability.directories, "directories")
async def write_over_directory(trial: Trial) -> None:
    await trial.write("folder/object", b"x")
    with expect(IsDirectory):
        await trial.write("folder", b"y")
    with expect(IsDirectory):
        await trial.write_stream("folder", stream(b"y"), 1)
    same(await trial.get("folder/object"), b"x", "the object below")


@case(lambda capability: capability.directories, "directories")
async def write_below_file(trial: Trial) -> None:
    await trial.write("object", b"x")
    with expect(NotDirectory):
        await trial.write("object/below", b"y")
    with expect(NotDirectory):
        await trial.write("object/far/below", b"y")
    same(await trial.get("object"), b"x", "the object above")


@case(lambda capability: capability.max_name_bytes is not None, "max_name_bytes")
async def write_name_too_long(trial: Trial) -> None:
    longest = trial.capability.max_name_bytes
    assert longest is not None
    with expect(InvalidPath):
        await trial.write("n" * (longest + 1), b"x")
    await trial.write("n" * longest, b"x")
    same(await trial.get("n" * longest), b"x", "the object with the longest name")


@case()
async def write_concurrently(trial: Trial) -> None:
    async def write(number: int) -> None:
        data = pattern(2000 + number, number)
        await trial.write(f"folder-{number % 3}/object-{number}", data)
        same(await trial.fetch(f"folder-{number % 3}/object-{number}"), data, "the object of one of many writers")

    async with asyncio.TaskGroup() as writers:
        for number in range(20):
            writers.create_task(write(number))
    same(len(await trial.names(recursive=True)), 20, "the number of objects written at once")


@case(lambda capability: capability.write_atomic, "write_atomic")
async def write_same_key_concurrently(trial: Trial) -> None:
    # of one size: Apache looks at a file before it opens it, and cuts what it then sends to the size that it saw
    contents = [pattern(50_000, number) for number in range(6)]
    await trial.write("contended", contents[0])

    async def write(data: bytes) -> None:
        await trial.write("contended", data)

    async def read() -> None:
        for _ in range(5):
            assert await trial.read("contended") in contents, "a reader saw a mixture"

    async with asyncio.TaskGroup() as tasks:
        for data in contents:
            tasks.create_task(write(data))
        tasks.create_task(read())
    assert await trial.get("contended") in contents, "the object is a mixture of its writers"


@case()
async def write_and_delete_concurrently(trial: Trial) -> None:
    """Folders that go when they are empty must not go under a writer's hands."""

    async def churn(number: int) -> None:
        for _ in range(5):
            await trial.write(f"shared/folder/object-{number}", b"x")
            await trial.adapter.delete(trial.key(f"shared/folder/object-{number}"))

    results = await asyncio.gather(*(churn(number) for number in range(6)), return_exceptions=True)
    broken = [error for error in results if isinstance(error, CdirError)]
    assert not broken, f"writing beside deleting failed: {broken[0]!r}"
    for error in results:
        if error is not None:
            raise error
    same(await trial.names(recursive=True), [], "what is left")
