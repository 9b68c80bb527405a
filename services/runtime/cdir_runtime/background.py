"""Work that goes on as long as its service runs.

A role has a ``once`` that does one round and does not know how it is run; :func:`run_forever` runs it in the task of
whoever calls it. Tests drive ``once``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from cdir.errors import CdirError

__all__ = ["run_forever"]

logger = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0


async def run_forever(name: str, once: Callable[[], Awaitable[object]], *, interval: float) -> None:
    """Run ``once`` again and again, ``interval`` seconds after each end, until cancelled.

    A round that fails is logged and followed by a pause that doubles with each further failure, with jitter, from half
    a second to half a minute: the rest of the service goes on, and so does this role when the cause has passed.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            await once()
        except CdirError as error:
            logger.warning("%s: %s", name, error)
        except Exception:
            logger.exception("%s: a round failed", name)
        else:
            pause = _FIRST_PAUSE
            await asyncio.sleep(interval)
            continue
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(pause * 2, _LONGEST_PAUSE)
