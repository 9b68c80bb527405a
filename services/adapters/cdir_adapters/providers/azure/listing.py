"""Pages of a listing, flat or by directory, made of what the library reads from the service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any

from azure.storage.blob import BlobProperties
from azure.storage.blob.aio import BlobPrefix

from cdir.errors import CdirError, ProviderUnavailable, RateLimited
from cdir_adapters.adapter import ObjectInfo, ObjectKind
from cdir_adapters.names import is_key
from cdir_adapters.providers.azure.connections import Connections
from cdir_adapters.providers.azure.faults import Faults
from cdir_adapters.providers.azure.properties import checksum_of_md5, is_folder, modified_of, quoted
from cdir_adapters.providers.azure.settings import AzureSettings
from cdir_adapters.shapes import PAGE_SIZE

__all__ = ["Lister"]


class Lister:
    """Lists below a provider's prefix.

    Accounts with a hierarchical namespace list directory by directory, all others in the order of names. Callers build
    on the latter, so it is watched: a listing that leaves it is an error.
    """

    def __init__(self, settings: AzureSettings, connections: Connections, faults: Faults) -> None:
        self._settings = settings
        self._connections = connections
        self._faults = faults
        self._hierarchical: bool | None = None

    async def is_hierarchical(self) -> bool:
        """Whether the account has a hierarchical namespace: asked once; where that may not be asked, it has none."""
        if self._hierarchical is None:
            said: dict[str, Any] = {}
            try:
                with self._faults.translated("asking what the account is", parsing=True):
                    container = await self._connections.container()
                    said = await container.get_account_information()
            except (ProviderUnavailable, RateLimited):
                raise
            except CdirError:
                pass
            self._hierarchical = bool(said.get("is_hns_enabled"))
        return self._hierarchical

    async def pages(
        self, prefix: str, *, recursive: bool, start_after: str | None
    ) -> AsyncGenerator[list[ObjectInfo], None]:
        """Yield pages that are not empty, each in the order of keys; a directory stands where its key with a slash
        does.

        ``start_after`` skips what comes before. The service has a parameter for that, but one so new that most of its
        clouds ignore it.
        """
        ordered = not await self.is_hierarchical()
        asked = self._settings.prefix if not prefix else self._settings.name_of(prefix) + "/"
        last = ""
        async for items in self._raw_pages(asked, recursive):
            found = self._infos(items, asked)
            places = sorted(found, key=str.encode)
            if ordered and places:
                if last and places[0].encode() <= last.encode():
                    raise ProviderUnavailable(
                        f"provider {self._faults.provider}: the service lists {places[0]} after {last}, which is not in"
                        " order; the listing cannot be trusted",
                        provider=self._faults.provider,
                    )
                last = places[-1]
            if start_after is not None:
                skipped = start_after.encode()
                places = [place for place in places if found[place].key.encode() > skipped]
            if places:
                yield [found[place] for place in places]

    async def _raw_pages(self, asked: str, recursive: bool) -> AsyncIterator[list[BlobProperties | BlobPrefix]]:
        doing = "listing the container"
        with self._faults.translated(doing, parsing=True):
            container = await self._connections.container()
            listing = container.list_blobs if recursive else container.walk_blobs
            pages: Any = listing(
                name_starts_with=asked or None, include=["metadata"], results_per_page=PAGE_SIZE
            ).by_page()
        token = ""
        while True:
            with self._faults.translated(doing, asked, parsing=True):
                try:
                    page = await anext(pages)
                except StopAsyncIteration:
                    return
                items = [item async for item in page]
            yield items
            if pages.continuation_token and pages.continuation_token == token:
                raise ProviderUnavailable(
                    f"provider {self._faults.provider}: the service goes round in circles in a listing of"
                    f" {asked or 'the root'}",
                    provider=self._faults.provider,
                )
            token = pages.continuation_token or ""

    def _infos(self, items: Iterable[BlobProperties | BlobPrefix], asked: str) -> dict[str, ObjectInfo]:
        """Return what a page holds, by its place in the order of keys."""
        found: dict[str, ObjectInfo] = {}
        for item in items:
            name = item.name
            if not isinstance(name, str) or not name.startswith(asked):
                raise ProviderUnavailable(
                    f"provider {self._faults.provider}: the service lists something that was not asked for, outside of"
                    f" {asked or 'the root'}",
                    provider=self._faults.provider,
                )
            directory = isinstance(item, BlobPrefix)
            key = self._settings.key_of(name.removesuffix("/") if directory else name)
            if not is_key(key):
                continue  # nobody can name it here
            if isinstance(item, BlobPrefix):
                found[f"{key}/"] = ObjectInfo(key=key, size=0, kind=ObjectKind.DIRECTORY)
            elif not is_folder(item.metadata):
                with self._faults.translated("listing the container", key, parsing=True):
                    found[key] = _info(key, item)
        return found


def _info(key: str, item: BlobProperties) -> ObjectInfo:
    return ObjectInfo(
        key=key,
        size=int(item.size),
        modified=modified_of(item.metadata, item.last_modified),
        etag=quoted(item.etag),
        checksum=checksum_of_md5(item.content_settings.content_md5),
    )
