"""Messages become records without loss."""

from datetime import UTC, datetime

import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from cdir import conversion, model
from cdir.v1 import directory_service_pb2, entry_pb2, provider_pb2, provider_service_pb2


@given(st.integers(min_value=-(10**18), max_value=4 * 10**18))
def test_times_keep_their_nanoseconds(nanoseconds: int) -> None:
    stamp = conversion.timestamp(nanoseconds)
    assert 0 <= stamp.nanos < 1_000_000_000
    assert conversion.nanoseconds(stamp) == nanoseconds


def test_an_entry() -> None:
    message = entry_pb2.Entry(
        workspace="team",
        path="/reports/q3.csv",
        kind=entry_pb2.ENTRY_KIND_FILE,
        size=7,
        modified=conversion.timestamp(1_700_000_000_123_456_789),
        sha256=bytes(range(32)),
        generation=3,
        version_id="ab" * 16,
        owed=1,
        author="me",
    )
    entry = conversion.entry_from(message)
    assert (entry.name, entry.target, entry.is_directory) == ("q3.csv", "@team/reports/q3.csv", False)
    assert entry.modified_ns == 1_700_000_000_123_456_789
    assert entry.modified == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
    assert entry.sha256 == bytes(range(32)).hex()


def test_records_cannot_be_changed() -> None:
    entry = conversion.entry_from(entry_pb2.Entry(path="/", kind=entry_pb2.ENTRY_KIND_DIRECTORY))
    with pytest.raises(AttributeError):
        entry.path = "/other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("state", "proven", "expected"),
    [
        (entry_pb2.REPLICA_STATE_OK, True, model.ReplicaState.OK),
        (entry_pb2.REPLICA_STATE_MISSING, False, model.ReplicaState.OWED),
        (entry_pb2.REPLICA_STATE_MISSING, True, model.ReplicaState.MISSING),
        (entry_pb2.REPLICA_STATE_STALE, True, model.ReplicaState.STALE),
        (entry_pb2.REPLICA_STATE_CORRUPT, True, model.ReplicaState.CORRUPT),
        (entry_pb2.REPLICA_STATE_QUARANTINED, True, model.ReplicaState.QUARANTINED),
        (entry_pb2.REPLICA_STATE_UNKNOWN, False, model.ReplicaState.UNKNOWN),
        (entry_pb2.REPLICA_STATE_UNSPECIFIED, False, model.ReplicaState.UNKNOWN),
    ],
)
def test_the_state_of_a_copy(
    state: entry_pb2.ReplicaState.ValueType, proven: bool, expected: model.ReplicaState
) -> None:
    replica = entry_pb2.Replica(provider="disk", state=state, wanted=True)
    if proven:
        replica.proven.GetCurrentTime()
    status = conversion.file_status_from(directory_service_pb2.GetFileStatusResponse(replicas=[replica]))
    assert status.replicas[0].state is expected
    assert (status.replicas[0].proven_at is not None) is proven


def test_a_policy_goes_there_and_back() -> None:
    for policy in (
        model.Policy(),
        model.Policy(copies=2, min_copies=1, providers=("a", "b"), prefer=("b",), keep_versions=0, keep_seconds=60),
        *(model.Policy(outside_deletion=meaning) for meaning in model.OutsideDeletion),
    ):
        assert conversion.policy_from(conversion.policy_to(policy)) == policy


def test_zero_versions_is_not_the_same_as_unset() -> None:
    assert conversion.policy_to(model.Policy(keep_versions=0)).HasField("keep_versions")
    assert not conversion.policy_to(model.Policy()).HasField("keep_versions")


def test_usage_that_a_provider_does_not_say_is_none() -> None:
    usage = conversion.usage_from(provider_service_pb2.ProviderUsage(name="disk", used=0))
    assert (usage.used, usage.free) == (0, None)


def test_a_capability_becomes_plain_values() -> None:
    capability = struct_pb2.Struct()
    capability.update(
        {"copy": True, "max_object_size": 5, "checksums": ["md5"], "nested": {"ratio": 0.5}, "none": None}
    )
    info = conversion.provider_from(provider_pb2.Provider(name="disk", capability=capability))
    assert info.capability == {
        "copy": True,
        "max_object_size": 5,
        "checksums": ["md5"],
        "nested": {"ratio": 0.5},
        "none": None,
    }
    assert info.state is model.ProviderState.UNKNOWN


def test_a_change_of_an_unknown_kind_is_left_out() -> None:
    assert conversion.change_from(entry_pb2.Change(kind=entry_pb2.CHANGE_KIND_UNSPECIFIED)) is None


def test_a_failed_copy_carries_its_error() -> None:
    message = directory_service_pb2.CopyEntryResponse(
        path="/a", failure=entry_pb2.Failure(reason="ALREADY_EXISTS", message="/a exists", retry="never")
    )
    outcome = conversion.copy_outcome_from(message)
    assert outcome.stored is None
    assert type(outcome.error).__name__ == "AlreadyExists"
