"""Many small files and one large file onto two S3 servers and back: ``cdir`` beside ``rclone copy``.

Both are timed as commands, start included; cdir's daemon runs, as it does between commands. rclone copies to each
server, at the same time or one after the other, whichever is faster; reading, it reads from one server. It is measured
as it comes and, for comparison, with 16 transfers at once. cdir, as it comes, records a digest of what it puts and
verifies what it gets.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from timing import Run, Samples, table

from deployments.background import Background
from deployments.deployment import BIN, EmbeddedDeployment
from deployments.trees import contents
from servers.rclone_s3 import RcloneS3Server, rclone_binary, rclone_s3_server

KIB = 1024
MIB = 1024 * 1024
BUCKET = "files"
RCLONE_BUCKET = "rclone"
"""Not below what cdir keeps in step: it would take what rclone puts there for new files, and mirror them meanwhile."""
ORDERS = ("both at once", "one by one")
TUNED = ", 16 transfers"
TRANSFERS = {"": [], TUNED: ["--transfers=16", "--checkers=16"]}


def make_small(folder: Path, count: int) -> Path:
    """Files of 10 KiB, a hundred to a directory."""
    for number in range(count):
        path = folder / f"{number // 100:03}" / f"{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.randbytes(10 * KIB))
    return folder


def make_large(folder: Path, count: int, mebibytes: int) -> Path:
    """Files of random bytes."""
    folder.mkdir()
    for number in range(count):
        with (folder / f"large-{number}.bin").open("wb") as file:
            for _ in range(mebibytes):
                file.write(random.randbytes(MIB))
    return folder


def rclone_folder(order: str, label: str, target: str) -> str:
    """Return the bucket and folder of one of rclone's ways to put."""
    return f"{RCLONE_BUCKET}/{order}{label}/{target}"


def make_folders(root: Path, source: Path) -> None:
    """Make the directories of a server's disk to which a source is put, before the server looks at them.

    The server makes them itself, but fails a request now and then when two come for a directory that is not there yet.
    """
    ways = [rclone_folder(order, label, source.name) for order in ORDERS for label in TRANSFERS]
    for folder in (f"{BUCKET}/{source.name}", *ways):
        for directory in (source, *(path for path in source.rglob("*") if path.is_dir())):
            (root / folder / directory.relative_to(source)).mkdir(parents=True, exist_ok=True)


class Contest:
    """Two servers, a deployment that mirrors onto both, and rclone set up for both."""

    def __init__(self, scratch: Path, servers: Mapping[str, RcloneS3Server]) -> None:
        self._scratch = scratch
        self._servers = servers
        self.deployment = EmbeddedDeployment(scratch / "home")
        binary = rclone_binary()
        assert binary is not None
        self._rclone = binary
        (scratch / "rclone.conf").touch()
        self._rclone_environment = {**os.environ, "RCLONE_CONFIG": str(scratch / "rclone.conf")}
        for name, server in servers.items():
            settings = {"TYPE": "s3", "PROVIDER": "Rclone", "ENDPOINT": server.endpoint}
            settings |= {"ACCESS_KEY_ID": server.access_key, "SECRET_ACCESS_KEY": server.secret_key}
            self._rclone_environment |= {f"RCLONE_CONFIG_{name}_{key}".upper(): text for key, text in settings.items()}

    def start(self) -> None:
        """Start the deployment and register both servers."""
        self.deployment.start()
        for name, server in self._servers.items():
            self.deployment.add_provider(name, "s3", server.options(BUCKET))

    def putting(self, source: Path, target: str) -> dict[str, Run]:
        """Everybody who puts ``source``: cdir to ``target``, each run of rclone to a folder of its own.

        The servers cache what they hold, so nothing may be removed behind them to make room for the next run.
        """
        runs = {"cdir": self._cdir("put", str(source), f"/{target}", "--recursive", "--require", "all")}
        for label, options in TRANSFERS.items():
            for order in ORDERS:
                folder = rclone_folder(order, label, target)
                copy = [self._rclone, "copy", *options, str(source)]
                commands = [[*copy, f"{name}:{folder}"] for name in self._servers]
                stages = [commands] if order == "both at once" else [[command] for command in commands]
                runs[f"{order}{label}"] = Run(stages, self._rclone_environment)
        return runs

    def getting(self, target: str) -> dict[str, Run]:
        """Everybody who gets what cdir put to ``target``."""
        into = self._scratch / "got"
        runs = {"cdir": self._cdir("get", f"/{target}", str(into), "--recursive", leaves=[into])}
        remote = f"{next(iter(self._servers))}:{BUCKET}/{target}"
        for label, options in TRANSFERS.items():
            command = [self._rclone, "copy", *options, remote, str(into)]
            runs[f"from one{label}"] = Run([[command]], self._rclone_environment, [into])
        return runs

    def _cdir(self, *arguments: str, leaves: Sequence[Path] = ()) -> Run:
        environment = {**os.environ, **self.deployment.environment()}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed: modules are compiled once
        return Run([[[str(BIN / "cdir"), *arguments, "--quiet"]]], environment, leaves)

    def check(self, source: Path, target: str) -> None:
        """Both servers hold exactly what was put."""
        expected = contents(source)
        for server in self._servers.values():
            assert contents(server.root / BUCKET / target) == expected, "cdir did not store what was put"


def warm_page_cache(scratch: Path, size: int) -> None:
    """Have the kernel hold pages to write files of ``size`` bytes to.

    A virtual machine may get each page from its host when it is first used; whoever comes first would pay for it.
    """
    path = scratch / "warm"
    with path.open("wb") as file:
        for _ in range(-(-size // MIB)):
            file.write(bytes(MIB))
    path.unlink()


def contest(scratch: Path, sources: Mapping[str, Path], samples: Samples) -> dict[str, list[str]]:
    """Run everything once on fresh servers; return who took part in what."""
    took_part: dict[str, list[str]] = {}
    with Background() as background:
        servers = {name: background.enter(rclone_s3_server(root=scratch / name)) for name in ("one", "two")}
        for server in servers.values():
            for source in sources.values():
                make_folders(server.root, source)
        current = Contest(scratch, servers)
        try:
            current.start()
            for title, source in sources.items():
                size = sum(file.stat().st_size for file in source.rglob("*"))
                putting = current.putting(source, source.name)
                warm_page_cache(scratch, 2 * size)
                samples.measure(f"put {title}", putting)
                current.check(source, source.name)
                getting = current.getting(source.name)
                warm_page_cache(scratch, size)
                samples.measure(f"get {title}", getting)
                took_part |= {f"put {title}": list(putting), f"get {title}": list(getting)}
        finally:
            current.deployment.kill()
    return took_part


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each; the median counts (default 5)")
    parser.add_argument("--small", type=int, default=2000, metavar="N", help="number of 10 KiB files (default 2000)")
    parser.add_argument("--large", type=int, default=1024, metavar="MIB", help="size of a large file (default 1024)")
    parser.add_argument("--large-files", type=int, default=1, metavar="N", help="number of them (default 1)")
    parser.add_argument("--folder", type=Path, help="where to work; needs 12 times the large files")
    asked = parser.parse_args()

    scratch = Path(tempfile.mkdtemp(prefix="cdir-", dir=asked.folder))
    samples = Samples()
    works: dict[str, list[str]] = {}
    try:
        sources = {
            f"{asked.small} x 10 KiB": make_small(scratch / "small", asked.small),
            f"{asked.large_files} x {asked.large} MiB": make_large(scratch / "large", asked.large_files, asked.large),
        }
        for turn in range(asked.repeats):
            folder = scratch / str(turn)
            folder.mkdir()
            works = contest(folder, sources, samples)
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)

    rows = []
    for work, names in works.items():
        ours = samples.median(work, "cdir")
        for name in names:
            who = name if name == "cdir" else f"rclone copy {name}"
            seconds = samples.median(work, name)
            rows.append([work, who, f"{seconds:.2f}", samples.spread(work, name), f"{seconds / ours:.2f}"])
    print(f"Medians of {asked.repeats}, in seconds. The ratio is the time over cdir's: above 1, cdir is faster.\n")
    print(table(["work", "who", "seconds", "min to max", "ratio"], rows))


if __name__ == "__main__":
    main()
