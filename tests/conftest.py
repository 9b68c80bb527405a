"""What holds for every test: how much Hypothesis tries, what CI may skip, where a home may lie."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

# Asserts of this package too explain what they compared.
pytest.register_assert_rewrite("deployments")

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

ALLOWED_SKIP = "capability"
"""A skip whose reason begins so was chosen by what a provider can do, not by what this machine lacks."""

hypothesis.settings.register_profile("dev", max_examples=50, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("nightly", max_examples=2_000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if IN_CI else "dev"))


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty folder for one cdir home: its path is short enough for the Unix sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="cdir-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make ``slow`` what is ``slow_split`` and would run on the split deployment."""
    for item in items:
        chosen = getattr(item, "callspec", None)
        if chosen is not None and "split" in chosen.params.values() and item.get_closest_marker("slow_split"):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, fail a test that is skipped for want of something."""
    report = yield
    if not hasattr(report, "wasxfail"):
        _fail_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """In CI, fail a file that is skipped as a whole."""
    report = yield
    _fail_skip(report)
    return report


def _fail_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not (IN_CI and report.skipped and isinstance(report.longrepr, tuple)):
        return
    path, line, reason = report.longrepr
    if not reason.removeprefix("Skipped: ").startswith(ALLOWED_SKIP):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: CI skips nothing, but this said {reason!r}"
