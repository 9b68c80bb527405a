"""A tree on three providers of different kinds: the same bytes under the same names everywhere, and back again."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from deployments.deployment import Deployment
from deployments.fixtures import Three
from deployments.trees import contents, copy_of_library, make_files, times

HUGE = os.environ.get("CDIR_TEST_HUGE") == "1"
MIB = 1024 * 1024
MEMORY_LIMIT = 256 * MIB
"""Of one process: Python, the providers' libraries, and the buffers of one large file to three providers."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_library(tmp_path_factory.mktemp("source") / "library")


@pytest.mark.timeout(600)
def test_tree_lies_under_its_own_names_everywhere_and_comes_back_the_same(
    deployment: Deployment, three: Three, library: Path, tmp_path: Path
) -> None:
    expected = contents(library)
    size = sum(path.stat().st_size for path in library.rglob("*") if path.is_file())

    first = deployment.json("put", library, "/library", "--recursive", "--require", "all")
    assert first["files"] == len(expected)
    assert first["bytes"] == size
    assert (first["skipped"], first["failed"], first["owed"]) == (0, [], 0)
    for name, root in three.roots.items():
        assert contents(root / "library") == expected, f"on {name}"

    again = deployment.json("put", library, "/library", "--recursive", "--require", "all")
    assert (again["bytes"], again["skipped"], again["failed"], again["owed"]) == (0, len(expected), [], 0)

    got = deployment.json("get", "/library", tmp_path / "library", "--recursive")
    assert (got["files"], got["bytes"], got["failed"]) == (len(expected), size, [])
    assert contents(tmp_path / "library") == expected
    assert times(tmp_path / "library") == times(library)


def test_each_provider_can_be_read_alone(deployment: Deployment, three: Three, tmp_path: Path, folder: str) -> None:
    source = tmp_path / "one.txt"
    source.write_bytes(random.Random(2).randbytes(100_000))
    deployment.cdir("put", source, f"{folder}/one.txt", "--require", "all")
    for name in three.roots:
        target = tmp_path / f"from-{name}"
        deployment.cdir("get", f"{folder}/one.txt", target, "--from", name)
        assert target.read_bytes() == source.read_bytes()


@pytest.mark.timeout(3600 if HUGE else 300)
def test_memory_does_not_grow_with_the_file(deployment: Deployment, three: Three, tmp_path: Path, folder: str) -> None:
    size = 8 * 1024 * MIB if HUGE else 64 * MIB
    source = tmp_path / "large.bin"
    block = random.Random(3).randbytes(MIB)
    with source.open("wb") as file:
        for number in range(size // MIB):
            file.write(number.to_bytes(8, "big") + block[8:])

    within = 1500.0 if HUGE else 120.0
    deployment.cdir("put", source, f"{folder}/large.bin", "--require", "all", within=within)
    for root in three.roots.values():
        assert same_bytes(root / folder[1:] / "large.bin", source)
    target = tmp_path / "back.bin"
    deployment.cdir("get", f"{folder}/large.bin", target, within=within)
    assert same_bytes(target, source)
    for process, peak in deployment.peak_memory().items():
        assert peak < MEMORY_LIMIT, f"{process} had {peak // MIB} MiB resident"


def test_memory_does_not_grow_with_the_number_of_files(
    deployment: Deployment, three: Three, tmp_path: Path, folder: str
) -> None:
    source = make_files(tmp_path / "source", 200, 180_000)
    deployment.cdir("put", source, folder, "--recursive", "--require", "all")
    assert contents(three.roots["host"] / folder[1:]) == contents(source)
    deployment.cdir("get", folder, tmp_path / "back", "--recursive")
    assert contents(tmp_path / "back") == contents(source)
    for process, peak in deployment.peak_memory().items():
        assert peak < MEMORY_LIMIT, f"{process} had {peak // MIB} MiB resident"


def same_bytes(one: Path, other: Path) -> bool:
    """Compare two files without holding either in memory."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as left, other.open("rb") as right:
        return all(left.read(MIB) == right.read(MIB) for _ in range(one.stat().st_size // MIB + 1))
