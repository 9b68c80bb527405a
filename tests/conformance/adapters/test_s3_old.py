"""The kind ``s3`` on services that are old or odd: the whole suite against them, and a test for each oddity."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import ClassVar

import pytest
from aiohttp import web

from cdir.errors import (
    CdirError,
    ConfigInvalid,
    IntegrityError,
    InvalidPath,
    NotFound,
    PermissionDenied,
    ProviderUnavailable,
    Unauthenticated,
    Unsupported,
)
from cdir_adapters import registry
from cdir_adapters.adapter import Adapter, ByteRange, Checksum
from cdir_adapters.capability import Capability, ChecksumKind
from cdir_adapters.names import NameEncoding
from cdir_adapters.probe import probe
from cdir_adapters.providers.s3 import S3Adapter
from cdir_adapters.providers.s3 import adapter as s3_adapter
from cdir_adapters.providers.s3.profiles import PROFILES
from cdir_adapters.testing.conformance import CASES, AdapterConformance
from cdir_adapters.testing.trial import MIB, MODIFIED, failing, pattern, stalling, stream
from servers.old_s3 import CUMULUS, FIRST_DECADE, WALRUS, OldS3, Quirks, old_s3
from servers.one_answer import serving
from servers.s3_signatures import SignedCall, signature_2, version_of

BUCKET = "cdir-bucket"
LARGE = pattern(17 * MIB + 3)
"""More than goes in one request where parts are known."""

Open = Callable[..., S3Adapter]
Attempts = Sequence[Callable[[], Awaitable[object]]]


def without_acls(adapter: Adapter) -> Capability:
    """What is left of a capability where the probe finds no access control lists, as at the server here."""
    return replace(adapter.capability, acl=False, acl_grants=False, write_access=False)


class OldConformance(AdapterConformance):
    """Objects go around the adapter by the server's own memory."""

    profile: ClassVar[str]
    quirks: ClassVar[Quirks]
    prefix_option: ClassVar[str] = ""
    only: ClassVar[frozenset[str]] = frozenset(case.name for case in CASES)
    server: OldS3

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        assert self.only <= {case.name for case in CASES}
        chosen = [case for case in CASES if case.name in self.only]
        metafunc.parametrize("case", chosen, ids=[case.name for case in chosen])

    @pytest.fixture
    async def adapter(self) -> AsyncIterator[S3Adapter]:
        async with old_s3(self.quirks) as self.server:
            options = {**self.server.options(BUCKET, self.profile), "prefix": self.prefix_option}
            async with S3Adapter("store", options) as adapter:
                adapter.capability = without_acls(adapter)
                await adapter.prepare()
                yield adapter

    def place(self, key: str) -> str:
        forbidden = PROFILES[self.profile].forbidden_names
        return self.prefix_option + (key if forbidden is None else NameEncoding(forbidden).encode(key))

    async def raw_put(self, key: str, data: bytes) -> None:
        self.server.put(BUCKET, self.place(key), data)

    async def raw_get(self, key: str) -> bytes | None:
        stored = self.server.buckets[BUCKET].get(self.place(key))
        return None if stored is None else stored.data


class TestWalrus(OldConformance):
    profile = "walrus"
    quirks = replace(WALRUS, page=10)


@pytest.mark.slow
class TestCumulus(OldConformance):
    profile = "cumulus"
    quirks = CUMULUS
    prefix_option = "our/share/"


@pytest.mark.slow
class TestFirstDecade(OldConformance):
    """What signature and listing of the old version change, on a service that knows parts."""

    profile = "hosteurope"
    quirks = replace(FIRST_DECADE, page=10)
    only = frozenset(
        {
            "copy_object",
            "delete_object",
            "list_in_order",
            "list_many",
            "list_one_level",
            "names_survive",
            "read_if_match",
            "read_ranges",
            "write_keeps_metadata",
            "write_small_objects",
            "write_unknown_size",
        }
    )


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens adapters that are closed in the end."""
    async with AsyncExitStack() as stack:

        def open_adapter(server: OldS3, profile: str, **changes: str | int | bool) -> S3Adapter:
            adapter = S3Adapter("store", {**server.options(BUCKET, profile), **changes})
            stack.push_async_callback(adapter.aclose)
            return adapter

        yield open_adapter


@pytest.fixture
async def walrus() -> AsyncIterator[OldS3]:
    async with old_s3(WALRUS) as server:
        server.buckets[BUCKET] = {}
        yield server


@pytest.fixture
async def cumulus() -> AsyncIterator[OldS3]:
    async with old_s3(CUMULUS) as server:
        server.buckets[BUCKET] = {}
        yield server


async def put(adapter: Adapter, key: str, data: bytes) -> None:
    await adapter.write(key, data, size=len(data), modified=MODIFIED)


async def put_large(adapter: Adapter, key: str = "large") -> None:
    await adapter.write(key, stream(LARGE), size=len(LARGE), modified=MODIFIED)


async def keys_of(adapter: Adapter, recursive: bool = False) -> list[str]:
    return [info.key async for page in adapter.list("", recursive=recursive) for info in page.objects]


def test_the_command_line_offers_every_profile() -> None:
    assert registry.find_kind("s3").option("profile").choices == tuple(PROFILES)


# ---------------------------------------------------------------------- signatures


def test_signatures_are_checked_as_amazon_documents_them() -> None:
    """Examples of the documentation of signature version 2."""
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    get = SignedCall.of("GET", "/johnsmith/photos/puppy.jpg", {})
    assert signature_2(get, "Tue, 27 Mar 2007 19:36:42 +0000", secret) == "bWq2s1WEIj+Ydj0vQ697zp+IXMU="
    store = SignedCall.of("PUT", "/johnsmith/photos/puppy.jpg", {"Content-Type": "image/jpeg"})
    assert signature_2(store, "Tue, 27 Mar 2007 21:15:45 +0000", secret) == "MyyxeRY7whkBe+bq8fHCL/2kKUg="
    listing = SignedCall.of("GET", "/johnsmith/?prefix=photos&max-keys=50&marker=puppy", {})
    assert signature_2(listing, "Tue, 27 Mar 2007 19:42:41 +0000", secret) == "htDYFYduRNen8P9ZfE/s9SuKy0U="
    acl = SignedCall.of("GET", "/johnsmith/?acl", {})
    assert signature_2(acl, "Tue, 27 Mar 2007 19:44:46 +0000", secret) == "c2WLPFtWHVgbEmeEG93a4cG37dM="


@pytest.mark.parametrize(
    ("profile", "quirks", "refusal"),
    [
        ("walrus", WALRUS, PermissionDenied),
        ("cumulus", CUMULUS, PermissionDenied),
        ("connectria", FIRST_DECADE, Unauthenticated),
    ],
)
@pytest.mark.parametrize("changes", [{"secret_key": "not-the-secret"}, {"access_key": "nobody-knows"}])
async def test_wrong_keys_are_refused(
    profile: str, quirks: Quirks, refusal: type[CdirError], changes: dict[str, str], opened: Open
) -> None:
    async with old_s3(quirks) as server:
        await opened(server, profile).prepare()
        server.put(BUCKET, "object", b"old")
        adapter = opened(server, profile, **changes)
        attempts: Attempts = (
            adapter.check,
            lambda: adapter.fetch("object"),
            lambda: anext(adapter.list("")),
            lambda: put(adapter, "object", b"new"),
            lambda: put_large(adapter, "object"),
            lambda: adapter.delete("object"),
        )
        for attempt in attempts:
            with pytest.raises(refusal) as caught:
                await attempt()
            assert "not-the-secret" not in caught.value.message
        for key in ("object", "missing"):
            with pytest.raises(PermissionDenied):  # the answer to HEAD has no body to say more
                await adapter.stat(key)
        assert {key: stored.data for key, stored in server.buckets[BUCKET].items()} == {"object": b"old"}


async def test_version_4_is_refused_where_it_came_later(opened: Open) -> None:
    async with old_s3(FIRST_DECADE) as server:
        await opened(server, "generic", signature="v2").prepare()
        with pytest.raises(PermissionDenied):
            await opened(server, "hosteurope", signature="v4").check()
        await opened(server, "hosteurope").check()


@pytest.mark.parametrize(
    ("profile", "signature", "ways"),
    [("walrus", "v2", {"v2"}), ("generic", "v2", {"v2"}), ("generic", "v4", {"v4", "v4-query"})],
)
async def test_path_of_the_endpoint_is_signed(profile: str, signature: str, ways: set[str], opened: Open) -> None:
    quirks = WALRUS if profile == "walrus" else Quirks(base_path="/services/objectstorage")
    async with old_s3(quirks) as server:
        adapter = opened(server, profile, signature=signature)
        await adapter.prepare()
        await put(adapter, "folder/ö b", b"content")
        await put_large(adapter)
        assert (await adapter.fetch("folder/ö b")).data == b"content"
        async with adapter.read("large") as body:
            assert b"".join([piece async for piece in body]) == LARGE
        await adapter.copy("folder/ö b", "copied")
        await adapter.delete("folder/ö b")
        assert await keys_of(adapter, recursive=True) == ["copied", "large"]
        assert {version_of(call) for call in server.calls} == ways
        assert all(call.path.startswith(f"{quirks.base_path}/{BUCKET}") for call in server.calls)


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint": "http://localhost/services/Walrus", "path_style": False},
        {"endpoint": "http://localhost/services/Walrus?x=1"},
    ],
)
def test_endpoints_that_cannot_be(options: dict[str, str | bool]) -> None:
    with pytest.raises(ConfigInvalid):
        S3Adapter("store", {"bucket": "b", "profile": "walrus", **options})


async def test_what_a_proxy_changes_is_not_signed(opened: Open) -> None:
    """Google's servers change Accept-Encoding before they check the signature, and know no x-id."""
    async with old_s3(Quirks()) as server:
        adapter = opened(server, "gcs")
        await adapter.prepare()
        await put(adapter, "object", b"content")
        await put_large(adapter)
        await adapter.fetch("object")
        await adapter.stat("object")
        await adapter.copy("object", "copied")
        await keys_of(adapter)
        await adapter.delete("object")
        for call in server.calls:
            text = call.headers.get("authorization", "") + (call.parameter("X-Amz-SignedHeaders") or "")
            assert "accept-encoding" not in text
            assert call.parameter("x-id") is None


@pytest.mark.parametrize(("profile", "signature"), [("walrus", "v2"), ("hosteurope", "v2"), ("generic", "v4")])
async def test_another_host_is_neither_believed_nor_shown_credentials(
    profile: str, signature: str, opened: Open
) -> None:
    quirks = WALRUS if profile == "walrus" else Quirks()
    async with serving(lambda request: web.Response()) as (elsewhere, asked), old_s3(quirks) as server:
        adapter = opened(server, profile, signature=signature)
        await adapter.prepare()
        server.redirect_to = elsewhere
        attempts: Attempts = (
            lambda: put_large(adapter),
            lambda: adapter.stat("object"),
            lambda: anext(adapter.list("")),
            lambda: adapter.fetch("object", range=ByteRange(0, MIB)),
        )
        for attempt in attempts:
            with pytest.raises(ConfigInvalid, match="served elsewhere"):
                await attempt()
        for request in asked:
            assert "Authorization" not in request.headers
            assert "signature" not in request.raw_path.lower()


# ---------------------------------------------------------------------- listings


@pytest.mark.parametrize("ghost", ["", "None"])
async def test_entry_without_an_object_is_not_shown(ghost: str, walrus: OldS3, opened: Open) -> None:
    walrus.quirks = replace(WALRUS, ghost=ghost)
    adapter = opened(walrus, "walrus")
    assert await keys_of(adapter, recursive=True) == []
    for key in ("Nobody", "folder/None", "folder/object"):
        walrus.put(BUCKET, key, b"x")
    assert await keys_of(adapter) == ["Nobody", "folder"]
    assert await keys_of(adapter, recursive=True) == ["Nobody", "folder/None", "folder/object"]
    assert [info.key async for page in adapter.list("folder") for info in page.objects] == [
        "folder/None",
        "folder/object",
    ]
    for key in await keys_of(adapter, recursive=True):
        await adapter.delete(key)
    deleted = [
        call.path.removeprefix(f"{WALRUS.base_path}/{BUCKET}/") for call in walrus.calls if call.method == "DELETE"
    ]
    assert deleted == ["Nobody", "folder/None", "folder/object"]
    assert await keys_of(adapter) == []


async def test_object_with_the_name_of_a_ghost_is_an_object(walrus: OldS3, opened: Open) -> None:
    walrus.quirks = replace(WALRUS, ghost="None")
    adapter = opened(walrus, "walrus")
    await put(adapter, "None", b"real")
    assert await keys_of(adapter) == ["None"]
    await adapter.delete("None")
    assert await keys_of(adapter) == []


@pytest.mark.parametrize("recursive", [True, False])
async def test_listing_that_cannot_be_cut_is_whole(recursive: bool, cumulus: OldS3, opened: Open) -> None:
    for number in range(1500):
        cumulus.put(BUCKET, f"o_r/{number:04}", b"x")
    cumulus.put(BUCKET, "o_r/folder/x", b"x")
    for stranger in ("oar/x", "O_R/x", "o_rx"):
        cumulus.put(BUCKET, stranger, b"x")
    adapter = opened(cumulus, "cumulus", prefix="o_r")
    pages = [page async for page in adapter.list("", recursive=recursive)]
    found = [info.key for page in pages for info in page.objects]
    assert found == [*(f"{number:04}" for number in range(1500)), "folder/x" if recursive else "folder"]
    assert max(len(page.objects) for page in pages) <= 1000
    rest = [info.key async for page in adapter.list("", recursive=True, start_after="1498") for info in page.objects]
    assert rest == ["1499", "folder/x"]
    assert all(call.parameter("max-keys") is None for call in cumulus.calls)


async def test_pages_that_do_not_go_on_are_an_error(walrus: OldS3, opened: Open) -> None:
    """A service that ignores the marker would be asked for ever."""
    answer = (
        "<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>a</Key><Size>1</Size></Contents>"
        "</ListBucketResult>"
    )
    async with serving(lambda request: web.Response(text=answer, content_type="application/xml")) as (endpoint, asked):
        adapter = opened(walrus, "walrus", endpoint=endpoint)
        with pytest.raises(ProviderUnavailable, match="broke off"):
            await keys_of(adapter)
        assert len(asked) == 2


# ---------------------------------------------------------------------- large objects in one request


@pytest.mark.parametrize("profile", ["walrus", "cumulus"])
async def test_large_object_goes_in_one_request(profile: str, opened: Open) -> None:
    async with old_s3({"walrus": WALRUS, "cumulus": CUMULUS}[profile]) as server:
        adapter = opened(server, profile)
        await adapter.prepare()
        await put(adapter, "large", b"old")
        server.calls.clear()
        written = await adapter.write(
            "large", stream(LARGE), size=len(LARGE), modified=MODIFIED, metadata={"cdir-version": "1"}
        )
        puts = [call for call in server.calls if call.method in {"PUT", "POST"}]
        assert [call.headers["content-length"] for call in puts] == [str(len(LARGE))]
        digest = hashlib.md5(LARGE).hexdigest()
        assert (written.size, written.checksum) == (len(LARGE), Checksum(ChecksumKind.MD5, digest))
        assert written.etag == (digest if profile == "walrus" else f'"{digest}"')
        found = await adapter.stat("large")
        assert (found.size, found.etag, found.checksum) == (written.size, written.etag, written.checksum)
        assert dict(found.metadata) == ({"cdir-version": "1"} if profile == "walrus" else {})
        assert server.buckets[BUCKET]["large"].data == LARGE
        await adapter.write("large", LARGE, size=len(LARGE), modified=MODIFIED)
        assert await adapter.sweep(0.0) == 0


async def test_unfinished_large_object_leaves_the_old_one(walrus: OldS3, opened: Open) -> None:
    adapter = opened(walrus, "walrus")
    await put(adapter, "large", b"old")
    for error in (ConnectionResetError("of the source"), NotFound("gone at the source")):
        for data in (LARGE, LARGE[: 3 * MIB], b""):
            with pytest.raises(type(error)) as caught:
                await adapter.write("large", failing(data, error), size=len(LARGE) + 1, modified=MODIFIED)
            assert caught.value is error
    for wrong in (len(LARGE) - 1, len(LARGE) + 1):
        with pytest.raises(IntegrityError):
            await adapter.write("large", stream(LARGE), size=wrong, modified=MODIFIED)
    reached = asyncio.Event()
    write = asyncio.ensure_future(
        adapter.write("large", stalling(LARGE, reached), size=len(LARGE) + 1, modified=MODIFIED)
    )
    await reached.wait()
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    assert (await adapter.fetch("large")).data == b"old"
    with pytest.raises(Unsupported):
        await adapter.write("large", stream(LARGE), size=None, modified=MODIFIED)


async def test_too_large_an_object_is_refused(walrus: OldS3, opened: Open) -> None:
    adapter = opened(walrus, "walrus")
    await put(adapter, "large", b"old")
    limit = adapter.capability.max_object_size
    assert limit == 5 * 1024**3
    walrus.calls.clear()
    with pytest.raises(InvalidPath, match=str(limit)):
        await adapter.write("large", stream(b"x"), size=limit + 1, modified=MODIFIED)
    assert not walrus.calls
    walrus.quirks = replace(WALRUS, largest=16 * MIB)
    with pytest.raises(InvalidPath, match="EntityTooLarge"):
        await put_large(adapter)
    assert (await adapter.fetch("large")).data == b"old"


async def test_refusal_does_not_wait_for_the_source(walrus: OldS3, opened: Open) -> None:
    adapter = opened(walrus, "walrus", secret_key="not-the-secret")
    reached = asyncio.Event()
    with pytest.raises(PermissionDenied):
        await adapter.write("large", stalling(LARGE[:MIB], reached), size=len(LARGE), modified=MODIFIED)


# ---------------------------------------------------------------------- what was stored


@pytest.mark.parametrize("opaque", [False, True])
async def test_other_bytes_are_noticed_and_removed(opaque: bool, walrus: OldS3, opened: Open) -> None:
    walrus.quirks = replace(WALRUS, opaque_etags=opaque)
    adapter = opened(walrus, "walrus")
    attempts: Attempts = (lambda: put(adapter, "object", b"content"), lambda: put_large(adapter, "object"))
    for attempt in attempts:
        walrus.corrupt_next = True
        with pytest.raises(IntegrityError):
            await attempt()
        assert not walrus.buckets[BUCKET]
    await put(adapter, "object", b"content")
    await put_large(adapter)
    assert ((await adapter.stat("object")).checksum is None) == opaque
    assert walrus.buckets[BUCKET]["large"].data == LARGE


@pytest.mark.parametrize("profile", ["mega_s4", "r2"])
async def test_etag_of_parts_says_nothing_where_it_is_made_otherwise(profile: str, opened: Open) -> None:
    async with old_s3(Quirks()) as server:
        adapter = opened(server, profile)
        await adapter.prepare()
        written = await adapter.write("large", stream(LARGE), size=len(LARGE), modified=MODIFIED)
        assert written.checksum is None
        assert (await adapter.stat("large")).checksum is None
        [page] = [page async for page in adapter.list("")]
        assert page.objects[0].checksum is None
        assert page.objects[0].size == len(LARGE)
        await put(adapter, "small", b"x")
        assert (await adapter.stat("small")).checksum is not None


@pytest.mark.parametrize(("profile", "uploads"), [("gcs", 0), ("generic", 3)])
async def test_large_copy(profile: str, uploads: int, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no part can be copied, the whole is one request whatever its size."""
    monkeypatch.setattr(s3_adapter, "_COPY_LIMIT", MIB)
    monkeypatch.setattr(s3_adapter, "_COPY_PART", MIB)
    async with old_s3(Quirks()) as server:
        adapter = opened(server, profile)
        await adapter.prepare()
        await put(adapter, "source", LARGE[: 3 * MIB])
        await adapter.copy("source", "target")
        assert server.buckets[BUCKET]["target"].data == LARGE[: 3 * MIB]
        assert len([call for call in server.calls if call.parameter("partNumber") is not None]) == uploads


async def test_time_in_another_form(walrus: OldS3, cumulus: OldS3, opened: Open) -> None:
    for server, known in ((walrus, True), (cumulus, False)):
        stored = server.put(BUCKET, "object", b"content")
        adapter = opened(server, "walrus" if known else "cumulus")
        wanted = stored.modified if known else None
        assert (await adapter.stat("object")).modified == wanted
        assert (await adapter.fetch("object")).info.modified == wanted
        [page] = [page async for page in adapter.list("")]
        assert page.objects[0].modified == stored.modified


# ---------------------------------------------------------------------- what is found when a provider is added


@pytest.mark.parametrize(
    ("profile", "quirks"),
    [("walrus", WALRUS), ("cumulus", CUMULUS), ("hosteurope", FIRST_DECADE), ("generic", Quirks())],
)
async def test_profile_declares_what_is_there(profile: str, quirks: Quirks, opened: Open) -> None:
    async with old_s3(replace(quirks, acl=False)) as server:
        adapter = opened(server, profile)
        await adapter.prepare()
        # nothing is made to depend on access lists, which many services refuse
        assert await probe(adapter) == without_acls(adapter)
        assert await keys_of(adapter, recursive=True) == []


@pytest.mark.parametrize("conditions", ["ignored", "refused"])
async def test_conditions_that_do_not_hold_are_found_out(conditions: str, opened: Open) -> None:
    quirks = Quirks()
    async with old_s3(quirks) as server:
        server.quirks = replace(quirks, write_conditions=conditions, read_conditions=conditions)  # type: ignore[arg-type] # one of the literals
        adapter = opened(server, "generic")
        await adapter.prepare()
        found = await probe(adapter)
        assert (found.write_if_absent, found.write_if_match, found.read_if_match) == (False, False, False)
        wanted = replace(without_acls(adapter), write_if_absent=False, write_if_match=False, read_if_match=False)
        assert found == wanted


@pytest.mark.parametrize("profile", ["walrus", "cumulus"])
async def test_missing_bucket_is_not_an_empty_one(profile: str, opened: Open) -> None:
    async with old_s3({"walrus": WALRUS, "cumulus": CUMULUS}[profile]) as server:
        adapter = opened(server, profile)
        with pytest.raises(NotFound):
            await adapter.check()
        attempts: Attempts = (
            lambda: adapter.stat("object"),
            lambda: adapter.delete("object"),
            lambda: put(adapter, "object", b"x"),
            lambda: put_large(adapter),
            lambda: adapter.copy("object", "other"),
            lambda: anext(adapter.list("")),
        )
        for attempt in attempts:
            with pytest.raises(ProviderUnavailable, match="gone"):
                await attempt()
        for _ in range(2):
            await adapter.prepare()
        await adapter.check()
        before = datetime.now(UTC)
        await put(adapter, "object", b"x")
        assert server.buckets[BUCKET]["object"].modified >= before.replace(microsecond=0)
