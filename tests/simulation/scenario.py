"""A scenario: what the providers are like, what users do and what goes wrong, all of it drawn from one seed."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping

from cdir_runtime.crash import POINTS
from simulation.provider import Traits

__all__ = ["DIRECTORIES", "MEDDLER", "NATURE", "OTHERS", "PATHS", "ProviderPlan", "Scenario", "Step", "make_scenario"]

PATHS = ("/a", "/b.txt", "/d/c", "/d/e.txt", "/f/c", "/f/g")
DIRECTORIES = ("/d", "/f")

NATURE = "nature"
"""The actor that switches providers off and kills the process."""

OTHERS = "others"
"""Programs that change objects at providers behind cdir's back, once the users are done and all is at rest."""

MEDDLER = "meddler"
"""Another program that changes objects at one provider while users are at work."""

_PATHS = (2, 4)
_STEPS = (3, 8)
"""Least and most. Many small scenarios find more in the same time than few large ones, and say more when they do."""

_TROUBLE_SHARE = 0.2
"""Which part of the steps is nature's."""

_OTHERS_SHARE = 0.25
"""In which part of the scenarios without a lying provider others come; such a scenario takes twice as long."""

_MEDDLER_SHARE = 0.25
"""In which part of those where no others come afterwards somebody may meddle meanwhile."""

_CRASH_SHARE = 0.2
"""In which part of all scenarios the process dies at a crash point."""

_KEEP_SHARE = 0.4
"""Which part of the writes wants to be kept beside its path when it conflicts."""

_LAYOUTS: tuple[tuple[Traits, ...], ...] = (
    (Traits(), Traits(move=False)),
    (Traits(), Traits(move=False, keeps_modified=False), Traits(checksums=False, etags=False, precision=1.0)),
    (Traits(precision=2.0, ordered=False), Traits(), Traits(move=False, ordered=False)),
    (
        Traits(checksums=False, etags=False, precision=1.0, ordered=False),
        Traits(keeps_modified=False),
        Traits(move=False),
    ),
    (Traits(), Traits(move=False), Traits(precision=2.0, checksums=False), Traits(keeps_modified=False)),
)


@dataclasses.dataclass(frozen=True, slots=True)
class ProviderPlan:
    """One provider: its nature, its clock's error in seconds, and how often calls to it meet which fault."""

    traits: Traits
    skew: float
    latency: float
    rates: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What one actor does, ``pause`` seconds after its step before."""

    number: int
    actor: str
    verb: str
    pause: float
    path: str = ""
    target: str = ""
    amount: int = 0
    """Bytes to write, a provider's number, or callbacks until death; what the verb makes of it."""
    seconds: float = 0.0
    """How long it takes; of an object that others put, how much newer than now its modified time is."""
    flag: bool = False
    keep: bool = False
    """A write is kept as a conflicting copy when it may not take its path."""

    def __str__(self) -> str:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        given = [
            f"{name}={getattr(self, name)!r}"
            for name in ("path", "target", "amount", "seconds", "flag", "keep")
            if getattr(self, name) != defaults[name]
        ]
        return f"{self.number:3} {self.actor:7} +{self.pause:.3f} {self.verb} {' '.join(given)}"


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that a run depends on. Dropping steps leaves the others as they are."""

    seed: int
    providers: tuple[ProviderPlan, ...]
    skews: Mapping[str, float]
    """Errors of the users' clocks in seconds."""
    liar: int
    """Number of the one provider that may lose data; -1 for none."""
    paths: tuple[str, ...]
    """Names that users use; the fewer there are, the more often they meet at one."""
    steps: tuple[Step, ...]

    def without(self, numbers: frozenset[int]) -> Scenario:
        return dataclasses.replace(self, steps=tuple(step for step in self.steps if step.number not in numbers))


def make_scenario(
    seed: int, steps: int = 0, *, swaps: bool = False, rivals: bool = False, meddler: bool = False
) -> Scenario:
    """Draw a scenario of that many steps; 0: a few, as many as the seed says. With ``swaps``, the root of one that lies
    may be another, empty one for a while, and take what is written meanwhile with it. With ``rivals``, others put
    different contents under one name at several providers at once. With ``meddler``, another program changes objects at
    one provider while users are at work."""
    chance = random.Random(f"scenario {seed}")
    layout = chance.choice(_LAYOUTS)
    liar = chance.randrange(len(layout)) if chance.random() < 0.5 else -1
    users = ("ada", "ben", "cyd")[: chance.choice((2, 3))]
    skews = {user: chance.choice((0.0, 0.0, 86400.0, -86400.0, chance.uniform(-5, 5))) for user in users}
    # an old content that comes back is known by its older time, so these must be true where that may happen
    echoes = chance.random() < 0.3
    if echoes:
        skews = dict.fromkeys(users, 0.0)
    paths = tuple(sorted(chance.sample(PATHS, chance.randint(*_PATHS))))
    draw = _Drawing(chance, paths, users, len(layout), liar, swaps)
    drawn = [draw.step(number) for number in range(1, (steps or chance.randint(*_STEPS)) + 1)]
    # a chance of their own: whatever is drawn here, users and nature do the same as before
    chance_of_others = random.Random(f"others {seed}")
    drawn = [
        dataclasses.replace(step, keep=chance_of_others.random() < _KEEP_SHARE)
        if step.verb in {"put", "edit"}
        else step
        for step in drawn
    ]
    others_come = chance_of_others.random() < _OTHERS_SHARE or rivals
    if liar < 0 and others_come:
        drawn += _visits(chance_of_others, paths, len(layout), len(drawn) + 1, rivals=rivals)
    elif liar < 0 and meddler:
        drawn += _meddling(random.Random(f"meddler {seed}"), paths, len(layout), len(drawn) + 1)
    drawn += _crashes(random.Random(f"crashes {seed}"), len(drawn) + 1)
    return Scenario(
        seed=seed,
        providers=tuple(
            _provider(chance, traits, lies=number == liar, echoes=echoes and traits.keeps_modified)
            for number, traits in enumerate(layout)
        ),
        skews=skews,
        liar=liar,
        paths=paths,
        steps=tuple(drawn),
    )


def _visits(chance: random.Random, paths: tuple[str, ...], providers: int, first: int, *, rivals: bool) -> list[Step]:
    """Draw what others do at some paths, each at one provider.

    ``rivals`` come to several providers at once, but never to all: one keeps what cdir has acknowledged. Where
    something goes wrong meanwhile there are none: of two different objects under one name, one is replaced when six
    attempts to copy the other there come before the scan that would have taken it up.
    """
    troubled = chance.random() < 0.3
    visited = [
        (path, provider)
        for path in chance.sample(paths, chance.randint(1, len(paths)))
        for provider in chance.sample(
            range(providers), 1 if troubled or not rivals else chance.randint(1, providers - 1)
        )
    ]
    return [
        Step(
            number,
            OTHERS,
            "erase" if chance.random() < 0.2 else "outside",
            0.0,
            path=path,
            amount=provider,
            seconds=chance.choice((-5000.0, -50.0, 0.0, 5000.0)),
            flag=troubled,
        )
        for number, (path, provider) in enumerate(visited, first)
    ]


def _meddling(chance: random.Random, paths: tuple[str, ...], providers: int, first: int) -> list[Step]:
    """Draw what another program does at one provider while users are at work; often nothing."""
    if chance.random() >= _MEDDLER_SHARE:
        return []
    provider = chance.randrange(providers)
    return [
        Step(
            number,
            MEDDLER,
            "erase" if chance.random() < 0.3 else "outside",
            chance.choice((chance.uniform(0, 0.05), chance.uniform(0, 1.0), chance.uniform(0, 5.0))),
            path=chance.choice(paths),
            amount=provider,
            seconds=chance.choice((-5000.0, -50.0, 0.0, 5000.0)),
        )
        for number in range(first, first + chance.randint(1, 3))
    ]


def _crashes(chance: random.Random, number: int) -> list[Step]:
    """Draw at which crash point the process dies; mostly at none. The point is the step's path."""
    if chance.random() >= _CRASH_SHARE:
        return []
    point = chance.choice(sorted(point for point in POINTS if not point.startswith("evacuate.")))
    return [Step(number, NATURE, "crash", chance.uniform(0, 0.5), path=point, amount=chance.choice((1, 1, 2, 3)))]


def _provider(chance: random.Random, traits: Traits, *, lies: bool, echoes: bool) -> ProviderPlan:
    level = chance.choice((0.0, 0.02, 0.06, 0.15))
    # waiting for what never answers takes minutes of virtual time, in which everything else looks around
    silence = chance.random() < 0.1
    rates = {
        "refuse": level,
        "reset": level,
        "twice": level / 2,
        "slow": level / 4,
        "hang": level / 8 if silence else 0.0,
        "limit": level / 4,
        "garble": 3 * level if lies else 0.0,
        "break": 3 * level,
    }
    if lies:
        rates |= {"lost": level, "omit": 3 * level}
        if echoes:
            rates["echo"] = level
    return ProviderPlan(
        traits=traits,
        skew=chance.choice((0.0, 86400.0, -86400.0, chance.uniform(-5, 5))),
        latency=chance.choice((0.001, 0.01, 0.05)),
        rates=rates,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Drawing:
    """What steps are drawn from."""

    chance: random.Random
    paths: tuple[str, ...]
    users: tuple[str, ...]
    providers: int
    liar: int
    swaps: bool

    def step(self, number: int) -> Step:
        chance = self.chance
        if chance.random() < _TROUBLE_SHARE:
            return self._trouble(number)
        user = chance.choice(self.users)
        pause = chance.choice((0.0, chance.uniform(0, 0.05), chance.uniform(0, 1.0)))
        path = chance.choice(self.paths)
        roll = chance.random()
        if roll < 0.35:
            return Step(number, user, "put", pause, path=path, amount=self._size(), flag=chance.random() < 0.5)
        if roll < 0.50:
            return Step(number, user, "edit", pause, path=path, amount=self._size(), flag=chance.random() < 0.5)
        if roll < 0.67:
            return Step(number, user, "read", pause, path=path)
        if roll < 0.82:
            other = chance.choice([name for name in self.paths if name != path])
            return Step(number, user, "move", pause, path=path, target=other, flag=chance.random() < 0.6)
        if roll < 0.85:
            source, target = chance.sample(DIRECTORIES, 2)
            return Step(number, user, "move", pause, path=source, target=target)
        if roll < 0.88:
            return Step(number, user, "remove", pause, path=chance.choice(DIRECTORIES), flag=True)
        return Step(number, user, "remove", pause, path=path)

    def _size(self) -> int:
        return 5_000_000 if self.chance.random() < 0.002 else self.chance.choice((0, 24, 24, 300, 5_000))

    def _trouble(self, number: int) -> Step:
        chance = self.chance
        pause = chance.uniform(0, 0.5)
        roll = chance.random()
        provider = chance.randrange(self.providers)
        if roll < 0.35:
            return Step(number, NATURE, "kill", pause, amount=chance.randint(1, 400), flag=chance.random() < 0.2)
        if roll < 0.45:
            return Step(number, NATURE, "restart", pause)
        if roll < 0.80 or self.liar < 0:
            seconds = chance.choice((0.2, 2.0, 6.0))
            return Step(number, NATURE, "outage", pause, amount=provider, seconds=seconds, flag=chance.random() < 0.05)
        if roll < 0.90:
            return Step(number, NATURE, "flip", pause, amount=chance.randrange(1 << 30))
        seconds = chance.choice((0.1, 1.0, 5.0))
        if not self.swaps:
            return Step(number, NATURE, "outage", pause, amount=self.liar, seconds=seconds)
        return Step(number, NATURE, "empty", pause, seconds=seconds)
