"""The kind ``webdav`` when servers, networks and what they say are not as they should be."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cdir.errors import (
    CdirError,
    ConfigInvalid,
    DirectoryNotEmpty,
    IntegrityError,
    InvalidPath,
    NotFound,
    PreconditionFailed,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    Retry,
    Unauthenticated,
)
from cdir_adapters.adapter import ByteRange, ObjectKind
from cdir_adapters.layers.retry import RetryAdapter, RetrySettings
from cdir_adapters.providers.webdav import WebdavAdapter
from cdir_adapters.testing.trial import MIB, MODIFIED, failing, pattern, stalling, stream
from servers import apache_dav, rclone_webdav, wsgidav_server
from servers.apache_dav import ApacheDavServer, apache_dav_server
from servers.faulty_http import Answer, FaultyHttp, Request, faulty_http, on, refusing
from servers.faulty_http import Fault as FaultOfProxy
from servers.faulty_proxy import faulty_proxy
from servers.nextcloud_dav import NextcloudServer, nextcloud_server
from servers.one_answer import serving
from servers.process import free_port
from servers.rclone_webdav import RcloneWebdavServer, rclone_webdav_server
from servers.requirement import require

pytestmark = pytest.mark.slow

Open = Callable[..., WebdavAdapter]
Options = Mapping[str, str | int | bool]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rclone() -> AsyncIterator[RcloneWebdavServer]:
    require(rclone_webdav)
    async with rclone_webdav_server() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def apache() -> AsyncIterator[ApacheDavServer]:
    require(apache_dav)
    async with apache_dav_server() as server:
        yield server


@pytest.fixture
async def nextcloud() -> AsyncIterator[NextcloudServer]:
    async with nextcloud_server() as server:
        yield server


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


@asynccontextmanager
async def behind(options: Options, opened: Open) -> AsyncIterator[tuple[WebdavAdapter, FaultyHttp]]:
    """An adapter on a server behind a proxy that misbehaves when told to."""
    origin, _, path = str(options["url"]).removeprefix("http://").partition("/")
    async with faulty_http(int(origin.rpartition(":")[2])) as proxy:
        adapter = opened(options, url=f"{proxy.endpoint}/{path}")
        await adapter.prepare()
        yield adapter, proxy


async def put(adapter: WebdavAdapter, key: str, data: bytes) -> None:
    await adapter.write(key, data, size=len(data), modified=MODIFIED)


async def get(adapter: WebdavAdapter, key: str) -> bytes:
    return (await adapter.fetch(key)).data


async def keys_of(adapter: WebdavAdapter, prefix: str = "") -> list[str]:
    return sorted([info.key async for page in adapter.list(prefix, recursive=True) for info in page.objects])


def method(*names: str) -> Callable[[Request], bool]:
    return lambda request: request.method in names


LARGE = pattern(25 * MIB + 3)
"""More than one chunk takes: two and a rest."""


# ---------------------------------------------------------------------- chunks


@pytest.mark.parametrize("size", [len(LARGE), None])
@pytest.mark.parametrize("computes", [False, True])
async def test_large_files_go_in_chunks(size: int | None, computes: bool, opened: Open) -> None:
    async with nextcloud_server(computes_checksums=computes) as server:
        adapter = opened(server.options("a b"))
        await adapter.prepare()
        written = await adapter.write("new/large", stream(LARGE, 4 * MIB), size=size, modified=MODIFIED)
        assert (written.size, written.modified) == (len(LARGE), MODIFIED.replace(microsecond=0))
        assert (written.checksum is not None) == computes
        assert server.get("a b/new/large") == LARGE
        chunks = [path.rpartition("/")[2] for verb, path in server.requests if verb == "PUT"]
        assert chunks == ["00001", "00002", "00003"]
        assert server.uploads() == []
        assert server.nodes["/remote.php/dav/files/me/a b/new/large"].checksum.startswith("SHA1:")


async def test_failed_upload_leaves_the_old_file_and_nothing_else(nextcloud: NextcloudServer, opened: Open) -> None:
    adapter = opened(nextcloud.options("x"))
    await adapter.prepare()
    await put(adapter, "file", b"old")
    error = ConnectionResetError("of the source")
    with pytest.raises(ConnectionResetError) as caught:
        await adapter.write("file", failing(LARGE, error), size=len(LARGE) + 1, modified=MODIFIED)
    assert caught.value is error
    for wrong in (len(LARGE) - 1, len(LARGE) + 1):
        with pytest.raises(IntegrityError):
            await adapter.write("file", stream(LARGE), size=wrong, modified=MODIFIED)
    reached = asyncio.Event()
    write = asyncio.ensure_future(
        adapter.write("file", stalling(LARGE, reached), size=len(LARGE) + 1, modified=MODIFIED)
    )
    await reached.wait()
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    assert nextcloud.get("x/file") == b"old"
    assert nextcloud.uploads() == []


async def test_conditions_hold_for_large_files(nextcloud: NextcloudServer, opened: Open) -> None:
    adapter = opened(nextcloud.options("x"))
    await adapter.prepare()
    first = await adapter.write("file", stream(LARGE), size=len(LARGE), modified=MODIFIED)
    await adapter.write("file", b"second", size=6, modified=MODIFIED, if_match=first.etag)
    with pytest.raises(PreconditionFailed):
        await adapter.write("file", stream(LARGE), size=len(LARGE), modified=MODIFIED, if_match=first.etag)
    with pytest.raises(PreconditionFailed):
        await adapter.delete("file", if_match=first.etag)
    assert nextcloud.get("x/file") == b"second"
    assert nextcloud.uploads() == []


async def test_credentials_that_expire_in_the_middle(nextcloud: NextcloudServer, opened: Open) -> None:
    adapter = opened(nextcloud.options("x"))
    await adapter.prepare()
    await put(adapter, "file", b"old")
    valid = nextcloud.password

    async def source() -> AsyncIterator[bytes]:
        yield LARGE[: 15 * MIB]
        nextcloud.password = "another"
        yield LARGE[15 * MIB :]

    with pytest.raises(Unauthenticated) as caught:
        await adapter.write("file", source(), size=len(LARGE), modified=MODIFIED)
    assert valid not in caught.value.message
    nextcloud.password = valid
    assert nextcloud.get("x/file") == b"old"
    assert await adapter.sweep(24 * 3600.0) == 0
    assert await adapter.sweep(-60.0) == 1  # the chunk that could not be taken back
    assert nextcloud.uploads() == []


# ---------------------------------------------------------------------- the network


async def test_killed_server_leaves_the_old_file_and_recovers(opened: Open) -> None:
    require(rclone_webdav)
    async with rclone_webdav_server() as server:
        adapter = opened(server.options("x"))
        await adapter.prepare()
        await put(adapter, "folder/file", b"old")

        async def source() -> AsyncIterator[bytes]:
            yield LARGE
            await server.kill()
            yield LARGE

        with pytest.raises(ProviderUnavailable) as caught:
            await adapter.write("folder/file", source(), size=2 * len(LARGE), modified=MODIFIED)
        assert caught.value.retry is Retry.LATER
        for attempt in (adapter.stat("folder/file"), adapter.fetch("folder/file"), anext(adapter.list(""))):
            with pytest.raises(ProviderUnavailable):
                await attempt
        assert (server.root / "x/folder/file").read_bytes() == b"old"
        await server.restart()
        assert await keys_of(adapter) == ["folder/file"]
        await adapter.write("folder/file", stream(LARGE), size=len(LARGE), modified=MODIFIED)
        assert (await adapter.stat("folder/file")).size == len(LARGE)
        await adapter.sweep(-60.0)
        assert [path.name for path in (server.root / "x/folder").iterdir()] == ["file"]


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("kind", ["apache", "rclone"])
async def test_broken_connections(
    reset: bool, kind: str, apache: ApacheDavServer, rclone: RcloneWebdavServer, opened: Open
) -> None:
    server = apache if kind == "apache" else rclone
    data = pattern(3 * MIB)
    async with faulty_proxy(server.port) as proxy:
        options = server.options(f"broken-{reset}")
        adapter = opened(options, url=str(options["url"]).replace(str(server.port), str(proxy.port)))
        await adapter.prepare()
        await put(adapter, "file", data)

        async def read() -> None:
            async with adapter.read("file") as opened_file:
                async for _ in opened_file:
                    pass

        proxy.reset = reset
        for attempt in (lambda: adapter.fetch("file"), lambda: adapter.fetch("file", range=ByteRange(MIB, MIB)), read):
            proxy.cut_answer_after = MIB // 2
            with pytest.raises(ProviderUnavailable):
                await attempt()
        proxy.cut_answer_after = None
        proxy.cut_request_after = MIB
        with pytest.raises(ProviderUnavailable):
            await put(adapter, "file", pattern(2 * MIB, 1))
        proxy.cut_request_after = 10 * MIB
        with pytest.raises(ProviderUnavailable):
            await adapter.write("file", stream(LARGE), size=len(LARGE), modified=MODIFIED)
        proxy.heal()
        assert await get(adapter, "file") == data
        assert await keys_of(adapter) == ["file"]


async def in_bursts(request: Request) -> Answer | web.StreamResponse:
    """Three requests are refused, then seven pass, again and again."""
    return await (request.forward() if request.proxy.met % 10 > 3 else refusing(503, "Busy")(request))


async def test_throttling_and_failures_pass(nextcloud: NextcloudServer, opened: Open) -> None:
    async with behind(nextcloud.options("x"), opened) as (adapter, proxy):
        await put(adapter, "file", b"old")
        proxy.break_by(refusing(429, "TooManyRequests", Retry_After="7"))
        for attempt in (
            adapter.stat("file"),
            adapter.fetch("file"),
            put(adapter, "file", b"x"),
            anext(adapter.list("")),
        ):
            with pytest.raises(RateLimited) as slowed:
                await attempt
            assert slowed.value.retry_after == 7.0
        for status in (500, 502, 503, 504, 509, 423):
            proxy.break_by(refusing(status, "Broken"))
            for attempt in (adapter.stat("file"), adapter.delete("file"), put(adapter, "file", b"x")):
                with pytest.raises(ProviderUnavailable) as caught:
                    await attempt
                assert caught.value.retry is Retry.LATER
        proxy.break_by(in_bursts)
        patient = RetryAdapter(adapter, RetrySettings(attempts=30, first_delay=0.01, longest_delay=0.02, budget=60.0))
        await patient.write("file", b"new", size=3, modified=MODIFIED)
        assert (await patient.fetch("file")).data == b"new"
        await proxy.heal()
        assert nextcloud.get("x/file") == b"new"


async def test_full_server(nextcloud: NextcloudServer, opened: Open) -> None:
    async with behind(nextcloud.options("x"), opened) as (adapter, proxy):
        await put(adapter, "file", b"old")
        proxy.break_by(on(method("PUT"), refusing(507, "InsufficientStorage")))
        for write in (put(adapter, "file", b"x"), adapter.write("file", stream(LARGE), size=None, modified=MODIFIED)):
            with pytest.raises(QuotaExceeded):
                await write
        await proxy.heal()
        assert nextcloud.get("x/file") == b"old"
        assert nextcloud.uploads() == []


def answering(status: int, **headers: str) -> FaultOfProxy:
    async def answer(_: Request) -> Answer:
        return Answer(status, headers)

    return answer


async def applied(request: Request) -> Answer:
    await request.forward()
    return Answer(500)


async def not_answered(request: Request) -> Answer:
    await request.forward()
    request.cut(reset=True)
    return Answer(500)


@pytest.mark.parametrize("verb", ["PUT", "MOVE"])
async def test_success_that_is_none_is_found_out(verb: str, rclone: RcloneWebdavServer, opened: Open) -> None:
    async with behind(rclone.options(f"lost-{verb}"), opened) as (adapter, proxy):
        await put(adapter, "file", b"old one")
        proxy.break_by(on(method(verb), answering(201)))
        for key in ("file", "new"):
            with pytest.raises(IntegrityError):
                await put(adapter, key, b"new")
        await proxy.heal()
        assert await get(adapter, "file") == b"old one"
        assert await keys_of(adapter) == ["file"]


async def test_success_that_is_none_is_found_out_of_direct_writes(nextcloud: NextcloudServer, opened: Open) -> None:
    async with behind(nextcloud.options("x"), opened) as (adapter, proxy):
        proxy.break_by(on(method("PUT", "MOVE"), answering(201)))
        for size in (3, len(LARGE)):
            with pytest.raises(IntegrityError):
                await adapter.write("new", stream(LARGE[:size]), size=size, modified=MODIFIED)


@pytest.mark.parametrize(("name", "fault"), [("applied", applied), ("lost", not_answered)])
@pytest.mark.parametrize("verb", ["PUT", "MOVE", "PROPFIND"])
async def test_failure_that_is_none(
    verb: str, name: str, fault: FaultOfProxy, rclone: RcloneWebdavServer, opened: Open
) -> None:
    async with behind(rclone.options(f"{name}-{verb}"), opened) as (adapter, proxy):
        await put(adapter, "file", b"old")
        proxy.break_by(on(method(verb), fault))
        for key in ("file", "new"):
            with pytest.raises(ProviderUnavailable):
                await put(adapter, key, b"newer")
        await proxy.heal()
        assert await get(adapter, "file") in {b"old", b"newer"}
        for key in ("file", "new"):
            await put(adapter, key, b"newest")
            assert await get(adapter, key) == b"newest"
        await adapter.sweep(-60.0)
        assert {path.name for path in (rclone.root / f"{name}-{verb}").iterdir()} == {"file", "new"}


async def test_move_that_breaks_off_in_its_middle_is_finished(rclone: RcloneWebdavServer, opened: Open) -> None:
    """The server deletes the old file and fails before the new one has its name."""
    async with behind(rclone.options("halfway"), opened) as (adapter, proxy):
        await put(adapter, "file", b"old")
        target = rclone.root / "halfway/file"

        async def halfway(request: Request) -> Answer:
            target.unlink()
            return Answer(500)

        proxy.break_by(on(lambda request: request.headers.get("Overwrite") == "T", halfway))
        with pytest.raises(ProviderUnavailable):
            await put(adapter, "file", b"new")
        await proxy.heal()
        assert await get(adapter, "file") == b"new"


async def test_condition_that_fails_brings_nothing_back(nextcloud: NextcloudServer, opened: Open) -> None:
    options = {**nextcloud.options("x"), "profile": "generic"}
    async with behind(options, opened) as (adapter, proxy):
        written = await adapter.write("file", b"old", size=3, modified=MODIFIED)
        await adapter.write("file", b"newer", size=5, modified=MODIFIED, if_match=written.etag)
        with pytest.raises(PreconditionFailed):
            await adapter.write("file", b"newest", size=6, modified=MODIFIED, if_match=written.etag)
        assert nextcloud.get("x/file") == b"newer"
        found = await adapter.stat("file")

        async def deleted_by_another(request: Request) -> Answer:
            del nextcloud.nodes["/remote.php/dav/files/me/x/file"]
            return await request.forward()

        proxy.break_by(on(method("MOVE"), deleted_by_another))
        with pytest.raises(PreconditionFailed):
            await adapter.write("file", b"newest", size=6, modified=MODIFIED, if_match=found.etag)
        await proxy.heal()
        assert [path for path in nextcloud.nodes if path.startswith("/remote.php/dav/files/me/x/")] == []


async def test_large_bytes_go_in_chunks(nextcloud: NextcloudServer, opened: Open) -> None:
    adapter = opened(nextcloud.options("x"))
    await adapter.prepare()
    await put(adapter, "file", LARGE)
    assert nextcloud.get("x/file") == LARGE
    with pytest.raises(IntegrityError):
        await adapter.write("file", LARGE, size=5, modified=MODIFIED)
    assert [path.rpartition("/")[2] for verb, path in nextcloud.requests if verb == "PUT"] == [
        "00001",
        "00002",
        "00003",
    ]
    assert nextcloud.uploads() == []


async def test_file_truncated_on_the_way_is_not_stored(rclone: RcloneWebdavServer, opened: Open) -> None:
    async with behind(rclone.options("truncated"), opened) as (adapter, proxy):
        await put(adapter, "file", b"old")

        async def truncate(request: Request) -> Answer:
            headers = {name: value for name, value in request.headers.items() if name.lower() != "content-length"}
            return await replace(request, body=request.body[:-1], headers=headers).forward()

        proxy.break_by(on(method("PUT"), truncate))
        with pytest.raises(IntegrityError):
            await put(adapter, "file", b"a new one")
        await proxy.heal()
        assert await get(adapter, "file") == b"old"
        assert await keys_of(adapter) == ["file"]


async def test_truncated_answers(nextcloud: NextcloudServer, opened: Open) -> None:
    async with behind(nextcloud.options("x"), opened) as (adapter, proxy):
        data = pattern(100_000)
        await put(adapter, "folder/file", data)

        async def half(request: Request) -> web.StreamResponse:
            answer = await request.forward()
            response = web.StreamResponse(status=answer.status, headers=answer.headers)
            response.headers["Content-Length"] = str(len(answer.body))
            await response.prepare(request.incoming)
            await response.write(answer.body[: len(answer.body) // 2])
            request.cut()
            return response

        async def shorter(request: Request) -> Answer:
            answer = await request.forward()
            return replace(answer, body=answer.body[: len(answer.body) // 2])

        for fault in (half, shorter):
            proxy.break_by(on(method("PROPFIND", "GET"), fault))
            for attempt in (adapter.stat("folder/file"), keys_of(adapter), keys_of(adapter, "folder"), adapter.usage()):
                with pytest.raises(ProviderUnavailable):
                    await attempt
            with pytest.raises((ProviderUnavailable, IntegrityError)):
                await adapter.fetch("folder/file", range=ByteRange(10, 90_000))


async def endless(request: Request) -> web.StreamResponse:
    response = web.StreamResponse(status=503)
    await response.prepare(request.incoming)
    transport = request.incoming.transport
    while transport is not None and not transport.is_closing():
        await response.write(b"x" * 65536)
    return response


async def test_error_without_end(nextcloud: NextcloudServer, opened: Open) -> None:
    async with behind(nextcloud.options("x"), opened) as (adapter, proxy):
        proxy.break_by(endless)
        async with asyncio.timeout(30):
            for attempt in (adapter.stat("file"), adapter.fetch("file"), put(adapter, "file", b"x"), keys_of(adapter)):
                with pytest.raises(ProviderUnavailable):
                    await attempt


# ---------------------------------------------------------------------- who is asked, and with what


async def test_wrong_credentials(apache: ApacheDavServer, rclone: RcloneWebdavServer, opened: Open) -> None:
    for server in (apache, rclone):
        await opened(server.options("credentials")).prepare()
        for changes in ({"password": "not-the-secret"}, {"user": "nobody"}, {"user": None, "password": None}):
            adapter = opened(server.options("credentials"), **changes)
            for attempt in (adapter.check(), adapter.prepare(), put(adapter, "file", b"x"), adapter.fetch("file")):
                with pytest.raises(Unauthenticated) as caught:
                    await attempt
                assert "not-the-secret" not in caught.value.message


async def test_missing_root_is_not_an_empty_one(rclone: RcloneWebdavServer, opened: Open) -> None:
    adapter = opened(rclone.options("missing/root"))
    with pytest.raises(NotFound):
        await adapter.check()
    for attempt in (
        adapter.stat("file"),
        adapter.fetch("file"),
        adapter.delete("file"),
        put(adapter, "file", b"x"),
        put(adapter, "folder/file", b"x"),
        adapter.write("file", stream(LARGE), size=len(LARGE), modified=MODIFIED),
        adapter.make_directory("folder"),
        anext(adapter.list("")),
    ):
        with pytest.raises(ProviderUnavailable, match="gone"):
            await attempt
    for _ in range(2):
        await adapter.prepare()
    await adapter.check()
    (rclone.root / "a-file").write_bytes(b"x")
    with pytest.raises(ConfigInvalid):
        await opened(rclone.options("a-file")).check()


async def test_server_that_is_not_there(opened: Open) -> None:
    adapter = opened({"url": f"http://127.0.0.1:{free_port()}/dav"})
    for attempt in (adapter.check(), adapter.prepare(), put(adapter, "file", b"x"), adapter.delete("file")):
        with pytest.raises(ProviderUnavailable) as caught:
            await attempt
        assert caught.value.retry is Retry.LATER


@pytest.mark.parametrize(
    ("status", "error"), [(200, ProviderUnavailable), (405, ConfigInvalid), (501, ConfigInvalid), (400, ConfigInvalid)]
)
async def test_server_that_is_none_of_webdav(status: int, error: type[CdirError], opened: Open) -> None:
    page = "<html><body>Welcome</body></html>"
    async with serving(lambda _: web.Response(status=status, text=page, content_type="text/html")) as (url, _):
        with pytest.raises(error):
            await opened({"url": f"{url}/dav"}).check()
        with pytest.raises(CdirError) as caught:
            await keys_of(opened({"url": f"{url}/dav"}))
        assert not isinstance(caught.value, NotFound)


@pytest.mark.parametrize("auth", [{"user": "me", "password": "s3cr3t"}, {"token": "s3cr3t"}])
async def test_credentials_go_to_no_other_server(auth: Options, opened: Open) -> None:
    async with serving(lambda _: web.Response()) as (thief, stolen):

        def redirect(request: web.BaseRequest) -> web.Response:
            return web.Response(status=307, headers={"Location": f"{thief}{request.raw_path}"})

        async with serving(redirect) as (url, asked):
            adapter = opened({"url": f"{url}/dav", **auth})
            for attempt in (
                adapter.check(),
                adapter.stat("file"),
                adapter.fetch("file"),
                put(adapter, "file", b"x"),
                adapter.write("file", stream(LARGE), size=len(LARGE), modified=MODIFIED),
                adapter.delete("file"),
                keys_of(adapter),
            ):
                with pytest.raises(ConfigInvalid, match=thief):
                    await attempt
        assert asked
        assert all("Authorization" in request.headers for request in asked)
        assert stolen == []


async def test_machine_credentials_are_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password s3cr3t\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with serving(lambda _: web.Response(status=401)) as (url, asked):
        for options in ({}, {"token": "given"}):
            with pytest.raises(Unauthenticated):
                await opened({"url": url, **options}).check()
        assert [request.headers.get("Authorization") for request in asked] == [None, "Bearer given"]


async def test_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    async with serving(lambda _: web.Response(status=429)) as (proxy, asked):
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(RateLimited):
            await opened({"url": "http://files.invalid/dav"}).check()
        assert str(asked[0].raw_path) == "http://files.invalid/dav/"


@pytest.mark.parametrize("kind", ["apache", "wsgidav"])
async def test_digest_authentication(kind: str, opened: Open) -> None:
    require(apache_dav, wsgidav_server)
    async with (
        apache_dav_server(digest=True) if kind == "apache" else wsgidav_server.wsgidav_server(digest=True) as server
    ):
        adapter = opened(server.options("x"))
        await adapter.prepare()
        await adapter.write("file", stream(LARGE), size=len(LARGE), modified=MODIFIED)
        assert await get(adapter, "file") == LARGE
        with pytest.raises(Unauthenticated):
            await opened(server.options("x"), password="wrong").check()
        with pytest.raises(Unauthenticated):
            await opened(server.options("x"), auth="basic").check()


def certificate_for_loopback(path: Path) -> None:
    """Write a certificate that its own key has signed, and that key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cdir test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


async def test_self_signed_certificate_is_refused_unless_allowed(tmp_path: Path, opened: Open) -> None:
    require(rclone_webdav)
    pem = tmp_path / "server.pem"
    certificate_for_loopback(pem)
    async with rclone_webdav_server(certificate=pem) as server:
        for attempt in ("check", "prepare"):
            with pytest.raises(ConfigInvalid, match="ca_file"):
                await getattr(opened(server.options("x")), attempt)()
        for allowed in ({"ca_file": str(pem)}, {"verify_tls": False}):
            adapter = opened(server.options("x"), **allowed)
            await adapter.prepare()
            await put(adapter, "file", b"x")
            assert await get(adapter, "file") == b"x"
        with pytest.raises(ConfigInvalid, match="ca_file"):
            await opened(server.options("x"), ca_file=str(tmp_path / "none")).check()


# ---------------------------------------------------------------------- folders, times, sweeping


async def test_nothing_is_put_into_a_folder_while_it_is_removed(apache: ApacheDavServer, opened: Open) -> None:
    async with behind(apache.options("locked"), opened) as (adapter, proxy):
        await adapter.make_directory("folder")
        other = opened(apache.options("locked"))

        async def put_before(request: Request) -> Answer:
            with pytest.raises(ProviderUnavailable, match="locked"):
                await put(other, "folder/file", b"x")
            return await request.forward()

        proxy.break_by(on(method("DELETE"), put_before))
        await adapter.remove_directory("folder")
        assert proxy.met
        with pytest.raises(NotFound):
            await adapter.stat("folder")

        async def put_first(request: Request) -> Answer:
            await put(other, "folder/file", b"x")
            return await request.forward()

        await adapter.make_directory("folder")
        proxy.break_by(on(method("LOCK"), put_first))
        with pytest.raises(DirectoryNotEmpty):
            await adapter.remove_directory("folder")
        await put(other, "folder/file", b"y")  # the lock is gone


async def test_server_without_locks(nextcloud: NextcloudServer, opened: Open) -> None:
    adapter = opened(nextcloud.options("x"))
    await adapter.prepare()
    for name in ("one", "two"):
        await adapter.make_directory(name)
        await adapter.remove_directory(name)
    assert [verb for verb, _ in nextcloud.requests].count("LOCK") == 1


async def test_server_that_keeps_no_times(opened: Open) -> None:
    require(wsgidav_server)
    async with wsgidav_server.wsgidav_server(settable_times=False) as server:
        adapter = opened(server.options("x"))
        await adapter.prepare()
        written = await adapter.write("file", b"x", size=1, modified=MODIFIED)
        assert written.modified is not None
        assert abs(written.modified - datetime.now(UTC)) < timedelta(hours=1)
        assert not adapter.capability.modified_settable
        assert adapter.capability.modified_precision is None


async def test_sweep_takes_what_began_long_ago(rclone: RcloneWebdavServer, opened: Open) -> None:
    adapter = opened(rclone.options("swept"))
    await adapter.prepare()
    folder = rclone.root / "swept/folder"
    folder.mkdir()
    old, young = (f".cdir-tmp-{int(time.time() - age):x}-{age}" for age in (7200, 10))
    for name in (old, young, "file", ".cdir-tmp-of-somebody"):
        (folder / name).write_bytes(b"x")
    assert await keys_of(adapter) == ["folder/file"]
    assert await adapter.sweep(3600.0) == 1
    assert {path.name for path in folder.iterdir()} == {young, "file", ".cdir-tmp-of-somebody"}
    with pytest.raises(InvalidPath):
        await put(adapter, f"folder/{old}", b"x")


async def test_names_that_a_server_forbids(nextcloud: NextcloudServer, opened: Open) -> None:
    adapter = opened(nextcloud.options("x"))
    await adapter.prepare()
    for name in ("back\\slash", ".htaccess", "film.part"):
        await put(adapter, f"{name}/{name}", b"x")
        assert await get(adapter, f"{name}/{name}") == b"x"
    assert await keys_of(adapter) == sorted(f"{name}/{name}" for name in ("back\\slash", ".htaccess", "film.part"))
    assert not [path for path in nextcloud.nodes if "\\" in path or path.endswith((".htaccess", ".part"))]


async def test_names_that_apache_hides(apache: ApacheDavServer, opened: Open) -> None:
    adapter = opened(apache.options("hidden"))
    await adapter.prepare()
    await put(adapter, ".htaccess", b"x")
    assert await get(adapter, ".htaccess") == b"x"
    assert await keys_of(adapter) == [".htaccess"]
    assert not (apache.root / "hidden/.htaccess").exists()


async def test_times_before_the_first_one(nextcloud: NextcloudServer, opened: Open) -> None:
    adapter = opened(nextcloud.options("x"))
    await adapter.prepare()
    written = await adapter.write("file", b"x", size=1, modified=datetime(1950, 1, 1, tzinfo=UTC))
    assert written.modified == datetime(1970, 1, 2, 0, 0, 1, tzinfo=UTC)


async def test_folder_that_lies_about_its_absence(nextcloud: NextcloudServer, opened: Open) -> None:
    async with behind(nextcloud.options("x"), opened) as (adapter, proxy):
        await put(adapter, "folder/file", b"x")
        lying = on(
            lambda request: request.headers.get("Depth") == "1" and "folder" in request.target,
            refusing(404, "NotFound"),
        )
        proxy.break_by(lying)
        with pytest.raises(ProviderUnavailable):
            await keys_of(adapter)


async def test_folders_are_no_files(nextcloud: NextcloudServer, opened: Open) -> None:
    adapter = opened(nextcloud.options("x"))
    await adapter.prepare()
    await adapter.make_directory("folder")
    await put(adapter, "file", b"x")
    assert (await adapter.move("folder", "moved")).kind is ObjectKind.DIRECTORY
    for attempt in (adapter.copy("file", "moved"), adapter.move("file", "moved"), adapter.copy("moved", "file")):
        with pytest.raises(CdirError, match="is a folder"):
            await attempt
    assert (await adapter.move("file", "file")).key == "file"
    with pytest.raises(InvalidPath):
        await adapter.remove_directory("")
