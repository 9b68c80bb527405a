"""What other programs did at the providers: looking for it, and adopting what lies there."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

from cdir.connection import Connection
from cdir.conversion import entry_from
from cdir.errors import CdirError
from cdir.model import Entry
from cdir.paths import WorkspacePath
from cdir.status import from_failure, translated
from cdir.v1 import directory_service_pb2 as pb
from cdir.v1 import provider_pb2, provider_service_pb2, scan_pb2

__all__ = ["AdoptOutcome", "ScanReport", "adopt", "scan"]

_POLL_SECONDS: Final = 0.2
_GIVE_UP_SECONDS: Final = 60.0
"""How long a scan that nobody works on is waited for; its provider is looked at first."""

_ANSWERING: Final = {provider_pb2.PROVIDER_STATE_UP, provider_pb2.PROVIDER_STATE_SLOW}


@dataclasses.dataclass(frozen=True, slots=True)
class ScanReport:
    """What has been found at one provider so far."""

    provider: str
    done: bool
    """Whether everything that was asked for has been looked at."""
    same: int
    adopted: int
    """Files made by others that are files of the directory now."""
    changed: int
    """Files edited by others; the edit is the current content."""
    put_back: int
    """Files replaced by others with something older; it is kept as a version."""
    missing: int
    """Files that are not there any more."""
    ignored: int
    """Objects that cannot be files of the directory."""
    postponed: int
    """Files that were being written or moved; the next scan looks at them."""
    suspected: int
    """Files that are read first, to see whose content they are."""
    error: str
    """Why it could not go on, in one line; empty when it could."""


@dataclasses.dataclass(frozen=True, slots=True)
class AdoptOutcome:
    """What became of one object that was to be adopted."""

    key: str
    """The object at its provider."""
    path: str
    entry: Entry | None
    """The file; ``None`` when it failed."""
    existed: bool
    """Whether the object was this file already."""
    error: CdirError | None


async def scan(connection: Connection, where: WorkspacePath, provider: str, *, wait: bool) -> Sequence[ScanReport]:
    """See :meth:`cdir.client.Client.scan`."""
    request = pb.ScanEntryRequest(workspace=where.workspace, path=where.path, provider=provider)
    begun = list((await connection.call(connection.directory.ScanEntry, request)).scans)
    # the pass that was asked for is the next that comes to its end
    goals = {one.scan_id: one.passes + 1 for one in begun}
    latest = {one.scan_id: one for one in begun}
    moved = dict.fromkeys(goals, time.monotonic())
    while wait and await _is_going_on(connection, latest, goals, moved):
        await asyncio.sleep(_POLL_SECONDS)
        answer = await connection.call(connection.directory.GetScans, pb.GetScansRequest(scan_ids=list(goals)))
        found = {one.scan_id: one for one in answer.scans}
        for scan_id, before in list(latest.items()):
            now = found.get(scan_id)
            if now is None:
                # where nothing happens any more nobody looks twice: it has come to its end
                before.passes = goals[scan_id]
            else:
                if now.running or (now.passes, now.cursor) != (before.passes, before.cursor):
                    moved[scan_id] = time.monotonic()
                latest[scan_id] = now
    by_provider: dict[str, list[scan_pb2.Scan]] = {}
    for one in latest.values():
        by_provider.setdefault(one.provider, []).append(one)
    return [
        _report(provider, scans, done=all(one.passes >= goals[one.scan_id] for one in scans))
        for provider, scans in by_provider.items()
    ]


async def _is_going_on(
    connection: Connection, latest: dict[int, scan_pb2.Scan], goals: dict[int, int], moved: dict[int, float]
) -> bool:
    """Whether a scan that has not come to its end may do so: its provider answers, and somebody works on it."""
    pending = [one for one in latest.values() if one.passes < goals[one.scan_id] and not one.error]
    if not pending:
        return False
    answer = await connection.call(connection.providers.ListProviders, provider_service_pb2.ListProvidersRequest())
    answering = {provider.provider_id for provider in answer.providers if provider.state in _ANSWERING}
    oldest = time.monotonic() - _GIVE_UP_SECONDS
    return any(one.provider_id in answering and moved[one.scan_id] > oldest for one in pending)


async def adopt(
    connection: Connection, provider: str, source: str, where: WorkspacePath, *, recursive: bool
) -> AsyncIterator[AdoptOutcome]:
    """See :meth:`cdir.client.Client.adopt`."""
    call = connection.directory.AdoptEntries(
        pb.AdoptEntriesRequest(
            provider=provider, source=source, workspace=where.workspace, target=where.path, recursive=recursive
        ),
        metadata=connection.metadata,
    )
    try:
        with translated():
            async for answer in call:
                yield AdoptOutcome(
                    key=answer.key,
                    path=answer.path,
                    entry=entry_from(answer.entry) if answer.HasField("entry") else None,
                    existed=answer.existed,
                    error=from_failure(answer.failure) if answer.HasField("failure") else None,
                )
    finally:
        call.cancel()


def _report(provider: str, scans: Sequence[scan_pb2.Scan], *, done: bool) -> ScanReport:
    def total(name: str) -> int:
        return sum(getattr(one.counts, name) for one in scans)

    return ScanReport(
        provider=provider,
        done=done,
        same=total("same"),
        adopted=total("adopted"),
        changed=total("changed"),
        put_back=total("put_back"),
        missing=total("missing"),
        ignored=total("ignored"),
        postponed=total("postponed"),
        suspected=total("suspected"),
        error=next((one.error for one in scans if one.error), ""),
    )
