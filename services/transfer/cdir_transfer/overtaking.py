"""When a call that is late is overtaken by another one elsewhere, and how often that may be."""

from __future__ import annotations

from typing import Final

from cdir_transfer.health import ProviderHealth

__all__ = ["Overtaking"]

_UNMEASURED: Final = 2.0
"""Seconds before a second replica is asked when nothing is known of the first one's pace."""
_AT_LEAST: Final = 0.25
_SHARE: Final = 0.05
"""Extra requests that overtaking may cost, as a share of all requests."""
_BURST: Final = 10.0


class Overtaking:
    """Bounds the extra requests. ``health`` knows the pace of each provider.

    ``at_least`` is how many seconds a call has in any case.
    """

    def __init__(self, health: ProviderHealth, *, at_least: float = _AT_LEAST) -> None:
        self._health = health
        self._at_least = at_least
        self._credit = _BURST

    def asked(self) -> None:
        """A request was sent: each earns a share of an extra one."""
        self._credit = min(self._credit + _SHARE, _BURST)

    def patience(self, provider_id: str, size: int) -> float:
        """Seconds after which a call of ``size`` bytes counts as late."""
        late = self._health.late_after(provider_id, size)
        return _UNMEASURED if late is None else max(late, self._at_least)

    def allowed(self) -> bool:
        """Say whether an extra request may be sent now; if so, it counts as sent."""
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    def spared(self) -> None:
        """The extra request that was allowed was not needed."""
        self._credit = min(self._credit + 1, _BURST)
