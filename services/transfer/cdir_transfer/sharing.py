"""Which provider each next part of a large content is asked of, so that what the providers deliver adds up.

Every provider draws the next part when it has a place free, in proportion to what it delivers; but only if it will be
done before the others could have done all that may be read ahead. So a provider that is far slower draws nothing, and
none that is slow holds up the end. A part that is overdue is taken over by a provider that has nothing better to do.
Where one provider is enough, a part is a whole block.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final, NamedTuple

from cdir.errors import CdirError
from cdir_transfer.health import ProviderHealth
from cdir_transfer.overtaking import Overtaking, end_all

__all__ = ["PART_SIZE", "Part", "Sharing"]

PART_SIZE: Final = 512 << 10
"""Bytes of a part where several providers share the work: what is lost when one of them falls behind, and what a slow
one may still be busy with when the others have come to the end."""

_PLACES: Final = 6
"""Parts under way at a provider where several share the work: so many that its line is busy while some of them are
only asked for, and so few that one which is slow does not hold up the end."""

_FAST_SECONDS: Final = 0.25
"""A block that takes less comes from a machine nearby, or over a line that others would hardly add to: to read from
another provider as well, in many more requests, costs more than it brings. Where this machine is what is slow, all
providers look distant, and more requests would make it slower still; so this leaves some room."""
_OVERDUE: Final = 0.25
"""A call that has taken this much longer than usual is overdue, and is taken to need as much again."""
_AHEAD: Final = 6
"""Parts begun and not handed on yet, for each place at a provider: a slow one must not hold up the fast ones."""


class _Asked(NamedTuple):
    provider_id: str
    began: float
    late: float
    """Seconds after which the provider is later than it nearly always is."""


class Part:
    """A range that is asked for, or will be, and was not handed on yet."""

    __slots__ = ("asked", "ended", "length", "offset")

    def __init__(self, offset: int, length: int) -> None:
        self.offset = offset
        self.length = length
        self.asked: dict[asyncio.Task[bytes], _Asked] = {}
        """The calls for it: more than one when it is taken over."""
        self.ended: asyncio.Task[bytes] | None = None
        """The call that has it, or that failed when there was no other."""


class Sharing:
    """The parts under way of one content; ``window`` is the most of them where one provider is enough. Leave it with
    :meth:`end`."""

    def __init__(self, health: ProviderHealth, overtaking: Overtaking, block_size: int, window: int) -> None:
        self._health = health
        self._paces = health.paces
        self._overtaking = overtaking
        self._block_size = block_size
        self._window = window
        self._clock = asyncio.get_running_loop().time
        self._running: dict[asyncio.Task[bytes], _Asked] = {}
        self._lost: set[str] = set()
        """Providers that a part was taken from."""

    def worth_asking(self, providers: Sequence[str]) -> dict[str, float]:
        """Return those of ``providers``, best first, that parts are asked of, with the seconds that a part takes.

        The best alone where it is near, or where nothing is known of it yet.
        """
        hoped = {provider_id: self._paces.hoped(provider_id, PART_SIZE) for provider_id in providers}
        best = min((seconds for seconds in hoped.values() if seconds is not None), default=0.0)
        if hoped[providers[0]] is None or self.is_near(providers[0]):
            return {providers[0]: best}
        return {provider_id: best if seconds is None else max(seconds, best) for provider_id, seconds in hoped.items()}

    def is_known(self, provider_id: str) -> bool:
        """Whether it has delivered a part before."""
        return self._paces.mean(provider_id, PART_SIZE) is not None

    def is_near(self, provider_id: str) -> bool:
        """Whether a block takes so little that reading from others as well would cost more than it brings.

        Who was far when it was asked last is not hoped to be near now.
        """
        seconds = self._paces.mean(provider_id, PART_SIZE)
        return seconds is not None and seconds * self._block_size < _FAST_SECONDS * PART_SIZE

    def ask(self, part: Part, provider_id: str, work: Coroutine[Any, Any, bytes]) -> None:
        """Run ``work``, which asks that provider for the part."""
        late = self._overtaking.patience(provider_id, part.length)
        task = asyncio.create_task(work)
        self._running[task] = part.asked[task] = _Asked(provider_id, self._clock(), late)
        task.add_done_callback(lambda done: self._running.pop(done, None))

    def next_source(self, times: dict[str, float], ahead: int, left: int) -> str | None:
        """Return which of the providers worth asking shall be asked for the next part; ``None`` if none, now.

        ``ahead`` parts were begun and not handed on yet, ``left`` are still to be begun.
        """
        if len(times) == 1:
            return next(iter(times)) if ahead < self._window or not self._running else None
        room = min(left, _AHEAD * _PLACES * len(times) - ahead)
        now = self._clock()
        places: list[tuple[float, int, float, str, bool]] = []
        for rank, (provider_id, seconds) in enumerate(times.items()):
            running = [asked.began for asked in self._running.values() if asked.provider_id == provider_id]
            for began in running:
                rest = max(seconds - (now - began), _OVERDUE * (now - began))
                places.append((rest + seconds, rank, seconds, provider_id, False))
            free = self._width(provider_id) - len(running)
            places.extend([(seconds, rank, seconds, provider_id, True)] * free)
        heapq.heapify(places)
        for _ in range(room):
            done, rank, seconds, provider_id, is_free = places[0]
            if is_free:
                return provider_id
            heapq.heapreplace(places, (done + seconds, rank, seconds, provider_id, False))
        return None

    def taken_over(self, parts: Iterable[Part], times: dict[str, float]) -> tuple[Part, str] | None:
        """Return a part that is overdue and who shall take it over, if anyone; that counts as an extra request."""
        now = self._clock()
        for part in parts:
            if part.ended is not None or not part.asked or any(self._due(asked) > now for asked in part.asked.values()):
                continue
            elapsed = now - min(asked.began for asked in part.asked.values())
            having = {asked.provider_id for asked in part.asked.values()}
            for provider_id, seconds in times.items():
                if provider_id not in having and self._has_place(provider_id) and seconds <= elapsed:
                    return (part, provider_id) if self._overtaking.allowed(stuck=True) else None
        return None

    async def any_news(self, parts: Iterable[Part]) -> None:
        """Wait until a call for one of the parts has ended, or is overdue."""
        now = self._clock()
        calls = {task: asked for part in parts if part.ended is None for task, asked in part.asked.items()}
        # what is overdue and could not be taken over is looked at again by and by
        due = min(max(self._due(asked) - now, _OVERDUE * (now - asked.began)) for asked in calls.values())
        await asyncio.wait(calls, timeout=due, return_when=asyncio.FIRST_COMPLETED)

    def settle(self, parts: Iterable[Part]) -> None:
        """Find the parts that have come, and cancel what is of no use any more."""
        for part in parts:
            if part.ended is not None:
                continue
            for task in [task for task in part.asked if task.done()]:
                failed = not task.cancelled() and isinstance(task.exception(), CdirError)
                del part.asked[task]
                self._running.pop(task, None)  # its callback may not have run yet, and its place is free
                if failed and part.asked:
                    continue
                part.ended = task
                self._judge(part)
                break

    def drop(self, parts: Iterable[Part]) -> None:
        """Cancel the calls for parts that nobody wants any more."""
        for part in parts:
            for task in part.asked:
                task.cancel()

    async def end(self) -> None:
        """Cancel what is still under way and see it end."""
        await end_all(self._running)

    def _due(self, asked: _Asked) -> float:
        """When a call is overdue: it is later than usual, and that is more than a trifle."""
        usual = self._paces.usual(asked.provider_id, PART_SIZE)
        return asked.began + (asked.late if usual is None else min(asked.late, (1 + _OVERDUE) * usual))

    def _judge(self, part: Part) -> None:
        """Cancel the calls that lost a part, and learn from those that were late."""
        now = self._clock()
        for task, asked in part.asked.items():
            task.cancel()
            seconds = now - asked.began
            if seconds >= asked.late:
                self._lost.add(asked.provider_id)
                self._paces.took_longer(asked.provider_id, part.length, seconds)
                self._health.overtaken(asked.provider_id, seconds, asked.late)
        part.asked.clear()

    def _width(self, provider_id: str) -> int:
        """How many parts a provider may have under way: of one that is not known well one shows what it delivers."""
        known = provider_id not in self._lost and self._paces.fresh(provider_id, PART_SIZE)
        return _PLACES if known else 1

    def _has_place(self, provider_id: str) -> bool:
        running = sum(asked.provider_id == provider_id for asked in self._running.values())
        return running < self._width(provider_id)
