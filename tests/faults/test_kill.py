"""Every process killed at random moments of a write: what was acknowledged is there, and nothing is half there.

A tree is put with several kills on the way, so that what recovers from one is met by the next. After each, every file
is read; once a tree is whole, its putting again sends nothing that was acknowledged before, no debt remains, and each
provider holds exactly the tree. CDIR_TEST_KILLS sets how often; CDIR_TEST_SEED repeats a run.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from cdir.v1 import directory_service_pb2 as pb
from cdir.v1.directory_service_pb2_grpc import DirectoryServiceStub
from deployments.crashing import CrashWorld
from deployments.deployment import HANG_SECONDS, Deployment, eventually_is
from deployments.trees import contents, make_files

KILLS = {
    kind: int(os.environ.get("CDIR_TEST_KILLS", default)) for kind, default in (("embedded", "30"), ("split", "10"))
}
"""How often each deployment is killed. To start the split one takes three times as long."""
SEED = int(os.environ.get("CDIR_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
KILLS_OF_A_TREE = 5
FILES = 80
DONE, OWED, CONFLICT = 0, 3, 6

_FILES_OF_A_MESSAGE = 12
"""Most files to a message: how finely acknowledgements come."""


@dataclass
class Putting:
    """A tree that is put with kills on the way."""

    tree: Path
    target: str
    before: dict[str, str]
    """Digests of the files that were at the target, by relative path."""
    after: dict[str, str]
    """Digests of the files of the tree."""
    begun: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)

    def whole(self) -> set[str]:
        """Digests of everything that may lie under a file's name."""
        return {*self.before.values(), *self.after.values()}

    def allowed(self, path: str) -> set[str | None]:
        """Digests of what may be read there now; ``None`` stands for no file."""
        if path in self.acknowledged:
            return {self.after[path]}
        return {self.after[path], self.before.get(path)} if path in self.begun else {self.before.get(path)}


def messages(putting: Putting, paths: list[str], chance: random.Random) -> Iterator[pb.WriteFilesRequest]:
    """The files at ``paths``, some to a message; ids are their places in the list."""
    number = 0
    while number < len(paths):
        request = pb.WriteFilesRequest()
        for path in paths[number : number + chance.randint(1, _FILES_OF_A_MESSAGE)]:
            file = putting.tree / path
            data = file.read_bytes()
            opened = pb.WriteOpen(path=f"{putting.target}/{path}", size=len(data))
            opened.modified.FromNanoseconds(file.stat().st_mtime_ns)
            commit = pb.WriteCommit(size=len(data), sha256=hashlib.sha256(data).digest())
            request.writes.append(pb.FileWrite(id=number, open=opened, data=data, commit=commit))
            putting.begun.add(path)
            number += 1
        yield request


def write_until_killed(deployment: Deployment, putting: Putting, kills_left: int, chance: random.Random) -> None:
    """Write what is not acknowledged yet, and kill the deployment within the share of it that this kill has."""
    paths = sorted(putting.after.keys() - putting.acknowledged)
    chance.shuffle(paths)
    again = frozenset(putting.begun)
    kill_after = chance.randint(0, len(paths) // kills_left)
    pause = chance.random() / 50
    token = deployment.environment().get("CDIR_TOKEN")
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    answered = 0
    killed = False
    with grpc.insecure_channel(deployment.address) as channel:
        try:
            calls = DirectoryServiceStub(channel)
            for response in calls.WriteFiles(messages(putting, paths, chance), metadata=metadata, timeout=120):
                for result in response.results:
                    path = paths[result.id]
                    if result.HasField("stored"):
                        putting.acknowledged.add(path)
                    if result.HasField("failure") and not (path in again and result.failure.reason == "CONFLICT"):
                        # processes die one after the other: one that is left may say that another cannot be reached;
                        # a path whose write was cut off by the last kill is a conflict until that is finished or undone
                        assert killed, result.failure
                        assert result.failure.reason == "PROVIDER_UNAVAILABLE", result.failure
                    answered += 1
                if answered >= kill_after and not killed:
                    time.sleep(pause)
                    deployment.kill()
                    killed = True
        except grpc.RpcError:
            if not killed:
                raise
    if not killed:
        deployment.kill()


def require_promises(world: CrashWorld, putting: Putting) -> None:
    """Every file reads as what was acknowledged, or where nothing was, as one whole content or none."""
    found = {path: hashlib.sha256(content).hexdigest() for path, content in world.files(putting.target).items()}
    assert found.keys() <= putting.after.keys()
    for path in putting.after:
        assert found.get(path) in putting.allowed(path), f"{path} is neither what it was nor what was written"


def require_nothing_half(roots: dict[str, Path], putting: Putting) -> None:
    """What lies under a file's own name at a provider is a whole content, whenever the processes died."""
    for name, root in roots.items():
        place = root / putting.target[1:]
        for path, digest in contents(place).items() if place.exists() else ():
            assert digest in putting.whole(), f"{path} at {name} is half there"


def show_owed(deployment: Deployment, target: str) -> None:
    """Print why copies are still owed, for whoever reads of the failure."""
    print(deployment.log_tail())
    for entry in deployment.json("ls", target, "--recursive"):
        if entry["owed"]:
            print(deployment.cdir("status", entry["path"], expect=None).text)


def finish(deployment: Deployment, putting: Putting) -> None:
    """Put the tree once more: only what is missing is sent, and then everything is as if nobody had been killed."""
    # Right after the start, writes that were cut off are finished or undone; until then such a path is a conflict,
    # and a copy that nobody has looked at yet is owed.
    again = deployment.cdir("put", putting.tree, putting.target, "--recursive", "--output", "json", expect=None)
    assert again.exit in (DONE, OWED, CONFLICT), again.stderr
    assert again.json["skipped"] >= len(putting.acknowledged), "what was acknowledged was sent again"
    if again.exit != DONE:

        def put_again() -> int:
            return deployment.cdir("put", putting.tree, putting.target, "--recursive", expect=None).exit

        try:
            eventually_is(DONE, put_again, within=HANG_SECONDS)
        except AssertionError:
            show_owed(deployment, putting.target)
            raise
    putting.acknowledged |= putting.after.keys()


@pytest.mark.timeout(180 + 60 * max(KILLS.values()))
def test_what_was_acknowledged_survives(deployment: Deployment, disks: dict[str, Path], tmp_path: Path) -> None:
    print(f"CDIR_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    world = CrashWorld(deployment, disks, tmp_path)
    puttings: list[Putting] = []
    kills = KILLS[deployment.kind]
    for kill in range(kills):
        turn, kills_before = divmod(kill, KILLS_OF_A_TREE)
        if kills_before == 0:
            target = f"/turn-{turn}"
            old = make_files(tmp_path / f"{turn}-old", FILES, seed=chance.randrange(2**32))
            new = make_files(tmp_path / f"{turn}-new", FILES, seed=chance.randrange(2**32))
            overwriting = turn % 2 == 1
            if overwriting:
                deployment.json("put", old, target, "--recursive")
            puttings.append(Putting(new, target, contents(old) if overwriting else {}, contents(new)))
        putting = puttings[-1]
        write_until_killed(deployment, putting, KILLS_OF_A_TREE - kills_before, chance)
        require_nothing_half(disks, putting)
        deployment.restart()
        require_promises(world, putting)
        if kills_before == KILLS_OF_A_TREE - 1 or kill == kills - 1:
            finish(deployment, putting)
            world.settle()
            require_promises(world, putting)
            for root in disks.values():
                eventually_is(putting.after, contents, root / putting.target[1:])
    for putting in puttings:
        require_promises(world, putting)
    assert deployment.json("check", "/")["clean"]
    print(f"{kills} kills, {sum(len(one.acknowledged) for one in puttings)} files acknowledged, 0 lost")
