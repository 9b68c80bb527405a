"""Running a command: from arguments to an exit code, with every failure told in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from cdir.cli.app import app
from cdir.cli.exits import Exit, exit_of_error, one_line
from cdir.cli.output import OutputClosed
from cdir.errors import CdirError, InternalError

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Nothing escapes: neither an exception nor a traceback."""
    try:
        code = app.main(args=list(arguments), prog_name="cdir", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        return _wrong_usage(error)
    except click.ClickException as error:
        _complain(error.format_message())
        return Exit.FAILED
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted; nothing was left half-written")
        return Exit.INTERRUPTED
    except (OutputClosed, BrokenPipeError):
        # what is still buffered must not fail once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE
    except InternalError as error:
        _complain(f"internal error: {error.message}; the daemon's log has the details")
        return Exit.FAILED
    except CdirError as error:
        _complain(error.message)
        return exit_of_error(error)
    except Exception as error:  # the last line of defence: a person gets a line, the log the traceback
        _complain(f"internal error: {type(error).__name__}: {error}; {_logged(error)}")
        return Exit.FAILED
    return code if isinstance(code, int) else Exit.DONE


def _complain(message: str) -> None:
    text = f"cdir: {one_line(message)}\n"
    sys.stderr.write(
        text.encode(sys.stderr.encoding or "utf-8", "backslashreplace").decode(sys.stderr.encoding or "utf-8")
    )
    sys.stderr.flush()


def _wrong_usage(error: click.UsageError) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return Exit.USAGE
    where = error.ctx.command_path if error.ctx is not None else "cdir"
    _complain(f"{error.format_message().rstrip('.')}; see `{where} --help`")
    return Exit.USAGE


def _logged(error: Exception) -> str:
    """Keep the traceback in the home's log; say where, or why not."""
    import traceback
    from datetime import UTC, datetime

    from cdir.locations import home

    log = home().cli_log
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{datetime.now(UTC).isoformat()} {one_line(' '.join(sys.argv[:2]))}\n")
            file.writelines(traceback.format_exception(error))
    except OSError as failure:
        return f"the traceback could not be kept in {log}: {failure.strerror}"
    return f"please report it with what {log} says"
