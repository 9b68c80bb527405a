"""Settings and logs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdir.errors import ConfigInvalid
from cdir_runtime.settings import Settings
from cdir_runtime.telemetry import configure_logging, redact


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_defaults() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings()
    assert settings.catalog_address == "127.0.0.1:7071"
    assert settings.token() is None


def test_from_the_environment() -> None:
    settings = Settings.from_environment(
        {"CDIR_LISTEN": "0.0.0.0:1", "CDIR_LOG_FORMAT": "json", "CDIR_CATALOG_ADDRESS": "", "CDIR_UNKNOWN": "x"}
    )
    assert settings == Settings(listen="0.0.0.0:1", log_format="json")


def test_a_setting_without_a_default() -> None:
    assert Settings(key_file="/k").require("key_file") == "/k"
    with pytest.raises(ConfigInvalid, match="CDIR_KEY_FILE is not set"):
        Settings().require("key_file")


def test_the_password_of_the_database_is_not_shown() -> None:
    assert "hunter2" not in repr(Settings(database_url="postgresql://u:hunter2@db/cdir"))


def test_the_token_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(ConfigInvalid, match="cannot read the token file"):
        Settings(token_file=str(path)).token()
    path.write_text(" \n")
    with pytest.raises(ConfigInvalid, match="is empty"):
        Settings(token_file=str(path)).token()
    path.write_text("abc\n")
    assert Settings(token_file=str(path)).token() == "abc"


@pytest.mark.parametrize(
    "text",
    [
        "password=hunter2",
        "password: hunter2",
        '{"secret_key": "hunter2"}',
        "Authorization: Bearer hunter2",
        "token='hunter2'",
        "aws_secret_access_key=hunter2&x=1",
    ],
)
def test_values_with_secret_names_are_blanked(text: str) -> None:
    assert "hunter2" not in redact(text)
    assert "[redacted]" in redact(text)


def test_other_values_are_kept() -> None:
    text = "wrote /a/b (size=5, provider=box): 2 of 3 copies"
    assert redact(text) == text


def test_json_lines() -> None:
    stream = io.StringIO()
    configure_logging("gateway", level="info", style="json", stream=stream)
    logger = logging.getLogger("cdir_test")
    logger.debug("not shown")
    logger.info("wrote %s with password=%s", "/é", "hunter2")
    logger.error("failed", exc_info=ValueError("boom"))
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["service"], first["level"], first["logger"]) == ("gateway", "info", "cdir_test")
    assert first["message"] == "wrote /é with password=[redacted]"
    assert "ValueError: boom" in second["exception"]


def test_text_lines() -> None:
    stream = io.StringIO()
    configure_logging("gateway", level="warning", style="text", stream=stream)
    logging.getLogger("cdir_test").info("not shown")
    logging.getLogger("cdir_test").warning("shown, token=%s", "hunter2")
    assert stream.getvalue().endswith("WARNING cdir_test: shown, token=[redacted]\n")


@pytest.mark.parametrize(("level", "style"), [("loud", "text"), ("info", "xml")])
def test_settings_of_logs_that_do_not_exist(level: str, style: str) -> None:
    with pytest.raises(ConfigInvalid):
        configure_logging("gateway", level=level, style=style)


def test_the_budget_of_scans_is_a_number_of_calls() -> None:
    assert Settings().scan_calls_per_minute() == 600
    assert Settings.from_environment({"CDIR_SCAN_CALLS": "60"}).scan_calls_per_minute() == 60
    for wrong in ("0", "-1", "many", "1.5"):
        with pytest.raises(ConfigInvalid, match="CDIR_SCAN_CALLS"):
            Settings(scan_calls=wrong).scan_calls_per_minute()
