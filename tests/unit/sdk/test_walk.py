"""The walk of a local tree: order, what is found, what is refused."""

import os
import socket
import tempfile
import unicodedata
from pathlib import Path

import pytest

from cdir import errors
from cdir.model import Failed
from cdir.walk import Found, FoundKind, batched_walk, walk


def _tree(root: Path, *files: str) -> None:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def _found(root: Path, target: str = "/t") -> list[Found]:
    return [item for item in walk(str(root), target) if isinstance(item, Found)]


def _failed(root: Path, target: str = "/t") -> list[Failed]:
    return [item for item in walk(str(root), target) if isinstance(item, Failed)]


def test_everything_is_found_in_the_order_of_listings(tmp_path: Path) -> None:
    _tree(tmp_path, "a/x", "a b/y", "a!/z", "a/b/c", "ab", "z", "a.txt", "é/f")
    keys = [item.key for item in _found(tmp_path)]
    assert keys == sorted(keys, key=lambda key: (key[0].encode(), key[1].encode()))
    files = {item.path for item in _found(tmp_path) if item.kind is FoundKind.FILE}
    assert files == {"/t/a/x", "/t/a b/y", "/t/a!/z", "/t/a/b/c", "/t/ab", "/t/z", "/t/a.txt", "/t/é/f"}


def test_a_file_comes_with_its_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    os.utime(tmp_path / "f", ns=(0, 1_700_000_000_123_456_789))
    (found,) = _found(tmp_path)
    assert (found.size, found.modified_ns) == (5, 1_700_000_000_123_456_789)
    assert found.inode == (tmp_path / "f").stat().st_ino


def test_empty_directories_are_told_from_others(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _tree(tmp_path, "full/f")
    kinds = {item.path: item.kind for item in _found(tmp_path)}
    assert kinds["/t/empty"] is FoundKind.EMPTY_DIRECTORY
    assert kinds["/t/full"] is FoundKind.DIRECTORY


def test_links_pipes_and_sockets_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    _tree(tmp_path, "a", "z")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with tempfile.TemporaryDirectory(prefix="cdir-") as short, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{short}/s")
        os.rename(f"{short}/s", tmp_path / "socket")
        failed = {os.path.basename(item.path): item.error for item in _failed(tmp_path)}
    assert set(failed) == {"link", "loop", "pipe", "socket"}
    assert all(isinstance(error, errors.Unsupported) for error in failed.values())
    assert "symbolic link" in failed["link"].message
    assert "named pipe" in failed["pipe"].message
    assert "socket" in failed["socket"].message
    assert {item.basename for item in _found(tmp_path)} == {"a", "z"}


def test_names_become_normal_form_c(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "café")
    _tree(tmp_path, decomposed)
    (found,) = _found(tmp_path)
    assert found.basename == "café"
    assert os.path.basename(found.local) == decomposed


def test_of_two_names_with_one_normal_form_the_second_is_refused(tmp_path: Path) -> None:
    _tree(tmp_path, "café", unicodedata.normalize("NFD", "café"))
    if len(os.listdir(tmp_path)) < 2:
        pytest.skip("capability: this file system does not tell the two apart")
    assert len(_found(tmp_path)) == 1
    (failed,) = _failed(tmp_path)
    assert isinstance(failed.error, errors.InvalidPath)


def test_a_name_that_is_not_utf8_is_refused_in_printable_words(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff")).write_text("x")
    _tree(tmp_path, "good")
    (failed,) = _failed(tmp_path)
    assert isinstance(failed.error, errors.InvalidPath)
    failed.path.encode()
    failed.error.message.encode()
    assert [item.basename for item in _found(tmp_path)] == ["good"]


@pytest.mark.parametrize("name", [".cdir", "@team"])
def test_reserved_names_are_refused_at_the_top_only(tmp_path: Path, name: str) -> None:
    _tree(tmp_path, f"{name}/f")
    assert _found(tmp_path, "/") == []
    assert isinstance(_failed(tmp_path, "/")[0].error, errors.InvalidPath)
    assert {item.path for item in _found(tmp_path, "/t")} == {f"/t/{name}", f"/t/{name}/f"}


def test_a_path_too_long_for_providers_is_refused(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(6):
        deep = deep / ("d" * 200)
    deep.mkdir(parents=True)
    (deep / "f").write_text("x")
    failed = _failed(tmp_path)
    assert failed
    assert all(isinstance(item.error, errors.InvalidPath) for item in failed)


@pytest.mark.skipif(os.geteuid() == 0, reason="capability: root may read everything")
def test_a_directory_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    _tree(tmp_path, "closed/f", "open/f")
    (tmp_path / "closed").chmod(0)
    try:
        (failed,) = _failed(tmp_path)
        assert isinstance(failed.error, errors.PermissionDenied)
        assert "/t/open/f" in {item.path for item in _found(tmp_path)}
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_a_root_that_is_gone_is_one_failure(tmp_path: Path) -> None:
    (failed,) = _failed(tmp_path / "nothing")
    assert isinstance(failed.error, errors.NotFound)


async def test_the_batched_walk_yields_the_same(tmp_path: Path) -> None:
    _tree(tmp_path, *(f"d{number % 7}/f{number}" for number in range(1200)))
    batched = [item async for item in batched_walk(str(tmp_path), "/t")]
    assert batched == list(walk(str(tmp_path), "/t"))
    assert len(batched) == 1207
