"""Scenarios that every change has to pass; ``make sim`` runs more. Each run is a process with clocks of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.oracle import Operation, Oracle, Outcome
from simulation.scenario import make_scenario

SCENARIOS = int(os.environ.get("CDIR_TEST_SCENARIOS", "20"))
"""How many large scenarios run where what takes minutes runs too."""

_EVERY_TIME = 500
"""How many scenarios every change has to pass. Two processes run them: each needs some seconds to begin."""

_HANGS_SECONDS = 900

_TESTS = Path(__file__).parent.parent


def simulate(*arguments: str, timeout: float = 170) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulation", *arguments]
    return subprocess.run(command, cwd=_TESTS, capture_output=True, text=True, timeout=timeout, check=False)


def assert_all_kept(*arguments: str, count: int, timeout: float = 170) -> None:
    done = simulate("--count", str(count), *arguments, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"(\d+) scenarios .*; (\d+) met a fault", done.stdout)
    assert counts is not None
    assert int(counts[1]) == count
    assert int(counts[2]) >= count * 0.6


@pytest.mark.timeout(_HANGS_SECONDS + 20)
def test_every_promise_is_kept() -> None:
    assert_all_kept("--jobs", "2", count=_EVERY_TIME, timeout=_HANGS_SECONDS)


@pytest.mark.parametrize(
    "arguments",
    [
        # a content that only the provider that loses data ever showed, spoilt there before it was read
        "--swaps --steps 25 --seed 54 --only 3,7,8,14,18,25",
        # a write that died, at a provider that dates what it is given by its own clock
        "--seed 203 --only 2,4",
        # another program's object in the place of a copy that a read has found bad, and which is to be removed
        "--rivals --seed 31 --only 8,11,12",
        # one that was renamed for the copy that it had replaced
        "--rivals --seed 44 --only 1,9,10",
        # one in the place of a copy that was to make room, and that a read had found bad
        "--rivals --seed 35 --only 4,6,7",
        # one that was put back after a rename, where neither ETag nor time told it from the copy
        "--rivals --seed 29 --only 1,2,3,4,5,6,7",
        # a difference of three seconds, seen through a provider that keeps every second one
        "--rivals --seed 94 --only 1,2,3,4,5,6,7,8",
        # a write that was given up while a provider did not answer
        "--seed 3606 --only 1,2,5",
        # one at a provider that dates what it is given by its own clock
        "--seed 4021 --only 1,2",
        # copies that landed, long after their commit, under the name that the file no longer had
        "--seed 6334 --only 1,2,3,5",
        "--seed 9349 --only 1,2,4,5,6",
        # one whose answer was lost, and which was read back wrongly
        "--seed 7282 --only 2,3,4,5",
    ],
)
def test_what_has_failed_once_is_kept(arguments: str) -> None:
    assert_all_kept(*arguments.split(), count=1)


@pytest.mark.slow
def test_every_promise_is_kept_in_large_scenarios() -> None:
    assert_all_kept("--steps", "25", "--jobs", "2", count=SCENARIOS)


def test_a_seed_gives_the_same_trace_in_every_process() -> None:
    runs = [simulate("--seed", "3", "--count", "2", "--hashes").stdout for _ in range(2)]
    # the same seed after another one, and alone
    runs.append(simulate("--seed", "4", "--hashes").stdout)
    first, second, alone = (re.findall(r"seed (\d+): trace ([0-9a-f]{32})", run) for run in runs)
    assert [seed for seed, _ in first] == ["3", "4"]
    assert first == second
    assert alone == first[1:]
    assert first[0][1] != first[1][1]


def test_a_seed_gives_the_same_trace_in_every_order() -> None:
    # in 1022, a name is made of the time of day
    runs = [simulate("--seed", "1021", "--count", "3", "--hashes", *order).stdout for order in ((), ("--backwards",))]
    forth, back = (re.findall(r"seed (\d+): trace ([0-9a-f]{32})", run) for run in runs)
    assert [seed for seed, _ in forth] == ["1021", "1022", "1023"]
    assert forth == back[::-1]


def test_a_seed_gives_the_same_steps_and_dropping_one_leaves_the_others() -> None:
    scenario = make_scenario(7, 30)
    assert scenario == make_scenario(7, 30)
    shorter = scenario.without(frozenset({2}))
    assert [step.number for step in shorter.steps] == [1, *range(3, 31)]
    assert {step.number: step for step in shorter.steps}[9] == scenario.steps[8]


def put(oracle: Oracle, number: int, path: str, content: bytes, outcome: str = Outcome.DONE) -> None:
    change = Operation(number, "put", path, content=content)
    oracle.begin(change)
    oracle.end(change, outcome)


def read(oracle: Oracle, path: str, seen: bytes | None) -> list[str]:
    reading = Operation(99, "read", path)
    oracle.begin_read(reading)
    oracle.end_read(reading, seen, describe=str)
    return oracle.violations


def test_the_oracle_notices_a_lost_a_stale_and_a_foreign_content() -> None:
    for seen in (None, b"old", b"foreign"):
        oracle = Oracle(["/a"])
        put(oracle, 1, "/a", b"old")
        put(oracle, 2, "/a", b"new")
        assert read(oracle, "/a", b"new") == []
        assert len(read(oracle, "/a", seen)) == 1


def test_the_oracle_allows_both_outcomes_of_a_write_whose_answer_was_lost() -> None:
    oracle = Oracle(["/a"])
    put(oracle, 1, "/a", b"old")
    put(oracle, 2, "/a", b"new", Outcome.UNKNOWN)
    assert oracle.possible("/a") == {b"old", b"new"}
    put(oracle, 3, "/a", b"last")
    assert oracle.possible("/a") == {b"last"}


def test_the_oracle_notices_that_a_removed_file_came_back() -> None:
    oracle = Oracle(["/a", "/b"])
    put(oracle, 1, "/a", b"one")
    removal = Operation(2, "remove", "/a")
    oracle.begin(removal)
    oracle.end(removal, Outcome.DONE)
    assert len(read(oracle, "/a", b"one")) == 1


def test_the_oracle_follows_a_content_that_moves() -> None:
    oracle = Oracle(["/a", "/b"])
    put(oracle, 1, "/a", b"one")
    move = Operation(2, "move", "/a", "/b")
    oracle.begin(move)
    oracle.end(move, Outcome.DONE)
    assert oracle.possible("/a") == frozenset({None})
    assert oracle.possible("/b") == frozenset({b"one"})


def test_the_oracle_allows_what_a_meddler_put_there_and_nothing_lost() -> None:
    oracle = Oracle(["/a", "/b"])
    put(oracle, 1, "/a", b"one")
    oracle.meddle("/a", b"foreign")
    assert oracle.possible("/a") == {b"one", b"foreign"}
    put(oracle, 2, "/a", b"two")
    assert oracle.possible("/a") == {b"two", b"foreign"}
    move = Operation(3, "move", "/a", "/b")
    oracle.begin(move)
    oracle.end(move, Outcome.DONE)
    # what was renamed at the provider may be found at either name
    assert oracle.possible("/a") == {None, b"foreign"}
    assert oracle.possible("/b") == {b"two", b"foreign"}
    assert read(oracle, "/b", b"foreign") == []
    assert len(read(oracle, "/b", b"one")) == 1
    assert b"one" in oracle.acknowledged
    assert b"foreign" not in oracle.acknowledged
