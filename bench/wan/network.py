"""Three S3 servers, each behind an emulated line of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
from botocore.config import Config

from deployments.background import Background
from servers.moto_s3 import MotoS3Server, moto_s3_server
from servers.rclone_s3 import RcloneS3Server, rclone_s3_server
from wan.profiles import PROFILES, Profile

__all__ = ["BUCKET", "PEER_BUCKET", "EmulatedLine", "Network"]

BUCKET = "files"
PEER_BUCKET = "peer"
"""Not below what cdir keeps in step, so that it does not take what rclone puts for files of its own."""

_QUIET_SECONDS = 0.4
_QUIET_WITHIN = 120.0


class EmulatedLine:
    """The process of one line, and the server behind it."""

    def __init__(self, profile: Profile, server: RcloneS3Server | MotoS3Server) -> None:
        self.profile = profile
        self.server = server
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("line.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        setup = {"target_port": server.port, "rtt": profile.rtt, "up": profile.up, "down": profile.down}
        self.port: int = self._ask({**setup, "per_connection": profile.per_connection})["port"]

    def _ask(self, command: Mapping[str, object]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    @property
    def name(self) -> str:
        return self.profile.name

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def options(self) -> Mapping[str, str | int | bool]:
        """Options of a provider at the far end of the line."""
        return {**self.server.options(BUCKET), "endpoint": self.endpoint}

    @contextmanager
    def failing(self, fault: str) -> Iterator[None]:
        """Have a fault for as long as the block runs."""
        self.fail(fault)
        try:
            yield
        finally:
            self.fail("")

    def fail(self, fault: str) -> None:
        """Begin a fault, one of ``line.FAULTS``; the empty one ends it."""
        self._ask({"do": "fault", "fault": fault})

    def scale_rate(self, factor: float) -> None:
        """Multiply all rates."""
        self._ask({"do": "rate", "factor": factor})

    def state(self) -> dict[str, float]:
        """Requests without an answer, and when something passed last, in ``time.monotonic`` seconds."""
        found: dict[str, float] = self._ask({"do": "state"})
        return found

    def take(self) -> dict[str, Any]:
        """What has passed since the last call: ``requests``, ``connections``, bytes ``up`` and ``down``."""
        found: dict[str, Any] = self._ask({"do": "take"})
        return found

    def direct(self) -> Any:
        """A boto3 client to the server itself, past the line: to prepare and to check."""
        return self._client(self.server.endpoint)

    def look_at(self, bucket: str, key: str) -> None:
        """Have the server look at an object, past the line."""
        self.direct().head_object(Bucket=bucket, Key=key)

    def signer(self) -> Any:
        """A boto3 client that signs requests which go over the line."""
        return self._client(self.endpoint)

    def _client(self, endpoint: str) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.server.access_key,
            aws_secret_access_key=self.server.secret_key,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def empty(self, prefix: str) -> None:
        """Remove every object below ``prefix`` of cdir's bucket."""
        client = self.direct()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
            for found in page.get("Contents", []):
                client.delete_object(Bucket=BUCKET, Key=found["Key"])

    def holds(self, folder: str) -> int:
        """How many objects lie in a folder of cdir's bucket."""
        if isinstance(self.server, RcloneS3Server):  # which keeps each as a file
            where = self.server.root / BUCKET / folder
            return sum(path.is_file() for path in where.iterdir()) if where.is_dir() else 0
        pages = self.direct().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{folder}/")
        return sum(page["KeyCount"] for page in pages)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


class Network:
    """All lines, in the order of the profiles; a context manager.

    The servers are rclone's, which cost little; with ``conditions`` moto's, which do what a conditional request says.
    """

    def __init__(self, scratch: Path, *, conditions: bool) -> None:
        self._scratch = scratch
        self._conditions = conditions
        self._background = Background()
        self.lines: dict[str, EmulatedLine] = {}

    def __enter__(self) -> Self:
        self._background.__enter__()
        for profile in PROFILES:
            server: RcloneS3Server | MotoS3Server
            if self._conditions:
                server = self._background.enter(moto_s3_server())
            else:
                server = self._background.enter(rclone_s3_server(root=self._scratch / f"server-{profile.name}"))
            line = self.lines[profile.name] = EmulatedLine(profile, server)
            for bucket in (BUCKET, PEER_BUCKET):
                line.direct().create_bucket(Bucket=bucket)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in self.lines.values():
            line.close()
        self._background.__exit__(kind, error, trace)

    def wait_quiet(self) -> float:
        """Wait until no request is open and nothing has passed for a moment; return when something passed last."""
        deadline = time.monotonic() + _QUIET_WITHIN
        while time.monotonic() < deadline:
            states = [line.state() for line in self.lines.values()]
            last = max(state["last"] for state in states)
            if not any(state["open"] for state in states) and time.monotonic() - last > _QUIET_SECONDS:
                return last
            time.sleep(0.05)
        raise RuntimeError(f"the lines did not become quiet within {_QUIET_WITHIN:g} s")

    def take(self) -> dict[str, dict[str, Any]]:
        """What passed over each line since the last call."""
        return {name: line.take() for name, line in self.lines.items()}
