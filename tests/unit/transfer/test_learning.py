"""Contents that were found at a provider: read from the one object that was found, and known from then on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest

from cdir.errors import IntegrityError, NotFound, ProviderUnavailable
from cdir.v1 import entry_pb2, scan_pb2
from cdir_transfer.digest import BLOCK_SIZE
from cdir_transfer.learning import is_same_etag
from cdir_transfer.reader import OpenContent, VerifiedReader
from unit.gateway.harness import HANG, version_of

LARGE = os.urandom(2 * BLOCK_SIZE + 12_345)
SMALL = b"a small content"


async def found_at(providers: Any, name: str) -> entry_pb2.Replica:
    """The copy as a scan records it."""
    replica = providers.replica(name)
    replica.etag = (await providers.stat(name)).etag
    assert isinstance(replica, entry_pb2.Replica)
    return replica


def open_unread(providers: Any, size: int, *replicas: entry_pb2.Replica) -> OpenContent:
    async def resolve_again() -> Sequence[entry_pb2.Replica]:
        raise NotFound("as before")

    reader = VerifiedReader(providers.harness.adapters, providers.health, providers.notes)
    version = entry_pb2.Version(version_id="0" * 32, generation=1, size=size)
    version.modified.FromSeconds(1_600_000_000)
    return reader.open(version, replicas, resolve_again, label="/file")


async def read(opened: OpenContent, offset: int = 0, length: int | None = None) -> bytes:
    async with asyncio.timeout(HANG), aclosing(opened.pieces(offset, length)) as pieces:
        return b"".join([piece async for piece in pieces])


@pytest.mark.parametrize("content", [b"x", SMALL, LARGE[:BLOCK_SIZE], LARGE], ids=len)
async def test_whoever_reads_all_of_it_learns_its_digests(providers: Any, content: bytes) -> None:
    providers.lay("a", content)
    replica = await found_at(providers, "a")
    opened = open_unread(providers, len(content), replica)
    assert await read(opened) == content
    known = version_of(content)
    assert providers.notes.learnt == [
        scan_pb2.LearntVersion(
            version_id="0" * 32,
            provider_id=replica.provider_id,
            key="file",
            etag=replica.etag,
            size=len(content),
            sha256=known.sha256,
            block_digests=known.block_digests,
            modified=opened.version.modified,
        )
    ]
    assert (opened.version.sha256, opened.version.block_digests) == (known.sha256, known.block_digests)


async def test_an_empty_content_is_learnt_as_well(providers: Any) -> None:
    providers.lay("a", b"")
    opened = open_unread(providers, 0, await found_at(providers, "a"))
    assert await opened.whole() == b""
    assert [learnt.sha256 for learnt in providers.notes.learnt] == [version_of(b"").sha256]


async def test_once_learnt_it_is_verified(providers: Any) -> None:
    providers.lay("a", SMALL)
    opened = open_unread(providers, len(SMALL), await found_at(providers, "a"))
    await opened.whole()
    providers.lay("a", SMALL[::-1])
    with pytest.raises(IntegrityError):
        await opened.whole()


async def test_a_part_of_it_teaches_nothing(providers: Any) -> None:
    providers.lay("a", LARGE)
    opened = open_unread(providers, len(LARGE), await found_at(providers, "a"))
    assert await read(opened, BLOCK_SIZE - 5, 10) == LARGE[BLOCK_SIZE - 5 : BLOCK_SIZE + 5]
    assert providers.notes.learnt == []


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=len)
async def test_another_object_than_the_one_found_is_neither_served_nor_called_corrupt(
    providers: Any, content: bytes
) -> None:
    providers.lay("a", content)
    replica = await found_at(providers, "a")
    for other in (content[::-1], content + b"more"):
        providers.lay("a", other)
        with pytest.raises(ProviderUnavailable, match="changed by another program"):
            await read(open_unread(providers, len(content), replica))
    assert (providers.notes.learnt, providers.notes.replicas) == ([], [])


async def test_an_object_that_changes_while_it_is_read_is_not_mixed(providers: Any) -> None:
    providers.lay("a", LARGE)
    opened = open_unread(providers, len(LARGE), providers.replica("a"))
    first = await opened.block(0)
    assert first == LARGE[:BLOCK_SIZE]
    providers.lay("a", LARGE[::-1])
    with pytest.raises(ProviderUnavailable, match="changed by another program"):
        await opened.block(1)
    assert providers.notes.learnt == []


async def test_blocks_come_from_one_copy_only(providers: Any) -> None:
    providers.lay("a", LARGE)
    providers.lay("b", LARGE[::-1])
    opened = open_unread(providers, len(LARGE), await found_at(providers, "a"), await found_at(providers, "b"))
    blocks = await asyncio.gather(*(opened.block(index) for index in (2, 0, 1)))
    assert b"".join((blocks[1], blocks[2], blocks[0])) in {LARGE, LARGE[::-1]}


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256", "crc32c"])
async def test_bytes_that_differ_from_the_providers_own_checksum_are_refused(providers: Any, kind: str) -> None:
    providers.lay("a", LARGE)
    replica = await found_at(providers, "a")
    replica.checksum = f"{kind}:{'0' * 8}"
    with pytest.raises(IntegrityError, match=kind):
        await read(open_unread(providers, len(LARGE), replica))
    assert providers.notes.learnt == []


async def test_a_crc_that_the_provider_states_is_learnt_with_the_digests(providers: Any) -> None:
    providers.lay("a", b"123456789")
    replica = await found_at(providers, "a")
    replica.checksum = "crc32c:E3069283"
    assert await read(open_unread(providers, 9, replica)) == b"123456789"
    assert [learnt.checksum for learnt in providers.notes.learnt] == ["crc32c:E3069283"]


def test_etags_are_compared_without_their_quotes() -> None:
    assert is_same_etag('"a"', "a")
    assert is_same_etag('W/"a"', '"a"')
    assert not is_same_etag("a", "b")
