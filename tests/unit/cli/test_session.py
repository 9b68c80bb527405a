"""The current virtual directory, and paths as people type them."""

from pathlib import Path

import pytest

from cdir import errors
from cdir.cli.output import Output
from cdir.cli.session import Session


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Session:
    monkeypatch.setenv("CDIR_HOME", str(tmp_path / "home"))
    return Session(Output())


def test_it_begins_at_the_root_and_is_kept(session: Session) -> None:
    assert session.current() == "/"
    session.set_current("/photos/2024")
    assert Session(Output()).current() == "/photos/2024"


@pytest.mark.parametrize(
    ("current", "typed", "meant"),
    [
        ("/", "a", "/a"),
        ("/photos", "a/b", "/photos/a/b"),
        ("/photos", "/a", "/a"),
        ("/photos", ".", "/photos"),
        ("/photos", "new/", "/photos/new/"),
        ("/photos", "/", "/"),
        ("@team/reports", "q3", "@team/reports/q3"),
        ("@team/reports", "/q3", "/q3"),
        ("/photos", "@team/q3/", "@team/q3/"),
        ("/photos", "@team", "@team/"),
    ],
)
def test_paths(session: Session, current: str, typed: str, meant: str) -> None:
    session.set_current(current)
    assert session.path(typed) == meant


def test_parents_are_for_cd_alone(session: Session) -> None:
    with pytest.raises(errors.InvalidPath):
        session.path("../x")
