"""Blocking work in a thread, by callers that may be cancelled meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

__all__ = ["run_to_the_end"]

Result = TypeVar("Result")


async def run_to_the_end(work: Callable[..., Result], *arguments: object) -> Result:
    """Run ``work`` in a thread. A caller that is cancelled waits until it has ended.

    A thread cannot be stopped. ``asyncio.to_thread`` lets a cancelled caller go on while the thread still works; use
    this where the caller would then close or remove what the thread works on.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            # cancelled again: the first cancellation is passed on as soon as the thread has ended
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        raise
