"""rclone over the same lines: copies to each provider, and `union` over all three as a mirror."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from timing import Run

from servers.process import free_port
from servers.rclone_s3 import rclone_binary
from wan.network import PEER_BUCKET, EmulatedLine

__all__ = ["Rclone", "RcloneDaemon", "RcloneFailed"]

TUNED = ("--transfers=32", "--checkers=32")


class RcloneFailed(Exception):
    """A call to the daemon failed."""


def environment(scratch: Path, endpoints: Mapping[str, str], keys: tuple[str, str]) -> dict[str, str]:
    """The configuration: a remote for each provider, and ``all``, which is the union of them."""
    (scratch / "rclone.conf").touch()
    found = {**os.environ, "RCLONE_CONFIG": str(scratch / "rclone.conf")}
    for name, endpoint in endpoints.items():
        settings = {"TYPE": "s3", "PROVIDER": "Rclone", "ENDPOINT": endpoint}
        settings |= {"ACCESS_KEY_ID": keys[0], "SECRET_ACCESS_KEY": keys[1]}
        found |= {f"RCLONE_CONFIG_{name}_{key}".upper(): text for key, text in settings.items()}
    upstreams = " ".join(f"{name}:{PEER_BUCKET}" for name in endpoints)
    union = {"TYPE": "union", "UPSTREAMS": upstreams, "CREATE_POLICY": "all", "ACTION_POLICY": "all"}
    return found | {f"RCLONE_CONFIG_ALL_{key}": text for key, text in union.items()}


class Rclone:
    """The commands."""

    def __init__(self, scratch: Path, lines: Iterable[EmulatedLine]) -> None:
        binary = rclone_binary()
        assert binary is not None
        self.binary = binary
        self.lines = list(lines)
        server = self.lines[0].server
        keys = (server.access_key, server.secret_key)
        self.environment = environment(scratch, {line.name: line.endpoint for line in self.lines}, keys)
        self._direct = environment(scratch, {line.name: line.server.endpoint for line in self.lines}, keys)

    def prepare(self, source: Path, folder: str, names: Iterable[str] | None = None) -> None:
        """Have some providers, by default every one, hold ``source``, without the lines."""
        chosen = [line.name for line in self.lines] if names is None else list(names)
        commands = [[self.binary, "copy", str(source), f"{name}:{PEER_BUCKET}/{folder}"] for name in chosen]
        Run([commands], self._direct)()

    def each(self, source: Path, folder: str, *options: str) -> Run:
        """Copy to every provider, at the same time."""
        remotes = [f"{line.name}:{PEER_BUCKET}/{folder}" for line in self.lines]
        return self._run(*(["copy", *options, str(source), remote] for remote in remotes))

    def union(self, source: Path, folder: str, *options: str) -> Run:
        """Copy to the union, which writes to all of its members."""
        return self._run(["copy", *options, str(source), f"all:{folder}"])

    def read_union(self, folder: str, into: Path) -> Run:
        """Copy from the union."""
        return self._run(["copy", f"all:{folder}", str(into)], leaves=[into])

    def between(self, source: str, target: str, folder: str, *options: str) -> Run:
        """Copy from one provider to another."""
        remotes = [f"{name}:{PEER_BUCKET}/{folder}" for name in (source, target)]
        return self._run(["copy", *options, *remotes])

    def _run(self, *commands: list[str], leaves: list[Path] | None = None) -> Run:
        return Run([[[self.binary, *command] for command in commands]], self.environment, leaves or [])


class RcloneDaemon:
    """A running `rclone rcd`: no start of a process, and connections that stay open between calls."""

    def __init__(self, rclone: Rclone) -> None:
        self._rclone = rclone
        self._port = free_port()

    def __enter__(self) -> Self:
        command = [self._rclone.binary, "rcd", "--rc-no-auth", "--rc-addr", f"127.0.0.1:{self._port}"]
        self._process = subprocess.Popen(
            command, env=self._rclone.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.call("rc/noop", {})
                return self
            except RcloneFailed:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def call(self, method: str, given: Mapping[str, Any], *, within: float = 600) -> Any:
        """One call. Raises RcloneFailed."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/{method}",
            json.dumps(given).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=within) as answer:
                return json.load(answer)
        except (OSError, urllib.error.HTTPError) as error:
            raise RcloneFailed(str(error)) from error

    def copy(self, source: str, target: str, *, transfers: int = 4) -> float:
        """Copy a tree; return the seconds."""
        begin = time.perf_counter()
        config = {"Transfers": transfers, "Checkers": max(8, transfers)}
        self.call("sync/copy", {"srcFs": source, "dstFs": target, "_config": config})
        return time.perf_counter() - begin

    def copy_file(self, source: str, target: str, name: str, *, within: float) -> float:
        """Copy one file of one folder to another; return the seconds."""
        begin = time.perf_counter()
        given = {"srcFs": source, "srcRemote": name, "dstFs": target, "dstRemote": name}
        self.call("operations/copyfile", given, within=within)
        return time.perf_counter() - begin
