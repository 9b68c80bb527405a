"""The exchange of small requests with a service, byte by byte: what is kept, repeated, bounded and given up."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from yarl import URL

from cdir.errors import ConfigInvalid, InvalidArgument, NotFound
from cdir_adapters.adapter import ByteRange
from cdir_adapters.providers.s3 import small_requests
from cdir_adapters.providers.s3.adapter import S3Adapter
from cdir_adapters.providers.s3.exchange import ERROR_BODY, Answer, NoAnswer
from cdir_adapters.providers.s3.small_requests import SmallRequests
from servers.certificates import self_signed

GUARD = 60.0
MIB = 1024 * 1024

Talk = Callable[["Heard"], Awaitable[None]]


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on asyncio's own loop and on the one of the services."""

    @pytest.mark.parametrize("run_on", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    @functools.wraps(test)
    def run(run_on: Callable[[Coroutine[Any, Any, None]], None], **arguments: Any) -> None:
        run_on(test(**arguments))

    signature = inspect.signature(test)
    first = inspect.Parameter("run_on", inspect.Parameter.KEYWORD_ONLY)
    kept = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values()]
    chosen: Any = run
    chosen.__signature__ = signature.replace(parameters=[first, *kept])  # where pytest looks
    return cast("Callable[..., None]", chosen)


class Heard:
    """One connection as the server has it."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        """How many connections came before."""
        self.reader = reader
        self.writer = writer
        self.over = asyncio.Event()
        """Set when the test has ended."""

    async def request(self) -> str:
        """Read a request whole; return its head."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        for line in head.split("\r\n"):
            name, _, value = line.partition(": ")
            if name == "Content-Length":
                await self.reader.readexactly(int(value))
        return head

    def say(self, text: str | bytes) -> None:
        self.writer.write(text.encode() if isinstance(text, str) else text)

    async def gone(self) -> None:
        """Wait until the client has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass


class Server:
    """What listens, and how many connections it has had."""

    def __init__(self, origin: URL) -> None:
        self.origin = origin
        self.connections = 0


@asynccontextmanager
async def listening(talk: Talk, *, certificate: Path | None = None, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    tls = None
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    talking: set[Heard] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard = Heard(server.connections, reader, writer)
        talking.add(heard)
        server.connections += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await talk(heard)
        finally:
            writer.close()
            talking.discard(heard)

    listener = await asyncio.start_server(handle, host, 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server = Server(URL.build(scheme="http" if tls is None else "https", host=host, port=port))
    try:
        yield server
    finally:
        listener.close()
        while talking:
            for heard in talking:
                heard.over.set()
                heard.writer.transport.abort()
            await asyncio.sleep(0)


@asynccontextmanager
async def requests_to(
    origin: URL,
    *,
    connect: float = GUARD,
    idle: float = GUARD,
    trusted: ssl.SSLContext | None = None,
    proxy: URL | None = None,
) -> AsyncIterator[SmallRequests]:
    requests = SmallRequests(origin, connect=connect, idle=idle, trusted=trusted, proxy=proxy)
    try:
        async with asyncio.timeout(GUARD):
            yield requests
    finally:
        requests.close()


def always(answer: str | bytes) -> Talk:
    async def talk(heard: Heard) -> None:
        while True:
            await heard.request()
            heard.say(answer)

    return talk


async def get(requests: SmallRequests, *, method: str = "GET", most: int = MIB) -> Answer:
    return await requests.send(method, "/bucket/key", ["host: here"], None, most)


# ---------------------------------------------------------------------- answers

OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (OK, b"ok"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\no\r\n1\r\nk\r\n0\r\nEtag: late\r\n\r\n", b"ok"),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
        ("HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", b""),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", b""),
        ("HTTP/1.1 307 Elsewhere\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 2\r\n\r\nno", b"no"),
    ],
)
@on_both_loops
async def test_connection_serves_one_request_after_the_other(answer: str, expected: bytes) -> None:
    async with listening(always(answer)) as server, requests_to(server.origin) as requests:
        for _ in range(3):
            found = await get(requests)
            assert found.data == expected
            assert "etag" not in found.headers
        assert server.connections == 1


@on_both_loops
async def test_answer_that_comes_byte_by_byte() -> None:
    async def talk(heard: Heard) -> None:
        await heard.request()
        for place in range(len(OK)):
            heard.say(OK[place])
            await heard.writer.drain()
            await asyncio.sleep(0)
        await heard.gone()

    async with listening(talk) as server, requests_to(server.origin) as requests:
        assert await get(requests) == Answer(200, {"content-length": "2"}, b"ok")


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked", "X: y"])
@on_both_loops
async def test_head_has_no_body(framing: str) -> None:
    async with (
        listening(always(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n")) as server,
        requests_to(server.origin) as requests,
    ):
        for _ in range(3):
            assert (await get(requests, method="HEAD")).data == b""
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        OK.replace("Content", "Connection: close\r\nContent"),
        OK.replace("1.1", "1.0"),
        OK + "surplus",
        OK + OK,
        "HTTP/1.1 204 No Content\r\n\r\nsurplus",
    ],
)
@on_both_loops
async def test_connection_that_is_not_used_again(answer: str) -> None:
    async with listening(always(answer)) as server, requests_to(server.origin) as requests:
        for _ in range(3):
            assert (await get(requests)).data in {b"ok", b""}
        assert server.connections == 3


@on_both_loops
async def test_body_up_to_the_end_of_the_connection() -> None:
    async def talk(heard: Heard) -> None:
        await heard.request()
        heard.say("HTTP/1.1 200 OK\r\n\r\nall of it")

    async with listening(talk) as server, requests_to(server.origin) as requests:
        assert (await get(requests)).data == b"all of it"


@pytest.mark.parametrize(
    "answer",
    [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    ],
)
@on_both_loops
async def test_what_is_no_whole_answer_is_not_asked_for_twice(answer: str) -> None:
    async def talk(heard: Heard) -> None:
        await heard.request()
        heard.say(answer)

    async with listening(talk) as server, requests_to(server.origin) as requests:
        with pytest.raises(NoAnswer):
            await get(requests)
        assert server.connections == 1


# ---------------------------------------------------------------------- bounds


async def without_end(heard: Heard, begin: str, more: str) -> None:
    await heard.request()
    heard.say(begin)
    while True:
        heard.say(more * 500)
        await heard.writer.drain()


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        ("HTTP/1.1 200 OK\r\n", "X-Again: and again\r\n"),
        ("HTTP/1.1 200 OK\r\nX-Long: ", "x" * 1000),
        ("", "HTTP/1.1 100 Continue\r\n\r\n"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=", "x" * 1000),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X-Again: and again\r\n"),
    ],
)
@on_both_loops
async def test_headers_without_end(begin: str, more: str) -> None:
    async with (
        listening(lambda heard: without_end(heard, begin, more)) as server,
        requests_to(server.origin) as requests,
    ):
        with pytest.raises(NoAnswer):
            await get(requests)


@pytest.mark.parametrize(("status", "length"), [(200, 100_000), (403, ERROR_BODY)])
@on_both_loops
async def test_body_without_end(status: int, length: int) -> None:
    begin = f"HTTP/1.1 {status} Status\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with (
        listening(lambda heard: without_end(heard, begin, "5\r\nhello\r\n")) as server,
        requests_to(server.origin) as requests,
    ):
        assert len((await get(requests, most=100_000)).data) == length


@on_both_loops
async def test_chunks_of_one_byte() -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 300_000 + b"0\r\n\r\n"
    async with listening(always(answer)) as server, requests_to(server.origin) as requests:
        assert (await get(requests)).data == b"x" * 300_000


# ---------------------------------------------------------------------- connections that break


def closing_after_one(heard_again: list[str]) -> Talk:
    """The first connection is closed when a second request comes on it."""

    async def talk(heard: Heard) -> None:
        while True:
            head = await heard.request()
            if heard.number == 0 and heard_again:
                return
            heard_again.append(head)
            heard.say(OK)

    return talk


@on_both_loops
async def test_kept_connection_that_turns_out_dead() -> None:
    async with listening(closing_after_one([])) as server, requests_to(server.origin) as requests:
        await get(requests)
        assert (await get(requests)).data == b"ok"
        assert server.connections == 2


@on_both_loops
async def test_what_must_not_be_sent_twice() -> None:
    async with listening(closing_after_one([])) as server, requests_to(server.origin) as requests:
        await get(requests)
        with pytest.raises(NoAnswer):
            await requests.send("PUT", "/bucket/key", [], b"data", MIB, repeatable=False)
        assert server.connections == 1


@on_both_loops
async def test_new_connection_that_is_closed() -> None:
    async def talk(heard: Heard) -> None:
        await heard.request()

    async with listening(talk) as server, requests_to(server.origin) as requests:
        with pytest.raises(NoAnswer):
            await get(requests)
        assert server.connections == 1


@on_both_loops
async def test_kept_connection_that_the_service_closes_is_forgotten() -> None:
    async def talk(heard: Heard) -> None:
        await heard.request()
        heard.say(OK)
        await heard.writer.drain()

    async with listening(talk) as server, requests_to(server.origin) as requests:
        for _ in range(5):
            await requests.send("PUT", "/bucket/key", [], b"data", MIB)
        assert server.connections == 5


@on_both_loops
async def test_who_leaves_closes_the_connection() -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def talk(heard: Heard) -> None:
        await heard.request()
        asked.set()
        await heard.gone()
        closed.set()

    async with listening(talk) as server, requests_to(server.origin) as requests:
        task = asyncio.create_task(get(requests))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await closed.wait()


@on_both_loops
async def test_closing_ends_what_is_under_way() -> None:
    asked = asyncio.Event()

    async def talk(heard: Heard) -> None:
        await heard.request()
        heard.say("HTTP/1.1 200 OK\r\n\r\nnot all of it")
        asked.set()
        await heard.gone()

    async with listening(talk) as server, requests_to(server.origin) as requests:
        task = asyncio.create_task(get(requests))
        await asked.wait()
        requests.close()
        with pytest.raises(NoAnswer):
            await task
        with pytest.raises(NoAnswer):
            await get(requests)
        assert server.connections == 1


@pytest.mark.parametrize("begin", ["", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no"])
@on_both_loops
async def test_service_that_falls_silent(begin: str) -> None:
    async def talk(heard: Heard) -> None:
        await heard.request()
        heard.say(begin)
        await heard.gone()

    async with listening(talk) as server, requests_to(server.origin, idle=0.2) as requests:
        with pytest.raises(NoAnswer):
            await get(requests)


@on_both_loops
async def test_service_that_takes_no_body() -> None:
    async def talk(heard: Heard) -> None:
        await heard.over.wait()

    async with listening(talk) as server, requests_to(server.origin, idle=0.2) as requests:
        with pytest.raises(NoAnswer):
            await requests.send("PUT", "/bucket/key", [], bytes(16 * MIB), MIB)


@on_both_loops
async def test_unused_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_requests, "_SPARE_FOR", 0.1)
    closed = asyncio.Event()

    async def talk(heard: Heard) -> None:
        await heard.request()
        heard.say(OK)
        await heard.gone()
        closed.set()

    async with listening(talk) as server, requests_to(server.origin) as requests:
        await get(requests)
        await closed.wait()
        assert (await get(requests)).data == b"ok"
        assert server.connections == 2


@on_both_loops
async def test_nothing_listens() -> None:
    async with listening(always(OK)) as server:
        origin = server.origin
    async with requests_to(origin) as requests:
        with pytest.raises(NoAnswer):
            await get(requests)


@on_both_loops
async def test_connection_that_is_never_ready() -> None:
    async def talk(heard: Heard) -> None:
        await heard.gone()

    async with listening(talk) as server:
        origin = server.origin.with_scheme("https")
        async with requests_to(origin, connect=0.2, trusted=ssl.create_default_context()) as requests:
            with pytest.raises(NoAnswer):
                await get(requests)


# ---------------------------------------------------------------------- bodies


@on_both_loops
async def test_large_body_arrives_whole() -> None:
    data = bytes(range(256)) * 4096 * 12
    bodies = []

    async def talk(heard: Heard) -> None:
        while True:
            head = (await heard.reader.readuntil(b"\r\n\r\n")).decode()
            assert f"\r\nContent-Length: {len(data)}\r\n" in head
            bodies.append(await heard.reader.readexactly(len(data)))
            heard.say(OK)

    async with listening(talk) as server, requests_to(server.origin) as requests:
        for _ in range(2):
            await requests.send("PUT", "/bucket/key", [], data, MIB)
        assert bodies == [data, data]
        assert server.connections == 1


@on_both_loops
async def test_refusal_does_not_wait_for_the_body() -> None:
    async def talk(heard: Heard) -> None:
        await heard.reader.readuntil(b"\r\n\r\n")
        heard.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        await heard.over.wait()

    async with listening(talk) as server, requests_to(server.origin) as requests:
        answer = await requests.send("PUT", "/bucket/key", [], bytes(64 * MIB), MIB)
        assert (answer.status, answer.data) == (403, b"no")
        # what was left of the body is not taken for the next request
        await requests.send("PUT", "/bucket/key", [], bytes(64 * MIB), MIB)
        assert server.connections == 2


@pytest.mark.parametrize("header", ["x: a\r\nAuthorization: mine", "x: a\nb", "x: a\rb"])
@on_both_loops
async def test_headers_are_one_line_each(header: str) -> None:
    async with listening(always(OK)) as server, requests_to(server.origin) as requests:
        with pytest.raises(InvalidArgument):
            await requests.send("GET", "/bucket/key", [header], None, MIB)
        assert server.connections == 0


# ---------------------------------------------------------------------- TLS, proxies, addresses


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("certificates") / "own.pem")


@on_both_loops
async def test_encrypted(certificate: Path) -> None:
    async with listening(always(OK), certificate=certificate) as server:
        trusted = ssl.create_default_context(cafile=str(certificate))
        async with requests_to(server.origin, trusted=trusted) as requests:
            for _ in range(2):
                await requests.send("PUT", "/bucket/key", [], bytes(MIB), MIB)
            assert server.connections == 1
        async with requests_to(server.origin, trusted=ssl.create_default_context()) as requests:
            with pytest.raises(NoAnswer) as caught:
                await get(requests)
            assert caught.value.untrusted


@on_both_loops
async def test_plain_proxy() -> None:
    heads: list[str] = []

    async def talk(heard: Heard) -> None:
        while True:
            heads.append(await heard.request())
            heard.say(OK)

    async with listening(talk) as server:
        proxy = server.origin.with_user("me").with_password("p:w d")
        async with requests_to(URL("http://store.example:9000"), proxy=proxy) as requests:
            for _ in range(2):
                await get(requests)
        assert server.connections == 1
    credentials = base64.b64encode(b"me:p:w d").decode()
    for head in heads:
        assert head.startswith("GET http://store.example:9000/bucket/key HTTP/1.1\r\nhost: here\r\n")
        assert f"\r\nProxy-Authorization: Basic {credentials}\r\n" in head


@on_both_loops
async def test_proxy_before_an_encrypted_service(certificate: Path) -> None:
    asked: list[str] = []
    heads: list[str] = []

    async def serve(heard: Heard) -> None:
        while True:
            heads.append(await heard.request())
            heard.say(OK)

    async def pass_on(heard: Heard) -> None:
        asked.append(await heard.request())
        reader, writer = await asyncio.open_connection("127.0.0.1", service.origin.port)
        heard.say("HTTP/1.1 200 Connection established\r\n\r\n")

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65_536):
                    target.write(data)
            target.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(copy(heard.reader, writer))
            group.create_task(copy(reader, heard.writer))

    async with listening(serve, certificate=certificate) as service, listening(pass_on) as server:
        proxy = server.origin.with_user("me").with_password("secret")
        trusted = ssl.create_default_context(cafile=str(certificate))
        async with requests_to(service.origin, trusted=trusted, proxy=proxy) as requests:
            for _ in range(2):
                assert (await get(requests)).data == b"ok"
        assert len(asked) == 1
        assert asked[0].startswith(f"CONNECT 127.0.0.1:{service.origin.port} HTTP/1.1\r\n")
        assert "\r\nProxy-Authorization: Basic " in asked[0]
        for head in heads:
            assert head.startswith("GET /bucket/key HTTP/1.1\r\n")
            assert "Proxy-Authorization" not in head
        async with requests_to(service.origin, trusted=ssl.create_default_context(), proxy=proxy) as requests:
            with pytest.raises(NoAnswer) as caught:
                await get(requests)
            assert caught.value.untrusted


@pytest.mark.parametrize("answer", ["HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n", OK.replace("200", "302")])
@on_both_loops
async def test_proxy_that_refuses(answer: str) -> None:
    async with listening(always(answer)) as server:
        trusted = ssl.create_default_context()
        async with requests_to(URL("https://store.example"), trusted=trusted, proxy=server.origin) as requests:
            with pytest.raises(NoAnswer):
                await get(requests)


@on_both_loops
async def test_sixth_version_of_the_protocol() -> None:
    try:
        async with listening(always(OK), host="::1") as server, requests_to(server.origin) as requests:
            assert (await get(requests)).data == b"ok"
    except OSError:
        pytest.skip("this machine has no IPv6")


# ---------------------------------------------------------------------- what the adapter makes of it


@on_both_loops
async def test_adapter_asks_the_proxy_of_the_environment() -> None:
    heads: list[str] = []

    async def talk(heard: Heard) -> None:
        while True:
            heads.append(await heard.request())
            heard.say("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    options = {"bucket": "b", "endpoint": "http://store.example:9000", "access_key": "key", "secret_key": "secret"}
    async with listening(talk) as server:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("no_proxy", "")
            environment.setenv("http_proxy", f"127.0.0.1:{server.origin.port}")
            async with contextlib.aclosing(S3Adapter("store", options)) as adapter:
                with pytest.raises(NotFound):
                    await adapter.fetch("key", range=ByteRange(0, 10))
            environment.setenv("http_proxy", "socks5://127.0.0.1:1")
            async with contextlib.aclosing(S3Adapter("store", options)) as adapter:
                with pytest.raises(ConfigInvalid, match="http_proxy"):
                    await adapter.fetch("key", range=ByteRange(0, 10))
    assert heads[0].startswith("GET http://store.example:9000/b/key HTTP/1.1\r\nhost: store.example:9000\r\n")
