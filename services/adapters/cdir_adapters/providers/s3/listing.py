"""Listings: in pages of either version, or whole from services that know no pages."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable

from cdir.errors import ProviderUnavailable
from cdir_adapters.adapter import Checksum, ObjectInfo, ObjectKind, Page
from cdir_adapters.names import NameEncoding, is_key
from cdir_adapters.providers.s3.faults import Fault, Faults, Refused
from cdir_adapters.providers.s3.listing_answer import Listed, NoListing
from cdir_adapters.providers.s3.settings import S3Settings
from cdir_adapters.providers.s3.wire import Wire
from cdir_adapters.shapes import PAGE_SIZE

__all__ = ["Listing"]

_LISTING = "listing the bucket"


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """The listings of one provider.

    What lies elsewhere than was asked for, or has a key that nobody can give here, is left out.
    """

    wire: Wire
    faults: Faults
    settings: S3Settings
    names: NameEncoding | None
    checksum: Callable[[str | None], Checksum | None]
    """What an ETag says about the content."""
    exists: Callable[[str], Awaitable[bool]]
    """Whether there is an object, for entries that may stand for none."""

    async def ask_least(self) -> None:
        """Ask for the smallest listing. Raises Refused for what the service answers, else errors of cdir."""
        await self._call({"prefix": self.settings.prefix, "max-keys": "1"}, "")

    async def pages(self, prefix: str, *, recursive: bool, start_after: str | None) -> AsyncIterator[Page]:
        """See :meth:`cdir_adapters.adapter.Adapter.list`."""
        wanted = self.settings.prefix + (f"{self._encode(prefix)}/" if prefix else "")
        async for answer in self._answers(wanted, prefix, recursive, start_after):
            found = await self._infos(answer, wanted)
            if self.settings.profile.list_pages:
                found = {place: info for place, info in found.items() if info.key != start_after}
            else:
                if start_after is not None:
                    found = {key: info for key, info in found.items() if key.encode() > start_after.encode()}
                if not recursive:
                    found = _right_below(found, f"{prefix}/" if prefix else "")
            ordered = [found[place] for place in sorted(found, key=str.encode)]
            for start in range(0, len(ordered), PAGE_SIZE):
                yield Page(tuple(ordered[start : start + PAGE_SIZE]))

    async def _ask(self, query: dict[str, str], prefix: str) -> Listed:
        try:
            return await self._call(query, prefix)
        except Refused as refused:
            raise self.faults.error(refused.fault, _LISTING, prefix) from None

    async def _call(self, query: dict[str, str], prefix: str) -> Listed:
        try:
            with self.faults.translated(_LISTING, prefix):
                return await self.wire.list(query)
        except NoListing:
            raise self.faults.no_listing() from None
        except Refused as refused:
            if refused.fault == Fault(404):
                # said by something else: the service itself says that it is the bucket that is missing
                raise self.faults.no_listing() from None
            raise

    async def _answers(
        self, wanted: str, prefix: str, recursive: bool, start_after: str | None
    ) -> AsyncIterator[Listed]:
        profile = self.settings.profile
        place = "start-after" if profile.list_v2 else "marker"
        query = {"prefix": wanted}
        if profile.list_pages:
            query["max-keys"] = str(PAGE_SIZE)
            if not recursive:
                query["delimiter"] = "/"
            if start_after is not None:
                query[place] = self.settings.prefix + start_after
        while True:
            answer = await self._ask(query, prefix)
            yield answer
            if not answer.truncated:
                return
            following = answer.following
            if profile.list_v2:
                place = "continuation-token"
                query.pop("start-after", None)
            else:
                following = following or _last(answer, wanted)
            if not profile.list_pages or not following or following == query.get(place):
                raise ProviderUnavailable(
                    f"provider {self.faults.provider}: the service broke off a listing of {prefix or 'the root'}",
                    provider=self.faults.provider,
                )
            query[place] = following

    async def _infos(self, answer: Listed, wanted: str) -> dict[str, ObjectInfo]:
        """What an answer holds, by place in the order: a directory stands where its prefix with the slash does."""
        found: dict[str, ObjectInfo] = {}
        for name, size, modified, etag in answer.objects:
            key = self._key(name, wanted)
            if key is None or (name == self.settings.profile.list_ghost and not await self.exists(key)):
                continue
            if size is None:
                raise self.faults.no_listing()
            found[key] = ObjectInfo(key=key, size=size, modified=modified, etag=etag, checksum=self.checksum(etag))
        for place in answer.prefixes:
            key = self._key(place[:-1], wanted)
            if key is not None:
                found[f"{key}/"] = ObjectInfo(key=key, size=0, kind=ObjectKind.DIRECTORY)
        return found

    def _key(self, name: str, wanted: str) -> str | None:
        if not name.startswith(wanted):
            return None
        key = name[len(self.settings.prefix) :]
        if self.names is not None:
            key = self.names.decode(key)
        return key if is_key(key) else None

    def _encode(self, key: str) -> str:
        return key if self.names is None else self.names.encode(key)


def _last(answer: Listed, wanted: str) -> str | None:
    """The place where a page of the first version ends, which services tell only of listings with a delimiter."""
    names = [*(each.key for each in answer.objects), *answer.prefixes]
    return max((name for name in names if name.startswith(wanted)), key=str.encode, default=None)


def _right_below(found: dict[str, ObjectInfo], folder: str) -> dict[str, ObjectInfo]:
    """Turn everything below a folder into what lies right below it."""
    below: dict[str, ObjectInfo] = {}
    for key, info in found.items():
        name, slash, _ = key[len(folder) :].partition("/")
        if slash:
            below[f"{folder}{name}/"] = ObjectInfo(key=folder + name, size=0, kind=ObjectKind.DIRECTORY)
        else:
            below[key] = info
    return below
