from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import pytest_asyncio

from cdir.errors import InvalidPath, NotFound
from cdir_adapters.adapter import Adapter
from cdir_adapters.probe import probe
from cdir_adapters.providers.rclone.spelling import spelled
from cdir_adapters.registry import open_adapter
from cdir_adapters.testing import listing
from cdir_adapters.testing.conformance import CASES, AdapterConformance
from cdir_adapters.testing.trial import MODIFIED
from servers import asyncssh_sftp, rclone_s3, wsgidav_server
from servers.asyncssh_sftp import asyncssh_sftp_server
from servers.requirement import require

EVERY = frozenset(case.name for case in CASES)
SOME = frozenset(
    {
        "below_file_is_missing",
        "copy_object",
        "delete_directory",
        "delete_object",
        "list_missing",
        "list_one_level",
        "make_and_remove_directories",
        "missing_object",
        "move_object",
        "read_directory",
        "read_ranges",
        "usage_is_told",
        "write_below_file",
        "write_cancelled_leaves_old",
        "write_keeps_modified",
        "write_over_directory",
        "write_replaces",
        "write_states_checksum",
        "write_unfinished_is_hidden",
    }
)
"""What backends differ in."""


@pytest.mark.asyncio(loop_scope="class")
class RcloneConformance(AdapterConformance):
    """One process of rclone serves all cases of a backend. Around it goes another one, of another adapter."""

    only: ClassVar[frozenset[str]] = EVERY
    lacking: ClassVar[frozenset[str]] = frozenset()
    """Flags that the backend does not have; the adapter finds that out by itself, the probe nothing more."""
    back: ClassVar[Adapter]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        assert self.only <= EVERY
        chosen = [case for case in CASES if case.name in self.only]
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", chosen, ids=[case.name for case in chosen])

    @classmethod
    async def opened(cls, options: Mapping[str, str]) -> AsyncIterator[Adapter]:
        require(rclone_s3)
        async with open_adapter("rclone", "r", options) as adapter, open_adapter("rclone", "back", options) as cls.back:
            declared = adapter.capability.to_json()
            await adapter.prepare()
            narrowed = adapter.capability.to_json()
            missing = {name for name in declared if declared[name] and not narrowed[name]}
            assert missing == cls.lacking
            assert await probe(adapter) == adapter.capability
            yield adapter

    async def raw_put(self, key: str, data: bytes) -> None:
        await self.back.write(key, data, size=len(data), modified=MODIFIED)

    async def raw_get(self, key: str) -> bytes | None:
        try:
            return (await self.back.fetch(key)).data
        except NotFound:
            return None


class TestLocal(RcloneConformance):
    """Objects go around the adapter as files."""

    lacking = frozenset({"copy", "checksums"})
    root: ClassVar[Path]

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def adapter(cls, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Adapter]:
        cls.root = tmp_path_factory.mktemp("local") / "root ] [x"
        (cls.root / ".cdir").mkdir(parents=True)
        (cls.root / ".cdir/provider").write_bytes(b"{}")
        async for adapter in cls.opened({"type": "local", "root": str(cls.root)}):
            yield adapter

    def stored(self, key: str) -> Path:
        return self.root / spelled(key)

    async def raw_put(self, key: str, data: bytes) -> None:
        self.stored(key).parent.mkdir(parents=True, exist_ok=True)
        self.stored(key).write_bytes(data)

    async def raw_get(self, key: str) -> bytes | None:
        try:
            return self.stored(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


@pytest.mark.slow
class TestCrypt(RcloneConformance):
    """Names and contents encrypted, over a folder. Names of more than some 140 bytes have no room there."""

    only = EVERY - {"folder_names_survive"}
    lacking = frozenset({"copy", "checksums"})

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def adapter(cls, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Adapter]:
        folder = tmp_path_factory.mktemp("crypt")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(listing, "NAMES", tuple(name for name in listing.NAMES if len(name.encode()) < 140))
            options = {
                "type": "crypt",
                "root": "files",
                "parameters": f"remote={folder}",
                "secrets": "password='a, \"b'",
            }
            async for adapter in cls.opened(options):
                yield adapter
        assert [path for path in folder.iterdir() if "files" not in path.name]

    async def test_a_name_too_long_for_it_is_said_to_be(self, adapter: Adapter) -> None:
        with pytest.raises(InvalidPath, match="too long"):
            await adapter.write("ö" * 100, b"x", size=1, modified=MODIFIED)


@pytest.mark.slow
class TestCryptContents(RcloneConformance):
    """Contents alone encrypted, through an alias."""

    only = frozenset({"folder_names_survive", "names_survive", "read_small_objects", "write_large_objects"})
    lacking = frozenset({"copy", "checksums"})

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def adapter(cls, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Adapter]:
        folder = tmp_path_factory.mktemp("alias")
        config = folder / "rclone.conf"
        password = "3YRQ8qbVp9jHYCNGfNtpBQLkwvPmoQ"  # as rclone obscures the word "secret"
        config.write_text(
            f"[other]\ntype = alias\nremote = {folder}\n"
            f"[sealed]\ntype = crypt\nremote = other:sealed\nfilename_encryption = off\npassword = {password}\n"
        )
        async for adapter in cls.opened({"remote": "sealed:some/folder", "config": str(config), "root": "below"}):
            yield adapter
        assert (folder / "sealed/some/folder/below").is_dir()


@pytest.mark.slow
class TestMemory(RcloneConformance):
    """A backend of buckets: no folders, sums that it states by itself, copying. Each process has its own."""

    only = SOME
    lacking = frozenset({"directories", "move", "usage"})

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def adapter(cls) -> AsyncIterator[Adapter]:
        async for adapter in cls.opened({"type": "memory", "root": "bucket/folder"}):
            cls.back = adapter
            yield adapter


@pytest.mark.slow
class TestSftp(RcloneConformance):
    only = SOME
    lacking = frozenset({"copy", "checksums"})

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def adapter(cls) -> AsyncIterator[Adapter]:
        require(asyncssh_sftp)
        async with asyncssh_sftp_server() as server:
            parameters = f"host={server.host},port={server.port},user={server.user},shell_type=none"
            options = {
                "type": "sftp",
                "root": "/folder",
                "parameters": parameters,
                "secrets": f"pass={server.password}",
            }
            async for adapter in cls.opened(options):
                yield adapter


@pytest.mark.slow
class TestWebdav(RcloneConformance):
    """A backend that keeps no times."""

    only = SOME
    lacking = frozenset({"write_atomic", "checksums", "modified_settable", "modified_listed", "modified_precision"})

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def adapter(cls) -> AsyncIterator[Adapter]:
        require(wsgidav_server)
        async with wsgidav_server.wsgidav_server() as server:
            parameters = f"url=http://127.0.0.1:{server.port},vendor=other,user={server.user}"
            options = {
                "type": "webdav",
                "root": "folder",
                "parameters": parameters,
                "secrets": f"pass={server.password}",
            }
            async for adapter in cls.opened(options):
                yield adapter
