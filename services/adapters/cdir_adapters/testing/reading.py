"""Conformance cases: reading, stat, deleting, copying, moving and the small verbs."""

from __future__ import annotations

import hashlib
from datetime import timedelta

from cdir.errors import (
    CdirError,
    DirectoryNotEmpty,
    IsDirectory,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfied,
    Unsupported,
)
from cdir_adapters.adapter import FULL, Beginning, ByteRange, ObjectKind
from cdir_adapters.testing.trial import MIB, MODIFIED, Trial, case, expect, pattern, same, stream


@case()
async def check_passes(trial: Trial) -> None:
    await trial.adapter.check()


@case()
async def stat_foreign_object(trial: Trial) -> None:
    await trial.put("object", b"12345")
    info = await trial.adapter.stat(trial.key("object"))
    same((info.key, info.size, info.kind), (trial.key("object"), 5, ObjectKind.FILE), "stat")
    assert info.modified is None or info.modified.tzinfo is not None, "a naive time"


@case()
async def missing_object(trial: Trial) -> None:
    for name in ("missing", "missing/deeper", "Missing folder/x"):
        with expect(NotFound):
            await trial.adapter.stat(trial.key(name))
        with expect(NotFound):
            await trial.fetch(name)
        with expect(NotFound):
            await trial.read(name)
        with expect(NotFound):
            await trial.fetch(name, ByteRange(0, 1))


@case()
async def below_file_is_missing(trial: Trial) -> None:
    await trial.put("object", b"x")
    with expect(NotFound):
        await trial.adapter.stat(trial.key("object/below"))
    with expect(NotFound):
        await trial.fetch("object/below")
    await trial.adapter.delete(trial.key("object/below"))
    same(await trial.get("object"), b"x", "the object above")


@case()
async def read_small_objects(trial: Trial) -> None:
    for size in (0, 1, 1000, 65_537):
        data = pattern(size)
        await trial.put(f"object-{size}", data)
        same(await trial.read(f"object-{size}"), data, f"{size} bytes read")
        same(await trial.fetch(f"object-{size}"), data, f"{size} bytes fetched")


@case()
async def read_many_small_objects(trial: Trial) -> None:
    contents = {f"many/{size}": pattern(size) for size in (0, 1, 1000, 65_537)}
    for name, data in contents.items():
        await trial.put(name, data)
    wanted = [Beginning(trial.key(name), max(len(data), 1)) for name, data in contents.items()]
    wanted += [Beginning(trial.key("many/missing"), 1), Beginning(trial.key("many/1000"), 10)]
    *found, missing, short = await trial.adapter.fetch_each(wanted)
    for one, (name, data) in zip(found, contents.items(), strict=True):
        assert not isinstance(one, CdirError), f"{name}: {one}"
        same((one.info.key, one.info.size, one.data), (trial.key(name), len(data), data), name)
    assert isinstance(missing, NotFound), f"{missing!r} instead of NotFound"
    assert not isinstance(short, CdirError), f"the beginning of an object: {short}"
    same((short.info.size, short.data), (1000, pattern(1000)[:10]), "the beginning of an object")


@case()
async def read_large_objects(trial: Trial) -> None:
    for size in (MIB - 1, MIB, MIB + 1, 4 * MIB, 8 * MIB + 1):
        data = pattern(size)
        await trial.put("large", data)
        same(await trial.read("large"), data, f"{size} bytes")


@case()
async def read_ranges(trial: Trial) -> None:
    size = 2 * MIB + 7
    data = pattern(size)
    await trial.put("object", data)
    for offset, length in (
        (0, None),
        (0, 1),
        (0, size),
        (0, size + 100),
        (5, 0),
        (5, 10),
        (MIB - 1, 2),
        (MIB, MIB),
        (size - 1, 1),
        (size - 1, None),
        (size - 10, 100),
        (1000, None),
    ):
        wanted = data[offset:] if length is None else data[offset : offset + length]
        range = ByteRange(offset, length)
        same(await trial.read("object", range), wanted, f"read {range}")
        same(await trial.fetch("object", range), wanted, f"fetch {range}")
    for offset in (size, size + 1, size + MIB):
        with expect(RangeNotSatisfied):
            await trial.read("object", ByteRange(offset))
        with expect(RangeNotSatisfied):
            await trial.fetch("object", ByteRange(offset, 10))


@case()
async def read_range_of_empty_object(trial: Trial) -> None:
    await trial.put("empty", b"")
    for range in (FULL, ByteRange(0, 10), ByteRange(0, 0)):
        same(await trial.read("empty", range), b"", f"read {range}")
        same(await trial.fetch("empty", range), b"", f"fetch {range}")
    with expect(RangeNotSatisfied):
        await trial.fetch("empty", ByteRange(1))


@case()
async def read_tells_whole_size(trial: Trial) -> None:
    await trial.put("object", pattern(1000))
    fetched = await trial.adapter.fetch(trial.key("object"), range=ByteRange(10, 5))
    same(fetched.info.size, 1000, "the object's size in the answer to a range")


@case()
async def read_abandoned(trial: Trial) -> None:
    """More readers give up than any pool has connections; the adapter still works."""
    data = pattern(8 * MIB)
    await trial.put("large", data)
    for _ in range(12):
        async with trial.adapter.read(trial.key("large")) as opened:
            async for piece in opened:
                assert data.startswith(piece), "the first piece is wrong"
                break
    for _ in range(3):
        async with trial.adapter.read(trial.key("large")):
            pass
    same(await trial.fetch("large", ByteRange(MIB, 100)), data[MIB : MIB + 100], "a read after abandoned ones")


@case(lambda capability: capability.read_if_match, "read_if_match")
async def read_if_match(trial: Trial) -> None:
    first = await trial.write("object", b"first one")
    same((await trial.adapter.fetch(trial.key("object"), if_match=first.etag)).data, b"first one", "the object")
    await trial.write("object", b"second", modified=MODIFIED + timedelta(days=1))
    with expect(PreconditionFailed):
        await trial.adapter.fetch(trial.key("object"), if_match=first.etag)
    with expect(PreconditionFailed):
        async with trial.adapter.read(trial.key("object"), if_match=first.etag):
            pass


@case(lambda capability: not capability.read_if_match, "a provider without read_if_match")
async def read_if_match_unsupported(trial: Trial) -> None:
    await trial.write("object", b"x")
    with expect(Unsupported):
        await trial.adapter.fetch(trial.key("object"), if_match='"1"')


@case(lambda capability: capability.etag, "etag")
async def etag_follows_content(trial: Trial) -> None:
    written = await trial.write("object", b"first")
    found = await trial.adapter.stat(trial.key("object"))
    assert found.etag, "stat gives no ETag"
    same(found.etag, written.etag, "the ETag of an untouched object")
    await trial.write("object", b"other", modified=MODIFIED + timedelta(days=1))
    assert (await trial.adapter.stat(trial.key("object"))).etag != found.etag, "the ETag stayed with other content"


@case(lambda capability: capability.directories, "directories")
async def read_directory(trial: Trial) -> None:
    await trial.put("folder/object", b"x")
    same((await trial.adapter.stat(trial.key("folder"))).kind, ObjectKind.DIRECTORY, "the kind of a folder")
    with expect(IsDirectory):
        await trial.fetch("folder")
    with expect(IsDirectory):
        await trial.read("folder")


@case(lambda capability: not capability.directories, "a provider without directories")
async def prefix_is_missing(trial: Trial) -> None:
    await trial.put("folder/object", b"x")
    with expect(NotFound):
        await trial.adapter.stat(trial.key("folder"))
    with expect(NotFound):
        await trial.fetch("folder")


@case()
async def delete_object(trial: Trial) -> None:
    for name in ("folder/one", "folder/two", "folder/deep/three"):
        await trial.put(name, b"x")
    await trial.adapter.delete(trial.key("folder/one"))
    same(await trial.get("folder/one"), None, "the deleted object")
    await trial.adapter.delete(trial.key("folder/deep/three"))
    same(await trial.get("folder/two"), b"x", "the object beside")
    same(await trial.names(recursive=True), ["folder/two"], "what is left")


@case()
async def delete_missing(trial: Trial) -> None:
    await trial.adapter.delete(trial.key("missing"))
    await trial.adapter.delete(trial.key("missing/folder/object"))


@case(lambda capability: capability.directories, "directories")
async def delete_directory(trial: Trial) -> None:
    await trial.put("folder/object", b"x")
    with expect(IsDirectory):
        await trial.adapter.delete(trial.key("folder"))
    same(await trial.get("folder/object"), b"x", "the object in the folder")


@case(lambda capability: capability.copy, "copy")
async def copy_object(trial: Trial) -> None:
    for size in (0, 1000, 6 * MIB + 1):
        data = pattern(size)
        await trial.write_stream("source", stream(data), size, metadata={"cdir-version": "1"})
        before = await trial.adapter.stat(trial.key("source"))
        await trial.write("target/old", b"the old one")
        info = await trial.adapter.copy(trial.key("source"), trial.key("target/old"))
        same((info.key, info.size), (trial.key("target/old"), size), "what copy returns")
        same(await trial.get("target/old"), data, f"{size} bytes copied")
        same(await trial.get("source"), data, "the source of a copy")
        after = await trial.adapter.stat(trial.key("target/old"))
        same(dict(after.metadata), dict(before.metadata), "the metadata of a copy")
        if trial.capability.modified_settable:
            same(after.modified, before.modified, "the modified time of a copy")
    with expect(NotFound):
        await trial.adapter.copy(trial.key("missing"), trial.key("target/new"))
    same(await trial.get("target/new"), None, "the target of a copy of nothing")


@case(lambda capability: not capability.copy, "a provider without copy")
async def copy_unsupported(trial: Trial) -> None:
    await trial.write("source", b"x")
    with expect(Unsupported):
        await trial.adapter.copy(trial.key("source"), trial.key("target"))


@case(lambda capability: capability.move, "move")
async def move_object(trial: Trial) -> None:
    data = pattern(5000)
    await trial.write("folder/source", data, metadata={"cdir-version": "1"})
    before = await trial.adapter.stat(trial.key("folder/source"))
    info = await trial.adapter.move(trial.key("folder/source"), trial.key("new/folder/target"))
    same((info.key, info.size), (trial.key("new/folder/target"), 5000), "what move returns")
    same(await trial.get("new/folder/target"), data, "the moved object")
    same(await trial.get("folder/source"), None, "the source of a move")
    after = await trial.adapter.stat(trial.key("new/folder/target"))
    same(dict(after.metadata), dict(before.metadata), "the metadata of a moved object")
    if trial.capability.modified_settable:
        same(after.modified, before.modified, "the modified time of a moved object")
    await trial.write("occupied", b"old")
    await trial.adapter.move(trial.key("new/folder/target"), trial.key("occupied"))
    same(await trial.get("occupied"), data, "a target that existed")
    with expect(NotFound):
        await trial.adapter.move(trial.key("missing"), trial.key("occupied"))
    same(await trial.get("occupied"), data, "the target of a move of nothing")


@case(lambda capability: not capability.move, "a provider without move")
async def move_unsupported(trial: Trial) -> None:
    await trial.write("source", b"x")
    with expect(Unsupported):
        await trial.adapter.move(trial.key("source"), trial.key("target"))
    same(await trial.get("source"), b"x", "the source of an unsupported move")


@case(lambda capability: capability.directories, "directories")
async def make_and_remove_directories(trial: Trial) -> None:
    for _ in range(2):
        await trial.adapter.make_directory(trial.key("one/two"))
    same((await trial.adapter.stat(trial.key("one/two"))).kind, ObjectKind.DIRECTORY, "the kind of a new folder")
    same(await trial.names("one"), ["one/two/"], "the listing of a folder with an empty one")
    await trial.write("one/two/object", b"x")
    with expect(DirectoryNotEmpty):
        await trial.adapter.remove_directory(trial.key("one/two"))
    same(await trial.get("one/two/object"), b"x", "the object in a folder that stays")
    await trial.adapter.make_directory(trial.key("three"))
    for _ in range(2):
        await trial.adapter.remove_directory(trial.key("three"))
    assert await trial.is_missing("three"), "the removed folder is still there"


@case(lambda capability: not capability.directories, "a provider without directories")
async def directories_unsupported(trial: Trial) -> None:
    with expect(Unsupported):
        await trial.adapter.make_directory(trial.key("folder"))
    with expect(Unsupported):
        await trial.adapter.remove_directory(trial.key("folder"))


@case(lambda capability: capability.digest, "digest")
async def digest_is_that_of_the_content(trial: Trial) -> None:
    for name in ("object", "folder/-n", 'it\'s a "name"', "$(id) `id` \\ *", "Žofie 日本", "tail "):
        data = name.encode() * 3
        await trial.write(name, data)
        same(await trial.adapter.digest(trial.key(name)), hashlib.sha256(data).digest(), f"the digest of {name!r}")
    await trial.write("empty", b"")
    same(await trial.adapter.digest(trial.key("empty")), hashlib.sha256().digest(), "the digest of nothing")
    with expect(NotFound):
        await trial.adapter.digest(trial.key("missing"))


@case(lambda capability: not capability.digest, "a provider without digest")
async def digest_unsupported(trial: Trial) -> None:
    await trial.write("object", b"x")
    with expect(Unsupported):
        await trial.adapter.digest(trial.key("object"))


@case(lambda capability: capability.usage, "usage")
async def usage_is_told(trial: Trial) -> None:
    usage = await trial.adapter.usage()
    told = [value for value in (usage.used, usage.free, usage.total) if value is not None]
    assert told, "usage tells nothing"
    assert all(value >= 0 for value in told), f"usage is negative: {usage}"


@case(lambda capability: not capability.usage, "a provider without usage")
async def usage_unsupported(trial: Trial) -> None:
    with expect(Unsupported):
        await trial.adapter.usage()


@case()
async def sweep_spares_objects(trial: Trial) -> None:
    await trial.write("folder/object", b"x")
    assert await trial.adapter.sweep(24 * 3600.0) >= 0, "a negative number of things was swept"
    same(await trial.get("folder/object"), b"x", "the object after a sweep")
