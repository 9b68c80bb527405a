"""What the exit codes mean, and which error ends in which: said here and nowhere else."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from cdir import errors

if TYPE_CHECKING:
    from cdir.model import TransferReport

__all__ = ["Exit", "exit_of_error", "exit_of_report", "one_line"]


class Exit(enum.IntEnum):
    """The exit codes that scripts rely on."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    OWED = 3
    """Done, but providers owe copies; they get them in the background."""
    NOT_FOUND = 4
    NOT_ALLOWED = 5
    CONFLICT = 6
    INTERRUPTED = 130


_EXITS: Final[dict[type[errors.CdirError], Exit]] = {
    errors.InvalidArgument: Exit.USAGE,
    errors.NotFound: Exit.NOT_FOUND,
    errors.PermissionDenied: Exit.NOT_ALLOWED,
    errors.Unauthenticated: Exit.NOT_ALLOWED,
    errors.Conflict: Exit.CONFLICT,
    errors.AlreadyExists: Exit.CONFLICT,
}


def exit_of_error(error: errors.CdirError) -> Exit:
    """Return the code of a command that an error ended; subclasses end as their base does."""
    return next((_EXITS[kind] for kind in type(error).__mro__ if kind in _EXITS), Exit.FAILED)


def exit_of_report(report: TransferReport) -> Exit:
    """Return the code of a transfer: 1 for failures, 6 when conflicts are all that went wrong, 3 for owed copies."""
    if any(not isinstance(failed.error, errors.Conflict | errors.AlreadyExists) for failed in report.failed):
        return Exit.FAILED
    if report.failed or report.conflicts:
        return Exit.CONFLICT
    return Exit.OWED if report.owed else Exit.DONE


def one_line(text: str) -> str:
    """Return a message as one line, whatever somebody put into it."""
    return " ".join(text.split())
