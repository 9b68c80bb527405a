"""The names of conflicting copies."""

from __future__ import annotations

import os
import unicodedata
from datetime import datetime

from cdir.errors import InvalidPath
from cdir.paths import MAX_NAME_BYTES, MAX_PATH_BYTES, join_path, normalize_path, split_path

__all__ = ["conflict_path"]

_LONGEST_EXTENSION = 20
"""In bytes; what is longer is no extension but a part of the name."""

_LONGEST_USER = 60


def conflict_path(path: str, user: str, time: datetime, number: int) -> str:
    """Return the path beside ``path`` under which a conflicting content is kept.

    ``NAME (conflicting copy of USER, 2026-11-21 14-03-07).EXT``, with ``time`` in UTC; the name is shortened where it
    would be too long. ``number`` counts up from 1 when a path is taken, and is told from 2 on. Raises
    :class:`InvalidPath` when the directory's path leaves no room for such a name.
    """
    dirname, basename = split_path(path)
    name, extension = os.path.splitext(basename)
    if len(extension.encode()) > _LONGEST_EXTENSION:
        name, extension = basename, ""
    by = f" of {_clean(user)}" if _clean(user) else ""
    counted = f" {number}" if number > 1 else ""
    mark = f" (conflicting copy{by}, {time.strftime('%Y-%m-%d %H-%M-%S')}{counted}){extension}"
    room = min(MAX_NAME_BYTES, MAX_PATH_BYTES - len(join_path(dirname, "").encode()) + 1) - len(mark.encode())
    if room < 1:
        raise InvalidPath(f"{path!r} is too long to keep a conflicting copy beside it", path=path)
    return normalize_path(join_path(dirname, _cut(name, room) + mark))


def _clean(user: str) -> str:
    """Return what of a user's name can stand in a file's name."""
    shown = "".join(one for one in user if one != "/" and unicodedata.category(one) not in {"Cc", "Cs"})
    return _cut(unicodedata.normalize("NFC", shown).strip(), _LONGEST_USER)


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode("utf-8", "ignore")
