"""From the messages of the wire to the records of :mod:`cdir.model`, and back for the few that are sent."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from google.protobuf import struct_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from cdir import model
from cdir.status import from_failure
from cdir.v1 import directory_service_pb2, entry_pb2, exit_pb2, provider_pb2, provider_service_pb2

__all__ = [
    "ON_CONFLICT",
    "WAIT",
    "change_from",
    "check_from",
    "copy_outcome_from",
    "entry_from",
    "explanation_from",
    "file_status_from",
    "kind_from",
    "nanoseconds",
    "policy_from",
    "policy_to",
    "provider_from",
    "server_from",
    "timestamp",
    "tree_status_from",
    "usage_from",
    "version_from",
    "write_outcome_from",
]

WAIT = {
    model.Wait.MINIMUM: directory_service_pb2.WAIT_FOR_MINIMUM,
    model.Wait.REACHABLE: directory_service_pb2.WAIT_FOR_REACHABLE,
}

ON_CONFLICT = {
    model.OnConflict.FAIL: directory_service_pb2.ON_CONFLICT_FAIL,
    model.OnConflict.KEEP_COPY: directory_service_pb2.ON_CONFLICT_KEEP_COPY,
}

_ENTRY_KIND = {
    entry_pb2.ENTRY_KIND_DIRECTORY: model.EntryKind.DIRECTORY,
    entry_pb2.ENTRY_KIND_FILE: model.EntryKind.FILE,
}
_PROVIDER_STATE = {
    provider_pb2.PROVIDER_STATE_UP: model.ProviderState.UP,
    provider_pb2.PROVIDER_STATE_SLOW: model.ProviderState.SLOW,
    provider_pb2.PROVIDER_STATE_DOWN: model.ProviderState.DOWN,
    provider_pb2.PROVIDER_STATE_PAUSED: model.ProviderState.PAUSED,
}
_EXIT_STATE = {
    exit_pb2.EXIT_STATE_LEAVING: model.ExitState.LEAVING,
    exit_pb2.EXIT_STATE_PURGING: model.ExitState.PURGING,
    exit_pb2.EXIT_STATE_EVACUATED: model.ExitState.EVACUATED,
}
_REPLICA_STATE = {
    entry_pb2.REPLICA_STATE_OK: model.ReplicaState.OK,
    entry_pb2.REPLICA_STATE_STALE: model.ReplicaState.STALE,
    entry_pb2.REPLICA_STATE_CORRUPT: model.ReplicaState.CORRUPT,
    entry_pb2.REPLICA_STATE_QUARANTINED: model.ReplicaState.QUARANTINED,
}
_CHANGE_KIND = {
    entry_pb2.CHANGE_KIND_WRITTEN: model.ChangeKind.WRITTEN,
    entry_pb2.CHANGE_KIND_REMOVED: model.ChangeKind.REMOVED,
    entry_pb2.CHANGE_KIND_MOVED: model.ChangeKind.MOVED,
    entry_pb2.CHANGE_KIND_DIRECTORY_MADE: model.ChangeKind.DIRECTORY_MADE,
}

_OUTSIDE_DELETION: Final = {
    entry_pb2.OUTSIDE_DELETION_REPAIR: model.OutsideDeletion.REPAIR,
    entry_pb2.OUTSIDE_DELETION_ACCEPT: model.OutsideDeletion.ACCEPT,
    entry_pb2.OUTSIDE_DELETION_ASK: model.OutsideDeletion.ASK,
}
_OUTSIDE_DELETION_TO: Final = {meaning: number for number, meaning in _OUTSIDE_DELETION.items()}


def nanoseconds(stamp: Timestamp) -> int:
    """Return a timestamp as nanoseconds since 1970."""
    return stamp.seconds * 1_000_000_000 + stamp.nanos


def timestamp(nanoseconds_since_1970: int) -> Timestamp:
    """Return nanoseconds since 1970 as a timestamp; times before 1970 keep a positive fraction, as protobuf demands."""
    seconds, nanos = divmod(nanoseconds_since_1970, 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


def _time(stamp: Timestamp) -> datetime:
    return model.time_of(nanoseconds(stamp))


def _optional_time(stamp: Timestamp) -> datetime | None:
    return _time(stamp) if stamp.seconds or stamp.nanos else None


def server_from(message: directory_service_pb2.GetServerResponse) -> model.Server:
    return model.Server(message.version, message.deployment, message.local_files, message.process_id)


def entry_from(message: entry_pb2.Entry) -> model.Entry:
    return model.Entry(
        workspace=message.workspace,
        path=message.path,
        kind=_ENTRY_KIND.get(message.kind, model.EntryKind.FILE),
        size=message.size,
        modified_ns=nanoseconds(message.modified),
        sha256=message.sha256.hex(),
        generation=message.generation,
        version_id=message.version_id,
        owed=message.owed,
        author=message.author,
        conflict_of=message.conflict_of,
    )


def version_from(message: entry_pb2.Version) -> model.Version:
    return model.Version(
        version_id=message.version_id,
        generation=message.generation,
        size=message.size,
        modified=_time(message.modified),
        sha256=message.sha256.hex(),
        author=message.author,
        committed=_time(message.committed),
        current=message.current,
    )


def _replica_from(message: entry_pb2.Replica) -> model.Replica:
    proven = _optional_time(message.proven)
    if message.state == entry_pb2.REPLICA_STATE_MISSING:
        # a copy that was once proven and is gone is another story, for a person, than one that was never there
        state = model.ReplicaState.OWED if proven is None else model.ReplicaState.MISSING
    else:
        state = _REPLICA_STATE.get(message.state, model.ReplicaState.UNKNOWN)
    return model.Replica(
        provider=message.provider,
        state=state,
        key=message.key,
        etag=message.etag,
        proven_at=proven,
        error=message.error,
        wanted=message.wanted,
        attempts=message.attempts,
    )


def file_status_from(message: directory_service_pb2.GetFileStatusResponse) -> model.FileStatus:
    return model.FileStatus(entry_from(message.entry), tuple(_replica_from(replica) for replica in message.replicas))


def tree_status_from(message: directory_service_pb2.GetTreeStatusResponse) -> model.TreeStatus:
    return model.TreeStatus(
        files=message.files,
        bytes=message.bytes,
        owed=message.owed,
        quarantined=message.quarantined,
        unplaced=message.unplaced,
        removals=message.removals,
        providers=tuple(
            model.ProviderStatus(
                name=provider.name,
                kind=provider.kind,
                state=_PROVIDER_STATE.get(provider.state, model.ProviderState.UNKNOWN),
                state_reason=provider.state_reason,
                state_since=_optional_time(provider.state_since),
                files=provider.files,
                bytes=provider.bytes,
                owed=provider.owed,
                proven=_optional_time(provider.proven) if provider.HasField("proven") else None,
                unproven=provider.unproven,
                exit=_EXIT_STATE.get(provider.exit.state),
                exit_since=_optional_time(provider.exit.since),
                files_left=provider.files_left if provider.HasField("files_left") else None,
                exit_waits=provider.exit_waits,
            )
            for provider in message.providers
        ),
        conflicts=message.conflicts,
        quarantined_copies=tuple(
            model.QuarantinedCopy(copy.path, copy.provider, copy.error) for copy in message.quarantined_copies
        ),
        absent=message.absent,
    )


def policy_from(message: entry_pb2.Policy) -> model.Policy:
    return model.Policy(
        copies=message.copies if message.HasField("copies") else None,
        min_copies=message.min_copies if message.HasField("min_copies") else None,
        providers=tuple(message.providers),
        prefer=tuple(message.prefer),
        keep_versions=message.keep_versions if message.HasField("keep_versions") else None,
        keep_seconds=message.keep_seconds if message.HasField("keep_seconds") else None,
        outside_deletion=_OUTSIDE_DELETION.get(message.outside_deletion),
    )


def policy_to(policy: model.Policy) -> entry_pb2.Policy:
    return entry_pb2.Policy(
        copies=policy.copies,
        min_copies=policy.min_copies,
        providers=policy.providers,
        prefer=policy.prefer,
        keep_versions=policy.keep_versions,
        keep_seconds=policy.keep_seconds,
        outside_deletion=_OUTSIDE_DELETION_TO[policy.outside_deletion]
        if policy.outside_deletion
        else entry_pb2.OUTSIDE_DELETION_UNSPECIFIED,
    )


def explanation_from(message: directory_service_pb2.ExplainPlacementResponse) -> model.PlacementExplanation:
    return model.PlacementExplanation(
        policy=policy_from(message.policy),
        rules=tuple(
            model.PolicyRule(
                path=f"@{rule.workspace}{rule.path}" if rule.workspace else rule.path, policy=policy_from(rule.policy)
            )
            for rule in message.rules
        ),
        reasons=tuple(
            model.PlacementReason(reason.provider, reason.chosen, reason.reason) for reason in message.reasons
        ),
    )


def change_from(message: entry_pb2.Change) -> model.Change | None:
    """Return the change, or ``None`` for a kind that a newer service has and this release does not know."""
    kind = _CHANGE_KIND.get(message.kind)
    if kind is None:
        return None
    return model.Change(
        revision=message.revision,
        kind=kind,
        path=message.path,
        old_path=message.old_path,
        entry_kind=_ENTRY_KIND.get(message.entry_kind, model.EntryKind.FILE),
        generation=message.generation,
        author=message.author,
        time=_time(message.time),
    )


def write_outcome_from(message: directory_service_pb2.WriteStored) -> model.WriteOutcome:
    return model.WriteOutcome(
        entry_from(message.entry), tuple(message.stored), tuple(message.owed), message.conflict_of
    )


def copy_outcome_from(message: directory_service_pb2.CopyEntryResponse) -> model.CopyOutcome:
    if message.HasField("failure"):
        return model.CopyOutcome(message.path, None, from_failure(message.failure))
    return model.CopyOutcome(message.path, write_outcome_from(message.stored), None)


def kind_from(message: provider_pb2.KindSpec) -> model.Kind:
    return model.Kind(
        kind=message.kind,
        description=message.description,
        options=tuple(
            model.Option(
                name=option.name,
                type=option.type,
                required=option.required,
                secret=option.secret,
                default=option.default_value,
                description=option.description,
            )
            for option in message.options
        ),
        available=message.available,
        missing=message.missing,
    )


def provider_from(message: provider_pb2.Provider) -> model.ProviderInfo:
    return model.ProviderInfo(
        provider_id=message.provider_id,
        name=message.name,
        kind=message.kind,
        options=dict(message.options),
        secret_names=tuple(message.secret_names),
        location=message.location,
        priority=message.priority,
        cost=message.cost,
        read_only=message.read_only,
        bandwidth=message.bandwidth,
        capability=_plain(message.capability),
        state=_PROVIDER_STATE.get(message.state, model.ProviderState.UNKNOWN),
        state_since=_optional_time(message.state_since),
        state_reason=message.state_reason,
        exit=_EXIT_STATE.get(message.exit.state),
    )


def _plain(struct: struct_pb2.Struct) -> dict[str, object]:
    return {name: _plain_value(value) for name, value in struct.fields.items()}


def _plain_value(value: struct_pb2.Value) -> object:
    which = value.WhichOneof("kind")
    if which == "number_value":  # a Struct knows only floats; whole numbers read better as what they are
        return int(value.number_value) if value.number_value.is_integer() else value.number_value
    if which == "string_value":
        return value.string_value
    if which == "bool_value":
        return value.bool_value
    if which == "list_value":
        return [_plain_value(item) for item in value.list_value.values]
    if which == "struct_value":
        return _plain(value.struct_value)
    return None


def usage_from(message: provider_service_pb2.ProviderUsage) -> model.ProviderUsage:
    return model.ProviderUsage(
        name=message.name,
        used=message.used if message.HasField("used") else None,
        free=message.free if message.HasField("free") else None,
    )


def check_from(message: provider_pb2.ConformanceResult) -> model.CheckResult:
    return model.CheckResult(message.name, message.outcome, message.message)
