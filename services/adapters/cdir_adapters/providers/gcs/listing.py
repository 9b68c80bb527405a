"""Pages of a listing, flat or by directory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

from cdir.errors import NotFound
from cdir_adapters.adapter import ObjectInfo, ObjectKind
from cdir_adapters.names import is_key
from cdir_adapters.providers.gcs.faults import Faults
from cdir_adapters.providers.gcs.resources import FIELDS, info_of_resource
from cdir_adapters.providers.gcs.settings import GcsSettings
from cdir_adapters.providers.gcs.wire import Request, Wire
from cdir_adapters.shapes import PAGE_SIZE

__all__ = ["Lister"]

_DOING: Final = "listing the bucket"

# an empty, "." or ".." component, or a control character

_MOST_EMPTY: Final = 1000
"""Pages without a row in a row; the service may give some where much was deleted."""


class Lister:
    """Lists below a provider's prefix, in the order of names. Callers build on that, so leaving it is an error."""

    def __init__(self, settings: GcsSettings, wire: Wire, faults: Faults) -> None:
        self._settings = settings
        self._wire = wire
        self._faults = faults

    async def pages(
        self, prefix: str, *, recursive: bool, start_after: str | None
    ) -> AsyncGenerator[list[ObjectInfo], None]:
        """Yield pages that are not empty; a directory stands where its key with a slash does.

        Raises ProviderUnavailable when the listing breaks off, makes no sense or does not go on; also when the bucket
        is missing.
        """
        below = self._settings.name_of(prefix) + "/" if prefix else self._settings.prefix
        query = {
            "prefix": below,
            "maxResults": str(PAGE_SIZE),
            "fields": f"nextPageToken,prefixes,items({FIELDS})",
        }
        if not recursive:
            query["delimiter"] = "/"
        if start_after is not None:
            query["startOffset"] = self._settings.name_of(start_after)
        last = b""
        empty = 0
        while True:
            page = await self._page({name: value for name, value in query.items() if value})
            found = self._infos(page, below)
            places = sorted(found, key=str.encode)
            if places and places[0].encode() <= last:
                raise self._faults.broken(f"the service lists {places[0]} a second time, or not in order", _DOING)
            last = places[-1].encode() if places else last
            shown = [
                found[place]
                for place in places
                if start_after is None or found[place].key.encode() > start_after.encode()
            ]
            if shown:
                yield shown
            token = page.get("nextPageToken")
            if not token:
                return
            empty = 0 if places else empty + 1
            if not isinstance(token, str) or token == query.get("pageToken") or empty > _MOST_EMPTY:
                raise self._faults.broken("the service goes round in circles in a listing", _DOING)
            query["pageToken"] = token

    async def _page(self, query: dict[str, str]) -> dict[str, Any]:
        try:
            path = f"/storage/v1/b/{self._settings.bucket}/o"
            return await self._wire.json(Request("GET", path, _DOING, query=query))
        except NotFound:
            raise self._faults.bucket_is_gone() from None

    def _infos(self, page: dict[str, Any], below: str) -> dict[str, ObjectInfo]:
        """Return what a page holds, by its place in the order of keys."""
        found: dict[str, ObjectInfo] = {}
        try:
            for name in page.get("prefixes", []):
                key = self._key(name.removesuffix("/"), name, below)
                if key is not None:
                    found[f"{key}/"] = ObjectInfo(key=key, size=0, kind=ObjectKind.DIRECTORY)
            for item in page.get("items", []):
                key = self._key(item["name"], item["name"], below)
                if key is not None:
                    found[key] = info_of_resource(key, item, listed=True)
        except (AttributeError, LookupError, TypeError, ValueError):
            raise self._faults.broken("a row of a listing makes no sense", _DOING) from None
        return found

    def _key(self, stripped: str, name: str, below: str) -> str | None:
        """Return the key of a row; ``None`` for a name that nobody can give here."""
        name.encode()  # raises ValueError for half of a surrogate pair, which no request could name
        if not name.startswith(below):
            raise ValueError("not what was asked for")
        key = stripped[len(self._settings.prefix) :]
        return key if is_key(key) else None
