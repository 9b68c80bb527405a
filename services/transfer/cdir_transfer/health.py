"""How fast and how reliable each provider has been lately, as one process sees it.

The catalog's provider states are shared and slower to change; this is the quick, local memory that keeps the next
calls away from a provider that has just failed, or that has fallen silent.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from cdir_transfer.paces import Paces

__all__ = ["ProviderHealth"]

_SILENT_CALLS: Final = 4.0
"""How many times what is late for a call may pass without any answer until the provider counts as silent."""
_SILENT_SECONDS: Final = 1.0
"""And how many seconds in any case."""
_SEEN_TWICE_SECONDS: Final = 0.1
"""Silence has to be seen twice, this far apart: the answers may lie there while it is this process that is held up."""
_LOST_CALLS: Final = 10.0
"""A call that is overtaken after this many times what is late for it speaks against the provider."""

T = TypeVar("T")


@dataclasses.dataclass(slots=True)
class _Record:
    failures: int = 0
    """In a row."""
    suspect_until: float = 0.0
    unanswered: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)
    """Calls begun since the last answer and still under way: when each began, and after how long silence speaks."""
    silent_at: float | None = None
    """When silence was seen first."""

    def heard(self) -> None:
        self.unanswered.clear()
        self.silent_at = None


class ProviderHealth:
    """Moving averages of seconds per call, who failed a moment ago, and who does not answer at all.

    ``suspect_seconds`` is how long new work avoids a provider after a failure, and twice that after several in a row:
    no longer, since whoever checks providers tells the catalog when one is down, and when it is back.
    """

    def __init__(self, *, suspect_seconds: float = 2.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.paces = Paces(clock=clock)
        """Of calls that read one object."""
        self.doubted = asyncio.Event()
        """Set whenever a provider becomes suspect."""
        self._suspect_seconds = suspect_seconds
        self._clock = clock
        self._records: dict[str, _Record] = {}
        self._numbers = itertools.count()

    def succeeded(self, provider_id: str, size: int, seconds: float) -> None:
        """A call that read ``size`` bytes took ``seconds``."""
        self.paces.took(provider_id, size, seconds)
        self.answered(provider_id)

    def answered(self, provider_id: str) -> None:
        """A call was answered; how long that took says nothing about others."""
        record = self._records.get(provider_id)
        if record is not None:
            record.failures = 0
            record.suspect_until = 0.0
            record.heard()

    def failed(self, provider_id: str) -> None:
        """A call failed in a way that is the provider's fault (unreachable, too late)."""
        record = self._record(provider_id)
        record.failures += 1
        record.heard()
        record.suspect_until = self._clock() + self._suspect_seconds * min(record.failures, 2)
        self.doubted.set()

    def overtaken(self, provider_id: str, seconds: float, late: float) -> None:
        """A call was given up after ``seconds``, because one elsewhere was faster; after ``late`` it was overdue.

        That alone does not make the provider suspect: any is slow at times.
        """
        if seconds >= max(_LOST_CALLS * late, _SILENT_SECONDS):
            self.failed(provider_id)

    @contextmanager
    def waiting(self, provider_id: str, late: float) -> Iterator[None]:
        """Whatever is awaited within is a call's answer; after ``late`` seconds it is overdue."""
        record = self._record(provider_id)
        number = next(self._numbers)
        record.unanswered[number] = self._clock(), max(_SILENT_CALLS * late, _SILENT_SECONDS)
        try:
            yield
        finally:
            record.unanswered.pop(number, None)

    def suspect(self, provider_id: str) -> bool:
        """Whether new work should avoid the provider for the moment."""
        record = self._records.get(provider_id)
        if record is None:
            return False
        now = self._clock()
        if now < record.suspect_until:
            return True
        began, speaks = next(iter(record.unanswered.values()), (now, 1.0))
        if now - began < speaks:
            record.silent_at = None
        elif record.silent_at is None:
            record.silent_at = now
        elif now - record.silent_at >= _SEEN_TWICE_SECONDS:
            self.failed(provider_id)
            return True
        return False

    def suspects(self) -> list[str]:
        """Ids of the providers that new work avoids now."""
        return [provider_id for provider_id in list(self._records) if self.suspect(provider_id)]

    def ordered(self, items: Iterable[T], provider_id: Callable[[T], str], size: int) -> list[T]:
        """``items``, which come by preference, in the order in which to ask for ``size`` bytes; suspects last."""
        found = self.paces.ordered(items, provider_id, size)
        return sorted(found, key=lambda item: self.suspect(provider_id(item))) if len(found) > 1 else found

    def _record(self, provider_id: str) -> _Record:
        record = self._records.get(provider_id)
        if record is None:
            record = self._records[provider_id] = _Record()
        return record
