"""Finding, starting and stopping the embedded daemon of a home.

The daemon is another process, ``python -m cdir_embedded``: nothing of it is imported here. It says on its first line of
output that it is ready, as JSON with its address and process id, and outlives whoever started it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Final

from cdir.connection import Connection
from cdir.errors import DeadlineExceeded, PreconditionFailed, ProviderUnavailable
from cdir.locations import Home
from cdir.model import Server

__all__ = [
    "START_SECONDS",
    "STOP_SECONDS",
    "Ready",
    "command_line",
    "ensure_running",
    "parse_ready",
    "start",
    "stop",
    "who_answers",
]

START_SECONDS: Final = 60.0
"""How long a daemon may take to be ready: the first start makes the catalog, and a crash may have left work."""

STOP_SECONDS: Final = 60.0
"""How long a daemon may take to stop: it lets writes under way finish."""

_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Ready:
    """A daemon that is ready."""

    address: str
    pid: int


def command_line(listen: str | None = None, *, new_catalog: bool = False) -> list[str]:
    """Return the command that runs the daemon; ``new_catalog`` lets it begin an empty catalog where one was.

    Raises :class:`PreconditionFailed` when it is not installed.
    """
    if importlib.util.find_spec("cdir_embedded") is None:
        raise PreconditionFailed(
            "the daemon is not installed here; run `pip install 'cdir[server]'`, or set CDIR_ADDRESS to one elsewhere"
        )
    options = [*(["--listen", listen] if listen else []), *(["--new-catalog"] if new_catalog else [])]
    return [sys.executable, "-P", "-m", "cdir_embedded", *options]


def parse_ready(line: bytes) -> Ready | None:
    """Read the daemon's first line; ``None`` when it is something else."""
    try:
        message = json.loads(line)
        return Ready(str(message["address"]), int(message["pid"]))
    except (ValueError, KeyError, TypeError):
        return None


async def who_answers(home: Home) -> Server | None:
    """Return the daemon of a home, or ``None`` when none answers there."""
    if os.name == "posix" and not home.socket.exists():
        return None
    connection = Connection(home.address)
    try:
        await connection.open()
        return connection.server
    except ProviderUnavailable:
        return None
    finally:
        await connection.close()


async def ensure_running(home: Home) -> bool:
    """Start the daemon unless it answers; returns whether it was started."""
    if await who_answers(home) is not None:
        return False
    await start(home)
    return True


async def start(home: Home, listen: str | None = None, *, new_catalog: bool = False) -> Ready:
    """Start the daemon in the background and wait until it is ready. ``new_catalog`` as for :func:`command_line`.

    Two starts at once are fine: the loser finds the winner's daemon. Raises :class:`ProviderUnavailable` with the last
    line of the daemon's log when it does not come up.
    """
    command = command_line(listen, new_catalog=new_catalog)
    await asyncio.to_thread(home.path.mkdir, mode=0o700, parents=True, exist_ok=True)
    process = await asyncio.to_thread(_spawn, command, home)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            line = await asyncio.to_thread(process.stdout.readline)
    except TimeoutError:
        process.kill()
        await asyncio.to_thread(process.wait)
        raise DeadlineExceeded(f"the daemon is not ready after {START_SECONDS:.0f} s; see {home.log}") from None
    except asyncio.CancelledError:
        process.kill()  # the thread's readline returns, so the loop can close
        raise
    ready = parse_ready(line)
    if ready is not None:
        process.stdout.close()
        # should it end while this process still runs, somebody has to take note of that
        threading.Thread(target=process.wait, name="cdir daemon", daemon=True).start()
        return ready
    await asyncio.to_thread(process.wait)
    process.stdout.close()
    return await _other_winner(home)


def _spawn(command: list[str], home: Home) -> subprocess.Popen[bytes]:
    with home.log.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module; no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "CDIR_HOME": str(home.path)},
            cwd=home.path,
            start_new_session=True,
        )


async def _other_winner(home: Home) -> Ready:
    """Our daemon gave up: because another is starting, which is then awaited, or because of a failure."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        server = await who_answers(home)
        if server is not None:
            return Ready(home.address, server.process_id)
        await asyncio.sleep(_POLL_SECONDS)
    said = await asyncio.to_thread(_last_line, home)
    raise ProviderUnavailable(f"the daemon did not start: {said} (all of it in {home.log})")


def _last_line(home: Home) -> str:
    try:
        with home.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 8192))
            lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError as error:
        return f"its log cannot be read: {error.strerror}"
    return lines[-1].strip() if lines else "it said nothing"


async def stop(home: Home) -> bool:
    """Stop the daemon of a home and wait until it is gone; returns whether there was one.

    It finishes writes under way first. Raises :class:`DeadlineExceeded` when it does not stop.
    """
    server = await who_answers(home)
    if server is None or server.process_id <= 0:
        return False
    try:
        os.kill(server.process_id, signal.SIGTERM)
    except ProcessLookupError:
        return True
    except PermissionError as error:
        raise PreconditionFailed(f"the daemon (process {server.process_id}) belongs to another user") from error
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        if not await asyncio.to_thread(_occupied, home):
            return True
        await asyncio.sleep(_POLL_SECONDS)
    raise DeadlineExceeded(
        f"the daemon (process {server.process_id}) still runs {STOP_SECONDS:.0f} s after it was asked to stop"
    )


def _occupied(home: Home) -> bool:
    """Return whether a daemon holds the home.

    Its lock tells: the kernel gives it up when the process ends, whereas a process id stays until its parent looks.
    """
    import fcntl

    try:
        descriptor = os.open(home.lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
