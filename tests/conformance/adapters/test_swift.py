import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from cdir.errors import (
    CdirError,
    ConfigInvalid,
    IntegrityError,
    InvalidArgument,
    InvalidPath,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ProviderUnavailable,
    QuotaExceeded,
    RangeNotSatisfied,
    RateLimited,
    Retry,
    Unauthenticated,
    Unsupported,
)
from cdir_adapters.adapter import ByteRange, Checksum, WriteMode
from cdir_adapters.capability import ChecksumKind
from cdir_adapters.probe import probe
from cdir_adapters.providers.swift import SwiftAdapter, listing, upload
from cdir_adapters.providers.swift import adapter as swift_adapter
from cdir_adapters.providers.swift.faults import SIGNING_IN, Fault, Faults
from cdir_adapters.providers.swift.headers import encode_metadata, info_of_headers, parse_mtime
from cdir_adapters.registry import validate_options
from cdir_adapters.testing.conformance import AdapterConformance
from cdir_adapters.testing.trial import MODIFIED, failing, pattern, stalling, stream
from servers import swift_cluster
from servers.faulty_http import Answer, Request, faulty_http
from servers.requirement import require
from servers.swift_cluster import RawSwift, SwiftCluster

Open = Callable[..., SwiftAdapter]

KIB = 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def swift() -> AsyncIterator[SwiftCluster]:
    require(swift_cluster)
    async with swift_cluster.swift_cluster() as server:
        yield server


@pytest.fixture
def container() -> str:
    return f"cdir-{uuid.uuid4().hex}"


@pytest.fixture
async def raw(swift: SwiftCluster) -> AsyncIterator[RawSwift]:
    async with swift.raw() as client:
        yield client


@pytest.fixture
async def opened(swift: SwiftCluster, container: str) -> AsyncIterator[Open]:
    """Opens adapters that are closed in the end."""
    async with AsyncExitStack() as stack:

        def open_adapter(**changes: str | int | bool) -> SwiftAdapter:
            adapter = SwiftAdapter("store", {**swift.options(container), **changes})
            stack.push_async_callback(adapter.aclose)
            return adapter

        yield open_adapter


@pytest.fixture
async def adapter(opened: Open) -> SwiftAdapter:
    made = opened()
    await made.prepare()
    return made


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> int:
    """Segments of 64 KiB, three of them under one manifest."""
    for module in (upload, swift_adapter):
        monkeypatch.setattr(module, "SEGMENT_SIZE", 64 * KIB)
    monkeypatch.setattr(upload, "FANOUT", 3)
    return 64 * KIB


class TestSwift(AdapterConformance):
    """Objects below a prefix. Pages are much smaller than usual, so that every listing has several."""

    many: ClassVar[int] = 40
    raw: RawSwift
    root: str

    @pytest.fixture
    async def adapter(
        self, raw: RawSwift, opened: Open, container: str, monkeypatch: pytest.MonkeyPatch
    ) -> SwiftAdapter:
        monkeypatch.setattr(listing, "PAGE_SIZE", 7)
        self.raw, self.root = raw, f"{container}/our/share/"
        adapter = opened(prefix="our/share")
        await adapter.prepare()
        return adapter

    async def raw_put(self, key: str, data: bytes) -> None:
        await self.raw.put(self.root + key, data)

    async def raw_get(self, key: str) -> bytes | None:
        return await self.raw.get(self.root + key)


async def put(adapter: SwiftAdapter, key: str, data: bytes, **options: Any) -> None:
    await adapter.write(key, data, size=len(data), modified=MODIFIED, **options)


async def put_large(adapter: SwiftAdapter, key: str, data: bytes, **options: Any) -> None:
    await adapter.write(key, stream(data), size=len(data), modified=MODIFIED, **options)


async def get(adapter: SwiftAdapter, key: str) -> bytes:
    async with adapter.read(key) as opened_object:
        return b"".join([piece async for piece in opened_object])


async def keys_of(adapter: SwiftAdapter) -> list[str]:
    return [info.key async for page in adapter.list("", recursive=True) for info in page.objects]


LARGE = pattern(220 * KIB + 3)
"""Three of the small segments, and a rest."""


async def test_what_is_declared_holds(adapter: SwiftAdapter) -> None:
    assert await probe(adapter) == SwiftAdapter.capability


async def test_two_slow_creators_both_succeed(
    adapter: SwiftAdapter, raw: RawSwift, container: str, swift: SwiftCluster
) -> None:
    """Why ``write_if_absent`` is not declared: the condition is looked at before the bytes come, and not again."""
    token = await swift.token()

    async def begin() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", swift.port)
        head = [
            f"PUT /v1/AUTH_test/{container}/raced HTTP/1.1",
            "Host: 127.0.0.1",
            f"X-Auth-Token: {token}",
            "If-None-Match: *",
            "Expect: 100-continue",
            "Content-Length: 1",
        ]
        writer.write("\r\n".join([*head, "", ""]).encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        return reader, writer

    for reader, writer in (await begin(), await begin()):
        writer.write(b"x")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 201")
        writer.close()
        await writer.wait_closed()
    late = await raw.ask("PUT", f"{container}/raced", b"x", headers={"If-None-Match": "*"})
    assert late.status == 412
    with pytest.raises(Unsupported):
        await adapter.write("raced", b"y", size=1, modified=MODIFIED, mode=WriteMode.CREATE)
    assert await get(adapter, "raced") == b"x"


# ---------------------------------------------------------------------- large objects


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("size", [len(LARGE), None])
async def test_large_objects_go_in_segments(
    adapter: SwiftAdapter, raw: RawSwift, container: str, size: int | None
) -> None:
    metadata = {"cdir-version": "1", "author": "Žofie"}
    written = await adapter.write("folder/large", stream(LARGE), size=size, modified=MODIFIED, metadata=metadata)
    assert (written.size, written.checksum) == (len(LARGE), None)
    found = await adapter.stat("folder/large")
    assert (found.size, found.modified, dict(found.metadata)) == (len(LARGE), MODIFIED, metadata)
    assert (found.etag, found.checksum) == (written.etag, None)
    listed = [info async for page in adapter.list("folder") for info in page.objects]
    assert [(info.key, info.size, info.etag, info.checksum) for info in listed] == [
        ("folder/large", len(LARGE), written.etag, None)
    ]
    assert await get(adapter, "folder/large") == LARGE
    fetched = await adapter.fetch("folder/large", range=ByteRange(200 * KIB, 40 * KIB), if_match=written.etag)
    assert (fetched.data, fetched.info.size) == (LARGE[200 * KIB :], len(LARGE))
    with pytest.raises(PreconditionFailed):
        await adapter.fetch("folder/large", if_match='"0123456789abcdef0123456789abcdef"')
    # four segments, and the manifest over the first three
    assert len(await raw.names(f"{container}_segments")) == 5
    await adapter.delete("folder/large")
    assert await raw.names(f"{container}_segments") == []


async def test_segments_of_the_usual_size(adapter: SwiftAdapter) -> None:
    data = pattern(upload.SEGMENT_SIZE + 1)
    written = await adapter.write("large", data, size=len(data), modified=MODIFIED)
    halves = [data[: upload.SEGMENT_SIZE], data[upload.SEGMENT_SIZE :]]
    digests = "".join(hashlib.md5(half, usedforsecurity=False).hexdigest() for half in halves)
    assert written.etag == f'"{hashlib.md5(digests.encode(), usedforsecurity=False).hexdigest()}"'
    assert await get(adapter, "large") == data


@pytest.mark.usefixtures("small_segments")
async def test_manifests_of_manifests(adapter: SwiftAdapter, raw: RawSwift, container: str) -> None:
    data = pattern(11 * 64 * KIB)
    await put_large(adapter, "large", data)
    top = json.loads((await raw.ask("GET", f"{container}/large", query="multipart-manifest=get")).body)
    assert [entry.get("sub_slo", False) for entry in top] == [True, True, True, False, False]
    assert await get(adapter, "large") == data
    await adapter.copy("large", "copied")
    await adapter.delete("large")
    assert await get(adapter, "copied") == data
    await adapter.delete("copied")
    assert await raw.names(f"{container}_segments") == []


@pytest.mark.usefixtures("small_segments")
async def test_segments_go_with_what_replaces_their_object(
    adapter: SwiftAdapter, raw: RawSwift, container: str
) -> None:
    await put_large(adapter, "object", LARGE)
    first = set(await raw.names(f"{container}_segments"))
    await put_large(adapter, "object", LARGE[:-1])
    second = set(await raw.names(f"{container}_segments"))
    assert not first & second
    assert await get(adapter, "object") == LARGE[:-1]
    await put(adapter, "object", b"small")
    assert await raw.names(f"{container}_segments") == []
    await put_large(adapter, "object", LARGE)
    await put(adapter, "other", b"other")
    await adapter.copy("other", "object")
    assert await raw.names(f"{container}_segments") == []


@pytest.mark.usefixtures("small_segments")
async def test_failed_write_leaves_the_old_object_and_no_segments(
    adapter: SwiftAdapter, raw: RawSwift, container: str
) -> None:
    await put(adapter, "object", b"old")
    error = ConnectionResetError("of the source")
    with pytest.raises(ConnectionResetError) as caught:
        await adapter.write("object", failing(LARGE, error), size=len(LARGE) + 1, modified=MODIFIED)
    assert caught.value is error
    for wrong in (len(LARGE) - 1, len(LARGE) + 1):
        with pytest.raises(IntegrityError):
            await adapter.write("object", stream(LARGE), size=wrong, modified=MODIFIED)
    reached = asyncio.Event()
    write = asyncio.ensure_future(
        adapter.write("object", stalling(LARGE, reached), size=len(LARGE) + 1, modified=MODIFIED)
    )
    await reached.wait()
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    assert await get(adapter, "object") == b"old"
    assert await raw.names(f"{container}_segments") == []


@pytest.mark.usefixtures("small_segments")
async def test_segment_that_is_stored_after_its_write_was_cancelled(
    opened: Open, swift: SwiftCluster, raw: RawSwift, container: str
) -> None:
    """A service that has all of a request carries it out when it comes to that, though nobody waits any more."""
    sent, late, stored = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def be_late(request: Request) -> Answer:
        if request.method != "PUT" or not request.target.endswith("/s00000003"):
            return await request.forward()
        sent.set()
        await late.wait()
        answer = await request.forward()
        stored.set()
        return answer

    async with faulty_http(swift.port) as proxy:
        adapter = opened(storage_url=f"{proxy.endpoint}/v1/AUTH_test")
        await adapter.prepare()
        proxy.break_by(be_late)
        write = asyncio.ensure_future(
            adapter.write("object", stalling(LARGE, asyncio.Event()), size=len(LARGE) + 1, modified=MODIFIED)
        )
        await sent.wait()
        write.cancel()
        await asyncio.wait([write], timeout=1.0)
        late.set()
        with pytest.raises(asyncio.CancelledError):
            await write
        await stored.wait()
        assert await raw.names(f"{container}_segments") == []


@pytest.mark.usefixtures("small_segments")
async def test_copy_has_segments_of_its_own(adapter: SwiftAdapter) -> None:
    await put_large(adapter, "source", LARGE, metadata={"author": "Žofie"})
    copied = await adapter.copy("source", "folder/target")
    assert (copied.size, copied.modified, dict(copied.metadata)) == (len(LARGE), MODIFIED, {"author": "Žofie"})
    await adapter.delete("source")
    assert await get(adapter, "folder/target") == LARGE


async def test_large_objects_of_other_clients(adapter: SwiftAdapter, raw: RawSwift, container: str) -> None:
    """Static ones with parts of objects, and dynamic ones: each is copied as a whole, and is of no known MD5."""
    data = pattern(100 * KIB)
    await raw.put(f"{container}_segments")
    for number in range(2):
        await raw.put(f"{container}_segments/static/{number}", data[number * 50 * KIB :][: 50 * KIB])
    entries = [{"path": f"/{container}_segments/static/{number}", "range": f"0-{20 * KIB - 1}"} for number in range(2)]
    await raw.put(f"{container}/static", json.dumps(entries).encode(), query="multipart-manifest=put")
    manifest = {"X-Object-Manifest": f"{container}_segments/static/"}
    assert (await raw.ask("PUT", f"{container}/dynamic", b"", headers=manifest)).status == 201
    wholes = {"static": data[: 20 * KIB] + data[50 * KIB :][: 20 * KIB], "dynamic": data}
    for name, whole in wholes.items():
        found = await adapter.stat(name)
        assert (found.size, found.checksum) == (len(whole), None)
        assert await get(adapter, name) == whole
        copied = await adapter.copy(name, f"copy of {name}")
        digest = hashlib.md5(whole, usedforsecurity=False).hexdigest()
        assert copied.checksum == Checksum(ChecksumKind.MD5, digest)
    await adapter.delete("static")
    assert await raw.names(f"{container}_segments") == []


async def test_manifest_that_names_others_objects(adapter: SwiftAdapter, raw: RawSwift, container: str) -> None:
    """Whoever can write a manifest cannot have other objects deleted by it."""
    await raw.put(f"{container}_segments")
    await put(adapter, "precious", b"precious")
    for name in ("bait/1", "other/1"):
        await raw.put(f"{container}_segments/{name}", b"segment")
    paths = [f"/{container}/precious", f"/{container}_segments/bait/1", f"/{container}_segments/other/1"]
    entries = json.dumps([{"path": path} for path in paths]).encode()
    await raw.put(f"{container}/bait", entries, query="multipart-manifest=put")
    await adapter.delete("bait")
    assert await keys_of(adapter) == ["precious"]
    assert await raw.names(f"{container}_segments") == ["other/1"]


@pytest.mark.usefixtures("small_segments")
async def test_segment_that_is_missing(adapter: SwiftAdapter, raw: RawSwift, container: str) -> None:
    await put_large(adapter, "large", LARGE)
    for name in await raw.names(f"{container}_segments"):
        if "/s" in name:
            assert (await raw.ask("DELETE", f"{container}_segments/{name}")).status == 204
    with pytest.raises(IntegrityError):
        await get(adapter, "large")
    with pytest.raises(ProviderUnavailable):
        await adapter.copy("large", "copied")
    await adapter.delete("large")
    assert await raw.names(f"{container}_segments") == []
    assert await keys_of(adapter) == []


@pytest.mark.usefixtures("small_segments")
async def test_sweep_removes_what_crashed_writes_left(
    adapter: SwiftAdapter, opened: Open, raw: RawSwift, container: str
) -> None:
    ours = opened(prefix="ours")
    assert await ours.sweep(-60.0) == 0
    await put_large(ours, "used", LARGE)
    used = set(await raw.names(f"{container}_segments"))
    left = [
        f"ours/{key}/.cdir-{uuid.uuid4().hex}/{kind}0000000{number}"
        for key in ("used", "gone", "folder/gone")
        for kind, number in (("m", 1), ("s", 1), ("s", 2))
    ]
    kept = [f"theirs/gone/.cdir-{uuid.uuid4().hex}/s00000001", "ours/gone/1700000000.0/100/50/00000000"]
    for name in (*left, *kept):
        await raw.put(f"{container}_segments/{name}", b"segment")
    assert await ours.sweep(24 * 3600.0) == 0
    # the three names of one upload each got an id of their own above
    assert await ours.sweep(-60.0) == len(left)
    assert set(await raw.names(f"{container}_segments")) == used | set(kept)
    assert await get(ours, "used") == LARGE


@pytest.mark.usefixtures("small_segments")
async def test_name_too_long_for_segments(adapter: SwiftAdapter) -> None:
    with pytest.raises(InvalidPath):
        await put_large(adapter, "n" * 1000, LARGE)
    await put(adapter, "n" * 1024, b"small")
    with pytest.raises(InvalidPath):
        await put(adapter, "n" * 1025, b"small")


# ---------------------------------------------------------------------- the container


async def test_missing_container_is_not_an_empty_one(opened: Open, raw: RawSwift, container: str) -> None:
    adapter = opened()
    with pytest.raises(NotFound):
        await adapter.check()
    for attempt in (
        adapter.stat("object"),
        adapter.fetch("object"),
        adapter.fetch("object", range=ByteRange(0, 0)),
        adapter.delete("object"),
        put(adapter, "object", b"x"),
        adapter.write("object", stream(pattern(17 << 20)), size=17 << 20, modified=MODIFIED),
        adapter.copy("object", "other"),
        anext(adapter.list("")),
    ):
        with pytest.raises(ProviderUnavailable, match="gone"):
            await attempt
    for _ in range(2):
        await adapter.prepare()
    await adapter.check()
    assert (await raw.ask("HEAD", container)).status == 204


@pytest.mark.usefixtures("small_segments")
async def test_container_of_segments_is_made_again(adapter: SwiftAdapter, raw: RawSwift, container: str) -> None:
    await put_large(adapter, "object", LARGE)
    await adapter.delete("object")
    assert (await raw.ask("DELETE", f"{container}_segments")).status == 204
    with pytest.raises(ProviderUnavailable, match="gone"):
        await put_large(adapter, "object", LARGE)
    await put_large(adapter, "object", LARGE)
    assert await get(adapter, "object") == LARGE


async def test_listing_leaves_out_what_has_no_name_here(opened: Open, raw: RawSwift, container: str) -> None:
    adapter = opened(prefix="ours")
    await adapter.prepare()
    for name in ("ours/", "ours/folder/", "ours//x", "ours/a/../b", "ours/folder/file", "ours/file", "oursother"):
        await raw.put(f"{container}/{name}")
    marker = await raw.ask("PUT", f"{container}/ours/marked", b"", headers={"Content-Type": "application/directory"})
    assert marker.status == 201
    assert await keys_of(adapter) == ["file", "folder/file"]
    listed = [info.key async for page in adapter.list("") for info in page.objects]
    assert listed == ["a", "file", "folder"]


async def test_times_and_metadata_of_others(adapter: SwiftAdapter, raw: RawSwift, container: str) -> None:
    await raw.put(f"{container}/timed", b"x", Mtime="1700000000.123456789", Author="Ada")
    await raw.put(f"{container}/untimed", b"x")
    timed, untimed = await adapter.stat("timed"), await adapter.stat("untimed")
    assert timed.modified == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
    assert dict(timed.metadata) == {"author": "Ada"}
    listed = {info.key: info.modified async for page in adapter.list("") for info in page.objects}
    assert untimed.modified == listed["untimed"]


async def test_quota(adapter: SwiftAdapter, raw: RawSwift, container: str) -> None:
    quota = {"X-Container-Meta-Quota-Bytes": "1000"}
    assert (await raw.ask("POST", container, headers=quota)).status == 204
    await put(adapter, "object", pattern(600))
    usage = await adapter.usage()
    assert (usage.used, usage.free, usage.total) == (600, 400, 1000)
    with pytest.raises(QuotaExceeded):
        await put(adapter, "object", pattern(1001))
    assert await get(adapter, "object") == pattern(600)


async def test_forbidden(
    adapter: SwiftAdapter, opened: Open, raw: RawSwift, container: str, swift: SwiftCluster
) -> None:
    """A user who may read one container and nothing else."""
    await put(adapter, "object", b"x")
    guest = opened(user=swift.guest, key=swift.guest_password)
    with pytest.raises(PermissionDenied):
        await guest.check()
    reading = {"X-Container-Read": swift.guest}
    assert (await raw.ask("POST", container, headers=reading)).status == 204
    await guest.check()
    assert await get(guest, "object") == b"x"
    assert (await guest.usage()).used == 1
    for attempt in (put(guest, "object", b"y"), guest.delete("object")):
        with pytest.raises(PermissionDenied):
            await attempt
    assert await get(adapter, "object") == b"x"


# ---------------------------------------------------------------------- words and numbers


@pytest.mark.parametrize(
    "options",
    [
        {"container": "a/b"},
        {"container": "n" * 250},
        {"auth_url": "localhost:5000"},
        {"auth_url": "http://localhost:many/v3"},
        {"auth_url": "http://[::1/v3"},
        {"auth_url": "http://user:secret@localhost/v3"},
        {"auth_url": "http://localhost/v3?next=1"},
        {"storage_url": "ftp://localhost/"},
        {"key": ""},
        {"user": ""},
        {"auth_version": "3", "project": ""},
        {"application_credential_id": "1", "application_credential_secret": "2"},
        {"auth_version": "3", "application_credential_id": "1"},
    ],
)
def test_options_that_cannot_be(options: dict[str, str]) -> None:
    plain = {"container": "c", "auth_url": "http://localhost/auth/v1.0", "user": "u", "key": "p"}
    with pytest.raises(ConfigInvalid) as caught:
        SwiftAdapter("store", validate_options("swift", {**plain, **options}))
    assert "secret@" not in caught.value.message


async def test_no_secret_is_shown(opened: Open) -> None:
    for way in (
        {"key": "s3cr3t"},
        {"auth_version": "3", "application_credential_id": "1", "application_credential_secret": "s3cr3t"},
    ):
        adapter = opened(**way)
        assert "s3cr3t" not in repr(adapter) + repr(adapter.info) + repr(vars(adapter)) + repr(adapter._settings)


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (0, "", ProviderUnavailable),
        (301, "", ConfigInvalid),
        (400, "Bad request", InvalidArgument),
        (400, "Object name length of 1025 longer than 1024", InvalidPath),
        (401, "", Unauthenticated),
        (403, "", PermissionDenied),
        (404, "", NotFound),
        (408, "", ProviderUnavailable),
        (409, "", ProviderUnavailable),
        (412, "", PreconditionFailed),
        (413, "Upload exceeds quota.", QuotaExceeded),
        (413, "Your request is too large.", InvalidPath),
        (416, "", RangeNotSatisfied),
        (422, "", IntegrityError),
        (429, "", RateLimited),
        (498, "Slow down", RateLimited),
        (499, "", ProviderUnavailable),
        (500, "", ProviderUnavailable),
        (501, "", Unsupported),
        (503, "", ProviderUnavailable),
        (507, "", QuotaExceeded),
    ],
)
def test_answers_become_errors(status: int, said: str, expected: type[CdirError]) -> None:
    body = f"<html><title>No</title><h1>{said}</h1>\n<p>token-1234</p></html>"
    fault = Fault.of(status, body, {"Retry-After": "7"}, ("token-1234",))
    error = Faults("store", "http://localhost/v3").error(fault, "testing", "key")
    assert type(error) is expected
    assert error.retry_after == (7.0 if error.retry is Retry.LATER else None)
    assert "\n" not in error.message
    assert "token-1234" not in error.message


@pytest.mark.parametrize(("status", "expected"), [(401, Unauthenticated), (403, Unauthenticated), (404, ConfigInvalid)])
def test_refused_sign_in(status: int, expected: type[CdirError]) -> None:
    assert type(Faults("store", "http://localhost/v3").error(Fault(status), SIGNING_IN)) is expected


@pytest.mark.parametrize(("text", "low", "high"), [("7", 7.0, 7.0), ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0, 0.0)])
def test_when_to_try_again(text: str, low: float, high: float) -> None:
    fault = Fault.of(503, "", {"Retry-After": text})
    assert fault.retry_after is not None
    assert low <= fault.retry_after <= high


@pytest.mark.parametrize("text", ["soon", "nan", "inf", "", "-1"])
def test_when_to_try_again_is_not_known(text: str) -> None:
    assert Fault.of(503, "", {"Retry-After": text}).retry_after in {None, 0.0}


@pytest.mark.parametrize("value", ["plain", "", "Žofie 日本", " spaces ", "line\nbreak", "=?utf-8?q?=", "a=?b", "%41"])
def test_metadata_survives_headers(value: str) -> None:
    sent = encode_metadata(MODIFIED, {"Name": value})
    assert all(text and text.isascii() and text.isprintable() for text in sent.values())
    info = info_of_headers("key", 1, sent)
    assert (dict(info.metadata), info.modified) == ({"name": value}, MODIFIED)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2001, 2, 3, 4, 5, 6, 123457, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 58, 750000, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
)
def test_modified_time_survives_headers(moment: datetime) -> None:
    assert info_of_headers("key", 1, encode_metadata(moment, {})).modified == moment


def test_modified_time_of_others() -> None:
    for text in (None, "", "yesterday", "nan", "1e30"):
        assert parse_mtime(text) is None
