"""WsgiDAV over a local folder: a WebDAV server close to the standard, with conditions, locks and quota."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from servers.process import ServerProcess, fresh_folder

__all__ = ["WsgiDavServer", "missing", "wsgidav_server"]


def missing() -> str | None:
    for module in ("wsgidav", "cheroot"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is missing: pip install wsgidav cheroot"
    return None


class WsgiDavServer(ServerProcess):
    """A running server. Files below ``root`` are what it serves."""

    user = "cdir"
    password = "cdir-test-secret"

    def __init__(self, *, folder: Path, settable_times: bool, digest: bool) -> None:
        self.root = folder / "files"
        self.root.mkdir()
        self._config = folder / "wsgidav.json"
        self._settable_times = settable_times
        self._digest = digest
        super().__init__(self._command_line, folder=folder)

    def options(self, folder: str) -> Mapping[str, str | int | bool]:
        """Options of a ``webdav`` provider in ``folder`` below ``root``."""
        return {
            "url": f"http://127.0.0.1:{self.port}/{folder}",
            "profile": "wsgidav",
            "user": self.user,
            "password": self.password,
            "auth": "digest" if self._digest else "basic",
        }

    def _command_line(self, port: int) -> list[str]:
        settings = {
            "host": "127.0.0.1",
            "port": port,
            "server": "cheroot",
            "provider_mapping": {"/": str(self.root)},
            "simple_dc": {"user_mapping": {"*": {self.user: {"password": self.password}}}},
            "http_authenticator": {
                "accept_basic": not self._digest,
                "accept_digest": self._digest,
                "default_to_digest": self._digest,
            },
            "mutable_live_props": ["{DAV:}getlastmodified"] if self._settable_times else [],
            "lock_storage": True,
            "property_manager": False,
            "verbose": 1,
            "logging": {"enable": False},
        }
        self._config.write_text(json.dumps(settings))
        return [sys.executable, "-m", "wsgidav.server.server_cli", "--config", str(self._config)]


@asynccontextmanager
async def wsgidav_server(*, settable_times: bool = True, digest: bool = False) -> AsyncIterator[WsgiDavServer]:
    """Start the server. Without ``settable_times`` it keeps no time that a client gives, as it does by default."""
    async with fresh_folder() as folder:
        server = WsgiDavServer(folder=folder, settable_times=settable_times, digest=digest)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
