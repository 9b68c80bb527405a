"""What is filled into the options that say where a provider keeps everything."""

from __future__ import annotations

import socket

import pytest

from cdir.errors import InvalidArgument
from cdir.place_templates import filled_in


@pytest.fixture(autouse=True)
def _who(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "Ada.Lovelace@Example/Org")
    monkeypatch.setattr(socket, "gethostname", lambda: "engine.example.org")


@pytest.mark.parametrize(
    ("option", "given", "stored"),
    [
        ("bucket", "octopus-storage-at-{user}", "octopus-storage-at-ada-lovelace-at-example-org"),
        ("container", "octopus_storage-at-{user}", "octopus_storage-at-ada-lovelace-at-example-org"),
        ("root", "/srv/{user}/{host}/{name}", "/srv/Ada.Lovelace@Example-Org/engine/Work"),
        ("prefix", "{name}{{x}}", "Work{x}"),
        ("root", "as it is", "as it is"),
        ("root", "", ""),
        ("endpoint", "http://{host}", "http://{host}"),
    ],
)
def test_a_place_is_filled_in_as_its_kind_of_name_allows(option: str, given: str, stored: str) -> None:
    assert filled_in({option: given}, "Work") == {option: stored}


@pytest.mark.parametrize("wrong", ["{what}", "{}", "{user!r}", "{user:>9}", "{user", "user}", "{user.name}", "{0}"])
def test_what_stands_for_nothing_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidArgument, match="option root"):
        filled_in({"root": wrong}, "work")


@pytest.mark.parametrize("name", ["..", "/", ""])
def test_a_value_never_leads_elsewhere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    with pytest.raises(InvalidArgument):
        filled_in({"bucket": "{host}"}, "work")
    monkeypatch.setenv("LOGNAME", "..")
    with pytest.raises(InvalidArgument):
        filled_in({"root": "/srv/{user}"}, "work")
