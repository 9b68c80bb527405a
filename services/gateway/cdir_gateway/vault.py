"""VaultService: the keys that secrets are sealed under."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final, TypeAlias

import grpc.aio

from cdir.errors import CdirError, ConfigInvalid, InvalidArgument, PermissionDenied
from cdir.status import translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
)
from cdir.v1 import vault_service_pb2 as pb
from cdir.v1 import vault_service_pb2_grpc as rpc
from cdir_gateway.ledger import CALL_SECONDS
from cdir_runtime.credentials import key_of
from cdir_runtime.vault import Protection, Vault

__all__ = ["VaultServicer"]

Context: TypeAlias = "grpc.aio.ServicerContext[object, object]"

_PROTECTIONS: Final = {
    pb.VAULT_PROTECTION_FILE: Protection.FILE,
    pb.VAULT_PROTECTION_PASSPHRASE: Protection.PASSPHRASE,
    pb.VAULT_PROTECTION_KEYRING: Protection.KEYRING,
}
_NAMED: Final = {protection: value for value, protection in _PROTECTIONS.items()}

_PASSES: Final = 5
"""How often what was changed during a rotation is read again; each pass finds only that."""

_SETTLED: Final = timedelta(hours=1)
"""How long ago a key was replaced before it may be forgotten; no call that seals secrets takes nearly as long."""


class VaultServicer(rpc.VaultServiceServicer):
    """Serves the vault of a gateway, and has the adapters service follow."""

    def __init__(
        self,
        vault: Vault,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
    ) -> None:
        self._vault = vault
        self._catalog = catalog
        self._adapters = adapters
        self._changing = asyncio.Lock()

    async def GetVault(self, request: pb.GetVaultRequest, context: Context) -> pb.GetVaultResponse:
        keys = {key.id: pb.VaultKey(id=key.id, held=True) for key in self._vault.keys}
        for held in self._vault.keys:
            if held.made is not None:
                keys[held.id].made.FromDatetime(held.made)
        for stored in await self._sealed():
            key_id = _key_of(stored)
            keys.setdefault(key_id, pb.VaultKey(id=key_id)).providers.append(stored.provider.name)
        for key in keys.values():
            key.providers.sort()
        protection = _NAMED[await self._vault.protection()]
        return pb.GetVaultResponse(protection=protection, locked=self._vault.locked, keys=keys.values())

    async def UnlockVault(self, request: pb.UnlockVaultRequest, context: Context) -> pb.UnlockVaultResponse:
        passphrase = request.passphrase if request.HasField("passphrase") else None
        await self._vault.unlock(passphrase)
        await self._tell_adapters(passphrase)
        return pb.UnlockVaultResponse()

    async def RotateVault(self, request: pb.RotateVaultRequest, context: Context) -> pb.RotateVaultResponse:
        async with self._changing:
            await self._vault.add_key()
            current = self._vault.keys[0].id
            lost: set[str] = set()
            for _ in range(_PASSES):
                if not await self._reseal(current, lost):
                    break
            resealed = sum(_key_of(stored) == current for stored in await self._sealed())
        return pb.RotateVaultResponse(key_id=current, resealed=resealed, lost=sorted(lost))

    async def ProtectVault(self, request: pb.ProtectVaultRequest, context: Context) -> pb.ProtectVaultResponse:
        protection = _PROTECTIONS.get(request.protection)
        if protection is None:
            raise InvalidArgument("say how the key shall be kept: file, passphrase or keyring")
        async with self._changing:
            passphrase = request.passphrase if request.HasField("passphrase") else None
            await self._vault.protect(protection, passphrase)
            await self._tell_adapters(passphrase if protection is Protection.PASSPHRASE else None)
        return pb.ProtectVaultResponse()

    async def ForgetVaultKeys(self, request: pb.ForgetVaultKeysRequest, context: Context) -> pb.ForgetVaultKeysResponse:
        async with self._changing:
            if self._vault.locked:
                raise PermissionDenied(self._vault.locked)
            await self._vault.read_again()
            in_use = {_key_of(stored) for stored in await self._sealed()}
            answer = pb.ForgetVaultKeysResponse()
            for successor, key in pairwise(self._vault.keys):
                if key.id not in in_use:
                    recent = successor.made is None or datetime.now(UTC) - successor.made < _SETTLED
                    (answer.recent if recent else answer.forgotten).append(key.id)
            if answer.forgotten and not request.dry_run:
                await self._vault.forget(answer.forgotten)
        return answer

    async def _reseal(self, current: str, lost: set[str]) -> bool:
        """Seal anew what another key has sealed; returns whether there was anything."""
        resealed = []
        for stored in await self._sealed():
            provider, before = stored.provider, stored.sealed_secrets
            if _key_of(stored) == current:
                continue
            try:
                values = await self._vault.unseal(before, provider.provider_id)
            except PermissionDenied:
                raise
            except CdirError:
                lost.add(provider.name)
                continue
            after = await self._vault.seal(values, provider.provider_id)
            resealed.append(
                catalog_service_pb2.ResealedSecrets(provider_id=provider.provider_id, before=before, after=after)
            )
        if resealed:
            with translated():
                await self._catalog.ReplaceSecrets(
                    catalog_service_pb2.ReplaceSecretsRequest(secrets=resealed), timeout=CALL_SECONDS
                )
        return bool(resealed)

    async def _sealed(self) -> list[catalog_service_pb2.StoredProvider]:
        with translated():
            response = await self._catalog.ReadProviders(
                catalog_service_pb2.ReadProvidersRequest(with_secrets=True), timeout=CALL_SECONDS
            )
        return [stored for stored in response.providers if stored.sealed_secrets]

    async def _tell_adapters(self, passphrase: str | None) -> None:
        with translated():
            await self._adapters.UnlockAdaptersVault(
                adapter_service_pb2.UnlockAdaptersVaultRequest(passphrase=passphrase), timeout=CALL_SECONDS
            )


def _key_of(stored: catalog_service_pb2.StoredProvider) -> str:
    try:
        return key_of(stored.sealed_secrets)
    except ConfigInvalid:
        return ""
