"""How a command is declared: a coroutine that gets a session and its parameters, and returns its exit code."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from cdir.cli.output import FORMATS, Output, OutputClosed
from cdir.cli.session import Session
from cdir.parallelism import bounded

__all__ = ["command", "dry_run_option", "examples", "parallel_option", "yes_option"]

_Parameters = ParamSpec("_Parameters")
_Function = TypeVar("_Function", bound=Callable[..., Any])


def examples(*lines: str) -> str:
    """Return what ``--help`` shows as examples."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def command(
    name: str, *example: str, needs_daemon: bool = True
) -> Callable[[Callable[Concatenate[Session, _Parameters], Awaitable[int | None]]], click.Command]:
    """Make a command of a coroutine function; ``example`` are lines for its help.

    Options and arguments are declared on the function with click's decorators, below this one. ``None`` as exit code
    means 0.
    """

    def decorate(function: Callable[Concatenate[Session, _Parameters], Awaitable[int | None]]) -> click.Command:
        @functools.wraps(function)
        def run(output: str, quiet: bool, no_start: bool = False, **values: Any) -> int:
            session = Session(Output(output, quiet=quiet), start=not no_start)
            if "parallel" in values:
                values["parallel"] = _bounded(session.output, values["parallel"])
            try:
                return asyncio.run(_awaited(function(session, **values))) or 0  # type: ignore[call-arg]
            except BrokenPipeError as error:  # click would end the process with a code of its own
                raise OutputClosed from error

        made: Callable[..., Any] = run
        if needs_daemon:
            made = click.option("--no-start", is_flag=True, help="Fail rather than start the daemon.")(made)
        made = click.option("-q", "--quiet", is_flag=True, help="Print results and errors, nothing else.")(made)
        made = click.option(
            "-o",
            "--output",
            type=click.Choice(FORMATS),
            default="table",
            show_default=True,
            help="How to print results.",
        )(made)
        return click.command(name, help=inspect.getdoc(function), epilog=examples(*example) if example else None)(made)

    return decorate


def _bounded(output: Output, parallel: int) -> int:
    files, reason = bounded(parallel)
    if reason:
        output.say(f"cdir: --parallel {parallel}: {files} large files go at once: {reason}")
    return files


async def _awaited(awaitable: Awaitable[int | None]) -> int | None:
    return await awaitable


def dry_run_option(function: _Function) -> _Function:
    """Declare ``--dry-run``."""
    return click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, and change nothing.")(function)


def parallel_option(function: _Function) -> _Function:
    """Declare ``--parallel``."""
    return click.option(
        "-p",
        "--parallel",
        type=click.IntRange(min=1),
        default=4,
        show_default=True,
        help="Large files under way at once; small ones share a stream.",
    )(function)


def yes_option(function: _Function) -> _Function:
    """Declare ``--yes``."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(function)
