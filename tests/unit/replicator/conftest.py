"""A replicator whose roles the test drives, over a real catalog, real adapters and real folders."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from cdir.status import from_failure, translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    directory_service_pb2,
    entry_pb2,
    provider_pb2,
    scrub_pb2,
)
from cdir_adapters.service import open_adapters
from cdir_catalog.service import open_catalog
from cdir_replicator.roles.scrub import ScrubRole
from cdir_replicator.service import Replicator
from cdir_runtime.loopback import LoopbackChannel
from cdir_runtime.vault import Vault
from cdir_transfer.digest import BLOCK_SIZE, ContentDigest

HANG = 60.0
"""Seconds after which a test that waits for something gives up."""


async def steps(
    header: adapter_service_pb2.ObjectHeader, data: bytes
) -> AsyncIterator[adapter_service_pb2.WriteObjectRequest]:
    yield adapter_service_pb2.WriteObjectRequest(header=header)
    for start in range(0, len(data), BLOCK_SIZE):
        yield adapter_service_pb2.WriteObjectRequest(data=data[start : start + BLOCK_SIZE])
    yield adapter_service_pb2.WriteObjectRequest(commit=adapter_service_pb2.ObjectCommit(size=len(data)))


@dataclasses.dataclass
class Bench:
    """What stands around the replicator, and hands that do what a gateway would."""

    catalog_channel: LoopbackChannel
    adapters_channel: LoopbackChannel
    folder: Path
    home_id: str
    replicator: Replicator
    vault: Vault
    providers: dict[str, adapter_service_pb2.ProviderRef] = dataclasses.field(default_factory=dict)

    @property
    def catalog(self) -> catalog_service_pb2_grpc.CatalogServiceAsyncStub:
        return catalog_service_pb2_grpc.CatalogServiceStub(self.catalog_channel)

    @property
    def adapters(self) -> adapter_service_pb2_grpc.AdapterServiceAsyncStub:
        return adapter_service_pb2_grpc.AdapterServiceStub(self.adapters_channel)

    def another_replicator(self) -> Replicator:
        return Replicator(self.catalog_channel, self.adapters_channel)

    def root(self, name: str) -> Path:
        return self.folder / name

    async def add_provider(
        self, name: str, kind: str = "local", options: Mapping[str, str] | None = None, **secrets: str
    ) -> None:
        options = {"root": str(self.root(name))} if kind == "local" else dict(options or {})
        provider_id = uuid.uuid4().hex
        sealed = await self.vault.seal(secrets, provider_id) if secrets else b""
        with translated():
            probed = await self.adapters.ProbeProvider(
                adapter_service_pb2.ProbeProviderRequest(
                    provider_id=provider_id,
                    home_id=self.home_id,
                    name=name,
                    kind=kind,
                    options=options,
                    sealed_secrets=sealed,
                )
            )
            created = await self.catalog.CreateProvider(
                catalog_service_pb2.CreateProviderRequest(
                    provider=catalog_service_pb2.StoredProvider(
                        provider=provider_pb2.Provider(
                            provider_id=provider_id,
                            name=name,
                            kind=kind,
                            options=options,
                            priority=100,
                            capability=probed.capability,
                        ),
                        sealed_secrets=sealed,
                    )
                )
            )
        self.providers[name] = adapter_service_pb2.ProviderRef(
            provider_id=provider_id, revision=created.provider.revision
        )

    # --- what a gateway does ------------------------------------------------------------------------------------------

    async def begin(
        self, path: str, data: bytes = b"", *, owner: str = "gateway", known: bool = False
    ) -> catalog_service_pb2.BegunWrite:
        """Begin to write a file; with ``known`` its digest is told beforehand."""
        intent = catalog_service_pb2.WriteIntent(path=path)
        intent.modified.FromSeconds(1_600_000_000)
        if known:
            intent.size, intent.sha256 = len(data), hashlib.sha256(data).digest()
        with translated():
            response = await self.catalog.BeginWrites(
                catalog_service_pb2.BeginWritesRequest(owner=owner, intents=[intent])
            )
        begun = response.results[0]
        if begun.HasField("failure"):
            raise from_failure(begun.failure)
        return begun

    async def store(
        self, target: catalog_service_pb2.WriteTarget, data: bytes, *, modified: int = 1_600_000_000
    ) -> catalog_service_pb2.StoredCopy:
        """Write a content at one of its targets, after the occupant was moved aside."""
        ref = adapter_service_pb2.ProviderRef(provider_id=target.provider_id, revision=target.provider_revision)
        with translated():
            if target.HasField("occupant") and target.occupant.version_id:
                await self.adapters.MoveObject(
                    adapter_service_pb2.MoveObjectRequest(
                        provider=ref, source=target.key, target=target.occupant.aside_key
                    )
                )
                await self.catalog.RecordReplicas(
                    catalog_service_pb2.RecordReplicasRequest(
                        observations=[
                            catalog_service_pb2.ReplicaObservation(
                                version_id=target.occupant.version_id,
                                provider_id=target.provider_id,
                                key=target.occupant.aside_key,
                                previous_key=target.key,
                                state=entry_pb2.REPLICA_STATE_OK,
                            )
                        ]
                    )
                )
            header = adapter_service_pb2.ObjectHeader(provider=ref, key=target.key)
            header.modified.FromSeconds(modified)
            if len(data) <= BLOCK_SIZE:
                put = await self.adapters.PutObject(adapter_service_pb2.PutObjectRequest(header=header, data=data))
                stored = put.info
            else:
                stored = (await self.adapters.WriteObject(steps(header, data))).info
        return catalog_service_pb2.StoredCopy(
            provider_id=target.provider_id, etag=stored.etag, checksum=stored.checksum
        )

    async def write(
        self, path: str, data: bytes, *, at: Iterable[str] | None = None, modified: int = 1_600_000_000
    ) -> entry_pb2.Entry:
        """Write a file at the providers named (default: all); copies at the others are owed."""
        begun = await self.begin(path, data)
        wanted = set(self.providers if at is None else at)
        stored = [
            await self.store(target, data, modified=modified) for target in begun.targets if target.provider in wanted
        ]
        digest = ContentDigest()
        digest.update(data)
        commitment = catalog_service_pb2.WriteCommitment(
            version_id=begun.version_id,
            size=len(data),
            sha256=digest.sha256(),
            block_digests=digest.block_digests(),
            stored=stored,
        )
        commitment.modified.FromSeconds(modified)
        with translated():
            response = await self.catalog.CommitWrites(
                catalog_service_pb2.CommitWritesRequest(commitments=[commitment])
            )
        result = response.results[0]
        if result.HasField("failure"):
            raise from_failure(result.failure)
        return result.entry

    async def move(self, source: str, target: str) -> None:
        with translated():
            await self.catalog.MoveEntry(directory_service_pb2.MoveEntryRequest(source=source, target=target))

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        removal = directory_service_pb2.EntryRemoval(path=path, recursive=recursive)
        with translated():
            answer = await self.catalog.RemoveEntries(directory_service_pb2.RemoveEntriesRequest(removals=[removal]))
        assert not answer.results[0].HasField("failure")

    async def set_policy(
        self, *, min_copies: int | None = None, keep_versions: int | None = None, keep_seconds: int | None = None
    ) -> None:
        policy = entry_pb2.Policy(min_copies=min_copies, keep_versions=keep_versions, keep_seconds=keep_seconds)
        rule = entry_pb2.PolicyRule(path="/", policy=policy)
        with translated():
            await self.catalog.SetPolicy(directory_service_pb2.SetPolicyRequest(rule=rule))

    # --- what a person sees -------------------------------------------------------------------------------------------

    async def replicas(self, path: str) -> dict[str, entry_pb2.Replica]:
        """Return every copy of a file's current content by the provider's name."""
        with translated():
            status = await self.catalog.GetFileStatus(directory_service_pb2.GetFileStatusRequest(path=path))
        return {replica.provider: replica for replica in status.replicas}

    async def state_of(self, name: str) -> provider_pb2.Provider:
        with translated():
            response = await self.catalog.ReadProviders(catalog_service_pb2.ReadProvidersRequest(name=name))
        return response.providers[0].provider

    async def owed(self) -> int:
        """Return how many copies of current contents are owed, and objects to be removed or renamed."""
        with translated():
            status = await self.catalog.GetTreeStatus(directory_service_pb2.GetTreeStatusRequest(path="/"))
        return status.owed + status.removals

    def files(self, name: str) -> dict[str, bytes]:
        """Return what lies at a local provider, cdir's mark left out."""
        root = self.root(name)
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.relative_to(root) != Path(".cdir/provider")
        }

    def corrupt(self, name: str, key: str) -> None:
        """Change a byte of an object behind everybody's back; size and time stay."""
        path = self.root(name) / key
        status = path.stat()
        data = bytearray(path.read_bytes())
        data[0] ^= 0xFF
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    # --- driving ------------------------------------------------------------------------------------------------------

    async def work_off(self, *replicators: Replicator) -> None:
        """Let replicators work until nothing is owed."""
        workers = replicators or (self.replicator,)
        async with asyncio.timeout(HANG):
            while await self.owed():
                await asyncio.gather(*(worker.propagate.once() for worker in workers))
                await asyncio.sleep(0.02)

    async def all_up(self) -> None:
        """Tell the catalog that every provider answers."""
        observations = [
            catalog_service_pb2.ProviderObservation(provider_id=ref.provider_id, state=provider_pb2.PROVIDER_STATE_UP)
            for ref in self.providers.values()
        ]
        await self.catalog.RecordProviderStates(
            catalog_service_pb2.RecordProviderStatesRequest(observations=observations)
        )

    async def scrub(self, role: ScrubRole | None = None, **fields: Any) -> scrub_pb2.ScrubProgress:
        """Have a scrub done, by ``role`` or the replicator's own; returns its last word."""
        await self.all_up()
        role = role or self.replicator.scrub
        request = scrub_pb2.ScrubTreeRequest(**{"path": "/", **fields})
        serving: asyncio.Task[None] | None = None
        last = scrub_pb2.ScrubProgress()
        async with asyncio.timeout(HANG):
            async for step in role.scrub(request):
                last = step
                if serving is None:
                    serving = asyncio.create_task(role.serve())
            assert serving is not None
            await serving
        assert last.done
        return last

    async def until(self, condition: Callable[[], object], step: Callable[[], object] | None = None) -> None:
        """Wait until ``condition`` holds; both may be coroutine functions."""
        async with asyncio.timeout(HANG):
            while True:
                found = condition()
                if asyncio.iscoroutine(found):
                    found = await found
                if found:
                    return
                done = step() if step is not None else None
                if asyncio.iscoroutine(done):
                    await done
                await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def new_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the database of a new catalog: copying it is much quicker than making it."""
    folder = tmp_path_factory.mktemp("catalog")

    async def make() -> None:
        async with open_catalog(f"sqlite:///{folder}/catalog.db"):
            pass

    asyncio.run(make())
    return folder


@pytest.fixture
async def bench(tmp_path: Path, new_catalog: Path) -> AsyncIterator[Bench]:
    shutil.copytree(new_catalog, tmp_path / "catalog")
    async with AsyncExitStack() as stack:
        catalog = await stack.enter_async_context(open_catalog(f"sqlite:///{tmp_path}/catalog/catalog.db"))
        catalog_channel = await stack.enter_async_context(LoopbackChannel())
        catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(catalog, catalog_channel)
        vault = Vault.unkept()
        adapters = await stack.enter_async_context(open_adapters(catalog_channel, vault))
        adapters_channel = await stack.enter_async_context(LoopbackChannel())
        adapter_service_pb2_grpc.add_AdapterServiceServicer_to_server(adapters, adapters_channel)
        stub = catalog_service_pb2_grpc.CatalogServiceStub(catalog_channel)
        identity = await stub.GetIdentity(catalog_service_pb2.GetIdentityRequest())
        bench = Bench(
            catalog_channel=catalog_channel,
            adapters_channel=adapters_channel,
            folder=tmp_path,
            home_id=identity.home_id,
            replicator=Replicator(catalog_channel, adapters_channel),
            vault=vault,
        )
        for name in ("a", "b", "c"):
            await bench.add_provider(name)
        # one copy makes a write: so a test can leave the others to the replicator
        await bench.set_policy(min_copies=1)
        while await bench.replicator.place.once():
            pass
        await bench.replicator.health.once()
        yield bench
