import asyncio
import os
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from cdir.errors import (
    CdirError,
    ConfigInvalid,
    IntegrityError,
    InvalidPath,
    IsDirectory,
    NotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExceeded,
    Retry,
    Unauthenticated,
    Unsupported,
)
from cdir_adapters.adapter import ByteRange, ObjectKind
from cdir_adapters.probe import probe
from cdir_adapters.providers.ftp import FtpAdapter
from cdir_adapters.providers.ftp.listing import Entry, parse_facts, parse_list_line
from cdir_adapters.providers.ftp.settings import FtpSettings
from cdir_adapters.testing.conformance import AdapterConformance
from cdir_adapters.testing.trial import MIB, MODIFIED, failing, pattern, stalling, stream
from servers import pyftpd, vsftpd
from servers.certificates import fingerprint_of
from servers.faulty_ftp import FaultyFtp, faulty_ftp
from servers.faulty_proxy import faulty_proxy
from servers.process import free_port
from servers.pyftpd import PyFtpServer, pyftpd_server
from servers.requirement import require
from servers.vsftpd import VsftpdServer, vsftpd_server

SECONDS = 30.0
"""A guard against hanging, far beyond what anything here takes."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain() -> AsyncIterator[PyFtpServer]:
    require(pyftpd)
    async with pyftpd_server() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secured() -> AsyncIterator[PyFtpServer]:
    require(pyftpd)
    async with pyftpd_server(tls="explicit") as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simple() -> AsyncIterator[VsftpdServer]:
    require(vsftpd)
    async with vsftpd_server(zone="America/New_York") as server:
        yield server


class FtpConformance(AdapterConformance):
    """Objects go around the adapter as files on the disk that the server serves."""

    root: Path

    async def raw_put(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    async def raw_get(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


@pytest.mark.slow
class TestPlain(FtpConformance):
    @pytest.fixture
    async def adapter(self, plain: PyFtpServer) -> AsyncIterator[FtpAdapter]:
        self.root = plain.root / "share"
        async with FtpAdapter("box", {**plain.options(), "root": "/share"}) as adapter:
            await adapter.prepare()
            yield adapter


@pytest.mark.slow
class TestSecured(FtpConformance):
    @pytest.fixture
    async def adapter(self, secured: PyFtpServer) -> AsyncIterator[FtpAdapter]:
        self.root = secured.root / "share"
        async with FtpAdapter("box", {**secured.options(), "root": "share"}) as adapter:
            await adapter.prepare()
            yield adapter


class TestVsftpd(FtpConformance):
    """No MLSD and no MFMT: listings for people, and times that MDTM is asked for and told."""

    @pytest.fixture
    async def adapter(self, simple: VsftpdServer) -> AsyncIterator[FtpAdapter]:
        self.root = simple.root
        async with FtpAdapter("box", simple.options()) as adapter:
            await adapter.prepare()
            yield adapter


Open = Callable[..., FtpAdapter]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens adapters that are closed in the end; an option given as ``None`` is left out."""
    async with AsyncExitStack() as stack:

        def open_adapter(options: Mapping[str, str | int | bool], **changes: str | int | bool | None) -> FtpAdapter:
            given = {name: value for name, value in {**options, **changes}.items() if value is not None}
            adapter = FtpAdapter("box", given)
            stack.push_async_callback(adapter.aclose)
            return adapter

        yield open_adapter


class Box:
    """An adapter on a folder of its own, behind a proxy that can be told to misbehave."""

    def __init__(self, adapter: FtpAdapter, proxy: FaultyFtp, root: Path) -> None:
        self.adapter = adapter
        self.proxy = proxy
        self.root = root


@pytest.fixture
async def box(plain: PyFtpServer, opened: Open) -> AsyncIterator[Box]:
    async with faulty_ftp(plain.port) as proxy:
        name = uuid.uuid4().hex
        adapter = opened(plain.options(), port=proxy.port, root=f"/{name}")
        await adapter.prepare()
        yield Box(adapter, proxy, plain.root / name)
        await adapter.aclose()


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds that comes about without a sign."""
    async with asyncio.timeout(SECONDS):
        while True:
            if holds():
                return
            await asyncio.sleep(0.002)


async def put(adapter: FtpAdapter, key: str, data: bytes) -> None:
    await adapter.write(key, data, size=len(data), modified=MODIFIED)


async def keys_of(adapter: FtpAdapter, prefix: str = "", *, recursive: bool = True) -> list[str]:
    return sorted([info.key async for page in adapter.list(prefix, recursive=recursive) for info in page.objects])


async def read_whole(adapter: FtpAdapter, key: str) -> bytes:
    async with adapter.read(key) as opened:
        return b"".join([piece async for piece in opened])


def files_of(root: Path) -> dict[str, int]:
    """Name and size of everything below, unfinished writes included."""
    return {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------- what is found out about a server


async def test_probe_finds_what_is_declared(
    plain: PyFtpServer, secured: PyFtpServer, simple: VsftpdServer, opened: Open
) -> None:
    for server in (plain, secured, simple):
        adapter = opened(server.options())
        await adapter.prepare()
        assert await probe(adapter) == adapter.capability == FtpAdapter.capability


async def test_server_that_keeps_no_times(opened: Open) -> None:
    require(pyftpd)
    async with pyftpd_server(without=["MFMT", "MDTM", "EPSV", "REST"]) as server:
        adapter = opened(server.options())
        before = datetime.now(UTC).replace(microsecond=0)
        info = await adapter.write("object", pattern(3 * MIB), size=3 * MIB, modified=MODIFIED)
        assert not adapter.capability.modified_settable
        assert info.modified is not None
        assert info.modified >= before
        assert (await adapter.stat("object")).modified == info.modified
        # without REST, what lies before the offset is read and dropped
        assert (await adapter.fetch("object", range=ByteRange(2 * MIB, 100))).data == pattern(3 * MIB)[2 * MIB :][:100]
        async with adapter.read("object", range=ByteRange(MIB)) as opened_stream:
            assert b"".join([piece async for piece in opened_stream]) == pattern(3 * MIB)[MIB:]


async def test_server_whose_renaming_does_not_replace(opened: Open) -> None:
    require(pyftpd)
    async with pyftpd_server(replaces=False) as server:
        adapter = opened(server.options())
        await put(adapter, "folder/object", b"old")
        await put(adapter, "folder/object", b"newer")
        assert not adapter.capability.write_atomic
        assert not adapter.capability.move
        await put(adapter, "folder/object", b"newest")
        assert files_of(server.root) == {"folder/object": 6}
        with pytest.raises(IsDirectory):
            await put(adapter, "folder", b"x")
        with pytest.raises(Unsupported):
            await adapter.move("folder/object", "other")


async def test_server_that_can_check_nothing(opened: Open) -> None:
    require(pyftpd)
    async with pyftpd_server(without=["SIZE", "MLST", "MLSD"]) as server:
        with pytest.raises(ConfigInvalid, match="SIZE"):
            await opened(server.options()).check()


# ---------------------------------------------------------------------- signing in


async def test_wrong_password(plain: PyFtpServer, opened: Open) -> None:
    with pytest.raises(Unauthenticated, match="tester") as caught:
        await opened(plain.options(), password="not-the-password").check()
    assert "not-the-password" not in caught.value.message


async def test_answer_that_repeats_the_password(box: Box) -> None:
    await box.adapter.aclose()
    box.proxy.instead["PASS"] = f"530 {PyFtpServer.password} is wrong.\r\n".encode()
    with pytest.raises(Unauthenticated) as caught:
        await box.adapter.check()
    assert PyFtpServer.password not in caught.value.message + repr(caught.value.context)


async def test_no_secret_is_shown(plain: PyFtpServer, opened: Open) -> None:
    adapter = opened(plain.options(), password="s3cr3t-word")
    assert "s3cr3t" not in repr(adapter) + repr(adapter.info) + repr(vars(adapter)) + repr(vars(adapter._sessions))
    assert "s3cr3t" not in repr(FtpSettings.from_options({"host": "h", "password": "s3cr3t"}))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"host": "ftp://h"},
        {"host": "h", "connections": 1},
        {"host": "h", "fingerprint": "AA:BB"},
        {"host": "h", "fingerprint": "a" * 64, "verify_tls": False},
        {"host": "h", "tls": "off", "verify_tls": False},
        {"host": "h", "user": "a\r\nDELE x"},
    ],
)
def test_options_that_cannot_be(options: dict[str, str | int | bool]) -> None:
    with pytest.raises(ConfigInvalid):
        FtpAdapter("box", options)


async def test_server_that_is_not_there(opened: Open) -> None:
    adapter = opened({"host": "127.0.0.1", "port": free_port(), "root": "/", "tls": "off"})
    with pytest.raises(ProviderUnavailable) as caught:
        await adapter.check()
    assert caught.value.retry is Retry.LATER


async def test_root_that_is_not_there(plain: PyFtpServer, opened: Open) -> None:
    with pytest.raises(NotFound, match="set root"):
        await opened(plain.options(), root="/none/such").check()


# ---------------------------------------------------------------------- TLS


async def test_unknown_certificate_is_refused_and_shown(secured: PyFtpServer, opened: Open) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await opened(secured.options(), ca_file=None).check()
    found = re.search(r"--set fingerprint=([0-9A-F:]{95})", caught.value.message)
    assert found is not None
    assert found[1].replace(":", "").lower() == fingerprint_of(secured.certificate)
    adapter = opened(secured.options(), ca_file=None, fingerprint=found[1])
    await put(adapter, "pinned/object", b"x")
    assert (await adapter.fetch("pinned/object")).data == b"x"
    await opened(secured.options(), ca_file=None, verify_tls=False).check()


async def test_changed_certificate_is_refused(secured: PyFtpServer, opened: Open) -> None:
    with pytest.raises(Unauthenticated, match="posing"):
        await opened(secured.options(), ca_file=None, fingerprint="ab" * 32).check()


async def test_expired_certificate_is_refused(opened: Open) -> None:
    require(pyftpd)
    async with pyftpd_server(tls="explicit") as server:
        server.renew_certificate(expired=True)
        await server.restart()
        with pytest.raises(Unauthenticated, match="certificate"):
            await opened(server.options()).check()
        assert server.password not in server.log.read_text()


async def test_implicit_tls(opened: Open, tmp_path: Path) -> None:
    require(pyftpd)
    async with pyftpd_server(tls="implicit") as server:
        adapter = opened(server.options())
        await put(adapter, "folder/object", pattern(3 * MIB))
        assert await read_whole(adapter, "folder/object") == pattern(3 * MIB)
        assert await keys_of(adapter) == ["folder/object"]
        with pytest.raises(Unauthenticated, match="fingerprint"):
            await opened(server.options(), ca_file=None).check()
        with pytest.raises(ConfigInvalid, match="ca_file"):
            await opened(server.options(), ca_file=str(tmp_path / "none")).check()


async def test_data_connections_resume_the_session(opened: Open) -> None:
    """vsftpd takes no others."""
    require(vsftpd)
    async with vsftpd_server(tls=True) as server:
        adapter = opened(server.options())
        await asyncio.gather(*(put(adapter, f"object-{number}", pattern(MIB, number)) for number in range(6)))
        for number in range(6):
            assert (await adapter.fetch(f"object-{number}")).data == pattern(MIB, number)
        assert len(await keys_of(adapter)) == 6


async def test_tls_that_only_one_side_wants(plain: PyFtpServer, secured: PyFtpServer, opened: Open) -> None:
    with pytest.raises(ConfigInvalid, match="tls=off"):
        await opened(plain.options(), tls="explicit").check()
    with pytest.raises(ProviderUnavailable, match="tls=implicit"):
        await opened(plain.options(), tls="implicit").check()
    with pytest.raises(Unauthenticated, match="tls"):
        await opened(secured.options(), tls="off", ca_file=None).check()


async def test_words_put_in_before_tls_are_not_believed(secured: PyFtpServer, opened: Open) -> None:
    async with faulty_ftp(secured.port) as proxy:
        proxy.changed["AUTH"] = b"234 go on\r\n230 somebody else lets you in\r\n"
        adapter = opened(secured.options(), port=proxy.port)
        with pytest.raises(ProviderUnavailable):
            await adapter.check()
        assert "USER" not in proxy.commands


async def test_data_goes_nowhere_but_to_the_server(opened: Open) -> None:
    """The address in an answer to PASV could send files, and what is listed, to somebody else."""
    require(pyftpd)
    async with pyftpd_server(without=["EPSV"], masquerade="192.0.2.7") as server:
        adapter = opened(server.options())
        await put(adapter, "object", b"content")
        assert (await adapter.fetch("object")).data == b"content"


# ---------------------------------------------------------------------- connections that end


async def test_server_that_sends_idle_clients_away(opened: Open) -> None:
    require(pyftpd)
    async with pyftpd_server(idle=1) as server:
        adapter = opened(server.options())
        await put(adapter, "object", b"content")
        process = psutil.Process(server.pid)
        await eventually(lambda: all(each.status != psutil.CONN_ESTABLISHED for each in process.net_connections("tcp")))
        assert (await adapter.fetch("object")).data == b"content"


async def test_goodbye_between_two_calls(box: Box) -> None:
    await put(box.adapter, "object", b"content")
    before = box.proxy.connections
    await box.proxy.say(b"421 Timeout.\r\n")
    assert (await box.adapter.fetch("object")).data == b"content"
    assert box.proxy.connections == before + 1


async def test_goodbye_as_an_answer(box: Box) -> None:
    await put(box.adapter, "object", b"content")
    box.proxy.instead["MLST"] = b"421 Going down.\r\n"
    with pytest.raises(ProviderUnavailable) as caught:
        await box.adapter.stat("object")
    assert caught.value.retry is Retry.LATER
    box.proxy.heal()
    assert (await box.adapter.stat("object")).size == 7


async def test_server_with_few_connections(opened: Open) -> None:
    require(pyftpd)
    async with pyftpd_server(connections=2) as server:
        greedy = opened(server.options(), connections=12)
        results = await asyncio.gather(
            *(put(greedy, f"object-{number}", b"x") for number in range(12)), return_exceptions=True
        )
        refused = [error for error in results if error is not None]
        assert refused
        for error in refused:
            assert isinstance(error, ProviderUnavailable)
            assert error.retry is Retry.LATER
        assert any("connections" in str(error) for error in refused)
        await greedy.aclose()
        modest = opened(server.options(), connections=2)
        async with asyncio.timeout(SECONDS):
            while True:  # the server notices a little later that the others are gone
                try:
                    await modest.check()
                    break
                except ProviderUnavailable:
                    await asyncio.sleep(0.05)
        await asyncio.gather(*(put(modest, f"object-{number}", b"x") for number in range(12)))
        assert len(await keys_of(modest)) == 12


async def test_many_at_once_share_few_connections(box: Box) -> None:
    await asyncio.gather(*(put(box.adapter, f"object-{number}", pattern(5000, number)) for number in range(40)))
    found = await asyncio.gather(*(box.adapter.fetch(f"object-{number}") for number in range(40)))
    assert [each.data for each in found] == [pattern(5000, number) for number in range(40)]
    assert box.proxy.connections <= 6


async def test_copies_within_the_server_do_not_wait_for_each_other(plain: PyFtpServer, opened: Open) -> None:
    adapter = opened(plain.options(), root="/copies", connections=2)
    await adapter.prepare()
    data = pattern(2 * MIB)
    await put(adapter, "object", data)

    async def copy(number: int) -> None:
        async with adapter.read("object") as source:
            await adapter.write(f"copy-{number}", source, size=len(data), modified=MODIFIED)

    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*(copy(number) for number in range(6)))
    assert set(files_of(plain.root / "copies").values()) == {len(data)}


async def test_large_objects_on_their_way_hold_up_no_small_call(box: Box) -> None:
    """However many are stored and read at once: a server that is busy with them is no server that does not answer."""
    data = pattern(3 * MIB)
    await put(box.adapter, "object", data)
    reached = asyncio.Event()

    async def read() -> None:
        async with box.adapter.read("object"):
            await asyncio.Event().wait()

    held = [
        asyncio.ensure_future(work)
        for number in range(6)
        for work in (
            box.adapter.write(f"large-{number}", stalling(data, reached), size=2 * len(data), modified=MODIFIED),
            read(),
        )
    ]
    async with asyncio.timeout(SECONDS):
        await reached.wait()
        await asyncio.gather(*(box.adapter.check() for _ in range(4)))
        await asyncio.gather(*(put(box.adapter, f"small-{number}", b"x") for number in range(4)))
        assert not any(each.done() for each in held)
    for each in held:
        each.cancel()
    await asyncio.wait(held)


async def test_killed_server_leaves_the_old_object_and_recovers(opened: Open) -> None:
    require(pyftpd)
    async with pyftpd_server() as server:
        adapter = opened(server.options())
        await put(adapter, "folder/object", b"old")

        async def source() -> AsyncIterator[bytes]:
            yield pattern(9 * MIB)
            await server.kill()
            yield pattern(9 * MIB)

        with pytest.raises(ProviderUnavailable):
            await adapter.write("folder/object", source(), size=18 * MIB, modified=MODIFIED)
        with pytest.raises(ProviderUnavailable):
            await adapter.stat("folder/object")
        assert (server.root / "folder/object").read_bytes() == b"old"
        await server.restart()
        assert await keys_of(adapter) == ["folder/object"]
        await put(adapter, "folder/object", b"new")
        assert (await adapter.fetch("folder/object")).data == b"new"


async def test_connections_reset_between_calls(plain: PyFtpServer, opened: Open) -> None:
    async with faulty_proxy(plain.port) as proxy:
        adapter = opened(plain.options(), port=proxy.port)
        await adapter.check()
        proxy.reset = proxy.refuse = True
        proxy.drop_connections()

        async def until_noticed() -> None:
            while True:
                await adapter.check()

        with pytest.raises(ProviderUnavailable):
            await until_noticed()
        proxy.heal()
        await adapter.check()


# ---------------------------------------------------------------------- transfers that break


async def test_upload_that_is_cut(box: Box) -> None:
    await put(box.adapter, "object", b"old")
    box.proxy.cut_upload_after = 2 * MIB
    # what the system has taken in by then counts as sent: only the size tells
    with pytest.raises((ProviderUnavailable, IntegrityError)) as caught:
        await put(box.adapter, "object", pattern(6 * MIB))
    assert caught.value.retry is Retry.LATER
    box.proxy.heal()
    assert (await box.adapter.fetch("object")).data == b"old"
    assert files_of(box.root) == {"object": 3}


async def test_upload_of_which_not_all_is_kept(box: Box) -> None:
    await put(box.adapter, "object", b"old")
    # the server takes an early end for the end of the file
    box.proxy.end_upload_after = 1
    with pytest.raises(IntegrityError):
        await put(box.adapter, "object", b"content")
    box.proxy.heal()
    assert files_of(box.root) == {"object": 3}


async def test_download_that_is_cut(box: Box) -> None:
    data = pattern(6 * MIB)
    await put(box.adapter, "object", data)
    box.proxy.cut_download_after = 2 * MIB
    with pytest.raises((ProviderUnavailable, IntegrityError)):
        await read_whole(box.adapter, "object")
    with pytest.raises((ProviderUnavailable, IntegrityError)):
        await box.adapter.fetch("object")
    box.proxy.changed["RETR"] = b"226 Transfer complete.\r\n"
    with pytest.raises(IntegrityError):
        await read_whole(box.adapter, "object")
    box.proxy.heal()
    assert await read_whole(box.adapter, "object") == data


async def test_object_that_is_longer_than_was_said(box: Box) -> None:
    await put(box.adapter, "object", pattern(2 * MIB))
    box.proxy.body = pattern(2 * MIB + 1)
    with pytest.raises(IntegrityError, match="longer"):
        await read_whole(box.adapter, "object")
    with pytest.raises(IntegrityError, match="longer"):
        await box.adapter.fetch("object")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"552 Quota exceeded.\r\n", QuotaExceeded),
        (b"550 Permission denied.\r\n", PermissionDenied),
        (b"451 Local error.\r\n", ProviderUnavailable),
        (b"425 No data connection.\r\n", ProviderUnavailable),
    ],
)
async def test_write_that_the_server_refuses(box: Box, answer: bytes, error: type[CdirError]) -> None:
    await put(box.adapter, "object", b"old")
    box.proxy.instead["STOR"] = answer
    with pytest.raises(error):
        await put(box.adapter, "object", b"new")
    box.proxy.instead.clear()
    box.proxy.changed["STOR"] = answer
    with pytest.raises(error):
        await put(box.adapter, "object", b"new")
    box.proxy.heal()
    assert files_of(box.root) == {"object": 3}
    assert (await box.adapter.fetch("object")).data == b"old"


async def test_write_whose_success_is_not_heard(box: Box) -> None:
    await put(box.adapter, "object", b"old")
    box.proxy.lost.add("RNTO")
    with pytest.raises(ProviderUnavailable) as caught:
        await put(box.adapter, "object", b"newer")
    assert caught.value.retry is Retry.LATER
    box.proxy.heal()
    assert (await box.adapter.fetch("object")).data == b"newer"
    await put(box.adapter, "object", b"newest")
    assert files_of(box.root) == {"object": 6}


async def test_error_of_a_write_that_took_effect(box: Box) -> None:
    box.proxy.changed["RNTO"] = b"451 Something went wrong.\r\n"
    with pytest.raises(ProviderUnavailable):
        await put(box.adapter, "object", b"new")
    box.proxy.heal()
    await put(box.adapter, "object", b"newer")
    assert files_of(box.root) == {"object": 5}


async def test_server_that_misses_a_folder_only_when_content_comes(box: Box) -> None:
    box.proxy.changed["STOR"] = b"450 error during transfer: file does not exist\r\n"
    with pytest.raises(ProviderUnavailable) as caught:
        await put(box.adapter, "folder/object", b"x")
    assert caught.value.retry is Retry.LATER
    box.proxy.heal()
    box.proxy.commands.clear()
    await put(box.adapter, "new/folder/object", b"x")
    assert box.proxy.commands.index("MKD") < box.proxy.commands.index("STOR")
    assert files_of(box.root) == {"new/folder/object": 1}


async def test_burst_of_refusals(box: Box) -> None:
    await put(box.adapter, "object", b"content")
    await box.proxy.say(b"")
    for greeting in (b"421 Too many users.\r\n", b"120 Soon.\r\n421 Not now.\r\n", b"", b"500 Broken.\r\n"):
        box.proxy.greeting = greeting
        with pytest.raises(ProviderUnavailable) as caught:
            await box.adapter.stat("object")
        assert caught.value.retry is Retry.LATER
    box.proxy.heal()
    assert (await box.adapter.stat("object")).size == 7


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"220-" + b"x" * 100_000,
        b"220-hello\r\n" + b"and on and on\r\n" * 20_000,
        b"\x16\x03\x01\x00\x02\x02\x28\r\n",
    ],
    ids=["http", "line", "lines", "tls"],
)
async def test_something_else_than_an_ftp_server(box: Box, nonsense: bytes) -> None:
    await box.adapter.aclose()
    box.proxy.greeting = nonsense
    with pytest.raises(ProviderUnavailable) as caught:
        await box.adapter.check()
    assert len(caught.value.message) < 400
    assert "\n" not in caught.value.message


async def test_credentials_that_are_taken_back(box: Box) -> None:
    """In the middle of a transfer, and before the next call."""
    await put(box.adapter, "object", b"old")

    async def source() -> AsyncIterator[bytes]:
        yield pattern(MIB)
        box.proxy.instead = dict.fromkeys(("MFMT", "MLST"), b"530 Not logged in.\r\n")

    with pytest.raises(Unauthenticated):
        await box.adapter.write("object", source(), size=MIB, modified=MODIFIED)
    with pytest.raises(Unauthenticated):
        await box.adapter.stat("object")
    box.proxy.heal()
    assert files_of(box.root) == {"object": 3}


async def test_error_of_the_source_is_not_the_servers(box: Box) -> None:
    error = ConnectionResetError("of the source")
    with pytest.raises(ConnectionResetError) as caught:
        await box.adapter.write("object", failing(pattern(MIB), error), size=2 * MIB, modified=MODIFIED)
    assert caught.value is error
    await put(box.adapter, "object", pattern(2 * MIB))
    for key in ("object", "small"):
        await put(box.adapter, "small", b"x")
        with pytest.raises(ConnectionResetError) as caught:
            async with box.adapter.read(key):
                raise error
        assert caught.value is error


# ---------------------------------------------------------------------- listings


async def test_long_listing(plain: PyFtpServer, simple: VsftpdServer, opened: Open) -> None:
    """More than a page."""
    for server in (plain, simple):
        folder = server.root / "long"
        folder.mkdir()
        names = [f"{number:05}-{'n' * 200}" for number in range(1100)]
        for name in names:
            (folder / name).touch()
        adapter = opened(server.options())
        assert await keys_of(adapter, "long", recursive=False) == [f"long/{name}" for name in names]


async def test_listing_on_disk(box: Box) -> None:
    lines = [f"type=file;size={number};modify=20010203040506; {number:06}-{'n' * 200}" for number in range(20_000)]
    box.proxy.body = "".join(f"{line}\r\n" for line in lines).encode()
    found = [info async for page in box.adapter.list("") for info in page.objects]
    assert [info.size for info in found] == list(range(20_000))


async def test_names_that_lead_elsewhere_are_left_out(box: Box) -> None:
    names = ["../outside", "/etc/passwd", ".", "..", "a/b", "http://host/x", "good", "n\0l"]
    box.proxy.body = b"".join(f"type=file;size=1; {name}\r\n".encode() for name in names) + (
        b"type=file;size=1; b\xffd\r\ntype=cdir; folder\r\ntype=pdir; /\r\n"
    )
    assert await keys_of(box.adapter) == ["good"]


@pytest.mark.parametrize("body", [b"what is this\r\n", b"type=file;size=1; x\r\ntype=file;si", b"x" * 100_000])
async def test_listing_that_cannot_be_understood(box: Box, body: bytes) -> None:
    box.proxy.body = body
    with pytest.raises(ProviderUnavailable, match="listing"):
        await keys_of(box.adapter)


@pytest.mark.parametrize("answer", [b"426 Broken off.\r\n", b"451 Disk error.\r\n", b"550 No access.\r\n"])
async def test_listing_that_breaks_off(box: Box, answer: bytes) -> None:
    await put(box.adapter, "object", b"x")
    box.proxy.changed["MLSD"] = answer
    with pytest.raises((ProviderUnavailable, PermissionDenied)):
        await keys_of(box.adapter)


async def test_failure_that_passes_for_an_empty_listing(simple: VsftpdServer, opened: Open) -> None:
    async with faulty_ftp(simple.port) as proxy:
        adapter = opened(simple.options(), port=proxy.port)
        await put(adapter, "listed/object", b"x")
        assert await keys_of(adapter, "listed") == ["listed/object"]
        proxy.changed["LIST"] = b"226 Transfer done (but failed to open directory).\r\n"
        with pytest.raises(PermissionDenied):
            await keys_of(adapter, "listed")
        proxy.changed.clear()
        proxy.cut_download_after = 0
        with pytest.raises(CdirError):
            await keys_of(adapter, "listed")


async def test_server_that_hides_names_with_a_dot(simple: VsftpdServer, opened: Open) -> None:
    """What is not shown would pass for deleted."""
    async with faulty_ftp(simple.port) as proxy:
        await put(opened(simple.options()), ".cdir/provider", b"x")
        adapter = opened(simple.options(), port=proxy.port)
        proxy.body = b"-rw-r--r-- 1 0 0 3 Feb 03 2001 object\r\n"
        with pytest.raises(ConfigInvalid, match="dot"):
            await keys_of(adapter)


async def test_missing_root_is_not_an_empty_one(box: Box, opened: Open) -> None:
    """A disk that is not mounted on the server must never look like deleted files."""
    await put(box.adapter, "object", b"x")
    box.root.rename(box.root.with_name(f"{box.root.name}-unmounted"))
    with pytest.raises(NotFound):
        await box.adapter.check()
    for attempt in (
        box.adapter.stat("object"),
        box.adapter.fetch("object"),
        box.adapter.delete("object"),
        put(box.adapter, "folder/new", b"x"),
        anext(box.adapter.list("")),
        anext(box.adapter.list("", recursive=True)),
        anext(box.adapter.list("folder", recursive=True)),
    ):
        with pytest.raises(ProviderUnavailable, match="gone"):
            await attempt


async def test_links_that_lead_round_in_circles(box: Box) -> None:
    await put(box.adapter, "folder/object", b"x")
    (box.root / "folder/up").symlink_to("..")
    async with asyncio.timeout(SECONDS):
        listed = [info async for page in box.adapter.list("", recursive=True) for info in page.objects]
    assert ("folder/object", ObjectKind.FILE) in [(info.key, info.kind) for info in listed]
    assert ObjectKind.OTHER in {info.kind for info in listed}


async def test_links_and_devices_of_plain_listings(simple: VsftpdServer, opened: Open) -> None:
    folder = simple.root / "links"
    folder.mkdir()
    (folder / "link").symlink_to("..")
    os.mkfifo(folder / "pipe")
    adapter = opened(simple.options())
    listed = [info async for page in adapter.list("links", recursive=True) for info in page.objects]
    assert sorted((info.key, info.kind) for info in listed) == [
        ("links/link", ObjectKind.OTHER),
        ("links/pipe", ObjectKind.OTHER),
    ]


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        ("-rw-r--r--    1 0        0              12 Feb 03  2001  name ", Entry(" name ", ObjectKind.FILE, 12)),
        ("-rw-r--r-- 1 a domain users 12 Feb  3 09:05 a -> b", Entry("a -> b", ObjectKind.FILE, 12)),
        ("lrwxrwxrwx 1 a b 3 Feb 03 2001 x -> y", Entry("x", ObjectKind.OTHER)),
        ("drwxr-xr-x+ 9 a b 4096 3 févr. 2001 Ä", Entry("Ä", ObjectKind.DIRECTORY)),
        ("drwxr-xr-x 9 a b 4096 Feb 03 2001 ..", Entry("..", ObjectKind.DIRECTORY, itself=True)),
        ("crw-rw-rw- 1 root root 1, 3 2001-02-03 09:05 null", Entry("null", ObjectKind.OTHER)),
        ("02-03-01  04:05AM       <DIR>          New folder", Entry("New folder", ObjectKind.DIRECTORY)),
        ("02-03-2001  16:05             12345 a  b.txt", Entry("a  b.txt", ObjectKind.FILE, 12345)),
        ("total 12", None),
        ("-rw-r--r-- 1 a b twelve Feb 03 2001 x", None),
    ],
)
def test_lines_of_plain_listings(line: str, entry: Entry | None) -> None:
    assert parse_list_line(line) == entry


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        (
            "Type=file;Size=3;Modify=20010203040506.25;Perm=r;  x; y=z ",
            Entry(" x; y=z ", ObjectKind.FILE, 3, datetime(2001, 2, 3, 4, 5, 6, 250_000, tzinfo=UTC)),
        ),
        ("type=OS.unix=slink:/etc;unique=1g2; link", Entry("link", ObjectKind.OTHER, unique="1g2")),
        ("type=cdir;modify=20011303040506; /", Entry("/", ObjectKind.DIRECTORY, itself=True)),
        ("size=3; nameless", None),
        ("type=file;size=3;", None),
        ("file", None),
    ],
)
def test_facts(line: str, entry: Entry | None) -> None:
    assert parse_facts(line) == entry


# ---------------------------------------------------------------------- names, and what is left behind


@pytest.mark.parametrize("name", ["a\rb", "a\nDELE object", "a\0b"])
async def test_names_that_no_command_can_carry(box: Box, name: str) -> None:
    await put(box.adapter, "object", b"x")
    for attempt in (
        put(box.adapter, name, b"x"),
        box.adapter.stat(name),
        box.adapter.fetch(f"{name}/x"),
        box.adapter.delete(name),
        box.adapter.move("object", name),
        box.adapter.make_directory(name),
        anext(box.adapter.list(name)),
    ):
        with pytest.raises(InvalidPath):
            await attempt
    assert files_of(box.root) == {"object": 1}


async def test_path_that_is_too_long(box: Box) -> None:
    with pytest.raises(InvalidPath):
        await put(box.adapter, "/".join(["n" * 200] * 10), b"x")


async def test_sweep_removes_old_unfinished_writes_only(box: Box) -> None:
    await put(box.adapter, "folder/object", b"x")
    now = int(time.time())
    for begun, changed in ((now - 7200, 1_000_000_000), (now, 1_000_000_000), (now - 7200, now)):
        path = box.root / f"folder/.cdir-tmp-{begun:08x}-{uuid.uuid4().hex}"
        path.write_bytes(b"rest")
        os.utime(path, (changed, changed))
    assert await box.adapter.sweep(3600) == 1
    assert sorted(files_of(box.root).values()) == [1, 4, 4]
    assert await keys_of(box.adapter) == ["folder/object"]
    with pytest.raises(InvalidPath):
        await put(box.adapter, "folder/.cdir-tmp-mine", b"x")


async def test_unfinished_write_is_removed_when_it_is_given_up(box: Box) -> None:
    write = asyncio.ensure_future(
        box.adapter.write("folder/object", stream(pattern(64 * MIB)), size=64 * MIB, modified=MODIFIED)
    )
    await eventually(lambda: bool(files_of(box.root)))
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    assert files_of(box.root) == {}
