import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
from aiohttp import web

from cdir.errors import (
    CdirError,
    ConfigInvalid,
    IntegrityError,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    Retry,
    Unauthenticated,
)
from cdir_adapters.adapter import FULL, ByteRange, ObjectInfo, WriteMode
from cdir_adapters.layers.retry import RetryAdapter, RetrySettings
from cdir_adapters.providers.gcs import GcsAdapter, listing, upload, wire
from cdir_adapters.providers.gcs import adapter as gcs_adapter
from cdir_adapters.testing.trial import MIB, MODIFIED, pattern, stream
from servers.faulty_http import FAULTS, Answer, Fault, FaultyHttp, Request, bursting, faulty_http, on
from servers.faulty_proxy import faulty_proxy
from servers.gcs import GcsServer, gcs_server
from servers.gcs_store import QUANTUM

pytestmark = pytest.mark.slow

LARGE = pattern(5 * QUANTUM + 7)
"""Takes six chunks of the smallest size."""


@dataclass
class Placed:
    """An adapter behind a proxy that understands HTTP; one object lies there."""

    adapter: GcsAdapter
    proxy: FaultyHttp
    server: GcsServer
    bucket: str

    async def put(self, key: str, data: bytes, **options: Any) -> ObjectInfo:
        return await self.adapter.write(key, data, size=len(data), modified=MODIFIED, **options)

    async def put_large(self, key: str = "object", **options: Any) -> ObjectInfo:
        return await self.adapter.write(key, stream(LARGE), size=len(LARGE), modified=MODIFIED, **options)

    async def keys(self, **options: Any) -> list[str]:
        given = {"recursive": True, **options}
        return [info.key async for page in self.adapter.list("", **given) for info in page.objects]

    def held(self) -> dict[str, bytes]:
        return self.server.contents(self.bucket)


@pytest.fixture
async def placed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Placed]:
    monkeypatch.setattr(gcs_adapter, "_RESUMABLE_ABOVE", QUANTUM)
    monkeypatch.setattr(upload, "CHUNK_SIZE", QUANTUM)
    monkeypatch.setattr(upload, "_FIRST_PAUSE", 0.001)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(gcs_server())
        proxy = await stack.enter_async_context(faulty_http(server.port))
        bucket = f"cdir-{uuid.uuid4().hex}"
        adapter = GcsAdapter("store", {**server.options(bucket), "endpoint": proxy.endpoint})
        await stack.enter_async_context(adapter)
        await adapter.prepare()
        placed = Placed(adapter, proxy, server, bucket)
        await placed.put("object", b"the old one")
        yield placed


def lists(request: Request) -> bool:
    return request.method == "GET" and "maxResults=" in request.target


def stores(request: Request) -> bool:
    return request.method == "POST" and "uploadType=multipart" in request.target


def sends_chunk(request: Request) -> bool:
    return request.method == "PUT" and bool(request.body)


def asks_what_arrived(request: Request) -> bool:
    return request.method == "PUT" and request.headers.get("Content-Range", "").startswith("bytes */")


def gets(request: Request) -> bool:
    return "alt=media" in request.target


def refusing(status: int, reason: str = "", **headers: str) -> Fault:
    async def refuse(_: Request) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        error = {"code": status, "message": "said by the test", "errors": [{"reason": reason}]}
        return Answer(status, {"Content-Type": "application/json", **named}, json.dumps({"error": error}).encode())

    return refuse


def once(fault: Fault, *, after: int = 0, which: Callable[[Request], bool] = lambda _: True) -> Fault:
    """One of some requests meets the fault, after so many others of them."""
    seen = 0

    async def choose(request: Request) -> Answer | web.StreamResponse:
        nonlocal seen
        if not which(request):
            return await request.forward()
        seen += 1
        return await (fault(request) if seen == after + 1 else request.forward())

    return choose


def answering(body: dict[str, Any] | bytes, status: int = 200) -> Fault:
    async def answer(_: Request) -> Answer:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        return Answer(status, {"Content-Type": "application/json"}, text)

    return answer


def row(name: object, **changes: object) -> dict[str, object]:
    return {"name": name, "size": "3", "generation": "1", "updated": "2001-02-03T04:05:07.000Z", **changes}


@pytest.mark.parametrize(
    ("status", "reason", "expected", "retry"),
    [
        (429, "rateLimitExceeded", RateLimited, Retry.LATER),
        (403, "userRateLimitExceeded", RateLimited, Retry.LATER),
        (503, "backendError", ProviderUnavailable, Retry.LATER),
        (500, "internalError", ProviderUnavailable, Retry.LATER),
        (502, "", ProviderUnavailable, Retry.LATER),
        (408, "", ProviderUnavailable, Retry.LATER),
        (401, "authError", Unauthenticated, Retry.NEVER),
        (403, "forbidden", PermissionDenied, Retry.NEVER),
        (507, "", QuotaExceeded, Retry.NEVER),
        (302, "", ConfigInvalid, Retry.NEVER),
    ],
)
async def test_every_call_says_what_the_service_said(
    placed: Placed, status: int, reason: str, expected: type[CdirError], retry: Retry
) -> None:
    adapter = placed.adapter
    placed.proxy.break_by(refusing(status, reason, Retry_After="7"))
    for attempt in (
        adapter.check(),
        adapter.prepare(),
        adapter.stat("object"),
        adapter.fetch("object"),
        placed.put("object", b"new"),
        placed.put_large(),
        adapter.delete("object"),
        adapter.copy("object", "other"),
        anext(adapter.list("")),
    ):
        with pytest.raises(expected) as caught:
            await attempt
        assert caught.value.retry is retry
        assert caught.value.retry_after == (7.0 if retry is Retry.LATER else None)
        assert "\n" not in caught.value.message
        assert "ya29" not in caught.value.message
    assert placed.held() == {"object": b"the old one"}


async def test_bursts_of_errors_are_ridden_out_by_the_layer_that_retries(placed: Placed) -> None:
    for fault in (refusing(503), refusing(500), refusing(429), FAULTS["reset"]):
        retrying = RetryAdapter(placed.adapter, RetrySettings(attempts=8, first_delay=0.001))
        placed.proxy.break_by(bursting(3, fault))
        await retrying.write("object", b"new", size=3, modified=MODIFIED)
        assert [info.key async for page in retrying.list("") for info in page.objects] == ["object"]
        await retrying.delete("object")
        await placed.proxy.heal()
        assert placed.held() == {}


async def test_nothing_but_chunks_is_tried_twice_here(placed: Placed) -> None:
    adapter = placed.adapter
    attempts: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: adapter.stat("object"),
        lambda: adapter.check(),
        lambda: adapter.fetch("object"),
        lambda: adapter.delete("object"),
        lambda: placed.put("object", b"new"),
    )
    for fault in (refusing(500), refusing(503), FAULTS["half-close"]):
        met = []
        for attempt in attempts:
            placed.proxy.break_by(fault)
            with suppress(ProviderUnavailable):
                await attempt()
            met.append(placed.proxy.met)
        # one may take a connection that the fault before it has closed, and fail before it arrives
        assert met[0] == max(met) == 1


# ---------------------------------------------------------------------- uploads in chunks


@pytest.mark.parametrize("fault", [refusing(503), refusing(500, Retry_After="0"), refusing(429), FAULTS["reset"]])
@pytest.mark.parametrize("number", [0, 2, 5])
async def test_chunk_that_is_lost_is_sent_again(placed: Placed, fault: Fault, number: int) -> None:
    asked = 0

    async def count(request: Request) -> Answer:
        nonlocal asked
        asked += 1
        return await request.forward()

    broken = once(fault, after=number, which=sends_chunk)

    async def choose(request: Request) -> Answer | web.StreamResponse:
        return await (count(request) if asks_what_arrived(request) else broken(request))

    placed.proxy.break_by(choose)
    await placed.put_large()
    assert placed.held() == {"object": LARGE}
    assert asked == 1


@pytest.mark.parametrize("fault", ["error but applied", "applied, not answered"])
@pytest.mark.parametrize("number", [0, 2, 5])
async def test_chunk_that_arrived_is_not_sent_again(placed: Placed, fault: str, number: int) -> None:
    """The service's offset decides where to go on, and whether there is anything left to do."""
    sent = 0
    broken = once(FAULTS[fault], after=number, which=sends_chunk)

    async def count(request: Request) -> Answer | web.StreamResponse:
        nonlocal sent
        sent += len(request.body) if sends_chunk(request) else 0
        return await broken(request)

    placed.proxy.break_by(count)
    await placed.put_large(mode=WriteMode.CREATE, key="new")
    assert placed.held()["new"] == LARGE
    assert sent == len(LARGE)


async def test_chunk_of_which_a_part_arrived(placed: Placed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "CHUNK_SIZE", 3 * QUANTUM)

    async def half(request: Request) -> Answer:
        placed.server.most_kept = QUANTUM
        await request.forward()
        placed.server.most_kept = None
        request.cut(reset=True)
        return Answer(500)

    for number in (0, 1):
        placed.proxy.break_by(once(half, after=number, which=sends_chunk))
        await placed.put_large()
        assert placed.held() == {"object": LARGE}


async def test_upload_that_fails_for_good(placed: Placed) -> None:
    """The error is that of the service, the old object stays, and the session is given back."""
    for which, fault, expected in (
        (sends_chunk, refusing(503), ProviderUnavailable),
        (sends_chunk, FAULTS["reset"], ProviderUnavailable),
        (sends_chunk, refusing(403, "forbidden"), PermissionDenied),
        (lambda request: sends_chunk(request) or asks_what_arrived(request), refusing(429), RateLimited),
        (sends_chunk, answering(b"", 308), ProviderUnavailable),
        (sends_chunk, answering(b"", 404), ProviderUnavailable),
        (sends_chunk, answering(b"", 410), ProviderUnavailable),
    ):
        placed.proxy.break_by(on(which, fault))
        with pytest.raises(expected):
            await asyncio.wait_for(placed.put_large(), 30)
        assert placed.proxy.met < 30
        assert placed.server.unfinished() == []
    assert placed.held() == {"object": b"the old one"}


@pytest.mark.parametrize("told", ["bytes=0-9999999", "bytes=5-9", "nothing", "bytes=0-0", None])
async def test_offset_that_cannot_be(placed: Placed, told: str | None) -> None:
    """More than was sent, or less than had arrived and is held here no more."""

    async def lie(_: Request) -> Answer:
        return Answer(308, {} if told is None else {"Range": told})

    placed.proxy.break_by(once(lie, after=3, which=sends_chunk))
    with pytest.raises(ProviderUnavailable):
        await placed.put_large()
    assert placed.held() == {"object": b"the old one"}
    assert placed.server.unfinished() == []


async def test_bytes_changed_on_the_way(placed: Placed) -> None:
    placed.proxy.break_by(once(FAULTS["bit flip in what is written"], after=2, which=sends_chunk))
    with pytest.raises(IntegrityError):
        await placed.put_large()

    async def flip(request: Request) -> Answer:
        middle = request.body.index(b"the new")
        return await replace(request, body=request.body[:middle] + b"T" + request.body[middle + 1 :]).forward()

    placed.proxy.break_by(on(stores, flip))
    with pytest.raises(IntegrityError):
        await placed.put("object", b"the new one")
    assert placed.held() == {"object": b"the old one"}


async def test_session_at_another_host(placed: Placed) -> None:
    """The address of a session, and the token that would go there, are nobody else's business."""
    async with faulty_http(placed.server.port) as elsewhere:
        elsewhere.break_by(refusing(500))
        for place in (f"{elsewhere.endpoint}/upload?upload_id=1", "/upload?upload_id=1", "http://[", ""):

            async def open_there(_: Request, place: str = place) -> Answer:
                return Answer(200, {"Location": place})

            placed.proxy.break_by(on(lambda request: "uploadType=resumable" in request.target, open_there))
            with pytest.raises(ProviderUnavailable):
                await placed.put_large()
        assert elsewhere.met == 0


# ---------------------------------------------------------------------- credentials


async def test_token_that_ends_in_the_middle(placed: Placed) -> None:
    async def end(request: Request) -> Answer:
        placed.server.tokens.clear()
        return await request.forward()

    for number in (0, 3, 5):
        placed.proxy.break_by(once(end, after=number, which=sends_chunk))
        await placed.put_large()
        assert placed.held() == {"object": LARGE}
    assert placed.server.signed_in == 4
    placed.proxy.break_by(once(end, which=gets))
    assert (await placed.adapter.fetch("object")).data == LARGE


async def test_credentials_that_end_in_the_middle(placed: Placed) -> None:
    placed.proxy.break_by(on(sends_chunk, refusing(401, "authError")))
    with pytest.raises(Unauthenticated):
        await placed.put_large()
    assert placed.server.signed_in == 2  # once more, and no more than that
    assert placed.held() == {"object": b"the old one"}


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed(placed: Placed, status: int) -> None:
    async with faulty_http(placed.server.port) as elsewhere:

        async def redirect(request: Request) -> Answer:
            return Answer(status, {"Location": f"{elsewhere.endpoint}{request.target}"})

        placed.proxy.break_by(redirect)
        elsewhere.break_by(refusing(500))
        adapter = placed.adapter
        for attempt in (
            adapter.check(),
            adapter.stat("object"),
            adapter.fetch("object"),
            placed.put("object", b"x"),
            adapter.delete("object"),
            adapter.copy("object", "other"),
        ):
            with pytest.raises(ConfigInvalid, match="elsewhere"):
                await attempt
        # nor by whom the credentials themselves are sent
        known = {**json.loads(placed.server.credentials), "token_uri": f"{placed.proxy.endpoint}/token"}
        options = {"bucket": placed.bucket, "endpoint": placed.server.endpoint, "credentials": json.dumps(known)}
        async with GcsAdapter("store", options) as fresh:
            with pytest.raises(CdirError) as caught:
                await fresh.check()
            assert isinstance(caught.value, ConfigInvalid | Unauthenticated)
        assert elsewhere.met == 0


# ---------------------------------------------------------------------- answers that cannot be believed


async def test_endless_body_of_an_error(placed: Placed) -> None:
    sent = 0

    async def endless(request: Request) -> web.StreamResponse:
        nonlocal sent
        sent = 0
        response = web.StreamResponse(status=500, headers={"Content-Type": "application/json"})
        await response.prepare(request.incoming)
        with suppress(ConnectionError):
            while True:
                await response.write(b"x" * 65_536)
                sent += 65_536
        return response

    placed.proxy.break_by(endless)
    for attempt in (placed.adapter.check(), placed.adapter.fetch("object"), placed.put("object", b"new")):
        with pytest.raises(ProviderUnavailable):
            await asyncio.wait_for(attempt, 30)
        assert sent < 32 * MIB


async def test_error_that_repeats_the_token(placed: Placed) -> None:
    async def repeat(request: Request) -> Answer:
        return Answer(400, {}, json.dumps({"error": {"message": f"sent: {request.headers['Authorization']}"}}).encode())

    placed.proxy.break_by(repeat)
    with pytest.raises(CdirError) as caught:
        await placed.adapter.check()
    assert "***" in caught.value.message
    assert not any(token in caught.value.message for token in placed.server.tokens)


async def test_broken_connections(placed: Placed) -> None:
    data = pattern(QUANTUM)
    async with faulty_proxy(placed.server.port) as proxy:
        options = {**placed.server.options(placed.bucket), "endpoint": f"http://127.0.0.1:{proxy.port}"}
        async with GcsAdapter("store", options) as adapter:
            await adapter.write("object", data, size=len(data), modified=MODIFIED)
            for reset in (False, True):
                proxy.reset = reset
                for range in (FULL, ByteRange(1000, 100_000)):
                    proxy.cut_answer_after = 50_000
                    with pytest.raises((IntegrityError, ProviderUnavailable)):
                        await adapter.fetch("object", range=range)
                proxy.cut_answer_after = None
                proxy.cut_request_after = 100_000
                with pytest.raises(ProviderUnavailable):
                    await adapter.write("object", pattern(QUANTUM, 1), size=QUANTUM, modified=MODIFIED)
                proxy.heal()
                assert (await adapter.fetch("object")).data == data


async def test_body_that_is_not_what_was_asked_for(placed: Placed) -> None:
    adapter = placed.adapter
    await placed.put("object", pattern(3000))
    for name in ("truncated body", "half-close"):
        placed.proxy.break_by(on(gets, FAULTS[name]))
        for range in (FULL, ByteRange(10, 1000)):
            with pytest.raises((IntegrityError, ProviderUnavailable)):
                await adapter.fetch("object", range=range)

    def changed(**changes: str) -> Fault:
        async def answer(request: Request) -> Answer:
            got = await request.forward()
            names = {name.replace("_", "-").lower(): value for name, value in changes.items()}
            kept = {name: value for name, value in got.headers.items() if name.lower() not in names}
            return replace(got, headers={**kept, **names})

        return on(gets, answer)

    for wrong in ({"x_goog_generation": "1"}, {"content_range": "bytes 1-3/3000"}, {"content_encoding": "gzip"}):
        placed.proxy.break_by(changed(**wrong))
        with pytest.raises(ProviderUnavailable):
            await adapter.fetch("object", range=ByteRange(2, 3))


async def test_object_that_is_replaced_while_it_is_opened(placed: Placed) -> None:
    replaced = 0

    async def replace_first(request: Request) -> Answer:
        nonlocal replaced
        if replaced < 2:
            replaced += 1
            placed.server.put(placed.bucket, "object", b"newer" * replaced)
        return await request.forward()

    placed.proxy.break_by(on(gets, replace_first))
    found = await placed.adapter.fetch("object")
    assert (found.data, found.info.size) == (b"newernewer", 10)


async def test_write_that_is_lost(placed: Placed) -> None:
    """The service says that it stored an object, and did not, or another one."""
    made = {"name": "object", "size": "11", "generation": "7", "crc32c": "AAAAAA=="}
    for body in (made, {}, {**made, "name": "other"}, {**made, "generation": "0"}, {**made, "size": "many"}, b"<html>"):
        placed.proxy.break_by(on(stores, answering(body)))
        with pytest.raises((IntegrityError, ProviderUnavailable)):
            await placed.put("object", b"the new one")
        if isinstance(body, bytes):
            continue  # which leads to the question what has arrived
        placed.proxy.break_by(once(answering(body), after=5, which=sends_chunk))
        with pytest.raises((IntegrityError, ProviderUnavailable)):
            await placed.put_large()
    assert placed.held() == {"object": b"the old one"}


async def test_write_that_stored_something_else(placed: Placed) -> None:
    """What was stored is removed when it is not what was sent."""

    async def other(request: Request) -> Answer:
        stored = placed.server.put(placed.bucket, "object", b"something else")
        headers = {"Authorization": request.headers["Authorization"]}
        got = await replace(request, method="GET", target=target, headers=headers, body=b"").forward()
        assert json.loads(got.body)["generation"] == str(stored.generation)
        return got

    target = f"/storage/v1/b/{placed.bucket}/o/object"
    placed.proxy.break_by(on(stores, other))
    with pytest.raises(IntegrityError):
        await placed.put("object", b"the new one")
    assert placed.held() == {}


@pytest.mark.parametrize("fault", ["error but applied", "applied, not answered"])
async def test_write_that_failed_and_is_there(placed: Placed, fault: str) -> None:
    retrying = RetryAdapter(placed.adapter, RetrySettings(first_delay=0.001))
    placed.proxy.break_by(once(FAULTS[fault], which=stores))
    written = await retrying.write("new", b"new", size=3, modified=MODIFIED, mode=WriteMode.CREATE)
    assert (written.size, placed.held()["new"]) == (3, b"new")
    placed.proxy.break_by(once(FAULTS[fault]))
    await retrying.delete("new")
    assert placed.held() == {"object": b"the old one"}


async def test_copy_that_does_not_go_on(placed: Placed) -> None:
    copying = {"done": False, "rewriteToken": "t", "totalBytesRewritten": "1"}
    for body in (copying, {"done": False}, {"done": True}, {"done": True, "resource": row("object")}, b"[]"):
        placed.proxy.break_by(on(lambda request: "rewriteTo" in request.target, answering(body)))
        with pytest.raises(ProviderUnavailable):
            await asyncio.wait_for(placed.adapter.copy("object", "target"), 30)
    placed.proxy.break_by(
        on(lambda request: "rewriteTo" in request.target, answering({"done": True, "resource": row("target")}))
    )
    with pytest.raises(IntegrityError):
        await placed.adapter.copy("object", "target")


# ---------------------------------------------------------------------- listings


async def test_listing_leaves_out_what_has_no_name_here(placed: Placed) -> None:
    names = ["../x", "/etc/passwd", "a/../b", "a//b", "folder/", "good", "line\nend", "nul\0", "http://evil/x"]
    placed.proxy.break_by(on(lists, answering({"items": [row(name) for name in names], "prefixes": ["/", "../"]})))
    assert await placed.keys() == ["good"]


@pytest.mark.parametrize(
    "pages",
    [
        [{"items": [row("b")], "nextPageToken": "1"}, {"items": [row("a")]}],
        [{"items": [row("b")], "nextPageToken": "1"}, {"items": [row("b")]}],
        [{"nextPageToken": "1"}],
        [{"items": [row("a")], "nextPageToken": 7}],
        [{"items": [row("a")], "nextPageToken": "1"}, b""],
        [{"items": [row("a")], "nextPageToken": "1"}, b'{"items": ['],
        [{"items": [row("a", size="three")]}],
        [{"items": [row("a", size=None)]}],
        [{"items": [row("a", generation="0")]}],
        [{"items": [row("a", metadata=["x"])]}],
        [{"items": [row(7)]}],
        [{"items": ["a"]}],
        [{"items": "abc"}],
        [{"prefixes": [None]}],
        [b'{"items": [{"name": "\\ud800", "size": "1", "generation": "1"}]}'],
        [b"<html>sign in here</html>"],
        [b"[]"],
        [b"[" * 100_000],
    ],
)
async def test_listing_that_cannot_be_is_an_error(placed: Placed, pages: list[Any]) -> None:
    left = list(pages)

    async def answer(request: Request) -> Answer | web.StreamResponse:
        return await answering(left.pop(0) if len(left) > 1 else left[0])(request)

    placed.proxy.break_by(on(lists, answer))
    with pytest.raises(ProviderUnavailable):
        await asyncio.wait_for(placed.keys(), 30)


async def test_listing_of_what_was_not_asked_for(placed: Placed) -> None:
    options = {**placed.server.options(placed.bucket), "endpoint": placed.proxy.endpoint, "prefix": "ours"}
    async with GcsAdapter("store", options) as ours:
        placed.proxy.break_by(on(lists, answering({"items": [row("ours/a"), row("theirs/b")]})))
        with pytest.raises(ProviderUnavailable):
            await anext(ours.list("", recursive=True))


async def test_endless_pages(placed: Placed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_ANSWER", MIB)
    placed.proxy.break_by(on(lists, answering({"items": [row("a", metadata={"x": " " * (4 * MIB)})]})))
    with pytest.raises(ProviderUnavailable, match="too long"):
        await placed.keys()
    count = 0

    async def empty(request: Request) -> Answer | web.StreamResponse:
        nonlocal count
        count += 1
        return await answering({"nextPageToken": str(count)})(request)

    monkeypatch.setattr(listing, "_MOST_EMPTY", 20)
    placed.proxy.break_by(on(lists, empty))
    with pytest.raises(ProviderUnavailable, match="circles"):
        await asyncio.wait_for(placed.keys(), 30)


async def test_listing_that_fails_at_its_second_page(placed: Placed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE_SIZE", 1)
    await placed.put("other", b"x")
    placed.proxy.break_by(once(refusing(500), after=1, which=lists))
    pages = placed.adapter.list("")
    assert len((await anext(pages)).objects) == 1
    with pytest.raises(ProviderUnavailable):
        await anext(pages)


async def test_empty_page_in_the_middle(placed: Placed) -> None:
    placed.proxy.break_by(once(answering({"nextPageToken": ""}), after=99, which=lists))
    assert await placed.keys() == ["object"]

    async def first(request: Request) -> Answer:
        return await replace(request, target=request.target.replace("pageToken=go", "x=y")).forward()

    go_on = once(answering({"nextPageToken": "go"}), which=lists)

    async def choose(request: Request) -> Answer | web.StreamResponse:
        return await (first(request) if "pageToken=go" in request.target else go_on(request))

    placed.proxy.break_by(choose)
    assert await placed.keys() == ["object"]
