"""Objects through the service: what is stored, what is refused, and what is left when a write goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from cdir.errors import (
    AlreadyExists,
    CdirError,
    IntegrityError,
    InvalidArgument,
    InvalidPath,
    IsDirectory,
    NotFound,
    RangeNotSatisfied,
    Unsupported,
)
from cdir.status import translated
from cdir.v1 import adapter_service_pb2 as pb
from cdir.v1 import entry_pb2

WHEN = datetime(2020, 2, 29, 12, 30, 15, 250_000, tzinfo=UTC)


@pytest.fixture(params=["local", "memory"])
async def ref(bench: Any, request: pytest.FixtureRequest) -> pb.ProviderRef:
    found = await bench.add("store", request.param)
    assert isinstance(found, pb.ProviderRef)
    return found


async def write(bench: Any, *steps: pb.WriteObjectRequest) -> pb.ObjectInfo:
    async def stream() -> AsyncIterator[pb.WriteObjectRequest]:
        for step in steps:
            yield step

    with translated():
        response = await bench.adapters.WriteObject(stream(), timeout=60)
    assert isinstance(response, pb.WriteObjectResponse)
    return response.info


def header(ref: pb.ProviderRef | None, key: str, size: int | None = None) -> pb.WriteObjectRequest:
    message = pb.ObjectHeader(provider=ref, key=key, size=size)
    message.modified.FromDatetime(WHEN)
    return pb.WriteObjectRequest(header=message)


def data(content: bytes) -> pb.WriteObjectRequest:
    return pb.WriteObjectRequest(data=content)


def commit(size: int) -> pb.WriteObjectRequest:
    return pb.WriteObjectRequest(commit=pb.ObjectCommit(size=size))


async def stat(bench: Any, ref: pb.ProviderRef, key: str) -> pb.ObjectInfo:
    with translated():
        response = await bench.adapters.StatObject(pb.StatObjectRequest(provider=ref, key=key))
    assert isinstance(response, pb.StatObjectResponse)
    return response.info


async def keys_of(bench: Any, ref: pb.ProviderRef, prefix: str = "", *, recursive: bool = True) -> list[str]:
    pages = bench.adapters.ListObjects(pb.ListObjectsRequest(provider=ref, prefix=prefix, recursive=recursive))
    return sorted([info.key async for page in pages for info in page.objects if not info.directory])


async def test_a_small_object_comes_back_with_its_time(bench: Any, ref: pb.ProviderRef) -> None:
    put = pb.PutObjectRequest(header=header(ref, "dir/a b.txt").header, data=b"content")
    info = (await bench.adapters.PutObject(put)).info
    assert (info.key, info.size, info.directory) == ("dir/a b.txt", 7, False)
    found = await stat(bench, ref, "dir/a b.txt")
    assert found.modified.ToDatetime(tzinfo=UTC) == WHEN
    assert found.etag == info.etag
    assert await bench.get(ref, "dir/a b.txt") == b"content"


async def test_a_range_is_cut_short_at_the_end(bench: Any, ref: pb.ProviderRef) -> None:
    await bench.put(ref, "a", b"0123456789")
    fetch = pb.FetchObjectRequest(provider=ref, key="a", offset=7, length=100)
    response = await bench.adapters.FetchObject(fetch)
    assert (response.data, response.size) == (b"789", 10)
    fetch.offset = 10
    with pytest.raises(RangeNotSatisfied), translated():
        await bench.adapters.FetchObject(fetch)
    fetch.offset = -1
    with pytest.raises(RangeNotSatisfied), translated():
        await bench.adapters.FetchObject(fetch)
    fetch.offset, fetch.length = 0, (8 << 20) + 1
    with pytest.raises(InvalidArgument), translated():
        await bench.adapters.FetchObject(fetch)


async def test_a_range_comes_in_pieces_of_the_length_asked_for(bench: Any, ref: pb.ProviderRef) -> None:
    content = bytes(range(250)) * 10_000
    await bench.put(ref, "a", content)
    read = pb.ReadObjectRequest(provider=ref, key="a", offset=3, length=10_000_000, piece_length=1_200_000)
    pieces = [piece async for piece in bench.adapters.ReadObject(read)]
    assert [len(piece.data) for piece in pieces] == [1_200_000, 1_200_000, 99_997]
    assert b"".join(piece.data for piece in pieces) == content[3:]
    assert {piece.size for piece in pieces} == {len(content)}
    assert pieces[0].etag or pieces[0].HasField("modified")


async def test_pieces_of_what_is_empty_missing_or_nonsense(bench: Any, ref: pb.ProviderRef) -> None:
    await bench.put(ref, "empty", b"")

    async def read(key: str, **asked: int) -> list[bytes]:
        request = pb.ReadObjectRequest(provider=ref, key=key, **{"length": 5, "piece_length": 5, **asked})
        with translated():
            return [piece.data async for piece in bench.adapters.ReadObject(request)]

    assert await read("empty") == [b""]
    for error, asked in (
        (NotFound, {"key": "missing"}),
        (RangeNotSatisfied, {"key": "empty", "offset": 1}),
        (RangeNotSatisfied, {"key": "empty", "offset": -1}),
        (InvalidArgument, {"key": "empty", "length": 0}),
        (InvalidArgument, {"key": "empty", "piece_length": 0}),
        (InvalidArgument, {"key": "empty", "piece_length": (8 << 20) + 1}),
    ):
        with pytest.raises(error):
            await read(**asked)


async def test_a_committed_stream_is_stored(bench: Any, ref: pb.ProviderRef) -> None:
    for pieces in ([], [b"one piece"], [b"a" * 300_000, b"b" * 300_000, b"c"]):
        content = b"".join(pieces)
        for announced in (len(content), None):
            begin = header(ref, "streamed", announced)
            info = await write(bench, begin, *map(data, pieces), commit(len(content)))
            assert info.size == len(content)
            assert await bench.get(ref, "streamed") == content


BROKEN: list[tuple[list[pb.WriteObjectRequest], type[CdirError]]] = [
    ([], InvalidArgument),
    ([data(b"new")], InvalidArgument),
    ([data(b"new"), data(b"er content")], InvalidArgument),
    ([data(b"new"), commit(2)], IntegrityError),
    ([data(b"new"), data(b"er"), data(b"!"), commit(7)], IntegrityError),
    ([commit(1)], IntegrityError),
]


async def test_without_a_right_commit_the_old_object_stays(bench: Any, ref: pb.ProviderRef) -> None:
    await bench.put(ref, "a", b"old")
    for steps, error in BROKEN:
        with pytest.raises(error, match="nothing was stored"):
            await write(bench, header(ref, "a"), *steps)
        assert await bench.get(ref, "a") == b"old"
        # and where nothing was, nothing is: no half of it, and no temporary file
        with pytest.raises(error):
            await write(bench, header(ref, "new/b"), *steps)
    assert [key for key in await keys_of(bench, ref) if not key.startswith(".cdir/")] == ["a"]


@pytest.mark.parametrize("content", [b"short", b"much too long"])
async def test_another_size_than_announced_is_refused(bench: Any, ref: pb.ProviderRef, content: bytes) -> None:
    await bench.put(ref, "a", b"old")
    for pieces in ([content], [content[:2], content[2:4], content[4:]]):
        with pytest.raises(IntegrityError):
            await write(bench, header(ref, "a", 7), *map(data, pieces), commit(len(content)))
    assert await bench.get(ref, "a") == b"old"


async def test_a_write_begins_with_its_header_and_has_only_one(bench: Any, ref: pb.ProviderRef) -> None:
    with pytest.raises(InvalidArgument):
        await write(bench)
    with pytest.raises(InvalidArgument):
        await write(bench, data(b"content"), commit(7))
    with pytest.raises(InvalidArgument):
        await write(bench, header(ref, "a"), data(b"content"), header(ref, "b"), commit(7))
    assert [key for key in await keys_of(bench, ref) if not key.startswith(".cdir/")] == []


async def test_a_cancelled_write_leaves_the_old_object(bench: Any, ref: pb.ProviderRef) -> None:
    await bench.put(ref, "a", b"old")
    sent = asyncio.Event()

    async def stream() -> AsyncIterator[pb.WriteObjectRequest]:
        yield header(ref, "a")
        for _ in range(3):
            yield data(b"x" * 100_000)
        sent.set()
        await asyncio.Event().wait()

    call = bench.adapters.WriteObject(stream())
    async with asyncio.timeout(30):
        waiting = asyncio.ensure_future(call)
        await sent.wait()
        waiting.cancel()
        await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert await bench.get(ref, "a") == b"old"

    async def no_temporary_file_left() -> bool:
        return [key for key in await keys_of(bench, ref) if not key.startswith(".cdir/")] == ["a"]

    await bench.until(no_temporary_file_left)


BAD_KEYS = ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\nb", "a\x00b", "a\x7f", "cafe\u0301"]


async def test_a_key_that_is_not_in_normal_form_is_refused(bench: Any, ref: pb.ProviderRef) -> None:
    stub = bench.adapters
    for key in BAD_KEYS:
        await bench.put(ref, "good", b"")
        calls = [
            stub.StatObject(pb.StatObjectRequest(provider=ref, key=key)),
            stub.FetchObject(pb.FetchObjectRequest(provider=ref, key=key, length=1)),
            stub.PutObject(pb.PutObjectRequest(header=pb.ObjectHeader(provider=ref, key=key))),
            stub.MoveObject(pb.MoveObjectRequest(provider=ref, source=key, target="good")),
            stub.MoveObject(pb.MoveObjectRequest(provider=ref, source="good", target=key)),
            stub.CopyObject(pb.CopyObjectRequest(provider=ref, source="good", target=key)),
        ]
        for call in calls:
            with pytest.raises(InvalidPath), translated():
                await call
        with pytest.raises(InvalidPath):
            await write(bench, header(ref, key), commit(0))
        deleted = await stub.DeleteObjects(pb.DeleteObjectsRequest(provider=ref, keys=[key, "good"]))
        assert [outcome.reason for outcome in deleted.outcomes] == ["INVALID_PATH", ""]


def _small(key: str, data: bytes) -> pb.SmallObject:
    return pb.SmallObject(key=key, modified=header(None, key).header.modified, only_if_absent=True, data=data)


@pytest.mark.parametrize("narrowed", [{}, {"write_if_absent": False}])
async def test_many_small_objects_are_stored_only_where_nothing_lies(bench: Any, narrowed: dict[str, bool]) -> None:
    ref = await bench.add("store", **narrowed)
    await bench.put(ref, "old/3", b"foreign")
    wanted = [_small(f"{folder}/{number}", bytes(number)) for folder in ("old", "new") for number in range(30)]
    for first in (True, False):
        with translated():
            response = await bench.adapters.PutObjects(pb.PutObjectsRequest(provider=ref, objects=wanted))
        reasons = [outcome.failure.reason for outcome in response.outcomes]
        if first:
            assert reasons == [AlreadyExists.reason if one.key == "old/3" else "" for one in wanted]
            assert [outcome.info.size for outcome in response.outcomes if outcome.HasField("info")] == [
                len(one.data) for one in wanted if one.key != "old/3"
            ]
        elif narrowed:
            # a folder that was empty a moment ago counts as empty: what is there now has been put there by cdir
            assert reasons[:30] == [AlreadyExists.reason] * 30
        else:
            assert set(reasons) == {AlreadyExists.reason}
    assert await bench.get(ref, "old/3") == b"foreign"


@pytest.mark.parametrize(
    ("narrowed", "stated"),
    [
        ({}, entry_pb2.ACL_STATE_APPLIED),
        ({"write_if_absent": False}, entry_pb2.ACL_STATE_APPLIED),
        ({"write_access": False}, entry_pb2.ACL_STATE_APPLIED),
        ({"acl": False, "write_access": False}, entry_pb2.ACL_STATE_UNSUPPORTED),
    ],
)
async def test_many_small_objects_are_stored_each_with_its_own_list(
    bench: Any, narrowed: dict[str, bool], stated: entry_pb2.AclState.ValueType
) -> None:
    ref = await bench.add("store", **narrowed)
    acls = {
        "private": entry_pb2.Acl(access=entry_pb2.ACL_ACCESS_PRIVATE),
        "public": entry_pb2.Acl(access=entry_pb2.ACL_ACCESS_PUBLIC_READ_WRITE),
        "none": None,
    }
    wanted = [_small(f"{name}/{number}", b"x") for name in acls for number in range(15)]
    for one in wanted:
        if (acl := acls[one.key.partition("/")[0]]) is not None:
            one.acl.CopyFrom(acl)
    with translated():
        response = await bench.adapters.PutObjects(pb.PutObjectsRequest(provider=ref, objects=wanted))
    for one, outcome in zip(wanted, response.outcomes, strict=True):
        assert outcome.info.HasField("acl") == one.HasField("acl")
        if one.HasField("acl"):
            assert outcome.info.acl.asked == one.acl
            assert outcome.info.acl.state == stated
    if stated == entry_pb2.ACL_STATE_APPLIED:
        modes = {one.key: (bench.folder / "store" / one.key).stat().st_mode & 0o777 for one in wanted}
        assert {mode for key, mode in modes.items() if key.startswith("private")} == {0o600}
        assert {mode for key, mode in modes.items() if key.startswith("public")} == {0o666}


async def test_what_an_attempt_before_has_stored_is_its_own_whatever_the_time(bench: Any) -> None:
    ref = await bench.add("store")
    await bench.put(ref, "key", b"content")  # at another time
    for tried, data in ((False, b"content"), (True, b"CONTENT"), (True, b"other")):
        put = pb.PutObjectRequest(header=header(ref, "key").header, data=data)
        put.header.only_if_absent, put.header.tried = True, tried
        with pytest.raises(AlreadyExists), translated():
            await bench.adapters.PutObject(put)
    put.data = b"content"
    with translated():
        assert (await bench.adapters.PutObject(put)).info.size == 7
    assert await bench.get(ref, "key") == b"content"


async def test_a_call_that_stores_too_much_or_nonsense_is_refused(bench: Any) -> None:
    ref = await bench.add("store")
    for wanted in (
        [_small("a", b"x"), _small("a", b"y")],
        [_small(str(number), b"") for number in range(1001)],
        [_small(str(number), bytes(3 << 20)) for number in range(3)],
        [_small("good", b"x"), _small("../bad", b"x")],
    ):
        with pytest.raises((InvalidArgument, InvalidPath)), translated():
            await bench.adapters.PutObjects(pb.PutObjectsRequest(provider=ref, objects=wanted))
    assert list((bench.folder / "store").glob("[!.]*")) == []


@pytest.mark.parametrize("narrowed", [{}, {"move": False}, {"move": False, "copy": False}])
@pytest.mark.parametrize("kind", ["local", "memory"])
async def test_an_object_is_moved_whatever_the_provider_can_do(
    bench: Any, kind: str, narrowed: dict[str, bool]
) -> None:
    ref = await bench.add("store", kind, **narrowed)
    put = pb.PutObjectRequest(header=header(ref, "dir/a").header, data=b"content")
    await bench.adapters.PutObject(put)
    await bench.put(ref, "b", b"in the way")
    move = pb.MoveObjectRequest(provider=ref, source="dir/a", target="b")
    for _ in range(2):  # the second time it has been done already
        with translated():
            info = (await bench.adapters.MoveObject(move)).info
        assert (info.key, info.size) == ("b", 7)
    assert await bench.get(ref, "b") == b"content"
    assert (await stat(bench, ref, "b")).modified.ToDatetime(tzinfo=UTC) == WHEN
    with pytest.raises(NotFound):
        await stat(bench, ref, "dir/a")
    same = pb.MoveObjectRequest(provider=ref, source="b", target="b")
    assert (await bench.adapters.MoveObject(same)).info.size == 7
    with pytest.raises(NotFound, match="dir/a"), translated():
        await bench.adapters.MoveObject(pb.MoveObjectRequest(provider=ref, source="dir/a", target="c"))


async def test_a_copy_leaves_the_source(bench: Any, ref: pb.ProviderRef) -> None:
    await bench.put(ref, "a", b"content")
    info = (await bench.adapters.CopyObject(pb.CopyObjectRequest(provider=ref, source="a", target="x/b"))).info
    assert (info.key, info.size) == ("x/b", 7)
    assert await bench.get(ref, "a") == await bench.get(ref, "x/b") == b"content"


async def test_each_key_of_a_delete_has_an_outcome_of_its_own(bench: Any) -> None:
    ref = await bench.add("disk")
    keys = [f"dir/{number}" for number in range(40)]
    for key in keys:
        await bench.put(ref, key, b"x")
    await bench.put(ref, "kept/file", b"x")
    request = pb.DeleteObjectsRequest(provider=ref, keys=[*keys[:39], "never/was", "kept"])
    outcomes = (await bench.adapters.DeleteObjects(request)).outcomes
    assert [outcome.reason for outcome in outcomes] == [""] * 40 + [IsDirectory.reason]
    assert "kept" in outcomes[-1].message
    assert [key for key in await keys_of(bench, ref) if not key.startswith(".cdir/")] == ["dir/39", "kept/file"]
    with pytest.raises(InvalidArgument), translated():
        await bench.adapters.DeleteObjects(pb.DeleteObjectsRequest(provider=ref, keys=["a"] * 1001))


async def test_a_listing_shows_one_directory_or_everything_below(bench: Any, ref: pb.ProviderRef) -> None:
    for key in ("a", "dir/b", "dir/sub/c"):
        await bench.put(ref, key, b"xy")
    pages = bench.adapters.ListObjects(pb.ListObjectsRequest(provider=ref, prefix="dir"))
    shown = {info.key: (info.directory, info.size) async for page in pages for info in page.objects}
    assert shown == {"dir/b": (False, 2), "dir/sub": (True, 0)}
    assert await keys_of(bench, ref, "dir") == ["dir/b", "dir/sub/c"]
    assert await keys_of(bench, ref, "missing") == []
    with pytest.raises(InvalidPath), translated():
        async for _ in bench.adapters.ListObjects(pb.ListObjectsRequest(provider=ref, prefix="dir/")):
            pass


@pytest.mark.parametrize(("kind", "ordered"), [("local", False), ("memory", True)])
async def test_only_the_last_message_of_a_listing_says_that_it_was_complete(
    bench: Any, kind: str, ordered: bool
) -> None:
    ref = await bench.add("listed", kind)
    for key in ("a", "b", "c/d"):
        await bench.put(ref, key, b"x")
    pages = [page async for page in bench.adapters.ListObjects(pb.ListObjectsRequest(provider=ref, recursive=True))]
    assert [page.complete for page in pages] == [False] * (len(pages) - 1) + [True]
    assert {page.ordered for page in pages} == {ordered}
    later = bench.adapters.ListObjects(pb.ListObjectsRequest(provider=ref, recursive=True, start_after="a"))
    if ordered:
        assert [info.key async for page in later for info in page.objects] == ["b", "c/d"]
    else:
        with pytest.raises(Unsupported), translated():
            async for _ in later:
                pass


async def test_what_is_neither_file_nor_folder_is_told_apart(bench: Any) -> None:
    ref = await bench.add("disk")
    (bench.folder / "disk/link").symlink_to("nowhere")
    pages = bench.adapters.ListObjects(pb.ListObjectsRequest(provider=ref))
    shown = {info.key: (info.special, info.directory) async for page in pages for info in page.objects}
    assert shown == {"link": (True, False), ".cdir": (False, True)}


async def test_a_range_tells_which_object_it_was_read_from(bench: Any) -> None:
    ref = await bench.add("disk")
    await bench.put(ref, "a", b"0123456789")
    response = await bench.adapters.FetchObject(pb.FetchObjectRequest(provider=ref, key="a", length=5))
    assert response.etag == (await stat(bench, ref, "a")).etag != ""


async def test_usage_and_sweeping(bench: Any) -> None:
    ref = await bench.add("disk")
    usage = await bench.adapters.GetUsage(pb.GetUsageRequest(provider=ref))
    assert usage.HasField("free")
    assert usage.free > 0
    (bench.folder / "disk/.cdir-tmp-left").write_bytes(b"half")
    swept = await bench.adapters.SweepProvider(pb.SweepProviderRequest(provider=ref, older_than=3600))
    assert swept.removed == 0
    swept = await bench.adapters.SweepProvider(pb.SweepProviderRequest(provider=ref, older_than=0))
    assert swept.removed == 1
    with pytest.raises(InvalidArgument), translated():
        await bench.adapters.SweepProvider(pb.SweepProviderRequest(provider=ref, older_than=-1))


async def test_the_kinds_tell_their_options(bench: Any) -> None:
    kinds = {kind.kind: kind for kind in (await bench.adapters.DescribeKinds(pb.DescribeKindsRequest())).kinds}
    assert list(kinds) == sorted(kinds)
    local = kinds["local"]
    assert local.available
    assert [(option.name, option.type, option.required, option.secret) for option in local.options] == [
        ("root", "path", True, False)
    ]
    secrets = {option.name for option in kinds["s3"].options if option.secret}
    assert "secret_key" in secrets
    for kind in kinds.values():
        assert kind.available == (kind.missing == "")


async def test_the_conformance_suite_runs_on_a_registered_provider(bench: Any) -> None:
    ref = await bench.add("memory", "memory")
    call = bench.adapters.RunConformance(pb.RunConformanceRequest(provider=ref), timeout=120)
    results = [response.result async for response in call]
    assert {result.outcome for result in results} <= {"passed", "skipped"}
    assert len(results) > 10
    assert await keys_of(bench, ref) == [".cdir/provider"]


def only_if_absent(ref: pb.ProviderRef, key: str) -> pb.ObjectHeader:
    made = header(ref, key).header
    made.only_if_absent = True
    return made


async def put_if_absent(bench: Any, ref: pb.ProviderRef, key: str, content: bytes) -> pb.ObjectInfo:
    request = pb.PutObjectRequest(header=only_if_absent(ref, key), data=content)
    with translated():
        response = await bench.adapters.PutObject(request)
    assert isinstance(response, pb.PutObjectResponse)
    return response.info


@pytest.fixture(params=[True, False], ids=["conditions", "no conditions"])
async def either(bench: Any, request: pytest.FixtureRequest) -> pb.ProviderRef:
    """A provider that honours conditions, and one of which it is known that it does not."""
    found = await bench.add("store", "memory", **({} if request.param else {"write_if_absent": False}))
    assert isinstance(found, pb.ProviderRef)
    return found


async def test_only_if_absent_replaces_nothing(bench: Any, either: pb.ProviderRef) -> None:
    await put_if_absent(bench, either, "dir/new", b"first")
    for content in (b"second", b"FIRST"):
        with pytest.raises(AlreadyExists):
            await put_if_absent(bench, either, "dir/new", content)
        begun = pb.WriteObjectRequest(header=only_if_absent(either, "dir/new"))
        with pytest.raises(AlreadyExists):
            await write(bench, begun, data(content[:2]), data(content[2:]), commit(len(content)))
    assert await bench.get(either, "dir/new") == b"first"


async def test_only_if_absent_takes_what_an_earlier_attempt_stored_for_its_own(
    bench: Any, either: pb.ProviderRef
) -> None:
    first = await put_if_absent(bench, either, "key", b"content")
    assert await put_if_absent(bench, either, "key", b"content") == first


async def test_only_if_absent_leaves_the_same_bytes_of_another_time_alone(bench: Any, either: pb.ProviderRef) -> None:
    await bench.put(either, "key", b"content")  # modified now
    with pytest.raises(AlreadyExists):
        await put_if_absent(bench, either, "key", b"content")


@pytest.mark.parametrize("narrowed", [{}, {"write_if_absent": False}], ids=["conditions", "no conditions"])
async def test_only_if_absent_calls_a_folder_a_folder(bench: Any, narrowed: dict[str, bool]) -> None:
    ref = await bench.add("disk", "local", **narrowed)
    await bench.put(ref, "dir/file", b"x")
    with pytest.raises(IsDirectory):
        await put_if_absent(bench, ref, "dir", b"content")
