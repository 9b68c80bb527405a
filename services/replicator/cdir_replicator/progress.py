"""What one replicator has done and is at: counters that its roles raise and its service shows."""

from __future__ import annotations

import dataclasses

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.v1 import replicator_service_pb2 as pb

__all__ = ["Progress"]


def _now() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp


@dataclasses.dataclass(slots=True)
class Progress:
    """Counters since the replicator started, and whether people asked it to pause."""

    paused: bool = False
    active: int = 0
    copied: int = 0
    copied_bytes: int = 0
    relocated: int = 0
    removed: int = 0
    failed: int = 0
    started: Timestamp = dataclasses.field(default_factory=_now)

    def to_message(self) -> pb.GetProgressResponse:
        return pb.GetProgressResponse(
            paused=self.paused,
            active=self.active,
            copied=self.copied,
            copied_bytes=self.copied_bytes,
            relocated=self.relocated,
            removed=self.removed,
            failed=self.failed,
            started=self.started,
        )
