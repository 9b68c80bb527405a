import asyncio
import base64
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import ContainerSasPermissions, ContentSettings, generate_container_sas
from azure.storage.blob.aio import ContainerClient

from cdir.errors import (
    AlreadyExists,
    ConfigInvalid,
    IntegrityError,
    InvalidPath,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ProviderUnavailable,
    Retry,
)
from cdir_adapters.adapter import ByteRange, Checksum, ObjectInfo, WriteMode
from cdir_adapters.capability import ChecksumKind
from cdir_adapters.probe import probe
from cdir_adapters.providers.azure import AzureAdapter, connections, listing
from cdir_adapters.providers.azure.properties import (
    NAMES,
)
from cdir_adapters.testing.conformance import AdapterConformance
from cdir_adapters.testing.trial import MIB, MODIFIED, failing, pattern, stalling, stream
from servers import azurite as azurite_module
from servers.azurite import AzuriteServer, azurite_server
from servers.certificates import self_signed
from servers.process import free_port
from servers.requirement import require

Open = Callable[..., AzureAdapter]

LARGE = pattern(25 * MIB + 3)
"""More than one request takes: three blocks and a rest."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def azurite() -> AsyncIterator[AzuriteServer]:
    require(azurite_module)
    async with azurite_server() as server:
        yield server


@pytest.fixture
def container() -> str:
    return f"cdir-{uuid.uuid4().hex}"


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens adapters that are closed in the end."""
    async with AsyncExitStack() as stack:

        def open_adapter(options: Mapping[str, str | int | bool], **changes: str | int | bool) -> AzureAdapter:
            adapter = AzureAdapter("store", {**options, **changes})
            stack.push_async_callback(adapter.aclose)
            return adapter

        yield open_adapter


class TestAzurite(AdapterConformance):
    """The provider's root is below a prefix; objects go around the adapter by the library's own up- and downloads."""

    many = 90
    root = "our/share/"
    client: ContainerClient

    @pytest.fixture
    async def adapter(
        self, azurite: AzuriteServer, container: str, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[AzureAdapter]:
        monkeypatch.setattr(listing, "PAGE_SIZE", 40)
        options = {**azurite.options(container), "prefix": "our/share"}
        async with azurite.client(container) as self.client, AzureAdapter("store", options) as adapter:
            await adapter.prepare()
            yield adapter

    async def raw_put(self, key: str, data: bytes) -> None:
        await self.client.upload_blob(self.root + NAMES.encode(key), data, overwrite=True)

    async def raw_get(self, key: str) -> bytes | None:
        try:
            downloader = await self.client.download_blob(self.root + NAMES.encode(key))
        except ResourceNotFoundError:
            return None
        return await downloader.readall()


async def put(adapter: AzureAdapter, key: str, data: bytes, **options: Any) -> ObjectInfo:
    return await adapter.write(key, data, size=len(data), modified=MODIFIED, **options)


async def keys_of(adapter: AzureAdapter, **options: Any) -> list[str]:
    return [info.key async for page in adapter.list("", **{"recursive": True, **options}) for info in page.objects]


def md5_of(data: bytes) -> Checksum:
    return Checksum(ChecksumKind.MD5, hashlib.md5(data, usedforsecurity=False).hexdigest())


def sas_of(server: AzuriteServer, container: str, permissions: str = "racwdl", minutes: int = 60) -> str:
    return generate_container_sas(
        server.account,
        container,
        account_key=server.account_key,
        permission=ContainerSasPermissions.from_string(permissions),
        expiry=datetime.now(UTC) + timedelta(minutes=minutes),
    )


def without_key(server: AzuriteServer, container: str) -> dict[str, str | int | bool]:
    return {name: value for name, value in server.options(container).items() if name != "key"}


@pytest.mark.parametrize("size", [len(LARGE), None])
async def test_large_objects_go_in_blocks(
    azurite: AzuriteServer, size: int | None, container: str, opened: Open
) -> None:
    adapter = opened(azurite.options(container))
    await adapter.prepare()
    metadata = {"cdir-version": "1", "author": "Žofie"}
    written = await adapter.write(
        "folder/large", stream(LARGE, 4 * MIB), size=size, modified=MODIFIED, metadata=metadata
    )
    assert (written.size, written.checksum) == (len(LARGE), md5_of(LARGE))
    found = await adapter.stat("folder/large")
    assert (found.size, found.modified, dict(found.metadata)) == (len(LARGE), MODIFIED, metadata)
    assert (found.etag, found.checksum) == (written.etag, md5_of(LARGE))
    listed = [info async for page in adapter.list("folder") for info in page.objects]
    assert [(info.key, info.size, info.modified, info.etag, info.checksum) for info in listed] == [
        ("folder/large", len(LARGE), MODIFIED, written.etag, md5_of(LARGE))
    ]
    async with adapter.read("folder/large") as opened_object:
        assert opened_object.info.checksum == md5_of(LARGE)
        assert b"".join([piece async for piece in opened_object]) == LARGE
    fetched = await adapter.fetch("folder/large", range=ByteRange(24 * MIB, 4 * MIB))
    assert (fetched.data, fetched.info.size) == (LARGE[24 * MIB :], len(LARGE))
    assert fetched.info.checksum in {md5_of(LARGE), None}


async def test_failed_upload_leaves_the_old_object_and_nothing_else(
    azurite: AzuriteServer, container: str, opened: Open
) -> None:
    adapter = opened(azurite.options(container))
    await adapter.prepare()
    large = LARGE[: 17 * MIB]
    await put(adapter, "object", b"old")
    for key in ("object", "new"):
        error = ConnectionResetError("of the source")
        with pytest.raises(ConnectionResetError) as caught:
            await adapter.write(key, failing(large, error), size=len(large) + 1, modified=MODIFIED)
        assert caught.value is error
        for wrong in (len(large) - 1, len(large) + 1):
            with pytest.raises(IntegrityError):
                await adapter.write(key, stream(large), size=wrong, modified=MODIFIED)
        reached = asyncio.Event()
        write = asyncio.ensure_future(
            adapter.write(key, stalling(large, reached), size=len(large) + 1, modified=MODIFIED)
        )
        await reached.wait()
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
    assert (await adapter.fetch("object")).data == b"old"
    with pytest.raises(NotFound):
        await adapter.stat("new")
    assert await keys_of(adapter) == ["object"]
    assert await adapter.sweep(0.0) == 0


async def test_conditions_hold_for_large_objects(azurite: AzuriteServer, container: str, opened: Open) -> None:
    adapter = opened(azurite.options(container))
    await adapter.prepare()
    large = LARGE[: 9 * MIB]

    async def create() -> ObjectInfo | None:
        try:
            return await adapter.write(
                "object", stream(large), size=len(large), modified=MODIFIED, mode=WriteMode.CREATE
            )
        except AlreadyExists:
            return None

    first, *others = sorted(await asyncio.gather(create(), create(), create()), key=lambda info: info is None)
    assert first is not None
    assert others == [None, None]
    await put(adapter, "object", b"second", if_match=first.etag)
    with pytest.raises(PreconditionFailed):
        await adapter.write("object", stream(large), size=len(large), modified=MODIFIED, if_match=first.etag)
    with pytest.raises(PreconditionFailed):
        await adapter.write("missing", stream(large), size=len(large), modified=MODIFIED, if_match=first.etag)
    with pytest.raises(PreconditionFailed):
        await adapter.delete("object", if_match=first.etag)
    assert (await adapter.fetch("object")).data == b"second"
    await adapter.delete("object", if_match=(await adapter.stat("object")).etag)
    await adapter.delete("object", if_match=first.etag)
    assert await keys_of(adapter) == []


async def test_two_writers_of_one_large_object(azurite: AzuriteServer, container: str, opened: Open) -> None:
    """Who is done first discards the blocks of the other, which then fails as a whole; no mixture appears."""
    adapter = opened(azurite.options(container))
    await adapter.prepare()
    both = [pattern(17 * MIB, seed) for seed in (1, 2)]
    results = await asyncio.gather(
        *(adapter.write("object", stream(data), size=len(data), modified=MODIFIED) for data in both),
        return_exceptions=True,
    )
    assert any(isinstance(result, ObjectInfo) for result in results)
    assert all(isinstance(result, ObjectInfo | ProviderUnavailable | IntegrityError) for result in results), results
    async with adapter.read("object") as opened_object:
        assert b"".join([piece async for piece in opened_object]) in both


async def test_shared_access_signature(azurite: AzuriteServer, container: str, opened: Open) -> None:
    await opened(azurite.options(container)).prepare()
    adapter = opened(without_key(azurite, container), sas="?" + sas_of(azurite, container))
    await adapter.prepare()
    await put(adapter, "folder/object", b"content")
    written = await adapter.write("large", stream(LARGE), size=len(LARGE), modified=MODIFIED)
    assert written.checksum == md5_of(LARGE)
    assert (await adapter.copy("folder/object", "copy")).size == 7
    assert (await adapter.fetch("copy")).data == b"content"
    await adapter.delete("copy")
    assert await keys_of(adapter) == ["folder/object", "large"]
    only_reads = opened(without_key(azurite, container), sas=sas_of(azurite, container, "rl"))
    await only_reads.check()
    for attempt in (put(only_reads, "new", b"x"), only_reads.delete("large")):
        with pytest.raises(PermissionDenied, match="needs to"):
            await attempt


async def test_connection_string(azurite: AzuriteServer, container: str, opened: Open) -> None:
    base = f"BlobEndpoint={azurite.endpoint};AccountName={azurite.account};"
    with_key = opened({"container": container, "connection_string": f"{base}AccountKey={azurite.account_key};"})
    await with_key.prepare()
    token = sas_of(azurite, container)
    with_token = opened({"container": container, "connection_string": f"{base}SharedAccessSignature={token}"})
    await put(with_token, "object", b"content")
    assert await keys_of(with_key) == ["object"]


async def test_wrong_credentials(azurite: AzuriteServer, container: str, opened: Open) -> None:
    await opened(azurite.options(container)).prepare()
    wrong_key = base64.b64encode(b"not-the-key").decode()
    expired = sas_of(azurite, container, minutes=-1)
    for adapter, secret in (
        (opened(azurite.options(container), key=wrong_key), wrong_key),
        (opened(without_key(azurite, container), sas=expired), expired),
    ):
        for attempt in (
            adapter.check(),
            adapter.prepare(),
            put(adapter, "object", b"x"),
            adapter.fetch("object"),
            adapter.delete("object"),
        ):
            with pytest.raises(PermissionDenied, match="check key or sas") as caught:
                await attempt
            assert secret not in caught.value.message + repr(caught.value)


async def test_signatures_are_made_anew(
    azurite: AzuriteServer, container: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_SIGNATURE_KEPT", timedelta(0))
    adapter = opened(azurite.options(container))
    await adapter.prepare()
    await put(adapter, "object", b"x")
    assert (await adapter.fetch("object")).data == b"x"


async def test_wrong_endpoint(azurite: AzuriteServer, container: str, opened: Open) -> None:
    """An account that is not there says nothing of what an object is."""
    adapter = opened(azurite.options(container), endpoint=f"http://127.0.0.1:{azurite.port}/nobody")
    for attempt in (
        adapter.check(),
        adapter.stat("object"),
        adapter.delete("object"),
        put(adapter, "object", b"x"),
        anext(adapter.list("")),
    ):
        with pytest.raises(ProviderUnavailable, match="check endpoint"):
            await attempt


async def test_server_that_is_not_there(opened: Open) -> None:
    adapter = opened(
        {"container": "con", "account": "acc", "key": "a2V5", "endpoint": f"http://127.0.0.1:{free_port()}/acc"}
    )
    for attempt in (adapter.check(), adapter.prepare(), put(adapter, "object", b"x"), adapter.delete("object")):
        with pytest.raises(ProviderUnavailable) as caught:
            await attempt
        assert caught.value.retry is Retry.LATER


async def test_certificate_of_ones_own(opened: Open, tmp_path: Path, container: str) -> None:
    require(azurite_module)
    certificate = self_signed(tmp_path / "server.pem")
    async with azurite_server(certificate=(certificate, certificate)) as server:
        adapter = opened(server.options(container))
        for attempt in (adapter.check(), put(adapter, "object", b"x"), adapter.fetch("object")):
            with pytest.raises(ConfigInvalid, match="ca_file"):
                await attempt
        trusting = opened(server.options(container), ca_file=str(certificate))
        await trusting.prepare()
        await put(trusting, "object", b"x")
        assert (await trusting.fetch("object")).data == b"x"
        missing = opened(server.options(container), ca_file=str(tmp_path / "missing.pem"))
        with pytest.raises(ConfigInvalid, match=r"missing\.pem"):
            await missing.check()


async def test_missing_container_is_not_an_empty_one(azurite: AzuriteServer, container: str, opened: Open) -> None:
    adapter = opened(azurite.options(container))
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


async def test_killed_server_and_its_return(opened: Open, container: str) -> None:
    require(azurite_module)
    async with azurite_server() as server:
        adapter = opened(server.options(container))
        await adapter.prepare()

        async def source() -> AsyncIterator[bytes]:
            yield LARGE[: 9 * MIB]
            await server.kill()
            yield LARGE[: 9 * MIB]

        with pytest.raises(ProviderUnavailable) as caught:
            await adapter.write("folder/object", source(), size=18 * MIB, modified=MODIFIED)
        assert caught.value.retry is Retry.LATER
        for attempt in (adapter.stat("object"), adapter.fetch("object"), anext(adapter.list(""))):
            with pytest.raises(ProviderUnavailable):
                await attempt
        await server.restart()
        await adapter.prepare()
        await put(adapter, "object", b"x")
        assert await keys_of(adapter) == ["object"]


async def test_no_secret_is_shown(opened: Open) -> None:
    secret = base64.b64encode(b"s3cr3t").decode()
    for options in (
        {"account": "acc", "key": secret},
        {"account": "acc", "sas": f"sv=1&sig={secret}"},
        {"connection_string": f"AccountName=acc;AccountKey={secret}"},
    ):
        adapter = opened({"container": "con", **options})
        assert secret not in repr(adapter) + repr(adapter.info) + repr(vars(adapter))
        assert adapter.info.location == "azure://con at acc.blob.core.windows.net"


async def test_what_another_program_stored(azurite: AzuriteServer, container: str, opened: Open) -> None:
    """Bytes are read as they lie there, whatever their blob says of their encoding."""
    adapter = opened(azurite.options(container))
    await adapter.prepare()
    async with azurite.client(container) as client:
        await client.upload_blob(
            "object",
            b"not really compressed",
            content_settings=ContentSettings(content_encoding="gzip"),
            metadata={"Mtime": "1700000000.5", "My_Key": "Value"},
        )
        await client.upload_blob("pages", b"", blob_type="AppendBlob")
    fetched = await adapter.fetch("object")
    assert (fetched.data, fetched.info.size) == (b"not really compressed", 21)
    modified = datetime(2023, 11, 14, 22, 13, 20, 500_000, tzinfo=UTC)
    found = await adapter.stat("object")
    assert (found.modified, fetched.info.modified, dict(found.metadata)) == (modified, modified, {"my_key": "Value"})
    await put(adapter, "pages", b"replaced")


async def test_all_that_is_declared_is_true(azurite: AzuriteServer, container: str, opened: Open) -> None:
    adapter = opened(azurite.options(container))
    await adapter.prepare()
    assert await probe(adapter) == adapter.capability == AzureAdapter.capability
    assert await keys_of(adapter) == []


async def test_names_that_azure_does_not_keep(azurite: AzuriteServer, container: str, opened: Open) -> None:
    adapter = opened(azurite.options(container), prefix="p")
    await adapter.prepare()
    for key in ("back\\slash", "folder./dot.", "plain"):
        await put(adapter, key, b"x")
    assert sorted(await keys_of(adapter)) == ["back\\slash", "folder./dot.", "plain"]
    assert await keys_of(adapter, recursive=False) == ["back\\slash", "folder.", "plain"]
    async with azurite.client(container) as client:
        assert [name async for name in client.list_blob_names()] == ["p/back‛5Cslash", "p/folder‛2E/dot‛2E", "p/plain"]
    longest = "/".join(["n" * 200] * 5)
    await put(adapter, longest, b"x")
    with pytest.raises(InvalidPath):
        await put(adapter, longest + "x" * 30, b"x")
