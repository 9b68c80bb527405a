"""Where objects lie at providers, as the catalog decides it."""

from __future__ import annotations

from cdir.paths import RESERVED_ROOT_NAME

__all__ = ["ASIDE_PREFIX", "aside_key"]

ASIDE_PREFIX = f"{RESERVED_ROOT_NAME}/versions/"
"""Older contents lie below this prefix at every provider."""


def aside_key(version_id: str) -> str:
    """Return the key a version has when it is not the current one.

    Version ids are random and used once, so nothing else is ever there; the first two digits keep folders small.
    """
    return f"{ASIDE_PREFIX}{version_id[:2]}/{version_id}"
