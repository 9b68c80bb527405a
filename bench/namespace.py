"""Operations on a tree of names, in the manner of mdtest (``-b 6 -I 8 -z 4``): 1 555 directories, 12 440 files.

The files are empty, as mdtest's are, unless ``--size`` says otherwise: no provider is asked to read an empty one.

cdir through its Python client, a call for each operation unless it says otherwise, beside ``rclone rcd`` over a Unix
socket, which works on the same disk without a catalog. JuiceFS, the anchor, cannot be had here; its published figures
for two cores (c5.large, Redis) are 1 163 removals, 1 410 creations, 3 488 reads and 5 023 stats a second.

    python bench/namespace.py [--depth Z] [--repeats N] [--at-once N] [--size BYTES] [--split]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
from timing import Samples, table

import cdir
from cdir.client import Client
from cdir.model import EntryKind
from deployments.deployment import Deployment, EmbeddedDeployment, SplitDeployment
from servers.process import ServerProcess
from servers.rclone_s3 import rclone_binary

BRANCHES: Final = 6
ITEMS: Final = 8

Operation = Callable[[str], Awaitable[object]]


def directories(depth: int) -> list[str]:
    """All directories of the tree, parents first."""
    levels = [
        ["".join(f"/{branch}" for branch in names) for names in itertools.product(range(BRANCHES), repeat=level)]
        for level in range(depth + 1)
    ]
    return [f"tree{name}" for names in levels for name in names]


async def for_each(names: Sequence[str], operation: Operation, at_once: int) -> float:
    """Do one operation on each, so many at once; return the seconds."""
    waiting = iter(names)

    async def worker() -> None:
        for name in waiting:
            await operation(name)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker())
    return time.perf_counter() - begin


async def timed(work: Awaitable[object]) -> float:
    begin = time.perf_counter()
    await work
    return time.perf_counter() - begin


async def with_cdir(
    client: Client, folders: Sequence[str], files: Sequence[str], content: bytes, at_once: int, samples: Samples
) -> None:
    """Everything through cdir's client."""

    async def listed() -> None:
        found = [entry async for entry in client.list("/tree", recursive=True) if entry.kind is EntryKind.FILE]
        assert len(found) == len(files)

    who = "cdir"
    samples.add(
        "make a directory", who, await for_each(folders, lambda name: client.make_directory(f"/{name}"), at_once)
    )
    samples.add("create a file", who, await for_each(files, lambda name: client.write(f"/{name}", content), at_once))
    samples.add("stat", who, await for_each(files, lambda name: client.stat(f"/{name}"), at_once))
    samples.add("stat, by listing", who, await timed(listed()))
    samples.add("read a file", who, await for_each(files, lambda name: client.read(f"/{name}"), at_once))
    samples.add("remove a file", who, await for_each(files, lambda name: client.remove(f"/{name}"), at_once))
    samples.add("remove the rest", who, await timed(client.remove("/tree", recursive=True)))


@asynccontextmanager
async def rclone_daemon(folder: Path) -> AsyncIterator[Callable[[str, dict[str, Any]], Awaitable[Any]]]:
    """Run ``rclone rcd``; yields what calls it."""
    binary = rclone_binary()
    assert binary is not None, "rclone is not installed"
    server = ServerProcess(
        lambda port: [binary, "rcd", "--rc-no-auth", "--rc-addr", f"127.0.0.1:{port}"],
        folder=folder,
        environment={"RCLONE_CONFIG": str(folder / "rclone.conf")},
    )
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:

            async def call(name: str, arguments: dict[str, Any]) -> Any:
                async with session.post(f"/{name}", json=arguments) as answer:
                    assert answer.status == 200, await answer.text()
                    return await answer.json()

            yield call
    finally:
        await server.stop()


async def with_rclone(
    call: Callable[[str, dict[str, Any]], Awaitable[Any]],
    disk: Path,
    folders: Sequence[str],
    files: Sequence[str],
    at_once: int,
    samples: Samples,
) -> None:
    """The same through rclone's daemon, as far as it has such an operation."""

    def operation(name: str) -> Operation:
        return lambda path: call(f"operations/{name}", {"fs": str(disk), "remote": path})

    async def listed() -> None:
        options = {"recurse": True, "filesOnly": True}
        found = await call("operations/list", {"fs": str(disk), "remote": "tree", "opt": options})
        assert len(found["list"]) == len(files), f"{len(found['list'])} of {len(files)}"

    who = "rclone rcd"
    samples.add("make a directory", who, await for_each(folders, operation("mkdir"), at_once))
    for name in files:  # it has no call that creates a file of nothing
        (disk / name).touch()
    samples.add("stat", who, await for_each(files, operation("stat"), at_once))
    samples.add("stat, by listing", who, await timed(listed()))
    samples.add("remove a file", who, await for_each(files, operation("deletefile"), at_once))
    samples.add("remove the rest", who, await timed(operation("purge")("tree")))


async def measure(
    scratch: Path, deployment: Deployment, content: bytes, depth: int, repeats: int, at_once: int
) -> None:
    folders = directories(depth)
    files = [f"{folder}/file.{item}" for folder in folders for item in range(ITEMS)]
    samples = Samples()
    async with AsyncExitStack() as stack:
        token = deployment.environment().get("CDIR_TOKEN")
        client = await stack.enter_async_context(await cdir.connect(deployment.address, token))
        call = await stack.enter_async_context(rclone_daemon(scratch))
        for repeat in range(repeats):
            disk = scratch / f"peer-{repeat}"
            disk.mkdir()
            await with_rclone(call, disk, folders, files, at_once, samples)
            await with_cdir(client, folders, files, content, at_once, samples)
    rows = []
    for work in samples.works():
        count = len(folders) if work in ("make a directory", "remove the rest") else len(files)
        ours = samples.median(work, "cdir")
        row = [work, str(count), f"{count / ours:.0f}"]
        if work in ("create a file", "read a file"):
            rows.append([*row, "", ""])
        else:
            peer = samples.median(work, "rclone rcd")
            rows.append([*row, f"{count / peer:.0f}", f"{peer / ours:.2f}"])
    print(table(["operation", "names", "cdir, a second", "rclone rcd, a second", "ratio"], rows))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=4, help="levels below the first directory (default 4)")
    parser.add_argument("--repeats", type=int, default=3, help="runs; the median counts (default 3)")
    parser.add_argument("--at-once", type=int, default=16, help="operations under way at a time (default 16)")
    parser.add_argument("--size", type=int, default=0, help="bytes of each file (default 0)")
    parser.add_argument(
        "--split", action="store_true", help="a process for each service, the catalog on SQLite (default: one process)"
    )
    asked = parser.parse_args()
    if min(asked.depth, asked.size) < 0 or min(asked.repeats, asked.at_once) < 1:
        parser.error("--depth and --size are 0 or more, --repeats and --at-once at least 1")
    memory = Path("/dev/shm")
    scratch = Path(tempfile.mkdtemp(prefix="cdir-", dir=memory if memory.is_dir() else None))
    home = scratch / "home"
    catalog = f"sqlite:///{scratch / 'catalog.db'}"
    deployment = SplitDeployment(home, catalog) if asked.split else EmbeddedDeployment(home)
    try:
        deployment.start()
        deployment.add_provider("disk", "local", {"root": scratch / "disk"})
        asyncio.run(measure(scratch, deployment, bytes(asked.size), asked.depth, asked.repeats, asked.at_once))
    finally:
        deployment.kill()
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
