"""When a call that is late is overtaken by another one elsewhere, and how often that may be."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Generic, TypeVar

from cdir.errors import CdirError
from cdir_transfer.health import ProviderHealth
from cdir_transfer.paces import Paces

__all__ = ["Overtaking", "end_all"]

_UNMEASURED: Final = 2.0
"""Seconds before a second provider is asked when nothing is known of the first one's pace."""
_AT_LEAST: Final = 0.1
_SHARE: Final = 0.05
"""Extra requests that overtaking may cost, as a share of all requests; and as many again for calls that are stuck."""
_BURST: Final = 10.0
_STUCK: Final = 1.5
"""A call that is later than this many times what is late is not late by chance."""

Contender = TypeVar("Contender")
Answer = TypeVar("Answer")


class _Allowance:
    """A share of all requests, some of it saved up."""

    __slots__ = ("credit",)

    def __init__(self) -> None:
        self.credit = _BURST

    def earn(self) -> None:
        self.credit = min(self.credit + _SHARE, _BURST)

    def spend(self) -> bool:
        if self.credit < 1:
            return False
        self.credit -= 1
        return True


class _Call(Generic[Contender]):
    """One that is under way."""

    __slots__ = ("began", "contender", "late")

    def __init__(self, contender: Contender, began: float, late: float) -> None:
        self.contender = contender
        self.began = began
        self.late = late


class Overtaking:
    """Races calls to several providers for one answer, and bounds the extra requests.

    ``paces`` says what is late (default: those of ``health``); ``at_least`` is how many seconds a call has in any case.
    """

    def __init__(self, health: ProviderHealth, paces: Paces | None = None, *, at_least: float = _AT_LEAST) -> None:
        self._health = health
        self._paces = paces or health.paces
        self._at_least = at_least
        self._usual = _Allowance()
        self._stuck = _Allowance()
        self.extra = 0
        """Extra requests so far."""

    def asked(self) -> None:
        """A request was sent: each earns a share of an extra one."""
        self._usual.earn()
        self._stuck.earn()

    def patience(self, provider_id: str, size: int, *, pressing: bool = False) -> float:
        """Seconds after which a call of ``size`` bytes counts as late; ``pressing`` when it overtakes another one."""
        late = self._paces.late_after(provider_id, size, pressing=pressing)
        return _UNMEASURED if late is None else max(late, self._at_least)

    def allowed(self, *, stuck: bool = False) -> bool:
        """Say whether an extra request may be sent now; if so, it counts as sent.

        What is just late has 5 of 100 requests; what is later than half as much again, ``stuck``, has 5 more. So calls
        that are late by chance do not use up what those need that would take very long.
        """
        if not (self._usual.spend() or (stuck and self._stuck.spend())):
            return False
        self.extra += 1
        return True

    async def first_good(
        self,
        contenders: Sequence[Contender],
        provider_id: Callable[[Contender], str],
        size: int,
        call: Callable[[Contender], Coroutine[Any, Any, Answer]],
        on_failure: Callable[[Contender, CdirError], None],
        *,
        overtake: bool = True,
    ) -> Answer | None:
        """Ask the contenders in their order until one answers; ``None`` when all of them failed.

        The next one is asked when one fails, and with ``overtake``, as far as that is allowed, when the newest call is
        late, or at once beside a first one that is only tried, to learn whether it is faster by now. The first answer
        wins; calls that are still under way then are cancelled.
        """
        if len(contenders) == 1:
            try:
                return await call(contenders[0])
            except CdirError as error:
                on_failure(contenders[0], error)
                return None
        clock = asyncio.get_running_loop().time
        waiting = deque(contenders)
        running: dict[asyncio.Task[Answer], _Call[Contender]] = {}
        ask = True
        try:
            while True:
                if waiting and (ask or not running):
                    contender = waiting.popleft()
                    late = self.patience(provider_id(contender), size, pressing=bool(running))
                    newest = _Call(contender, clock(), late)
                    running[asyncio.create_task(call(contender))] = newest
                    patience, stuck = late, False
                    ask = (
                        overtake
                        and len(waiting) == len(contenders) - 1
                        and self._tried(provider_id(contender), provider_id(waiting[0]), size)
                    )
                    if ask:
                        continue
                if not running:
                    return None
                left = max(newest.began + patience - clock(), 0.0) if waiting and overtake else None
                done, _ = await asyncio.wait(running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    ended = running.pop(task)
                    try:
                        answer = task.result()
                    except CdirError as error:
                        on_failure(ended.contender, error)
                        ask = True
                    else:
                        self._judge(running.values(), provider_id, size, clock())
                        return answer
                if not done:
                    # a provider that does not answer at all is left, and that is no extra request
                    ask = self._health.suspect(provider_id(newest.contender)) or self.allowed(stuck=stuck)
                    patience, stuck = _STUCK * patience, True
        finally:
            await end_all(running)

    def _tried(self, provider_id: str, following: str, size: int) -> bool:
        """Whether the first call is a try that the one after it may be made beside: who waits should not pay for it."""
        return self._paces.much_slower(provider_id, following, size) and self.allowed()

    def _judge(
        self,
        losers: Iterable[_Call[Contender]],
        provider_id: Callable[[Contender], str],
        size: int,
        now: float,
    ) -> None:
        """Learn from the calls that an answer from elsewhere makes useless, where they were late themselves."""
        for loser in losers:
            seconds = now - loser.began
            if seconds >= loser.late:
                loser_id = provider_id(loser.contender)
                self._paces.took_longer(loser_id, size, seconds)
                self._health.overtaken(loser_id, seconds, loser.late)


async def end_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel what is still under way and see it end."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    if ending:
        await asyncio.gather(*ending, return_exceptions=True)
