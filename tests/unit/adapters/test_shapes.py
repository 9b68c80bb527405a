from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdir.errors import IntegrityError, RangeNotSatisfied
from cdir_adapters.adapter import ByteRange, ObjectInfo
from cdir_adapters.shapes import (
    PAGE_SIZE,
    PIECE_SIZE,
    BufferedReadStream,
    collect,
    exactly,
    pages_of,
    rechunk,
    resolve_range,
)

pieces = st.lists(st.binary(max_size=20), max_size=12)


async def stream(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@given(pieces, st.integers(1, 25))
async def test_rechunking_keeps_the_bytes(parts: list[bytes], size: int) -> None:
    whole = b"".join(parts)
    found = [piece async for piece in rechunk(stream(parts), size, size=len(whole), key="k")]
    assert b"".join(found) == whole
    assert all(len(piece) == size for piece in found[:-1])
    assert all(found)


@given(pieces)
async def test_a_source_of_the_right_size_passes(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    for source in (stream(parts), whole):
        assert b"".join([piece async for piece in exactly(source, len(whole), "k")]) == whole
    assert await collect(stream(parts), None, "k") == whole


@given(pieces, st.integers(1, 5))
async def test_a_source_of_another_size_is_refused(parts: list[bytes], off: int) -> None:
    whole = b"".join(parts)
    for wrong in {len(whole) + off, max(len(whole) - off, 0)} - {len(whole)}:
        for source in (stream(parts), whole):
            with pytest.raises(IntegrityError, match="k:"):
                await collect(source, wrong, "k")
        with pytest.raises(IntegrityError):
            [piece async for piece in rechunk(stream(parts), 7, size=wrong, key="k")]


async def test_nothing_past_the_size_is_handed_out() -> None:
    pieces = exactly(stream([b"123", b"456"]), 4, "k")
    assert await anext(pieces) == b"123"
    with pytest.raises(IntegrityError):
        await anext(pieces)


@given(st.integers(0, 30), st.integers(0, 40), st.none() | st.integers(0, 40))
def test_ranges_agree_with_slices(size: int, offset: int, length: int | None) -> None:
    data = bytes(range(size))
    if offset >= size and (offset or size):
        with pytest.raises(RangeNotSatisfied):
            resolve_range(ByteRange(offset, length), size, "k")
        return
    start, count = resolve_range(ByteRange(offset, length), size, "k")
    assert data[start : start + count] == (data[offset:] if length is None else data[offset : offset + length])


def test_pages_are_full_but_the_last() -> None:
    objects = [ObjectInfo(key=str(number), size=0) for number in range(2 * PAGE_SIZE + 1)]
    pages = list(pages_of(objects))
    assert [len(page.objects) for page in pages] == [PAGE_SIZE, PAGE_SIZE, 1]
    assert list(pages_of([])) == []


async def test_a_buffer_is_handed_out_in_pieces() -> None:
    data = bytes(PIECE_SIZE) + b"end"
    info = ObjectInfo(key="k", size=len(data))
    found = [piece async for piece in BufferedReadStream(info, data)]
    assert [len(piece) for piece in found] == [PIECE_SIZE, 3]
    assert [piece async for piece in BufferedReadStream(info, b"")] == []
