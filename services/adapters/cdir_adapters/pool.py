"""The live adapters: one stack for each provider that is in use, opened when first called for.

What a provider is comes from the catalog. A call names the revision that its caller knows; a newer one than the pool's
makes the pool read the provider anew and replace the stack. The old one serves the calls it has and is closed after the
last of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from google.protobuf import json_format

from cdir.errors import CdirError, NotFound
from cdir.status import translated
from cdir.v1 import adapter_service_pb2 as pb
from cdir.v1 import catalog_service_pb2, catalog_service_pb2_grpc, provider_pb2
from cdir_adapters import registry
from cdir_adapters.adapter import Adapter
from cdir_adapters.capability import Capability
from cdir_adapters.creating import KnownFolders
from cdir_adapters.layers import LayerSettings, stack
from cdir_adapters.sparse_checks import SparseChecks
from cdir_runtime.vault import Vault

__all__ = ["AdapterPool", "LiveAdapter"]

logger = logging.getLogger(__name__)

_REREAD_SECONDS = 1.0
"""How long an answer of the catalog holds: a provider that is unknown or cannot be opened is read once a second."""

_CATALOG_SECONDS = 10.0

_CANDIDATES = 8
"""Probed providers that are kept open in case they are registered now."""


class _Opened:
    """A bare adapter, what it was made of, and the calls that use it through any stack over it."""

    __slots__ = ("_made_of", "adapter", "idle", "retired", "uses")

    def __init__(self, kind: str, name: str, options: dict[str, str]) -> None:
        self._made_of = kind, name, options
        self.adapter = registry.open_adapter(kind, name, options)
        self.uses = 0
        self.retired = False
        self.idle = asyncio.Event()

    def is_for(self, kind: str, name: str, options: dict[str, str]) -> bool:
        return self._made_of == (kind, name, options)

    async def close_when_idle(self) -> None:
        """Close after the calls under way have ended."""
        self.retired = True
        if self.uses:
            await self.idle.wait()
        try:
            await self.adapter.aclose()
        except Exception:  # one vendor's bad good-bye must not keep the others open
            logger.warning("provider %s: closing its connections failed", self.adapter.info.name, exc_info=True)


async def _open(kind: str, name: str, options: dict[str, str]) -> _Opened:
    # importing a vendor's library takes its time
    await asyncio.to_thread(registry.adapter_class, kind)
    return _Opened(kind, name, options)


class LiveAdapter:
    """A provider's stack: ``with live as adapter``, entered in the same step in which it was got from the pool."""

    __slots__ = ("background", "checks", "folders", "opened", "revision", "stack")

    def __init__(self, opened: _Opened, stacked: Adapter, revision: int, background: LiveAdapter | None = None) -> None:
        self.opened = opened
        self.revision = revision
        self.background: LiveAdapter = background or self
        """The same provider for calls that nobody waits for."""
        self.folders: KnownFolders = KnownFolders() if background is None else background.folders
        self.checks = SparseChecks()
        self.stack = stacked

    def __enter__(self) -> Adapter:
        self.opened.uses += 1
        return self.stack

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened = self.opened
        opened.uses -= 1
        if opened.retired and not opened.uses:
            opened.idle.set()


def _capability_of(record: provider_pb2.Provider) -> Capability | None:
    """Return what was found when the provider was probed; ``None`` when it never was."""
    if not record.capability.fields:
        return None
    return Capability.from_json(json_format.MessageToDict(record.capability))


class _Slot:
    """What the pool knows of one provider id."""

    __slots__ = ("asked", "fault", "live", "lock", "read_at")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.live: LiveAdapter | None = None
        self.read_at = -_REREAD_SECONDS
        self.asked = 0
        """The newest revision that a caller knew when the catalog was read."""
        self.fault: CdirError | None = None


class AdapterPool:
    """An async context manager: at its exit every adapter is closed, those with calls under way included."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        vault: Vault,
        layers: LayerSettings | None = None,
    ) -> None:
        """``layers`` sets the timeouts, retries, limits and breaker of every provider; ``None`` for the defaults."""
        self._catalog = catalog
        self._vault = vault
        self._layers = layers
        self._slots: dict[str, _Slot] = {}
        self._candidates: dict[str, _Opened] = {}
        self._home_id = ""
        self._closings = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._closings.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for opened in [*self._candidates.values(), *(slot.live.opened for slot in self._slots.values() if slot.live)]:
            # the server has drained: a call that is still here belongs to a caller who is gone
            opened.idle.set()
            self._retire(opened)
        self._slots.clear()
        self._candidates.clear()
        # whatever ends the service, connections are closed properly
        await self._closings.__aexit__(None, None, None)

    def _retire(self, opened: _Opened) -> None:
        self._closings.create_task(opened.close_when_idle())

    async def home_id(self) -> str:
        """Return the identity of the cdir that the catalog belongs to; it never changes."""
        if not self._home_id:
            with translated():
                response = await self._catalog.GetIdentity(
                    catalog_service_pb2.GetIdentityRequest(), timeout=_CATALOG_SECONDS
                )
            self._home_id = response.home_id
        return self._home_id

    async def is_registered(self, provider_id: str) -> bool:
        """Say whether the catalog knows a provider of that id now."""
        with translated():
            response = await self._catalog.ReadProviders(
                catalog_service_pb2.ReadProvidersRequest(provider_id=provider_id), timeout=_CATALOG_SECONDS
            )
        return bool(response.providers)

    def find(self, ref: pb.ProviderRef) -> LiveAdapter | None:
        """Return the live adapter when it is as new as the caller's knowledge; ``None`` asks for :meth:`open`."""
        slot = self._slots.get(ref.provider_id)
        if slot is None or slot.live is None or slot.live.revision < ref.revision:
            return None
        return slot.live.background if ref.background else slot.live

    async def open(self, ref: pb.ProviderRef) -> LiveAdapter:
        """Return the live adapter, opened or replaced first where needed.

        One caller at a time reads the catalog for one provider. Raises NotFound for an unknown provider, and the errors
        of :func:`cdir_adapters.registry.open_adapter`.
        """
        slot = self._slots.setdefault(ref.provider_id, _Slot())
        async with slot.lock:
            live = self.find(ref)
            if live is not None:
                return live
            if ref.revision > slot.asked or time.monotonic() - slot.read_at >= _REREAD_SECONDS:
                await self._read(ref.provider_id, slot)
                slot.asked = max(slot.asked, ref.revision)
            if slot.fault is not None:
                raise slot.fault.with_traceback(None)
            assert slot.live is not None
            return slot.live.background if ref.background else slot.live

    async def _read(self, provider_id: str, slot: _Slot) -> None:
        """Read the provider from the catalog into its slot. A catalog that does not answer leaves the slot alone."""
        with translated():
            response = await self._catalog.ReadProviders(
                catalog_service_pb2.ReadProvidersRequest(provider_id=provider_id, with_secrets=True),
                timeout=_CATALOG_SECONDS,
            )
        slot.read_at = time.monotonic()
        try:
            if not response.providers:
                raise NotFound(f"there is no provider {provider_id!r}", provider=provider_id)
            await self._replace(slot, response.providers[0])
        except CdirError as error:
            slot.fault = error
            self._forget_unknown(slot)
        else:
            slot.fault = None

    async def _replace(self, slot: _Slot, stored: catalog_service_pb2.StoredProvider) -> None:
        record = stored.provider
        if slot.live is not None and slot.live.revision == record.revision:
            return
        options = await self._merged(record.provider_id, dict(record.options), stored.sealed_secrets)
        opened = self._take(record.provider_id, slot, record.kind, record.name, options)
        if opened is None:
            opened = await _open(record.kind, record.name, options)
        before = slot.live.opened if slot.live is not None else None
        capability = _capability_of(record)
        stacked = stack(
            opened.adapter,
            self._layers,
            capability=capability,
            bandwidth=record.bandwidth,
            before=slot.live.stack if slot.live is not None and before is opened else None,
        )
        behind = stack(opened.adapter, self._layers, capability=capability, behind=stacked)
        slot.live = LiveAdapter(opened, stacked, record.revision, LiveAdapter(opened, behind, record.revision))
        if before is not None and before is not opened:
            self._retire(before)

    async def _merged(self, provider_id: str, options: dict[str, str], sealed_secrets: bytes) -> dict[str, str]:
        """Return the plain and the secret options together."""
        if not sealed_secrets:
            return options
        return options | await self._vault.unseal(sealed_secrets, provider_id)

    def _take(
        self, provider_id: str, slot: _Slot | None, kind: str, name: str, options: dict[str, str]
    ) -> _Opened | None:
        """Return what is open already and made of the same: the one in use, or the one that was just probed."""
        if slot is not None and slot.live is not None and slot.live.opened.is_for(kind, name, options):
            return slot.live.opened
        candidate = self._candidates.get(provider_id)
        if candidate is not None and candidate.is_for(kind, name, options):
            return self._candidates.pop(provider_id)
        return None

    def _forget_unknown(self, current: _Slot) -> None:
        """Keep the memory of unknown ids small: drop those whose answer no longer holds anyway."""
        limit = time.monotonic() - _REREAD_SECONDS
        for provider_id, slot in list(self._slots.items()):
            if slot is not current and slot.live is None and slot.read_at < limit and not slot.lock.locked():
                del self._slots[provider_id]

    @asynccontextmanager
    async def candidate(
        self, provider_id: str, kind: str, name: str, options: dict[str, str], sealed_secrets: bytes
    ) -> AsyncIterator[Adapter]:
        """Give an adapter for a provider as it may be registered soon, or for a registered one's new options.

        What was open with the same options is used. When the block ends well it stays open, so that registering finds
        it ready; when it fails it is closed.
        """
        merged = await self._merged(provider_id, options, sealed_secrets)
        slot = self._slots.get(provider_id)
        opened = self._take(provider_id, slot, kind, name, merged) or await _open(kind, name, merged)
        in_use = slot is not None and slot.live is not None and slot.live.opened is opened
        try:
            with LiveAdapter(opened, stack(opened.adapter, self._layers), 0) as adapter:
                yield adapter
        except BaseException:
            if not in_use:
                self._retire(opened)
            raise
        if not in_use:
            self._offer(provider_id, opened)

    def _offer(self, provider_id: str, opened: _Opened) -> None:
        before = self._candidates.pop(provider_id, None)
        self._candidates[provider_id] = opened
        if before is not None:
            self._retire(before)
        while len(self._candidates) > _CANDIDATES:
            self._retire(self._candidates.pop(next(iter(self._candidates))))
