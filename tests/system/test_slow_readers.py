"""Readers that are slower than the providers, and readers that leave: neither costs memory, nor work for nobody."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import psutil
import pytest

from deployments.background import Background
from deployments.deployment import Deployment, eventually
from servers import rclone_s3
from servers.faulty_proxy import FaultyProxy, faulty_proxy
from servers.rclone_s3 import rclone_s3_server
from servers.requirement import require

SIZE = 200_000_000
MOST_GROWTH = 120 << 20
"""Bytes; blocks read ahead are a part of it."""
LATE_BYTES = 4 << 20
"""What may still come after the reader has left: a fourth of what is read ahead."""
SLOW_PIECE = 0.5
"""Seconds for each 64 KiB on a connection: what is read ahead takes half a minute."""

pytestmark = pytest.mark.slow_split


@pytest.fixture(scope="module")
def line(deployment: Deployment, background: Background, tmp_path_factory: pytest.TempPathFactory) -> FaultyProxy:
    """The line to the one provider; ``/big`` lies there."""
    require(rclone_s3)
    s3 = background.enter(rclone_s3_server())
    (s3.root / "files").mkdir()
    line = background.enter(faulty_proxy(s3.port))
    deployment.add_provider("bucket", "s3", {**s3.options("files"), "endpoint": f"http://127.0.0.1:{line.port}"})
    big: Path = tmp_path_factory.mktemp("big") / "big"
    big.write_bytes(os.urandom(1_000_000) * (SIZE // 1_000_000))
    deployment.cdir("put", big, "/big")
    return line


def memory(deployment: Deployment) -> int:
    """Resident bytes of all its processes."""
    total = 0
    for process in deployment.processes():
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


@contextmanager
def reader(deployment: Deployment) -> Iterator[Popen[bytes]]:
    """A reader of the large file; killed at the end, if not before."""
    reading = deployment.begin("cat", "/big")
    try:
        yield reading
    finally:
        reading.kill()
        reading.communicate()


def test_a_slow_reader_costs_no_memory(deployment: Deployment, line: FaultyProxy) -> None:
    deployment.cdir("stat", "/big")
    before = highest = memory(deployment)
    with reader(deployment) as reading:
        assert reading.stdout is not None
        begun = time.monotonic()
        while time.monotonic() - begun < 5:
            assert len(reading.stdout.read(256 << 10)) == 256 << 10
            time.sleep(0.05)  # the pace that this is about
            highest = max(highest, memory(deployment))
    print(f"{(highest - before) / 1e6:.0f} MB more while a slow reader reads {SIZE / 1e6:.0f} MB")
    assert highest - before < MOST_GROWTH


def test_what_a_reader_wanted_is_not_fetched_after_it_has_left(deployment: Deployment, line: FaultyProxy) -> None:
    line.delay = SLOW_PIECE
    try:
        begun = line.answered
        with reader(deployment) as reading:
            eventually(lambda: line.answered - begun > 500_000)
            reading.kill()
            reading.wait()
            left = line.answered

            def quiet() -> bool:
                seen = line.answered
                time.sleep(1.5)  # three pieces would have come
                return line.answered == seen

            eventually(quiet)
        print(f"{(line.answered - left) / 1e6:.1f} MB came after the reader had left")
        assert line.answered - left < LATE_BYTES
    finally:
        line.heal()
    with reader(deployment) as reading:
        assert reading.stdout is not None
        assert len(reading.stdout.read(1 << 20)) == 1 << 20
