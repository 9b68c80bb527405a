"""The one error family of cdir, the same in every service, in the client and on the wire.

Each class names one situation a caller can act on. ``reason`` is the stable, machine-readable name that travels in
``google.rpc.ErrorInfo`` (and later in REST problem documents); ``retry`` says whether doing the same again can help.
Only :mod:`cdir.status` knows how errors look in gRPC.
"""

from __future__ import annotations

import enum
from typing import ClassVar

__all__ = [
    "AlreadyExists",
    "CdirError",
    "ConfigInvalid",
    "Conflict",
    "CursorExpired",
    "DeadlineExceeded",
    "DirectoryNotEmpty",
    "IntegrityError",
    "InternalError",
    "InvalidArgument",
    "InvalidPath",
    "IsDirectory",
    "NotDirectory",
    "NotFound",
    "PermissionDenied",
    "PreconditionFailed",
    "ProviderUnavailable",
    "QuotaExceeded",
    "RangeNotSatisfied",
    "RateLimited",
    "Retry",
    "Unauthenticated",
    "Unsupported",
]


class Retry(enum.Enum):
    """Whether the same call can succeed if it is made again."""

    NEVER = "never"
    """The call fails again until something else changes."""
    LATER = "later"
    """The cause is passing; try again, not before ``retry_after`` when that is given."""
    EXHAUSTED = "exhausted"
    """The cause was passing, but the one layer that retries has given up; outer layers must not retry again."""


class CdirError(Exception):
    """Base of every error that cdir raises on purpose.

    ``message`` is one line for a person: what happened, where, what to do; it never holds a secret.
    ``context`` are short key/value pairs (``path``, ``provider``, ``option``) for programs.
    ``retry_after`` is in seconds; ``None`` when nobody said.
    """

    reason: ClassVar[str] = "INTERNAL"
    default_retry: ClassVar[Retry] = Retry.NEVER

    def __init__(
        self, message: str, *, retry: Retry | None = None, retry_after: float | None = None, **context: str
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry = self.default_retry if retry is None else retry
        self.retry_after = retry_after
        self.context = context

    def __str__(self) -> str:
        return self.message

    def exhausted(self) -> CdirError:
        """Return this error marked as given up on, with the same class, message and context."""
        return type(self)(self.message, retry=Retry.EXHAUSTED, retry_after=self.retry_after, **self.context)


class InvalidArgument(CdirError):
    """A value of the request is wrong in itself."""

    reason = "INVALID_ARGUMENT"


class InvalidPath(InvalidArgument):
    """A path that can never name an entry: ``..``, NUL, a name over 255 bytes, a reserved name."""

    reason = "INVALID_PATH"


class ConfigInvalid(CdirError):
    """A provider's options or a service's configuration cannot work as given."""

    reason = "CONFIG_INVALID"


class RangeNotSatisfied(CdirError):
    """The range begins past the end of the file."""

    reason = "RANGE_NOT_SATISFIED"


class CursorExpired(CdirError):
    """The change log no longer reaches back to the revision asked for; list anew, then watch from there."""

    reason = "CURSOR_EXPIRED"


class Unauthenticated(CdirError):
    """No or wrong credentials."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(CdirError):
    """The credentials are known, but not allowed to do this."""

    reason = "PERMISSION_DENIED"


class NotFound(CdirError):
    """What was named does not exist."""

    reason = "NOT_FOUND"


class AlreadyExists(CdirError):
    """What should be made exists already."""

    reason = "ALREADY_EXISTS"


class IsDirectory(CdirError):
    """A file was asked for, but the path names a directory."""

    reason = "IS_DIRECTORY"


class NotDirectory(CdirError):
    """A directory was asked for, but the path, or one of its parents, names a file."""

    reason = "NOT_DIRECTORY"


class DirectoryNotEmpty(CdirError):
    """A directory that still has entries cannot be removed without asking for it."""

    reason = "DIRECTORY_NOT_EMPTY"


class PreconditionFailed(CdirError):
    """The state does not allow it now (a wrong ETag, a provider still in use, the last copy)."""

    reason = "PRECONDITION_FAILED"


class Conflict(CdirError):
    """Another writer was first; read the entry again, then decide."""

    reason = "CONFLICT"


class RateLimited(CdirError):
    """The provider asks to slow down."""

    reason = "RATE_LIMITED"
    default_retry = Retry.LATER


class QuotaExceeded(CdirError):
    """No space is left at the provider or on the disk."""

    reason = "QUOTA_EXCEEDED"


class Unsupported(CdirError):
    """This provider (or this build) cannot do it; its capability record says so."""

    reason = "UNSUPPORTED"


class ProviderUnavailable(CdirError):
    """The provider cannot be reached or answers with a server error. Nothing is known about its content."""

    reason = "PROVIDER_UNAVAILABLE"
    default_retry = Retry.LATER


class DeadlineExceeded(CdirError):
    """The time allowed for the call ran out; whether it took effect is unknown."""

    reason = "DEADLINE_EXCEEDED"
    default_retry = Retry.LATER


class IntegrityError(CdirError):
    """Bytes do not have the size or digest that was recorded for them."""

    reason = "INTEGRITY"


class InternalError(CdirError):
    """A defect of cdir itself; the service's log has the traceback."""

    reason = "INTERNAL"
