"""The client for code without asyncio: the same methods, each returning when it is done.

::

    with cdir.connect_blocking() as client:
        client.write("/notes/today.txt", b"hello")
        for entry in client.list("/notes"):
            print(entry.name, entry.size)

An event loop runs in a thread of its own for as long as the client is open. Any thread may call. Ctrl-C during a call
cancels it: what was under way is not stored. See :class:`cdir.client.Client` for what the methods do and raise.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cdir.acl import Acl, AclReport
from cdir.blocking_endpoints import BlockingEndpoints, BlockingVault
from cdir.blocking_loop import Loop, pieces_of
from cdir.client import Client
from cdir.connecting import connect
from cdir.model import (
    Change,
    CheckResult,
    CopyOutcome,
    Entry,
    FileStatus,
    Kind,
    OnConflict,
    PlacementExplanation,
    Policy,
    ProviderInfo,
    ProviderUsage,
    Server,
    TransferReport,
    TreeStatus,
    Version,
    Wait,
    WriteOutcome,
)

if TYPE_CHECKING:
    from cdir.checking import CheckStep
    from cdir.evacuation import DrillPage, Evacuation, EvacuationPlan, Job
    from cdir.history import RestoreOutcome, Trashed
    from cdir.outside import AdoptOutcome, ScanReport
    from cdir.progress import OnProgress
    from cdir.recovery import RebuildStep, Snapshot, SnapshotTaken
    from cdir.scrubbing import ScrubProgress
    from cdir.surplus import Deletion, OnRemoved
    from cdir.syncing import SyncReport
    from cdir.trees import OnFile

__all__ = ["BlockingClient", "BlockingHistory", "BlockingProviders", "BlockingRecovery", "connect_blocking"]

Local = str | os.PathLike[str]


def connect_blocking(address: str | None = None, token: str | None = None, start: bool = False) -> BlockingClient:
    """Connect without asyncio; arguments as for :func:`cdir.connect`. Close it, or use it as a context manager."""
    return BlockingClient(address, token, start)


class BlockingClient:
    """:class:`cdir.client.Client` without asyncio."""

    def __init__(self, address: str | None = None, token: str | None = None, start: bool = False) -> None:
        self._loop = Loop()
        try:
            self._client: Client = self._loop.run(_opened(address, token, start))
        except BaseException:
            self._loop.close()
            raise
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and end the thread. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(Exception):
                self._loop.run(self._client.close())
            self._loop.close()

    @property
    def server(self) -> Server:
        return self._client.server

    @property
    def providers(self) -> BlockingProviders:
        return BlockingProviders(self._client, self._loop)

    @property
    def recovery(self) -> BlockingRecovery:
        return BlockingRecovery(self._client, self._loop)

    @property
    def history(self) -> BlockingHistory:
        return BlockingHistory(self._client, self._loop)

    @property
    def endpoints(self) -> BlockingEndpoints:
        return BlockingEndpoints(self._client, self._loop)

    @property
    def vault(self) -> BlockingVault:
        return BlockingVault(self._client, self._loop)

    # looking

    def stat(self, path: str) -> Entry:
        return self._loop.run(self._client.stat(path))

    def find(self, path: str) -> Entry | None:
        return self._loop.run(self._client.find(path))

    def list(self, path: str = "/", *, recursive: bool = False, page_size: int = 1000) -> Iterator[Entry]:
        return self._loop.iterate(self._client.list(path, recursive=recursive, page_size=page_size))

    def pages(
        self, path: str = "/", *, recursive: bool = False, page_size: int = 1000, first_page: int | None = None
    ) -> Iterator[Sequence[Entry]]:
        return self._loop.iterate(
            self._client.pages(path, recursive=recursive, page_size=page_size, first_page=first_page)
        )

    def search(self, pattern: str, path: str = "/", *, page_size: int = 1000) -> Iterator[Entry]:
        return self._loop.iterate(self._client.search(pattern, path, page_size=page_size))

    def versions(self, path: str) -> Sequence[Version]:
        return self._loop.run(self._client.versions(path))

    def file_status(self, path: str) -> FileStatus:
        return self._loop.run(self._client.file_status(path))

    def tree_status(self, path: str = "/") -> TreeStatus:
        return self._loop.run(self._client.tree_status(path))

    def explain(self, path: str) -> PlacementExplanation:
        return self._loop.run(self._client.explain(path))

    def watch(self, path: str = "/", *, after_revision: int = -1) -> Iterator[Change]:
        return self._loop.iterate(self._client.watch(path, after_revision=after_revision))

    # changing

    def make_directory(self, path: str) -> bool:
        return self._loop.run(self._client.make_directory(path))

    def move(self, source: str, target: str, *, overwrite: bool = False) -> Entry:
        return self._loop.run(self._client.move(source, target, overwrite=overwrite))

    def copy(
        self, source: str, target: str, *, recursive: bool = False, overwrite: bool = False
    ) -> Iterator[CopyOutcome]:
        return self._loop.iterate(self._client.copy(source, target, recursive=recursive, overwrite=overwrite))

    def remove(self, path: str, *, recursive: bool = False, if_generation: int | None = None) -> int:
        return self._loop.run(self._client.remove(path, recursive=recursive, if_generation=if_generation))

    def repair(self, path: str = "/", *, provider: str = "") -> int:
        return self._loop.run(self._client.repair(path, provider=provider))

    def check(self, path: str = "/", *, provider: str = "", deep: bool = False) -> Iterator[CheckStep]:
        return self._loop.iterate(self._client.check(path, provider=provider, deep=deep))

    def scan(self, path: str = "/", *, provider: str = "", wait: bool = False) -> Sequence[ScanReport]:
        return self._loop.run(self._client.scan(path, provider=provider, wait=wait))

    def adopt(self, provider: str, source: str, target: str, *, recursive: bool = False) -> Iterator[AdoptOutcome]:
        return self._loop.iterate(self._client.adopt(provider, source, target, recursive=recursive))

    def scrub(
        self, path: str = "/", *, provider: str = "", bytes: int = 0, calls: int = 0, sample: float = 1.0
    ) -> Iterator[ScrubProgress]:
        return self._loop.iterate(self._client.scrub(path, provider=provider, bytes=bytes, calls=calls, sample=sample))

    # bytes

    def write(
        self,
        path: str,
        content: bytes | os.PathLike[str] | Iterable[bytes],
        *,
        modified_ns: int | None = None,
        base_generation: int | None = None,
        wait: Wait = Wait.REACHABLE,
        on_conflict: OnConflict = OnConflict.FAIL,
    ) -> WriteOutcome:
        """Store one file: from bytes, from a local file, or from pieces; the pieces are asked for in a thread."""
        given: bytes | os.PathLike[str] | AsyncIterable[bytes]
        given = content if isinstance(content, bytes | os.PathLike) else pieces_of(content)
        return self._loop.run(
            self._client.write(
                path,
                given,
                modified_ns=modified_ns,
                base_generation=base_generation,
                wait=wait,
                on_conflict=on_conflict,
            )
        )

    def open_read(
        self,
        path: str,
        *,
        offset: int = 0,
        length: int | None = None,
        generation: int | None = None,
        provider: str = "",
    ) -> Iterator[bytes]:
        return self._loop.iterate(
            self._client.open_read(path, offset=offset, length=length, generation=generation, provider=provider)
        )

    def read(
        self,
        path: str,
        *,
        offset: int = 0,
        length: int | None = None,
        generation: int | None = None,
        provider: str = "",
    ) -> bytes:
        return self._loop.run(
            self._client.read(path, offset=offset, length=length, generation=generation, provider=provider)
        )

    def put(
        self,
        sources: Local | Sequence[Local],
        target: str,
        *,
        recursive: bool = False,
        parallel: int = 4,
        wait: Wait = Wait.REACHABLE,
        on_conflict: OnConflict = OnConflict.FAIL,
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
        on_file: OnFile | None = None,
    ) -> TransferReport:
        """As :meth:`cdir.client.Client.put`; the callbacks run in the client's thread and must be quick."""
        return self._loop.run(
            self._client.put(
                sources,
                target,
                recursive=recursive,
                parallel=parallel,
                wait=wait,
                on_conflict=on_conflict,
                dry_run=dry_run,
                on_progress=on_progress,
                on_file=on_file,
            )
        )

    def get(
        self,
        sources: str | Sequence[str],
        target: Local,
        *,
        recursive: bool = False,
        parallel: int = 4,
        provider: str = "",
        generation: int | None = None,
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
        on_file: OnFile | None = None,
    ) -> TransferReport:
        """As :meth:`cdir.client.Client.get`; the callbacks run in the client's thread and must be quick."""
        return self._loop.run(
            self._client.get(
                sources,
                target,
                recursive=recursive,
                parallel=parallel,
                provider=provider,
                generation=generation,
                dry_run=dry_run,
                on_progress=on_progress,
                on_file=on_file,
            )
        )

    def sync(
        self,
        source: str,
        target: str,
        *,
        delete: Deletion | None = None,
        parallel: int = 4,
        dry_run: bool = False,
        on_file: OnFile | None = None,
        on_removed: OnRemoved | None = None,
    ) -> SyncReport:
        """As :meth:`cdir.client.Client.sync`; the callbacks run in the client's thread and must be quick."""
        return self._loop.run(
            self._client.sync(
                source,
                target,
                delete=delete,
                parallel=parallel,
                dry_run=dry_run,
                on_file=on_file,
                on_removed=on_removed,
            )
        )

    # policies

    def policy(self, path: str = "/") -> tuple[Policy | None, Policy]:
        return self._loop.run(self._client.policy(path))

    def set_policy(self, path: str, policy: Policy) -> Policy:
        return self._loop.run(self._client.set_policy(path, policy))

    def unset_policy(self, path: str) -> Policy:
        return self._loop.run(self._client.unset_policy(path))

    def acl(self, path: str) -> AclReport:
        return self._loop.run(self._client.acl(path))

    def set_acl(self, path: str, wanted: Acl, *, recursive: bool = False, wait: float = 20.0) -> AclReport:
        return self._loop.run(self._client.set_acl(path, wanted, recursive=recursive, wait=wait))

    def unset_acl(self, path: str, *, recursive: bool = False, wait: float = 20.0) -> AclReport:
        return self._loop.run(self._client.unset_acl(path, recursive=recursive, wait=wait))


class BlockingHistory:
    """:class:`cdir.history.History` without asyncio."""

    def __init__(self, client: Client, loop: Loop) -> None:
        self._history = client.history
        self._loop = loop

    def restore(
        self,
        path: str,
        *,
        generation: int | None = None,
        at: datetime | None = None,
        recursive: bool = False,
        dry_run: bool = False,
    ) -> Iterator[RestoreOutcome]:
        return self._loop.iterate(
            self._history.restore(path, generation=generation, at=at, recursive=recursive, dry_run=dry_run)
        )

    def trash(self, path: str = "/", *, page_size: int = 1000) -> Iterator[Trashed]:
        return self._loop.iterate(self._history.trash(path, page_size=page_size))

    def empty_trash(self, path: str = "/") -> int:
        return self._loop.run(self._history.empty_trash(path))

    def conflicts(self, path: str = "/", *, page_size: int = 1000) -> Iterator[Entry]:
        return self._loop.iterate(self._history.conflicts(path, page_size=page_size))


class BlockingRecovery:
    """:class:`cdir.recovery.Recovery` without asyncio."""

    def __init__(self, client: Client, loop: Loop) -> None:
        self._recovery = client.recovery
        self._loop = loop

    def take_snapshot(self) -> SnapshotTaken:
        return self._loop.run(self._recovery.take_snapshot())

    def snapshots(self) -> Sequence[Snapshot]:
        return self._loop.run(self._recovery.snapshots())

    def rebuild(
        self,
        *,
        providers: Sequence[str] = (),
        snapshot: str = "",
        without_snapshot: bool = False,
        dry_run: bool = False,
    ) -> Iterator[RebuildStep]:
        return self._loop.iterate(
            self._recovery.rebuild(
                providers=providers, snapshot=snapshot, without_snapshot=without_snapshot, dry_run=dry_run
            )
        )


class BlockingProviders:
    """:class:`cdir.providers.Providers` without asyncio."""

    def __init__(self, client: Client, loop: Loop) -> None:
        self._providers = client.providers
        self._loop = loop

    def kinds(self) -> Sequence[Kind]:
        return self._loop.run(self._providers.kinds())

    def add(
        self,
        name: str,
        kind: str,
        options: Mapping[str, str] | None = None,
        *,
        secrets: Mapping[str, str] | None = None,
        location: str = "",
        priority: int = 0,
        cost: str = "",
        read_only: bool = False,
        bandwidth: int = 0,
        adopt: bool = False,
    ) -> ProviderInfo:
        return self._loop.run(
            self._providers.add(
                name,
                kind,
                options,
                secrets=secrets,
                location=location,
                priority=priority,
                cost=cost,
                read_only=read_only,
                bandwidth=bandwidth,
                adopt=adopt,
            )
        )

    def list(self) -> Sequence[ProviderInfo]:
        return self._loop.run(self._providers.list())

    def get(self, name: str) -> ProviderInfo:
        return self._loop.run(self._providers.get(name))

    def update(
        self,
        name: str,
        *,
        options: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        new_name: str | None = None,
        location: str | None = None,
        priority: int | None = None,
        cost: str | None = None,
        read_only: bool | None = None,
        bandwidth: int | None = None,
        paused: bool | None = None,
    ) -> ProviderInfo:
        return self._loop.run(
            self._providers.update(
                name,
                options=options,
                secrets=secrets,
                new_name=new_name,
                location=location,
                priority=priority,
                cost=cost,
                read_only=read_only,
                bandwidth=bandwidth,
                paused=paused,
            )
        )

    def pause(self, name: str) -> ProviderInfo:
        return self._loop.run(self._providers.pause(name))

    def resume(self, name: str) -> ProviderInfo:
        return self._loop.run(self._providers.resume(name))

    def check(self, name: str, *, full: bool = False) -> Iterator[CheckResult]:
        return self._loop.iterate(self._providers.check(name, full=full))

    def accept_losses(self, name: str) -> int:
        return self._loop.run(self._providers.accept_losses(name))

    def remove(self, name: str, *, force: bool = False) -> int:
        return self._loop.run(self._providers.remove(name, force=force))

    def usage(self) -> Sequence[ProviderUsage]:
        return self._loop.run(self._providers.usage())

    def plan_evacuation(self, name: str, *, to: Sequence[str] = (), purge: bool = False) -> EvacuationPlan:
        return self._loop.run(self._providers.plan_evacuation(name, to=to, purge=purge))

    def evacuate(self, name: str, *, to: Sequence[str] = (), purge: bool = False) -> Evacuation:
        return self._loop.run(self._providers.evacuate(name, to=to, purge=purge))

    def cancel_evacuation(self, name: str) -> ProviderInfo:
        return self._loop.run(self._providers.cancel_evacuation(name))

    def plan_replacement(self, old: str, new: str, *, purge: bool = False) -> EvacuationPlan:
        return self._loop.run(self._providers.plan_replacement(old, new, purge=purge))

    def replace(self, old: str, new: str, *, purge: bool = False) -> Evacuation:
        return self._loop.run(self._providers.replace(old, new, purge=purge))

    def drill(self, *without: str, page_size: int = 1000) -> Iterator[DrillPage]:
        return self._loop.iterate(self._providers.drill(*without, page_size=page_size))

    def jobs(self, *, running: bool = False) -> Sequence[Job]:
        return self._loop.run(self._providers.jobs(running=running))

    def follow(self, job_id: str, *, pause: float = 0.5) -> Iterator[Job]:
        return self._loop.iterate(self._providers.follow(job_id, pause=pause))


async def _opened(address: str | None, token: str | None, start: bool) -> Client:
    return await connect(address, token, start)
