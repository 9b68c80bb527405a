"""The vault's files: the data keys, wrapped, and beside them the key file when that is how their key is kept.

``vault.json`` holds every data key that was not forgotten, as one value that AES-256-GCM wraps under the kept key; how
that one is kept is authenticated with it. The file is replaced as a whole, so that there is always one that can be
opened, and a lock on its folder keeps the processes of a deployment apart. A home whose keys were never changed has no
such file: its one data key is derived from the key file, so that services on several machines need to share nothing but
that.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cdir.errors import CdirError, ConfigInvalid, PermissionDenied
from cdir_runtime.credentials import NONCE_BYTES, DataKey, derived
from cdir_runtime.key_keeping import (
    Stretch,
    check_passphrase,
    forget_in_keyring,
    keep_in_keyring,
    key_id,
    load_key,
    make_key_file,
    read_from_keyring,
)

__all__ = ["Opened", "Protection", "VaultFile"]

_FORMAT: Final = 1
_ANEW: Final = "give every provider its secrets anew with `cdir provider set NAME --secret OPTION`"


class Protection(Enum):
    """How the key that wraps the data keys is kept."""

    FILE = "file"
    PASSPHRASE = "passphrase"  # noqa: S105 - the name of a way, not a passphrase
    KEYRING = "keyring"


@dataclass(frozen=True, slots=True)
class _Kept:
    """What ``vault.json`` says in the open about the kept key."""

    protection: Protection
    id: str = ""
    """The kept key's; empty for a passphrase, about which nothing is to be learnt here."""
    stretch: Stretch | None = None

    def to_json(self) -> dict[str, object]:
        values: dict[str, object] = {"with": self.protection.value}
        return values | (self.stretch.to_json() if self.stretch else {"key": self.id})

    @classmethod
    def from_json(cls, values: Any) -> _Kept:
        protection = Protection(values["with"])
        if protection is Protection.PASSPHRASE:
            return cls(protection, stretch=Stretch.from_json(values))
        return cls(protection, str(values["key"]))


@dataclass(frozen=True, slots=True)
class Opened:
    """The content of a vault that is open."""

    kept: _Kept
    kept_key: bytes = field(repr=False)
    keys: tuple[DataKey, ...]
    """The newest, which seals, first."""


class VaultFile:
    """The vault beside a key file. Its methods block: they wait for the lock, for Argon2id, for the keyring."""

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file
        self._path = key_file.with_name("vault.json")

    @property
    def stamp(self) -> tuple[int, int]:
        """Differs once the vault was changed; ``(0, 0)`` while there is no file of it."""
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0)
        return (found.st_ino, found.st_mtime_ns)

    def protection(self) -> Protection:
        """How the key is kept. Raises :class:`ConfigInvalid` for a damaged file."""
        values = self._read()
        return Protection.FILE if values is None else self._kept(values).protection

    def open(self, passphrase: str | None = None) -> Opened:
        """Open it; at the very first time the key file is made.

        Raises :class:`PermissionDenied` while what is needed is not there: no or the wrong passphrase, a keyring that
        is locked, a key file that is gone; :class:`ConfigInvalid` when it cannot be opened as it stands.
        """
        with self._alone():
            return self._open(passphrase)

    def reopened(self, opened: Opened) -> Opened | None:
        """Read it again with the kept key that opened it before; ``None`` when that has changed."""
        with self._alone():
            values = self._read()
            return None if values is None else self._unwrapped(values, opened.kept_key)

    def add_key(self, opened: Opened) -> Opened:
        """Make a new data key the first of all. ``opened`` tells the kept key; the data keys are read again."""
        with self._alone():
            before = self._again(opened)
            changed = Opened(before.kept, before.kept_key, (DataKey.new(), *before.keys))
            self._write(changed)
            return changed

    def forget(self, opened: Opened, ids: Collection[str]) -> Opened:
        """Remove these data keys, but never the first of all; what they sealed cannot be opened any more."""
        with self._alone():
            before = self._again(opened)
            first, *rest = before.keys
            kept = tuple(key for key in rest if key.id not in ids)
            changed = Opened(before.kept, before.kept_key, (first, *kept))
            if changed.keys != before.keys:
                self._write(changed)
            return changed

    def protect(self, opened: Opened, protection: Protection, passphrase: str | None) -> Opened:
        """Keep the key in another way from now on, or anew in the same way. At every moment one of the two opens it."""
        if protection is Protection.PASSPHRASE:
            check_passphrase(passphrase or "")
        with self._alone():
            before = self._again(opened)
            match protection:
                case Protection.FILE:
                    kept_key = make_key_file(self._next_key_file)
                    kept = _Kept(protection, key_id(kept_key))
                case Protection.KEYRING:
                    kept_key = secrets.token_bytes(32)
                    keep_in_keyring(kept_key)
                    kept = _Kept(protection, key_id(kept_key))
                case Protection.PASSPHRASE:
                    stretch = Stretch.new()
                    kept_key = stretch.key(passphrase or "")
                    kept = _Kept(protection, stretch=stretch)
            changed = Opened(kept, kept_key, before.keys)
            self._write(changed)
            self._tidy(changed)
            if before.kept.protection is Protection.KEYRING:
                forget_in_keyring(before.kept_key)
            return changed

    # what happens under the lock

    def _open(self, passphrase: str | None) -> Opened:
        values = self._read()
        if values is None:
            kept_key = load_key(self._key_file) if self._key_file.exists() else make_key_file(self._key_file)
            return Opened(_Kept(Protection.FILE, key_id(kept_key)), kept_key, (DataKey(derived(kept_key, "data key")),))
        kept = self._kept(values)
        opened = self._unwrapped(values, self._kept_key(kept, passphrase))
        if opened is None:
            if kept.protection is Protection.PASSPHRASE:
                raise PermissionDenied(
                    f"the passphrase of the vault is wrong; if it is lost, delete {self._path}, start again,"
                    f" and {_ANEW}"
                )
            raise self._damaged()
        self._tidy(opened)
        return opened

    def _again(self, opened: Opened) -> Opened:
        values = self._read()
        present = opened if values is None else self._unwrapped(values, opened.kept_key)
        if present is None:
            raise PermissionDenied(
                "the vault was protected in another way meanwhile; run `cdir vault unlock`, then try again"
            )
        return present

    def _kept_key(self, kept: _Kept, passphrase: str | None) -> bytes:
        match kept.protection:
            case Protection.PASSPHRASE:
                if passphrase is None:
                    raise PermissionDenied("the vault is locked; `cdir vault unlock` asks for its passphrase")
                assert kept.stretch is not None
                return kept.stretch.key(passphrase)
            case Protection.KEYRING:
                return read_from_keyring(kept.id)
            case Protection.FILE:
                for path in (self._key_file, self._next_key_file):
                    if path.exists():
                        key = load_key(path)
                        if key_id(key) == kept.id:
                            return key
                raise PermissionDenied(
                    f"the vault is locked: {self._key_file} is gone or another one; put it back from a backup and run"
                    f" `cdir vault unlock`, or delete {self._path}, start again, and {_ANEW}"
                )

    @property
    def _next_key_file(self) -> Path:
        return self._key_file.with_name(f"{self._key_file.name}.next")

    def _tidy(self, opened: Opened) -> None:
        """Bring the key file to what ``vault.json`` says, which counts: a change may have been cut off after it."""
        with suppress(OSError):
            if opened.kept.protection is not Protection.FILE:
                self._key_file.unlink(missing_ok=True)
            elif self._next_key_file.exists() and load_key(self._next_key_file) == opened.kept_key:
                self._next_key_file.replace(self._key_file)
            self._next_key_file.unlink(missing_ok=True)

    def _read(self) -> Any | None:
        try:
            values = json.loads(self._path.read_bytes())
            if values["format"] != _FORMAT:
                raise ConfigInvalid(f"{self._path} was written by a newer release of cdir; upgrade cdir")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigInvalid(f"cannot read {self._path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError):
            raise self._damaged() from None
        return values

    def _kept(self, values: Any) -> _Kept:
        try:
            return _Kept.from_json(values["kept"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._damaged() from None

    def _unwrapped(self, values: Any, kept_key: bytes) -> Opened | None:
        """Open the data keys; ``None`` when the key is not theirs."""
        kept = self._kept(values)
        try:
            wrapped = base64.b64decode(values["keys"], validate=True)
            plain = AESGCM(kept_key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _context(kept))
            keys = tuple(_data_key(one) for one in json.loads(plain))
        except InvalidTag:
            return None
        except (ValueError, KeyError, TypeError, binascii.Error):
            raise self._damaged() from None
        return Opened(kept, kept_key, keys)

    def _write(self, opened: Opened) -> None:
        nonce = secrets.token_bytes(NONCE_BYTES)
        plain = json.dumps([_data_key_json(key) for key in opened.keys]).encode()
        wrapped = nonce + AESGCM(opened.kept_key).encrypt(nonce, plain, _context(opened.kept))
        values = {"format": _FORMAT, "kept": opened.kept.to_json(), "keys": base64.b64encode(wrapped).decode()}
        replacement = self._path.with_name(f"{self._path.name}.new")
        try:
            descriptor = os.open(replacement, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(values, indent=1).encode())
                file.flush()
                os.fsync(file.fileno())
            replacement.replace(self._path)
            _sync(self._path.parent)
        except OSError as error:
            raise ConfigInvalid(f"cannot write {self._path}: {error.strerror}; nothing was changed") from error

    def _damaged(self) -> CdirError:
        return ConfigInvalid(
            f"{self._path} is damaged; put it back from a backup, or delete it, start again, and {_ANEW}"
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        folder = self._path.parent
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise ConfigInvalid(f"cannot read the key file {self._key_file}: {folder}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _context(kept: _Kept) -> bytes:
    return b"cdir vault 1 " + json.dumps(kept.to_json(), sort_keys=True).encode()


def _data_key_json(key: DataKey) -> dict[str, str]:
    return {"key": base64.b64encode(key.key).decode(), "made": key.made.isoformat() if key.made else ""}


def _data_key(values: Any) -> DataKey:
    made = datetime.fromisoformat(values["made"]) if values["made"] else None
    return DataKey(base64.b64decode(values["key"], validate=True), made)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
