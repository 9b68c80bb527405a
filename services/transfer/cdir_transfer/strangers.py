"""Telling what other programs have put at a key from what a write of cdir's own may have left there."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import CdirError, IntegrityError
from cdir.status import translated
from cdir.v1 import adapter_service_pb2, adapter_service_pb2_grpc, catalog_service_pb2
from cdir_transfer.digest import BLOCK_SIZE, ContentDigest
from cdir_transfer.reader import transfer_deadline

__all__ = ["ContentIdentity", "has_stranger", "is_same_time", "read_back"]

_STAT_SECONDS: Final = 60.0

_SAME_TIME_SECONDS: Final = 2.0
"""Times that differ by no more are the same: some providers keep them in steps of two seconds."""


def is_same_time(one: Timestamp, other: Timestamp) -> bool:
    """Say whether two modified times are the same as far as every provider can tell."""
    return abs(one.ToNanoseconds() - other.ToNanoseconds()) <= _SAME_TIME_SECONDS * 1e9


class ContentIdentity(NamedTuple):
    """What tells one content from another."""

    size: int
    sha256: bytes


async def has_stranger(
    adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
    target: catalog_service_pb2.WriteTarget,
    modified: Timestamp,
    sent: ContentIdentity | None,
) -> bool:
    """Say whether an object that others put there surely lies at a target of a write that was given up.

    A write stores everything or nothing, and its ``modified`` time with it, except at a provider that keeps no times
    and dates what it is given by its own clock: so what lies there is read back where it may be the content that was
    ``sent``, where that is known. False where the key was not free, where
    nothing lies, and where it cannot be looked: then the write may have left something.
    """
    if target.HasField("occupant"):
        return False
    ref = adapter_service_pb2.ProviderRef(provider_id=target.provider_id, revision=target.provider_revision)
    request = adapter_service_pb2.StatObjectRequest(provider=ref, key=target.key)
    try:
        with translated():
            info = (await adapters.StatObject(request, timeout=_STAT_SECONDS)).info
        if info.directory:
            return True
        if not info.HasField("modified") or is_same_time(info.modified, modified):
            return False
        if sent is None or info.size != sent.size:
            return True
        return (await read_back(adapters, ref, target.key, sent.size)).sha256() != sent.sha256
    except CdirError:
        return False


async def read_back(
    adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
    ref: adapter_service_pb2.ProviderRef,
    key: str,
    size: int,
) -> ContentDigest:
    """Return the digest of the ``size`` bytes at ``key``, a block in memory at a time.

    Raises IntegrityError when there are fewer, and what the provider raises.
    """
    digest = ContentDigest()
    while digest.size < size:
        length = min(BLOCK_SIZE, size - digest.size)
        with translated():
            response = await adapters.FetchObject(
                adapter_service_pb2.FetchObjectRequest(provider=ref, key=key, offset=digest.size, length=length),
                timeout=transfer_deadline(length),
            )
        if len(response.data) != length:
            raise IntegrityError(f"{key} ended at {digest.size + len(response.data)} of {size} bytes")
        await asyncio.to_thread(digest.update, response.data)
    return digest
