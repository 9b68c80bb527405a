"""How the kind ``sftp`` signs in to OpenSSH: agent, certificates, over another host; and what it says when refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import asyncssh
import pytest
import pytest_asyncio

from cdir.errors import CdirError, ConfigInvalid, ProviderUnavailable, Unauthenticated
from cdir_adapters.providers.sftp import SftpAdapter
from cdir_adapters.testing.trial import MODIFIED
from servers import openssh, ssh_agent
from servers.openssh import OpenSshServer, openssh_server
from servers.requirement import require

Open = Callable[..., SftpAdapter]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sshd() -> AsyncIterator[OpenSshServer]:
    require(openssh)
    async with openssh_server() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def jump() -> AsyncIterator[OpenSshServer]:
    require(openssh)
    async with openssh_server() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_keys_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture
async def opened(sshd: OpenSshServer) -> AsyncIterator[Open]:
    """Opens adapters on ``sshd`` that are closed in the end; an option given as ``None`` is left out."""
    async with AsyncExitStack() as stack:

        def open_adapter(**changes: str | None) -> SftpAdapter:
            options = {**sshd.options(), **changes}
            adapter = SftpAdapter("box", {name: value for name, value in options.items() if value is not None})
            stack.push_async_callback(adapter.aclose)
            return adapter

        yield open_adapter


async def message(kind: type[CdirError], adapter: SftpAdapter) -> str:
    """The one line that ``check`` fails with."""
    with pytest.raises(kind) as caught:
        await adapter.check()
    assert "\n" not in caught.value.message
    return caught.value.message


async def test_agent(sshd: OpenSshServer, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    require(ssh_agent)
    async with ssh_agent.ssh_agent([asyncssh.read_private_key(sshd.key_file)]) as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        await opened(key_file=None).check()


async def test_agent_that_cannot_help(opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require(ssh_agent)
    assert "there is no SSH agent (SSH_AUTH_SOCK is not set" in await message(Unauthenticated, opened(key_file=None))
    async with ssh_agent.ssh_agent() as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        assert "the SSH agent holds no key (add one with ssh-add)" in await message(
            Unauthenticated, opened(key_file=None)
        )
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "none"))
    assert "the SSH agent of SSH_AUTH_SOCK does not answer" in await message(Unauthenticated, opened(key_file=None))
    async with ssh_agent.ssh_agent([asyncssh.generate_private_key("ssh-ed25519")]) as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        assert "none of the 1 keys of the SSH agent" in await message(Unauthenticated, opened(key_file=None))


async def test_certificate_of_the_user(sshd: OpenSshServer, opened: Open, tmp_path: Path) -> None:
    key_file = tmp_path / "signed"
    sshd.make_signed_key(key_file)
    await opened(key_file=str(key_file)).check()
    certificate = tmp_path / "signed-cert.pub"
    certificate.rename(tmp_path / "away")
    said = await message(Unauthenticated, opened(key_file=str(key_file)))
    assert f"check user, and that the key {key_file} is allowed there" in said


async def test_certificates_that_cannot_be_used(sshd: OpenSshServer, opened: Open, tmp_path: Path) -> None:
    key_file, other = tmp_path / "signed", tmp_path / "other"
    sshd.make_signed_key(key_file, valid_before="20210101")
    assert "Certificate expired; have the key signed anew" in await message(
        ConfigInvalid, opened(key_file=str(key_file))
    )
    sshd.make_signed_key(other)
    (tmp_path / "signed-cert.pub").write_bytes((tmp_path / "other-cert.pub").read_bytes())
    assert "is the certificate of another key" in await message(ConfigInvalid, opened(key_file=str(key_file)))
    (tmp_path / "signed-cert.pub").write_text("nothing of the kind")
    assert "is not a certificate" in await message(ConfigInvalid, opened(key_file=str(key_file)))


async def test_certificate_of_the_host(sshd: OpenSshServer, jump: OpenSshServer, opened: Open) -> None:
    await opened(host_key=f"@cert-authority {sshd.authority_key}").check()
    await opened(host_key=f"@cert-authority {sshd.authority.get_fingerprint()}").check()
    other = opened(host_key=f"@cert-authority {jump.authority_key}")
    said = await message(Unauthenticated, other)
    assert sshd.authority.get_fingerprint() in said
    assert jump.authority.get_fingerprint() in said
    # the key of a host is no authority, nor the other way round
    await message(Unauthenticated, opened(host_key=f"@cert-authority {sshd.host_key}"))
    await message(Unauthenticated, opened(host_key=sshd.authority_key))
    # the certificate names the address, not this name
    said = await message(Unauthenticated, opened(host="localhost", host_key=f"@cert-authority {sshd.authority_key}"))
    assert "principal mismatch" in said
    assert "@cert-authority" in await message_of_options(opened, host_key="@cert-authority nonsense")


async def message_of_options(opened: Open, **changes: str) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        opened(**changes)
    return caught.value.message


def over(sshd: OpenSshServer, jump: OpenSshServer) -> dict[str, str]:
    """Options that go to ``sshd`` over ``jump``, with a key that both let in."""
    known = (sshd.folder / "authorized_keys").read_text()
    allowed = jump.folder / "authorized_keys"
    if known not in allowed.read_text():
        allowed.write_text(allowed.read_text() + known)
    return {"jump": f"{jump.user}@{jump.host}:{jump.port}", "jump_host_key": jump.host_key}


async def test_over_another_host(sshd: OpenSshServer, jump: OpenSshServer, opened: Open) -> None:
    adapter = opened(**over(sshd, jump))
    await adapter.write("folder/object", b"content", size=7, modified=MODIFIED)
    assert (sshd.root / "folder/object").read_bytes() == b"content"
    await jump.kill()
    with pytest.raises(ProviderUnavailable):
        await adapter.stat("folder/object")
    said = await message(ProviderUnavailable, adapter)
    assert f"no SSH connection to {jump.host}:{jump.port}" in said
    await jump.restart()
    assert (await adapter.fetch("folder/object")).data == b"content"


async def test_other_host_is_not_the_pinned_one(sshd: OpenSshServer, jump: OpenSshServer, opened: Open) -> None:
    options = over(sshd, jump)
    said = await message(Unauthenticated, opened(**{**options, "jump_host_key": sshd.host_key}))
    assert f"{jump.host}:{jump.port} shows the host key" in said
    assert f"'jump_host_key={jump.host_key}'" in said
    said = await message(ConfigInvalid, opened(jump=options["jump"]))
    assert f"--set 'jump_host_key={jump.host_key}'" in said
    # beyond the right one, the server itself is pinned as ever
    said = await message(Unauthenticated, opened(**options, host_key=jump.host_key))
    assert f"{sshd.host}:{sshd.port} shows the host key" in said
    assert f"'host_key={sshd.host_key}'" in said


async def test_other_host_lets_nobody_in(sshd: OpenSshServer, jump: OpenSshServer, opened: Open) -> None:
    options = over(sshd, jump)
    said = await message(Unauthenticated, opened(**{**options, "jump": f"nobody@{jump.host}:{jump.port}"}))
    assert f"{jump.host}:{jump.port} does not let nobody in" in said
    said = await message(ProviderUnavailable, opened(**options, port="1"))
    assert f"no SSH connection to {sshd.host}:1 over {jump.host}:{jump.port}" in said


@pytest.mark.parametrize("jump", ["", "a@", "host:port", "a@host/x", "host:99999"])
async def test_jump_that_is_none(opened: Open, jump: str) -> None:
    if jump:
        assert "option jump must be user@host:port" in await message_of_options(opened, jump=jump)
    else:
        assert "jump_host_key needs jump" in await message_of_options(opened, jump_host_key="SHA256:x")
