"""Keeping the modified time that a file had, as far as a server lets it be set."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Final

from cdir.errors import InvalidArgument, NotFound, PermissionDenied, PreconditionFailed, Unsupported
from cdir_adapters.adapter import ObjectInfo
from cdir_adapters.providers.webdav.addresses import Addresses
from cdir_adapters.providers.webdav.settings import Profile
from cdir_adapters.providers.webdav.tree import Tree
from cdir_adapters.providers.webdav.wire import MovedToFolder, Wire

__all__ = ["TimeKeeper"]

_REFUSALS: Final = (InvalidArgument, PermissionDenied, PreconditionFailed, Unsupported)
_RECENT: Final = timedelta(hours=1)


class TimeKeeper:
    """Sets modified times, in whole seconds: by the header ``X-OC-Mtime`` of a PUT, else by PROPPATCH.

    A server that takes neither is asked for no more; ``lost`` is called then.
    """

    def __init__(
        self, wire: Wire, tree: Tree, addresses: Addresses, profile: Profile, lost: Callable[[], None]
    ) -> None:
        self._wire = wire
        self._tree = tree
        self._addresses = addresses
        self._profile = profile
        self._lost = lost
        self._works = profile.times
        self._proven = False
        self._properties = ["getlastmodified", "lastmodified"]
        """Names of the property to set: that of the standard, which most servers protect, and that of Nextcloud and
        rclone, in seconds since 1970. The one that worked comes first."""

    def kept(self, modified: datetime) -> datetime:
        """The time that the server is to keep: a whole second, none before the first that it takes."""
        seconds = int(modified.timestamp() // 1)
        return datetime.fromtimestamp(max(self._profile.earliest, seconds), UTC)

    def headers(self, kept: datetime) -> dict[str, str]:
        """Headers for the request that stores a file."""
        return {"X-OC-Mtime": str(int(kept.timestamp()))} if self._works else {}

    async def keep(self, info: ObjectInfo, kept: datetime) -> ObjectInfo:
        """Look whether the stored file has its time, set it otherwise, and return what the file is then."""
        if not self._works:
            return info
        if info.modified != kept and await self._set(info.key, kept):
            try:
                info = await self._tree.look(info.key)
            except NotFound:
                return info
        if info.modified == kept:
            # the time of the storing itself may look like one that was kept
            self._proven = self._proven or abs(datetime.now(UTC) - kept) > _RECENT
        elif not self._proven:
            self._works = False
            self._lost()
        return info

    async def _set(self, key: str, kept: datetime) -> bool:
        for name in tuple(self._properties):
            text = str(int(kept.timestamp())) if name == "lastmodified" else format_datetime(kept, usegmt=True)
            if await self._set_property(key, name, text):
                self._properties = [name, *(other for other in self._properties if other != name)]
                return True
        return False

    async def _set_property(self, key: str, name: str, text: str) -> bool:
        document = (
            '<?xml version="1.0" encoding="utf-8"?><D:propertyupdate xmlns:D="DAV:"><D:set><D:prop>'
            f"<D:{name}>{text}</D:{name}></D:prop></D:set></D:propertyupdate>"
        )
        try:
            async with self._wire.responses(
                "PROPPATCH", self._addresses.file(key), "setting a file's time", key, headers={}, body=document.encode()
            ) as responses:
                found = [response async for response in responses]
        except NotFound:
            return True  # gone since; its absence is for others to find
        except (*_REFUSALS, MovedToFolder):
            return False
        return not any(response.refused for response in found)
