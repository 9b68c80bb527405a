"""Logs: one line a record, as text for people or as JSON for machines.

Metrics and traces will join here: a service calls :func:`configure_logging` once, at its start, before anything else.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

from cdir.errors import ConfigInvalid

__all__ = ["LogFormat", "configure_logging", "redact"]

LogFormat = Literal["text", "json"]

_LEVELS: Final = ("debug", "info", "warning", "error")
_SECRET: Final = re.compile(
    r"(?i)((?:secret|password|passphrase|token|credential|authorization|access_key|sas)[\w-]*[\"']?\s*[:=]\s*)"
    r"(\"[^\"]*\"|'[^']*'|[^\s,;)}&]+(?:\s(?<=[Bb]earer\s)\S+)?)"
)


def redact(text: str) -> str:
    """Blank values that follow a name that says they are secret. A last line of defence: nothing should log them."""
    return _SECRET.sub(r"\1[redacted]", text)


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z")

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            fields["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(fields, ensure_ascii=False)


def configure_logging(service: str, *, level: str = "info", style: str = "text", stream: TextIO | None = None) -> None:
    """Send the logs of this process to ``stream`` (default: standard error).

    ``level`` is debug, info, warning or error; ``style`` is text or json. Raises :class:`ConfigInvalid` for others.
    """
    if level not in _LEVELS:
        raise ConfigInvalid(f"log level {level!r}: use one of {', '.join(_LEVELS)}", option="CDIR_LOG_LEVEL")
    if style not in ("text", "json"):
        raise ConfigInvalid(f"log format {style!r}: use text or json", option="CDIR_LOG_FORMAT")
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(_JsonFormatter(service) if style == "json" else _TextFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for chatty in ("asyncssh", "botocore", "aiobotocore", "alembic", "asyncio", "grpc"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
