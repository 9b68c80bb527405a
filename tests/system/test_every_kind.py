"""One tree on a provider of every kind at once, each a real server: byte for byte the same, looked at from outside."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import pytest

from deployments.background import Background
from deployments.deployment import Deployment, eventually
from deployments.trees import contents, make_files, times, without_leftovers
from servers import apache_dav, azurite, openssh, rclone_s3, swift_cluster, vsftpd
from servers.apache_dav import apache_dav_server
from servers.azurite import AzuriteServer, azurite_server
from servers.faulty_proxy import FaultyProxy, faulty_proxy
from servers.gcs import GcsServer, gcs_server
from servers.openssh import openssh_server
from servers.process import ServerProcess
from servers.rclone_s3 import rclone_s3_server
from servers.requirement import require
from servers.swift_cluster import RawSwift, SwiftCluster
from servers.swift_cluster import swift_cluster as start_swift
from servers.vsftpd import vsftpd_server

pytestmark = pytest.mark.slow_split

BUCKET = "files"
KINDS = ("local", "s3", "sftp", "webdav", "ftp", "swift", "azure", "gcs", "rclone")
MIB = 1024 * 1024
FILES = 2_000
MEMORY_LIMIT = 448 * MIB
"""Of a process that passes a file of 200 MiB on to every kind at once."""


@dataclass(frozen=True)
class Kind:
    """A registered provider, and a look at what it holds that goes around cdir."""

    contents: Callable[[str], dict[str, str]]
    """Digest of every object in a folder, by its key in that."""
    holds: Callable[[str], bool]
    """Whether there is any object in a folder yet."""
    leave: Callable[[], None]
    """Make it unreachable."""
    come_back: Callable[[], None]


async def _in_swift(server: SwiftCluster, folder: str) -> dict[str, str]:
    found: dict[str, str] = {}
    async with server.raw() as raw:
        marker = ""
        while names := await _page_of_swift(raw, f"{folder}/", marker):
            for name in names:
                data = await raw.get(f"{BUCKET}/{name}")
                assert data is not None
                found[name.removeprefix(f"{folder}/")] = hashlib.sha256(data).hexdigest()
            marker = names[-1]
    return found


async def _page_of_swift(raw: RawSwift, prefix: str, marker: str) -> list[str]:
    query = urlencode({"format": "json", "prefix": prefix, "marker": marker})
    answer = await raw.ask("GET", BUCKET, query=query)
    return [row["name"] for row in json.loads(answer.body)]


async def _anything_in_swift(server: SwiftCluster, folder: str) -> bool:
    try:
        async with server.raw() as raw:
            answer = await raw.ask("GET", BUCKET, query=urlencode({"prefix": f"{folder}/", "limit": "1"}))
    except aiohttp.ClientResponseError:
        return False  # it is too busy to sign anybody in
    return answer.status == 200 and bool(answer.body)


async def _anything_in_azure(server: AzuriteServer, folder: str) -> bool:
    async with server.client(BUCKET) as client:
        async for _ in client.list_blobs(name_starts_with=f"{folder}/", results_per_page=1):
            return True
    return False


async def _in_azure(server: AzuriteServer, folder: str) -> dict[str, str]:
    found = {}
    async with server.client(BUCKET) as client:
        async for blob in client.list_blobs(name_starts_with=f"{folder}/"):
            digest = hashlib.sha256()
            async for chunk in (await client.download_blob(blob.name)).chunks():
                digest.update(chunk)
            found[blob.name.removeprefix(f"{folder}/")] = digest.hexdigest()
    return found


async def _anything_in_gcs(server: GcsServer, folder: str) -> bool:
    """In the server's own loop, as it changes what is looked at."""
    return any(key.startswith(f"{folder}/") for key in server.contents(BUCKET))


def _in_apache(folder: Path) -> dict[str, str]:
    """Without its own temporary files, which it shows to nobody, and leaves when it is killed."""
    return {key: digest for key, digest in contents(folder).items() if ".davfs.tmp" not in key}


def _anything_on_disk(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*") if not path.name.startswith(".cdir-tmp-"))


def _in_gcs(server: GcsServer, folder: str) -> dict[str, str]:
    return {
        key.removeprefix(f"{folder}/"): hashlib.sha256(data).hexdigest()
        for key, data in server.contents(BUCKET).items()
        if key.startswith(f"{folder}/")
    }


@pytest.fixture(scope="module")
def kinds(deployment: Deployment, local_disks: Path, background: Background) -> dict[str, Kind]:
    """Every kind by its name, under which its provider is registered too."""
    require(apache_dav, azurite, openssh, rclone_s3, swift_cluster, vsftpd)
    s3, sftp = background.enter(rclone_s3_server()), background.enter(openssh_server())
    dav, ftp = background.enter(apache_dav_server()), background.enter(vsftpd_server())
    swift, azure = background.enter(start_swift()), background.enter(azurite_server())
    before_azure = background.enter(faulty_proxy(azure.port))
    gcs = background.enter(gcs_server())
    before_gcs = background.enter(faulty_proxy(gcs.port))
    (s3.root / BUCKET).mkdir()
    disk, bridged = local_disks / "disk", local_disks / "bridged"
    options = {
        "local": {"root": disk},
        "s3": s3.options(BUCKET),
        "sftp": sftp.options(),
        "webdav": dav.options(BUCKET),
        "ftp": ftp.options(),
        "swift": swift.options(BUCKET),
        "azure": {**azure.options(BUCKET), "endpoint": azure.endpoint_at(before_azure.port)},
        "gcs": {**gcs.options(BUCKET), "endpoint": f"http://127.0.0.1:{before_gcs.port}"},
        "rclone": {"type": "local", "root": bridged},
    }
    for name in KINDS:
        deployment.add_provider(name, name, options[name])

    def on_disk(root: Path) -> Kind:
        """Of no server: its disk is taken out."""
        elsewhere = root.with_name(f"{root.name}, taken out")

        def leave() -> None:
            root.rename(elsewhere)

        def come_back() -> None:
            elsewhere.rename(root)

        return Kind(
            lambda folder: contents(root / folder), lambda folder: _anything_on_disk(root / folder), leave, come_back
        )

    def served(root: Path, server: ServerProcess) -> Kind:
        return Kind(
            lambda folder: contents(root / folder),
            lambda folder: _anything_on_disk(root / folder),
            lambda: background.run(server.kill()),
            lambda: background.run(server.restart()),
        )

    def behind(proxy: FaultyProxy, look: Callable[[str], dict[str, str]], holds: Callable[[str], bool]) -> Kind:
        """Of a server that keeps nothing when it ends."""

        def cut_off() -> None:
            proxy.refuse = True
            background.call(proxy.drop_connections)

        return Kind(look, holds, cut_off, proxy.heal)

    return {
        "local": on_disk(disk),
        "s3": replace(
            served(s3.root / BUCKET, s3),
            contents=lambda folder: without_leftovers(contents(s3.root / BUCKET / folder)),
        ),
        "sftp": served(sftp.root, sftp),
        "webdav": replace(
            served(dav.root / BUCKET, dav), contents=lambda folder: _in_apache(dav.root / BUCKET / folder)
        ),
        "ftp": served(ftp.root, ftp),
        "swift": replace(
            served(swift.folder, swift),
            contents=lambda folder: asyncio.run(_in_swift(swift, folder)),
            holds=lambda folder: asyncio.run(_anything_in_swift(swift, folder)),
        ),
        "azure": behind(
            before_azure,
            lambda folder: asyncio.run(_in_azure(azure, folder)),
            lambda folder: asyncio.run(_anything_in_azure(azure, folder)),
        ),
        "gcs": behind(
            before_gcs,
            lambda folder: _in_gcs(gcs, folder),
            lambda folder: background.run(_anything_in_gcs(gcs, folder)),
        ),
        "rclone": on_disk(bridged),
    }


NAMES = (
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
"""One of every sort."""


def _deep_in(folder: Path) -> Path:
    """The folder whose files are at depth twenty."""
    return folder.joinpath(*(f"level {number}" for number in range(1, 20)))


def _make_tree(folder: Path) -> Path:
    """Files of many sizes, names of many sorts, twenty folders deep."""
    chance = random.Random(7)
    sizes = (0, 1, 511, 4096, 70_000, 300_000, 1, 2, 3, 4, 5, 6)
    for place in (folder, folder / "a folder", _deep_in(folder)):
        place.mkdir(parents=True, exist_ok=True)
        for name, size in zip(NAMES, sizes, strict=True):
            (place / name).write_bytes(chance.randbytes(size))
    (folder / "large.bin").write_bytes(chance.randbytes(20 * MIB + 17))
    return folder


def _make_large_tree(folder: Path) -> Path:
    """Two thousand files of 0 bytes to 200 MiB, in folders and under names of every sort, down to depth twenty."""
    chance = random.Random(11)
    large = (200 * MIB, 64 * MIB + 1, 17 * MIB, 8 * MIB, 5 * MIB + 3, MIB)
    places = [folder, _deep_in(folder), *(folder / "of every sort" / name for name in NAMES)]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        place, name = places[number % len(places)], NAMES[number // len(places) % len(NAMES)]
        suffix = f" {number}"
        # small ones up to 64 KiB, half of them below 256 bytes
        size = large[number] if number < len(large) else int(2 ** chance.uniform(0, 16)) - 1
        with (place / f"{name[: 200 - len(suffix)]}{suffix}").open("xb") as file:
            for start in range(0, size, MIB):
                file.write(chance.randbytes(min(MIB, size - start)))
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
        assert kind.contents("tree") == expected, f"on {name}"

    again = deployment.json("put", tree, "/tree", "--recursive", "--require", "all")
    assert (again["bytes"], again["skipped"]) == (0, len(expected))
    for name in kinds:
        target = tmp_path / f"from {name}"
        got = deployment.json("get", "/tree", target, "--recursive", "--from", name)
        assert (got["files"], got["failed"]) == (len(expected), []), f"from {name}"
        assert contents(target) == expected, f"from {name}"
        assert times(target) == times(tree), f"from {name}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_thousand_files_are_the_same_on_every_kind(
    deployment: Deployment, kinds: dict[str, Kind], tmp_path: Path, folder: str
) -> None:
    tree = _make_large_tree(tmp_path / "tree")
    expected = contents(tree)
    assert len(expected) == FILES
    put = ("put", tree, folder, "--recursive", "--require", "all", "--output", "json")
    begin = time.monotonic()
    report = deployment.cdir(*put, within=1500).json
    print(f"put in {time.monotonic() - begin:.0f} s; most memory, in MiB:")
    for process, peak in deployment.peak_memory().items():
        print(f"{peak // MIB:6} {process}")
    assert (report["files"], report["failed"], report["owed"]) == (FILES, [], 0)
    for name, kind in kinds.items():
        assert kind.contents(folder[1:]) == expected, f"on {name}"
    again = deployment.cdir(*put, within=600).json
    assert (again["bytes"], again["skipped"]) == (0, FILES)
    for process, peak in deployment.peak_memory().items():
        assert peak < MEMORY_LIMIT, f"{process} had {peak // MIB} MiB resident"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", KINDS)
def test_a_kind_that_goes_away_during_a_put_is_healed(
    deployment: Deployment, kinds: dict[str, Kind], tmp_path: Path, folder: str, name: str
) -> None:
    kind = kinds[name]
    source = make_files(tmp_path / "source", 250, 20_000)
    (source / "large.bin").write_bytes(random.Random(5).randbytes(30 * MIB))
    expected = contents(source)
    running = deployment.begin("put", source, folder, "--recursive", "--output", "json")
    try:
        eventually(lambda: kind.holds(folder[1:]), within=120, pause=0.05)
        kind.leave()
        try:
            said, _ = running.communicate(timeout=300)
            report = json.loads(said)
            assert (running.returncode, report["files"], report["failed"]) == (3, len(expected), [])
            got = deployment.json("get", folder, tmp_path / "back", "--recursive")
            assert (got["files"], got["failed"]) == (len(expected), [])
            assert deployment.owed(folder) > 0
        finally:
            kind.come_back()
    finally:
        running.kill()
        running.wait()
    deployment.wait_settled(within=240)
    assert kind.contents(folder[1:]) == expected


def test_what_was_seen_when_a_kind_was_added_is_shown(deployment: Deployment, kinds: dict[str, Kind]) -> None:
    for name in kinds:
        shown = deployment.cdir("provider", "show", name).text
        assert "write_unknown_size" in shown
        assert "passed" in deployment.cdir("provider", "check", name).text
