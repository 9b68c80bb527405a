"""Names as rclone can be given them.

rclone replaces what a service forbids in names by look-alikes, and marks those by :data:`cdir_adapters.names.ESCAPE`. A
name that holds that mark itself does not come back from every backend as it was given, and two such names can become
one; so the mark is spelled in another way here.
"""

from __future__ import annotations

import re
from typing import Final

from cdir_adapters.names import ESCAPE

__all__ = ["spelled", "unspelled"]

_SIGN: Final = "⸮"
"""U+2E2E: as good as never part of a name, and no look-alike of rclone's."""
_MARK: Final = f"{_SIGN}q"
_SPELLED: Final = re.compile(f"{_SIGN}[q{_SIGN}]")


def spelled(key: str) -> str:
    """Return ``key`` as rclone is given it."""
    if ESCAPE not in key and _SIGN not in key:
        return key
    return key.replace(_SIGN, _SIGN * 2).replace(ESCAPE, _MARK)


def unspelled(name: str) -> str:
    """Return the name that :func:`spelled` turned into ``name``; one that it never makes comes back as it is."""
    if _SIGN not in name:
        return name
    found = _SPELLED.sub(lambda match: ESCAPE if match.group() == _MARK else _SIGN, name)
    return found if spelled(found) == name else name
