"""The vault: it seals the secrets of providers and opens them, as long as it is unlocked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Self

from cdir.errors import ConfigInvalid, PermissionDenied
from cdir_runtime.credentials import DataKey, Sealer, key_of
from cdir_runtime.vault_file import Opened, Protection, VaultFile

__all__ = ["Protection", "Vault"]

logger = logging.getLogger(__name__)


class Vault:
    """The vault as one process has it. Other processes may change its file; what is needed of that is read again.

    Locked, it seals and opens nothing and says so (PermissionDenied); whatever needs no secret works on.
    """

    def __init__(self, file: VaultFile | None, opened: Opened | None, sealer: Sealer | None, locked: str) -> None:
        """Use :meth:`open` or :meth:`unkept`."""
        self._file = file
        self._opened = opened
        self._sealer = sealer
        self._locked = locked
        self._stamp = (0, 0)
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"Vault({self._sealer or 'locked'})"

    @classmethod
    def unkept(cls) -> Self:
        """Give a vault whose key nobody keeps: for a deployment whose catalog ends with its process."""
        return cls(None, None, Sealer([DataKey.new()]), "")

    @classmethod
    async def open(cls, key_file: Path, passphrase_file: str = "") -> Self:
        """Open the vault of a key file, made now if there is none, with the passphrase in a file if it wants one.

        It is locked when what it needs is not there. Raises :class:`ConfigInvalid` when it can never be opened as it
        stands.
        """
        vault = cls(VaultFile(key_file), None, None, "the vault is locked")
        try:
            await vault.unlock(await asyncio.to_thread(_read_passphrase, passphrase_file) if passphrase_file else None)
        except PermissionDenied as error:
            vault._locked = error.message
            logger.warning("%s", error.message)
        return vault

    @property
    def locked(self) -> str:
        """Why it is locked and what to do, in one line; empty when it is not."""
        return "" if self._sealer else self._locked

    @property
    def keys(self) -> tuple[DataKey, ...]:
        """The data keys, the one that seals first; none while it is locked."""
        return self._sealer.keys if self._sealer else ()

    async def protection(self) -> Protection:
        """How its key is kept."""
        return await asyncio.to_thread(self._kept_file().protection)

    async def unlock(self, passphrase: str | None) -> None:
        """Open it, or read it again. Raises :class:`PermissionDenied`, and then leaves it as it was."""
        async with self._lock:
            await self._read(passphrase)

    async def seal(self, values: Mapping[str, str], owner: str) -> bytes:
        """Seal the secrets of the provider ``owner`` under the newest key. Raises :class:`PermissionDenied`."""
        async with self._lock:
            if self._file is not None and self._sealer is not None:
                stamp = await asyncio.to_thread(lambda: self._kept_file().stamp)
                if stamp != self._stamp:
                    await self._read_again()
        return self._open_sealer().seal(values, owner)

    async def unseal(self, sealed: bytes, owner: str) -> dict[str, str]:
        """Open what was sealed for ``owner``. Raises :class:`PermissionDenied`, and ConfigInvalid for a lost key."""
        if not self._open_sealer().opens(key_of(sealed)) and self._file is not None:
            async with self._lock:
                await self._read_again()
        return self._open_sealer().unseal(sealed, owner)

    async def read_again(self) -> None:
        """Take over what other processes have changed, as far as that needs nothing that this one was not told."""
        async with self._lock:
            await self._read_again()

    async def add_key(self) -> None:
        """Seal under a new key from now on; what the others sealed can still be opened."""
        async with self._lock:
            self._take(await asyncio.to_thread(self._kept_file().add_key, self._require_opened()))

    async def forget(self, ids: Collection[str]) -> None:
        """Remove data keys, never the one that seals; what the others sealed cannot be opened any more."""
        async with self._lock:
            self._take(await asyncio.to_thread(self._kept_file().forget, self._require_opened(), ids))

    async def protect(self, protection: Protection, passphrase: str | None) -> None:
        """Keep the key in another way. Raises InvalidArgument (a short passphrase), Unsupported (no keyring)."""
        async with self._lock:
            opened = self._require_opened()
            self._take(await asyncio.to_thread(self._kept_file().protect, opened, protection, passphrase))

    async def _read(self, passphrase: str | None) -> None:
        self._take(await asyncio.to_thread(self._kept_file().open, passphrase))

    async def _read_again(self) -> None:
        """Take over what another process has changed, unless it needs a passphrase that this one was not told."""
        try:
            await self._read(None)
        except PermissionDenied as error:
            if self._opened is not None:
                with_same = await asyncio.to_thread(self._kept_file().reopened, self._opened)
                if with_same is not None:
                    self._take(with_same)
                    return
            logger.warning("the vault was changed, and cannot be read again: %s", error.message)

    def _take(self, opened: Opened) -> None:
        self._opened, self._sealer = opened, Sealer(opened.keys)
        self._stamp = self._kept_file().stamp

    def _open_sealer(self) -> Sealer:
        if self._sealer is None:
            raise PermissionDenied(self._locked)
        return self._sealer

    def _require_opened(self) -> Opened:
        if self._opened is None:
            self._kept_file()
            raise PermissionDenied(self._locked)
        return self._opened

    def _kept_file(self) -> VaultFile:
        if self._file is None:
            raise ConfigInvalid("this deployment keeps no vault")
        return self._file


def _read_passphrase(path: str) -> str:
    try:
        passphrase = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigInvalid(f"cannot read CDIR_PASSPHRASE_FILE {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigInvalid(f"CDIR_PASSPHRASE_FILE {path} is not text in UTF-8") from None
    if not passphrase:
        raise ConfigInvalid(f"CDIR_PASSPHRASE_FILE {path} is empty")
    return passphrase
