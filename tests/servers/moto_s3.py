"""moto's S3 server: follows AWS closely (conditions, multipart ETags, ACLs), keeps everything in memory."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from servers.process import ServerProcess, fresh_folder

__all__ = ["MotoS3Server", "missing", "moto_s3_server"]

_PROCESS = Path(__file__).with_name("moto_process.py")


def missing() -> str | None:
    return None if importlib.util.find_spec("moto") else 'moto is missing: pip install "moto[server,s3]"'


class MotoS3Server(ServerProcess):
    """A running server. It accepts any credentials."""

    access_key = "cdir-test-key"
    secret_key = "cdir-test-secret"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

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
async def moto_s3_server(*, port: int | None = None) -> AsyncIterator[MotoS3Server]:
    """Start the server; it begins empty, and again so after ``kill`` and ``restart``."""
    async with fresh_folder() as folder:
        server = MotoS3Server(
            lambda chosen: [sys.executable, str(_PROCESS), str(chosen)],
            folder=folder,
            port=port,
        )
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
