"""Reading many small contents: one call to a provider for many of them.

This is the short way. A call that fails or is late is made once more where the other copies are, and the first answer
counts, with nothing but a look at the digests; whatever goes wrong beyond that, be it for one content or for all, is
left to the long way (:mod:`cdir_transfer.reader`), which knows how to go on. Most of what a small read costs is the
same whatever it carries, so what is asked for at the same time shares it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeAlias

from cdir.errors import CdirError, IntegrityError
from cdir.status import translated
from cdir.v1 import adapter_service_pb2, adapter_service_pb2_grpc, entry_pb2
from cdir_runtime.shared_work import SharedWork
from cdir_transfer.digest import check_whole
from cdir_transfer.health import ProviderHealth
from cdir_transfer.observer import TransferObserver, is_providers_fault
from cdir_transfer.overtaking import Overtaking
from cdir_transfer.paces import Paces
from cdir_transfer.reader import transfer_deadline
from cdir_transfer.shared_calls import OBJECTS_IN_CALL, SMALL_CONTENT, SharedCalls

__all__ = ["SmallCall", "SmallReads"]

_AT_LEAST: Final = 0.15
"""Seconds that a call has in any case: a crowd of them on a busy machine is late by itself."""


_NOBODY: Final = ""
"""Stands for the provider to ask where there is nothing to read: the bytes of an empty content are known."""

_Identity: TypeAlias = tuple[bytes | str, ...]
"""Which bytes are wanted, and where from."""


class _Wanted(NamedTuple):
    version: entry_pb2.Version
    replicas: dict[str, entry_pb2.Replica]
    """Its copies by provider id, best first; those at suspect providers left out."""

    @property
    def identity(self) -> _Identity:
        """Equal for those who want the same bytes of the same copies."""
        return (self.version.sha256, *(part for one in self.replicas.values() for part in (one.provider_id, one.key)))


class SmallCall(NamedTuple):
    """Contents that are asked of one provider together."""

    provider_id: str
    """The provider to ask first."""
    numbers: list[int]
    """Which of the contents given they are, counted from 0."""
    wanted: list[_Wanted]


class SmallReads:
    """An async context manager; at its exit the calls under way are cancelled. One per process."""

    def __init__(
        self,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        health: ProviderHealth,
        observer: TransferObserver,
        *,
        background: bool = False,
    ) -> None:
        """Calls in the ``background`` hold back for those that somebody waits for."""
        self._adapters = adapters
        self._background = background
        self._health = health
        self._observer = observer
        # a call for many takes longer than one for one, so its pace is measured apart
        self._paces = Paces()
        self._overtaking = Overtaking(health, self._paces, at_least=_AT_LEAST)
        self._calls: SharedCalls[_Wanted, bytes] = SharedCalls(self._fetch)
        self._reading: SharedWork[tuple[_Identity, ...], Sequence[bytes | None]] = SharedWork()

    async def __aenter__(self) -> Self:
        await self._calls.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._calls.__aexit__(kind, error, trace)

    def together(self, contents: Sequence[tuple[entry_pb2.Version, Sequence[entry_pb2.Replica]]]) -> list[SmallCall]:
        """Say which contents to ask for together; those that take the long way are in none of the calls.

        Each content comes with its copies, best first.
        """
        orders: dict[tuple[str, ...], list[str]] = {}
        filling: dict[str, SmallCall] = {}
        calls: list[SmallCall] = []
        for number, (version, replicas) in enumerate(contents):
            if not version.sha256 or version.size > SMALL_CONTENT:
                continue
            at = {replica.provider_id: replica for replica in replicas}
            holders = tuple(at)
            order = orders.get(holders) if version.size or not holders else [_NOBODY]
            if order is None:
                # once for all that lie at the same providers: a small content's size makes no difference
                order = orders[holders] = self._order(holders, version.size)
            if not order:
                continue
            call = filling.get(order[0])
            if call is None or len(call.numbers) == OBJECTS_IN_CALL:
                call = filling[order[0]] = SmallCall(order[0], [], [])
                calls.append(call)
            call.numbers.append(number)
            call.wanted.append(_Wanted(version, {one: at[one] for one in order if one in at}))
        return calls

    async def read(self, call: SmallCall) -> Sequence[bytes | None]:
        """Return the contents of a call that :meth:`together` has made, verified; ``None`` for what takes the long way.

        It may go out together with others. Who reads what another one is reading just now, of the same copies, has it
        from the same call.
        """
        if call.provider_id == _NOBODY:
            return await self._fetch(call.provider_id, call.wanted)
        return await self._reading.join(
            tuple(wanted.identity for wanted in call.wanted),
            lambda: self._calls.ask_together(call.provider_id, call.wanted),
        )

    async def read_each(
        self, contents: Sequence[tuple[entry_pb2.Version, Sequence[entry_pb2.Replica]]]
    ) -> list[bytes | None]:
        """Return each of at most 16 contents, verified, or ``None`` for what takes the long way.

        Each comes with its copies, best first. The context need not be entered for it.
        """
        found: list[bytes | None] = [None] * len(contents)
        async with asyncio.TaskGroup() as calls:
            for call in self.together(contents):
                calls.create_task(self._fetch_into(found, call))
        return found

    async def _fetch_into(self, found: list[bytes | None], call: SmallCall) -> None:
        for number, data in zip(call.numbers, await self._fetch(call.provider_id, call.wanted), strict=False):
            found[number] = data

    def _order(self, holders: Sequence[str], size: int) -> list[str]:
        """Return the providers to ask, best first."""
        good = [provider_id for provider_id in holders if not self._health.suspect(provider_id)]
        return self._paces.ordered(good, str, size)

    async def _fetch(self, provider_id: str, batch: Sequence[_Wanted]) -> Sequence[bytes | None]:
        if provider_id == _NOBODY:
            return [b""] * len(batch)
        others = [one for one in batch[0].replicas if one != provider_id]
        shared = [one for one in others if all(one in wanted.replicas for wanted in batch)]
        # who waited for this call may have waited while the provider fell silent
        asked_in_turn = sorted([provider_id, *shared], key=self._health.suspect)
        size = sum(wanted.version.size for wanted in batch)

        async def ask(asked: str) -> Sequence[adapter_service_pb2.FetchOutcome]:
            return await self._call(asked, batch, size)

        def note(asked: str, error: CdirError) -> None:
            if is_providers_fault(error):
                self._health.failed(asked)
                self._observer.provider_failed(asked, error)

        outcomes = await self._overtaking.first_good(asked_in_turn, str, size, ask, note)
        if outcomes is None:
            return ()
        return [_content(wanted.version, outcome) for wanted, outcome in zip(batch, outcomes, strict=False)]

    async def _call(
        self, provider_id: str, batch: Sequence[_Wanted], size: int
    ) -> Sequence[adapter_service_pb2.FetchOutcome]:
        replicas = [wanted.replicas[provider_id] for wanted in batch]
        request = adapter_service_pb2.FetchObjectsRequest(
            provider=adapter_service_pb2.ProviderRef(
                provider_id=provider_id,
                revision=max(replica.provider_revision for replica in replicas),
                background=self._background,
            ),
            objects=[
                adapter_service_pb2.ObjectBeginning(key=replica.key, length=max(wanted.version.size, 1))
                for wanted, replica in zip(batch, replicas, strict=True)
            ],
        )
        self._overtaking.asked()
        self._paces.asked(provider_id, size)
        clock = asyncio.get_running_loop().time
        began = clock()
        with self._health.waiting(provider_id, self._overtaking.patience(provider_id, size)), translated():
            response = await self._adapters.FetchObjects(request, timeout=transfer_deadline(size))
        self._paces.took(provider_id, size, clock() - began)
        self._health.answered(provider_id)
        return response.outcomes


def _content(version: entry_pb2.Version, outcome: adapter_service_pb2.FetchOutcome) -> bytes | None:
    """Return the content if this is it: of anything else the long way finds out what it is, and says so."""
    found = outcome.object
    if not outcome.HasField("object") or found.size != version.size:
        return None
    data = found.data  # each access copies it
    try:
        check_whole(version, data)
    except IntegrityError:
        return None
    return data
