"""The commands against a real daemon: output, exit codes, and what they leave behind."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cdir.cli.main import run
from servers.embedded import Embedded


class Ended(NamedTuple):
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Commands:
    """Runs commands, inside this process where that makes no difference: starting Python is most of their time."""

    def __init__(self, embedded: Embedded, capture: pytest.CaptureFixture[bytes]) -> None:
        self.environment = {**os.environ, "CDIR_HOME": str(embedded.home.path)}
        self._capture = capture

    def __call__(self, *arguments: object, code: int = 0) -> Ended:
        ended = run([str(argument) for argument in arguments])
        out, err = self._capture.readouterr()
        assert ended == code, f"{arguments} ended with {ended}: {err.decode()}"
        return Ended(ended, out, err.decode())

    def start(self, *arguments: object, **more: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "cdir.cli", *map(str, arguments)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **more,
        )


@pytest.fixture
def cdir(
    embedded: Embedded, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Commands]:
    monkeypatch.setenv("CDIR_HOME", str(embedded.home.path))
    monkeypatch.delenv("CDIR_ADDRESS", raising=False)
    yield Commands(embedded, capsysbinary)
    embedded.home.current.unlink(missing_ok=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "d").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"alpha\n")
    (root / "d" / "b.bin").write_bytes(bytes(range(256)))
    return root


def test_put_and_look_around(cdir: Commands, folder: str, tree: Path) -> None:
    assert "2 files, 262 B in" in cdir("put", "--recursive", tree, folder).text
    assert "nothing to do, 2 files there unchanged" in cdir("put", "-r", tree, folder).text
    assert cdir("ls", folder).text == "a.txt\nd/\n"
    assert cdir("ls", "--recursive", folder).text == f"{folder}/a.txt\n{folder}/d/\n{folder}/d/b.bin\n"
    assert "262" not in cdir("ls", "-l", folder).text
    entries = cdir("ls", folder, "--output", "json").json
    assert [entry["kind"] for entry in entries] == ["file", "directory"]
    assert list(entries[0]) == ["path", "name", "kind", "size", "modified", "generation", "owed"]
    assert cdir("tree", folder).text == f"{folder}/\n├── a.txt\n└── d/\n    └── b.bin\n"
    assert cdir("stat", f"{folder}/a.txt", "-o", "json").json["size"] == 6
    assert cdir("search", "B.BIN", folder).text == f"{folder}/d/b.bin\n"


def test_bytes_come_back_as_they_are(cdir: Commands, folder: str, tree: Path, tmp_path: Path) -> None:
    cdir("put", "-r", tree, folder)
    assert cdir("cat", f"{folder}/d/b.bin", f"{folder}/a.txt").out == bytes(range(256)) + b"alpha\n"
    assert cdir("get", f"{folder}/a.txt", "-").out == b"alpha\n"
    cdir("get", "-r", folder, tmp_path / "back")
    assert (tmp_path / "back" / "d" / "b.bin").read_bytes() == bytes(range(256))
    report = cdir("get", "-r", folder, tmp_path / "back", "-o", "json").json
    assert list(report) == ["files", "bytes", "skipped", "failed", "owed", "seconds"]
    assert (report["files"], report["skipped"]) == (0, 2)
    cdir("get", "--from", "two", f"{folder}/a.txt", tmp_path / "theirs")
    assert (tmp_path / "theirs").read_bytes() == b"alpha\n"


def test_standard_input(cdir: Commands, folder: str) -> None:
    process = cdir.start("put", "-", f"{folder}/in", stdin=subprocess.PIPE)
    out, err = process.communicate(b"from a pipe", timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert b"1 file, 11 B" in out
    assert cdir("cat", f"{folder}/in").out == b"from a pipe"
    cdir("put", "-", f"{folder}/", code=2)


def test_what_cannot_be_stored_is_listed(cdir: Commands, folder: str, tree: Path) -> None:
    (tree / "link").symlink_to("a.txt")
    ended = cdir("put", "-r", tree, folder, "-o", "json", code=1)
    assert ended.json["files"] == 2
    assert [item["path"] for item in ended.json["failed"]] == [str(tree / "link")]
    assert ended.err.count("\n") == 1
    assert "symbolic link" in ended.err


def test_trying_changes_nothing(cdir: Commands, folder: str, tree: Path) -> None:
    ended = cdir("put", "-r", "--dry-run", tree, folder)
    assert f"would put {tree}/a.txt → {folder}/a.txt" in ended.err
    cdir("ls", folder, code=4)
    cdir("mkdir", "--dry-run", folder)
    cdir("ls", folder, code=4)
    cdir("put", "-r", tree, folder)
    assert "1 file" in cdir("rm", "--dry-run", f"{folder}/a.txt").err
    cdir("mv", "--dry-run", f"{folder}/a.txt", f"{folder}/b.txt")
    cdir("stat", f"{folder}/a.txt")


def test_the_current_directory(cdir: Commands, folder: str, tree: Path) -> None:
    cdir("put", "-r", tree, folder)
    cdir("cd", folder)
    assert cdir("pwd").text == f"{folder}\n"
    assert cdir("ls", "d").text == "b.bin\n"
    cdir("cd", "d")
    cdir("cd", "..")
    assert cdir("pwd", "-o", "json").json == {"path": folder}
    assert cdir("cat", "a.txt").out == b"alpha\n"
    cdir("cd", "a.txt", code=1)
    cdir("cd", "nothing", code=4)
    cdir("cd")
    assert cdir("pwd").text == "/\n"


def test_copy_move_remove(cdir: Commands, folder: str, tree: Path) -> None:
    cdir("put", "-r", tree, folder)
    assert "2 files copied" in cdir("cp", "-r", f"{folder}/", f"{folder}-copy").text
    cdir("cp", f"{folder}/a.txt", f"{folder}-copy", code=6)
    cdir("cp", "--overwrite", f"{folder}/a.txt", f"{folder}-copy")
    cdir("cp", f"{folder}/d", f"{folder}/e", code=1)
    cdir("mv", f"{folder}/a.txt", f"{folder}/d")
    assert cdir("cat", f"{folder}/d/a.txt").out == b"alpha\n"
    cdir("mv", f"{folder}/nothing", f"{folder}/x", code=4)
    cdir("rm", f"{folder}/d", code=1)
    cdir("rm", "-r", folder, f"{folder}-copy")
    cdir("stat", folder, code=4)
    cdir("rm", "/", code=1)


def test_status(cdir: Commands, folder: str, tree: Path) -> None:
    cdir("put", "-r", tree, folder)
    assert cdir("status", folder).text.startswith("2 files, all on 2 providers, every copy proven within the last ")
    status = cdir("status", f"{folder}/a.txt", "-o", "json").json
    assert [(replica["provider"], replica["state"]) for replica in status["replicas"]] == [("one", "ok"), ("two", "ok")]
    assert status["owed"] == 0
    assert "2 good copies" in cdir("status", f"{folder}/a.txt").text
    assert "HOLDS IT" in cdir("explain", f"{folder}/a.txt").text
    assert cdir("versions", f"{folder}/a.txt", "-o", "json").json[0]["current"]
    assert cdir("repair", folder, "--wait").text == "nothing is owed\n"
    cdir("status", f"{folder}/nothing", code=4)


def test_policies(cdir: Commands, folder: str, tree: Path) -> None:
    cdir("mkdir", folder)
    cdir("policy", "set", folder, "--copies", "1", "--providers", "two", "--keep", "1d")
    effective = cdir("policy", "show", folder, "-o", "json").json["effective"]
    assert (effective["copies"], effective["providers"], effective["keep_seconds"]) == (1, ["two"], 86400)
    cdir("put", "-r", tree, folder)
    assert "each wherever its policy wants it" in cdir("status", folder).text
    cdir("policy", "unset", folder)
    cdir("policy", "unset", folder, code=4)


def test_owed_copies_are_told_and_end_in_code_3(cdir: Commands, folder: str, tree: Path) -> None:
    cdir("provider", "pause", "two")
    try:
        ended = cdir("put", "-r", tree, folder, code=3)
        assert "2 copies owed to two" in ended.text
        assert "2 copies owed to two" in cdir("put", "-r", tree, folder, code=3).text
        assert "stayed owed to two" in cdir("put", "-r", "--require", "all", tree, folder, code=1).err
        assert "2 files owe a copy to two, paused since" in cdir("status", folder).text
        assert cdir("put", "-r", tree, folder, "-o", "json", code=3).json["owed"] == 2
    finally:
        cdir("provider", "resume", "two")
    cdir("put", "-r", "--require", "all", tree, folder)


def test_providers(cdir: Commands, tmp_path: Path) -> None:
    assert "local" in cdir("provider", "kinds").text
    assert "--set root" in cdir("provider", "kinds", "local").text
    cdir("provider", "kinds", "nonsense", code=4)
    cdir("provider", "add", "extra", "--kind", "local", "--set", f"root={tmp_path / 'extra'}", "--location", "shelf")
    try:
        rows = {row["name"]: row for row in cdir("provider", "list", "-o", "json").json}
        assert list(rows["extra"]) == ["name", "kind", "state", "used", "free", "priority", "location", "exit"]
        assert rows["extra"]["location"] == "shelf"
        assert "extra: local" in cdir("provider", "show", "extra").text
        assert "passed   reachable" in cdir("provider", "check", "extra").text
        assert "extra" in cdir("provider", "usage").text
        cdir("provider", "set", "extra", "--bandwidth", "5MiB")
        assert cdir("provider", "show", "extra", "-o", "json").json["bandwidth"] == 5 * 1024**2
        cdir("provider", "add", "extra", "--kind", "local", "--set", f"root={tmp_path / 'other'}", code=6)
    finally:
        cdir("provider", "remove", "extra", "--force")
    cdir("provider", "show", "extra", code=4)


def test_watching_until_ctrl_c(cdir: Commands, folder: str) -> None:
    process = cdir.start("watch", folder, "--since", "0", "-o", "json")
    assert process.stdout is not None
    cdir("mkdir", f"{folder}/made")
    lines: list[dict[str, object]] = []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(json.loads(line))
            if lines[-1]["path"] == f"{folder}/made":
                return

    reading = threading.Thread(target=read)
    reading.start()
    reading.join(60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert lines[-1]["change"] == "directory_made"


def test_ctrl_c_in_a_put_stores_nothing_half(cdir: Commands, folder: str) -> None:
    process = cdir.start("put", "-", f"{folder}/in", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"x" * (3 << 20))  # far more than a pipe holds, so most of it has been read when this returns
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process.communicate()
    cdir("stat", f"{folder}/in", code=4)


def test_a_reader_that_has_enough_is_no_failure(cdir: Commands, folder: str, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(6 << 20))
    cdir("put", tmp_path / "big", f"{folder}/big")
    process = cdir.start("cat", f"{folder}/big")
    assert process.stdout is not None
    assert process.stdout.read(10) == bytes(10)
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(60) == 0


def test_starting_and_stopping(cdir: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("CDIR_HOME", str(home / "h"))
    ended = cdir("ls", "/")
    assert "starting the daemon in the background" in ended.err
    try:
        assert cdir("up", "--detach").text.startswith("cdir runs already")
        assert "provider add" in cdir("status").text
        (tmp_path / "a").write_bytes(b"a")
        assert "provider add" in cdir("put", tmp_path / "a", "/x", code=1).err
    finally:
        assert cdir("down").text == "cdir is stopped\n"
    assert cdir("down").text == "cdir was not running\n"


def test_a_daemon_in_the_foreground_ends_with_ctrl_c(cdir: Commands, home: Path) -> None:
    cdir.environment["CDIR_HOME"] = str(home / "h")
    process = cdir.start("up", "-o", "json")
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    assert ready["address"] == f"unix:{home / 'h' / 'daemon.sock'}"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(ready["pid"], 0)


def test_a_daemon_that_does_not_start_says_why(cdir: Commands, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "h").mkdir()
    (home / "h" / "catalog.sqlite3").write_bytes(b"this is no database" * 100)
    monkeypatch.setenv("CDIR_HOME", str(home / "h"))
    ended = cdir("status", code=1)
    last = ended.err.splitlines()[-1]
    assert last.startswith("cdir: the daemon did not start: ")
    assert "Traceback" not in ended.err
