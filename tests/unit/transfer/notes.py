"""What transfers notice, kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from cdir.errors import CdirError
from cdir.v1 import catalog_service_pb2, scan_pb2

__all__ = ["Notes"]


@dataclass
class Notes:
    """A TransferObserver that keeps what it is told."""

    replicas: list[catalog_service_pb2.ReplicaObservation] = field(default_factory=list)
    failures: list[tuple[str, CdirError]] = field(default_factory=list)
    learnt: list[scan_pb2.LearntVersion] = field(default_factory=list)

    def replica_seen(self, observation: catalog_service_pb2.ReplicaObservation) -> None:
        self.replicas.append(observation)

    def content_learnt(self, learnt: scan_pb2.LearntVersion) -> None:
        self.learnt.append(learnt)

    def provider_failed(self, provider_id: str, error: CdirError) -> None:
        self.failures.append((provider_id, error))
