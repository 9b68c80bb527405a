"""Snapshots of the catalog at the providers: making them, finding them, letting the oldest go.

They lie at ``.cdir/catalog/<home id>/<time>-<revision>.snapshot`` and ``….increment``. The name says when it was begun
and what the catalog was at; an increment belongs to the whole snapshot that is the last before it.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Final

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import CdirError, NotFound, ProviderUnavailable
from cdir.paths import RESERVED_ROOT_NAME
from cdir.status import translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_recovery_pb2,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    provider_pb2,
)
from cdir_transfer.leases import kept_alive
from cdir_transfer.listing import listed_pages, provider_ref

__all__ = ["FOLDER", "LEASE_SECONDS", "Found", "SnapshotStore", "Taken"]

logger = logging.getLogger(__name__)

LEASE_SECONDS: Final = 600.0
"""How long nobody else makes a snapshot after the last that was heard of who makes one."""

FOLDER: Final = f"{RESERVED_ROOT_NAME}/catalog"
"""Where snapshots lie at every provider, each home's in a folder of its own."""

_HOLDERS: Final = 3
"""At so many providers a snapshot is kept, or at all where there are fewer."""
_KEPT: Final = 7
"""Whole snapshots of this home that are kept at each provider."""
_KEPT_INCREMENTS: Final = 2
"""The last increment is all that is needed; the one before stays in case that one is damaged."""
_CALL_SECONDS: Final = 60.0
_DUMP_SECONDS: Final = 4 * 3600.0
_PIECE: Final = 1 << 20
_FETCH: Final = 4 << 20
_UPLOAD_SECONDS: Final = 120.0
_SLOWEST: Final = 64 << 10
"""Bytes per second: with less an upload is given up."""
_ANSWERING: Final = {provider_pb2.PROVIDER_STATE_UP, provider_pb2.PROVIDER_STATE_SLOW}
_WHOLE: Final = ".snapshot"
_INCREMENT: Final = ".increment"


@dataclass
class Found:
    """A snapshot file as it lies at providers."""

    name: str
    home_id: str
    size: int = 0
    holders: list[provider_pb2.Provider] = field(default_factory=list)
    base: Found | None = None
    """The whole snapshot that an increment needs."""

    @property
    def key(self) -> str:
        return f"{FOLDER}/{self.home_id}/{self.name}"

    @property
    def is_whole(self) -> bool:
        return self.name.endswith(_WHOLE)

    @property
    def taken(self) -> Timestamp:
        """When it was begun, from its name."""
        stamp = Timestamp()
        stamp.FromDatetime(_moment(self.name))
        return stamp

    @property
    def revision(self) -> int:
        return int(self.name.partition("-")[2].partition(".")[0])


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a snapshot that was due; ``name`` is that of the newest one when none was."""

    name: str
    made: bool
    size: int = 0
    providers: tuple[str, ...] = ()
    making: bool = False
    """Another process makes one at this moment."""


def _moment(name: str) -> datetime:
    return datetime.strptime(name[:18], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)


def _is_name(name: str) -> bool:
    stem, dot, kind = name.partition(".")
    try:
        _moment(stem)
    except ValueError:
        return False
    time, _, revision = stem.partition("-")
    return time[18:] == "Z" and revision.isdigit() and dot + kind in {_WHOLE, _INCREMENT}


class SnapshotStore:
    """Keeps the snapshots of one catalog at its providers. ``owner`` is the id of this process for its leases, which
    live for ``lease_seconds`` and are renewed while a snapshot is made."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        *,
        owner: str,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._owner = owner
        self._lease_seconds = lease_seconds

    # -- making ---------------------------------------------------------------------------------------------------

    async def take(self, *, at_once: bool = False, delay: float = 0.0, every: float = 0.0) -> Taken:
        """Make the snapshot that is due, if one is; ``at_once`` makes one due for any change.

        ``delay`` and ``every`` are the seconds after which one is due and has to be whole; 0 for the catalog's own.
        Raises ProviderUnavailable when no provider took it, and Conflict when its lease was lost meanwhile: another
        process may be making one.
        """
        request = catalog_recovery_pb2.ClaimSnapshotRequest(
            owner=self._owner,
            at_once=at_once,
            lease_seconds=self._lease_seconds,
            delay_seconds=delay,
            whole_seconds=every,
        )
        providers = self.takers(await self.providers())
        if not providers:
            raise ProviderUnavailable("no provider is up that could take the catalog's snapshot")
        with translated():
            claimed = await self._catalog.ClaimSnapshot(request, timeout=_CALL_SECONDS)
        if not claimed.name:
            return Taken(claimed.latest, made=False, making=claimed.making)
        stored: list[provider_pb2.Provider] = []
        size = 0
        try:
            with tempfile.TemporaryFile(prefix="cdir-snapshot-") as file:
                async with kept_alive(lambda: self._renew(claimed.name), seconds=self._lease_seconds):
                    size = await self._dump(claimed.name, file)
                    stored = await self._spread(Found(claimed.name, claimed.home_id, size), file, providers)
        finally:
            await self._finish(claimed.name, stored=bool(stored))
        for provider in stored:
            await self._prune(provider, claimed.home_id)
        return Taken(claimed.name, True, size, tuple(provider.name for provider in stored))

    @staticmethod
    def takers(providers: Iterable[provider_pb2.Provider]) -> list[provider_pb2.Provider]:
        """Return those providers that can take a snapshot now."""
        return [one for one in providers if one.state in _ANSWERING and not one.read_only]

    async def _dump(self, name: str, file: IO[bytes]) -> int:
        call = self._catalog.DumpCatalog(catalog_recovery_pb2.DumpCatalogRequest(name=name), timeout=_DUMP_SECONDS)
        size = 0
        try:
            with translated():
                async for response in call:
                    size += len(response.data)
                    await asyncio.to_thread(file.write, response.data)
        finally:
            call.cancel()
        return size

    async def _spread(
        self, found: Found, file: IO[bytes], providers: Sequence[provider_pb2.Provider]
    ) -> list[provider_pb2.Provider]:
        """Store the file at so many providers as it shall be at; returns those that took it."""
        stored: list[provider_pb2.Provider] = []
        last: CdirError | None = None
        for provider in providers:
            if len(stored) == _HOLDERS:
                break
            try:
                await self._upload(found, file, provider)
            except CdirError as error:
                logger.warning("provider %s did not take the catalog's snapshot: %s", provider.name, error)
                last = error
            else:
                stored.append(provider)
        if last is not None and not stored:
            raise last
        return stored

    async def _upload(self, found: Found, file: IO[bytes], provider: provider_pb2.Provider) -> None:
        async def steps() -> AsyncGenerator[adapter_service_pb2.WriteObjectRequest, None]:
            header = adapter_service_pb2.ObjectHeader(
                provider=provider_ref(provider), key=found.key, size=found.size, modified=found.taken
            )
            yield adapter_service_pb2.WriteObjectRequest(header=header)
            await asyncio.to_thread(file.seek, 0)
            while piece := await asyncio.to_thread(file.read, _PIECE):
                yield adapter_service_pb2.WriteObjectRequest(data=piece)
            commit = adapter_service_pb2.ObjectCommit(size=found.size)
            yield adapter_service_pb2.WriteObjectRequest(commit=commit)

        with translated():
            await self._adapters.WriteObject(steps(), timeout=_UPLOAD_SECONDS + found.size / _SLOWEST)

    async def _renew(self, name: str) -> None:
        request = catalog_recovery_pb2.RenewSnapshotRequest(
            name=name, owner=self._owner, lease_seconds=self._lease_seconds
        )
        with translated():
            await self._catalog.RenewSnapshot(request, timeout=_CALL_SECONDS)

    async def _finish(self, name: str, *, stored: bool) -> None:
        request = catalog_recovery_pb2.FinishSnapshotRequest(name=name, owner=self._owner, stored=stored)
        with translated():
            await self._catalog.FinishSnapshot(request, timeout=_CALL_SECONDS)

    async def _prune(self, provider: provider_pb2.Provider, home_id: str) -> None:
        """Remove what is older than the last so many snapshots. What cannot be removed now is removed another time."""
        try:
            names = sorted([found.name for found in await self._list(provider, f"{FOLDER}/{home_id}")], reverse=True)
            whole = [name for name in names if name.endswith(_WHOLE)]
            increments = [name for name in names if name.endswith(_INCREMENT)]
            outdated = whole[_KEPT:] + increments[_KEPT_INCREMENTS:]
            if outdated:
                keys = [f"{FOLDER}/{home_id}/{name}" for name in outdated[-1000:]]
                with translated():
                    await self._adapters.DeleteObjects(
                        adapter_service_pb2.DeleteObjectsRequest(provider=provider_ref(provider), keys=keys),
                        timeout=_CALL_SECONDS,
                    )
        except CdirError as error:
            logger.warning("provider %s: older snapshots were not removed: %s", provider.name, error)

    # -- finding --------------------------------------------------------------------------------------------------

    async def providers(self) -> list[provider_pb2.Provider]:
        """Return every registered provider by priority, then name."""
        with translated():
            response = await self._catalog.ReadProviders(
                catalog_service_pb2.ReadProvidersRequest(), timeout=_CALL_SECONDS
            )
        return [stored.provider for stored in response.providers]

    async def find(self, providers: Iterable[provider_pb2.Provider]) -> tuple[list[Found], dict[str, CdirError]]:
        """Return every snapshot that lies at these providers, newest first, and why some did not answer, by name.

        An increment whose whole snapshot is gone is left out: it is of no use.
        """
        found: dict[tuple[str, str], Found] = {}
        failed: dict[str, CdirError] = {}
        for provider in providers:
            try:
                listed = await self._list(provider, FOLDER)
            except CdirError as error:
                failed[provider.name] = error
                continue
            for one in listed:
                known = found.setdefault((one.home_id, one.name), one)
                known.holders.append(provider)
        newest = sorted(found.values(), key=lambda one: one.name, reverse=True)
        for one in newest:
            if not one.is_whole:
                before = (two for two in newest if two.is_whole and two.home_id == one.home_id and two.name < one.name)
                one.base = next(before, None)
        return [one for one in newest if one.is_whole or one.base is not None], failed

    async def _list(self, provider: provider_pb2.Provider, prefix: str) -> list[Found]:
        request = adapter_service_pb2.ListObjectsRequest(provider=provider_ref(provider), prefix=prefix, recursive=True)
        listed = []
        try:
            async with aclosing(listed_pages(self._adapters, request, where=provider.name)) as pages:
                async for page in pages:
                    for info in page:
                        home_id, _, name = info.key.removeprefix(f"{FOLDER}/").partition("/")
                        if _is_name(name):
                            listed.append(Found(name, home_id, info.size))
        except NotFound:
            return []
        return listed

    async def read(self, found: Found, provider: provider_pb2.Provider) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a snapshot as they lie at one provider, a few MiB at a time. They prove themselves."""
        offset = 0
        while offset < found.size:
            request = adapter_service_pb2.FetchObjectRequest(
                provider=provider_ref(provider), key=found.key, offset=offset, length=_FETCH
            )
            with translated():
                response = await self._adapters.FetchObject(request, timeout=_CALL_SECONDS)
            if not response.data:
                return
            offset += len(response.data)
            yield response.data
