"""``up`` and ``down``: starting and stopping the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

import click

from cdir import daemon
from cdir.cli.command import command
from cdir.cli.exits import Exit
from cdir.cli.provider_options import ask_secret, forget_variables, read_secret
from cdir.cli.session import Session
from cdir.connecting import connect
from cdir.errors import PermissionDenied, PreconditionFailed, ProviderUnavailable
from cdir.vault import VaultProtection

__all__ = ["down", "up"]


def _refuse_elsewhere(session: Session) -> None:
    if session.elsewhere:
        raise PreconditionFailed(
            f"CDIR_ADDRESS names a gateway at {session.elsewhere}, not this command's to start or stop; unset it first"
        )


@command("up", "cdir up --detach", "cdir up --listen 127.0.0.1:7420", needs_daemon=False)
@click.option("-d", "--detach", is_flag=True, help="Run in the background; return when it is ready.")
@click.option("--listen", metavar="ADDR", help="Listen at host:port as well as on the socket in CDIR_HOME.")
@click.option(
    "--passphrase",
    "source",
    metavar="env:VAR|@FILE|-",
    help="Where a vault's passphrase is read; otherwise --detach asks on a terminal.",
)
async def up(session: Session, detach: bool, listen: str | None, source: str | None) -> int:
    """Start the daemon. Without --detach it runs until Ctrl-C.

    Exit code 5 when the vault stayed locked: the daemon runs, and `cdir vault unlock` lets it use its secrets.
    """
    _refuse_elsewhere(session)
    passphrase = None if source is None else read_secret("--passphrase", source)
    forget_variables([source or ""])
    running = await daemon.who_answers(session.home)
    if running is not None:
        row = {"address": session.home.address, "pid": running.process_id, "started": False}
        session.output.record(row, [f"cdir runs already (process {running.process_id})"])
        return await _unlock(session, passphrase)
    if detach:
        ready = await daemon.start(session.home, listen)
        row = {"address": ready.address, "pid": ready.pid, "started": True}
        session.output.record(row, [f"cdir is ready at {ready.address} (process {ready.pid}); `cdir down` stops it"])
        return await _unlock(session, passphrase)
    return await _foreground(session, listen, passphrase)


async def _unlock(session: Session, passphrase: str | None, *, ask: bool = True) -> int:
    """Unlock the vault of the daemon that runs now; say it in one line when it stays locked."""
    async with connect(session.home.address) as client:
        status = await client.vault.status()
        if not status.locked:
            return Exit.DONE
        if passphrase is None and status.protection is VaultProtection.PASSPHRASE:
            if not (ask and sys.stdin.isatty()):
                session.output.complain(f"cdir: {status.locked}")
                return Exit.NOT_ALLOWED
            passphrase = await asyncio.to_thread(ask_secret, "passphrase of the vault", "--passphrase @FILE")
        try:
            await client.vault.unlock(passphrase)
        except PermissionDenied as error:
            session.output.complain(f"cdir: {error.message}")
            return Exit.NOT_ALLOWED
    return Exit.DONE


async def _foreground(session: Session, listen: str | None, passphrase: str | None) -> int:
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
        with contextlib.suppress(ProviderUnavailable):  # it was asked to end meanwhile
            await _unlock(session, passphrase, ask=False)  # Ctrl-C has to end it at any time
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
