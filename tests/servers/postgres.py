"""A private PostgreSQL cluster: no data survives it, and it is tuned to start and commit fast, not to be durable."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from servers.process import ServerProcess, fresh_folder

__all__ = ["PostgresServer", "missing", "postgres_server"]

_SYSTEM_USER = "postgres"


def _binaries() -> Path | None:
    """The folder of the newest server installed."""
    found = sorted(
        (path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        key=lambda folder: int(folder.parent.name) if folder.parent.name.isdigit() else 0,
    )
    if found:
        return found[-1]
    initdb = shutil.which("initdb")
    return Path(initdb).parent if initdb else None


def missing() -> str | None:
    if _binaries() is None:
        return "PostgreSQL's server is missing: apt-get install postgresql"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "setpriv is missing (PostgreSQL does not run as root): apt-get install util-linux"
    return None


def _as_server_user(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return command
    return ["setpriv", f"--reuid={_SYSTEM_USER}", f"--regid={_SYSTEM_USER}", "--clear-groups", *command]


class PostgresServer(ServerProcess):
    """A running cluster."""

    @property
    def url(self) -> str:
        """URL of the cluster's own database, ``postgresql://user@host:port/name``."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://{_SYSTEM_USER}@127.0.0.1:{self.port}/{database}"

    async def create_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"cdir_{uuid.uuid4().hex}"
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()
        return self.url_of(name)


async def _answers(port: int) -> bool:
    try:
        connection = await asyncpg.connect(f"postgresql://{_SYSTEM_USER}@127.0.0.1:{port}/postgres", timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await connection.close()
    return True


@asynccontextmanager
async def postgres_server(*, port: int | None = None, max_connections: int = 200) -> AsyncIterator[PostgresServer]:
    """Start a cluster; any loopback client is the superuser ``postgres`` without a password.

    ``kill`` crashes it and ``restart`` recovers its content on the same port.
    """
    binaries = _binaries()
    if binaries is None:
        raise RuntimeError(missing())
    async with fresh_folder() as folder:
        data = folder / "data"
        if os.geteuid() == 0:
            await asyncio.to_thread(shutil.chown, folder, _SYSTEM_USER)
        initdb = [str(binaries / "initdb"), "-D", str(data), "-U", _SYSTEM_USER, "-A", "trust", "-E", "UTF8"]
        await asyncio.to_thread(
            subprocess.run,
            _as_server_user([*initdb, "--locale=C.UTF-8", "--no-sync"]),
            check=True,
            capture_output=True,
            cwd=folder,
        )
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(folder),
            "max_connections": str(max_connections),
            "shared_buffers": "64MB",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
        }
        arguments = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        server = PostgresServer(
            lambda chosen: _as_server_user(
                [str(binaries / "postgres"), "-D", str(data), "-p", str(chosen), *arguments]
            ),
            folder=folder,
            port=port,
            ready=_answers,
            stop_signal=signal.SIGINT,  # ends open sessions instead of waiting for them
        )
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
