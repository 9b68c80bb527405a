"""Which failure ends in which exit code."""

import pytest

from cdir import errors
from cdir.cli.exits import Exit, exit_of_error, exit_of_report, one_line
from cdir.model import Failed, KeptCopy, TransferReport


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound, 4),
        (errors.PermissionDenied, 5),
        (errors.Unauthenticated, 5),
        (errors.Conflict, 6),
        (errors.AlreadyExists, 6),
        (errors.InvalidArgument, 2),
        (errors.InvalidPath, 2),
        (errors.ProviderUnavailable, 1),
        (errors.IsDirectory, 1),
        (errors.IntegrityError, 1),
        (errors.InternalError, 1),
        (errors.CdirError, 1),
    ],
)
def test_errors(error: type[errors.CdirError], code: int) -> None:
    assert exit_of_error(error("what, where, what to do")) == code


def _report(*failed: errors.CdirError, owed: int = 0, conflicts: tuple[KeptCopy, ...] = ()) -> TransferReport:
    return TransferReport(
        files=1,
        bytes=1,
        skipped=0,
        failed=tuple(Failed("p", error) for error in failed),
        owed=owed,
        seconds=0.1,
        conflicts=conflicts,
    )


def test_reports() -> None:
    assert exit_of_report(_report()) is Exit.DONE
    assert exit_of_report(_report(owed=1)) is Exit.OWED
    assert exit_of_report(_report(errors.Conflict("c"), errors.Conflict("c"), owed=1)) is Exit.CONFLICT
    assert exit_of_report(_report(errors.Conflict("c"), errors.Unsupported("u"))) is Exit.FAILED
    kept = (KeptCopy("/a", "/a (conflicting copy)"),)
    assert exit_of_report(_report(owed=1, conflicts=kept)) is Exit.CONFLICT
    assert exit_of_report(_report(errors.Unsupported("u"), conflicts=kept)) is Exit.FAILED


def test_messages_are_one_line() -> None:
    assert one_line("a\nb\t c\r\n") == "a b c"
