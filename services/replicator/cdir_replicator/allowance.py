"""What proving copies may cost: pure."""

from __future__ import annotations

import dataclasses
import math
from typing import Self

from cdir_runtime.settings import Settings

__all__ = ["Allowance", "ScrubPace"]


@dataclasses.dataclass(frozen=True, slots=True)
class ScrubPace:
    """How much of its providers one replicator proves in the background."""

    sample: float = 0.01
    """Share of a provider's copies that is read within a day; at least one copy at each step is."""
    bytes_per_hour: int = 256 << 20
    """Bytes read, over all providers."""
    calls_per_hour: int = 2000
    """Calls made, over all providers."""
    fresh_seconds: float = 86_400.0
    """A copy that was proven within this time is not proven again."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read ``CDIR_SCRUB_…``. Raises ConfigInvalid."""
        return cls(
            sample=settings.share("scrub_sample"),
            bytes_per_hour=settings.whole("scrub_bytes"),
            calls_per_hour=settings.whole("scrub_calls"),
        )

    def reads(self, copies: int, seconds: float) -> int:
        """Return how many of a provider's ``copies`` to read in a step that stands for ``seconds``."""
        return math.ceil(copies * self.sample * seconds / 86_400.0) if self.sample > 0 else 0

    def looks(self, copies: int, seconds: float) -> int:
        """Return of how many of a provider's ``copies`` to ask the access in a step that stands for ``seconds``: of all
        within a day, as far as that leaves most of the calls to proofs."""
        return min(math.ceil(copies * seconds / 86_400.0), math.ceil(self.calls_per_hour * seconds / 3600.0 / 4))


class Allowance:
    """Bytes and calls that may be spent; ``None`` is without bound.

    What is begun is finished: the allowance may be overdrawn by one copy, so that a copy larger than all of it is
    proven too. Nothing further is begun until enough has come in again.
    """

    def __init__(self, *, bytes: int | None = None, calls: int | None = None) -> None:
        self._most_bytes, self._most_calls = bytes, calls
        self._bytes, self._calls = float(bytes or 0), float(calls or 0)

    @property
    def left(self) -> bool:
        """Whether one more copy may be begun."""
        return (self._most_bytes is None or self._bytes > 0) and (self._most_calls is None or self._calls > 0)

    def spend(self, *, bytes: int = 0, calls: int = 0) -> None:
        self._bytes -= bytes
        self._calls -= calls

    def refill(self, share: float) -> None:
        """Let come in ``share`` of the whole, never more than the whole."""
        if self._most_bytes is not None:
            self._bytes = min(self._bytes + share * self._most_bytes, float(self._most_bytes))
        if self._most_calls is not None:
            self._calls = min(self._calls + share * self._most_calls, float(self._most_calls))
