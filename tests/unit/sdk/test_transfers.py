"""Putting and getting trees against a real daemon: local files read by the gateway itself, and bytes over the wire."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import cdir
from cdir import errors
from cdir.connection import Connection
from cdir.progress import Progress
from servers.embedded import Embedded


@pytest.fixture(params=["local files", "streamed"])
async def client(embedded: Embedded, request: pytest.FixtureRequest) -> AsyncIterator[cdir.Client]:
    async with cdir.connect(embedded.address) as connected:
        if request.param == "local files":
            yield connected
            return
    async with cdir.Client(_Remote(embedded.address)) as connected:
        await connected.connection.open()
        yield connected


class _Remote(Connection):
    """A connection that does not make use of sharing the disk with the gateway, as from another machine."""

    async def open(self) -> None:
        await super().open()
        import dataclasses

        self._server = dataclasses.replace(self.server, local_files=False)


def _write(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def _read(root: Path) -> dict[str, bytes]:
    return {
        os.path.relpath(os.path.join(directory, name), root): Path(directory, name).read_bytes()
        for directory, _, names in os.walk(root)
        for name in names
    }


async def _eventually(holds: Callable[[], bool]) -> None:
    for _ in range(1200):
        if holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("not within a minute")


def _files() -> dict[str, bytes]:
    return {
        **{f"many/f{number:03}": f"{number}\n".encode() for number in range(300)},
        "many deep/a b/c!/d": b"deep",
        "empty": b"",
        "one mebibyte": os.urandom(1 << 20),
        "three mebibytes": os.urandom(3 << 20),
        "large": os.urandom((9 << 20) + 1),
        "larger": os.urandom(17 << 20),
        "ünïcode/名前": b"name",
    }


async def test_a_tree_there_and_back(client: cdir.Client, folder: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    files = _files()
    _write(source, files)
    (source / "nothing in here").mkdir()

    report = await client.put(source, folder, recursive=True)
    assert (report.files, report.skipped, report.failed, report.owed) == (len(files), 0, (), 0)
    assert report.bytes == sum(map(len, files.values()))
    assert (await client.stat(f"{folder}/nothing in here")).is_directory

    again = await client.put(source, folder, recursive=True)
    assert (again.files, again.skipped, again.failed) == (0, len(files), ())

    fetched = await client.get(folder, target, recursive=True)
    assert (fetched.files, fetched.bytes, fetched.failed) == (len(files), report.bytes, ())
    assert _read(target) == files
    assert (target / "nothing in here").is_dir()
    for name in files:
        assert (target / name).stat().st_mtime_ns // 1000 == (source / name).stat().st_mtime_ns // 1000

    once_more = await client.get(folder, target, recursive=True)
    assert (once_more.files, once_more.skipped) == (0, len(files))


async def test_only_what_changed_is_sent(client: cdir.Client, folder: str, tmp_path: Path) -> None:
    _write(tmp_path, {"a": b"1", "b": b"2", "c": b"3"})
    await client.put(tmp_path, folder, recursive=True)
    (tmp_path / "b").write_bytes(b"22")
    os.utime(tmp_path / "c", ns=(0, 1_500_000_000_000_000_000))
    report = await client.put(tmp_path, folder, recursive=True)
    assert (report.files, report.skipped) == (2, 1)
    assert await client.read(f"{folder}/b") == b"22"
    assert (await client.stat(f"{folder}/b")).generation == 2


async def test_what_cannot_be_stored_is_named_and_the_rest_goes_on(
    client: cdir.Client, folder: str, tmp_path: Path
) -> None:
    _write(tmp_path, {"a": b"a", "z": b"z"})
    (tmp_path / "link").symlink_to("a")
    os.mkfifo(tmp_path / "pipe")
    report = await client.put(tmp_path, folder, recursive=True)
    assert report.files == 2
    assert {os.path.basename(failed.path) for failed in report.failed} == {"link", "pipe"}
    assert all(isinstance(failed.error, errors.Unsupported) for failed in report.failed)
    assert [entry.name async for entry in client.list(folder)] == ["a", "z"]


async def test_where_files_go(client: cdir.Client, folder: str, tmp_path: Path) -> None:
    _write(tmp_path, {"a": b"a", "b": b"b", "d/c": b"c", "e/c": b"e"})
    await client.put(tmp_path / "a", f"{folder}/renamed")
    await client.put(tmp_path / "a", f"{folder}/new/")
    await client.put(tmp_path / "b", f"{folder}/new")
    await client.put([tmp_path / "a", tmp_path / "b"], f"{folder}/several")
    await client.put(tmp_path / "d", f"{folder}/contents", recursive=True)
    await client.put([tmp_path / "d", tmp_path / "e"], f"{folder}/both", recursive=True)
    assert {
        entry.path.removeprefix(folder)
        async for entry in client.list(folder, recursive=True)
        if not entry.is_directory
    } == {
        "/renamed", "/new/a", "/new/b", "/several/a", "/several/b", "/contents/c", "/both/d/c", "/both/e/c",
    }  # fmt: skip

    back = tmp_path / "back"
    back.mkdir()
    await client.get(f"{folder}/renamed", back / "as")
    await client.get(f"{folder}/renamed", back)
    await client.get([f"{folder}/new/a", f"{folder}/new/b"], back / "several")
    await client.get(f"{folder}/contents", back / "contents", recursive=True)
    await client.get([f"{folder}/both/d", f"{folder}/both/e"], back / "both", recursive=True)
    assert set(_read(back)) == {
        "as", "renamed", "several/a", "several/b", "contents/c", "both/d/c", "both/e/c",
    }  # fmt: skip


async def test_sources_that_make_no_sense_are_refused_before_anything_is_sent(
    client: cdir.Client, folder: str, tmp_path: Path
) -> None:
    _write(tmp_path, {"a": b"a", "d/c": b"c"})
    with pytest.raises(errors.IsDirectory):
        await client.put([tmp_path / "a", tmp_path / "d"], folder)
    with pytest.raises(errors.NotFound):
        await client.put([tmp_path / "a", tmp_path / "nothing"], folder)
    await client.write(f"{folder}/file", b"")
    with pytest.raises(errors.NotDirectory):
        await client.put(tmp_path / "d", f"{folder}/file", recursive=True)
    with pytest.raises(errors.IsDirectory):
        await client.get(folder, tmp_path / "back")
    with pytest.raises(errors.NotFound):
        await client.get(f"{folder}/nothing", tmp_path)
    assert [entry.name async for entry in client.list(folder)] == ["file"]


async def test_a_link_named_as_a_source_is_followed(client: cdir.Client, folder: str, tmp_path: Path) -> None:
    _write(tmp_path, {"a": b"a"})
    (tmp_path / "link").symlink_to("a")
    await client.put(tmp_path / "link", f"{folder}/")
    assert await client.read(f"{folder}/link") == b"a"


async def test_things_in_the_way_fail_by_themselves(client: cdir.Client, folder: str, tmp_path: Path) -> None:
    _write(tmp_path / "source", {"x": b"file here", "y": b"y"})
    await client.make_directory(f"{folder}/x")
    report = await client.put(tmp_path / "source", folder, recursive=True)
    assert report.files == 1
    assert isinstance(report.failed[0].error, errors.IsDirectory)

    await client.write(f"{folder}/d/f", b"f")
    _write(tmp_path / "target", {"y/below": b"", "d": b"a file where a directory should be"})
    fetched = await client.get(folder, tmp_path / "target", recursive=True)
    assert {failed.path.removeprefix(folder) for failed in fetched.failed} == {"/y", "/d", "/d/f"}
    assert (tmp_path / "target" / "x").is_dir()


async def test_nothing_is_done_when_only_tried(client: cdir.Client, folder: str, tmp_path: Path) -> None:
    _write(tmp_path / "source", {"a": b"12", "d/b": b"345"})
    planned: list[tuple[str, str]] = []
    report = await client.put(
        tmp_path / "source", folder, recursive=True, dry_run=True, on_file=lambda *pair: planned.append(pair)
    )
    assert (report.files, report.bytes) == (2, 5)
    assert {target for _, target in planned} == {f"{folder}/a", f"{folder}/d/b"}
    assert await client.find(folder) is None
    await client.put(tmp_path / "source", folder, recursive=True)
    fetched = await client.get(folder, tmp_path / "target", recursive=True, dry_run=True)
    assert (fetched.files, fetched.bytes) == (2, 5)
    assert not (tmp_path / "target").exists()


async def test_progress_ends_at_the_totals(client: cdir.Client, folder: str, tmp_path: Path) -> None:
    files = {"a": b"1" * 1000, "large": bytes(9 << 20)}
    _write(tmp_path / "source", files)
    last: list[Progress] = []
    await client.put(tmp_path / "source", folder, recursive=True, on_progress=last.append)
    total = sum(map(len, files.values()))
    assert (last[-1].files, last[-1].bytes, last[-1].found_bytes) == (2, total, total)
    assert last[-1].complete
    assert {name: tally.stored for name, tally in last[-1].providers.items()} == {"one": 2, "two": 2, "three": 2}
    last.clear()
    await client.get(folder, tmp_path / "target", recursive=True, on_progress=last.append)
    assert (last[-1].files, last[-1].bytes) == (2, total)


@pytest.mark.parametrize("seen", [1, 2, 4, 7])
async def test_a_get_that_is_cancelled_leaves_nothing_half_written(
    client: cdir.Client, folder: str, tmp_path: Path, seen: int
) -> None:
    """Cancelled after each of the first words of progress: the pieces of a file are then on their way to the disk."""
    files = {f"f{number}": os.urandom(6 << 20) for number in range(4)}
    _write(tmp_path / "source", files)
    await client.put(tmp_path / "source", folder, recursive=True)
    begun = asyncio.Event()
    left = seen

    def on_progress(progress: Progress) -> None:
        nonlocal left
        if progress.bytes:
            left -= 1
            if not left:
                begun.set()

    getting = asyncio.create_task(client.get(folder, tmp_path / "target", recursive=True, on_progress=on_progress))
    async with asyncio.timeout(60):
        await begun.wait()
    getting.cancel()
    await asyncio.wait([getting])

    # the gateway clears its own temporary files away, soon
    await _eventually(lambda: set(os.listdir(tmp_path / "target")) <= set(files))
    assert _read(tmp_path / "target").items() <= files.items()
    report = await client.get(folder, tmp_path / "target", recursive=True)
    assert report.failed == ()
    assert _read(tmp_path / "target") == files


async def test_one_providers_copies(client: cdir.Client, folder: str, tmp_path: Path, embedded: Embedded) -> None:
    await client.write(f"{folder}/a", b"right")
    report = await client.get(f"{folder}/a", tmp_path / "a", provider="two")
    assert (report.files, (tmp_path / "a").read_bytes()) == (1, b"right")
    (embedded.folders["two"] / folder[1:] / "a").unlink()
    report = await client.get(f"{folder}/a", tmp_path / "b", provider="two")
    assert len(report.failed) == 1
    assert not (tmp_path / "b").exists()
