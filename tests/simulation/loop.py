"""An event loop without threads, sockets or chance: when nothing is ready, time jumps to the next timer."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context, copy_context
from typing import Any, TypeVar, TypeVarTuple, Unpack

from simulation.clock import VirtualClock

__all__ = ["Killed", "Stuck", "VirtualLoop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_RESOLUTION = 1e-9
_MOST_CALLBACKS_AT_ONCE = 200_000
_MOST_CANCELLED = 50


class Killed(SystemExit):
    """The simulated process has died, right before a callback or at a crash point.

    Of all errors, only this kind leaves the task in which it is raised, and the loop, at once.
    """


class Stuck(Exception):
    """Nothing will ever happen again, or everything happens at the same time for ever."""


class _OrderedTask(asyncio.Task[Any]):
    """A task whose place in a set depends on when it was made, not on where it lies in memory."""

    def __init__(self, number: int, work: Coroutine[Any, Any, Any], loop: VirtualLoop, **options: Any) -> None:
        self._number = number
        super().__init__(work, loop=loop, **options)

    def __hash__(self) -> int:
        return self._number


class _OrderedFuture(asyncio.Future[Any]):
    def __init__(self, number: int, loop: VirtualLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class _Handle(asyncio.Handle):
    """A callback, made without the look at debug mode that takes longer than all the rest."""

    __slots__ = ()

    def __init__(self, callback: Any, args: Any, loop: VirtualLoop, context: Context | None) -> None:
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = copy_context() if context is None else context
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class _Timer(asyncio.TimerHandle):
    __slots__ = ()

    def __init__(self, when: float, callback: Any, args: Any, loop: VirtualLoop, context: Context | None) -> None:
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = copy_context() if context is None else context
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._when = when
        self._scheduled = True

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._callback, self._args = None, ()
            self._loop._timer_handle_cancelled(self)


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks in the order in which they became due, and what was meant for a thread at once."""

    # private parts of the base class, which has no other place for a loop of one's own
    _ready: Any
    _stopping: bool

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock
        self._numbers = itertools.count(1)
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        """A heap by time, then by which was set first."""
        self._cancelled_timers = 0
        self._callbacks = 0
        self._kill_at = 0
        self._since_advance = 0
        """How many callbacks had run when time went on the last time."""
        self.set_task_factory(self._make_task)  # type: ignore[arg-type] # typeshed wants a protocol that it keeps private

    @property
    def callbacks(self) -> int:
        """How many callbacks have run."""
        return self._callbacks

    def kill_after(self, callbacks: int) -> None:
        """Die before the callback that many from now."""
        self._kill_at = self._callbacks + callbacks

    def _make_task(self, _loop: Any, work: Coroutine[Any, Any, Any], **options: Any) -> _OrderedTask:
        return _OrderedTask(next(self._numbers), work, self, **options)

    def create_future(self) -> asyncio.Future[Any]:
        return _OrderedFuture(next(self._numbers), self)

    def time(self) -> float:
        return self._clock.seconds

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._check_closed()  # type: ignore[attr-defined] # a private part of the base class
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self._check_closed()  # type: ignore[attr-defined] # a private part of the base class
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._clock.seconds + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Sweep the heap when most of it is timeouts that did not come."""
        self._cancelled_timers += 1
        if self._cancelled_timers > _MOST_CANCELLED and 2 * self._cancelled_timers > len(self._timers):
            self._timers = [timer for timer in self._timers if not timer[2].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _write_to_self(self) -> None:
        """Nobody else can have work for this loop."""

    def _run_once(self) -> None:
        ready, timers = self._ready, self._timers
        while timers and timers[0][2]._cancelled:  # what cancelled() returns, asked often
            heapq.heappop(timers)
        if not ready and not self._stopping:
            if not timers:
                raise Stuck("nothing is due any more")
            if timers[0][0] > self._clock.seconds:
                self._clock.advance_to(timers[0][0])
                self._since_advance = self._callbacks
        due = self._clock.seconds + _RESOLUTION
        while timers and timers[0][0] <= due:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            self._callbacks += 1
            if self._callbacks == self._kill_at:
                raise Killed
            handle._run()
        if self._callbacks - self._since_advance > _MOST_CALLBACKS_AT_ONCE:
            raise Stuck("time does not go on")
