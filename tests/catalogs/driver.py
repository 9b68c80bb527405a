"""A catalog behind its stub, with the calls that tests make again and again."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.struct_pb2 import Struct

from cdir.status import from_failure, translated
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import catalog_service_pb2_grpc, entry_pb2, provider_pb2
from cdir.v1 import directory_service_pb2 as directory
from cdir_catalog.service import open_catalog
from cdir_runtime.loopback import LoopbackChannel

__all__ = ["Driver", "open_driver", "sha256"]


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


class Driver:
    """One catalog, its database's URL, and the ids of the providers made through it."""

    def __init__(self, stub: Any, url: str) -> None:
        self.stub = stub
        self.url = url
        self.providers: dict[str, str] = {}

    async def call(self, method: str, request: Any, user: str = "ada") -> Any:
        """Make a unary call; its error comes as the class of ``cdir.errors``."""
        with translated():
            return await getattr(self.stub, method)(request, metadata=(("cdir-user", user),))

    # -- providers ----------------------------------------------------------------------------------------------------

    async def add_provider(
        self,
        name: str,
        *,
        case_sensitive: bool = True,
        lists_time: bool = True,
        lists_all: bool = False,
        precision: float = 1e-6,
        **fields: Any,
    ) -> str:
        """Register a provider that is up; returns its id."""
        provider_id = uuid.uuid4().hex
        capability = Struct()
        capability.update(
            {
                "case_sensitive": case_sensitive,
                "modified_listed": lists_time,
                "modified_precision": precision,
                "list_current": lists_all,
                "unicode_preserving": lists_all,
            }
        )
        provider = provider_pb2.Provider(
            provider_id=provider_id, name=name, kind="memory", capability=capability, **{"priority": 100, **fields}
        )
        stored = catalog.StoredProvider(provider=provider, sealed_secrets=b"sealed")
        await self.call("CreateProvider", catalog.CreateProviderRequest(provider=stored))
        self.providers[name] = provider_id
        await self.observe(name, provider_pb2.PROVIDER_STATE_UP)
        return provider_id

    async def add_providers(self, *names: str) -> None:
        for name in names:
            await self.add_provider(name)

    async def observe(self, name: str, state: provider_pb2.ProviderState.ValueType, reason: str = "") -> None:
        observation = catalog.ProviderObservation(provider_id=self.providers[name], state=state, reason=reason)
        await self.call("RecordProviderStates", catalog.RecordProviderStatesRequest(observations=[observation]))

    async def read_provider(self, name: str) -> provider_pb2.Provider:
        response = await self.call("ReadProviders", catalog.ReadProvidersRequest(name=name))
        provider: provider_pb2.Provider = response.providers[0].provider
        return provider

    async def change_provider(self, name: str, /, **fields: Any) -> provider_pb2.Provider:
        """Change fields of a provider; ``paused`` is one of them."""
        provider = await self.read_provider(name)
        request = catalog.ChangeProviderRequest(expected_revision=provider.revision, keep_secrets=True)
        if "paused" in fields:
            request.paused = fields.pop("paused")
        for field, value in fields.items():
            setattr(provider, field, value)
        request.provider.provider.CopyFrom(provider)
        response = await self.call("ChangeProvider", request)
        if provider.name != name:
            self.providers[provider.name] = self.providers.pop(name)
        changed: provider_pb2.Provider = response.provider
        return changed

    # -- writing ------------------------------------------------------------------------------------------------------

    async def begin(
        self, *paths: str, owner: str = "writer", workspace: str = "", lease: float = 0, **fields: Any
    ) -> list[catalog.BegunWrite]:
        intents = [catalog.WriteIntent(workspace=workspace, path=path, **fields) for path in paths]
        request = catalog.BeginWritesRequest(owner=owner, lease_seconds=lease, intents=intents)
        return list((await self.call("BeginWrites", request)).results)

    async def begin_one(self, path: str, **fields: Any) -> catalog.BegunWrite:
        """Begin one write; a failure is raised."""
        (begun,) = await self.begin(path, **fields)
        if begun.HasField("failure"):
            raise from_failure(begun.failure)
        return begun

    async def displace(self, begun: catalog.BegunWrite, on: Iterable[str]) -> None:
        """Report that what stood in the way at these providers was moved aside."""
        observations = [
            catalog.ReplicaObservation(
                version_id=target.occupant.version_id,
                provider_id=target.provider_id,
                key=target.occupant.aside_key,
                previous_key=target.key,
                state=entry_pb2.REPLICA_STATE_OK,
            )
            for target in begun.targets
            if target.provider in set(on) and target.occupant.version_id
        ]
        await self.record(*observations)

    def commitment(
        self,
        begun: catalog.BegunWrite,
        content: bytes = b"content",
        on: Iterable[str] = (),
        touched: Iterable[str] = (),
        writing: Iterable[str] = (),
    ) -> catalog.WriteCommitment:
        return catalog.WriteCommitment(
            version_id=begun.version_id,
            size=len(content),
            sha256=sha256(content),
            stored=[catalog.StoredCopy(provider_id=self.providers[name], etag=f'"{name}"') for name in on],
            touched=[self.providers[name] for name in touched],
            writing=[self.providers[name] for name in writing],
        )

    async def commit(self, *commitments: catalog.WriteCommitment) -> list[catalog.CommittedWrite]:
        response = await self.call("CommitWrites", catalog.CommitWritesRequest(commitments=commitments))
        return list(response.results)

    async def commit_one(self, commitment: catalog.WriteCommitment) -> entry_pb2.Entry:
        """Commit one write; a failure is raised."""
        (committed,) = await self.commit(commitment)
        if committed.HasField("failure"):
            raise from_failure(committed.failure)
        return committed.entry

    async def write(
        self, path: str, content: bytes = b"content", on: Iterable[str] | None = None, **fields: Any
    ) -> entry_pb2.Entry:
        """Write a file whole, on the providers named (by default on each that it should be on)."""
        begun = await self.begin_one(path, **fields)
        names = [target.provider for target in begun.targets] if on is None else list(on)
        await self.displace(begun, names)
        return await self.commit_one(self.commitment(begun, content, names))

    async def abort(self, begun: catalog.BegunWrite, touched: Iterable[str] = ()) -> None:
        abort = catalog.AbortedWrite(version_id=begun.version_id, touched=[self.providers[name] for name in touched])
        await self.call("AbortWrites", catalog.AbortWritesRequest(aborts=[abort]))

    async def record(self, *observations: catalog.ReplicaObservation, owner: str = "") -> None:
        await self.call("RecordReplicas", catalog.RecordReplicasRequest(observations=observations, owner=owner))

    async def see(
        self,
        entry: entry_pb2.Entry,
        provider: str,
        state: entry_pb2.ReplicaState.ValueType,
        key: str | None = None,
        writer: str = "",
    ) -> None:
        """Report the state of one copy, under its natural key unless told otherwise. ``writer`` is who wrote it, if the
        one who reports did."""
        await self.record(
            catalog.ReplicaObservation(
                version_id=entry.version_id,
                provider_id=self.providers[provider],
                key=entry.path[1:] if key is None else key,
                state=state,
                error="seen so",
                written=bool(writer),
            ),
            owner=writer,
        )

    # -- reading ------------------------------------------------------------------------------------------------------

    async def resolve(self, path: str, generation: int | None = None, workspace: str = "") -> catalog.ResolvedEntry:
        """Resolve one path with its copies; a failure is raised."""
        ref = catalog.PathRef(workspace=workspace, path=path, generation=generation)
        response = await self.call("ResolveEntries", catalog.ResolveEntriesRequest(refs=[ref], with_replicas=True))
        resolved: catalog.ResolvedEntry = response.results[0]
        if resolved.HasField("failure"):
            raise from_failure(resolved.failure)
        return resolved

    async def entry(self, path: str, workspace: str = "") -> entry_pb2.Entry:
        return (await self.resolve(path, workspace=workspace)).entry

    async def paths(self, path: str = "/", **fields: Any) -> list[str]:
        """Return the paths of every page."""
        found: list[str] = []
        token = ""
        while True:
            request = directory.ListEntriesRequest(path=path, page_token=token, **fields)
            response = await self.call("ListEntries", request)
            found += [entry.path for entry in response.entries]
            token = response.next_page_token
            if not token:
                return found

    async def replicas(self, path: str) -> dict[str, entry_pb2.Replica]:
        response = await self.call("GetFileStatus", directory.GetFileStatusRequest(path=path))
        return {replica.provider: replica for replica in response.replicas}

    async def states(self, path: str) -> dict[str, str]:
        """Return the state of each copy of a file, by provider, without its prefix."""
        return {
            name: entry_pb2.ReplicaState.Name(replica.state).removeprefix("REPLICA_STATE_")
            for name, replica in (await self.replicas(path)).items()
        }

    async def versions(self, path: str) -> list[entry_pb2.Version]:
        response = await self.call("ListVersions", directory.ListVersionsRequest(path=path))
        return list(response.versions)

    async def status(self, path: str = "/", workspace: str = "") -> directory.GetTreeStatusResponse:
        response: directory.GetTreeStatusResponse = await self.call(
            "GetTreeStatus", directory.GetTreeStatusRequest(workspace=workspace, path=path)
        )
        return response

    # -- changing -----------------------------------------------------------------------------------------------------

    async def make_directory(self, path: str, workspace: str = "") -> directory.MadeDirectory:
        (made,) = await self.make_directories(directory.EntryRef(workspace=workspace, path=path))
        if made.HasField("failure"):
            raise from_failure(made.failure)
        return made

    async def make_directories(self, *refs: directory.EntryRef) -> list[directory.MadeDirectory]:
        return list((await self.call("MakeDirectories", directory.MakeDirectoriesRequest(refs=refs))).results)

    async def move(self, source: str, target: str, *, overwrite: bool = False) -> directory.MoveEntryResponse:
        request = directory.MoveEntryRequest(source=source, target=target, overwrite=overwrite)
        response: directory.MoveEntryResponse = await self.call("MoveEntry", request)
        return response

    async def remove(self, path: str, user: str = "ada", **fields: Any) -> int:
        """Remove what lies there; returns how many files that was."""
        (removed,) = await self.remove_each(directory.EntryRemoval(path=path, **fields), user=user)
        if removed.HasField("failure"):
            raise from_failure(removed.failure)
        return removed.files

    async def remove_each(self, *removals: directory.EntryRemoval, user: str = "ada") -> list[directory.RemovedEntry]:
        request = directory.RemoveEntriesRequest(removals=removals)
        return list((await self.call("RemoveEntries", request, user=user)).results)

    async def set_policy(self, path: str, **fields: Any) -> directory.SetPolicyResponse:
        rule = entry_pb2.PolicyRule(path=path, policy=entry_pb2.Policy(**fields))
        response: directory.SetPolicyResponse = await self.call("SetPolicy", directory.SetPolicyRequest(rule=rule))
        return response

    async def place(self, limit: int = 0) -> int:
        """Place all that is to be placed; returns how many files were looked at."""
        placed: int = 0
        while True:
            response = await self.call("PlaceEntries", catalog.PlaceEntriesRequest(limit=limit))
            placed += response.placed
            if not response.remaining:
                return placed

    # -- debt ---------------------------------------------------------------------------------------------------------

    async def claim(self, owner: str = "worker", **fields: Any) -> list[catalog.DebtItem]:
        response = await self.call("ClaimDebt", catalog.ClaimDebtRequest(owner=owner, **fields))
        return list(response.items)

    async def finish(self, items: Iterable[catalog.DebtItem], owner: str = "worker", **outcome: Any) -> None:
        """Report one outcome for all items; by default that they are done."""
        fields: Mapping[str, Any] = outcome or {"done": True}
        outcomes = [catalog.DebtOutcome(debt_id=item.debt_id, owner=owner, **fields) for item in items]
        await self.call("FinishDebt", catalog.FinishDebtRequest(outcomes=outcomes))

    async def fail(self, items: Iterable[catalog.DebtItem], *, retry: float = 0, counted: bool = True) -> None:
        failure = entry_pb2.Failure(reason="PROVIDER_UNAVAILABLE", message="it broke", retry="later")
        await self.finish(items, failure=failure, retry_seconds=retry, counted=counted)


@asynccontextmanager
async def open_driver(url: str) -> AsyncIterator[Driver]:
    """Open the catalog at ``url`` and drive it through its stub."""
    async with open_catalog(url) as servicer, LoopbackChannel() as channel:
        catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(servicer, channel)
        yield Driver(catalog_service_pb2_grpc.CatalogServiceStub(channel), url)
