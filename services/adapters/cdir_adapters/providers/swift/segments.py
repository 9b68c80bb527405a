"""Segments that are stored: of which object they are, copying them, removing them with it or when it is gone."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final

from cdir.errors import CdirError, InvalidPath, NotFound, PermissionDenied
from cdir_adapters.providers.swift.faults import Faults
from cdir_adapters.providers.swift.headers import md5_of_etag
from cdir_adapters.providers.swift.listing import rows_of_container
from cdir_adapters.providers.swift.settings import SwiftSettings
from cdir_adapters.providers.swift.upload import UPLOAD_FOLDER, Segment, Upload, delete_all
from cdir_adapters.providers.swift.wire import Request, Wire

__all__ = ["Irregular", "Manifest", "Segments"]

logger = logging.getLogger(__name__)

_LOOK_AGAIN: Final = 60.0
"""Seconds for which it is believed that nobody has stored a large object."""
_MAX_MANIFEST: Final = 16 * 1024 * 1024
"""Bytes."""
_MAX_DEPTH: Final = 10
"""Manifests below manifests; a service takes no more."""
_OURS: Final = re.compile(rf"(?P<upload>(?P<owner>.+)/{re.escape(UPLOAD_FOLDER)}[0-9a-f]{{32}}/)[sm][0-9]{{8,}}")
_MAX_NAME: Final = 1024
_UPLOAD_NAME: Final = len(f"/{UPLOAD_FOLDER}/s") + 32 + 8
"""Bytes that the name of a segment adds to that of its object."""

Manifest = list[dict[str, Any]]


class Irregular(Exception):
    """A manifest of another client with entries that are no whole objects."""


class Segments:
    """The large objects of one provider."""

    def __init__(self, wire: Wire, faults: Faults, settings: SwiftSettings) -> None:
        self._wire = wire
        self._faults = faults
        self._settings = settings
        self._container = settings.segments
        self._exists: bool | None = None
        self._looked = 0.0

    # ------------------------------------------------------------------ storing

    async def begin(self, name: str, key: str) -> Upload:
        """Start a large object ``name`` in the container; the segments' container is made when it is missing."""
        if len(name.encode()) + _UPLOAD_NAME > _MAX_NAME:
            raise InvalidPath(
                f"{key} is too long a name for a large object; {_MAX_NAME - _UPLOAD_NAME} bytes are the most", key=key
            )
        if not await self._may_exist():
            await self._wire.headers(Request("PUT", self._container, "making the container of the segments"))
            self._exists = True
        return Upload(self._wire, self._faults, f"{self._settings.container}/{name}", self._container, key)

    def forget(self) -> None:
        """Look anew whether the segments' container exists: it was found missing."""
        self._exists = None

    # ------------------------------------------------------------------ finding

    async def manifest_of(self, name: str, key: str) -> Manifest | None:
        """Return what the object consists of; ``None`` when it is no large one. Raises NotFound.

        While there are no large objects at all, it is not looked at.
        """
        return await self.manifest(f"{self._settings.container}/{name}", key) if await self._may_exist() else None

    async def _may_exist(self) -> bool:
        """Whether there is a container of segments."""
        now = asyncio.get_running_loop().time()
        if self._exists is None or (not self._exists and now >= self._looked + _LOOK_AGAIN):
            try:
                await self._wire.headers(Request("HEAD", self._container, "looking for large objects"))
            except NotFound:
                self._exists = False
            except PermissionDenied:
                return True  # it may not be looked at
            else:
                self._exists = True
            self._looked = now
        return self._exists

    async def manifest(self, path: str, key: str, *, likely: bool = False) -> Manifest | None:
        """Return the entries of the manifest at ``path``; ``None`` when something else is there. Raises NotFound.

        Where one is ``likely``, it is asked for at once, at the price of a connection when it is something else.
        """
        doing = "reading a manifest"
        if not likely and not _is_manifest(await self._wire.headers(Request("HEAD", path, doing, key))):
            return None
        async with self._wire.asking(Request("GET", path, doing, key, {"multipart-manifest": "get"})) as answer:
            if not _is_manifest(answer.headers):
                return None
            body = await self._wire.body_of(answer, doing, _MAX_MANIFEST)
        try:
            return _entries(body)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self._faults.broken(f"the manifest of {key} makes no sense", doing) from None

    async def leaves(self, manifest: Manifest, key: str, depth: int = 0) -> AsyncGenerator[Segment, None]:
        """Yield the segments of a manifest, and of those it names, in the order of their bytes.

        Raises :class:`Irregular` for one that is a part of an object, or no object at all.
        """
        for entry in manifest:
            digest, size = md5_of_etag(str(entry.get("hash"))), entry.get("bytes")
            if entry.get("range") or "data" in entry or depth > _MAX_DEPTH:
                raise Irregular
            path = str(entry["name"]).lstrip("/")
            if not entry.get("sub_slo"):
                if digest is None or not isinstance(size, int):
                    raise Irregular
                yield Segment(path, digest, size)
                continue
            try:
                inner = await self.manifest(path, key, likely=True)
            except NotFound:
                inner = None
            if inner is None:
                raise self._faults.broken(f"a part of {key} is missing", "reading a manifest")
            async with aclosing(self.leaves(inner, key, depth + 1)) as below:
                async for segment in below:
                    yield segment

    # ------------------------------------------------------------------ removing

    async def remove(self, manifest: Manifest | None, name: str, key: str) -> None:
        """Remove the segments of an object that is gone. What cannot be removed is left to :meth:`sweep`.

        A manifest can name any object of the account: only those are removed that lie in the segments' container below
        the object's own name, where this and other clients put them.
        """
        if not manifest:
            return
        ours = f"{self._container}/{name}/"
        named = [str(entry.get("name", "")).lstrip("/") for entry in manifest]
        paths = [path for path in named if path.startswith(ours)]
        uploads = {found["upload"] for path in paths if (found := _OURS.fullmatch(path.partition("/")[2]))}
        try:
            await delete_all(self._wire, paths, key)
            for upload in uploads:
                # those under manifests of their own
                await self._remove_upload(upload, key)
        except CdirError as error:
            logger.warning("%s: segments may remain until the next sweep: %s", key, error)

    async def _remove_upload(self, upload: str, key: str) -> None:
        async with aclosing(self._rows(upload)) as pages:
            async for rows in pages:
                await delete_all(self._wire, [f"{self._container}/{row['name']}" for row in rows], key)

    def _rows(self, prefix: str) -> AsyncGenerator[list[dict[str, Any]], None]:
        return rows_of_container(self._wire, self._faults, self._container, prefix)

    async def sweep(self, before: datetime) -> int:
        """Remove uploads whose last segment was stored before that time and that no object consists of."""
        self.forget()
        if not await self._may_exist():
            return 0
        swept = 0
        async for upload, owner, stored in self._uploads():
            if stored < before and not await self._is_used(upload, owner):
                await self._remove_upload(upload, owner)
                swept += 1
        return swept

    async def _uploads(self) -> AsyncIterator[tuple[str, str, datetime]]:
        """Yield folder, object and time of the last segment of every upload below the provider's prefix."""
        upload = owner = ""
        last = datetime.min.replace(tzinfo=UTC)
        async with aclosing(self._rows(self._settings.prefix)) as pages:
            async for rows in pages:
                for row in rows:
                    found = _OURS.fullmatch(row["name"])
                    if found is None:
                        continue  # of another client
                    if found["upload"] != upload:
                        if upload:
                            yield upload, owner, last
                        upload, owner, last = found["upload"], found["owner"], datetime.min.replace(tzinfo=UTC)
                    last = max(last, _stored(row))
        if upload:
            yield upload, owner, last

    async def _is_used(self, upload: str, owner: str) -> bool:
        container = self._settings.container
        try:
            async with self._wire.telling_apart(container):
                manifest = await self.manifest(f"{container}/{owner}", owner, likely=True)
        except NotFound:
            return False
        used = f"/{self._container}/{upload}"
        return any(str(entry.get("name", "")).startswith(used) for entry in manifest or ())


def _entries(body: bytes) -> Manifest:
    """Read a manifest. Raises ValueError, TypeError or KeyError for what is none."""
    entries: Manifest = json.loads(body)
    if not isinstance(entries, list):
        raise TypeError
    for entry in entries:
        if not isinstance(entry, dict) or not ("data" in entry or isinstance(entry["name"], str)):
            raise TypeError
    return entries


def _is_manifest(headers: Any) -> bool:
    return str(headers.get("X-Static-Large-Object", "")).lower() == "true"


def _stored(row: dict[str, Any]) -> datetime:
    """When a row's object was stored; now when the service does not say it, so that it is spared."""
    try:
        return datetime.fromisoformat(row["last_modified"]).replace(tzinfo=UTC)
    except (KeyError, TypeError, ValueError):
        return datetime.now(UTC)
