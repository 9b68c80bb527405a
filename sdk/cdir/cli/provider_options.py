"""Options and secrets of providers as given on the command line. A secret itself never stands there: others can read
the arguments of a running process, and shells keep them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import click

__all__ = ["ask_secret", "forget_variables", "parse_options", "parse_size", "read_secret", "read_secrets"]

_SIZE: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kmgt]?)(?P<binary>i?)b?(?:/s)?", re.IGNORECASE)
_MAX_SECRET: Final = 64 * 1024
"""Bytes that a secret may have; a service account's file has some thousand."""
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


def parse_size(option: str, text: str) -> int:
    """Read an option's size such as ``500000``, ``5MB`` (decimal) or ``5MiB`` (binary); returns bytes."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r}: write a size such as 500000, 5MB or 5MiB", param_hint=option)
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
        if name in secrets:
            raise click.UsageError(f"--secret {name} is given twice")
        if equals:
            secrets[name] = read_secret(f"--secret {name}", source)
        else:
            secrets[name] = ask_secret(name, f"--secret {name}=env:VAR, {name}=@FILE or {name}=-")
    forget_variables(source for _, _, source in (text.partition("=") for text in given))
    return secrets


def forget_variables(sources: Iterable[str]) -> None:
    """Take the variables that secrets were read from out of the environment: a daemon started next would keep it."""
    for source in sources:
        if source.startswith("env:"):
            os.environ.pop(source.removeprefix("env:"), None)


def ask_secret(what: str, otherwise: str, *, confirm: bool = False) -> str:
    """Ask for a secret without echo; ``otherwise`` says what to write where there is no terminal."""
    if not sys.stdin.isatty():
        raise click.UsageError(f"{what} is asked for on a terminal, and there is none; use {otherwise}")
    value: str = click.prompt(what, hide_input=True, err=True, confirmation_prompt=confirm)
    return value


def read_secret(option: str, source: str) -> str:
    """Read a secret from ``env:VAR``, ``@FILE`` or ``-``, one line of standard input: its text without the line end.

    An empty one is refused, and so is anything else that ``source`` may say: it might be the secret.
    """
    if source.startswith("env:"):
        variable = source.removeprefix("env:")
        if variable not in os.environ:
            raise click.UsageError(f"{option}: the variable {variable or 'VAR'} is not set")
        return _whole(option, os.environ[variable], f"the variable {variable}")
    if source.startswith("@"):
        file = Path(source[1:]).expanduser()
        try:
            with file.open("rb") as opened:
                content = opened.read(_MAX_SECRET + 1)
        except OSError as error:
            raise click.UsageError(f"{option}: {file} cannot be read: {error.strerror}") from None
        return _whole(option, content, str(file))
    if source == "-":
        try:
            line = sys.stdin.readline(_MAX_SECRET + 1)
        except UnicodeDecodeError:
            raise click.UsageError(f"{option}: standard input is not text in UTF-8") from None
        return _whole(option, line, "standard input")
    raise click.UsageError(
        f"{option}: a secret does not belong on the command line, where others can read it; name where it is read:"
        " env:VAR, @FILE, or - for standard input"
    )


def _whole(option: str, content: str | bytes, where: str) -> str:
    if len(content) > _MAX_SECRET:
        raise click.UsageError(f"{option}: {where} holds more than {_MAX_SECRET} bytes; that is no secret")
    try:
        text = content if isinstance(content, str) else content.decode()
        text.encode()
    except UnicodeError:
        raise click.UsageError(f"{option}: {where} is not text in UTF-8") from None
    value = text.rstrip("\r\n")
    if not value:
        raise click.UsageError(f"{option}: {where} is empty")
    return value
