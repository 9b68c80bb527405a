"""Virtual time: what the simulated process sees instead of the machine's clocks.

:func:`install` has to come before the modules that keep ``time.monotonic`` as a default, so only processes of their own
simulate.
"""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass
from typing import Any

__all__ = ["NANO", "START_NS", "VirtualClock", "clock", "install"]

NANO = 1_000_000_000
START_NS = 1_800_000_000 * NANO
"""Wall time when every scenario's catalog is made."""

_FIRST = 1000.0


@dataclass(slots=True)
class VirtualClock:
    """Seconds that pass only when the event loop says so."""

    seconds: float = _FIRST

    def reset(self, seconds: float = 0.0) -> None:
        """Begin anew, ``seconds`` after the start of time."""
        self.seconds = _FIRST + seconds

    def advance_to(self, seconds: float) -> None:
        self.seconds = max(self.seconds, seconds)

    def monotonic(self) -> float:
        return self.seconds

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch, in whole microseconds as real clocks are seen through floats."""
        return START_NS + round((self.seconds - _FIRST) * 1e6) * 1000


clock = VirtualClock()
"""The one clock of this process."""


class _Datetimes(type):
    def __instancecheck__(cls, instance: object) -> bool:
        """Real ones are as good: libraries written in C make them."""
        return isinstance(instance, _REAL)


_REAL = datetime.datetime


class _VirtualDatetime(_REAL, metaclass=_Datetimes):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        return _REAL.fromtimestamp(clock.wall_ns() / NANO, tz)


def install() -> None:
    """Replace the clocks of the modules ``time`` and ``datetime`` for good."""
    time.monotonic = clock.monotonic
    time.perf_counter = clock.monotonic
    time.time_ns = clock.wall_ns
    time.time = lambda: clock.wall_ns() / NANO
    datetime.datetime = _VirtualDatetime  # type: ignore[misc] # for the modules that are loaded from now on
