"""What the replicator decides: pure functions and small state machines over plain values.

Nothing here waits, calls, reads a clock or throws dice. Times are seconds that the caller measured, and where chance is
wanted the answer is a :class:`Span` to draw from.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter
from collections.abc import Collection, Iterable
from typing import NamedTuple

from cdir.errors import (
    CdirError,
    ConfigInvalid,
    Conflict,
    DeadlineExceeded,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    Unauthenticated,
)

__all__ = [
    "LARGE_BYTES",
    "SOON",
    "UNREACHABLE",
    "UNREADABLE_AFTER",
    "Admission",
    "Health",
    "HealthState",
    "Job",
    "Limits",
    "Span",
    "Verdict",
    "back_off",
    "crowded",
    "judge",
    "may_roll_forward",
    "worth_recording",
]

LARGE_BYTES = 16 << 20
"""From this size on a copy counts as large: few at once fill a provider's bandwidth, and each takes its time."""

_WINDOW_BYTES = 20 << 20
"""What a large copy may always hold in memory: two blocks that are read (the second one because the first is late), the
block on its way, and the part of 8 MiB that it becomes. More comes out of two stocks of spare blocks and parts."""

_FIRST_BACK_OFF = 1.0
_LONGEST_BACK_OFF = 600.0


class Span(NamedTuple):
    """Seconds to draw evenly from."""

    low: float
    high: float


UNREACHABLE = Span(2.0, 5.0)
"""When to try again what failed because its provider did. Short: a provider that is down is skipped by the catalog
anyway, so this only covers the time until that is noticed."""

UNREADABLE_AFTER = 3
"""So many failed attempts to read an object that is there, at a provider that answers, are no chance any more: it is
unreadable, as a file is on a bad sector of a disk."""

NO_ROOM = Span(30.0, 60.0)
"""When to try again a provider that is full."""

SOON = Span(0.1, 0.4)
"""When to claim again what is handed back because something else has to be done first."""


def back_off(attempts: int) -> Span:
    """Return when to repair again what failed ``attempts`` times before: full jitter below a bound that doubles from
    one second to ten minutes."""
    return Span(0.0, min(_FIRST_BACK_OFF * 2.0 ** min(attempts, 32), _LONGEST_BACK_OFF))


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What a failure means for the copy it happened to."""

    counted: bool
    """Whether it says something about the object, and so counts towards quarantine."""
    retry: Span


def judge(error: CdirError, attempts: int) -> Verdict:
    """Say what ``error`` means for a copy whose repair failed ``attempts`` times before."""
    match error:
        case Conflict():
            # what was claimed is no longer so: whoever claims it next sees what is
            return Verdict(False, SOON)
        case RateLimited():
            wait = max(error.retry_after or 0.0, UNREACHABLE.low)
            return Verdict(False, Span(wait, wait + UNREACHABLE.high))
        case ProviderUnavailable() | DeadlineExceeded() | Unauthenticated() | ConfigInvalid():
            return Verdict(False, UNREACHABLE)
        case QuotaExceeded():
            return Verdict(False, NO_ROOM)
        case _:
            return Verdict(True, back_off(attempts))


# --- which jobs run now -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """How much runs at once."""

    total: int = 32
    small_per_provider: int = 8
    large_per_provider: int = 2
    bytes_in_flight: int = 128 << 20
    """Content in memory; a large copy counts with its window, not with its size."""


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """The part of a piece of work that decides when it may run."""

    provider_id: str
    """The provider it changes."""
    size: int
    """Bytes that travel; 0 for a rename or a removal."""
    keys: frozenset[str]
    """Every key there that it relies on, writes or removes."""

    @property
    def large(self) -> bool:
        return self.size >= LARGE_BYTES

    @property
    def weight(self) -> int:
        """Bytes that it holds in memory at most."""
        return min(self.size, _WINDOW_BYTES)


class Admission:
    """Which claimed jobs may run.

    A job that touches a key which another one touches, at the same provider, is refused from the moment the other was
    claimed until it has ended: afterwards what it was claimed with (who lies at its target, where its own object is)
    may no longer be true. It has to be claimed anew.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._running: Counter[tuple[str, bool]] = Counter()
        self._keys: set[tuple[str, str]] = set()
        self._total = 0
        self._bytes = 0

    @property
    def running(self) -> int:
        """How many jobs run."""
        return self._total

    def reserve(self, job: Job) -> bool:
        """Take a claimed job's keys for it; false when another job has one of them."""
        keys = {(job.provider_id, key) for key in job.keys}
        if not self._keys.isdisjoint(keys):
            return False
        self._keys |= keys
        return True

    def release(self, job: Job) -> None:
        """Give up the keys of a job that was reserved: it has ended, or is handed back."""
        self._keys.difference_update((job.provider_id, key) for key in job.keys)

    def start(self, job: Job) -> bool:
        """Count a reserved job as running; false when the limits do not allow one more like it now."""
        limits = self._limits
        most = limits.large_per_provider if job.large else limits.small_per_provider
        if self._total >= limits.total or self._running[job.provider_id, job.large] >= most:
            return False
        if self._bytes + job.weight > limits.bytes_in_flight:
            return False
        self._total += 1
        self._bytes += job.weight
        self._running[job.provider_id, job.large] += 1
        return True

    def end(self, job: Job) -> None:
        """The job has ended; its keys are free."""
        self._total -= 1
        self._bytes -= job.weight
        self._running[job.provider_id, job.large] -= 1
        self.release(job)


def crowded(waiting: Iterable[Job], limits: Limits) -> list[str]:
    """Return the providers that have so much waiting that no more should be claimed for them now."""
    counts = Counter(job.provider_id for job in waiting)
    return sorted(provider_id for provider_id, count in counts.items() if count > 4 * limits.small_per_provider)


# --- writes whose writer is gone --------------------------------------------------------------------------------------


def may_roll_forward(*, sha256: bytes, verified: Collection[str], min_copies: int) -> bool:
    """Whether a write whose writer is gone can be completed from what lies at the providers.

    Only when its digest was known beforehand, so that stored bytes could be compared, and at least ``min_copies``
    providers hold it. Undoing is always right otherwise: nobody was told that it succeeded.
    """
    return bool(sha256) and len(verified) >= max(min_copies, 1)


# --- health -----------------------------------------------------------------------------------------------------------


class HealthState(enum.Enum):
    UP = "up"
    SLOW = "slow"
    DOWN = "down"
    UNKNOWN = "unknown"
    """It answers, but what answers is not what cdir left there."""


_RECENT = 0.4
_USUAL = 0.02
"""Weights of the newest sample in the two moving averages."""

_SLOW_FACTOR, _SLOW_AT_LEAST = 5.0, 1.0
_FAST_FACTOR, _FAST_AT_MOST = 2.0, 0.5

_TIMEOUTS_TO_DOWN = 2
"""One check that was not answered in time may be the machine's own fault; unreachable is believed at once."""


@dataclasses.dataclass(slots=True)
class Health:
    """What the checks of one provider say: two moving averages of its latency, and hysteresis between the states."""

    state: HealthState = HealthState.UNKNOWN
    reason: str = ""
    recent: float | None = None
    """Seconds, moving average over the last few answers."""
    usual: float | None = None
    """Seconds, moving average over the last hundred answers; it does not learn from slow times."""
    timeouts: int = 0

    def answered(self, seconds: float) -> None:
        """A check succeeded."""
        self.timeouts = 0
        if self.recent is None or self.usual is None or self.state in {HealthState.DOWN, HealthState.UNKNOWN}:
            # a sample from before the outage says nothing about now
            self.recent = seconds
            self.usual = seconds if self.usual is None else self.usual
        else:
            self.recent += _RECENT * (seconds - self.recent)
        slow = self.state is HealthState.SLOW
        if slow:
            slow = self.recent > max(_FAST_FACTOR * self.usual, _FAST_AT_MOST)
        else:
            slow = self.recent > max(_SLOW_FACTOR * self.usual, _SLOW_AT_LEAST)
        if not slow:
            self.usual += _USUAL * (seconds - self.usual)
        self.state = HealthState.SLOW if slow else HealthState.UP
        self.reason = f"answers in {self.recent:.1f} s instead of {self.usual:.1f} s" if slow else ""

    def foreign(self, reason: str) -> None:
        """It answers, but without cdir's mark."""
        self.timeouts = 0
        self.state, self.reason = HealthState.UNKNOWN, reason

    def failed(self, reason: str, *, timed_out: bool = False) -> None:
        """A check failed."""
        if timed_out:
            self.timeouts += 1
            if self.timeouts < _TIMEOUTS_TO_DOWN and self.state in {HealthState.UP, HealthState.SLOW}:
                self.state, self.reason = HealthState.SLOW, reason
                return
        self.state, self.reason = HealthState.DOWN, reason

    def next_check(self) -> float:
        """Seconds until the next check: soon when it is not up, so that its return is noticed."""
        return 15.0 if self.state in {HealthState.UP, HealthState.SLOW} else 2.0


def worth_recording(before: tuple[HealthState, str] | None, now: Health, age: float, refresh: float) -> bool:
    """Whether a finding is told to the catalog: when it differs from what is recorded there, or when what was told last
    is older than ``refresh`` seconds."""
    return before != (now.state, now.reason) or age >= refresh
