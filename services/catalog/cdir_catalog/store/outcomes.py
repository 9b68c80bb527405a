"""What became of copies: observations, outcomes of leased work, and making work due."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import Conflict, DeadlineExceeded, NotFound, ProviderUnavailable
from cdir.v1 import catalog_service_pb2, entry_pb2
from cdir_catalog.clock import SECOND, now_ns
from cdir_catalog.keys import aside_key
from cdir_catalog.schema import entries, intents, is_owed, providers, replicas, versions
from cdir_catalog.store.copies import CORRUPT, MISSING, OK, QUARANTINE_ATTEMPTS, UNKNOWN, Content, Copy, owe
from cdir_catalog.store.debt import ACL, COPY, INSPECT, OCCUPANT_LEASE, RELOCATE, REMOVE
from cdir_catalog.store.entries import below, require
from cdir_catalog.store.intents import check_batch
from cdir_catalog.store.ledger import COPY_COLUMNS, Ledger, add_counters, copy_of
from cdir_catalog.store.locks import lock_workspaces
from cdir_catalog.store.losses import withdraw_unread
from cdir_catalog.store.outside import confirm_suspects
from cdir_catalog.store.vacancies import note_vacancies
from cdir_catalog.wire import DIRECTORY

__all__ = ["finish_debt", "make_due", "record_replicas"]


_UNREADABLE = {ProviderUnavailable.reason, DeadlineExceeded.reason}
"""Failures of an inspection after which an object that is there counts as damaged: nobody gets its bytes."""

_OBSERVED = (
    sa.select(versions.c.id, versions.c.version_id, entries.c.workspace_id)
    .join(entries, entries.c.id == versions.c.entry_id)
    .where(versions.c.version_id.in_(sa.bindparam("versions", expanding=True)))
)
_REGISTERED = sa.select(providers)
_WRITING = sa.select(intents.c.key).where(intents.c.key.in_(sa.bindparam("keys", expanding=True)))
_HELD = sa.select(*COPY_COLUMNS).where(replicas.c.id.in_(sa.bindparam("rows", expanding=True)))
_HELD_NOW = _HELD.with_for_update()
_OCCUPANTS = sa.select(
    replicas.c.id, replicas.c.version_id, replicas.c.provider_id, replicas.c.lease_owner, replicas.c.lease_key
).where(
    replicas.c.lease_key.in_(sa.bindparam("keys", expanding=True)),
    replicas.c.lease_kind == OCCUPANT_LEASE,
)


def record_replicas(
    connection: Connection, request: catalog_service_pb2.RecordReplicasRequest, _author: str
) -> catalog_service_pb2.RecordReplicasResponse:
    """CatalogService.RecordReplicas."""
    check_batch(request.observations)
    now = now_ns()
    wanted = sorted({one.version_id for one in request.observations})
    rows = connection.execute(_OBSERVED, {"versions": wanted}).all()
    if not rows:
        return catalog_service_pb2.RecordReplicasResponse()
    lock_workspaces(connection, {row.workspace_id for row in rows})
    ledger = Ledger(connection, now)
    renamed = [one.previous_key for one in request.observations if one.previous_key]
    there = ledger.load_keys(renamed)
    ledger.load(row.id for row in rows)
    contents = {content.version_id: content for content in ledger.contents.values()}
    registered = connection.execute(_REGISTERED).all()
    row_ids = {row.provider_id: row.id for row in registered}
    guarded = {row.provider_id for row in registered if row.guard}
    natural = sorted({one.natural_key for one in contents.values()})
    writing = set(connection.scalars(_WRITING, {"keys": natural}))
    strays: list[tuple[Content, int, str]] = []
    for observation in request.observations:
        content = contents.get(observation.version_id)
        provider = row_ids.get(observation.provider_id, 0)
        copy = None if content is None else content.at(provider)
        if content is None or not provider:
            continue
        if _has_left_bytes(observation) and (copy is None or observation.key not in {copy.key, copy.move_to}):
            strays.append((content, provider, observation.key))
        if copy is None:
            continue
        if observation.written and copy.lease_owner is not None and copy.lease_owner == request.owner:
            copy.release()  # the write that went on after its commit has ended
            if copy.due_at is not None:
                copy.due_at = now
        if observation.state == MISSING and observation.provider_id in guarded:
            continue  # so much is missing there that only a scan, or a person, says what is gone
        if observation.previous_key:
            _record_rename(copy, observation, there.get((copy.provider_id, observation.previous_key), []), now)
        else:
            _record_state(copy, content, observation, content.natural_key in writing, now)
    _remove_strays(ledger, strays)
    ledger.settle()
    ledger.save()
    return catalog_service_pb2.RecordReplicasResponse()


def _has_left_bytes(observation: catalog_service_pb2.ReplicaObservation) -> bool:
    """Whether its observer may have left an object at its key."""
    return observation.written and observation.state in {OK, UNKNOWN}


def _remove_strays(ledger: Ledger, strays: Sequence[tuple[Content, int, str]]) -> None:
    """Have removed what was written where its content no longer belongs: the file was renamed or removed meanwhile."""
    there = ledger.load_keys(key for _, _, key in strays)
    for content, provider, key in strays:
        if not there.get((provider, key)):
            ledger.add_leftover(content.workspace_id, provider, key)


def _record_rename(
    copy: Copy,
    observation: catalog_service_pb2.ReplicaObservation,
    there: list[tuple[Copy, Content | None]],
    now: int,
) -> None:
    """Note a finished rename; other contents recorded at the old key are not there either."""
    if copy.key != observation.previous_key:
        return
    if copy.astray(now):
        copy.release()  # it had not been renamed by whoever had tried before
    copy.key, copy.move_to = observation.key, None
    copy.unsee()
    copy.forget_acl()
    if observation.etag:
        copy.etag = observation.etag
    if observation.checksum:
        copy.checksum = observation.checksum
    for other, content in there:
        if other is not copy and content is not None and other.key == observation.previous_key:
            other.mark_displaced(aside_key(content.version_id))
            owe(other, True, now)


def _record_state(
    copy: Copy,
    content: Content,
    observation: catalog_service_pb2.ReplicaObservation,
    writing: bool,
    now: int,
) -> None:
    if copy.key != observation.key:
        return
    if observation.state == OK:
        copy.mark_ok(now, observation.etag, observation.checksum)
        if observation.HasField("acl"):
            copy.take_acl(observation.acl)
        return
    if observation.state not in {MISSING, CORRUPT, UNKNOWN}:
        return
    if copy.suspected and observation.state == CORRUPT:
        return  # that is what is to be found out: repairing it would overwrite what others may have put there
    if writing:
        return  # it is being moved: what was seen may only mean that
    if copy.astray(now) and observation.state == MISSING:
        copy.look_for()
        owe(copy, True, now)
        return
    if not content.current and copy.move_to is not None:
        if observation.state == MISSING and copy.actual == OK:
            # moved by somebody who has not said so yet, or taken away by others: it is looked for in both places
            copy.actual = UNKNOWN
            copy.unsee()
        return
    if observation.state == MISSING and copy.actual == MISSING:
        return
    copy.actual, copy.error = observation.state, observation.error
    copy.move_to = None


def finish_debt(
    connection: Connection, request: catalog_service_pb2.FinishDebtRequest, _author: str
) -> catalog_service_pb2.FinishDebtResponse:
    """CatalogService.FinishDebt."""
    check_batch(request.outcomes)
    now = now_ns()
    outcomes = {outcome.debt_id: outcome for outcome in request.outcomes}
    chosen = {"rows": list(outcomes)}
    rows = connection.execute(_HELD, chosen).all()
    lock_workspaces(connection, {row.workspace_id for row in rows})
    if connection.dialect.name == "postgresql":
        rows = connection.execute(_HELD_NOW, chosen).all()  # as they are now that nobody else can change them
    held = [row for row in rows if row.lease_owner is not None and row.lease_owner == outcomes[row.id].owner]
    held = [row for row in held if row.lease_kind != OCCUPANT_LEASE]
    if not held:
        return catalog_service_pb2.FinishDebtResponse()
    ledger = Ledger(connection, now)
    ledger.load(row.version_id for row in held if row.version_id is not None)
    there = ledger.load_keys({row.lease_key for row in held if row.lease_key is not None})
    _release_occupants(connection, ledger, held)
    leftovers = {copy.id: copy for copy in ledger.leftovers}
    follow = _FollowUp()
    for row in held:
        outcome = outcomes[row.id]
        if row.version_id is None:
            copy = leftovers.get(row.id) or ledger.add_leftover_row(copy_of(row))
            _finish(ledger, copy, None, outcome, [], follow)
        else:
            content = ledger.contents[row.version_id]
            found = content.at(row.provider_id)
            assert found is not None
            _finish(ledger, found, content, outcome, there.get((row.provider_id, row.lease_key), []), follow)
    note_vacancies(connection, follow.emptied, now)
    confirm_suspects(ledger, follow.suspects)
    withdraw_unread(ledger, follow.lacking)
    ledger.save()
    return catalog_service_pb2.FinishDebtResponse()


@dataclass(slots=True)
class _FollowUp:
    """What outcomes lead to beside the change of their own copy."""

    suspects: list[tuple[Content, Copy]] = field(default_factory=list)
    """Copies in whose place others' content was proven to be."""
    lacking: list[tuple[Content, Copy]] = field(default_factory=list)
    """Copies that an inspection did not find where they should be."""
    emptied: list[tuple[int, str, Copy, Content | None]] = field(default_factory=list)
    """Keys at which nothing is any more: provider, key, copy, content."""


def _release_occupants(connection: Connection, ledger: Ledger, held: Iterable[Any]) -> None:
    """End the leases on copies that made room."""
    wanted = {(row.lease_owner, row.provider_id, row.lease_key) for row in held}
    keys = sorted({key for _, _, key in wanted if key is not None})
    rows = connection.execute(_OCCUPANTS, {"keys": keys}).all() if keys else []
    mine = [row for row in rows if (row.lease_owner, row.provider_id, row.lease_key) in wanted]
    ledger.load(row.version_id for row in mine if row.version_id is not None)
    for row in mine:
        content = ledger.contents.get(row.version_id)
        copy = None if content is None else content.at(row.provider_id)
        if copy is not None:
            copy.release()
            if copy.due_at is not None:
                copy.due_at = ledger.now


def _finish(
    ledger: Ledger,
    copy: Copy,
    content: Content | None,
    outcome: catalog_service_pb2.DebtOutcome,
    there: list[tuple[Copy, Content | None]],
    follow: _FollowUp,
) -> None:
    """Apply one outcome to its copy."""
    kind, key = copy.lease_kind, copy.lease_key or copy.key
    found = outcome.state
    if outcome.failure.reason in _UNREADABLE and (copy.suspected or not _is_elsewhere(copy, content)):
        found = entry_pb2.REPLICA_STATE_UNSPECIFIED  # it may be the only one, or others': it is not given up
    copy.release()
    copy.due_at = None
    if outcome.done:
        if kind in {RELOCATE, REMOVE}:
            follow.emptied.append((copy.provider_id, copy.key, replace(copy), content))
        _finish_done(ledger, copy, content, outcome, kind, key, there)
    elif kind == INSPECT and found == CORRUPT and content is not None and copy.suspected and copy.key == key:
        follow.suspects.append((content, copy))
    elif kind == INSPECT and found in {MISSING, CORRUPT}:
        _finish_inspection(ledger, copy, outcome, key)
        if content is not None:
            follow.lacking.append((content, copy))
    elif kind == RELOCATE and found == CORRUPT:
        # another program's object lies at its key, which a scan takes up; from now on it is a copy that is owed
        copy.actual, copy.move_to, copy.error = CORRUPT, None, outcome.failure.message
    else:
        copy.error = outcome.failure.message
        copy.attempts += int(outcome.counted)
        if copy.attempts < QUARANTINE_ATTEMPTS:
            copy.due_at = ledger.now + int(max(0.0, outcome.retry_seconds) * SECOND)
        if kind == RELOCATE and copy.actual == OK and outcome.failure.reason != Conflict.reason:
            # it may have been renamed all the same: until that is known, nobody may write there
            copy.lease_kind, copy.lease_key = kind, key
        if kind == COPY and key != copy.key:
            # the file was moved or replaced meanwhile: what the attempt may have left explains nothing any more
            ledger.add_leftover(copy.workspace_id, copy.provider_id, key)


def _is_elsewhere(copy: Copy, content: Content | None) -> bool:
    """Whether another good copy is recorded."""
    return content is not None and any(one.actual == OK and one is not copy for one in content.copies)


def _finish_done(
    ledger: Ledger,
    copy: Copy,
    content: Content | None,
    outcome: catalog_service_pb2.DebtOutcome,
    kind: int | None,
    key: str,
    there: list[tuple[Copy, Content | None]],
) -> None:
    if kind == REMOVE:
        copy.attempts, copy.error = 0, ""
        copy.actual = MISSING
        if content is None:
            copy.gone = True
        return
    if kind in {INSPECT, ACL} and copy.key != key:
        return  # it was moved meanwhile
    if kind == ACL:
        copy.attempts, copy.error = 0, ""
        copy.take_acl(outcome.acl)
        return
    if kind in {COPY, RELOCATE}:
        copy.key, copy.move_to = key, None
        copy.forget_acl()
        for other, of in there:
            if other is copy or other.key != key:
                continue
            if of is None:
                other.gone = True  # the leftover was overwritten
            elif other.actual != MISSING:
                other.mark_displaced(aside_key(of.version_id))
                other.key, other.move_to = aside_key(of.version_id), None
                owe(other, True, ledger.now)
    if kind == RELOCATE and copy.actual != OK:
        copy.attempts, copy.error = 0, ""
        return  # renamed while nothing was known of it: still to be looked at
    etag = outcome.etag or (copy.etag if kind != COPY else "")
    checksum = outcome.checksum or (copy.checksum if kind != COPY else "")
    proven = copy.proven_at
    copy.mark_ok(ledger.now, etag, checksum)
    if kind == COPY and outcome.HasField("acl"):
        copy.take_acl(outcome.acl)
    if kind == RELOCATE:
        copy.proven_at = proven  # a rename proves no bytes


def _finish_inspection(ledger: Ledger, copy: Copy, outcome: catalog_service_pb2.DebtOutcome, key: str) -> None:
    """The right content is not at the key: look where else it may be, then conclude."""
    if copy.key != key:
        return
    if copy.move_to is not None and copy.move_to != key:
        if outcome.state == CORRUPT:
            # with what was recorded there, so that another program's object is not taken for a bad copy and removed
            bad = ledger.add_leftover(copy.workspace_id, copy.provider_id, key)
            bad.actual, bad.etag, bad.checksum = CORRUPT, copy.etag, copy.checksum
        copy.key, copy.move_to = copy.move_to, None
        copy.attempts = 0
        return
    copy.actual, copy.move_to = outcome.state, None
    # how often it could not be read says nothing of how often its repair fails
    copy.error, copy.attempts = outcome.failure.message, 0


def make_due(
    connection: Connection, request: catalog_service_pb2.MakeDueRequest, _author: str
) -> catalog_service_pb2.MakeDueResponse:
    """CatalogService.MakeDue."""
    now = now_ns()
    workspace_id, row = require(connection, request.workspace, request.path)
    provider = None
    if request.provider:
        provider = connection.scalar(sa.select(providers.c.id).where(providers.c.name == request.provider))
        if provider is None:
            raise NotFound(f"there is no provider {request.provider!r}", provider=request.provider)
    if workspace_id is None:
        return catalog_service_pb2.MakeDueResponse()
    lock_workspaces(connection, [workspace_id])
    owed: list[sa.ColumnElement[bool]] = [
        replicas.c.workspace_id == workspace_id,
        is_owed,
        sa.or_(replicas.c.lease_until.is_(None), replicas.c.lease_until <= now),
    ]
    if provider is not None:
        owed.append(replicas.c.provider_id == provider)
    if request.path != "/":
        chosen = sa.select(versions.c.id).join(entries, entries.c.id == versions.c.entry_id)
        if row is not None and row.kind != DIRECTORY:
            chosen = chosen.where(entries.c.id == row.id)
        else:
            chosen = chosen.where(entries.c.workspace_id == workspace_id, below(request.path))
        owed.append(replicas.c.version_id.in_(chosen))
    quarantined = connection.execute(
        sa.select(replicas.c.provider_id, sa.func.count())
        .join(versions, versions.c.id == replicas.c.version_id)
        .where(
            *owed,
            replicas.c.attempts >= QUARANTINE_ATTEMPTS,
            replicas.c.wanted == 1,
            versions.c.superseded_at.is_(None),
        )
        .group_by(replicas.c.provider_id)
    )
    add_counters(connection, {(workspace_id, row[0]): [0, 0, 0, -row[1], 0] for row in quarantined})
    made = connection.execute(replicas.update().where(*owed).values(due_at=now, attempts=0))
    asked = _look_for_absent(connection, [condition for condition in owed if condition is not is_owed], now)
    return catalog_service_pb2.MakeDueResponse(due=made.rowcount + asked)


def _look_for_absent(connection: Connection, chosen: list[sa.ColumnElement[bool]], now: int) -> int:
    """Have copies inspected, and made anew, that waited for somebody to decide about their absence."""
    query = sa.select(replicas.c.version_id, replicas.c.provider_id).where(
        *chosen, replicas.c.absent_at.is_not(None), replicas.c.actual == UNKNOWN
    )
    rows = connection.execute(query).all()
    ledger = Ledger(connection, now)
    ledger.load(row.version_id for row in rows)
    for row in rows:
        copy = ledger.contents[row.version_id].at(row.provider_id)
        if copy is not None:
            copy.absent_at = None
    ledger.settle()
    ledger.save()
    return len(rows)
