"""What the ``__main__`` of every service does: settings, logs, signals, exit codes."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Final

from cdir.errors import CdirError
from cdir_runtime.allocator import keep_freed_memory
from cdir_runtime.settings import Settings
from cdir_runtime.telemetry import configure_logging

__all__ = ["run_service", "until_stopped"]

logger = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


async def until_stopped() -> None:
    """Return when the process is asked to end by SIGINT or SIGTERM. A second signal ends it the hard way."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stopped.set)
    try:
        await stopped.wait()
        logger.info("asked to stop; finishing what is under way")
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def run_service(name: str, serve: Callable[[Settings], Awaitable[None]]) -> int:
    """Run ``serve`` with the settings of the environment and return the process's exit code.

    ``serve`` opens what it needs, serves, awaits :func:`until_stopped` and closes. 0 after that; 1 with one line on
    standard error when it cannot start or go on as configured.
    """
    try:
        settings = Settings.from_environment()
        configure_logging(name, level=settings.log_level, style=settings.log_format)
        keep_freed_memory()
        asyncio.run(_serve(serve, settings))
    except CdirError as error:
        sys.stderr.write(f"cdir-{name}: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


async def _serve(serve: Callable[[Settings], Awaitable[None]], settings: Settings) -> None:
    await serve(settings)
