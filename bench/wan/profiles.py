"""The three providers of the emulated network, and the least time that moving bytes over them can take.

A floor counts round trips and bytes over the shared rate, nothing else: no headers, no limit per connection, no time at
the server. It is what physics leaves of a task, and what every measured time is divided by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MEGABIT", "PROFILES", "Profile", "read_floor", "write_floor"]

MEGABIT = 1_000_000 / 8
"""Bytes a second."""


@dataclass(frozen=True)
class Profile:
    """One provider's line. Rates are bytes a second, ``rtt`` is seconds."""

    name: str
    rtt: float
    up: float
    down: float
    per_connection: float


PROFILES = (
    Profile("a", 0.030, 100 * MEGABIT, 100 * MEGABIT, 40 * MEGABIT),
    Profile("b", 0.080, 50 * MEGABIT, 50 * MEGABIT, 25 * MEGABIT),
    Profile("c", 0.150, 20 * MEGABIT, 40 * MEGABIT, 15 * MEGABIT),
)


def write_floor(size: int, copies: int, lines: Sequence[Profile] = PROFILES, *, warm: bool) -> float:
    """Seconds until ``copies`` providers hold ``size`` bytes each: the slowest of the fastest ``copies``."""
    trips = 1 if warm else 2
    return sorted(trips * line.rtt + size / line.up for line in lines)[copies - 1]


def read_floor(
    size: int, lines: Sequence[Profile] = PROFILES, *, warm: bool, drop: tuple[str, float, float] | None = None
) -> float:
    """Seconds in which the lines together bring ``size`` bytes, each byte once.

    ``drop`` of ``(name, second, factor)`` multiplies the rate of one line from that second on.
    """
    trips = 1 if warm else 2

    def brought(until: float) -> float:
        total = 0.0
        for line in lines:
            begin = trips * line.rtt
            if drop is not None and drop[0] == line.name:
                change = max(drop[1], begin)
                total += line.down * max(0.0, min(until, change) - begin)
                total += line.down * drop[2] * max(0.0, until - change)
            else:
                total += line.down * max(0.0, until - begin)
        return total

    low, high = 0.0, 1.0
    while brought(high) < size:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if brought(middle) < size else (low, middle)
    return high
