"""The ``cdir`` command, run by a process that has loaded the client already: that is most of a command's time.

What is run is the same down to ``main``, in a process of its own; see :mod:`deployments.command_server`. The script
itself runs commands with a prefix, those of :meth:`Deployment.begin`, those whose variables the interpreter heeds when
it starts, and all of them where ``CDIR_TEST_COLD_COMMANDS`` is set, as ``make slow`` does.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from deployments.command_server import LARGEST_MESSAGE

__all__ = ["run_command"]

_SERVER = Path(__file__).with_name("command_server.py")
_AT_START = ("PYTHON", "LANG", "LC_")
"""Variables that the interpreter heeds when it starts begin so."""


def run_command(
    command: Sequence[str], *, stdin: bytes, environment: Mapping[str, str], within: float
) -> subprocess.CompletedProcess[bytes]:
    """Run ``command``, the path of the script ``cdir`` and its arguments, in this process's folder.

    Raises :class:`subprocess.TimeoutExpired` when it takes longer than ``within`` seconds; it is killed then.
    """
    if sys.platform == "linux" and not os.environ.get("CDIR_TEST_COLD_COMMANDS") and _starts_alike(environment):
        return _commands().run(command, stdin, environment, within)
    return subprocess.run(command, input=stdin, capture_output=True, timeout=within, env=environment, check=False)


def _starts_alike(environment: Mapping[str, str]) -> bool:
    changed = environment.items() ^ os.environ.items()
    return not any(name.startswith(_AT_START) and name != "PYTHONDONTWRITEBYTECODE" for name, _ in changed)


@functools.cache
def _commands() -> _Commands:
    commands = _Commands()
    atexit.register(commands.close)
    return commands


class _Commands:
    """One server for this process. Threads may run commands at the same time."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST_MESSAGE)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-P", str(_SERVER), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def close(self) -> None:
        self._control.close()
        self._server.wait()

    def run(
        self, command: Sequence[str], stdin: bytes, environment: Mapping[str, str], within: float
    ) -> subprocess.CompletedProcess[bytes]:
        wanted = {"command": list(command), "environment": dict(environment), "folder": str(Path.cwd())}
        with ExitStack() as theirs:
            ends = [os.pipe() for _ in range(4)]
            (their_in, our_in), (our_out, their_out), (our_error, their_error), (our_answer, their_answer) = ends
            inherited = (their_in, their_out, their_error, their_answer)
            for fd in inherited:
                theirs.callback(os.close, fd)
            socket.send_fds(self._control, [json.dumps(wanted).encode()], inherited)
        out: list[bytes] = []
        error: list[bytes] = []
        work = [
            threading.Thread(target=_feed, args=(our_in, stdin), daemon=True),
            threading.Thread(target=_drain, args=(our_out, out), daemon=True),
            threading.Thread(target=_drain, args=(our_error, error), daemon=True),
        ]
        for thread in work:
            thread.start()
        with open(our_answer, encoding="ascii") as answer:
            process = int(answer.readline())
            killer = threading.Timer(within, _kill, [process])
            killer.start()
            code = int(answer.readline())
            for thread in work[1:]:
                thread.join(within)
            timed_out = not killer.is_alive() or any(thread.is_alive() for thread in work[1:])
            killer.cancel()
        if timed_out:
            raise subprocess.TimeoutExpired(command, within)
        return subprocess.CompletedProcess(command, code, b"".join(out), b"".join(error))


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _feed(fd: int, data: bytes) -> None:
    with suppress(BrokenPipeError), open(fd, "wb") as file:
        file.write(data)


def _drain(fd: int, into: list[bytes]) -> None:
    with open(fd, "rb") as file:
        into.append(file.read())
