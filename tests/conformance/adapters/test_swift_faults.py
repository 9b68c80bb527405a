import asyncio
import dataclasses
import json
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from cdir.errors import (
    CdirError,
    ConfigInvalid,
    IntegrityError,
    InvalidArgument,
    PermissionDenied,
    ProviderUnavailable,
    RateLimited,
    Retry,
    Unauthenticated,
)
from cdir_adapters.adapter import ByteRange
from cdir_adapters.layers.retry import RetryAdapter, RetrySettings
from cdir_adapters.providers.swift import SwiftAdapter, upload
from cdir_adapters.providers.swift import adapter as swift_adapter
from cdir_adapters.testing.trial import MODIFIED, pattern, stream
from servers import swift_cluster
from servers.certificates import self_signed
from servers.faulty_http import FAULTS, Answer, Fault, FaultyHttp, Request, faulty_http, on, refusing
from servers.faulty_proxy import FaultyProxy, faulty_proxy
from servers.keystone_v3 import KeystoneV3, keystone_v3
from servers.process import free_port
from servers.requirement import require
from servers.swift_cluster import RawSwift, SwiftCluster

pytestmark = pytest.mark.slow

Open = Callable[..., SwiftAdapter]

KIB = 1024
LARGE = pattern(220 * KIB + 3)
"""Three of the small segments, and a rest."""


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
async def proxy(swift: SwiftCluster) -> AsyncIterator[FaultyHttp]:
    async with faulty_http(swift.port) as running:
        yield running


@pytest.fixture
async def faulty(proxy: FaultyHttp, opened: Open) -> SwiftAdapter:
    """A prepared adapter behind ``proxy``, to which the sign-in sends it too."""
    adapter = opened(auth_url=f"{proxy.endpoint}/auth/v1.0")
    await adapter.prepare()
    return adapter


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 64 KiB."""
    for module in (upload, swift_adapter):
        monkeypatch.setattr(module, "SEGMENT_SIZE", 64 * KIB)


async def put(adapter: SwiftAdapter, key: str, data: bytes) -> None:
    await adapter.write(key, data, size=len(data), modified=MODIFIED)


async def put_large(adapter: SwiftAdapter, key: str, data: bytes) -> None:
    await adapter.write(key, stream(data), size=len(data), modified=MODIFIED)


async def get(adapter: SwiftAdapter, key: str) -> bytes:
    async with adapter.read(key) as opened_object:
        return b"".join([piece async for piece in opened_object])


async def keys_of(adapter: SwiftAdapter, prefix: str = "", *, recursive: bool = True) -> list[str]:
    return [info.key async for page in adapter.list(prefix, recursive=recursive) for info in page.objects]


def every_call(adapter: SwiftAdapter) -> list[Awaitable[object]]:
    return [
        adapter.check(),
        adapter.prepare(),
        adapter.stat("object"),
        adapter.fetch("object"),
        keys_of(adapter),
        put(adapter, "object", b"x"),
        put_large(adapter, "object", LARGE),
        adapter.copy("object", "other"),
        adapter.delete("object"),
        adapter.usage(),
        adapter.sweep(0.0),
    ]


def of_object(request: Request) -> bool:
    return request.target.startswith("/v1/") and request.target.partition("?")[0].count("/") > 3


def lists(request: Request) -> bool:
    return "format=json" in request.target


def stores(request: Request) -> bool:
    """Whether it stores an object, which may be a manifest, and no segment."""
    return request.method == "PUT" and of_object(request) and "_segments/" not in request.target


def signs_in(request: Request) -> bool:
    return request.target.startswith("/auth/")


# ---------------------------------------------------------------------- answers that refuse or fail


@pytest.mark.parametrize(
    ("status", "expected"),
    [(429, RateLimited), (498, RateLimited), (500, ProviderUnavailable), (503, ProviderUnavailable)],
)
async def test_service_that_asks_to_wait(
    faulty: SwiftAdapter, proxy: FaultyHttp, status: int, expected: type[CdirError]
) -> None:
    await put(faulty, "object", b"old")
    proxy.break_by(refusing(status, "Slow", Retry_After="3"))
    for attempt in every_call(faulty):
        with pytest.raises(expected) as caught:
            await attempt
        assert (caught.value.retry, caught.value.retry_after) == (Retry.LATER, 3.0)
        assert "\n" not in caught.value.message
    await proxy.heal()
    assert await get(faulty, "object") == b"old"


async def test_retry_layer_gets_through_bursts(faulty: SwiftAdapter, proxy: FaultyHttp) -> None:
    busy, count = refusing(503, "Busy"), 0

    async def burst(request: Request) -> Answer | web.StreamResponse:
        """Two of five fail, in a row."""
        nonlocal count
        count += 1
        return await (busy(request) if count % 5 in {1, 2} else request.forward())

    proxy.break_by(burst)
    retrying = RetryAdapter(faulty, RetrySettings(attempts=10, budget=60.0, first_delay=0.01))
    await retrying.write("object", b"data", size=4, modified=MODIFIED)
    assert (await retrying.fetch("object")).data == b"data"
    assert [info.key async for page in retrying.list("") for info in page.objects] == ["object"]
    await retrying.delete("object")
    await proxy.heal()
    assert await keys_of(faulty) == []


async def test_reset_connections(faulty: SwiftAdapter, proxy: FaultyHttp) -> None:
    await put(faulty, "object", b"old")
    proxy.break_by(FAULTS["reset"])
    for attempt in every_call(faulty):
        with pytest.raises(ProviderUnavailable):
            await attempt
    await proxy.heal()
    assert await get(faulty, "object") == b"old"


async def test_body_that_ends_early(faulty: SwiftAdapter, proxy: FaultyHttp) -> None:
    data = pattern(50 * KIB)
    await put(faulty, "object", data)
    proxy.break_by(on(of_object, FAULTS["half-close"]))
    for attempt in (get(faulty, "object"), faulty.fetch("object")):
        with pytest.raises((IntegrityError, ProviderUnavailable)):
            await attempt


async def test_range_answered_by_the_whole(faulty: SwiftAdapter, proxy: FaultyHttp) -> None:
    data = pattern(3000)
    await put(faulty, "object", data)

    async def whole(request: Request) -> Answer:
        headers = {name: value for name, value in request.headers.items() if name.lower() != "range"}
        return await dataclasses.replace(request, headers=headers).forward()

    proxy.break_by(whole)
    for range in (ByteRange(1000, 10), ByteRange(2990), ByteRange(0, 5), ByteRange(0, 5000)):
        wanted = data[range.offset :] if range.length is None else data[range.offset :][: range.length]
        assert (await faulty.fetch("object", range=range)).data == wanted
        assert (await faulty.fetch("object", range=range)).info.size == 3000


@pytest.mark.parametrize("other", ["0-9", "1000-1004", "1000-1010", "1000-"])
async def test_another_range_than_asked_for(faulty: SwiftAdapter, proxy: FaultyHttp, other: str) -> None:
    await put(faulty, "object", pattern(3000))

    async def shifted(request: Request) -> Answer:
        return await dataclasses.replace(request, headers={**request.headers, "Range": f"bytes={other}"}).forward()

    proxy.break_by(on(of_object, shifted))
    with pytest.raises(ProviderUnavailable):
        await faulty.fetch("object", range=ByteRange(1000, 10))


async def test_error_body_that_never_ends(faulty: SwiftAdapter, proxy: FaultyHttp) -> None:
    async def endless(request: Request) -> web.StreamResponse:
        response = web.StreamResponse(status=400)
        await response.prepare(request.incoming)
        while True:
            await response.write(b"<p>no and no</p>" * 4000)

    proxy.break_by(endless)
    async with asyncio.timeout(60):
        for attempt in (faulty.fetch("object"), faulty.stat("object"), put(faulty, "object", b"x"), keys_of(faulty)):
            with pytest.raises((InvalidArgument, ProviderUnavailable)) as caught:
                await attempt
            assert len(caught.value.message) < 500


async def test_missing_object_whose_container_cannot_be_seen(faulty: SwiftAdapter, proxy: FaultyHttp) -> None:
    """NotFound is said only when it is certain that no more than the object is missing."""
    for status, expected in ((429, RateLimited), (503, ProviderUnavailable)):
        proxy.break_by(on(lambda request: request.method == "HEAD" and not of_object(request), refusing(status, "")))
        for attempt in (faulty.stat("missing"), faulty.fetch("missing"), faulty.delete("missing")):
            with pytest.raises(expected):
                await attempt


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "{}",
        '["data"]',
        '[{"name": 7}]',
        '[{"hash": "9dd4e461268c8034f5c8564e155c67a6"}]',
        "[" * 100_000,
    ],
)
async def test_manifest_that_makes_no_sense(faulty: SwiftAdapter, proxy: FaultyHttp, manifest: str) -> None:
    await put_large(faulty, "large", LARGE)

    async def other(request: Request) -> Answer:
        answer = await request.forward()
        return dataclasses.replace(answer, body=manifest.encode())

    proxy.break_by(on(lambda request: request.target.endswith("?multipart-manifest=get"), other))
    for attempt in (faulty.copy("large", "copied"), faulty.delete("large"), faulty.sweep(-60.0)):
        with pytest.raises(ProviderUnavailable):
            await attempt
    await proxy.heal()
    assert await keys_of(faulty) == ["large"]
    assert await get(faulty, "large") == LARGE


# ---------------------------------------------------------------------- writes of unknown outcome


async def test_success_but_lost(faulty: SwiftAdapter, proxy: FaultyHttp) -> None:
    await put(faulty, "object", b"old")
    proxy.break_by(on(stores, FAULTS["success but lost"]))
    for attempt in (
        put(faulty, "object", b"new"),
        put(faulty, "new", b"new"),
        put_large(faulty, "object", LARGE),
        put_large(faulty, "new", LARGE),
    ):
        with pytest.raises(IntegrityError):
            await attempt
    with pytest.raises(IntegrityError):
        await faulty.copy("object", "copied")
    await proxy.heal()
    assert await keys_of(faulty) == ["object"]
    assert await get(faulty, "object") == b"old"


@pytest.mark.parametrize("fault", ["error but applied", "applied, not answered"])
async def test_error_but_applied(faulty: SwiftAdapter, proxy: FaultyHttp, fault: str) -> None:
    """The segments of a manifest that may have been stored stay."""
    proxy.break_by(on(stores, FAULTS[fault]))
    for attempt in (put(faulty, "small", b"new"), put_large(faulty, "large", LARGE)):
        with pytest.raises(ProviderUnavailable) as caught:
            await attempt
        assert caught.value.retry is Retry.LATER
    await proxy.heal()
    assert await get(faulty, "small") == b"new"
    assert await get(faulty, "large") == LARGE
    assert await faulty.sweep(-60.0) == 0


async def test_manifest_that_is_not_stored_leaves_segments_to_sweep(
    faulty: SwiftAdapter, proxy: FaultyHttp, raw: RawSwift, container: str
) -> None:
    proxy.break_by(on(stores, refusing(503, "Busy")))
    with pytest.raises(ProviderUnavailable):
        await put_large(faulty, "large", LARGE)
    assert await raw.names(f"{container}_segments")
    await proxy.heal()
    assert await faulty.sweep(-60.0) == 1
    assert await raw.names(f"{container}_segments") == []


async def test_manifest_that_is_refused_leaves_nothing(
    faulty: SwiftAdapter, proxy: FaultyHttp, raw: RawSwift, container: str
) -> None:
    await put(faulty, "large", b"old")
    proxy.break_by(on(stores, refusing(400, "No")))
    with pytest.raises(InvalidArgument):
        await put_large(faulty, "large", LARGE)
    await proxy.heal()
    assert await raw.names(f"{container}_segments") == []
    assert await get(faulty, "large") == b"old"


async def test_service_without_large_objects(
    faulty: SwiftAdapter, proxy: FaultyHttp, raw: RawSwift, container: str
) -> None:
    """One that takes a manifest for a file like any other has it refused by its own check of the MD5."""

    async def ignorant(request: Request) -> Answer:
        return await dataclasses.replace(request, target=request.target.partition("?")[0]).forward()

    await put(faulty, "large", b"old")
    proxy.break_by(on(lambda request: "multipart-manifest" in request.target, ignorant))
    with pytest.raises(IntegrityError, match="SLO"):
        await put_large(faulty, "large", LARGE)
    await proxy.heal()
    assert await get(faulty, "large") == b"old"
    assert await raw.names(f"{container}_segments") == []


async def test_bytes_changed_on_the_way(faulty: SwiftAdapter, proxy: FaultyHttp) -> None:
    await put(faulty, "object", b"old")
    proxy.break_by(FAULTS["bit flip in what is written"])
    for attempt in (put(faulty, "object", b"new"), put_large(faulty, "object", LARGE)):
        with pytest.raises(IntegrityError):
            await attempt
    await proxy.heal()
    assert await get(faulty, "object") == b"old"


async def test_answers_without_etag(faulty: SwiftAdapter, proxy: FaultyHttp) -> None:
    """Of a front end that takes it away from answers to a PUT."""

    async def without(request: Request) -> Answer:
        answer = await request.forward()
        headers = {name: value for name, value in answer.headers.items() if name.lower() != "etag"}
        return dataclasses.replace(answer, headers=headers)

    proxy.break_by(on(lambda request: request.method == "PUT", without))
    await put(faulty, "small", b"new")
    await put_large(faulty, "large", LARGE)
    assert await get(faulty, "small") == b"new"
    assert await get(faulty, "large") == LARGE


async def test_segments_that_cannot_be_removed_are_left_to_sweep(
    faulty: SwiftAdapter, proxy: FaultyHttp, raw: RawSwift, container: str
) -> None:
    await put_large(faulty, "large", LARGE)
    removing = on(lambda request: request.method == "DELETE" and "_segments/" in request.target, refusing(503, "Busy"))
    proxy.break_by(removing)
    await faulty.delete("large")
    assert await keys_of(faulty) == []
    await proxy.heal()
    assert await faulty.sweep(-60.0) == 1
    assert await raw.names(f"{container}_segments") == []


@pytest.fixture
async def wires(swift: SwiftCluster) -> AsyncIterator[FaultyProxy]:
    async with faulty_proxy(swift.port) as running:
        yield running


async def test_broken_connections(wires: FaultyProxy, opened: Open) -> None:
    adapter = opened(auth_url=f"http://127.0.0.1:{wires.port}/auth/v1.0")
    await adapter.prepare()
    data = pattern(60 * KIB)
    await put(adapter, "object", data)
    for reset in (False, True):
        wires.reset = reset
        for attempt in (
            lambda: get(adapter, "object"),
            lambda: adapter.fetch("object", range=ByteRange(KIB, 50 * KIB)),
        ):
            wires.cut_answer_after = 20 * KIB
            with pytest.raises(ProviderUnavailable):
                await attempt()
        wires.cut_answer_after = None
        for write in (put(adapter, "object", pattern(60 * KIB, 1)), put_large(adapter, "object", LARGE)):
            wires.cut_request_after = 30 * KIB
            with pytest.raises(ProviderUnavailable):
                await write
        wires.heal()
        assert await get(adapter, "object") == data
    assert await keys_of(adapter) == ["object"]


async def test_killed_cluster_leaves_the_old_object_and_recovers(container: str) -> None:
    require(swift_cluster)
    async with (
        swift_cluster.swift_cluster() as server,
        SwiftAdapter("store", server.options(container)) as adapter,
    ):
        await adapter.prepare()
        await put(adapter, "folder/object", b"old")

        async def source() -> AsyncIterator[bytes]:
            yield LARGE
            await server.kill()
            yield LARGE

        with pytest.raises(ProviderUnavailable) as caught:
            await adapter.write("folder/object", source(), size=2 * len(LARGE), modified=MODIFIED)
        assert caught.value.retry is Retry.LATER
        for attempt in (adapter.stat("folder/object"), adapter.fetch("folder/object"), keys_of(adapter)):
            with pytest.raises(ProviderUnavailable):
                await attempt
        await server.restart()
        assert await keys_of(adapter) == ["folder/object"]
        assert await get(adapter, "folder/object") == b"old"
        assert await adapter.sweep(-60.0) == 1
        await put_large(adapter, "folder/object", LARGE)
        assert await get(adapter, "folder/object") == LARGE


# ---------------------------------------------------------------------- listings


def answering(rows: Callable[[Request], list[dict[str, Any]]]) -> Fault:
    """Every page of a listing is what ``rows`` makes of the request."""

    async def answer(request: Request) -> Answer:
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(rows(request)).encode())

    return on(lists, answer)


def row(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "bytes": 1,
        "hash": "9dd4e461268c8034f5c8564e155c67a6",
        "last_modified": "2026-01-02T03:04:05.678900",
        "content_type": "text/plain",
    }


async def test_hostile_names_in_listings(faulty: SwiftAdapter, proxy: FaultyHttp) -> None:
    names = [
        "../x",
        "folder/../../etc/passwd",
        "/etc/passwd",
        "folder//x",
        "folder/./x",
        "http://example.org/x",
        "folder/line\nbreak",
        "folder/nul\0",
        "folder/file",
        "folder/file",
        "other",
        "folder/last",
    ]
    rows = [*map(row, names), {"subdir": "../"}, {"subdir": "folder/inner/"}, {"subdir": "/"}, row("folder/z")]
    proxy.break_by(answering(lambda request: [] if "marker=" in request.target else rows))
    assert await keys_of(faulty, "folder") == ["folder/file", "folder/last", "folder/inner", "folder/z"]


@pytest.mark.parametrize(
    "body",
    [
        b'[{"name": "a", "bytes"',
        b"null",
        b"{}7",
        b"<html>login here</html>",
        b'{"error": "no"}',
        b'[{"name": 7}]',
        b'["name"]',
        b'[{"name": "\\ud800", "bytes": 1}]',
        b'[{"name": "a", "bytes": -1, "hash": "x", "last_modified": "2026-01-02T03:04:05"}]',
        b'[{"name": "a", "bytes": "many", "hash": "x", "last_modified": "2026-01-02T03:04:05"}]',
        b'[{"name": "a", "bytes": 1, "hash": "x", "last_modified": "yesterday"}]',
        b"[" * 100_000,
    ],
)
async def test_broken_listing(faulty: SwiftAdapter, proxy: FaultyHttp, body: bytes) -> None:
    async def broken(_: Request) -> Answer:
        return Answer(200, {"Content-Type": "application/json"}, body)

    proxy.break_by(on(lists, broken))
    with pytest.raises(ProviderUnavailable):
        await keys_of(faulty)


async def test_listing_that_goes_round(faulty: SwiftAdapter, proxy: FaultyHttp) -> None:
    proxy.break_by(answering(lambda _: [row("a"), row("b")]))
    with pytest.raises(ProviderUnavailable, match="again"):
        await keys_of(faulty)


async def test_listing_that_breaks_off_later(
    faulty: SwiftAdapter, proxy: FaultyHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdir_adapters.providers.swift.listing.PAGE_SIZE", 2)
    for number in range(5):
        await put(faulty, f"object-{number}", b"x")
    proxy.break_by(on(lambda request: "marker=object-3" in request.target, refusing(503, "Busy")))
    found: list[str] = []

    async def collect() -> None:
        async for page in faulty.list(""):
            found.extend(info.key for info in page.objects)

    with pytest.raises(ProviderUnavailable):
        await collect()
    assert found == ["object-0", "object-1"]


async def test_listing_that_never_ends(
    faulty: SwiftAdapter, proxy: FaultyHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdir_adapters.providers.swift.listing._MAX_PAGE", 1 << 20)

    async def endless(request: Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request.incoming)
        while True:
            await response.write(b'{"name": "a"},' * 4000)

    proxy.break_by(on(lists, endless))
    async with asyncio.timeout(60):
        with pytest.raises(ProviderUnavailable, match="too long"):
            await keys_of(faulty)


# ---------------------------------------------------------------------- signing in


async def test_token_that_ends_in_the_middle_of_work(
    faulty: SwiftAdapter, proxy: FaultyHttp, swift: SwiftCluster
) -> None:
    """However many requests find it ended at once, one of them signs in."""
    signed_in = 0

    async def count(request: Request) -> Answer:
        nonlocal signed_in
        signed_in += 1
        return await request.forward()

    for number in range(6):
        await put(faulty, f"object-{number}", b"old")
    proxy.break_by(on(signs_in, count))
    await swift.expire_tokens()
    await asyncio.gather(*(put(faulty, f"object-{number}", b"new") for number in range(6)))
    assert signed_in == 1

    async def source() -> AsyncIterator[bytes]:
        yield LARGE
        await swift.expire_tokens()
        yield LARGE

    await faulty.write("large", source(), size=2 * len(LARGE), modified=MODIFIED)
    assert signed_in == 2
    async with faulty.read("large") as body:
        pieces = [await anext(body)]
        await swift.expire_tokens()
        pieces += [piece async for piece in body]
    assert b"".join(pieces) == LARGE * 2
    assert [await get(faulty, f"object-{number}") for number in range(6)] == [b"new"] * 6


async def test_sign_in_that_is_refused_in_the_middle_of_work(
    faulty: SwiftAdapter, proxy: FaultyHttp, swift: SwiftCluster
) -> None:
    await put(faulty, "object", b"old")
    await swift.expire_tokens()
    proxy.break_by(on(signs_in, refusing(401, "No")))
    for attempt in every_call(faulty):
        with pytest.raises(Unauthenticated):
            await attempt
    proxy.break_by(on(signs_in, refusing(503, "Busy")))
    with pytest.raises(ProviderUnavailable):
        await put(faulty, "object", b"new")
    await proxy.heal()
    assert await get(faulty, "object") == b"old"


async def test_token_that_is_never_accepted(faulty: SwiftAdapter, proxy: FaultyHttp) -> None:
    proxy.break_by(on(lambda request: not signs_in(request), refusing(401, "No")))
    with pytest.raises(Unauthenticated):
        await faulty.stat("object")
    # two requests, and one sign-in between them
    assert proxy.met == 3


async def test_wrong_credentials(opened: Open) -> None:
    for changes in ({"key": "not-the-secret"}, {"user": "test:nobody"}):
        for attempt in every_call(opened(**changes)):
            with pytest.raises(Unauthenticated) as caught:
                await attempt
            assert "not-the-secret" not in str(caught.value) + repr(caught.value.context)


async def test_wrong_endpoints(opened: Open, swift: SwiftCluster) -> None:
    here = f"http://127.0.0.1:{swift.port}"
    with pytest.raises(ConfigInvalid, match="auth_url"):
        await opened(auth_url=f"{here}/elsewhere/v1").check()
    with pytest.raises(ConfigInvalid, match="auth_url"):
        await opened(auth_url=f"{here}/elsewhere", auth_version="3", project="p").check()
    with pytest.raises(PermissionDenied):
        await opened(storage_url=f"{here}/v1/AUTH_other").check()
    for attempt in every_call(opened(auth_url=f"http://127.0.0.1:{free_port()}/auth/v1.0")):
        with pytest.raises(ProviderUnavailable) as caught:
            await attempt
        assert caught.value.retry is Retry.LATER


async def test_sign_in_that_gives_no_token(faulty: SwiftAdapter, proxy: FaultyHttp, opened: Open) -> None:
    async def nothing(_: Request) -> Answer:
        return Answer(200, {"Content-Type": "text/html"}, b"<html>welcome</html>")

    proxy.break_by(nothing)
    with pytest.raises(ConfigInvalid, match="without a token"):
        await opened(auth_url=f"{proxy.endpoint}/auth/v1.0").check()

    for url in ("", "ftp://127.0.0.1/v1", "http://127.0.0.1:many/v1", "/v1/AUTH_test"):
        answer = Answer(200, {"X-Auth-Token": "t", "X-Storage-Url": url})

        async def no_url(_: Request, answer: Answer = answer) -> Answer:
            return answer

        proxy.break_by(no_url)
        with pytest.raises(ConfigInvalid, match="storage_url"):
            await opened(auth_url=f"{proxy.endpoint}/auth/v1.0").check()


async def test_redirects_are_not_followed(
    faulty: SwiftAdapter, proxy: FaultyHttp, swift: SwiftCluster, opened: Open
) -> None:
    """Neither the password nor a token goes to another host."""
    async with faulty_http(swift.port) as elsewhere:
        elsewhere.break_by(refusing(500, "Never asked"))

        async def redirect(request: Request) -> Answer:
            return Answer(307, {"Location": f"{elsewhere.endpoint}{request.target}"})

        proxy.break_by(redirect)
        fresh = opened(auth_url=f"{proxy.endpoint}/auth/v1.0")
        for adapter in (faulty, fresh):
            for attempt in every_call(adapter):
                with pytest.raises(ConfigInvalid):
                    await attempt
        assert elsewhere.met == 0


async def test_secrets_that_the_service_repeats(faulty: SwiftAdapter, proxy: FaultyHttp) -> None:
    async def echo(request: Request) -> Answer:
        return Answer(400, {}, f"you sent {request.headers}".encode())

    proxy.break_by(echo)
    with pytest.raises(InvalidArgument) as caught:
        await faulty.fetch("object")
    assert "AUTH_tk" not in caught.value.message


@asynccontextmanager
async def tls_front(certificate: Path, port: int) -> AsyncIterator[int]:
    """A front end that takes TLS away, as load balancers do."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    handlers: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while piece := await source.read(64 * KIB):
            sink.write(piece)
            await sink.drain()
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        answers, upstream = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(pump(reader, upstream), pump(answers, writer))
        except OSError:
            pass  # one side is gone
        finally:
            for end in (writer, upstream):
                end.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


async def test_unknown_certificates_are_refused(tmp_path: Path, swift: SwiftCluster, container: str) -> None:
    certificate = self_signed(tmp_path / "certificate.pem")
    async with tls_front(certificate, swift.port) as port, AsyncExitStack() as stack:

        async def opened(**changes: str | bool) -> SwiftAdapter:
            options = {**swift.options(container), "auth_url": f"https://127.0.0.1:{port}/auth/v1.0", **changes}
            return await stack.enter_async_context(SwiftAdapter("store", options))

        with pytest.raises(ConfigInvalid, match="ca_file"):
            await (await opened()).check()
        with pytest.raises(ConfigInvalid, match="ca_file"):
            await (await opened(ca_file="/nonexistent")).check()
        # behind such a front end the cluster believes that it is asked in the clear
        with pytest.raises(ConfigInvalid, match="storage_url"):
            await (await opened(ca_file=str(certificate))).check()
        url = f"https://127.0.0.1:{port}/v1/AUTH_test"
        for trusting in ({"ca_file": str(certificate)}, {"verify_tls": False}):
            adapter = await opened(storage_url=url, **trusting)
            await adapter.prepare()
            await put(adapter, "object", b"x")
            assert await get(adapter, "object") == b"x"
            await adapter.aclose()


# ---------------------------------------------------------------------- Keystone


@pytest.fixture
async def keystone(swift: SwiftCluster) -> AsyncIterator[KeystoneV3]:
    async with keystone_v3(swift) as running:
        yield running


def by_password(keystone: KeystoneV3) -> dict[str, str]:
    return {
        "auth_url": keystone.auth_url,
        "user": keystone.user,
        "user_domain": keystone.user_domain,
        "key": keystone.password,
        "project": keystone.project,
        "project_domain": keystone.project_domain,
    }


async def test_keystone(keystone: KeystoneV3, swift: SwiftCluster, container: str) -> None:
    base = {"container": container}
    credential = {
        "application_credential_id": keystone.credential_id,
        "application_credential_secret": keystone.credential_secret,
    }
    ways = [
        by_password(keystone),
        {**by_password(keystone), "project": "", "project_id": keystone.project_id},
        {**by_password(keystone), "auth_url": keystone.auth_url.removesuffix("/v3")},
        {"auth_url": keystone.auth_url, **credential},
    ]
    for way in ways:
        async with SwiftAdapter("store", {**base, **way}) as adapter:
            await adapter.prepare()
            await put_large(adapter, "object", LARGE)
            await swift.expire_tokens()
            assert await get(adapter, "object") == LARGE
    assert keystone.signed_in == 2 * len(ways)


async def test_keystone_token_is_renewed_before_it_ends(keystone: KeystoneV3, container: str) -> None:
    """Unless its time is so short that this would mean a sign-in for every request."""
    for valid, signed_in in ((timedelta(hours=1), 1), (timedelta(seconds=5), 1)):
        keystone.valid, keystone.signed_in = valid, 0
        async with SwiftAdapter("store", {"container": container, **by_password(keystone)}) as adapter:
            for _ in range(3):
                await adapter.prepare()
        assert keystone.signed_in == signed_in


async def test_keystone_refuses(keystone: KeystoneV3, container: str) -> None:
    for wrong in (
        {"key": "not-the-secret"},
        {"user": "nobody"},
        {"user_domain": "Default"},
        {"project": "other"},
        {"application_credential_id": "1", "application_credential_secret": "not-the-secret"},
    ):
        async with SwiftAdapter("store", {"container": container, **by_password(keystone), **wrong}) as adapter:
            with pytest.raises(Unauthenticated) as caught:
                await adapter.check()
            assert "not-the-secret" not in caught.value.message
    assert keystone.signed_in == 0


async def test_keystone_regions(keystone: KeystoneV3, container: str, swift: SwiftCluster) -> None:
    async def check(**changes: str) -> None:
        async with SwiftAdapter("store", {"container": container, **by_password(keystone), **changes}) as adapter:
            await adapter.prepare()

    with pytest.raises(ConfigInvalid, match="north"):
        await check(region="west")
    keystone.regions["south"] = "http://127.0.0.1:9/v1/AUTH_nobody"
    with pytest.raises(ConfigInvalid, match="north, south"):
        await check()
    await check(region="north")
    with pytest.raises(ProviderUnavailable):
        await check(region="south")
    with pytest.raises(ProviderUnavailable):
        await check(region="north", interface="internal")
    await check(region="south", storage_url=swift.storage_url)
    keystone.regions.clear()
    with pytest.raises(ConfigInvalid, match="no public object store"):
        await check()


@pytest.mark.parametrize(
    "answer",
    ["", "[]", "{}", '{"token": 7}', '{"token": {"catalog": 7}}', '{"token": {"catalog": [{"type": "object-store"}]}}'],
)
async def test_keystone_that_makes_no_sense(keystone: KeystoneV3, container: str, answer: str) -> None:
    keystone.answer = answer
    async with SwiftAdapter("store", {"container": container, **by_password(keystone)}) as adapter:
        with pytest.raises(ConfigInvalid, match="without a token"):
            await adapter.check()
