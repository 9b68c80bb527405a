"""A server as a child process: started in a session of its own, waited for, killed, restarted, stopped by pid.

The process is not bound to an event loop, so a fixture of module or session scope can hand it to tests that run in
loops of their own. The calls that wait do so in a thread.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil

__all__ = ["START_DEADLINE", "ServerFailed", "ServerProcess", "accepts_connections", "free_port", "fresh_folder"]

START_DEADLINE = 30.0
"""Seconds until a server must answer; a guard against hanging, far beyond what any of them needs."""

STOP_DEADLINE = 10.0
"""Seconds that a server gets to end by itself before it is killed."""

_STARTS = 3
"""How often a start is tried: a port found free can be taken by somebody else before the server binds it."""


class ServerFailed(Exception):
    """The server ended, or did not answer in time; the message holds the end of its log."""


_PORTS = range(10_000, 32_000)
"""Below the ports that systems give to outgoing connections: such a one could sit on ours between two starts."""


def free_port() -> int:
    """Return a loopback port that was free a moment ago and that no outgoing connection is given."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


@asynccontextmanager
async def fresh_folder() -> AsyncIterator[Path]:
    """A new folder with a short path (Unix sockets in it stay below 100 bytes), removed in the end."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="cdir-"))
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def accepts_connections(at: int | Path) -> bool:
    """Tell whether something listens on the loopback port or the Unix socket ``at``, whose file is there before."""
    try:
        connecting = (
            asyncio.open_unix_connection(at) if isinstance(at, Path) else asyncio.open_connection("127.0.0.1", at)
        )
        _, writer = await connecting
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


class ServerProcess:
    """One server process. ``command`` makes its argument list from the port; ``ready`` asks it whether it answers.

    With ``port`` ``None`` a free one is chosen at the first start and kept for every restart.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        *,
        folder: Path,
        port: int | None = None,
        ready: Callable[[int], Awaitable[bool]] = accepts_connections,
        environment: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        deadline: float = START_DEADLINE,
    ) -> None:
        self._command = command
        self._folder = folder
        self._chosen_port = port
        self._ready = ready
        self._environment = dict(environment or {})
        self._stop_signal = stop_signal
        self._deadline = deadline
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The loopback port; known once the server was started."""
        if self._chosen_port is None:
            raise RuntimeError("the server was not started yet")
        return self._chosen_port

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Pid of the running process."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    @property
    def log(self) -> Path:
        """What the server wrote to its standard streams, over all its starts."""
        return self._folder / "server.log"

    async def start(self) -> None:
        """Start the server and wait until it answers. Raises :class:`ServerFailed`."""
        may_choose = self._chosen_port is None
        for attempt in range(1, _STARTS + 1):
            if may_choose:
                self._chosen_port = free_port()
            self._process = await asyncio.to_thread(self._spawn)
            try:
                await self._wait_ready()
                return
            except ServerFailed:
                await self.kill()
                if attempt == _STARTS:
                    raise
            except BaseException:
                await self.kill()
                raise

    async def stop(self) -> None:
        """Ask the server to end; kill it when it does not within ten seconds. A stopped one stays stopped."""
        await asyncio.to_thread(self._end, self._stop_signal)

    async def kill(self) -> None:
        """Kill the server and its children with SIGKILL, as a crash would."""
        await asyncio.to_thread(self._end, signal.SIGKILL)

    async def restart(self) -> None:
        """Start again on the same port, after :meth:`kill` or :meth:`stop`, or in place of the running one."""
        await self.stop()
        await self.start()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command(self.port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self._environment},
            )

    async def _wait_ready(self) -> None:
        deadline = time.monotonic() + self._deadline
        pause = 0.01
        while time.monotonic() < deadline:
            if not self.running:
                raise ServerFailed(f"the server ended at once; its log ends:\n{self._log_tail()}")
            # somebody else may answer on the port while our process is about to fail: ask the process again afterwards
            if await self._ready(self.port):
                await asyncio.sleep(0)
                if self.running:
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.25)
        raise ServerFailed(f"the server did not answer within {self._deadline:g} s; its log ends:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return self.log.read_bytes()[-2000:].decode(errors="replace")

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            children = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            children = []
        process.send_signal(how)
        if how is signal.SIGKILL:
            _kill(children)
        try:
            process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _kill(children)


def _kill(children: list[psutil.Process]) -> None:
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=STOP_DEADLINE)
