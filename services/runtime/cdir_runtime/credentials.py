"""Sealing secrets: a provider's secret options, under a data key.

A provider's secret options are sealed as one JSON object, names and values together, with AES-256-GCM (NIST SP 800-38D)
and a random nonce. What is authenticated with them is the format, the key and the provider's id, so that a sealed value
is worth nothing at another provider, and a secret nothing as another option. Each sealed value names the key that opens
it, so that keys can be replaced one value at a time.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cdir.errors import ConfigInvalid

__all__ = ["KEY_BYTES", "DataKey", "Sealer", "derived", "key_of"]

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_ID_BYTES: Final = 8
_FORMAT: Final = b"\x02"
"""First byte of everything sealed: the format, so that a later one can be told apart."""


def derived(key: bytes, purpose: str, length: int = KEY_BYTES) -> bytes:
    """Return bytes for one purpose from a random key (HKDF, RFC 5869); they tell nothing of it, nor of other ones."""
    return HKDF(hashes.SHA256(), length, salt=None, info=f"cdir {purpose}".encode()).derive(key)


@dataclass(frozen=True, slots=True)
class DataKey:
    """A key that secrets are sealed under. Its printed form never shows it."""

    key: bytes = field(repr=False)
    made: datetime | None = None
    """When it was made; ``None`` for the first one, which comes from the key file."""
    id: str = field(init=False)
    """Names it in sealed values: 16 hexadecimal digits that follow from the key and do not tell it."""

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise ConfigInvalid(f"a key has {KEY_BYTES} bytes, this one {len(self.key)}")
        object.__setattr__(self, "id", derived(self.key, "data key id", _ID_BYTES).hex())

    @classmethod
    def new(cls) -> DataKey:
        """Make a random one."""
        return cls(secrets.token_bytes(KEY_BYTES), datetime.now(UTC).replace(microsecond=0))


def key_of(sealed: bytes) -> str:
    """Return the id of the key that ``sealed`` asks for; whether anybody has it is another matter."""
    if sealed[:1] != _FORMAT:
        raise ConfigInvalid("the stored secrets are of a format that this release does not know; upgrade cdir")
    return sealed[1 : 1 + _ID_BYTES].hex()


class Sealer:
    """Seals under the first of its keys, and opens what any of them sealed. Its printed form never shows a key."""

    def __init__(self, keys: Iterable[DataKey]) -> None:
        """``keys`` is at least one, the newest first."""
        self.keys = tuple(keys)
        self._ciphers = {key.id: AESGCM(key.key) for key in self.keys}

    def __repr__(self) -> str:
        return f"Sealer({', '.join(self._ciphers)})"

    @property
    def current(self) -> str:
        """The id of the key that it seals under."""
        return self.keys[0].id

    def opens(self, key_id: str) -> bool:
        """Whether it has that key."""
        return key_id in self._ciphers

    def seal(self, values: Mapping[str, str], owner: str) -> bytes:
        """Seal ``values`` so that only :meth:`unseal` with the same key and ``owner`` opens them."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        plain = json.dumps(dict(values), sort_keys=True).encode()
        head = _FORMAT + bytes.fromhex(self.current)
        return head + nonce + self._ciphers[self.current].encrypt(nonce, plain, head + owner.encode())

    def unseal(self, sealed: bytes, owner: str) -> dict[str, str]:
        """Open what :meth:`seal` made. Raises :class:`ConfigInvalid` for another key, another owner, or damage."""
        cipher = self._ciphers.get(key_of(sealed))
        if cipher is None:
            raise ConfigInvalid(
                f"the stored secrets were sealed under the key {key_of(sealed)}, which is lost; restore the key file"
                " and vault.json, or set every secret anew with `cdir provider set NAME --secret OPTION`"
            )
        head, rest = sealed[: 1 + _ID_BYTES], sealed[1 + _ID_BYTES :]
        try:
            plain = cipher.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], head + owner.encode())
        except (InvalidTag, ValueError):  # ValueError: too short to be anything sealed
            raise ConfigInvalid(
                "the stored secrets are damaged or another provider's; set every secret anew with"
                " `cdir provider set NAME --secret OPTION`"
            ) from None
        values: dict[str, str] = json.loads(plain)
        return values
