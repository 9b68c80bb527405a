"""One running deployment, and the ``cdir`` command aimed at it."""

from __future__ import annotations

import abc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psutil

from cdir.v1.directory_service_pb2 import GetServerRequest
from cdir.v1.directory_service_pb2_grpc import DirectoryServiceStub
from deployments.commands import run_command
from servers.process import free_port

__all__ = [
    "CommandFailed",
    "Deployment",
    "EmbeddedDeployment",
    "Result",
    "SplitDeployment",
    "eventually",
    "eventually_is",
]

T = TypeVar("T")

HANG_SECONDS = 120.0
"""Guard against hanging; no test expects anything to take nearly so long."""

SERVICES = 4
"""Processes of the split deployment beside the launcher."""

BIN = Path(sys.executable).parent
SECRET_OPTIONS = {"credentials", "key", "passphrase", "password", "secret_key", "session_token"}


class CommandFailed(AssertionError):
    """A command did not end as the test expects."""


@dataclass(frozen=True)
class Result:
    """How one command ended."""

    command: tuple[str, ...]
    exit: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode()

    @property
    def json(self) -> Any:
        """Standard output read as JSON."""
        return json.loads(self.stdout)

    @property
    def error(self) -> str:
        """The one line of the error. Fails the test when it is not exactly one, or looks like a traceback."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        assert len(lines) == 1, f"{self.command} should have said one line, but said:\n{self.stderr}"
        assert "Traceback" not in lines[0]
        return lines[0]


def eventually(check: Callable[[], T], *, within: float = 60.0, pause: float = 0.1) -> T:
    """Call ``check`` until it returns something true, and return that; its last answer or error fails the test."""
    deadline = time.monotonic() + within
    while True:
        answer: T | AssertionError | FileNotFoundError
        try:
            answer = check()
        except (AssertionError, FileNotFoundError) as error:  # the latter: a file went while a folder was looked at
            answer = error
        if answer and not isinstance(answer, Exception):
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s; the last answer was {answer!r}")
        time.sleep(pause)


def eventually_is(expected: object, read: Callable[..., object], *arguments: Any, within: float = 60.0) -> None:
    """Call ``read`` until it returns ``expected``."""
    deadline = time.monotonic() + within
    while True:
        found: object
        try:
            found = read(*arguments)
        except OSError as error:  # a file that is being replaced
            found = error
        if found == expected:
            return
        if time.monotonic() > deadline:
            if isinstance(found, OSError):
                raise found
            assert found == expected, f"not within {within:g} s"
        time.sleep(0.1)


class Deployment(abc.ABC):
    """A deployment over the folder ``home``; it outlives kills and restarts."""

    kind: str

    def __init__(self, home: Path) -> None:
        self.home = home
        self.extra_arguments: list[str] = []
        """Further arguments of the command that starts it."""
        self.crash_at = ""
        """The crash point armed when it is started next, see :mod:`cdir_runtime.crash`."""
        self._process: subprocess.Popen[bytes] | None = None
        self._log = home.with_name(home.name + ".log")

    # -- life ---------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def command(self) -> list[str]:
        """The command that runs the deployment in the foreground."""

    @abc.abstractmethod
    def environment(self) -> Mapping[str, str]:
        """What a client needs in its environment."""

    @property
    @abc.abstractmethod
    def address(self) -> str:
        """Address of the gateway for gRPC."""

    def server_environment(self) -> Mapping[str, str]:
        """What the servers need in their environment."""
        return self.environment()

    def start(self) -> None:
        """Start and wait until it answers."""
        self._spawn()
        eventually(self._answers, within=HANG_SECONDS, pause=0.05)

    def start_or_die(self) -> None:
        """Start with :attr:`crash_at` armed, and wait until it answers or has died."""
        process = self._spawn()
        eventually(lambda: process.poll() is not None or self._serves(), within=HANG_SECONDS, pause=0.02)

    def wait_dead(self) -> None:
        """Wait until it has died by itself, and no process of it is left."""
        assert self._process is not None
        self._process.wait(HANG_SECONDS)
        self._process = None

    def start_expecting_failure(self) -> str:
        """Start, wait for it to give up, and return what it said on standard error."""
        begin = self._log.stat().st_size if self._log.exists() else 0
        process = self._spawn()
        assert process.wait(HANG_SECONDS) != 0
        self._process = None
        return self._log.read_bytes()[begin:].decode()

    def stop(self) -> None:
        """Ask it to end, and wait until it did."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                assert self._process.wait(HANG_SECONDS) == 0, f"it did not end well:\n{self.log_tail()}"
            finally:
                self.kill()

    def kill(self) -> None:
        """Kill every process of it at once, as a power cut would."""
        if self._process is None:
            return
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # it may be ending by itself just now
                process.kill()
        self._process.wait(HANG_SECONDS)
        self._process = None

    def restart(self) -> None:
        """Start again after :meth:`kill` or :meth:`stop`."""
        assert self._process is None
        self.start()

    def processes(self) -> list[psutil.Process]:
        """Its processes, the one started first first."""
        assert self._process is not None
        try:
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def peak_memory(self) -> dict[str, int]:
        """The most resident bytes each of its processes has had, by command line."""
        peaks = {}
        for process in self.processes():
            status = Path(f"/proc/{process.pid}/status").read_text()
            kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
            peaks[" ".join(process.cmdline()[-2:])] = int(kilobytes) * 1024
        return peaks

    def log_tail(self) -> str:
        """The end of what its processes said."""
        return self._log.read_bytes()[-4000:].decode(errors="replace") if self._log.exists() else ""

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.command(), *self.extra_arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**_clean_environment(), **self.server_environment(), "CDIR_CRASH_AT": self.crash_at},
                start_new_session=True,
            )
        return self._process

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise CommandFailedToStart(f"{self.kind} ended at once; its log ends:\n{self.log_tail()}")
        return self._serves()

    def _serves(self) -> bool:
        """Whether its gateway answers, asked without the cost of a command."""
        token = self.environment().get("CDIR_TOKEN")
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        with grpc.insecure_channel(self.address) as channel, suppress(grpc.RpcError):
            DirectoryServiceStub(channel).GetServer(GetServerRequest(), metadata=metadata, timeout=5)
            return True
        return False

    # -- the command line ---------------------------------------------------------------------------------------

    def cdir(
        self,
        *arguments: str | Path,
        expect: int | None = 0,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
        within: float = HANG_SECONDS,
    ) -> Result:
        """Run one command; ``expect`` is its exit code, ``None`` for any. ``prefix`` is a command that runs it.

        ``within`` is how many seconds it may take before it counts as hanging.
        """
        command = (*prefix, str(BIN / "cdir"), *map(str, arguments))
        variables = {**_clean_environment(), **self.environment(), **(environment or {})}
        if prefix:
            done = subprocess.run(command, input=stdin, capture_output=True, timeout=within, env=variables, check=False)
        else:
            done = run_command(command, stdin=stdin, environment=variables, within=within)
        result = Result(tuple(map(str, arguments)), done.returncode, done.stdout, done.stderr.decode())
        if expect is not None and result.exit != expect:
            raise CommandFailed(
                f"cdir {' '.join(result.command)}: exit {result.exit} instead of {expect}\n"
                f"{result.text[-2000:]}\n{result.stderr[-2000:]}\n--- log:\n{self.log_tail()}"
            )
        return result

    def json(self, *arguments: str | Path, expect: int | None = 0) -> Any:
        """Run one command with ``--output json`` and return what it printed."""
        return self.cdir(*arguments, "--output", "json", expect=expect).json

    def begin(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """Start a command and return it running."""
        return subprocess.Popen(
            [str(BIN / "cdir"), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**_clean_environment(), **self.environment()},
        )

    def add_provider(
        self, name: str, kind: str, options: Mapping[str, object], *extra: str, expect: int | None = 0
    ) -> Result:
        """Register a provider; secret options go through the environment, as a person would do it."""
        arguments: list[str] = []
        environment = {}
        for option, value in options.items():
            if option in SECRET_OPTIONS:
                variable = f"TEST_{option.upper()}"
                environment[variable] = str(value)
                arguments += ["--secret", f"{option}=env:{variable}"]
            else:
                text = str(value).lower() if isinstance(value, bool) else str(value)
                arguments += ["--set", f"{option}={text}"]
        return self.cdir(
            "provider", "add", name, "--kind", kind, *arguments, *extra, expect=expect, environment=environment
        )

    def owed(self, path: str = "/") -> int:
        """How many copies are owed at or below ``path``."""
        owed = self.json("status", path)["owed"]
        assert isinstance(owed, int)
        return owed

    def wait_settled(self, path: str = "/", *, within: float = 60.0) -> float:
        """Wait until nothing is owed and every change of providers is worked in; return the seconds it took."""

        def settled() -> bool:
            status = self.json("status", path)
            return status["owed"] == 0 and not status.get("unplaced")

        begin = time.monotonic()
        eventually(settled, within=within)
        return time.monotonic() - begin

    def provider_state(self, name: str) -> str:
        """State of the provider, as ``provider list`` shows it."""
        state = next(row["state"] for row in self.json("provider", "list") if row["name"] == name)
        assert isinstance(state, str)
        return state


class CommandFailedToStart(Exception):
    """The deployment ended while it should have started; waiting longer cannot help."""


def _clean_environment() -> dict[str, str]:
    """The test's environment without what would aim cdir elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("CDIR_", "PYTHONDONTWRITE"))}


class EmbeddedDeployment(Deployment):
    """Everything in one process, on SQLite."""

    kind = "embedded"

    def command(self) -> list[str]:
        return [str(BIN / "cdir"), "up"]

    def environment(self) -> Mapping[str, str]:
        return {"CDIR_HOME": str(self.home)}

    @property
    def address(self) -> str:
        return f"unix:{self.home / 'daemon.sock'}"


class SplitDeployment(Deployment):
    """Every service as its own process, on PostgreSQL; clients have a home of their own."""

    kind = "split"

    def __init__(self, home: Path, database_url: str | None) -> None:
        """``database_url`` of ``None`` leaves the launcher to make a database of its own."""
        super().__init__(home)
        self.database_url = database_url
        self.listen = f"127.0.0.1:{free_port()}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "cdir_split", "--folder", str(self.home), "--listen", self.listen]

    def environment(self) -> Mapping[str, str]:
        token = self.home / "token"
        return {
            "CDIR_HOME": str(self.home / "client"),
            "CDIR_ADDRESS": self.listen,
            "CDIR_TOKEN": token.read_text() if token.exists() else "",
        }

    @property
    def address(self) -> str:
        return self.listen

    def server_environment(self) -> Mapping[str, str]:
        return {"CDIR_DATABASE_URL": self.database_url} if self.database_url else {}

    def _serves(self) -> bool:
        """As for any; the gateway may answer while the replicator, which starts beside it, does not yet."""
        with socket.socket(socket.AF_UNIX) as replicator, suppress(OSError):
            replicator.connect(str(self.home / "run" / "replicator"))
            return super()._serves()
        return False

    def wait_dead(self) -> None:
        """Wait until one service has died, and kill the others: here they need not end well."""
        eventually(lambda: len(self.processes()) <= SERVICES, within=HANG_SECONDS)
        self.kill()
