"""The keys that the secrets of providers are sealed under, as ``client.vault``."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cdir.connection import Connection
from cdir.v1 import vault_service_pb2 as pb

__all__ = ["Forgotten", "Rotation", "Vault", "VaultKey", "VaultProtection", "VaultStatus"]


class VaultProtection(enum.Enum):
    """How the key that wraps the data keys is kept."""

    FILE = "file"
    PASSPHRASE = "passphrase"  # noqa: S105 - the name of a way, not a passphrase
    KEYRING = "keyring"


_WIRE: Final = {
    VaultProtection.FILE: pb.VAULT_PROTECTION_FILE,
    VaultProtection.PASSPHRASE: pb.VAULT_PROTECTION_PASSPHRASE,
    VaultProtection.KEYRING: pb.VAULT_PROTECTION_KEYRING,
}
_PROTECTIONS: Final = {value: protection for protection, value in _WIRE.items()}


@dataclass(frozen=True, slots=True)
class VaultKey:
    """A data key, and what is sealed under it."""

    id: str
    made: datetime | None
    """``None`` for the first key, and for one that is not in the vault."""
    held: bool
    """False while the vault is locked, and for a key that is lost."""
    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VaultStatus:
    """How the vault is."""

    protection: VaultProtection
    locked: str
    """Why it is locked and what to do; empty when it is not."""
    keys: tuple[VaultKey, ...]
    """The one that seals first, lost ones last."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """What became of a rotation."""

    key_id: str
    resealed: int
    """Providers whose secrets are sealed under the new key."""
    lost: Sequence[str]
    """Providers whose secrets no key opens."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What became of the wish to forget keys."""

    keys: tuple[str, ...]
    """Ids of those that are gone, or would be."""
    recent: tuple[str, ...]
    """Ids of those that seal nothing, and stay since they were in use within the last hour."""


class Vault:
    """Looks after the keys. Nothing here returns a key or a secret."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = connection.vault

    async def status(self) -> VaultStatus:
        """Say how the key is kept, whether the vault is locked, and what is sealed under which key."""
        answer = await self._connection.call(self._stub.GetVault, pb.GetVaultRequest())
        return VaultStatus(
            _PROTECTIONS[answer.protection],
            answer.locked,
            tuple(
                VaultKey(
                    key.id,
                    key.made.ToDatetime(UTC) if key.HasField("made") else None,
                    key.held,
                    tuple(key.providers),
                )
                for key in answer.keys
            ),
        )

    async def unlock(self, passphrase: str | None = None) -> None:
        """Open a locked vault; one without a passphrase is read again. Raises PermissionDenied."""
        await self._connection.call(self._stub.UnlockVault, pb.UnlockVaultRequest(passphrase=passphrase))

    async def rotate(self) -> Rotation:
        """Seal every secret under a new key. After a failure, again completes it. Raises PermissionDenied."""
        answer = await self._connection.call(self._stub.RotateVault, pb.RotateVaultRequest())
        return Rotation(answer.key_id, answer.resealed, tuple(answer.lost))

    async def forget(self, *, dry_run: bool = False) -> Forgotten:
        """Remove the data keys that seal no provider's secrets any more, and were replaced an hour ago or longer.

        Older snapshots and backups of the catalog then no longer give their secrets. Raises PermissionDenied (locked).
        """
        answer = await self._connection.call(self._stub.ForgetVaultKeys, pb.ForgetVaultKeysRequest(dry_run=dry_run))
        return Forgotten(tuple(answer.forgotten), tuple(answer.recent))

    async def protect(self, protection: VaultProtection, passphrase: str | None = None) -> None:
        """Keep the key in another way. Raises PermissionDenied (locked), InvalidArgument, Unsupported (no keyring)."""
        await self._connection.call(
            self._stub.ProtectVault, pb.ProtectVaultRequest(protection=_WIRE[protection], passphrase=passphrase)
        )
