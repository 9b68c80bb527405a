"""What the ``__main__`` of every service does: settings, logs, signals, exit codes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final

from cdir.errors import CdirError
from cdir_runtime.allocator import collect_rarely, give_back_freed_memory, keep_freed_memory
from cdir_runtime.crash import arm
from cdir_runtime.settings import Settings
from cdir_runtime.telemetry import configure_logging

__all__ = ["run_service", "until_stopped"]

logger = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_stop_requested: ContextVar[asyncio.Event] = ContextVar("_stop_requested")


async def until_stopped() -> None:
    """Return when the process was asked to end by SIGINT or SIGTERM, now or at any time since its start.

    For services that :func:`run_service` runs.
    """
    await _stop_requested.get().wait()


def run_service(name: str, serve: Callable[[Settings], Awaitable[None]], *, patience: float = 20.0) -> int:
    """Run ``serve`` with the settings of the environment and return the process's exit code.

    ``serve`` opens what it needs, serves, awaits :func:`until_stopped` and closes. 0 after that; 1 with one line on
    standard error when it cannot start or go on as configured; 70 when it failed for a reason that is a defect, with
    the traceback in the log. A process that has not closed ``patience`` seconds after it was asked to stop, because a
    thread hangs in a provider's library or on a dead mount, is ended as it is: cdir's state survives that. A second
    signal ends it at once.
    """
    try:
        settings = Settings.from_environment()
        arm(name, os.environ)
        configure_logging(name, level=settings.log_level, style=settings.log_format)
        keep_freed_memory()
        collect_rarely()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(serve, settings, patience))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, CdirError):
            sys.stderr.write(f"cdir-{name}: {cause}\n")
            return 1
        logger.exception("the service failed unexpectedly")
        sys.stderr.write(f"cdir-{name}: failed unexpectedly; its log says why\n")
        return 70
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop of the C library libuv: a service that moves many small files spends a sixth less on it."""
    if sys.platform == "win32":
        return None  # uvloop knows no Windows
    import uvloop

    return uvloop.new_event_loop


def _cause(error: Exception) -> Exception:
    """Return what a task group ended for, when that is one thing."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


async def _serve(serve: Callable[[Settings], Awaitable[None]], settings: Settings, patience: float) -> None:
    stop_requested = asyncio.Event()
    _stop_requested.set(stop_requested)

    def stop() -> None:
        if stop_requested.is_set():
            logger.warning("asked to stop again; ending as it is")
            os._exit(1)
        logger.info("asked to stop; finishing what is under way")
        stop_requested.set()
        _end_within(patience)

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    trimming = asyncio.create_task(give_back_freed_memory())
    try:
        await serve(settings)
    finally:
        trimming.cancel()
        await asyncio.wait([trimming])


def _end_within(seconds: float) -> None:
    """End the process after that time, however it hangs: only a thread of its own sees to that surely."""

    def end() -> None:
        logger.warning("not done %g seconds after being asked to stop; ending as it is", seconds)
        os._exit(0)

    watchdog = threading.Timer(seconds, end)
    watchdog.daemon = True
    watchdog.start()
