"""The client against a real daemon: each method does what it says and raises what it says."""

import asyncio
import hashlib
import importlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import cdir
from cdir import blocking, errors
from cdir.model import ChangeKind, EntryKind, ProviderState, ReplicaState
from cdir.syncing import Deletion, Limit
from servers.embedded import Embedded


async def test_both_ways_to_connect(embedded: Embedded) -> None:
    async with cdir.connect(embedded.address) as client:
        assert client.server.deployment == "embedded"
    client = await cdir.connect(embedded.address)
    async with client:
        assert client.server.process_id > 0
    await client.close()


async def test_nobody_answers() -> None:
    with pytest.raises(errors.ProviderUnavailable, match="cdir up"):
        await cdir.connect("unix:/nowhere/at/all.sock")


async def test_what_is_written_is_read(client: cdir.Client, folder: str) -> None:
    outcome = await client.write(f"{folder}/a.txt", b"hello", modified_ns=1_700_000_000_123_456_789)
    assert outcome.entry.generation == 1
    assert outcome.entry.sha256 == hashlib.sha256(b"hello").hexdigest()
    assert sorted(outcome.stored) == ["one", "three", "two"]
    assert outcome.owed == ()
    assert await client.read(f"{folder}/a.txt") == b"hello"
    entry = await client.stat(f"{folder}/a.txt")
    assert (entry.size, entry.kind, entry.modified_ns) == (5, EntryKind.FILE, 1_700_000_000_123_456_789)


async def test_ranges(client: cdir.Client, folder: str) -> None:
    await client.write(f"{folder}/a", b"0123456789")
    assert await client.read(f"{folder}/a", offset=3, length=4) == b"3456"
    assert await client.read(f"{folder}/a", offset=8) == b"89"
    assert await client.read(f"{folder}/a", length=0) == b""
    with pytest.raises(errors.RangeNotSatisfied):
        await client.read(f"{folder}/a", offset=11)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1, (4 << 20) + 1, 9 << 20])
async def test_pieces_of_any_size(client: cdir.Client, folder: str, size: int) -> None:
    content = os.urandom(size)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 1_500_000):
            yield content[start : start + 1_500_000]

    outcome = await client.write(f"{folder}/big", pieces())
    assert outcome.entry.sha256 == hashlib.sha256(content).hexdigest()
    assert await client.read(f"{folder}/big") == content


async def test_a_local_file(client: cdir.Client, folder: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"local")
    os.utime(tmp_path / "f", ns=(0, 1_600_000_000_000_000_000))
    outcome = await client.write(f"{folder}/f", tmp_path / "f")
    assert outcome.entry.modified_ns == 1_600_000_000_000_000_000
    with pytest.raises(errors.NotFound):
        await client.write(f"{folder}/f", tmp_path / "missing")


async def test_a_source_that_fails_midway_stores_nothing(client: cdir.Client, folder: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"some"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await client.write(f"{folder}/torn", pieces())
    assert await client.find(f"{folder}/torn") is None


async def test_a_write_that_is_cancelled_stores_nothing(client: cdir.Client, folder: str) -> None:
    begun = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"some"
        begun.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(client.write(f"{folder}/torn", pieces()))
    await begun.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await client.find(f"{folder}/torn") is None
    await client.write(f"{folder}/after", b"the connection still works")


async def test_a_stale_generation_does_not_overwrite(client: cdir.Client, folder: str) -> None:
    path = f"{folder}/a"
    await client.write(path, b"1", base_generation=0)
    await client.write(path, b"2", base_generation=1)
    for stale in (0, 1):
        with pytest.raises(errors.Conflict):
            await client.write(path, b"late", base_generation=stale)
    assert await client.read(path) == b"2"
    assert [version.generation for version in await client.versions(path)] == [2, 1]
    assert await client.read(path, generation=1) == b"1"


async def test_leaving_a_read_early_is_fine(client: cdir.Client, folder: str) -> None:
    await client.write(f"{folder}/big", bytes(8 << 20))
    async for piece in client.open_read(f"{folder}/big"):
        assert piece
        break
    assert len(await client.read(f"{folder}/big")) == 8 << 20


async def test_listing(client: cdir.Client, folder: str) -> None:
    for name in ("b/x", "a", "b c/y", "b/z/deep"):
        await client.write(f"{folder}/{name}", b"")
    assert [entry.name async for entry in client.list(folder)] == ["a", "b", "b c"]
    paths = [entry.path.removeprefix(folder) async for entry in client.list(folder, recursive=True, page_size=2)]
    assert paths == ["/a", "/b", "/b c", "/b/x", "/b/z", "/b c/y", "/b/z/deep"]
    pages = [page async for page in client.pages(folder, recursive=True, page_size=5, first_page=1)]
    assert [len(page) for page in pages] == [1, 5, 1]
    assert [entry.path.removeprefix(folder) for page in pages for entry in page] == paths
    assert [entry.path async for entry in client.list(f"{folder}/a")] == [f"{folder}/a"]
    with pytest.raises(errors.NotFound):
        _ = [entry async for entry in client.list(f"{folder}/nothing")]


async def test_searching(client: cdir.Client, folder: str) -> None:
    for name in ("Report.TXT", "d/report-2.txt", "other"):
        await client.write(f"{folder}/{name}", b"")
    found = {entry.name async for entry in client.search("report", folder, page_size=1)}
    assert found == {"Report.TXT", "report-2.txt"}
    assert [entry.name async for entry in client.search("*.txt", f"{folder}/d")] == ["report-2.txt"]


async def test_directories(client: cdir.Client, folder: str) -> None:
    assert await client.make_directory(f"{folder}/a/b")
    assert not await client.make_directory(f"{folder}/a/b")
    assert (await client.stat(f"{folder}/a")).is_directory
    await client.write(f"{folder}/file", b"")
    with pytest.raises(errors.NotDirectory):
        await client.make_directory(f"{folder}/file/below")
    with pytest.raises(errors.IsDirectory):
        await client.read(f"{folder}/a")


async def test_moving(client: cdir.Client, folder: str) -> None:
    await client.write(f"{folder}/a", b"a")
    await client.write(f"{folder}/b", b"b")
    with pytest.raises(errors.AlreadyExists):
        await client.move(f"{folder}/a", f"{folder}/b")
    moved = await client.move(f"{folder}/a", f"{folder}/b", overwrite=True)
    assert moved.path == f"{folder}/b"
    assert await client.read(f"{folder}/b") == b"a"
    assert await client.find(f"{folder}/a") is None
    with pytest.raises(errors.NotFound):
        await client.move(f"{folder}/a", f"{folder}/c")
    with pytest.raises(errors.InvalidArgument):
        await client.move(f"{folder}/b", "@team/b")


async def test_copying(client: cdir.Client, folder: str) -> None:
    for name in ("x", "d/y"):
        await client.write(f"{folder}/a/{name}", name.encode())
    outcomes = [outcome async for outcome in client.copy(f"{folder}/a", f"{folder}/b", recursive=True)]
    assert {outcome.path for outcome in outcomes} == {f"{folder}/b/x", f"{folder}/b/d/y"}
    assert await client.read(f"{folder}/b/d/y") == b"d/y"
    again = [outcome async for outcome in client.copy(f"{folder}/a", f"{folder}/b", recursive=True)]
    assert all(isinstance(outcome.error, errors.AlreadyExists) for outcome in again)
    with pytest.raises(errors.IsDirectory):
        _ = [outcome async for outcome in client.copy(f"{folder}/a", f"{folder}/c")]


async def test_removing(client: cdir.Client, folder: str) -> None:
    for name in ("x", "d/y"):
        await client.write(f"{folder}/{name}", b"")
    with pytest.raises(errors.DirectoryNotEmpty):
        await client.remove(folder)
    with pytest.raises(errors.Conflict):
        await client.remove(f"{folder}/x", if_generation=7)
    assert await client.remove(f"{folder}/x", if_generation=1) == 1
    assert await client.remove(folder, recursive=True) == 1
    with pytest.raises(errors.NotFound):
        await client.remove(folder)


async def test_status_and_explanation(client: cdir.Client, folder: str) -> None:
    await client.write(f"{folder}/a", b"12345")
    status = await client.file_status(f"{folder}/a")
    assert [replica.provider for replica in status.replicas] == ["one", "three", "two"]
    assert {replica.state for replica in status.replicas} == {ReplicaState.OK}
    assert status.replicas[0].key == f"{folder}/a"[1:]
    tree = await client.tree_status(folder)
    assert (tree.files, tree.bytes, tree.owed) == (1, 5, 0)
    assert {provider.name: provider.files for provider in tree.providers} == {"one": 1, "two": 1, "three": 1}
    explanation = await client.explain(f"{folder}/new")
    assert {reason.provider for reason in explanation.reasons if reason.chosen} == {"one", "two", "three"}


async def test_policies(client: cdir.Client, folder: str) -> None:
    await client.make_directory(folder)
    own, effective = await client.policy(folder)
    assert own is None
    assert effective.keep_versions == 10
    assert (await client.set_policy(folder, cdir.Policy(copies=1, providers=("two",)))).copies == 1
    outcome = await client.write(f"{folder}/a", b"")
    assert outcome.stored == ("two",)
    await client.unset_policy(folder)
    assert (await client.policy(folder))[0] is None
    with pytest.raises(errors.NotFound):
        await client.unset_policy(folder)


async def test_watching(client: cdir.Client, folder: str) -> None:
    async def follow() -> list[tuple[ChangeKind, str]]:
        seen = []
        async for change in client.watch(folder, after_revision=0):
            seen.append((change.kind, change.path.removeprefix(folder)))
            if change.kind is ChangeKind.REMOVED:
                break
        return seen

    following = asyncio.create_task(follow())
    await client.write("/elsewhere", b"")
    await client.write(f"{folder}/a", b"")
    await client.move(f"{folder}/a", f"{folder}/b")
    await client.remove(f"{folder}/b")
    async with asyncio.timeout(60):
        seen = await following
    assert seen[-3:] == [(ChangeKind.WRITTEN, "/a"), (ChangeKind.MOVED, "/b"), (ChangeKind.REMOVED, "/b")]


async def test_providers(client: cdir.Client, embedded: Embedded, tmp_path: Path) -> None:
    kinds = {kind.kind: kind for kind in await client.providers.kinds()}
    assert [option.name for option in kinds["local"].options if option.required] == ["root"]
    added = await client.providers.add("four", "local", {"root": str(tmp_path / "four")}, location="shelf", priority=7)
    try:
        assert (added.location, added.priority, added.state) == ("shelf", 7, ProviderState.UP)
        with pytest.raises(errors.AlreadyExists):
            await client.providers.add("four", "local", {"root": str(tmp_path / "other")})
        assert (await client.providers.pause("four")).state is ProviderState.PAUSED
        assert (await client.providers.resume("four")).state is not ProviderState.PAUSED
        assert (await client.providers.update("four", cost="free")).cost == "free"
        assert [result.outcome async for result in client.providers.check("four")] == ["passed"]
        assert "four" in {usage.name for usage in await client.providers.usage()}
        assert (await client.providers.list())[0].name == "four"
    finally:
        await client.providers.remove("four", force=True)
    with pytest.raises(errors.NotFound):
        await client.providers.get("four")


def test_the_blocking_client(embedded: Embedded, folder: str) -> None:
    with cdir.connect_blocking(embedded.address) as client:
        client.write(f"{folder}/a", b"hello")
        client.write(f"{folder}/b", (piece for piece in (b"hel", b"lo")))
        assert client.read(f"{folder}/b") == b"hello"
        assert [entry.name for entry in client.list(folder)] == ["a", "b"]
        for entry in client.list(folder):
            assert entry.name == "a"
            break
        assert b"".join(client.open_read(f"{folder}/a")) == b"hello"
        assert {info.name for info in client.providers.list()} == {"one", "two", "three"}
        with pytest.raises(errors.NotFound):
            client.stat(f"{folder}/c")
    client.close()


def test_the_blocking_client_reaches_providers_past_the_directory_and_syncs(
    embedded: Embedded, folder: str, tmp_path: Path
) -> None:
    place = f"one:{folder[1:]}-there"
    with cdir.connect_blocking(embedded.address) as client:
        assert client.endpoints.write(f"{place}/a", b"hello").size == 5
        client.endpoints.write(f"{place}/b", (piece for piece in (b"hel", b"lo")))
        assert b"".join(client.endpoints.read(f"{place}/b")) == b"hello"
        assert client.endpoints.stat(f"{place}/a").size == 5
        assert {found.name for found in client.endpoints.list(place)} == {"a", "b"}
        assert [placed.error for placed in client.endpoints.copy(f"{place}/a", f"{folder}/a")] == [None]
        (tmp_path / "c").write_bytes(b"c")
        report = client.sync(f"file:{tmp_path}", f"cdir:{folder}", delete=Deletion(Limit.parse("1")))
        assert (report.transfer.files, report.removal.files) == (1, 1)
        assert [[entry.name for entry in page] for page in client.pages(folder)] == [["c"]]
        assert client.unset_acl(f"{folder}/c").acl is None
        assert client.vault.status().keys[0].held
        assert client.vault.forget(dry_run=True).keys == ()
        assert sum(len(one.removed) + len(one.refused) for one in client.endpoints.remove(place, recursive=True)) == 2


@pytest.mark.parametrize("name", ["Client", "History", "Recovery", "Providers", "Endpoints", "Vault"])
def test_the_blocking_client_has_every_public_method(name: str) -> None:
    there = getattr(importlib.import_module(f"cdir.{name.lower()}"), name)
    here = getattr(blocking, f"Blocking{name}")
    assert {one for one in dir(there) if not one.startswith("_")} <= set(dir(here))
