"""Registering providers and showing how they are."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncGenerator, Mapping
from typing import Final

from google.protobuf.struct_pb2 import Struct

from cdir.errors import AlreadyExists, CdirError, ConfigInvalid, InvalidArgument, NotFound, PreconditionFailed
from cdir.status import translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    provider_pb2,
)
from cdir.v1 import provider_service_pb2 as pb
from cdir_gateway.ledger import CALL_SECONDS
from cdir_runtime.vault import Vault
from cdir_transfer.listing import provider_ref

__all__ = ["Providers"]

_PROBE_SECONDS: Final = 120.0
"""A probe makes the root and tries out what the provider can do, over a slow line."""
_CHECK_SECONDS: Final = 30.0
_USAGE_SECONDS: Final = 5.0
_CONFORMANCE_SECONDS: Final = 1800.0
_DEFAULT_PRIORITY: Final = 100

_UP: Final = provider_pb2.PROVIDER_STATE_UP
_DOWN: Final = provider_pb2.PROVIDER_STATE_DOWN
_UNKNOWN: Final = provider_pb2.PROVIDER_STATE_UNKNOWN

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Providers:
    """See ProviderService for what each method promises."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        vault: Vault,
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._vault = vault

    async def kinds(self) -> list[provider_pb2.KindSpec]:
        """Every kind of provider that can be added."""
        with translated():
            response = await self._adapters.DescribeKinds(
                adapter_service_pb2.DescribeKindsRequest(), timeout=CALL_SECONDS
            )
        return list(response.kinds)

    async def all(self) -> list[provider_pb2.Provider]:
        """Every registered provider."""
        return [stored.provider for stored in await self._read()]

    async def get(self, name: str) -> provider_pb2.Provider:
        """One registered provider. Raises NotFound."""
        return (await self._stored(name)).provider

    async def add(self, request: pb.AddProviderRequest) -> provider_pb2.Provider:
        """Probe and register a provider; nothing is registered when anything fails."""
        asked = request.provider
        _check_name(asked.name)
        await self._check_free(asked.name)
        await self._check_options(asked.kind, asked.options, request.secrets)
        provider_id = uuid.uuid4().hex
        secrets = {name: value for name, value in request.secrets.items() if value}
        sealed = await self._vault.seal(secrets, provider_id) if secrets else b""
        record = provider_pb2.Provider(
            provider_id=provider_id,
            name=asked.name,
            kind=asked.kind,
            options=asked.options,
            secret_names=sorted(secrets),
            location=asked.location,
            priority=asked.priority or _DEFAULT_PRIORITY,
            cost=asked.cost,
            read_only=asked.read_only,
            bandwidth=asked.bandwidth,
        )
        record.capability.CopyFrom(await self._probe(record, sealed, adopt=request.adopt))
        with translated():
            await self._catalog.CreateProvider(
                catalog_service_pb2.CreateProviderRequest(
                    provider=catalog_service_pb2.StoredProvider(provider=record, sealed_secrets=sealed)
                ),
                timeout=CALL_SECONDS,
            )
        await self._record(provider_id, _UP)
        return await self.get(asked.name)

    async def update(self, request: pb.UpdateProviderRequest) -> provider_pb2.Provider:
        """Change what is given; changed options and secrets are probed before they are kept."""
        stored = await self._stored(request.name, with_secrets=True)
        record = provider_pb2.Provider()
        record.CopyFrom(stored.provider)
        if request.HasField("new_name") and request.new_name != record.name:
            _check_name(request.new_name)
            await self._check_free(request.new_name)
            record.name = request.new_name
        for field in ("location", "priority", "cost", "read_only", "bandwidth"):
            if request.HasField(field):
                setattr(record, field, getattr(request, field))
        sealed = stored.sealed_secrets
        if request.options or request.secrets:
            await self._check_options(record.kind, request.options, request.secrets)
            options = _merged(record.options, request.options)
            record.options.clear()
            record.options.update(options)
            if request.secrets:
                old = await self._secrets_beside(stored, request.secrets)
                secrets = _merged(old, request.secrets)
                sealed = await self._vault.seal(secrets, record.provider_id) if secrets else b""
                record.secret_names[:] = sorted(secrets)
            record.capability.CopyFrom(await self._probe(record, sealed, adopt=False))
        with translated():
            changed = await self._catalog.ChangeProvider(
                catalog_service_pb2.ChangeProviderRequest(
                    provider=catalog_service_pb2.StoredProvider(provider=record, sealed_secrets=sealed),
                    expected_revision=stored.provider.revision,
                    keep_secrets=not request.secrets,
                    paused=request.paused if request.HasField("paused") else None,
                ),
                timeout=CALL_SECONDS,
            )
        return changed.provider

    async def check(self, name: str, *, full: bool) -> AsyncGenerator[provider_pb2.ConformanceResult, None]:
        """Reach the provider now; with ``full`` also run the conformance suite there."""
        provider = await self.get(name)
        ref = provider_ref(provider)
        try:
            with translated():
                mark = await self._adapters.CheckMark(
                    adapter_service_pb2.CheckMarkRequest(provider=ref), timeout=_CHECK_SECONDS
                )
        except CdirError as error:
            # without the right mark it answers, and nothing is known of what is there
            state = _UNKNOWN if isinstance(error, PreconditionFailed) else _DOWN
            await self._record(provider.provider_id, state, error.message)
            yield provider_pb2.ConformanceResult(name="reachable", outcome="failed", message=error.message)
            return
        yield provider_pb2.ConformanceResult(
            name="reachable", outcome="passed", message=f"answered in {mark.seconds * 1000:.0f} ms"
        )
        await self._record(provider.provider_id, _UP)
        if not full:
            return
        call = self._adapters.RunConformance(
            adapter_service_pb2.RunConformanceRequest(provider=ref), timeout=_CONFORMANCE_SECONDS
        )
        try:
            with translated():
                async for response in call:
                    yield response.result
        finally:
            call.cancel()

    async def remove(self, name: str, *, force: bool) -> int:
        """Forget a provider; return how many copies there were known."""
        with translated():
            dropped = await self._catalog.DropProvider(
                catalog_service_pb2.DropProviderRequest(name=name, force=force), timeout=CALL_SECONDS
            )
        return dropped.forgotten_replicas

    async def usages(self) -> list[pb.ProviderUsage]:
        """How full each provider is; blank where it does not answer in time or cannot say."""
        providers = await self.all()
        return list(await asyncio.gather(*(self._usage(provider) for provider in providers)))

    async def _usage(self, provider: provider_pb2.Provider) -> pb.ProviderUsage:
        usage = pb.ProviderUsage(name=provider.name)
        ref = provider_ref(provider)
        try:
            with translated():
                found = await self._adapters.GetUsage(
                    adapter_service_pb2.GetUsageRequest(provider=ref), timeout=_USAGE_SECONDS
                )
        except CdirError:
            return usage
        if found.HasField("used"):
            usage.used = found.used
        if found.HasField("free"):
            usage.free = found.free
        return usage

    async def _read(self, name: str = "", *, with_secrets: bool = False) -> list[catalog_service_pb2.StoredProvider]:
        request = catalog_service_pb2.ReadProvidersRequest(name=name, with_secrets=with_secrets)
        with translated():
            response = await self._catalog.ReadProviders(request, timeout=CALL_SECONDS)
        return list(response.providers)

    async def _stored(self, name: str, *, with_secrets: bool = False) -> catalog_service_pb2.StoredProvider:
        if not name:
            raise InvalidArgument("name a provider")
        found = await self._read(name, with_secrets=with_secrets)
        if not found:
            raise NotFound(f"no provider is named {name}; `cdir provider list` shows them", provider=name)
        return found[0]

    async def _check_free(self, name: str) -> None:
        if await self._read(name):
            raise AlreadyExists(f"a provider named {name} is registered already; choose another name", provider=name)

    async def _check_options(self, kind: str, options: Mapping[str, str], secrets: Mapping[str, str]) -> None:
        """Raise InvalidArgument unless each option is given where it belongs: a secret must never be stored open."""
        spec = next((spec for spec in await self.kinds() if spec.kind == kind), None)
        if spec is None:
            raise InvalidArgument(f"{kind!r} is no kind of provider; `cdir provider kinds` lists them")
        secret = {option.name for option in spec.options if option.secret}
        if misplaced := sorted(secret & set(options)):
            raise InvalidArgument(f"{', '.join(misplaced)} of kind {kind} is secret; give it with --secret")
        if unknown := sorted(set(secrets) - secret):
            raise InvalidArgument(
                f"kind {kind} has no secret option {', '.join(unknown)}; `cdir provider kinds {kind}` lists its options"
            )

    async def _secrets_beside(
        self, stored: catalog_service_pb2.StoredProvider, given: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Return the stored secrets beside the given ones. Those that cannot be opened any more have to be given."""
        if not stored.sealed_secrets:
            return {}
        provider = stored.provider
        try:
            return await self._vault.unseal(stored.sealed_secrets, provider.provider_id)
        except ConfigInvalid as error:
            missing = sorted(set(provider.secret_names) - set(given))
            if not missing:
                return {}
            raise ConfigInvalid(
                f"the other secrets of {provider.name} cannot be opened any more; give them too:"
                f" `cdir provider set {provider.name} {' '.join(f'--secret {name}' for name in missing)} …`"
            ) from error

    async def _probe(self, record: provider_pb2.Provider, sealed: bytes, *, adopt: bool) -> Struct:
        with translated():
            identity = await self._catalog.GetIdentity(catalog_service_pb2.GetIdentityRequest(), timeout=CALL_SECONDS)
            probed = await self._adapters.ProbeProvider(
                adapter_service_pb2.ProbeProviderRequest(
                    provider_id=record.provider_id,
                    home_id=identity.home_id,
                    name=record.name,
                    kind=record.kind,
                    options=record.options,
                    sealed_secrets=sealed,
                    adopt=adopt,
                ),
                timeout=_PROBE_SECONDS,
            )
        return probed.capability

    async def _record(self, provider_id: str, state: provider_pb2.ProviderState.ValueType, reason: str = "") -> None:
        with translated():
            await self._catalog.RecordProviderStates(
                catalog_service_pb2.RecordProviderStatesRequest(
                    observations=[
                        catalog_service_pb2.ProviderObservation(provider_id=provider_id, state=state, reason=reason)
                    ]
                ),
                timeout=CALL_SECONDS,
            )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"{name[:80]!r} cannot name a provider: use up to 64 letters, digits, '-', '_' and '.', beginning with a"
            " letter or digit"
        )


def _merged(old: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """``old`` with ``changes``, of which empty ones unset."""
    return {name: value for name, value in {**old, **changes}.items() if value}
