"""Snapshots of the catalog, and a catalog made anew, as ``client.recovery``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cdir.connection import Connection
from cdir.status import translated
from cdir.v1 import catalog_recovery_pb2
from cdir.v1 import recovery_service_pb2 as pb

__all__ = ["LATEST", "RebuildReport", "RebuildStep", "Recovery", "Snapshot", "SnapshotTaken"]

LATEST: Final = "latest"
"""As the name of a snapshot: the newest one that is not damaged."""

_TAKE_SECONDS: Final = 6 * 3600.0
_LIST_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One file at the providers from which a catalog can be restored."""

    name: str
    home_id: str
    """The cdir that made it."""
    taken: datetime
    revision: int
    """The sum of the revisions of all workspaces then."""
    base: str
    """The whole snapshot that an increment needs; empty for a whole one."""
    size: int
    providers: tuple[str, ...]
    """Those that hold it."""


@dataclass(frozen=True, slots=True)
class SnapshotTaken:
    """What became of the wish for a snapshot."""

    name: str
    """Of the newest snapshot."""
    taken: bool
    """False when nothing had changed since that one was made."""
    size: int
    providers: tuple[str, ...]
    """Those that took it now."""


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What a catalog made anew holds."""

    files: int
    known: int
    """Files that the snapshot knew, with their digests."""
    adopted: int
    """Files that were found at providers alone; their digests are learnt when they are read."""
    older: int
    """Contents kept as older versions."""
    removed: int
    """Files that were removed after the snapshot; they are restorable."""
    without_copy: int
    """Files that the snapshot knew and of which no provider holds anything."""
    without_copy_paths: tuple[str, ...]
    """The first of those, at most 20."""
    ignored: int
    """Objects that cannot be files, by their names."""
    unexplained: int
    """Older contents at providers that no snapshot explains; they are left where they are."""
    snapshot: str
    """The name of the snapshot used; empty when there was none."""
    unreachable: tuple[str, ...]
    """Providers that could not be listed."""


@dataclass(frozen=True, slots=True)
class RebuildStep:
    """How far a rebuild is: a line for a person, or in the end the report."""

    stage: str
    report: RebuildReport | None


class Recovery:
    """Keeps snapshots of the catalog, and makes a lost one anew."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = connection.recovery

    async def take_snapshot(self) -> SnapshotTaken:
        """Store a snapshot at several providers now, unless nothing has changed since the last one.

        Raises PreconditionFailed (no provider is registered), Conflict (one is being made), ProviderUnavailable.
        """
        answer = await self._connection.call(self._stub.TakeSnapshot, pb.TakeSnapshotRequest(), seconds=_TAKE_SECONDS)
        return SnapshotTaken(answer.name, answer.taken, answer.size, tuple(answer.providers))

    async def snapshots(self) -> Sequence[Snapshot]:
        """Ask every provider that answers which snapshots it holds; newest first."""
        answer = await self._connection.call(self._stub.ListSnapshots, pb.ListSnapshotsRequest(), seconds=_LIST_SECONDS)
        return [
            Snapshot(
                name=one.name,
                home_id=one.home_id,
                taken=one.taken.ToDatetime(UTC),
                revision=one.revision,
                base=one.base,
                size=one.size,
                providers=tuple(one.providers),
            )
            for one in answer.snapshots
        ]

    async def rebuild(
        self,
        *,
        providers: Sequence[str] = (),
        snapshot: str = "",
        without_snapshot: bool = False,
        dry_run: bool = False,
    ) -> AsyncIterator[RebuildStep]:
        """Fill an empty catalog with a snapshot, if one is found, and with what the providers hold, which prevails.

        ``providers`` are those to use, by default every one that answers. ``snapshot`` is the name of the one to begin
        with, or :data:`LATEST`; by default the newest, and none when there is none. Yields how far it is, and in the
        end the report. Raises PreconditionFailed (the catalog holds files), NotFound, IntegrityError,
        ProviderUnavailable.
        """
        request = pb.RebuildRequest(
            providers=providers, snapshot=snapshot, without_snapshot=without_snapshot, dry_run=dry_run
        )
        call = self._stub.Rebuild(request, metadata=self._connection.metadata)
        try:
            with translated():
                async for answer in call:
                    report = _report(answer.report, answer.unreachable) if answer.HasField("report") else None
                    yield RebuildStep(answer.stage, report)
        finally:
            call.cancel()


def _report(report: catalog_recovery_pb2.RebuildReport, unreachable: Sequence[str]) -> RebuildReport:
    return RebuildReport(
        files=report.files,
        known=report.known,
        adopted=report.adopted,
        older=report.older,
        removed=report.removed,
        without_copy=report.without_copy,
        without_copy_paths=tuple(report.without_copy_paths),
        ignored=report.ignored,
        unexplained=report.unexplained,
        snapshot=report.snapshot,
        unreachable=tuple(unreachable),
    )
