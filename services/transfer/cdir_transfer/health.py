"""How fast and how reliable each provider has been lately, as one process sees it.

The catalog's provider states are shared and slower to change; this is the quick, local memory that keeps the next
calls away from a provider that has just failed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

__all__ = ["ProviderHealth"]

_SMALL_BYTES: Final = 256 << 10
"""Below this a transfer is all latency, above it mostly bandwidth: the two are measured apart."""

_WEIGHT: Final = 0.2
"""Share of the newest sample in the moving averages."""

T = TypeVar("T")


@dataclasses.dataclass(slots=True)
class _Pace:
    mean: float
    deviation: float

    def add(self, sample: float) -> None:
        off = abs(sample - self.mean)
        self.mean += _WEIGHT * (sample - self.mean)
        self.deviation += _WEIGHT * (off - self.deviation)


class ProviderHealth:
    """Moving averages of seconds per call, and who failed a moment ago.

    ``suspect_seconds`` is how long new work avoids a provider after a failure, and twice that after several in a row:
    no longer, since whoever checks providers tells the catalog when one is down, and when it is back.
    """

    def __init__(self, *, suspect_seconds: float = 2.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._suspect_seconds = suspect_seconds
        self._clock = clock
        self._paces: dict[tuple[str, bool], _Pace] = {}
        self._failures: dict[str, int] = {}
        self._suspect_until: dict[str, float] = {}

    def succeeded(self, provider_id: str, size: int, seconds: float) -> None:
        """A call that moved ``size`` bytes took ``seconds``."""
        key = (provider_id, size >= _SMALL_BYTES)
        pace = self._paces.get(key)
        if pace is None:
            self._paces[key] = _Pace(seconds, seconds / 2)
        else:
            pace.add(seconds)
        self.answered(provider_id)

    def answered(self, provider_id: str) -> None:
        """A call was answered; how long that took says nothing about others."""
        if self._failures.pop(provider_id, 0):
            self._suspect_until.pop(provider_id, None)

    def failed(self, provider_id: str) -> None:
        """A call failed in a way that is the provider's fault (unreachable, too late)."""
        failures = self._failures[provider_id] = self._failures.get(provider_id, 0) + 1
        self._suspect_until[provider_id] = self._clock() + self._suspect_seconds * min(failures, 2)

    def suspect(self, provider_id: str) -> bool:
        """Whether new work should avoid the provider for the moment."""
        until = self._suspect_until.get(provider_id)
        return until is not None and self._clock() < until

    def late_after(self, provider_id: str, size: int) -> float | None:
        """Seconds after which a call of ``size`` bytes is later than nearly all before it; ``None`` when unmeasured."""
        pace = self._paces.get((provider_id, size >= _SMALL_BYTES))
        return None if pace is None else pace.mean + 4 * pace.deviation

    def ordered(self, items: Iterable[T], provider_id: Callable[[T], str]) -> list[T]:
        """``items`` in their order, those at suspect providers last."""
        return sorted(items, key=lambda item: self.suspect(provider_id(item)))
