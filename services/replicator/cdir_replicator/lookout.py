"""What another program put where a copy is to be written: it is taken up by a scan before anything replaces it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from cdir.errors import CdirError, NotFound, PreconditionFailed
from cdir.paths import RESERVED_ROOT_NAME
from cdir.status import translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    directory_service_pb2,
    entry_pb2,
    scan_pb2,
)
from cdir_transfer.learning import is_same_etag
from cdir_transfer.observer import is_providers_fault
from cdir_transfer.strangers import is_same_time

__all__ = ["Lookout"]

logger = logging.getLogger(__name__)

_STAT_SECONDS: Final = 60.0
_CATALOG_SECONDS: Final = 30.0

_PATIENCE: Final = 6
"""So many attempts leave a stranger alone: about half a minute, as the pauses between them grow. By then it was
scanned, and what the catalog wanted to keep it has moved."""


class Lookout:
    """Looks before a copy is written. ``on_scan_due`` is called when a scan was asked for."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        on_scan_due: Callable[[], None],
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._on_scan_due = on_scan_due

    async def find_free(self, item: catalog_service_pb2.DebtItem) -> bool:
        """Say whether nothing lies at the item's target; what does lie there may be replaced.

        Raises PreconditionFailed when it is something that cdir did not write, and asks for a scan of it. What the
        catalog calls the occupant is known, and no stranger.
        """
        if item.HasField("occupant") or item.replica.attempts >= _PATIENCE:
            return False
        replica = item.replica
        try:
            # a copy that was found bad may be one that cannot be read
            bad = replica.state == entry_pb2.REPLICA_STATE_CORRUPT
            if not bad and await self._is_vacant(replica, item.target_key):
                return True
            info = await self._stat(replica, item.target_key)
        except NotFound:
            return True
        if info.directory or info.special or _is_ours(info, item) or await self._is_known(info, item):
            return False
        await self.ask_for_scan(item, replica.provider)
        raise PreconditionFailed(
            f"{item.target_key} at provider {replica.provider} was put there by another program; a scan takes it up"
            " before it is replaced",
            provider=replica.provider,
        )

    async def is_anothers(self, item: catalog_service_pb2.DebtItem) -> bool:
        """Say whether the bad copy that is to be removed was replaced by another program, as far as can be told without
        reading: then a scan takes up what is there now, which was asked for.

        Nobody else puts anything at keys of cdir's own.
        """
        replica = item.replica
        if replica.state != entry_pb2.REPLICA_STATE_CORRUPT or replica.key.startswith(f"{RESERVED_ROOT_NAME}/"):
            return False
        try:
            info = await self._stat(replica, replica.key)
        except NotFound:
            return False
        if info.directory or info.special:
            return False
        other_etag = bool(replica.etag and info.etag) and not is_same_etag(info.etag, replica.etag)
        other_size = item.HasField("version") and info.size != item.version.size
        if not (other_etag or other_size):
            return False
        await self.ask_for_scan(item, replica.provider)
        return True

    async def _is_vacant(self, replica: entry_pb2.Replica, key: str) -> bool:
        """Say whether surely nothing lies at a key: asked for a byte, some providers say in one answer what a stat
        takes them two requests for."""
        try:
            with translated():
                await self._adapters.FetchObject(
                    adapter_service_pb2.FetchObjectRequest(provider=_ref(replica), key=key, length=1),
                    timeout=_STAT_SECONDS,
                )
        except NotFound:
            return True
        except CdirError as error:
            if is_providers_fault(error):
                raise
            # a folder, or what cannot be read: the stat tells
        return False

    async def _stat(self, replica: entry_pb2.Replica, key: str) -> adapter_service_pb2.ObjectInfo:
        with translated():
            response = await self._adapters.StatObject(
                adapter_service_pb2.StatObjectRequest(provider=_ref(replica), key=key), timeout=_STAT_SECONDS
            )
        return response.info

    async def _is_known(self, info: adapter_service_pb2.ObjectInfo, item: catalog_service_pb2.DebtItem) -> bool:
        """Whether an older content of the file was put back there, which is kept elsewhere."""
        with translated():
            response = await self._catalog.ListVersions(
                directory_service_pb2.ListVersionsRequest(workspace=item.workspace, path=item.path),
                timeout=_CATALOG_SECONDS,
            )
        return any(_is_like(info, version) for version in response.versions)

    async def ask_for_scan(self, item: catalog_service_pb2.DebtItem, provider: str) -> None:
        """Have the item's path looked at soon at ``provider``; when that cannot be asked for, the next pass does it."""
        try:
            with translated():
                await self._catalog.MakeScanDue(
                    scan_pb2.MakeScanDueRequest(workspace=item.workspace, path=item.path, provider=provider),
                    timeout=_CATALOG_SECONDS,
                )
        except CdirError as error:
            logger.warning("a scan of %s at provider %s cannot be asked for: %s", item.path, provider, error.message)
        else:
            self._on_scan_due()


def _ref(replica: entry_pb2.Replica) -> adapter_service_pb2.ProviderRef:
    return adapter_service_pb2.ProviderRef(provider_id=replica.provider_id, revision=replica.provider_revision)


def _is_ours(info: adapter_service_pb2.ObjectInfo, item: catalog_service_pb2.DebtItem) -> bool:
    """Whether what lies there is the copy that was found bad, or one that an attempt before this one has written."""
    same_etag = bool(item.replica.etag) and is_same_etag(info.etag, item.replica.etag)
    return (same_etag and info.size == item.version.size) or _is_like(info, item.version)


def _is_like(info: adapter_service_pb2.ObjectInfo, version: entry_pb2.Version) -> bool:
    """Whether an object has the size and the time of a content."""
    return info.size == version.size and info.HasField("modified") and is_same_time(info.modified, version.modified)
