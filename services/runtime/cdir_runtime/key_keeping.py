"""How the key of the vault is kept: in a file, as a passphrase in somebody's head, or in the keyring of this user.

What is kept is the key that wraps the data keys. It never seals a secret itself, so that it can be changed without
touching what is sealed.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import os
import secrets
import stat
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from cdir.errors import ConfigInvalid, InvalidArgument, PermissionDenied, Unsupported
from cdir_runtime.credentials import KEY_BYTES, derived

__all__ = [
    "MIN_PASSPHRASE",
    "Stretch",
    "check_passphrase",
    "forget_in_keyring",
    "keep_in_keyring",
    "key_id",
    "load_key",
    "make_key_file",
    "read_from_keyring",
]

MIN_PASSPHRASE: Final = 8
"""Fewest characters of a new passphrase."""

_KEYRING_SERVICE: Final = "cdir vault"
_MAX_MEMORY_KIB: Final = 4 * 1024 * 1024
_MAX_ITERATIONS: Final = 1000


def key_id(key: bytes) -> str:
    """Name a kept key: 16 hexadecimal digits that follow from it and do not tell it."""
    return derived(key, "vault key id", 8).hex()


# a file


def load_key(path: Path) -> bytes:
    """Read the key file. Raises :class:`ConfigInvalid` when it is missing, open to others, or of the wrong size."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise ConfigInvalid(f"cannot read the key file {path}: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigInvalid(f"the key file {path} can be read by others; run `chmod 600 {path}`")
    if len(key) != KEY_BYTES:
        raise ConfigInvalid(f"the key file {path} does not hold a key of {KEY_BYTES} bytes")
    return key


def make_key_file(path: Path) -> bytes:
    """Write a random key to a new file of mode 0600, whole or not at all; return it. What lies there is replaced."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    key = secrets.token_bytes(KEY_BYTES)
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(key)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigInvalid(f"cannot make the key file {path}: {error.strerror}") from error
    return key


# a passphrase


@dataclass(frozen=True, slots=True)
class Stretch:
    """How a passphrase becomes a key: Argon2id (RFC 9106) with these parameters."""

    salt: bytes
    memory_kib: int = 65_536
    iterations: int = 3
    lanes: int = 4
    """The defaults are RFC 9106's second recommended option, for machines that have not 2 GiB to spare."""

    @classmethod
    def new(cls) -> Stretch:
        """Make one with a salt of its own."""
        return cls(secrets.token_bytes(16))

    @classmethod
    def from_json(cls, values: Any) -> Stretch:
        """Read what :meth:`to_json` made. Raises ValueError, KeyError or TypeError for anything else."""
        made = cls(
            base64.b64decode(values["salt"], validate=True),
            int(values["memory_kib"]),
            int(values["iterations"]),
            int(values["lanes"]),
        )
        bounded = made.memory_kib <= _MAX_MEMORY_KIB and made.iterations <= _MAX_ITERATIONS
        if values["kdf"] != "argon2id" or not bounded:
            raise ValueError("parameters that no release of cdir has chosen")
        return made

    def to_json(self) -> dict[str, object]:
        return {
            "kdf": "argon2id",
            "salt": base64.b64encode(self.salt).decode(),
            "memory_kib": self.memory_kib,
            "iterations": self.iterations,
            "lanes": self.lanes,
        }

    def key(self, passphrase: str) -> bytes:
        """Return the key. Takes some tenths of a second and ``memory_kib`` of memory: that is its point."""
        try:
            return Argon2id(
                salt=self.salt,
                length=KEY_BYTES,
                iterations=self.iterations,
                lanes=self.lanes,
                memory_cost=self.memory_kib,
            ).derive(unicodedata.normalize("NFC", passphrase).encode())
        except UnsupportedAlgorithm:
            raise Unsupported(
                "this machine's cryptography library has no Argon2id; install a wheel of `cryptography`, or keep the"
                " key in a file"
            ) from None


def check_passphrase(passphrase: str) -> None:
    """Raise :class:`InvalidArgument` for one that is too short to be chosen."""
    if len(passphrase) < MIN_PASSPHRASE:
        raise InvalidArgument(f"a passphrase has at least {MIN_PASSPHRASE} characters; take several words")


# the keyring


def keep_in_keyring(key: bytes) -> None:
    """Store the key under its id, and make sure that it is there. Raises :class:`Unsupported`."""
    encoded = base64.b64encode(key).decode()
    try:
        keyring = _keyring()
        keyring.set_password(_KEYRING_SERVICE, key_id(key), encoded)
        found = keyring.get_password(_KEYRING_SERVICE, key_id(key))
    except _KEYRING_ERRORS as error:
        raise Unsupported(f"the key cannot be kept in a keyring: {_why(error)}") from error
    if found != encoded:
        raise Unsupported("the key cannot be kept in a keyring: this machine's does not give back what it was given")


def read_from_keyring(wanted: str) -> bytes:
    """Return the key of that id. Raises :class:`PermissionDenied` when the keyring does not give it."""
    try:
        found = _keyring().get_password(_KEYRING_SERVICE, wanted)
        key = base64.b64decode(found or "", validate=True)
    except binascii.Error:
        key = b""
    except _KEYRING_ERRORS as error:
        raise PermissionDenied(
            f"the vault is locked: its key is in the keyring, but {_why(error)}; unlock the keyring, then run"
            " `cdir vault unlock`"
        ) from error
    if len(key) != KEY_BYTES:
        raise PermissionDenied(
            f"the vault is locked: the keyring of this user has no key {wanted} of {_KEYRING_SERVICE!r}; log in as the"
            " user who protected it, then run `cdir vault unlock`"
        )
    return key


def forget_in_keyring(key: bytes) -> None:
    """Delete the key there, as far as the keyring lets us."""
    with suppress(*_KEYRING_ERRORS):
        _keyring().delete_password(_KEYRING_SERVICE, key_id(key))


_KEYRING_ERRORS: Final = (Exception,)
"""Backends raise whatever their system's library does."""


def _keyring() -> Any:
    try:
        keyring = importlib.import_module("keyring")
    except ImportError:
        raise Unsupported("the library is missing; run `pip install 'cdir[keyring]'`") from None
    if type(keyring.get_keyring()).__module__ == "keyring.backends.fail":
        # the library looks for a keyring once in the life of a process; this one may be older than its user's session
        viable = importlib.import_module("keyring.backend").KeyringBackend.get_viable_backends()
        keyring.set_keyring(max(viable, key=lambda backend: backend.priority)())
    return keyring


def _why(error: Exception) -> str:
    if isinstance(error, Unsupported):
        return error.message
    if type(error).__name__ == "NoKeyringError":
        return "this machine has none that cdir can use"
    return f"it fails ({type(error).__name__})"
