"""The vault: how its key is kept, changed, lost and found."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cdir.errors import CdirError, ConfigInvalid, InvalidArgument, PermissionDenied, Unsupported
from cdir_runtime.credentials import KEY_BYTES
from cdir_runtime.key_keeping import Stretch, load_key
from cdir_runtime.vault import Protection, Vault
from cdir_runtime.vault_file import VaultFile

SECRETS = {"password": "s3cr€t"}
PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def _cheap_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stretch, "new", classmethod(lambda cls: cls(os.urandom(16), 64, 1, 1)))


class FileKeyring(ModuleType):
    """The library ``keyring``, as far as it is used, over a dictionary."""

    def __init__(self) -> None:
        super().__init__("keyring")
        self.entries: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_keyring(self) -> FileKeyring:
        return self

    def set_password(self, service: str, name: str, value: str) -> None:
        self._check()
        self.entries[service, name] = value

    def get_password(self, service: str, name: str) -> str | None:
        self._check()
        return self.entries.get((service, name))

    def delete_password(self, service: str, name: str) -> None:
        self._check()
        del self.entries[service, name]

    def _check(self) -> None:
        if self.locked:
            raise RuntimeError("the backend's own words")


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch) -> FileKeyring:
    made = FileKeyring()
    monkeypatch.setitem(sys.modules, "keyring", made)
    return made


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "key"


async def _sealed(vault: Vault) -> bytes:
    return await vault.seal(SECRETS, "p1")


async def test_a_vault_begins_with_a_private_key_file_alone(key_file: Path) -> None:
    vault = await Vault.open(key_file)
    sealed = await _sealed(vault)
    assert os.listdir(key_file.parent) == ["key"]
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert load_key(key_file) not in sealed
    again = await Vault.open(key_file)
    assert await again.unseal(sealed, "p1") == SECRETS


async def test_services_that_share_the_key_file_alone_share_the_data_key(key_file: Path, tmp_path: Path) -> None:
    sealed = await _sealed(await Vault.open(key_file))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "key").write_bytes(key_file.read_bytes())
    (elsewhere / "key").chmod(0o600)
    assert await (await Vault.open(elsewhere / "key")).unseal(sealed, "p1") == SECRETS


def test_processes_that_start_together_agree_on_a_key(key_file: Path) -> None:
    script = (
        "import pathlib, sys; from cdir_runtime.vault_file import VaultFile;"
        " print(VaultFile(pathlib.Path(sys.argv[1])).open().keys[0].id)"
    )
    starting = [
        subprocess.Popen([sys.executable, "-c", script, str(key_file)], stdout=subprocess.PIPE) for _ in range(4)
    ]
    assert len({process.communicate(timeout=60)[0] for process in starting}) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o701])
async def test_a_key_that_others_can_read_is_refused(key_file: Path, mode: int) -> None:
    await Vault.open(key_file)
    key_file.chmod(mode)
    with pytest.raises(ConfigInvalid, match="chmod 600"):
        await Vault.open(key_file)


@pytest.mark.parametrize("content", [b"", b"x" * (KEY_BYTES - 1), b"x" * (KEY_BYTES + 1)])
async def test_a_file_that_holds_no_key_is_refused_and_kept(key_file: Path, content: bytes) -> None:
    key_file.write_bytes(content)
    key_file.chmod(0o600)
    with pytest.raises(ConfigInvalid):
        await Vault.open(key_file)
    assert key_file.read_bytes() == content


async def test_a_key_in_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="cannot"):
        await Vault.open(tmp_path / "missing" / "key")


async def test_a_new_data_key_is_used_and_the_old_ones_still_open(key_file: Path) -> None:
    vault = await Vault.open(key_file)
    first = await _sealed(vault)
    await vault.add_key()
    second = await _sealed(vault)
    for one in (vault, await Vault.open(key_file)):
        assert len(one.keys) == 2
        assert await one.unseal(first, "p1") == await one.unseal(second, "p1") == SECRETS


async def test_another_process_follows_a_new_key_by_itself(key_file: Path) -> None:
    here, there = await Vault.open(key_file), await Vault.open(key_file)
    await here.add_key()
    assert await there.unseal(await _sealed(here), "p1") == SECRETS
    await here.add_key()
    await _sealed(there)
    assert there.keys[0].id == here.keys[0].id


async def test_a_passphrase_opens_the_vault_and_no_file_does(key_file: Path) -> None:
    vault = await Vault.open(key_file)
    sealed = await _sealed(vault)
    await vault.protect(Protection.PASSPHRASE, PASSPHRASE)
    assert os.listdir(key_file.parent) == ["vault.json"]
    assert stat.S_IMODE((key_file.parent / "vault.json").stat().st_mode) == 0o600
    locked = await Vault.open(key_file)
    assert "cdir vault unlock" in locked.locked
    for attempt in (locked.unseal(sealed, "p1"), locked.seal(SECRETS, "p1"), locked.add_key()):
        with pytest.raises(PermissionDenied, match="vault unlock"):
            await attempt
    for wrong in ("", "correct horse batter", PASSPHRASE + " "):
        with pytest.raises(PermissionDenied, match="wrong"):
            await locked.unlock(wrong)
    await locked.unlock(PASSPHRASE)
    assert not locked.locked
    assert await locked.unseal(sealed, "p1") == SECRETS


async def test_the_passphrase_changes_without_touching_what_is_sealed(key_file: Path) -> None:
    vault = await Vault.open(key_file)
    sealed = await _sealed(vault)
    await vault.protect(Protection.PASSPHRASE, PASSPHRASE)
    await vault.protect(Protection.PASSPHRASE, "another " + PASSPHRASE)
    again = await Vault.open(key_file)
    with pytest.raises(PermissionDenied):
        await again.unlock(PASSPHRASE)
    await again.unlock("another " + PASSPHRASE)
    assert await again.unseal(sealed, "p1") == SECRETS


async def test_composed_and_decomposed_letters_are_one_passphrase(key_file: Path) -> None:
    await (await Vault.open(key_file)).protect(Protection.PASSPHRASE, "caf\u00e9 au lait")
    await (await Vault.open(key_file)).unlock("cafe\u0301 au lait")


@pytest.mark.parametrize("passphrase", [None, "", "seven77"])
async def test_a_short_passphrase_changes_nothing(key_file: Path, passphrase: str | None) -> None:
    vault = await Vault.open(key_file)
    with pytest.raises(InvalidArgument, match="8 characters"):
        await vault.protect(Protection.PASSPHRASE, passphrase)
    assert os.listdir(key_file.parent) == ["key"]


async def test_the_passphrase_comes_from_a_file(key_file: Path, tmp_path: Path) -> None:
    await (await Vault.open(key_file)).protect(Protection.PASSPHRASE, PASSPHRASE)
    said = tmp_path / "said"
    said.write_text(PASSPHRASE + "\n")
    assert not (await Vault.open(key_file, str(said))).locked
    said.write_text("something else\n")
    assert "wrong" in (await Vault.open(key_file, str(said))).locked
    for content in (b"\n", b"\xff\xfe"):
        said.write_bytes(content)
        with pytest.raises(ConfigInvalid, match="CDIR_PASSPHRASE_FILE"):
            await Vault.open(key_file, str(said))
    with pytest.raises(ConfigInvalid, match="CDIR_PASSPHRASE_FILE"):
        await Vault.open(key_file, str(tmp_path / "missing"))


async def test_the_keyring_keeps_the_key(key_file: Path, keyring: FileKeyring) -> None:
    vault = await Vault.open(key_file)
    sealed = await _sealed(vault)
    await vault.protect(Protection.KEYRING, None)
    assert os.listdir(key_file.parent) == ["vault.json"]
    assert len(keyring.entries) == 1
    assert await (await Vault.open(key_file)).unseal(sealed, "p1") == SECRETS
    keyring.locked = True
    locked = await Vault.open(key_file)
    assert "keyring" in locked.locked
    assert "own words" not in locked.locked
    keyring.locked = False
    await locked.unlock(None)
    await locked.protect(Protection.FILE, None)
    assert not keyring.entries
    assert await (await Vault.open(key_file)).unseal(sealed, "p1") == SECRETS


async def test_without_a_keyring_nothing_changes(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    vault = await Vault.open(key_file)
    with pytest.raises(Unsupported, match=r"cdir\[keyring\]"):
        await vault.protect(Protection.KEYRING, None)
    assert os.listdir(key_file.parent) == ["key"]


async def test_the_key_file_is_made_anew(key_file: Path) -> None:
    vault = await Vault.open(key_file)
    sealed, before = await _sealed(vault), key_file.read_bytes()
    await vault.protect(Protection.FILE, None)
    assert key_file.read_bytes() != before
    assert await (await Vault.open(key_file)).unseal(sealed, "p1") == SECRETS
    key_file.write_bytes(before)
    assert "put it back" in (await Vault.open(key_file)).locked
    key_file.unlink()
    assert "provider set" in (await Vault.open(key_file)).locked


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"format": 1}', '{"format": 1, "kept": {"with": "luck"}, "keys": ""}']
)
async def test_a_damaged_vault_is_refused_and_kept(key_file: Path, content: str) -> None:
    await Vault.open(key_file)
    path = key_file.with_name("vault.json")
    path.write_text(content)
    with pytest.raises(ConfigInvalid, match="damaged"):
        await Vault.open(key_file)
    assert path.read_text() == content


async def test_a_changed_vault_does_not_open(key_file: Path) -> None:
    vault = await Vault.open(key_file)
    await vault.add_key()
    path = key_file.with_name("vault.json")
    values = json.loads(path.read_text())
    values["kept"]["comment"] = "not authenticated, and not read"
    path.write_text(json.dumps(values))
    assert not (await Vault.open(key_file)).locked
    wrapped = values["keys"]
    values["keys"] = ("A" if wrapped[20] != "A" else "B").join((wrapped[:20], wrapped[21:]))
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigInvalid, match="damaged"):
        await Vault.open(key_file)


def _die_while(key_file: Path, step: str, number: int) -> None:
    """Change the vault and be killed right before the ``number``-th replacement or removal of a file."""
    left = number

    def counted(original: Callable[..., Any]) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        return call

    Path.replace = counted(Path.replace)  # type: ignore[method-assign] # in a process of its own
    Path.unlink = counted(Path.unlink)  # type: ignore[method-assign] # the same
    Stretch.new = classmethod(lambda cls: cls(os.urandom(16), 64, 1, 1))  # type: ignore[assignment,method-assign] # the same
    file = VaultFile(key_file)
    opened = file.open(PASSPHRASE)
    if step == "rotate":
        file.add_key(opened)
    else:
        file.protect(opened, Protection(step), PASSPHRASE)


@pytest.mark.parametrize("begin", ["file", "passphrase"])
@pytest.mark.parametrize("step", ["rotate", "file", "passphrase"])
def test_killed_at_any_moment_of_a_change_everything_still_opens(key_file: Path, begin: str, step: str) -> None:
    async def prepare() -> bytes:
        vault = await Vault.open(key_file)
        await vault.protect(Protection(begin), PASSPHRASE)
        return await _sealed(vault)

    async def look() -> tuple[dict[str, str], Protection]:
        vault = await Vault.open(key_file)
        if vault.locked:
            await vault.unlock(PASSPHRASE)
        return await vault.unseal(sealed, "p1"), await vault.protection()

    sealed = asyncio.run(prepare())
    context = multiprocessing.get_context("fork")  # no thread runs between two loops
    for number in range(20):
        process = context.Process(target=_die_while, args=(key_file, step, number))
        process.start()
        process.join(60)
        secrets, protection = asyncio.run(look())
        assert secrets == SECRETS, f"killed before step {number}"
        if process.exitcode == 0:
            break
    assert number > 0
    assert process.exitcode == 0
    assert protection is Protection(begin if step == "rotate" else step)
    assert key_file.exists() == (protection is Protection.FILE)


def test_the_parameters_are_those_of_rfc_9106() -> None:
    made = Stretch(b"s" * 16)
    assert (made.memory_kib, made.iterations, made.lanes) == (65_536, 3, 4)
    assert made.key(PASSPHRASE) == Stretch.from_json(made.to_json()).key(PASSPHRASE)
    assert made.key(PASSPHRASE) != Stretch(b"t" * 16).key(PASSPHRASE)


@pytest.mark.parametrize("changed", [{"memory_kib": 1 << 40}, {"iterations": 10**9}, {"kdf": "md5"}, {"salt": "?"}])
def test_parameters_that_nobody_chose_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Stretch.from_json({**Stretch(b"s" * 16).to_json(), **changed})


async def test_no_error_and_no_printed_form_shows_a_key(key_file: Path) -> None:
    vault = await Vault.open(key_file)
    opened = VaultFile(key_file).open()
    shown = repr(vault) + repr(opened) + repr(vault.keys)
    try:
        await vault.unseal(b"\x02" + bytes(40), "p1")
    except CdirError as error:
        shown += str(error)
    for key in (load_key(key_file), vault.keys[0].key):
        assert key.hex() not in shown
        assert repr(key)[2:-1] not in shown
