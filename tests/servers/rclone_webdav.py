"""``rclone serve webdav`` over a local folder: a fast WebDAV server that ignores most conditions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from servers.process import ServerProcess, fresh_folder
from servers.rclone_s3 import missing, rclone_binary

__all__ = ["RcloneWebdavServer", "missing", "rclone_webdav_server"]


class RcloneWebdavServer(ServerProcess):
    """A running server. Files below ``root`` are what it serves."""

    user = "cdir"
    password = "cdir-test-secret"

    def __init__(self, *, folder: Path, certificate: Path | None) -> None:
        self.root = folder / "files"
        self.root.mkdir()
        self._scheme = "https" if certificate else "http"
        binary = rclone_binary()
        if binary is None:
            raise RuntimeError(missing())
        tls = ["--cert", str(certificate), "--key", str(certificate)] if certificate else []
        super().__init__(
            lambda chosen: [
                *(binary, "serve", "webdav", "--addr", f"127.0.0.1:{chosen}", *tls),
                # tests change files behind the server's back; its cache of folders must not hide that
                *("--dir-cache-time", "1ms", str(self.root)),
            ],
            folder=folder,
            environment={
                "RCLONE_USER": self.user,
                "RCLONE_PASS": self.password,
                "RCLONE_CONFIG": str(folder / "rclone.conf"),
                "RCLONE_CACHE_DIR": str(folder / "cache"),
            },
        )

    def options(self, folder: str) -> Mapping[str, str | int | bool]:
        """Options of a ``webdav`` provider in ``folder`` below ``root``."""
        url = f"{self._scheme}://127.0.0.1:{self.port}/{folder}"
        return {"url": url, "user": self.user, "password": self.password}


@asynccontextmanager
async def rclone_webdav_server(*, certificate: Path | None = None) -> AsyncIterator[RcloneWebdavServer]:
    """Start the server; with a file that holds a certificate and its key, it speaks TLS."""
    async with fresh_folder() as folder:
        (folder / "rclone.conf").touch()
        server = RcloneWebdavServer(folder=folder, certificate=certificate)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
