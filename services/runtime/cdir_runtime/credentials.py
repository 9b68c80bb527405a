"""Secrets at rest: a key file, and sealing under it.

A provider's secret options are sealed as one JSON object with AES-256-GCM (NIST SP 800-38D) under the key of this cdir.
The provider's id is authenticated with them, so a sealed value cannot be moved to another provider.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cdir.errors import ConfigInvalid

__all__ = ["KEY_BYTES", "Sealer", "load_key", "load_or_create_key"]

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_FORMAT: Final = b"\x01"
"""First byte of everything sealed: the format, so that a later one can be told apart."""


class Sealer:
    """Seals and opens secrets under one key. Its printed form never shows the key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigInvalid(f"a key has {KEY_BYTES} bytes, this one {len(key)}")
        self._cipher = AESGCM(key)

    def __repr__(self) -> str:
        return "Sealer(<key>)"

    def seal(self, values: Mapping[str, str], owner: str) -> bytes:
        """Seal ``values`` so that only :meth:`unseal` with the same key and ``owner`` opens them."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        plain = json.dumps(dict(values), sort_keys=True).encode()
        return _FORMAT + nonce + self._cipher.encrypt(nonce, plain, owner.encode())

    def unseal(self, sealed: bytes, owner: str) -> dict[str, str]:
        """Open what :meth:`seal` made. Raises :class:`ConfigInvalid` for another key, another owner, or damage."""
        if sealed[:1] != _FORMAT:
            raise ConfigInvalid("the stored credentials are of a format that this release does not know; upgrade cdir")
        nonce, cipher = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            plain = self._cipher.decrypt(nonce, cipher, owner.encode())
        except (InvalidTag, ValueError):  # ValueError: too short to be anything sealed
            raise ConfigInvalid(
                "the stored credentials were sealed under another key; restore the key file, or set the secrets anew"
            ) from None
        values: dict[str, str] = json.loads(plain)
        return values


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


def load_or_create_key(path: Path) -> bytes:
    """Read the key file, made with a random key and mode 0600 when it is missing. Two creators end with one key."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        if path.exists():
            return load_key(path)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # another process was first; its key counts
                os.link(partial, path)
        finally:
            os.unlink(partial)
    except OSError as error:
        raise ConfigInvalid(f"cannot make the key file {path}: {error.strerror}") from error
    return load_key(path)
