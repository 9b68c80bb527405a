"""Registered providers."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import AlreadyExists, Conflict, NotFound, PreconditionFailed
from cdir.v1 import catalog_service_pb2, exit_pb2, provider_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.schema import counters, providers, replicas, scans, vacancies, versions
from cdir_catalog.store.copies import NO_SOURCE, OK
from cdir_catalog.store.jobs import end_jobs, rename_jobs
from cdir_catalog.store.ledger import Ledger
from cdir_catalog.store.locks import change_configuration
from cdir_catalog.store.placement import Candidate
from cdir_catalog.store.placements import place_all_anew
from cdir_catalog.wire import timestamp

__all__ = [
    "AWAITS_REBUILD",
    "RegisteredProvider",
    "change_provider",
    "create_provider",
    "drop_provider",
    "find_provider",
    "heirs_of",
    "load_providers",
    "provider_by_id",
    "read_providers",
    "record_of",
    "record_provider_states",
    "replace_secrets",
]

_UP = provider_pb2.PROVIDER_STATE_UP
_SLOW = provider_pb2.PROVIDER_STATE_SLOW
_DOWN = provider_pb2.PROVIDER_STATE_DOWN
_PAUSED = provider_pb2.PROVIDER_STATE_PAUSED
_UNKNOWN = provider_pb2.PROVIDER_STATE_UNKNOWN

AWAITS_REBUILD = "paused until the catalog is rebuilt"
"""Why a provider is paused that a new catalog was given: nothing is concluded from what lies there before."""

_OBSERVABLE = {_UP, _SLOW, _DOWN, _UNKNOWN}
_FORGET_BATCH = 2000
_LISTS_ALL = ("list_current", "case_sensitive", "unicode_preserving")


@dataclass(frozen=True, slots=True)
class RegisteredProvider:
    """A row of ``providers``, read."""

    id: int
    provider_id: str
    name: str
    paused: bool
    state: provider_pb2.ProviderState.ValueType
    """PAUSED when it is paused, UNKNOWN while the delete guard holds at one that answers, else what was observed."""
    state_reason: str
    state_since: int
    revision: int
    record: provider_pb2.Provider
    guard: str = ""
    """Why the delete guard holds; empty when it does not."""
    accepts_losses: bool = False
    """A person has said that what is missing there is lost."""
    answers: bool = False
    """Whether it was up when it was looked at last, whatever the guard says."""

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.id, self.name, self.record.location, self.record.priority, self.leaving)

    @property
    def leaving(self) -> bool:
        """Whether it is being evacuated, or was: nothing is placed there any more."""
        return self.record.HasField("exit")

    @property
    def removals_wait(self) -> bool:
        """Whether what is wanted there no more stays: it is a source, or the user's to keep, while it leaves."""
        return self.leaving and self.record.exit.state != exit_pb2.EXIT_STATE_PURGING

    @property
    def writable(self) -> bool:
        """Whether it takes writes as far as people decided; it may be down all the same."""
        return not self.paused and not self.record.read_only and not self.leaving

    @property
    def workable(self) -> bool:
        """Whether owed work may be done there: writing, or removing what an evacuation is to remove."""
        return not self.paused and not self.record.read_only and not self.removals_wait

    @property
    def case_sensitive(self) -> bool:
        value = self.record.capability.fields.get("case_sensitive")
        return value is None or value.bool_value

    @property
    def lists_all(self) -> bool:
        """Whether a listing shows all that was stored before it, under the names that it was given: what it does not
        show is not there."""
        fields = self.record.capability.fields
        return all(name in fields and fields[name].bool_value for name in _LISTS_ALL)

    @property
    def sort_key(self) -> tuple[int, str]:
        return self.record.priority, self.name

    def message(self) -> provider_pb2.Provider:
        """Return it as users see it."""
        message = provider_pb2.Provider()
        message.CopyFrom(self.record)
        message.state = self.state
        message.state_reason = "" if self.state == _UP else self.state_reason
        message.state_since.CopyFrom(timestamp(self.state_since))
        message.revision = self.revision
        return message


@functools.lru_cache(maxsize=1024)
def _registered(row: Any) -> RegisteredProvider:
    """Read a whole row. Almost every call reads all of them and they change rarely; nobody changes what it gets."""
    paused = bool(row.paused)
    answers = row.state in {_UP, _SLOW}
    guard = row.guard or ""
    state, reason = (_UNKNOWN, guard) if answers and guard else (row.state, row.state_reason)
    why_paused = AWAITS_REBUILD if row.state_reason == AWAITS_REBUILD else "paused by a person"
    return RegisteredProvider(
        id=row.id,
        provider_id=row.provider_id,
        name=row.name,
        paused=paused,
        state=_PAUSED if paused else state,
        state_reason=why_paused if paused else reason,
        state_since=row.state_since,
        revision=row.revision,
        record=provider_pb2.Provider.FromString(row.record),
        guard=guard,
        accepts_losses=row.guard == "",
        answers=answers,
    )


_ALL = sa.select(providers)
_BY_ID = _ALL.where(providers.c.provider_id == sa.bindparam("chosen"))


def load_providers(connection: Connection) -> list[RegisteredProvider]:
    """Return every registered provider by priority, then name."""
    found = [_registered(row) for row in connection.execute(_ALL)]
    return sorted(found, key=lambda one: one.sort_key)


def heirs_of(registered: list[RegisteredProvider]) -> dict[int, set[int]]:
    """Return, for each provider that leaves, which ones take its copies by preference; as row ids."""
    ids = {one.provider_id: one.id for one in registered}
    return {one.id: {ids[heir] for heir in one.record.exit.to if heir in ids} for one in registered if one.leaving}


def find_provider(connection: Connection, condition: sa.ColumnElement[bool]) -> RegisteredProvider | None:
    row = connection.execute(sa.select(providers).where(condition)).first()
    return None if row is None else _registered(row)


def provider_by_id(connection: Connection, provider_id: str) -> RegisteredProvider | None:
    """Return the provider with this id that never changes; ``None`` when it is not registered."""
    row = connection.execute(_BY_ID, {"chosen": provider_id}).first()
    return None if row is None else _registered(row)


def record_of(provider: provider_pb2.Provider, leaving: exit_pb2.ProviderExit | None = None) -> bytes:
    """Return what is stored of a provider; ``leaving`` is its exit, which only an evacuation changes."""
    record = provider_pb2.Provider()
    record.CopyFrom(provider)
    for name in ("state", "state_since", "state_reason", "revision"):
        record.ClearField(name)
    record.ClearField("exit")
    if leaving is not None:
        record.exit.CopyFrom(leaving)
    return record.SerializeToString(deterministic=True)


def _check_name(connection: Connection, provider: provider_pb2.Provider) -> None:
    taken = connection.scalar(
        sa.select(providers.c.id).where(
            providers.c.name == provider.name, providers.c.provider_id != provider.provider_id
        )
    )
    if taken is not None:
        raise AlreadyExists(f"there is a provider named {provider.name!r} already", provider=provider.name)


def create_provider(
    connection: Connection, request: catalog_service_pb2.CreateProviderRequest, _author: str
) -> catalog_service_pb2.CreateProviderResponse:
    """CatalogService.CreateProvider."""
    change_configuration(connection)
    provider = request.provider.provider
    _check_name(connection, provider)
    if provider_by_id(connection, provider.provider_id) is not None:
        raise AlreadyExists(f"the provider id of {provider.name!r} is registered already", provider=provider.name)
    connection.execute(
        providers.insert().values(
            provider_id=provider.provider_id,
            name=provider.name,
            record=record_of(provider),
            sealed_secrets=request.provider.sealed_secrets,
            paused=0,
            state=_UNKNOWN,
            state_reason="not looked at yet",
            state_since=now_ns(),
            revision=1,
        )
    )
    place_all_anew(connection)
    stored = provider_by_id(connection, provider.provider_id)
    assert stored is not None
    return catalog_service_pb2.CreateProviderResponse(provider=stored.message())


def change_provider(
    connection: Connection, request: catalog_service_pb2.ChangeProviderRequest, _author: str
) -> catalog_service_pb2.ChangeProviderResponse:
    """CatalogService.ChangeProvider."""
    change_configuration(connection)
    wanted = request.provider.provider
    condition = providers.c.provider_id == wanted.provider_id
    present = find_provider(connection, condition)
    if present is None:
        raise NotFound(f"there is no provider {wanted.name!r}", provider=wanted.name)
    if request.expected_revision != present.revision:
        raise Conflict(
            f"somebody else changed the provider {present.name!r} meanwhile; read it again", provider=present.name
        )
    _check_name(connection, wanted)
    leaving = present.record.exit if present.leaving else None
    values: dict[str, Any] = {"name": wanted.name, "record": record_of(wanted, leaving)}
    secrets_changed = False
    if not request.keep_secrets:
        secrets = connection.scalar(sa.select(providers.c.sealed_secrets).where(condition))
        secrets_changed = secrets != request.provider.sealed_secrets
        values["sealed_secrets"] = request.provider.sealed_secrets
    old = present.record
    if (
        secrets_changed
        or (present.name, old.bandwidth) != (wanted.name, wanted.bandwidth)
        or dict(old.options) != dict(wanted.options)
        or list(old.secret_names) != list(wanted.secret_names)
        or old.capability != wanted.capability
    ):
        values["revision"] = present.revision + 1
    if request.HasField("paused") and request.paused != present.paused:
        values.update(paused=int(request.paused), state_since=now_ns())
    connection.execute(providers.update().where(condition).values(**values))
    if wanted.name != present.name:
        rename_jobs(connection, present.name, wanted.name)
    if (old.priority, old.location, present.name) != (wanted.priority, wanted.location, wanted.name):
        place_all_anew(connection)
    if present.paused and request.HasField("paused") and not request.paused:
        _forget_back_offs(connection, present.id)
    stored = find_provider(connection, condition)
    assert stored is not None
    return catalog_service_pb2.ChangeProviderResponse(provider=stored.message())


def replace_secrets(
    connection: Connection, request: catalog_service_pb2.ReplaceSecretsRequest, _author: str
) -> catalog_service_pb2.ReplaceSecretsResponse:
    """CatalogService.ReplaceSecrets."""
    change_configuration(connection)
    replaced = 0
    for one in request.secrets:
        same = sa.and_(providers.c.provider_id == one.provider_id, providers.c.sealed_secrets == one.before)
        replaced += connection.execute(providers.update().where(same).values(sealed_secrets=one.after)).rowcount
    return catalog_service_pb2.ReplaceSecretsResponse(replaced=replaced)


def drop_provider(
    connection: Connection, request: catalog_service_pb2.DropProviderRequest, _author: str
) -> catalog_service_pb2.DropProviderResponse:
    """CatalogService.DropProvider."""
    change_configuration(connection)
    provider = find_provider(connection, providers.c.name == request.name)
    if provider is None:
        raise NotFound(f"there is no provider {request.name!r}", provider=request.name)
    if not request.force:
        _check_droppable(connection, provider)
    end_jobs(connection, provider.name, "the provider was removed")
    forgotten = connection.scalar(
        sa.select(sa.func.count()).select_from(replicas).where(replicas.c.provider_id == provider.id)
    )
    _forget_copies(connection, provider.id)
    for table in (counters, scans, vacancies):
        connection.execute(table.delete().where(table.c.provider_id == provider.id))
    connection.execute(providers.delete().where(providers.c.id == provider.id))
    place_all_anew(connection)
    return catalog_service_pb2.DropProviderResponse(forgotten_replicas=forgotten or 0)


def _check_droppable(connection: Connection, provider: RegisteredProvider) -> None:
    """Refuse when a file, or an older content of one that can still be restored, would lose its only good copy."""
    if provider.record.exit.state in {exit_pb2.EXIT_STATE_LEAVING, exit_pb2.EXIT_STATE_PURGING}:
        raise PreconditionFailed(
            f"{provider.name!r} is being evacuated; wait for the end of it (`cdir jobs`), or use force",
            provider=provider.name,
        )
    other = replicas.alias()
    only = connection.execute(
        sa.select(versions.c.superseded_at)
        .join(replicas, versions.c.id == replicas.c.version_id)
        .where(
            replicas.c.provider_id == provider.id,
            sa.or_(versions.c.superseded_at.is_(None), versions.c.expires_at.is_not(None)),
            replicas.c.actual == OK,
            ~sa.exists().where(
                other.c.version_id == replicas.c.version_id,
                other.c.provider_id != provider.id,
                other.c.actual == OK,
            ),
        )
        .order_by(versions.c.superseded_at.is_not(None))
        .limit(1)
    ).first()
    if only is not None:
        what = "files" if only.superseded_at is None else "older contents, which can be restored now"
        raise PreconditionFailed(
            f"{provider.name!r} has the only good copy of some {what}; evacuate it first, or use force to lose them",
            provider=provider.name,
        )


def _forget_copies(connection: Connection, provider: int) -> None:
    """Delete what is known of a provider's copies, a batch at a time, with all that follows for the others."""
    while True:
        rows = connection.execute(
            sa.select(replicas.c.id, replicas.c.version_id)
            .where(replicas.c.provider_id == provider)
            .limit(_FORGET_BATCH)
        ).all()
        if not rows:
            return
        ledger = Ledger(connection, now_ns())
        ledger.load(row.version_id for row in rows if row.version_id is not None)
        for content in ledger.contents.values():
            copy = content.at(provider)
            if copy is not None:
                copy.gone = True
        ledger.settle()
        ledger.leftovers = [copy for copy in ledger.leftovers if copy.provider_id != provider]
        ledger.save()
        connection.execute(replicas.delete().where(replicas.c.id.in_([row.id for row in rows])))


def read_providers(
    connection: Connection, request: catalog_service_pb2.ReadProvidersRequest
) -> catalog_service_pb2.ReadProvidersResponse:
    """CatalogService.ReadProviders."""
    rows = connection.execute(_BY_ID if request.provider_id else _ALL, {"chosen": request.provider_id})
    found = [(_registered(row), row.sealed_secrets) for row in rows if not request.name or row.name == request.name]
    found.sort(key=lambda pair: pair[0].sort_key)
    return catalog_service_pb2.ReadProvidersResponse(
        providers=[
            catalog_service_pb2.StoredProvider(
                provider=provider.message(), sealed_secrets=secrets if request.with_secrets else b""
            )
            for provider, secrets in found
        ]
    )


def record_provider_states(
    connection: Connection, request: catalog_service_pb2.RecordProviderStatesRequest, _author: str
) -> catalog_service_pb2.RecordProviderStatesResponse:
    """CatalogService.RecordProviderStates."""
    observed: dict[str, catalog_service_pb2.ProviderObservation] = {
        observation.provider_id: observation for observation in request.observations
    }
    rows = {row.provider_id: row for row in connection.execute(_ALL)}
    for provider_id, observation in sorted(observed.items()):
        row = rows.get(provider_id)
        if row is None or observation.state not in _OBSERVABLE:
            continue
        changed = row.state != observation.state
        if not changed and row.state_reason == observation.reason:
            continue
        values: dict[str, Any] = {"state": observation.state, "state_reason": observation.reason}
        if changed and not row.paused:
            values["state_since"] = now_ns()
        connection.execute(providers.update().where(providers.c.id == row.id).values(**values))
        if changed and observation.state in {_UP, _SLOW} and row.state not in {_UP, _SLOW}:
            _forget_back_offs(connection, row.id)
    return catalog_service_pb2.RecordProviderStatesResponse()


def _forget_back_offs(connection: Connection, provider: int) -> None:
    """Make due what waits at a provider, and what waits elsewhere for a source."""
    now = now_ns()
    connection.execute(
        replicas.update()
        .where(
            replicas.c.due_at > now,
            replicas.c.lease_until.is_(None),
            sa.or_(replicas.c.provider_id == provider, replicas.c.error.startswith(NO_SOURCE)),
        )
        .values(due_at=now)
    )
