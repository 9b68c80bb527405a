"""A budget of calls per minute: pure, the caller measures the time and waits."""

from __future__ import annotations

__all__ = ["CallPace"]


class CallPace:
    """Lets ``per_minute`` calls pass in a minute. What was not used is saved up to a minute's worth."""

    def __init__(self, per_minute: int) -> None:
        if per_minute < 1:
            raise ValueError("at least one call a minute is needed to get anywhere")
        self._most = float(per_minute)
        self._left = self._most
        self._measured: float | None = None

    def take(self, now: float) -> float:
        """Take one call at the time ``now``; return how many seconds to wait before it is made."""
        if self._measured is not None:
            self._left = min(self._most, self._left + (now - self._measured) * self._most / 60.0)
        self._measured = now
        self._left -= 1
        return max(0.0, -self._left) * 60.0 / self._most
