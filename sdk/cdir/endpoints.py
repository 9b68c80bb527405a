"""Objects at their providers, past the virtual directory, as ``client.endpoints``.

A place is written as on the command line: ``PROVIDER:path`` at a provider, ``/dir/file`` or ``@team/dir/file`` in the
virtual directory.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from cdir.conversion import timestamp
from cdir.errors import CdirError, InvalidArgument, ProviderUnavailable
from cdir.model import time_of
from cdir.paths import Endpoint, parse_endpoint, parse_target
from cdir.status import from_failure, translated
from cdir.v1 import endpoint_service_pb2 as pb

if TYPE_CHECKING:
    import grpc.aio

    from cdir.connection import Connection
    from cdir.v1 import adapter_service_pb2

__all__ = ["EndpointObject", "Endpoints", "PlacedFile", "RemovedObjects"]

_CALL_SECONDS: Final = 120.0
"""A provider is asked, perhaps several times; it answers long before."""


@dataclass(frozen=True, slots=True)
class EndpointObject:
    """What a provider says about one object or folder."""

    provider: str
    key: str
    is_directory: bool
    size: int
    modified: datetime | None
    modified_ns: int
    """Nanoseconds since 1970; 0 when the provider states no time."""
    etag: str
    checksum: str
    """As "kind:value"; empty when the provider states none."""

    @property
    def target(self) -> str:
        """As a person writes it."""
        return f"{self.provider}:{self.key}"

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """What came of one file that was to be copied or written."""

    source: str
    target: str
    size: int
    skipped: bool
    """Whether it was there unchanged."""
    at_provider: bool
    """Whether the provider copied by itself."""
    entry: str
    """The file of the virtual directory that was written; empty for an object that is none."""
    owed: tuple[str, ...]
    """Providers that get their copy in the background."""
    error: CdirError | None


@dataclass(frozen=True, slots=True)
class RemovedObjects:
    """What came of some objects that were to be removed."""

    removed: tuple[str, ...]
    refused: tuple[tuple[str, CdirError], ...]
    """Keys of those that stay, and why."""


class Endpoints:
    """See EndpointService. Every method raises NotFound (provider or object), InvalidPath, PreconditionFailed (the
    provider is paused), and what the provider answers."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = connection.endpoints

    async def stat(self, place: str) -> EndpointObject:
        """Return what lies at ``PROVIDER:path``; a folder is one where something lies below it."""
        endpoint = _endpoint(place)
        request = pb.StatEndpointRequest(place=_place(endpoint))
        with translated():
            answer = await self._stub.StatEndpoint(request, metadata=self._connection.metadata, timeout=_CALL_SECONDS)
        return _object(endpoint.provider, answer.object)

    async def list(self, place: str, *, recursive: bool = False) -> AsyncIterator[EndpointObject]:
        """Yield what lies below a folder at a provider, in the provider's order; an object is listed as itself."""
        endpoint = _endpoint(place)
        request = pb.ListEndpointRequest(place=_place(endpoint), recursive=recursive)
        call = self._stub.ListEndpoint(request, metadata=self._connection.metadata)
        try:
            with translated():
                async for answer in call:
                    for info in answer.objects:
                        yield _object(endpoint.provider, info)
        finally:
            call.cancel()

    async def read(self, place: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of an object. Only when it ends well was it the whole object. Raises IsDirectory,
        IntegrityError, PreconditionFailed (it changed meanwhile); also midway."""
        request = pb.ReadEndpointRequest(place=_place(_endpoint(place)))
        call = self._stub.ReadEndpoint(request, metadata=self._connection.metadata)
        try:
            with translated():
                async for answer in call:
                    if answer.data:
                        yield answer.data
        finally:
            call.cancel()

    async def write(
        self,
        place: str,
        pieces: AsyncIterable[bytes],
        *,
        size: int | None = None,
        modified_ns: int | None = None,
        replace: bool = False,
        dry_run: bool = False,
    ) -> PlacedFile:
        """Store one object whole or not at all; ``modified_ns`` is by default now. What is there unchanged is skipped.

        What lies there already stays (AlreadyExists) unless ``replace`` is true: then the content becomes the next one
        of that file of the virtual directory, and the old one is kept as a version. Pieces are at most 4 MiB.
        """
        opened = pb.WriteEndpointOpen(place=_place(_endpoint(place)), size=size, replace=replace, dry_run=dry_run)
        if modified_ns is not None:
            opened.modified.CopyFrom(timestamp(modified_ns))
        call = self._stub.WriteEndpoint(metadata=self._connection.metadata)
        try:
            with translated():
                await call.write(pb.WriteEndpointRequest(open=opened))
                answering = asyncio.ensure_future(call.read())
                try:
                    if not dry_run:
                        await _send(call, pieces, answering)
                    await call.done_writing()
                    answer = await answering
                finally:
                    answering.cancel()
        finally:
            call.cancel()
        if not isinstance(answer, pb.WriteEndpointResponse):
            raise ProviderUnavailable("cdir ended the transfer before the file was done; run it again")
        placed = _placed(answer.written)
        if placed.error is not None:
            raise placed.error
        return placed

    async def copy(
        self,
        source: str,
        target: str,
        *,
        recursive: bool = False,
        replace: bool = False,
        parallel: int = 4,
        dry_run: bool = False,
    ) -> AsyncIterator[PlacedFile]:
        """Copy a file to exactly ``target``, or with ``recursive`` all below a folder; yields each outcome.

        Both may be of any kind. What is there unchanged is skipped; what differs fails with AlreadyExists unless
        ``replace`` is true, which keeps the old content as a version. A file that fails does not stop the others.
        """
        call = self._stub.CopyTree(
            pb.CopyTreeRequest(
                source=_any_place(source),
                target=_any_place(target),
                recursive=recursive,
                replace=replace,
                parallel=parallel,
                dry_run=dry_run,
            ),
            metadata=self._connection.metadata,
        )
        try:
            with translated():
                async for answer in call:
                    for placed in answer.files:
                        yield _placed(placed)
        finally:
            call.cancel()

    async def remove(
        self, place: str, *, recursive: bool = False, dry_run: bool = False
    ) -> AsyncIterator[RemovedObjects]:
        """Remove an object, or with ``recursive`` all below a folder, for good; files of the virtual directory stay."""
        request = pb.RemoveEndpointRequest(place=_place(_endpoint(place)), recursive=recursive, dry_run=dry_run)
        call = self._stub.RemoveEndpoint(request, metadata=self._connection.metadata)
        try:
            with translated():
                async for answer in call:
                    refused = tuple((one.target, from_failure(one.failure)) for one in answer.refused)
                    yield RemovedObjects(tuple(answer.removed), refused)
        finally:
            call.cancel()


async def _send(
    call: grpc.aio.StreamStreamCall[pb.WriteEndpointRequest, pb.WriteEndpointResponse],
    pieces: AsyncIterable[bytes],
    answering: asyncio.Future[object],
) -> None:
    """Send a content and its commit; no more of it once there is an answer."""
    digest = hashlib.sha256()
    sent = 0
    async for piece in pieces:
        if answering.done():
            return
        await asyncio.to_thread(digest.update, piece)
        sent += len(piece)
        await call.write(pb.WriteEndpointRequest(data=piece))
    await call.write(pb.WriteEndpointRequest(commit=pb.WriteEndpointCommit(size=sent, sha256=digest.digest())))


def _endpoint(place: str) -> Endpoint:
    endpoint = parse_endpoint(place)
    if endpoint is None:
        raise InvalidArgument(f"{place!r} names nothing at a provider; write PROVIDER:PATH")
    return endpoint


def _place(endpoint: Endpoint) -> pb.Place:
    return pb.Place(provider=endpoint.provider, path=endpoint.path)


def _any_place(text: str) -> pb.Place:
    endpoint = parse_endpoint(text)
    if endpoint is not None:
        return _place(endpoint)
    where = parse_target(text)
    return pb.Place(workspace=where.workspace, path=where.path)


def _object(provider: str, info: adapter_service_pb2.ObjectInfo) -> EndpointObject:
    modified_ns = info.modified.ToNanoseconds() if info.HasField("modified") else 0
    return EndpointObject(
        provider=provider,
        key=info.key,
        is_directory=info.directory,
        size=info.size,
        modified=time_of(modified_ns) if modified_ns else None,
        modified_ns=modified_ns,
        etag=info.etag,
        checksum=info.checksum,
    )


def _placed(message: pb.PlacedFile) -> PlacedFile:
    return PlacedFile(
        source=message.source,
        target=message.target,
        size=message.size,
        skipped=message.skipped,
        at_provider=message.at_provider,
        entry=message.entry,
        owed=tuple(message.owed),
        error=from_failure(message.failure) if message.HasField("failure") else None,
    )
