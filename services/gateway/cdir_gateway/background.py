"""Tasks that outlive the call they were started for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

__all__ = ["Background"]

logger = logging.getLogger(__name__)


class Background:
    """Runs work in a task group of the gateway, whose end waits for it.

    A defect in one piece of work is logged and ends it alone; in a bare task group it would cancel everything else.
    """

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks

    def start(self, what: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` in a task; ``what`` names it in the log."""
        return self._tasks.create_task(_guarded(what, work))


async def _guarded(what: str, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        logger.exception("%s failed", what)
