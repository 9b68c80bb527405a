"""Options, sizes and secrets as given on the command line."""

import io
from pathlib import Path

import click
import pytest

from cdir.cli.commands.policy import parse_duration
from cdir.cli.provider_options import parse_options, parse_size, read_secrets


def test_options() -> None:
    assert parse_options(["root=/a=b", "prefix=", "root=/c"]) == {"root": "/c", "prefix": ""}


@pytest.mark.parametrize("text", ["root", "=value", ""])
def test_options_without_name_or_value_are_wrong_usage(text: str) -> None:
    with pytest.raises(click.UsageError):
        parse_options([text])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("500000", 500_000),
        ("5MB", 5_000_000),
        ("5MiB", 5 * 1024**2),
        ("1.5 GiB/s", 3 * 1024**3 // 2),
        ("2k", 2000),
        ("7b", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size("--bandwidth", text) == size


@pytest.mark.parametrize("text", ["", "fast", "-1", "5 parsecs"])
def test_what_is_no_size_is_wrong_usage(text: str) -> None:
    with pytest.raises(click.UsageError):
        parse_size("--bandwidth", text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1m", 60), ("12h", 43200), ("30d", 2_592_000), ("2w", 1_209_600), ("0", 0)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


def test_secrets_come_from_variables_files_and_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEY", "from the variable")
    (tmp_path / "key").write_text("from the file\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("from standard input\nand more\n"))
    assert read_secrets(["a=env:KEY", f"b=@{tmp_path / 'key'}", "c=-"]) == {
        "a": "from the variable",
        "b": "from the file",
        "c": "from standard input",
    }


def test_of_a_secret_only_the_line_end_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" two\nlines =\t\r\n")
    monkeypatch.setenv("KEY", " kept ")
    assert read_secrets([f"a=@{tmp_path / 'key'}", "b=env:KEY"]) == {"a": " two\nlines =\t", "b": " kept "}


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\x00", b"x" * 70_000])
def test_a_file_that_holds_no_secret_is_wrong_usage(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(click.UsageError, match=r"--secret a: .*key (is|holds)"):
        read_secrets([f"a=@{tmp_path / 'key'}"])
    with pytest.raises(click.UsageError, match="cannot be read: Is a directory"):
        read_secrets([f"a=@{tmp_path}"])


def test_an_empty_variable_or_standard_input_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    for source, where in (("env:KEY", "variable KEY"), ("-", "standard input")):
        with pytest.raises(click.UsageError, match=f"{where} is empty"):
            read_secrets([f"a={source}"])
    with pytest.raises(click.UsageError, match="twice"):
        read_secrets(["a=env:PATH", "a=env:PATH"])


@pytest.mark.parametrize("source", ["hunter2", "", "env:NO_SUCH_VARIABLE", "@/no/such/file"])
def test_what_cannot_be_read_is_wrong_usage_and_never_repeated(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    with pytest.raises(click.UsageError) as caught:
        read_secrets([f"key={source}"])
    assert "hunter2" not in caught.value.message


def test_a_secret_is_asked_for_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("typed"))
    with pytest.raises(click.UsageError, match="terminal"):
        read_secrets(["key"])
