"""What other programs did at the providers, as a user's calls: looking for it, adopting it, accepting what is lost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Final

from cdir.errors import InvalidArgument, InvalidPath, IsDirectory, NotFound
from cdir.paths import RESERVED_ROOT_NAME, join_path, normalize_path
from cdir.status import to_failure, translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    provider_pb2,
    replicator_service_pb2,
    replicator_service_pb2_grpc,
    scan_pb2,
)
from cdir.v1 import directory_service_pb2 as pb
from cdir_gateway.ledger import CALL_SECONDS, user_metadata
from cdir_transfer.listing import listed_pages, provider_ref

__all__ = ["Outside"]

_STAT_SECONDS: Final = 60.0
_LOSSES_SECONDS: Final = 600.0
_BATCH: Final = 500
_MOST_SCANS: Final = 1000


class Outside:
    """See ScanEntry, GetScans and AdoptEntries of DirectoryService, and AcceptLosses of ProviderService."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        replicator: replicator_service_pb2_grpc.ReplicatorServiceAsyncStub,
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._replicator = replicator

    async def scan(self, request: pb.ScanEntryRequest) -> list[scan_pb2.Scan]:
        """Have a path looked at now."""
        with translated():
            started = await self._replicator.StartScan(
                replicator_service_pb2.StartScanRequest(
                    workspace=request.workspace, path=normalize_path(request.path), provider=request.provider
                ),
                timeout=CALL_SECONDS,
            )
        return list(started.scans)

    async def scans(self, scan_ids: Iterable[int]) -> list[scan_pb2.Scan]:
        """How far scans are."""
        asked = list(scan_ids)
        if not 1 <= len(asked) <= _MOST_SCANS:
            raise InvalidArgument(f"ask for one to {_MOST_SCANS} scans at a time")
        with translated():
            response = await self._catalog.ReadScans(scan_pb2.ReadScansRequest(scan_ids=asked), timeout=CALL_SECONDS)
        return list(response.scans)

    async def accept_losses(self, name: str) -> int:
        """Take what the delete guard holds back at a provider for lost, and have the provider looked at once more;
        return how many files were lost so far."""
        accepted = 0
        while True:
            with translated():
                response = await self._catalog.AcceptLosses(
                    scan_pb2.AcceptLossesRequest(name=name), timeout=_LOSSES_SECONDS
                )
            accepted += response.accepted
            if not response.remaining:
                break
        # more may be missing than was noted before the guard stepped in
        with translated():
            await self._replicator.StartScan(
                replicator_service_pb2.StartScanRequest(path="/", provider=name), timeout=CALL_SECONDS
            )
        return accepted

    async def adopt(self, request: pb.AdoptEntriesRequest, user: str) -> AsyncGenerator[pb.AdoptEntriesResponse, None]:
        """Make files of an object or a tree; yield one outcome for each."""
        target = normalize_path(request.target)
        source = request.source.strip("/")
        if source.partition("/")[0] == RESERVED_ROOT_NAME:
            raise InvalidPath(f"{source}: what lies in {RESERVED_ROOT_NAME} is cdir's own", path=source)
        provider = await self._provider(request.provider)
        found = await self._stat(provider, source)
        batch: list[scan_pb2.AdoptedObject] = []
        if found is not None:
            if target == "/":
                raise IsDirectory("/ is a directory; say what the file is to be called", path="/")
            batch.append(scan_pb2.AdoptedObject(object=found, path=target))
        else:
            async with aclosing(self._below(provider, source)) as below:
                empty = True
                async for info in below:
                    empty = False
                    if not request.recursive:
                        raise IsDirectory(
                            f"{request.provider}:{source} is a folder; add it with --recursive", path=source
                        )
                    try:
                        path = normalize_path(_moved(info.key, source, target))
                    except InvalidPath as error:
                        yield pb.AdoptEntriesResponse(key=info.key, failure=to_failure(error))
                        continue
                    batch.append(scan_pb2.AdoptedObject(object=info, path=path))
                    if len(batch) >= _BATCH:
                        for outcome in await self._adopt(provider, request.workspace, batch, user):
                            yield outcome
                        batch.clear()
            if empty:
                raise NotFound(f"nothing lies at {request.provider}:{source}", path=source, provider=request.provider)
        for outcome in await self._adopt(provider, request.workspace, batch, user) if batch else ():
            yield outcome

    async def _provider(self, name: str) -> provider_pb2.Provider:
        with translated():
            response = await self._catalog.ReadProviders(
                catalog_service_pb2.ReadProvidersRequest(name=name), timeout=CALL_SECONDS
            )
        if not name or not response.providers:
            raise NotFound(f"no provider is named {name!r}; `cdir provider list` shows them", provider=name)
        return response.providers[0].provider

    async def _stat(self, provider: provider_pb2.Provider, key: str) -> adapter_service_pb2.ObjectInfo | None:
        """Return the file at ``key``; ``None`` where a folder is, or may be: some providers have no folders."""
        if not key:
            return None
        try:
            with translated():
                response = await self._adapters.StatObject(
                    adapter_service_pb2.StatObjectRequest(provider=provider_ref(provider), key=key),
                    timeout=_STAT_SECONDS,
                )
        except NotFound:
            return None
        return None if response.info.directory else response.info

    async def _below(
        self, provider: provider_pb2.Provider, folder: str
    ) -> AsyncGenerator[adapter_service_pb2.ObjectInfo, None]:
        """Yield every file below a folder but those that are cdir's own."""
        request = adapter_service_pb2.ListObjectsRequest(provider=provider_ref(provider), prefix=folder, recursive=True)
        where = f"{provider.name}:{folder}"
        async with aclosing(listed_pages(self._adapters, request, where=where)) as pages:
            async for page in pages:
                for info in page:
                    if not (info.directory or info.special or info.key.startswith(f"{RESERVED_ROOT_NAME}/")):
                        yield info

    async def _adopt(
        self, provider: provider_pb2.Provider, workspace: str, objects: list[scan_pb2.AdoptedObject], user: str
    ) -> list[pb.AdoptEntriesResponse]:
        with translated():
            response = await self._catalog.AdoptObjects(
                scan_pb2.AdoptObjectsRequest(provider_id=provider.provider_id, workspace=workspace, objects=objects),
                timeout=CALL_SECONDS,
                metadata=user_metadata(user),
            )
        return [
            pb.AdoptEntriesResponse(
                key=adopted.object.key,
                path=adopted.path,
                entry=outcome.entry if outcome.HasField("entry") else None,
                existed=outcome.existed,
                failure=outcome.failure if outcome.HasField("failure") else None,
            )
            for adopted, outcome in zip(objects, response.outcomes, strict=True)
        ]


def _moved(key: str, folder: str, target: str) -> str:
    """Where the file at ``key``, below ``folder``, belongs when the folder becomes ``target``."""
    return join_path(target, key[len(folder) + 1 :] if folder else key)
