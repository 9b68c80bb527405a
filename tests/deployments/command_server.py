"""Runs ``cdir`` commands as processes that need not start the interpreter and load the client anew.

Run as a program, with the number of a Unix socket that it has inherited. Each message there is one command, see
:mod:`deployments.commands`. It runs in a child of its own, as a forked copy of this process in which nothing has
happened but imports: with arguments, environment, folder and standard streams as asked for, down to the same ``main``
that the script ``cdir`` calls, and to the interpreter's end.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import socket
import sys
import time
from contextlib import suppress
from typing import Any, Final

LARGEST_MESSAGE: Final = 1 << 20
STREAMS: Final = 3
_LOADED: Final = ("asyncio", "cdir.cli.main", "cdir.client", "cdir.connecting", "grpc.aio")


def main() -> None:
    """Serve until the other end of the socket is closed, or become a command."""
    control = socket.socket(fileno=int(sys.argv[1]))
    import cdir.cli.commands
    from cdir.cli.__main__ import main as command

    for name in _LOADED:
        importlib.import_module(name)
    for module in pkgutil.iter_modules(cdir.cli.commands.__path__, "cdir.cli.commands."):
        importlib.import_module(module.name)
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads must not be forked"
    gc.collect()
    gc.freeze()
    while True:
        message, fds, _, _ = socket.recv_fds(control, LARGEST_MESSAGE, STREAMS + 1)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            _keep(fds)
            _dress(json.loads(message))
            command()
            return
        for fd in fds:
            os.close(fd)
        _collect()


def _collect() -> None:
    """Let go of the keepers that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _keep(fds: list[int]) -> None:
    """Return in a further child, with the given standard streams; this one tells its id and exit code, and ends."""
    *streams, answer = fds
    child = os.fork()
    if child == 0:
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        for fd in fds:
            os.close(fd)
        return
    for number in (*streams, *range(STREAMS)):
        os.close(number)
    os.write(answer, f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    os.write(answer, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _dress(wanted: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(wanted["environment"])
    time.tzset()
    os.chdir(wanted["folder"])
    sys.argv[:] = wanted["command"]


if __name__ == "__main__":
    main()
