"""Storing an object only where nothing lies yet, as far as a provider can promise it."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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

__all__ = ["NAMES_KEPT", "KnownFolders", "create", "names_in_folder", "store_each"]

_FIRST_BYTE: Final = ByteRange(0, 1)

_LOOK_HOLDS: Final = 2.0
_LOOKS_KEPT: Final = 64
NAMES_KEPT: Final = 2000
"""Most names of one folder that are kept."""

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
    vacant: bool = False,
) -> ObjectInfo:
    """Store an object as ``write`` does; raise AlreadyExists, and leave it alone, when another one lies at ``key``.

    Where the provider honours no condition, it is looked before the write: what comes between the two is replaced.
    Bytes that lie there already with the same time are what an earlier attempt of the same write has stored.
    ``tried`` says that there was one: then they are its own whatever their time, which not every provider keeps.
    ``vacant`` says that it was looked already, a moment ago, and nothing lay there.
    """
    if adapter.capability.write_if_absent:
        try:
            return await adapter.write(key, source, size=size, modified=modified, mode=WriteMode.CREATE, access=access)
        except AlreadyExists:
            found = await _find(adapter, key)
            if found is None:
                raise
    else:
        if vacant or await _is_vacant(adapter, key):
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
    """The names in a folder as a listing has shown them."""

    __slots__ = ("began", "lock", "names")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.began = -math.inf
        self.names: set[str] | None = None
        """Keys; ``None`` when they are too many to be kept."""


class KnownFolders:
    """What lay in folders of one provider a moment ago, so that the many files of a folder need one look.

    Only this process writes there meanwhile, or so it is hoped: where the provider honours no condition, what others
    write between a look and a write is replaced. So a look holds for :data:`_LOOK_HOLDS` seconds only.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._looks: OrderedDict[str, _Look] = OrderedDict()
        """Those used last come last."""
        self._storing: Counter[str] = Counter()
        self._stored: OrderedDict[str, float] = OrderedDict()
        """When this process has stored something at a key, for as long as a look that has not seen it may hold."""

    async def vacant(self, adapter: Adapter, folder: str, keys: Iterable[str]) -> set[str]:
        """Return those of the keys in a folder at which nothing lay a moment ago; of the others nothing is known.

        Where names may be taken for others, nothing is known of any.
        """
        if not _names_are_plain(adapter):
            return set()
        look = self._look(folder)
        async with look.lock:
            now = self.clock()
            if look.began + _LOOK_HOLDS <= now:
                async with closing(adapter.list(folder)) as pages:
                    look.names = _believed(adapter, await _names_in(pages))
                look.began = now
        return {key for key in keys if self.is_vacant(key)}

    def is_vacant(self, key: str) -> bool:
        """Say whether a look that was made a moment ago has shown nothing at a key."""
        look = self._looks.get(_folder_of(key))
        if look is None or look.names is None or key in look.names or key in self._storing:
            return False
        return self.clock() < look.began + _LOOK_HOLDS and self._stored.get(key, -math.inf) < look.began

    def listed(self, adapter: Adapter, folder: str, names: set[str], began: float) -> None:
        """Take over a complete listing of a folder that was begun at ``began``, by ``clock``."""
        if _names_are_plain(adapter) and not adapter.capability.write_if_absent:
            look = self._look(folder)
            look.names, look.began = _believed(adapter, names), began

    @contextmanager
    def storing(self, keys: Sequence[str]) -> Iterator[None]:
        """Whatever is stored at these keys is stored within: no look before it says anything of them."""
        self._storing.update(keys)
        try:
            yield
        finally:
            now = self.clock()
            for key in keys:
                self._storing[key] -= 1
                if not self._storing[key]:
                    del self._storing[key]
                self._stored[key] = now
                self._stored.move_to_end(key)
            while self._stored and next(iter(self._stored.values())) < now - _LOOK_HOLDS:
                self._stored.popitem(last=False)

    def _look(self, folder: str) -> _Look:
        look = self._looks.setdefault(folder, _Look())
        self._looks.move_to_end(folder)
        if len(self._looks) > _LOOKS_KEPT:
            self._looks.popitem(last=False)
        return look


async def store_each(
    adapter: Adapter, objects: Sequence[SmallObject], folders: KnownFolders
) -> Sequence[ObjectInfo | CdirError]:
    """Store small objects as ``write_each`` does, those with the mode CREATE also where the provider honours no
    condition: there it is looked first, and what comes between the look and the write is replaced."""
    if adapter.capability.write_if_absent:
        return await adapter.write_each(objects)
    taken = await _taken(adapter, [one.key for one in objects if one.mode is WriteMode.CREATE], folders)
    free = [one._replace(mode=WriteMode.OVERWRITE) for one in objects if one.key not in taken]
    with folders.storing([one.key for one in free]):
        stored = iter(await adapter.write_each(free) if free else ())
    return [taken.get(one.key) or next(stored) for one in objects]


def names_in_folder(folder: str, keys: Iterable[str]) -> Iterator[str]:
    """Yield the keys of what lies right in a folder, given the keys of what lies below it at any depth."""
    start = len(folder) + 1 if folder else 0
    for key in keys:
        end = key.find("/", start)
        yield key if end < 0 else key[:end]


def _folder_of(key: str) -> str:
    return key.rpartition("/")[0]


def _names_are_plain(adapter: Adapter) -> bool:
    """Whether a name stands for itself alone, in the form in which it was written."""
    return adapter.capability.case_sensitive and adapter.capability.unicode_preserving


def _believed(adapter: Adapter, names: set[str] | None) -> set[str] | None:
    """Return what a listing says of a folder. Where it may lag, one that shows something says nothing of the rest."""
    return names if adapter.capability.list_current or not names else None


async def _names_in(pages: AsyncIterator[Page]) -> set[str] | None:
    names: set[str] = set()
    async for page in pages:
        names.update(info.key for info in page.objects)
        if len(names) > NAMES_KEPT:
            return None
    return names


async def _taken(adapter: Adapter, keys: Sequence[str], folders: KnownFolders) -> Mapping[str, CdirError]:
    """Return why something cannot be created, for those of the keys where something lies or nobody can say."""
    vacant: set[str] = set()
    for folder in {_folder_of(key) for key in keys}:
        vacant |= await folders.vacant(adapter, folder, [key for key in keys if _folder_of(key) == folder])
    doubtful = [key for key in keys if key not in vacant]
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
