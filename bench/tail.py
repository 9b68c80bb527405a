"""The slowest of many small reads, with and without overtaking slow requests, in virtual time.

Three providers answer after 50, 80 and 100 ms (log-normal); some of the requests, independent of each other, take 20 to
60 times as long. No server, no network, no waiting: the reader runs on a loop whose time jumps, so the figures are the
same on every machine.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass

from timing import table

from unit.transfer.simulated import Link, World, run

KB = 1000
AT_ONCE = 16


@dataclass(frozen=True)
class Outcome:
    seconds: list[float]
    """Of every read, from the fastest to the slowest."""
    extra: float
    """Requests beyond one for each read, as a share of the reads."""

    def at(self, share: float) -> float:
        return self.seconds[min(int(len(self.seconds) * share), len(self.seconds) - 1)]


async def read_all(reads: int, slow: float, providers: int, seed: int) -> Outcome:
    """Read contents of 10 kB that lie at the first so many providers."""
    links = {
        name: Link(round_trip=seconds, spread=0.25, slow_share=slow)
        for name, seconds in (("near", 0.050), ("middle", 0.080), ("far", 0.100))[:providers]
    }
    world = World(links, seed)
    version = world.small("file", 10 * KB)
    seconds: list[float] = []

    async def reader(count: int) -> None:
        for _ in range(count):
            began = world.now()
            await world.open(version, "file").whole()
            seconds.append(world.now() - began)

    async with asyncio.TaskGroup() as readers:
        for _ in range(AT_ONCE):
            readers.create_task(reader(reads // AT_ONCE))
    return Outcome(sorted(seconds), world.requests / len(seconds) - 1)


def compare(reads: int, slow: float, seed: int) -> tuple[Outcome, Outcome]:
    """One provider alone, which leaves nothing to overtake with, and all three."""
    return run(lambda: read_all(reads, slow, 1, seed)), run(lambda: read_all(reads, slow, 3, seed))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=20_000, help="small reads (default 20000)")
    parser.add_argument("--slow", type=float, nargs="+", default=[0.0, 0.01, 0.02, 0.05], help="shares of slow ones")
    parser.add_argument("--seed", type=int, default=1, help="of the simulated chance")
    asked = parser.parse_args()
    rows = []
    for slow in asked.slow:
        alone, three = compare(asked.reads, slow, asked.seed)
        row = [f"{slow:.0%}"]
        for share in (0.5, 0.99, 0.999):
            row += [f"{1000 * alone.at(share):.0f}", f"{1000 * three.at(share):.0f}"]
        rows.append([*row, f"{alone.at(0.999) / three.at(0.999):.1f}", f"{three.extra:.1%}"])
    print(f"{asked.reads} reads of 10 kB, {AT_ONCE} at a time; milliseconds at one provider, and at three.\n")
    heads = [f"{name} {where}" for name in ("median", "p99", "p99.9") for where in ("one", "three")]
    print(table(["slow", *heads, "p99.9 ratio", "extra requests"], rows))


if __name__ == "__main__":
    main()
