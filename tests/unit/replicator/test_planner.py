"""The replicator's decisions, without anything around them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdir.errors import (
    CdirError,
    ConfigInvalid,
    Conflict,
    DeadlineExceeded,
    IntegrityError,
    InternalError,
    InvalidPath,
    NotFound,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    Unauthenticated,
)
from cdir_replicator.planner import (
    LARGE_BYTES,
    Admission,
    Health,
    HealthState,
    Job,
    Limits,
    back_off,
    crowded,
    judge,
    may_roll_forward,
    worth_recording,
)


def job(provider: str = "a", size: int = 0, *keys: str) -> Job:
    return Job(provider_id=provider, size=size, keys=frozenset(keys))


# --- back-off and verdicts --------------------------------------------------------------------------------------------


def test_the_back_off_doubles_from_one_second_to_ten_minutes() -> None:
    assert [back_off(attempts).high for attempts in range(12)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]
    assert back_off(10**9).high == 600
    assert all(back_off(attempts).low == 0 for attempts in range(12))


@pytest.mark.parametrize(
    "error", [ProviderUnavailable("x"), DeadlineExceeded("x"), Unauthenticated("x"), ConfigInvalid("x")]
)
@given(attempts=st.integers(0, 100))
def test_a_provider_that_fails_says_nothing_about_the_object(error: CdirError, attempts: int) -> None:
    verdict = judge(error, attempts)
    assert not verdict.counted
    assert (verdict.retry.low, verdict.retry.high) == (2, 5)


@pytest.mark.parametrize("error", [IntegrityError("x"), NotFound("x"), InvalidPath("x"), InternalError("x")])
@given(attempts=st.integers(0, 100))
def test_what_the_object_is_to_blame_for_counts_and_backs_off(error: CdirError, attempts: int) -> None:
    verdict = judge(error, attempts)
    assert verdict.counted
    assert verdict.retry == back_off(attempts)


def test_a_full_provider_is_tried_later_and_what_changed_meanwhile_soon() -> None:
    full = judge(QuotaExceeded("x"), 3)
    assert not full.counted
    assert full.retry.low >= 30
    changed = judge(Conflict("x"), 3)
    assert not changed.counted
    assert changed.retry.high < 1


@given(retry_after=st.floats(0, 3600) | st.none())
def test_a_provider_that_asks_to_wait_is_given_that_time(retry_after: float | None) -> None:
    verdict = judge(RateLimited("x", retry_after=retry_after), 0)
    assert not verdict.counted
    assert verdict.retry.low >= (retry_after or 0)
    assert verdict.retry.high > verdict.retry.low


# --- admission --------------------------------------------------------------------------------------------------------

jobs = st.builds(
    job,
    st.sampled_from("abc"),
    st.sampled_from([0, 10, 4 << 20, LARGE_BYTES - 1, LARGE_BYTES, 10 * LARGE_BYTES]),
    st.sampled_from("uvwxyz"),
    st.sampled_from("uvwxyz"),
)
limits = st.builds(
    Limits,
    total=st.integers(1, 6),
    small_per_provider=st.integers(1, 3),
    large_per_provider=st.integers(1, 2),
    bytes_in_flight=st.integers(32 << 20, 100 << 20),
)


@given(limits=limits, offered=st.lists(jobs, max_size=30), ends=st.lists(st.integers(0, 9), max_size=30))
def test_the_limits_hold_and_no_two_jobs_share_a_key(limits: Limits, offered: list[Job], ends: list[int]) -> None:
    admission = Admission(limits)
    waiting: list[Job] = []
    running: list[Job] = []
    for step, one in enumerate(offered):
        taken = {(other.provider_id, key) for other in waiting + running for key in other.keys}
        reserved = admission.reserve(one)
        assert reserved == taken.isdisjoint((one.provider_id, key) for key in one.keys)
        if reserved:
            waiting.append(one)
        for other in list(waiting):
            if admission.start(other):
                waiting.remove(other)
                running.append(other)
        assert len(running) == admission.running <= limits.total
        assert sum(other.weight for other in running) <= limits.bytes_in_flight
        for provider in "abc":
            here = [other for other in running if other.provider_id == provider]
            assert sum(not other.large for other in here) <= limits.small_per_provider
            assert sum(other.large for other in here) <= limits.large_per_provider
        if running and step < len(ends):
            admission.end(running.pop(ends[step] % len(running)))
    # nothing waits for ever: with everything else done, each one that waits can run
    for other in running:
        admission.end(other)
    for other in waiting:
        assert admission.start(other)
        admission.end(other)
    assert admission.running == 0


def test_a_large_copy_does_not_hold_up_small_ones_and_the_other_way_round() -> None:
    admission = Admission(Limits(total=10, small_per_provider=2, large_per_provider=1, bytes_in_flight=256 << 20))
    assert admission.start(job("a", 100 << 30))
    assert not admission.start(job("a", LARGE_BYTES))
    assert admission.start(job("a", 10))
    assert admission.start(job("a", 10))
    assert not admission.start(job("a", 10))
    assert admission.start(job("b", 100 << 30))


def test_the_same_key_at_two_providers_is_no_conflict() -> None:
    admission = Admission(Limits())
    assert admission.reserve(job("a", 0, "key"))
    assert admission.reserve(job("b", 0, "key"))
    assert not admission.reserve(job("a", 0, "other", "key"))
    admission.release(job("a", 0, "key"))
    assert admission.reserve(job("a", 0, "other", "key"))


def test_no_more_is_claimed_for_a_provider_with_a_long_queue() -> None:
    waiting = [job("a")] * 33 + [job("b")] * 32
    assert crowded(waiting, Limits(small_per_provider=8)) == ["a"]
    assert crowded([], Limits()) == []


# --- lapsed writes ----------------------------------------------------------------------------------------------------


@given(
    sha256=st.sampled_from([b"", b"d" * 32]),
    verified=st.sets(st.sampled_from("abc")),
    min_copies=st.integers(0, 3),
)
def test_only_what_is_proven_is_completed(sha256: bytes, verified: set[str], min_copies: int) -> None:
    forward = may_roll_forward(sha256=sha256, verified=verified, min_copies=min_copies)
    assert forward == (sha256 != b"" and len(verified) >= min_copies and len(verified) > 0)


# --- health -----------------------------------------------------------------------------------------------------------


def test_a_provider_is_up_after_one_answer_and_down_after_one_refusal() -> None:
    health = Health()
    assert health.state is HealthState.UNKNOWN
    assert health.next_check() == 2
    health.answered(0.1)
    assert (health.state, health.reason) == (HealthState.UP, "")
    assert health.next_check() == 15
    health.failed("the disk is gone")
    assert (health.state, health.reason) == (HealthState.DOWN, "the disk is gone")
    assert health.next_check() == 2
    health.answered(0.1)
    assert (health.state, health.reason) == (HealthState.UP, "")


def test_one_late_answer_is_slow_and_two_are_down() -> None:
    health = Health()
    health.answered(0.1)
    states = []
    for _ in range(2):
        health.failed("no answer in 10 seconds", timed_out=True)
        states.append(health.state)
    assert states == [HealthState.SLOW, HealthState.DOWN]


def test_a_late_answer_of_a_provider_that_never_answered_is_down() -> None:
    health = Health()
    health.failed("no answer in 10 seconds", timed_out=True)
    assert health.state is HealthState.DOWN


def test_a_missing_mark_is_unknown_and_looked_at_again_soon() -> None:
    health = Health()
    health.answered(0.1)
    health.foreign("the mark is missing")
    assert (health.state, health.reason) == (HealthState.UNKNOWN, "the mark is missing")
    assert health.next_check() == 2


def test_slow_and_up_do_not_flap() -> None:
    health = Health()
    for _ in range(50):
        health.answered(0.2)
    states = []
    for seconds in [3.0] * 10 + [0.6, 0.9] * 2 + [0.2] * 20:
        health.answered(seconds)
        states.append(health.state)
    changes = [states[0], *(after for before, after in itertools.pairwise(states) if before != after)]
    assert changes == [HealthState.UP, HealthState.SLOW, HealthState.UP] or changes == [
        HealthState.SLOW,
        HealthState.UP,
    ]
    assert health.state is HealthState.UP


def test_a_slow_provider_does_not_become_the_new_normal() -> None:
    health = Health()
    for _ in range(20):
        health.answered(0.2)
    for _ in range(500):
        health.answered(4.0)
    assert health.state is HealthState.SLOW
    assert "4.0 s" in health.reason
    assert "0.2 s" in health.reason or "0.3 s" in health.reason


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_averages_stay_among_what_was_measured(samples: list[float]) -> None:
    health = Health()
    for seconds in samples:
        health.answered(seconds)
    assert health.recent is not None
    assert min(samples) - 1e-9 <= health.recent <= max(samples) + 1e-9


def test_only_news_is_recorded_and_old_news_once_in_a_while() -> None:
    health = Health()
    health.answered(0.1)
    assert worth_recording(None, health, 0, 60)
    assert worth_recording((HealthState.DOWN, "gone"), health, 0, 60)
    assert not worth_recording((HealthState.UP, ""), health, 59, 60)
    assert worth_recording((HealthState.UP, ""), health, 60, 60)
