"""Every process killed at random moments of a write: what was acknowledged is there, and nothing is half there.

CDIR_TEST_KILLS sets how often; CDIR_TEST_SEED repeats a run.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cdir.v1 import directory_service_pb2 as pb
from cdir.v1.directory_service_pb2_grpc import DirectoryServiceStub
from deployments.deployment import Deployment, eventually_is
from deployments.trees import contents, make_files

KILLS = int(os.environ.get("CDIR_TEST_KILLS", "5"))
SEED = int(os.environ.get("CDIR_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
FILES = 120
DONE, OWED, CONFLICT = 0, 3, 6


def steps(tree: Path, target: str) -> Iterator[tuple[int, str, pb.WriteFilesRequest]]:
    """Every file of ``tree`` as one message, with its id and path."""
    for number, path in enumerate(sorted(path for path in tree.rglob("*") if path.is_file())):
        data = path.read_bytes()
        relative = path.relative_to(tree).as_posix()
        opened = pb.WriteOpen(path=f"{target}/{relative}", size=len(data))
        opened.modified.FromNanoseconds(path.stat().st_mtime_ns)
        commit = pb.WriteCommit(size=len(data), sha256=hashlib.sha256(data).digest())
        write = pb.FileWrite(id=number, open=opened, data=data, commit=commit)
        yield number, relative, pb.WriteFilesRequest(writes=[write])


def write_until_killed(deployment: Deployment, tree: Path, target: str, kill_after: int, pause: float) -> set[str]:
    """Write ``tree``, kill the deployment after so many acknowledgements, and return what was acknowledged."""
    sent: dict[int, str] = {}
    acknowledged: set[str] = set()

    def requests() -> Iterator[pb.WriteFilesRequest]:
        for number, relative, request in steps(tree, target):
            sent[number] = relative
            yield request

    token = deployment.environment().get("CDIR_TOKEN")
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    killed = False
    with grpc.insecure_channel(deployment.address) as channel:
        grpc.channel_ready_future(channel).result(60)
        try:
            for response in DirectoryServiceStub(channel).WriteFiles(requests(), metadata=metadata, timeout=120):
                for result in response.results:
                    if result.HasField("failure"):
                        # processes die one after the other: one that is left may say that another cannot be reached
                        assert killed, result.failure
                        assert result.failure.reason == "PROVIDER_UNAVAILABLE", result.failure
                    if result.HasField("stored"):
                        acknowledged.add(sent[result.id])
                if len(acknowledged) >= kill_after and not killed:
                    time.sleep(pause)
                    deployment.kill()
                    killed = True
        except grpc.RpcError:
            if not killed:
                raise
    if not killed:
        deployment.kill()
    return acknowledged


def put_again(deployment: Deployment, tree: Path, target: str) -> int:
    """Exit code of putting ``tree`` once more."""
    return deployment.cdir("put", tree, target, "--recursive", expect=None).exit


@pytest.mark.timeout(180 + 60 * KILLS)
def test_what_was_acknowledged_survives(deployment: Deployment, disks: dict[str, Path], tmp_path: Path) -> None:
    print(f"CDIR_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    for turn in range(KILLS):
        target = f"/turn-{turn}"
        old = make_files(tmp_path / f"{turn}-old", FILES, seed=chance.randrange(2**32))
        new = make_files(tmp_path / f"{turn}-new", FILES, seed=chance.randrange(2**32))
        overwriting = turn % 2 == 1
        if overwriting:
            deployment.json("put", old, target, "--recursive")
        before = contents(old) if overwriting else {}
        after = contents(new)

        acknowledged = write_until_killed(deployment, new, target, chance.randrange(FILES), chance.random() / 50)
        deployment.restart()

        listed = (
            {
                row["path"].removeprefix(f"{target}/")
                for row in deployment.json("ls", target, "--recursive", expect=None if not acknowledged else 0) or []
                if row["kind"] == "file"
            }
            if acknowledged or overwriting
            else set()
        )
        assert acknowledged | set(before) <= listed
        if listed:
            got = tmp_path / f"{turn}-got"
            deployment.json("get", target, got, "--recursive")
            for path, digest in contents(got).items():
                allowed = {after[path]} if path in acknowledged else {after[path], before.get(path)}
                assert digest in allowed, f"{path} is neither what it was nor what was written"

        # Right after the start, writes that were cut off are finished or undone; until then such a path is a conflict,
        # and a copy that nobody has looked at yet is owed.
        again = deployment.cdir("put", new, target, "--recursive", "--output", "json", expect=None)
        assert again.exit in (DONE, OWED, CONFLICT), again.stderr
        assert again.json["skipped"] >= len(acknowledged), "what was acknowledged was sent again"
        eventually_is(0, put_again, deployment, new, target)
        deployment.wait_settled(target)
        for root in disks.values():
            eventually_is(after, contents, root / target[1:])
