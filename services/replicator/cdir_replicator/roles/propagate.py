"""The role that turns debt into work: claims what is due, runs as much at once as is good, reports what became of it.

Everything here happens in one loop, so its state needs no locks; only the pieces of work run beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

from cdir.errors import CdirError
from cdir.status import translated
from cdir.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from cdir_replicator.notes import Notes
from cdir_replicator.planner import LARGE_BYTES, Admission, Job, Limits, crowded
from cdir_replicator.progress import Progress
from cdir_replicator.repair import Repairer, shares_calls
from cdir_runtime.crash import crash_point
from cdir_transfer.digest import BLOCK_SIZE
from cdir_transfer.leases import RENEWALS
from cdir_transfer.shared_calls import OBJECTS_IN_CALL

__all__ = ["LEASE_SECONDS", "PropagateRole"]

logger = logging.getLogger(__name__)

LEASE_SECONDS = 600.0
"""How long claimed debt is ours after it was claimed or renewed; renewed while it is worked on."""

_START_SHARE = 0.2
"""In so much of its lease a piece of work may still begin. Setting an occupant aside, which must not happen under two
leases at once, takes at most half a lease more."""

POLL_SECONDS = 1.0
"""Longest pause between two looks for new debt."""

_SHORTEST_POLL = 0.1
"""Shortest one after a look that found nothing to do; each more of them in a row makes the pause twice as long."""

_CLAIM = 200
_MOST_WAITING = 400
"""No new work is claimed while more than this is waiting."""

_TOGETHER = {
    catalog_service_pb2.DEBT_KIND_REMOVE: 200,
    catalog_service_pb2.DEBT_KIND_INSPECT: 200,
    catalog_service_pb2.DEBT_KIND_COPY: OBJECTS_IN_CALL,
}
"""Most items of one piece of work, for the kinds of which several can share calls."""

_OUTCOMES = 1000
_RENEWALS = 1000
"""Most leases of one renewing call."""
_REPORT_COUNT = 64
_REPORT_SECONDS = 0.05
"""Outcomes are told together: when there are this many, when the oldest is this old, or when nothing runs any more."""

_CATALOG_SECONDS = 60.0


@dataclasses.dataclass(slots=True, eq=False)
class _Claimed:
    items: list[catalog_service_pb2.DebtItem]
    job: Job
    at: float
    """When its leases were taken or renewed last."""


class PropagateRole:
    """Works off debt until nothing is due.

    ``owner`` is the id under which leases are taken, which live for ``lease_seconds`` and are renewed as long as the
    work goes on; work whose lease was lost is cancelled. ``avoid`` returns the ids of providers at which nothing shall
    be changed now.
    """

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        repairer: Repairer,
        notes: Notes,
        progress: Progress,
        *,
        owner: str,
        avoid: Callable[[], Collection[str]],
        limits: Limits | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._catalog = catalog
        self._repairer = repairer
        self._notes = notes
        self._progress = progress
        self._owner = owner
        self._avoid = avoid
        self._limits = limits or Limits()
        self._admission = Admission(self._limits)
        self._lease_seconds = lease_seconds
        self._waiting: list[_Claimed] = []
        self._working: dict[_Claimed, asyncio.Task[None]] = {}
        self._at_work: set[int] = set()
        self._outcomes: list[catalog_service_pb2.DebtOutcome] = []
        self._reported = 0.0
        self._claim_at = 0.0
        self._shortest_poll = _SHORTEST_POLL
        self._left_out: set[str] = set()
        self._woken = False
        self._changed = asyncio.Event()
        """Set when work has ended or :meth:`wake` was called."""

    def wake(self) -> None:
        """Look for debt at once: something may have become due."""
        self._woken = True
        self._claim_at = 0.0
        self._shortest_poll = _SHORTEST_POLL
        self._changed.set()

    async def wait(self) -> None:
        """Wait until the next look for debt is due."""
        if not self._woken:
            self._changed.clear()
        await self._wait(max(self._claim_at - time.monotonic(), 0.01))

    async def once(self) -> int:
        """Work until nothing is due and nothing runs; return how many items were worked on.

        What becomes due meanwhile is taken too, and the catalog has been told of everything. Cancelled, it cancels the
        work under way; nothing is half done then that the next claim does not complete or undo.
        """
        self._claim_at = 0.0
        worked = 0
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    worked += self._start(tasks)
                    await self._renew()
                    await self._report(all_of_them=not self._admission.running)
                    if self._may_claim() and await self._claim():
                        continue
                    if self._admission.running or self._waiting:
                        await self._wait(self._pause())
                    elif not self._outcomes:
                        return worked
        except BaseExceptionGroup as group:
            # pieces of work raise nothing, so this is the loop's own failure: the catalog's, as a rule
            raise group.exceptions[0] from None
        finally:
            # only after a failure is anything left here: its leases lapse
            self._waiting.clear()
            self._working.clear()
            self._at_work.clear()
            self._admission = Admission(self._limits)

    async def close(self) -> None:
        """Report what is finished and give up every lease; called after the last :meth:`once` has ended."""
        await self._report(all_of_them=True)
        with translated():
            await self._catalog.ReleaseOwner(
                catalog_service_pb2.ReleaseOwnerRequest(owner=self._owner), timeout=_CATALOG_SECONDS
            )

    # --- the steps of the loop ----------------------------------------------------------------------------------------

    def _may_claim(self) -> bool:
        if self._progress.paused or len(self._waiting) >= _MOST_WAITING:
            return False
        # a provider that was left out by the last claim has room again
        return time.monotonic() >= self._claim_at or not self._left_out <= self._crowded()

    def _crowded(self) -> set[str]:
        return set(crowded((claimed.job for claimed in self._waiting), self._limits))

    async def _claim(self) -> int:
        """Claim what is due; return how many pieces of work that made."""
        self._woken = False
        self._left_out = self._crowded()
        with translated():
            response = await self._catalog.ClaimDebt(
                catalog_service_pb2.ClaimDebtRequest(
                    owner=self._owner,
                    limit=_CLAIM,
                    lease_seconds=self._lease_seconds,
                    exclude_providers={*self._left_out, *self._avoid()},
                ),
                timeout=_CATALOG_SECONDS,
            )
        if response.items:
            crash_point("repair.after_claim")
        now = time.monotonic()
        due = response.next_due if response.HasField("next_due") else POLL_SECONDS
        more = self._woken or len(response.items) >= _CLAIM
        # what is due may have to wait for something else; asking again and again would not make that faster
        self._shortest_poll = _SHORTEST_POLL if more or response.items else min(2 * self._shortest_poll, POLL_SECONDS)
        self._claim_at = now if more else now + min(max(due, self._shortest_poll), POLL_SECONDS)
        made = 0
        # an item that is at work already comes again when its lease ran out: this claim has renewed it
        new = [item for item in response.items if item.debt_id not in self._at_work]
        groups = deque(_grouped(new))
        while groups:
            items = groups.popleft()
            claimed = _Claimed(items, _job(items), now)
            if self._admission.reserve(claimed.job):
                self._waiting.append(claimed)
                self._at_work.update(item.debt_id for item in items)
                made += 1
            elif len(items) > 1:
                # one of them has to wait, not all
                groups.extendleft([item] for item in reversed(items))
            else:
                self._hand_back(items, "other work on the same name comes first")
        return made

    def _start(self, tasks: asyncio.TaskGroup) -> int:
        """Start what may run now; return how many items that were."""
        started = 0
        still: list[_Claimed] = []
        oldest = time.monotonic() - _START_SHARE * self._lease_seconds
        for claimed in self._waiting:
            if self._progress.paused or claimed.at < oldest:
                self._admission.release(claimed.job)
                self._at_work.difference_update(item.debt_id for item in claimed.items)
                self._hand_back(claimed.items, "it waited too long for its turn")
            elif self._admission.start(claimed.job):
                self._progress.active += 1
                started += len(claimed.items)
                self._working[claimed] = tasks.create_task(self._run(claimed))
            else:
                still.append(claimed)
        self._waiting = still
        return started

    async def _run(self, claimed: _Claimed) -> None:
        try:
            outcomes = await self._repairer.work(claimed.items)
            self._outcomes += outcomes
        finally:
            del self._working[claimed]
            self._progress.active -= 1
            self._admission.end(claimed.job)
            self._at_work.difference_update(item.debt_id for item in claimed.items)
            self._changed.set()

    async def _renew(self) -> None:
        """Renew what is worked on, and stop the work on what is ours no longer."""
        now = time.monotonic()
        due = [one for one in self._working if now - one.at >= self._lease_seconds / RENEWALS]
        ids = [item.debt_id for claimed in due for item in claimed.items]
        lost: set[int] = set()
        for start in range(0, len(ids), _RENEWALS):
            request = catalog_service_pb2.RenewDebtRequest(
                owner=self._owner, debt_ids=ids[start : start + _RENEWALS], lease_seconds=self._lease_seconds
            )
            with translated():
                response = await self._catalog.RenewDebt(request, timeout=_CATALOG_SECONDS)
            lost.update(response.lost)
        for claimed in due:
            claimed.at = now
            # it may be done by now, and its leases given up with its outcome
            task = self._working.get(claimed)
            if task is not None and any(item.debt_id in lost for item in claimed.items):
                logger.warning("the lease on %d copies was lost; the work on them is stopped", len(claimed.items))
                task.cancel()

    def _hand_back(self, items: Sequence[catalog_service_pb2.DebtItem], reason: str) -> None:
        self._outcomes += [self._repairer.hand_back(item, reason) for item in items]

    async def _report(self, *, all_of_them: bool) -> None:
        """Tell the catalog what became of the work, when it is worth a call."""
        now = time.monotonic()
        if not self._outcomes or not (
            all_of_them or len(self._outcomes) >= _REPORT_COUNT or now - self._reported >= _REPORT_SECONDS
        ):
            return
        while self._outcomes:
            batch = self._outcomes[:_OUTCOMES]
            # copies found bad come first: they must not be offered as sources of what is claimed next
            await self._flush_notes()
            crash_point("repair.before_finish")
            with translated():
                await self._catalog.FinishDebt(
                    catalog_service_pb2.FinishDebtRequest(outcomes=batch), timeout=_CATALOG_SECONDS
                )
            del self._outcomes[: len(batch)]
            if any(outcome.state for outcome in batch):
                # what was found is owed by now
                self._claim_at = 0.0
        self._reported = time.monotonic()

    async def _flush_notes(self) -> None:
        try:
            await self._notes.flush()
        except CdirError as error:
            logger.warning("what was noticed about copies cannot be recorded now: %s", error)

    def _pause(self) -> float:
        """Seconds until the loop has something to do if no work ends before."""
        if self._outcomes:
            return _REPORT_SECONDS
        if self._progress.paused or self._admission.running >= self._limits.total:
            return POLL_SECONDS
        return min(max(self._claim_at - time.monotonic(), 0.01), POLL_SECONDS)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        self._changed.clear()


def _grouped(items: Sequence[catalog_service_pb2.DebtItem]) -> list[list[catalog_service_pb2.DebtItem]]:
    """Group what can share calls, by provider; everything else stands alone. The order is kept as far as that goes."""
    groups: list[list[catalog_service_pb2.DebtItem]] = []
    open_groups: dict[tuple[int, str], _Group] = {}
    for item in items:
        if not shares_calls(item):
            groups.append([item])
            continue
        which = item.kind, item.replica.provider_id
        group = open_groups.get(which)
        if group is None or not group.takes(item):
            group = open_groups[which] = _Group()
            groups.append(group.items)
        group.add(item)
    return groups


class _Group:
    """Items that will be one piece of work."""

    def __init__(self) -> None:
        self.items: list[catalog_service_pb2.DebtItem] = []
        self._keys: set[str] = set()
        self._size = 0

    def takes(self, item: catalog_service_pb2.DebtItem) -> bool:
        """Whether one more fits: together they must not become large, and none may concern another one's keys."""
        if len(self.items) >= _TOGETHER[item.kind] or self._size >= LARGE_BYTES - BLOCK_SIZE:
            return False
        return self._keys.isdisjoint(_keys(item))

    def add(self, item: catalog_service_pb2.DebtItem) -> None:
        self.items.append(item)
        self._keys |= _keys(item)
        self._size += item.version.size if _moves_bytes(item) else 0


def _moves_bytes(item: catalog_service_pb2.DebtItem) -> bool:
    return item.kind in {catalog_service_pb2.DEBT_KIND_COPY, catalog_service_pb2.DEBT_KIND_INSPECT}


def _job(items: Sequence[catalog_service_pb2.DebtItem]) -> Job:
    first = items[0]
    return Job(
        provider_id=first.replica.provider_id,
        size=sum(item.version.size for item in items if _moves_bytes(item)),
        keys=frozenset(itertools.chain.from_iterable(_keys(item) for item in items)),
    )


def _keys(item: catalog_service_pb2.DebtItem) -> set[str]:
    keys = {item.replica.key, *item.replica.alternate_keys, item.target_key}
    if item.HasField("occupant"):
        keys.add(item.occupant.aside_key)
    keys.discard("")
    return keys
