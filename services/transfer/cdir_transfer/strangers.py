"""Telling what other programs have put at a key from what a write of cdir's own may have left there."""

from __future__ import annotations

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import CdirError
from cdir.status import translated
from cdir.v1 import adapter_service_pb2, adapter_service_pb2_grpc, catalog_service_pb2

__all__ = ["has_stranger", "is_same_time"]

_STAT_SECONDS: Final = 60.0

_SAME_TIME_SECONDS: Final = 2.0
"""Times that differ by no more are the same: some providers keep them in steps of two seconds."""


def is_same_time(one: Timestamp, other: Timestamp) -> bool:
    """Say whether two modified times are the same as far as every provider can tell."""
    return abs(one.ToNanoseconds() - other.ToNanoseconds()) <= _SAME_TIME_SECONDS * 1e9


async def has_stranger(
    adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
    target: catalog_service_pb2.WriteTarget,
    modified: Timestamp,
) -> bool:
    """Say whether an object that others put there surely lies at a target of a write that was given up.

    A write stores everything or nothing, and its ``modified`` time with it. False where the key was not free,
    where nothing lies, and where it cannot be looked: then the write may have left something.
    """
    if target.HasField("occupant"):
        return False
    request = adapter_service_pb2.StatObjectRequest(
        provider=adapter_service_pb2.ProviderRef(provider_id=target.provider_id, revision=target.provider_revision),
        key=target.key,
    )
    try:
        with translated():
            info = (await adapters.StatObject(request, timeout=_STAT_SECONDS)).info
    except CdirError:
        return False
    return info.directory or (info.HasField("modified") and not is_same_time(info.modified, modified))
