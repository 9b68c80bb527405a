"""Storing an object only where nothing lies yet, as far as a provider can promise it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cdir.errors import AlreadyExists, IsDirectory, NotFound
from cdir_adapters.adapter import Adapter, ByteRange, ObjectInfo, ObjectKind, Source, WriteMode

__all__ = ["create"]

_FIRST_BYTE: Final = ByteRange(0, 1)

_SAME_TIME: Final = timedelta(seconds=2)
"""Times that differ by no more are the same: some providers keep them in steps of two seconds."""


async def create(adapter: Adapter, key: str, source: Source, *, size: int | None, modified: datetime) -> ObjectInfo:
    """Store an object as ``write`` does; raise AlreadyExists, and leave it alone, when another one lies at ``key``.

    Where the provider honours no condition, it is looked before the write: what comes between the two is replaced.
    Bytes that lie there already with the same time are what an earlier attempt of the same write has stored.
    """
    if adapter.capability.write_if_absent:
        try:
            return await adapter.write(key, source, size=size, modified=modified, mode=WriteMode.CREATE)
        except AlreadyExists:
            found = await _find(adapter, key)
            if found is None:
                raise
    else:
        if await _is_vacant(adapter, key):
            return await adapter.write(key, source, size=size, modified=modified)
        found = await _find(adapter, key)
        if found is None:
            raise AlreadyExists(f"{key} was taken and left at provider {adapter.info.name} just now", key=key)
    if found.kind is ObjectKind.DIRECTORY:
        raise IsDirectory(f"{key} at provider {adapter.info.name} is a folder", key=key)
    if await _is_same(adapter, found, source, modified):
        return found
    raise AlreadyExists(f"{key} exists already at provider {adapter.info.name}", key=key)


async def _is_vacant(adapter: Adapter, key: str) -> bool:
    """Say whether nothing lies at a key. Asked for a byte, S3 says in one answer what a stat takes two requests for:
    whether the object is missing or the bucket. Raises IsDirectory."""
    try:
        await adapter.fetch(key, range=_FIRST_BYTE)
    except NotFound:
        return True
    return False


async def _find(adapter: Adapter, key: str) -> ObjectInfo | None:
    try:
        return await adapter.stat(key)
    except NotFound:
        return None


async def _is_same(adapter: Adapter, found: ObjectInfo, source: Source, modified: datetime) -> bool:
    """Say whether what was found is what was to be written. A stream that was read once cannot tell."""
    if not isinstance(source, bytes) or found.kind is not ObjectKind.FILE or found.size != len(source):
        return False
    if found.modified is None or abs(found.modified - modified) > _SAME_TIME:
        return False
    try:
        return (await adapter.fetch(found.key)).data == source
    except NotFound:
        return False
