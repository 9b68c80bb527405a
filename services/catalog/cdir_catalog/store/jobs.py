"""Work that goes on for long: its row, its message, and how far it is."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import NotFound
from cdir.v1 import catalog_service_pb2, exit_pb2, provider_service_pb2
from cdir_catalog.clock import SECOND, now_ns
from cdir_catalog.schema import jobs
from cdir_catalog.wire import timestamp

__all__ = [
    "end_job",
    "end_jobs",
    "job_message",
    "list_jobs",
    "record_measure",
    "rename_jobs",
    "running_job",
    "running_jobs",
    "start_job",
]

_RUNNING = exit_pb2.JOB_STATE_RUNNING
_LISTED = 100


def job_message(row: Any, now: int) -> exit_pb2.Job:
    """Return a row as others see it."""
    job = exit_pb2.Job(
        job_id=row.job_id,
        kind=row.kind,
        subject=row.subject,
        state=row.state,
        author=row.author,
        started=timestamp(row.started_at),
        measured=row.measured_at is not None,
        files=row.files,
        bytes=row.bytes,
        files_left=row.files_left,
        bytes_left=row.bytes_left,
        versions_left=row.versions_left,
        message=row.message,
    )
    if row.ended_at is not None:
        job.ended.CopyFrom(timestamp(row.ended_at))
    if row.outcome and row.kind == exit_pb2.JOB_KIND_EVACUATE:
        job.proof.ParseFromString(row.outcome)
    done = row.bytes_begun - row.bytes_left
    if row.state == _RUNNING and row.bytes_left and done > 0:
        job.eta_seconds = (now - row.started_at) / SECOND * row.bytes_left / done
    return job


def start_job(connection: Connection, kind: exit_pb2.JobKind.ValueType, subject: str, author: str, now: int) -> Any:
    """Return the row of the job of this kind that runs about ``subject``; it is made when there is none."""
    present = connection.execute(
        sa.select(jobs).where(jobs.c.kind == kind, jobs.c.subject == subject, jobs.c.state == _RUNNING)
    ).first()
    if present is not None:
        return present
    job_id = uuid.uuid4().hex
    connection.execute(
        jobs.insert().values(
            job_id=job_id,
            kind=kind,
            state=_RUNNING,
            subject=subject,
            author=author,
            message="",
            started_at=now,
            files=0,
            bytes=0,
            files_left=0,
            bytes_left=0,
            versions_left=0,
            bytes_begun=0,
            outcome=b"",
        )
    )
    return connection.execute(sa.select(jobs).where(jobs.c.job_id == job_id)).one()


def running_job(connection: Connection, job_id: str) -> Any:
    """Return the row of a job that runs. Raises NotFound."""
    row = connection.execute(sa.select(jobs).where(jobs.c.job_id == job_id, jobs.c.state == _RUNNING)).first()
    if row is None:
        raise NotFound(f"no job {job_id!r} is running; `cdir jobs` lists them")
    return row


def running_jobs(connection: Connection, kind: exit_pb2.JobKind.ValueType, subjects: Iterable[str]) -> dict[str, Any]:
    """Return the rows of the jobs of this kind that run about any of ``subjects``, by subject."""
    wanted = list(subjects)
    if not wanted:
        return {}
    query = sa.select(jobs).where(jobs.c.kind == kind, jobs.c.subject.in_(wanted), jobs.c.state == _RUNNING)
    return {row.subject: row for row in connection.execute(query)}


def record_measure(
    connection: Connection, row: Any, measure: catalog_service_pb2.EvacuationMeasure, message: str, now: int
) -> None:
    """Keep what was counted of a job."""
    begun = measure.bytes_left if row.measured_at is None else max(row.bytes_begun, measure.bytes_left)
    connection.execute(
        jobs.update()
        .where(jobs.c.id == row.id)
        .values(
            message=message,
            measured_at=now,
            files=measure.files,
            bytes=measure.bytes,
            files_left=measure.files_left,
            bytes_left=measure.bytes_left,
            versions_left=measure.versions_left,
            bytes_begun=begun,
        )
    )


def end_job(
    connection: Connection,
    row: Any,
    state: exit_pb2.JobState.ValueType,
    message: str,
    now: int,
) -> None:
    """Note that a job came to its end."""
    connection.execute(jobs.update().where(jobs.c.id == row.id).values(state=state, message=message, ended_at=now))


def end_jobs(connection: Connection, subject: str, message: str) -> None:
    """Cancel what runs about ``subject``."""
    connection.execute(
        jobs.update()
        .where(jobs.c.subject == subject, jobs.c.state == _RUNNING)
        .values(state=exit_pb2.JOB_STATE_CANCELLED, message=message, ended_at=now_ns())
    )


def rename_jobs(connection: Connection, old: str, new: str) -> None:
    """Follow a subject that has another name now."""
    connection.execute(jobs.update().where(jobs.c.subject == old, jobs.c.state == _RUNNING).values(subject=new))


_RUN = sa.select(jobs).where(jobs.c.state == _RUNNING).order_by(jobs.c.id)
_ENDED = (
    sa.select(jobs).where(jobs.c.state != _RUNNING).order_by(jobs.c.ended_at.desc(), jobs.c.id.desc()).limit(_LISTED)
)


def list_jobs(
    connection: Connection, request: provider_service_pb2.ListJobsRequest
) -> provider_service_pb2.ListJobsResponse:
    """ProviderService.ListJobs."""
    chosen = [jobs.c.job_id == request.job_id] if request.job_id else []
    running = connection.execute(_RUN.where(*chosen) if chosen else _RUN).all()
    ended: list[Any] = []
    if not request.running:
        ended = list(connection.execute(_ENDED.where(*chosen) if chosen else _ENDED))
    now = now_ns()
    return provider_service_pb2.ListJobsResponse(jobs=[job_message(row, now) for row in [*running, *ended]])
