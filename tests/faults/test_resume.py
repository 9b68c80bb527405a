"""Every process killed in the middle of a large upload: the write that is done again sends only what is missing."""

from __future__ import annotations

import asyncio
import random
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deployments.background import Background
from deployments.deployment import Deployment, eventually
from servers import moto_s3
from servers.faulty_http import Answer, FaultyHttp, Request, faulty_http
from servers.moto_s3 import moto_s3_server
from servers.requirement import require

PART = 8 << 20
PARTS = 8
ARRIVE = 5
"""Parts that arrive before the kill."""


class CountedLine:
    """The way to the service; counts the parts that pass, and holds those after the first few until :meth:`open`."""

    def __init__(self, proxy: FaultyHttp) -> None:
        self.endpoint = proxy.endpoint
        self.passed: list[tuple[int, int]] = []
        """Number and bytes of each part."""
        self.holding = True
        self.held = 0
        self._open = asyncio.Event()
        proxy.break_by(self._handle)

    def open(self) -> None:
        """Let everything pass, and begin to count anew."""
        self._open.set()
        self.holding = False
        self.passed.clear()

    async def _handle(self, request: Request) -> Answer:
        number = re.search(r"[?&]partNumber=(\d+)", request.target)
        if request.method == "PUT" and number is not None:
            if self.holding and len(self.passed) >= ARRIVE:
                self.held += 1
                await self._open.wait()
                request.cut()
                return Answer(500)
            self.passed.append((int(number[1]), len(request.body)))
        return await request.forward()


@asynccontextmanager
async def counted_line(port: int) -> AsyncIterator[CountedLine]:
    async with faulty_http(port) as proxy:
        yield CountedLine(proxy)


@pytest.mark.slow_split
def test_only_missing_parts_travel_again(deployment: Deployment, background: Background, tmp_path: Path) -> None:
    require(moto_s3)
    server = background.enter(moto_s3_server())
    line = background.enter(counted_line(server.port))
    bucket = f"cdir-{uuid.uuid4().hex}"
    deployment.add_provider("bucket", "s3", {**server.options(bucket), "endpoint": line.endpoint})
    content = random.Random(1).randbytes(PARTS * PART - 1000)
    (tmp_path / "large").write_bytes(content)

    putting = deployment.begin("put", tmp_path / "large", "/large")
    eventually(lambda: line.held > 0, pause=0.01)
    assert putting.poll() is None, "the put was over before it could be cut off"
    deployment.kill()
    putting.communicate(timeout=120)
    assert sorted(number for number, _ in line.passed) == list(range(1, ARRIVE + 1))
    background.call(line.open)
    deployment.restart()

    deployment.cdir("put", tmp_path / "large", "/large")
    assert sorted(line.passed) == [(6, PART), (7, PART), (8, PART - 1000)]
    assert deployment.cdir("cat", "/large").stdout == content
