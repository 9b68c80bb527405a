"""An HTTP proxy that understands what it passes on: it answers in a server's place, loses and changes bodies.

It runs in the event loop of the test. A *fault* is a function from a request to an answer; it may forward the request,
before or after it misbehaves, or never. :class:`servers.faulty_proxy.FaultyProxy` is its counterpart for plain bytes.
"""

from __future__ import annotations

import asyncio
import io
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import aiohttp
from aiohttp import web
from yarl import URL

__all__ = ["FAULTS", "Answer", "Fault", "FaultyHttp", "Request", "faulty_http"]

_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection", "expect"}
_DRIP = 64


@dataclass(frozen=True)
class Answer:
    """A response that was received whole, or made up."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Request:
    """A request that was received whole."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    proxy: FaultyHttp
    incoming: web.BaseRequest

    @property
    def lists(self) -> bool:
        """Whether it asks for a page of a listing."""
        return self.method == "GET" and "list-type=" in self.target

    @property
    def reads(self) -> bool:
        """Whether it asks for an object or its description."""
        return self.method in ("GET", "HEAD") and not self.lists and self.of_object

    @property
    def of_object(self) -> bool:
        """Whether it concerns an object, not the bucket as a whole."""
        return bool(self.target.partition("?")[0].strip("/").partition("/")[2])

    @property
    def writes(self) -> bool:
        """Whether it changes an object."""
        return self.method in ("PUT", "POST", "DELETE")

    async def forward(self) -> Answer:
        """Let the server handle it."""
        return await self.proxy.forward(self)

    def cut(self, *, reset: bool = False) -> None:
        """End the connection, with a reset (RST) or regularly (FIN), whatever was answered by now."""
        transport = self.incoming.transport
        if transport is None:
            return
        if reset:
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()


Fault = Callable[[Request], Awaitable[Answer | web.StreamResponse]]


class FaultyHttp:
    """Passes requests to ``127.0.0.1:target_port``, or to the fault set on it."""

    host = "127.0.0.1"

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.fault: Fault | None = None
        """What handles requests; ``None`` passes them all."""
        self.met = 0
        """Requests that were handled by a fault, forwarded or not."""
        self._healed = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def break_by(self, fault: Fault) -> None:
        """Let ``fault`` handle every request from now on."""
        self.fault, self.met = fault, 0
        self._healed.clear()

    async def refuse(self) -> None:
        """Stop listening and cut what is open: connecting is refused."""
        assert self._site is not None
        await self._site.stop()
        self._site = None

    async def heal(self) -> None:
        """Take the fault away, and listen again."""
        self.fault = None
        self._healed.set()
        if self._site is None:
            await self._listen()

    async def healed(self) -> None:
        """Wait until the fault is taken away."""
        await self._healed.wait()

    async def forward(self, request: Request) -> Answer:
        """Let the server handle a request; returns its whole answer."""
        assert self._session is not None
        async with self._session.request(
            request.method,
            URL(f"http://127.0.0.1:{self.target_port}{request.target}", encoded=True),
            headers=request.headers,
            data=io.BytesIO(request.body) if request.body else None,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as answer:
            headers = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            return Answer(answer.status, headers, await answer.read())

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        await self._listen()

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        self._healed.set()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def _listen(self) -> None:
        assert self._runner is not None
        self._site = web.TCPSite(self._runner, self.host, self.port)
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    async def _handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        headers = {name: value for name, value in incoming.headers.items() if name.lower() not in _HOP}
        if incoming.headers.get("Expect", "").lower() == "100-continue" and incoming.transport is not None:
            incoming.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # the client waits for that with its body
        request = Request(
            incoming.method,
            incoming.raw_path,
            headers,
            await incoming.content.read(),
            self,
            incoming,
        )
        if self.fault is None:
            answer: Answer | web.StreamResponse = await self.forward(request)
        else:
            self.met += 1
            answer = await self.fault(request)
        return _response(request, answer) if isinstance(answer, Answer) else answer


def _response(request: Request, answer: Answer) -> web.Response:
    headers = {name: value for name, value in answer.headers.items() if name.lower() != "content-length"}
    response = web.Response(status=answer.status, headers=headers, body=answer.body)
    if request.method == "HEAD" and "Content-Length" in answer.headers:
        response.headers["Content-Length"] = answer.headers["Content-Length"]
    return response


def _refusal(status: int, code: str, **headers: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>said by the test</Message></Error>"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"Content-Type": "application/xml", **named}, body.encode())


def refusing(status: int, code: str, **headers: str) -> Fault:
    """Every request is refused so."""

    async def refuse(_: Request) -> Answer:
        return _refusal(status, code, **headers)

    return refuse


def on(which: Callable[[Request], bool], fault: Fault) -> Fault:
    """Only some requests meet the fault; the others pass."""

    async def choose(request: Request) -> Answer | web.StreamResponse:
        return await (fault(request) if which(request) else request.forward())

    return choose


def bursting(passing: int, fault: Fault) -> Fault:
    """Every request meets the fault until one in so many passes, again and again."""
    count = 0

    async def burst(request: Request) -> Answer | web.StreamResponse:
        nonlocal count
        count += 1
        return await (request.forward() if count % passing == 0 else fault(request))

    return burst


async def _reset(request: Request) -> Answer:
    request.cut(reset=True)
    return Answer(500)


async def _blackhole(request: Request) -> Answer:
    await request.proxy.healed()
    request.cut()
    return Answer(500)


async def _slow(request: Request) -> Answer:
    await asyncio.sleep(0.15)
    return await request.forward()


async def _drip(request: Request) -> web.StreamResponse:
    answer = await request.forward()
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    await response.prepare(request.incoming)
    for start in range(0, len(answer.body), _DRIP):
        await asyncio.sleep(0.01)
        await response.write(answer.body[start : start + _DRIP])
    return response


async def _half_close(request: Request) -> web.StreamResponse:
    """Answer the half of it, then end the connection as if that were all."""
    answer = await request.forward()
    response = web.StreamResponse(status=answer.status, headers={**answer.headers, "Content-Length": "100000"})
    await response.prepare(request.incoming)
    await response.write(answer.body[: len(answer.body) // 2])
    request.cut()
    return response


async def _lost(request: Request) -> Answer:
    """Say that it is stored, and store nothing."""
    if request.method != "PUT":
        return await request.forward()
    return Answer(200, {"ETag": '"0123456789abcdef0123456789abcdef"'})


async def _applied(request: Request) -> Answer:
    """Do it, and say that it failed."""
    await request.forward()
    return _refusal(500, "InternalError")


async def _not_answered(request: Request) -> Answer:
    """Do it, and end the connection without a word."""
    await request.forward()
    request.cut(reset=True)
    return Answer(500)


async def _truncated(request: Request) -> Answer:
    """Leave away the end of a body, and announce only what is left."""
    answer = await request.forward()
    return replace(answer, body=answer.body[: len(answer.body) // 2])


async def _flipped_answer(request: Request) -> Answer:
    answer = await request.forward()
    return replace(answer, body=_flip(answer.body)) if answer.status < 300 else answer


async def _flipped_request(request: Request) -> Answer:
    return await replace(request, body=_flip(request.body)).forward()


async def _other_object(request: Request) -> Answer:
    """Give another object of the same size."""
    answer = await request.forward()
    return replace(answer, body=bytes(reversed(answer.body))) if answer.status < 300 else answer


async def _twice(request: Request) -> Answer:
    """Handle the request twice; the second answer is given."""
    await request.forward()
    return await request.forward()


async def _empty_page(request: Request) -> Answer:
    """A listing without any object, which says that it is whole."""
    answer = await request.forward()
    body = re.sub(rb"<Contents>.*</Contents>", b"", answer.body, flags=re.DOTALL)
    return replace(answer, body=body)


async def _partial_page(request: Request) -> Answer:
    """A listing that lacks its second half, and says that it is whole."""
    answer = await request.forward()
    objects = re.findall(rb"<Contents>.*?</Contents>", answer.body, flags=re.DOTALL)
    body = answer.body
    for lacking in objects[len(objects) // 2 :]:
        body = body.replace(lacking, b"")
    return replace(answer, body=body)


async def _broken_page(request: Request) -> Answer:
    """A listing that ends in the middle of its XML."""
    return await _truncated(request)


def _flip(body: bytes) -> bytes:
    middle = len(body) // 2
    return body if not body else body[:middle] + bytes([body[middle] ^ 0x01]) + body[middle + 1 :]


def _has_body(request: Request) -> bool:
    return request.method == "PUT" and bool(request.body)


FAULTS: dict[str, Fault] = {
    "reset": _reset,
    "blackhole": _blackhole,
    "slow": _slow,
    "drip": _drip,
    "half-close": _half_close,
    "unauthenticated 401": refusing(401, "InvalidAccessKeyId"),
    "forbidden 403": refusing(403, "AccessDenied"),
    "lies 404": on(lambda request: request.reads, refusing(404, "NoSuchKey")),
    "conflict 409": on(lambda request: request.writes, refusing(409, "OperationAborted")),
    "precondition 412": on(lambda request: request.writes, refusing(412, "PreconditionFailed")),
    "throttled 429": refusing(429, "TooManyRequests", Retry_After="1"),
    "broken 500": refusing(500, "InternalError"),
    "burst of 503": bursting(3, refusing(503, "SlowDown")),
    "full 507": on(lambda request: request.method == "PUT", refusing(507, "InsufficientStorage")),
    "success but lost": _lost,
    "error but applied": on(lambda request: request.writes, _applied),
    "applied, not answered": on(lambda request: request.writes, _not_answered),
    "request handled twice": on(lambda request: request.writes, _twice),
    "truncated body": on(lambda request: request.method == "GET" and request.reads, _truncated),
    "bit flip in what is read": on(lambda request: request.method == "GET" and request.reads, _flipped_answer),
    "bit flip in what is written": on(_has_body, _flipped_request),
    "another object's bytes": on(lambda request: request.method == "GET" and request.reads, _other_object),
    "empty list page": on(lambda request: request.lists, _empty_page),
    "partial list page": on(lambda request: request.lists, _partial_page),
    "broken list page": on(lambda request: request.lists, _broken_page),
}
"""Every fault by its name, beside refused connections, which :meth:`FaultyHttp.refuse` makes."""


@asynccontextmanager
async def faulty_http(target_port: int) -> AsyncIterator[FaultyHttp]:
    """Start a proxy in front of an HTTP server on a loopback port; it passes everything until told otherwise."""
    proxy = FaultyHttp(target_port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
