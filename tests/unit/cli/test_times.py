"""Times as a person gives them to ``restore --at``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from cdir.cli.commands.history import time_given

NOW = datetime(2026, 11, 21, 14, 3, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("0s", timedelta(0)),
        ("90m", timedelta(minutes=90)),
        ("2h", timedelta(hours=2)),
        ("3d ago", timedelta(days=3)),
        (" 1 w ", timedelta(weeks=1)),
    ],
)
def test_how_long_ago(text: str, ago: timedelta) -> None:
    assert time_given(text, NOW) == NOW - ago


def test_points_in_time() -> None:
    assert time_given("2026-11-21T14:03:07Z") == NOW
    assert time_given("2026-11-21T15:03:07+01:00") == NOW
    assert time_given("2026-11-21 14:03") == datetime(2026, 11, 21, 14, 3).astimezone()
    assert time_given("2026-11-21") == datetime(2026, 11, 21).astimezone()


@pytest.mark.parametrize("text", ["", "yesterday", "2h30", "-1h", "2026-13-01", f"{10**12}w"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time"):
        time_given(text)
