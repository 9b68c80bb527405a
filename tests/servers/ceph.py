"""Ceph's gateway for S3 over a real monitor and a store in memory."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from servers.process import ServerProcess, accepts_connections, fresh_folder

__all__ = ["ONLY_SLOW", "CephServer", "ceph_server", "missing"]

ONLY_SLOW = True
"""Only slow tests start it, so ``make test`` can do without."""

_PROCESS = Path(__file__).with_name("ceph_process.py")
_PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
_START_DEADLINE = 120.0
"""A dozen programs run one after the other."""


def missing() -> str | None:
    absent = [name for name in _PROGRAMS if shutil.which(name) is None]
    packages = "ceph-mon ceph-osd radosgw ceph-common"
    return f"{', '.join(absent)} missing: apt-get install --no-install-recommends {packages}" if absent else None


class CephServer(ServerProcess):
    """A running cluster with one user; it begins empty."""

    access_key = "cdir-test-key"
    secret_key = "cdir-test-secret"

    def __init__(self, *, folder: Path, port: int | None) -> None:
        self._ready_file = folder / "ready"
        super().__init__(
            lambda chosen: [sys.executable, str(_PROCESS), str(chosen), str(folder)],
            folder=folder,
            port=port,
            ready=self._answers,
            environment={"CEPH_ACCESS_KEY": self.access_key, "CEPH_SECRET_KEY": self.secret_key},
            deadline=_START_DEADLINE,
        )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def options(self, bucket: str) -> Mapping[str, str | int | bool]:
        """Options of an ``s3`` provider on ``bucket`` of this server."""
        return {
            "bucket": bucket,
            "endpoint": self.endpoint,
            "profile": "ceph",
            "region": "us-east-1",
            "access_key": self.access_key,
            "secret_key": self.secret_key,
        }

    async def _answers(self, port: int) -> bool:
        return self._ready_file.exists() and await accepts_connections(port)


@asynccontextmanager
async def ceph_server(*, port: int | None = None) -> AsyncIterator[CephServer]:
    """Start the cluster. It cannot be restarted."""
    async with fresh_folder() as folder:
        server = CephServer(folder=folder, port=port)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
