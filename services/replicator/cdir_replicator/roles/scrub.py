"""The role that proves copies: a little all the time, and what people ask for at once."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import CdirError, InvalidArgument, NotFound, ProviderUnavailable, RateLimited
from cdir.paths import key_of
from cdir.status import from_failure, translated
from cdir.v1 import catalog_service_pb2, catalog_service_pb2_grpc, provider_pb2, scrub_pb2
from cdir_replicator.access import AccessWatch
from cdir_replicator.allowance import Allowance, ScrubPace
from cdir_replicator.progress import Progress
from cdir_replicator.proving import Prover

__all__ = ["STEP_SECONDS", "ScrubRole"]

logger = logging.getLogger(__name__)

STEP_SECONDS: Final = 600.0
"""Pause between two steps in the background."""

_CATALOG_SECONDS: Final = 60.0
_MOST_ORDERS: Final = 16
_SHOW_SECONDS: Final = 0.25
_WAIT_SECONDS: Final = 1.0
_AT_ONCE: Final = 4
_AT_ONCE_IN_BACKGROUND: Final = 1

_ANSWERING = {provider_pb2.PROVIDER_STATE_UP, provider_pb2.PROVIDER_STATE_SLOW}


@dataclasses.dataclass(slots=True)
class _Order:
    """One scrub that a person asked for."""

    top: str
    provider: str
    before: Timestamp
    allowance: Allowance
    sample: float
    progress: scrub_pb2.ScrubProgress = dataclasses.field(default_factory=scrub_pb2.ScrubProgress)
    ended: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    error: CdirError | None = None


class ScrubRole:
    """Proves copies with ``prover``, and has ``watch`` ask who may do what with them.

    ``avoid`` names providers that do not answer; ``on_found`` is called when copies were found wrong: work is due then.
    """

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        prover: Prover,
        watch: AccessWatch,
        progress: Progress,
        *,
        avoid: Callable[[], Collection[str]],
        on_found: Callable[[], None],
        pace: ScrubPace | None = None,
    ) -> None:
        self._catalog = catalog
        self._prover = prover
        self._watch = watch
        self._progress = progress
        self._avoid = avoid
        self._on_found = on_found
        self._pace = pace or ScrubPace()
        self._orders: asyncio.Queue[_Order] = asyncio.Queue(_MOST_ORDERS)
        self._background = Allowance(bytes=self._pace.bytes_per_hour, calls=self._pace.calls_per_hour)
        self._listed: dict[str, float] = {}
        """When each provider was last compared by its checksums, by the monotonic clock."""
        self._asked: dict[str, int] = {}
        """Up to which copy each provider was asked for its access in this round."""

    # --- what people ask for ------------------------------------------------------------------------------------------

    async def scrub(self, request: scrub_pb2.ScrubTreeRequest) -> AsyncGenerator[scrub_pb2.ScrubProgress, None]:
        """Queue a scrub and yield how far it is, at once and then until it is done. It goes on without the caller.

        Raises NotFound (path or provider), InvalidArgument and RateLimited (too many wait already).
        """
        order = await self._order(request)
        try:
            self._orders.put_nowait(order)
        except asyncio.QueueFull:
            raise RateLimited(f"{_MOST_ORDERS} scrubs wait already; try again when one has ended") from None
        while not order.ended.is_set():
            yield _copied(order.progress)
            try:
                async with asyncio.timeout(_SHOW_SECONDS):
                    await order.ended.wait()
            except TimeoutError:
                continue
        if order.error is not None:
            raise order.error
        yield _copied(order.progress)

    async def _order(self, request: scrub_pb2.ScrubTreeRequest) -> _Order:
        if not 0 <= request.sample <= 1:
            raise InvalidArgument(f"the sample is a share between 0 and 1, not {request.sample:g}")
        if request.bytes < 0 or request.calls < 0:
            raise InvalidArgument("bytes and calls cannot be negative")
        everything = request.path == "/" and not request.workspace
        if not everything:
            await self._require(request.workspace, request.path)
        if request.provider and not await self._providers(request.provider):
            raise NotFound(
                f"no provider is named {request.provider}; `cdir provider list` shows them", provider=request.provider
            )
        return _Order(
            top="" if everything else key_of(request.workspace, request.path).removesuffix("/"),
            provider=request.provider,
            before=(await self._proofs()).now,
            allowance=Allowance(bytes=request.bytes or None, calls=request.calls or None),
            sample=request.sample or 1.0,
        )

    async def _require(self, workspace: str, path: str) -> None:
        ref = catalog_service_pb2.PathRef(workspace=workspace, path=path)
        with translated():
            response = await self._catalog.ResolveEntries(
                catalog_service_pb2.ResolveEntriesRequest(refs=[ref]), timeout=_CATALOG_SECONDS
            )
        if response.results[0].HasField("failure"):
            raise from_failure(response.results[0].failure)

    async def serve(self) -> None:
        """Do the next scrub that was asked for; waits for one."""
        if self._progress.paused:
            await asyncio.sleep(_WAIT_SECONDS)
            return
        order = await self._orders.get()
        order.error = ProviderUnavailable("the replicator ended before the scrub did; start it again")
        try:
            await self._do(order)
            order.error = None
        except CdirError as error:
            order.error = error
        finally:
            order.progress.done = True
            order.ended.set()

    async def _do(self, order: _Order) -> None:
        files = {found.provider_id: found.files for found in (await self._proofs()).providers}
        async with asyncio.TaskGroup() as work:
            for provider in await self._providers(order.provider):
                work.create_task(self._do_at(order, provider, files.get(provider.provider_id, 0)))
        if order.progress.missing or order.progress.corrupt or order.progress.changed:
            self._on_found()

    async def _do_at(self, order: _Order, provider: provider_pb2.Provider, files: int) -> None:
        progress = order.progress
        if not self._answers(provider):
            progress.unreachable.append(provider.name)
            return
        most = None if order.sample == 1.0 else max(1, round(files * order.sample))
        try:
            looked = await self._watch.look(provider, order.top, order.allowance, progress)
            progress.bounded = progress.bounded or looked.bounded
            if looked.error is not None:
                raise looked.error
            whole = True
            if _states_checksums(provider):
                whole = await self._prover.by_checksum(provider, order.top, order.allowance, progress)
            if whole:
                whole = await self._prover.by_reading(
                    provider, order.top, order.before, order.allowance, progress, most=most, at_once=_AT_ONCE
                )
        except CdirError as error:
            logger.warning("provider %s: the scrub broke off: %s", provider.name, error)
            progress.unreachable.append(provider.name)
        else:
            progress.bounded = progress.bounded or not whole

    # --- in the background --------------------------------------------------------------------------------------------

    async def once(self) -> scrub_pb2.ScrubProgress:
        """Prove as much as one step allows; return what came of it."""
        progress = scrub_pb2.ScrubProgress()
        if self._progress.paused:
            return progress
        self._background.refill(STEP_SECONDS / 3600.0)
        proofs = await self._proofs()
        fresh = Timestamp()
        fresh.FromNanoseconds(proofs.now.ToNanoseconds() - int(self._pace.fresh_seconds * 1e9))
        ages = {found.provider_id: found for found in proofs.providers}
        for provider in await self._providers():
            found = ages.get(provider.provider_id)
            if found is None or not self._answers(provider):
                continue
            try:
                await self._ask_some(provider, found.files, progress)
            except CdirError as error:
                logger.info("provider %s: asking for the access of copies broke off: %s", provider.name, error)
                continue
            due = found.HasField("oldest") and found.oldest.ToNanoseconds() < fresh.ToNanoseconds()
            if not (due or found.unproven):
                continue
            try:
                await self._step_at(provider, found.files, fresh, progress)
            except CdirError as error:
                logger.info("provider %s: proving copies broke off: %s", provider.name, error)
        if progress.missing or progress.corrupt or progress.changed:
            self._on_found()
        return progress

    async def _ask_some(self, provider: provider_pb2.Provider, files: int, progress: scrub_pb2.ScrubProgress) -> None:
        """Go on with the round of asking this provider for the access of its copies."""
        looked = await self._watch.look(
            provider,
            "",
            self._background,
            progress,
            after=self._asked.get(provider.provider_id, 0),
            most=self._pace.looks(max(files, 1), STEP_SECONDS),
        )
        self._asked[provider.provider_id] = looked.last
        if looked.error is not None:
            raise looked.error

    async def _step_at(
        self, provider: provider_pb2.Provider, files: int, fresh: Timestamp, progress: scrub_pb2.ScrubProgress
    ) -> None:
        now = time.monotonic()
        listed = self._listed.get(provider.provider_id)
        if _states_checksums(provider) and (listed is None or now - listed >= self._pace.fresh_seconds):
            if not self._background.left:
                return
            self._listed[provider.provider_id] = now
            await self._prover.by_checksum(provider, "", self._background, progress)
        await self._prover.by_reading(
            provider,
            "",
            fresh,
            self._background,
            progress,
            most=self._pace.reads(max(files, 1), STEP_SECONDS),
            at_once=_AT_ONCE_IN_BACKGROUND,
        )

    # --- what both need -----------------------------------------------------------------------------------------------

    def _answers(self, provider: provider_pb2.Provider) -> bool:
        return provider.state in _ANSWERING and provider.provider_id not in self._avoid()

    async def _providers(self, name: str = "") -> list[provider_pb2.Provider]:
        with translated():
            response = await self._catalog.ReadProviders(
                catalog_service_pb2.ReadProvidersRequest(name=name), timeout=_CATALOG_SECONDS
            )
        return [stored.provider for stored in response.providers]

    async def _proofs(self) -> scrub_pb2.ReadProofsResponse:
        with translated():
            return await self._catalog.ReadProofs(scrub_pb2.ReadProofsRequest(), timeout=_CATALOG_SECONDS)


def _states_checksums(provider: provider_pb2.Provider) -> bool:
    """Whether the kind says of itself which checksum an object has."""
    stated = provider.capability.fields.get("checksums")
    return stated is not None and len(stated.list_value.values) > 0


def _copied(progress: scrub_pb2.ScrubProgress) -> scrub_pb2.ScrubProgress:
    copy = scrub_pb2.ScrubProgress()
    copy.CopyFrom(progress)
    return copy
