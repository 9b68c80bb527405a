"""What transfers notice about replicas, contents and providers beside their own work."""

from __future__ import annotations

from typing import Final, Protocol

from cdir.errors import (
    AlreadyExists,
    CdirError,
    DeadlineExceeded,
    InvalidArgument,
    IsDirectory,
    NotDirectory,
    NotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    Unauthenticated,
    Unsupported,
)
from cdir.v1 import catalog_service_pb2, scan_pb2

__all__ = ["REFUSALS", "TransferObserver", "is_providers_fault", "is_unread"]

REFUSALS: Final = (
    AlreadyExists,
    InvalidArgument,
    IsDirectory,
    NotDirectory,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    Unauthenticated,
    Unsupported,
)
"""Errors after which the adapter promises that what was at the key is still there, untouched."""


class TransferObserver(Protocol):
    """Takes notes of what transfers see; every call only takes the note and returns at once."""

    def replica_seen(self, observation: catalog_service_pb2.ReplicaObservation) -> None:
        """A copy was found missing or corrupt where the catalog says it is."""

    def content_learnt(self, learnt: scan_pb2.LearntVersion) -> None:
        """A content whose digests were not known was read to its end."""

    def provider_failed(self, provider_id: str, error: CdirError) -> None:
        """A provider could not be reached, did not answer in time, or refused the credentials."""


def is_providers_fault(error: CdirError) -> bool:
    """Whether the error speaks about the provider as a whole, so that other calls to it are likely to fail as well.

    That the adapters service itself cannot be reached says nothing about the providers behind it; such an error names
    none.
    """
    if isinstance(error, ProviderUnavailable):
        return "provider" in error.context
    return isinstance(error, (DeadlineExceeded, RateLimited, Unauthenticated))


def is_unread(error: CdirError) -> bool:
    """Whether reading a content has failed because nothing of it came, or not all: where its provider answers
    otherwise, that lies in the object, as it does where a file is on a bad sector.

    What a provider refuses, as one does that is asked too often, is no such reason.
    """
    return isinstance(error.__cause__ or error, (ProviderUnavailable, DeadlineExceeded))
