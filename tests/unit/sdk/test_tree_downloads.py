from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from cdir.errors import CdirError, IntegrityError, InvalidArgument, InvalidPath, IsDirectory, NotDirectory
from cdir.tree_downloads import TakenIn, TreeTarget
from cdir.v1 import directory_service_pb2 as pb
from cdir.v1 import entry_pb2

MODIFIED_NS = 1_700_000_000_123_456_000


def item(path: str, content: bytes | None, **fields: Any) -> pb.TreeItem:
    """A file that came whole, or a directory if there is no content."""
    if content is None:
        return pb.TreeItem(entry=entry_pb2.Entry(path=path, kind=entry_pb2.ENTRY_KIND_DIRECTORY))
    entry = entry_pb2.Entry(
        path=path, kind=entry_pb2.ENTRY_KIND_FILE, size=len(content), sha256=hashlib.sha256(content).digest()
    )
    entry.modified.FromNanoseconds(MODIFIED_NS)
    return pb.TreeItem(entry=entry, **{"data": content, "whole": True, **fields})


def make_directory(local: str) -> None:
    try:
        os.makedirs(local, exist_ok=True)
    except FileExistsError as error:
        raise NotDirectory(local) from error


def take(root: Path, items: list[pb.TreeItem], path: str = "/t") -> list[TakenIn]:
    return TreeTarget(path, str(root), make_directory).take(items)


@pytest.mark.parametrize("path", ["/t", "/"])
def test_a_tree_is_taken_in_whatever_comes_first(tmp_path: Path, path: str) -> None:
    top = path.rstrip("/")
    items = [item(f"{top}/a/b/c", b"x"), item(f"{top}/a", None), item(f"{top}/empty", None), item(f"{top}/d", b"")]
    taken = take(tmp_path, items, path)
    assert [(one.local, one.stored, one.error) for one in taken] == [
        (str(tmp_path / "a/b/c"), True, None),
        (str(tmp_path / "a"), False, None),
        (str(tmp_path / "empty"), False, None),
        (str(tmp_path / "d"), True, None),
    ]
    assert (tmp_path / "a/b/c").read_bytes() == b"x"
    assert (tmp_path / "d").stat().st_mtime_ns == MODIFIED_NS
    assert sorted(os.listdir(tmp_path)) == ["a", "d", "empty"]


def test_what_came_without_content_is_to_be_fetched(tmp_path: Path) -> None:
    (taken,) = take(tmp_path, [item("/t/a/large", b"x", data=b"", whole=False)])
    assert (taken.local, taken.stored, taken.error) == (str(tmp_path / "a/large"), False, None)
    assert os.listdir(tmp_path / "a") == []


@pytest.mark.parametrize(
    ("path", "fields", "error"),
    [
        ("/t/file", {"data": b"y"}, IntegrityError),
        ("/t/file", {"data": b"xx"}, IntegrityError),
        ("/t/../file", {}, InvalidPath),
        ("/t/n\0l", {}, InvalidPath),
        ("/t/in the way", {}, IsDirectory),
        ("/t/a file/below", {}, NotDirectory),
        (f"/t/{'n' * 300}", {}, InvalidArgument),
    ],
)
def test_one_that_fails_leaves_nothing_and_the_rest_goes_on(
    tmp_path: Path, path: str, fields: dict[str, Any], error: type[CdirError]
) -> None:
    (tmp_path / "t" / "in the way").mkdir(parents=True)
    (tmp_path / "t" / "a file").touch()
    failed, other = take(tmp_path / "t", [item(path, b"x", **fields), item("/t/other", b"x")])
    assert isinstance(failed.error, error)
    assert (failed.stored, other.stored) == (False, True)
    assert sorted(os.listdir(tmp_path / "t")) == ["a file", "in the way", "other"]
    assert os.listdir(tmp_path) == ["t"]


def test_more_directories_than_are_remembered(tmp_path: Path) -> None:
    target = TreeTarget("/t", str(tmp_path), make_directory)
    for _ in range(2):
        assert all(one.error is None for one in target.take(item(f"/t/{n}/f", b"x") for n in range(1001)))
    assert len(os.listdir(tmp_path)) == 1001
