"""What rclone says about one object, and the names of those that are not whole yet."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from datetime import UTC
from typing import Any, Final

from cdir_adapters.adapter import Checksum, ObjectInfo, ObjectKind
from cdir_adapters.providers.rclone.wire import Backend, when

__all__ = ["began", "info_of", "suffix"]

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_UNFINISHED: Final = re.compile(r".*\.[0-9a-f]{8}\.cdir([0-9a-z]{6})[0-9a-z]{4}~", re.DOTALL)
"""A name under which an object is uploaded where an upload would show before it is whole. The eight digits are put
there by rclone, or by the adapter, the rest is :func:`suffix`."""


def suffix() -> str:
    """End of the name of an unfinished upload: the second in which it began, so that it can be swept, and something
    that no other one has. rclone takes 16 characters."""
    seconds, text = int(time.time()), ""
    for _ in range(6):
        seconds, digit = divmod(seconds, len(_DIGITS))
        text = _DIGITS[digit] + text
    return f".cdir{text}{''.join(secrets.choice(_DIGITS) for _ in range(4))}~"


def began(key: str) -> int | None:
    """Return when an unfinished upload began, in seconds since 1970; ``None`` for every other object."""
    found = _UNFINISHED.fullmatch(key)
    return None if found is None else int(found[1], len(_DIGITS))


def info_of(key: str, item: Mapping[str, Any], backend: Backend) -> ObjectInfo:
    """Read what ``operations/stat`` and ``operations/list`` say about an object."""
    if item.get("IsDir"):
        return ObjectInfo(key=key, size=0, kind=ObjectKind.DIRECTORY)
    size, kind = item.get("Size"), ObjectKind.FILE
    if not isinstance(size, int) or size < 0:
        # a document that has a size only once it is exported
        size, kind = 0, ObjectKind.OTHER
    modified = when(item.get("ModTime")) if backend.precision is not None else None
    checksum = None
    if backend.checksum is not None:
        stated = (item.get("Hashes") or {}).get(backend.checksum.value)
        checksum = Checksum(backend.checksum, stated.lower()) if stated else None
    return ObjectInfo(
        key=key,
        size=size,
        kind=kind,
        modified=None if modified is None else modified.astimezone(UTC),
        checksum=checksum,
    )
