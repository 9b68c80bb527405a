"""How long calls to each provider take, as one process has seen it lately.

Small transfers are all latency, large ones mostly bandwidth: the two are measured apart, the large ones by the byte.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

__all__ = ["Paces"]

_SMALL_BYTES: Final = 256 << 10
_WEIGHT: Final = 0.2
"""Share of the newest sample in the moving averages."""
_WEIGHT_LOST_SMALL: Final = 0.1
_WEIGHT_LOST_LARGE: Final = 0.5
"""And of one that was given up. A small call is slow by chance at times, and two in a row must not be; a large one that
is, is slow because the way is."""

_KEPT: Final = 100
"""Samples that say what is late."""
_FEW: Final = 20
"""With fewer samples the slowest of twenty is not known, and late is a multiple of the median."""
_AT_LEAST_MEDIANS: Final = 1.5
_AT_MOST_MEDIANS: Final = 2.5
"""Late is between these multiples of the median: whatever share of the calls is slow, a slow one is not taken for
usual; and where all take the same, a hair's breadth later is not late."""

_BETTER: Final = 2.0
"""How many times faster a provider must be than one that is preferred to it."""
_SLACK_SECONDS: Final = 0.02
"""Differences below this are not worth leaving the preferred one."""
_FORGIVEN: Final = 30.0
"""Seconds in which what holds against a provider that is not asked any more halves, until it is tried again."""

_SILENCE_SMALL: Final = 5.0
_SILENCE_LARGE: Final = 1.0
"""Seconds without a call after which the next one is a try. One of a large content is seen to come or not, and taken
over; a small one holds up whoever waits for it."""

T = TypeVar("T")


class _Pace:
    """Calls of one size class to one provider; in seconds, or seconds per byte."""

    __slots__ = ("_samples", "_since_sorted", "late", "mean", "seen", "tried", "usual")

    def __init__(self, sample: float, now: float) -> None:
        self.mean = sample
        self.seen = now
        """When it was measured, or tried again, last."""
        self.tried = False
        """A call is under way that nobody made for a while before."""
        self._samples: deque[float] = deque(maxlen=_KEPT)
        self._since_sorted = 0
        self.late = sample
        """What nearly all calls (95 of 100) stay below."""
        self.usual = sample
        """The median."""
        self._keep(sample)

    def add(self, sample: float, now: float, weight: float) -> None:
        if self.tried and sample * _BETTER <= self.mean:
            # it is faster by now: what was measured long ago would take as many tries to be outweighed as it had calls
            self.mean = sample
            self._samples.clear()
        else:
            self.mean += weight * (sample - self.mean)
        self.tried = False
        self.seen = now
        self._keep(sample)

    def _keep(self, sample: float) -> None:
        self._samples.append(sample)
        self._since_sorted += 1
        if len(self._samples) <= _FEW or self._since_sorted >= _FEW // 2:
            self._since_sorted = 0
            ordered = sorted(self._samples)
            count = len(ordered)
            self.usual = ordered[count // 2]
            if count < _FEW:
                self.late = _AT_MOST_MEDIANS * self.usual
            else:
                late = ordered[count * 95 // 100]
                self.late = min(max(late, _AT_LEAST_MEDIANS * self.usual), _AT_MOST_MEDIANS * self.usual)

    def forgiven(self, now: float) -> float:
        """The mean, less and less of it the longer ago that is."""
        return float(self.mean * 0.5 ** ((now - self.seen) / _FORGIVEN))


class Paces:
    """Times of calls by provider and size. ``clock`` is in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._small: dict[str, _Pace] = {}
        self._large: dict[str, _Pace] = {}

    def took(self, provider_id: str, size: int, seconds: float) -> None:
        """A call that moved ``size`` bytes took ``seconds``."""
        self._add(provider_id, size, seconds, _WEIGHT)

    def took_longer(self, provider_id: str, size: int, seconds: float) -> None:
        """A call was given up after ``seconds``: it would have taken longer, by how much nobody knows."""
        weight = _WEIGHT_LOST_SMALL if size < _SMALL_BYTES else _WEIGHT_LOST_LARGE
        self._add(provider_id, size, 2 * seconds, weight)

    def asked(self, provider_id: str, size: int) -> None:
        """A call begins. If it tries a provider that was slow, the next ones go elsewhere until that is known."""
        pace = self._class(size)[0].get(provider_id)
        if pace is not None:
            now = self._clock()
            pace.tried = pace.tried or now - pace.seen >= _silence(size)
            pace.seen = now

    def hoped(self, provider_id: str, size: int) -> float | None:
        """Seconds that a call of ``size`` bytes takes on average; ``None`` when unmeasured.

        The longer nobody has asked the provider, the less: it may be faster by now.
        """
        paces, unit = self._class(size)
        pace = paces.get(provider_id)
        return None if pace is None else pace.forgiven(self._clock()) * unit

    def mean(self, provider_id: str, size: int) -> float | None:
        """Seconds that a call of ``size`` bytes took on average, however long ago; ``None`` when unmeasured."""
        paces, unit = self._class(size)
        pace = paces.get(provider_id)
        return None if pace is None else pace.mean * unit

    def usual(self, provider_id: str, size: int) -> float | None:
        """The median of the seconds that calls of ``size`` bytes took; ``None`` when unmeasured."""
        paces, unit = self._class(size)
        pace = paces.get(provider_id)
        return None if pace is None else pace.usual * unit

    def much_slower(self, provider_id: str, other: str, size: int) -> bool:
        """Whether calls of ``size`` bytes took so much longer than at another provider that they are only a try now."""
        mean, others = self.mean(provider_id, size), self.mean(other, size)
        return mean is not None and others is not None and mean > _limit(others)

    def fresh(self, provider_id: str, size: int) -> bool:
        """Whether calls of this size were made a moment ago."""
        pace = self._class(size)[0].get(provider_id)
        return pace is not None and self._clock() - pace.seen < _FORGIVEN

    def silent(self, provider_id: str, size: int) -> bool:
        """Whether the next call of ``size`` bytes is a try, since none was made for a while."""
        pace = self._class(size)[0].get(provider_id)
        return pace is not None and self._clock() - pace.seen >= _silence(size)

    def late_after(self, provider_id: str, size: int, *, pressing: bool = False) -> float | None:
        """Seconds after which a call of ``size`` bytes is later than nearly all before it; ``None`` when unmeasured.

        ``pressing`` asks for the shortest time that can be called late: the call overtakes another one itself.
        """
        paces, unit = self._class(size)
        pace = paces.get(provider_id)
        if pace is None:
            return None
        return unit * (_AT_LEAST_MEDIANS * pace.usual if pressing else pace.late)

    def ordered(self, items: Iterable[T], provider_id: Callable[[T], str], size: int) -> list[T]:
        """Return ``items``, which come by preference, in the order in which to ask for ``size`` bytes.

        Preference counts: an item moves back only behind one whose provider is at least twice as fast, by more than
        a trifle. An unmeasured provider keeps its place, and one that was slow gets it back for a try by and by.
        """
        left = list(items)
        if len(left) < 2:
            return left
        paces, unit = self._class(size)
        known = {id(item): pace for item in left if (pace := paces.get(provider_id(item))) is not None}
        if not known:
            return left
        now = self._clock()
        found: list[T] = []
        while len(left) > 1:
            best = min(known[id(item)].mean * unit if id(item) in known else float("inf") for item in left)
            limit = _limit(best)
            for item in left:
                pace = known.get(id(item))
                if pace is None or pace.forgiven(now) * unit <= limit:
                    break
            left.remove(item)
            found.append(item)
        return found + left

    def _add(self, provider_id: str, size: int, seconds: float, weight: float) -> None:
        paces, unit = self._class(size)
        now = self._clock()
        pace = paces.get(provider_id)
        if pace is None:
            paces[provider_id] = _Pace(seconds / unit, now)
        else:
            pace.add(seconds / unit, now, weight)

    def _class(self, size: int) -> tuple[dict[str, _Pace], int]:
        """The paces of calls of this size, and what one of them is to be multiplied by."""
        return (self._small, 1) if size < _SMALL_BYTES else (self._large, size)


def _limit(best: float) -> float:
    """Seconds up to which a provider keeps its place though another one takes only ``best``."""
    return max(_BETTER * best, best + _SLACK_SECONDS)


def _silence(size: int) -> float:
    return _SILENCE_SMALL if size < _SMALL_BYTES else _SILENCE_LARGE
