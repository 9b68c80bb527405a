"""Running one scenario: users and nature do their steps, then all is calm, then everything has to be right."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import random
import traceback
from collections import Counter, deque
from typing import Any

from cdir.v1 import directory_service_pb2_grpc
from simulation.clock import clock
from simulation.loop import Killed, Stuck, VirtualLoop
from simulation.oracle import Oracle
from simulation.scenario import NATURE, Scenario, Step
from simulation.users import User
from simulation.verdict import check_all
from simulation.world import Trace, World

__all__ = ["Result", "run_scenario"]

_SECOND_DEATH = 300
"""Most callbacks that a process lives which dies while it starts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What a run showed."""

    seed: int
    violations: tuple[str, ...]
    hash: str
    fired: Counter[str]
    """Faults that struck, by kind."""
    seconds: float
    """Virtual time that passed."""
    lines: tuple[str, ...]


def run_scenario(scenario: Scenario, *, keep_trace: bool = False) -> Result:
    """Run a scenario to its end. Everything that happens follows from it."""
    # what earlier runs left goes now; what they keep, such as compiled statements, need not be looked at again
    gc.collect()
    gc.freeze()
    trace = Trace(keep=keep_trace)
    with _undisturbed():
        run = _Run(scenario, trace)
        try:
            run.live()
        finally:
            run.bury()
    fired = sum((store.fired for store in run.world.stores), run.fired)
    return Result(
        scenario.seed, tuple(run.oracle.violations), trace.hash, fired, run.ended - run.began, tuple(trace.lines)
    )


@contextlib.contextmanager
def _undisturbed() -> Any:
    """Keep the garbage collector from closing coroutines of dead processes while others live."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Run:
    def __init__(self, scenario: Scenario, trace: Trace) -> None:
        self.scenario = scenario
        self.oracle = Oracle(scenario.paths)
        self.fired: Counter[str] = Counter()
        self.world = World(scenario, trace)
        self.began = self.ended = clock.seconds
        self._note = trace.note
        self._chance = random.Random(f"deaths {scenario.seed}")
        self._users = {name: User(name, skew, self.oracle, trace.note) for name, skew in sorted(scenario.skews.items())}
        self._todo: dict[str, deque[Step]] = {name: deque() for name in (*self._users, NATURE)}
        for step in scenario.steps:
            self._todo[step.actor].append(step)
        self._graves: list[VirtualLoop] = []
        self._dies_young = False
        self._restart = asyncio.Event()

    def live(self) -> None:
        """Go on from process to process until one has seen everything done and checked."""
        done = False
        while not done:
            loop = VirtualLoop(clock)
            self._graves.append(loop)
            if self._dies_young:
                self._dies_young = False
                loop.kill_after(self._chance.randint(1, _SECOND_DEATH))
            self._restart = asyncio.Event()
            try:
                done = loop.run_until_complete(self._process(loop))
            except Killed:
                self.world.die()
                for task in asyncio.all_tasks(loop):
                    task._log_destroy_pending = False  # type: ignore[attr-defined] # nobody shall hear of the dead
                for user in self._users.values():
                    user.lose_connection()
                self.fired["kill"] += 1
                self._note("killed")
            except Stuck as error:
                self.oracle.violated(str(error))
                done = True
            except Exception as error:
                self.oracle.violated("a defect ended the run:\n" + "".join(traceback.format_exception(error)))
                done = True
        self.ended = clock.seconds

    def bury(self) -> None:
        """Forget the dead processes. What their coroutines do when they are closed reaches nothing any more."""
        self.world.die()
        for loop in self._graves:
            loop.close()
        self._graves.clear()
        self.world.close()

    async def _process(self, loop: VirtualLoop) -> bool:
        """Be one process; return whether there shall be no other."""
        async with self.world.process() as door:
            stub = directory_service_pb2_grpc.DirectoryServiceStub(door)
            async with asyncio.TaskGroup() as actors:
                for user in self._users.values():
                    actors.create_task(self._act(user, stub))
                actors.create_task(self._nature(loop))
            if self._restart.is_set():
                self._note("ending")
                return False
            self._calm()
            await check_all(self.world, self.scenario, self.oracle, door)
            return True

    async def _act(self, user: User, stub: directory_service_pb2_grpc.DirectoryServiceAsyncStub) -> None:
        todo = self._todo[user.name]
        while todo and not self._restart.is_set():
            await user.do(todo.popleft(), stub)

    def _calm(self) -> None:
        self._note("calm")
        for store in self.world.stores:
            store.restore()
            store.calm()

    # --- nature -------------------------------------------------------------------------------------------------------

    async def _nature(self, loop: VirtualLoop) -> None:
        todo = self._todo[NATURE]
        while todo and not self._restart.is_set():
            step = todo.popleft()
            await asyncio.sleep(step.pause)
            self._note(NATURE, step.verb, step.amount)
            match step.verb:
                case "kill":
                    self._dies_young = step.flag
                    loop.kill_after(step.amount)
                case "restart":
                    self.fired["restart"] += 1
                    self._restart.set()
                case "outage":
                    store = self.world.stores[step.amount]
                    store.down_until, store.down_silently = clock.seconds + step.seconds, step.flag
                case "flip":
                    if self.world.stores[self.scenario.liar].flip(step.amount):
                        self.fired["flip"] += 1
                case "empty":
                    self.fired["empty"] += 1
                    store = self.world.stores[self.scenario.liar]
                    store.empty()
                    loop.call_later(step.seconds, store.restore)
