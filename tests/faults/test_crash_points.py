"""The deployment dies at every named point of every protocol: nothing acknowledged is lost, nothing is half there.

Each case arms one point, gives a command, sees the deployment die, starts it again, and checks what was promised: files
read right, nothing half there at any provider, no debt remains, and ``cdir check`` finds nothing. The embedded
deployment dies once at every point, the split one at some; with CDIR_TEST_CRASH=all (``make crash``) both die at every
point in every protocol that passes it, at the first copy and at later ones.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cdir_runtime.crash import POINTS
from deployments.crashing import CrashWorld, Scenario
from deployments.deployment import Deployment

SERVICES = Path(__file__).parents[2] / "services"
ALL = os.environ.get("CDIR_TEST_CRASH") == "all"

KEPT = b"here from the beginning"


def edit(path: Path, content: bytes, *, age: float = 0.0) -> None:
    """Write a file as another program does, ``age`` seconds ago."""
    path.write_bytes(content)
    when = time.time() - age
    os.utime(path, (when, when))


def lose_a_copy(places: Mapping[str, Path]) -> None:
    (places["two"] / "x").unlink()


def edit_at_a_provider(places: Mapping[str, Path]) -> None:
    edit(places["one"] / "x", b"edited by another program")


def make_at_a_provider(places: Mapping[str, Path]) -> None:
    edit(places["two"] / "new", b"made by another program", age=60)


WRITE = Scenario(
    before={"kept": KEPT},
    after={"kept": KEPT, "x": b"first content"},
    command=("put", "content:first content", "@/x"),
)
WRITE_TOGETHER = Scenario(
    before={"kept": KEPT},
    after={"kept": KEPT, "x": b"first content", "y": b"second", "z": b"third and last"},
    command=("put", "contents:x=first content,y=second,z=third and last", "@", "--recursive"),
)
REPLACE = Scenario(
    before={"kept": KEPT, "x": b"older content"},
    after={"kept": KEPT, "x": b"newer content, and longer"},
    command=("put", "content:newer content, and longer", "@/x"),
    kept={"x": b"older content"},
)
MOVE = Scenario(
    before={"kept": KEPT, "x": b"content"},
    after={"kept": KEPT, "y": b"content"},
    command=("mv", "@/x", "@/y"),
)
MOVE_OVER = Scenario(
    before={"x": b"content that moves", "y": b"content in the way"},
    after={"y": b"content that moves"},
    command=("mv", "--overwrite", "@/x", "@/y"),
)
REMOVE = Scenario(before={"kept": KEPT, "x": b"content"}, after={"kept": KEPT}, command=("rm", "@/x"))
PURGE = Scenario(
    before={"kept": KEPT, "x": b"content"},
    after={"kept": KEPT},
    setup=(("policy", "set", "@", "--keep-versions", "0"),),
    command=("rm", "@/x"),
)
REPAIR = Scenario(
    before={"kept": KEPT, "x": b"content"},
    after={"kept": KEPT, "x": b"content"},
    command=("scan", "@", "--wait"),
    while_down=lose_a_copy,
)
PLACE = Scenario(
    before={"x": b"content", "y": b"other content"},
    after={"x": b"content", "y": b"other content"},
    command=("policy", "set", "@", "--copies", "1", "--providers", "two"),
    holders=("two",),
)
SCAN = Scenario(
    before={"kept": KEPT, "x": b"content"},
    after={"kept": KEPT, "x": b"edited by another program"},
    command=("scan", "@", "--wait"),
    while_down=edit_at_a_provider,
    kept={"x": b"content"},
)
ADOPT = Scenario(
    before={"kept": KEPT},
    after={"kept": KEPT, "new": b"made by another program"},
    command=("scan", "@", "--wait"),
    while_down=make_at_a_provider,
)
EVACUATE = Scenario(
    before={"x": b"content", "y": b"other content", "z": KEPT},
    after={"x": b"content", "y": b"other content", "z": KEPT},
    setup=(("policy", "set", "@", "--copies", "1", "--providers", "two,three"),),
    command=("provider", "evacuate", "three", "--yes", "--wait"),
    holders=("two",),
    copies_stay=True,
    restore=(("provider", "evacuate", "three", "--cancel"),),
)


@dataclass(frozen=True)
class Case:
    """A point, the scenario that passes it, and the service of the split deployment that dies there."""

    point: str
    scenario: Scenario
    service: str
    always: frozenset[str]
    """Kinds of deployment that are killed there every time the tests run."""


def _cases() -> Iterator[tuple[str, Case]]:
    """Cases by name. Those marked ``*`` are always tried on the embedded deployment, with ``!`` on the split one."""
    table = {
        "write": (
            WRITE,
            "gateway: write.before_begin* write.before_copy* write.before_copy:3 write.after_copy write.after_copy:2*"
            " write.after_copy:3 write.before_commit* write.after_commit*;"
            "catalog: write.in_begin* write.begun* write.in_commit*! write.committed*",
        ),
        "write together": (
            WRITE_TOGETHER,
            "gateway: write.before_begin write.before_copies* write.before_copies:3 write.after_copies*!"
            " write.after_copies:2 write.after_copies:3* write.before_commit* write.after_commit;"
            "catalog: write.in_begin write.begun write.in_commit write.committed*",
        ),
        "replace": (
            REPLACE,
            "gateway: replace.before_aside* replace.before_aside:3 replace.after_aside! replace.after_aside:2*"
            " replace.after_record* replace.after_record:3 write.after_copy* write.before_commit write.after_commit;"
            "catalog: write.committed",
        ),
        "move": (
            MOVE,
            "catalog: move.in_commit* move.committed* repair.in_finish* repair.finished*;"
            "replicator: repair.after_claim* repair.before_relocate* repair.after_relocate! repair.after_relocate:3"
            " repair.before_finish*",
        ),
        "move over": (
            MOVE_OVER,
            "catalog: move.committed; replicator: repair.after_relocate:2* repair.after_relocate:3",
        ),
        "remove": (REMOVE, "catalog: remove.in_commit* remove.committed*; replicator: repair.after_relocate:2"),
        "purge": (PURGE, "replicator: repair.before_delete* repair.after_delete*"),
        "repair": (
            REPAIR,
            "replicator: repair.after_claim repair.before_copy* repair.after_copy*! repair.before_finish;"
            "catalog: repair.finished",
        ),
        "place": (PLACE, "replicator: place.committed* repair.after_delete"),
        "scan": (
            SCAN,
            "replicator: scan.before_compare* scan.before_finish* scan.after_finish* repair.after_copy;"
            "catalog: scan.in_compare scan.compared*",
        ),
        "adopt": (ADOPT, "catalog: scan.in_compare* scan.compared; replicator: repair.before_copy"),
        "evacuate": (
            EVACUATE,
            "gateway: evacuate.before_start*; catalog: evacuate.in_start* evacuate.started* evacuate.in_record*"
            " evacuate.recorded*; replicator: evacuate.before_record* repair.after_copy",
        ),
        "recover whole": (replace(WRITE, first="gateway/write.before_commit"), "replicator: recover.before_commit*"),
        "recover together": (
            replace(WRITE_TOGETHER, first="gateway/write.before_commit"),
            "replicator: recover.before_commit*",
        ),
        "recover half": (
            replace(REPLACE, first="gateway/replace.after_aside:2"),
            "replicator: recover.after_claim* recover.before_abort*",
        ),
    }
    for name, (scenario, points) in table.items():
        for part in points.split(";"):
            service, _, listed = part.strip().partition(": ")
            for marked in listed.split():
                point = marked.rstrip("*!")
                always = {kind for kind, mark in (("embedded", "*"), ("split", "!")) if mark in marked}
                yield f"{name}-{point}", Case(point, scenario, service, frozenset(always))


CASES = dict(_cases())


@pytest.fixture(scope="module")
def world(
    deployment: Deployment, disks: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CrashWorld]:
    made = CrashWorld(deployment, disks, tmp_path_factory.mktemp("crash"))
    yield made
    made.check_all()


def test_every_point_is_tried_and_there() -> None:
    source = "".join(path.read_text() for path in SERVICES.rglob("cdir_*/**/*.py") if path.name != "crash.py")
    calls = re.findall(r"crash(?:_point\(|=\()[^)]*\)", source)
    placed = re.findall(r'"([^"]+)"', " ".join(calls))
    assert sorted(placed) == sorted(POINTS), "a point is listed and not placed, placed twice, or placed and not listed"
    assert {case.point.partition(":")[0] for case in CASES.values() if "embedded" in case.always} == set(POINTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_crash(world: CrashWorld, deployment_kind: str, name: str) -> None:
    case = CASES[name]
    if not (ALL or deployment_kind in case.always):
        pytest.skip("capability: a point of the longer run, CDIR_TEST_CRASH=all")
    if deployment_kind == "embedded":
        scenario = replace(case.scenario, first=case.scenario.first.rpartition("/")[2])
        point = case.point
    else:
        scenario, point = case.scenario, f"{case.service}/{case.point}"
    world.run("/" + re.sub(r"[^a-z0-9]+", "-", name), scenario, point)
