import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any
from xml.sax.saxutils import escape

import pytest
import pytest_asyncio
from aiohttp import web
from yarl import URL

from cdir.errors import (
    CdirError,
    ConfigInvalid,
    IntegrityError,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    Retry,
    Unauthenticated,
    Unsupported,
)
from cdir_adapters.adapter import FULL, ByteRange, Checksum, ObjectInfo, WriteMode
from cdir_adapters.capability import ChecksumKind
from cdir_adapters.layers.retry import RetryAdapter, RetrySettings
from cdir_adapters.providers.azure import AzureAdapter, blocks, connections, listing
from cdir_adapters.providers.azure import adapter as azure_adapter
from cdir_adapters.testing.trial import MIB, MODIFIED, pattern, stream
from servers import azurite as azurite_module
from servers.azurite import AzuriteServer, azurite_server
from servers.faulty_http import FAULTS, Answer, Fault, FaultyHttp, Request, bursting, faulty_http, on
from servers.faulty_http import refusing as refusing_in_body
from servers.faulty_proxy import faulty_proxy
from servers.requirement import require

pytestmark = pytest.mark.slow

Open = Callable[..., AzureAdapter]

LARGE = pattern(25 * MIB + 3)
"""More than one request takes: three blocks and a rest."""

MEDIUM = pattern(2 * MIB + 5)
"""Takes several of them."""


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


async def put(adapter: AzureAdapter, key: str, data: bytes, **options: Any) -> ObjectInfo:
    return await adapter.write(key, data, size=len(data), modified=MODIFIED, **options)


async def keys_of(adapter: AzureAdapter, **options: Any) -> list[str]:
    return [info.key async for page in adapter.list("", **{"recursive": True, **options}) for info in page.objects]


def md5_of(data: bytes) -> Checksum:
    return Checksum(ChecksumKind.MD5, hashlib.md5(data, usedforsecurity=False).hexdigest())


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy takes requests whole, and its own client warns of large ones."""
    monkeypatch.setattr(azure_adapter, "_BLOCKS_ABOVE", MIB // 2)
    monkeypatch.setattr(blocks, "MIN_BLOCK", MIB // 2)


def lists(request: Request) -> bool:
    return "comp=list" in request.target


def sends_block(request: Request) -> bool:
    return request.method == "PUT" and "comp=block&" in request.target


def puts(request: Request) -> bool:
    return request.method == "PUT" and "comp=" not in request.target and "restype=" not in request.target


def gets(request: Request) -> bool:
    return request.method == "GET" and not lists(request) and "comp=" not in request.target


def refusing(status: int, code: str, **headers: str) -> Fault:
    """The service says the code in a header too, which is all there is in the answer to a HEAD."""
    return refusing_in_body(status, code, x_ms_error_code=code, **headers)


def after(count: int, which: Callable[[Request], bool], fault: Fault) -> Fault:
    """Let so many of some requests pass before they meet the fault."""
    passed = 0

    async def choose(request: Request) -> Answer | web.StreamResponse:
        nonlocal passed
        if not which(request) or passed < count:
            passed += which(request)
            return await request.forward()
        return await fault(request)

    return choose


@pytest.fixture
async def proxied(
    azurite: AzuriteServer, container: str, opened: Open, small_blocks: None
) -> AsyncIterator[tuple[AzureAdapter, FaultyHttp]]:
    """An adapter behind a proxy that understands HTTP; one object lies there."""
    async with faulty_http(azurite.port) as proxy:
        adapter = opened(azurite.options(container), endpoint=azurite.endpoint_at(proxy.port))
        await adapter.prepare()
        await put(adapter, "object", b"the old one")
        yield adapter, proxy


def once(fault: Fault) -> Fault:
    """Only the first request meets the fault."""
    met = False

    async def choose(request: Request) -> Answer | web.StreamResponse:
        nonlocal met
        if met:
            return await request.forward()
        met = True
        return await fault(request)

    return choose


def page_of(*names: str, marker: str = "", extra: str = "") -> bytes:
    blobs = "".join(
        f"<Blob><Name>{escape(name)}</Name><Properties><Last-Modified>Sat, 03 Feb 2001 04:05:07 GMT</Last-Modified>"
        "<Etag>0x1</Etag><Content-Length>3</Content-Length><BlobType>BlockBlob</BlobType></Properties><Metadata>"
        f"{extra}</Metadata></Blob>"
        for name in names
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="http://x/" ContainerName="c">'
        f"<Prefix></Prefix><Blobs>{blobs}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"
    ).encode()


def answering(*bodies: bytes) -> Fault:
    """Give these pages in turn, the last one again and again."""
    left = list(bodies)

    async def answer(_: Request) -> Answer:
        body = left.pop(0) if len(left) > 1 else left[0]
        return Answer(200, {"Content-Type": "application/xml"}, body)

    return on(lists, answer)


async def test_large_objects_are_copied_in_blocks(
    azurite: AzuriteServer,
    proxied: tuple[AzureAdapter, FaultyHttp],
    container: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The emulator does not take blocks from a URL, so the proxy does that in its place."""
    adapter, proxy = proxied
    monkeypatch.setattr(azure_adapter, "_COPY_LIMIT", MIB)
    monkeypatch.setattr(azure_adapter, "_COPY_BLOCK", 700_000)
    taken = []

    async def take_from_url(request: Request) -> Answer:
        headers = {name.lower(): value for name, value in request.headers.items()}
        source = headers.pop("x-ms-copy-source", None)
        if source is None or not sends_block(request):
            return await request.forward()
        assert source.startswith(azurite.endpoint_at(proxy.port))
        given = headers.pop("x-ms-source-range")
        target = URL(source, encoded=True).raw_path_qs
        conditions = {"Range": given, "If-Match": headers.pop("x-ms-source-if-match")}
        got = await replace(request, method="GET", target=target, headers=conditions, body=b"").forward()
        if got.status != 206:
            return got
        taken.append(given)
        headers["content-length"] = str(len(got.body))
        return await replace(request, headers=headers, body=got.body).forward()

    before = await put(adapter, "source", MEDIUM, metadata={"cdir-version": "1"})
    proxy.break_by(take_from_url)
    copied = await adapter.copy("source", "target")
    assert len(taken) == 3
    assert (copied.size, copied.modified, copied.metadata["cdir-version"]) == (before.size, MODIFIED, "1")
    assert copied.checksum == before.checksum
    assert (await adapter.fetch("target")).data == MEDIUM
    proxy.break_by(on(sends_block, refusing(412, "SourceConditionNotMet")))
    with pytest.raises(PreconditionFailed):
        await adapter.copy("source", "object")
    assert (await adapter.fetch("object")).data == b"the old one"


async def test_copy_that_is_lost(proxied: tuple[AzureAdapter, FaultyHttp]) -> None:
    adapter, proxy = proxied

    async def pretend(_: Request) -> Answer:
        return Answer(202, {"x-ms-copy-status": "success", "ETag": '"0x1"'})

    proxy.break_by(on(puts, pretend))
    with pytest.raises(IntegrityError):
        await adapter.copy("object", "target")


@pytest.mark.parametrize(
    ("status", "code", "expected", "retry"),
    [
        (429, "TooManyRequests", RateLimited, Retry.LATER),
        (503, "ServerBusy", RateLimited, Retry.LATER),
        (500, "InternalError", ProviderUnavailable, Retry.LATER),
        (500, "OperationTimedOut", ProviderUnavailable, Retry.LATER),
        (502, "", ProviderUnavailable, Retry.LATER),
        (404, "", ProviderUnavailable, Retry.LATER),
        (404, "ResourceNotFound", ProviderUnavailable, Retry.LATER),
        (401, "NoAuthenticationInformation", Unauthenticated, Retry.NEVER),
        (403, "AuthenticationFailed", Unauthenticated, Retry.NEVER),
        (403, "AuthorizationPermissionMismatch", PermissionDenied, Retry.NEVER),
        (507, "", QuotaExceeded, Retry.NEVER),
        (302, "", ConfigInvalid, Retry.NEVER),
    ],
)
async def test_every_call_says_what_the_service_said(
    proxied: tuple[AzureAdapter, FaultyHttp], status: int, code: str, expected: type[CdirError], retry: Retry
) -> None:
    adapter, proxy = proxied
    proxy.break_by(refusing(status, code, Retry_After="7"))
    medium = MEDIUM
    for attempt in (
        adapter.check(),
        adapter.prepare(),
        adapter.stat("object"),
        adapter.fetch("object"),
        adapter.fetch("object", range=ByteRange(0, 0)),
        put(adapter, "object", b"new"),
        adapter.write("object", stream(medium), size=len(medium), modified=MODIFIED),
        adapter.delete("object"),
        adapter.copy("object", "other"),
        anext(adapter.list("")),
    ):
        with pytest.raises(expected) as caught:
            await attempt
        assert caught.value.retry is retry
        assert caught.value.retry_after == (7.0 if retry is Retry.LATER else None)
        assert "\n" not in caught.value.message
        assert "sig=" not in caught.value.message
    await proxy.heal()
    assert (await adapter.fetch("object")).data == b"the old one"
    assert await keys_of(adapter) == ["object"]


async def test_bursts_of_errors_are_ridden_out_by_the_layer_that_retries(
    proxied: tuple[AzureAdapter, FaultyHttp],
) -> None:
    adapter, proxy = proxied
    for fault in (refusing(503, "ServerBusy"), refusing(500, "InternalError"), FAULTS["reset"]):
        retrying = RetryAdapter(adapter, RetrySettings(attempts=8, first_delay=0.001))
        proxy.break_by(bursting(3, fault))
        await retrying.write("object", b"new", size=3, modified=MODIFIED)
        assert (await retrying.fetch("object")).data == b"new"
        assert [info.key async for page in retrying.list("") for info in page.objects] == ["object"]
        await retrying.delete("object")
        await proxy.heal()
        assert await keys_of(adapter) == []


async def test_nothing_is_tried_twice_here(proxied: tuple[AzureAdapter, FaultyHttp]) -> None:
    """Retrying is the matter of one layer; the library's own is off."""
    adapter, proxy = proxied
    await adapter.check()
    attempts: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: adapter.stat("object"),
        lambda: adapter.check(),
        lambda: adapter.fetch("object"),
        lambda: adapter.delete("missing"),
    )
    for fault in (refusing(500, "InternalError"), refusing(503, "ServerBusy"), FAULTS["half-close"]):
        for attempt in attempts:
            proxy.break_by(fault)
            with suppress(ProviderUnavailable, RateLimited):
                await attempt()
            assert proxy.met == 1
    await proxy.heal()


async def test_endless_body_of_an_error(proxied: tuple[AzureAdapter, FaultyHttp]) -> None:
    adapter, proxy = proxied
    sent = 0

    async def endless(request: Request) -> web.StreamResponse:
        nonlocal sent
        sent = 0
        response = web.StreamResponse(status=500, headers={"Content-Type": "application/xml"})
        await response.prepare(request.incoming)
        with suppress(ConnectionError):
            while True:
                await response.write(b"<Error>" + b"x" * 65_536)
                sent += 65_536
        return response

    proxy.break_by(endless)
    for attempt in (adapter.check(), adapter.fetch("object"), put(adapter, "object", b"new")):
        with pytest.raises(ProviderUnavailable):
            await asyncio.wait_for(attempt, 30)
        assert sent < 32 * MIB


async def test_broken_connections(azurite: AzuriteServer, container: str, opened: Open) -> None:
    data = pattern(3 * MIB)
    large = LARGE[: 17 * MIB]
    async with faulty_proxy(azurite.port) as proxy:
        adapter = opened(azurite.options(container), endpoint=azurite.endpoint_at(proxy.port))
        await adapter.prepare()
        await put(adapter, "object", data)
        for reset in (False, True):
            proxy.reset = reset
            for range in (FULL, ByteRange(MIB, MIB)):
                proxy.cut_answer_after = MIB // 2
                with pytest.raises(ProviderUnavailable):
                    await adapter.fetch("object", range=range)
            proxy.cut_answer_after = None
            proxy.cut_request_after = MIB
            with pytest.raises(ProviderUnavailable):
                await put(adapter, "object", pattern(2 * MIB, 1))
            proxy.cut_request_after = 10 * MIB
            with pytest.raises(ProviderUnavailable):
                await adapter.write("object", stream(large), size=len(large), modified=MODIFIED)
            proxy.heal()
            assert (await adapter.fetch("object")).data == data
        assert await keys_of(adapter) == ["object"]


async def test_bytes_changed_on_the_way(azurite: AzuriteServer, container: str, opened: Open) -> None:
    large = LARGE[: 17 * MIB]
    async with faulty_proxy(azurite.port) as proxy:
        adapter = opened(azurite.options(container), endpoint=azurite.endpoint_at(proxy.port))
        await adapter.prepare()
        await put(adapter, "object", b"old")
        stored = b"old"
        for flipped, data in ((10 * MIB, large), (MIB, large[: 2 * MIB])):
            proxy.corrupt_request_at = flipped
            try:
                await adapter.write("object", stream(data), size=len(data), modified=MODIFIED)
            except IntegrityError:
                pass
            else:
                stored = data  # when the refusal ends the connection, aiohttp may send the request once more
            assert (await adapter.fetch("object")).data == stored


async def test_body_that_ends_early(proxied: tuple[AzureAdapter, FaultyHttp]) -> None:
    adapter, proxy = proxied
    proxy.break_by(on(gets, FAULTS["half-close"]))
    with pytest.raises((IntegrityError, ProviderUnavailable)):
        await adapter.fetch("object")
    await proxy.heal()
    await put(adapter, "object", pattern(3000))
    proxy.break_by(on(gets, FAULTS["truncated body"]))
    with pytest.raises(ProviderUnavailable):  # less than the range that was asked for
        await adapter.fetch("object", range=ByteRange(10, 1000))


async def test_other_range_than_asked_for(proxied: tuple[AzureAdapter, FaultyHttp]) -> None:
    adapter, proxy = proxied

    def shifted(**changes: str) -> Fault:
        async def answer(request: Request) -> Answer:
            got = await request.forward()
            headers = {name: value for name, value in got.headers.items() if name.lower() != "content-range"}
            return replace(got, headers={**headers, **changes})

        return on(gets, answer)

    for wrong in ("bytes 1-3/11", "bytes 2-5/11", "bytes */11", "items 2-4/11"):
        proxy.break_by(shifted(**{"Content-Range": wrong}))
        with pytest.raises(ProviderUnavailable):
            await adapter.fetch("object", range=ByteRange(2, 3))
    proxy.break_by(shifted(**{"Last-Modified": "yesterday"}))
    with pytest.raises(ProviderUnavailable):
        await adapter.fetch("object")


async def test_write_that_is_lost(proxied: tuple[AzureAdapter, FaultyHttp]) -> None:
    """The service says that it stored an object, and did not."""
    adapter, proxy = proxied
    small, large = b"the new one, larger", MEDIUM

    async def pretend(_: Request) -> Answer:
        return Answer(201, {"ETag": '"0x1"'})

    for which in (puts, lambda request: "comp=blocklist" in request.target):
        proxy.break_by(on(which, pretend))
        for key in ("object", "new"):
            with pytest.raises(IntegrityError):
                await put(adapter, key, small if which is puts else large)
    await proxy.heal()
    assert (await adapter.fetch("object")).data == b"the old one"
    assert await keys_of(adapter) == ["object"]


async def test_write_that_stored_something_else(proxied: tuple[AzureAdapter, FaultyHttp]) -> None:
    """What was stored is removed when it is not what was sent."""
    adapter, proxy = proxied

    async def shorten(request: Request) -> Answer:
        dropped = ("content-md5", "x-ms-blob-content-md5", "content-length")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in dropped}
        return await replace(request, headers=headers, body=request.body[:-1]).forward()

    proxy.break_by(on(puts, shorten))
    with pytest.raises(IntegrityError):
        await put(adapter, "object", b"the new one, larger")
    await proxy.heal()
    assert await keys_of(adapter) == []


@pytest.mark.parametrize("fault", ["error but applied", "applied, not answered"])
async def test_write_that_failed_and_is_there(proxied: tuple[AzureAdapter, FaultyHttp], fault: str) -> None:
    adapter, proxy = proxied
    retrying = RetryAdapter(adapter, RetrySettings(first_delay=0.001))
    proxy.break_by(after(0, puts, once(FAULTS[fault])))
    written = await retrying.write("new", b"new", size=3, modified=MODIFIED, mode=WriteMode.CREATE)
    assert (written.size, (await adapter.fetch("new")).data) == (3, b"new")
    proxy.break_by(once(FAULTS[fault]))
    await retrying.delete("new")
    await proxy.heal()
    assert await keys_of(adapter) == ["object"]


async def test_large_write_that_is_not_answered(proxied: tuple[AzureAdapter, FaultyHttp]) -> None:
    """A condition that our own first request broke must not be reported as broken by somebody else."""
    adapter, proxy = proxied
    proxy.break_by(on(lambda request: "comp=blocklist" in request.target, FAULTS["applied, not answered"]))
    with pytest.raises(ProviderUnavailable):
        await adapter.write("new", stream(MEDIUM), size=len(MEDIUM), modified=MODIFIED, mode=WriteMode.CREATE)
    await proxy.heal()
    assert (await adapter.stat("new")).checksum == md5_of(MEDIUM)


async def test_credentials_that_end_in_the_middle(proxied: tuple[AzureAdapter, FaultyHttp]) -> None:
    adapter, proxy = proxied
    proxy.break_by(after(2, sends_block, refusing(403, "AuthenticationFailed")))
    with pytest.raises(Unauthenticated):
        await adapter.write("object", stream(MEDIUM), size=len(MEDIUM), modified=MODIFIED)
    proxy.break_by(on(lambda request: "comp=blocklist" in request.target, refusing(403, "AuthenticationFailed")))
    with pytest.raises(Unauthenticated):
        await adapter.write("object", stream(MEDIUM), size=len(MEDIUM), modified=MODIFIED)
    await proxy.heal()
    assert (await adapter.fetch("object")).data == b"the old one"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed(
    azurite: AzuriteServer, proxied: tuple[AzureAdapter, FaultyHttp], status: int
) -> None:
    adapter, proxy = proxied
    async with faulty_http(azurite.port) as elsewhere:

        async def redirect(request: Request) -> Answer:
            return Answer(status, {"Location": f"{elsewhere.endpoint}{request.target}"})

        proxy.break_by(redirect)
        elsewhere.break_by(refusing(500, "InternalError"))
        for attempt in (
            adapter.check(),
            adapter.stat("object"),
            adapter.fetch("object"),
            put(adapter, "object", b"x"),
            adapter.delete("object"),
            adapter.copy("object", "other"),
        ):
            with pytest.raises(ConfigInvalid, match="elsewhere"):
                await attempt
        assert elsewhere.met == 0


async def test_listing_leaves_out_what_has_no_name_here(
    proxied: tuple[AzureAdapter, FaultyHttp], azurite: AzuriteServer, container: str, opened: Open
) -> None:
    adapter, proxy = proxied
    proxy.break_by(
        answering(page_of("../x", "/etc/passwd", "a/../b", "a//b", "http://evil/x", "folder/", "good", "good"))
    )
    assert await keys_of(adapter) == ["good"]
    await proxy.heal()
    ours = opened(azurite.options(container), prefix="ours")
    async with azurite.client(container) as client:
        for name in ("ours/", "ours/folder/", "ours//x", "ours/folder/file", "ours/file", "oursother"):
            await client.upload_blob(name, b"")
    assert await keys_of(ours) == ["file", "folder/file"]
    assert await keys_of(ours, recursive=False) == ["file", "folder"]


@pytest.mark.parametrize(
    "pages",
    [
        [page_of("b", marker="1"), page_of("a")],
        [page_of("b", marker="1"), page_of("b")],
        [page_of(marker="1")],
        [page_of("a", marker="1"), page_of("b", marker="1")],
        [page_of("a", marker="1"), page_of("b")[:-40]],
        [page_of("a")[:200]],
        [b"<EnumerationResults/>"],
        [b"<html>sign in here</html>"],
        [b'{"blobs": []}'],
        [b""],
        [page_of("a").replace(b"<Content-Length>3", b"<Content-Length>three")],
    ],
)
async def test_listing_that_cannot_be_is_an_error(proxied: tuple[AzureAdapter, FaultyHttp], pages: list[bytes]) -> None:
    adapter, proxy = proxied
    proxy.break_by(answering(*pages))
    with pytest.raises(ProviderUnavailable):
        await asyncio.wait_for(keys_of(adapter), 30)


async def test_endless_page(proxied: tuple[AzureAdapter, FaultyHttp], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LONGEST_ANSWER", MIB)
    adapter, proxy = proxied
    proxy.break_by(answering(page_of("a", extra=" " * (4 * MIB))))
    with pytest.raises(ProviderUnavailable):
        await keys_of(adapter)


async def test_token_that_may_not_ask_what_the_account_is(proxied: tuple[AzureAdapter, FaultyHttp]) -> None:
    adapter, proxy = proxied
    proxy.break_by(on(lambda request: "restype=account" in request.target, refusing(403, "AuthorizationFailure")))
    assert await keys_of(adapter, start_after="a") == ["object"]


async def test_listing_of_what_was_not_asked_for(azurite: AzuriteServer, container: str, opened: Open) -> None:
    async with faulty_http(azurite.port) as proxy:
        adapter = opened(azurite.options(container), endpoint=azurite.endpoint_at(proxy.port), prefix="ours")
        await adapter.prepare()
        proxy.break_by(answering(page_of("ours/a", "theirs/b")))
        with pytest.raises(ProviderUnavailable):
            await keys_of(adapter)


async def test_listing_that_fails_at_its_second_page(
    proxied: tuple[AzureAdapter, FaultyHttp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE_SIZE", 1)
    adapter, proxy = proxied
    await put(adapter, "other", b"x")
    proxy.break_by(after(1, lists, refusing(500, "InternalError")))
    pages = adapter.list("")
    assert len((await anext(pages)).objects) == 1
    with pytest.raises(ProviderUnavailable):
        await anext(pages)


async def test_account_with_real_directories(proxied: tuple[AzureAdapter, FaultyHttp]) -> None:
    """Such an account lists directories as blobs, and walks them one by one instead of in the order of names."""
    proxy = proxied[1]
    folder = {
        "x-ms-meta-hdi_isfolder": "true",
        "Last-Modified": "Sat, 03 Feb 2001 04:05:07 GMT",
        "ETag": '"0x1"',
        "Content-Length": "0",
    }

    async def answer(request: Request) -> Answer:
        if "restype=account" in request.target:
            return Answer(200, {"x-ms-is-hns-enabled": "true", "x-ms-sku-name": "Standard_LRS"})
        if lists(request):
            body = page_of("a/b", "a.txt").replace(
                b"<Blobs>",
                page_of("a", extra="<Hdi_isfolder>true</Hdi_isfolder>").split(b"<Blobs>")[1].join((b"<Blobs>", b"")),
            )
            body = body.replace(b"</Blobs><NextMarker></NextMarker></EnumerationResults>", b"", 1)
            return Answer(200, {"Content-Type": "application/xml"}, body)
        return Answer(200, folder)

    proxy.break_by(answer)
    fresh = AzureAdapter("store", {"container": "con", "account": "acc", "key": "a2V5", "endpoint": proxy.endpoint})
    async with fresh:
        assert sorted(await keys_of(fresh)) == ["a.txt", "a/b"]
        with pytest.raises(Unsupported):
            await keys_of(fresh, start_after="a")
        for attempt in (fresh.stat("a"), fresh.fetch("a"), fresh.fetch("a", range=ByteRange(0, 0))):
            with pytest.raises(NotFound):
                await attempt
        await fresh.prepare()
        assert not fresh.capability.list_ordered
