"""What is particular about a disk; the rest is the conformance suite's."""

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cdir import errors
from cdir_adapters.adapter import Adapter, Beginning, ByteRange, ObjectInfo, ObjectKind, SmallObject, WriteMode
from cdir_adapters.providers import local
from cdir_adapters.providers.local import LocalAdapter
from cdir_adapters.providers.local_tree import Tree
from cdir_adapters.testing.trial import stalling

NOW = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


async def put(adapter: Adapter, key: str, data: bytes = b"x") -> ObjectInfo:
    return await adapter.write(key, data, size=len(data), modified=NOW)


def small(key: str, data: bytes = b"x", mode: WriteMode = WriteMode.OVERWRITE) -> SmallObject:
    return SmallObject(key, data, NOW, mode)


async def put_together(adapter: Adapter, *keys: str) -> None:
    for outcome in await adapter.write_each([small(key) for key in keys]):
        if isinstance(outcome, errors.CdirError):
            raise outcome


async def fetched_together(adapter: Adapter, *keys: str) -> list[bytes]:
    found = []
    for outcome in await adapter.fetch_each([Beginning(key, 100) for key in keys]):
        if isinstance(outcome, errors.CdirError):
            raise outcome
        found.append(outcome.data)
    return found


async def listed(adapter: Adapter, prefix: str = "", **options: Any) -> list[str]:
    return sorted([found.key async for page in adapter.list(prefix, **options) for found in page.objects])


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what the adapter's threads still do."""
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110 - a thread sets no event
            await asyncio.sleep(0.01)


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncIterator[LocalAdapter]:
    """An adapter whose root was not prepared yet."""
    async with LocalAdapter("disk", {"root": str(tmp_path / "root")}) as adapter:
        yield adapter


@pytest.fixture
async def disk(bare: LocalAdapter) -> LocalAdapter:
    await bare.prepare()
    await put(bare, ".cdir/provider", b"{}")
    return bare


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


async def refuses_everything(adapter: Adapter) -> None:
    for call in (
        lambda: adapter.stat("a"),
        lambda: adapter.fetch("a"),
        lambda: fetched_together(adapter, "a/b", "a/c"),
        lambda: put(adapter, "a"),
        lambda: put_together(adapter, "a/b", "a/c"),
        lambda: put(adapter, ".cdir/versions/aa/a"),
        lambda: adapter.delete("a"),
        lambda: adapter.copy("a", "b"),
        lambda: adapter.move("a", "b"),
        lambda: adapter.make_directory("a"),
        lambda: adapter.remove_directory("a"),
        lambda: adapter.sweep(0),
        lambda: listed(adapter),
        lambda: listed(adapter, recursive=True),
        lambda: listed(adapter, "missing"),
        lambda: listed(adapter, ".cdir"),
    ):
        with pytest.raises(errors.ProviderUnavailable, match="is the disk mounted"):
            await call()


async def test_a_root_that_is_missing_is_unavailable(bare: LocalAdapter) -> None:
    await refuses_everything(bare)
    with pytest.raises(errors.ProviderUnavailable):
        await bare.check()
    with pytest.raises(errors.ProviderUnavailable):
        await bare.stat(".cdir/provider")


async def test_a_root_without_the_sentinel_is_unavailable(bare: LocalAdapter, root: Path) -> None:
    root.mkdir()
    await refuses_everything(bare)
    assert list(root.iterdir()) == []
    await bare.check()
    with pytest.raises(errors.NotFound):
        await bare.fetch(".cdir/provider")


async def test_a_disk_that_goes_away_is_unavailable(disk: LocalAdapter, root: Path, tmp_path: Path) -> None:
    await put(disk, "a")
    root.rename(tmp_path / "unmounted")
    root.mkdir()
    await refuses_everything(disk)
    root.rmdir()
    (tmp_path / "unmounted").rename(root)
    assert (await disk.fetch("a")).data == b"x"


async def test_a_disk_that_goes_away_breaks_a_listing(disk: LocalAdapter, root: Path, tmp_path: Path) -> None:
    for number in range(1500):
        (root / f"file-{number}").write_bytes(b"")
    pages = disk.list("")
    await anext(pages)
    root.rename(tmp_path / "unmounted")
    root.mkdir()
    with pytest.raises(errors.ProviderUnavailable):
        async for _ in pages:
            pass


async def test_only_the_sentinel_and_the_probe_come_first(bare: LocalAdapter, root: Path) -> None:
    await bare.prepare()
    await put(bare, ".cdir/probe-1/object")
    assert await listed(bare, ".cdir/probe-1") == [".cdir/probe-1/object"]
    await bare.delete(".cdir/probe-1/object")
    assert (await bare.usage()).total
    await put(bare, ".cdir/provider")
    await put(bare, "a")
    assert (root / "a").read_bytes() == b"x"


async def test_the_root_may_not_be_a_file(bare: LocalAdapter, root: Path) -> None:
    root.write_bytes(b"")
    with pytest.raises(errors.ConfigInvalid):
        await bare.prepare()


async def test_symbolic_links_are_never_followed(disk: LocalAdapter, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "folder").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    (root / "loop").symlink_to("loop")
    for key in ("folder/secret", "file", "loop", "loop/x"):
        with pytest.raises(errors.NotFound):
            await disk.fetch(key)
    for key in ("folder/secret", "loop/x"):
        with pytest.raises(errors.NotFound):
            await disk.stat(key)
        with pytest.raises(errors.NotDirectory):
            await put(disk, key, b"changed")
        await disk.delete(key)
    with pytest.raises(errors.NotFound):
        await disk.copy("file", "copied")
    with pytest.raises(errors.NotFound):
        await disk.move("file", "moved")
    assert (await disk.stat("file")).kind is ObjectKind.OTHER
    assert await listed(disk, "folder") == []
    assert await listed(disk, recursive=True) == [".cdir/provider", "file", "folder", "loop"]
    await put(disk, "file", b"ours")
    assert not (root / "file").is_symlink()
    assert (outside / "secret").read_bytes() == b"secret"


async def test_what_is_no_file_is_shown_and_never_read(disk: LocalAdapter, root: Path) -> None:
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(root, os.O_RDONLY)
        try:
            server.bind(f"/proc/self/fd/{folder}/socket")
        finally:
            os.close(folder)
        kinds = {found.key: found.kind async for page in disk.list("") for found in page.objects}
        assert kinds == {".cdir": ObjectKind.DIRECTORY, "pipe": ObjectKind.OTHER, "socket": ObjectKind.OTHER}
        for key in ("pipe", "socket"):
            with pytest.raises(errors.NotFound):
                await asyncio.wait_for(disk.fetch(key), 60)


async def test_unfinished_writes_are_hidden_and_swept(disk: LocalAdapter, root: Path) -> None:
    reached = asyncio.Event()
    size = 12 << 20
    write = asyncio.ensure_future(disk.write("folder/a", stalling(bytes(size), reached), size=None, modified=NOW))
    await asyncio.wait_for(reached.wait(), 60)
    temporary = [path for path in (root / "folder").iterdir() if path.name.startswith(".cdir-tmp-")]
    assert len(temporary) == 1
    assert await listed(disk, "folder") == []
    assert await disk.sweep(3600) == 0
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    await until(lambda: not any((root / "folder").iterdir()))

    left = root / "folder" / ".cdir-tmp-of-a-crash"
    left.write_bytes(b"half")
    assert await listed(disk, recursive=True) == [".cdir/provider"]
    assert await disk.sweep(3600) == 0
    assert await disk.sweep(0) == 1
    assert not left.exists()
    with pytest.raises(errors.InvalidPath):
        await put(disk, "folder/.cdir-tmp-mine")


async def test_folders_that_become_empty_go(disk: LocalAdapter, root: Path) -> None:
    await put(disk, "a/b/c")
    await put(disk, "a/d")
    await disk.delete("a/b/c")
    assert not (root / "a" / "b").exists()
    await disk.delete("a/d")
    assert not (root / "a").exists()
    await put(disk, ".cdir/versions/aa/1")
    await disk.move(".cdir/versions/aa/1", "back")
    assert sorted(path.name for path in (root / ".cdir").iterdir()) == ["provider"]
    await disk.delete("back")
    assert root.is_dir()


async def test_times_are_kept_to_the_microsecond(disk: LocalAdapter, root: Path) -> None:
    info = await put(disk, "a")
    assert info.modified == NOW
    assert os.stat(root / "a").st_mtime_ns == 1714979289123456000


async def test_a_file_that_shrinks_while_it_is_read(disk: LocalAdapter, root: Path) -> None:
    (root / "a").write_bytes(bytes(16 << 20))
    async with disk.read("a") as stream:
        await anext(stream)
        os.truncate(root / "a", 100)
        with pytest.raises(errors.IntegrityError):
            async for _ in stream:
                pass
    assert len((await disk.fetch("a", range=ByteRange(50))).data) == 50


async def test_names_that_are_not_utf8_have_no_key(disk: LocalAdapter, root: Path) -> None:
    os.close(os.open(os.fsencode(root) + b"/bad-\xff", os.O_CREAT))
    await put(disk, "good")
    assert await listed(disk) == [".cdir", "good"]


async def test_paths_longer_than_the_system_takes(disk: LocalAdapter, root: Path) -> None:
    key = "/".join(["d" * 250] * 20 + ["file"])
    await put(disk, key)
    assert (await disk.fetch(key)).data == b"x"
    assert key in await listed(disk, recursive=True)
    await disk.delete(key)
    assert await listed(disk) == [".cdir"]


async def test_each_of_several_files_has_the_outcome_it_would_have_alone(disk: LocalAdapter, root: Path) -> None:
    await put(disk, "many/taken", b"old")
    await put(disk, "many/folder/file")
    objects = [small(f"many/{number}", b"%d" % number, WriteMode.CREATE) for number in range(20)]
    good = {one.key: one.data for one in objects}
    bad = {
        "many/taken": errors.AlreadyExists,
        "many/folder": errors.IsDirectory,
        "many/taken/below": errors.NotDirectory,
        "many/taken/below2": errors.NotDirectory,
        "many/.cdir-tmp-mine": errors.InvalidPath,
        f"many/{'n' * 256}": errors.InvalidPath,
        "": errors.IsDirectory,
    }
    objects[7:7] = [small(key, mode=WriteMode.CREATE) for key in bad]
    stored = dict(zip([one.key for one in objects], await disk.write_each(objects), strict=True))
    assert {key: type(one) for key, one in stored.items()} == dict.fromkeys(good, ObjectInfo) | bad
    found = await disk.fetch_each(
        [Beginning(key, 10) for key in [*good, "many/folder", "many/none", "none/a", "none/b"]]
    )
    assert [one.data for one in found[:20] if not isinstance(one, errors.CdirError)] == list(good.values())
    assert [type(one) for one in found[20:]] == [errors.IsDirectory, *[errors.NotFound] * 3]
    for key in good:
        assert await disk.stat(key) == stored[key]
    assert (root / "many" / "taken").read_bytes() == b"old"
    over = await disk.write_each([small("many/folder"), small("many/taken", b"new")])
    assert isinstance(over[0], errors.IsDirectory)
    assert (root / "many" / "taken").read_bytes() == b"new"
    assert not [path for path in root.rglob("*") if path.name.startswith(".cdir-tmp-")]


async def test_folders_may_go_while_several_files_are_stored_in_them(disk: LocalAdapter) -> None:
    keys = [f"f/{number}" for number in range(3)]

    async def remove() -> None:
        for _ in range(100):
            for key in keys:
                await disk.delete(key)

    async def store() -> None:
        for _ in range(100):
            await put_together(disk, *keys)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(remove())
        group.create_task(store())
    await put_together(disk, *keys)
    assert await fetched_together(disk, *keys) == [b"x"] * 3


async def test_who_leaves_while_several_files_are_stored_stops_that_and_leaves_nothing_half(
    disk: LocalAdapter, root: Path
) -> None:
    together = local._TOGETHER
    for turn in range(50):
        objects = [small(f"{turn}/{number:02}", bytes(100_000)) for number in range(64)]
        storing = asyncio.ensure_future(disk.write_each(objects))
        await asyncio.sleep(turn % 10 / 2000)
        storing.cancel()
        await asyncio.wait({storing})
        meeting = threading.Barrier(local._THREADS)
        await asyncio.gather(*(disk.in_thread("", meeting.wait, 30) for _ in range(local._THREADS)))  # all are idle
        found = await disk.fetch_each([Beginning(one.key, 100_001) for one in objects])
        stored = [not isinstance(one, errors.CdirError) for one in found]
        assert {len(one.data) for one in found if not isinstance(one, errors.CdirError)} <= {100_000}
        await until(lambda: not list(root.rglob(".cdir-tmp-*")))
        # what one thread has begun it would store to the end
        if any(0 < sum(stored[first : first + together]) < together for first in range(0, 64, together)):
            return
    pytest.fail("nobody stopped in the midst of what one thread stores")


async def test_no_descriptor_is_left_open(disk: LocalAdapter, root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (root / "large").write_bytes(bytes(9 << 20))
    for number in range(30):
        await put(disk, f"f/{number % 5}/{number}")
    for _ in range(10):
        async with disk.read("large") as stream:
            await anext(stream)
        with pytest.raises(errors.NotFound):
            await disk.fetch("f/missing/x")
        with pytest.raises(errors.IsDirectory):
            await disk.fetch("f")
        with pytest.raises(errors.IsDirectory):
            await put(disk, "f")
        await put_together(disk, "f/1/a", "f/1/b", "f/2/c")
        await fetched_together(disk, "f/1/a", "f/1/b", "f/2/c")
        await disk.write_each([small("f/1"), small("f/1/1", mode=WriteMode.CREATE), small("large/x"), small("large/y")])
        await disk.fetch_each([Beginning("f/1", 1), Beginning("f/none", 1)])
        pages = disk.list("", recursive=True)
        async with contextlib.aclosing(pages):  # type: ignore[type-var] # a disk's is a generator
            await anext(pages)
        reading = asyncio.ensure_future(disk.fetch("large"))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait({reading})
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, errors.QuotaExceeded),
        (errno.EDQUOT, errors.QuotaExceeded),
        (errno.EACCES, errors.PermissionDenied),
        (errno.EROFS, errors.PermissionDenied),
        (errno.ENAMETOOLONG, errors.InvalidPath),
        (errno.ENOENT, errors.NotFound),
        (errno.EIO, errors.ProviderUnavailable),
        (errno.ESTALE, errors.ProviderUnavailable),
        (errno.ENODEV, errors.ProviderUnavailable),
        (errno.ENOTCONN, errors.ProviderUnavailable),
    ],
)
def test_what_the_system_says_is_translated(code: int, error: type[errors.CdirError]) -> None:
    translated = Tree("/srv/data", "disk").translate(OSError(code, os.strerror(code)), "some/key")
    assert type(translated) is error
    assert "some/key" in translated.message
    assert "disk" in translated.message
