"""Listing a provider in the order of its keys' bytes, whatever order the provider has itself.

One that lists in order is followed page by page. Of any other the folders are walked, in the order in which the keys
below them come: a folder stands where its name with a slash does. Either way one stream of files comes out that can be
taken up again after any key, and a gap between two keys means that nothing lies there.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from cdir.errors import InvalidPath, NotDirectory, PermissionDenied, ProviderUnavailable
from cdir.paths import RESERVED_ROOT_NAME
from cdir.v1 import adapter_service_pb2, adapter_service_pb2_grpc
from cdir_replicator.ranges import Folder, Gap, Listed, end_of, place_of
from cdir_transfer.listing import listed_pages

__all__ = ["KeyOrderLister"]

logger = logging.getLogger(__name__)

_KEPT = 20_000
"""Most names of one folder held at a time. A larger one is read several times, each time for the names that follow."""

_OWN = f"{RESERVED_ROOT_NAME}/"
_OWN_END = f"{_OWN}~"
"""What cdir keeps for itself; every name below it is before the end."""

_OF_THE_FOLDER = (PermissionDenied, InvalidPath, NotDirectory)
"""Errors that say something about one folder and nothing about the provider."""


@dataclasses.dataclass(slots=True)
class _Level:
    """A folder being walked: its names still to come, smallest last, and whether there are more after them."""

    folder: str
    waiting: list[adapter_service_pb2.ObjectInfo]
    more: bool
    last: str


class KeyOrderLister:
    """Lists one provider. ``may_call`` is awaited before each call that the listing costs there."""

    def __init__(
        self,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        provider: adapter_service_pb2.ProviderRef,
        *,
        ordered: bool,
        may_call: Callable[[], Awaitable[None]],
        kept: int = _KEPT,
    ) -> None:
        self._adapters = adapters
        self._provider = provider
        self._ordered = ordered
        self._may_call = may_call
        self._kept = kept

    def list(self, prefix: str, *, recursive: bool, after: str = "") -> AsyncGenerator[Listed, None]:
        """Yield what lies below the folder ``prefix`` (``""`` is the root) after the key ``after``.

        Files come as what the provider says of them, in the order of their keys. A :class:`Folder` comes before what
        lies below it, and a :class:`Gap` where a folder was not looked into, since it is cdir's own or cannot be read.
        What is neither file nor folder is left out. Raises what the provider does; nothing may be concluded then about
        keys after the last one.
        """
        return self._pages(prefix, recursive, after) if self._ordered else self._walk(prefix, recursive, after)

    async def _pages(self, prefix: str, recursive: bool, after: str) -> AsyncGenerator[Listed, None]:
        last = _OWN_END if after.startswith(_OWN) else after
        if not prefix and recursive and last < _OWN_END:
            async with aclosing(self._calls("", recursive=True, start_after=last)) as objects:
                async for info in objects:
                    if info.key.startswith(_OWN):
                        break
                    _require_order(last, info.key)
                    last = info.key
                    if not info.special:
                        yield info
                else:
                    return
            # what is cdir's own may be very much
            yield Gap(RESERVED_ROOT_NAME)
            last = _OWN_END
        async with aclosing(self._calls(prefix, recursive=recursive, start_after=last)) as objects:
            async for info in objects:
                if info.directory or info.special or info.key.startswith(_OWN):
                    continue
                _require_order(last, info.key)
                last = info.key
                yield info

    async def _walk(self, prefix: str, recursive: bool, after: str) -> AsyncGenerator[Listed, None]:
        levels = [await self._level(prefix, recursive, after)]
        while levels:
            level = levels[-1]
            if not level.waiting:
                if level.more:
                    levels[-1] = await self._level(level.folder, recursive, after, level.last)
                else:
                    levels.pop()
                continue
            info = level.waiting.pop()
            if not info.directory:
                yield info
            elif info.key == RESERVED_ROOT_NAME:
                yield Gap(info.key)
            else:
                if place_of(info) > after:
                    yield Folder(info.key)
                try:
                    levels.append(await self._level(info.key, recursive, after))
                except _OF_THE_FOLDER as error:
                    logger.warning("%s cannot be looked into: %s", info.key, error.message)
                    yield Gap(info.key)

    async def _level(self, folder: str, recursive: bool, after: str, floor: str = "") -> _Level:
        """Read a folder; keep the names that come first after ``floor`` and are not wholly before ``after``."""
        kept: list[adapter_service_pb2.ObjectInfo] = []
        more = False
        async with aclosing(self._calls(folder, recursive=False)) as objects:
            async for info in objects:
                if info.special or (info.directory and not recursive) or place_of(info) <= floor:
                    continue
                if (end_of(info.key) if info.directory else info.key) <= after:
                    continue
                kept.append(info)
                if len(kept) >= 2 * self._kept:
                    kept = sorted(kept, key=place_of)[: self._kept]
                    more = True
        kept.sort(key=place_of)
        if len(kept) > self._kept:
            del kept[self._kept :]
            more = True
        last = place_of(kept[-1]) if kept else floor
        kept.reverse()
        return _Level(folder, kept, more, last)

    async def _calls(
        self, prefix: str, *, recursive: bool, start_after: str = ""
    ) -> AsyncGenerator[adapter_service_pb2.ObjectInfo, None]:
        """Yield what one listing shows. Raises ProviderUnavailable when it ends without saying that it was complete."""
        request = adapter_service_pb2.ListObjectsRequest(
            provider=self._provider, prefix=prefix, recursive=recursive, start_after=start_after
        )
        await self._may_call()
        async with aclosing(listed_pages(self._adapters, request, where=prefix or "the root")) as pages:
            async for page in pages:
                for info in page:
                    yield info
                await self._may_call()


def _require_order(last: str, key: str) -> None:
    if key <= last:
        raise ProviderUnavailable(
            f"a listing is not in the order that was promised: {key!r} after {last!r}; nothing is concluded from it"
        )
