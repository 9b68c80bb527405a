from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest

from cdir.errors import IntegrityError, NotFound, ProviderUnavailable, RangeNotSatisfied
from cdir.v1 import entry_pb2
from cdir_transfer.digest import BLOCK_SIZE
from cdir_transfer.reader import OpenContent, VerifiedReader
from cdir_transfer.sharing import PART_SIZE
from unit.gateway.harness import HANG, version_of

LARGE = os.urandom(2 * BLOCK_SIZE + 12_345)
SMALL = b"a small content"


class Opener:
    """Opens contents, and says where the catalog knows the replicas to be when it is asked again."""

    def __init__(self, providers: Any, **settings: Any) -> None:
        self.reader = VerifiedReader(providers.harness.adapters, providers.health, providers.notes, **settings)
        self.now: list[entry_pb2.Replica] | None = None
        self.asked = 0

    def open(self, content: bytes, replicas: list[entry_pb2.Replica]) -> OpenContent:
        async def resolve_again() -> Sequence[entry_pb2.Replica]:
            self.asked += 1
            if self.now is None:
                raise NotFound("moved")
            return self.now

        if self.now is None:
            self.now = replicas
        return self.reader.open(version_of(content), replicas, resolve_again, label="/file")


async def read_all(opened: OpenContent) -> bytes:
    async with asyncio.timeout(HANG), aclosing(opened.pieces()) as pieces:
        return b"".join([piece async for piece in pieces])


@pytest.mark.parametrize("content", [b"", b"x", SMALL, LARGE[:BLOCK_SIZE], LARGE], ids=len)
async def test_a_content_is_read_from_the_first_replica(providers: Any, content: bytes) -> None:
    for name in "ab":
        providers.lay(name, content)
    opened = Opener(providers).open(content, [providers.replica("b"), providers.replica("a")])
    assert await read_all(opened) == content
    # a machine that stands still makes a call late, and later ones are then asked elsewhere too
    assert [provider for _, provider in providers.harness.faulty.calls[:1]] in ([], [providers.harness.ids["b"]])
    assert providers.notes.replicas == []


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, None),
        (0, 0),
        (0, 1),
        (5, 10),
        (BLOCK_SIZE - 1, 2),
        (BLOCK_SIZE, BLOCK_SIZE),
        (BLOCK_SIZE + 7, None),
        (2 * BLOCK_SIZE, 10**9),
        (len(LARGE) - 1, 1),
        (len(LARGE), 0),
    ],
)
async def test_ranges_are_cut_out_of_verified_blocks(providers: Any, offset: int, length: int | None) -> None:
    providers.lay("a", LARGE)
    opened = Opener(providers).open(LARGE, [providers.replica("a")])
    pieces = [piece async for piece in opened.pieces(offset, length)]
    end = len(LARGE) if length is None else offset + length
    assert b"".join(pieces) == LARGE[offset:end]
    assert all(pieces)


@pytest.mark.parametrize(("offset", "length"), [(len(SMALL), None), (len(SMALL) + 1, 0), (10**12, 5)])
async def test_a_range_past_the_end_is_refused(providers: Any, offset: int, length: int | None) -> None:
    providers.lay("a", SMALL)
    opened = Opener(providers).open(SMALL, [providers.replica("a")])
    with pytest.raises(RangeNotSatisfied):
        [piece async for piece in opened.pieces(offset, length)]


async def test_a_copy_is_found_under_its_other_name(providers: Any) -> None:
    providers.lay("a", SMALL, "aside")
    opener = Opener(providers)
    opened = opener.open(SMALL, [providers.replica("a", "file", "aside")])
    assert await read_all(opened) == SMALL
    assert opener.asked == 0


async def test_a_copy_that_was_renamed_is_followed(providers: Any) -> None:
    providers.lay("a", LARGE, "new")
    opener = Opener(providers)
    opener.now = [providers.replica("a", "new")]
    opened = opener.open(LARGE, [providers.replica("a", "old")])
    assert await read_all(opened) == LARGE
    assert opener.asked == 1
    assert providers.notes.replicas == []


async def test_a_copy_that_was_replaced_is_followed_to_where_it_was_set_aside(providers: Any) -> None:
    providers.lay("a", b"another content" * 1000, "file")
    providers.lay("a", SMALL, ".cdir/versions/00/aside")
    opener = Opener(providers)
    opener.now = [providers.replica("a", ".cdir/versions/00/aside")]
    assert await read_all(opener.open(SMALL, [providers.replica("a", "file")])) == SMALL
    assert providers.notes.replicas == []


async def test_a_missing_copy_is_passed_over_and_reported(providers: Any) -> None:
    providers.lay("b", LARGE)
    opener = Opener(providers)
    assert await read_all(opener.open(LARGE, [providers.replica("a"), providers.replica("b")])) == LARGE
    notes = {(note.provider_id, note.key, note.state) for note in providers.notes.replicas}
    assert notes == {(providers.harness.ids["a"], "file", entry_pb2.REPLICA_STATE_MISSING)}


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=len)
@pytest.mark.parametrize("damage", ["flipped", "shorter", "longer"])
async def test_a_damaged_copy_is_passed_over_and_reported(providers: Any, content: bytes, damage: str) -> None:
    spoiled = {"flipped": b"X" + content[1:], "shorter": content[:-1], "longer": content + b"x"}[damage]
    providers.lay("a", spoiled)
    providers.lay("b", content)
    opened = Opener(providers).open(content, [providers.replica("a"), providers.replica("b")])
    assert await read_all(opened) == content
    notes = {(note.provider_id, note.key, note.state) for note in providers.notes.replicas}
    assert notes == {(providers.harness.ids["a"], "file", entry_pb2.REPLICA_STATE_CORRUPT)}


async def test_damage_that_may_be_a_rename_is_not_reported(providers: Any) -> None:
    providers.lay("a", b"another content")
    providers.lay("b", SMALL)
    opener = Opener(providers)
    opener.now = [providers.replica("b")]
    assert await read_all(opener.open(SMALL, [providers.replica("a"), providers.replica("b")])) == SMALL
    assert providers.notes.replicas == []


async def test_copies_with_different_bad_blocks_make_one_good_content(providers: Any) -> None:
    providers.lay("a", b"X" + LARGE[1:])
    providers.lay("b", LARGE[:-1] + bytes([LARGE[-1] ^ 1]))
    opened = Opener(providers).open(LARGE, [providers.replica("a"), providers.replica("b")])
    assert await read_all(opened) == LARGE


async def test_when_every_copy_is_bad_nothing_is_handed_on(providers: Any) -> None:
    providers.lay("a", b"X" + SMALL[1:])
    opened = Opener(providers).open(SMALL, [providers.replica("a"), providers.replica("b")])
    with pytest.raises(IntegrityError, match=r"no good copy of /file is left: a: .*; b: "):
        await read_all(opened)


async def test_an_unreachable_provider_is_passed_over_and_reported(providers: Any) -> None:
    for name in "ab":
        providers.lay(name, LARGE)
    providers.harness.trouble("a", error=ProviderUnavailable("the line is dead"))
    opened = Opener(providers).open(LARGE, [providers.replica("a"), providers.replica("b")])
    assert await read_all(opened) == LARGE
    assert {provider for provider, _ in providers.notes.failures} == {providers.harness.ids["a"]}
    assert providers.health.suspect(providers.harness.ids["a"])
    assert providers.notes.replicas == []


async def test_when_a_copy_may_be_good_but_cannot_be_reached_it_is_not_lost(providers: Any) -> None:
    providers.harness.trouble("a", error=ProviderUnavailable("the line is dead"))
    opened = Opener(providers).open(SMALL, [providers.replica("a"), providers.replica("b")])
    with pytest.raises(ProviderUnavailable, match=r"a: the line is dead") as raised:
        await read_all(opened)
    assert "b: " in raised.value.message
    assert "\n" not in raised.value.message


async def test_without_replicas_nothing_can_be_read(providers: Any) -> None:
    with pytest.raises(ProviderUnavailable, match="no provider is known"):
        await read_all(Opener(providers).open(SMALL, []))


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=len)
async def test_a_provider_that_does_not_answer_is_overtaken(providers: Any, content: bytes) -> None:
    for name in "ab":
        providers.lay(name, content)
    providers.harness.trouble("a", stalls=True)
    opened = Opener(providers).open(content, [providers.replica("a"), providers.replica("b")])
    assert await read_all(opened) == content


@pytest.mark.parametrize("seconds", [0.2, 60], ids=["slower", "stuck"])
async def test_what_a_slow_provider_would_bring_too_late_is_read_from_another(providers: Any, seconds: float) -> None:
    content = os.urandom(4 * BLOCK_SIZE)
    for name in "ab":
        providers.lay(name, content)
        providers.harness.trouble(name, pause=0.01)
    opened = Opener(providers).open(content, [providers.replica("a"), providers.replica("b")])
    assert await read_all(opened) == content  # both are far, and known by now
    faulty = providers.harness.faulty
    faulty.ranges.clear()
    before = len(faulty.calls)
    async with aclosing(opened.pieces()) as pieces, asyncio.timeout(30):
        read = await anext(pieces)
        providers.harness.trouble("a", pause=0.01, slows=(4, seconds))
        async for piece in pieces:
            read += piece
    assert read == content
    a, b = (providers.harness.ids[name] for name in "ab")
    taken_over = [offset for provider, offset, _ in faulty.ranges if provider == b and offset % PART_SIZE]
    assert taken_over, "what a had brought of a part was not kept"
    assert {offset - offset % PART_SIZE for offset in taken_over} <= {
        offset for provider, offset, _ in faulty.ranges if provider == a
    }
    assert {method for method, _ in faulty.calls[before:]} == {"ReadObject"}, "a block was read again as a whole"


async def test_leaving_early_stops_reading(providers: Any) -> None:
    content = os.urandom(8 * BLOCK_SIZE)
    providers.lay("a", content)
    opener = Opener(providers, window=3, spare_blocks=2)
    opened = opener.open(content, [providers.replica("a")])
    async with aclosing(opened.pieces()) as pieces:
        assert await anext(pieces) == content[:BLOCK_SIZE]
    calls = len(providers.harness.faulty.calls)
    assert calls <= 4
    assert await read_all(opened) == content


async def test_blocks_read_ahead_are_bounded_for_all_contents_together(providers: Any) -> None:
    content = os.urandom(6 * BLOCK_SIZE)
    providers.lay("a", content)
    opener = Opener(providers, window=4, spare_blocks=1)
    streams = [opener.open(content, [providers.replica("a")]).blocks() for _ in range(3)]
    firsts = [await anext(stream) for stream in streams]
    assert firsts == [content[:BLOCK_SIZE]] * 3
    assert len(providers.harness.faulty.calls) <= 3 + 3 + 1
    for stream in streams:
        await stream.aclose()
