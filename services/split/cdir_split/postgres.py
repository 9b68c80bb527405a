"""A private PostgreSQL cluster in a folder, reached through a Unix socket in it and by nobody else."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path
from urllib.parse import quote

from cdir.errors import ConfigInvalid, ProviderUnavailable

__all__ = ["Cluster"]

_SYSTEM_USER = "postgres"
"""Whom the server runs as when we are root, which PostgreSQL refuses to run as."""

_START_SECONDS = 60.0


def _binaries() -> Path:
    """Return the folder of the newest server installed."""
    found = sorted(
        (path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        key=lambda folder: int(folder.parent.name) if folder.parent.name.isdigit() else 0,
    )
    if found:
        return found[-1]
    initdb = shutil.which("initdb")
    if initdb is None:
        raise ConfigInvalid(
            "PostgreSQL's server is not installed; install it (Debian: apt-get install postgresql), "
            "or set CDIR_DATABASE_URL to a database that runs elsewhere"
        )
    return Path(initdb).parent


def _as_server_user(command: list[str]) -> list[str]:
    if os.geteuid() != 0:
        return command
    return ["setpriv", f"--reuid={_SYSTEM_USER}", f"--regid={_SYSTEM_USER}", "--clear-groups", *command]


class Cluster:
    """A cluster in ``folder``, made at the first start and kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._binaries = _binaries()

    @property
    def url(self) -> str:
        """URL of its database, over the Unix socket."""
        return f"postgresql://{_SYSTEM_USER}@/postgres?host={quote(str(self._folder))}"

    async def start(self) -> asyncio.subprocess.Process:
        """Start the server and wait until it answers. Raises :class:`ProviderUnavailable` when it does not."""
        await self._make()
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._folder),
            "max_connections": "200",
            "log_min_messages": "fatal",
            "log_min_error_statement": "fatal",
        }
        arguments = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        process = await asyncio.create_subprocess_exec(
            *_as_server_user([str(self._binaries / "postgres"), "-D", str(self._data), *arguments]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            cwd=self._folder,
        )
        try:
            await self._wait_ready(process)
        except BaseException:
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise
        return process

    @staticmethod
    def stop(process: asyncio.subprocess.Process) -> None:
        """Ask the server to end open sessions and stop."""
        process.send_signal(signal.SIGINT)

    async def _make(self) -> None:
        """Make the cluster unless it is there."""
        if await asyncio.to_thread((self._data / "PG_VERSION").exists):
            return
        await asyncio.to_thread(self._make_folder)
        initdb = [str(self._binaries / "initdb"), "-D", str(self._data), "-U", _SYSTEM_USER, "-E", "UTF8"]
        # Whoever may enter the folder, which is its owner alone, may connect.
        process = await asyncio.create_subprocess_exec(
            *_as_server_user([*initdb, "--locale=C.UTF-8", "-A", "trust"]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._folder,
        )
        _, errors = await process.communicate()
        if process.returncode != 0:
            last = (errors.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
            raise ConfigInvalid(f"PostgreSQL could not make a database in {self._folder}: {last}")

    def _make_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        if os.geteuid() == 0:
            shutil.chown(self._folder, _SYSTEM_USER)

    async def _wait_ready(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(_START_SECONDS):
                while process.returncode is None:
                    probe = await asyncio.create_subprocess_exec(
                        str(self._binaries / "pg_isready"), "-q", "-h", str(self._folder), "-U", _SYSTEM_USER
                    )
                    if await probe.wait() == 0:
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise ProviderUnavailable(
                f"PostgreSQL in {self._folder} did not answer within {_START_SECONDS:g} s"
            ) from None
        raise ProviderUnavailable(f"PostgreSQL in {self._folder} ended at once; what it said stands above")
