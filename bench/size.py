"""The same calls on a small and on a large catalog: the first pages of two listings, a stat, a put.

Each is timed in this process, over one connection to a running daemon, so that neither start-up nor connecting counts.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from timing import Samples, table

import cdir
from deployments.deployment import EmbeddedDeployment

PAGE = 1000
KNOWN = "/bench/000000/file-000000000.dat"
"""The first file that fill_catalog.py makes."""


async def first_page(client: cdir.Client, path: str, *, recursive: bool) -> None:
    """List one page of a directory."""
    async for page in client.pages(path, recursive=recursive, page_size=PAGE):
        assert page
        return


async def measure(deployment: EmbeddedDeployment, size: str, repeats: int, samples: Samples) -> None:
    """Time each call ``repeats`` times."""
    async with cdir.connect(deployment.address) as client:
        names = iter(range(repeats + 1))
        works: dict[str, Callable[[], Awaitable[object]]] = {
            f"list: first {PAGE} of all": lambda: first_page(client, "/", recursive=True),
            f"list: first {PAGE} of a directory": lambda: first_page(client, KNOWN.rpartition("/")[0], recursive=False),
            "stat": lambda: client.stat(KNOWN),
            "put 1 KiB": lambda: client.write(f"/put/{next(names)}", b"x" * 1024),
        }
        for work, call in works.items():
            await call()
            for _ in range(repeats):
                begin = time.perf_counter()
                await call()
                samples.add(work, size, time.perf_counter() - begin)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=51, help="calls of each; the median counts (default 51)")
    parser.add_argument("--small", type=int, default=1_000, help="entries of the small catalog (default 1000)")
    parser.add_argument("--large", type=int, default=1_000_000, help="entries of the large one (default 1000000)")
    asked = parser.parse_args()
    samples = Samples()
    sizes = {f"{count} entries": count for count in (asked.small, asked.large)}
    for size, count in sizes.items():
        scratch = Path(tempfile.mkdtemp(prefix="cdir-"))
        deployment = EmbeddedDeployment(scratch / "home")
        try:
            deployment.start()
            deployment.add_provider("disk", "local", {"root": scratch / "disk"})
            deployment.stop()
            fill = Path(__file__).with_name("fill_catalog.py")
            url = f"sqlite:///{deployment.home / 'catalog.sqlite3'}"
            command = [sys.executable, str(fill), url, "--files", str(count), "--provider", f"disk={'0' * 32}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            deployment.restart()
            asyncio.run(measure(deployment, size, asked.repeats, samples))
        finally:
            deployment.kill()
            shutil.rmtree(scratch, ignore_errors=True)
    small, large = sizes
    rows = []
    for work in samples.works():
        one, other = samples.median(work, small), samples.median(work, large)
        rows.append([work, f"{one * 1000:.2f}", f"{other * 1000:.2f}", f"{other / one:.2f}"])
    print(f"Medians of {asked.repeats}, in milliseconds.\n")
    print(table(["call", small, large, "ratio"], rows))


if __name__ == "__main__":
    main()
