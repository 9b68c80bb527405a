"""Evacuations: a provider leaves, others take over what it holds, and that is proven.

A provider that leaves is no candidate of placement any more, so its copies are wanted no longer, and the ordinary debt
of the others is to make theirs. Its own copies stay: as sources, and afterwards as the user's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import InvalidArgument, NotFound, PreconditionFailed
from cdir.v1 import catalog_service_pb2, entry_pb2, exit_pb2, provider_pb2, provider_service_pb2
from cdir_catalog.clock import SECOND, now_ns
from cdir_catalog.schema import intents, jobs, placements, policies, providers, replicas, versions
from cdir_catalog.store.copies import OK
from cdir_catalog.store.intents import target_ids
from cdir_catalog.store.jobs import end_job, end_jobs, job_message, record_measure, running_job, start_job
from cdir_catalog.store.locks import change_configuration
from cdir_catalog.store.placements import place_all_anew
from cdir_catalog.store.policies import rename_provider
from cdir_catalog.store.providers import RegisteredProvider, find_provider, load_providers, record_of
from cdir_catalog.wire import timestamp

__all__ = [
    "blocked_reason",
    "cancel_evacuation",
    "check_targets",
    "measure_evacuation",
    "record_evacuation",
    "start_evacuation",
]

_LEAVING = exit_pb2.EXIT_STATE_LEAVING
_PURGING = exit_pb2.EXIT_STATE_PURGING
_EVACUATED = exit_pb2.EXIT_STATE_EVACUATED

_REMOVALS_REST = 3600 * SECOND
"""How long a provider that comes back keeps what was to be removed: until then its copies are wanted again."""


def check_targets(
    registered: Iterable[RegisteredProvider], name: str, to: Iterable[str], replacement: str = ""
) -> tuple[RegisteredProvider, list[RegisteredProvider]]:
    """Return the provider that is to leave and those that its copies go to, which must be able to take them."""
    by_name = {provider.name: provider for provider in registered}
    wanted = list(dict.fromkeys([*to, *([replacement] if replacement else [])]))
    for one in (name, *wanted):
        if one not in by_name:
            raise NotFound(f"no provider is named {one!r}; `cdir provider list` shows them", provider=one)
    if name in wanted:
        raise InvalidArgument(f"{name!r} cannot take over from itself; name another provider", provider=name)
    for one in wanted:
        blocked = blocked_reason(by_name[one])
        if blocked:
            raise PreconditionFailed(f"{one!r} cannot take copies: it is {blocked}", provider=one)
    return by_name[name], [by_name[one] for one in wanted]


def blocked_reason(provider: RegisteredProvider) -> str:
    """Say why a provider takes no copies at the moment; empty when it does."""
    if provider.leaving:
        return "being evacuated"
    if provider.paused:
        return "paused"
    if provider.record.read_only:
        return "read-only"
    if provider.state == provider_pb2.PROVIDER_STATE_DOWN:
        return f"down ({provider.state_reason})" if provider.state_reason else "down"
    return ""


def start_evacuation(
    connection: Connection, request: catalog_service_pb2.StartEvacuationRequest, author: str
) -> catalog_service_pb2.StartEvacuationResponse:
    """CatalogService.StartEvacuation."""
    change_configuration(connection)
    now = now_ns()
    provider, targets = check_targets(load_providers(connection), request.name, request.to, request.replacement)
    if request.purge and provider.record.read_only:
        raise PreconditionFailed(
            f"nothing can be removed from {provider.name!r}: it is read-only; leave --purge out, or allow writing with"
            f" `cdir provider set {provider.name} --read-write`",
            provider=provider.name,
        )
    if request.replacement:
        _replace_in_policies(connection, provider.name, request.replacement)
    leaving = exit_pb2.ProviderExit(
        state=_LEAVING, since=timestamp(now), to=[one.provider_id for one in targets], purge=request.purge
    )
    _save_exit(connection, provider, leaving)
    place_all_anew(connection)
    job = start_job(connection, exit_pb2.JOB_KIND_EVACUATE, provider.name, author, now)
    return catalog_service_pb2.StartEvacuationResponse(job=job_message(job, now))


def _replace_in_policies(connection: Connection, old: str, new: str) -> None:
    for row in connection.execute(sa.select(policies)).all():
        policy = entry_pb2.Policy.FromString(row.policy)
        if rename_provider(policy, old, new):
            connection.execute(
                policies.update()
                .where(policies.c.workspace_id == row.workspace_id, policies.c.path == row.path)
                .values(policy=policy.SerializeToString(deterministic=True))
            )


def _save_exit(connection: Connection, provider: RegisteredProvider, leaving: exit_pb2.ProviderExit | None) -> None:
    connection.execute(
        providers.update().where(providers.c.id == provider.id).values(record=record_of(provider.record, leaving))
    )


def cancel_evacuation(
    connection: Connection, request: provider_service_pb2.CancelEvacuationRequest, _author: str
) -> provider_service_pb2.CancelEvacuationResponse:
    """ProviderService.CancelEvacuation."""
    change_configuration(connection)
    now = now_ns()
    provider = find_provider(connection, providers.c.name == request.name)
    if provider is None:
        raise NotFound(f"no provider is named {request.name!r}; `cdir provider list` shows them", provider=request.name)
    if not provider.leaving:
        raise PreconditionFailed(
            f"{provider.name!r} is in use; there is no evacuation to cancel", provider=request.name
        )
    _save_exit(connection, provider, None)
    # what was to be removed is wanted again as soon as the files are placed anew; it must not go meanwhile
    connection.execute(
        replicas.update()
        .where(replicas.c.provider_id == provider.id, replicas.c.wanted == 0, replicas.c.due_at.is_not(None))
        .values(due_at=now + _REMOVALS_REST)
    )
    end_jobs(connection, provider.name, "taken back")
    place_all_anew(connection)
    stored = find_provider(connection, providers.c.id == provider.id)
    assert stored is not None
    return provider_service_pb2.CancelEvacuationResponse(provider=stored.message())


class _Count:
    """Counts what a provider holds and what others hold of it."""

    def __init__(self, connection: Connection, provider: RegisteredProvider) -> None:
        self._connection = connection
        self._provider = provider
        self._other = other = replicas.alias()
        same = sa.and_(
            other.c.version_id == replicas.c.version_id, other.c.provider_id != provider.id, other.c.wanted == 1
        )
        self._elsewhere = sa.and_(same, other.c.actual == OK)
        self._owed = sa.and_(same, other.c.actual != OK)
        held = sa.exists().where(self._elsewhere)
        self._left = sa.or_(replicas.c.wanted == 1, ~held, sa.exists().where(self._owed))
        self._here = replicas.c.provider_id == provider.id
        self._current = sa.and_(self._here, versions.c.superseded_at.is_(None))
        self._older = sa.and_(self._here, versions.c.expires_at.is_not(None), replicas.c.actual == OK)
        self._older_left = sa.and_(self._older, sa.or_(replicas.c.wanted == 1, ~held))
        self._joined = replicas.join(versions, versions.c.id == replicas.c.version_id)

    def measure(self) -> catalog_service_pb2.EvacuationMeasure:
        left = sa.case((self._left, 1), else_=0)
        row = self._connection.execute(
            sa.select(
                sa.func.count(),
                *(
                    sa.func.coalesce(sa.func.sum(column), 0)
                    for column in (versions.c.size, left, left * versions.c.size)
                ),
            )
            .select_from(self._joined)
            .where(self._current)
        ).one()
        measure = catalog_service_pb2.EvacuationMeasure(
            files=row[0],
            bytes=int(row[1]),
            files_left=int(row[2]),
            bytes_left=int(row[3]),
            versions_left=self._number(self._older_left),
            pending=self._pending(),
        )
        if self._provider.record.exit.state == _PURGING:
            measure.objects_left = (
                self._connection.scalar(sa.select(sa.func.count()).select_from(replicas).where(self._here)) or 0
            )
        measure.waits_for = self._waits_for(measure)
        return measure

    def _number(self, condition: sa.ColumnElement[bool]) -> int:
        return self._connection.scalar(sa.select(sa.func.count()).select_from(self._joined).where(condition)) or 0

    def _pending(self) -> bool:
        """Whether a file may yet turn up there: some are to be placed, or are being written."""
        if self._connection.scalar(sa.select(placements.c.id).limit(1)) is not None:
            return True
        writing = self._connection.execute(sa.select(intents.c.targets))
        return any(self._provider.id in target_ids(intent) for intent in writing)

    def _waits_for(self, measure: catalog_service_pb2.EvacuationMeasure) -> str:
        if measure.pending or not (measure.files_left or measure.versions_left):
            return ""
        stuck = self._number(sa.and_(self._current, replicas.c.wanted == 1))
        if stuck:
            return f"files that may be nowhere else ({stuck}); change their policy with `cdir policy set`"
        owed = self._connection.execute(
            sa.select(self._other.c.provider_id, sa.func.count(), sa.func.max(self._other.c.error))
            .select_from(self._joined.join(self._other, self._owed))
            .where(self._here)
            .group_by(self._other.c.provider_id)
            .order_by(sa.func.count().desc())
        ).all()
        by_id = {one.id: one for one in load_providers(self._connection)}
        for provider_id, number, error in owed:
            provider = by_id[provider_id]
            blocked = blocked_reason(provider)
            if blocked or error:
                return f"copies to {provider.name} ({number}): " + (f"it is {blocked}" if blocked else error)
        return ""

    def proof(self, measure: catalog_service_pb2.EvacuationMeasure) -> exit_pb2.EvacuationProof:
        """Count how many good copies others hold."""
        copies = (
            sa.select(sa.func.count().label("copies"))
            .select_from(self._joined.join(self._other, self._elsewhere))
            .where(self._current)
            .group_by(replicas.c.version_id)
            .subquery()
        )
        held = self._connection.execute(
            sa.select(copies.c.copies, sa.func.count()).group_by(copies.c.copies).order_by(copies.c.copies)
        )
        return exit_pb2.EvacuationProof(
            files=measure.files,
            bytes=measure.bytes,
            versions=self._number(self._older),
            held=[exit_pb2.CopiesHeld(copies=row[0], files=row[1]) for row in held],
        )


def _subject(connection: Connection, row: Any) -> RegisteredProvider:
    provider = find_provider(connection, providers.c.name == row.subject)
    if provider is None:
        raise NotFound(f"the provider {row.subject!r} is gone", provider=row.subject)
    return provider


def measure_evacuation(
    connection: Connection, request: catalog_service_pb2.MeasureEvacuationRequest
) -> catalog_service_pb2.MeasureEvacuationResponse:
    """CatalogService.MeasureEvacuation."""
    provider = _subject(connection, running_job(connection, request.job_id))
    return catalog_service_pb2.MeasureEvacuationResponse(measure=_Count(connection, provider).measure())


def record_evacuation(
    connection: Connection, request: catalog_service_pb2.RecordEvacuationRequest, _author: str
) -> catalog_service_pb2.RecordEvacuationResponse:
    """CatalogService.RecordEvacuation."""
    now = now_ns()
    measure = request.measure
    if _is_over(measure):
        change_configuration(connection)  # nobody writes or places while it is counted again
    row = running_job(connection, request.job_id)
    provider = _subject(connection, row)
    if provider.record.exit.state == _PURGING:
        _record_purge(connection, row, provider, measure, now)
    elif _is_over(measure):
        _conclude(connection, row, provider, now)
    else:
        record_measure(connection, row, measure, _waiting(measure), now)
    after = connection.execute(sa.select(jobs).where(jobs.c.id == row.id)).one()
    return catalog_service_pb2.RecordEvacuationResponse(job=job_message(after, now))


def _is_over(measure: catalog_service_pb2.EvacuationMeasure) -> bool:
    return not (measure.files_left or measure.versions_left or measure.pending)


def _waiting(measure: catalog_service_pb2.EvacuationMeasure) -> str:
    return f"waits for {measure.waits_for}" if measure.waits_for else ""


def _conclude(connection: Connection, row: Any, provider: RegisteredProvider, now: int) -> None:
    """Prove that others hold everything; only then the provider counts as evacuated."""
    count = _Count(connection, provider)
    measure = count.measure()
    record_measure(connection, row, measure, _waiting(measure), now)
    if not _is_over(measure):
        return
    leaving = exit_pb2.ProviderExit()
    leaving.CopyFrom(provider.record.exit)
    leaving.state = _PURGING if leaving.purge else _EVACUATED
    leaving.since.CopyFrom(timestamp(now))
    _save_exit(connection, provider, leaving)
    proof = count.proof(measure).SerializeToString(deterministic=True)
    connection.execute(jobs.update().where(jobs.c.id == row.id).values(outcome=proof))
    if not leaving.purge:
        end_job(connection, row, exit_pb2.JOB_STATE_DONE, "others hold everything", now)


def _record_purge(
    connection: Connection,
    row: Any,
    provider: RegisteredProvider,
    measure: catalog_service_pb2.EvacuationMeasure,
    now: int,
) -> None:
    """Keep what is left to remove; the numbers of files stay as they were proven."""
    left = connection.scalar(sa.select(replicas.c.id).where(replicas.c.provider_id == provider.id).limit(1))
    if left is not None:
        message = f"objects still to be removed there: {measure.objects_left}" if measure.objects_left else ""
        connection.execute(jobs.update().where(jobs.c.id == row.id).values(message=message, measured_at=now))
        return
    leaving = exit_pb2.ProviderExit()
    leaving.CopyFrom(provider.record.exit)
    leaving.state = _EVACUATED
    leaving.since.CopyFrom(timestamp(now))
    _save_exit(connection, provider, leaving)
    end_job(connection, row, exit_pb2.JOB_STATE_DONE, "others hold everything, and its copies are removed", now)
