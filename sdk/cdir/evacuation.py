"""Doing without a provider: the plan, the job that empties it, the proof, the drill; part of ``client.providers``."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cdir.connection import Connection
from cdir.conversion import provider_from
from cdir.errors import NotFound
from cdir.model import ProviderInfo, time_of
from cdir.v1 import exit_pb2
from cdir.v1 import provider_service_pb2 as pb

__all__ = [
    "DrillPage",
    "DrilledFile",
    "Evacuation",
    "EvacuationPlan",
    "Evacuations",
    "Job",
    "JobState",
    "PlannedFile",
    "PlannedGain",
    "Proof",
    "Verdict",
]

_PLAN_SECONDS: Final = 900.0
"""A plan looks at every file that the provider holds."""


@dataclass(frozen=True, slots=True)
class PlannedGain:
    """What one provider gets by an evacuation."""

    provider: str
    files: int
    bytes: int
    blocked: str
    """Why it takes no copies at the moment, such as ``paused``; else empty."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file that cannot be kept without the provider."""

    path: str
    """As a person types it, workspace included."""
    reason: str


@dataclass(frozen=True, slots=True)
class EvacuationPlan:
    """What an evacuation would do, as things are."""

    files: int
    """Files that the provider holds or should hold."""
    bytes: int
    only_here: int
    """Files of which there is no good copy elsewhere."""
    versions: int
    """Older contents that only this provider holds; each gets one copy elsewhere."""
    gains: tuple[PlannedGain, ...]
    calls: int
    """About how many calls to providers it takes."""
    unplaceable: int
    """Files that may be nowhere else; while there are any, an evacuation is refused."""
    unplaceable_files: tuple[PlannedFile, ...]
    """The first 20 of them."""
    scarce: int
    """Files that will have fewer copies than their policy asks for."""
    policies: int
    """Rules that name the provider."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What was counted in the transaction that found that others hold everything."""

    files: int
    bytes: int
    versions: int
    held: tuple[tuple[int, int], ...]
    """Pairs of a number of good copies elsewhere and how many files have that many, fewest copies first."""


class JobState(enum.Enum):
    """How far a job is."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Job:
    """Work that goes on for long, over restarts too."""

    job_id: str
    kind: str
    """``evacuate``."""
    subject: str
    """The provider's name."""
    state: JobState
    author: str
    started: datetime
    ended: datetime | None
    measured: bool
    """False until the numbers below were counted for the first time."""
    files: int
    bytes: int
    files_left: int
    bytes_left: int
    versions_left: int
    eta_seconds: float | None
    """How long it will take at the pace so far; ``None`` when nothing can be said."""
    message: str
    """What it waits for, or how it ended; may be empty."""
    proof: Proof | None


@dataclass(frozen=True, slots=True)
class Evacuation:
    """An evacuation that was begun."""

    plan: EvacuationPlan
    job: Job


class Verdict(enum.Enum):
    """What would become of a file."""

    LOST = "lost"
    """There is no good copy anywhere else."""
    UNREADABLE = "unreadable"
    """Good copies are only at providers that are paused or down."""
    SCARCE = "scarce"
    """It can be read, from fewer copies than the policy's ``min_copies``."""


@dataclass(frozen=True, slots=True)
class DrilledFile:
    """A file that would suffer."""

    path: str
    """As a person types it, workspace included."""
    size: int
    verdict: Verdict
    copies: int
    """Copies that could be read."""
    min_copies: int


@dataclass(frozen=True, slots=True)
class DrillPage:
    """A part of a drill; its counts are of this part alone."""

    seen: int
    lost: int
    lost_bytes: int
    unreadable: int
    unreadable_bytes: int
    scarce: int
    files: tuple[DrilledFile, ...]


_JOB_KIND = {exit_pb2.JOB_KIND_EVACUATE: "evacuate"}
_JOB_STATE = {
    exit_pb2.JOB_STATE_RUNNING: JobState.RUNNING,
    exit_pb2.JOB_STATE_DONE: JobState.DONE,
    exit_pb2.JOB_STATE_CANCELLED: JobState.CANCELLED,
}
_VERDICT = {
    exit_pb2.DRILL_VERDICT_LOST: Verdict.LOST,
    exit_pb2.DRILL_VERDICT_UNREADABLE: Verdict.UNREADABLE,
    exit_pb2.DRILL_VERDICT_SCARCE: Verdict.SCARCE,
}


class Evacuations:
    """The part of :class:`cdir.providers.Providers` that gives providers up."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = connection.providers

    async def plan_evacuation(self, name: str, *, to: Sequence[str] = (), purge: bool = False) -> EvacuationPlan:
        """Say what :meth:`evacuate` would do; what hinders it is in the plan. Raises what :meth:`evacuate` raises for
        names that cannot be meant."""
        request = pb.EvacuateProviderRequest(name=name, to=to, purge=purge, dry_run=True)
        answer = await self._connection.call(self._stub.EvacuateProvider, request, seconds=_PLAN_SECONDS)
        return _plan_from(answer.plan)

    async def evacuate(self, name: str, *, to: Sequence[str] = (), purge: bool = False) -> Evacuation:
        """Begin to do without a provider: nothing new is written there, and others get its copies.

        It returns at once; :meth:`follow` tells how far the job is. ``to`` restricts which providers get copies where a
        policy leaves the choice. Its own copies stay there under their names, unless ``purge`` removes them when others
        hold everything. Raises NotFound, InvalidArgument, PreconditionFailed (some files may be nowhere else, or one of
        the providers cannot take part).
        """
        request = pb.EvacuateProviderRequest(name=name, to=to, purge=purge)
        answer = await self._connection.call(self._stub.EvacuateProvider, request, seconds=_PLAN_SECONDS)
        return Evacuation(_plan_from(answer.plan), _job_from(answer.job))

    async def cancel_evacuation(self, name: str) -> ProviderInfo:
        """Take an evacuation back, also one that has ended. Raises NotFound, PreconditionFailed (there is none)."""
        answer = await self._connection.call(self._stub.CancelEvacuation, pb.CancelEvacuationRequest(name=name))
        return provider_from(answer.provider)

    async def plan_replacement(self, old: str, new: str, *, purge: bool = False) -> EvacuationPlan:
        """Say what :meth:`replace` would do, as :meth:`plan_evacuation` does."""
        request = pb.ReplaceProviderRequest(old=old, new=new, purge=purge, dry_run=True)
        answer = await self._connection.call(self._stub.ReplaceProvider, request, seconds=_PLAN_SECONDS)
        return _plan_from(answer.plan)

    async def replace(self, old: str, new: str, *, purge: bool = False) -> Evacuation:
        """Put ``new`` in the place of ``old``: in the policies that name it, and for its copies; ``old`` is evacuated.

        Raises what :meth:`evacuate` raises.
        """
        request = pb.ReplaceProviderRequest(old=old, new=new, purge=purge)
        answer = await self._connection.call(self._stub.ReplaceProvider, request, seconds=_PLAN_SECONDS)
        return Evacuation(_plan_from(answer.plan), _job_from(answer.job))

    async def drill(self, *without: str, page_size: int = 1000) -> AsyncIterator[DrillPage]:
        """Say what would become of files if these providers vanished now; nothing is changed.

        Providers that are paused or down count as unreadable. Raises NotFound, InvalidArgument (none is named),
        PreconditionFailed (one of them is paused).
        """
        request = pb.DrillProvidersRequest(without=without, page_size=page_size)
        while True:
            answer = await self._connection.call(self._stub.DrillProviders, request)
            yield _page_from(answer)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    async def jobs(self, *, running: bool = False) -> Sequence[Job]:
        """Return the jobs that run, then the newest of those that ended; with ``running`` only the former."""
        answer = await self._connection.call(self._stub.ListJobs, pb.ListJobsRequest(running=running))
        return [_job_from(job) for job in answer.jobs]

    async def follow(self, job_id: str, *, pause: float = 0.5) -> AsyncIterator[Job]:
        """Yield a job every ``pause`` seconds; the last time when it has ended. Raises NotFound."""
        while True:
            answer = await self._connection.call(self._stub.ListJobs, pb.ListJobsRequest(job_id=job_id))
            if not answer.jobs:
                raise NotFound(f"there is no job {job_id!r}; `cdir jobs` lists them")
            job = _job_from(answer.jobs[0])
            yield job
            if job.state is not JobState.RUNNING:
                return
            await asyncio.sleep(pause)


def _spelled(workspace: str, path: str) -> str:
    return f"@{workspace}{path}" if workspace else path


def _plan_from(message: exit_pb2.EvacuationPlan) -> EvacuationPlan:
    return EvacuationPlan(
        files=message.files,
        bytes=message.bytes,
        only_here=message.only_here,
        versions=message.versions,
        gains=tuple(PlannedGain(gain.provider, gain.files, gain.bytes, gain.blocked) for gain in message.gains),
        calls=message.calls,
        unplaceable=message.unplaceable,
        unplaceable_files=tuple(
            PlannedFile(_spelled(file.workspace, file.path), file.reason) for file in message.unplaceable_files
        ),
        scarce=message.scarce,
        policies=message.policies,
    )


def _job_from(message: exit_pb2.Job) -> Job:
    proof = message.proof
    return Job(
        job_id=message.job_id,
        kind=_JOB_KIND.get(message.kind, "unknown"),
        subject=message.subject,
        state=_JOB_STATE.get(message.state, JobState.RUNNING),
        author=message.author,
        started=time_of(message.started.ToNanoseconds()),
        ended=time_of(message.ended.ToNanoseconds()) if message.HasField("ended") else None,
        measured=message.measured,
        files=message.files,
        bytes=message.bytes,
        files_left=message.files_left,
        bytes_left=message.bytes_left,
        versions_left=message.versions_left,
        eta_seconds=message.eta_seconds if message.HasField("eta_seconds") else None,
        message=message.message,
        proof=Proof(proof.files, proof.bytes, proof.versions, tuple((one.copies, one.files) for one in proof.held))
        if message.HasField("proof")
        else None,
    )


def _page_from(message: pb.DrillProvidersResponse) -> DrillPage:
    return DrillPage(
        seen=message.seen,
        lost=message.lost,
        lost_bytes=message.lost_bytes,
        unreadable=message.unreadable,
        unreadable_bytes=message.unreadable_bytes,
        scarce=message.scarce,
        files=tuple(
            DrilledFile(
                _spelled(file.workspace, file.path), file.size, _VERDICT[file.verdict], file.copies, file.min_copies
            )
            for file in message.files
        ),
    )
