"""Which provider each next part of a large content is asked of, so that what the providers deliver adds up.

Every provider draws the next part when it has a place free, in proportion to what it delivers; but only if it will be
done before the others could have done all that may be read ahead. So a provider that is far slower draws nothing, and
none that is slow holds up the end. What a call that is late would still take too long for is cut off and asked of a
provider that has nothing better to do; what it has brought is kept. Where one provider is enough, a part is a whole
block.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final

from cdir_transfer.health import ProviderHealth
from cdir_transfer.overtaking import Overtaking, end_all

__all__ = ["PART_SIZE", "Part", "Sharing"]

PART_SIZE: Final = 512 << 10
"""Bytes of a part where several providers share the work: what a slow one may still be busy with when the others have
come to the end."""

_PLACES: Final = 6
"""Parts under way at a provider where several share the work: so many that its line is busy while some of them are
only asked for, and so few that one which is slow does not hold up the end."""

_FAST_SECONDS: Final = 0.25
"""A block that takes less comes from a machine nearby, or over a line that others would hardly add to: to read from
another provider as well, in many more requests, costs more than it brings. Where this machine is what is slow, all
providers look distant, and more requests would make it slower still; so this leaves some room."""
_LEAST_SHARE: Final = 1 / 3
"""A call that is alone is no faster than as many of all those that there are places for would be together. A connection
often has a limit of its own."""
_TRY: Final = 2.0
"""A provider is tried for this many times as long as a part takes where it takes least."""
_LATE: Final = 1.25
"""A call that takes this many times as long as usual is late."""
_AHEAD: Final = 6
"""Parts begun and not handed on yet, for each place at a provider: a slow one must not hold up the fast ones."""

_LOOK_SECONDS: Final = 0.05
"""How often it is looked at what arrives."""
_RECENT_SECONDS: Final = 0.1
"""What arrived longer ago counts less and less, by the factor *e* for each of this."""
_ENOUGH_SECONDS: Final = 0.1
"""Seconds of calls, added up, that have to be seen before they say how fast a provider is."""
_FORGOTTEN_SECONDS: Final = 5.0
"""After so long without a call what was seen says nothing any more."""
_WORTH_SECONDS: Final = 0.05
"""Whatever is asked of another provider has to come so much sooner."""
_LEAST_CUT: Final = 64 << 10
"""Fewer bytes are not worth a request."""


class _Flow:
    """What the calls to one provider bring, as it was seen lately."""

    __slots__ = ("_arrived", "_bytes", "_flowed", "_looked", "_seconds", "_seen", "first_byte")

    def __init__(self) -> None:
        self._arrived = 0
        self._bytes = self._seconds = 0.0
        self._seen = 0.0
        self._looked = math.inf
        self._flowed = -math.inf
        self.first_byte = 0.0
        """Seconds that the last call took until something came."""

    def arrived(self, count: int) -> None:
        self._arrived += count

    def look(self, now: float, flowing: int) -> None:
        """Take note of what has arrived since the last time; ``flowing`` calls are bringing something."""
        passed = now - self._looked
        if 0 <= passed <= 2 * _LOOK_SECONDS:
            fading = math.exp(-passed / _RECENT_SECONDS)
            self._bytes = self._bytes * fading + self._arrived
            self._seconds = self._seconds * fading + flowing * passed
            self._seen += flowing * passed
            if flowing:
                self._flowed = now
        # else nobody took what was read, and nobody looked: there is no telling when it came
        self._looked = now
        self._arrived = 0

    def seconds(self, size: int, now: float) -> float | None:
        """Seconds in which one call brings ``size`` bytes, if that is known."""
        if self._seen < _ENOUGH_SECONDS or now - self._flowed > _FORGOTTEN_SECONDS:
            return None
        return size * self._seconds / max(self._bytes, 1.0)


class _Call:
    __slots__ = ("began", "flowing", "late", "provider_id", "task", "usual")

    def __init__(self, provider_id: str, began: float, usual: float, late: float) -> None:
        self.provider_id = provider_id
        self.began = began
        self.usual = usual
        """Seconds that a part takes where it goes."""
        self.late = late
        """Seconds after which the provider is later than it nearly always is."""
        self.flowing = False
        """Whether something has come."""
        self.task: asyncio.Task[Any]


class Part:
    """A range that is asked for, or will be, and was not handed on yet."""

    __slots__ = ("call", "is_cut", "length", "offset", "pieces", "received")

    def __init__(self, offset: int, length: int) -> None:
        self.offset = offset
        self.length = length
        """Bytes: fewer when the rest of it is another part by now."""
        self.pieces: list[bytes] = []
        """What has come."""
        self.received = 0
        self.call: _Call | None = None
        self.is_cut = False
        """Whether its end is another part now."""

    @property
    def left(self) -> int:
        """Bytes that have not come."""
        return self.length - self.received

    @property
    def has_ended(self) -> bool:
        """Whether all of it has come, or will never come."""
        return self.call is not None and (self.call.task.done() or (self.is_cut and not self.left))

    @property
    def failure(self) -> BaseException | None:
        """Why some of it will never come; ``None`` while that is not known."""
        if self.call is None or not self.call.task.done() or (self.is_cut and not self.left):
            return None
        return asyncio.CancelledError() if self.call.task.cancelled() else self.call.task.exception()

    def take(self, piece: bytes) -> None:
        """Keep what has come next, as far as it is wanted."""
        self.pieces.append(piece if len(piece) <= self.left else piece[: self.left])
        self.received += len(self.pieces[-1])

    def cut(self, size: int) -> Part:
        """Split off the last ``size`` bytes, none of which has come, and return them as another part."""
        self.length -= size
        self.is_cut = True
        if not self.left:
            self.drop()
        return Part(self.offset + self.length, size)

    def drop(self) -> None:
        """End its call, when nobody wants it any more."""
        if self.call is not None:
            self.call.task.cancel()


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
        self._calls: list[_Call] = []
        """Those under way, and some that have ended since it was looked last."""
        self._flows: dict[str, _Flow] = {}
        self._untried: set[str] | None = None
        """Providers that nobody had asked for a while in the beginning, and that were not asked since."""
        self._tries: dict[str, float] = {}
        """Providers whose next call is only a try, and the seconds that it may take."""
        self._silent: set[str] = set()
        """Providers that a part was taken from before anything came, and that have brought nothing since."""

    def worth_asking(self, providers: Sequence[str]) -> dict[str, float]:
        """Return those of ``providers``, best first, that parts are asked of, with the seconds that a part takes.

        The best alone where it is near, or where nothing is known of it yet.
        """
        hoped = {provider_id: self._paces.hoped(provider_id, PART_SIZE) for provider_id in providers}
        best = min((seconds for seconds in hoped.values() if seconds is not None), default=0.0)
        if hoped[providers[0]] is None or self.is_near(providers[0]):
            return {providers[0]: best}
        if self._untried is None:
            self._untried = {provider_id for provider_id in providers if self._paces.silent(provider_id, PART_SIZE)}
        return {
            provider_id: max(best if seconds is None else seconds, best, self._seconds(provider_id, PART_SIZE) or 0.0)
            for provider_id, seconds in hoped.items()
        }

    def is_known(self, provider_id: str) -> bool:
        """Whether it has delivered a part before."""
        return self._paces.mean(provider_id, PART_SIZE) is not None

    def is_near(self, provider_id: str) -> bool:
        """Whether a block takes so little that reading from others as well would cost more than it brings.

        Who was far when it was asked last is not hoped to be near now.
        """
        seconds = self._paces.mean(provider_id, PART_SIZE)
        return seconds is not None and seconds * self._block_size < _FAST_SECONDS * PART_SIZE

    def ask(self, part: Part, provider_id: str, pieces: AsyncGenerator[bytes, None]) -> None:
        """Take the part from ``pieces``, for which that provider is asked, as far as it is not cut meanwhile."""
        call = self._begin(part, provider_id)
        call.task = asyncio.create_task(self._filled(part, call, pieces))

    def ask_whole(self, part: Part, provider_id: str, work: Coroutine[Any, Any, bytes]) -> None:
        """Run ``work``, which returns all of the part, most likely from that provider."""
        self._begin(part, provider_id).task = asyncio.create_task(work)

    def next_source(self, times: dict[str, float], ahead: int, left: int) -> str | None:
        """Return which of the providers worth asking shall be asked for the next part; ``None`` if none, now.

        ``ahead`` parts were begun and not handed on yet, ``left`` are still to be begun.
        """
        running = self._running()
        if len(times) == 1:
            return next(iter(times)) if ahead < self._window or not running else None
        room = min(left, _AHEAD * _PLACES * len(times) - ahead)
        now = self._clock()
        places: list[tuple[float, int, float, str, bool]] = []
        for rank, (provider_id, seconds) in enumerate(times.items()):
            busy = [call for call in running if call.provider_id == provider_id]
            places.extend(
                (max(call.began + seconds - now, 0.0) + seconds, rank, seconds, provider_id, False) for call in busy
            )
            first_byte = self._first_byte(provider_id, seconds)
            places.extend(
                (
                    first_byte + PART_SIZE * self._per_byte(provider_id, seconds, beside),
                    rank,
                    seconds,
                    provider_id,
                    True,
                )
                for beside in range(len(busy), self._width(provider_id))
            )
        heapq.heapify(places)
        for _ in range(room):
            done, rank, seconds, provider_id, is_free = places[0]
            if is_free:
                return provider_id
            heapq.heapreplace(places, (done + seconds, rank, seconds, provider_id, False))
        if room <= 0:
            return None
        # who was slow may be fast by now: that is tried with one part, which is taken from it if it is not
        tried = next((provider_id for provider_id in self._untried or () if provider_id in times), None)
        if tried is not None:
            self._tries[tried] = _TRY * min(times.values())
        return tried

    def relieved(self, parts: Sequence[Part], times: dict[str, float]) -> tuple[Part, Part, str] | None:
        """Cut the end off the part that would come last, if another provider is free and brings it sooner.

        Return the part, its end, which is a part of its own now, and who shall be asked for that. No byte comes twice;
        but where the call is not late, it counts as an extra request.
        """
        helpers = [provider_id for provider_id in times if self._has_place(provider_id)]
        if not helpers:
            return None
        now = self._clock()
        calls = [
            (self._end(part, call, now), part, call)
            for part in parts
            if (call := part.call) is not None and not part.has_ended and part.left
        ]
        calls.sort(key=lambda one: one[0], reverse=True)
        for end, part, call in calls:
            is_late = end > call.began + _LATE * call.usual
            all_left = sum(one.left for _, one, its_call in calls if its_call.provider_id == call.provider_id)
            best: tuple[float, int, str] = (0.0, 0, "")
            for helper in helpers:
                if helper != call.provider_id:
                    size, seconds = self._cut(part, call, all_left, helper, times[helper], whole=is_late)
                    best = max(best, (end - now - seconds, size, helper))
            sooner, size, helper = best
            if sooner < _WORTH_SECONDS or size < min(_LEAST_CUT, part.left):
                continue
            if is_late:
                self._learn(call, now)
            elif not self._overtaking.allowed():
                continue
            return part, part.cut(size), helper
        return None

    async def any_news(self, parts: Iterable[Part], *, look: bool) -> None:
        """Wait until a call for one of the parts has ended, or with ``look`` until it is time to see what arrived."""
        tasks = [part.call.task for part in parts if part.call is not None and not part.has_ended]
        await asyncio.wait(tasks, timeout=_LOOK_SECONDS if look else None, return_when=asyncio.FIRST_COMPLETED)
        now = self._clock()
        flowing = Counter(call.provider_id for call in self._calls if call.flowing)
        for provider_id, flow in self._flows.items():
            flow.look(now, flowing[provider_id])
        for call in self._calls:
            if call.task.done() and not call.task.cancelled():
                call.task.exception()  # else it is complained of where nobody wants the part any more
        self._calls = self._running()

    async def end(self) -> None:
        """Cancel what is still under way and see it end."""
        await end_all(call.task for call in self._calls)

    def _begin(self, part: Part, provider_id: str) -> _Call:
        late = self._overtaking.patience(provider_id, max(part.length, PART_SIZE))
        usual = self._tries.pop(provider_id, None) or self._paces.usual(provider_id, PART_SIZE) or late
        call = part.call = _Call(provider_id, self._clock(), min(usual, late), late)
        self._calls.append(call)
        if self._untried is not None:
            self._untried.discard(provider_id)
        return call

    async def _filled(self, part: Part, call: _Call, pieces: AsyncGenerator[bytes, None]) -> None:
        flow = self._flows.setdefault(call.provider_id, _Flow())
        async with aclosing(pieces):
            async for piece in pieces:
                if not call.flowing:
                    call.flowing = True
                    flow.first_byte = self._clock() - call.began
                    self._silent.discard(call.provider_id)
                flow.arrived(len(piece))
                part.take(piece)
                if part.is_cut and not part.left:
                    return

    def _running(self) -> list[_Call]:
        return [call for call in self._calls if not call.task.done()]

    def _end(self, part: Part, call: _Call, now: float) -> float:
        """When a call will have brought what is left of its part."""
        seconds = self._seconds(call.provider_id, part.left)
        if call.flowing and seconds is not None:
            return now + seconds
        due = call.began + max(call.usual, seconds or 0.0)
        # who is overdue is taken to need as much again
        return due if due > now else now + (now - call.began)

    def _cut(
        self, part: Part, call: _Call, all_left: int, helper: str, helpers_seconds: float, *, whole: bool
    ) -> tuple[int, float]:
        """Return how many bytes to cut off for a helper that takes so many seconds for a part, and how many seconds it
        takes for these.

        Both providers should come to an end at the same time; ``all_left`` is what the other one still has to bring.
        Only with ``whole`` may that be all that is left of the part.
        """
        size = part.left if whole else part.left - _LEAST_CUT
        first_byte = self._first_byte(helper, helpers_seconds)
        per_byte = self._per_byte(helper, helpers_seconds, self._busy(helper))
        its_seconds = self._seconds(call.provider_id, all_left)
        if its_seconds is not None and (call.flowing or not whole):
            its_seconds /= self._busy(call.provider_id)
            size = min(size, int((its_seconds - first_byte) / (its_seconds / all_left + per_byte)))
            if whole and part.left - size < _LEAST_CUT:
                size = part.left
        return size, first_byte + size * per_byte

    def _learn(self, call: _Call, now: float) -> None:
        """A call is late: what is left of its part, or some of that, goes to another provider."""
        seconds = now - call.began
        # one that is given up is taken to need twice as long as it took; what it brings tells more
        needed = max(2 * seconds, self._seconds(call.provider_id, PART_SIZE) or 0.0)
        self._paces.took_longer(call.provider_id, PART_SIZE, needed / 2)
        if not call.flowing:
            self._health.overtaken(call.provider_id, seconds, call.late)
            self._silent.add(call.provider_id)

    def _seconds(self, provider_id: str, size: int) -> float | None:
        """Seconds in which a call that has begun to bring something brings so many bytes, if that is known."""
        flow = self._flows.get(provider_id)
        return None if flow is None else flow.seconds(size, self._clock())

    def _first_byte(self, provider_id: str, seconds: float) -> float:
        """Of the seconds that a part takes, those until something comes."""
        flow = self._flows.get(provider_id)
        return min(flow.first_byte, seconds) if flow is not None else 0.0

    def _per_byte(self, provider_id: str, seconds: float, beside: int) -> float:
        """Seconds that a byte takes after the first, where a part takes so many and that many others are under way."""
        share = max((beside + 1) / _PLACES, _LEAST_SHARE)
        return (seconds - self._first_byte(provider_id, seconds)) * share / PART_SIZE

    def _width(self, provider_id: str) -> int:
        """How many parts a provider may have under way: of one that is not known well one shows what it delivers."""
        known = provider_id not in self._silent and self._paces.fresh(provider_id, PART_SIZE)
        return _PLACES if known else 1

    def _has_place(self, provider_id: str) -> bool:
        return self._busy(provider_id) < self._width(provider_id)

    def _busy(self, provider_id: str) -> int:
        """How many parts are under way at a provider."""
        return sum(call.provider_id == provider_id and not call.task.done() for call in self._calls)
