"""Objects at their providers, past the virtual directory: looking, reading, writing what is new, removing.

Nothing here replaces an object, or touches one that is a file of the virtual directory: that goes through the directory
(:mod:`cdir_gateway.copying_trees`), which keeps what was there.
"""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import (
    CdirError,
    IntegrityError,
    InvalidPath,
    IsDirectory,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
)
from cdir.paths import MAX_PATH_BYTES, RESERVED_ROOT_NAME, WorkspacePath, is_temporary, normalize_path
from cdir.status import from_failure, translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    entry_pb2,
    provider_pb2,
    scan_pb2,
)
from cdir.v1 import endpoint_service_pb2 as pb
from cdir_gateway.ledger import CALL_SECONDS
from cdir_gateway.observations import Observations
from cdir_transfer.digest import BLOCK_SIZE
from cdir_transfer.health import ProviderHealth
from cdir_transfer.listing import listed_pages, provider_ref
from cdir_transfer.reader import OpenContent, VerifiedReader, transfer_deadline

__all__ = ["Endpoint", "Endpoints", "entry_of_key"]

_STAT_SECONDS: Final = 60.0
_REMOVE_SECONDS: Final = 300.0
_COPY_SECONDS: Final = 900.0
_BATCH: Final = 500


class Endpoint(NamedTuple):
    """A key at a provider; the empty key is the provider's root."""

    provider: provider_pb2.Provider
    key: str

    @property
    def shown(self) -> str:
        """As a person writes it."""
        return f"{self.provider.name}:{self.key}"

    def below(self, relative: str) -> Endpoint:
        """What lies ``relative`` below; the same for the empty path. Raises InvalidPath."""
        return Endpoint(self.provider, _normal_key("/".join(part for part in (self.key, relative) if part)))


class _OnlyFailures:
    """Passes on what says something about a provider; what is read past the directory says nothing about its copies."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations

    def replica_seen(self, observation: catalog_service_pb2.ReplicaObservation) -> None:
        """Nothing to note: it is no copy of the directory."""

    def content_learnt(self, learnt: scan_pb2.LearntVersion) -> None:
        """Nothing to note: the content has no version."""

    def provider_failed(self, provider_id: str, error: CdirError) -> None:
        self._observations.provider_failed(provider_id, error)


class Endpoints:
    """See EndpointService for what each method promises."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        health: ProviderHealth,
        observations: Observations,
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._reader = VerifiedReader(adapters, health, _OnlyFailures(observations))

    async def locate(self, place: pb.Place, *, writing: bool = False) -> Endpoint:
        """Return the place at its provider. Raises NotFound, InvalidPath, PreconditionFailed, PermissionDenied."""
        request = catalog_service_pb2.ReadProvidersRequest(name=place.provider)
        with translated():
            found = (await self._catalog.ReadProviders(request, timeout=CALL_SECONDS)).providers
        if not place.provider or not found:
            raise NotFound(
                f"no provider is named {place.provider!r}; `cdir provider list` shows them", provider=place.provider
            )
        provider = found[0].provider
        if provider.state == provider_pb2.PROVIDER_STATE_PAUSED:
            raise PreconditionFailed(
                f"provider {provider.name} is paused and left alone; `cdir provider resume {provider.name}` first",
                provider=provider.name,
            )
        if writing and provider.read_only:
            raise PermissionDenied(f"provider {provider.name} is read-only", provider=provider.name)
        return Endpoint(provider, _normal_key(place.path))

    async def find(self, endpoint: Endpoint) -> adapter_service_pb2.ObjectInfo | None:
        """Return what lies at a key; ``None`` for nothing, or a folder of which the provider keeps no trace."""
        if not endpoint.key:
            return adapter_service_pb2.ObjectInfo(directory=True)
        request = adapter_service_pb2.StatObjectRequest(provider=provider_ref(endpoint.provider), key=endpoint.key)
        try:
            with translated():
                return (await self._adapters.StatObject(request, timeout=_STAT_SECONDS)).info
        except NotFound:
            return None

    async def stat(self, endpoint: Endpoint) -> adapter_service_pb2.ObjectInfo:
        """Return what lies at a key, a folder where anything lies below it. Raises NotFound."""
        info = await self.find(endpoint)
        if info is not None:
            return info
        async with aclosing(self.pages(endpoint, recursive=False)) as pages:
            async for _ in pages:
                return adapter_service_pb2.ObjectInfo(key=endpoint.key, directory=True)
        raise NotFound(f"nothing lies at {endpoint.shown}", provider=endpoint.provider.name, path=endpoint.key)

    async def pages(
        self, folder: Endpoint, *, recursive: bool
    ) -> AsyncGenerator[Sequence[adapter_service_pb2.ObjectInfo], None]:
        """Yield what lies below a folder, without what is cdir's own; nothing for one that is missing."""
        request = adapter_service_pb2.ListObjectsRequest(
            provider=provider_ref(folder.provider), prefix=folder.key, recursive=recursive
        )
        async with aclosing(listed_pages(self._adapters, request, where=folder.shown)) as pages:
            async for page in pages:
                shown = [info for info in page if not (_is_own(info.key) or info.special or is_temporary(info.key))]
                if shown:
                    yield shown

    def open(self, endpoint: Endpoint, info: adapter_service_pb2.ObjectInfo) -> OpenContent:
        """Open an object as it was just looked at; what another program makes of it meanwhile is not read."""
        provider = endpoint.provider
        version = entry_pb2.Version(size=info.size, modified=info.modified)
        replica = entry_pb2.Replica(
            provider_id=provider.provider_id,
            provider=provider.name,
            provider_revision=provider.revision,
            key=endpoint.key,
            etag=info.etag,
            checksum=info.checksum,
        )

        async def resolve_again() -> Sequence[entry_pb2.Replica]:
            return [replica]

        return self._reader.open(version, [replica], resolve_again, label=endpoint.shown)

    async def create(
        self, endpoint: Endpoint, pieces: AsyncIterator[bytes], *, size: int | None, modified: Timestamp
    ) -> adapter_service_pb2.ObjectInfo:
        """Store a new object. An error of ``pieces`` stores nothing and is raised. Raises AlreadyExists."""
        header = adapter_service_pb2.ObjectHeader(
            provider=provider_ref(endpoint.provider),
            key=endpoint.key,
            size=size,
            modified=modified,
            only_if_absent=True,
        )
        source = _Source(header, pieces)
        if size is not None and size <= BLOCK_SIZE:
            data = b"".join([piece async for piece in pieces])
            source.sent = len(data)
            with translated():
                response = await self._adapters.PutObject(
                    adapter_service_pb2.PutObjectRequest(header=header, data=data),
                    timeout=transfer_deadline(len(data)),
                )
            info = response.info
        else:
            # nobody knows how long a source of unknown size takes; the adapters end what no longer moves
            timeout = None if size is None else transfer_deadline(size)
            try:
                with translated():
                    info = (await self._adapters.WriteObject(source.steps(), timeout=timeout)).info
            except CdirError:
                if source.error is not None:
                    raise source.error from None
                raise
        if info.size != source.sent:
            raise IntegrityError(
                f"{endpoint.shown}: the provider says that it stored {info.size} bytes instead of {source.sent};"
                " remove it and copy it again",
                provider=endpoint.provider.name,
            )
        return info

    async def copy_at_provider(self, source: Endpoint, target: Endpoint) -> adapter_service_pb2.ObjectInfo:
        """Have a provider copy its own object. Raises Unsupported where it cannot."""
        request = adapter_service_pb2.CopyObjectRequest(
            provider=provider_ref(source.provider), source=source.key, target=target.key
        )
        with translated():
            return (await self._adapters.CopyObject(request, timeout=_COPY_SECONDS)).info

    async def entries(self, keys: Sequence[str]) -> list[str]:
        """For each key at a provider say which entry of the directory it belongs to, as a person writes it: a file or
        directory of that name, or a file that is a parent of it. Empty where there is none."""
        refs: list[catalog_service_pb2.PathRef] = []
        owners: list[tuple[int, bool]] = []
        for number, key in enumerate(keys):
            where = entry_of_key(key)
            if where is None:
                continue
            refs.append(catalog_service_pb2.PathRef(workspace=where.workspace, path=where.path))
            owners.append((number, False))
            parent = where.path.rpartition("/")[0]
            while parent:
                refs.append(catalog_service_pb2.PathRef(workspace=where.workspace, path=parent))
                owners.append((number, True))
                parent = parent.rpartition("/")[0]
        found = [""] * len(keys)
        for start in range(0, len(refs), 1000):
            request = catalog_service_pb2.ResolveEntriesRequest(refs=refs[start : start + 1000])
            with translated():
                response = await self._catalog.ResolveEntries(request, timeout=CALL_SECONDS)
            for ref, (number, is_parent), result in zip(
                refs[start : start + 1000], owners[start : start + 1000], response.results, strict=True
            ):
                if result.HasField("failure"):
                    error = from_failure(result.failure)
                    if not isinstance(error, NotFound):
                        raise error
                elif not is_parent or result.entry.kind == entry_pb2.ENTRY_KIND_FILE:
                    found[number] = f"@{ref.workspace}{ref.path}" if ref.workspace else ref.path
        return found

    async def adopt(self, endpoint: Endpoint, info: adapter_service_pb2.ObjectInfo, where: WorkspacePath) -> None:
        """Make the object at a natural key a file of the directory; what it is already is fine."""
        request = scan_pb2.AdoptObjectsRequest(
            provider_id=endpoint.provider.provider_id,
            workspace=where.workspace,
            objects=[scan_pb2.AdoptedObject(object=info, path=where.path)],
        )
        with translated():
            response = await self._catalog.AdoptObjects(request, timeout=CALL_SECONDS)
        if response.outcomes[0].HasField("failure"):
            raise from_failure(response.outcomes[0].failure)

    async def remove(
        self, endpoint: Endpoint, *, recursive: bool, dry_run: bool
    ) -> AsyncGenerator[pb.RemoveEndpointResponse, None]:
        """Remove an object or all below a folder; what is a file of the directory stays."""
        info = await self.stat(endpoint)
        if not info.directory:
            yield await self._remove(endpoint.provider, [endpoint.key], dry_run=dry_run)
            return
        if not recursive:
            raise IsDirectory(f"{endpoint.shown}: is a folder; add --recursive to remove all below it")
        async with aclosing(self.pages(endpoint, recursive=True)) as pages:
            async for page in pages:
                keys = [one.key for one in page if not one.directory]
                for start in range(0, len(keys), _BATCH):
                    yield await self._remove(endpoint.provider, keys[start : start + _BATCH], dry_run=dry_run)

    async def _remove(
        self, provider: provider_pb2.Provider, keys: Sequence[str], *, dry_run: bool
    ) -> pb.RemoveEndpointResponse:
        response = pb.RemoveEndpointResponse()
        free = []
        for key, entry in zip(keys, await self.entries(keys), strict=True):
            if entry:
                message = (
                    f"{provider.name}:{key} belongs to {entry} of the virtual directory; `cdir rm {entry}` removes it"
                )
                failure = entry_pb2.Failure(reason="CONFLICT", message=message, retry="never")
                response.refused.append(pb.PlacedFile(target=key, failure=failure))
            else:
                free.append(key)
        if dry_run or not free:
            response.removed.extend(free)
            return response
        request = adapter_service_pb2.DeleteObjectsRequest(provider=provider_ref(provider), keys=free)
        with translated():
            outcomes = (await self._adapters.DeleteObjects(request, timeout=_REMOVE_SECONDS)).outcomes
        for key, outcome in zip(free, outcomes, strict=True):
            if outcome.reason:
                failure = entry_pb2.Failure(reason=outcome.reason, message=outcome.message, retry="never")
                response.refused.append(pb.PlacedFile(target=key, failure=failure))
            else:
                response.removed.append(key)
        return response


class _Source:
    """What is sent to a provider piece by piece."""

    def __init__(self, header: adapter_service_pb2.ObjectHeader, pieces: AsyncIterator[bytes]) -> None:
        self.sent = 0
        self.error: CdirError | None = None
        """Why the pieces came to no good end; the write was given up for it."""
        self._header = header
        self._pieces = pieces

    async def steps(self) -> AsyncIterator[adapter_service_pb2.WriteObjectRequest]:
        yield adapter_service_pb2.WriteObjectRequest(header=self._header)
        try:
            async for piece in self._pieces:
                if piece:
                    self.sent += len(piece)
                    yield adapter_service_pb2.WriteObjectRequest(data=piece)
        except CdirError as error:
            self.error = error
            return  # without a commit, nothing is stored
        yield adapter_service_pb2.WriteObjectRequest(commit=adapter_service_pb2.ObjectCommit(size=self.sent))


def entry_of_key(key: str) -> WorkspacePath | None:
    """Return the path of the directory whose natural key this is; ``None`` where no path can have it."""
    workspace = ""
    path = key
    if key.startswith("@"):
        workspace, _, path = key[1:].partition("/")
        if not workspace or not path:
            return None
    try:
        return WorkspacePath(workspace, normalize_path(path))
    except InvalidPath:
        return None


def _normal_key(path: str) -> str:
    """Return a path at a provider as its key. Raises InvalidPath."""
    names = [unicodedata.normalize("NFC", name) for name in path.split("/") if name]
    key = "/".join(names)
    if _is_own(key):
        raise InvalidPath(f"{key}: what lies in {RESERVED_ROOT_NAME} at a provider is cdir's own", path=key)
    if any(name in {".", ".."} or any(unicodedata.category(one) in {"Cc", "Cs"} for one in name) for name in names):
        raise InvalidPath(f"{path!r}: a path at a provider cannot hold '.', '..' or control characters", path=key)
    if len(key.encode()) > MAX_PATH_BYTES:
        raise InvalidPath(f"the path {key[:40]!r}… is longer than {MAX_PATH_BYTES} bytes in UTF-8", path=key)
    return key


def _is_own(key: str) -> bool:
    return key.partition("/")[0] == RESERVED_ROOT_NAME
