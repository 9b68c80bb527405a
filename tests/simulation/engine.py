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
from cdir_runtime import crash
from simulation.clock import NANO, clock
from simulation.loop import Killed, Stuck, VirtualLoop
from simulation.oracle import Oracle, Visit
from simulation.scenario import MEDDLER, NATURE, OTHERS, Scenario, Step
from simulation.users import User, content_of_others
from simulation.verdict import check_all, come_to_rest
from simulation.world import Trace, World

__all__ = ["Result", "run_scenario"]

_SECOND_DEATH = 300
"""Most callbacks that a process lives which dies while it starts."""

_TROUBLED_SECONDS = 20.0
"""How long something goes wrong after others have come: a busy directory is looked at within that time."""


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
        # a point that an earlier scenario has armed and not reached kills nobody here
        crash.disarm()
        crash.die = self._die
        self.world = World(scenario, trace)
        self.began = self.ended = clock.seconds
        self._note = trace.note
        self._chance = random.Random(f"deaths {scenario.seed}")
        self._users = {name: User(name, skew, self.oracle, trace.note) for name, skew in sorted(scenario.skews.items())}
        self._todo: dict[str, deque[Step]] = {name: deque() for name in (*self._users, NATURE, MEDDLER)}
        self._visits = [step for step in scenario.steps if step.actor == OTHERS]
        for step in scenario.steps:
            if step.actor != OTHERS:
                self._todo[step.actor].append(step)
        self._graves: list[VirtualLoop] = []
        self._dies_young = False
        self._died = False
        """Whether the process has died at a crash point."""
        self._troubled = False
        """Something goes wrong while cdir takes in what others did."""
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
            self._died = False
            try:
                done = loop.run_until_complete(self._process(loop))
            except Killed:
                self._mourn(loop)
            except Stuck as error:
                self.oracle.violated(str(error))
                done = True
            except Exception as error:
                if self._died:  # who saw the death first may have ended the process by what it saw
                    self._mourn(loop)
                    continue
                self.oracle.violated("a defect ended the run:\n" + "".join(traceback.format_exception(error)))
                done = True
        self.ended = clock.seconds

    def _mourn(self, loop: VirtualLoop) -> None:
        """See that nothing of the process that has died on a loop reaches anything any more."""
        self.world.die()
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined] # nobody shall hear of the dead
        for user in self._users.values():
            user.lose_connection()
        self.fired["kill"] += 1
        self._note("killed")

    def _die(self) -> None:
        """Die at a crash point: what the code on the way out does reaches nothing any more."""
        crash.disarm()
        self._died = True
        self.fired["crash"] += 1
        self.world.die()
        raise Killed

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
                actors.create_task(self._meddle())
            if self._restart.is_set():
                self._note("ending")
                return False
            self._calm()
            if self._visits and await come_to_rest(self.world, self.scenario, self.oracle, door):
                self._visit()
                await self._take_in(loop)
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

    async def _meddle(self) -> None:
        """Change what one provider holds while users are at work."""
        todo = self._todo[MEDDLER]
        while todo and not self._restart.is_set():
            step = todo.popleft()
            await asyncio.sleep(step.pause)
            self._put_or_erase(step)
            if step.verb == "outside":
                self.oracle.meddle(step.path, content_of_others(step))

    # --- others -------------------------------------------------------------------------------------------------------

    def _visit(self) -> None:
        """Let others change what the providers hold. They come once, whatever becomes of the process then."""
        visits, self._visits = self._visits, []
        put: dict[str, list[Visit]] = {}
        for step in visits:
            at = self._put_or_erase(step)
            if step.verb == "erase":
                continue
            keeps = self.world.stores[step.amount].traits.keeps_modified
            put.setdefault(step.path, []).append(
                Visit(content_of_others(step), min(at, clock.wall_ns()) if keeps else None)
            )
        for path, found in put.items():
            self.oracle.visit(path, found)
        self._troubled = any(step.flag for step in visits)

    def _put_or_erase(self, step: Step) -> int:
        """Do at a provider what another program does; return the modified time that it gives an object."""
        store = self.world.stores[step.amount]
        key = step.path.removeprefix("/")
        self._note(step.actor, step.verb, step.path, store.name, step.seconds)
        at = clock.wall_ns() + round(step.seconds * NANO)
        if step.verb == "erase":
            self.fired["erased"] += key in store.objects
            store.delete(key)
        else:
            self.fired["outside"] += 1
            store.put(key, content_of_others(step), at)
        return at

    async def _take_in(self, loop: VirtualLoop) -> None:
        """Let what others did be found, in some scenarios while the providers misbehave and the process dies."""
        if not self._troubled:
            return
        for store, plan in zip(self.world.stores, self.scenario.providers, strict=True):
            store.rates = plan.rates
        if self._chance.random() < 0.5:
            loop.kill_after(self._chance.randint(1, 400))
        await asyncio.sleep(_TROUBLED_SECONDS)

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
                case "crash":
                    crash.arm("", {crash.VARIABLE: f"{step.path}:{step.amount}"})
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
