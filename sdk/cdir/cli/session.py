"""What every command has at hand: its output, the connection to a gateway, the current virtual directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from cdir.cli.output import Output
from cdir.errors import ProviderUnavailable
from cdir.locations import Home, home
from cdir.paths import WorkspacePath, parse_endpoint, parse_target

if TYPE_CHECKING:
    from cdir.client import Client

__all__ = ["Session", "spelled"]


def spelled(where: WorkspacePath) -> str:
    """Return a path as a person types it, workspace included."""
    return f"@{where.workspace}{where.path}" if where.workspace else where.path


class Session:
    """One run of one command."""

    def __init__(self, output: Output, *, start: bool = True) -> None:
        """``start`` lets a command that needs the daemon and finds none start it."""
        self.output = output
        self.start = start
        self.home: Home = home()

    @property
    def elsewhere(self) -> str | None:
        """The address of a gateway that is not ours to start or stop."""
        return os.environ.get("CDIR_ADDRESS") or None

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect; start the daemon first when there is none and that is allowed."""
        client = await self._connected()
        try:
            yield client
        finally:
            await client.close()

    async def _connected(self) -> Client:
        from cdir.connecting import connect

        if self.elsewhere:
            return await connect()
        if self.home.socket.exists():
            with contextlib.suppress(ProviderUnavailable):
                return await connect(self.home.address)
        if not self.start:
            raise ProviderUnavailable(f"no daemon runs for {self.home.path}; start it with `cdir up --detach`")
        from cdir import daemon

        self.output.say("cdir: starting the daemon in the background (`cdir down` stops it)")
        ready = await daemon.start(self.home)
        return await connect(ready.address)

    # paths

    def current(self) -> str:
        """Return the current virtual directory, ``/`` at first."""
        try:
            return self.home.current.read_text(encoding="utf-8").strip() or "/"
        except OSError:
            return "/"

    def set_current(self, path: str) -> None:
        """Keep the current virtual directory for this user's next commands."""
        self.home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        replacement = self.home.current.with_name(f"{self.home.current.name}.{os.getpid()}")
        replacement.write_text(path + "\n", encoding="utf-8")
        replacement.replace(self.home.current)

    def place(self, text: str) -> str:
        """Return ``PROVIDER:path`` as it is, and a virtual path in full."""
        return text if parse_endpoint(text) is not None else self.path(text)

    def path(self, text: str) -> str:
        """Return a virtual path as typed in full; a trailing slash, which says that a directory is meant, is kept."""
        full = spelled(parse_target(text, self.current()))
        return full if full.endswith("/") or not text.endswith("/") else full + "/"
