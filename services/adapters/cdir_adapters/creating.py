"""Storing an object only where nothing lies yet, as far as a provider can promise it."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from cdir.errors import AlreadyExists, CdirError, IsDirectory, NotFound
from cdir_adapters.acl import Access
from cdir_adapters.adapter import (
    Adapter,
    Beginning,
    ByteRange,
    ObjectInfo,
    ObjectKind,
    Page,
    SmallObject,
    Source,
    WriteMode,
)
from cdir_adapters.layers.wrapper import closing

__all__ = ["EmptyFolders", "create", "store_each"]

_FIRST_BYTE: Final = ByteRange(0, 1)

_LOOK_HOLDS: Final = 5.0
_LOOKS_KEPT: Final = 1024

_SAME_TIME: Final = timedelta(seconds=2)
"""Times that differ by no more are the same: some providers keep them in steps of two seconds."""


async def create(
    adapter: Adapter,
    key: str,
    source: Source,
    *,
    size: int | None,
    modified: datetime,
    access: Access | None = None,
    tried: bool = False,
) -> ObjectInfo:
    """Store an object as ``write`` does; raise AlreadyExists, and leave it alone, when another one lies at ``key``.

    Where the provider honours no condition, it is looked before the write: what comes between the two is replaced.
    Bytes that lie there already with the same time are what an earlier attempt of the same write has stored.
    ``tried`` says that there was one: then they are its own whatever their time, which not every provider keeps.
    """
    if adapter.capability.write_if_absent:
        try:
            return await adapter.write(key, source, size=size, modified=modified, mode=WriteMode.CREATE, access=access)
        except AlreadyExists:
            found = await _find(adapter, key)
            if found is None:
                raise
    else:
        if await _is_vacant(adapter, key):
            return await adapter.write(key, source, size=size, modified=modified, access=access)
        found = await _find(adapter, key)
        if found is None:
            raise AlreadyExists(f"{key} was taken and left at provider {adapter.info.name} just now", key=key)
    if found.kind is ObjectKind.DIRECTORY:
        raise IsDirectory(f"{key} at provider {adapter.info.name} is a folder", key=key)
    if await _is_same(adapter, found, source, None if tried else modified):
        return found
    raise AlreadyExists(f"{key} exists already at provider {adapter.info.name}", key=key)


class _Look:
    """Whether a folder was empty, and until when that is believed."""

    __slots__ = ("empty", "lock", "until")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.until = 0.0
        self.empty = False


class EmptyFolders:
    """Folders of one provider that were empty a moment ago, so that the many files of a new folder need one look.

    Only this process writes there meanwhile, or so it is hoped: where the provider honours no condition, what others
    write between a look and a write is replaced. So a look holds for :data:`_LOOK_HOLDS` seconds only.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looks: OrderedDict[str, _Look] = OrderedDict()
        """Those used last come last."""

    async def has(self, adapter: Adapter, folder: str) -> bool:
        """Say whether nothing lay in a folder a moment ago. Where names may be taken for others, no folder is."""
        if not (adapter.capability.case_sensitive and adapter.capability.unicode_preserving):
            return False
        look = self._looks.setdefault(folder, _Look())
        self._looks.move_to_end(folder)
        if len(self._looks) > _LOOKS_KEPT:
            self._looks.popitem(last=False)
        async with look.lock:
            now = self._clock()
            if look.until <= now:
                async with closing(adapter.list(folder)) as pages:
                    look.empty = await _nothing_in(pages)
                look.until = now + _LOOK_HOLDS
        return look.empty


async def store_each(
    adapter: Adapter, objects: Sequence[SmallObject], empty: EmptyFolders
) -> Sequence[ObjectInfo | CdirError]:
    """Store small objects as ``write_each`` does, those with the mode CREATE also where the provider honours no
    condition: there it is looked first, and what comes between the look and the write is replaced."""
    if adapter.capability.write_if_absent:
        return await adapter.write_each(objects)
    taken = await _taken(adapter, [one.key for one in objects if one.mode is WriteMode.CREATE], empty)
    free = [one._replace(mode=WriteMode.OVERWRITE) for one in objects if one.key not in taken]
    stored = iter(await adapter.write_each(free) if free else ())
    return [taken.get(one.key) or next(stored) for one in objects]


def _folder_of(key: str) -> str:
    return key.rpartition("/")[0]


async def _nothing_in(pages: AsyncIterator[Page]) -> bool:
    async for page in pages:
        if page.objects:
            return False
    return True


async def _taken(adapter: Adapter, keys: Sequence[str], empty: EmptyFolders) -> Mapping[str, CdirError]:
    """Return why something cannot be created, for those of the keys where something lies or nobody can say."""
    folders = {_folder_of(key) for key in keys}
    vacant = {folder for folder in folders if await empty.has(adapter, folder)}
    doubtful = [key for key in keys if _folder_of(key) not in vacant]
    if not doubtful:
        return {}
    taken: dict[str, CdirError] = {}
    for key, found in zip(doubtful, await adapter.fetch_each([Beginning(key, 1) for key in doubtful]), strict=True):
        if not isinstance(found, CdirError):
            taken[key] = AlreadyExists(f"{key} exists already at provider {adapter.info.name}", key=key)
        elif not isinstance(found, NotFound):
            taken[key] = found
    return taken


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


async def _is_same(adapter: Adapter, found: ObjectInfo, source: Source, modified: datetime | None) -> bool:
    """Say whether what was found is what was to be written, whenever that was without ``modified``.

    A stream that was read once cannot tell.
    """
    if not isinstance(source, bytes) or found.kind is not ObjectKind.FILE or found.size != len(source):
        return False
    if modified is not None and (found.modified is None or abs(found.modified - modified) > _SAME_TIME):
        return False
    try:
        return (await adapter.fetch(found.key)).data == source
    except NotFound:
        return False
