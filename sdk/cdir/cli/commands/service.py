"""``up`` and ``down``: starting and stopping the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import click

from cdir import daemon
from cdir.cli.command import command
from cdir.cli.exits import Exit
from cdir.cli.session import Session
from cdir.errors import PreconditionFailed, ProviderUnavailable

__all__ = ["down", "up"]


def _refuse_elsewhere(session: Session) -> None:
    if session.elsewhere:
        raise PreconditionFailed(
            f"CDIR_ADDRESS names a gateway at {session.elsewhere}, not this command's to start or stop; unset it first"
        )


@command("up", "cdir up --detach", "cdir up --listen 127.0.0.1:7420", needs_daemon=False)
@click.option("-d", "--detach", is_flag=True, help="Run in the background; return when it is ready.")
@click.option("--listen", metavar="ADDR", help="Listen at host:port as well as on the socket in CDIR_HOME.")
async def up(session: Session, detach: bool, listen: str | None) -> int:
    """Start the daemon. Without --detach it runs until Ctrl-C."""
    _refuse_elsewhere(session)
    running = await daemon.who_answers(session.home)
    if running is not None:
        row = {"address": session.home.address, "pid": running.process_id, "started": False}
        session.output.record(row, [f"cdir runs already (process {running.process_id})"])
        return Exit.DONE
    if detach:
        ready = await daemon.start(session.home, listen)
        row = {"address": ready.address, "pid": ready.pid, "started": True}
        session.output.record(row, [f"cdir is ready at {ready.address} (process {ready.pid}); `cdir down` stops it"])
        return Exit.DONE
    return await _foreground(session, listen)


async def _foreground(session: Session, listen: str | None) -> int:
    session.home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *daemon.command_line(listen),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "CDIR_HOME": str(session.home.path)},
        start_new_session=True,  # Ctrl-C reaches the daemon through us alone, and once
    )
    assert process.stdout is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, _terminate, process)
    try:
        ready = daemon.parse_ready(await process.stdout.readline())
        if ready is None:
            await process.wait()
            raise ProviderUnavailable("the daemon did not start; see what it said above")
        row = {"address": ready.address, "pid": ready.pid, "started": True}
        session.output.record(row, [f"cdir is ready at {ready.address}; Ctrl-C stops it"])
        code = await process.wait()
    finally:
        _terminate(process)
        await process.wait()
    return Exit.DONE if code in {0, -signal.SIGTERM, -signal.SIGINT} else Exit.FAILED


def _terminate(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()


@command("down", "cdir down", needs_daemon=False)
async def down(session: Session) -> None:
    """Stop the daemon. Writes under way finish first."""
    _refuse_elsewhere(session)
    stopped = await daemon.stop(session.home)
    session.output.record({"stopped": stopped}, ["cdir is stopped" if stopped else "cdir was not running"])
