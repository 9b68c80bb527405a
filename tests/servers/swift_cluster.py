"""OpenStack Swift: the real servers over one device, with tempauth (sign-in of version 1) and memcached."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

import aiohttp
from yarl import URL

from servers.process import ServerProcess, fresh_folder

__all__ = ["RawSwift", "SwiftCluster", "missing", "swift_cluster"]

_SCRIPT = Path(__file__).with_name("swift_process.py")
_MEMORY = Path("/dev/shm")
"""Where extended attributes, in which Swift keeps metadata, may be of any size; file systems often stop at 4 KiB."""


def missing() -> str | None:
    if importlib.util.find_spec("swift") is None:
        return "swift is missing: pip install swift"
    return None if shutil.which("memcached") else "memcached is missing: apt-get install memcached"


@dataclass(frozen=True)
class RawAnswer:
    """What the cluster answered; names of headers in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class RawSwift:
    """A plain client with a token of its own, to go around an adapter."""

    def __init__(self, http: aiohttp.ClientSession, server: SwiftCluster, token: str) -> None:
        self._http = http
        self._server = server
        self._token = token

    async def ask(
        self,
        method: str,
        path: str,
        data: bytes | None = None,
        *,
        query: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> RawAnswer:
        """Send a request for ``container`` or ``container/object`` and return whatever comes."""
        async with self._http.request(
            method,
            URL(f"{self._server.storage_url}/{quote(path)}?{query}", encoded=True),
            data=None if data is None else io.BytesIO(data),
            headers={"X-Auth-Token": self._token, **headers},
        ) as answer:
            named = {name.lower(): value for name, value in answer.headers.items()}
            return RawAnswer(answer.status, await answer.read(), named)

    async def put(self, path: str, data: bytes = b"", *, query: str = "", **metadata: str) -> None:
        """Store an object, or make a container."""
        headers = {f"X-Object-Meta-{name}": value for name, value in metadata.items()}
        answer = await self.ask("PUT", path, data, query=query, headers=headers)
        assert answer.status in {201, 202}, answer

    async def get(self, path: str) -> bytes | None:
        """Return an object's bytes, ``None`` when it is missing."""
        answer = await self.ask("GET", path)
        assert answer.status in {200, 404}, answer
        return answer.body if answer.status == 200 else None

    async def names(self, container: str) -> list[str]:
        """List a container; a missing one is empty."""
        answer = await self.ask("GET", container, query="format=json")
        return [] if answer.status == 404 else [row["name"] for row in json.loads(answer.body)]


class SwiftCluster(ServerProcess):
    """A running cluster. ``kill`` and ``restart`` keep the objects and the port; every restart ends all tokens."""

    user = "test:tester"
    password = "testing"
    guest = "test:guest"
    """A user who may do nothing, since nobody gave leave; the password is :attr:`guest_password`."""
    guest_password = "visiting"

    def __init__(self, *, folder: Path, devices: Path, port: int | None) -> None:
        self.folder = folder
        super().__init__(
            lambda chosen: [sys.executable, str(_SCRIPT), str(chosen), str(folder), str(devices)],
            folder=folder,
            port=port,
            ready=self._signs_in,
        )

    @property
    def auth_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/auth/v1.0"

    @property
    def storage_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/AUTH_test"

    def options(self, container: str) -> Mapping[str, str | int | bool]:
        """Options of a ``swift`` provider on ``container`` of this cluster."""
        return {"container": container, "auth_url": self.auth_url, "user": self.user, "key": self.password}

    def s3_options(self, bucket: str) -> Mapping[str, str | int | bool]:
        """Options of an ``s3`` provider on ``bucket``: the proxy speaks that protocol too."""
        return {
            "bucket": bucket,
            "endpoint": f"http://127.0.0.1:{self.port}",
            "region": "us-east-1",
            "access_key": self.user,
            "secret_key": self.password,
        }

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[RawSwift]:
        """A client of :attr:`user` that does not go through an adapter."""
        async with aiohttp.ClientSession() as http:
            yield RawSwift(http, self, await self._sign_in(http, self.port))

    async def token(self) -> str:
        """A new token of :attr:`user`."""
        async with aiohttp.ClientSession() as http:
            return await self._sign_in(http, self.port)

    async def expire_tokens(self) -> None:
        """Forget every token, as when their time is over. What the proxy has cached of containers goes with them."""
        port = int((self.folder / "memcached.port").read_text())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"flush_all\r\n")
        if await reader.readline() != b"OK\r\n":
            raise RuntimeError("memcached did not forget the tokens")
        writer.close()
        await writer.wait_closed()

    async def _sign_in(self, http: aiohttp.ClientSession, port: int) -> str:
        headers = {"X-Auth-User": self.user, "X-Auth-Key": self.password}
        async with http.get(f"http://127.0.0.1:{port}/auth/v1.0", headers=headers, raise_for_status=True) as answer:
            return answer.headers["X-Auth-Token"]

    async def _signs_in(self, port: int) -> bool:
        """Whether the whole of it works: a container needs all servers but that of objects."""
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
                headers = {"X-Auth-Token": await self._sign_in(http, port)}
                async with http.put(f"http://127.0.0.1:{port}/v1/AUTH_test/ready", headers=headers) as answer:
                    return answer.status in {201, 202}
        except (aiohttp.ClientError, TimeoutError):
            return False


@asynccontextmanager
async def swift_cluster(*, port: int | None = None) -> AsyncIterator[SwiftCluster]:
    """Start a cluster; its objects lie in memory where the system has a folder for that."""
    async with fresh_folder() as folder:
        where = _MEMORY if os.access(_MEMORY, os.W_OK) else folder
        devices = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="cdir-swift-", dir=where))
        server = SwiftCluster(folder=folder, devices=devices, port=port)
        try:
            await server.start()
            yield server
        finally:
            await server.stop()
            await asyncio.to_thread(shutil.rmtree, devices, ignore_errors=True)
