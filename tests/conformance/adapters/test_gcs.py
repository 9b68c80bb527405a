import asyncio
import gzip
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cdir.errors import (
    AlreadyExists,
    CdirError,
    ConfigInvalid,
    IntegrityError,
    InvalidPath,
    NotFound,
    PreconditionFailed,
    ProviderUnavailable,
    Unauthenticated,
)
from cdir_adapters.adapter import Adapter, ByteRange, ObjectInfo, WriteMode
from cdir_adapters.capability import ChecksumKind
from cdir_adapters.layers import VerifyAdapter
from cdir_adapters.probe import probe
from cdir_adapters.providers.gcs import GcsAdapter, listing, upload
from cdir_adapters.providers.gcs import adapter as gcs_adapter
from cdir_adapters.testing.conformance import AdapterConformance
from cdir_adapters.testing.trial import MODIFIED, failing, pattern, stalling, stream
from servers.gcs import GcsServer, gcs_server
from servers.gcs_store import QUANTUM

Open = Callable[..., GcsAdapter]


@pytest.fixture
async def server() -> AsyncIterator[GcsServer]:
    async with gcs_server() as started:
        yield started


@pytest.fixture
def bucket() -> str:
    return f"cdir-{uuid.uuid4().hex}"


@pytest.fixture
async def opened(server: GcsServer, bucket: str) -> AsyncIterator[Open]:
    """Opens adapters that are closed in the end."""
    async with AsyncExitStack() as stack:

        def open_adapter(**changes: str | int | bool) -> GcsAdapter:
            given = {**server.options(bucket), **changes}
            adapter = GcsAdapter("store", {name: value for name, value in given.items() if value != ""})
            stack.push_async_callback(adapter.aclose)
            return adapter

        yield open_adapter


@pytest.fixture
async def adapter(opened: Open) -> GcsAdapter:
    made = opened()
    await made.prepare()
    return made


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest chunks that the service takes."""
    monkeypatch.setattr(gcs_adapter, "_RESUMABLE_ABOVE", QUANTUM)
    monkeypatch.setattr(upload, "CHUNK_SIZE", QUANTUM)


class TestGcs(AdapterConformance):
    """Objects below a prefix. Pages are much smaller than usual, so that every listing has several."""

    many: ClassVar[int] = 40
    server: GcsServer
    bucket: str

    @pytest.fixture
    async def adapter(
        self, server: GcsServer, opened: Open, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> GcsAdapter:
        monkeypatch.setattr(listing, "PAGE_SIZE", 7)
        self.server, self.bucket = server, bucket
        adapter = opened(prefix="our/share")
        await adapter.prepare()
        return adapter

    async def raw_put(self, key: str, data: bytes) -> None:
        self.server.put(self.bucket, f"our/share/{key}", data)

    async def raw_get(self, key: str) -> bytes | None:
        return self.server.get(self.bucket, f"our/share/{key}")


async def test_what_is_declared_holds(adapter: GcsAdapter) -> None:
    assert await probe(adapter) == GcsAdapter.capability


async def put(adapter: GcsAdapter, key: str, data: bytes, **options: Any) -> ObjectInfo:
    return await adapter.write(key, data, size=len(data), modified=MODIFIED, **options)


async def get(adapter: Adapter, key: str) -> bytes:
    async with adapter.read(key) as opened_object:
        return b"".join([piece async for piece in opened_object])


async def put_stream(adapter: GcsAdapter, key: str, data: bytes, size: int | None, **options: Any) -> ObjectInfo:
    return await adapter.write(key, stream(data), size=size, modified=MODIFIED, **options)


def puts(server: GcsServer) -> int:
    return [method for method, _ in server.requests].count("PUT")


@pytest.mark.parametrize("rest", [-1, 0, 1])
@pytest.mark.parametrize("told", [True, False])
async def test_sizes_around_a_chunk(
    server: GcsServer, adapter: GcsAdapter, bucket: str, small_chunks: None, rest: int, told: bool
) -> None:
    data = pattern(3 * QUANTUM + rest)
    info = await put_stream(adapter, "large", data, len(data) if told else None)
    assert server.get(bucket, "large") == data
    assert (info.size, info.checksum) == (len(data), (await adapter.stat("large")).checksum)
    assert puts(server) == (4 if rest > 0 else 3)
    assert server.unfinished() == []


async def test_chunks_that_are_taken_in_part(
    server: GcsServer, adapter: GcsAdapter, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs_adapter, "_RESUMABLE_ABOVE", QUANTUM)
    monkeypatch.setattr(upload, "CHUNK_SIZE", 4 * QUANTUM)
    server.most_kept = 3 * QUANTUM
    data = pattern(9 * QUANTUM + 5)
    await put_stream(adapter, "large", data, None)
    assert server.get(bucket, "large") == data


async def test_upload_that_is_given_up(server: GcsServer, adapter: GcsAdapter, small_chunks: None) -> None:
    """The service keeps no session of a write that came to nothing."""
    await put(adapter, "object", b"old")
    with pytest.raises(RuntimeError, match="broke"):
        await adapter.write(
            "object", failing(pattern(3 * QUANTUM), RuntimeError("the source broke")), size=None, modified=MODIFIED
        )
    with pytest.raises(IntegrityError):
        await put_stream(adapter, "object", pattern(3 * QUANTUM), 3 * QUANTUM - 1)
    reached = asyncio.Event()
    writing = asyncio.ensure_future(
        adapter.write("object", stalling(pattern(3 * QUANTUM), reached), size=None, modified=MODIFIED)
    )
    await asyncio.wait_for(reached.wait(), 30)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert server.unfinished() == []
    assert [method for method, _ in server.requests].count("DELETE") == 3
    assert (await adapter.fetch("object")).data == b"old"


async def test_condition_is_looked_at_when_the_object_is_made(
    server: GcsServer, adapter: GcsAdapter, bucket: str, small_chunks: None
) -> None:
    """Of two large writes of the same moment the later one finds that it was not the first."""
    cases: tuple[tuple[dict[str, Any], type[CdirError]], ...] = (
        ({"mode": WriteMode.CREATE}, AlreadyExists),
        ({"if_match": "?"}, PreconditionFailed),
    )
    for options, error in cases:
        server.buckets[bucket].objects.clear()
        if "if_match" in options:
            options = {"if_match": (await put(adapter, "raced", b"old")).etag}

        async def overtaken() -> AsyncIterator[bytes]:
            yield pattern(2 * QUANTUM)
            server.put(bucket, "raced", b"theirs")
            yield b"x"

        with pytest.raises(error):
            await adapter.write("raced", overtaken(), size=None, modified=MODIFIED, **options)
        assert server.get(bucket, "raced") == b"theirs"


async def test_etag_is_the_generation(server: GcsServer, adapter: GcsAdapter, bucket: str) -> None:
    first = await put(adapter, "object", b"same")
    second = await put(adapter, "object", b"same")
    assert first.etag != second.etag == str(server.buckets[bucket].objects["object"].generation)
    # zero would mean to the service that there must be no object
    for never in ("0", "", '"1"', "-1", "1 ", "9" * 30, "\u0661"):
        for attempt in (
            put(adapter, "absent", b"x", if_match=never),
            adapter.delete("object", if_match=never),
            adapter.fetch("object", if_match=never),
        ):
            with pytest.raises(PreconditionFailed):
                await attempt
        await adapter.delete("absent", if_match=never)
    await adapter.delete("absent", if_match=first.etag)
    assert server.contents(bucket) == {"object": b"same"}


async def test_times_of_other_programs(server: GcsServer, adapter: GcsAdapter, bucket: str) -> None:
    stated = {
        "rclone": {"mtime": "2001-02-03T05:05:07.123457891+01:00"},
        "seconds": {"mtime": "981173107.123457"},
        "gsutil": {"goog-reserved-file-mtime": "981173107"},
        "both": {"Mtime": "2001-02-03T04:05:07.123457Z", "goog-reserved-file-mtime": "5"},
    }
    for name, metadata in stated.items():
        server.put(bucket, name, b"x", metadata={**metadata, "Other": "1"})
    server.put(bucket, "wrong", b"x", metadata={"mtime": "yesterday"})
    listed = {info.key: info.modified async for page in adapter.list("") for info in page.objects}
    for name in stated:
        info = await adapter.stat(name)
        assert info.modified == listed[name]
        assert info.modified == (MODIFIED.replace(microsecond=0) if name == "gsutil" else MODIFIED)
        assert info.metadata == {"other": "1"}
    assert (await adapter.stat("wrong")).modified is not None
    await put(adapter, "ours", b"x")
    assert server.buckets[bucket].objects["ours"].described["metadata"] == {
        "mtime": "2001-02-03T04:05:07.123457Z",
        "goog-reserved-file-mtime": "981173107",
    }


async def test_object_stored_compressed_is_read_as_it_is_stored(
    server: GcsServer, adapter: GcsAdapter, bucket: str
) -> None:
    packed = gzip.compress(pattern(5000))
    server.put(bucket, "log.gz", packed, contentEncoding="gzip", contentType="text/plain")
    found = await adapter.fetch("log.gz")
    assert (found.data, found.info.size) == (packed, len(packed))
    assert (await adapter.fetch("log.gz", range=ByteRange(3, 10))).data == packed[3:13]
    assert (await adapter.copy("log.gz", "copy")).checksum == found.info.checksum


async def test_composed_object_has_another_checksum(server: GcsServer, adapter: GcsAdapter, bucket: str) -> None:
    server.put(bucket, "whole", b"123456789").components = 2
    info = await adapter.stat("whole")
    assert info.checksum is not None
    assert (info.checksum.kind, info.checksum.value) == (ChecksumKind.CRC32C, "e3069283")
    assert (await adapter.copy("whole", "copy")).checksum == info.checksum
    assert (await adapter.fetch("copy")).data == b"123456789"


async def test_crc_of_a_composed_object_is_held_against_its_bytes(
    server: GcsServer, adapter: GcsAdapter, bucket: str
) -> None:
    verified = VerifyAdapter(adapter)
    data = pattern(300_000)
    stored = server.put(bucket, "whole", data)
    stored.components = 2
    assert (await verified.fetch("whole")).data == data
    assert (await verified.fetch("whole", range=ByteRange(1, 10))).data == data[1:11]
    assert await get(verified, "whole") == data
    stored.rot(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(IntegrityError, match="checksum that the provider states"):
        await verified.fetch("whole")
    with pytest.raises(IntegrityError, match="checksum that the provider states"):
        await get(verified, "whole")
    assert (await verified.fetch("whole", range=ByteRange(1, 10))).data == data[1:11]


async def test_copy_in_many_steps(server: GcsServer, adapter: GcsAdapter, bucket: str) -> None:
    data = pattern(10_000)
    await put(adapter, "source", data, metadata={"cdir-version": "1"})
    server.most_rewritten = 999
    copied = await adapter.copy("source", "target")
    assert (copied.size, copied.modified, copied.metadata) == (10_000, MODIFIED, {"cdir-version": "1"})
    assert server.get(bucket, "target") == data
    assert len([target for _, target in server.requests if "rewriteTo" in target]) == 11
    with pytest.raises(NotFound):
        await adapter.copy("missing", "target")


async def test_bucket_is_made_as_asked(server: GcsServer, opened: Open, bucket: str) -> None:
    await opened(location="europe-west3", prefix="a").prepare()
    made = server.buckets[bucket]
    assert (made.project, made.described["location"]) == (server.project, "europe-west3")
    assert made.described["iamConfiguration"]["publicAccessPrevention"] == "enforced"
    await opened(project="other").prepare()
    assert server.buckets[bucket] is made
    await opened(project="other", bucket="another").prepare()
    assert server.buckets["another"].project == "other"


async def test_bucket_that_is_gone_proves_nothing(server: GcsServer, adapter: GcsAdapter, bucket: str) -> None:
    with pytest.raises(NotFound):
        await adapter.stat("missing")
    del server.buckets[bucket]
    for attempt in (
        adapter.stat("object"),
        adapter.fetch("object"),
        adapter.delete("object"),
        adapter.copy("object", "other"),
        put(adapter, "object", b"x"),
        put_stream(adapter, "object", pattern(9 << 20), None),
        anext(adapter.list("")),
    ):
        with pytest.raises(ProviderUnavailable, match="is gone"):
            await attempt
    with pytest.raises(NotFound, match="no bucket"):
        await adapter.check()


async def test_without_credentials(server: GcsServer, opened: Open) -> None:
    """At an endpoint of one's own, nothing is looked up on this machine."""
    nobody = opened(credentials="")
    with pytest.raises(Unauthenticated):
        await nobody.check()
    server.anonymous = True
    with pytest.raises(ConfigInvalid, match="give project"):
        await nobody.prepare()
    named = opened(credentials="", project="p")
    await named.prepare()
    await put(named, "object", b"x")
    assert (await nobody.fetch("object")).data == b"x"
    assert server.signed_in == 0


async def test_machines_own_credentials(
    server: GcsServer, opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of the machine, and never for an endpoint that is not Google's."""
    key = tmp_path / "key.json"
    key.write_text(server.credentials)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    with pytest.raises(Unauthenticated):
        await opened(credentials="").check()
    assert server.signed_in == 0
    at_googles = GcsAdapter("store", {"bucket": "bucket"})
    token = await at_googles._sign_in.token()
    assert token.text in server.tokens
    assert await at_googles._sign_in.project() == server.project
    await at_googles.aclose()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing"))
    async with GcsAdapter("store", {"bucket": "bucket"}) as without:
        with pytest.raises(ConfigInvalid, match="give credentials"):
            await without.check()


async def test_credentials_in_a_file(server: GcsServer, opened: Open, tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    for text, error in ((None, "No such file"), ("{", "must be the JSON"), ('{"type": "external_account"}', "type")):
        if text is not None:
            key.write_text(text)
        with pytest.raises(ConfigInvalid, match=error):
            await opened(credentials=str(key)).check()
    key.write_text(server.credentials)
    await opened(credentials=str(key)).prepare()


async def test_credentials_that_are_not_known(server: GcsServer, opened: Open) -> None:
    known = json.loads(server.credentials)
    with pytest.raises(Unauthenticated, match="invalid_grant"):
        await opened(credentials=json.dumps({**known, "client_email": "other@example.org"})).check()
    for change in ({"private_key": "x"}, {"private_key": None}):
        with pytest.raises(ConfigInvalid) as caught:
            await opened(credentials=json.dumps({**known, **change})).check()
        assert "PRIVATE KEY" not in caught.value.message
    with pytest.raises(ProviderUnavailable):
        await opened(credentials=json.dumps({**known, "token_uri": "http://127.0.0.1:9/token"})).check()


async def test_one_token_for_all(server: GcsServer, adapter: GcsAdapter) -> None:
    for number in range(8):
        await put(adapter, f"{number}", b"x")
    assert server.signed_in == 1
    server.tokens.clear()
    assert len(await asyncio.gather(*(adapter.stat(f"{number}") for number in range(8)))) == 8
    assert server.signed_in == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bucket": "UPPER"}, "bucket"),
        ({"bucket": "a/b"}, "bucket"),
        ({"endpoint": "ftp://example.org"}, "http or https"),
        ({"endpoint": "https://me:secret@example.org"}, "must not hold credentials"),
        ({"endpoint": "http://example.org"}, "https"),
        ({"endpoint": "https://example.org:99999"}, "http or https"),
        ({"credentials": "key.json"}, "absolute path"),
        ({"credentials": '{"type": "service_account"'}, "JSON"),
        ({"credentials": '{"type": "impersonated_service_account"}'}, "type"),
    ],
)
def test_options_that_cannot_be(server: GcsServer, changes: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigInvalid, match=said) as caught:
        GcsAdapter("store", {**server.options("bucket"), **changes})
    assert "secret" not in caught.value.message


async def test_names(server: GcsServer, adapter: GcsAdapter, bucket: str) -> None:
    for key in ("a b/ü?#%41+&=", "‛", "[x]*", "x" * 1024, ".hidden", "a\\b"):
        await put(adapter, key, key.encode())
        assert server.get(bucket, key) == key.encode()
        assert (await adapter.fetch(key)).info.key == key
    for attempt in (put(adapter, "ü" * 513, b""), adapter.stat("x" * 1025)):
        with pytest.raises(InvalidPath):
            await attempt
    with pytest.raises(CdirError):
        await put(adapter, "object", b"x", metadata={"large": "x" * 9000})
    for name in ("folder/", "//x", "a/../b", "line\nend"):
        server.put(bucket, name, b"")
    listed = {info.key async for page in adapter.list("", recursive=True) for info in page.objects}
    assert "a b/ü?#%41+&=" in listed
    assert not listed & {"folder/", "folder", "//x", "a/../b", "line\nend"}


async def test_nothing_secret_is_shown(server: GcsServer, adapter: GcsAdapter) -> None:
    await adapter.check()
    shown = repr(adapter) + repr(adapter.info) + repr(adapter._settings) + repr(await adapter._sign_in.token())
    assert "PRIVATE" not in shown
    assert not any(token in shown for token in server.tokens)
