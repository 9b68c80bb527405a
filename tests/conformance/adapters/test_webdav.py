import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest
import pytest_asyncio

from cdir_adapters.capability import Capability
from cdir_adapters.names import ESCAPE, NameEncoding
from cdir_adapters.probe import probe
from cdir_adapters.providers.webdav import WebdavAdapter
from cdir_adapters.testing import listing
from cdir_adapters.testing.conformance import CASES, AdapterConformance
from servers import apache_dav, rclone_webdav, wsgidav_server
from servers.apache_dav import ApacheDavServer, apache_dav_server
from servers.nextcloud_dav import NextcloudServer, nextcloud_server
from servers.rclone_webdav import RcloneWebdavServer, rclone_webdav_server
from servers.requirement import require
from servers.wsgidav_server import WsgiDavServer

Server = ApacheDavServer | NextcloudServer | RcloneWebdavServer | WsgiDavServer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def apache() -> AsyncIterator[ApacheDavServer]:
    require(apache_dav)
    async with apache_dav_server() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rclone() -> AsyncIterator[RcloneWebdavServer]:
    require(rclone_webdav)
    async with rclone_webdav_server() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wsgidav() -> AsyncIterator[WsgiDavServer]:
    require(wsgidav_server)
    async with wsgidav_server.wsgidav_server() as server:
        yield server


PROBED: dict[type, Capability] = {}
"""What the probe has found of each server."""


class WebdavConformance(AdapterConformance):
    """Objects go around the adapter as files on the disk that the server serves."""

    folder: str
    root: Path
    names: NameEncoding | None

    narrowed: ClassVar[frozenset[str]] = frozenset()
    """What the adapter declares for the profile and the probe finds missing."""
    only: ClassVar[frozenset[str]] = frozenset(case.name for case in CASES)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        assert self.only <= {case.name for case in CASES}
        chosen = [case for case in CASES if case.name in self.only]
        metafunc.parametrize("case", chosen, ids=[case.name for case in chosen])

    @asynccontextmanager
    async def opened(self, server: Server) -> AsyncIterator[WebdavAdapter]:
        self.folder = f"{type(self).__name__}-{uuid.uuid4().hex}"
        if not isinstance(server, NextcloudServer):
            self.root = server.root
        async with WebdavAdapter("dav", server.options(self.folder)) as adapter:
            await adapter.prepare()
            if type(self) not in PROBED:
                declared = adapter.capability.to_json()
                PROBED[type(self)] = await probe(adapter)
                found = PROBED[type(self)].to_json()
                assert {name for name in declared if declared[name] != found[name]} == self.narrowed
            adapter.capability = PROBED[type(self)]
            forbidden = adapter.capability.forbidden_names
            self.names = None if forbidden is None else NameEncoding(forbidden)
            yield adapter

    def stored(self, key: str) -> str:
        """Where an object lies at the server."""
        return f"{self.folder}/{key if self.names is None else self.names.encode(key)}"

    async def raw_put(self, key: str, data: bytes) -> None:
        path = self.root / self.stored(key)
        for folder in reversed([path.parent, *path.parent.parents]):
            if folder.is_relative_to(self.root) and not folder.exists():
                folder.mkdir()
                # Apache runs as another account
                folder.chmod(0o777)
        path.write_bytes(data)

    async def raw_get(self, key: str) -> bytes | None:
        try:
            return (self.root / self.stored(key)).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


class TestApache(WebdavConformance):
    narrowed = frozenset({"usage"})

    @pytest.fixture
    async def adapter(self, apache: ApacheDavServer) -> AsyncIterator[WebdavAdapter]:
        async with self.opened(apache) as adapter:
            yield adapter


class TestNextcloud(WebdavConformance):
    """The project's own server; its files are in memory."""

    computes_checksums = False

    @pytest.fixture
    async def adapter(self) -> AsyncIterator[WebdavAdapter]:
        async with (
            nextcloud_server(computes_checksums=self.computes_checksums) as self.server,
            self.opened(self.server) as adapter,
        ):
            yield adapter

    async def raw_put(self, key: str, data: bytes) -> None:
        self.server.put(self.stored(key), data)

    async def raw_get(self, key: str) -> bytes | None:
        return self.server.get(self.stored(key))


@pytest.mark.slow
class TestOwncloud(TestNextcloud):
    """The same server, stating checksums of what it holds."""

    computes_checksums = True
    only = frozenset({"copy_object", "move_object", "write_large_objects", "write_states_checksum"})


@pytest.mark.slow
class TestRclone(WebdavConformance):
    """Left out is a name with a character that rclone escapes names with: it finds no file under it again."""

    narrowed = frozenset({"usage", "write_if_match"})

    @pytest.fixture
    async def adapter(
        self, rclone: RcloneWebdavServer, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[WebdavAdapter]:
        monkeypatch.setattr(listing, "NAMES", tuple(name for name in listing.NAMES if ESCAPE not in name))
        async with self.opened(rclone) as adapter:
            yield adapter


@pytest.mark.slow
class TestWsgiDav(WebdavConformance):
    narrowed = frozenset({"write_if_match"})

    @pytest.fixture
    async def adapter(self, wsgidav: WsgiDavServer) -> AsyncIterator[WebdavAdapter]:
        async with self.opened(wsgidav) as adapter:
            yield adapter
