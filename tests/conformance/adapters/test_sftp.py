from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from servers import asyncssh_sftp, openssh
from servers.asyncssh_sftp import asyncssh_sftp_server
from servers.openssh import OpenSshServer, openssh_server
from servers.requirement import require

from cdir_adapters.providers.sftp import SftpAdapter
from cdir_adapters.testing.conformance import AdapterConformance


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sshd() -> AsyncIterator[OpenSshServer]:
    require(openssh)
    async with openssh_server() as server:
        yield server


class SftpConformance(AdapterConformance):
    """Objects go around the adapter as files on the disk that the server serves."""

    many = 1100
    root: Path

    async def raw_put(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    async def raw_get(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


class TestOpenSsh(SftpConformance):
    @pytest.fixture
    async def adapter(self, sshd: OpenSshServer, tmp_path: Path) -> AsyncIterator[SftpAdapter]:
        self.root = tmp_path / "root"
        async with SftpAdapter("box", {**sshd.options(), "root": str(self.root)}) as adapter:
            await adapter.prepare()
            yield adapter


class TestAsyncSsh(SftpConformance):
    """A server that answers requests out of order."""

    many = 60

    @pytest.fixture
    async def adapter(self) -> AsyncIterator[SftpAdapter]:
        require(asyncssh_sftp)
        async with asyncssh_sftp_server() as server:
            self.root = server.root / "share"
            async with SftpAdapter("box", {**server.options(), "root": "share"}) as adapter:
                await adapter.prepare()
                yield adapter
