from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from cdir.errors import CdirError, InvalidArgument, IsDirectory, NotFound, Unsupported
from cdir.v1 import directory_service_pb2 as pb
from cdir_gateway.local_files import LocalFiles, LocalPlacement, LocalSource, LocalTarget
from cdir_transfer.digest import BLOCK_SIZE, ContentDigest


def identity(path: Path) -> pb.LocalFile:
    found = path.lstat()
    return pb.LocalFile(
        path=str(path),
        device=found.st_dev,
        inode=found.st_ino,
        size=found.st_size,
        modified_ns=found.st_mtime_ns,
    )


async def test_small_sources_are_read_with_their_digest(tmp_path: Path) -> None:
    sources = []
    for number in range(100):
        path = tmp_path / f"{number}"
        path.write_bytes(b"x" * number)
        sources.append(identity(path))
    async with LocalFiles(enabled=True) as local:
        for number, source in enumerate(sources):
            content = await local.read_whole(source)
            assert content.data == b"x" * number
            assert content.sha256 == hashlib.sha256(b"x" * number).digest()


@pytest.mark.parametrize("change", ["longer", "shorter", "touched", "replaced"])
async def test_a_source_that_is_not_what_the_caller_saw_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "source"
    path.write_bytes(b"content")
    os.utime(path, ns=(10**18, 10**18))
    source = identity(path)
    if change == "longer":
        path.write_bytes(b"content and more")
        os.utime(path, ns=(10**18, 10**18))
    elif change == "shorter":
        path.write_bytes(b"cont")
        os.utime(path, ns=(10**18, 10**18))
    elif change == "touched":
        os.utime(path, ns=(10**18, 10**18 + 1))
    else:
        other = tmp_path / "other"
        other.write_bytes(b"CONTENT")
        os.utime(other, ns=(10**18, 10**18))
        other.replace(path)
    async with LocalFiles(enabled=True) as local:
        with pytest.raises(InvalidArgument, match="changed while it was read"):
            await local.read_whole(source)


async def test_only_regular_files_are_sources(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_bytes(b"x")
    link, fifo = tmp_path / "link", tmp_path / "fifo"
    link.symlink_to(real)
    os.mkfifo(fifo)
    async with LocalFiles(enabled=True) as local:
        for path in (link, fifo, tmp_path):
            with pytest.raises(InvalidArgument):
                await local.read_whole(identity(path))
        missing = identity(real)
        missing.path = str(tmp_path / "missing")
        with pytest.raises(NotFound):
            await local.read_whole(missing)
        relative = identity(real)
        relative.path = "real"
        with pytest.raises(InvalidArgument, match="absolute"):
            await local.read_whole(relative)


def test_a_large_source_is_read_in_blocks_and_checked_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "large"
    content = os.urandom(BLOCK_SIZE + 100)
    path.write_bytes(content)
    source = LocalSource(identity(path))
    try:
        digest = ContentDigest()
        assert b"".join(source.read_next(digest=digest) for _ in range(3)) == content
        assert digest.sha256() == hashlib.sha256(content).digest()
        source.check_unchanged()
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(InvalidArgument, match="changed while it was read"):
            source.check_unchanged()
    finally:
        source.close()


async def test_a_target_appears_whole_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "target"
    path.write_bytes(b"old")
    async with LocalFiles(enabled=True) as local:
        await local.place(LocalPlacement(str(path), b"new", 1_600_000_000_123_456_789))
    assert path.read_bytes() == b"new"
    assert path.stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert os.listdir(tmp_path) == ["target"]


async def test_a_target_needs_a_folder_and_is_no_folder(tmp_path: Path) -> None:
    async with LocalFiles(enabled=True) as local:
        with pytest.raises(NotFound):
            await local.place(LocalPlacement(str(tmp_path / "missing" / "target"), b"", 0))
        with pytest.raises(IsDirectory):
            await local.place(LocalPlacement(str(tmp_path), b"", 0))
        with pytest.raises(InvalidArgument):
            await local.place(LocalPlacement("target", b"", 0))
    assert os.listdir(tmp_path) == []


def test_a_discarded_target_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    target = LocalTarget(str(path), 0)
    target.write_at(0, b"half")
    assert len(os.listdir(tmp_path)) == 1
    target.discard()
    assert os.listdir(tmp_path) == []


async def test_nothing_is_touched_where_local_files_are_off() -> None:
    async with LocalFiles(enabled=False) as local:
        with pytest.raises(Unsupported) as raised:
            local.check_enabled()
    assert isinstance(raised.value, CdirError)
