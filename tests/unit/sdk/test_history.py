"""History through the client, with and without asyncio."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import cdir
from cdir import errors
from cdir.model import OnConflict
from servers.embedded import Embedded


async def test_restoring_as_of_a_time(client: cdir.Client, folder: str) -> None:
    await client.write(f"{folder}/a", b"one")
    await client.write(f"{folder}/b", b"one")
    then = datetime.now(UTC)
    await client.write(f"{folder}/a", b"two")
    await client.remove(f"{folder}/b")
    planned = [one async for one in client.history.restore(folder, at=then, recursive=True, dry_run=True)]
    assert sorted(one.path for one in planned) == [f"{folder}/a", f"{folder}/b"]
    assert all(one.stored is None and one.error is None for one in planned)
    restored = {one.path: one async for one in client.history.restore(folder, at=then, recursive=True)}
    outcome = restored[f"{folder}/a"]
    assert outcome.stored is not None
    assert (outcome.generation, outcome.size, outcome.stored.entry.generation) == (1, 3, 3)
    assert await client.read(f"{folder}/b") == b"one"
    with pytest.raises(errors.InvalidArgument, match="future"):
        [one async for one in client.history.restore(folder, at=then + timedelta(days=1), recursive=True)]


async def test_the_trash_page_by_page(client: cdir.Client, folder: str) -> None:
    for name in "abc":
        await client.write(f"{folder}/{name}", name.encode())
        await client.remove(f"{folder}/{name}")
    found = [one async for one in client.history.trash(folder, page_size=1)]
    assert [one.path for one in found] == [f"{folder}/{name}" for name in "abc"]
    assert all(one.version.size == 1 and one.removed_at < one.expires_at for one in found)
    assert await client.history.empty_trash(f"{folder}/a") == 1
    assert [one.path async for one in client.history.trash(folder)] == [f"{folder}/b", f"{folder}/c"]


async def test_a_losing_write_is_kept_when_asked(client: cdir.Client, folder: str) -> None:
    path = f"{folder}/a.txt"
    await client.write(path, b"first", base_generation=0)
    with pytest.raises(errors.Conflict):
        await client.write(path, b"second", base_generation=0)
    outcome = await client.write(path, b"second", base_generation=0, on_conflict=OnConflict.KEEP_COPY)
    assert outcome.conflict_of == path
    assert outcome.entry.path.startswith(f"{folder}/a (conflicting copy")
    (kept,) = [one async for one in client.history.conflicts(folder)]
    assert (kept.path, kept.conflict_of) == (outcome.entry.path, path)
    assert (await client.tree_status(folder)).conflicts == 1


async def test_a_put_tells_of_what_it_kept_beside(
    embedded: Embedded, client: cdir.Client, folder: str, tmp_path: Path
) -> None:
    """The file is changed by somebody else after the put has compared it and before it is sent."""
    path = f"{folder}/a"
    (tmp_path / "a").write_bytes(b"mine")
    await client.write(path, b"before")
    with cdir.connect_blocking(embedded.address) as other:

        def theirs(content: bytes) -> Callable[[str, str], None]:
            def write(_source: str, target: str) -> None:
                other.write(target, content)

            return write

        report = await client.put(
            tmp_path / "a",
            path,
            on_conflict=OnConflict.KEEP_COPY,
            on_file=theirs(b"theirs"),
        )
        refused = await client.put(tmp_path / "a", path, on_file=theirs(b"theirs 2"))
    assert (report.files, report.failed) == (1, ())
    (kept,) = report.conflicts
    assert kept.path == path
    assert await client.read(kept.kept_as) == b"mine"
    assert [type(failed.error) for failed in refused.failed] == [errors.Conflict]
    assert await client.read(path) == b"theirs 2"


def test_without_asyncio(embedded: Embedded, folder: str) -> None:
    with cdir.connect_blocking(embedded.address) as client:
        client.write(f"{folder}/a", b"one")
        client.remove(f"{folder}/a")
        assert [one.path for one in client.history.trash(folder)] == [f"{folder}/a"]
        assert [one.path for one in client.history.restore(f"{folder}/a")] == [f"{folder}/a"]
        assert client.read(f"{folder}/a") == b"one"
        assert client.history.empty_trash(folder) == 0
        assert list(client.history.conflicts(folder)) == []
