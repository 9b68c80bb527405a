"""The lines of ``status`` and of a transfer that a newcomer reads first."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cdir import errors
from cdir.cli.commands.copies import file_status_row, tree_status_row
from cdir.cli.commands.transfer import summary
from cdir.cli.headline import headline, status_line
from cdir.cli.output import human_time
from cdir.model import (
    Entry,
    EntryKind,
    ExitState,
    Failed,
    FileStatus,
    ProviderState,
    ProviderStatus,
    QuarantinedCopy,
    Replica,
    ReplicaState,
    TransferReport,
    TreeStatus,
)

_SINCE = datetime(2020, 5, 6, 7, 8, tzinfo=UTC)


def _provider(
    name: str,
    files: int,
    owed: int = 0,
    state: ProviderState = ProviderState.UP,
    proven: datetime | None = None,
    *,
    unproven: bool = False,
) -> ProviderStatus:
    reason = "" if state is ProviderState.UP else "connection refused"
    return ProviderStatus(name, "local", state, reason, _SINCE, files, files * 10, owed, proven, unproven)


def _tree(
    files: int, *providers: ProviderStatus, quarantined: int = 0, copies: tuple[QuarantinedCopy, ...] = ()
) -> TreeStatus:
    owed = sum(one.owed for one in providers)
    return TreeStatus(files, files * 10, owed, quarantined, False, 0, providers, quarantined_copies=copies)


def test_all_is_well() -> None:
    tree = _tree(12034, *(_provider(name, 12034) for name in "abc"))
    assert headline(tree) == ["12 034 files, all on 3 providers"]
    assert headline(_tree(1, _provider("disk", 1))) == ["1 file, all on disk"]


def test_not_every_provider_is_meant_to_hold_all() -> None:
    assert headline(_tree(4, _provider("a", 4), _provider("b", 2))) == ["4 files, each wherever its policy wants it"]


def test_who_is_owed_and_why() -> None:
    (line,) = headline(_tree(5, _provider("a", 5), _provider("azure", 2, owed=3, state=ProviderState.DOWN)))
    assert line.startswith("5 files, 3 copies owed; 3 files owe a copy to azure, down since 2020-05-06 ")
    assert line.endswith(": connection refused")


def test_a_provider_that_is_down_is_named_even_if_nothing_is_owed() -> None:
    (line,) = headline(_tree(5, _provider("a", 5), _provider("b", 5, state=ProviderState.DOWN)))
    assert line.startswith("5 files, all on 2 providers; b is down since ")


def test_a_provider_that_leaves_is_named_with_how_much_is_left() -> None:
    leaving = replace(_provider("b", 5), exit=ExitState.LEAVING, exit_since=_SINCE)
    tree = _tree(5, _provider("a", 5), leaving)
    (line,) = headline(tree)
    assert line == f"5 files, all on 2 providers; b is leaving since {human_time(_SINCE)}"
    row = tree_status_row(tree)["providers"][1]  # type: ignore[index] # rows are for JSON, so untyped
    assert (row["exit"], row["exit_since"], row["files_left"]) == ("leaving", "2020-05-06T07:08:00Z", None)
    counted = replace(leaving, files_left=1, exit_waits="waits for copies to a (1): it is paused")
    (line,) = headline(_tree(5, _provider("a", 5), counted))
    assert line.endswith(", 1 file still to go: waits for copies to a (1): it is paused")
    (line,) = headline(_tree(5, _provider("a", 5), replace(leaving, exit=ExitState.EVACUATED)))
    assert line == "5 files, all on 2 providers"


def test_the_line_stays_short_when_many_are_in_trouble() -> None:
    down = [_provider(f"p{number}", 5, state=ProviderState.DOWN) for number in range(6)]
    assert status_line(_tree(5, *down)).endswith("; and 3 providers more")


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (timedelta(seconds=5), "minute"),
        (timedelta(seconds=61), "2 min"),
        (timedelta(minutes=90), "90 min"),
        (timedelta(minutes=91), "2 h"),
        (timedelta(hours=2, seconds=1), "3 h"),
        (timedelta(hours=49), "3 days"),
    ],
)
def test_the_oldest_proof_of_all_is_told_and_never_made_younger(age: timedelta, text: str) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    young, old = (_provider(name, 5, proven=now - one) for name, one in (("a", timedelta()), ("b", age)))
    assert (
        status_line(_tree(5, young, old), now)
        == f"5 files, all on 2 providers, every copy proven within the last {text}"
    )


def test_what_is_owed_is_not_proven() -> None:
    owing = _tree(5, _provider("a", 5, proven=_SINCE), _provider("b", 4, owed=1, proven=_SINCE))
    line = status_line(owing, _SINCE + timedelta(hours=3))
    assert line == ("5 files, 1 copy owed, every other copy proven within the last 3 h; 1 file owes a copy to b")


def test_a_copy_that_was_never_proven_is_not_passed_over() -> None:
    tree = _tree(5, _provider("a", 5, proven=_SINCE), _provider("b", 5, unproven=True))
    assert status_line(tree) == "5 files, all on 2 providers, not every copy proven yet"
    assert tree_status_row(tree)["proven_at"] is None
    assert tree_status_row(_tree(5, _provider("a", 5, proven=_SINCE)))["proven_at"] == "2020-05-06T07:08:00Z"


def test_nothing_yet() -> None:
    assert "cdir provider add" in headline(_tree(0))[0]
    assert headline(_tree(0, _provider("a", 0))) == ["no files yet, 1 provider"]


def test_what_waits_for_a_person_is_said() -> None:
    broken = QuarantinedCopy("/x", "a", "no such bucket")
    _, advice, copy = headline(_tree(5, _provider("a", 4, owed=1), quarantined=1, copies=(broken,)))
    assert "cdir repair" in advice
    assert copy == "  /x at a: no such bucket"


def test_conflicting_copies_are_counted() -> None:
    tree = TreeStatus(5, 50, 0, 0, False, 0, (_provider("a", 5),), conflicts=2)
    assert any(line.startswith("2 conflicting copies: ") for line in headline(tree))
    assert tree_status_row(tree)["conflicts"] == 2


def test_a_transfer_in_one_line() -> None:
    report = TransferReport(2000, 12 * 1024**2, 0, (), 17, 4.12, ("backup",))
    assert summary(report) == "2 000 files, 12 MiB in 4.1 s; 17 copies owed to backup"
    assert summary(TransferReport(0, 0, 5, (), 0, 0.1)) == "nothing to do, 5 files there unchanged"
    failed = (Failed("x", errors.Unsupported("a socket is not stored")),)
    assert summary(TransferReport(1, 1, 1, failed, 0, 1)) == "1 file, 1 B in 1.0 s; 1 file there unchanged; 1 failed"


def test_the_fields_that_scripts_rely_on() -> None:
    entry = Entry("", "/a", EntryKind.FILE, 1, 1_700_000_000_000_000_000, "ab", 2, "v", 1, "me")
    replica = Replica("disk", ReplicaState.OWED, "a", "", None, "")
    row = file_status_row(FileStatus(entry, (replica,)))
    assert list(row) == ["path", "generation", "size", "sha256", "modified", "layout", "replicas", "owed"]
    assert row["replicas"] == [
        {"provider": "disk", "state": "owed", "key": "a", "etag": "", "proven_at": None, "error": ""}
    ]
    tree = tree_status_row(_tree(1, _provider("a", 1)))
    assert {"files", "bytes", "owed", "providers", "line", "proven_at"} <= set(tree)
    providers = tree["providers"]
    assert isinstance(providers, list)
    assert {"name", "kind", "state", "files", "bytes", "owed"} <= set(providers[0])
