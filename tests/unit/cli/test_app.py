"""The commands as a whole: all there, all explained, all ending in their exit code."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cdir.cli import app as app_module
from cdir.cli.app import LazyGroup, app
from cdir.cli.main import run


@pytest.fixture(autouse=True)
def _no_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CDIR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CDIR_ADDRESS", raising=False)


def _commands(group: LazyGroup, *above: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, LazyGroup):
            yield from _commands(found, *above, name)
        else:
            yield (*above, name), found


_ALL = list(_commands(app))


@pytest.mark.parametrize(("name", "found"), _ALL, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_every_command_explains_itself(
    name: tuple[str, ...], found: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: cdir {' '.join(name)}" in text
    assert "Examples:" in text
    for option in ("--output", "--quiet", "--help"):
        assert option in text


_CHANGING = {
    ("put",), ("get",), ("mkdir",), ("cp",), ("mv",), ("rm",), ("repair",), ("policy", "set"), ("policy", "unset"),
    ("acl", "set"), ("acl", "unset"),
    ("provider", "add"), ("provider", "set"), ("provider", "pause"), ("provider", "resume"), ("provider", "remove"),
    ("provider", "evacuate"), ("provider", "replace"), ("restore",), ("trash",),
    ("scan",), ("add",), ("rebuild",), ("snapshot", "restore"), ("vault", "rotate"), ("vault", "protect"),
    ("vault", "forget"),
    ("sync",), ("storage", "create", "dir"), *(("storage", name) for name in ("copy", "delete", "get", "put", "sync")),
}  # fmt: skip


def test_every_command_that_changes_something_can_be_tried_first() -> None:
    assert {
        name for name, found in _ALL if any("--dry-run" in parameter.opts for parameter in found.params)
    } == _CHANGING


@pytest.mark.parametrize(("alias", "name"), app_module._ALIASES.items())
def test_aliases_lead_to_commands(alias: str, name: str) -> None:
    context = click.Context(app)
    assert app.get_command(context, alias) is app.get_command(context, name)


@pytest.mark.parametrize(
    "arguments",
    [
        ["lss"],
        ["ls", "--nonsense"],
        ["put", "only-one"],
        ["put", "--parallel", "0", "a", "/b"],
        ["ls", "--output", "xml"],
        ["stat", "../up"],
        ["policy", "set", "/x"],
        ["provider", "add", "disk"],
        ["provider", "add", "disk", "--kind", "s3", "--secret", "secret_key=hunter2"],
    ],
)
def test_wrong_usage_is_one_line_and_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("cdir: ")
    assert said.count("\n") == 1
    assert "hunter2" not in said


def test_a_misspelled_command_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["statsu"]) == 2
    assert "did you mean 'status'?" in capsys.readouterr().err


def test_without_arguments_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Exit codes" in capsys.readouterr().err


def test_without_a_daemon_and_without_leave_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", "--no-start"]) == 1
    assert "cdir up" in capsys.readouterr().err


def test_nobody_at_the_address(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CDIR_ADDRESS", "unix:/nowhere/at/all.sock")
    assert run(["ls"]) == 1
    said = capsys.readouterr().err
    assert "no cdir answers at unix:/nowhere/at/all.sock" in said
    assert said.count("\n") == 1


def test_down_without_a_daemon_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["down"]) == 0
    assert "was not running" in capsys.readouterr().out


def test_up_and_down_leave_a_gateway_elsewhere_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDIR_ADDRESS", "gateway:7420")
    assert run(["down"]) == 1
    assert run(["up", "--detach"]) == 1


def test_a_defect_is_one_line_and_a_traceback_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(*arguments: object, **named: object) -> None:
        raise ZeroDivisionError("a defect\nof two lines")

    monkeypatch.setattr(app, "main", broken)
    assert run(["ls"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "internal error: ZeroDivisionError" in said
    assert "Traceback" in (tmp_path / "home" / "cli.log").read_text()


def test_completion_knows_the_commands() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "cdir.cli"],
        env={"PATH": "/usr/bin", "_CDIR_COMPLETE": "bash_complete", "COMP_WORDS": "cdir pro", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "provider" in answer.stdout


def test_looking_around_imports_nothing_it_does_not_need() -> None:
    script = (
        "import sys; from cdir.cli.main import run; run(['ls', '--help']);"
        "heavy = ('grpc', 'rich', 'yaml', 'platformdirs', 'cdir.trees');"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stderr.strip() == "[]"
