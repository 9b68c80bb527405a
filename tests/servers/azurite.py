"""Azurite: Microsoft's own emulator of Azure Blob Storage."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from azure.storage.blob.aio import ContainerClient

from servers.process import ServerProcess, fresh_folder

__all__ = ["AzuriteServer", "azurite_binary", "azurite_server", "missing"]

_INSTALLED = Path(__file__).parents[2] / ".tools/azurite/node_modules/.bin/azurite-blob"


def azurite_binary() -> str | None:
    """Path of the blob service: as ``make setup`` installs it, else on the search path."""
    return str(_INSTALLED) if _INSTALLED.exists() else shutil.which("azurite-blob")


def missing() -> str | None:
    if azurite_binary() is None:
        return "azurite is missing: install Node.js with npm, then make setup"
    return None if shutil.which("node") else "Node.js is missing: apt-get install nodejs"


class AzuriteServer(ServerProcess):
    """A running server that keeps everything in memory: it begins empty, and again so after ``kill``."""

    account = "cdirtest"
    account_key = "Y2Rpci10ZXN0LWtleQ=="

    def __init__(self, *, folder: Path, port: int | None, certificate: tuple[Path, Path] | None) -> None:
        self._scheme = "http" if certificate is None else "https"
        binary = azurite_binary()
        if binary is None:
            raise RuntimeError(missing())
        tls = () if certificate is None else ("--cert", str(certificate[0]), "--key", str(certificate[1]))
        super().__init__(
            lambda chosen: [
                *(binary, "--blobHost", "127.0.0.1", "--blobPort", str(chosen), *tls),
                # the library speaks a newer version of the protocol than the emulator has heard of
                *("--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"),
            ],
            folder=folder,
            port=port,
            environment={"AZURITE_ACCOUNTS": f"{self.account}:{self.account_key}"},
        )

    @property
    def endpoint(self) -> str:
        """URL of the account's blob service."""
        return self.endpoint_at(self.port)

    def endpoint_at(self, port: int) -> str:
        """The same for something that listens elsewhere and passes requests on."""
        return f"{self._scheme}://127.0.0.1:{port}/{self.account}"

    def client(self, container: str) -> ContainerClient:
        """Microsoft's client, to go around an adapter."""
        key = {"account_name": self.account, "account_key": self.account_key}
        # larger requests block the loop, of which aiohttp warns
        size = 512 * 1024
        return ContainerClient(self.endpoint, container, credential=key, max_single_put_size=size, max_block_size=size)

    def options(self, container: str) -> Mapping[str, str | int | bool]:
        """Options of an ``azure`` provider on ``container`` of this server."""
        return {
            "container": container,
            "endpoint": self.endpoint,
            "account": self.account,
            "key": self.account_key,
        }


@asynccontextmanager
async def azurite_server(
    *, port: int | None = None, certificate: tuple[Path, Path] | None = None
) -> AsyncIterator[AzuriteServer]:
    """Start the server; with ``certificate``, the files of a certificate and its key, it speaks TLS."""
    async with fresh_folder() as folder:
        server = AzuriteServer(folder=folder, port=port, certificate=certificate)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
