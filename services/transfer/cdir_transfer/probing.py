"""Asks the providers that this process avoids whether they are back, so that nobody's call has to find out."""

from __future__ import annotations

import asyncio
from typing import Final

from cdir.errors import CdirError
from cdir.status import translated
from cdir.v1 import adapter_service_pb2, adapter_service_pb2_grpc
from cdir_transfer.health import ProviderHealth
from cdir_transfer.observer import TransferObserver, is_providers_fault

__all__ = ["Probing"]

_PAUSE_SECONDS: Final = 1.0
"""Between two questions to the same provider, at least."""
_ANSWER_SECONDS: Final = 5.0
"""A provider that takes longer is not back."""


class Probing:
    """:meth:`run` asks until it is cancelled; it costs nothing while no provider is suspect."""

    def __init__(
        self,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        health: ProviderHealth,
        observer: TransferObserver,
    ) -> None:
        self._adapters = adapters
        self._health = health
        self._observer = observer
        self._asking: set[str] = set()

    async def run(self) -> None:
        """Ask each suspect provider once a second, one that does not answer less often."""
        async with asyncio.TaskGroup() as questions:
            while True:
                await self._health.doubted.wait()
                # not at once: a call has just failed, and the next second shows whether that was all
                await asyncio.sleep(_PAUSE_SECONDS)
                suspects = self._health.suspects()
                if not suspects and not self._asking:
                    self._health.doubted.clear()
                for provider_id in suspects:
                    if provider_id not in self._asking:
                        self._asking.add(provider_id)
                        questions.create_task(self._ask(provider_id))

    async def _ask(self, provider_id: str) -> None:
        request = adapter_service_pb2.CheckMarkRequest(
            provider=adapter_service_pb2.ProviderRef(provider_id=provider_id), once=True
        )
        try:
            with translated():
                await self._adapters.CheckMark(request, timeout=_ANSWER_SECONDS)
        except CdirError as error:
            if is_providers_fault(error):
                self._health.failed(provider_id)
                self._observer.provider_failed(provider_id, error)
        else:
            self._health.answered(provider_id)
        finally:
            self._asking.discard(provider_id)
