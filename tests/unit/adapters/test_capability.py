import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdir_adapters.capability import Capability, ChecksumKind

limits = st.none() | st.integers(1, 2**40)
capabilities = st.builds(
    Capability,
    write_if_absent=st.booleans(),
    copy=st.booleans(),
    case_sensitive=st.booleans(),
    checksums=st.frozensets(st.sampled_from(ChecksumKind)),
    modified_precision=st.none() | st.sampled_from([timedelta(microseconds=1), timedelta(seconds=2)]),
    max_object_size=limits,
    max_name_bytes=limits,
    forbidden_names=st.none() | st.just(r".*[:*].*"),
)


@given(capabilities)
def test_json_keeps_everything(capability: Capability) -> None:
    assert Capability.from_json(json.loads(json.dumps(capability.to_json()))) == capability


@given(capabilities)
def test_json_survives_numbers_that_are_all_floating(capability: Capability) -> None:
    values = {k: float(v) if type(v) is int else v for k, v in capability.to_json().items()}
    assert Capability.from_json(values) == capability


def test_json_of_another_build() -> None:
    values = {"copy": True, "teleport": True, "checksums": ["md5", "blake9"]}
    assert Capability.from_json(values) == Capability(copy=True, checksums=frozenset({ChecksumKind.MD5}))


@given(capabilities, capabilities)
def test_narrowing_never_widens(one: Capability, other: Capability) -> None:
    both = one.narrowed_by(other)
    assert both.copy == (one.copy and other.copy)
    assert both.checksums == one.checksums & other.checksums
    for limit in ("max_object_size", "max_name_bytes"):
        stated = [value for value in (getattr(one, limit), getattr(other, limit)) if value is not None]
        assert getattr(both, limit) == (min(stated) if stated else None)
    assert one.narrowed_by(one) == one


def test_a_bad_expression_is_refused() -> None:
    with pytest.raises(Exception, match="unterminated"):
        Capability(forbidden_names="[")
