"""GNOME's keyring on a session bus of its own: the Secret Service that the library ``keyring`` talks to on Linux."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from servers.process import ServerProcess, accepts_connections, fresh_folder

__all__ = ["ONLY_SLOW", "SecretService", "missing", "secret_service"]

ONLY_SLOW = True
"""Only slow tests start it, so ``make test`` can do without."""

_PROGRAMS = ("dbus-daemon", "gnome-keyring-daemon")


def missing() -> str | None:
    absent = [name for name in _PROGRAMS if shutil.which(name) is None]
    return f"{', '.join(absent)} missing: apt-get install dbus gnome-keyring" if absent else None


class SecretService:
    """A keyring that was unlocked at its start, as at a login. It keeps what it holds over a restart."""

    def __init__(self, folder: Path) -> None:
        self._bus_socket, self._control = folder / "bus", folder / "keyring"
        password = folder / "password"
        password.write_text("cdir-test-login")
        self._bus = ServerProcess(
            lambda _: ["dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address={self._address}"],
            folder=folder,
            ready=self._bus_is_there,
        )
        options = f"--foreground --unlock --components=secrets --control-directory={self._control}"
        self._keyring = ServerProcess(
            lambda _: ["sh", "-c", f'exec gnome-keyring-daemon {options} < "$0"', str(password)],
            folder=folder,
            ready=self._keyring_is_there,
            environment={**self.environment, "XDG_DATA_HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)},
        )

    @property
    def _address(self) -> str:
        return f"unix:path={self._bus_socket}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a program of this user's session has in its environment."""
        return {"DBUS_SESSION_BUS_ADDRESS": self._address}

    async def start(self) -> None:
        await self._bus.start()
        await self._keyring.start()

    async def stop(self) -> None:
        for process in (self._keyring, self._bus):
            await process.stop()
        self._bus_socket.unlink(missing_ok=True)
        shutil.rmtree(self._control, ignore_errors=True)

    async def _bus_is_there(self, _: int) -> bool:
        return await accepts_connections(self._bus_socket)

    async def _keyring_is_there(self, _: int) -> bool:
        return (self._control / "control").exists()


@asynccontextmanager
async def secret_service() -> AsyncIterator[SecretService]:
    """Start it; it can be stopped and started again."""
    async with fresh_folder() as folder:
        service = SecretService(folder)
        await service.start()
        try:
            yield service
        finally:
            await service.stop()
