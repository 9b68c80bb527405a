"""Services that are not what they should be, the same for every kind that speaks HTTP: no kind believes them.

A server in the test answers as told. Each attempt must end soon, with one line that says what to do; no other server is
asked anything, and none sees a secret.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import web

from cdir.errors import CdirError, ConfigInvalid, NotFound, ProviderUnavailable, Unauthenticated
from cdir_adapters.adapter import Adapter, ByteRange
from cdir_adapters.registry import open_adapter
from cdir_adapters.testing.trial import MODIFIED
from servers.certificates import self_signed
from servers.gcs import GcsServer
from servers.one_answer import serving
from servers.process import free_port

MIB = 1024 * 1024
HANG_SECONDS = 60.0
SECRET = "c2VjcmV0LW9mLXRoZS10ZXN0"
TOKEN = "token-of-the-test"

Answers = Callable[[web.BaseRequest], web.StreamResponse | Awaitable[web.StreamResponse]]


def _s3(url: str) -> dict[str, str]:
    return {"bucket": "files", "endpoint": url, "access_key": "accesskey", "secret_key": SECRET}


def _gcs(url: str) -> dict[str, str]:
    credentials = {**json.loads(GcsServer().credentials), "token_uri": f"{url}/token"}
    return {"bucket": "files", "endpoint": url, "credentials": json.dumps(credentials)}


@dataclass(frozen=True)
class Kind:
    """A kind of provider at a service at some URL."""

    kind: str
    options: Callable[[str], dict[str, str]]

    def open(self, url: str, ca_file: Path | None = None) -> Adapter:
        """An adapter for the service there."""
        options = self.options(url)
        return open_adapter(self.kind, "x", options if ca_file is None else {**options, "ca_file": str(ca_file)})


KINDS = {
    "s3": Kind("s3", _s3),
    "s3 with a token": Kind("s3", lambda url: {**_s3(url), "session_token": TOKEN}),
    "swift": Kind(
        "swift", lambda url: {"container": "files", "auth_url": f"{url}/auth/v1.0", "user": "a:b", "key": SECRET}
    ),
    "azure": Kind(
        "azure", lambda url: {"container": "files", "endpoint": f"{url}/acc", "account": "acc", "key": SECRET}
    ),
    "gcs": Kind("gcs", _gcs),
    "webdav": Kind("webdav", lambda url: {"url": f"{url}/files", "user": "user", "password": SECRET}),
}

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def signing_in(request: web.BaseRequest) -> web.Response | None:
    """What a good service answers to a sign-in; ``None`` for any other request."""
    if request.path == "/auth/v1.0":
        url = f"{'https' if request.secure else 'http'}://{request.host}/v1/AUTH_a"
        return web.Response(headers={"X-Storage-Url": url, "X-Auth-Token": TOKEN})
    if request.path == "/token":
        return web.json_response({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})
    return None


def after_signing_in(answer: Answers) -> Answers:
    """The sign-in works, and everything else is answered so."""
    return lambda request: signing_in(request) or answer(request)


async def _listed(adapter: Adapter) -> list[str]:
    return [info.key async for page in adapter.list("", recursive=True) for info in page.objects]


async def _pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield bytes(MIB)


def attempts(adapter: Adapter) -> dict[str, Callable[[], Awaitable[object]]]:
    """Every way to ask."""
    return {
        "check": adapter.check,
        "prepare": adapter.prepare,
        "list": lambda: _listed(adapter),
        "write large": lambda: adapter.write("large", _pieces(20), size=20 * MIB, modified=MODIFIED),
        "stat": lambda: adapter.stat("object"),
        "fetch": lambda: adapter.fetch("object"),
        "fetch a range": lambda: adapter.fetch("object", range=ByteRange(0, 7)),
        "write": lambda: adapter.write("object", b"content", size=7, modified=MODIFIED),
        "copy": lambda: adapter.copy("object", "other"),
        "delete": lambda: adapter.delete("object"),
    }


async def refused(attempt: Callable[[], Awaitable[object]], what: str) -> CdirError:
    """Make an attempt that fails, soon and with one line without a secret."""
    with pytest.raises(CdirError) as caught:
        async with asyncio.timeout(HANG_SECONDS):
            await attempt()
    said = str(caught.value)
    assert "\n" not in said, what
    assert SECRET not in said, what
    assert TOKEN not in said, what
    return caught.value


# ---------------------------------------------------------------------- certificates


@every_kind
@pytest.mark.parametrize("trusted", [pytest.param(False, marks=pytest.mark.slow), True])
async def test_certificate_that_has_expired(kind: Kind, trusted: bool, tmp_path: Path) -> None:
    """That it is one's own authority's makes no difference."""
    certificate = self_signed(tmp_path / "certificate.pem", expired=True)
    async with serving(lambda _: web.Response(), certificate=certificate) as (url, asked):
        async with kind.open(url, certificate if trusted else None) as adapter:
            for what, attempt in attempts(adapter).items():
                error = await refused(attempt, what)
                assert isinstance(error, ConfigInvalid), (what, error)
                assert "certificate" in str(error), what
        assert asked == []


@every_kind
async def test_certificate_that_nobody_trusts(kind: Kind, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path / "certificate.pem")
    async with serving(after_signing_in(lambda _: web.Response(status=503)), certificate=certificate) as (url, asked):
        async with kind.open(url) as adapter:
            for what, attempt in attempts(adapter).items():
                error = await refused(attempt, what)
                assert isinstance(error, ConfigInvalid), (what, error)
                assert "ca_file" in str(error), what
        assert asked == []
        async with kind.open(url, certificate) as adapter:
            for what, attempt in attempts(adapter).items():
                # the service is reached, and says that it is not there for anybody
                assert "503" in str(await refused(attempt, what)), what
        assert asked


@every_kind
async def test_file_of_certificates_that_cannot_be_read(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for path in (tmp_path / "empty.pem", tmp_path / "missing.pem"):
        async with kind.open("https://127.0.0.1:9", path) as adapter:
            error = await refused(adapter.check, path.name)
            assert isinstance(error, ConfigInvalid)
            assert "ca_file" in str(error)


# ---------------------------------------------------------------------- redirects


@every_kind
@pytest.mark.parametrize(
    "status", [*(pytest.param(status, marks=pytest.mark.slow) for status in (301, 302, 303, 308)), 307]
)
async def test_redirect_to_another_host(kind: Kind, status: int) -> None:
    async with serving(lambda _: web.Response(headers={"ETag": '"1"'}, body=b"stolen")) as (theirs, stolen):
        theirs = theirs.replace("127.0.0.1", "localhost")

        def away(request: web.BaseRequest) -> web.Response:
            return web.Response(status=status, headers={"Location": f"{theirs}{request.raw_path}"})

        for answer in (after_signing_in(away), away):
            async with serving(answer) as (url, _), kind.open(url) as adapter:
                for what, attempt in attempts(adapter).items():
                    error = await refused(attempt, what)
                    assert isinstance(error, ConfigInvalid), (what, error)
        assert stolen == []


@every_kind
async def test_redirect_out_of_tls(kind: Kind, tmp_path: Path) -> None:
    """Not even to the same host: who listens on the way would see everything."""
    certificate = self_signed(tmp_path / "certificate.pem")
    async with serving(lambda _: web.Response(headers={"ETag": '"1"'}, body=b"in the clear")) as (plain, heard):

        def away(request: web.BaseRequest) -> web.Response:
            return web.Response(status=307, headers={"Location": f"{plain}{request.raw_path}"})

        for answer in (after_signing_in(away), away):
            async with (
                serving(answer, certificate=certificate) as (url, _),
                kind.open(url, certificate) as adapter,
            ):
                for what, attempt in attempts(adapter).items():
                    error = await refused(attempt, what)
                    assert isinstance(error, ConfigInvalid), (what, error)
        assert heard == []


# ---------------------------------------------------------------------- other people's credentials


@every_kind
async def test_credentials_that_were_not_given_to_the_provider(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the user keeps for other programs go to no service, and do not take the place of the given ones."""
    kept = tmp_path / "netrc"
    kept.write_text("default login somebody password from-netrc\n")
    kept.chmod(0o600)
    monkeypatch.setenv("NETRC", str(kept))
    theirs = base64.b64encode(b"somebody:from-netrc").decode()
    async with serving(after_signing_in(lambda _: web.Response(status=503))) as (url, asked), kind.open(url) as adapter:
        for what, attempt in attempts(adapter).items():
            asked.clear()
            await refused(attempt, what)
            assert asked, what
            for request in asked:
                assert theirs not in str(dict(request.headers)), what


# ---------------------------------------------------------------------- answers that are none


@every_kind
@pytest.mark.parametrize(
    ("status", "length"),
    [
        (403, None),
        *(pytest.param(status, None, marks=pytest.mark.slow) for status in (400, 404, 500)),
        *(pytest.param(status, 1024 * MIB, marks=pytest.mark.slow) for status in (400, 403, 404, 500)),
    ],
)
async def test_body_of_an_error_that_is_too_long(kind: Kind, status: int, length: int | None) -> None:
    sent = 0

    async def drown(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=status, headers={"Content-Type": "application/xml"})
        response.content_length = length
        await response.prepare(request)
        with suppress(ConnectionError):
            while request.method != "HEAD" and (length is None or sent < length):
                await response.write(b"x" * 65_536)
                sent += 65_536
        return response

    async with serving(after_signing_in(drown)) as (url, _), kind.open(url) as adapter:
        for what, attempt in attempts(adapter).items():
            sent = 0
            await refused(attempt, what)
            # what lies in buffers of the network, and is not kept by anybody
            assert sent < 32 * MIB, what


@every_kind
@pytest.mark.parametrize("status", [200, 404])
async def test_page_of_something_else(kind: Kind, status: int) -> None:
    """What is no service of the kind is not an empty one."""
    page = "<!DOCTYPE html><html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>"

    def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status, text=page, content_type="text/html")

    async with serving(answer) as (url, _), kind.open(url) as adapter:
        for what in ("check", "list"):
            error = await refused(attempts(adapter)[what], what)
            assert not isinstance(error, NotFound) or what == "check", (what, error)


@every_kind
async def test_nothing_at_the_address(kind: Kind) -> None:
    for url in (f"http://127.0.0.1:{free_port()}", "https://nowhere.invalid"):
        async with kind.open(url) as adapter:
            for what, attempt in attempts(adapter).items():
                error = await refused(attempt, what)
                assert isinstance(error, ProviderUnavailable), (what, error)
                assert "cannot be reached" in str(error), what


# ---------------------------------------------------------------------- clocks


def _says_too_skewed(_: web.BaseRequest) -> web.Response:
    """As Amazon does."""
    said = "The difference between the request time and the current time is too large."
    body = f"<Error><Code>RequestTimeTooSkewed</Code><Message>{said}</Message></Error>"
    return web.Response(status=403, text=body, content_type="application/xml")


def _says_not_in_time(_: web.BaseRequest) -> web.Response:
    """As Google's sign-in does."""
    said = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat"
    return web.json_response({"error": "invalid_grant", "error_description": said}, status=400)


def _says_not_authenticated(_: web.BaseRequest) -> web.Response:
    """As Azure does of a date that is too far away, too."""
    return web.Response(status=403, headers={"x-ms-error-code": "AuthenticationFailed"})


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("s3", _says_too_skewed),
        ("s3 with a token", _says_too_skewed),
        ("azure", _says_not_authenticated),
        ("gcs", _says_not_in_time),
    ],
)
async def test_clock_that_is_a_day_off(name: str, answer: Answers) -> None:
    async with serving(answer) as (url, _), KINDS[name].open(url) as adapter:
        for what, attempt in attempts(adapter).items():
            if what in {"stat", "copy"} and name.startswith("s3"):
                continue  # begins with a HEAD, whose answer has no body that could say why
            error = await refused(attempt, what)
            assert isinstance(error, Unauthenticated), (what, error)
            assert "clock" in str(error), what


# ---------------------------------------------------------------------- listings

HOSTILE = (
    *("../up", "folder/../../up", "/rooted", "//host/share", "http://127.0.0.1/elsewhere", "a//b"),
    *("./here", "folder/.", "..", ".", "nul\x00"),
)
GOOD = ("one", "two", "zwölf")


def _s3_page(names: list[str]) -> str:
    rows = "".join(
        f"<Contents><Key>{quote(name)}</Key><Size>1</Size><ETag>&quot;1&quot;</ETag>"
        "<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
        for name in names
    )
    return (
        "<ListBucketResult><Name>files</Name><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
        f"{rows}</ListBucketResult>"
    )


def _azure_page(names: list[str]) -> str:
    rows = "".join(
        f'<Blob><Name Encoded="true">{quote(name)}</Name><Properties><Content-Length>1</Content-Length><Etag>1</Etag>'
        "<Last-Modified>Mon, 01 Jan 2024 00:00:00 GMT</Last-Modified><BlobType>BlockBlob</BlobType></Properties></Blob>"
        for name in names
    )
    return f'<EnumerationResults ContainerName="files"><Blobs>{rows}</Blobs><NextMarker/></EnumerationResults>'


def _gcs_page(names: list[str]) -> str:
    when = "2024-01-01T00:00:00.000Z"
    rows = [{"name": name, "size": "1", "generation": "1", "updated": when, "timeCreated": when} for name in names]
    return json.dumps({"kind": "storage#objects", "items": rows})


def _swift_page(names: list[str]) -> str:
    when = "2024-01-01T00:00:00.000000"
    return json.dumps([{"name": name, "bytes": 1, "hash": "1", "last_modified": when} for name in names])


def _dav_page(names: list[str]) -> str:
    def row(href: str, kind: str) -> str:
        properties = f"<d:resourcetype>{kind}</d:resourcetype><d:getcontentlength>1</d:getcontentlength>"
        return (
            f"<d:response><d:href>{escape(href)}</d:href><d:propstat><d:prop>{properties}</d:prop>"
            "<d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>"
        )

    rows = "".join(row(f"/files/{quote(name)}", "") for name in names)
    return f'<d:multistatus xmlns:d="DAV:">{row("/files/", "<d:collection/>")}{rows}</d:multistatus>'


PAGES: Mapping[str, tuple[int, Callable[[list[str]], str]]] = {
    "s3": (200, _s3_page),
    "azure": (200, _azure_page),
    "gcs": (200, _gcs_page),
    "swift": (200, _swift_page),
    "webdav": (207, _dav_page),
}


@asynccontextmanager
async def listing(name: str, names: list[str]) -> AsyncIterator[Adapter]:
    """A service of that kind whose only page holds what ``names`` does at the moment."""
    status, page = PAGES[name]

    def answer(request: web.BaseRequest) -> web.Response:
        if signed_in := signing_in(request):
            return signed_in
        told = [] if "marker=" in request.raw_path else names
        kind = "application/json" if name in {"gcs", "swift"} else "application/xml"
        return web.Response(status=status, text=page(told), content_type=kind)

    async with serving(answer) as (url, _), KINDS[name].open(url) as adapter:
        yield adapter


@pytest.mark.parametrize("name", PAGES)
async def test_listing_with_hostile_names(name: str) -> None:
    """They are left out, or the listing is none; in no case does a key lead out of the root."""
    names = [*GOOD]
    async with listing(name, names) as adapter:
        assert sorted(await _listed(adapter)) == sorted(GOOD)
        for hostile in HOSTILE:
            names[:] = sorted([*GOOD, hostile], key=str.encode)
            found: list[str] = []
            with suppress(ProviderUnavailable):
                found = await _listed(adapter)
            for key in found:
                assert not {"", ".", "..", "up", "elsewhere"} & set(key.split("/")), (hostile, key)
                assert "\0" not in key, (hostile, key)


@pytest.mark.parametrize("name", PAGES)
async def test_listing_that_names_an_object_twice(name: str) -> None:
    async with listing(name, ["one", "one", "two", "two"]) as adapter:
        found = await _listed(adapter)
    assert found == ["one", "two"]
