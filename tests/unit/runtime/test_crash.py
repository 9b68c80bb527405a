from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from cdir.errors import ConfigInvalid
from cdir_runtime.crash import VARIABLE, arm, crash_point

PASSING = """
import os
from cdir_runtime.crash import arm, crash_point
arm("gateway", os.environ)
for number in range(3):
    crash_point("write.after_copy")
    print(number, flush=True)
"""


def passed(order: str) -> tuple[int, int]:
    """How a process of the gateway ends that passes a point three times, and how often it got past it."""
    done = subprocess.run([sys.executable, "-c", PASSING], env={VARIABLE: order}, capture_output=True, check=False)
    return done.returncode, len(done.stdout.split())


@pytest.mark.parametrize(
    ("order", "past"),
    [
        ("write.after_copy", 0),
        ("write.after_copy:3", 2),
        ("gateway/write.after_copy:2", 1),
    ],
)
def test_it_dies_at_the_point_that_is_named(order: str, past: int) -> None:
    assert passed(order) == (-signal.SIGKILL, past)


@pytest.mark.parametrize("order", ["", "catalog/write.after_copy", "write.before_copy", "write.after_copy:4"])
def test_it_passes_every_other(order: str) -> None:
    assert passed(order) == (0, 3)


@pytest.mark.parametrize("order", ["write.nowhere", "write.after_copy:0", "write.after_copy:x", "gateway/"])
def test_an_order_that_names_no_point_is_refused(order: str) -> None:
    with pytest.raises(ConfigInvalid, match=VARIABLE):
        arm("gateway", {VARIABLE: order})
    crash_point("write.after_copy")
