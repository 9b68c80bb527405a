"""Secrets at rest."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from cdir.errors import ConfigInvalid
from cdir_runtime.credentials import KEY_BYTES, Sealer, load_key, load_or_create_key

SECRETS = {"secret_key": "s3cr€t", "password": ""}


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(bytes(range(KEY_BYTES)))


def test_round_trip(sealer: Sealer) -> None:
    assert sealer.unseal(sealer.seal(SECRETS, "p1"), "p1") == SECRETS
    assert sealer.unseal(sealer.seal({}, "p1"), "p1") == {}


def test_the_same_secrets_never_look_the_same(sealer: Sealer) -> None:
    first, second = sealer.seal(SECRETS, "p1"), sealer.seal(SECRETS, "p1")
    assert first != second
    assert b"s3cr" not in first


def test_sealed_for_one_provider_opens_for_no_other(sealer: Sealer) -> None:
    with pytest.raises(ConfigInvalid):
        sealer.unseal(sealer.seal(SECRETS, "p1"), "p2")


def test_another_key_does_not_open(sealer: Sealer) -> None:
    with pytest.raises(ConfigInvalid, match="another key"):
        Sealer(bytes(KEY_BYTES)).unseal(sealer.seal(SECRETS, "p1"), "p1")


def test_every_changed_byte_is_noticed(sealer: Sealer) -> None:
    sealed = sealer.seal(SECRETS, "p1")
    for position in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[position] ^= 1
        with pytest.raises(ConfigInvalid):
            sealer.unseal(bytes(damaged), "p1")


@pytest.mark.parametrize("length", [0, 1, 5, 13, 20])
def test_what_was_cut_short_does_not_open(sealer: Sealer, length: int) -> None:
    with pytest.raises(ConfigInvalid):
        sealer.unseal(sealer.seal(SECRETS, "p1")[:length], "p1")


def test_the_key_is_never_shown() -> None:
    key = b"K" * KEY_BYTES
    assert "KKKK" not in repr(Sealer(key))
    assert "KKKK" not in str(vars(Sealer(key)))


def test_a_key_of_the_wrong_size() -> None:
    with pytest.raises(ConfigInvalid):
        Sealer(b"short")


def test_a_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = load_or_create_key(path)
    assert len(key) == KEY_BYTES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_key(path) == load_key(path) == key
    assert os.listdir(tmp_path) == ["key"]


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    load_or_create_key(path)
    for mode in (0o640, 0o604, 0o620, 0o700 | 0o001):
        path.chmod(mode)
        with pytest.raises(ConfigInvalid, match="chmod 600"):
            load_or_create_key(path)


@pytest.mark.parametrize("content", [b"", b"x" * (KEY_BYTES - 1), b"x" * (KEY_BYTES + 1)])
def test_a_file_that_holds_no_key_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigInvalid):
        load_or_create_key(path)
    assert path.read_bytes() == content


def test_a_key_in_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="cannot make the key file"):
        load_or_create_key(tmp_path / "missing" / "key")
    with pytest.raises(ConfigInvalid, match="cannot read the key file"):
        load_key(tmp_path / "missing" / "key")


def test_processes_that_start_together_agree_on_a_key(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        keys = pool.map(load_or_create_key, [tmp_path / "key"] * 8)
    assert len(set(keys)) == 1
