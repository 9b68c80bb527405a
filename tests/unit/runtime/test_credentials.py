"""Sealing secrets."""

from __future__ import annotations

import pytest

from cdir.errors import ConfigInvalid
from cdir_runtime.credentials import KEY_BYTES, DataKey, Sealer, key_of

SECRETS = {"secret_key": "s3cr€t", "password": ""}
KEY = DataKey(bytes(range(KEY_BYTES)))


@pytest.fixture
def sealer() -> Sealer:
    return Sealer([KEY])


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
    with pytest.raises(ConfigInvalid, match="provider set"):
        Sealer([DataKey(bytes(KEY_BYTES))]).unseal(sealer.seal(SECRETS, "p1"), "p1")


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


def test_a_sealed_value_names_its_key_and_older_keys_still_open(sealer: Sealer) -> None:
    sealed = sealer.seal(SECRETS, "p1")
    newer = Sealer([DataKey.new(), KEY])
    assert key_of(sealed) == KEY.id == sealer.current
    assert newer.current != KEY.id
    assert newer.unseal(sealed, "p1") == SECRETS
    assert key_of(newer.seal(SECRETS, "p1")) == newer.current


def test_a_value_that_names_another_key_of_the_same_sealer_does_not_open(sealer: Sealer) -> None:
    other = DataKey.new()
    sealed = sealer.seal(SECRETS, "p1")
    renamed = sealed[:1] + bytes.fromhex(other.id) + sealed[9:]
    with pytest.raises(ConfigInvalid):
        Sealer([KEY, other]).unseal(renamed, "p1")


def test_the_key_is_never_shown() -> None:
    key = DataKey(b"K" * KEY_BYTES)
    for shown in (repr(key), repr(Sealer([key])), str(key)):
        assert "KKKK" not in shown
    assert b"K" * 8 not in bytes.fromhex(key.id)


def test_a_key_of_the_wrong_size() -> None:
    with pytest.raises(ConfigInvalid):
        DataKey(b"short")
