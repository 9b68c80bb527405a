"""Every fault of a storage service, in every kind of work: it succeeds or fails clearly, and nothing is lost.

A disk and a bucket mirror each other; between cdir and the bucket stands a proxy. Under each fault files are put, got,
listed, deleted, moved, repaired and looked for. Then the fault ends, and everything has to come right by itself.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cdir.checking import Finding
from cdir.client import Client
from cdir.connecting import connect
from cdir.errors import CdirError
from cdir.model import EntryKind, Policy
from cdir.streams import PIECE
from cdir_adapters.layers import BreakerSettings, LayerSettings, RetrySettings, TimeoutSettings
from cdir_catalog.service import open_catalog
from cdir_embedded.composition import compose
from cdir_runtime.server import serve
from cdir_runtime.vault import Vault
from deployments.background import Background
from deployments.fixtures import short_folder
from servers import rclone_s3
from servers.faulty_http import FAULTS, FaultyHttp, faulty_http
from servers.rclone_s3 import RcloneS3Server, rclone_s3_server
from servers.requirement import require

REFUSED = "refused connections"
OPERATIONS = ("put", "get", "list", "delete", "move", "repair", "scan")

RETURNING = ("lies 404",)
"""Faults after which a name that was removed or moved away may be back: the service denied that the object is there, so
that nothing was done about it, and when it shows it again it is a new file. That is a nuisance; nothing is lost."""

BOUND = 15.0
"""Seconds that no work under a fault may take: twice the longest there is, a write that waits for a dead provider."""

HEAL_SECONDS = 60.0
BULK = 40
"""Files beside those worked on, so that some that seem to be missing are no reason to distrust the whole provider."""

HASTY = LayerSettings(
    timeout=TimeoutSettings(call=2.0, progress=2.0, copy=2.0),
    retry=RetrySettings(attempts=2, budget=1.0, first_delay=0.02),
    breaker=BreakerSettings(failures=1_000),
)


@dataclass(frozen=True)
class World:
    """Everything there is: one client, a disk, and a bucket behind a line that can be broken."""

    client: Client
    disk: Path
    bucket: Path
    line: FaultyHttp
    expected: dict[str, bytes] = field(default_factory=dict)
    """Every file that must be there, by path."""
    gone: dict[str, bytes] = field(default_factory=dict)
    """What was removed or moved away, by its path before."""

    async def write(self, path: str, content: bytes) -> None:
        await self.client.write(path, content)
        self.expected[path] = content

    async def files(self, folder: str) -> dict[str, bytes]:
        """Every file below a folder, read through cdir."""
        paths = [entry.path async for entry in self.client.list(folder, recursive=True) if entry.kind is EntryKind.FILE]
        return {path: await self.client.read(path) for path in paths}

    def expected_in(self, folder: str) -> dict[str, bytes]:
        return {path: content for path, content in self.expected.items() if path.startswith(f"{folder}/")}

    def lying(self, root: Path, folder: str) -> dict[str, bytes]:
        """What lies at a provider under the names of the folder's files."""
        place = root / folder[1:]
        return {
            f"/{path.relative_to(root).as_posix()}": path.read_bytes() for path in place.rglob("*") if path.is_file()
        }


@dataclass
class Outcome:
    """How one kind of work went under a fault."""

    seconds: float
    error: CdirError | None = None


@asynccontextmanager
async def opened_world(folder: Path) -> AsyncIterator[World]:
    async with (
        rclone_s3_server(dir_cache="10ms") as server,
        faulty_http(server.port) as line,
        compose(
            open_catalog(f"sqlite:///{folder}/catalog.db"),
            Vault.unkept(),
            local_files=False,
            scan_calls_per_minute=100_000,
            layers=HASTY,
        ) as deployment,
        serve(f"unix:{folder}/socket", deployment.registrars, drain=1.0) as address,
    ):
        client = await connect(address)
        try:
            yield await _prepared(client, folder, server, line)
        finally:
            await client.close()


async def _prepared(client: Client, folder: Path, server: RcloneS3Server, line: FaultyHttp) -> World:
    bucket = server.root / "files"
    bucket.mkdir()
    options = {name: str(value) for name, value in server.options("files").items()}
    secret = options.pop("secret_key")
    await client.providers.add("disk", "local", {"root": str(folder / "disk")})
    await client.providers.add("bucket", "s3", {**options, "endpoint": line.endpoint}, secrets={"secret_key": secret})
    # both or none: an acknowledged write has to be at the bucket too
    await client.set_policy("/", Policy(min_copies=2, prefer=("bucket", "disk")))
    world = World(client, folder / "disk", bucket, line)
    for number in range(BULK):
        await world.write(f"/bulk/{number}", b"bulk %d" % number * 20)
    return world


@pytest.fixture(scope="module")
def world(background: Background) -> Iterator[World]:
    require(rclone_s3)
    for folder in short_folder():
        with background.entered(opened_world(folder)) as made:
            yield made


@pytest.fixture(scope="module", params=[REFUSED, *FAULTS])
def outcomes(request: pytest.FixtureRequest, world: World, background: Background) -> dict[str, Outcome]:
    """Do all the work under one fault, end the fault, and wait until everything is right."""
    found = background.run(_under(world, request.param))
    background.run(_healed(world, request.param))
    return found


def _folder(fault: str) -> str:
    return "/" + re.sub(r"[^a-z0-9]+", "-", fault)


async def _under(world: World, fault: str) -> dict[str, Outcome]:
    client, folder = world.client, _folder(fault)
    content = b"the content of a file that is worked on under a fault, long enough to be cut and flipped " * 20
    await client.make_directory(f"{folder}/repair")
    await client.set_policy(f"{folder}/repair", Policy(copies=1, min_copies=1, providers=("disk",)))
    for name in ("get", "delete", "old name", "repair/x", "scan"):
        await world.write(f"{folder}/{name}", content + name.encode())
    await _settled(world)

    async def put() -> None:
        await world.write(f"{folder}/put", content)
        await world.write(f"{folder}/put in pieces", content * (PIECE // len(content) + 1))

    async def get() -> None:
        assert await client.read(f"{folder}/get") == world.expected[f"{folder}/get"]

    async def list_all() -> None:
        assert {entry.path async for entry in client.list(folder)} >= {f"{folder}/get", f"{folder}/scan"}

    async def delete() -> None:
        await client.remove(f"{folder}/delete")
        world.gone[f"{folder}/delete"] = world.expected.pop(f"{folder}/delete")

    async def move() -> None:
        await client.move(f"{folder}/old name", f"{folder}/new name")
        moved = world.expected.pop(f"{folder}/old name")
        world.gone[f"{folder}/old name"] = world.expected[f"{folder}/new name"] = moved

    async def repair() -> None:
        await client.set_policy(f"{folder}/repair", Policy(copies=2, providers=("disk", "bucket")))
        await client.repair(folder)

    async def scan() -> None:
        try:
            async with asyncio.timeout(1.0):
                await client.scan(folder, provider="bucket", wait=True)
        except TimeoutError:
            return  # it goes on when the provider answers again

    work = dict(zip(OPERATIONS, (put, get, list_all, delete, move, repair, scan), strict=True))
    if fault == REFUSED:
        await world.line.refuse()
    else:
        world.line.break_by(FAULTS[fault])
    try:
        found = {name: await _timed(operation) for name, operation in work.items()}
        assert fault == REFUSED or world.line.met, "no request has met the fault"
    finally:
        await world.line.heal()
    return found


async def _timed(operation: Callable[[], Awaitable[None]]) -> Outcome:
    begin = time.monotonic()
    outcome = Outcome(0.0)
    try:
        await operation()
    except CdirError as error:
        outcome.error = error
    outcome.seconds = time.monotonic() - begin
    return outcome


async def _settled(world: World) -> None:
    async def owed() -> str:
        status = await world.client.tree_status("/")
        return f"{status.owed} copies are owed" if status.owed or status.unplaced else ""

    await _until_nothing(owed)


async def _until_nothing(wrong: Callable[[], Awaitable[str]]) -> None:
    """Ask what is still wrong until nothing is."""
    deadline = time.monotonic() + HEAL_SECONDS
    while found := await wrong():
        assert time.monotonic() < deadline, f"after {HEAL_SECONDS:g} s: {found}"
        await asyncio.sleep(0.05)


async def _healed(world: World, fault: str) -> None:
    """Wait until both providers hold what they should, as scanning and repair bring it about."""
    client, folder = world.client, _folder(fault)

    async def down() -> str:
        await client.repair("/")
        found = await client.providers.list()
        return ", ".join(f"{one.name} is {one.state.value}" for one in found if one.state.value not in ("up", "slow"))

    await _until_nothing(down)

    async def unscanned() -> str:
        # a scan is not waited for while its provider counts as down, which may be so for a moment more
        reports = await client.scan("/", provider="bucket", wait=True)
        return ", ".join(f"the scan of {one.provider}: {one.error}" for one in reports if not one.done)

    await _until_nothing(unscanned)
    await _settled(world)
    if fault in RETURNING:
        found = await world.files(folder)
        world.expected.update({path: content for path, content in world.gone.items() if path in found})

    async def lacking() -> str:
        """What lies at one of the providers and should not, or the other way round; nothing in the end."""
        expected = world.expected_in(folder)
        return ", ".join(
            f"{path} at {root.name}"
            for root in (world.disk, world.bucket)
            for path in dict(expected.items() ^ world.lying(root, folder).items())
        )

    await _until_nothing(lacking)

    async def findings() -> str:
        return ", ".join([step.message async for step in client.check() if isinstance(step, Finding)])

    await _until_nothing(findings)


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_under_a_fault(
    world: World, outcomes: dict[str, Outcome], background: Background, operation: str, request: pytest.FixtureRequest
) -> None:
    outcome = outcomes[operation]
    assert outcome.seconds < BOUND
    if operation == "put":
        if outcome.error is not None:
            assert len(outcome.error.message.splitlines()) == 1
    else:
        # the catalog alone answers, or the disk has what the bucket does not give
        assert outcome.error is None, outcome.error
    folder = _folder(request.node.callspec.params["outcomes"])
    assert background.run(world.files(folder)) == world.expected_in(folder), "lost, changed, or there unasked for"


def test_nothing_was_lost_after_all_of_them(world: World, background: Background) -> None:
    for folder in {f"/{path.split('/')[1]}" for path in world.expected}:
        assert background.run(world.files(folder)) == world.expected_in(folder)
