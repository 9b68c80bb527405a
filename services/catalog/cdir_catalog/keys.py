"""Where objects lie at providers, as the catalog decides it."""

from __future__ import annotations

from cdir.errors import InvalidPath
from cdir.paths import RESERVED_ROOT_NAME, WorkspacePath, is_temporary, key_of, normalize_path

__all__ = ["ASIDE_PREFIX", "aside_key", "is_temporary", "place_of"]

ASIDE_PREFIX = f"{RESERVED_ROOT_NAME}/versions/"
"""Older contents lie below this prefix at every provider."""


def aside_key(version_id: str) -> str:
    """Return the key a version has when it is not the current one.

    Version ids are random and used once, so nothing else is ever there; the first two digits keep folders small.
    """
    return f"{ASIDE_PREFIX}{version_id[:2]}/{version_id}"


def place_of(key: str) -> WorkspacePath | None:
    """Return which file has ``key`` as its natural key; ``None`` for what no file can have."""
    workspace, path = "", key
    if key.startswith("@"):
        workspace, _, path = key[1:].partition("/")
        if not workspace:
            return None
    try:
        if workspace and normalize_path(workspace) != f"/{workspace}":
            return None
        normal = normalize_path(path)
    except InvalidPath:
        return None
    return WorkspacePath(workspace, normal) if normal != "/" and key_of(workspace, normal) == key else None
