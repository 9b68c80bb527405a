"""A whole gateway over a real catalog and real providers, in one process, and adapters that fail on request."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Container, Iterable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import CdirError, Conflict
from cdir.status import from_failure, translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    directory_service_pb2,
    directory_service_pb2_grpc,
    entry_pb2,
    provider_pb2,
    provider_service_pb2,
    provider_service_pb2_grpc,
    replicator_service_pb2_grpc,
)
from cdir_adapters.pool import AdapterPool
from cdir_adapters.servicer import AdapterServicer
from cdir_catalog.service import open_catalog
from cdir_gateway.service import Gateway, open_gateway
from cdir_replicator.service import open_replicator
from cdir_runtime.channel import open_channel
from cdir_runtime.loopback import LoopbackChannel
from cdir_runtime.server import serve
from cdir_runtime.vault import Vault
from cdir_transfer.digest import ContentDigest

HANG = 60.0
"""Seconds after which a test gives up on what never comes."""

MODIFIED = Timestamp(seconds=1_600_000_000, nanos=123_456_000)


@dataclass(slots=True)
class Trouble:
    """What goes wrong at one provider, from now on until it is lifted."""

    error: CdirError | None = None
    """Raised by every call that moves content."""
    after: int = 0
    """Of a streamed write, only when this many bytes have arrived; a small one is stored first if this is not 0."""
    stalls: bool = False
    """Calls never come back."""
    pause: float = 0.0
    """Seconds before each call that moves content, and before each piece of a streamed read or write."""
    slows: tuple[int, float] | None = None
    """After how many pieces of a streamed read each further one takes how many seconds."""
    corrupt: bool = False
    """What is read has a wrong first byte."""
    lies: bool = False
    """Of what is stored by a call for many, it says that it is a byte longer."""
    writes_only: bool = False
    copies_only: bool = False
    """Only copying at the provider itself."""
    methods: Container[str] | None = None
    """Only these calls."""
    cuts_listings: bool = False
    """A listing ends after its first page without saying that it was complete."""
    calls: int = 0
    met: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the first call."""


class FaultyAdapters(AdapterServicer):
    """The adapters service, with troubles by provider id."""

    def __init__(self, pool: AdapterPool, vault: Vault) -> None:
        super().__init__(pool, vault)
        self.troubles: dict[str, Trouble] = {}
        self.calls: list[tuple[str, str]] = []
        """(method, provider id) of each call that moves content."""
        self.ranges: list[tuple[str, int, int]] = []
        """(provider id, offset, length) of each streamed read."""

    async def _meet(self, method: str, provider_id: str, *, write: bool) -> Trouble | None:
        self.calls.append((method, provider_id))
        trouble = self.troubles.get(provider_id)
        if trouble is None or (trouble.writes_only and not write) or (trouble.copies_only and method != "CopyObject"):
            return None
        if trouble.methods is not None and method not in trouble.methods:
            return None
        trouble.calls += 1
        trouble.met.set()
        if trouble.error is not None:
            trouble.error.context["provider"] = provider_id
        if trouble.stalls:
            await asyncio.Event().wait()
        if trouble.pause:
            await asyncio.sleep(trouble.pause)
        if trouble.error is not None and not trouble.after:
            raise trouble.error
        return trouble

    async def StatObject(self, request: adapter_service_pb2.StatObjectRequest, context: Any) -> Any:
        """Moves no content: in trouble only where the trouble names it."""
        trouble = self.troubles.get(request.provider.provider_id)
        if trouble is not None and trouble.methods is not None:
            await self._meet("StatObject", request.provider.provider_id, write=False)
        return await super().StatObject(request, context)

    async def FetchObject(self, request: adapter_service_pb2.FetchObjectRequest, context: Any) -> Any:
        trouble = await self._meet("FetchObject", request.provider.provider_id, write=False)
        response = await super().FetchObject(request, context)
        if trouble is not None and trouble.corrupt and response.data:
            spoiled = bytes([response.data[0] ^ 1]) + response.data[1:]
            return adapter_service_pb2.FetchObjectResponse(data=spoiled, size=response.size)
        return response

    async def ReadObject(
        self, request: adapter_service_pb2.ReadObjectRequest, context: Any
    ) -> AsyncGenerator[adapter_service_pb2.ReadObjectResponse, None]:
        provider_id = request.provider.provider_id
        self.ranges.append((provider_id, request.offset, request.length))
        trouble = await self._meet("ReadObject", provider_id, write=False)
        async with aclosing(super().ReadObject(request, context)) as pieces:
            count = 0
            async for piece in pieces:
                trouble = self.troubles.get(provider_id, trouble)
                if trouble is not None:
                    is_slow = trouble.slows is not None and count >= trouble.slows[0]
                    await asyncio.sleep(trouble.slows[1] if trouble.slows and is_slow else trouble.pause)
                    if trouble.corrupt and piece.data:
                        piece.data = bytes([piece.data[0] ^ 1]) + piece.data[1:]
                count += 1
                yield piece

    async def FetchObjects(self, request: adapter_service_pb2.FetchObjectsRequest, context: Any) -> Any:
        trouble = await self._meet("FetchObjects", request.provider.provider_id, write=False)
        response = await super().FetchObjects(request, context)
        if trouble is not None and trouble.corrupt:
            for outcome in response.outcomes:
                if outcome.object.data:
                    outcome.object.data = bytes([outcome.object.data[0] ^ 1]) + outcome.object.data[1:]
        return response

    async def ListObjects(
        self, request: adapter_service_pb2.ListObjectsRequest, context: Any
    ) -> AsyncIterator[adapter_service_pb2.ListObjectsResponse]:
        trouble = self.troubles.get(request.provider.provider_id)
        listing = super().ListObjects(request, context)
        async with aclosing(listing) as pages:  # type: ignore[type-var] # the servicer's is a generator
            async for page in pages:
                yield page
                if trouble is not None and trouble.cuts_listings:
                    return

    async def PutObject(self, request: adapter_service_pb2.PutObjectRequest, context: Any) -> Any:
        trouble = await self._meet("PutObject", request.header.provider.provider_id, write=True)
        response = await super().PutObject(request, context)
        if trouble is not None and trouble.error is not None:
            raise trouble.error
        return response

    async def PutObjects(self, request: adapter_service_pb2.PutObjectsRequest, context: Any) -> Any:
        trouble = await self._meet("PutObjects", request.provider.provider_id, write=True)
        response = await super().PutObjects(request, context)
        if trouble is not None and trouble.lies:
            for outcome in response.outcomes:
                outcome.info.size += 1
        if trouble is not None and trouble.error is not None:
            raise trouble.error
        return response

    async def CopyObject(self, request: adapter_service_pb2.CopyObjectRequest, context: Any) -> Any:
        await self._meet("CopyObject", request.provider.provider_id, write=True)
        return await super().CopyObject(request, context)

    async def MoveObject(self, request: adapter_service_pb2.MoveObjectRequest, context: Any) -> Any:
        await self._meet("MoveObject", request.provider.provider_id, write=True)
        return await super().MoveObject(request, context)

    async def WriteObject(
        self, request_iterator: AsyncIterator[adapter_service_pb2.WriteObjectRequest], context: Any
    ) -> Any:
        return await super().WriteObject(self._troubled(request_iterator), context)

    async def _troubled(
        self, steps: AsyncIterator[adapter_service_pb2.WriteObjectRequest]
    ) -> AsyncIterator[adapter_service_pb2.WriteObjectRequest]:
        trouble: Trouble | None = None
        arrived = 0
        async for step in steps:
            if step.HasField("header"):
                trouble = await self._meet("WriteObject", step.header.provider.provider_id, write=True)
            elif trouble is not None:
                await asyncio.sleep(trouble.pause)
                arrived += len(step.data)
                if trouble.error is not None and arrived >= trouble.after:
                    raise trouble.error
            yield step


def source_of(path: Path) -> directory_service_pb2.LocalFile:
    """A local file as a caller names it."""
    found = path.stat()
    return directory_service_pb2.LocalFile(
        path=str(path),
        device=found.st_dev,
        inode=found.st_ino,
        size=found.st_size,
        modified_ns=found.st_mtime_ns,
    )


def from_local(file_id: int, path: str, source: directory_service_pb2.LocalFile) -> directory_service_pb2.FileWrite:
    """A file that the gateway reads by itself."""
    return directory_service_pb2.FileWrite(
        id=file_id,
        open=directory_service_pb2.WriteOpen(path=path, modified=MODIFIED, local_source=source),
        commit=directory_service_pb2.WriteCommit(),
    )


@dataclass
class Harness:
    """The services and hands that do what a client does."""

    directory: directory_service_pb2_grpc.DirectoryServiceAsyncStub
    providers: provider_service_pb2_grpc.ProviderServiceAsyncStub
    catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub
    adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub
    faulty: FaultyAdapters
    folder: Path
    ids: dict[str, str] = field(default_factory=dict)

    def root(self, provider: str) -> Path:
        return self.folder / provider

    def files(self, provider: str) -> dict[str, bytes]:
        """Everything that lies at a local provider, cdir's own mark aside."""
        root = self.root(provider)
        found = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        found.pop(".cdir/provider", None)
        return found

    async def add_provider(self, name: str, kind: str = "local", **fields: Any) -> provider_pb2.Provider:
        options = {"root": str(self.root(name))} if kind == "local" else {}
        with translated():
            added = await self.providers.AddProvider(
                provider_service_pb2.AddProviderRequest(
                    provider=provider_pb2.Provider(name=name, kind=kind, options=options, **fields)
                )
            )
        self.ids[name] = added.provider.provider_id
        return added.provider

    def trouble(self, provider: str, **what: Any) -> Trouble:
        """Begin a trouble at a provider."""
        trouble = self.faulty.troubles[self.ids[provider]] = Trouble(**what)
        return trouble

    def calm(self) -> None:
        """Lift all troubles."""
        self.faulty.troubles.clear()

    async def set_policy(self, path: str = "/", **fields: Any) -> None:
        rule = entry_pb2.PolicyRule(path=path, policy=entry_pb2.Policy(**fields))
        with translated():
            await self.directory.SetPolicy(directory_service_pb2.SetPolicyRequest(rule=rule))

    def whole(self, file_id: int, path: str, data: bytes, **fields: Any) -> directory_service_pb2.FileWrite:
        """A file in one step."""
        return directory_service_pb2.FileWrite(
            id=file_id,
            open=directory_service_pb2.WriteOpen(path=path, modified=MODIFIED, **fields),
            data=data,
            commit=directory_service_pb2.WriteCommit(size=len(data), sha256=hashlib.sha256(data).digest()),
        )

    def steps(
        self, file_id: int, path: str, data: bytes, *, piece: int = 1 << 20, **fields: Any
    ) -> list[directory_service_pb2.FileWrite]:
        """A file in several steps."""
        steps = [
            directory_service_pb2.FileWrite(
                id=file_id, open=directory_service_pb2.WriteOpen(path=path, modified=MODIFIED, **fields)
            )
        ]
        steps += [
            directory_service_pb2.FileWrite(id=file_id, data=data[start : start + piece])
            for start in range(0, len(data), piece)
        ]
        commit = directory_service_pb2.WriteCommit(size=len(data), sha256=hashlib.sha256(data).digest())
        steps.append(directory_service_pb2.FileWrite(id=file_id, commit=commit))
        return steps

    async def write(
        self, steps: Iterable[directory_service_pb2.FileWrite], *, together: bool = False
    ) -> dict[int, list[directory_service_pb2.WriteResult]]:
        """Send steps one message each, or all in one; return all news by file."""

        async def requests() -> AsyncIterator[directory_service_pb2.WriteFilesRequest]:
            messages = [list(steps)] if together else ([step] for step in steps)
            for some in messages:
                yield directory_service_pb2.WriteFilesRequest(writes=some)

        news: dict[int, list[directory_service_pb2.WriteResult]] = {}
        async with asyncio.timeout(HANG):
            with translated():
                async for response in self.directory.WriteFiles(requests()):
                    for result in response.results:
                        news.setdefault(result.id, []).append(result)
        return news

    async def put(
        self, path: str, data: bytes, *, streamed: bool = False, **fields: Any
    ) -> directory_service_pb2.WriteStored:
        """Write one file and return its last news; raises the file's error."""
        steps = self.steps(1, path, data, **fields) if streamed else [self.whole(1, path, data, **fields)]
        results = (await self.write(steps))[1]
        assert [result.final for result in results] == [False] * (len(results) - 1) + [True]
        if results[-1].HasField("failure"):
            raise from_failure(results[-1].failure)
        return results[-1].stored

    async def put_when_free(self, path: str, data: bytes) -> None:
        """Write one file as soon as no other write holds its path."""

        async def written() -> bool:
            try:
                await self.put(path, data)
            except Conflict:
                return False
            return True

        await self.until(written)

    async def read(
        self, reads: Iterable[directory_service_pb2.FileRead]
    ) -> dict[int, list[directory_service_pb2.FilePart]]:
        """Read files over one stream; return the parts by file."""

        async def requests() -> AsyncIterator[directory_service_pb2.ReadFilesRequest]:
            for read in reads:
                yield directory_service_pb2.ReadFilesRequest(reads=[read])

        parts: dict[int, list[directory_service_pb2.FilePart]] = {}
        async with asyncio.timeout(HANG):
            with translated():
                async for response in self.directory.ReadFiles(requests()):
                    for part in response.parts:
                        parts.setdefault(part.id, []).append(part)
        return parts

    async def get(self, path: str, **fields: Any) -> bytes:
        """Read one file; raises the file's error."""
        parts = (await self.read([directory_service_pb2.FileRead(id=1, path=path, **fields)]))[1]
        if parts[-1].HasField("failure"):
            raise from_failure(parts[-1].failure)
        assert parts[0].HasField("entry")
        assert [part.end for part in parts] == [False] * (len(parts) - 1) + [True]
        return b"".join(part.data for part in parts)

    async def entry(self, path: str) -> entry_pb2.Entry:
        with translated():
            answer = await self.directory.GetEntries(
                directory_service_pb2.GetEntriesRequest(refs=[directory_service_pb2.EntryRef(path=path)])
            )
        (found,) = answer.results
        if found.HasField("failure"):
            raise from_failure(found.failure)
        return found.entry

    async def make_directory(self, path: str) -> directory_service_pb2.MadeDirectory:
        with translated():
            answer = await self.directory.MakeDirectories(
                directory_service_pb2.MakeDirectoriesRequest(refs=[directory_service_pb2.EntryRef(path=path)])
            )
        (made,) = answer.results
        if made.HasField("failure"):
            raise from_failure(made.failure)
        return made

    async def remove(self, path: str, **fields: Any) -> int:
        """Remove what lies there; returns how many files that was."""
        removal = directory_service_pb2.EntryRemoval(path=path, **fields)
        with translated():
            answer = await self.directory.RemoveEntries(directory_service_pb2.RemoveEntriesRequest(removals=[removal]))
        (removed,) = answer.results
        if removed.HasField("failure"):
            raise from_failure(removed.failure)
        return removed.files

    async def replicas(self, path: str) -> dict[str, entry_pb2.Replica]:
        """Every copy of a file's current content, by provider name."""
        with translated():
            status = await self.directory.GetFileStatus(directory_service_pb2.GetFileStatusRequest(path=path))
        return {replica.provider: replica for replica in status.replicas}

    async def resolved(self, path: str) -> catalog_service_pb2.ResolvedEntry:
        """What a reader would learn of a path."""
        with translated():
            found = await self.catalog.ResolveEntries(
                catalog_service_pb2.ResolveEntriesRequest(
                    refs=[catalog_service_pb2.PathRef(path=path)], with_replicas=True
                )
            )
        return found.results[0]

    async def until_empty(self, names: Iterable[str], key: str = "file") -> None:
        """Nothing lies under ``key`` now, and what a write that was cut off has left is soon cleared up."""
        names = list(names)
        assert all(key not in self.files(name) for name in names)

        async def cleared() -> bool:
            return all(self.files(name) == {} for name in names)

        await self.until(cleared)

    async def until(self, question: Any) -> None:
        """Ask until the answer is true."""
        async with asyncio.timeout(HANG):
            while True:
                with suppress(FileNotFoundError):  # what is looked at goes away meanwhile
                    if await question():
                        return
                await asyncio.sleep(0.02)


def version_of(content: bytes, version_id: str = "0" * 32) -> entry_pb2.Version:
    """The version record of a content."""
    digest = ContentDigest()
    digest.update(content)
    return entry_pb2.Version(
        version_id=version_id,
        generation=1,
        size=digest.size,
        sha256=digest.sha256(),
        block_digests=digest.block_digests(),
    )


@asynccontextmanager
async def open_harness(
    folder: Path,
    *,
    patience: float = 10.0,
    local_files: bool = True,
    socket: bool = False,
    replicator: bool = False,
) -> AsyncIterator[Harness]:
    """Compose everything in ``folder``; no provider is registered yet.

    With ``socket`` the gateway is behind one. Without ``replicator`` nothing happens in the background.
    """
    vault = Vault.unkept()
    async with (
        open_catalog(f"sqlite:///{folder}/catalog.db") as catalog,
        LoopbackChannel() as catalog_channel,
        LoopbackChannel() as adapters_channel,
        LoopbackChannel() as replicator_channel,
    ):
        catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(catalog, catalog_channel)
        catalog_stub = catalog_service_pb2_grpc.CatalogServiceStub(catalog_channel)
        async with AdapterPool(catalog_stub, vault) as pool:
            faulty = FaultyAdapters(pool, vault)
            adapter_service_pb2_grpc.add_AdapterServiceServicer_to_server(faulty, adapters_channel)
            async with (
                _replicating(catalog_channel, adapters_channel, replicator_channel, active=replicator),
                open_gateway(
                    catalog_channel,
                    adapters_channel,
                    replicator_channel,
                    vault,
                    local_files=local_files,
                    deployment="embedded",
                    patience=patience,
                ) as gateway,
                _reach(gateway, socket=socket) as channel,
            ):
                yield Harness(
                    directory=directory_service_pb2_grpc.DirectoryServiceStub(channel),
                    providers=provider_service_pb2_grpc.ProviderServiceStub(channel),
                    catalog=catalog_stub,
                    adapters=adapter_service_pb2_grpc.AdapterServiceStub(adapters_channel),
                    faulty=faulty,
                    folder=folder,
                )


@asynccontextmanager
async def _replicating(
    catalog: LoopbackChannel, adapters: LoopbackChannel, replicator: LoopbackChannel, *, active: bool
) -> AsyncIterator[None]:
    if not active:
        yield
        return
    async with open_replicator(catalog, adapters) as servicer:
        replicator_service_pb2_grpc.add_ReplicatorServiceServicer_to_server(servicer, replicator)
        yield


@asynccontextmanager
async def _reach(gateway: Gateway, *, socket: bool) -> AsyncIterator[grpc.aio.Channel]:
    registrars = (
        partial(directory_service_pb2_grpc.add_DirectoryServiceServicer_to_server, gateway.directory),
        partial(provider_service_pb2_grpc.add_ProviderServiceServicer_to_server, gateway.providers),
    )
    if not socket:
        async with LoopbackChannel() as channel:
            for register in registrars:
                register(channel)
            yield channel
        return
    async with serve("127.0.0.1:0", registrars, drain=1.0) as address, open_channel(address) as channel:
        yield channel
