"""The kind ``webdav`` and what servers, people and enemies say to it: answers, listings, options."""

import base64
import functools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web

from cdir.errors import (
    CdirError,
    ConfigInvalid,
    InvalidArgument,
    InvalidPath,
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
from cdir_adapters.adapter import ByteRange
from cdir_adapters.providers.webdav import WebdavAdapter
from cdir_adapters.providers.webdav.faults import Fault, Faults
from cdir_adapters.providers.webdav.multistatus import MultistatusError, MultistatusParser, Response
from cdir_adapters.providers.webdav.settings import PROFILES
from cdir_adapters.registry import find_kind
from servers.one_answer import serving

Open = Callable[..., WebdavAdapter]
Options = Mapping[str, str | int | bool]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens adapters that are closed in the end; an option given as ``None`` is left out."""
    async with AsyncExitStack() as stack:

        def open_adapter(options: Options, **changes: str | int | bool | None) -> WebdavAdapter:
            given = {name: value for name, value in {**options, **changes}.items() if value is not None}
            adapter = WebdavAdapter("dav", given)
            stack.push_async_callback(adapter.aclose)
            return adapter

        yield open_adapter


async def keys_of(adapter: WebdavAdapter, prefix: str = "") -> list[str]:
    return sorted([info.key async for page in adapter.list(prefix, recursive=True) for info in page.objects])


def multistatus(*hrefs: str, size: str = "1") -> str:
    """A listing of ``/dav/`` with files of those names; the folder itself is part of it."""
    files = "".join(
        f"<response><href>{href}</href><propstat><prop><resourcetype/><getcontentlength>{size}</getcontentlength>"
        "</prop><status>HTTP/1.1 200 OK</status></propstat></response>"
        for href in hrefs
    )
    itself = (
        "<response><href>/dav/</href><propstat><prop><resourcetype><collection/></resourcetype></prop>"
        "<status>HTTP/1.1 200 OK</status></propstat></response>"
    )
    return f'<?xml version="1.0"?><multistatus xmlns="DAV:">{itself}{files}</multistatus>'


async def listed(opened: Open, document: str | bytes) -> list[str]:
    body = document.encode() if isinstance(document, str) else document
    async with serving(lambda _: web.Response(status=207, body=body, content_type="application/xml")) as (url, _):
        return await keys_of(opened({"url": f"{url}/dav"}))


async def test_listing_of_names_in_every_form(opened: Open) -> None:
    document = multistatus(
        "/dav/plain",
        "/dav/plain",  # twice
        "http://elsewhere.example/dav/absolute",
        "//dav.example:8080/dav/without%20scheme",
        "/dav//doubled",
        "/dav/%C3%A9?x#y",
        "/dav/line%0Abreak",
        "/dav/latin%E9",
        "/dav/slash%2Fin",
    )
    assert await listed(opened, document) == sorted(
        ["plain", "absolute", "without scheme", "doubled", "é?x#y"], key=str.encode
    )


@pytest.mark.parametrize(
    "href",
    [
        "/dav/../x",
        "/dav/..",
        "/dav/%2E%2E",
        "/dav/.",
        "../x",
        "x",
        "/other/x",
        "/",
        "http://elsewhere.example/x",
        "/dav/folder/deeper",
        "/davx",
        "file:///etc/passwd",
    ],
)
async def test_listing_of_what_lies_elsewhere_is_an_error(href: str, opened: Open) -> None:
    with pytest.raises(ProviderUnavailable, match="does not lie in the folder"):
        await listed(opened, multistatus("/dav/good", href))


async def test_listing_in_another_case(opened: Open) -> None:
    """Servers that do not tell case apart may show the folder as somebody else has written it."""
    body = multistatus("/DAV/x").replace("/dav/", "/DAV/")
    async with serving(lambda _: web.Response(status=207, text=body, content_type="application/xml")) as (url, _):
        assert await keys_of(opened({"url": f"{url}/dav", "profile": "koofr"})) == ["x"]
        with pytest.raises(ProviderUnavailable):
            await keys_of(opened({"url": f"{url}/dav"}))


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    "document",
    [
        "",
        "no XML",
        "<multistatus/>",
        '<multistatus xmlns="DAV:"/>',
        multistatus("/dav/x")[:-1],
        multistatus("/dav/x").replace("<collection/>", ""),
        multistatus("/dav/x").replace("<href>/dav/x</href>", "<href>/dav/x</href><status>HTTP/1.1 500 x</status>"),
        multistatus("/dav/x").replace("</response></multistatus>", ""),
        multistatus("/dav/x") + "<more/>",
        multistatus("/dav/x").replace("/dav/</href>", "/dav/y</href>"),
        multistatus("/dav/x", size="-1"),
        multistatus("/dav/x", size="many"),
        multistatus("/dav/x", size="9" * 5000),
        multistatus("/dav/x").replace("200 OK", "fine"),
        multistatus("/dav/x").replace("<multistatus xmlns", f"{BOMB}<multistatus xmlns").replace("/dav/x", "/dav/&b;"),
        multistatus("/dav/x").replace("<multistatus xmlns", f"{OUTSIDE}<multistatus xmlns").replace("/dav/x", "&a;"),
        multistatus("/dav/" + "x" * 200_000),
        multistatus("/dav/x").replace("<resourcetype/>", "<a>" * 100 + "</a>" * 100),
        multistatus("/dav/x").replace('xmlns="DAV:"', f'xmlns="DAV:" a="{"x" * 1_500_000}"'),
        multistatus("/dav/x").replace('version="1.0"', 'version="1.0" encoding="martian"'),
        b'<multistatus xmlns="DAV:"><response>\xff\xfe</response></multistatus>',
    ],
    ids=lambda document: repr(document[:40] if len(document) < 2000 else f"{document[:40]}…"),
)
async def test_listing_that_is_none(document: str | bytes, opened: Open) -> None:
    with pytest.raises(ProviderUnavailable):
        await listed(opened, document)


def parsed(document: str, step: int) -> list[Response]:
    parser, data = MultistatusParser(), document.encode()
    found = [response for start in range(0, len(data), step) for response in parser.feed(data[start : start + step])]
    parser.close()
    return found


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_multistatus_in_pieces(step: int) -> None:
    document = (
        '<D:multistatus xmlns:D="DAV:" xmlns:o="http://owncloud.org/ns"><D:response><D:href>/a%20b/</D:href>'
        "<D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype><o:checksums><o:checksum>SHA1:00 MD5:11"
        "</o:checksum></o:checksums><D:unknown><D:deep>x</D:deep></D:unknown></D:prop><D:status>HTTP/1.1 200 OK"
        "</D:status></D:propstat><D:propstat><D:prop><D:getetag/></D:prop><D:status>HTTP/1.1 404 Not Found</D:status>"
        "</D:propstat></D:response><D:response><D:href>/gone</D:href><D:status>HTTP/1.1 404 Not Found</D:status>"
        "</D:response></D:multistatus>"
    )
    folder, gone = parsed(document, step)
    assert (folder.href, folder.collection, folder.status) == ("/a%20b/", True, None)
    assert folder.properties["checksums"] == "SHA1:00 MD5:11"
    assert folder.refused == {"getetag": 404}
    assert (gone.href, gone.status, gone.collection) == ("/gone", 404, False)


def test_multistatus_without_end_is_not_kept() -> None:
    parser = MultistatusParser()
    parser.feed(b'<multistatus xmlns="DAV:"><!-- ')

    def feed() -> None:
        for _ in range(1000):
            parser.feed(b"x" * 65536)

    with pytest.raises(MultistatusError):
        feed()


async def test_page_of_a_folder_is_no_file(opened: Open) -> None:
    """Several servers answer GET of a folder with a page for people, and status 200."""

    def answer(request: web.BaseRequest) -> web.Response:
        if request.method == "GET":
            return web.Response(text="<html>Index of /dav</html>", content_type="text/html")
        return web.Response(status=207, text=multistatus(), content_type="application/xml")

    async with serving(answer) as (url, _):
        with pytest.raises(CdirError, match="is a folder"):
            await opened({"url": f"{url}/dav"}).fetch("folder")


def part_of_five(headers: Mapping[str, str], _: web.BaseRequest) -> web.Response:
    return web.Response(status=206, body=b"01234", headers=headers)


async def test_range_that_a_server_ignores_or_mistakes(opened: Open) -> None:
    async with serving(lambda _: web.Response(body=b"0123456789", headers={"ETag": '"1"'})) as (url, _):
        adapter = opened({"url": url})
        assert (await adapter.fetch("file", range=ByteRange(3, 4))).data == b"3456"
        assert (await adapter.fetch("file", range=ByteRange(8))).data == b"89"
    for stated in ("bytes 0-4/10", "bytes 3-6", f"bytes 3-6/{'9' * 5000}"):
        headers = {"ETag": '"1"', "Content-Range": stated}
        async with serving(functools.partial(part_of_five, headers)) as (url, _):
            with pytest.raises(ProviderUnavailable):
                await opened({"url": url}).fetch("file", range=ByteRange(3, 4))


# ---------------------------------------------------------------------- options and messages


def test_every_profile_can_be_chosen() -> None:
    assert set(find_kind("webdav").option("profile").choices) == set(PROFILES)


def test_no_secret_is_shown() -> None:
    for auth in ({"user": "me", "password": "s3cr3t"}, {"token": "s3cr3t"}):
        adapter = WebdavAdapter("dav", {"url": "https://host/dav", **auth})
        assert "s3cr3t" not in repr(adapter) + repr(adapter.info) + repr(vars(adapter))


async def test_secret_that_a_server_repeats_is_not_shown(opened: Open) -> None:
    said = "<error><message>s3cr3t is wrong</message></error>"
    async with serving(lambda _: web.Response(status=401, text=said)) as (url, asked):
        with pytest.raises(Unauthenticated) as caught:
            await opened({"url": url, "user": "me", "password": "s3cr3t"}).check()
    assert "s3cr3t" not in caught.value.message
    assert asked[0].headers["Authorization"] == f"Basic {base64.b64encode(b'me:s3cr3t').decode()}"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"url": "host/dav"},
        {"url": "ftp://host/dav"},
        {"url": "http://host:port/dav"},
        {"url": "https://me:secret@host/dav"},
        {"url": "https://host/dav?x=secret"},
        {"url": "https://host/dav/../x"},
        {"url": "https://host/dav", "user": "only-half"},
        {"url": "https://host/dav", "password": "secret"},
        {"url": "https://host/dav", "user": "me", "password": "secret", "token": "secret"},
        {"url": "https://host/dav", "user": "a:b", "password": "secret"},
        {"url": "https://host/dav", "token": "sec\nret"},
        {"url": "https://host/dav", "profile": "unheard-of"},
        {"url": "https://host/dav", "profile": "nextcloud"},
    ],
)
def test_options_that_cannot_be(options: Options) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        WebdavAdapter("dav", options)
    assert "secret" not in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InvalidArgument),
        (401, Unauthenticated),
        (403, PermissionDenied),
        (404, NotFound),
        (405, Unsupported),
        (408, ProviderUnavailable),
        (410, NotFound),
        (411, Unsupported),
        (412, PreconditionFailed),
        (413, InvalidPath),
        (423, ProviderUnavailable),
        (425, ProviderUnavailable),
        (429, RateLimited),
        (500, ProviderUnavailable),
        (501, Unsupported),
        (503, ProviderUnavailable),
        (507, QuotaExceeded),
        (509, ProviderUnavailable),
        (302, ConfigInvalid),
        (200, ProviderUnavailable),
    ],
)
def test_answers_become_errors(status: int, expected: type[CdirError]) -> None:
    body = b"<d:error><s:message xmlns:s='x'>a\n &lt;word&gt;&#27;</s:message></d:error>"
    fault = Fault.of(status, {"Retry-After": "7"}, body)
    error = Faults("dav", "https://host").error(fault, "testing", "key")
    assert type(error) is expected
    assert error.retry_after == (7.0 if error.retry is Retry.LATER else None)
    assert "a <word>" in error.message
    assert error.message.isprintable()


def test_time_to_wait_may_be_a_date() -> None:
    until = datetime.now(UTC) + timedelta(seconds=100)
    found = Fault.of(503, {"Retry-After": format_datetime(until, usegmt=True)}).retry_after
    assert found is not None
    assert 90 < found <= 100
    for text in ("soon", "inf", "-1", "9" * 5000):
        assert Fault.of(503, {"Retry-After": text}).retry_after is None
