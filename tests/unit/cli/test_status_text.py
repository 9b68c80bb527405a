"""The lines of ``status`` and of a transfer that a newcomer reads first."""

from datetime import UTC, datetime

from cdir import errors
from cdir.cli.commands.copies import file_status_row, headline, tree_status_row
from cdir.cli.commands.transfer import summary
from cdir.model import (
    Entry,
    EntryKind,
    Failed,
    FileStatus,
    ProviderState,
    ProviderStatus,
    Replica,
    ReplicaState,
    TransferReport,
    TreeStatus,
)

_SINCE = datetime(2020, 5, 6, 7, 8, tzinfo=UTC)


def _provider(name: str, files: int, owed: int = 0, state: ProviderState = ProviderState.UP) -> ProviderStatus:
    down = state is not ProviderState.UP
    return ProviderStatus(name, "local", state, "connection refused" if down else "", _SINCE, files, files * 10, owed)


def _tree(files: int, *providers: ProviderStatus, quarantined: int = 0) -> TreeStatus:
    return TreeStatus(files, files * 10, sum(one.owed for one in providers), quarantined, False, 0, providers)


def test_all_is_well() -> None:
    tree = _tree(12034, *(_provider(name, 12034) for name in "abc"))
    assert headline(tree) == ["12 034 files, all on 3 providers"]
    assert headline(_tree(1, _provider("disk", 1))) == ["1 file, all on disk"]


def test_not_every_provider_is_meant_to_hold_all() -> None:
    assert headline(_tree(4, _provider("a", 4), _provider("b", 2))) == ["4 files, each wherever its policy wants it"]


def test_who_is_owed_and_why() -> None:
    lines = headline(_tree(5, _provider("a", 5), _provider("azure", 2, owed=3, state=ProviderState.DOWN)))
    assert lines[0] == "5 files, 3 copies owed"
    assert lines[1].startswith("3 files owe a copy to azure, down since 2020-05-06 ")
    assert lines[1].endswith(": connection refused")


def test_a_provider_that_is_down_is_named_even_if_nothing_is_owed() -> None:
    lines = headline(_tree(5, _provider("a", 5), _provider("b", 5, state=ProviderState.DOWN)))
    assert lines[0] == "5 files, all on 2 providers"
    assert lines[1].startswith("b is down since ")


def test_nothing_yet() -> None:
    assert "cdir provider add" in headline(_tree(0))[0]
    assert headline(_tree(0, _provider("a", 0))) == ["no files yet, 1 provider"]


def test_what_waits_for_a_person_is_said() -> None:
    lines = headline(_tree(5, _provider("a", 4, owed=1), quarantined=1))
    assert any("cdir repair" in line for line in lines)


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
    assert {"files", "bytes", "owed", "providers"} <= set(tree)
    providers = tree["providers"]
    assert isinstance(providers, list)
    assert {"name", "kind", "state", "files", "bytes", "owed"} <= set(providers[0])
