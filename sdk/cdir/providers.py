"""The registered storage providers, as ``client.providers``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from cdir import conversion
from cdir.evacuation import Evacuations
from cdir.model import CheckResult, Kind, ProviderInfo, ProviderUsage
from cdir.place_templates import filled_in
from cdir.status import translated
from cdir.v1 import provider_pb2, scan_pb2
from cdir.v1 import provider_service_pb2 as pb

__all__ = ["Providers"]

_PROVIDER_SECONDS: Final = 180.0
"""Deadline of calls that reach out to a provider: a slow one may need several attempts of its own."""

_LOSSES_SECONDS: Final = 3600.0
"""Deadline of accepting losses: as many transactions as there are thousands of files."""


class Providers(Evacuations):
    """Registers providers, shows how they are, and gives them up."""

    async def kinds(self) -> Sequence[Kind]:
        """Return every kind of provider, its options, and whether its library is installed."""
        answer = await self._connection.call(self._stub.ListKinds, pb.ListKindsRequest())
        return [conversion.kind_from(kind) for kind in answer.kinds]

    async def add(
        self,
        name: str,
        kind: str,
        options: Mapping[str, str] | None = None,
        *,
        secrets: Mapping[str, str] | None = None,
        location: str = "",
        priority: int = 0,
        cost: str = "",
        read_only: bool = False,
        bandwidth: int = 0,
        adopt: bool = False,
    ) -> ProviderInfo:
        """Reach a provider, probe it, leave cdir's mark at its root and register it; all or nothing.

        Every file whose policy then asks for it is owed a copy there. ``priority`` 0 means the default (100);
        ``bandwidth`` is in bytes per second, 0 for no limit. ``adopt`` takes over a root that another cdir marked.
        The options that say where everything is kept may be templates, see :mod:`cdir.place_templates`.
        Raises AlreadyExists, InvalidArgument, ConfigInvalid, Unauthenticated, PermissionDenied, PreconditionFailed (the
        root belongs to another), ProviderUnavailable.
        """
        provider = provider_pb2.Provider(
            name=name,
            kind=kind,
            options=filled_in(options or {}, name),
            location=location,
            priority=priority,
            cost=cost,
            read_only=read_only,
            bandwidth=bandwidth,
        )
        request = pb.AddProviderRequest(provider=provider, secrets=secrets or {}, adopt=adopt)
        answer = await self._connection.call(self._stub.AddProvider, request, seconds=_PROVIDER_SECONDS)
        return conversion.provider_from(answer.provider)

    async def list(self) -> Sequence[ProviderInfo]:
        """Return every registered provider by priority, then name; answered without asking them."""
        answer = await self._connection.call(self._stub.ListProviders, pb.ListProvidersRequest())
        return [conversion.provider_from(provider) for provider in answer.providers]

    async def get(self, name: str) -> ProviderInfo:
        """Return one. Raises NotFound."""
        answer = await self._connection.call(self._stub.GetProvider, pb.GetProviderRequest(name=name))
        return conversion.provider_from(answer.provider)

    async def update(
        self,
        name: str,
        *,
        options: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        new_name: str | None = None,
        location: str | None = None,
        priority: int | None = None,
        cost: str | None = None,
        read_only: bool | None = None,
        bandwidth: int | None = None,
        paused: bool | None = None,
    ) -> ProviderInfo:
        """Change what is given; an empty option or secret unsets it. Raises NotFound, and what :meth:`add` raises."""
        request = pb.UpdateProviderRequest(
            name=name,
            options=filled_in(options or {}, name),
            secrets=secrets or {},
            new_name=new_name,
            location=location,
            priority=priority,
            cost=cost,
            read_only=read_only,
            bandwidth=bandwidth,
            paused=paused,
        )
        answer = await self._connection.call(self._stub.UpdateProvider, request, seconds=_PROVIDER_SECONDS)
        return conversion.provider_from(answer.provider)

    async def pause(self, name: str) -> ProviderInfo:
        """Leave a provider alone until :meth:`resume`; what it should get is owed. Raises NotFound."""
        return await self.update(name, paused=True)

    async def resume(self, name: str) -> ProviderInfo:
        """Take a paused provider up again. Raises NotFound."""
        return await self.update(name, paused=False)

    async def check(self, name: str, *, full: bool = False) -> AsyncIterator[CheckResult]:
        """Reach a provider now; with ``full`` also run the conformance suite in a scratch folder there.

        Yields each result as it is known; the first is named ``reachable``. Raises NotFound.
        """
        call = self._stub.CheckProvider(
            pb.CheckProviderRequest(name=name, full=full), metadata=self._connection.metadata
        )
        try:
            with translated():
                async for answer in call:
                    yield conversion.check_from(answer.result)
        finally:
            call.cancel()

    async def accept_losses(self, name: str) -> int:
        """Take the files for lost that the delete guard has held back at a provider; returns how many that are so far.

        What else is missing there is looked for now, and taken for lost as well. All are copied there again or removed,
        as the policy says, and the provider is used as before. Raises NotFound.
        """
        request = scan_pb2.AcceptLossesRequest(name=name)
        answer = await self._connection.call(self._stub.AcceptLosses, request, seconds=_LOSSES_SECONDS)
        return answer.accepted

    async def remove(self, name: str, *, force: bool = False) -> int:
        """Forget a provider; its objects stay where they are. Returns how many copies there were known.

        Raises NotFound, PreconditionFailed (it holds the only good copy of some files or of older
        contents that can be restored, and ``force`` is not set).
        """
        request = pb.RemoveProviderRequest(name=name, force=force)
        answer = await self._connection.call(self._stub.RemoveProvider, request, seconds=_PROVIDER_SECONDS)
        return answer.forgotten_replicas

    async def usage(self) -> Sequence[ProviderUsage]:
        """Ask each provider how much is used and free."""
        answer = await self._connection.call(
            self._stub.GetProviderUsage, pb.GetProviderUsageRequest(), seconds=_PROVIDER_SECONDS
        )
        return [conversion.usage_from(usage) for usage in answer.usages]
