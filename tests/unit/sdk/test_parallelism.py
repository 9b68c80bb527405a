"""How many files go at once: what was asked for, within what helps and what may be open."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from cdir.parallelism import bounded


@pytest.fixture
def open_files() -> Iterator[None]:
    """Gives the limit of open files back as it was."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def limit(files: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@pytest.mark.usefixtures("open_files")
def test_it_is_bounded_by_what_helps_and_by_open_files() -> None:
    limit(1024)
    assert bounded(8) == (8, "")
    assert bounded(10_000).files == bounded(10**30).files == 64
    assert "provider" in bounded(10_000).reason
    limit(256)
    assert 8 < bounded(10_000).files < 64
    assert "256 files open" in bounded(10_000).reason
    assert bounded(bounded(10_000).files).reason == ""


@pytest.mark.parametrize("asked", [0, -5, 1])
def test_one_file_always_goes(asked: int) -> None:
    assert bounded(asked) == (1, "")
