"""cdir over the same lines: the command line with its daemon running, and a program that keeps its connection."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from timing import Run

from cdir.blocking import BlockingClient
from cdir.model import Wait
from deployments.deployment import BIN, EmbeddedDeployment
from wan.network import EmulatedLine

__all__ = ["Cdir"]

_ANSWERING = {"up", "slow"}


class Cdir:
    """A daemon that mirrors onto every line, two copies before a put may return; a context manager."""

    def __init__(self, scratch: Path, lines: Iterable[EmulatedLine]) -> None:
        self.deployment = EmbeddedDeployment(scratch / "home")
        self._lines = list(lines)
        self._environment = {**os.environ, **self.deployment.environment()}
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed: modules are compiled once

    def __enter__(self) -> Self:
        self.deployment.start()
        try:
            for line in self._lines:
                self.deployment.add_provider(line.name, "s3", line.options())
            self.deployment.cdir("policy", "set", "/", "--copies", "3", "--min-copies", "2")
            self.client = BlockingClient(self.deployment.address)
        except BaseException:
            self.deployment.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.deployment.kill()

    def command(self, *arguments: str, leaves: Iterable[Path] = ()) -> Run:
        """A command to be timed. One that ends before all copies are made says so with its exit code."""
        accepts = (0, 3) if "min" in arguments else (0,)
        return Run([[[str(BIN / "cdir"), *arguments, "--quiet"]]], self._environment, list(leaves), accepts)

    def put_command(self, source: Path, folder: str, *options: str) -> Run:
        """`cdir put` of a tree."""
        return self.command("put", str(source), f"/{folder}", "--recursive", *options)

    def put(self, source: Path, folder: str, wait: Wait) -> float:
        """The same by a program; return the seconds."""
        begin = time.perf_counter()
        report = self.client.put(source, f"/{folder}", recursive=True, wait=wait)
        seconds = time.perf_counter() - begin
        if report.failed:
            raise RuntimeError(f"cdir put failed: {report.failed[:3]}")
        return seconds

    def read(self, path: str) -> float:
        """Read one file, keeping nothing; return the seconds."""
        begin = time.perf_counter()
        for _ in self.client.open_read(path):
            pass
        return time.perf_counter() - begin

    def recover(self, name: str) -> None:
        """Have a provider that answers again be believed at once, and given what it is owed."""
        list(self.client.providers.check(name))
        self.client.repair("/", provider=name)
        self.settle()

    def settle(self, *, within: float = 120) -> None:
        """Wait until every copy is in place and every provider is up."""
        deadline = time.monotonic() + within
        while True:
            status = self.client.tree_status("/")
            if not status.owed and all(provider.state.value in _ANSWERING for provider in status.providers):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"cdir did not settle within {within:g} s: {status}")
            time.sleep(0.1)
