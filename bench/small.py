"""Many small files and one large file onto two S3 servers and back: ``cdir`` beside ``rclone copy``.

Both start as a command from nothing; cdir's daemon runs, as it does between commands. rclone has no mirror that waits
for both servers, so it copies to each, at the same time or one after the other, whichever is faster; and it may use
its own number of transfers or 16. Reading, rclone reads from one server. cdir verifies what it reads and keeps a catalog;
rclone does not.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from timing import Samples, table, timed, timed_together

from deployments.background import Background
from deployments.deployment import BIN, EmbeddedDeployment
from deployments.trees import contents
from servers.rclone_s3 import RcloneS3Server, rclone_binary, rclone_s3_server

KIB = 1024
MIB = 1024 * 1024
BUCKET = "files"
TRANSFERS = {"": [], ", 16 transfers": ["--transfers=16", "--checkers=16"]}


def make_small(folder: Path, count: int) -> Path:
    """Files of 10 KiB, a hundred to a directory."""
    for number in range(count):
        path = folder / f"{number // 100:03}" / f"{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.randbytes(10 * KIB))
    return folder


def make_large(folder: Path, mebibytes: int) -> Path:
    """One file of random bytes."""
    folder.mkdir()
    with (folder / "large.bin").open("wb") as file:
        for _ in range(mebibytes):
            file.write(random.randbytes(MIB))
    return folder


class Contest:
    """Two servers, a deployment that mirrors onto both, and rclone set up for both."""

    def __init__(self, scratch: Path, servers: Mapping[str, RcloneS3Server]) -> None:
        self.scratch = scratch
        self.servers = servers
        self.deployment = EmbeddedDeployment(scratch / "home")
        binary = rclone_binary()
        assert binary is not None
        self.rclone = binary
        self.rclone_environment = {**os.environ, "RCLONE_CONFIG": str(scratch / "rclone.conf")}
        for name, server in servers.items():
            prefix = f"RCLONE_CONFIG_{name.upper()}"
            settings = {"TYPE": "s3", "PROVIDER": "Rclone", "ENDPOINT": server.endpoint}
            settings |= {"ACCESS_KEY_ID": server.access_key, "SECRET_ACCESS_KEY": server.secret_key}
            self.rclone_environment |= {f"{prefix}_{key}": value for key, value in settings.items()}
        self.cdir_environment = {**os.environ, **self.deployment.environment()}

    def put_contenders(self, source: Path, target: str) -> dict[str, Callable[[], float]]:
        """Everybody who puts ``source``; each into a folder of its own below ``target``."""
        found: dict[str, Callable[[], float]] = {
            "cdir": lambda: timed(
                [str(BIN / "cdir"), "put", str(source), f"/{target}", "--recursive", "--quiet"], self.cdir_environment
            )
        }
        for label, options in TRANSFERS.items():
            commands = [
                [self.rclone, "copy", *options, str(source), f"{name}:{BUCKET}/rclone/{target}"]
                for name in self.servers
            ]
            found[f"rclone, both at once{label}"] = self._clearing(
                target, lambda commands=commands: timed_together(commands, self.rclone_environment)
            )
            found[f"rclone, one by one{label}"] = self._clearing(
                target, lambda commands=commands: sum(timed(command, self.rclone_environment) for command in commands)
            )
        return found

    def get_contenders(self, target: str) -> dict[str, Callable[[], float]]:
        """Everybody who gets what ``cdir`` put to ``target``."""
        into = self.scratch / "got"
        commands = {
            "cdir": (
                [str(BIN / "cdir"), "get", f"/{target}", str(into), "--recursive", "--quiet"],
                self.cdir_environment,
            )
        }
        name = next(iter(self.servers))
        for label, options in TRANSFERS.items():
            copy = [self.rclone, "copy", *options, f"{name}:{BUCKET}/{target}", str(into)]
            commands[f"rclone{label}"] = (copy, self.rclone_environment)

        def fetch(command: list[str], environment: Mapping[str, str]) -> float:
            seconds = timed(command, environment)
            shutil.rmtree(into)
            return seconds

        return {name: (lambda pair=pair: fetch(*pair)) for name, pair in commands.items()}

    def _clearing(self, target: str, work: Callable[[], float]) -> Callable[[], float]:
        """After ``work``, remove what rclone stored, so that its next run has to send everything again."""

        def run() -> float:
            seconds = work()
            for server in self.servers.values():
                shutil.rmtree(server.root / BUCKET / "rclone" / target)
            return seconds

        return run

    def check(self, source: Path, target: str) -> None:
        """Both servers hold exactly what was put."""
        expected = contents(source)
        for server in self.servers.values():
            assert contents(server.root / BUCKET / target) == expected, "cdir did not store what was put"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each; the median counts (default 5)")
    parser.add_argument("--small", type=int, default=2000, metavar="N", help="number of 10 KiB files (default 2000)")
    parser.add_argument("--large", type=int, default=1024, metavar="MIB", help="size of the large file (default 1024)")
    parser.add_argument(
        "--folder", type=Path, help="where to work; needs about 8 times the large file (default: a temporary one)"
    )
    asked = parser.parse_args()

    scratch = Path(tempfile.mkdtemp(prefix="cdir-", dir=asked.folder))
    samples = Samples()
    works = {}
    try:
        sources = {
            f"{asked.small} x 10 KiB": make_small(scratch / "small", asked.small),
            f"1 x {asked.large} MiB": make_large(scratch / "large", asked.large),
        }
        for turn in range(asked.repeats):
            turn_folder = scratch / str(turn)
            turn_folder.mkdir()
            with Background() as background:
                servers = {name: background.enter(rclone_s3_server()) for name in ("one", "two")}
                for server in servers.values():
                    (server.root / BUCKET).mkdir()
                contest = Contest(turn_folder, servers)
                try:
                    contest.deployment.start()
                    for name, server in servers.items():
                        contest.deployment.add_provider(name, "s3", server.options(BUCKET))
                    for title, source in sources.items():
                        target = source.name
                        putting = contest.put_contenders(source, target)
                        samples.measure(f"put {title}", putting)
                        contest.check(source, target)
                        getting = contest.get_contenders(target)
                        samples.measure(f"get {title}", getting)
                        works |= {f"put {title}": list(putting), f"get {title}": list(getting)}
                finally:
                    contest.deployment.kill()
            shutil.rmtree(turn_folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)

    rows = []
    for work, names in works.items():
        rival = samples.best(work, [name for name in names if name != "cdir"])
        ours, theirs = samples.median(work, "cdir"), samples.median(work, rival)
        rows.append(
            [
                work,
                f"{ours:.2f}",
                samples.spread(work, "cdir"),
                f"{theirs:.2f}",
                samples.spread(work, rival),
                rival,
                f"{theirs / ours:.2f}",
            ]
        )
    print(f"Medians of {asked.repeats} in seconds; the ratio is rclone's time over cdir's, above 1 cdir is faster.\n")
    print(table(["work", "cdir", "min to max", "rclone", "min to max", "rclone at its best", "ratio"], rows))


if __name__ == "__main__":
    main()
