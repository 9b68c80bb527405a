"""Keeping a lease alive while long work goes on under it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from cdir.errors import CdirError, Conflict

__all__ = ["RENEWALS", "kept_alive"]

logger = logging.getLogger(__name__)

RENEWALS: Final = 3
"""So many times in its length a lease is renewed: one renewal that fails, or comes late, does not lose it."""


@asynccontextmanager
async def kept_alive(renew: Callable[[], Awaitable[object]], *, seconds: float) -> AsyncGenerator[None, None]:
    """Call ``renew`` at each third of a lease of ``seconds``, while the block runs.

    A lease that is lost stops the block: it is cancelled where it stands, and what ``renew`` raised comes out of it.
    Conflict says that the lease is lost; any other error is tried again until the lease must have ended.
    """
    try:
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(_renew(renew, seconds))
            yield
            renewing.cancel()
    except BaseExceptionGroup as failures:
        # either the block's own, or that of the renewal
        raise failures.exceptions[0] from None


async def _renew(renew: Callable[[], Awaitable[object]], seconds: float) -> None:
    ends = time.monotonic() + seconds
    while True:
        await asyncio.sleep(seconds / RENEWALS)
        begun = time.monotonic()
        try:
            await renew()
        except Conflict:
            raise
        except CdirError as error:
            if time.monotonic() >= ends:
                raise
            logger.warning("a lease could not be renewed, which is tried again: %s", error)
        else:
            ends = begun + seconds
