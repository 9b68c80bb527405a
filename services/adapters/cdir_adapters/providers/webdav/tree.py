"""What lies where on the server: looking, listing, making and removing folders."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from yarl import URL

from cdir.errors import (
    CdirError,
    ConfigInvalid,
    DirectoryNotEmpty,
    InvalidArgument,
    NotDirectory,
    NotFound,
    ProviderUnavailable,
    Unsupported,
)
from cdir_adapters.adapter import Checksum, ObjectInfo, ObjectKind, Usage
from cdir_adapters.capability import ChecksumKind
from cdir_adapters.providers.webdav.addresses import Addresses, Elsewhere
from cdir_adapters.providers.webdav.faults import Fault, Faults
from cdir_adapters.providers.webdav.multistatus import Response, number_in
from cdir_adapters.providers.webdav.wire import MovedToFolder, Wire

__all__ = ["TEMPORARY", "Tree", "comparable_etag", "quoted_etag", "time_of"]

TEMPORARY: Final = ".cdir-tmp-"
"""How the names of unfinished writes begin: then follow the second in which they began and something unique."""

_LOOKING: Final = "looking at a file"
_LISTING: Final = "listing a folder"
_CHECKSUMS: Final = '<c:checksums xmlns:c="http://owncloud.org/ns"/>'
_WANTED: Final = "<D:resourcetype/><D:getcontentlength/><D:getlastmodified/><D:getetag/>"
_QUOTA: Final = "<D:quota-used-bytes/><D:quota-available-bytes/>"
_LOCK: Final = (
    b'<?xml version="1.0" encoding="utf-8"?>'
    b'<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype>'
    b"<D:owner>cdir</D:owner></D:lockinfo>"
)
_LOCK_SECONDS: Final = 60
_CHECKSUM_NAMES: Final = {ChecksumKind.SHA1: "SHA1:", ChecksumKind.MD5: "MD5:"}


def _propfind(properties: str) -> bytes:
    document = f'<?xml version="1.0" encoding="utf-8"?><D:propfind xmlns:D="DAV:"><D:prop>{properties}</D:prop>'
    return f"{document}</D:propfind>".encode()


def quoted_etag(etag: str | None) -> str | None:
    """Return an ETag with the quotes that some servers leave away in properties but not in headers."""
    if not etag or not etag.isprintable():
        return None
    return etag if etag.endswith('"') else f'"{etag}"'


def comparable_etag(etag: str | None) -> str:
    """Return what two ETags of the same content have in common: Apache calls one weak in its first second only."""
    return (quoted_etag(etag) or "").removeprefix("W/")


def time_of(text: str | None) -> datetime | None:
    """Return the time in a header or property; ``None`` when there is none or it cannot be read."""
    if not text:
        return None
    try:
        found = parsedate_to_datetime(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


class Tree:
    """What lies below the root of one provider."""

    def __init__(self, wire: Wire, addresses: Addresses, faults: Faults, checksum: ChecksumKind | None) -> None:
        self._wire = wire
        self._addresses = addresses
        self._faults = faults
        self._checksum = checksum
        self._wanted = _propfind(_WANTED + (_CHECKSUMS if checksum else ""))
        self._locks = True
        """Whether the server may know locks."""
        self._making = asyncio.Lock()
        """Several servers answer two requests for one new folder with an error."""

    # ------------------------------------------------------------------ looking

    async def stat(self, key: str) -> ObjectInfo:
        """Raises NotFound, and ProviderUnavailable when that may be because the root is missing."""
        try:
            return await self.look(key)
        except NotFound:
            await self.require_root()
            raise

    async def look(self, key: str) -> ObjectInfo:
        """Like :meth:`stat`, without a look at the root."""
        try:
            response = await self._describe(self._addresses.file(key) if key else self._addresses.folder(key), key)
        except MovedToFolder:
            try:
                response = await self._describe(self._addresses.folder(key), key)
            except MovedToFolder:
                raise self._faults.unavailable("the server sends in circles", _LOOKING, key) from None
        except InvalidArgument:
            # so Apache says that a part of the path is a file
            if await self.is_below_file(key):
                raise self._missing(key) from None
            raise
        return self._info(key, response)

    async def _describe(self, url: URL, key: str) -> Response:
        async with self._wire.responses(
            "PROPFIND", url, _LOOKING, key, headers={"Depth": "0"}, body=self._wanted
        ) as responses:
            found = [response async for response in _first(responses, 2)]
        if len(found) != 1:
            raise self._faults.unavailable("the server says nothing, or too much, about one file", _LOOKING, key)
        if found[0].status in {404, 410}:
            raise self._missing(key)
        return found[0]

    def _missing(self, key: str) -> NotFound:
        return NotFound(f"{key or 'the root'} does not exist at provider {self._faults.provider}", key=key)

    def _info(self, key: str, response: Response) -> ObjectInfo:
        found = response.properties
        kind = ObjectKind.DIRECTORY if response.collection else ObjectKind.FILE
        size = 0
        if kind is ObjectKind.FILE:
            stated = number_in(found.get("getcontentlength"))
            if stated is None:
                raise self._faults.unavailable("the server does not say how large a file is", _LOOKING, key)
            size = stated
        return ObjectInfo(
            key=key,
            size=size,
            kind=kind,
            modified=time_of(found.get("getlastmodified")),
            etag=quoted_etag(found.get("getetag")) if kind is ObjectKind.FILE else None,
            checksum=self._checksum_in(found.get("checksums", "")),
        )

    def _checksum_in(self, stated: str) -> Checksum | None:
        if self._checksum is None:
            return None
        start = _CHECKSUM_NAMES[self._checksum]
        for word in stated.split():
            if word.upper().startswith(start):
                return Checksum(self._checksum, word[len(start) :].lower())
        return None

    async def kind_at(self, key: str) -> ObjectKind | None:
        """What lies at ``key``; ``None`` for nothing."""
        try:
            return (await self.look(key)).kind
        except NotFound:
            return None

    async def is_below_file(self, key: str) -> bool:
        """Tell whether a part of the path above ``key`` is a file."""
        names = key.split("/")
        for end in range(1, len(names)):
            kind = await self.kind_at("/".join(names[:end]))
            if kind is not ObjectKind.DIRECTORY:
                return kind is not None
        return False

    async def require_root(self) -> None:
        """A missing file proves nothing when the root itself is missing: a disk of the server is not mounted."""
        try:
            kind = (await self.look("")).kind
        except NotFound:
            kind = None
        if kind is not ObjectKind.DIRECTORY:
            raise self._faults.unavailable(
                "its folder is gone from the server; nothing is known about its content", _LOOKING
            )

    async def usage(self) -> Usage | None:
        """Used and free bytes; ``None`` when the server does not tell."""
        async with self._wire.responses(
            "PROPFIND",
            self._addresses.folder(""),
            "asking for the quota",
            "",
            headers={"Depth": "0"},
            body=_propfind(_QUOTA),
        ) as responses:
            found = [response async for response in _first(responses, 1)]
        # sabre/dav has negative numbers for "unlimited" and "not computed"
        used, free = (
            number_in(found[0].properties.get(f"quota-{which}-bytes")) if found else None
            for which in ("used", "available")
        )
        if used is None and free is None:
            return None
        return Usage(used=used, free=free, total=None if used is None or free is None else used + free)

    # ------------------------------------------------------------------ listing

    async def scan(self, folder: str, *, listed: bool = False) -> AsyncGenerator[ObjectInfo, None]:
        """What lies right in a folder, unfinished writes included; nothing when it does not exist.

        ``listed`` says that a listing has just shown the folder, so that its absence is worth a second look.
        """
        start = f"{folder}/" if folder else ""
        seen: set[int] = set()
        itself = False
        try:
            async with self._listing(folder) as responses:
                async for response in responses:
                    name = self._name_in(folder, response)
                    if response.status in {404, 410} or name is None:
                        continue  # removed while the folder was read, or not to be named here
                    if response.status is not None:
                        raise self._faults.error(Fault(response.status), _LISTING, folder)
                    if name == "":
                        itself = True
                        if response.collection:
                            continue
                        if folder and not listed:
                            return  # nothing lies below a file
                        raise self._faults.unavailable("the server calls a folder a file", _LISTING, folder)
                    if hash(name) not in seen:
                        # a name that comes twice, as one that is renamed meanwhile may, is one object all the same
                        seen.add(hash(name))
                        yield self._info(start + name, response)
        except NotFound:
            await self._require_missing(folder, listed=listed)
            return
        if not itself:
            raise self._faults.unavailable("the server lists a folder without the folder itself", _LISTING, folder)

    @asynccontextmanager
    async def _listing(self, folder: str) -> AsyncIterator[AsyncIterator[Response]]:
        try:
            async with self._wire.responses(
                "PROPFIND", self._addresses.folder(folder), _LISTING, folder, headers={"Depth": "1"}, body=self._wanted
            ) as responses:
                yield responses
        except MovedToFolder:
            raise self._faults.unavailable("the server sends in circles", _LISTING, folder) from None

    def _name_in(self, folder: str, response: Response) -> str | None:
        try:
            return self._addresses.child_of(folder, response.href)
        except Elsewhere:
            raise self._faults.unavailable(
                f"the server lists what does not lie in the folder ({response.href[:100]!r}); is url the address under"
                " which the server itself knows the folder?",
                _LISTING,
                folder,
            ) from None

    async def _require_missing(self, folder: str, *, listed: bool) -> None:
        await self.require_root()
        if listed and await self.kind_at(folder) is not None:
            raise self._faults.unavailable("a folder is there and cannot be listed", _LISTING, folder)

    # ------------------------------------------------------------------ folders

    async def make_root(self) -> None:
        """Make the root's folder and those above it, as far as they are missing."""
        doing = "making the provider's folder"
        missing = 0
        for _ in range(2 * self._addresses.depth + 2):
            reply = await self._wire.call(
                "MKCOL", self._addresses.above(missing), doing, accept={201, 301, 403, 405, 409, 404}
            )
            if reply.status in {404, 409} and missing < self._addresses.depth:
                missing += 1
                continue
            if missing == 0 or reply.status not in {201, 301, 405}:
                break
            missing -= 1
        try:
            kind = (await self.look("")).kind
        except NotFound:
            raise self._faults.error(reply.fault, doing) from None
        if kind is not ObjectKind.DIRECTORY:
            raise self.no_folder()

    def no_folder(self) -> ConfigInvalid:
        return ConfigInvalid(
            f"provider {self._faults.provider}: url names a file, not a folder; set url",
            provider=self._faults.provider,
            option="url",
        )

    async def make_folder(self, key: str) -> None:
        """Make a folder and those above it. The root itself is never made here: when it is missing, so is a disk.

        Raises NotDirectory.
        """
        if not key:
            await self.require_root()
            return
        async with self._making:
            await self._make_folder(key)

    async def _make_folder(self, key: str) -> None:
        doing = "making a folder"
        if not key:
            await self.require_root()
            return
        for _ in range(3):
            reply = await self._wire.call(
                "MKCOL", self._addresses.folder(key), doing, key, accept={201, 301, 403, 405, 404, 409}
            )
            if reply.status == 201:
                return
            kind = await self.kind_at(key)
            if kind is ObjectKind.DIRECTORY:
                return
            if kind is not None or await self.is_below_file(key):
                raise NotDirectory(f"{key} at provider {self._faults.provider} is not a folder", key=key)
            if reply.status not in {404, 409}:
                raise self._faults.error(reply.fault, doing, key)
            await self._make_folder(key.rpartition("/")[0])
        raise ProviderUnavailable(
            f"{key} at provider {self._faults.provider}: its folder is removed again and again; try later",
            provider=self._faults.provider,
        )

    async def remove_folder(self, key: str) -> None:
        """Remove an empty folder.

        A DELETE takes a folder with all that is in it, so where the server knows locks, the folder is locked and looked
        at again before: nobody adds to it meanwhile. Elsewhere a moment remains between the look and the DELETE.
        """
        doing = "removing a folder"
        try:
            kind = (await self.stat(key)).kind
        except NotFound:
            return
        if kind is not ObjectKind.DIRECTORY:
            raise NotDirectory(f"{key} at provider {self._faults.provider} is not a folder", key=key)
        await self._require_empty(key)
        url = self._addresses.folder(key)
        async with self._locked(url, key) as token:
            headers = {} if token is None else {"If": f"<{url}> ({token})"}
            if token is not None:
                await self._require_empty(key)
            await self._wire.call("DELETE", url, doing, key, headers=headers, accept={200, 204, 404})

    async def _require_empty(self, key: str) -> None:
        async with aclosing(self.scan(key)) as found:
            async for _ in found:
                raise DirectoryNotEmpty(f"{key} at provider {self._faults.provider} is not empty", key=key)

    @asynccontextmanager
    async def _locked(self, url: URL, key: str) -> AsyncIterator[str | None]:
        """Lock a folder with all that may come into it; ``None`` where the server knows no locks."""
        token = await self._lock(url, key) if self._locks else None
        try:
            yield token
        finally:
            if token is not None:
                # with the folder the lock is gone, which some servers call a conflict, some a missing file
                with contextlib.suppress(CdirError):
                    await self._wire.call(
                        "UNLOCK",
                        url,
                        "unlocking a folder",
                        key,
                        headers={"Lock-Token": token},
                        accept={204, 400, 404, 409, 412},
                    )

    async def _lock(self, url: URL, key: str) -> str | None:
        headers = {
            "Depth": "infinity",
            "Timeout": f"Second-{_LOCK_SECONDS}",
            "Content-Type": "application/xml; charset=utf-8",
        }
        try:
            reply = await self._wire.call(
                "LOCK",
                url,
                "locking a folder",
                key,
                headers=headers,
                body=_LOCK,
                accept={200, 201, 400, 403, 404, 405, 409, 415, 422},
            )
        except Unsupported:
            self._locks = False
            return None
        token = reply.headers.get("Lock-Token")
        if reply.status not in {200, 201} or not token:
            self._locks = self._locks and reply.status in {404, 409}
            return None
        return token


async def _first(responses: AsyncIterator[Response], most: int) -> AsyncIterator[Response]:
    """The first responses of an answer that is read to its end all the same: it must be whole."""
    count = 0
    async for response in responses:
        count += 1
        if count <= most:
            yield response
