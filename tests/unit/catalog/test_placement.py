"""Placement: who holds a file. Properties over any providers and policies."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from cdir.v1 import entry_pb2
from cdir_catalog.store.placement import Candidate, effective_policy, place

_candidates = st.lists(
    st.builds(
        Candidate,
        id=st.integers(1, 30),
        name=st.sampled_from("abcdefghij"),
        location=st.sampled_from(["", "here", "there", "afar"]),
        priority=st.sampled_from([1, 100, 200]),
    ),
    max_size=8,
    unique_by=(lambda one: one.id, lambda one: one.name),
)
_names = st.lists(st.sampled_from("abcdefghij"), max_size=4, unique=True)


@st.composite
def _policies(draw: st.DrawFn) -> entry_pb2.Policy:
    rule = entry_pb2.Policy(
        copies=draw(st.none() | st.integers(1, 9)),
        min_copies=draw(st.none() | st.integers(1, 9)),
        providers=draw(_names),
        prefer=draw(_names),
    )
    return effective_policy([rule])


@given(policy=_policies(), candidates=_candidates, seed=st.text())
def test_as_many_as_asked_for_and_allowed(policy: entry_pb2.Policy, candidates: list[Candidate], seed: str) -> None:
    placement = place(policy, candidates, seed)
    allowed = [one for one in candidates if not policy.providers or one.name in policy.providers]
    wanted = policy.copies if policy.HasField("copies") else len(allowed)
    assert len(placement.chosen) == len(set(placement.chosen)) == min(wanted, len(allowed))
    assert set(placement.chosen) <= set(allowed)
    assert 0 <= placement.min_copies <= len(placement.chosen)
    assert bool(placement.min_copies) == bool(placement.chosen)
    assert set(placement.reasons) == {one.id for one in candidates}


@given(policy=_policies(), candidates=_candidates, seed=st.text(), data=st.data())
def test_what_holds_a_good_copy_keeps_it(
    policy: entry_pb2.Policy, candidates: list[Candidate], seed: str, data: st.DataObject
) -> None:
    holders = data.draw(st.sets(st.sampled_from([one.id for one in candidates]))) if candidates else set()
    chosen = {one.id for one in place(policy, candidates, seed, holders).chosen}
    allowed = {one.id for one in candidates if not policy.providers or one.name in policy.providers}
    kept = chosen & holders
    assert len(kept) == min(len(chosen), len(holders & allowed))
    assert {one.id for one in place(policy, candidates, seed, chosen).chosen} == chosen


@given(candidates=_candidates, seed=st.text(), copies=st.integers(1, 4))
def test_only_what_a_lost_provider_held_moves(candidates: list[Candidate], seed: str, copies: int) -> None:
    """Where providers differ in nothing but their names."""
    alike = [Candidate(one.id, one.name) for one in candidates]
    policy = effective_policy([entry_pb2.Policy(copies=copies)])
    before = {one.id for one in place(policy, alike, seed).chosen}
    for lost in alike:
        after = {one.id for one in place(policy, [one for one in alike if one != lost], seed).chosen}
        assert before - {lost.id} <= after


@given(candidates=_candidates, seed=st.text())
def test_copies_are_in_distinct_places_when_they_can_be(candidates: list[Candidate], seed: str) -> None:
    placed = [Candidate(one.id, one.name, one.location or "home") for one in candidates]
    locations = {one.location for one in placed}
    assume(locations)
    policy = effective_policy([entry_pb2.Policy(copies=len(locations))])
    assert {one.location for one in place(policy, placed, seed).chosen} == locations


def test_files_are_spread_evenly() -> None:
    candidates = [Candidate(number, f"p{number}") for number in range(5)]
    policy = effective_policy([entry_pb2.Policy(copies=2)])
    held = Counter(one.id for file in range(2000) for one in place(policy, candidates, f"/f{file}").chosen)
    assert all(700 < held[one.id] < 900 for one in candidates)


def test_the_nearest_rule_wins_field_by_field() -> None:
    near = entry_pb2.Policy(copies=2, prefer=["b"])
    far = entry_pb2.Policy(copies=5, min_copies=1, providers=["a", "b", "c"], prefer=["c"], keep_seconds=0)
    policy = effective_policy([near, far])
    assert (policy.copies, policy.min_copies, policy.keep_seconds, policy.keep_versions) == (2, 1, 0, 10)
    assert (list(policy.providers), list(policy.prefer)) == (["a", "b", "c"], ["b"])


def test_the_order_is_the_policys_then_priority_then_name() -> None:
    candidates = [Candidate(1, "a", priority=5), Candidate(2, "b", priority=1), Candidate(3, "c", priority=1)]
    policy = effective_policy([entry_pb2.Policy(prefer=["c", "unknown"])])
    assert [one.name for one in place(policy, candidates, "/f").chosen] == ["c", "b", "a"]


@given(policy=_policies(), candidates=_candidates, seed=st.text(), data=st.data())
def test_what_is_evacuated_gets_nothing_and_counts_for_nothing(
    policy: entry_pb2.Policy, candidates: list[Candidate], seed: str, data: st.DataObject
) -> None:
    leaving = data.draw(st.sets(st.sampled_from(candidates))) if candidates else set()
    mixed = [replace(one, leaving=one in leaving) for one in candidates]
    without = [one for one in candidates if one not in leaving]
    holders = {one.id for one in leaving}
    placement = place(policy, mixed, seed, holders)
    assert [one.id for one in placement.chosen] == [one.id for one in place(policy, without, seed, holders).chosen]
    assert placement.reasons.keys() == {one.id for one in candidates}


@given(candidates=_candidates, seed=st.text(), copies=st.integers(1, 4), data=st.data())
def test_the_favoured_come_after_holders_and_before_others(
    candidates: list[Candidate], seed: str, copies: int, data: st.DataObject
) -> None:
    assume(len(candidates) > copies)
    ids = [one.id for one in candidates]
    holders = data.draw(st.sets(st.sampled_from(ids), max_size=copies - 1))
    favoured = data.draw(st.sets(st.sampled_from(ids), min_size=copies))
    chosen = {one.id for one in place(entry_pb2.Policy(copies=copies), candidates, seed, holders, favoured).chosen}
    assert holders <= chosen <= holders | favoured
