"""What a test needs installed: skipped on a developer's machine, a failure in CI."""

from __future__ import annotations

import os
from typing import Protocol

import pytest

__all__ = ["ServerModule", "require"]


class ServerModule(Protocol):
    """A module of this package, as far as :func:`require` looks at it."""

    def missing(self) -> str | None:
        """Return what must be installed and how, ``None`` when the server can be started."""


def require(*servers: ServerModule) -> None:
    """Skip the test when one of ``servers`` cannot be started here.

    With ``CI=true`` in the environment it fails instead: there, everything is meant to be installed.
    """
    for server in servers:
        lacking = server.missing()
        if lacking is None:
            continue
        if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
            pytest.fail(f"CI must have every server: {lacking}", pytrace=False)
        pytest.skip(lacking)
