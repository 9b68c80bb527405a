import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import asyncssh
import pytest
import pytest_asyncio

from cdir.errors import (
    CdirError,
    ConfigInvalid,
    InvalidPath,
    IsDirectory,
    NotFound,
    ProviderUnavailable,
    Retry,
    Unauthenticated,
    Unsupported,
)
from cdir_adapters.adapter import ByteRange, ObjectKind, WriteMode
from cdir_adapters.providers.sftp import SftpAdapter
from cdir_adapters.providers.sftp.settings import SftpSettings
from cdir_adapters.testing.conformance import AdapterConformance
from cdir_adapters.testing.trial import MIB, MODIFIED, failing, pattern
from servers import asyncssh_sftp, openssh
from servers.asyncssh_sftp import AsyncSshSftpServer, asyncssh_sftp_server
from servers.faulty_proxy import faulty_proxy
from servers.openssh import OpenSshServer, openssh_server
from servers.process import free_port
from servers.requirement import require


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sshd() -> AsyncIterator[OpenSshServer]:
    require(openssh)
    async with openssh_server() as server:
        yield server


class SftpConformance(AdapterConformance):
    """Objects go around the adapter as files on the disk that the server serves."""

    many = 1100
    root: Path

    async def raw_put(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    async def raw_open(self, key: str) -> None:
        (self.root / key).chmod(0o644)

    async def raw_get(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


class TestOpenSsh(SftpConformance):
    @pytest.fixture
    async def adapter(self, sshd: OpenSshServer, tmp_path: Path) -> AsyncIterator[SftpAdapter]:
        self.root = tmp_path / "root"
        async with SftpAdapter("box", {**sshd.options(), "root": str(self.root)}) as adapter:
            await adapter.prepare()
            yield adapter


class TestAsyncSsh(SftpConformance):
    """A server that answers requests out of order."""

    many = 60

    @pytest.fixture
    async def adapter(self) -> AsyncIterator[SftpAdapter]:
        require(asyncssh_sftp)
        async with asyncssh_sftp_server() as server:
            self.root = server.root / "share"
            async with SftpAdapter("box", {**server.options(), "root": "share"}) as adapter:
                await adapter.prepare()
                yield adapter


@pytest.fixture
async def server() -> AsyncIterator[AsyncSshSftpServer]:
    require(asyncssh_sftp)
    async with asyncssh_sftp_server() as server:
        yield server


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., SftpAdapter]]:
    """Opens adapters that are closed in the end; an option given as ``None`` is left out."""
    async with AsyncExitStack() as stack:

        def open_adapter(options: Mapping[str, str | int | bool], **changes: str | int | bool | None) -> SftpAdapter:
            given = {name: value for name, value in {**options, **changes}.items() if value is not None}
            adapter = SftpAdapter("box", given)
            stack.push_async_callback(adapter.aclose)
            return adapter

        yield open_adapter


Open = Callable[..., SftpAdapter]


async def put(adapter: SftpAdapter, key: str, data: bytes) -> None:
    await adapter.write(key, data, size=len(data), modified=MODIFIED)


def files_of(root: Path) -> dict[str, int]:
    """Name and size of everything below, unfinished writes included."""
    return {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}


async def test_unpinned_server_is_refused_and_its_key_shown(server: AsyncSshSftpServer, opened: Open) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        await opened(server.options(), host_key=None).check()
    assert server.fingerprint in caught.value.message
    assert f"--set 'host_key={server.host_key}'" in caught.value.message


async def test_fingerprint_pins_as_well(server: AsyncSshSftpServer, opened: Open) -> None:
    await opened(server.options(), host_key=server.fingerprint).check()


async def test_changed_host_key_is_refused_and_both_named(server: AsyncSshSftpServer, opened: Open) -> None:
    adapter = opened(server.options())
    await adapter.check()
    old = server.fingerprint
    server.renew_host_key()
    await server.restart()
    with pytest.raises(Unauthenticated) as caught:
        await adapter.check()
    assert old in caught.value.message
    assert server.fingerprint in caught.value.message
    assert server.host_key in caught.value.message


async def test_host_key_that_is_none(opened: Open) -> None:
    with pytest.raises(ConfigInvalid, match="host_key"):
        opened({"host": "127.0.0.1"}, host_key="AAAA")


async def test_signing_in_with_a_password(server: AsyncSshSftpServer, opened: Open) -> None:
    await opened(server.options(), key_file=None, password=server.password).check()
    with pytest.raises(Unauthenticated) as caught:
        await opened(server.options(), key_file=None, password="not-the-password").check()
    assert "not-the-password" not in caught.value.message


async def test_signing_in_with_an_encrypted_key(server: AsyncSshSftpServer, opened: Open) -> None:
    options = {**server.options(), "key_file": str(server.passphrase_key_file)}
    await opened(options, passphrase=server.passphrase).check()
    with pytest.raises(Unauthenticated, match="passphrase"):
        await opened(options, passphrase="not-the-passphrase").check()
    with pytest.raises(ConfigInvalid, match="passphrase"):
        await opened(options).check()


async def test_key_that_the_server_does_not_know(server: AsyncSshSftpServer, opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "key"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(path)
    with pytest.raises(Unauthenticated, match="tester"):
        await opened(server.options(), key_file=str(path)).check()
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        await opened(server.options(), key_file=str(tmp_path / "missing")).check()


async def test_no_secret_is_shown(server: AsyncSshSftpServer, opened: Open) -> None:
    adapter = opened(server.options(), key_file=None, password="s3cr3t-word", passphrase="s3cr3t-too")
    assert "s3cr3t" not in repr(adapter) + repr(adapter.info) + repr(vars(adapter))
    assert "s3cr3t" not in repr(SftpSettings.from_options({"host": "h", "password": "s3cr3t", "passphrase": "s3cr3t"}))


async def test_server_that_is_not_there(opened: Open) -> None:
    adapter = opened({"host": "127.0.0.1", "port": free_port(), "user": "x", "root": "/", "password": "x"})
    with pytest.raises(ProviderUnavailable) as caught:
        await adapter.check()
    assert caught.value.retry is Retry.LATER


async def test_killed_server_leaves_the_old_object_and_recovers(opened: Open) -> None:
    require(openssh)
    async with openssh_server() as sshd:
        adapter = opened(sshd.options())
        await put(adapter, "folder/object", b"old")

        async def source() -> AsyncIterator[bytes]:
            yield pattern(9 * MIB)
            await sshd.kill()
            yield pattern(MIB)

        with pytest.raises(ProviderUnavailable):
            await adapter.write("folder/object", source(), size=10 * MIB, modified=MODIFIED)
        with pytest.raises(ProviderUnavailable):
            await adapter.stat("folder/object")
        assert (sshd.root / "folder/object").read_bytes() == b"old"
        await sshd.restart()
        assert [info.key async for page in adapter.list("", recursive=True) for info in page.objects] == [
            "folder/object"
        ]
        await put(adapter, "folder/object", b"new")
        assert (await adapter.fetch("folder/object")).data == b"new"


async def test_connection_lost_in_a_write(server: AsyncSshSftpServer, opened: Open) -> None:
    adapter = opened(server.options())
    await put(adapter, "object", b"old")
    server.faults.cut_write_after = 3 * MIB
    with pytest.raises(ProviderUnavailable):
        await put(adapter, "object", pattern(6 * MIB))
    server.faults.cut_write_after = None
    assert (await adapter.fetch("object")).data == b"old"
    assert [info.key async for page in adapter.list("") for info in page.objects] == ["object"]


async def test_connection_lost_in_a_read(server: AsyncSshSftpServer, opened: Open) -> None:
    adapter = opened(server.options())
    data = pattern(6 * MIB)
    await put(adapter, "object", data)
    server.faults.cut_read_after = 2 * MIB

    async def read() -> None:
        async with adapter.read("object") as stream:
            async for _ in stream:
                pass

    with pytest.raises(ProviderUnavailable):
        await read()
    server.faults.cut_read_after = 2 * MIB
    with pytest.raises(ProviderUnavailable):
        await adapter.fetch("object", range=ByteRange(0, 4 * MIB))
    server.faults.cut_read_after = None
    assert (await adapter.fetch("object")).data == data


async def test_connection_reset_between_calls(server: AsyncSshSftpServer, opened: Open) -> None:
    async with faulty_proxy(server.port) as proxy:
        adapter = opened(server.options(), port=proxy.port)
        await put(adapter, "object", b"content")
        proxy.reset = proxy.refuse = True
        proxy.drop_connections()

        async def until_noticed() -> None:
            while True:  # the loss of an idle connection is noticed a little later
                await adapter.stat("object")

        with pytest.raises(ProviderUnavailable):
            await until_noticed()
        proxy.heal()
        assert (await adapter.fetch("object")).data == b"content"


async def test_full_disk_leaves_the_old_object(server: AsyncSshSftpServer, opened: Open) -> None:
    adapter = opened(server.options())
    await put(adapter, "object", b"old")
    server.faults.disk_full = True
    with pytest.raises(CdirError):
        await put(adapter, "object", pattern(MIB))
    server.faults.disk_full = False
    assert files_of(server.root) == {"object": 3}


async def test_error_of_the_source_is_not_the_servers(server: AsyncSshSftpServer, opened: Open) -> None:
    adapter = opened(server.options())
    error = ConnectionResetError("of the source")
    with pytest.raises(ConnectionResetError) as caught:
        await adapter.write("object", failing(pattern(MIB), error), size=2 * MIB, modified=MODIFIED)
    assert caught.value is error
    await put(adapter, "object", b"x")
    reader_error = asyncssh.SFTPFailure("of another server")
    with pytest.raises(asyncssh.SFTPFailure) as caught_of_reader:
        async with adapter.read("object"):
            raise reader_error
    assert caught_of_reader.value is reader_error


async def test_server_without_hard_links_cannot_create(server: AsyncSshSftpServer, opened: Open) -> None:
    server.faults.no_hardlinks = True
    adapter = opened(server.options())
    await adapter.check()
    assert not adapter.capability.write_if_absent
    with pytest.raises(Unsupported):
        await adapter.write("object", b"x", size=1, modified=MODIFIED, mode=WriteMode.CREATE)
    assert files_of(server.root) == {}


async def test_server_without_replacing_rename(server: AsyncSshSftpServer, opened: Open) -> None:
    server.faults.no_posix_rename = True
    adapter = opened(server.options())
    await put(adapter, "folder/object", b"old")
    assert not adapter.capability.write_atomic
    await put(adapter, "folder/object", b"newer")
    assert files_of(server.root) == {"folder/object": 5}
    with pytest.raises(IsDirectory):
        await put(adapter, "folder", b"x")
    with pytest.raises(Unsupported):
        await adapter.move("folder/object", "other")


async def test_missing_root_is_not_an_empty_one(server: AsyncSshSftpServer, opened: Open) -> None:
    """A disk that is not mounted on the server must never look like deleted files."""
    adapter = opened(server.options(), root="/share")
    await adapter.prepare()
    await put(adapter, "object", b"x")
    (server.root / "share").rename(server.root / "unmounted")
    with pytest.raises(NotFound):
        await adapter.check()
    for attempt in (
        adapter.stat("object"),
        adapter.fetch("object"),
        adapter.delete("object"),
        put(adapter, "folder/new", b"x"),
        anext(adapter.list("")),
        anext(adapter.list("", recursive=True)),
    ):
        with pytest.raises(ProviderUnavailable, match="gone"):
            await attempt


async def test_links_and_devices_are_shown_and_not_followed(server: AsyncSshSftpServer, opened: Open) -> None:
    (server.root / "outside").write_bytes(b"secret")
    (server.root / "share").mkdir()
    (server.root / "share/link").symlink_to("../outside")
    adapter = opened(server.options(), root="/share")
    listed = [info async for page in adapter.list("", recursive=True) for info in page.objects]
    assert [(info.key, info.kind) for info in listed] == [("link", ObjectKind.OTHER)]
    assert (await adapter.stat("link")).kind is ObjectKind.OTHER
    with pytest.raises(NotFound):
        await adapter.fetch("link")


async def test_sweep_removes_old_unfinished_writes_only(server: AsyncSshSftpServer, opened: Open) -> None:
    adapter = opened(server.options())
    await put(adapter, "folder/object", b"x")
    old, young = (server.root / "folder" / f".cdir-tmp-{name}" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"rest")
    os.utime(old, (1_000_000_000, 1_000_000_000))
    os.utime(young, (time.time(), 1_000_000_000))  # its writer has just given it the object's time
    assert await adapter.sweep(3600) == 1
    assert files_of(server.root) == {"folder/object": 1, "folder/.cdir-tmp-young": 4}
    listed = [info.key async for page in adapter.list("", recursive=True) for info in page.objects]
    assert listed == ["folder/object"]
    with pytest.raises(InvalidPath):
        await put(adapter, "folder/.cdir-tmp-mine", b"x")


async def test_many_at_once_share_few_connections(server: AsyncSshSftpServer, opened: Open) -> None:
    async with faulty_proxy(server.port) as proxy:
        adapter = opened(server.options(), port=proxy.port)
        await asyncio.gather(*(put(adapter, f"object-{number}", pattern(5000, number)) for number in range(60)))
        assert 1 <= proxy.connections <= 3
        found = await asyncio.gather(*(adapter.fetch(f"object-{number}") for number in range(60)))
        assert [each.data for each in found] == [pattern(5000, number) for number in range(60)]


async def test_digest_of_any_name(sshd: OpenSshServer, opened: Open, tmp_path: Path) -> None:
    adapter = opened(sshd.options(), root=str(tmp_path / "it's a $(root)"))
    await adapter.prepare()
    for name in ("line\nbreak", "-", "!history", "tab\t", "\\n", "a;rm -rf x", "\u00fcml\u00e4ut", "*"):
        await put(adapter, f"folder {name}/{name}", name.encode())
        assert await adapter.digest(f"folder {name}/{name}") == hashlib.sha256(name.encode()).digest()
    os.symlink("/etc/passwd", tmp_path / "it's a $(root)" / "link")
    for key in ("link", "missing"):
        with pytest.raises(NotFound):
            await adapter.digest(key)
    with pytest.raises(IsDirectory):
        await adapter.digest("folder -")


async def test_account_without_a_shell_computes_no_digest(opened: Open) -> None:
    require(openssh)
    async with openssh_server(shell=False) as sshd:
        adapter = opened(sshd.options())
        await put(adapter, "object", b"x")
        assert not adapter.capability.digest
        with pytest.raises(Unsupported):
            await adapter.digest("object")
        assert (await adapter.fetch("object")).data == b"x"


async def test_permissions_are_kept(sshd: OpenSshServer, opened: Open, tmp_path: Path) -> None:
    adapter = opened(sshd.options(), root=str(tmp_path / "root"))
    await adapter.prepare()
    await put(adapter, "object", b"x")
    path = tmp_path / "root/object"
    path.chmod(0o750)
    await put(adapter, "object", b"newer")
    assert path.stat().st_mode & 0o7777 == 0o750
    await adapter.copy("object", "copied")
    await adapter.move("object", "moved")
    for name in ("copied", "moved"):
        assert (tmp_path / "root" / name).stat().st_mode & 0o7777 == 0o750
