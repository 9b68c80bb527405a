"""What commands print in each format."""

import csv
import io
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from cdir.cli.output import Output, count, human_size, human_time, rfc3339, table


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (10 * 1024, "10 KiB"),
        (12 * 1024**2, "12 MiB"),
        (3 * 1024**4, "3 TiB"),
        (5000 * 1024**5, "5000 PiB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert human_size(size) == text


def test_counts_for_people() -> None:
    assert count(0, "file") == "no files"
    assert count(1, "copy", "copies") == "1 copy"
    assert count(17, "copy", "copies") == "17 copies"
    assert count(12034, "file") == "12 034 files"


def test_times_for_programs() -> None:
    assert rfc3339(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2026-01-02T03:04:05Z"
    assert rfc3339(datetime(2026, 1, 2, 3, 4, 5, 6000, tzinfo=UTC)) == "2026-01-02T03:04:05.006000Z"
    assert rfc3339(None) is None


def test_times_for_people_leave_out_today() -> None:
    now = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
    assert len(human_time(now - timedelta(minutes=5), now)) == len("14:02")
    assert len(human_time(now - timedelta(days=40), now)) == len("2026-01-31 14:02")


def test_a_table_is_aligned() -> None:
    assert table([("a", "1"), ("bbb", "22")], ("NAME", "N"), right=(1,)) == ["NAME   N", "a      1", "bbb   22"]
    assert table([]) == []


_ROWS: list[Mapping[str, object]] = [
    {"path": "/a, b", "size": 1, "owed": None, "tags": ["x", "y"]},
    {"path": '/"é"', "size": 2, "owed": 0, "tags": []},
]


async def _streamed(form: str, rows: list[Mapping[str, object]], *, lines: bool = False) -> str:
    async def stream() -> AsyncIterator[Mapping[str, object]]:
        for row in rows:
            yield row

    text = io.StringIO()
    number = await Output(form, stdout=text).stream(stream(), lambda row: f"- {row['path']}", lines=lines)
    assert number == len(rows)
    return text.getvalue()


@pytest.mark.parametrize("rows", [_ROWS, _ROWS[:1], []])
async def test_streamed_and_whole_lists_mean_the_same(rows: list[Mapping[str, object]]) -> None:
    for form, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        whole = io.StringIO()
        Output(form, stdout=whole).rows(rows, [])
        assert read(whole.getvalue()) == read(await _streamed(form, rows)) == rows
    whole = io.StringIO()
    Output("csv", stdout=whole).rows(rows, [])
    assert whole.getvalue() == await _streamed("csv", rows)


async def test_endless_json_is_an_object_a_line() -> None:
    text = await _streamed("json", _ROWS, lines=True)
    assert [json.loads(line) for line in text.splitlines()] == _ROWS


async def test_csv_quotes_and_leaves_nothing_for_none() -> None:
    read = list(csv.DictReader(io.StringIO(await _streamed("csv", _ROWS))))
    assert read[0] == {"path": "/a, b", "size": "1", "owed": "", "tags": '["x","y"]'}
    assert read[1]["path"] == '/"é"'


def test_a_record() -> None:
    for form, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        text = io.StringIO()
        Output(form, stdout=text).record(_ROWS[0], ["for people"])
        assert read(text.getvalue()) == _ROWS[0]
    text = io.StringIO()
    Output("table", stdout=text).record(_ROWS[0], ["for people"])
    assert text.getvalue() == "for people\n"
    text = io.StringIO()
    Output("table", quiet=True, stdout=text).record(_ROWS[0], ["for people"])
    assert text.getvalue() == ""


def test_quiet_silences_remarks_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output("table", quiet=True)
    output.say("by the way")
    output.complain("it failed")
    output.line("the result")
    captured = capsys.readouterr()
    assert captured.err == "it failed\n"
    assert captured.out == "the result\n"


def test_names_that_the_terminal_cannot_show_are_escaped() -> None:
    raw = io.BytesIO()
    text = io.TextIOWrapper(raw, encoding="ascii")
    Output("table", stdout=text).line("caf\u00e9 \udcff")
    text.flush()
    assert raw.getvalue() == b"caf\\xe9 \\udcff\n"
