from __future__ import annotations

import hashlib

import pytest
from blake3 import blake3

from cdir.errors import IntegrityError
from cdir.v1 import entry_pb2
from cdir_transfer.digest import BLOCK_SIZE, ContentDigest, block_count, block_range, check_block, check_whole


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def version_of(content: bytes) -> entry_pb2.Version:
    digest = ContentDigest()
    digest.update(content)
    return entry_pb2.Version(size=digest.size, sha256=digest.sha256(), block_digests=digest.block_digests())


@pytest.mark.parametrize(
    "size", [0, 1, 65_536, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 2 * BLOCK_SIZE, 2 * BLOCK_SIZE + 17]
)
@pytest.mark.parametrize("step", [1 << 20, 3 * BLOCK_SIZE, 777_777])
def test_the_digests_do_not_depend_on_how_a_content_is_cut(size: int, step: int) -> None:
    content = pattern(size)
    digest = ContentDigest()
    for start in range(0, size, step):
        digest.update(content[start : start + step])
    blocks = [content[start : start + BLOCK_SIZE] for start in range(0, size, BLOCK_SIZE)]
    assert digest.size == size
    assert digest.sha256() == hashlib.sha256(content).digest()
    expected = b"".join(blake3(block).digest() for block in blocks) if size > BLOCK_SIZE else b""
    assert digest.block_digests() == expected


def test_blocks_cover_a_content_exactly() -> None:
    for size in (0, 1, BLOCK_SIZE, BLOCK_SIZE + 1, 3 * BLOCK_SIZE):
        ranges = [block_range(size, index) for index in range(block_count(size))]
        assert sum(length for _, length in ranges) == size
        assert all(offset == index * BLOCK_SIZE for index, (offset, _) in enumerate(ranges))


def test_a_whole_content_is_checked() -> None:
    content = pattern(1000)
    version = version_of(content)
    check_whole(version, content)
    with pytest.raises(IntegrityError):
        check_whole(version, content[:-1])
    with pytest.raises(IntegrityError):
        check_whole(version, b"x" + content[1:])


def test_each_block_is_checked_for_itself() -> None:
    content = pattern(2 * BLOCK_SIZE + 5)
    version = version_of(content)
    check_block(version, 1, content[BLOCK_SIZE : 2 * BLOCK_SIZE])
    check_block(version, 2, content[2 * BLOCK_SIZE :])
    with pytest.raises(IntegrityError):
        check_block(version, 0, content[BLOCK_SIZE : 2 * BLOCK_SIZE])
    with pytest.raises(IntegrityError):
        check_block(version, 2, content[2 * BLOCK_SIZE : -1])
