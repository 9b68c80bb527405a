"""The same calls on catalogs of a thousand entries and of many times as many.

All catalogs of one database run at once, and each round makes every call on every one of them, in shuffled order and
over one open connection each, so that what disturbs the machine disturbs all alike. What is compared is the cost at N
entries over the cost at the fewest: the processor time that all processes of the deployment and of the database spend
on a call, and a command's own process on a command, which other programs hardly change, and the time until the answer.
A figure is void when the first and the second half of the run do not agree on it, and a whole column is when a call
that reads nothing that grows costs more or less there.

``--wide`` is another question: what it takes to list one directory with so many files in it to its end.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from plot import log_plot
from timing import Samples, table

import cdir
from deployments.deployment import Deployment, EmbeddedDeployment, SplitDeployment
from servers.postgres import PostgresServer, postgres_server

PAGE = 1000
MIB = 1 << 20
DIRECTORY = "/bench/000000"
KNOWN = f"{DIRECTORY}/file-000000000.dat"
"""The first directory and the first file that fill_catalog.py makes."""

Lines = Mapping[str, Sequence[tuple[float, float]]]
"""The points of each line of the plot."""

CALIBRATION = "policy (reads nothing that grows)"
NOISE = 1.3
"""How far two figures that should be equal may lie apart."""

BYTES_PER_FILE = 2000
"""On the disk, on either database, with room to make indexes."""

IDLE_SECONDS = 5.0
IDLE_SHARE = 0.1
"""A deployment that spends less than this share of one processor is idle."""
IDLE_WITHIN = 1800.0

_libc = ctypes.CDLL(None, use_errno=True)


class Processor:
    """The processor time that processes have spent, children that they have now included."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._clocks = []
        for process in processes:
            clock = ctypes.c_int()
            if _libc.clock_getcpuclockid(process.pid, ctypes.byref(clock)) == 0:
                self._clocks.append(clock.value)

    def seconds(self) -> float:
        """All of it together; those that have ended meanwhile do not count."""
        total = 0.0
        for clock in self._clocks:
            with suppress(OSError):
                total += time.clock_gettime(clock)
        return total


def _commands_seconds() -> float:
    """The processor time of all commands that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


@dataclass(frozen=True)
class Subject:
    """A running deployment over a catalog of ``count`` files."""

    count: int
    deployment: Deployment
    client: cdir.Client
    database: Sequence[psutil.Process]
    content: Path
    """A file of 1 KiB on this machine."""

    def processor(self) -> Processor:
        """The processor time of all that work for it."""
        return Processor([*self.deployment.processes(), *self.database])

    @property
    def size(self) -> str:
        """The name of its column."""
        return f"{self.count:,}".replace(",", " ")

    def works(self, number: int) -> dict[str, Callable[[], Awaitable[object]]]:
        """The calls; ``number`` is another one each time."""
        client = self.client
        return {
            CALIBRATION: lambda: client.policy("/"),
            f"ls: first {PAGE} of a directory": lambda: self._page(DIRECTORY, recursive=False),
            f"tree: first {PAGE} of all": lambda: self._page("/", recursive=True),
            "stat": lambda: client.stat(KNOWN),
            "search: the only one": lambda: self._search(f"e-{self.count // 2:09d}", 1),
            f"search: first {PAGE} of all": lambda: self._search(".dat", PAGE),
            "status": lambda: client.tree_status("/"),
            "put 1 KiB": lambda: client.write(f"/put/{number}", b"x" * 1024),
            f"cdir ls of {PAGE} files": lambda: self._command("ls", DIRECTORY),
            "cdir stat": lambda: self._command("stat", KNOWN),
            "cdir put of 1 KiB": lambda: self._command("put", str(self.content), f"/put/command-{number}"),
        }

    async def _command(self, *arguments: str) -> None:
        running = self.deployment.begin(*arguments)
        _, said = await asyncio.to_thread(running.communicate)
        assert running.returncode == 0, said.decode()

    async def _page(self, path: str, *, recursive: bool) -> None:
        async for page in self.client.pages(path, recursive=recursive, page_size=PAGE):
            assert page
            return

    async def _search(self, part: str, expected: int) -> None:
        """Go on until everything is found, or the first page is full."""
        found = 0
        async for _ in self.client.search(part, page_size=PAGE):
            found += 1
            if found == PAGE:
                break
        assert found == expected, f"{found} found for {part!r}"


def fill(url: str, count: int, per_directory: int) -> None:
    """Fill the catalog of a deployment that does not run, and say how long it took."""
    program = Path(__file__).with_name("fill_catalog.py")
    options = ["--files", str(count), "--per-directory", str(per_directory), "--provider", f"archive={'0' * 32}"]
    command = [sys.executable, str(program), url, *options]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(said.stdout.strip(), file=sys.stderr)


def sessions(server: PostgresServer | None, url: str) -> list[psutil.Process]:
    """The processes of a PostgreSQL cluster that serve one of its databases."""
    if server is None:
        return []
    name = url.rpartition("/")[2]
    children = psutil.Process(server.pid).children(recursive=True)
    return [process for process in children if name in " ".join(process.cmdline())]


@asynccontextmanager
async def subject(count: int, server: PostgresServer | None, per_directory: int = PAGE) -> AsyncIterator[Subject]:
    """Make, fill and start one deployment: embedded on SQLite, or split on a database of the server."""
    with tempfile.TemporaryDirectory(prefix="cdir-") as name:
        scratch = Path(name)
        if server is None:
            deployment: Deployment = EmbeddedDeployment(scratch / "home")
            url = f"sqlite:///{scratch / 'home' / 'catalog.sqlite3'}"
        else:
            url = await server.create_database()
            deployment = SplitDeployment(scratch / "home", url)
        try:
            deployment.start()
            for provider in ("disk", "archive"):
                deployment.add_provider(provider, "local", {"root": scratch / provider})
            # what was never written lies at a provider that nobody looks at; what is put goes to the other one
            deployment.cdir("provider", "pause", "archive")
            deployment.cdir("mkdir", "/put")
            deployment.cdir("policy", "set", "/put", "--providers", "disk")
            deployment.stop()
            fill(url, count, per_directory)
            content = scratch / "content"
            content.write_bytes(b"x" * 1024)
            deployment.restart()
            environment = deployment.environment()
            async with cdir.connect(deployment.address, environment.get("CDIR_TOKEN")) as client:
                await client.stat("/")
                yield Subject(count, deployment, client, sessions(server, url), content)
        finally:
            deployment.kill()


@dataclass(frozen=True)
class Costs:
    """What the first and the second half of a run found."""

    title: str
    halves: tuple[Samples, Samples]

    def growth(self, work: str, small: Subject, large: Subject) -> tuple[float, bool]:
        """Return the cost for ``large`` over that for ``small``, and whether both halves say so."""
        ratios = [half.median(work, large.size) / half.median(work, small.size) for half in self.halves]
        return statistics.geometric_mean(ratios), max(ratios) <= NOISE * min(ratios)

    def is_quiet(self, small: Subject, large: Subject) -> bool:
        """Say whether nothing else went on at one of the two."""
        return 1 / NOISE <= self.growth(CALIBRATION, small, large)[0] <= NOISE

    def lines(self, subjects: Sequence[Subject]) -> Lines:
        """Return the points of the plot, by call; what is void is left out."""
        small, *others = subjects
        found = {}
        for work in small.works(0):
            grown = [(one, *self.growth(work, small, one)) for one in others if self.is_quiet(small, one)]
            points = [(float(one.count), ratio) for one, ratio, agreed in grown if agreed]
            found[work] = [(float(small.count), 1.0), *points]
        return found

    def report(self, subjects: Sequence[Subject]) -> None:
        """Print the table."""
        small, *others = subjects
        rows = []
        for work in small.works(0):
            row = [
                work,
                f"{1000 * statistics.mean(half.median(work, small.size) for half in self.halves):.2f}",
                f"{100 * max(half.scatter(work, small.size) for half in self.halves):.0f} %",
            ]
            for one in others:
                ratio, agreed = self.growth(work, small, one)
                row.append(f"{ratio:.2f}" if agreed and self.is_quiet(small, one) else f"void ({ratio:.2f})")
            rows.append(row)
        print(f"\n{self.title}: milliseconds at {small.size} files, how far the middle half of them lies apart, and")
        print("how many times as much at more files.\n")
        print(table(["call", f"{small.size}, ms", "scatter", *(one.size for one in others)], rows))


async def idle(subjects: Sequence[Subject]) -> None:
    """Wait until no deployment does anything of its own, such as a snapshot of the catalog that was just filled."""
    restless = list(subjects)
    while restless:
        before = [one.processor().seconds() for one in restless]
        await asyncio.sleep(IDLE_SECONDS)
        spent = [one.processor().seconds() - was for one, was in zip(restless, before, strict=True)]
        restless = [one for one, seconds in zip(restless, spent, strict=True) if seconds > IDLE_SHARE * IDLE_SECONDS]


async def measure(subjects: Sequence[Subject], rounds: int) -> tuple[Costs, Costs]:
    """Make every call on every subject once a round; return processor time and time until the answer."""
    processor, elapsed = Costs("Processor time", (Samples(), Samples())), Costs("Time", (Samples(), Samples()))
    for number in range(-1, rounds):  # the first round only warms up
        calls = [(one, *work) for one in subjects for work in one.works(number).items()]
        random.shuffle(calls)
        clocks = {one.size: one.processor() for one in subjects}
        for one, work, call in calls:
            spent, begin = clocks[one.size].seconds() + _commands_seconds(), time.perf_counter()
            await call()
            seconds = time.perf_counter() - begin
            spent = clocks[one.size].seconds() + _commands_seconds() - spent
            if number >= 0:
                half = number * 2 // rounds
                processor.halves[half].add(work, one.size, spent)
                elapsed.halves[half].add(work, one.size, seconds)
    return processor, elapsed


def catalog_memory(deployment: Deployment) -> int:
    """The most memory that the daemon has had, or the catalog where it is a process of its own, in bytes."""
    peaks = deployment.peak_memory()
    return next((peak for name, peak in peaks.items() if "cdir_catalog" in name), max(peaks.values()))


def report_memory(subjects: Sequence[Subject]) -> None:
    """Print what each process with a catalog has had."""
    print("\nMost resident memory of the process with the catalog, MiB:\n")
    row = [str(catalog_memory(one.deployment) // MIB) for one in subjects]
    print(table([one.size for one in subjects], [row]))


async def list_wide(count: int) -> list[str]:
    """List a directory with ``count`` files on SQLite; return what it took, as cells of a table."""
    async with subject(count, None, per_directory=count) as one:
        async with asyncio.timeout(IDLE_WITHIN):
            await idle([one])
        processor = one.processor()
        before, spent = catalog_memory(one.deployment), processor.seconds()
        running = one.deployment.begin("ls", DIRECTORY)
        assert running.stdout is not None
        lines = await asyncio.to_thread(lambda pipe: sum(1 for _ in pipe), running.stdout)
        _, status, used = await asyncio.to_thread(os.wait4, running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        assert (running.returncode, lines) == (0, count)
        spent = processor.seconds() - spent
        memory = (used.ru_maxrss * 1024, before, catalog_memory(one.deployment))
        return [
            one.size,
            f"{used.ru_utime + used.ru_stime:.1f}",
            f"{spent:.1f}",
            *(str(peak // MIB) for peak in memory),
        ]


async def report_wide(counts: Sequence[int]) -> None:
    """Print what listing a directory to its end takes."""
    rows = [await list_wide(count) for count in counts]
    print("\ncdir ls of one directory with so many files: processor time in seconds, most resident memory in MiB.\n")
    print(table(["files", "command, s", "daemon, s", "command, MiB", "daemon before, MiB", "daemon after, MiB"], rows))


async def compare(database: str, counts: Sequence[int], rounds: int) -> Lines:
    """Measure one database and print the tables; return the points of the plot."""
    async with AsyncExitStack() as exits:
        server = None if database == "SQLite" else await exits.enter_async_context(postgres_server(max_connections=500))
        subjects = [await exits.enter_async_context(subject(count, server)) for count in counts]
        async with asyncio.timeout(IDLE_WITHIN):
            await idle(subjects)
        costs = await measure(subjects, rounds)
        print(f"\n## {database}, medians of {rounds} calls")
        for cost in costs:
            cost.report(subjects)
        report_memory(subjects)
        return costs[0].lines(subjects)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="calls of each; the medians count (default 50)")
    parser.add_argument(
        "--files",
        type=int,
        nargs="+",
        default=[10**power for power in range(3, 7)],
        metavar="COUNT",
        help="how many files the catalogs have; the first is what the others are compared with",
    )
    parser.add_argument("--wide", action="store_true", help="list one directory of so many files each, on SQLite")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], help="only this one")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="also draw size-DATABASE.svg there")
    asked = parser.parse_args()
    counts: list[int] = asked.files
    if shutil.disk_usage(tempfile.gettempdir()).free < BYTES_PER_FILE * sum(counts):
        parser.error(f"the temporary folder has too little room: {BYTES_PER_FILE * sum(counts) >> 30} GiB are needed")
    if asked.wide:
        asyncio.run(report_wide(counts))
        return
    if len(counts) < 2 or asked.rounds < 2:
        parser.error("there is nothing to compare: give --files two counts or more, and --rounds 2 or more")
    for database in ("SQLite", "PostgreSQL"):
        if asked.database in (None, database.lower()):
            lines = asyncio.run(compare(database, counts, asked.rounds))
            if asked.plot:
                title = f"{database}: processor time of a call in a growing catalog"
                plot = log_plot(title, "files", f"times that at {counts[0]} files", lines)
                asked.plot.mkdir(parents=True, exist_ok=True)
                (asked.plot / f"size-{database.lower()}.svg").write_text(plot)


if __name__ == "__main__":
    main()
