"""Options and secrets of providers as given on the command line. A secret itself never stands there: others can read
the arguments of a running process, and shells keep them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

__all__ = ["parse_options", "parse_size", "read_secrets"]

_SIZE: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kmgt]?)(?P<binary>i?)b?(?:/s)?", re.IGNORECASE)
_POWER: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_options(given: Sequence[str]) -> dict[str, str]:
    """Read ``OPTION=VALUE`` arguments; the last of one name wins."""
    options = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r}: write OPTION=VALUE", param_hint="--set")
        options[name.strip()] = value
    return options


def parse_size(text: str) -> int:
    """Read a size such as ``500000``, ``5MB`` (decimal) or ``5MiB`` (binary); returns bytes."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r}: write a size such as 500000, 5MB or 5MiB")
    base = 1024.0 if match["binary"] else 1000.0
    factor: float = base ** _POWER[match["unit"].lower()]
    return round(float(match["number"]) * factor)


def read_secrets(given: Sequence[str]) -> dict[str, str]:
    """Read each secret from where its argument says: ``OPTION`` asks, ``=env:VAR``, ``=@FILE`` and ``=-`` read.

    The line end of a file or of standard input is not part of the secret. A value written out is refused.
    """
    secrets: dict[str, str] = {}
    for text in given:
        name, equals, source = text.partition("=")
        if not name:
            raise click.BadParameter("name the secret option", param_hint="--secret")
        secrets[name] = _read(name, source) if equals else _ask(name)
    return secrets


def _ask(name: str) -> str:
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"--secret {name} asks on a terminal, and there is none; use {name}=env:VAR, {name}=@FILE or {name}=-"
        )
    value: str = click.prompt(name, hide_input=True, err=True)
    return value


def _read(name: str, source: str) -> str:
    if source.startswith("env:"):
        variable = source.removeprefix("env:")
        try:
            return os.environ[variable]
        except KeyError:
            raise click.UsageError(f"--secret {name}: the variable {variable} is not set") from None
    if source.startswith("@"):
        file = Path(source[1:]).expanduser()
        try:
            return file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--secret {name}: {file} cannot be read: {error}") from None
    if source == "-":
        return sys.stdin.readline().rstrip("\r\n")
    raise click.UsageError(
        f"--secret {name}: a secret does not belong on the command line, where others can read it; "
        f"write --secret {name} to be asked, {name}=env:VAR, {name}=@FILE, or {name}=- for standard input"
    )
