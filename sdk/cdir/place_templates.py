"""Templates for where a provider keeps everything, so that several accounts of one kind do not meet in one place.

``bucket=octopus_storage-at-{user}`` names a place of one's own. What stands in braces is filled in once, when the
option is given; what is stored, shown and used is the result.
"""

from __future__ import annotations

import getpass
import re
import socket
import string
from collections.abc import Callable, Mapping
from typing import Final

from cdir.errors import InvalidArgument

__all__ = ["FIELDS", "PLACES", "filled_in"]

PLACES: Final = ("bucket", "container", "prefix", "root")
"""The options that may be templates."""

FIELDS: Final[Mapping[str, str]] = {
    "user": "the login name of whoever gives the option",
    "host": "the name of the machine where that is done, without its domain",
    "name": "the provider's name",
}
"""What may stand in braces, and what it stands for."""


def filled_in(options: Mapping[str, str], name: str) -> dict[str, str]:
    """Return the options of the provider ``name`` with templates filled in; ``{{`` and ``}}`` are braces.

    In ``bucket`` and ``container`` a value becomes what all services take in such a name: small letters, digits and
    hyphens, with ``@`` as ``-at-``. Elsewhere a slash in it becomes a hyphen. Raises InvalidArgument for any other
    field.
    """
    values: dict[str, Callable[[], str]] = {
        "user": _user,
        "host": lambda: socket.gethostname().partition(".")[0],
        "name": lambda: name,
    }
    return {option: _filled_in(option, text, values) if option in PLACES else text for option, text in options.items()}


def _filled_in(option: str, text: str, values: Mapping[str, Callable[[], str]]) -> str:
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError:
        raise InvalidArgument(
            f"option {option}: {text!r} has a brace without its other one; write {{{{ and }}}} for braces"
        ) from None
    filled = ""
    for literal, field, specification, conversion in parts:
        filled += literal
        if field is None:
            continue
        if field not in values or specification or conversion:
            known = ", ".join(f"{{{one}}}" for one in FIELDS)
            raise InvalidArgument(
                f"option {option}: {{{field}}} stands for nothing; there are {known}; write {{{{ and }}}} for braces"
            )
        filled += _fitting(option, values[field]())
    return filled


def _fitting(option: str, value: str) -> str:
    if option in {"bucket", "container"}:
        fitting = re.sub(r"[^a-z0-9]+", "-", value.lower().replace("@", "-at-")).strip("-")
    else:
        fitting = value.replace("/", "-").replace("\0", "-").strip()
    if fitting in {"", ".", ".."}:
        raise InvalidArgument(f"option {option}: {value!r} makes no name; write it out")
    return fitting


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise InvalidArgument("{user} stands for nothing here: this process has no login name; write it out") from None
