"""The role that looks at what lies at the providers, and tells the catalog what others did there.

What is listed counts only between two looks at cdir's mark, the first of which is taken as the listing begins, at a
provider that had the mark when its health was looked at last: a root that was unmounted, emptied or swapped meanwhile
says nothing about files. The catalog decides what follows from a listing; what is owed then is debt like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection
from contextlib import aclosing
from typing import Final

from cdir.errors import CdirError, PreconditionFailed
from cdir.status import translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    scan_pb2,
)
from cdir_replicator.listing import KeyOrderLister
from cdir_replicator.pace import CallPace
from cdir_replicator.progress import Progress
from cdir_replicator.ranges import KeyRange, RangeCutter
from cdir_runtime.crash import crash_point
from cdir_transfer.overtaking import end_all

__all__ = ["CALLS_PER_MINUTE", "ScanRole"]

logger = logging.getLogger(__name__)

CALLS_PER_MINUTE: Final = 600
"""Calls that scanning may cost one provider in a minute."""

_AT_ONCE: Final = 4
"""Scans under way at a time, one for each provider at most."""

_TURN_SECONDS: Final = 45.0
"""How long one claimed scan goes on at a stretch; then it goes on from where it was, under a new claim. What changes
during a turn is left for the next pass, so it must not be long."""

_LEASE_SECONDS: Final = 300.0
_CALLS_BETWEEN_RANGES: Final = 100
_RETRY_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 5.0
"""Longest pause until a scan that a person asked another replicator for is seen."""

_SHORTEST_LOOK: Final = 0.2
_MARK_SECONDS: Final = 30.0
_CATALOG_SECONDS: Final = 60.0
_REASON_LENGTH: Final = 300


class ScanRole:
    """Does the scans that are due.

    ``avoid`` returns the ids of providers that do not answer or lack cdir's mark; ``on_found`` is called when debt may
    have come of a scan, ``on_trouble`` with the id of a provider that failed one. ``calls_per_minute`` is what scanning
    may cost each provider; a minute's worth may be spent at once.
    """

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        progress: Progress,
        *,
        owner: str,
        avoid: Callable[[], Collection[str]],
        on_found: Callable[[], None],
        on_trouble: Callable[[str], None],
        calls_per_minute: int = CALLS_PER_MINUTE,
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._progress = progress
        self._owner = owner
        self._avoid = avoid
        self._on_found = on_found
        self._on_trouble = on_trouble
        self._calls_per_minute = calls_per_minute
        self._paces: dict[str, CallPace] = {}
        self._busy: set[str] = set()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look for scans at once: one may have become due."""
        self._woken.set()

    async def once(self) -> int:
        """Do what is due until nothing is; return how many turns of scans that were."""
        turns = 0
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    started, _ = await self._start_due(tasks)
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None
            if not started:
                return turns
            turns += started

    async def run(self) -> None:
        """Do scans as they become due, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    self._woken.clear()
                    pause = _LOOK_SECONDS
                    if not self._progress.paused:
                        _, pause = await self._start_due(tasks)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(min(max(pause, _SHORTEST_LOOK), _LOOK_SECONDS)):
                            await self._woken.wait()
        except BaseExceptionGroup as group:
            # scans raise nothing, so this is the catalog that does not answer
            raise group.exceptions[0] from None

    async def _start_due(self, tasks: asyncio.TaskGroup) -> tuple[int, float]:
        """Start what is due and may run beside what runs; return how many that were, and seconds until the next."""
        started = 0
        while len(self._busy) < _AT_ONCE:
            with translated():
                response = await self._catalog.ClaimScan(
                    scan_pb2.ClaimScanRequest(
                        owner=self._owner,
                        lease_seconds=_LEASE_SECONDS,
                        exclude_providers={*self._busy, *self._avoid()},
                    ),
                    timeout=_CATALOG_SECONDS,
                )
            if not response.HasField("scan"):
                return started, response.next_due if response.HasField("next_due") else _LOOK_SECONDS
            self._busy.add(response.scan.provider_id)
            tasks.create_task(self._turn(response.scan))
            started += 1
        return started, _LOOK_SECONDS

    # --- one turn -----------------------------------------------------------------------------------------------------

    async def _turn(self, scan: scan_pb2.Scan) -> None:
        """Go on with a scan for a while. Raises nothing."""
        try:
            await _Turn(self, scan).run()
        except CdirError as error:
            # the catalog: its lease lapses, and the scan is claimed again
            logger.warning("the scan of %s cannot be recorded: %s", _label(scan), error.message)
        except Exception:
            logger.exception("the scan of %s failed unexpectedly", _label(scan))
        finally:
            self._busy.discard(scan.provider_id)
            self._woken.set()

    def _pace(self, provider_id: str) -> CallPace:
        pace = self._paces.get(provider_id)
        if pace is None:
            pace = self._paces[provider_id] = CallPace(self._calls_per_minute)
        return pace


class _Turn:
    """One claimed scan, until it is done, its time is up, or the provider fails."""

    def __init__(self, role: ScanRole, scan: scan_pb2.Scan) -> None:
        self._role = role
        self._catalog = role._catalog
        self._adapters = role._adapters
        self._scan = scan
        self._ref = adapter_service_pb2.ProviderRef(provider_id=scan.provider_id, revision=scan.provider_revision)
        self._pace = role._pace(scan.provider_id)
        self._calls = 0
        self._cursor = scan.cursor
        """Everything up to here was compared."""
        self._lost = False
        self._refused = ""

    async def run(self) -> None:
        finish = scan_pb2.FinishScanRequest(scan_id=self._scan.scan_id, owner=self._role._owner)
        try:
            finish.complete = await self._compare_all()
        except CdirError as error:
            finish.error = _line(error)
            finish.retry_seconds = _RETRY_SECONDS
            logger.warning("the scan of %s is put off: %s", _label(self._scan), finish.error)
            self._role._on_trouble(self._scan.provider_id)
        if not self._lost:
            finish.cursor = "" if finish.complete else self._cursor
            await self._finish(finish)

    async def _compare_all(self) -> bool:
        """Compare range by range; return whether the scan has come to its end."""
        ends = time.monotonic() + _TURN_SECONDS
        ordered = await self._lists_in_order()
        marked = asyncio.create_task(self._check_mark())
        try:
            return await self._compare_listed(marked, ends, ordered=ordered)
        except CdirError:
            await marked  # that there is no mark says more than what the listing met
            raise
        finally:
            await end_all([marked])

    async def _compare_listed(self, marked: asyncio.Task[None], ends: float, *, ordered: bool) -> bool:
        lister = KeyOrderLister(self._adapters, self._ref, ordered=ordered, may_call=self._may_call)
        cutter = RangeCutter(self._cursor)
        listing = lister.list(self._scan.prefix, recursive=self._scan.recursive, after=self._cursor)
        async with aclosing(listing) as steps:
            async for step in steps:
                late = time.monotonic() >= ends
                found = cutter.take(step, cut=late or self._calls >= _CALLS_BETWEEN_RANGES)
                if found is not None:
                    await marked
                    await self._compare(found)
                    self._cursor = cutter.cursor
                    if self._lost or late:
                        return False
        await marked
        await self._compare(cutter.finish())
        return not self._lost

    async def _compare(self, found: KeyRange) -> None:
        await self._check_mark()
        self._calls = 0
        crash_point("scan.before_compare")
        with translated():
            response = await self._catalog.CompareListing(
                scan_pb2.CompareListingRequest(
                    provider_id=self._scan.provider_id,
                    owner=self._role._owner,
                    scan_id=self._scan.scan_id,
                    # a folder above the range may have been read right after the claim
                    as_of=self._scan.as_of,
                    ranges=[
                        scan_pb2.ListedRange(
                            prefix=self._scan.prefix,
                            recursive=self._scan.recursive,
                            after_key=found.after,
                            until_key=found.until,
                            objects=found.objects,
                            complete=True,
                        )
                    ],
                ),
                timeout=_CATALOG_SECONDS,
            )
        self._lost = response.lost_lease
        self._note_refusal(response.refused)
        counts = response.counts
        if counts.adopted or counts.changed or counts.put_back or counts.suspected:
            self._role._on_found()

    async def _finish(self, request: scan_pb2.FinishScanRequest) -> None:
        crash_point("scan.before_finish")
        while True:
            with translated():
                response = await self._catalog.FinishScan(request, timeout=_CATALOG_SECONDS)
            crash_point("scan.after_finish")
            self._note_refusal(response.refused)
            if not response.remaining:
                break
        counts = response.scan.counts
        if request.complete and response.HasField("scan"):
            found = [
                f"{number} {name.name.replace('_', ' ')}" for name, number in counts.ListFields() if name.name != "same"
            ]
            if found:
                logger.info("the scan of %s found: %s", _label(self._scan), ", ".join(found))
            if counts.missing:
                self._role._on_found()

    def _note_refusal(self, reason: str) -> None:
        if reason and not self._refused:
            self._refused = reason
            logger.warning("the scan of %s concludes nothing: %s", _label(self._scan), reason)

    # --- calls to the provider ----------------------------------------------------------------------------------------

    async def _may_call(self) -> None:
        self._calls += 1
        wait = self._pace.take(time.monotonic())
        if wait:
            await asyncio.sleep(wait)

    async def _check_mark(self) -> None:
        """Make sure that the root is there and ours. Raises what CheckMark does."""
        await self._may_call()
        with translated():
            await self._adapters.CheckMark(
                adapter_service_pb2.CheckMarkRequest(provider=self._ref), timeout=_MARK_SECONDS
            )

    async def _lists_in_order(self) -> bool:
        with translated():
            response = await self._catalog.ReadProviders(
                catalog_service_pb2.ReadProvidersRequest(provider_id=self._scan.provider_id), timeout=_CATALOG_SECONDS
            )
        if not response.providers:
            raise PreconditionFailed(f"provider {self._scan.provider} is not registered any more")
        capability = response.providers[0].provider.capability
        return bool(capability.fields["list_ordered"].bool_value) if "list_ordered" in capability.fields else False


def _label(scan: scan_pb2.Scan) -> str:
    return f"{scan.provider}:{scan.prefix}"


def _line(error: CdirError) -> str:
    """Return the first line of an error, short enough for a table."""
    line = error.message.splitlines()[0] if error.message else error.reason
    return line if len(line) <= _REASON_LENGTH else line[: _REASON_LENGTH - 1] + "…"
