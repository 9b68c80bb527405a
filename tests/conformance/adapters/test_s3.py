import asyncio
import dataclasses
import functools
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar

import aiobotocore.config
import aiobotocore.session
import botocore.loaders
import pytest
import pytest_asyncio

from cdir.errors import (
    AlreadyExists,
    CdirError,
    ConfigInvalid,
    IntegrityError,
    InvalidPath,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    Retry,
    Unauthenticated,
)
from cdir_adapters.adapter import Adapter, ByteRange, Checksum, WriteMode
from cdir_adapters.capability import ChecksumKind
from cdir_adapters.layers.retry import RetryAdapter, RetrySettings
from cdir_adapters.providers.s3 import S3Adapter
from cdir_adapters.providers.s3 import adapter as s3_adapter
from cdir_adapters.providers.s3.faults import Fault, Faults
from cdir_adapters.providers.s3.headers import decode_metadata, encode_metadata, format_mtime, parse_mtime
from cdir_adapters.providers.s3.multipart import MAX_PARTS, MIN_PART, part_sizes
from cdir_adapters.testing.conformance import CASES, AdapterConformance
from cdir_adapters.testing.trial import MIB, MODIFIED, failing, pattern, stalling, stream
from servers import moto_s3, rclone_s3
from servers.faulty_proxy import faulty_proxy
from servers.moto_s3 import MotoS3Server, moto_s3_server
from servers.process import free_port
from servers.rclone_s3 import RcloneS3Server, rclone_s3_server
from servers.requirement import require

Open = Callable[..., S3Adapter]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rclone() -> AsyncIterator[RcloneS3Server]:
    require(rclone_s3)
    async with rclone_s3_server() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def moto() -> AsyncIterator[MotoS3Server]:
    require(moto_s3)
    async with moto_s3_server() as server:
        yield server


@pytest.fixture
def bucket() -> str:
    return f"cdir-{uuid.uuid4().hex}"


@functools.cache
def loader() -> botocore.loaders.Loader:
    """The description of the service, parsed once for all clients."""
    return botocore.loaders.create_loader()


@asynccontextmanager
async def raw_client(server: RcloneS3Server | MotoS3Server) -> AsyncIterator[Any]:
    """A client that does not go through the adapter."""
    config = aiobotocore.config.AioConfig(signature_version="s3v4", s3={"addressing_style": "path"})
    session = aiobotocore.session.AioSession()
    session.register_component("data_loader", loader())
    async with session.create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=config,
    ) as client:
        yield client


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens adapters that are closed in the end."""
    async with AsyncExitStack() as stack:

        def open_adapter(options: Mapping[str, str | int | bool], **changes: str | int | bool) -> S3Adapter:
            adapter = S3Adapter("store", {**options, **changes})
            stack.push_async_callback(adapter.aclose)
            return adapter

        yield open_adapter


class S3Conformance(AdapterConformance):
    """Objects go around the adapter by another client, since a file server's own cache must see them too."""

    root = ""
    left_out: ClassVar[frozenset[str]] = frozenset()
    """Cases that fail by a fault of the server itself."""
    only: ClassVar[frozenset[str]] = frozenset(case.name for case in CASES)
    client: Any
    bucket: str

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        assert self.left_out | self.only <= {case.name for case in CASES}
        chosen = [case for case in CASES if case.name in self.only - self.left_out]
        metafunc.parametrize("case", chosen, ids=[case.name for case in chosen])

    async def raw_put(self, key: str, data: bytes) -> None:
        await self.client.put_object(Bucket=self.bucket, Key=self.root + key, Body=data)

    async def raw_open(self, key: str) -> None:
        await self.client.put_object_acl(Bucket=self.bucket, Key=self.root + key, ACL="public-read")

    async def raw_get(self, key: str) -> bytes | None:
        try:
            answer = await self.client.get_object(Bucket=self.bucket, Key=self.root + key)
        except self.client.exceptions.NoSuchKey:
            return None
        async with answer["Body"] as body:
            data: bytes = await body.read()
            return data


class TestRclone(S3Conformance):
    """A server over files that ignores conditions and answers ranges with status 200.

    Left out: an object below another one cannot be a file, and deleting such a name deletes the object above; a folder
    that vanishes with its last object makes a put into it fail with status 500, and so do puts of one key at once.
    """

    many = 1100
    left_out = frozenset(
        {
            "below_file_is_missing",
            "list_in_order",
            "write_and_delete_concurrently",
            "write_same_key_concurrently",
        }
    )

    @pytest.fixture
    async def adapter(self, rclone: RcloneS3Server, bucket: str) -> AsyncIterator[Adapter]:
        self.bucket = bucket
        async with raw_client(rclone) as self.client, S3Adapter("store", rclone.options(bucket)) as adapter:
            # what the probe finds when such a provider is added
            adapter.capability = dataclasses.replace(
                adapter.capability,
                write_if_absent=False,
                write_if_match=False,
                read_if_match=False,
                acl=False,
                acl_grants=False,
                write_access=False,
            )
            await adapter.prepare()
            # making the same folder twice at once is an internal error there, which passes
            yield RetryAdapter(adapter, RetrySettings(attempts=8, budget=60.0))


class TestMoto(S3Conformance):
    """A server close to Amazon's, with the provider's root below a prefix.

    Left out: writers of one key at the same time get status 500 now and then.
    """

    root = "our/share/"
    left_out = frozenset({"write_same_key_concurrently"})
    options: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture
    async def adapter(self, moto: MotoS3Server, bucket: str) -> AsyncIterator[S3Adapter]:
        self.bucket = bucket
        options = {**moto.options(bucket), "prefix": "our/share", **self.options}
        async with raw_client(moto) as self.client, S3Adapter("store", options) as adapter:
            await adapter.prepare()
            yield adapter


class TestMotoSignatureV2(TestMoto):
    """The calls that the other library makes when requests are signed the old way."""

    options: ClassVar[Mapping[str, str]] = {"signature": "v2"}
    only = frozenset(
        {
            "delete_object",
            "missing_object",
            "names_survive",
            "read_abandoned",
            "read_if_match",
            "read_range_of_empty_object",
            "read_ranges",
            "write_create",
            "write_if_match",
            "write_keeps_metadata",
            "write_large_objects",
            "write_small_objects",
            "write_states_checksum",
        }
    )


async def put(adapter: S3Adapter, key: str, data: bytes, **options: Any) -> None:
    await adapter.write(key, data, size=len(data), modified=MODIFIED, **options)


async def keys_of(adapter: S3Adapter) -> list[str]:
    return [info.key async for page in adapter.list("", recursive=True) for info in page.objects]


def multipart_checksum(data: bytes, part_size: int = MIN_PART) -> Checksum:
    digests = [
        hashlib.md5(data[start : start + part_size], usedforsecurity=False).digest()
        for start in range(0, len(data), part_size)
    ]
    whole = hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()
    return Checksum(ChecksumKind.MD5_MULTIPART, f"{whole}-{len(digests)}")


LARGE = pattern(25 * MIB + 3)
"""More than one request takes: three parts and a rest."""


@pytest.mark.parametrize("size", [len(LARGE), None])
async def test_large_objects_go_in_parts(moto: MotoS3Server, size: int | None, bucket: str, opened: Open) -> None:
    await put_large(opened(moto.options(bucket)), size)


async def test_large_objects_go_in_parts_to_files(rclone: RcloneS3Server, bucket: str, opened: Open) -> None:
    await put_large(opened(rclone.options(bucket)), len(LARGE))


async def test_large_objects_go_in_parts_signed_the_old_way(moto: MotoS3Server, bucket: str, opened: Open) -> None:
    await put_large(opened(moto.options(bucket), signature="v2"), len(LARGE))


async def put_large(adapter: S3Adapter, size: int | None) -> None:
    await adapter.prepare()
    metadata = {"cdir-version": "1", "author": "Žofie"}
    written = await adapter.write(
        "folder/large", stream(LARGE, 4 * MIB), size=size, modified=MODIFIED, metadata=metadata
    )
    assert written.size == len(LARGE)
    assert written.checksum == multipart_checksum(LARGE)
    found = await adapter.stat("folder/large")
    assert (found.size, found.modified, dict(found.metadata)) == (len(LARGE), MODIFIED, metadata)
    assert found.etag == written.etag
    assert found.checksum in {
        written.checksum,
        Checksum(ChecksumKind.MD5, hashlib.md5(LARGE, usedforsecurity=False).hexdigest()),
    }
    async with adapter.read("folder/large") as opened_object:
        assert b"".join([piece async for piece in opened_object]) == LARGE
    fetched = await adapter.fetch("folder/large", range=ByteRange(24 * MIB, 4 * MIB))
    assert (fetched.data, fetched.info.size) == (LARGE[24 * MIB :], len(LARGE))


async def test_failed_upload_leaves_the_old_object_and_nothing_else(
    moto: MotoS3Server, bucket: str, opened: Open
) -> None:
    adapter = opened(moto.options(bucket))
    await adapter.prepare()
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
    assert (await adapter.fetch("object")).data == b"old"
    async with raw_client(moto) as client:
        assert "Uploads" not in await client.list_multipart_uploads(Bucket=bucket)


async def test_conditions_hold_for_large_objects(moto: MotoS3Server, bucket: str, opened: Open) -> None:
    adapter = opened(moto.options(bucket))
    await adapter.prepare()
    first = await adapter.write("object", stream(LARGE), size=len(LARGE), modified=MODIFIED, mode=WriteMode.CREATE)
    with pytest.raises(AlreadyExists):
        await adapter.write("object", stream(LARGE), size=len(LARGE), modified=MODIFIED, mode=WriteMode.CREATE)
    await put(adapter, "object", b"second", if_match=first.etag)
    with pytest.raises(PreconditionFailed):
        await adapter.write("object", stream(LARGE), size=len(LARGE), modified=MODIFIED, if_match=first.etag)
    with pytest.raises(PreconditionFailed):
        await adapter.delete("object", if_match=first.etag)
    assert (await adapter.fetch("object")).data == b"second"
    async with raw_client(moto) as client:
        assert "Uploads" not in await client.list_multipart_uploads(Bucket=bucket)


async def test_large_objects_are_copied_in_parts(
    moto: MotoS3Server, bucket: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_adapter, "_COPY_LIMIT", 8 * MIB)
    monkeypatch.setattr(s3_adapter, "_COPY_PART", 6 * MIB)
    adapter = opened(moto.options(bucket))
    await adapter.prepare()
    await put(adapter, "source", LARGE[: 13 * MIB], metadata={"cdir-version": "1"})
    copied = await adapter.copy("source", "target")
    assert (copied.size, copied.modified, copied.metadata["cdir-version"]) == (13 * MIB, MODIFIED, "1")
    assert (await adapter.fetch("target")).data == LARGE[: 13 * MIB]


async def test_sweep_aborts_old_uploads(rclone: RcloneS3Server, bucket: str, opened: Open) -> None:
    adapter = opened(rclone.options(bucket), prefix="ours")
    await adapter.prepare()
    async with raw_client(rclone) as client:
        for key in ("ours/left", "theirs/left"):
            await client.create_multipart_upload(Bucket=bucket, Key=key)
        assert await adapter.sweep(24 * 3600.0) == 0
        assert await adapter.sweep(-60.0) == 1
        left = await client.list_multipart_uploads(Bucket=bucket)
    assert [upload["Key"] for upload in left["Uploads"]] == ["theirs/left"]


async def test_sweep_where_there_is_nothing(rclone: RcloneS3Server, bucket: str, opened: Open) -> None:
    adapter = opened(rclone.options(bucket))
    await adapter.prepare()
    assert await adapter.sweep(0.0) == 0


async def test_killed_server_leaves_the_old_object_and_recovers(opened: Open, bucket: str) -> None:
    require(rclone_s3)
    async with rclone_s3_server() as server:
        adapter = opened(server.options(bucket))
        await adapter.prepare()
        await put(adapter, "folder/object", b"old")

        async def source() -> AsyncIterator[bytes]:
            yield LARGE
            await server.kill()
            yield LARGE

        with pytest.raises(ProviderUnavailable) as caught:
            await adapter.write("folder/object", source(), size=2 * len(LARGE), modified=MODIFIED)
        assert caught.value.retry is Retry.LATER
        for attempt in (adapter.stat("folder/object"), adapter.fetch("folder/object"), anext(adapter.list(""))):
            with pytest.raises(ProviderUnavailable):
                await attempt
        assert server.file_of(bucket, "folder/object").read_bytes() == b"old"
        await server.restart()
        assert await keys_of(adapter) == ["folder/object"]
        assert (await adapter.fetch("folder/object")).data == b"old"
        await adapter.write("folder/object", stream(LARGE), size=len(LARGE), modified=MODIFIED)
        assert (await adapter.stat("folder/object")).size == len(LARGE)


async def test_broken_connections(rclone: RcloneS3Server, bucket: str, opened: Open) -> None:
    data = pattern(3 * MIB)
    async with faulty_proxy(rclone.port) as proxy:
        adapter = opened(rclone.options(bucket), endpoint=f"http://127.0.0.1:{proxy.port}")
        await adapter.prepare()
        await put(adapter, "object", data)

        async def read() -> None:
            async with adapter.read("object") as opened_object:
                async for _ in opened_object:
                    pass

        for reset in (False, True):
            proxy.reset = reset
            for attempt in (
                lambda: adapter.fetch("object"),
                lambda: adapter.fetch("object", range=ByteRange(MIB, MIB)),
                read,
            ):
                proxy.cut_answer_after = MIB // 2
                with pytest.raises(ProviderUnavailable):
                    await attempt()
            proxy.cut_answer_after = None
            proxy.cut_request_after = MIB
            with pytest.raises(ProviderUnavailable):
                await put(adapter, "object", pattern(2 * MIB, 1))
            proxy.cut_request_after = 10 * MIB
            with pytest.raises(ProviderUnavailable):
                await adapter.write("object", stream(LARGE), size=len(LARGE), modified=MODIFIED)
            proxy.heal()
            assert (await adapter.fetch("object")).data == data
        assert await keys_of(adapter) == ["object"]


async def test_part_corrupted_on_the_way(rclone: RcloneS3Server, bucket: str, opened: Open) -> None:
    async with faulty_proxy(rclone.port) as proxy:
        adapter = opened(rclone.options(bucket), endpoint=f"http://127.0.0.1:{proxy.port}")
        await adapter.prepare()
        await put(adapter, "object", b"old")
        proxy.corrupt_request_at = 10 * MIB
        with pytest.raises(IntegrityError):
            await adapter.write("object", stream(LARGE), size=len(LARGE), modified=MODIFIED)
        assert (await adapter.fetch("object")).data == b"old"


@pytest.mark.parametrize("etag_hash", ["SHA-1", "XXH128"])
async def test_service_whose_etags_are_not_md5(etag_hash: str, bucket: str, opened: Open) -> None:
    """One kind of ETag looks like an MD5, the other does not; neither is taken for a checksum."""
    require(rclone_s3)
    async with rclone_s3_server(etag_hash=etag_hash) as server:
        adapter = opened(server.options(bucket))
        await adapter.prepare()
        await put(adapter, "object", b"content")
        assert (await adapter.stat("object")).checksum is None
        written = await adapter.write("large", stream(LARGE), size=len(LARGE), modified=MODIFIED)
        assert written.size == len(LARGE)
        assert (await adapter.fetch("object")).data == b"content"


async def test_wrong_credentials(rclone: RcloneS3Server, bucket: str, opened: Open) -> None:
    await opened(rclone.options(bucket)).prepare()
    for changes in ({"secret_key": "not-the-secret"}, {"access_key": "nobody-knows"}):
        adapter = opened(rclone.options(bucket), **changes)
        for attempt in (adapter.check(), adapter.prepare(), put(adapter, "object", b"x"), adapter.fetch("object")):
            with pytest.raises(Unauthenticated) as caught:
                await attempt
            assert "not-the-secret" not in caught.value.message


async def test_credentials_of_the_machine(
    rclone: RcloneS3Server, bucket: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    options = {
        name: value for name, value in rclone.options(bucket).items() if name not in {"access_key", "secret_key"}
    }
    none = opened(options)
    for attempt in (none.check(), put(none, "object", b"x")):
        with pytest.raises(Unauthenticated):
            await attempt
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rclone.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rclone.secret_key)
    adapter = opened(options)
    await adapter.prepare()
    await put(adapter, "object", b"x")
    assert (await adapter.stat("object")).size == 1


async def test_environment_does_not_mix_with_given_credentials(
    rclone: RcloneS3Server, bucket: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-someone-else")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-someone-else")
    adapter = opened(rclone.options(bucket))
    await adapter.prepare()
    await put(adapter, "object", b"x")
    assert await keys_of(adapter) == ["object"]


async def test_missing_bucket_is_not_an_empty_one(moto: MotoS3Server, bucket: str, opened: Open) -> None:
    adapter = opened(moto.options(bucket))
    with pytest.raises(NotFound):
        await adapter.check()
    for attempt in (
        adapter.stat("object"),
        adapter.fetch("object"),
        adapter.fetch("object", range=ByteRange(0, 0)),
        adapter.delete("object"),
        put(adapter, "object", b"x"),
        adapter.write("object", stream(LARGE), size=len(LARGE), modified=MODIFIED),
        adapter.copy("object", "other"),
        anext(adapter.list("")),
    ):
        with pytest.raises(ProviderUnavailable, match="gone"):
            await attempt
    for _ in range(2):
        await adapter.prepare()
    await adapter.check()


async def test_server_that_is_not_there(opened: Open) -> None:
    adapter = opened(
        {"bucket": "b", "endpoint": f"http://127.0.0.1:{free_port()}", "access_key": "key", "secret_key": "secret"}
    )
    for attempt in (adapter.check(), adapter.prepare(), put(adapter, "object", b"x"), adapter.delete("object")):
        with pytest.raises(ProviderUnavailable) as caught:
            await attempt
        assert caught.value.retry is Retry.LATER


async def test_listing_leaves_out_what_has_no_name_here(moto: MotoS3Server, bucket: str, opened: Open) -> None:
    adapter = opened(moto.options(bucket), prefix="ours")
    await adapter.prepare()
    async with raw_client(moto) as client:
        for key in ("ours/", "ours/folder/", "ours//x", "ours/a/../b", "ours/folder/file", "ours/file", "oursother"):
            await client.put_object(Bucket=bucket, Key=key, Body=b"")
    assert await keys_of(adapter) == ["file", "folder/file"]
    listed = [info.key async for page in adapter.list("") for info in page.objects]
    assert listed == ["a", "file", "folder"]


async def test_no_secret_is_shown(opened: Open) -> None:
    adapter = opened({"bucket": "b", "access_key": "key", "secret_key": "s3cr3t", "session_token": "s3cr3t-too"})
    assert "s3cr3t" not in repr(adapter) + repr(adapter.info) + repr(vars(adapter))


@pytest.mark.parametrize(
    "options",
    [
        {"bucket": "a/b"},
        {"bucket": "b", "endpoint": "localhost:9000"},
        {"bucket": "b", "endpoint": "http://key:secret@localhost"},
        {"bucket": "b", "access_key": "only-half"},
        {"bucket": "b", "profile": "unheard-of"},
    ],
)
def test_options_that_cannot_be(options: Mapping[str, str]) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        S3Adapter("store", options)
    assert "secret@" not in caught.value.message


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchKey", NotFound),
        (404, "", NotFound),
        (404, "NoSuchBucket", ProviderUnavailable),
        (403, "AccessDenied", PermissionDenied),
        (403, "", PermissionDenied),
        (403, "SignatureDoesNotMatch", Unauthenticated),
        (403, "RequestTimeTooSkewed", Unauthenticated),
        (400, "ExpiredToken", Unauthenticated),
        (401, "", Unauthenticated),
        (301, "PermanentRedirect", ConfigInvalid),
        (400, "AuthorizationHeaderMalformed", ConfigInvalid),
        (503, "SlowDown", RateLimited),
        (429, "", RateLimited),
        (503, "", ProviderUnavailable),
        (500, "InternalError", ProviderUnavailable),
        (400, "RequestTimeout", ProviderUnavailable),
        (0, "", ProviderUnavailable),
        (507, "XMinioStorageFull", QuotaExceeded),
        (403, "QuotaExceeded", QuotaExceeded),
        (400, "EntityTooLarge", InvalidPath),
        (400, "KeyTooLongError", InvalidPath),
        (400, "BadDigest", IntegrityError),
        (412, "PreconditionFailed", PreconditionFailed),
        (409, "ConditionalRequestConflict", PreconditionFailed),
    ],
)
def test_answers_become_errors(status: int, code: str, expected: type[CdirError]) -> None:
    body = f"<Error><Code>{code}</Code><Message>a &lt;word&gt;</Message></Error>"
    fault = Fault.from_body(status, body, "7")
    error = Faults("store", "bucket").error(fault, "testing", "key")
    assert type(error) is expected
    assert error.retry_after == (7.0 if error.retry is Retry.LATER else None)
    assert "\n" not in error.message


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2001, 2, 3, 4, 5, 6, 123457, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 58, 750000, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
)
def test_modified_time_survives_as_text(moment: datetime) -> None:
    assert parse_mtime(format_mtime(moment)) == moment


def test_modified_time_of_others() -> None:
    assert parse_mtime("1700000000.123456789") == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
    assert parse_mtime("1700000000") == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    for text in (None, "", "yesterday", "nan", "1e30"):
        assert parse_mtime(text) is None


@pytest.mark.parametrize("value", ["plain", "", "Žofie 日本", " spaces ", "line\nbreak", "=?utf-8?q?=", "a=?b", "%41"])
def test_metadata_survives_headers(value: str) -> None:
    sent = encode_metadata(MODIFIED, {"Name": value})
    assert all(text.isascii() and text.isprintable() for text in sent.values())
    assert decode_metadata(sent) == {"name": value}


def test_largest_object_has_not_too_many_parts() -> None:
    limit = S3Adapter.capability.max_object_size
    assert limit is not None
    for size in (17 * MIB, MAX_PARTS * MIN_PART, MAX_PARTS * MIN_PART + 1, limit):
        part = next(part_sizes(size))
        assert -(-size // part) <= MAX_PARTS
        assert part >= MIN_PART
