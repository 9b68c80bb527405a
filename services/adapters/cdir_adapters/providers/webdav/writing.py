"""Storing files so that each is there whole or not at all, on servers that do not promise it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Final

from yarl import URL

from cdir.errors import (
    CdirError,
    IntegrityError,
    IsDirectory,
    NotDirectory,
    NotFound,
    PreconditionFailed,
)
from cdir_adapters.adapter import Checksum, ObjectInfo, ObjectKind, Source
from cdir_adapters.capability import ChecksumKind
from cdir_adapters.providers.webdav.addresses import Addresses
from cdir_adapters.providers.webdav.bodies import Content, StreamedContent, WholeContent, held_back, sha1_of
from cdir_adapters.providers.webdav.faults import Faults
from cdir_adapters.providers.webdav.settings import Profile
from cdir_adapters.providers.webdav.times import TimeKeeper
from cdir_adapters.providers.webdav.tree import TEMPORARY, Tree, comparable_etag, quoted_etag
from cdir_adapters.providers.webdav.uploads import CHUNK, Uploads
from cdir_adapters.providers.webdav.wire import Reply, Wire
from cdir_adapters.shapes import PIECE_SIZE, chained, collect

__all__ = ["Writer", "if_header"]

logger = logging.getLogger(__name__)

_STORING: Final = "storing a file"
_MOVING: Final = "moving a file"
_ATTEMPTS: Final = 3
"""How often a folder is made that is missing; others may remove it again."""
_EXPLAINED: Final = {200, 201, 204, 301, 400, 403, 404, 405, 409, 412, 500}
"""Statuses that say too little by themselves: it is looked why the server refuses."""
_TIDY_DEADLINE: Final = 10.0
"""Seconds that removing an unfinished write may take; what remains is left to ``sweep``."""
_NO_ETAG: Final = '"none"'
"""Stands for an ETag that cannot be sent, so that a condition on it does not hold."""
_PATIENCE: Final = 900.0
"""Seconds that the server may copy or move without a word."""


def if_header(url: URL, etag: str | None) -> dict[str, str]:
    """The condition that what lies at ``url`` has that ETag; nothing without one.

    This header, unlike ``If-Match``, can speak of the target of a MOVE, and Apache takes the ETag of a file's first
    second for what it is.
    """
    return {} if etag is None else {"If": f"<{url}> ([{quoted_etag(etag) or _NO_ETAG}])"}


class Writer:
    """The writes, copies and moves of one provider."""

    def __init__(
        self,
        wire: Wire,
        tree: Tree,
        addresses: Addresses,
        faults: Faults,
        profile: Profile,
        times: TimeKeeper,
        fetch: Callable[[str], Awaitable[bytes]],
    ) -> None:
        self._wire = wire
        self._tree = tree
        self._addresses = addresses
        self._faults = faults
        self._profile = profile
        self._times = times
        self._fetch = fetch
        self._uploads = Uploads(wire, addresses, faults)

    @property
    def uploads(self) -> Uploads:
        return self._uploads

    async def store(
        self, key: str, source: Source, size: int | None, modified: datetime, if_match: str | None
    ) -> ObjectInfo:
        """Store a file; see :meth:`Adapter.write`."""
        if if_match is not None and await self._tree.kind_at(key) is None:
            # several servers pass over conditions on what is not there
            raise PreconditionFailed(f"{key} does not exist any more at provider {self._faults.provider}", key=key)
        kept = self._times.kept(modified)
        length = len(source) if isinstance(source, bytes) else size
        if self._profile.chunks and (length is None or length > CHUNK):
            return await self._store_large(key, source, size, kept, if_match)
        if self._profile.chunks or isinstance(source, bytes) or (length is not None and length <= PIECE_SIZE):
            content: Content = WholeContent([await collect(source, size, key)])
        else:
            content = StreamedContent(source, size, key)
        if self._profile.direct:
            return await self._store_directly(key, content, kept, if_match)
        async with self._aside(key) as aside:
            await self._put(aside.key, key, content, self._times.headers(kept))
            await self._require_whole(aside, key, content.sent, kept)
            await self._name(aside, key, if_match)
        return await self._settled(key, content.sent, kept, aside.key)

    async def copy(self, source: ObjectInfo, target: str) -> ObjectInfo:
        """Copy a file inside the server."""
        async with self._aside(target) as aside:
            await self._transfer("COPY", source.key, aside.key, target)
            await self._require_whole(aside, target, source.size, source.modified)
            await self._name(aside, target, None)
        return await self._settled(target, source.size, source.modified, aside.key)

    async def move(self, source: ObjectInfo, target: str) -> ObjectInfo:
        """Rename a file or a folder inside the server."""
        await self._transfer("MOVE", source.key, target, target, folder=source.kind is ObjectKind.DIRECTORY)
        if source.kind is ObjectKind.DIRECTORY:
            return await self._tree.look(target)
        return await self._settled(target, source.size, source.modified, source.key)

    # ------------------------------------------------------------------ under the file's own name

    async def _store_directly(self, key: str, content: Content, kept: datetime, if_match: str | None) -> ObjectInfo:
        headers = {**self._times.headers(kept), **if_header(self._addresses.file(key), if_match)}
        digest: str | None = None
        if self._profile.chunks and content.data is not None:
            digest = await asyncio.to_thread(sha1_of, content.data)
            headers["OC-Checksum"] = f"SHA1:{digest}"
        reply = await self._put(key, key, content, headers)
        info = await self._look_at(key, key)
        if info.size != content.sent:
            await self._require_other(key, info, content, reply)
            return ObjectInfo(key=key, size=content.sent, modified=kept)
        await self._require_digest(key, info, digest)
        return await self._times.keep(info, kept)

    async def _store_large(
        self, key: str, source: Source, size: int | None, kept: datetime, if_match: str | None
    ) -> ObjectInfo:
        url = self._addresses.file(key)
        headers = {**self._times.headers(kept), **if_header(url, if_match)}
        async with aclosing(held_back(source, size, key)) as pieces:
            begun: list[bytes] = []
            if size is None:
                async for piece in pieces:
                    begun.append(piece)
                    if sum(map(len, begun)) > CHUNK:
                        break
                else:
                    return await self._store_directly(key, WholeContent(begun), kept, if_match)
            if await self._tree.kind_at(key) is ObjectKind.DIRECTORY:
                raise self._is_folder(key)
            await self._require_parent(key)
            length, digest, reply = await self._uploads.store(url, key, chained(begun, pieces), size, headers)
        await self._require_stored(reply, key, "putting a file together")
        info = await self._look_at(key, key)
        if info.size != length:
            await self._require_other(key, info, None, reply)
            return ObjectInfo(key=key, size=length, modified=kept)
        await self._require_digest(key, info, digest)
        return await self._times.keep(info, kept)

    async def _require_other(self, key: str, info: ObjectInfo, content: Content | None, reply: Reply) -> None:
        """Raise IntegrityError unless what has another size than what was sent is another writer's file."""
        stated = reply.headers.get("ETag")
        ours = stated is not None and comparable_etag(stated) == comparable_etag(info.etag)
        if content is not None and content.data is not None and not ours:
            found = await self._fetch(key)
            if not b"".join(content.data).startswith(found):
                return
            ours = True
        if ours:
            await self._remove(key)
        raise IntegrityError(
            f"provider {self._faults.provider} holds {info.size} bytes of {key}, which are not as many as were sent",
            key=key,
        )

    async def _require_digest(self, key: str, info: ObjectInfo, digest: str | None) -> None:
        if digest is None or info.checksum is None or info.checksum == Checksum(ChecksumKind.SHA1, digest):
            return
        await self._remove(key)
        raise IntegrityError(
            f"provider {self._faults.provider} stored other bytes for {key} than were sent; they were removed", key=key
        )

    # ------------------------------------------------------------------ under another name, then moved

    @asynccontextmanager
    async def _aside(self, key: str) -> AsyncIterator[_Aside]:
        """A place for a new file beside the target, cleared when the body raises."""
        folder, slash, _ = key.rpartition("/")
        # the time is part of the name: that of the file itself may be any, and sweeping must know
        aside = _Aside(f"{folder}{slash}{TEMPORARY}{int(time.time()):x}-{uuid.uuid4().hex}")
        try:
            yield aside
        except BaseException:
            if not aside.keep:
                await self._tidy(aside.key)
            raise

    async def _tidy(self, temporary: str) -> None:
        """Remove an unfinished file, for a limited time."""
        try:
            async with asyncio.timeout(_TIDY_DEADLINE):
                await self._remove(temporary)
        except (CdirError, TimeoutError) as error:
            logger.info("provider %s: %s remains until the next sweep: %s", self._faults.provider, temporary, error)

    async def _require_whole(self, aside: _Aside, key: str, size: int, kept: datetime | None) -> None:
        info = await self._look_at(aside.key, key)
        if info.size != size:
            raise IntegrityError(
                f"provider {self._faults.provider} kept {info.size} of the {size} bytes of {key}; nothing was stored",
                key=key,
            )
        if kept is not None:
            await self._times.keep(info, kept)

    async def _name(self, aside: _Aside, key: str, if_match: str | None) -> None:
        """Let a finished file appear under its name.

        A server deletes the target of a MOVE first (RFC 4918, section 9.9.3). When it fails between the two, the
        finished file is all that is left, and must not be removed like other unfinished ones.
        """
        try:
            await self._transfer("MOVE", aside.key, key, key, if_match=if_match, aside=aside)
        except NotFound as error:
            raise self._faults.unavailable("an unfinished write was removed by somebody", _MOVING, key) from error
        except (PreconditionFailed, IsDirectory, NotDirectory):
            raise  # the server has refused before it deleted anything
        except (CdirError, asyncio.CancelledError):
            if aside.replacing:
                aside.keep = True
                await self._rescue(aside, key)
            raise

    async def _rescue(self, aside: _Aside, key: str) -> None:
        """Finish a MOVE that broke off after it had deleted an older file; else let the finished one be removed."""
        try:
            async with asyncio.timeout(_TIDY_DEADLINE):
                if await self._tree.kind_at(key) is None:
                    await self._transfer("MOVE", aside.key, key, key)
                else:
                    aside.keep = False
        except NotFound:
            aside.keep = False
        except (CdirError, TimeoutError) as error:
            logger.warning(
                "provider %s: %s may be missing, and its newest content be in %s (%s)",
                *(self._faults.provider, key, aside.key, error),
            )

    async def _settled(self, key: str, size: int, kept: datetime | None, source: str) -> ObjectInfo:
        """What lies at ``key`` after a MOVE from ``source``."""
        info = await self._look_at(key, key)
        if info.size == size and kept is not None:
            info = await self._times.keep(info, kept)
        if info.size == size and info.modified == kept:
            return info
        if await self._tree.kind_at(source) is not None:
            raise IntegrityError(
                f"provider {self._faults.provider} said that it stored {key}, and left what was there", key=key
            )
        # another writer was there too, or the server keeps no times
        return info if info.size == size else ObjectInfo(key=key, size=size, modified=kept)

    # ------------------------------------------------------------------ requests

    async def _put(self, place: str, key: str, content: Content, headers: Mapping[str, str]) -> Reply:
        """Send content to ``place``, which is ``key`` or beside it; make the folder when it is missing."""
        if content.data is None:
            # what is read only once cannot be sent again when the folder is made
            await self._require_parent(key)
        for _ in range(_ATTEMPTS):
            reply = await self._wire.call(
                *("PUT", self._addresses.file(place), _STORING, key),
                headers=headers,
                body=content,
                accept=_EXPLAINED,
            )
            if reply.status in {404, 409} and not content.spent:
                if place == key and await self._tree.kind_at(key) is ObjectKind.DIRECTORY:
                    raise self._is_folder(key)
                await self._tree.make_folder(key.rpartition("/")[0])
                continue
            break
        await self._require_stored(reply, key, _STORING)
        return reply

    async def _require_stored(self, reply: Reply, key: str, doing: str) -> None:
        """Raise what the answer to a request that should have stored a file means."""
        if reply.status in {200, 201, 204}:
            return
        if reply.status == 412:
            raise PreconditionFailed(
                f"{key} at provider {self._faults.provider} is not what was expected any more", key=key
            )
        if await self._tree.is_below_file(key):
            raise NotDirectory(
                f"{key} at provider {self._faults.provider}: a part of the path is not a folder", key=key
            )
        if await self._tree.kind_at(key) is ObjectKind.DIRECTORY:
            raise self._is_folder(key)
        if reply.status in {404, 409}:
            # NotFound is never said of a write: callers conclude that nothing is there any more
            raise self._faults.unavailable("the folder went away meanwhile; try again", doing, key)
        raise self._faults.error(reply.fault, doing, key)

    async def _transfer(
        self,
        method: str,
        source: str,
        target: str,
        key: str,
        *,
        folder: bool = False,
        if_match: str | None = None,
        aside: _Aside | None = None,
    ) -> None:
        """COPY or MOVE, replacing a file but never a folder. Raises NotFound when the source is missing."""
        place = self._addresses.folder if folder else self._addresses.file
        url, destination = place(source), place(target)
        doing = _MOVING if method == "MOVE" else "copying a file"
        replace = if_match is not None
        for _ in range(_ATTEMPTS):
            if aside is not None:
                aside.replacing = replace
            # with "T" a folder would be deleted as well, with all that is in it, so it is not said before a look
            headers = {"Destination": str(destination), "Overwrite": "T" if replace else "F"}
            reply = await self._wire.call(
                *(method, url, doing, key),
                headers={**headers, **if_header(destination, if_match)},
                accept=_EXPLAINED,
                patience=_PATIENCE,
            )
            if reply.status < 300:
                break
            there = await self._tree.kind_at(target)
            if there is ObjectKind.DIRECTORY:
                raise self._is_folder(target)
            if reply.status == 412 and not replace:
                if there is None:
                    # gone again, or the server takes the target for another name and would replace that
                    raise self._faults.unavailable("the server says that the target exists; it does not", doing, key)
                replace = True
            elif reply.status == 412:
                break
            elif reply.status in {404, 409} and await self._tree.kind_at(source) is None:
                raise NotFound(f"{source} does not exist at provider {self._faults.provider}", key=source)
            elif not await self._made_parent(target):
                break
        await self._require_stored(reply, key, doing)

    async def _made_parent(self, key: str) -> bool:
        """Make the folder above ``key``; tell whether it was missing."""
        folder = key.rpartition("/")[0]
        if await self._tree.kind_at(folder) is not None:
            return False
        await self._tree.make_folder(folder)
        return True

    async def _require_parent(self, key: str) -> None:
        folder = key.rpartition("/")[0]
        kind = await self._tree.kind_at(folder)
        if kind is None:
            await self._tree.make_folder(folder)
        elif kind is not ObjectKind.DIRECTORY:
            raise NotDirectory(f"{folder} at provider {self._faults.provider} is not a folder", key=key)

    async def _look_at(self, place: str, key: str) -> ObjectInfo:
        """What was just stored; its absence is an IntegrityError."""
        try:
            return await self._tree.look(place)
        except NotFound:
            await self._tree.require_root()
            raise IntegrityError(
                f"provider {self._faults.provider} said that it stored {key}, and nothing is there", key=key
            ) from None

    async def _remove(self, key: str) -> None:
        await self._wire.call("DELETE", self._addresses.file(key), "removing a file", key, accept={200, 204, 404})

    def _is_folder(self, key: str) -> IsDirectory:
        return IsDirectory(f"{key} at provider {self._faults.provider} is a folder", key=key)


@dataclasses.dataclass(slots=True)
class _Aside:
    """A finished or unfinished file that does not have its name yet."""

    key: str
    replacing: bool = False
    """Whether a MOVE was tried that deletes an older file first."""
    keep: bool = False
    """Whether it may be all that is left of the file."""
