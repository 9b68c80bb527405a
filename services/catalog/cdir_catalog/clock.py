"""The one clock of the catalog: every stored time is read here."""

from __future__ import annotations

import time

__all__ = ["SECOND", "now_ns"]

SECOND = 1_000_000_000
"""Nanoseconds in a second; stored times are whole nanoseconds since the epoch, UTC."""


def now_ns() -> int:
    """Return the wall time in nanoseconds since the epoch."""
    return time.time_ns()
