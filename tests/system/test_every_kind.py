"""One tree on a provider of every kind at once, each a real server: byte for byte the same, looked at from outside."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments.background import Background
from deployments.deployment import Deployment
from deployments.trees import contents, times
from servers import apache_dav, azurite, openssh, rclone_s3, swift_cluster, vsftpd
from servers.apache_dav import apache_dav_server
from servers.azurite import AzuriteServer, azurite_server
from servers.faulty_proxy import FaultyProxy, faulty_proxy
from servers.gcs import gcs_server
from servers.openssh import openssh_server
from servers.process import ServerProcess
from servers.rclone_s3 import rclone_s3_server
from servers.requirement import require
from servers.swift_cluster import SwiftCluster
from servers.swift_cluster import swift_cluster as start_swift
from servers.vsftpd import vsftpd_server

pytestmark = pytest.mark.slow_split

BUCKET = "files"
MIB = 1024 * 1024


@dataclass(frozen=True)
class Kind:
    """A registered provider, and a look at what it holds that goes around cdir."""

    contents: Callable[[], dict[str, str]]
    """Digest of every object by key, those of cdir's own left out."""
    leave: Callable[[], None] = lambda: None
    """Make the server unreachable."""
    come_back: Callable[[], None] = lambda: None


def _digests(objects: dict[str, bytes]) -> dict[str, str]:
    return {
        key: hashlib.sha256(data).hexdigest() for key, data in sorted(objects.items()) if not key.startswith(".cdir/")
    }


async def _in_swift(server: SwiftCluster) -> dict[str, bytes]:
    async with server.raw() as raw:
        found = {name: await raw.get(f"{BUCKET}/{name}") for name in await raw.names(BUCKET)}
    return {name: data for name, data in found.items() if data is not None}


async def _in_azure(server: AzuriteServer) -> dict[str, bytes]:
    async with server.client(BUCKET) as client:
        return {
            blob.name: await (await client.download_blob(blob.name)).readall() async for blob in client.list_blobs()
        }


@pytest.fixture(scope="module")
def kinds(deployment: Deployment, local_disks: Path, background: Background) -> dict[str, Kind]:
    """Every kind by its name, under which its provider is registered too."""
    require(apache_dav, azurite, openssh, rclone_s3, swift_cluster, vsftpd)
    s3, sftp, dav, ftp = map(
        background.enter, (rclone_s3_server(), openssh_server(), apache_dav_server(), vsftpd_server())
    )
    swift, azure = background.enter(start_swift()), background.enter(azurite_server())
    before_azure = background.enter(faulty_proxy(azure.port))
    gcs = background.enter(gcs_server())
    before_gcs = background.enter(faulty_proxy(gcs.port))
    (s3.root / BUCKET).mkdir()
    options = {
        "local": {"root": local_disks / "disk"},
        "s3": s3.options(BUCKET),
        "sftp": sftp.options(),
        "webdav": dav.options(BUCKET),
        "ftp": ftp.options(),
        "swift": swift.options(BUCKET),
        "azure": {**azure.options(BUCKET), "endpoint": azure.endpoint_at(before_azure.port)},
        "gcs": {**gcs.options(BUCKET), "endpoint": f"http://127.0.0.1:{before_gcs.port}"},
    }
    for name, given in options.items():
        deployment.add_provider(name, name, given)

    def served(look: Callable[[], dict[str, str]], server: ServerProcess) -> Kind:
        return Kind(look, lambda: background.run(server.kill()), lambda: background.run(server.restart()))

    def behind(proxy: FaultyProxy, look: Callable[[], dict[str, str]]) -> Kind:
        """Of a server that keeps nothing when it ends."""

        def cut_off() -> None:
            proxy.refuse = True
            background.call(proxy.drop_connections)

        return Kind(look, cut_off, proxy.heal)

    return {
        "local": Kind(lambda: contents(local_disks / "disk")),
        "s3": served(lambda: contents(s3.root / BUCKET), s3),
        "sftp": served(lambda: contents(sftp.root), sftp),
        "webdav": served(lambda: contents(dav.root / BUCKET), dav),
        "ftp": served(lambda: contents(ftp.root), ftp),
        "swift": served(lambda: _digests(background.run(_in_swift(swift))), swift),
        "azure": behind(before_azure, lambda: _digests(background.run(_in_azure(azure)))),
        "gcs": behind(before_gcs, lambda: _digests(gcs.contents(BUCKET))),
    }


def _make_tree(folder: Path) -> Path:
    """Files of many sizes, names of many sorts, twenty folders deep."""
    chance = random.Random(7)
    names = (
        "plain.txt",
        "with spaces  and two",
        " leading and trailing ",
        ".hidden",
        "ünïcödé – 名前",
        "emoji 😀🚀",
        "percent %41 plus + and #hash?query&x=1",
        "quotes ' \" and `ticks`",
        "semi;colon,comma=equals@at",
        "[brackets] {braces} (parens)",
        "tilde~",
        "x" * 200,
    )
    sizes = (0, 1, 511, 4096, 70_000, 300_000, 1, 2, 3, 4, 5, 6)
    deep = folder.joinpath(*(f"level {number}" for number in range(1, 20)))
    for place in (folder, folder / "a folder", deep):
        place.mkdir(parents=True, exist_ok=True)
        for name, size in zip(names, sizes, strict=True):
            (place / name).write_bytes(chance.randbytes(size))
    (folder / "large.bin").write_bytes(chance.randbytes(20 * MIB + 17))
    return folder


@pytest.mark.timeout(300)
def test_a_tree_is_the_same_on_every_kind_and_comes_back_from_each(
    deployment: Deployment, kinds: dict[str, Kind], tmp_path: Path
) -> None:
    tree = _make_tree(tmp_path / "tree")
    expected = contents(tree)
    report = deployment.json("put", tree, "/tree", "--recursive", "--require", "all")
    assert (report["files"], report["failed"], report["owed"]) == (len(expected), [], 0)
    for name, kind in kinds.items():
        assert kind.contents() == {f"tree/{key}": digest for key, digest in expected.items()}, f"on {name}"

    again = deployment.json("put", tree, "/tree", "--recursive", "--require", "all")
    assert (again["bytes"], again["skipped"]) == (0, len(expected))
    for name in kinds:
        target = tmp_path / f"from {name}"
        got = deployment.json("get", "/tree", target, "--recursive", "--from", name)
        assert (got["files"], got["failed"]) == (len(expected), []), f"from {name}"
        assert contents(target) == expected, f"from {name}"
        assert times(target) == times(tree), f"from {name}"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["s3", "sftp", "webdav", "ftp", "swift", "azure", "gcs"])
def test_a_kind_that_is_away_during_a_put_is_healed(
    deployment: Deployment, kinds: dict[str, Kind], background: Background, tmp_path: Path, folder: str, name: str
) -> None:
    kind = kinds[name]
    source = tmp_path / "source"
    source.mkdir()
    for number in range(12):
        (source / f"{number}.bin").write_bytes(random.Random(number).randbytes(20_000))
    deployment.json("put", source, f"{folder}/before", "--recursive", "--require", "all")
    kind.leave()
    try:
        report = deployment.json("put", source, f"{folder}/during", "--recursive", expect=3)
        # more than those of the one that is away may be on their way still when the command ends
        assert (report["files"], report["failed"]) == (12, [])
        assert report["owed"] >= 12
        got = deployment.json("get", folder, tmp_path / "back", "--recursive")
        assert (got["files"], got["failed"]) == (24, [])
    finally:
        kind.come_back()
    deployment.wait_settled(within=120)
    found = kind.contents()
    for part in ("before", "during"):
        for key, digest in contents(source).items():
            assert found.get(f"{folder[1:]}/{part}/{key}") == digest


def test_what_was_seen_when_a_kind_was_added_is_shown(deployment: Deployment, kinds: dict[str, Kind]) -> None:
    for name in kinds:
        shown = deployment.cdir("provider", "show", name).text
        assert "write_unknown_size" in shown
        assert "passed" in deployment.cdir("provider", "check", name).text
